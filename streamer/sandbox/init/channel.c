/* The socket to the service: frames, and the descriptors that come and go with them. */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

struct channel in;

void put32(unsigned char *to, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        to[i] = (unsigned char)(value >> (8 * i));
}

void put64(unsigned char *to, uint64_t value)
{
    for (int i = 0; i < 8; i++)
        to[i] = (unsigned char)(value >> (8 * i));
}

uint32_t get32(const unsigned char *from)
{
    return from[0] | from[1] << 8 | from[2] << 16 | (uint32_t)from[3] << 24;
}

uint64_t get64(const unsigned char *from)
{
    return get32(from) | (uint64_t)get32(from + 4) << 32;
}

void tell(unsigned char type, const unsigned char *payload, size_t size)
{
    unsigned char out[64];
    put32(out, (uint32_t)size + 1);
    out[4] = type;
    if (size)
        memcpy(out + 5, payload, size);
    /* A few dozen bytes on an empty socket: never a short write. A failure means that
     * the service is gone, and the next read says so. */
    if (send(CONTROL, out, size + 5, MSG_NOSIGNAL) < 0)
        return;
}

void tell_failure(unsigned char stage)
{
    unsigned char out[5] = {stage};
    put32(out + 1, (uint32_t)errno);
    tell('E', out, sizeof out);
}

/* Not on the heap: a program that is a copy of us (forked/forked.c) finds that as it was. */
static void make_room(void)
{
    size_t room = in.room ? in.room * 2 : 1 << 17;
    void *bytes = in.bytes ? mremap(in.bytes, in.room, room, MREMAP_MAYMOVE)
                           : mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bytes == MAP_FAILED)
        die("out of memory");
    in.bytes = bytes;
    in.room = room;
}

void drop_received(void)
{
    if (in.bytes)
        munmap(in.bytes, in.room);
    memset(&in, 0, sizeof in);
}

/* Read what is there; 0 when the service is gone. */
int receive(void)
{
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(3 * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
    } control;
    if (in.room - in.used < 65536)
        make_room();
    struct iovec part = {in.bytes + in.used, in.room - in.used};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1,
                             .msg_control = control.room, .msg_controllen = sizeof control.room};
    ssize_t got = recvmsg(CONTROL, &message, MSG_CMSG_CLOEXEC);
    if (got < 0)
        return errno == EINTR || errno == EAGAIN;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            if ((count != 1 && count != 3) || in.fd_count) {
                errno = EPROTO;
                die("the service sent descriptors that nobody asked for");
            }
            memcpy(in.fds, CMSG_DATA(c), count * sizeof(int));
            in.fd_count = (int)count;
        }
    in.used += (size_t)got;
    return got > 0;
}

/* Send a frame with a descriptor beside it; 0 when that failed. Ours stays open. */
int hand_out(int fd, const unsigned char *frame, size_t size)
{
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec part = {(void *)frame, size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1,
                             .msg_control = control.room, .msg_controllen = sizeof control.room};
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    return sendmsg(CONTROL, &message, MSG_NOSIGNAL) > 0;
}
