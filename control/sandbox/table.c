/*
 * What each role may call, and why. Nothing here opens a file, starts a process, makes memory
 * executable, changes credentials or makes a socket, but for vsock: Unix sockets below a folder,
 * and AF_VSOCK ones, whose addresses cannot be looked at here. All are streams: a datagram socket
 * could be connected a second time.
 *
 * Roles: C control, V vCPU, I I/O, of it S sockets, W workers. To add a call: run the feature with
 * --sandbox on, read the line that names the call, and write down here what for.
 */
#include "base/checked.h"
#include "control/sandbox/priv.h"

#include <asm/termbits.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/io_uring.h>
#include <linux/kvm.h>
#include <linux/sched.h>
#include <linux/vhost.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define C   (1u << THREAD_CONTROL)
#define V   (1u << THREAD_VCPU)
#define S   (1u << THREAD_SOCKETS)
#define I   (1u << THREAD_IO | S)
#define W   (1u << THREAD_WORKER)
#define ALL (C | V | I | W)

#ifndef SO_PEERGROUPS
#define SO_PEERGROUPS 59
#endif
#ifndef AT_EMPTY_PATH
#define AT_EMPTY_PATH 0x1000
#endif
/* in no header of glibc 2.36 */
#define RING_FDS_REGISTER   20
#define RING_FDS_UNREGISTER 21

/* As the C library makes a thread: not a process, and in no new namespace. */
#define THREAD_FLAGS                                                                        \
	(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SYSVSEM | CLONE_SIGHAND | CLONE_THREAD | \
	 CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID)

#define ANY(name, roles, why)                              \
	{                                                  \
		__NR_##name, roles, SANDBOX_ANY, 0, 0, why \
	}
#define IS(name, roles, arg, value, why)                        \
	{                                                       \
		__NR_##name, roles, SANDBOX_IS, arg, value, why \
	}
#define LACKS(name, roles, arg, bits, why)                        \
	{                                                         \
		__NR_##name, roles, SANDBOX_LACKS, arg, bits, why \
	}
#define STREAM(name, roles, family, why)                           \
	{                                                          \
		__NR_##name, roles, SANDBOX_STREAM, 0, family, why \
	}
#define IOCTL(request, roles, why) IS(ioctl, roles, 1, request, why)
#define FCNTL(command, roles, why) IS(fcntl, roles, 1, command, why)

