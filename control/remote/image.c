/*
 * `lodge image`: disk images below the server's storage root, that no VM uses.
 */
#include "base/checked.h"
#include "control/options/parse.h"
#include "control/remote/print.h"
#include "control/remote/remote.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct image_options {
	struct remote_options remote;
	const char *id;
	VmTools__Concierge__StorageLocation location;
	VmTools__Concierge__DiskImageType type;
	bool has_type;
	bool shrink;
	bool repair;
};

/* ---- options ------------------------------------------------------------------------------------
 */

static int set_id(void *target, const char *value, struct err *err)
{
	(void)err;
	((struct image_options *)target)->id = value;
	return 0;
}

static int set_location(void *target, const char *value, struct err *err)
{
	bool downloads = !strcmp(value, "downloads");

	if (!downloads && strcmp(value, "root") != 0)
		return err_set(err, EINVAL, "'%s' is neither root nor downloads", value);
	((struct image_options *)target)->location =
	    downloads ? VM_TOOLS__CONCIERGE__STORAGE_LOCATION__STORAGE_CRYPTOHOME_DOWNLOADS
		      : VM_TOOLS__CONCIERGE__STORAGE_LOCATION__STORAGE_CRYPTOHOME_ROOT;
	return 0;
}

static int set_format(void *target, const char *value, struct err *err)
{
	struct image_options *o = target;
	bool qcow2 = !strcmp(value, "qcow2");

	if (!qcow2 && strcmp(value, "raw") != 0)
		return err_set(err, EINVAL, "'%s' is neither raw nor qcow2", value);
	o->type = qcow2 ? VM_TOOLS__CONCIERGE__DISK_IMAGE_TYPE__DISK_IMAGE_QCOW2
			: VM_TOOLS__CONCIERGE__DISK_IMAGE_TYPE__DISK_IMAGE_RAW;
	o->has_type = true;
	return 0;
}

static int set_shrink(void *target, const char *value, struct err *err)
{
	(void)value;
	(void)err;
	((struct image_options *)target)->shrink = true;
	return 0;
}

static int set_repair(void *target, const char *value, struct err *err)
{
	(void)value;
	(void)err;
	((struct image_options *)target)->repair = true;
	return 0;
}

#define IMAGE_SETTINGS                                                                       \
	{"id", "ID", set_id, "whose image: hexadecimal digits; needed"},                     \
	    {"location", "root|downloads", set_location, "which of its directories (root)"}, \
	    REMOTE_SETTINGS
#define IMAGE_SETTING_FORMAT                                                                    \
	{                                                                                       \
		"format", "raw|qcow2", set_format, "format of the image, never guessed; needed" \
	}

static const struct option_setting image_settings[] = {IMAGE_SETTING_FORMAT, IMAGE_SETTINGS};
static const struct option_setting destroy_settings[] = {IMAGE_SETTINGS};
static const struct option_setting resize_settings[] = {
    {"shrink", NULL, set_shrink, "make it smaller: what lies behind the new end is lost"},
    IMAGE_SETTING_FORMAT,
    IMAGE_SETTINGS,
};
static const struct option_setting check_settings[] = {
    {"repair", NULL, set_repair, "mend what can be mended"},
    IMAGE_SETTING_FORMAT,
    IMAGE_SETTINGS,
};

static int check_place(const struct remote_options *options, const char *const *operands,
		       unsigned noperands, struct err *err)
{
	(void)operands;
	(void)noperands;
	if (!((const struct image_options *)options)->id)
		return err_set(err, EINVAL, "whose image? say --id ID");
	return 0;
}

static int check_format(const struct remote_options *options, const char *const *operands,
			unsigned noperands, struct err *err)
{
	if (!((const struct image_options *)options)->has_type)
		return err_set(err, EINVAL, "which format? say --format raw or --format qcow2");
	return check_place(options, operands, noperands, err);
}

