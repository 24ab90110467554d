/* The processes of a command, found in /proc: what pid 1 needs to end them all. */
#define _GNU_SOURCE
#include "wire.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct process {
    pid_t pid, parent, session;
    char state;
    unsigned long long ticks;
    int victim;
};

static int read_process(const char *pid, struct process *p) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%s/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0)
        return 0;
    text[n] = 0;
    char *rest = strrchr(text, ')'); /* a name may hold anything, also ')' */
    p->pid = atoi(pid), p->victim = 0;
    return rest && sscanf(rest + 2, "%c %d %*d %d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
                          &p->state, &p->parent, &p->session, &p->ticks) == 4;
}

/* Now: who starts after it is younger. */
struct moment this_moment(void) {
    struct timespec t;
    struct moment m;
    char text[128];
    static int loads = -1;
    if (loads < 0)
        loads = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
    ssize_t n = loads < 0 ? -1 : pread(loads, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = 0;
    const char *last = strrchr(text, ' ');
    clock_gettime(CLOCK_BOOTTIME, &t);
    m.ticks = (unsigned long long)t.tv_sec * 100 + t.tv_nsec / 10000000, m.last_pid = last ? atoi(last) : 0;
    const char *tasks = strchr(text, '/');
    m.tasks = tasks ? atoi(tasks + 1) : 0;
    return m;
}

/* Kill what a command started: its session, all descendants, and, when it is the only command, orphans that are
 * younger than it (a daemon that forked twice has lost every other tie). True while something was left to kill. */
int kill_family(pid_t leader, const struct moment *since, int orphans_too) {
    static struct process table[8192];
    int n = 0, found = 0, changed = 1;
    DIR *proc = opendir("/proc");
    if (!proc)
        return kill(-leader, SIGKILL) == 0;
    for (struct dirent *e; (e = readdir(proc)) && n < 8192;)
        if (e->d_name[0] >= '1' && e->d_name[0] <= '9' && read_process(e->d_name, &table[n]) && table[n].pid != 1)
            n++;
    closedir(proc);
    for (int i = 0; i < n; i++) {
        int younger = table[i].ticks > since->ticks || (table[i].ticks == since->ticks && table[i].pid > since->last_pid);
        table[i].victim = table[i].pid == leader || table[i].session == leader ||
                          (orphans_too && table[i].parent == 1 && younger);
    }
    while (changed) {
        changed = 0;
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n && !table[i].victim; j++)
                if (table[j].victim && table[j].pid == table[i].parent)
                    table[i].victim = changed = 1;
    }
    for (int i = 0; i < n; i++)
        if (table[i].victim && table[i].state != 'Z' && kill(table[i].pid, SIGKILL) == 0)
            found = 1;
    return found;
}
