/* The functions behind the calls that a job answers, by file. See guest/agent/job.h. */
#ifndef GUEST_AGENT_CALLS_H
#define GUEST_AGENT_CALLS_H

#include "guest/agent/job.h"

job_fn call_get_facts;	       /* facts.c */
job_fn call_configure_network; /* network.c */
job_fn call_mount;	       /* mount.c */
job_fn call_unmount;	       /* mount.c */
job_fn call_grow_filesystem;   /* grow.c */
job_fn call_set_time;	       /* clock.c */
job_fn call_list_files;	       /* tree.c */
job_fn call_make_entry;	       /* tree.c */

#endif
