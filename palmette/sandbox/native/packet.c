/* One packet out or in, with descriptors by SCM_RIGHTS. */
#define _GNU_SOURCE
#include "wire.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

int send_packet(int socket, const void *data, size_t length, const int *fds, int count) {
    char space[CMSG_SPACE(4 * sizeof(int))] __attribute__((aligned(8)));
    struct iovec part = {(void *)data, length};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (count > 0) {
        memset(space, 0, sizeof space);
        message.msg_control = space;
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(head), fds, count * sizeof(int));
    }
    ssize_t sent;
    do
        sent = sendmsg(socket, &message, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -1 : 0;
}

/* fds are the descriptors that came along, -1 where there are fewer than `count`. */
ssize_t receive_packet(int socket, void *data, size_t room, int *fds, int count) {
    char space[CMSG_SPACE(4 * sizeof(int))] __attribute__((aligned(8)));
    struct iovec part = {data, room};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = space};
    message.msg_controllen = CMSG_LEN(count * sizeof(int));
    ssize_t length;
    do
        length = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    while (length < 0 && errno == EINTR);
    for (int i = 0; i < count; i++)
        fds[i] = -1;
    struct cmsghdr *head = length > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (head && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS)
        memcpy(fds, CMSG_DATA(head), head->cmsg_len - CMSG_LEN(0));
    return length;
}

void send_failure(int socket, const char *stage, int error) {
    char packet[sizeof(struct failed) + 512];
    struct failed failure = {FAILED, error};
    size_t length = strnlen(stage, 512);
    memcpy(packet, &failure, sizeof failure);
    memcpy(packet + sizeof failure, stage, length);
    send_packet(socket, packet, sizeof failure + length, NULL, 0);
}
