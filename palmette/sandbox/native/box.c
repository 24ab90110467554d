/* From a fresh child of the fork server to pid 1 of a sandbox: limits, namespaces, root file system, identity. */
#define _GNU_SOURCE
#include "wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <linux/capability.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define SYSTEM_INODES 128 /* what the root itself needs beside the sandbox's own */
#define TERMINALS "64" /* that one sandbox can have; the machine has 4,096 for all */
#define GATEWAY_HOST "127.77.0.1"
#define GATEWAY_PORT 8000
#define HOSTS "127.0.0.1 localhost sandbox\n" GATEWAY_HOST " gateway\n"

static int control, image; /* image: somebody else has filled the root, or may have */

static void __attribute__((noreturn)) fail(const char *stage) {
    send_failure(control, stage, errno);
    _exit(1);
}

static const char *next(const char **at) {
    const char *s = *at;
    *at = s + strlen(s) + 1;
    return s;
}

static int put(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0)
        return -1;
    ssize_t n = write(fd, text, strlen(text));
    close(fd);
    return n < 0 ? -1 : 0;
}

static int is_image(const char *key) { return key[strlen(key) - 1] == '/'; }

static int append(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0)
        return -1;
    ssize_t n = write(fd, text, strlen(text));
    close(fd);
    return n < 0 ? -1 : 0;
}

/* Make the directory `at` unless it is there; a symlink in an image would lead to the server's files. */
static void make_one(const char *at, mode_t mode) {
    struct stat info;
    if (mkdir(at, mode) == 0)
        return;
    if (errno != EEXIST || (image && lstat(at, &info)))
        fail(at + 2);
    if (image && !S_ISDIR(info.st_mode))
        errno = ENOTDIR, fail(at + 2);
}

/* Make the directory `path` (absolute, inside the box) below the mount point /b, parents first. */
static void make(const char *path, mode_t mode) {
    char at[4200];
    if (snprintf(at, sizeof at, "/b%s", path) >= (int)sizeof at)
        errno = ENAMETOOLONG, fail(path);
    for (char *slash = at + 3; *slash; slash++)
        if (*slash == '/') {
            *slash = 0;
            make_one(at, 0755);
            *slash = '/';
        }
    make_one(at, mode);
}

static void limit_by_cgroup(const struct box *b, const char *name) {
    const struct request *r = &b->request;
    char at[400], value[32];
    for (int i = b->cgroup == 1; i < 2; i++) { /* v1: memory and processor are limited before the first command */
        const char *base = b->cgroup == 2 ? "/cg/0" : "/cg/1";
        snprintf(at, sizeof at, "%s/%s", base, name);
        if (mkdir(at, 0755) && errno != EEXIST)
            fail("making a cgroup");
        snprintf(value, sizeof value, "%llu",
                 i ? r->pids + (unsigned long long)OUR_PIDS : (unsigned long long)r->memory_mb << 20);
        const char *file = i ? "pids.max" : "memory.max";
        snprintf(at, sizeof at, "%s/%s/%s", base, name, file);
        if (put(at, value))
            fail(i ? "setting the process limit" : "setting the memory limit");
        snprintf(at, sizeof at, "%s/%s/memory.swap.max", base, name); /* swap would widen the limit */
        if (!i && access(at, W_OK) == 0)
            put(at, "0");
    }
    snprintf(at, sizeof at, "/cg/%d/%s/cgroup.procs", b->cgroup == 1, name);
    if (put(at, "0"))
        fail("joining a cgroup");
}

static void limit_cpu(const struct box *b, const char *name) {
    char at[400], value[32];
    snprintf(at, sizeof at, "/cg/0/%s/cpu.max", name);
    snprintf(value, sizeof value, "%u 100000", b->request.cpu_percent * 1000); /* of a period of 100 ms */
    if (b->cgroup == 2 && b->request.cpu_percent && put(at, value))
        fail("setting the processor limit");
}

static void limit_by_rlimit(const struct box *b) {
    const struct request *r = &b->request;
    struct rlimit files = {1024, 4096}, none = {0, 0}, processes = {r->pids + OUR_PIDS, r->pids + OUR_PIDS};
    struct rlimit memory = {(rlim_t)r->memory_mb << 20, (rlim_t)r->memory_mb << 20}, now;
    if (getrlimit(RLIMIT_NOFILE, &now) == 0 && now.rlim_max < files.rlim_max)
        files.rlim_max = now.rlim_max, files.rlim_cur = now.rlim_max < 1024 ? now.rlim_max : 1024;
    setrlimit(RLIMIT_NOFILE, &files);
    setrlimit(RLIMIT_CORE, &none);
    if (!b->cgroup && b->profile == ROOT) /* without an own uid the count would be shared with other programs */
        setrlimit(RLIMIT_NPROC, &processes);
    if (!b->cgroup)
        setrlimit(RLIMIT_AS, &memory);
}