static const struct sandbox_rule rules[] = {
    /* memory */
    LACKS(mmap, ALL, 2, PROT_EXEC, "malloc, buffers of disks, stacks of threads"),
    LACKS(mprotect, ALL, 2, PROT_EXEC, "malloc's heaps, stacks of threads"),
    ANY(munmap, ALL, "malloc, buffers, guest memory at the end"),
    ANY(mremap, ALL, "realloc"),
    ANY(brk, ALL, "malloc"),
    ANY(madvise, ALL, "malloc, stacks of threads that end, huge pages"),
    ANY(getrandom, ALL, "virtio-rng, the seed for the kernel, malloc"),
    ANY(sched_getaffinity, C | I, "malloc's number of heaps, threads that unpack"),
    ANY(sysinfo, C | I, "qsort looks how much memory there is"),

    /* threads and signals */
    ANY(futex, ALL, "locks, conditions, joins"),
    {__NR_clone3, C | I, SANDBOX_NOSYS, 0, 0,
     "its flags cannot be seen; the C library tries clone"},
    IS(clone, C | I, 0, THREAD_FLAGS, "work in the background, threads that unpack clusters"),
    ANY(set_robust_list, C | I, "a new thread"),
    ANY(rseq, C | I, "a new thread"),
    IS(prctl, ALL, 0, PR_SET_NAME, "a new thread's name"),
    IS(prctl, ALL, 0, PR_GET_NAME, "the line about a violation"),
    IS(prctl, C | I, 0, PR_SET_NO_NEW_PRIVS, "a new thread locks itself in"),
    IS(prctl, C | I, 0, PR_CAP_AMBIENT, "likewise"),
    ANY(capget, C | I, "likewise"),
    ANY(capset, C | I, "likewise; there is nothing to be gained"),
    ANY(seccomp, C | I, "likewise; filters only add to each other"),
    ANY(rt_sigprocmask, ALL, "a thread's start and end, what the console handles"),
    ANY(rt_sigaction, ALL, "abort; the console at its end"),
    ANY(rt_sigreturn, ALL, "after a handler, as of the signal that interrupts KVM_RUN"),
    ANY(getpid, ALL, "signals to a thread of this process, GetVmInfo"),
    ANY(gettid, ALL, "likewise"),
    {__NR_tgkill, ALL, SANDBOX_OWN_PID, 0, 0, "stops vCPUs; abort; SIGSTOP as the shell asked"},
    ANY(sched_yield, ALL, "waiting for another thread's few instructions"),
    ANY(restart_syscall, ALL, "a sleep that SIGSTOP interrupted"),
    ANY(exit, ALL, "the end of a thread"),
    ANY(exit_group, ALL, "the end of the process, also by a violation"),

    /* time, where the vDSO has none */
    ANY(clock_gettime, ALL, "timers, the guest's clock"),
    ANY(clock_nanosleep, C | I, "a pause before an I/O loop that failed is run again"),

    /* what is open */
    ANY(read, C | I, "events, signals, the terminal, packets that are dropped"),
    ANY(readv, C | I, "streams, packets"),
    ANY(write, ALL, "interrupts, events, the log, the console"),
    ANY(writev, C | I, "streams, packets"),
    ANY(preadv2, C | I, "epoll: a read that does not wait"),
    ANY(pwritev2, C | I, "epoll: a write that does not wait"),
    ANY(pread64, C | I, "kernel modules, metadata of images"),
    ANY(pwrite64, C | I, "metadata of images"),
    ANY(preadv, W, "epoll: disks"),
    ANY(pwritev, W, "epoll: disks"),
    ANY(fdatasync, C | I | W, "epoll: disks; metadata of images"),
    ANY(fallocate, C | I | W, "epoll: discard and zeroes; metadata of images"),
    ANY(ftruncate, C | I, "empties the console's file; images that grow"),
    ANY(lseek, C | I, "holes of a file"),
    ANY(fstat, C | I, "what a descriptor is"),
    IS(newfstatat, C | I, 3, AT_EMPTY_PATH, "likewise, as the C library calls it"),
    FCNTL(F_GETFL, C | I, "does a descriptor wait?"),
    FCNTL(F_SETFL, C | I, "connections that do not wait"),
    FCNTL(F_OFD_SETLK, C | I, "unlocks images"),
    FCNTL(F_OFD_GETLK, C | I, "locks of images"),
    ANY(close, C | I, "what was open"),
    {__NR_unlinkat, C, SANDBOX_KEPT_DIR, 0, 0, "removes the socket, or the console's file"},

    /* loops */
    ANY(io_uring_enter, C | I, "io_uring: submits and waits; the ring itself is restricted"),
    IS(io_uring_register, C | I, 1, IORING_REGISTER_ENABLE_RINGS, "a loop's first run"),
    IS(io_uring_register, C | I, 1, RING_FDS_REGISTER, "a loop runs"),
    IS(io_uring_register, C | I, 1, RING_FDS_UNREGISTER, "a loop has run"),
    ANY(epoll_pwait, C | I, "epoll: waits"),
    ANY(epoll_ctl, C | I, "epoll: what to wait for"),
    ANY(ppoll, C | I, "epoll: is a stream ready? is a tap gone?"),
    ANY(eventfd2, C | I, "threads that unpack, and the doorbells of a queue"),

    /* sockets that are open, and connections to them */
    ANY(accept4, C | S, "clients"),
    ANY(recvmsg, C | S, "clients"),
    ANY(sendmsg, C | S, "clients"),
    ANY(sendto, C | S, "a console on a socket, the answer to a first line"),
    ANY(recvfrom, C | S, "a first line; the end of nft"),
    ANY(shutdown, C | S, "the end of a connection"),
    STREAM(socket, S, AF_UNIX, "vsock: a port of the host's"),
    STREAM(socket, C, AF_VSOCK, "vhost: a port of the guest's, as of its agent"),
    STREAM(socketpair, C | S, AF_UNIX, "built-in vsock: both ends are this process's"),
    ANY(connect, C | S, "to them; by path only in the folder that is the thread's root"),
    ANY(getpeername, C, "vhost: is it this machine's guest?"),
    IS(getsockopt, C, 2, SO_ERROR, "has a connection come about?"),
    IS(getsockopt, C, 2, SO_PEERCRED, "who calls?"),
    IS(getsockopt, C, 2, SO_PEERGROUPS, "likewise"),
    ANY(geteuid, C, "likewise"),
    ANY(signalfd4, C, "signals, handled from the machine's start on"),

    /* the terminal */
    IOCTL(TCGETS, ALL, "is it a terminal, and in what mode?"),
    IOCTL(TCSETS, ALL, "its mode, also from the handler of a crash"),
    IOCTL(TIOCGPGRP, C, "is this process in the foreground?"),
    ANY(getpgid, C, "likewise"),

    /* KVM */
    IOCTL(KVM_RUN, V, "runs the guest"),
    IOCTL(KVM_SET_VCPU_EVENTS, V, "64-bit Arm: an access becomes a bus error"),
    IOCTL(KVM_KVMCLOCK_CTRL, V, "the guest learns that it was paused"),
    IOCTL(KVM_SET_GSI_ROUTING, C | V | I, "the guest sets a message of MSI-X"),
    IOCTL(KVM_IRQFD, C | V | I, "likewise, for its first time"),
    IOCTL(KVM_IOEVENTFD, C | V | I, "doorbells move with a PCI function's BAR"),
    IOCTL(VHOST_SET_FEATURES, V, "vhost: the driver is there"),
    IOCTL(VHOST_SET_MEM_TABLE, V, "likewise"),
    IOCTL(VHOST_SET_VRING_NUM, V, "likewise"),
    IOCTL(VHOST_SET_VRING_BASE, C | V | I, "likewise; vhost-net: goes on after a pause"),
    IOCTL(VHOST_SET_VRING_ADDR, V, "likewise"),
    IOCTL(VHOST_SET_VRING_KICK, V, "likewise"),
    IOCTL(VHOST_SET_VRING_CALL, V, "likewise"),
    IOCTL(VHOST_SET_VRING_ERR, V, "likewise"),
    IOCTL(VHOST_VSOCK_SET_RUNNING, C | V, "vsock: the driver, or the machine, comes and goes"),
    IOCTL(VHOST_NET_SET_BACKEND, C | I, "network: queue pairs, and the link, go on and off"),
    IOCTL(VHOST_GET_VRING_BASE, I, "network: where the kernel stopped for a pause"),
    IOCTL(TUNSETOFFLOAD, I, "network: what the driver takes unfinished"),
    IOCTL(TUNSETQUEUE, I, "network: queue pairs go on and off"),
    IOCTL(TUNSETTXFILTER, I, "network: the driver's receive filter"),
    IOCTL(KVM_GET_REGS, C | V, "where a vCPU failed"),
    IOCTL(KVM_GET_SREGS, C | V, "likewise; the kernel's entry"),
    IOCTL(KVM_SET_REGS, C, "the kernel's entry"),
    IOCTL(KVM_SET_SREGS, C, "likewise"),
    IOCTL(KVM_GET_ONE_REG, C | V, "where a vCPU of 64-bit Arm failed"),
    IOCTL(KVM_SET_ONE_REG, C, "the kernel's entry there"),

#ifdef __NR_open
    /* what only the older architectures have a number for */
    ANY(epoll_wait, C | I, "epoll: waits"),
    ANY(poll, C | I, "epoll: is a stream ready? is a tap gone?"),
    ANY(getpgrp, C, "is this process in the foreground?"),
#endif

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZERS "the sanitizers: reports, and the search for leaks at the end"
    ANY(openat, ALL, SANITIZERS),
    ANY(close, ALL, SANITIZERS),
    ANY(read, ALL, SANITIZERS),
    ANY(getdents64, ALL, SANITIZERS),
    ANY(newfstatat, ALL, SANITIZERS),
    ANY(clone, ALL, SANITIZERS),
    ANY(wait4, ALL, SANITIZERS),
    ANY(ptrace, ALL, SANITIZERS),
    ANY(prctl, ALL, SANITIZERS),
    ANY(getppid, ALL, SANITIZERS),
    ANY(execve, ALL, SANITIZERS),
    ANY(fcntl, ALL, SANITIZERS),
    ANY(mmap, ALL, SANITIZERS),
    ANY(getuid, ALL, SANITIZERS),
    ANY(sigaltstack, ALL, SANITIZERS),
    ANY(prlimit64, ALL, SANITIZERS),
    ANY(sched_getaffinity, ALL, SANITIZERS),
    ANY(process_vm_readv, ALL, SANITIZERS),
    ANY(clock_nanosleep, ALL, SANITIZERS),
    ANY(getrusage, ALL, SANITIZERS),
    ANY(readlinkat, ALL, SANITIZERS),
    ANY(faccessat, ALL, SANITIZERS),
    ANY(pipe2, ALL, SANITIZERS),
    ANY(dup3, ALL, SANITIZERS),
#ifdef __NR_open
    ANY(open, ALL, SANITIZERS),
    ANY(readlink, ALL, SANITIZERS),
    ANY(stat, ALL, SANITIZERS),
    ANY(access, ALL, SANITIZERS),
    ANY(pipe, ALL, SANITIZERS),
    ANY(fork, ALL, SANITIZERS),
    ANY(dup2, ALL, SANITIZERS),
    ANY(getrlimit, ALL, SANITIZERS),
#endif
#endif
};

const struct sandbox_rule *sandbox_rules(size_t *ret_n)
{
	*ret_n = ARRAY_LEN(rules);
	return rules;
}
