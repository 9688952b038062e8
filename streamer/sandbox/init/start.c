/* The start of programs. */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* 'M' paths, NUL-ended: what is in these mounts of the sandbox's own is the job's use. */
int keep_mounts(unsigned char *data, size_t size)
{
    if (!size || data[size - 1]) {
        errno = EPROTO;
        return 0;
    }
    for (char *path = (char *)data; path < (char *)data + size; path += strlen(path) + 1)
        watch_mount(path);
    return 1;
}

static void limit(int resource, uint64_t soft, uint64_t hard)
{
    struct rlimit now;
    /* A limit of the host that is below ours stays: we must not raise it. */
    if (!getrlimit(resource, &now) && now.rlim_max != RLIM_INFINITY && hard > now.rlim_max)
        hard = now.rlim_max;
    struct rlimit wanted = {soft < hard ? soft : hard, hard};
    if (setrlimit(resource, &wanted))
        _exit(125);
}

struct program {
    unsigned char *limits;
    uint32_t limit_count;
    char *cwd, **argv, **env;
    pid_t init; /* we, before the fork */
    int forked; /* it is a copy of us, and nothing is executed */
    int gate;   /* where it waits, or -1 */
    int stays;  /* it waits there until its job has come */
    int terminal; /* its descriptors are those of a terminal, which becomes its own */
};

const struct forking *forking;

static struct sock_fprog filter; /* of system calls, if the service sent one */

/* What stands for our process id in the rules of the filter (seccomp/rules.py), which cannot know it;
 * Linux has none beyond 4194304. */
enum { INIT_PID = 0x40000001 };

/* 'B' an array of struct sock_filter (seccomp(2)): put on every program started from then
 * on, never on ourselves. */
int keep_filter(const unsigned char *data, size_t size)
{
    size_t count = size / sizeof *filter.filter;
    if (!count || size % sizeof *filter.filter || count > BPF_MAXINSNS || filter.filter) {
        errno = EPROTO;
        return 0;
    }
    filter.filter = malloc(size);
    if (!filter.filter)
        return 0;
    memcpy(filter.filter, data, size);
    for (size_t i = 0; i < count; i++)
        if (filter.filter[i].code == (BPF_JMP | BPF_JEQ | BPF_K) && filter.filter[i].k == INIT_PID)
            filter.filter[i].k = (uint32_t)getpid();
    filter.len = (unsigned short)count;
    return 1;
}

/* Until we let it go on, or trace it; it must be dumpable for that. */
static void wait_at(int gate, int awaited)
{
    char byte = 0;
    if ((awaited && write(gate, &byte, 1) != 1) || read(gate, &byte, 1) != 1)
        _exit(125);
    close(gate);
}

static void become_program(struct program *p, const int fds[3])
{
    if (p->forked)
        forking->renew();
    /* While the service can still be told that the program does not run: what follows
     * replaces our end of the socket. It is all our own code up to the exec. */
    if (filter.len && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter)) {
        tell_failure('b');
        _exit(125);
    }
    sigset_t none;
    sigemptyset(&none);
    for (int i = 1; i < NSIG; i++)
        signal(i, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    /* A group of its own to signal, in a session that it does not lead: a leader could not setpgid(2)
     * itself. On a terminal it leads one, as it does in any other: only a leader can have the terminal
     * (TIOCSCTTY), and when it ends the kernel hangs up for the others. */
    if (!p->terminal)
        setpgid(0, 0);
    else if (setsid() < 0 || ioctl(fds[0], TIOCSCTTY, 0)) {
        tell_failure('y');
        _exit(125);
    }
    for (int i = 0; i < 3; i++)
        if (dup2(fds[i], i) < 0)
            _exit(125);
    int gate = p->gate < 0 ? -1 : dup2(p->gate, 3);
    syscall(SYS_close_range, gate < 0 ? 3 : 4, ~0U, 0);
    /* Out of memory, the kernel must kill the program and not us: we report the verdict.
     * Our own /proc files are root's while we are not dumpable, and a program is. */
    prctl(PR_SET_DUMPABLE, 1);
    int score = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (score >= 0 && write(score, "1000", 4) == 4)
        close(score);
    /* Where we are not pid 1 the program must not outlive us, who may be gone by now. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != p->init)
        _exit(125);
    umask(022);
    if (chdir(p->cwd)) {
        if (p->gate < 0) /* its pipes are those of a job to come, which tries again */
            dprintf(2, "cannot enter the working directory: %s\n", strerror(errno));
        _exit(126);
    }
    for (uint32_t i = 0; i < p->limit_count; i++) {
        unsigned char *at = p->limits + 20 * i;
        limit((int)get32(at), get64(at + 4), get64(at + 12));
    }
    if (p->gate >= 0)
        wait_at(gate, !p->stays);
    if (p->stays)
        p->gate = -1; /* its pipes are those of its job from now on */
    if (p->forked)
        forking->go_on();
    environ = p->env;
    execvpe(p->argv[0], p->argv, p->env);
    /* As a shell does: 127 not found, 126 found and not executable. */
    if (p->gate < 0)
        dprintf(2, "%s: %s\n", p->argv[0], strerror(errno));
    _exit(errno == ENOENT ? 127 : 126);
}

/* Start a program in a session that is not ours. The kernel may share the processors out among
 * sessions (sched(7), "autogroup"): in ours its processes could keep us from running, and so from
 * watching its limits. A process that ends at once makes the session, and the program as our child
 * (CLONE_PARENT); with vfork(2), so that it shares our memory. */