static const struct {
    const char *name;
    int major, minor;
} devices[] = {{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}};
#define DEVICES (sizeof devices / sizeof *devices)

static void make_devices(void) {
    make("/dev", 0755);
    for (size_t i = 0; i < DEVICES; i++) {
        char at[32], from[32];
        snprintf(at, sizeof at, "/b/dev/%s", devices[i].name);
        snprintf(from, sizeof from, "/d/%s", devices[i].name);
        if (access(from, F_OK) == 0) { /* the fork server may not make devices either and has bound the host's */
            if (put(at, "") || mount(from, at, NULL, MS_BIND, NULL))
                fail(at + 2);
        } else if (mknod(at, S_IFCHR | 0666, makedev(devices[i].major, devices[i].minor)) || chmod(at, 0666)) {
            fail(at + 2);
        }
    }
    if (symlink("/proc/self/fd", "/b/dev/fd") || symlink("fd/0", "/b/dev/stdin") ||
        symlink("fd/1", "/b/dev/stdout") || symlink("fd/2", "/b/dev/stderr"))
        fail("/dev");
    make("/dev/shm", 01777);
    chmod("/b/dev/shm", 01777);
    make("/dev/pts", 0755);
    if (symlink("pts/ptmx", "/b/dev/ptmx"))
        fail("/dev");
}

/* Terminals of its own, as tmux and script make them; 12 us and 2 KiB, so every sandbox has them. */
static void mount_terminals(void) {
    if (mount("devpts", "/b/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=666,mode=620,max=" TERMINALS))
        fail("mounting /dev/pts");
}

/* In a fork: the files are there, the mounts over them are not. */
static void bind_devices_again(void) {
    for (size_t i = 0; i < DEVICES; i++) {
        char at[32], from[32];
        snprintf(at, sizeof at, "/b/dev/%s", devices[i].name);
        snprintf(from, sizeof from, "/d/%s", devices[i].name);
        if (access(from, F_OK) == 0 && mount(from, at, NULL, MS_BIND, NULL))
            fail(at + 2);
    }
}

/* `uid` is that of commands as they see it: 0 is root, another one is called agent. */
static void make_names(uint32_t uid, const char *home) {
    static const char nobody[] = "nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n";
    char user[4400] = "", group[64] = "";
    make("/etc", 0755);
    if (uid) {
        snprintf(user, sizeof user, "agent:x:%u:%u:agent:%s:/bin/sh\n", uid, uid, home);
        snprintf(group, sizeof group, "agent:x:%u:\n", uid);
    }
    if (image) { /* has names of its own: ours is added */
        unlink("/b/etc/hosts"), unlink("/b/etc/hostname");
    } else if (append("/b/etc/passwd", uid ? "root:x:0:0:root:/nonexistent:/bin/sh\n" : "root:x:0:0:root:/root:/bin/sh\n") ||
               append("/b/etc/passwd", nobody) || append("/b/etc/group", "root:x:0:\nnogroup:x:65534:\n") ||
               put("/b/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n")) {
        fail("/etc");
    }
    if (append("/b/etc/passwd", user) || append("/b/etc/group", group) || put("/b/etc/hosts", HOSTS) ||
        put("/b/etc/hostname", "sandbox\n"))
        fail("/etc");
}

/* Nobody may have put a symlink where the server is to mount something: it would lead to the server's own files. */
static void refuse_links(const char *path) {
    char at[4300];
    struct stat info;
    int length = snprintf(at, sizeof at, "/b%s", path);
    for (int i = 3; i <= length; i++) {
        char end = at[i];
        if (end != '/' && end)
            continue;
        at[i] = 0;
        if (lstat(at, &info) == 0 && S_ISLNK(info.st_mode))
            errno = ELOOP, fail(path);
        at[i] = end;
    }
}

