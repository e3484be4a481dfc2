/* qcow2: an image of any contents is checked, repaired, opened, read and written. */
#include "tests/fuzz/qcow2_image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 200)
		return 0;
	return run_image(data + 1, size - 1, data[0] & ~0x01);
}
