#include "control/terminal/escape.h"

enum escape_action escape_key(struct escape *escape, unsigned char key, unsigned char out[2],
			      size_t *ret_n)
{
	*ret_n = 0;
	if (!escape->armed) {
		escape->armed = key == ESCAPE_KEY;
		if (!escape->armed)
			out[(*ret_n)++] = key;
		return ESCAPE_NONE;
	}
	escape->armed = false;
	switch (key) {
	case 'x':
	case 'X':
		return ESCAPE_QUIT;
	case 'b':
	case 'B':
		return ESCAPE_BREAK;
	case 'p':
	case 'P':
		return ESCAPE_POWER;
	case '?':
	case 'h':
	case 'H':
		return ESCAPE_HELP;
	case ESCAPE_KEY:
	case 'a':
	case 'A':
		out[(*ret_n)++] = ESCAPE_KEY;
		return ESCAPE_NONE;
	default:
		out[(*ret_n)++] = ESCAPE_KEY;
		out[(*ret_n)++] = key;
		return ESCAPE_NONE;
	}
}
