/* Starts sandboxes on request: one process per host, single-threaded, with a mount namespace of its own that holds
 * almost nothing, so that a child copies a handful of mounts and not the machine's table.
 *
 *     forkserver SOCKET PROFILE FIRST_UID FILTER CGROUP_VERSION [CGROUP MEMORY_DIRECTORY [PIDS_DIRECTORY [FREEZER [CPU]]]]
 *
 * FIRST_UID is the first of those that sandboxes may have outside; 0 (rootless only) is none but the caller's own.
 *
 * or, to write the program of its seccomp filter to standard output, `forkserver filter`.
 *
 * Each request comes with the sandbox's end of its control socket, and everything about that sandbox is answered there.
 * When the owner dies or lets go of SOCKET, all sandboxes are killed and their cgroups removed. */
#define _GNU_SOURCE
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/mount.h>
#include <linux/securebits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define BINDS_MAX 64
#define CONTROLLERS 4
#define PROCESSES_WORTH "16384" /* that all sandboxes together weigh against other programs: 16 of 1,024 (v1) */
#define UIDS 8192 /* from FIRST_UID on */
#define DROPS_MAX 64
#define LIVING 1024 /* lists of them, by pid */
#define KILLS_PER_S 500 /* a throttle: a mass of exits at once is what kernels take worst */

enum shift { NEVER, MAY, MUST }; /* ids of a mount, in the profile that does so */

struct child {
    struct child *next;
    pid_t pid;
    int net;
    char name[128];
};

static struct child *living[LIVING], *dying; /* the latter: reaped, only their cgroups are left */
static struct {
    char *key;
    int at;
    unsigned used; /* by which request last */
} binds[BINDS_MAX];
static char drops[DROPS_MAX][24]; /* layers to let go of when there is time */
static int drop_count;
static int bind_count, bind_serial;
static unsigned requests;
static const char *trouble; /* what failed in showing something, if it was not the thing itself */
static int server, host_mounts, own_mounts, host_root, host_proc, cgroup, user_namespace = -1;
static enum profile profile;
static unsigned first_uid;
static const char *cgroup_name, *cgroup_paths[CONTROLLERS]; /* a cgroup of ours below each: v2, or v1 in this order */

static void __attribute__((noreturn)) die(const char *stage) {
    send_failure(server, stage, errno);
    exit(1);
}

/* ---- mounts of the host ----------------------------------------------------------------------------------------- */

int open_own_mounts(void) { return openat(host_proc, "self/ns/mnt", O_RDONLY | O_CLOEXEC); }

static int enter_mounts(int ns) { return syscall(SYS_setns, ns, CLONE_NEWNS); }

/* Dress a mount that is attached nowhere yet; `shift`: root's files become those of root inside. */
static int dress(int tree, int readonly, enum shift shift) {
    struct mount_attr attributes = {.attr_set = MOUNT_ATTR_NOSUID | (readonly ? MOUNT_ATTR_RDONLY : 0)};
    unsigned flags = AT_EMPTY_PATH | AT_RECURSIVE;
    if (shift && profile == ROOT_INSIDE) {
        struct mount_attr shifted = attributes;
        shifted.attr_set |= MOUNT_ATTR_IDMAP, shifted.userns_fd = user_namespace;
        if (syscall(SYS_mount_setattr, tree, "", flags, &shifted, sizeof shifted) == 0)
            return 0;
        if (shift == MUST)
            trouble = "making an idmapped mount";
        if (shift == MUST || errno != EINVAL)
            return -1;
    }
    return syscall(SYS_mount_setattr, tree, "", flags, &attributes, sizeof attributes);
}

/* Show the host's `path` at `at`, a new file or directory of ours. */
static int show(const char *path, const char *at, int readonly, enum shift shift) {
    struct stat info;
    int flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE, error;
    if (enter_mounts(host_mounts))
        return -1;
    int tree = syscall(SYS_open_tree, host_root, path[1] ? path + 1 : ".", flags);
    error = errno;
    if (enter_mounts(own_mounts))
        die("returning to the server's mounts");
    errno = error;
    if (tree < 0 || fstat(tree, &info))
        return -1;
    int made = S_ISDIR(info.st_mode) ? mkdir(at, 0755) : mknod(at, S_IFREG | 0644, 0);
    if (made || dress(tree, readonly, shift) ||
        syscall(SYS_move_mount, tree, "", AT_FDCWD, at, MOVE_MOUNT_F_EMPTY_PATH)) {
        error = errno;
        close(tree);
        errno = error;
        return -1;
    }
    close(tree);
    return 0;
}

