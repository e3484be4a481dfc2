/*
 * modules.dep: one line for each module, "path: path path ...", paths relative to the directory,
 * the module first and what it depends on after the colon.
 */
#include "vmm/boot/modules.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "vmm/boot/initramfs.h"
#include "vmm/boot/unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

struct dep_line {
	uint32_t hash; /* of the name */
	bool visited;
	const char *path, *path_end; /* the module's file */
	const char *deps, *deps_end;
};

struct resolver {
	int dirfd;
	struct dep_line *lines;
	unsigned nlines;
	struct module_list list;
	struct err *err;
};

/* The name of the module in [*from, *to): the last component without what starts with ".ko". */
static void name_of(const char **from, const char **to)
{
	const char *slash = memrchr(*from, '/', (size_t)(*to - *from));

	if (slash)
		*from = slash + 1;

	const char *ko = memmem(*from, (size_t)(*to - *from), ".ko", 3);

	if (ko)
		*to = ko;
}

static inline char normal(char c)
{
	return c == '-' ? '_' : c;
}

static bool same_name(const char *a, const char *a_end, const char *b, const char *b_end)
{
	if (a_end - a != b_end - b)
		return false;
	while (a < a_end)
		if (normal(*a++) != normal(*b++))
			return false;
	return true;
}

/* FNV-1a: spares comparing names, no more. */
static uint32_t name_hash(const char *from, const char *to)
{
	uint32_t h = 2166136261u;

	while (from < to)
		h = (h ^ (uint8_t)normal(*from++)) * 16777619u;
	return h;
}

static struct dep_line *find(const struct resolver *res, const char *from, const char *to)
{
	uint32_t hash;

	name_of(&from, &to);
	hash = name_hash(from, to);
	for (unsigned i = 0; i < res->nlines; i++) {
		const char *f = res->lines[i].path, *t = res->lines[i].path_end;

		if (res->lines[i].hash != hash)
			continue;
		name_of(&f, &t);
		if (same_name(f, t, from, to))
			return &res->lines[i];
	}
	return NULL;
}

static int index_lines(struct resolver *res, const char *text, size_t len)
{
	const char *end = text + len;
	size_t n = 1;

	for (const char *p = text; (p = memchr(p, '\n', (size_t)(end - p))); p++)
		n++;
	res->lines = calloc(n, sizeof(*res->lines));
	if (!res->lines)
		return err_set(res->err, ENOMEM, "no memory for modules.dep");
	for (const char *p = text; p < end;) {
		const char *eol = memchr(p, '\n', (size_t)(end - p));
		const char *colon;

		if (!eol)
			eol = end;
		colon = memchr(p, ':', (size_t)(eol - p));
		if (colon) {
			struct dep_line *line = &res->lines[res->nlines++];
			const char *f = p, *t = colon;

			line->path = p;
			line->path_end = colon;
			line->deps = colon + 1;
			line->deps_end = eol;
			name_of(&f, &t);
			line->hash = name_hash(f, t);
		}
		p = eol + 1;
	}
	return 0;
}

