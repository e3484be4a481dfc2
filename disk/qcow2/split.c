/*
 * The extents of one request side by side.
 *
 * An operation that meets an extent which is not its last hands it to another operation, its child,
 * and goes on behind it; at its end it waits for its children. Only what changes no table is handed
 * on: reads, and writes in place.
 */
#include "disk/qcow2/engine.h"

/* Of one request: enough to keep a disk busy, few beside Q2_OPS. */
#define CHILDREN_MAX 8

static void child_done(struct q2_op *child)
{
	struct q2_op *op = child->parent;

	if (!op->children_res)
		op->children_res = child->res;
	child->parent = NULL;
	q2_op_put(child);
	op->children--;
	if (!op->children && op->joining) {
		op->joining = false;
		op->res = op->res ? op->res : op->children_res;
		q2_ops_push(&op->q->engine->ready, op);
	}
}

static struct q2_op *child_new(struct q2_op *op)
{
	struct q2_engine *e = op->q->engine;
	struct q2_op *child;

	/* requests of their own come first */
	if (op->parent || op->children == CHILDREN_MAX || e->waiting.head)
		return NULL;
	child = q2_op_get(op->q);
	if (!child)
		return NULL;
	q2_op_init(child, op->req);
	child->parent = op;
	op->children++;
	return child;
}

bool q2_split_read(struct q2_op *op, uint64_t pos, uint64_t end)
{
	struct q2_op *child = op->rd_buf ? NULL : child_new(op);

	if (child)
		q2_read(child, pos, end, NULL, child_done);
	return child;
}

bool q2_split_write(struct q2_op *op, uint64_t pos, uint64_t end)
{
	struct q2_op *child = op->zeroes ? NULL : child_new(op);

	if (child)
		q2_write(child, pos, end, child_done);
	return child;
}

void q2_join(struct q2_op *op, void (*step)(struct q2_op *op))
{
	op->step = step;
	if (op->children) {
		op->joining = true;
		return;
	}
	op->res = op->res ? op->res : op->children_res;
	step(op);
}
