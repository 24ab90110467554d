/* Loaded by the dynamic linker into a /bin/sh of pid 1's: stops it before its main() and forks it for each script.
 *
 * What is dear about a new process is the loading, not the fork (a machine that traps CPUID spends half a millisecond
 * in it). So one shell, the keeper, is loaded and then only forked; its fork waits for one request of the host's, puts
 * argument, variables, directory and descriptors in place as pid 1 does for any command, and goes on to main() as if
 * the kernel had just started it. Both are undumpable while they wait: no other process of the sandbox can read or
 * change them, or take their sockets. Whatever fails here ends the process, and pid 1 starts its commands afresh. */
#define _GNU_SOURCE
#include "../wire.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/prctl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ, **__environ;

#define RANGES_MAX 128
#define PRESENT (1ULL << 63) /* in /proc/PID/pagemap */
#define ITS_OWN (1ULL << 56)

static struct prctl_mm_map map;
static struct range {
    void *start;
    size_t bytes;
    int how;
} ranges[RANGES_MAX]; /* of memory that a shell touches */
static int range_count;

/* What the kernel tells others about our memory, all to be kept but where arguments and variables are. */
static int read_map(void) {
    char text[1024], *at;
    uint64_t fields[52] = {0};
    int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    if (!(at = strrchr(text, ')')) || strlen(at) < 4)
        return -1;
    at += 3; /* past the state, which is the third field */
    for (int i = 4; i < 52; i++)
        fields[i] = strtoull(at, &at, 10);
    map.start_code = fields[26], map.end_code = fields[27], map.start_stack = fields[28];
    map.start_data = fields[45], map.end_data = fields[46], map.start_brk = fields[47];
    map.arg_start = fields[48], map.arg_end = fields[49], map.env_start = fields[50], map.env_end = fields[51];
    map.brk = (uint64_t)sbrk(0);
    map.exe_fd = -1;
    return 0;
}

/* What is mapped from files, and beside them: a fork finds it missing, page by page. */
static void read_ranges(void) {
    char text[16384], *at = text, *line;
    size_t used = 0;
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    for (ssize_t n; used < sizeof text - 1 && (n = read(fd, text + used, sizeof text - 1 - used)) > 0;)
        used += n;
    close(fd);
    text[used] = 0;
    while ((line = strsep(&at, "\n")) && range_count < RANGES_MAX) {
        unsigned long start, end;
        char rights[5], name[64] = "";
        if (sscanf(line, "%lx-%lx %4s %*s %*s %*s %63s", &start, &end, rights, name) < 3 || rights[0] != 'r' ||
            end - start > 4 << 20 || (!*name && rights[1] == '-') || (*name == '[' && strcmp(name, "[heap]") && strcmp(name, "[stack]")))
            continue;
        ranges[range_count++] = (struct range){(void *)start, end - start,
                                               rights[1] == 'w' ? MADV_POPULATE_WRITE : MADV_POPULATE_READ};
    }
}

/* Leave those pages that the shell `pid` has, and made its own where it may write: what more there is costs time when
 * it is made and again when it ends. */
static void leave_pages_of(pid_t pid) {
    static struct range all[RANGES_MAX];
    static uint64_t pages[(4 << 20) / 4096];
    char path[64];
    int count = range_count;
    snprintf(path, sizeof path, "/proc/%d/pagemap", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    memcpy(all, ranges, sizeof all);
    range_count = 0;
    for (int i = 0; i < count; i++) {
        char *start = all[i].start;
        uint64_t wanted = PRESENT | (all[i].how == MADV_POPULATE_WRITE ? ITS_OWN : 0);
        ssize_t n = pread(fd, pages, all[i].bytes / 4096 * 8, (uintptr_t)start / 4096 * 8) / 8;
        for (ssize_t from = 0, to; from < n && range_count < RANGES_MAX; from = to + 1) {
            for (to = from; to < n && (pages[to] & wanted) == wanted; to++)
                ;
            if (to > from)
                ranges[range_count++] = (struct range){start + from * 4096, (to - from) * 4096, all[i].how};
        }
    }
    close(fd);
}

/* Have a fork run until it waits for input, to see what a shell needs. Returns true in that fork. */
static int try_out(char **argv) {
    int in[2], out[2];
    char line;
    if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC))
        _exit(1);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(in[0], 0), dup2(out[1], 1);
        syscall(SYS_close_range, 3, ~0u, 0);
        argv[2] = "echo; read line";
        prctl(PR_SET_DUMPABLE, 1);
        return 1;
    }
    close(in[0]), close(out[1]);
    if (pid < 0 || read(out[0], &line, 1) != 1)
        _exit(1);
    leave_pages_of(pid);
    kill(pid, SIGKILL), waitpid(pid, NULL, 0);
    close(in[1]), close(out[0]);
    return 0;
}