static int read_all(int fd, uint64_t size, uint8_t **ret_data)
{
	autofree uint8_t *data = malloc(size);
	uint64_t done = 0;

	if (!data)
		return -ENOMEM;
	while (done < size) {
		ssize_t n = pread(fd, data + done, size - done, (off_t)done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ESTALE;
		done += (uint64_t)n;
	}
	*ret_data = steal_ptr(&data);
	return 0;
}

/* Collects an unpacked module. */
struct buffer_sink {
	struct unpack_sink sink;
	uint8_t *data;
	uint64_t bytes, room;
};

static int buffer_write(struct unpack_sink *sink, const uint8_t *data, size_t len_bytes)
{
	struct buffer_sink *b = (struct buffer_sink *)sink;

	if (b->room - b->bytes < len_bytes) {
		uint64_t room = MAX(2 * b->room, b->bytes + len_bytes);
		uint8_t *grown = realloc(b->data, room);

		if (!grown)
			return -ENOMEM;
		b->data = grown;
		b->room = room;
	}
	memcpy(b->data + b->bytes, data, len_bytes);
	b->bytes += len_bytes;
	return 0;
}

static int unpack_module(struct module *m)
{
	autofree uint8_t *packed = NULL;
	struct buffer_sink b = {.sink.write = buffer_write};
	enum unpack_format format;
	uint64_t total;
	int r = read_all(m->fd, m->bytes, &packed);

	if (r < 0)
		return r;
	format = unpack_detect(packed, m->bytes);
	r = format == UNPACK_NONE
		? -EBADMSG
		: unpack_stream(format, packed, m->bytes, MODULE_BYTES_MAX, &b.sink, &total);
	if (r < 0 || !b.bytes) {
		free(b.data);
		return r < 0 ? r : -EBADMSG;
	}
	m->data = b.data;
	m->bytes = b.bytes;
	close(m->fd);
	m->fd = -1;
	return 0;
}

/* Opens without leaving the directory, whatever modules.dep says. */
static int open_beneath(int dirfd, const char *path)
{
	struct open_how how = {.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK,
			       .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS};

	return (int)syscall(SYS_openat2, dirfd, path, &how, sizeof(how));
}

/* Not inlined: visit() recurses, and a path is long. */
static __attribute__((noinline)) int open_module(struct resolver *res, const struct dep_line *line)
{
	const char *from = line->path, *to = line->path_end;
	char path[PATH_MAX];
	struct module *m = &res->list.modules[res->list.n];
	struct stat st;
	int r;

	name_of(&from, &to);
	*m = (struct module){.fd = -1, .name = strndup(from, (size_t)(to - from))};
	res->list.n++;
	if (!m->name)
		return err_set(res->err, ENOMEM, "no memory for modules");
	if (line->path_end - line->path >= PATH_MAX)
		return err_set(res->err, ENAMETOOLONG,
			       "modules.dep has a path of more than %d bytes; run depmod",
			       PATH_MAX - 1);
	snprintf(path, sizeof(path), "%.*s", (int)(line->path_end - line->path), line->path);
	for (char *c = m->name; *c; c++)
		*c = normal(*c);
	m->fd = open_beneath(res->dirfd, path);
	if (m->fd < 0 || fstat(m->fd, &st) < 0)
		return err_sys(res->err, errno, "module %s cannot be opened", path);
	if (!S_ISREG(st.st_mode) || !st.st_size || (uint64_t)st.st_size > MODULE_BYTES_MAX)
		return err_set(
		    res->err, ENOEXEC,
		    "module %s is not a file of 1 byte to %llu MiB; install the kernel's "
		    "modules again",
		    path, (unsigned long long)(MODULE_BYTES_MAX / MIB));
	m->bytes = (uint64_t)st.st_size;
	if (to + 3 == line->path_end)
		return 0; /* plain .ko */
	r = unpack_module(m);
	if (r == -EBADMSG || r == -EFBIG || r == -EOPNOTSUPP)
		return err_set(
		    res->err, ENOEXEC,
		    "module %s cannot be unpacked; it is damaged, or not gzip, xz or zstd", path);
	return r < 0 ? err_sys(res->err, -r, "module %s cannot be read", path) : 0;
}

/* Depth first: each module after all that it depends on. The mark ends cycles, and with MODULES_MAX
 * bounds the recursion. */
static int visit(struct resolver *res, struct dep_line *line, unsigned depth)
{
	const char *p = line->deps;

	if (line->visited)
		return 0;
	line->visited = true;
	if (depth == MODULES_MAX)
		return err_set(res->err, ENOEXEC, "modules depend on each other too deeply");
	while (p < line->deps_end) {
		const char *end = memchr(p, ' ', (size_t)(line->deps_end - p));
		struct dep_line *dep;

		if (!end)
			end = line->deps_end;
		if (end > p) {
			dep = find(res, p, end);
			if (!dep)
				return err_set(res->err, ENOEXEC,
					       "modules.dep names %.*s but has no line for it; run "
					       "depmod",
					       (int)MIN(end - p, PATH_MAX), p);

			int r = visit(res, dep, depth + 1);

			if (r < 0)
				return r;
		}
		p = end + 1;
	}
	if (res->list.n == MODULES_MAX)
		return err_set(res->err, ENOEXEC, "more than %d modules are needed", MODULES_MAX);
	return open_module(res, line);
}

static int read_dep(int dirfd, uint8_t **ret_text, uint64_t *ret_len, struct err *err)
{
	autofd int fd = open_beneath(dirfd, "modules.dep");
	struct stat st;
	int r;

	if (fd < 0 && errno == ENOENT)
		return err_set(
		    err, ENOENT,
		    "has no modules.dep; run depmod, or give the directory of this kernel's "
		    "modules");
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_sys(err, errno, "modules.dep cannot be opened");
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size > MODULES_DEP_BYTES_MAX)
		return err_set(err, ENOEXEC, "modules.dep is not a file of up to %llu MiB",
			       (unsigned long long)(MODULES_DEP_BYTES_MAX / MIB));
	r = read_all(fd, (uint64_t)st.st_size, ret_text);
	if (r < 0)
		return err_sys(err, -r, "modules.dep cannot be read");
	*ret_len = (uint64_t)st.st_size;
	return 0;
}

