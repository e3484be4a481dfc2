/* `lodge disk map`: where the contents of an image lie. */
#include "base/json.h"
#include "control/disk/commands.h"
#include "control/disk/job.h"
#include "disk/image_tools.h"

#include <inttypes.h>
#include <stdio.h>

static const char *const kind_names[] = {
    [IMAGE_EXTENT_DATA] = "data",
    [IMAGE_EXTENT_ZERO] = "zero",
    [IMAGE_EXTENT_HOLE] = "hole",
};

struct map {
	struct disk_job job;
	struct json json;
	struct image_extent last; /* not printed yet; length 0: none */
};

static void print_extent(struct map *map)
{
	const struct image_extent *e = &map->last;
	bool has_offset = e->has_host_offset && e->kind != IMAGE_EXTENT_HOLE;

	if (!e->len_bytes)
		return;
	if (!map->job.args->json) {
		printf("%16" PRIu64 " %16" PRIu64 "  %-4s %5u", e->offset_bytes, e->len_bytes,
		       kind_names[e->kind], e->depth);
		if (has_offset)
			printf(" %16" PRIu64 "%s\n", e->host_offset_bytes,
			       e->compressed ? " compressed" : "");
		else
			printf(" %16s%s\n", "-", e->compressed ? " compressed" : "");
		return;
	}
	json_object_inline(&map->json, NULL);
	json_u64(&map->json, "start", e->offset_bytes);
	json_u64(&map->json, "length", e->len_bytes);
	json_string(&map->json, "kind", kind_names[e->kind]);
	json_u64(&map->json, "depth", e->depth);
	json_bool(&map->json, "compressed", e->compressed);
	if (has_offset)
		json_u64(&map->json, "offset", e->host_offset_bytes);
	else
		json_null(&map->json, "offset");
	json_end(&map->json);
}

/* Do both make one line? */
static bool go_together(const struct image_extent *a, const struct image_extent *b)
{
	if (!a->len_bytes || a->kind != b->kind || a->depth != b->depth ||
	    a->compressed != b->compressed)
		return false;
	if (a->kind == IMAGE_EXTENT_HOLE)
		return true;
	if (a->compressed || a->has_host_offset != b->has_host_offset)
		return a->compressed && !a->has_host_offset && !b->has_host_offset;
	return !a->has_host_offset || a->host_offset_bytes + a->len_bytes == b->host_offset_bytes;
}

static int map_all(struct map *map, struct image *img, struct err *err)
{
	uint64_t size = image_info(img)->size_bytes;

	for (uint64_t at = 0; at < size;) {
		struct image_extent e;
		int r = image_map(img, at, size - at, &e, err);

		if (r)
			return r;
		at += e.len_bytes;
		if (go_together(&map->last, &e)) {
			map->last.len_bytes += e.len_bytes;
			continue;
		}
		print_extent(map);
		map->last = e;
	}
	print_extent(map);
	return 0;
}

/* The list is begun when the image is open, so that a refusal prints nothing. */
static int map_image(struct map *map, struct image *img, struct err *err)
{
	const struct disk_args *args = map->job.args;
	int r;

	if (!args->json) {
		printf("%16s %16s  %-4s %5s %16s\n", "start", "length", "kind", "depth", "offset");
		return map_all(map, img, err);
	}
	json_object(&map->json, NULL);
	json_string(&map->json, "path", args->operands[0]);
	json_string(&map->json, "format", image_format_name(args->format.format));
	json_u64(&map->json, "size_bytes", image_info(img)->size_bytes);
	json_array(&map->json, "extents");
	r = map_all(map, img, err);
	json_end(&map->json);
	json_end(&map->json);
	return r;
}

int disk_map(struct disk_args *args)
{
	const struct image_opts o = {
	    .path = args->operands[0],
	    .format = args->format.format,
	    .read_only = true,
	    .backing = args->allow_backing,
	};
	struct map map = {.job = {.args = args}, .json = JSON_INIT(stdout)};
	struct err err = ERR_INIT;
	struct image *img = NULL;
	int r = image_open(&o, &img, &err);

	if (!r)
		r = map_image(&map, img, &err);
	image_close(img);
	return disk_result(args, NULL, r, &err);
}
