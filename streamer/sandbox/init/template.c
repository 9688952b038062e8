/* Inside a sandbox that stays: make the sandbox of each job, and be no part of it.
 *
 * It holds no capability. The child that it makes for a job is pid 1 of namespaces of its own, a user
 * namespace among them, and so may do there, and only there, what the job needs: its own /proc, its
 * file systems with their sizes, a loopback. Then it gives all of that up for good, and serves.
 *
 * That everything dies with the service: as pid 1 the template ends its namespace of processes and all
 * below with itself, and its wrapper ends it with the service. What is mounted in the template, a job can
 * neither unmount nor make writable, since another user namespace owns it (mount_namespaces(7)).
 *
 * Messages on the socket on standard input (SOCK_SEQPACKET; integers little endian):
 *
 *   to it    u32 flags, u32 number of mounts, u32 number of masks, each mount u64 bytes and a path with NUL,
 *            each mask a path with NUL, the workspace with NUL; with descriptors: the job's control socket,
 *            its standard error, with CLONE_INTO the folder of its control group (version 2), then the
 *            files through which it enters its groups
 *   from it  'H' u8 PROTOCOL, once; for each message 'J' u32 errno, with a pidfd (pidfd_open(2)) if that is 0
 */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CLONE_INTO = 1, BECOME = 2, WITH_TERMINAL = 4 }; /* flags of a message; the second one's is in become.c */
enum { MOST_BYTES = 16384, MOST_FDS = 12, MOST_PARTS = 16 };

/* Only these must be there from its start. The child makes the others, that of the network by far the dearest:
 * then the template can go on with the next job, and it is the job that pays. */
#define FIRST_NAMESPACES (CLONE_NEWUSER | CLONE_NEWPID)
#define OTHER_NAMESPACES (CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWCGROUP)

static struct {
    unsigned char bytes[MOST_BYTES];
    int fds[MOST_FDS];
    size_t fd_count;
    uint32_t flags;
    size_t mount_count, mask_count;
    struct {
        uint64_t size;
        const char *path;
    } mounts[MOST_PARTS];
    const char *masks[MOST_PARTS], *workspace;
} wanted;

static void put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
        die(path);
    close(fd);
}

/* One user and one group, so that no capability is needed (user_namespaces(7)). */
static void map_user(uid_t uid_inside, uid_t uid, gid_t gid_inside, gid_t gid)
{
    char map[64];
    put("/proc/self/setgroups", "deny");
    snprintf(map, sizeof map, "%u %u 1", uid_inside, uid);
    put("/proc/self/uid_map", map);
    snprintf(map, sizeof map, "%u %u 1", gid_inside, gid);
    put("/proc/self/gid_map", map);
}

static void loopback_up(void)
{
    struct ifreq loopback = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &loopback))
        die("the loopback");
    close(fd);
}

/* Cover a file with /dev/null that cannot be opened, as bwrap's --ro-bind does. */
static void mask(const char *path)
{
    struct statvfs at;
    if (access(path, F_OK)) {
        if (errno != ENOENT)
            die(path);
        return; /* this kernel has no such file */
    }
    if (mount("/dev/null", path, NULL, MS_BIND, NULL) || statvfs(path, &at))
        die(path);
    unsigned long kept = MS_RDONLY | MS_NOSUID | MS_NODEV | (at.f_flag & ST_NOEXEC);
    if (mount(NULL, path, NULL, MS_REMOUNT | MS_BIND | kept, NULL))
        die(path);
}

/* A devpts of the sandbox's own. Nobody can open a terminal in it, but we one before the job: the host has a
 * limited number for all. */
static void mount_terminals(int open_one)
{
    if (mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0000,mode=620,max=1"))
        die("/dev/pts");
    if (open_one)
        open_terminal("/dev/pts/ptmx");
    mask("/dev/pts/ptmx");
}

static void mount_own(void)
{
    if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL))
        die("/proc");
    /* Whoever was user 0 of the namespaces may write to their settings. Not all of /proc/sys: it has
     * bounds that we are yet to set. */
    make_read_only("/proc/sys/kernel");
    make_read_only("/proc/sys/fs");
    make_read_only("/proc/pressure");
    mount_terminals(wanted.flags & WITH_TERMINAL);
    for (size_t i = 0; i < wanted.mask_count; i++)
        mask(wanted.masks[i]);
    for (size_t i = 0; i < wanted.mount_count; i++) {
        char options[64];
        snprintf(options, sizeof options, "mode=755,size=%llu", (unsigned long long)wanted.mounts[i].size);
        if (mount("tmpfs", wanted.mounts[i].path, "tmpfs", MS_NOSUID | MS_NODEV, options))
            die(wanted.mounts[i].path);
    }
}