static int resolve(struct resolver *res, const char *const *names, unsigned nnames)
{
	int r = 0;

	for (unsigned i = 0; i < nnames && r == 0; i++) {
		struct dep_line *line = find(res, names[i], names[i] + strlen(names[i]));

		if (line)
			r = visit(res, line, 0);
		else
			log_debug("module %s: not in modules.dep, so built in or not there",
				  names[i]);
	}
	return r;
}

int modules_open(const char *dir, const char *const *names, unsigned nnames,
		 struct module_list *ret_list, struct err *err)
{
	autofd int dirfd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct resolver res = {.dirfd = dirfd, .err = err};
	autofree uint8_t *text = NULL;
	uint64_t len = 0;
	int r;

	if (dirfd < 0) {
		r = err_sys(err, errno, "cannot be opened");
	} else {
		r = read_dep(dirfd, &text, &len, err);
		if (r == 0 && text)
			r = index_lines(&res, (const char *)text, len);
		res.list.modules = calloc(MODULES_MAX, sizeof(*res.list.modules));
		if (r == 0 && !res.list.modules)
			r = err_set(err, ENOMEM, "no memory for modules");
		if (r == 0)
			r = resolve(&res, names, nnames);
	}
	free(res.lines);
	if (r < 0) {
		modules_close(&res.list);
		err_prefix(err, "module directory %s", dir);
		return r;
	}
	*ret_list = res.list;
	return 0;
}

void modules_close(struct module_list *list)
{
	for (unsigned i = 0; i < list->n; i++) {
		free(list->modules[i].name);
		free(list->modules[i].data);
		if (list->modules[i].fd >= 0)
			close(list->modules[i].fd);
	}
	free(list->modules);
	*list = (struct module_list){0};
}

char *modules_dir_find(const char *kernel_path, const char *release)
{
	const char *slash = strrchr(kernel_path, '/');
	int dir_len = slash ? (int)MAX(slash - kernel_path, 1) : 1;
	const char *dir = slash ? kernel_path : ".";
	static const char *const places[] = {"modules", "lib/modules", "../lib/modules"};
	char *path;

	/* it becomes one component of a path */
	if (!release || !*release || *release == '.' || strchr(release, '/'))
		return NULL;
	for (size_t i = 0; i <= ARRAY_LEN(places); i++) {
		struct stat st;
		int n = i < ARRAY_LEN(places)
			    ? asprintf(&path, "%.*s/%s/%s", dir_len, dir, places[i], release)
			    : asprintf(&path, "/lib/modules/%s", release);

		if (n < 0)
			return NULL;
		if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
			return path;
		free(path);
	}
	return NULL;
}
