/* The init of a sandbox: the only process of ours inside it.
 *
 *   streamer-init enter [--cgroup=FILE]... [--start-in=GROUP] [--uid=N] [--gid=N]
 *                 [--pid-namespace] -- COMMAND...
 *       Outside the sandbox: enter control groups, become the unprivileged user that the
 *       sandbox is started as, optionally the first process of a new process-id
 *       namespace, and execute. For the last, and for a group of version 2, a child goes
 *       on, and the process itself waits and ends as the child does.
 *   streamer-init serve [--terminal | --only-terminal] [--bound]
 *       Inside the sandbox: speak with the service over the socket on standard input
 *       (see streamer/sandbox/drivers/protocol.py), write the job's files, run its programs, account
 *       for them and end them all.
 *   streamer-init template
 *       Inside a sandbox that stays: make a sandbox for each job, whose first process then serves
 *       (template.c).
 *
 * Why a program of our own: a wrapper reports 128+n both for `exit 137` and for a
 * SIGKILL; nobody but the parent of a process learns its true wait status and usage, and
 * orphans go to pid 1. Why C: it starts in half a millisecond, an interpreter in ten.
 *
 * The job has the same user as we, so it must not be able to write to our socket or to
 * trace us: PR_SET_DUMPABLE 0 gives /proc/PID/fd of this process to root
 * (proc_pid_fd(5), ptrace(2)), and as pid 1 we cannot be signalled by the job
 * (pid_namespaces(7)).
 *
 * Frames on the socket, both ways: u32 length of what follows, u8 type, payload;
 * integers little endian.
 */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { MAX_FRAME = 16 << 20 };

void die(const char *what)
{
    fprintf(stderr, "streamer-init: %s: %s\n", what, strerror(errno));
    _exit(125);
}

static uint64_t look_us; /* when to look at the limits next, or 0 */

/* Until when programs may run, on CLOCK_BOOTTIME, or 0: the service moves it on, as long as it may run them. If it
 * stands still, or is cut off, others may run its jobs after that. */
static uint64_t until_us;
static int timer; /* which wakes us then; poll(2) does not count the time of a machine that is suspended */

static void end_at(uint64_t at_us)
{
    struct itimerspec at = {.it_value = {(time_t)(at_us / 1000000), (long)(at_us % 1000000) * 1000}};
    until_us = at_us;
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
}

static void end_in_time(void)
{
    if (!until_us || microseconds(CLOCK_BOOTTIME) < until_us)
        return;
    end_at(0);
    finish_job('l');
    end_all(); /* what earlier programs have left, too */
}

static void handle(unsigned char type, unsigned char *data, size_t size)
{
    switch (type) {
    case 'F':
    case 'A':
        take_file(type, data, size);
        break;
    case 'Q':
        if (!keep_quota(data, size))
            tell_failure('p');
        break;
    case 'Z':
        if (!take_project(size))
            tell_failure('p');
        break;
    case 'C':
        if (!check_files(data, size))
            tell_failure('p');
        break;
    case 'B':
        if (!keep_filter(data, size)) {
            tell_failure('b');
            end_all(); /* a request to run a program may follow: none may run without the filter */
            _exit(125);
        }
        break;
    case 'M':
        if (!keep_mounts(data, size))
            tell_failure('p');
        break;
    case 'D': /* only carries the descriptors */
        if (in.fd_count == 1) {
            errno = EPROTO;
            die("a program has three descriptors");
        }
        break;
    case 'N':
        if (!hand_out_listener(data, size))
            tell_failure('n');
        break;
    case 'O':
        if (!hand_out_path(data, size))
            tell_failure('p');
        break;
    case 'Y':
        if (!hand_out_terminal(data, size))
            tell_failure('y');
        break;
    case 'U':
        if (!tell_use(data, size))
            tell_failure('p');
        break;
    case 'R':
        if (!start_job(data, size))
            tell_failure('r');
        break;
    case 'T':
        if (!keep_same(data, size))
            tell_failure('p');
        break;
    case 'G':
        if (!release_program(size))
            tell_failure('r');
        look_us = 0;
        break;
    case 'L':
        if (size == 8)
            end_at(get64(data));
        break;
    case 'S':
        if (size == 4 && job.pid && !job.ended) {
            /* To the group, as a terminal's Ctrl-C; before its setpgid there is none. */
            if (kill(-job.pid, (int)get32(data)))
                kill(job.pid, (int)get32(data));
        }
        break;
    case 'K':
        finish_job('k');
        break;
    case 'V':
        leave_rest();
        break;
    default:
        errno = EPROTO;
        tell_failure('p');
    }
}

static void handle_frames(void)
{
    size_t at = 0;
    while (in.used - at >= 4) {
        uint32_t size = get32(in.bytes + at);
        if (size == 0 || size > MAX_FRAME) {
            end_all();
            _exit(125);
        }
        if (in.used - at - 4 < size)
            break;
        handle(in.bytes[at + 4], in.bytes + at + 5, size - 1);
        at += 4 + (size_t)size;
    }
    memmove(in.bytes, in.bytes + at, in.used - at);
    in.used -= at;
}