static int tell(const char *name, const char *arguments, const char *variables, const char *end) {
    map.arg_start = (uintptr_t)arguments, map.arg_end = map.env_start = (uintptr_t)variables;
    map.env_end = (uintptr_t)end;
    return prctl(PR_SET_NAME, name) || prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof map, 0) ? -1 : 0;
}

/* A fork that is a child of pid 1 too, with what the C library would have done about its only thread. */
static pid_t fork_beside(void) {
    int *tid = NULL;
    void *robust = NULL;
    size_t bytes = 0;
    long flags = CLONE_PARENT | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD;
    syscall(SYS_get_robust_list, 0, &robust, &bytes);
    if (prctl(PR_GET_TID_ADDRESS, &tid))
        return -1;
#if defined(__aarch64__)
    pid_t pid = syscall(SYS_clone, flags, 0, NULL, 0, tid);
#else
    pid_t pid = syscall(SYS_clone, flags, 0, NULL, tid, 0);
#endif
    if (pid == 0 && robust)
        syscall(SYS_set_robust_list, robust, bytes);
    return pid;
}

/* Wait for the request, and become what it asks for. */
static void take_script(int line, char *packet, char **argv) {
    struct spawn s;
    int fds[3];
    setsid();
    for (int i = 0; i < range_count; i++)
        madvise(ranges[i].start, ranges[i].bytes, ranges[i].how); /* later it would be somebody's time */
    struct pollfd asked = {line, POLLIN, 0}; /* pid 1 has this end too, and may not be made to wait */
    if (poll(&asked, 1, -1) < 0)
        _exit(126);
    ssize_t n = receive_packet(line, packet, PACKET_MAX, fds, 3);
    if (n <= (ssize_t)sizeof s || packet[n - 1] || fds[2] < 0)
        _exit(126);
    memcpy(&s, packet, sizeof s);
    char *cwd = packet + sizeof s, *at = cwd + strlen(cwd) + 1, *arguments = at;
    for (uint32_t i = 0; i < s.argc; i++, at += strlen(at) + 1)
        argv[i] = at; /* three, as there were */
    size_t room = (s.envc + 1) * sizeof *environ;
    char *variables = at, **env = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (env == MAP_FAILED || s.argc != 3)
        _exit(126);
    for (uint32_t i = 0; i < s.envc; i++, at += strlen(at) + 1)
        env[i] = at;
    environ = __environ = env;
    for (int i = 0; i < 3; i++)
        if (dup2(fds[i], i) < 0)
            _exit(126);
    syscall(SYS_close_range, 3, ~0u, 0);
    if (chdir(cwd)) {
        dprintf(2, "%s: %s\n", cwd, strerror(errno));
        _exit(126);
    }
    if (tell("sh", arguments, variables, at) || prctl(PR_SET_DUMPABLE, 1))
        _exit(126);
}

/* The C library gives constructors what main() will get; its own come first, since we are linked with it. */
__attribute__((constructor)) static void wait_for_scripts(int argc, char **argv) {
    pid_t pid;
    int line[2];
    char order;
    prctl(PR_SET_DUMPABLE, 0);
    close(SHELL_LIBRARY);
    char *packet = mmap(NULL, PACKET_MAX + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (argc != 3 || packet == MAP_FAILED || read_map() || tell("palmette-box", packet, packet, packet))
        _exit(1);
    read_ranges();
    if (try_out(argv))
        return;
    for (;;) {
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, line) || (pid = fork_beside()) < 0)
            _exit(1);
        if (pid == 0)
            break;
        if (send_packet(SHELL_ORDERS, &pid, sizeof pid, line, 2))
            _exit(0);
        close(line[0]), close(line[1]);
        if (recv(SHELL_ORDERS, &order, 1, 0) != 1)
            _exit(0);
    }
    close(line[0]); /* pid 1 has it: when it lets go of that, we end */
    take_script(line[1], packet, argv);
}
