/* A shell that is loaded before it is needed: scripts that come soon after one another need no new program, only a fork
 * of one that waits (preload/sh.c). Made and driven by pid 1; its loss, by whatever hand, costs a fresh start.
 *
 * `keeper` is the loaded shell, `ready` its fork that waits for a request. Each such fork has a line of its own, of which
 * we keep both ends: what was not taken can be taken back, so a script is run once, whoever was stopped or killed. */
#define _GNU_SOURCE
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define IDLE_US 10000000 /* without a script for so long, it is let go; as soon after one another it is made */
#define ARGUMENT_MAX (128 * 1024) /* the kernel's, for one string */
#define PATIENCE_MS 1 /* less than a fresh start takes */
#define FAILURES_MAX 3 /* then this shell is taken for one that cannot wait: a static one, or of another C library */
#define STUCK_US 500000  /* without an answer to an order */
#define TASKS_MAX 12000  /* pids end at 32,768 on many machines */
#define SHELL "/bin/sh"

static pid_t keeper, ready;
static int orders = -1, line[2] = {-1, -1}, ordered, answered, failures;
static uint64_t last_us, ordered_us; /* the end of the last script; when another fork was ordered */
static struct stat program;

#ifdef PRELOAD
__asm__(".section .rodata\n.balign 16\npreload_begin: .incbin \"" PRELOAD "\"\npreload_end: .byte 0\n.previous");
extern const char preload_begin[] __asm__("preload_begin"), preload_end[] __asm__("preload_end");
#else
static const char preload_begin[1], *preload_end = preload_begin;
#endif

static int same_program(void) {
    struct stat now;
    return stat(SHELL, &now) == 0 && now.st_dev == program.st_dev && now.st_ino == program.st_ino &&
           now.st_ctim.tv_sec == program.st_ctim.tv_sec && now.st_ctim.tv_nsec == program.st_ctim.tv_nsec;
}

static void __attribute__((noreturn)) become_keeper(int library, int its_orders) {
    char *argv[] = {SHELL, "-c", "", NULL}, *env[] = {"LD_PRELOAD=/proc/self/fd/3", NULL};
    int nothing = open("/dev/null", O_RDWR | O_CLOEXEC), orders_too = fcntl(its_orders, F_DUPFD, SHELL_ORDERS + 1);
    for (int i = 0; i < 3; i++)
        if (dup2(nothing, i) < 0)
            _exit(126);
    if (dup2(library, SHELL_LIBRARY) < 0 || dup2(orders_too, SHELL_ORDERS) < 0)
        _exit(126);
    confine_process();
    close_range(SHELL_ORDERS + 1, ~0u, 0);
    settle_process();
    execve(SHELL, argv, env);
    _exit(127);
}

static void make_keeper(void) {
    size_t bytes = preload_end - preload_begin;
    int library = bytes ? memfd_create("palmette", MFD_CLOEXEC | MFD_ALLOW_SEALING) : -1, pair[2] = {-1, -1};
    const int kind = SOCK_SEQPACKET | SOCK_CLOEXEC, seals = F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL;
    answered = 0;
    if (library >= 0 && write(library, preload_begin, bytes) == (ssize_t)bytes &&
        fcntl(library, F_ADD_SEALS, seals) == 0 && stat(SHELL, &program) == 0 &&
        socketpair(AF_UNIX, kind, 0, pair) == 0 && (keeper = fork()) == 0)
        become_keeper(library, pair[1]);
    close(library), close(pair[1]);
    orders = pair[0], ordered = 1, ordered_us = last_us;
    if (keeper <= 0)
        warm_drop();
}

/* Where it answers; -1 without one. */
int warm_answers(void) { return orders; }