static pid_t start_program(struct program *p, const int fds[3])
{
    volatile pid_t program = -1;
    volatile int problem = EAGAIN;
    pid_t leader = vfork();
    if (leader == 0) {
        program = setsid() < 0 ? -1 : (pid_t)syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
        if (program == 0)
            become_program(p, fds);
        problem = errno;
        _exit(0);
    }
    if (leader < 0)
        return -1;
    while (waitpid(leader, NULL, 0) < 0 && errno == EINTR)
        ;
    errno = problem;
    return program;
}

/* Start a program that waits until its gate is opened. */
static pid_t start_gated(struct program *p, const int fds[3], void (*open_gate)(int gate))
{
    int gate[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, gate))
        return -1;
    p->gate = gate[1];
    job.pid = start_program(p, fds);
    int failure = errno;
    close(gate[1]);
    if (job.pid > 0)
        open_gate(gate[0]);
    close(gate[0]);
    errno = failure;
    return job.pid;
}

/* A copy of us would otherwise be its job's program before the leader of its session is gone. */
static void let_go_on(int gate)
{
    char byte;
    if (read(gate, &byte, 1) != 1 || write(gate, &byte, 1) != 1)
        return; /* it has been killed */
}

static pid_t start(struct program *p, const int fds[3], uint32_t flags)
{
    if (p->stays)
        return start_gated(p, fds, hold_unexecuted);
    if (flags & HOLD)
        return start_gated(p, fds, p->forked ? hold_forked : hold_program);
    return p->forked ? start_gated(p, fds, let_go_on) : start_program(p, fds);
}

static char **strings(unsigned char **at, unsigned char *end, uint32_t count)
{
    char **list = calloc((size_t)count + 1, sizeof *list);
    for (uint32_t i = 0; list && i < count; i++) {
        unsigned char *stop = memchr(*at, 0, (size_t)(end - *at));
        if (!stop)
            return NULL;
        list[i] = (char *)*at;
        *at = stop + 1;
    }
    return list;
}

/* 'R' u64 CPU limit in us, u64 memory limit and u64 disk limit in bytes (0: none), u32 limit
 * of files in the workspace, u32 flags (WALK_DISK: the workspace has to be walked, else it is a mount
 * of its own; GROUP_*: what a control group does; HOLD: its job comes later; GATE: so it does, and nothing
 * of the program is executed before; FORK: it is the program that waits in us; TERMINAL: it runs on the terminal;
 * KEEP: what it leaves may go on, and a group counts its CPU time), u32 count of limits, u32 count of
 * arguments, u32 count of variables; each limit u32 resource, u64 soft, u64 hard;
 * then NUL-ended strings: working directory, arguments, variables. Standard input,
 * output and error came just before as descriptors, without a terminal. */
int start_job(unsigned char *data, size_t size)
{
    struct program p;
    unsigned char *end = data + size, *at;
    if (size < 44 || job.pid || (get32(data + 28) & FORK && !forking)) {
        errno = EPROTO;
        return 0;
    }
    int slave = terminal_of_program(), terminal[3] = {slave, slave, slave};
    p.terminal = (get32(data + 28) & TERMINAL) != 0;
    if (in.fd_count != (p.terminal ? 0 : 3) || (p.terminal && slave < 0)) {
        errno = EPROTO;
        return 0;
    }
    const int *fds = p.terminal ? terminal : in.fds;
    p.limit_count = get32(data + 32);
    uint32_t arguments = get32(data + 36), variables = get32(data + 40);
    p.limits = data + 44;
    at = p.limits + (size_t)p.limit_count * 20;
    if (at > end || arguments > size || variables > size) {
        errno = EPROTO;
        return 0;
    }
    if (!files_are_whole())
        return 0;
    char **cwd = strings(&at, end, 1);
    p.argv = strings(&at, end, arguments);
    p.env = strings(&at, end, variables);
    if (!cwd || !p.argv || !p.env || !arguments) {
        errno = EPROTO;
        return 0;
    }
    p.cwd = cwd[0];
    memset(&job, 0, sizeof job);
    job.cause = '-';
    job.keeps = (get32(data + 28) & KEEP) != 0;
    job.on_terminal = p.terminal;
    job.cpu_limit_us = job.keeps ? 0 : get64(data);
    job.memory_limit = get64(data + 8);
    job.disk_limit = get64(data + 16);
    job.inode_limit = get32(data + 24);
    job.walk_disk = get32(data + 28) & WALK_DISK;
    job.group = get32(data + 28) & (GROUP_MEMORY | GROUP_TIME | GROUP_SHARE);
    job.started_us = microseconds(CLOCK_MONOTONIC);
    forget_processes();
    begin_watch();
    p.init = getpid();
    p.gate = -1;
    p.forked = (get32(data + 28) & FORK) != 0;
    p.stays = (get32(data + 28) & GATE) != 0;
    job.pid = start(&p, fds, get32(data + 28));
    int crowded = job.pid < 0 && job.keeps && errno == EAGAIN;
    if (crowded)
        end_unstarted(fds[2]);
    for (int i = 0; i < in.fd_count; i++)
        close(in.fds[i]);
    in.fd_count = 0;
    free(cwd);
    free(p.argv);
    free(p.env);
    if (job.pid < 0) {
        job.pid = 0;
        return 0;
    }
    return 1;
}