static int check_size(const struct remote_options *options, const char *const *operands,
		      unsigned noperands, struct err *err)
{
	uint64_t size_bytes;

	if (noperands < 2)
		return err_set(err, EINVAL, "the size is missing; say PATH SIZE");
	if (parse_size(operands[1], &size_bytes))
		return err_set(err, EINVAL, "'%s' is no size; say for example 20G", operands[1]);
	return check_format(options, operands, noperands, err);
}

/* The fields that name an image, which all requests have. */
#define image_fill(request, o, path)                               \
	do {                                                       \
		(request)->cryptohome_id = remote_borrow((o)->id); \
		(request)->disk_path = remote_borrow(path);        \
		(request)->storage_location = (o)->location;       \
	} while (0)

/* ---- create, destroy ----------------------------------------------------------------------------
 */

static void path_json(const char *status, const char *path)
{
	struct json j = JSON_INIT(stdout);

	json_object(&j, NULL);
	json_string(&j, "status", status);
	json_string(&j, "path", path);
	json_end(&j);
}

static int create_run(struct remote *r, const char *const *operands, unsigned noperands)
{
	const struct image_options *o = (const struct image_options *)r->options;
	VmTools__Concierge__CreateDiskImageRequest request =
	    VM_TOOLS__CONCIERGE__CREATE_DISK_IMAGE_REQUEST__INIT;
	const VmTools__Concierge__CreateDiskImageResponse *reply;
	ProtobufCMessage *msg;
	int status = LODGE_OK;

	(void)noperands;
	image_fill(&request, o, operands[0]);
	request.image_type = o->type;
	(void)parse_size(operands[1], &request.disk_size);
	msg = remote_call(r, "CreateDiskImage", &request.base);
	reply = (const VmTools__Concierge__CreateDiskImageResponse *)msg;
	if (!msg)
		return r->status;
	switch (reply->status) {
	case VM_TOOLS__CONCIERGE__DISK_IMAGE_STATUS__DISK_STATUS_CREATED:
		if (r->options->json) {
			path_json("created", reply->disk_path);
		} else {
			print_plain(reply->disk_path);
			putchar('\n');
		}
		break;
	case VM_TOOLS__CONCIERGE__DISK_IMAGE_STATUS__DISK_STATUS_EXISTS:
		if (r->options->json)
			path_json("exists", reply->disk_path);
		status = remote_fail(r, LODGE_FAILED, "%s exists and has been left as it was",
				     reply->disk_path);
		break;
	default:
		status = remote_fail(r, LODGE_FAILED, "%s", reply->failure_reason);
		break;
	}
	lodge_free(msg);
	return status;
}

static int destroy_run(struct remote *r, const char *const *operands, unsigned noperands)
{
	const struct image_options *o = (const struct image_options *)r->options;
	VmTools__Concierge__DestroyDiskImageRequest request =
	    VM_TOOLS__CONCIERGE__DESTROY_DISK_IMAGE_REQUEST__INIT;
	const VmTools__Concierge__DestroyDiskImageResponse *reply;
	ProtobufCMessage *msg;
	int status = LODGE_OK;

	(void)noperands;
	image_fill(&request, o, operands[0]);
	msg = remote_call(r, "DestroyDiskImage", &request.base);
	reply = (const VmTools__Concierge__DestroyDiskImageResponse *)msg;
	if (!msg)
		return r->status;
	switch (reply->status) {
	case VM_TOOLS__CONCIERGE__DISK_IMAGE_STATUS__DISK_STATUS_DESTROYED:
		if (r->options->json)
			path_json("destroyed", operands[0]);
		break;
	case VM_TOOLS__CONCIERGE__DISK_IMAGE_STATUS__DISK_STATUS_DOES_NOT_EXIST:
		status =
		    remote_fail(r, REMOTE_NO_VM, "there is no image %s of %s", operands[0], o->id);
		break;
	default:
		status = remote_fail(r, LODGE_FAILED, "%s", reply->failure_reason);
		break;
	}
	lodge_free(msg);
	return status;
}

