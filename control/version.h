/* The version, as `lodge --version` and the man pages say it. */
#ifndef CONTROL_VERSION_H
#define CONTROL_VERSION_H

#define LODGE_VERSION "0.1.0"

#endif
