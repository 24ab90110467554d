/* What the host, the fork server and the agent say to one another. All sockets are SOCK_SEQPACKET: a packet is a frame
 * and the kernel keeps its length. Integers are in the machine's own order; both ends are on one machine. */
#ifndef PALMETTE_WIRE_H
#define PALMETTE_WIRE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum to_host { SERVER_READY = 1, STARTED, READY, FAILED, OUTPUT, DONE, QUIETED };
enum to_agent { SPAWN = 1, KILL, QUIET, SIGNAL, COUNT, JOIN };
enum to_server { START = 1, ROTATE, DROP, SOCKET };
enum how { EXITED, SIGNALLED, TIMED_OUT };
enum profile { ROOT, ROOT_INSIDE, ROOTLESS }; /* see profile.py */

#define PACKET_MAX (160 * 1024) /* of one frame to the agent */
#define CHUNK (48 * 1024)       /* of output in one frame to the host */
#define REQUEST_MAX (64 * 1024) /* of one frame to the fork server */
#define OUR_PIDS 3              /* in a sandbox, beside those its limit leaves: pid 1 and two of a waiting shell */

/* To the fork server, with the sandbox's end of the control socket. Strings follow, each ended by NUL: the name, then
 * `links` pairs (target, path), then `binds` keys (path and inode; with "\n/" at its end the first is a whole root file
 * system, the lower layer of an overlay), then `directories`, writable, the first of them the work directory, then
 * `lowers` names of layers, topmost first. `layer` numbers the new writable layer where the root is an overlay. */
struct request {
    uint32_t type, uid, memory_mb, pids, disk_mb, inodes, output_bytes, ttl_ms, gateway, links, binds, directories;
    uint32_t layer, lowers, cpu_percent; /* of one core, 0: as many as there are */
};

/* To the fork server, with a socket for the answer (READY and the new root, or FAILED) and a pidfd of the sandbox or its
 * mount namespace: a new writable layer over what the sandbox has. Strings follow: `lowers` names of layers, topmost
 * first, the key of the image if `image`, then `points`, where its other mounts are. With `kept` the sandbox's root as
 * it is becomes the layer of that number and the only lower one: by copying if `flat`. */
struct rotate {
    uint32_t type, layer, kept, flat, disk_mb, inodes, lowers, image, points;
};

/* To the fork server: let go of the layer whose name follows. */
struct drop {
    uint32_t type;
};

/* To the fork server, with a socket for the answer (READY and a TCP socket, or FAILED): make a socket in the network of
 * the sandbox whose name follows. */
struct newborn {
    uint32_t type, family;
};

/* To the agent, with `fds` descriptors: 0, 1 (stdin) or 3 (all streams, whose other ends the host has; with `terminal`
 * they are a terminal). Limits of 0 are none, but for output_bytes, where it is that of the sandbox. Strings follow: cwd,
 * argv..., env... */
struct spawn {
    uint32_t type, id, timeout_ms, argc, envc, fds, terminal, memory_mb, cpu_s, file_mb, output_bytes;
};

struct kill {
    uint32_t type, id;
};

/* With the file of a cgroup to write 0 to: a limit for all that is started from now on. */
struct join {
    uint32_t type;
};

/* For the process group of a command. */
struct signal {
    uint32_t type, id, number;
};

/* End whatever runs besides you; with the type COUNT only say how many commands run. */
struct quiet {
    uint32_t type, id;
};

/* To the host: FAILED is followed by the text of the stage that failed. */
struct failed {
    uint32_t type;
    int32_t error;
};

struct started {
    uint32_t type;
    int32_t pid;
};

struct output {
    uint32_t type, id;
};

/* Nothing runs, or `busy` commands do. */
struct quieted {
    uint32_t type, id, busy;
};

/* The end of a command. What is left of stdout + stderr (their lengths are given, with all earlier OUTPUT) follows.
 * `cpu_us` and `peak_kib` are of the command and the children it waited for, `all_cpu_us` of the sandbox so far. */
struct done {
    uint32_t type, id, how;
    int32_t code;
    uint32_t truncated, out_bytes, err_bytes, peak_kib;
    uint64_t wall_us, cpu_us, all_cpu_us;
};

/* packet.c */
int send_packet(int socket, const void *data, size_t length, const int *fds, int count);
ssize_t receive_packet(int socket, void *data, size_t room, int *fds, int count);
void send_failure(int socket, const char *stage, int error);
/* filter.c */
int install_filter(void);
int print_filter(int fd);
/* box.c: becomes pid 1 of a new sandbox; never returns */
struct box {
    struct request request;
    const char *strings;
    const char *lowers;
    int control, cgroup, profile, user_namespace;
};
int raise_loopback(void);
void enter_box(const struct box *box) __attribute__((noreturn));
/* forkserver.c */
int bind_index(const char *key);
int open_own_mounts(void);
/* networks.c */
void open_networks(int host_proc, int ports);
int enter_network(void);
void leave_network(int net);
int stock_networks(void);
void take_network(void);
void stop_networks(void);
/* layers.c */
int open_attic(int own_mounts, int rootless);
int stack_layers(uint32_t layer, uint32_t disk_mb, uint32_t inodes, const char *image, const char *lowers,
                 uint32_t count);
void drop_layer(const char *name);
void enter_rotation(const struct rotate *r, const char *strings, int answer, int target) __attribute__((noreturn));
/* flatten.c */
int copy_tree(int from, const char *to);
/* agent.c: commands may write below the `count` directories only, if there are any */
void run_agent(int control, uint32_t output_bytes, uint32_t ttl_ms, const char *directories, uint32_t count)
    __attribute__((noreturn));
void confine_process(void);
void settle_process(void);
/* landlock.c */
int landlock_confines_writes(void);
int writable_ruleset(const char *directories, uint32_t count);
int restrict_to(int ruleset);
/* warm.c; preload/sh.c finds its descriptors at these numbers */
enum { SHELL_LIBRARY = 3, SHELL_ORDERS };
pid_t warm_start(const struct spawn *s, const char *packet, size_t length, const int fds[3], int its_line[2],
                 uint64_t now_us);
ssize_t warm_recall(const int its_line[2], char *packet, size_t room, int fds[3]);
void warm_expect(uint64_t now_us, int tasks);
uint64_t warm_until(uint64_t now_us);
int warm_answers(void);
void warm_hear(void);
void warm_lost(pid_t pid);
void warm_drop(void);
/* processes.c */
struct moment { /* by the clock of /proc/PID/stat, which is coarse, and the pids given away so far */
    unsigned long long ticks;
    pid_t last_pid;
    int tasks; /* of the machine */
};
struct moment this_moment(void);
int kill_family(pid_t leader, const struct moment *since, int orphans_too);

#endif