/* Whether the user namespace has one user, so it is not that of the host. */
int own_user_namespace(void)
{
    char map[64] = "";
    int fd = open("/proc/self/uid_map", O_RDONLY | O_CLOEXEC);
    unsigned inside, outside, count;
    int own = fd >= 0 && read(fd, map, sizeof map - 1) > 0
              && sscanf(map, "%u %u %u", &inside, &outside, &count) == 3 && count == 1;
    close(fd);
    return own;
}

static int unbounded; /* of what follows, something could not be done */

/* With --bound in a user namespace of the sandbox's own, and a capability in it: put its share on
 * what it has in common with the account's other programs, and give the capability up. A profile of
 * AppArmor may deny that capability. Then the service tells the operator: without this the sandbox is
 * as closed, and to refuse it would leave such a host with a weaker one. */
static void bound_namespace(void)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[2] = {0}, left[2];
    if (!own_user_namespace())
        die("this is not a user namespace of the sandbox's own");
    unbounded = !bound("/proc/sys/user/max_inotify_instances", INOTIFY_INSTANCES);
    unbounded |= !bound("/proc/sys/user/max_inotify_watches", INOTIFY_WATCHES);
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    if (syscall(SYS_capset, &header, none) || syscall(SYS_capget, &header, left)
        || memcmp(none, left, sizeof none))
        die("cannot give up the capabilities");
}

static int serve(void)
{
    sigset_t watched;
    int more = 0; /* whether there may be children to reap in any case */
    umask(022);
    setsid(); /* unless the wrapper has made us a leader of one: see become_program */
    prctl(PR_SET_DUMPABLE, 0);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (getpid() != 1)
        prctl(PR_SET_CHILD_SUBREAPER, 1);
    sigfillset(&watched);
    sigprocmask(SIG_SETMASK, &watched, NULL);
    sigemptyset(&watched);
    sigaddset(&watched, SIGCHLD);
    int children = signalfd(-1, &watched, SFD_CLOEXEC | SFD_NONBLOCK);
    if (children < 0)
        die("signalfd");
    timer = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC);
    if (timer < 0)
        die("timerfd_create");
    look_at_ipc();
    keep_sight();
    keep_workspace();
    fcntl(CONTROL, F_SETFD, FD_CLOEXEC);
    int flags = (proc_is_ours() ? SEES_PROC : 0) | (unbounded ? UNBOUNDED : 0);
    flags |= getpid() == 1 ? FIRST : 0;
    /* The kernel adds our process id, as the service sees it, to this (SO_PASSCRED). */
    tell('H', (unsigned char[]){PROTOCOL, (unsigned char)flags}, 2);
    for (;;) {
        struct pollfd on[3] = {{CONTROL, POLLIN, 0}, {children, POLLIN, 0}, {timer, POLLIN, 0}};
        uint64_t now_us = microseconds(CLOCK_MONOTONIC);
        /* Do this first: orphans may end all the time, which must not delay it. */
        if (!job.pid || stands_still())
            look_us = 0;
        else if (!look_us)
            look_us = next_look();
        else if (look_us <= now_us) {
            watch_limits();
            look_us = job.pid ? next_look() : 0;
        }
        end_in_time();
        int ready = poll(on, 3, more ? 0 : look_us ? (int)((look_us - now_us) / 1000) + 1 : -1);
        if (ready < 0 && errno != EINTR)
            break; /* the job has set our limit of descriptors: see check_sight */
        if (ready <= 0 && !more)
            continue;
        if (on[1].revents || more) {
            struct signalfd_siginfo info;
            while (read(children, &info, sizeof info) > 0)
                ;
            more = reap();
            if (job.pid && job.ended)
                end_or_linger();
        }
        if (on[0].revents) {
            if (!receive())
                break;
            handle_frames();
        }
    }
    end_all();
    return 0;
}

int serve_from_template(void)
{
    bound_namespace();
    return serve();
}

int main(int argc, char **argv)
{
    if (argc > 2 && !strcmp(argv[1], "enter"))
        return enter(argv + 2);
    if (argc > 1 && !strcmp(argv[1], "serve")) {
        int only = argc > 2 && !strcmp(argv[2], "--only-terminal");
        int terminal = only || (argc > 2 && !strcmp(argv[2], "--terminal"));
        int bounded = argc > 2 + terminal && !strcmp(argv[2 + terminal], "--bound");
        if (argc == 2 + terminal + bounded) {
            if (terminal && bounded)
                bring_terminal();
            else if (terminal)
                open_terminal("/dev/ptmx");
            if (only)
                forbid_terminals();
            if (bounded)
                bound_namespace();
            return serve();
        }
    }
    if (argc == 2 && !strcmp(argv[1], "template")) {
        make_sandboxes();
        return serve_from_template();
    }
    fprintf(stderr, "usage: streamer-init enter [--cgroup=FILE]... [--start-in=GROUP] [--uid=N] "
                    "[--gid=N] [--pid-namespace] -- COMMAND... | serve [--terminal | --only-terminal] [--bound] | "
                    "template\n");
    return 125;
}
