/* pid 1 of a sandbox: starts commands for the host, keeps their output within bounds, reaps everything, and ends (and
 * with it, by the kernel's hand, every process of the sandbox) when the host lets go of the socket or time is up.
 *
 * It runs undumpable (it changed its uid without exec), so no process of the sandbox can read it or take its socket. */
#define _GNU_SOURCE
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define COMMANDS_MAX 128 /* at once */
#define ORPHANS_MAX 256  /* pipes still held by daemons of commands that ended: read and forgotten */
#define GRACE_US 50000   /* how long output may still follow the exit of a command */
#define PATIENCE_US 20000 /* how long a waiting shell has to take a script before it is started afresh */
#define FOREVER UINT64_MAX

struct capture { /* head and tail of a stream */
    int fd;
    char *head, *tail;
    size_t head_limit, tail_limit, head_used, tail_used, tail_at;
    uint64_t cut;
};

struct command {
    int used, exited, killed, script;
    uint32_t id, how;
    pid_t pid;
    int32_t code;
    uint64_t began, deadline, ended, cpu_us;
    uint64_t handed; /* when a waiting shell was asked to run it, over `line`; 0: it runs */
    int line[2];
    struct moment since;
    long peak_kib;
    struct capture stream[2];
    char *blob; /* the finished answer, being sent */
    size_t blob_bytes, sent;
    struct done done;
};

static struct command commands[COMMANDS_MAX];
static int orphans[ORPHANS_MAX], orphan_count;
static int control, signals, nothing;
static uint32_t output_limit;
static char buffer[PACKET_MAX + 1];
static struct { /* what commands may write to, if that is confined */
    const char *directories;
    uint32_t count;
    int ruleset; /* -1: to be made */
} writable = {.ruleset = -1};

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static uint64_t cpu_us(const struct rusage *r) {
    return (uint64_t)(r->ru_utime.tv_sec + r->ru_stime.tv_sec) * 1000000 + r->ru_utime.tv_usec + r->ru_stime.tv_usec;
}

/* ---- output ---------------------------------------------------------------------------------------------------- */

static void keep(struct capture *c, const char *data, size_t length) {
    size_t room = c->head_limit - c->head_used, first = length < room ? length : room;
    if (first) {
        char *grown = realloc(c->head, c->head_used + first);
        if (!grown) { /* the sandbox is out of memory: what was kept so far is all there is */
            c->cut += length;
            return;
        }
        c->head = grown;
        memcpy(c->head + c->head_used, data, first);
        c->head_used += first;
        data += first, length -= first;
    }
    if (!length)
        return;
    if (!c->tail && c->tail_limit && !(c->tail = malloc(c->tail_limit))) {
        c->cut += length;
        return;
    }
    if (length > c->tail_limit) {
        c->cut += length - c->tail_limit;
        data += length - c->tail_limit, length = c->tail_limit;
    }
    size_t over = c->tail_used + length > c->tail_limit ? c->tail_used + length - c->tail_limit : 0;
    c->cut += over;
    c->tail_used += length - over;
    while (length) {
        size_t step = c->tail_limit - c->tail_at < length ? c->tail_limit - c->tail_at : length;
        memcpy(c->tail + c->tail_at, data, step);
        c->tail_at = (c->tail_at + step) % c->tail_limit;
        data += step, length -= step;
    }
}

/* Read what is there; close at the end of the stream. */
static void drain(struct capture *c) {
    for (int rounds = 0; c->fd >= 0 && rounds < 16; rounds++) { /* bounded: a loud command must not starve the rest */
        ssize_t n = read(c->fd, buffer, 1 << 16);
        if (n > 0) {
            keep(c, buffer, n);
            continue;
        }
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        close(c->fd);
        c->fd = -1;
    }
}

static size_t lay_out(const struct capture *c, char *at) {
    char *start = at;
    memcpy(at, c->head, c->head_used), at += c->head_used;
    if (c->cut)
        at += sprintf(at, "\n[... %llu bytes cut ...]\n", (unsigned long long)c->cut);
    size_t from = c->tail_used < c->tail_limit ? 0 : c->tail_at, straight = c->tail_used - from;
    if (c->tail_used) {
        memcpy(at, c->tail + from, straight), at += straight;
        memcpy(at, c->tail, from), at += from;
    }
    return at - start;
}