static int find_bind(const char *key) {
    for (int i = 0; i < bind_count; i++)
        if (strcmp(binds[i].key, key) == 0)
            return i;
    return -1;
}

/* N of /m/N where the host's directory is shown; a key is "path\ndevice:inode", so a replaced one is seen anew. */
int bind_index(const char *key) {
    int slot = find_bind(key);
    return slot < 0 ? -1 : binds[slot].at;
}

static int add_bind(const char *key) {
    char path[4200], at[32];
    snprintf(path, sizeof path, "%.*s", (int)strcspn(key, "\n"), key);
    snprintf(at, sizeof at, "/m/%d", ++bind_serial);
    if (show(path, at, 1, key[strlen(key) - 1] == '/' ? MUST : MAY)) /* what is only read may as well be nobody's */
        return -1;
    int slot = 0;
    if (bind_count < BINDS_MAX) {
        slot = bind_count++;
    } else { /* the one that was not needed for longest; living sandboxes have copies of their own */
        for (int i = 1; i < BINDS_MAX; i++)
            if (binds[i].used < binds[slot].used)
                slot = i;
        snprintf(at, sizeof at, "/m/%d", binds[slot].at);
        umount2(at, MNT_DETACH);
        free(binds[slot].key);
    }
    binds[slot].key = strdup(key), binds[slot].at = bind_serial, binds[slot].used = requests;
    return 0;
}

/* Show all that a request needs; what is there already is marked first, lest it make room for the others. */
static const char *add_binds(const char *keys, uint32_t count) {
    const char *at = keys;
    requests++, trouble = NULL;
    for (uint32_t i = 0; i < count; i++, at += strlen(at) + 1) {
        int slot = find_bind(at);
        if (slot >= 0)
            binds[slot].used = requests;
    }
    at = keys;
    for (uint32_t i = 0; i < count; i++, at += strlen(at) + 1)
        if (find_bind(at) < 0 && add_bind(at))
            return trouble ? trouble : at;
    return NULL;
}

/* ---- set-up ----------------------------------------------------------------------------------------------------- */

static void write_file(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        die(path);
    close(fd);
}

static void enter_user_namespace(void) {
    char map[64];
    if (first_uid && (setgroups(0, NULL) || setresgid(first_uid, first_uid, first_uid) ||
                      setresuid(first_uid, first_uid, first_uid) || prctl(PR_SET_DUMPABLE, 1)))
        die("giving up root");
    unsigned uid = geteuid(), gid = getegid();
    if (unshare(CLONE_NEWUSER))
        die("making a user namespace (are unprivileged ones allowed here?)");
    write_file("/proc/self/setgroups", "deny");
    snprintf(map, sizeof map, "1000 %u 1", uid);
    write_file("/proc/self/uid_map", map);
    snprintf(map, sizeof map, "1000 %u 1", gid);
    write_file("/proc/self/gid_map", map);
}

/* For root inside: a user namespace that sandboxes enter last, when all their mounts are made and belong to the
 * machine's own root, so that they have no rights over any. What this server makes from now on belongs to its root. */
static void make_user_namespace(void) {
    char path[64], map[96];
    int fd = -1, gate[2];
    if (pipe2(gate, O_CLOEXEC))
        die("making a user namespace");
    pid_t child = fork();
    if (child == 0) {
        if (unshare(CLONE_NEWUSER) || write(gate[1], "", 1) != 1)
            _exit(1);
        pause();
    }
    close(gate[1]);
    if (child < 0 || read(gate[0], map, 1) != 1)
        die("making a user namespace (is user.max_user_namespaces 0?)");
    snprintf(map, sizeof map, "0 %u %u\n65534 %u 1\n", first_uid, UIDS - 1, first_uid + UIDS - 1);
    snprintf(path, sizeof path, "/proc/%d/uid_map", child), write_file(path, map);
    snprintf(path, sizeof path, "/proc/%d/gid_map", child), write_file(path, map);
    snprintf(path, sizeof path, "/proc/%d/ns/user", child), fd = open(path, O_RDONLY | O_CLOEXEC);
    user_namespace = fcntl(fd, F_DUPFD_CLOEXEC, 64); /* well above those that sandboxes number anew */
    kill(child, SIGKILL), waitpid(child, NULL, 0);
    close(fd), close(gate[0]);
    if (user_namespace < 0 || prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP))
        die("making a user namespace");
    setfsgid(first_uid), setfsuid(first_uid);
}

