/* One tree into another: what a chain of layers shows, as a single layer. Other mounts are left out but for the
 * directory or file that they cover. */
#define _GNU_SOURCE
#include "wire.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

struct linked {
    struct linked *next;
    ino_t inode;
    int directory; /* of the copy */
    char name[256];
};

static struct linked *links[1024];
static dev_t device;

static int copy_content(int from, int to, off_t size) {
    off_t data = 0, hole;
    if (ftruncate(to, size))
        return -1;
    while (data < size && (data = lseek(from, data, SEEK_DATA)) >= 0) { /* holes stay holes */
        if ((hole = lseek(from, data, SEEK_HOLE)) < 0 || lseek(to, data, SEEK_SET) < 0)
            return -1;
        while (data < hole) {
            ssize_t n = sendfile(to, from, &data, hole - data);
            if (n <= 0)
                return -1;
        }
    }
    return data < 0 && errno != ENXIO ? -1 : 0;
}

static int copy_file(int from, int to, const char *name, const struct stat *info) {
    int in = openat(from, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    int out = openat(to, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int bad = in < 0 || out < 0 || copy_content(in, out, info->st_size);
    int error = errno;
    if (in >= 0)
        close(in);
    if (out >= 0)
        close(out);
    errno = error;
    return bad ? -1 : 0;
}

/* Link to a copy made before; 0 when there is none. */
static int link_again(int to, const char *name, const struct stat *info) {
    for (struct linked *l = links[info->st_ino % 1024]; l; l = l->next)
        if (l->inode == info->st_ino)
            return linkat(l->directory, l->name, to, name, 0) ? -1 : 1;
    struct linked *l = calloc(1, sizeof *l);
    if (!l)
        return -1;
    l->inode = info->st_ino, l->directory = dup(to), l->next = links[info->st_ino % 1024];
    snprintf(l->name, sizeof l->name, "%s", name);
    links[info->st_ino % 1024] = l;
    return l->directory < 0 ? -1 : 0;
}

static int copy_below(int from, int to);

static int copy_directory(int from, int to, const char *name) {
    int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    int in = openat(from, name, flags), out = mkdirat(to, name, 0700) ? -1 : openat(to, name, flags);
    int bad = in < 0 || out < 0 || copy_below(in, out), error = errno;
    if (in >= 0)
        close(in);
    if (out >= 0)
        close(out);
    errno = error;
    return bad ? -1 : 0;
}

static int copy_one(int from, int to, const char *name, const struct stat *info) {
    char target[4097];
    ssize_t n;
    switch (info->st_mode & S_IFMT) {
    case S_IFDIR:
        return copy_directory(from, to, name);
    case S_IFLNK:
        n = readlinkat(from, name, target, sizeof target - 1);
        if (n < 0)
            return -1;
        target[n] = 0;
        return symlinkat(target, to, name);
    case S_IFREG:
        return copy_file(from, to, name, info);
    default:
        return mknodat(to, name, info->st_mode & (S_IFMT | 0777), info->st_rdev);
    }
}

static int dress(int to, const char *name, const struct stat *info) {
    struct timespec times[2] = {info->st_atim, info->st_mtim};
    if (fchownat(to, name, info->st_uid, info->st_gid, AT_SYMLINK_NOFOLLOW))
        return -1;
    if (!S_ISLNK(info->st_mode) && fchmodat(to, name, info->st_mode & 07777, 0))
        return -1;
    return utimensat(to, name, times, AT_SYMLINK_NOFOLLOW);
}

/* Below another mount: only something for it to cover. */
static int leave_place(int to, const char *name, int directory) {
    return directory ? mkdirat(to, name, 0755) : mknodat(to, name, S_IFREG | 0644, 0);
}

static int copy_below(int from, int to) {
    int again = dup(from);
    DIR *list = again < 0 ? NULL : fdopendir(again);
    int bad = !list;
    for (struct dirent *e; !bad && (e = readdir(list));) {
        struct stat info;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        bad = fstatat(from, e->d_name, &info, AT_SYMLINK_NOFOLLOW);
        if (!bad && info.st_dev != device) {
            bad = leave_place(to, e->d_name, S_ISDIR(info.st_mode));
            continue;
        }
        int known = !bad && info.st_nlink > 1 && S_ISREG(info.st_mode) ? link_again(to, e->d_name, &info) : 0;
        if (bad || known > 0)
            continue;
        bad = known < 0 || copy_one(from, to, e->d_name, &info) || dress(to, e->d_name, &info);
    }
    int error = errno;
    if (list)
        closedir(list);
    errno = error;
    return bad ? -1 : 0;
}

/* Copy what is below the directory `from` into the directory at `to`. */
int copy_tree(int from, const char *to) {
    struct stat info;
    int out = open(to, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (out < 0 || fstat(from, &info))
        return -1;
    device = info.st_dev;
    return copy_below(from, out) || dress(out, ".", &info) ? -1 : 0;
}