/* ---- info, resize, check ------------------------------------------------------------------------
 */

static int info_run(struct remote *r, const char *const *operands, unsigned noperands)
{
	const struct image_options *o = (const struct image_options *)r->options;
	Lodge__V1__GetDiskImageInfoRequest request = LODGE__V1__GET_DISK_IMAGE_INFO_REQUEST__INIT;
	const Lodge__V1__GetDiskImageInfoResponse *reply;
	ProtobufCMessage *msg;
	char text[PRINT_NUMBER_MAX];

	(void)noperands;
	image_fill(&request, o, operands[0]);
	request.image_type = o->type;
	msg = remote_call(r, "GetDiskImageInfo", &request.base);
	reply = (const Lodge__V1__GetDiskImageInfoResponse *)msg;
	if (!msg)
		return r->status;
	if (r->options->json) {
		print_json(msg);
	} else {
		printf("path:       ");
		print_plain(reply->path);
		printf("\nsize:       %s (%" PRIu64 " bytes)\n",
		       print_bytes(reply->size_bytes, text), reply->size_bytes);
		printf("allocated:  %s (%" PRIu64 " bytes)\nin use:     %s\n",
		       print_bytes(reply->allocated_bytes, text), reply->allocated_bytes,
		       reply->in_use ? "yes" : "no");
	}
	lodge_free(msg);
	return LODGE_OK;
}

static int resize_run(struct remote *r, const char *const *operands, unsigned noperands)
{
	const struct image_options *o = (const struct image_options *)r->options;
	Lodge__V1__ResizeDiskImageRequest request = LODGE__V1__RESIZE_DISK_IMAGE_REQUEST__INIT;
	ProtobufCMessage *msg;

	(void)noperands;
	image_fill(&request, o, operands[0]);
	request.image_type = o->type;
	request.shrink = o->shrink;
	(void)parse_size(operands[1], &request.size_bytes);
	msg = remote_call(r, "ResizeDiskImage", &request.base);
	if (!msg)
		return r->status;
	if (r->options->json)
		print_json(msg);
	lodge_free(msg);
	return LODGE_OK;
}

static int check_run(struct remote *r, const char *const *operands, unsigned noperands)
{
	const struct image_options *o = (const struct image_options *)r->options;
	Lodge__V1__CheckDiskImageRequest request = LODGE__V1__CHECK_DISK_IMAGE_REQUEST__INIT;
	const Lodge__V1__CheckDiskImageResponse *reply;
	ProtobufCMessage *msg;
	uint64_t left;

	(void)noperands;
	image_fill(&request, o, operands[0]);
	request.image_type = o->type;
	request.repair = o->repair;
	msg = remote_call(r, "CheckDiskImage", &request.base);
	reply = (const Lodge__V1__CheckDiskImageResponse *)msg;
	if (!msg)
		return r->status;
	if (r->options->json)
		print_json(msg);
	else
		printf("corruptions:  %" PRIu64 ", mended %" PRIu64 "\n"
		       "leaks:        %" PRIu64 ", mended %" PRIu64 "\n"
		       "clusters:     %" PRIu64 ", allocated %" PRIu64 "\n",
		       reply->corruptions, reply->corruptions_fixed, reply->leaks,
		       reply->leaks_fixed, reply->clusters, reply->allocated_clusters);
	left = reply->corruptions - MIN(reply->corruptions_fixed, reply->corruptions) +
	       (reply->leaks - MIN(reply->leaks_fixed, reply->leaks));
	lodge_free(msg);
	if (!left)
		return LODGE_OK;
	return remote_fail(r, LODGE_FAILED, "%s has errors%s", operands[0],
			   o->repair ? " that cannot be mended" : "; --repair mends what it can");
}

/* ---- the table ----------------------------------------------------------------------------------
 */

#define PLACE " PATH is below the\nid's directory of the server's storage root.\n"