static void bind_devices(void) {
    static const char *names[] = {"null", "zero", "full", "random", "urandom", "tty"};
    mkdir("/d", 0755);
    if (profile != ROOTLESS && mknod("/d/probe", S_IFCHR | 0666, makedev(1, 3)) == 0) {
        int fd = open("/d/probe", O_RDWR | O_CLOEXEC);
        unlink("/d/probe");
        if (fd >= 0) {
            close(fd);
            return;
        }
    }
    for (int i = 0; i < 6; i++) {
        char from[32], at[32];
        snprintf(from, sizeof from, "/dev/%s", names[i]);
        snprintf(at, sizeof at, "/d/%s", names[i]);
        if (show(from, at, 0, NEVER))
            die(from);
    }
}

static void enter_own_mounts(void) {
    if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
        die("making a mount namespace (is CAP_SYS_ADMIN missing?)");
    host_proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
    host_mounts = open_own_mounts();
    host_root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (unshare(CLONE_NEWNS))
        die("making a mount namespace");
    own_mounts = open_own_mounts();
    if (host_mounts < 0 || host_root < 0 || own_mounts < 0)
        die("opening /proc/self/ns/mnt");
    if (mount("palmette", "/tmp", "tmpfs", MS_NOSUID, "size=4m,mode=755")) /* our own view of /tmp; soon our root */
        die("mounting tmpfs");
    if (chdir("/tmp") || mkdir("proc", 0755) || mkdir("b", 0755) || mkdir("m", 0755) || mkdir("cg", 0755))
        die("making the server's root");
    if (profile == ROOTLESS && mount("/proc", "proc", NULL, MS_BIND | MS_REC, NULL)) /* a new proc needs an old one in sight */
        die("binding /proc");
    if (syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH) || chdir("/"))
        die("changing the server's root");
    bind_devices();
    if (open_attic(own_mounts, profile == ROOTLESS))
        die("making a place for layers");
}

/* With v1, be in our own cgroups (or beside them again): there begins what sandboxes see of theirs, which some of them
 * join only later. */
static void stand_in_cgroups(int inside) {
    char at[300];
    for (int i = 0; cgroup == 1 && i < CONTROLLERS && cgroup_paths[i]; i++) {
        snprintf(at, sizeof at, "/cg/%d/%s/cgroup.procs", i, inside ? cgroup_name : ".");
        int fd = open(at, O_WRONLY | O_CLOEXEC);
        if ((fd < 0 || write(fd, "0", 1) < 0) && inside)
            die("joining a cgroup");
        close(fd);
    }
}

static void make_cgroups(void) {
    char at[300];
    for (int i = 0; i < CONTROLLERS && cgroup_paths[i]; i++) {
        snprintf(at, sizeof at, "/cg/%d", i);
        if (show(cgroup_paths[i], at, 0, NEVER))
            die(cgroup_paths[i]);
        snprintf(at, sizeof at, "/cg/%d/%s", i, cgroup_name);
        if (mkdir(at, 0755))
            die("making a cgroup");
    }
    snprintf(at, sizeof at, "/cg/0/%s/cgroup.subtree_control", cgroup_name);
    if (cgroup == 2)
        write_file(at, "+memory +pids");
    int fd = cgroup == 2 ? open(at, O_WRONLY | O_CLOEXEC) : -1;
    if (fd >= 0 && write(fd, "+cpu", 4) < 0)
        errno = 0; /* not everywhere: a sandbox that needs it is refused by the host */
    close(fd);
    snprintf(at, sizeof at, "/cg/3/%s/cpu.shares", cgroup_name);
    if (cgroup_paths[3])
        write_file(at, PROCESSES_WORTH);
    stand_in_cgroups(1);
}

static int remove_cgroup(int i, const char *name) {
    char at[300];
    snprintf(at, sizeof at, "/cg/%d/%s", i, name);
    return rmdir(at) == 0 || errno != EBUSY;
}

/* ---- sandboxes -------------------------------------------------------------------------------------------------- */

static int parse(struct box *box, char *packet, size_t length) {
    if (length <= sizeof box->request || packet[length - 1])
        return -1;
    memcpy(&box->request, packet, sizeof box->request);
    box->strings = packet + sizeof box->request;
    const char *at = box->strings, *end = packet + length;
    const struct request *r = &box->request;
    size_t wanted = 1 + 2 * (size_t)r->links + r->binds + r->directories, found = 0;
    for (; at < end; at += strlen(at) + 1, found++)
        if (found == wanted)
            box->lowers = at;
    wanted += r->lowers;
    return wanted == found && r->directories > 0 && r->binds <= BINDS_MAX ? 0 : -1;
}

