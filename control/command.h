/*
 * The commands of the executable and what their exit status means (lodge-run(1), EXIT STATUS).
 */
#ifndef CONTROL_COMMAND_H
#define CONTROL_COMMAND_H

enum lodge_exit {
	LODGE_OK = 0,	  /* run: the guest powered off; doctor: guests can run */
	LODGE_FAILED = 1, /* a file, the host, or lodge itself */
	LODGE_USAGE = 2,  /* the arguments are wrong */
	LODGE_REBOOT = 3,
	LODGE_PANIC = 4,
	LODGE_TRIPLE_FAULT = 5,
	LODGE_HOST_FAILED = 6, /* KVM or the host failed a machine that ran */
	LODGE_ESCAPED = 7,     /* the user ended it from the console */
	LODGE_SIGNALLED = 128, /* plus the number of the signal */
};

/*
 * Each runs a command to its end on the calling thread; argv[0] is the command's name. Returns the
 * exit status. Errors have been printed.
 */
int cmd_run(int argc, char **argv);
int cmd_disk(int argc, char **argv);
int cmd_component(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_serve(int argc, char **argv);
int cmd_vmm(int argc, char **argv);

/* With a server: control/remote/ */
int cmd_start(int argc, char **argv);
int cmd_stop(int argc, char **argv);
int cmd_list(int argc, char **argv);
int cmd_info(int argc, char **argv);
int cmd_wait(int argc, char **argv);
int cmd_events(int argc, char **argv);
int cmd_console(int argc, char **argv);
int cmd_exec(int argc, char **argv);
int cmd_shell(int argc, char **argv);
int cmd_cp(int argc, char **argv);
int cmd_guest(int argc, char **argv);
int cmd_pause(int argc, char **argv);
int cmd_resume(int argc, char **argv);
int cmd_resize(int argc, char **argv);
int cmd_link(int argc, char **argv);
int cmd_top(int argc, char **argv);
int cmd_metrics(int argc, char **argv);
int cmd_image(int argc, char **argv);

/* What `lodge help COMMAND` prints, on standard output. */
void cmd_run_help(void);
void cmd_disk_help(void);
/* `lodge help disk COMMAND`; the exit status. */
int cmd_disk_help_of(const char *word);
void cmd_component_help(void);
/* `lodge help component COMMAND`; the exit status. */
int cmd_component_help_of(const char *word);
void cmd_doctor_help(void);
void cmd_serve_help(void);
void cmd_vmm_help(void);
void cmd_start_help(void);
void cmd_stop_help(void);
void cmd_list_help(void);
void cmd_info_help(void);
void cmd_wait_help(void);
void cmd_events_help(void);
void cmd_console_help(void);
void cmd_exec_help(void);
void cmd_shell_help(void);
void cmd_cp_help(void);
void cmd_guest_help(void);
/* `lodge help guest COMMAND`; the exit status. */
int cmd_guest_help_of(const char *word);
void cmd_pause_help(void);
void cmd_resume_help(void);
void cmd_resize_help(void);
void cmd_link_help(void);
void cmd_top_help(void);
void cmd_metrics_help(void);
void cmd_image_help(void);
/* `lodge help image COMMAND`; the exit status. */
int cmd_image_help_of(const char *word);

#endif