/* No further user namespace, as with bwrap's --disable-userns: one more, of which there may be one. */
static void close_user_namespaces(uid_t uid, gid_t gid)
{
    put("/proc/sys/user/max_user_namespaces", "1");
    if (unshare(CLONE_NEWUSER))
        die("the second user namespace");
    map_user(uid, 0, gid, 0);
    if (!unshare(CLONE_NEWUSER) || errno != ENOSPC) {
        errno = EPERM;
        die("a job could make user namespaces");
    }
}

static void drop_bounding_set(void)
{
    for (int capability = 0; !prctl(PR_CAPBSET_DROP, capability, 0, 0, 0); capability++)
        ;
}

/* In a sandbox of a wrapper's, as user 0 of a namespace for the moment: let our program have a terminal, and
 * nobody open another. The wrapper cannot do it: once we may open one, so may the job. */
void bring_terminal(void)
{
    uid_t uid = getuid();
    gid_t gid = getgid();
    prctl(PR_SET_DUMPABLE, 1); /* otherwise root owns its files in /proc */
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS))
        die("the namespaces of a terminal");
    map_user(0, uid, 0, gid);
    mount_terminals(1);
    close_user_namespaces(uid, gid);
    drop_bounding_set();
}

/* In the child, as pid 1 of its namespaces; `entered`: it was made in its control group. */
static void become_sandbox(uid_t uid, gid_t gid, int entered)
{
    size_t first = wanted.flags & CLONE_INTO ? 3 : 2;
    /* Before anything else, so that the job pays for what follows; what clone(2) has allocated is charged
     * to the template's group. The descriptors give the right: what counts is who has opened them
     * (cgroups(7)). 0 is the writer itself. */
    for (size_t i = first; !entered && i < wanted.fd_count; i++)
        if (write(wanted.fds[i], "0", 1) != 1)
            die("the control group");
    if (dup2(wanted.fds[0], CONTROL) < 0 || dup2(wanted.fds[1], STDERR_FILENO) < 0
        || syscall(SYS_close_range, 3, ~0U, 0))
        die("descriptors");
    signal(SIGCHLD, SIG_DFL);
    if (unshare(OTHER_NAMESPACES)) /* after it has entered its group, which becomes the root */
        die("the namespaces");
    prctl(PR_SET_DUMPABLE, 1); /* otherwise root owns its files in /proc */
    /* User 0 first: devpts needs one. */
    map_user(0, uid, 0, gid);
    loopback_up();
    mount_own();
    close_user_namespaces(uid, gid);
    drop_bounding_set();
    if (chdir(wanted.workspace))
        die(wanted.workspace);
}

static const char *text(const unsigned char **at, const unsigned char *end)
{
    const unsigned char *start = *at, *stop = memchr(start, 0, (size_t)(end - start));
    if (!stop)
        return NULL;
    *at = stop + 1;
    return (const char *)start;
}

static int parse(size_t size)
{
    const unsigned char *at = wanted.bytes + 12, *end = wanted.bytes + size;
    if (size < 12)
        return 0;
    wanted.flags = get32(wanted.bytes);
    wanted.mount_count = get32(wanted.bytes + 4);
    wanted.mask_count = get32(wanted.bytes + 8);
    if (wanted.mount_count > MOST_PARTS || wanted.mask_count > MOST_PARTS
        || wanted.fd_count < (wanted.flags & CLONE_INTO ? 3 : 2))
        return 0;
    for (size_t i = 0; i < wanted.mount_count; i++) {
        if (end - at < 8)
            return 0;
        wanted.mounts[i].size = get64(at);
        at += 8;
        if (!(wanted.mounts[i].path = text(&at, end)))
            return 0;
    }
    for (size_t i = 0; i < wanted.mask_count; i++)
        if (!(wanted.masks[i] = text(&at, end)))
            return 0;
    return (wanted.workspace = text(&at, end)) && at == end;
}

