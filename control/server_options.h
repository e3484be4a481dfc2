/*
 * The options that `lodge serve` and `lodge vmm` have in common.
 */
#ifndef CONTROL_SERVER_OPTIONS_H
#define CONTROL_SERVER_OPTIONS_H

#include "base/log.h"
#include "base/loop.h"
#include "control/access/access.h"
#include "control/component/component.h"
#include "control/options/settings.h"
#include "control/unix_socket.h"

/* The first member of the options of both. Strings belong to whoever had them parsed. */
struct server_options {
	const char *socket;
	struct unix_mode socket_mode;
	struct access access;
	const char *storage_root;
	const char *component_root;
	const char *log_text;
	enum log_level log_level;
	enum loop_backend loop_backend;
	bool sandbox;
};

#define SERVER_OPTIONS_INIT                                                                     \
	{                                                                                       \
		.socket_mode = {.mode = 0600, .group = (gid_t)-1}, .log_text = "warn",          \
		.component_root = COMPONENT_ROOT, .log_level = LOG_LEVEL_WARN, .sandbox = true, \
	}

/* Their lines of a table of options. */
#define SERVER_SETTINGS                                                                           \
	{"socket-mode", "MODE", server_set_socket_mode, "who may connect, in octal (0600)"},      \
	    {"socket-group", "GROUP", server_set_socket_group, "group of the socket"},            \
	    {"allow-uid", "USER", server_set_allow_uid, "who may make all calls; repeatable"},    \
	    {"allow-group", "GROUP", server_set_allow_group, "likewise its members"},             \
	    {"read-only-uid", "USER", server_set_read_only_uid, "who may look only; repeatable"}, \
	    {"read-only-group", "GROUP", server_set_read_only_group, "likewise its members"},     \
	    {"storage-root", "DIR", server_set_storage_root, "where disk images are kept"},       \
	    {"component-root", "DIR", server_set_component_root,                                  \
	     "where start_termina finds its component (" COMPONENT_ROOT ")"},                     \
	    {"sandbox", "on|off", server_set_sandbox, "the process of a VM is locked in (on)"},   \
	    {"io", "auto|io_uring|epoll", server_set_io, "how sockets are served (auto)"},        \
	{                                                                                         \
		"log", "error|warn|info|debug", server_set_log, "what standard error gets (warn)" \
	}

int server_set_socket(void *target, const char *value, struct err *err);
int server_set_socket_mode(void *target, const char *value, struct err *err);
int server_set_socket_group(void *target, const char *value, struct err *err);
int server_set_allow_uid(void *target, const char *value, struct err *err);
int server_set_allow_group(void *target, const char *value, struct err *err);
int server_set_read_only_uid(void *target, const char *value, struct err *err);
int server_set_read_only_group(void *target, const char *value, struct err *err);
int server_set_storage_root(void *target, const char *value, struct err *err);
int server_set_component_root(void *target, const char *value, struct err *err);
int server_set_sandbox(void *target, const char *value, struct err *err);
int server_set_io(void *target, const char *value, struct err *err);
int server_set_log(void *target, const char *value, struct err *err);

#endif
