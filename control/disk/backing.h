/* Names of backing files as an image states them. */
#ifndef CONTROL_DISK_BACKING_H
#define CONTROL_DISK_BACKING_H

#include "base/err.h"
#include "disk/image.h"

#include <stdbool.h>

/* What `image_path` means by `name`: relative names are from its folder. The caller frees it. */
int backing_resolve(const char *image_path, const char *name, char **ret_path, struct err *err);

/* Do both paths lead to one file? False where one does not exist. */
bool same_file(const char *a, const char *b);

#endif