/* Wait for a message; 0 when the service is gone. */
static size_t take(void)
{
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(MOST_FDS * sizeof(int))];
    } control;
    struct iovec part = {wanted.bytes, sizeof wanted.bytes};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1,
                             .msg_control = control.room, .msg_controllen = sizeof control.room};
    ssize_t got;
    do
        got = recvmsg(CONTROL, &message, MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    if (got <= 0)
        return 0;
    wanted.fd_count = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            wanted.fd_count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(wanted.fds, CMSG_DATA(c), wanted.fd_count * sizeof(int));
        }
    errno = EPROTO;
    if (!(message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) && wanted.fd_count == 1 && got >= 4
        && get32(wanted.bytes) & BECOME)
        become_interpreter(wanted.bytes, (size_t)got, wanted.fds[0]);
    if (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC) || !parse((size_t)got))
        die("the service sent a message that cannot be understood");
    return (size_t)got;
}

/* Make the child: in its control group if that is given and we may, else it enters that by itself.
 * Return its pid, 0 in the child itself, or -1. */
static pid_t make_child(int *pidfd, int *entered)
{
    struct clone_args how = {
        .flags = FIRST_NAMESPACES | CLONE_PIDFD | CLONE_INTO_CGROUP,
        .pidfd = (uint64_t)(uintptr_t)pidfd,
        .exit_signal = SIGCHLD,
        .cgroup = (uint64_t)wanted.fds[2],
    };
    *entered = 1;
    if (wanted.flags & CLONE_INTO) {
        pid_t child = (pid_t)syscall(SYS_clone3, &how, sizeof how);
        if (child >= 0)
            return child;
    }
    *entered = 0;
    return (pid_t)syscall(SYS_clone, FIRST_NAMESPACES | CLONE_PIDFD | SIGCHLD, 0, pidfd, 0, 0);
}

static void answer(pid_t child, int pidfd)
{
    unsigned char frame[5] = {'J'};
    if (child > 0 && hand_out(pidfd, frame, sizeof frame))
        return;
    put32(frame + 1, (uint32_t)errno);
    if (child > 0) { /* nobody else could end it */
        kill(child, SIGKILL);
        waitpid(child, NULL, 0); /* until it is dead: no status is kept */
    }
    if (send(CONTROL, frame, sizeof frame, MSG_NOSIGNAL) < 0)
        return; /* the service is gone, as the next message says */
}

/* What must hold for the jobs to be confined; nothing of it is up to a job. */
static void check_confined(void)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[2] = {0}, held[2];
    struct statvfs root;
    errno = EPERM;
    if (getpid() != 1)
        die("the template is not the first process of its namespace");
    if (statvfs("/", &root) || !(root.f_flag & ST_RDONLY))
        die("the root of the template is writable");
    if (syscall(SYS_capget, &header, held) || memcmp(none, held, sizeof none))
        die("the template has capabilities");
    if (!own_user_namespace())
        die("the template has no user namespace of its own");
}

/* Returns only as pid 1 of a job's namespaces. */
void make_sandboxes(void)
{
    uid_t uid = getuid();
    gid_t gid = getgid();
    umask(022);
    check_confined();
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    prctl(PR_SET_DUMPABLE, 0);
    signal(SIGCHLD, SIG_IGN); /* nobody waits for them here: the service has a pidfd of each */
    fcntl(CONTROL, F_SETFD, FD_CLOEXEC);
    send(CONTROL, (unsigned char[]){'H', PROTOCOL}, 2, MSG_NOSIGNAL);
    while (take()) {
        int pidfd = -1, entered;
        pid_t child = make_child(&pidfd, &entered);
        if (child == 0) {
            become_sandbox(uid, gid, entered);
            return;
        }
        answer(child, pidfd);
        if (pidfd >= 0)
            close(pidfd);
        for (size_t i = 0; i < wanted.fd_count; i++)
            close(wanted.fds[i]);
    }
    _exit(0);
}
