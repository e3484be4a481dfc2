/* Parts of the jail, for control/share/ only. */
#ifndef CONTROL_SHARE_JAIL_PRIV_H
#define CONTROL_SHARE_JAIL_PRIV_H

/* This process gives up what the server does not need; async-signal-safe. 0 or -errno. */
int jail_confine(const char **ret_what);

#endif