static void release(struct capture *c, int keep_reading) {
    free(c->head), free(c->tail);
    if (c->fd >= 0) {
        if (keep_reading && orphan_count < ORPHANS_MAX)
            orphans[orphan_count++] = c->fd; /* closing it would kill a daemon by SIGPIPE */
        else
            close(c->fd);
    }
    memset(c, 0, sizeof *c), c->fd = -1;
}

/* Send as much of a finished answer as the socket takes; true when all is sent. */
static int deliver(struct command *c) {
    for (;;) {
        char packet[sizeof(struct done) + CHUNK];
        size_t left = c->blob_bytes - c->sent, step = left < CHUNK ? left : CHUNK, head;
        int last = step == left;
        if (last) {
            memcpy(packet, &c->done, head = sizeof c->done);
        } else {
            struct output part = {OUTPUT, c->id};
            memcpy(packet, &part, head = sizeof part);
        }
        if (step)
            memcpy(packet + head, c->blob + c->sent, step);
        if (send_packet(control, packet, head + step, NULL, 0)) {
            if (errno == EAGAIN)
                return 0;
            _exit(0);
        }
        c->sent += step;
        if (last) {
            free(c->blob);
            memset(c, 0, sizeof *c);
            return 1;
        }
    }
}

static void finish(struct command *c) {
    struct rusage all, own;
    getrusage(RUSAGE_CHILDREN, &all), getrusage(RUSAGE_SELF, &own);
    size_t kept = 128; /* for the marks of what was cut */
    for (int i = 0; i < 2; i++)
        kept += c->stream[i].head_used + c->stream[i].tail_used;
    char *blob = malloc(kept);
    struct done done = {.type = DONE, .id = c->id, .how = c->how, .code = c->code, .wall_us = c->ended - c->began,
                        .cpu_us = c->cpu_us, .peak_kib = c->peak_kib, .all_cpu_us = cpu_us(&all) + cpu_us(&own)};
    if (blob) {
        done.out_bytes = lay_out(&c->stream[0], blob);
        done.err_bytes = lay_out(&c->stream[1], blob + done.out_bytes);
    }
    done.truncated = !blob || c->stream[0].cut || c->stream[1].cut;
    release(&c->stream[0], 1), release(&c->stream[1], 1);
    int script = c->script, tasks = c->since.tasks, handed = c->handed > 0, line[2] = {c->line[0], c->line[1]};
    c->blob = blob, c->blob_bytes = done.out_bytes + done.err_bytes, c->done = done;
    c->used = 2; /* only to be delivered now */
    deliver(c);
    if (handed)
        close(line[0]), close(line[1]);
    if (script)
        warm_expect(now_us(), tasks);
}

/* ---- processes -------------------------------------------------------------------------------------------------- */

static int running(void) {
    int n = 0;
    for (int i = 0; i < COMMANDS_MAX; i++)
        n += commands[i].used == 1;
    return n;
}

static void kill_command(struct command *c) {
    int alone = running() == 1;
    c->killed = 1;
    for (int rounds = 0; rounds < 64 && kill_family(c->pid, &c->since, alone); rounds++)
        usleep(rounds < 8 ? 200 : 2000);
}

static void limit(int what, rlim_t value) {
    struct rlimit now;
    if (value && getrlimit(what, &now) == 0 && value < now.rlim_max) {
        now.rlim_cur = value;
        now.rlim_max = what == RLIMIT_CPU ? value + 2 : value; /* SIGXCPU first, SIGKILL when that is ignored */
        setrlimit(what, &now);
    }
}

/* The rules for what may be written to, made anew after a fork, which changes the root; true on failure. */
static int confine(void) {
    if (writable.count && writable.ruleset < 0)
        writable.ruleset = writable_ruleset(writable.directories, writable.count);
    return writable.count && writable.ruleset < 0;
}

/* In a child of pid 1. */
void confine_process(void) {
    if (writable.count && restrict_to(writable.ruleset))
        _exit(126);
}

/* In a child of pid 1: signals, visibility and the kernel's preferences as a command expects them. */
void settle_process(void) {
    sigset_t none;
    sigemptyset(&none);
    setsid();
    for (int number = 1; number < 32; number++) /* what the fork server ignores is not for commands to inherit */
        signal(number, SIG_DFL);
    /* The C library keeps 32 and 33 to itself, but whoever started us may have left them ignored. */
    struct { void *handler; unsigned long flags; void *restorer; unsigned long mask; } plain = {0};
    for (int number = 32; number <= 33; number++)
        syscall(SYS_rt_sigaction, number, &plain, NULL, sizeof plain.mask);
    sigprocmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_DUMPABLE, 1); /* else /proc/self belongs to root */
    int adjust = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (adjust >= 0) { /* out of memory, the commands die and the agent lives */
        if (write(adjust, "500", 3) < 0)
            dprintf(2, "oom_score_adj: %s\n", strerror(errno));
        close(adjust);
    }
}

