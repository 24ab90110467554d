/* Network namespaces for sandboxes to be born in. Making one is the dearest part of a start, and taking one apart costs
 * the kernel even more: the clean ones are used again, and a helper makes some ahead. A sandbox cannot change anything
 * in its own but for the sockets it opens. */
#define _GNU_SOURCE
#include "wire.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define NETS_MAX 64 /* idle, some 200 KiB of kernel memory each */
#define AHEAD_MAX 32 /* of them made before they are asked for: as many as there were starts, at most */

static int nets[NETS_MAX], net_count, starts, ordered, maker = -1;
static int proc, low_ports;
static pid_t maker_pid;

/* `host_proc` is /proc; with `ports` every user may listen on the low ones. */
void open_networks(int host_proc, int ports) { proc = host_proc, low_ports = ports; }

/* Root inside has no right over its network, and expects to listen on the low ports all the same. */
static int open_low_ports(void) {
    int fd = openat(proc, "sys/net/ipv4/ip_unprivileged_port_start", O_WRONLY | O_CLOEXEC);
    int bad = fd < 0 || write(fd, "0", 1) != 1;
    close(fd);
    return bad;
}

/* Make one and enter it. */
static int make_network(void) {
    if (unshare(CLONE_NEWNET) || raise_loopback() || (low_ports && open_low_ports()))
        return -1;
    return openat(proc, "self/ns/net", O_RDONLY | O_CLOEXEC);
}

/* Enter one, for the next child to be born in; what is given back, or -1. */
int enter_network(void) {
    starts += starts < AHEAD_MAX;
    if (net_count) {
        int net = nets[--net_count];
        if (syscall(SYS_setns, net, CLONE_NEWNET) == 0)
            return net;
        close(net);
    }
    return make_network();
}

/* Whether nothing of the last sandbox is left in the network namespace we are in: no socket, no connection that waits. */
static int clean(void) {
    char text[1024];
    int used = 1, waiting = 1, fd = openat(proc, "self/net/sockstat", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    const char *tcp = strstr(text, "TCP:");
    return sscanf(text, "sockets: used %d", &used) == 1 && used == 0 && tcp &&
           sscanf(tcp, "TCP: inuse %*d orphan %*d tw %d", &waiting) == 1 && waiting == 0;
}

void leave_network(int net) {
    if (net >= 0 && net_count < NETS_MAX && syscall(SYS_setns, net, CLONE_NEWNET) == 0 && clean())
        nets[net_count++] = net;
    else if (net >= 0)
        close(net);
}

/* The helper: one network namespace for each packet, until the server is gone. */
static void __attribute__((noreturn)) make_for(int orders) {
    char packet;
    int first = fcntl(orders, F_DUPFD, 64), second = fcntl(proc, F_DUPFD, first + 1);
    close_range(3, first - 1, 0), close_range(first + 1, second - 1, 0), close_range(second + 1, ~0u, 0);
    orders = first, proc = second;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (recv(orders, &packet, 1, 0) == 1) {
        int net = make_network();
        if (net < 0 || send_packet(orders, &packet, 1, &net, 1))
            break;
        close(net);
    }
    _exit(0);
}

static void start_maker(void) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
        return;
    maker_pid = fork();
    if (maker_pid == 0)
        make_for(ends[1]);
    close(ends[1]);
    if (maker_pid < 0)
        close(ends[0]);
    else
        maker = ends[0];
}

/* Have some made while nobody waits for them; to be polled: what to `take_network` from, or -1. */
int stock_networks(void) {
    if (maker < 0 && starts > 1 && net_count < starts)
        start_maker();
    while (maker >= 0 && net_count + ordered < starts && send(maker, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) == 1)
        ordered++;
    return maker;
}

/* End the helper, which is in the server's cgroups. */
void stop_networks(void) {
    if (maker >= 0 && kill(maker_pid, SIGKILL) == 0)
        waitpid(maker_pid, NULL, 0);
    maker = -1;
}

void take_network(void) {
    char packet;
    int net;
    if (receive_packet(maker, &packet, 1, &net, 1) <= 0 || net < 0) { /* it has died: ours are made in line then */
        close(maker);
        maker = -1, ordered = 0, starts = 0;
        return;
    }
    ordered--;
    if (net_count < NETS_MAX)
        nets[net_count++] = net;
    else
        close(net);
}
