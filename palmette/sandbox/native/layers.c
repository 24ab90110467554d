/* Layers of forked sandboxes: kept mounted in a namespace of their own (the attic), which dies with the fork server.
 *
 * A fork turns a sandbox's writable layer into a lower one that nobody writes any more, and gives it and every copy a
 * fresh layer on top: the same few mounts, however much was written. */
#define _GNU_SOURCE
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FLAT_OPTIONS "size=0,nr_inodes=0,mode=755" /* its content was within bounds already */

static int attic = -1, own = -1, weak; /* weak: without rights over the machine's own user namespace */

static int enter(int ns) { return syscall(SYS_setns, ns, CLONE_NEWNS); }

static int clone_tree(int at, const char *path) {
    return syscall(SYS_open_tree, at, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (*path ? 0 : AT_EMPTY_PATH));
}

static int attach(int tree, const char *path) {
    return syscall(SYS_move_mount, tree, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH);
}

/* Make the attic beside the server's own mounts. */
int open_attic(int own_mounts, int rootless) {
    own = own_mounts, weak = rootless;
    if (mkdir("/a", 0755) || unshare(CLONE_NEWNS))
        return -1;
    attic = open_own_mounts();
    int bad = attic < 0 || mount("attic", "/a", "tmpfs", MS_NOSUID, "mode=755,nr_inodes=0");
    return enter(own) || bad ? -1 : 0;
}

static const char *place(char at[64], const char *name) {
    snprintf(at, 64, "/a/%s", name);
    return at;
}

static int new_layer(const char *name, const char *options) {
    char at[64];
    return mkdir(place(at, name), 0755) || mount("layer", at, "tmpfs", MS_NOSUID, options) ? -1 : 0;
}

static int add_lower(int fs, const char *path) {
    return syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "lowerdir+", path, 0);
}

static int set(int fs, const char *key, const char *value) {
    return syscall(SYS_fsconfig, fs, value ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG, key, value, 0);
}

/* In the attic: an overlay that is mounted nowhere yet. */
static int overlay(const char *layer, const char *image, const char *lowers, uint32_t count) {
    char upper[80], work[80], at[64];
    place(at, layer);
    snprintf(upper, sizeof upper, "%s/u", at), snprintf(work, sizeof work, "%s/w", at);
    int fs = syscall(SYS_fsopen, "overlay", FSOPEN_CLOEXEC);
    if (fs < 0 || mkdir(upper, 0755) || mkdir(work, 0755))
        return -1;
    for (uint32_t i = 0; i < count; i++, lowers += strlen(lowers) + 1)
        if (add_lower(fs, place(at, lowers)))
            return -1;
    if (image && add_lower(fs, image))
        return -1;
    /* xino: one device for all files, so that what is another mount can be told; redirect: old directories may move */
    if (set(fs, "source", "sandbox") || set(fs, "upperdir", upper) || set(fs, "workdir", work) ||
        set(fs, "xino", "on") || (weak ? set(fs, "userxattr", NULL) : set(fs, "redirect_dir", "on")) ||
        syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
        return -1;
    int tree = syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID);
    close(fs);
    return tree;
}

/* A fresh writable layer over `count` lower ones (topmost first) and the image, as a mount that is attached nowhere
 * yet; -1 on failure. Ends in the server's own mounts. */
int stack_layers(uint32_t layer, uint32_t disk_mb, uint32_t inodes, const char *image, const char *lowers,
                 uint32_t count) {
    char name[16], base[64], options[96];
    snprintf(name, sizeof name, "%u", layer);
    snprintf(options, sizeof options, "size=%um,nr_inodes=%u,mode=755", disk_mb, inodes);
    int tree = image ? clone_tree(AT_FDCWD, image) : -1, error;
    if ((image && tree < 0) || enter(attic))
        return -1;
    snprintf(base, sizeof base, "/a/image-%s", name);
    int bad = new_layer(name, options) || (image && (mkdir(base, 0755) || attach(tree, base)));
    int stacked = bad ? -1 : overlay(name, image ? base : NULL, lowers, count);
    error = errno;
    if (image) { /* the overlay has it now */
        umount2(base, MNT_DETACH), rmdir(base);
        close(tree);
    }
    if (enter(own))
        return -1;
    errno = error;
    return stacked;
}

void drop_layer(const char *name) {
    char at[64];
    if (enter(attic) == 0 && umount2(place(at, name), MNT_DETACH) == 0)
        rmdir(at);
    enter(own);
}

/* Keep the root of the sandbox whose mount namespace is `target` as the layer `name`. */
static int keep_root(int target, const char *name, int flat) {
    char at[64];
    if (enter(target))
        return -1;
    int tree = flat ? open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : clone_tree(AT_FDCWD, "/");
    if (tree < 0 || enter(attic))
        return -1;
    if (flat)
        return new_layer(name, FLAT_OPTIONS) || copy_tree(tree, place(at, name)) ? -1 : 0;
    return mkdir(place(at, name), 0755) || attach(tree, at) ? -1 : 0;
}

/* Mounts of the sandbox that go along to its new root; device files are mounts only where none could be made. */
static const char *carry(const char *points, uint32_t count) {
    static const char devices[] = "/proc\0/dev/null\0/dev/zero\0/dev/full\0/dev/random\0/dev/urandom\0/dev/tty\0/dev/pts\0";
    for (uint32_t i = 0; i < count; i++, points += strlen(points) + 1)
        if (mount(points, points + 1, NULL, MS_MOVE, NULL))
            return points;
    for (const char *at = devices; *at; at += strlen(at) + 1)
        if (mount(at, at + 1, NULL, MS_MOVE, NULL) && (at == devices || errno != EINVAL))
            return at;
    return NULL;
}

/* In a child of the server: give the sandbox a new root over its old one. Nothing but its pid 1 runs in it. */
static const char *rotate(const struct rotate *r, const char *strings, int target) {
    char name[16];
    const char *image = NULL, *lowers = strings;
    uint32_t count = r->lowers;
    for (uint32_t i = 0; i < r->lowers; i++)
        strings += strlen(strings) + 1;
    char found[32];
    if (r->image) {
        snprintf(found, sizeof found, "/m/%d", bind_index(strings));
        image = found, strings += strlen(strings) + 1;
    }
    snprintf(name, sizeof name, "%u", r->kept);
    if (r->kept && (keep_root(target, name, r->flat) || enter(own)))
        return "keeping the files (of a fork)";
    if (r->kept)
        lowers = name, count = 1;
    int stacked = stack_layers(r->layer, r->disk_mb, r->inodes, image, lowers, count);
    if (stacked < 0)
        return "stacking layers (a fork needs Linux 6.5)";
    if (enter(target) || attach(stacked, "/") || fchdir(stacked))
        return "entering the sandbox";
    const char *stuck = carry(strings, r->points);
    if (stuck)
        return stuck;
    if (syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH) || chdir("/"))
        return "changing the root";
    return NULL;
}

void __attribute__((noreturn)) enter_rotation(const struct rotate *r, const char *strings, int answer, int target) {
    const char *stage = rotate(r, strings, target);
    uint32_t ready = READY;
    if (stage) {
        send_failure(answer, stage, errno);
        _exit(1);
    }
    int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    send_packet(answer, &ready, sizeof ready, &root, 1);
    _exit(0);
}