static void __attribute__((noreturn)) become(const struct spawn *s, const char *cwd, char **argv, char **env,
                                             const int fds[3]) {
    for (int i = 0; i < 3; i++)
        if (dup2(fds[i], i) < 0)
            _exit(126);
    confine_process();
    close_range(3, ~0u, 0);
    settle_process();
    if (s->terminal)
        ioctl(0, TIOCSCTTY, 0);
    limit(RLIMIT_AS, (rlim_t)s->memory_mb << 20), limit(RLIMIT_FSIZE, (rlim_t)s->file_mb << 20);
    limit(RLIMIT_CPU, s->cpu_s);
    if (chdir(cwd)) {
        dprintf(2, "%s: %s\n", cwd, strerror(errno));
        _exit(126);
    }
    environ = env;
    execvp(argv[0], argv);
    int error = errno;
    dprintf(2, "%s: %s\n", argv[0], strerror(error));
    _exit(error == ENOENT ? 127 : 126);
}

/* A new process for a request; its pid, or -1. */
static pid_t start(const struct spawn *s, char *strings, const int fds[3]) {
    char **words = calloc(s->argc + s->envc + 2, sizeof *words);
    if (!words)
        return -1;
    char *cwd = strings, *at = cwd + strlen(cwd) + 1, **argv = words, **env = words + s->argc + 1;
    for (uint32_t i = 0; i < s->argc; i++, at += strlen(at) + 1)
        argv[i] = at;
    for (uint32_t i = 0; i < s->envc; i++, at += strlen(at) + 1)
        env[i] = at;
    pid_t pid = fork();
    if (pid == 0)
        become(s, cwd, argv, env, fds);
    free(words);
    return pid;
}

static void refuse(uint32_t id, int error) {
    char packet[sizeof(struct done) + 128];
    struct done done = {.type = DONE, .id = id, .how = EXITED, .code = 126};
    done.err_bytes = sprintf(packet + sizeof done, "cannot start a command: %s\n", strerror(error));
    memcpy(packet, &done, sizeof done);
    send_packet(control, packet, sizeof done + done.err_bytes, NULL, 0);
}

static struct command *free_command(void) {
    for (int i = 0; i < COMMANDS_MAX; i++)
        if (!commands[i].used)
            return &commands[i];
    return NULL;
}

static void watch(struct capture *c, int *fd, uint32_t bytes) {
    c->fd = *fd, *fd = -1;
    c->head_limit = (bytes + 1) / 2, c->tail_limit = bytes - c->head_limit;
    if (c->fd >= 0)
        fcntl(c->fd, F_SETFL, O_NONBLOCK);
}

/* Start what the packet in `buffer` asks for. */
static void spawn(const struct spawn *s, size_t length, const int given[3]) {
    struct command *c = free_command();
    char *strings = buffer + sizeof *s;
    int out[2] = {-1, -1}, err[2] = {-1, -1}, ours = s->fds < 3;
    if (!c || confine() || (ours && (pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC)))) {
        refuse(s->id, errno ? errno : EAGAIN);
        goto end;
    }
    int fds[3] = {given[0] < 0 ? nothing : given[0], ours ? out[1] : given[1], ours ? err[1] : given[2]};
    memset(c, 0, sizeof *c);
    c->began = now_us(), c->since = this_moment();
    c->pid = warm_start(s, buffer, length, fds, c->line, c->began);
    c->handed = c->pid ? c->began : 0, c->script = ours;
    if (!c->pid && (c->pid = start(s, strings, fds)) < 0) {
        refuse(s->id, errno);
        goto end;
    }
    c->used = 1, c->id = s->id, c->deadline = c->began + (uint64_t)s->timeout_ms * 1000;
    watch(&c->stream[0], &out[0], s->output_bytes ? s->output_bytes : output_limit);
    watch(&c->stream[1], &err[0], s->output_bytes ? s->output_bytes : output_limit);
end:
    for (int i = 0; i < 2; i++) {
        if (out[i] >= 0)
            close(out[i]);
        if (err[i] >= 0)
            close(err[i]);
    }
}