static void start(char *packet, size_t length, int control) {
    struct box box = {.control = control, .cgroup = cgroup, .profile = profile, .user_namespace = user_namespace};
    errno = EINVAL;
    if (parse(&box, packet, length)) {
        send_failure(control, "a malformed request", errno);
        return;
    }
    const char *at = box.strings;
    for (uint32_t i = 0; i < 1 + 2 * box.request.links; i++)
        at += strlen(at) + 1;
    const char *missing = add_binds(at, box.request.binds);
    if (missing) {
        send_failure(control, missing, errno);
        return;
    }
    struct child *child = calloc(1, sizeof *child);
    int net = enter_network();
    if (net < 0) {
        send_failure(control, "making a network namespace", errno);
        free(child);
        return;
    }
    /* legacy clone: clone3 is filtered; its own mounts come later, after a look into the attic */
    pid_t pid = child ? syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0) : -1;
    if (pid == 0)
        enter_box(&box);
    if (pid < 0) {
        send_failure(control, "forking", errno);
        leave_network(net);
        free(child);
        return;
    }
    child->pid = pid, child->net = net, child->next = living[pid % LIVING], living[pid % LIVING] = child;
    snprintf(child->name, sizeof child->name, "%s", box.strings);
    struct started answer = {STARTED, pid};
    send_packet(control, &answer, sizeof answer, NULL, 0);
}

static void start_rotation(const char *packet, size_t length, int answer, int target) {
    struct rotate r;
    memcpy(&r, packet, sizeof r);
    const char *strings = packet + sizeof r, *key = strings, *end = packet + length;
    size_t wanted = (size_t)r.lowers + (r.image != 0) + r.points, found = 0;
    for (const char *at = strings; at < end; at += strlen(at) + 1, found++)
        key = found == r.lowers ? at : key;
    errno = EINVAL;
    if (packet[length - 1] || found != wanted) {
        send_failure(answer, "a malformed request", errno);
    } else if (r.image && add_binds(key, 1)) {
        send_failure(answer, trouble ? trouble : key, errno);
    } else {
        pid_t pid = fork();
        if (pid == 0)
            enter_rotation(&r, strings, answer, target);
        if (pid < 0)
            send_failure(answer, "forking", errno);
    }
}