static const struct remote_command image_commands[] = {
    {
	.name = "image create",
	.usage = "--id ID --format FORMAT PATH SIZE",
	.about = "Makes a disk image and prints its absolute path." PLACE,
	.settings = image_settings,
	.nsettings = ARRAY_LEN(image_settings),
	.operands_max = 2,
	.operands_min = 1,
	.operands_help = "PATH",
	.check = check_size,
	.run = create_run,
    },
    {
	.name = "image destroy",
	.usage = "--id ID PATH",
	.about = "Deletes a disk image that no VM uses." PLACE,
	.settings = destroy_settings,
	.nsettings = ARRAY_LEN(destroy_settings),
	.operands_max = 1,
	.operands_min = 1,
	.operands_help = "PATH",
	.check = check_place,
	.run = destroy_run,
    },
    {
	.name = "image info",
	.usage = "--id ID --format FORMAT PATH",
	.about = "Prints where a disk image is, and its sizes." PLACE,
	.settings = image_settings,
	.nsettings = ARRAY_LEN(image_settings),
	.operands_max = 1,
	.operands_min = 1,
	.operands_help = "PATH",
	.check = check_format,
	.run = info_run,
    },
    {
	.name = "image resize",
	.usage = "--id ID --format FORMAT PATH SIZE",
	.about = "Makes a disk image that no VM uses larger, or with --shrink smaller." PLACE,
	.settings = resize_settings,
	.nsettings = ARRAY_LEN(resize_settings),
	.operands_max = 2,
	.operands_min = 1,
	.operands_help = "PATH",
	.check = check_size,
	.run = resize_run,
    },
    {
	.name = "image check",
	.usage = "--id ID --format FORMAT PATH",
	.about = "Looks for errors in a disk image that no VM uses." PLACE,
	.settings = check_settings,
	.nsettings = ARRAY_LEN(check_settings),
	.operands_max = 1,
	.operands_min = 1,
	.operands_help = "PATH",
	.check = check_format,
	.run = check_run,
    },
};

#define IMAGE_WORD (sizeof("image ") - 1)

static const struct remote_command *image_find(const char *word)
{
	const char *names[ARRAY_LEN(image_commands) + 1] = {NULL};
	const char *near;

	for (size_t i = 0; i < ARRAY_LEN(image_commands); i++) {
		names[i] = image_commands[i].name + IMAGE_WORD;
		if (!strcmp(names[i], word))
			return &image_commands[i];
	}
	near = parse_suggest(word, names);
	if (near)
		fprintf(stderr, "lodge image: unknown command '%s'; did you mean %s?\n", word,
			near);
	else
		fprintf(stderr,
			"lodge image: unknown command '%s'; `lodge help image` lists them\n", word);
	return NULL;
}

int cmd_image(int argc, char **argv)
{
	struct image_options options = {.id = NULL};
	const struct remote_command *command;

	if (argc < 2) {
		fputs("lodge image: say what to do; `lodge help image` lists the commands\n",
		      stderr);
		return LODGE_USAGE;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
		cmd_image_help();
		return LODGE_OK;
	}
	command = image_find(argv[1]);
	if (!command)
		return LODGE_USAGE;
	return remote_run(command, &options.remote, argc - 1, argv + 1);
}

void cmd_image_help(void)
{
	fputs("usage: lodge image COMMAND --id ID ... PATH\n\n"
	      "Disk images below the storage root of a server, that no VM uses. Any other image\n"
	      "file: `lodge disk`.\n\nCommands:\n",
	      stdout);
	for (size_t i = 0; i < ARRAY_LEN(image_commands); i++)
		printf("  %-8s %s\n", image_commands[i].name + IMAGE_WORD, image_commands[i].usage);
	fputs("\n`lodge help image COMMAND` explains one.\n", stdout);
}

int cmd_image_help_of(const char *word)
{
	const struct remote_command *command = image_find(word);

	if (!command)
		return LODGE_USAGE;
	remote_help(command);
	return LODGE_OK;
}