static void bind_all(const struct request *r, const char **at) {
    for (uint32_t i = 0; i < r->binds; i++) {
        const char *key = next(at);
        char from[32], path[4200], to[4300];
        snprintf(path, sizeof path, "%.*s", (int)strcspn(key, "\n"), key);
        snprintf(from, sizeof from, "/m/%d", bind_index(key));
        snprintf(to, sizeof to, "/b%s", path);
        if (is_image(key))
            continue;
        if (image)
            refuse_links(path);
        struct stat source, target;
        if (stat(from, &source))
            fail(path);
        if (stat(to, &target)) {
            if (S_ISDIR(source.st_mode)) {
                make(path, 0755);
            } else {
                char parent[4200];
                snprintf(parent, sizeof parent, "%.*s", (int)(strrchr(path, '/') - path), path);
                if (*parent)
                    make(parent, 0755);
                if (put(to, ""))
                    fail(path);
            }
        }
        if (mount(from, to, NULL, MS_BIND | MS_REC, NULL))
            fail(path);
    }
}

static uid_t keeper; /* of what the image holds in the work directory */

static int hand_over(const char *path, const struct stat *info, int kind, struct FTW *at) {
    (void)info, (void)kind, (void)at;
    return lchown(path, keeper, keeper);
}

/* The root as layers, or as a plain tmpfs of its own: what the sandbox writes stays in it either way. */
static void mount_root(const struct request *r, int stacked) {
    char options[128];
    snprintf(options, sizeof options, "size=%um,nr_inodes=%u,mode=755", r->disk_mb, r->inodes + SYSTEM_INODES);
    if (stacked < 0 && mount("sandbox", "/b", "tmpfs", MS_NOSUID, options))
        fail("mounting the root tmpfs");
    if (stacked >= 0 && syscall(SYS_move_mount, stacked, "", AT_FDCWD, "/b", MOVE_MOUNT_F_EMPTY_PATH))
        fail("mounting the root");
    if (image && !r->lowers && rmdir("/b/dev") && errno != ENOENT) /* devices of any kind might be in it */
        fail("the image's /dev is not empty; import it with palmette sandbox images build");
}

/* What a fork finds in its lower layers already. */
static void furnish(const struct box *b, const char *at) {
    const struct request *r = &b->request;
    for (uint32_t i = 0; i < r->links; i++) {
        char path[4200];
        const char *target = next(&at);
        snprintf(path, sizeof path, "/b%s", next(&at));
        if (symlink(target, path))
            fail(path + 2);
    }
    const char *directories = at;
    for (uint32_t i = 0; i < r->binds; i++)
        next(&directories);
    make_devices();
    const char *workdir = directories;
    make_names(b->profile == ROOT_INSIDE ? 0 : r->uid, workdir);
    umask(0);
    for (uint32_t i = 0; i < r->directories; i++) {
        const char *path = next(&directories);
        char to[4200];
        int shared = strcmp(path, "/tmp") == 0 || strcmp(path, "/var/tmp") == 0;
        make(path, 0755);
        snprintf(to, sizeof to, "/b%s", path);
        if (chmod(to, shared ? 01777 : 0755) || (b->profile == ROOT && chown(to, r->uid, r->uid)))
            fail(path);
    }
    umask(022);
    char home[4200];
    snprintf(home, sizeof home, "/b%s", workdir);
    keeper = r->uid;
    if (image && b->profile == ROOT && nftw(home, hand_over, 16, FTW_PHYS | FTW_MOUNT))
        fail("the image's work directory");
}

static void make_root(const struct box *b, const char *at, int stacked) {
    const struct request *r = &b->request;
    mount_root(r, stacked);
    if (r->lowers)
        bind_devices_again();
    else
        furnish(b, at);
    mount_terminals();
    for (uint32_t i = 0; i < 2 * r->links; i++)
        next(&at);
    bind_all(r, &at);
    make("/proc", 0555);
    if (mount("proc", "/b/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL))
        fail("mounting proc");
    if (chdir("/b") || syscall(SYS_pivot_root, ".", "."))
        fail("changing the root");
}

/* In a new network namespace. */
int raise_loopback(void) {
    int k = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    int bad = k < 0 || ioctl(k, SIOCSIFFLAGS, &lo);
    close(k);
    return bad ? -1 : 0;
}

static int listen_for_gateway(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(GATEWAY_PORT)};
    inet_pton(AF_INET, GATEWAY_HOST, &address.sin_addr);
    int on = 1, s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s < 0 || setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) ||
        bind(s, (struct sockaddr *)&address, sizeof address) || listen(s, 128))
        fail("listening for the gateway");
    return s;
}

