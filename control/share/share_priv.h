/* Parts of shares, for control/share/ and its tests only. */
#ifndef CONTROL_SHARE_SHARE_PRIV_H
#define CONTROL_SHARE_SHARE_PRIV_H

#include "vmm/config.h"

/* The configuration of the server of one share, at `port` of net->addresses.gateway; the caller
 * frees. NULL: out of memory. */
char *ganesha_config(const struct machine_share *share, const struct machine_net *net,
		     uint16_t port);

/*
 * One line of ganesha's log. False: nothing that concerns anybody. *ret_text is what it says,
 * *ret_ready: it serves from now on.
 */
bool ganesha_line(char *line, const char **ret_text, bool *ret_ready);

/* The interface that has the shares' ports; NULL: none. */
const struct machine_net *shares_net(const struct machine_config *config);

#endif