/* It says which fork of it waits, and sends the line to that. */
void warm_hear(void) {
    pid_t pid = 0;
    siginfo_t info;
    int fds[2];
    ssize_t n = receive_packet(orders, &pid, sizeof pid, fds, 2);
    if (n < 0 && errno == EAGAIN)
        return;
    ordered = failures = 0, answered = 1;
    line[0] = fds[0], line[1] = fds[1];
    if (n == sizeof pid && fds[1] >= 0 && !ready && waitid(P_PID, pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0)
        ready = pid;
    else
        warm_drop();
}

/* End it; its processes are children of ours like any other. */
void warm_drop(void) {
    int *fds[] = {&orders, &line[0], &line[1]};
    if (keeper > 0)
        kill(keeper, SIGKILL);
    if (ready > 0)
        kill(ready, SIGKILL);
    for (int i = 0; i < 3; i++) {
        if (*fds[i] >= 0)
            close(*fds[i]);
        *fds[i] = -1;
    }
    keeper = ready = ordered = 0;
}

/* A child has ended: it may have been ours. */
void warm_lost(pid_t pid) {
    if (pid == keeper)
        keeper = 0, failures += !answered;
    else if (pid == ready)
        ready = 0;
    else
        return;
    warm_drop();
}

static void order(uint64_t now_us) {
    char more = 1;
    if (keeper && !ready && !ordered)
        ordered = send(orders, &more, 1, MSG_DONTWAIT | MSG_NOSIGNAL) == 1, ordered_us = now_us;
    else if (ordered && now_us >= ordered_us + STUCK_US) /* stopped, perhaps */
        warm_drop();
}

/* A script has ended: more may come, unless the machine is full of processes, to which ours would add. */
void warm_expect(uint64_t now_us, int tasks) {
    int soon = now_us - last_us < IDLE_US && tasks < TASKS_MAX;
    last_us = now_us;
    if (!keeper && soon && failures < FAILURES_MAX)
        make_keeper();
    order(now_us);
}

/* Let go of what nobody has used; when to ask again. */
uint64_t warm_until(uint64_t now_us) {
    if (keeper && now_us >= last_us + IDLE_US)
        warm_drop();
    return keeper ? last_us + IDLE_US : UINT64_MAX;
}

/* These are read while a program is loaded, which ours is already. */
static int concerns_loading(const char *variable) {
    return strncmp(variable, "LD_", 3) == 0 || strncmp(variable, "GLIBC_", 6) == 0 ||
           strncmp(variable, "MALLOC_", 7) == 0;
}

static int fits(const struct spawn *s, const char *strings) {
    const char *at = strings + strlen(strings) + 1, *dash = at + strlen(at) + 1;
    if (s->argc != 3 || s->memory_mb || s->cpu_s || s->file_mb || s->fds > 1 || strcmp(at, SHELL) || strcmp(dash, "-c"))
        return 0;
    for (uint32_t i = 0; i < s->argc + s->envc; i++) {
        size_t length = strlen(at);
        if (length >= ARGUMENT_MAX || (i >= s->argc && concerns_loading(at)))
            return 0;
        at += length + 1;
    }
    return 1;
}

/* Give a request to the shell that waits, if there is one that would do the same as a fresh one. Returns its pid, and
 * the line to it, which is the caller's then; or 0. */
pid_t warm_start(const struct spawn *s, const char *packet, size_t length, const int fds[3], int its_line[2],
                 uint64_t now_us) {
    struct pollfd soon = {orders, POLLIN, 0};
    if (!fits(s, packet + sizeof *s) || !same_program())
        return 0;
    if (ordered && answered && poll(&soon, 1, PATIENCE_MS) == 1)
        warm_hear();
    pid_t pid = ready;
    if (!pid || send_packet(line[0], packet, length, fds, 3))
        return 0;
    memcpy(its_line, line, sizeof line);
    ready = 0, line[0] = line[1] = -1;
    order(now_us);
    return pid;
}

/* Take a request back; its length, or -1 if it has been taken. */
ssize_t warm_recall(const int its_line[2], char *packet, size_t room, int fds[3]) {
    return receive_packet(its_line[1], packet, room, fds, 3);
}