/* What root inside may do with its own files and processes, and packages need to install themselves: of Docker's
 * fourteen capabilities those that are no good without a device, a network or a root of one's own are missing. */
#define BIT(capability) (1u << (capability))
static const uint32_t kept = BIT(CAP_CHOWN) | BIT(CAP_DAC_OVERRIDE) | BIT(CAP_FOWNER) | BIT(CAP_FSETID) | BIT(CAP_KILL) |
                             BIT(CAP_SETGID) | BIT(CAP_SETUID) | BIT(CAP_NET_BIND_SERVICE) | BIT(CAP_SETFCAP);

static void drop_rights(const struct box *b) {
    uint32_t uid = b->profile == ROOT_INSIDE ? 0 : b->request.uid, keep = b->profile == ROOT_INSIDE ? kept : 0;
    if (b->profile == ROOT_INSIDE && syscall(SYS_setns, b->user_namespace, CLONE_NEWUSER)) /* owns nothing but itself */
        fail("entering the user namespace");
    close(b->user_namespace);
    for (int capability = 0; capability <= 63; capability++)
        if (capability > 31 || !(keep & BIT(capability)))
            prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
    if (b->profile != ROOT) {
        if (keep && (setgroups(0, NULL) || setresgid(uid, uid, uid) || setresuid(uid, uid, uid)))
            fail("becoming root inside");
        struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
        struct __user_cap_data_struct rights[2] = {{keep, keep, 0}, {0}};
        if (syscall(SYS_capset, &head, rights))
            fail("dropping capabilities");
        prctl(PR_SET_DUMPABLE, 0);
    } else if (setgroups(0, NULL) || setresgid(uid, uid, uid) || setresuid(uid, uid, uid)) {
        fail("changing the uid");
    }
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_PDEATHSIG, SIGKILL)) /* setuid clears the latter */
        fail("giving up privileges");
}

void enter_box(const struct box *b) {
    const char *at = b->strings;
    const char *name = next(&at);
    const struct request *r = &b->request;
    const char *first = at;
    for (uint32_t i = 0; i < 2 * r->links; i++)
        next(&first);
    int pictured = r->binds && is_image(first), stacked = -1;
    control = b->control, image = pictured || r->lowers;
    umask(022);
    if (b->cgroup)
        limit_by_cgroup(b, name), limit_cpu(b, name);
    if (image) {
        char from[32];
        snprintf(from, sizeof from, "/m/%d", pictured ? bind_index(first) : 0);
        stacked = stack_layers(r->layer, r->disk_mb, r->inodes + SYSTEM_INODES, pictured ? from : NULL, b->lowers,
                               r->lowers);
        if (stacked < 0)
            fail("stacking layers (images and forks need Linux 6.5)");
    }
    control = dup2(control, 3);
    stacked = stacked < 0 ? -1 : dup2(stacked, 4);
    int kept_open = b->user_namespace < 0 ? 5 : b->user_namespace;
    close_range(stacked < 0 ? 4 : 5, kept_open - 1, 0);
    close_range(kept_open + (b->user_namespace >= 0), ~0u, 0);
    if (unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP)) /* the network is there already */
        fail("making namespaces");
    make_root(b, at, stacked);
    close(4);
    int fds[3] = {open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), -1, -1}, count = 1;
    int listener = r->gateway ? listen_for_gateway() : -1;
    if (listener >= 0)
        fds[count++] = listener;
    if (b->profile == ROOTLESS) /* else a pidfd leads there */
        fds[count++] = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
    if (sethostname("sandbox", 7) || fds[0] < 0 || fds[count - 1] < 0)
        fail("entering the new root");
    uint32_t ready[2] = {READY, listener >= 0};
    if (send_packet(control, ready, sizeof ready, fds, count)) /* no command is taken before the rest is done */
        _exit(1);
    if (umount2(".", MNT_DETACH) || chdir("/")) /* the old root; waits for all processors */
        fail("leaving the old root");
    limit_by_rlimit(b);
    drop_rights(b);
    setsid();
    for (int i = 0; i < count; i++)
        close(fds[i]);
    for (uint32_t i = 0; i < r->binds; i++)
        next(&first);
    int confined = b->profile == ROOTLESS && landlock_confines_writes(); /* elsewhere root's files are of another uid */
    run_agent(control, r->output_bytes, r->ttl_ms, first, confined ? r->directories : 0);
}