/* A socket that was born in a sandbox's network, for its host to connect or to listen with. */
static void give_socket(const char *packet, size_t length, int answer) {
    struct newborn asked;
    memcpy(&asked, packet, sizeof asked);
    const char *name = packet + sizeof asked;
    const struct child *c = NULL;
    for (int i = 0; i < LIVING && !c && !packet[length - 1]; i++)
        for (c = living[i]; c && strcmp(c->name, name);)
            c = c->next;
    errno = ESRCH;
    int made = c && syscall(SYS_setns, c->net, CLONE_NEWNET) == 0
                   ? socket((int)asked.family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
                   : -1;
    uint32_t ready = READY;
    if (made < 0) {
        send_failure(answer, "making a socket in the sandbox's network", errno);
        return;
    }
    send_packet(answer, &ready, sizeof ready, &made, 1);
    close(made);
}

/* Taking mounts down waits for the whole kernel: that is for a child to do. */
static void flush_drops(void) {
    if (drop_count && fork() == 0) {
        for (int i = 0; i < drop_count; i++)
            drop_layer(drops[i]);
        _exit(0);
    }
    drop_count = 0;
}

/* Remove a dead sandbox's cgroups; false while the kernel still counts a task in them. */
static int forget(const struct child *c) {
    int gone = 1;
    for (int i = 0; i < CONTROLLERS && cgroup_paths[i]; i++)
        gone &= remove_cgroup(i, c->name);
    return gone;
}

/* Reap what died and remove what it left; true while something waits to be removed. */
static int sweep(void) {
    for (pid_t pid; (pid = waitpid(-1, NULL, WNOHANG)) > 0;)
        for (struct child **link = &living[pid % LIVING], *c; (c = *link); link = &c->next)
            if (c->pid == pid) {
                leave_network(c->net);
                *link = c->next, c->next = dying, dying = c;
                break;
            }
    for (struct child **link = &dying, *c; (c = *link);) {
        if (forget(c)) {
            *link = c->next;
            free(c);
        } else {
            link = &c->next;
        }
    }
    return dying != NULL;
}

/* A frozen process does not die before it is thawed (v1). */
static void thaw(const struct child *c) {
    char at[400];
    snprintf(at, sizeof at, "/cg/2/%s/freezer.state", c->name);
    int fd = cgroup_paths[2] ? open(at, O_WRONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    if (write(fd, "THAWED", 6) < 0)
        usleep(1000);
    close(fd);
}

static void __attribute__((noreturn)) end(void) {
    int left = dying != NULL;
    stop_networks();
    for (int i = 0; i < LIVING; i++)
        for (struct child *c = living[i]; c; c = c->next, left++)
            if (kill(c->pid, SIGKILL) == 0) {
                thaw(c);
                usleep(1000000 / KILLS_PER_S);
            }
    for (int tries = 0; left && tries < 1000 + left; tries++) {
        left = sweep();
        for (int i = 0; i < LIVING; i++)
            left += living[i] != NULL;
        usleep(5000);
    }
    stand_in_cgroups(0);
    for (int i = 0; i < CONTROLLERS && cgroup_paths[i]; i++)
        for (int tries = 0; !remove_cgroup(i, cgroup_name) && tries < 200; tries++)
            usleep(5000);
    _exit(0);
}

static void serve(int owner) {
    static char packet[REQUEST_MAX];
    sigset_t child;
    sigemptyset(&child), sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_SETMASK, &child, NULL);
    int signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
    uint32_t ready = SERVER_READY;
    send_packet(server, &ready, sizeof ready, NULL, 0);
    for (int waiting = 0;;) {
        struct pollfd polls[4] = {{server, POLLIN, 0}, {signals, POLLIN, 0}, {owner, POLLIN, 0}, {-1, POLLIN, 0}};
        polls[3].fd = stock_networks();
        int found = poll(polls, 4, waiting ? 5 : drop_count ? 20 : -1);
        if (found < 0 && errno != EINTR)
            end();
        if (found == 0)
            flush_drops();
        if (polls[2].revents)
            end();
        if (polls[3].revents)
            take_network();
        if (polls[1].revents) {
            struct signalfd_siginfo info;
            while (read(signals, &info, sizeof info) > 0)
                ;
        }
        if (polls[1].revents || waiting)
            waiting = sweep();
        if (polls[0].revents) {
            int fds[2];
            uint32_t type = 0;
            ssize_t length = receive_packet(server, packet, sizeof packet, fds, 2);
            if (length <= 0)
                end();
            memcpy(&type, packet, (size_t)length < sizeof type ? (size_t)length : sizeof type);
            if (type == START && fds[0] >= 0)
                start(packet, length, fds[0]);
            else if (type == ROTATE && fds[1] >= 0 && (size_t)length > sizeof(struct rotate))
                start_rotation(packet, length, fds[0], fds[1]);
            else if (type == SOCKET && fds[0] >= 0 && (size_t)length > sizeof(struct newborn))
                give_socket(packet, length, fds[0]);
            else if (type == DROP && packet[length - 1] == 0)
                snprintf(drops[drop_count++], sizeof *drops, "%.23s", packet + sizeof(struct drop));
            if (drop_count == DROPS_MAX)
                flush_drops();
            for (int i = 0; i < 2; i++)
                if (fds[i] >= 0)
                    close(fds[i]);
        }
    }
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "filter") == 0)
        return print_filter(1) ? 1 : 0;
    if (argc < 6)
        return 2;
    server = atoi(argv[1]), profile = atoi(argv[2]), first_uid = atoi(argv[3]), cgroup = atoi(argv[5]);
    int filtered = atoi(argv[4]);
    cgroup_name = strdup(argc > 6 ? argv[6] : "");
    for (int i = 0; i < CONTROLLERS && argc > 7 + i; i++)
        cgroup_paths[i] = strdup(argv[7 + i]);
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0)
        files.rlim_cur = files.rlim_max, setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGINT, SIG_IGN); /* the owner decides; a Ctrl-C in the terminal reaches us too */
    setsid();
    int owner = syscall(SYS_pidfd_open, getppid(), 0);
    if (owner < 0)
        die("pidfd_open (Linux 5.3 or newer is needed)");
    if (profile == ROOTLESS)
        enter_user_namespace();
    if (profile == ROOT_INSIDE)
        make_user_namespace();
    enter_own_mounts();
    open_networks(host_proc, profile == ROOT_INSIDE);
    make_cgroups();
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || (filtered && install_filter()))
        die("installing the seccomp filter");
    /* sandboxes see this command line as that of their pid 1: it must not tell them paths of the host */
    memset(argv[0], 0, argv[argc - 1] + strlen(argv[argc - 1]) - argv[0]);
    prctl(PR_SET_NAME, "palmette-box");
    serve(owner);
}