/* Whether a command's process runs it: if the shell that was to take it has not, it is taken back and started afresh. */
static int taken(struct command *c) {
    int fds[3];
    struct spawn s;
    ssize_t n = warm_recall(c->line, buffer, PACKET_MAX, fds);
    c->handed = 0;
    close(c->line[0]), close(c->line[1]);
    if (n <= (ssize_t)sizeof s)
        return 1;
    memcpy(&s, buffer, sizeof s);
    kill(c->pid, SIGKILL);
    warm_drop();
    if (!c->killed && (c->pid = start(&s, buffer + sizeof s, fds)) < 0) {
        const char *text = "cannot start a command: no process\n";
        keep(&c->stream[1], text, strlen(text));
        c->pid = 0, c->exited = 1, c->code = 126, c->ended = now_us();
    }
    for (int i = 0; i < 3; i++)
        close(fds[i]);
    return c->killed;
}

static void ended(struct command *c, int status, const struct rusage *used) {
    c->exited = 1, c->ended = now_us(), c->cpu_us = cpu_us(used), c->peak_kib = used->ru_maxrss;
    c->how = c->how == TIMED_OUT ? TIMED_OUT : WIFSIGNALED(status) ? SIGNALLED : EXITED;
    c->code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && !c->killed) /* by the memory limit: it ends the rest too */
        kill_command(c);
    drain(&c->stream[0]), drain(&c->stream[1]);
}

static void reap(void) {
    int status;
    struct rusage used;
    for (pid_t pid; (pid = wait4(-1, &status, WNOHANG, &used)) > 0;) {
        warm_lost(pid);
        for (int i = 0; i < COMMANDS_MAX; i++) {
            struct command *c = &commands[i];
            if (c->used == 1 && !c->exited && c->pid == pid && (!c->handed || WIFEXITED(status) || taken(c)))
                ended(c, status, &used);
        }
    }
}

/* End daemons and whatever else is left of earlier commands, unless a command runs. */
static void quieten(uint32_t id) {
    struct quieted answer = {QUIETED, id, running()};
    struct pollfd died = {signals, POLLIN, 0};
    struct signalfd_siginfo info;
    pid_t pid = -1;
    if (!answer.busy) {
        warm_drop();
        if (writable.ruleset >= 0) /* there may be another root soon, perhaps of the same number */
            close(writable.ruleset), writable.ruleset = -1;
    }
    for (int rounds = 0; !answer.busy && rounds < 2000; rounds++) {
        while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
            ;
        if (pid < 0) /* no child is no process at all: what loses its parent is ours */
            break;
        if (rounds == 0) /* the kernel goes through every process of the machine for it */
            kill(-1, SIGKILL);
        poll(&died, 1, 1);
        if (read(signals, &info, sizeof info) < 0 && errno != EAGAIN)
            break;
    }
    answer.busy += pid == 0 && !answer.busy; /* something does not die */
    send_packet(control, &answer, sizeof answer, NULL, 0);
}

/* ---- the loop --------------------------------------------------------------------------------------------------- */

static void listen_to_host(void) {
    for (;;) {
        int fds[3];
        ssize_t n = receive_packet(control, buffer, PACKET_MAX, fds, 3);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0)
            _exit(0); /* the host is gone */
        buffer[n] = 0;
        uint32_t type = 0;
        memcpy(&type, buffer, sizeof type);
        if (type == SPAWN && (size_t)n > sizeof(struct spawn)) {
            struct spawn s;
            memcpy(&s, buffer, sizeof s);
            errno = 0;
            spawn(&s, n, fds);
        } else if (type == KILL && (size_t)n == sizeof(struct kill)) {
            struct kill k;
            memcpy(&k, buffer, sizeof k);
            for (int i = 0; i < COMMANDS_MAX; i++)
                if (commands[i].used == 1 && commands[i].id == k.id)
                    kill_command(&commands[i]);
        } else if (type == SIGNAL && (size_t)n == sizeof(struct signal)) {
            struct signal g;
            memcpy(&g, buffer, sizeof g);
            for (int i = 0; i < COMMANDS_MAX; i++)
                if (commands[i].used == 1 && !commands[i].exited && commands[i].id == g.id)
                    kill(-commands[i].pid, (int)g.number);
        } else if (type == JOIN && (fds[0] < 0 || write(fds[0], "0", 1) != 1)) {
            _exit(1); /* nothing may run here without its limits */
        } else if (type == COUNT && (size_t)n == sizeof(struct quiet)) {
            struct quieted answer = {QUIETED, 0, running()};
            memcpy(&answer.id, buffer + sizeof type, sizeof answer.id);
            send_packet(control, &answer, sizeof answer, NULL, 0);
        } else if (type == QUIET && (size_t)n == sizeof(struct quiet)) {
            struct quiet q;
            memcpy(&q, buffer, sizeof q);
            quieten(q.id);
        }
        for (int i = 0; i < 3; i++)
            if (fds[i] >= 0)
                close(fds[i]);
    }
}

