/* virtio-rng (virtio 1.2 §5.4): random bytes from getrandom(2), at most RNG_REQUEST_MAX a request.
 */
#ifndef DEVICES_VIRTIO_RNG_H
#define DEVICES_VIRTIO_RNG_H

#include "base/err.h"
#include "base/loop.h"
#include "devices/platform.h"
#include "devices/virtio/virtio.h"

#define RNG_REQUEST_MAX 4096 /* bytes; what Linux asks for is far less */

int virtio_rng_new(const struct platform *plat, struct loop *loop, struct virtio_dev **ret_dev,
		   struct err *err);

#endif
