/* What commands may write to where root's files are not another user's: Landlock, which needs no right over anything.
 *
 * It is set for each command and not once for all: a rule belongs to a directory and not to its path, and a fork gives
 * the sandbox a new root. Its scopes (signals, abstract sockets) are not used: commands of one sandbox must reach one
 * another, and a layer that has nothing but scopes keeps later ones, which a program may set for itself, from moving
 * files between directories. Process and network namespaces hold both anyway. */
#define _GNU_SOURCE
#include "wire.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_add_rule 445
#define SYS_landlock_restrict_self 446
#endif
#define ABI_OF_REFER 2 /* before it, no file can be moved to another directory */
#define ABI_OF_TRUNCATE 3
#define WRITE_FILE (1ULL << 1)
#define REMOVE_AND_MAKE (0x1ffULL << 4) /* directories, files, devices, sockets, pipes, links */
#define REFER (1ULL << 13)
#define TRUNCATE (1ULL << 14)

/* linux/landlock.h of older systems has less */
struct ruleset {
    uint64_t files;
};
struct rule {
    uint64_t files;
    int32_t parent;
} __attribute__((packed));

static int abi(void) { return syscall(SYS_landlock_create_ruleset, NULL, 0, 1); }

int restrict_to(int ruleset) { return syscall(SYS_landlock_restrict_self, ruleset, 0); }

static int allow(int ruleset, const char *path, uint64_t rights) {
    struct rule rule = {rights, open(path, O_PATH | O_DIRECTORY | O_CLOEXEC)};
    int bad = rule.parent >= 0 && syscall(SYS_landlock_add_rule, ruleset, 1, &rule, 0);
    close(rule.parent);
    return bad;
}

int landlock_confines_writes(void) { return abi() >= ABI_OF_REFER; }

/* A ruleset by which nothing but what is below the `count` directories can be made, written or removed; -1 on failure. */
int writable_ruleset(const char *directories, uint32_t count) {
    uint64_t open_files = WRITE_FILE | (abi() >= ABI_OF_TRUNCATE ? TRUNCATE : 0);
    struct ruleset set = {.files = open_files | REMOVE_AND_MAKE | REFER};
    int fd = syscall(SYS_landlock_create_ruleset, &set, sizeof set, 0);
    int bad = fd < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) || allow(fd, "/dev", open_files) ||
              allow(fd, "/proc", open_files) || allow(fd, "/dev/shm", set.files);
    for (uint32_t i = 0; i < count && !bad; i++, directories += strlen(directories) + 1)
        bad = allow(fd, directories, set.files);
    if (bad && fd >= 0)
        close(fd);
    return bad ? -1 : fd;
}