static uint64_t next_deadline(uint64_t until) {
    for (int i = 0; i < COMMANDS_MAX; i++) {
        const struct command *c = &commands[i];
        uint64_t at = c->used != 1 ? FOREVER : c->exited ? c->ended + GRACE_US : c->killed ? FOREVER : c->deadline;
        if (c->used == 1 && c->handed && c->handed + PATIENCE_US < at)
            at = c->handed + PATIENCE_US;
        until = at < until ? at : until;
    }
    return until;
}

static void settle(uint64_t now) {
    for (int i = 0; i < COMMANDS_MAX; i++) {
        struct command *c = &commands[i];
        if (c->used != 1)
            continue;
        if (!c->exited && c->handed && now >= c->handed + PATIENCE_US)
            taken(c);
        if (!c->exited && !c->killed && now >= c->deadline) {
            c->how = TIMED_OUT;
            kill_command(c);
        }
        int silent = c->stream[0].fd < 0 && c->stream[1].fd < 0;
        if (c->exited && (silent || now >= c->ended + GRACE_US))
            finish(c);
    }
}

void run_agent(int socket, uint32_t output_bytes, uint32_t ttl_ms, const char *directories, uint32_t count) {
    static struct pollfd polls[3 + 2 * COMMANDS_MAX + ORPHANS_MAX];
    static struct capture *owners[3 + 2 * COMMANDS_MAX + ORPHANS_MAX];
    uint64_t end = now_us() + (uint64_t)ttl_ms * 1000;
    sigset_t child;
    control = socket, output_limit = output_bytes;
    writable.directories = directories, writable.count = count;
    sigemptyset(&child), sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_SETMASK, &child, NULL);
    signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
    fcntl(control, F_SETFL, O_NONBLOCK);
    nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
    for (;;) {
        int n = 3, sending = 0;
        for (int i = 0; i < COMMANDS_MAX; i++) {
            sending |= commands[i].used == 2;
            for (int s = 0; s < 2 && commands[i].used == 1; s++)
                if (commands[i].stream[s].fd >= 0)
                    owners[n] = &commands[i].stream[s], polls[n++] = (struct pollfd){commands[i].stream[s].fd, POLLIN, 0};
        }
        int first_orphan = n;
        for (int i = 0; i < orphan_count; i++)
            polls[n++] = (struct pollfd){orphans[i], POLLIN, 0};
        polls[0] = (struct pollfd){control, POLLIN | (sending ? POLLOUT : 0), 0};
        polls[1] = (struct pollfd){signals, POLLIN, 0};
        uint64_t now = now_us(), let_go = warm_until(now), until = next_deadline(let_go < end ? let_go : end);
        polls[2] = (struct pollfd){warm_answers(), POLLIN, 0};
        struct timespec wait = {0};
        if (until > now)
            wait.tv_sec = (until - now) / 1000000, wait.tv_nsec = (until - now) % 1000000 * 1000;
        ppoll(polls, n, &wait, NULL);
        if (now_us() >= end)
            _exit(0); /* its time to live is over */
        for (int i = 3; i < first_orphan; i++)
            if (polls[i].revents)
                drain(owners[i]);
        for (int i = n - 1; i >= first_orphan; i--)
            if (polls[i].revents) {
                ssize_t got = read(polls[i].fd, buffer, 1 << 16);
                if (got == 0 || (got < 0 && errno != EAGAIN)) {
                    close(polls[i].fd);
                    orphans[i - first_orphan] = orphans[--orphan_count];
                }
            }
        if (polls[1].revents) {
            struct signalfd_siginfo info;
            while (read(signals, &info, sizeof info) > 0)
                ;
            reap();
        }
        if (polls[2].revents && polls[2].fd == warm_answers())
            warm_hear();
        if (polls[0].revents & POLLOUT)
            for (int i = 0; i < COMMANDS_MAX; i++)
                if (commands[i].used == 2 && !deliver(&commands[i]))
                    break;
        if (polls[0].revents & (POLLIN | POLLHUP | POLLERR))
            listen_to_host();
        settle(now_us());
    }
}
