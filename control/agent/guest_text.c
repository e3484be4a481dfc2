/* Text of a guest. See control/agent/guest.h. */
#include "control/agent/guest.h"

void guest_clean_text(char *text)
{
	for (; *text; text++) {
		if (*text < ' ' || *text > '~')
			*text = '?';
	}
}
