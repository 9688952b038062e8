/* What the service asks for: a listening socket, a path of the workspace, what is used. */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Only flags that open a file or a folder by its name. */
enum { OPEN_FLAGS = O_ACCMODE | O_CREAT | O_EXCL | O_TRUNC | O_APPEND | O_DIRECTORY };
enum { OPEN_TRIES = 1000 };

/* 'N' u16 port: listen on it on the loopback of this network namespace, and send the socket to the
 * service with an 'L': the service serves what connects to it here. */
int hand_out_listener(const unsigned char *data, size_t size)
{
    static const unsigned char frame[5] = {1, 0, 0, 0, 'L'};
    if (size != 2) {
        errno = EPROTO;
        return 0;
    }
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)(data[0] | data[1] << 8)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int again = 1; /* connections of an earlier job's proxy may still be in TIME_WAIT (tcp(7)) */
    if (listener < 0)
        return 0;
    int done = !setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &again, sizeof again)
               && !bind(listener, (struct sockaddr *)&address, sizeof address)
               && !listen(listener, SOMAXCONN) && hand_out(listener, frame, sizeof frame);
    int failure = errno;
    close(listener);
    errno = failure;
    return done;
}

/* Follow no link and stay inside, whatever the job does to the path meanwhile. Do not block: a job
 * may have put a pipe there, or hold a lease on the file. Only what is in the workspace's own mount: a
 * job cannot mount anything where we see it, but a wrapper can, such as a read-only path of the host
 * that lies beneath /work; that is not the job's, and nothing else here counts or removes it. */
int open_beneath(const char *path, uint32_t flags, uint32_t mode)
{
    struct open_how how = {.flags = flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK,
                           .mode = flags & O_CREAT ? mode & 0777 : 0,
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV};
    struct stat at = {0};
    if (flags & ~(uint32_t)OPEN_FLAGS) {
        errno = EINVAL;
        return -1;
    }
    int fd, tries = 0;
    do /* EAGAIN: somewhere on the host something was mounted while it went up a ".." (openat2(2)) */
        fd = (int)syscall(SYS_openat2, workspace, path, &how, sizeof how);
    while (fd < 0 && errno == EAGAIN && ++tries < OPEN_TRIES);
    if (fd < 0 || (!fstat(fd, &at) && (flags & O_DIRECTORY || S_ISREG(at.st_mode))))
        return fd;
    errno = S_ISDIR(at.st_mode) ? EISDIR : EINVAL;
    close(fd); /* leaves errno alone: nothing was written */
    return -1;
}

/* 'O' u32 flags of open(2), u32 mode, path NUL: hand out a descriptor of that path beneath the
 * workspace with an 'O' and 0, or tell the errno alone. Only files, and folders with O_DIRECTORY. */
int hand_out_path(const unsigned char *data, size_t size)
{
    unsigned char frame[9] = {5, 0, 0, 0, 'O'};
    if (size < 9 || strnlen((const char *)data + 8, size - 8) != size - 9) {
        errno = EPROTO;
        return 0;
    }
    int fd = open_beneath((const char *)data + 8, get32(data), get32(data + 4));
    if (fd >= 0) {
        int sent = hand_out(fd, frame, sizeof frame);
        int failure = errno;
        close(fd);
        if (sent)
            return 1;
        errno = failure;
    }
    put32(frame + 5, (uint32_t)errno);
    tell('O', frame + 5, 4);
    return 1;
}

/* 'U' u32 flags, WALK_DISK as of 'R': tell the CPU time in us of everything that has run so far, the memory
 * and the disk, in bytes, that are in use now, and how many processes and threads there are. With OF_RUN the
 * CPU time is that of the program that runs and all it has started, and the disk is not looked at. */
int tell_use(const unsigned char *data, size_t size)
{
    struct usage used;
    unsigned char out[32];
    if (size != 4) {
        errno = EPROTO;
        return 0;
    }
    int of_run = get32(data) & OF_RUN;
    job.walk_disk = get32(data) & WALK_DISK;
    survey(of_run ? GLANCE : EXACT, &used);
    /* Once a second it may not take as long as a job likes: exact as in watch.c. */
    if (of_run && !(job.group & GROUP_MEMORY) && job.memory_limit && memory_in_use(&used) > job.memory_limit)
        survey(EXACT, &used);
    put64(out, of_run ? cpu_of_run(used.cpu_us) : cpu_so_far(used.cpu_us));
    put64(out + 8, memory_in_use(&used));
    put64(out + 16, of_run ? 0 : disk_in_use());
    put64(out + 24, used.threads);
    tell('U', out, sizeof out);
    return 1;
}
