/* The one seccomp filter of a host: installed in the fork server before its first fork and inherited by everything.
 *
 * Never one per sandbox: freeing many JIT-compiled filters at once can stop a Linux 6.18 kernel for good. */
#define _GNU_SOURCE
#include "wire.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#define X32_BIT 0x40000000u
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#else
#error "the sandbox filter knows x86_64 and aarch64"
#endif

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define ANSWER(error) BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (error))
#define IF_CALL(nr, error) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (nr), 0, 1), ANSWER(error)
/* the flags are the first argument; CLONE_NEWUSER is below 2^32, so the low half (little endian) tells */
#define IF_NEW_USER(nr)                                                                                                \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (nr), 0, 4), LOAD(args[0]),                                                    \
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, CLONE_NEWUSER, 0, 1), ANSWER(EPERM),                                      \
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

#define IF_FAMILY(family) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (family), 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
/* the network namespace does not hold in every family: AF_VSOCK would reach the hypervisor */
#define ONLY_USUAL_FAMILIES(nr)                                                                                        \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (nr), 0, 10), LOAD(args[0]), IF_FAMILY(AF_UNIX), IF_FAMILY(AF_INET),           \
        IF_FAMILY(AF_INET6), IF_FAMILY(AF_NETLINK), ANSWER(EAFNOSUPPORT)

#ifndef SYS_io_uring_setup
#define SYS_io_uring_setup 425
#define SYS_io_uring_enter 426
#define SYS_io_uring_register 427
#endif
#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif

static struct sock_filter program[] = {
    LOAD(arch),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 1, 0),
    ANSWER(EPERM), /* another architecture's numbers would slip past the list */
    LOAD(nr),
#ifdef X32_BIT
    BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, X32_BIT, 0, 1),
    ANSWER(EPERM),
#endif
    IF_NEW_USER(SYS_clone),
    IF_NEW_USER(SYS_unshare),
    ONLY_USUAL_FAMILIES(SYS_socket),
    IF_CALL(SYS_clone3, ENOSYS), /* its flags hide behind a pointer; ENOSYS lets libc fall back to clone */
    IF_CALL(SYS_io_uring_setup, ENOSYS),
    IF_CALL(SYS_io_uring_enter, ENOSYS),
    IF_CALL(SYS_io_uring_register, ENOSYS),
    IF_CALL(SYS_userfaultfd, ENOSYS),
    IF_CALL(SYS_bpf, EPERM),
    IF_CALL(SYS_ptrace, EPERM),
    IF_CALL(SYS_process_vm_readv, EPERM),
    IF_CALL(SYS_process_vm_writev, EPERM),
    IF_CALL(SYS_pidfd_getfd, EPERM),
    IF_CALL(SYS_perf_event_open, EPERM),
    IF_CALL(SYS_keyctl, EPERM),
    IF_CALL(SYS_add_key, EPERM),
    IF_CALL(SYS_request_key, EPERM),
    IF_CALL(SYS_open_by_handle_at, EPERM),
    IF_CALL(SYS_kexec_load, EPERM),
    IF_CALL(SYS_init_module, EPERM),
    IF_CALL(SYS_finit_module, EPERM),
    IF_CALL(SYS_delete_module, EPERM),
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
};

int install_filter(void) {
    struct sock_fprog filter = {sizeof program / sizeof *program, program};
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter);
}

/* For the builder of images (builder.py), which installs it by itself. */
int print_filter(int fd) { return write(fd, program, sizeof program) == sizeof program ? 0 : -1; }
