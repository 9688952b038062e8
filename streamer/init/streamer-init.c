/* The init of a sandbox: the only process of ours inside it.
 *
 *   streamer-init enter [--cgroup=FILE]... [--uid=N] [--gid=N] [--pid-namespace] -- COMMAND...
 *       Outside the sandbox: enter control groups, become the unprivileged user that the
 *       sandbox is started as, optionally the first process of a new process-id
 *       namespace, and execute.
 *   streamer-init serve
 *       Inside the sandbox: speak with the service over the socket on standard input
 *       (see streamer/control.py), write the job's files, run its programs, account
 *       for them and end them all.
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
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CONTROL = 0, MAX_FRAME = 16 << 20, POLL_MS = 50, WALK_TICKS = 4 };

static void die(const char *what)
{
    fprintf(stderr, "streamer-init: %s: %s\n", what, strerror(errno));
    _exit(125);
}

/* ---- enter: outside the sandbox -------------------------------------------------- */

static void write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
        die(path);
    close(fd);
}

static void become(long uid, long gid)
{
    if (uid < 0)
        return;
    if (setgroups(0, NULL) || setresgid(gid, gid, gid) || setresuid(uid, uid, uid))
        die("cannot become the sandbox's user");
}

/* An ordinary user needs a user namespace to make the others; it maps nobody but itself. */
static void new_namespaces(void)
{
    uid_t uid = getuid();
    gid_t gid = getgid();
    if (geteuid() == 0) {
        if (unshare(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC))
            die("cannot make a process-id namespace");
        return;
    }
    if (unshare(CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC))
        die("cannot make a user namespace");
    char map[64];
    write_file("/proc/self/setgroups", "deny");
    snprintf(map, sizeof map, "%u %u 1", uid, uid);
    write_file("/proc/self/uid_map", map);
    snprintf(map, sizeof map, "%u %u 1", gid, gid);
    write_file("/proc/self/gid_map", map);
}

static int enter(char **argv)
{
    long uid = -1, gid = -1;
    int own_pids = 0;
    for (; *argv && strcmp(*argv, "--"); argv++) {
        if (!strncmp(*argv, "--uid=", 6))
            uid = atol(*argv + 6);
        else if (!strncmp(*argv, "--gid=", 6))
            gid = atol(*argv + 6);
        else if (!strncmp(*argv, "--cgroup=", 9))
            write_file(*argv + 9, "0"); /* 0 is the writer itself: cgroups(7) */
        else if (!strcmp(*argv, "--pid-namespace"))
            own_pids = 1;
        else
            die(*argv);
    }
    if (!*argv || !argv[1]) {
        errno = EINVAL;
        die("no command");
    }
    argv++;
    pid_t parent = getppid();
    if (own_pids) {
        new_namespaces();
        pid_t child = fork();
        if (child < 0)
            die("fork");
        if (child > 0) {
            int status;
            /* The socket's other end must see its end when the child is gone. */
            close(CONTROL);
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (getppid() != parent)
                _exit(125);
            while (waitpid(child, &status, 0) < 0 && errno == EINTR)
                ;
            _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
        }
        /* Without a /proc of its own the job would see, and could open, the host's
         * processes. In a container whose /proc is masked the kernel refuses; the
         * process-id namespace holds all the same. */
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
        become(uid, gid);
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        /* Cleared by a change of user, so set last; the parent may be gone already. */
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    } else {
        become(uid, gid);
    }
    execvp(argv[0], argv);
    die(argv[0]);
    return 125;
}

/* ---- the socket -------------------------------------------------------------------- */

static struct {
    unsigned char *bytes;
    size_t used, room;
    int fds[3];
    int fd_count;
} in;

static void put32(unsigned char *to, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        to[i] = (unsigned char)(value >> (8 * i));
}

static void put64(unsigned char *to, uint64_t value)
{
    for (int i = 0; i < 8; i++)
        to[i] = (unsigned char)(value >> (8 * i));
}

static uint32_t get32(const unsigned char *from)
{
    return from[0] | from[1] << 8 | from[2] << 16 | (uint32_t)from[3] << 24;
}

static uint64_t get64(const unsigned char *from)
{
    return get32(from) | (uint64_t)get32(from + 4) << 32;
}

static void tell(unsigned char type, const unsigned char *payload, size_t size)
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

static void tell_failure(unsigned char stage)
{
    unsigned char out[5] = {stage};
    put32(out + 1, (uint32_t)errno);
    tell('E', out, sizeof out);
}

/* Read what is there; 0 when the service is gone. */
static int receive(void)
{
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(3 * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
    } control;
    if (in.room - in.used < 65536) {
        in.room = in.room ? in.room * 2 : 1 << 17;
        in.bytes = realloc(in.bytes, in.room);
        if (!in.bytes)
            die("out of memory");
    }
    struct iovec part = {in.bytes + in.used, in.room - in.used};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1,
                             .msg_control = control.room, .msg_controllen = sizeof control.room};
    ssize_t got = recvmsg(CONTROL, &message, MSG_CMSG_CLOEXEC);
    if (got < 0)
        return errno == EINTR || errno == EAGAIN;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            if (count != 3 || in.fd_count) {
                errno = EPROTO;
                die("the service sent descriptors that nobody asked for");
            }
            memcpy(in.fds, CMSG_DATA(c), sizeof in.fds);
            in.fd_count = 3;
        }
    in.used += (size_t)got;
    return got > 0;
}

/* ---- accounting -------------------------------------------------------------------- */

static struct {
    pid_t pid;               /* the program, or 0 */
    int ended;               /* it was reaped: `status` holds */
    int status;
    unsigned char cause;     /* '-', or why we ended it: 'c' CPU, 'm' memory,
                              * 'd' disk, 'k' told to */
    uint64_t cpu_limit_us, memory_limit, disk_limit;
    uint32_t inode_limit, walk_disk;
    uint32_t ticks;
    uint64_t reaped_us;      /* CPU of everything reaped, its own reaped children included */
    uint64_t peak_process, peak_tree;
    struct timespec started;
    uint64_t wall_us;
} job;

static uint64_t micros(const struct timeval *t)
{
    return (uint64_t)t->tv_sec * 1000000 + (uint64_t)t->tv_usec;
}

static uint64_t since_start(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)(now.tv_sec - job.started.tv_sec) * 1000000
           + (uint64_t)((now.tv_nsec - job.started.tv_nsec) / 1000);
}

static ssize_t slurp(const char *pid, const char *name, char *into, size_t room)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%.20s/%s", pid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t got = read(fd, into, room - 1);
    close(fd);
    if (got >= 0)
        into[got] = 0;
    return got;
}

/* The fields of /proc/PID/stat after the command, which may hold anything: proc_pid_stat(5). */
static int read_stat(const char *pid, pid_t *parent, uint64_t *cpu_us)
{
    char text[1024], state;
    unsigned long user, system, child_user, child_system;
    if (slurp(pid, "stat", text, sizeof text) <= 0)
        return 0;
    char *rest = strrchr(text, ')');
    if (!rest || sscanf(rest + 1, " %c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %lu %lu",
                        &state, parent, &user, &system, &child_user, &child_system) != 6)
        return 0;
    /* A process's reaped children count here; its rusage counts them too once we reap it. */
    *cpu_us = (user + system + child_user + child_system)
              * (1000000 / (uint64_t)sysconf(_SC_CLK_TCK));
    return 1;
}

/* A line of /proc/PID/status or smaps_rollup, in bytes; 0 where there is none. */
static uint64_t kib_line(const char *text, const char *name)
{
    const char *line = strstr(text, name);
    return line ? strtoull(line + strlen(name), NULL, 10) * 1024 : 0;
}

/* All but mapped files: what a program may share with its children (MAP_SHARED) is memory
 * too. With `exact`, shared pages are divided among their users, so that forked workers
 * do not count their common pages many times over; a process that made itself
 * undumpable cannot be asked, and has only itself to blame. */
static uint64_t memory_of(const char *pid, int exact)
{
    char text[4096];
    if (exact && slurp(pid, "smaps_rollup", text, sizeof text) > 0)
        return kib_line(text, "\nPss_Anon:") + kib_line(text, "\nPss_Shmem:");
    if (slurp(pid, "status", text, sizeof text) <= 0)
        return 0;
    return kib_line(text, "\nRssAnon:") + kib_line(text, "\nRssShmem:");
}

/* Whether /proc shows our process-id namespace, and not the host's (see `enter`). */
static int proc_is_ours(void)
{
    char self[16] = "";
    return readlink("/proc/self", self, sizeof self - 1) > 0 && atol(self) == getpid();
}

/* Sum over every process here but pid 1 and ourselves. */
static void survey(int exact, uint64_t *cpu_us, uint64_t *memory)
{
    DIR *proc = proc_is_ours() ? opendir("/proc") : NULL;
    struct dirent *entry;
    *cpu_us = *memory = 0;
    if (!proc)
        return;
    while ((entry = readdir(proc))) {
        pid_t parent, pid = (pid_t)atol(entry->d_name);
        uint64_t cpu;
        if (pid <= 1 || pid == getpid() || !read_stat(entry->d_name, &parent, &cpu))
            continue;
        *cpu_us += cpu;
        *memory += memory_of(entry->d_name, exact);
    }
    closedir(proc);
}

/* ---- ending ------------------------------------------------------------------------ */

/* As pid 1, kill(2) with -1 reaches everything in our namespace but us, at once and
 * without a race against fork. Otherwise it would reach the user's other processes, so
 * we end our children; as a subreaper we inherit theirs, until none is left. */
static void kill_all(void)
{
    if (getpid() == 1) {
        kill(-1, SIGKILL);
        return;
    }
    DIR *proc = opendir("/proc");
    struct dirent *entry;
    if (!proc)
        return;
    while ((entry = readdir(proc))) {
        pid_t parent, pid = (pid_t)atol(entry->d_name);
        uint64_t cpu;
        if (pid > 1 && read_stat(entry->d_name, &parent, &cpu) && parent == getpid())
            kill(pid, SIGKILL);
    }
    closedir(proc);
}

static void account(pid_t pid, int status, const struct rusage *usage)
{
    uint64_t peak = (uint64_t)usage->ru_maxrss * 1024;
    job.reaped_us += micros(&usage->ru_utime) + micros(&usage->ru_stime);
    if (peak > job.peak_process)
        job.peak_process = peak;
    if (pid == job.pid) {
        job.ended = 1;
        job.status = status;
        job.wall_us = since_start();
    }
}

static void reap(void)
{
    struct rusage usage;
    int status;
    pid_t pid;
    while ((pid = wait4(-1, &status, WNOHANG, &usage)) > 0)
        account(pid, status, &usage);
}

/* Leave nothing alive: returns when the kernel says that we have no child left. */
static void end_all(void)
{
    struct rusage usage;
    int status;
    for (;;) {
        kill_all();
        pid_t pid = wait4(-1, &status, 0, &usage);
        if (pid > 0)
            account(pid, status, &usage);
        else if (errno == ECHILD)
            return;
    }
}

static void report_end(void)
{
    unsigned char out[1 + 4 + 4 * 8];
    /* The hard RLIMIT_CPU of one process is the same limit, seen by the kernel first. */
    if (job.cause == '-' && WIFSIGNALED(job.status) && job.cpu_limit_us
        && job.reaped_us >= job.cpu_limit_us
        && (WTERMSIG(job.status) == SIGXCPU || WTERMSIG(job.status) == SIGKILL))
        job.cause = 'c';
    out[0] = job.cause;
    put32(out + 1, (uint32_t)job.status);
    put64(out + 5, job.reaped_us);
    put64(out + 13, job.peak_process);
    put64(out + 21, job.peak_tree);
    put64(out + 29, job.wall_us);
    tell('X', out, sizeof out);
    job.pid = 0;
}

static void finish_job(unsigned char cause)
{
    if (!job.pid)
        return;
    if (!job.ended)
        job.cause = cause;
    end_all();
    report_end();
}

static uint64_t walked_bytes, walked_inodes;

static int count_entry(const char *path, const struct stat *entry, int type, struct FTW *at)
{
    (void)path, (void)type, (void)at;
    walked_bytes += (uint64_t)entry->st_blocks * 512;
    walked_inodes++;
    return walked_bytes > job.disk_limit || walked_inodes > job.inode_limit;
}

/* Whether the workspace, our working directory, is over its limit. A mount of its own
 * stops the job's writes by itself, so there the limit counts as reached when it is full:
 * a program that ignores ENOSPC would go on for ever. */
static int disk_is_full(void)
{
    struct statvfs fs;
    if (!job.disk_limit)
        return 0;
    if (job.walk_disk) {
        /* As long as a second job may take for it: the walk is bounded by the limits. */
        if (++job.ticks % WALK_TICKS)
            return 0;
        walked_bytes = walked_inodes = 0;
        return nftw(".", count_entry, 16, FTW_PHYS | FTW_MOUNT) > 0;
    }
    if (statvfs(".", &fs))
        return 0;
    return fs.f_bavail == 0 || fs.f_files - fs.f_ffree > job.inode_limit;
}

static void watch_limits(void)
{
    uint64_t cpu, memory;
    survey(0, &cpu, &memory);
    if (job.memory_limit && memory > job.memory_limit)
        survey(1, &cpu, &memory);
    if (memory > job.peak_tree)
        job.peak_tree = memory;
    if (job.memory_limit && memory > job.memory_limit)
        finish_job('m');
    else if (job.cpu_limit_us && job.reaped_us + cpu > job.cpu_limit_us)
        finish_job('c');
    else if (disk_is_full())
        finish_job('d');
}

/* ---- starting ---------------------------------------------------------------------- */

static int file = -1; /* the one that is being written */

/* Before a program runs: one that is open for writing cannot be executed (execve(2)). */
static void close_file(void)
{
    if (file >= 0)
        close(file);
    file = -1;
}

/* 'F' u32 mode, path NUL, content; 'A' content for the file before. The service has
 * checked the path; no program has run yet, so there is no link to be led astray by. */
static int put_file(unsigned char type, unsigned char *data, size_t size)
{
    size_t done = 0;
    if (type == 'F') {
        if (size < 5) {
            errno = EPROTO;
            return 0;
        }
        char *path = (char *)data + 4;
        size_t length = strnlen(path, size - 4);
        mode_t mode = (mode_t)get32(data) & 0777;
        if (4 + length >= size) {
            errno = EPROTO;
            return 0;
        }
        close_file();
        for (char *slash = path; (slash = strchr(slash + 1, '/'));) {
            *slash = 0;
            if (mkdir(path, 0755) && errno != EEXIST)
                return 0;
            *slash = '/';
        }
        file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (file < 0 || fchmod(file, mode))
            return 0;
        done = 4 + length + 1;
    }
    while (done < size) {
        ssize_t wrote = write(file, data + done, size - done);
        if (wrote < 0)
            return 0;
        done += (size_t)wrote;
    }
    return 1;
}

static void limit(int resource, uint64_t soft, uint64_t hard)
{
    struct rlimit now;
    /* A host limit below ours stays: raising it is not ours to do. */
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
};

static struct sock_fprog filter; /* of system calls, if the service sent one */

/* 'B' an array of struct sock_filter (seccomp(2)): put on every program started from then
 * on, never on ourselves. */
static int keep_filter(const unsigned char *data, size_t size)
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
    filter.len = (unsigned short)count;
    return 1;
}

static void become_program(struct program *p, const int fds[3])
{
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
    setsid();
    for (int i = 0; i < 3; i++)
        if (dup2(fds[i], i) < 0)
            _exit(125);
    syscall(SYS_close_range, 3, ~0U, 0);
    /* Out of memory, the kernel shall take the program and not us: we tell the verdict.
     * Our own /proc files are root's while we are not dumpable, and a program is. */
    prctl(PR_SET_DUMPABLE, 1);
    int score = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (score >= 0 && write(score, "1000", 4) == 4)
        close(score);
    /* Where we are not pid 1 the program must not outlive us. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    umask(022);
    if (chdir(p->cwd)) {
        dprintf(2, "cannot enter the working directory: %s\n", strerror(errno));
        _exit(126);
    }
    for (uint32_t i = 0; i < p->limit_count; i++) {
        unsigned char *at = p->limits + 20 * i;
        limit((int)get32(at), get64(at + 4), get64(at + 12));
    }
    environ = p->env;
    execvpe(p->argv[0], p->argv, p->env);
    /* As a shell does: 127 not found, 126 found and not executable. */
    dprintf(2, "%s: %s\n", p->argv[0], strerror(errno));
    _exit(errno == ENOENT ? 127 : 126);
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
 * of files in the workspace, u32 whether it has to be walked (else it is a mount of its own),
 * u32 count of limits, u32 count of arguments, u32 count of variables; each limit u32
 * resource, u64 soft, u64 hard;
 * then NUL-ended strings: working directory, arguments, variables. Standard input,
 * output and error came just before as descriptors. */
static int start_job(unsigned char *data, size_t size)
{
    struct program p;
    unsigned char *end = data + size, *at;
    if (size < 44 || in.fd_count != 3 || job.pid) {
        errno = EPROTO;
        return 0;
    }
    p.limit_count = get32(data + 32);
    uint32_t arguments = get32(data + 36), variables = get32(data + 40);
    p.limits = data + 44;
    at = p.limits + (size_t)p.limit_count * 20;
    if (at > end || arguments > size || variables > size) {
        errno = EPROTO;
        return 0;
    }
    char **cwd = strings(&at, end, 1);
    p.argv = strings(&at, end, arguments);
    p.env = strings(&at, end, variables);
    if (!cwd || !p.argv || !p.env || !arguments) {
        errno = EPROTO;
        return 0;
    }
    p.cwd = cwd[0];
    close_file();
    memset(&job, 0, sizeof job);
    job.cause = '-';
    job.cpu_limit_us = get64(data);
    job.memory_limit = get64(data + 8);
    job.disk_limit = get64(data + 16);
    job.inode_limit = get32(data + 24);
    job.walk_disk = get32(data + 28);
    clock_gettime(CLOCK_MONOTONIC, &job.started);
    job.pid = fork();
    if (job.pid == 0)
        become_program(&p, in.fds);
    for (int i = 0; i < 3; i++)
        close(in.fds[i]);
    in.fd_count = 0;
    free(cwd);
    free(p.argv);
    free(p.env);
    if (job.pid < 0) {
        job.pid = 0;
        return 0;
    }
    tell('S', NULL, 0);
    return 1;
}

/* ---- reaching out ------------------------------------------------------------------ */

/* 'N' u16 port: listen on it on the loopback of this network namespace, and hand the socket
 * to the service with an 'L': whoever connects to it here is served there. */
static int hand_out_listener(const unsigned char *data, size_t size)
{
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {0};
    unsigned char frame[5] = {1, 0, 0, 0, 'L'};
    struct iovec part = {frame, sizeof frame};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1,
                             .msg_control = control.room, .msg_controllen = sizeof control.room};
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    if (size != 2) {
        errno = EPROTO;
        return 0;
    }
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)(data[0] | data[1] << 8)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0)
        return 0;
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof listener);
    memcpy(CMSG_DATA(c), &listener, sizeof listener);
    int done = !bind(listener, (struct sockaddr *)&address, sizeof address)
               && !listen(listener, SOMAXCONN) && sendmsg(CONTROL, &message, MSG_NOSIGNAL) > 0;
    int failure = errno;
    close(listener);
    errno = failure;
    return done;
}

/* ---- serve: inside the sandbox ----------------------------------------------------- */

static void handle(unsigned char type, unsigned char *data, size_t size)
{
    switch (type) {
    case 'F':
    case 'A':
        if (!put_file(type, data, size))
            tell_failure('f');
        break;
    case 'B':
        if (!keep_filter(data, size)) {
            tell_failure('b');
            end_all(); /* a program may be asked for already: none runs without it */
            _exit(125);
        }
        break;
    case 'D': /* only carries the descriptors */
        break;
    case 'N':
        if (!hand_out_listener(data, size))
            tell_failure('n');
        break;
    case 'R':
        if (!start_job(data, size))
            tell_failure('r');
        break;
    case 'S':
        if (size == 4 && job.pid && !job.ended) {
            /* To the group, as a terminal's Ctrl-C; before its setsid there is none. */
            if (kill(-job.pid, (int)get32(data)))
                kill(job.pid, (int)get32(data));
        }
        break;
    case 'K':
        finish_job('k');
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

static int serve(void)
{
    sigset_t watched;
    struct itimerspec tick = {{0, POLL_MS * 1000000}, {0, POLL_MS * 1000000}};
    struct itimerspec stopped = {{0, 0}, {0, 0}};
    umask(022);
    prctl(PR_SET_DUMPABLE, 0);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (getpid() != 1)
        prctl(PR_SET_CHILD_SUBREAPER, 1);
    sigfillset(&watched);
    sigprocmask(SIG_SETMASK, &watched, NULL);
    sigemptyset(&watched);
    sigaddset(&watched, SIGCHLD);
    int children = signalfd(-1, &watched, SFD_CLOEXEC | SFD_NONBLOCK);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (children < 0 || timer < 0)
        die("signalfd or timerfd");
    fcntl(CONTROL, F_SETFD, FD_CLOEXEC);
    /* The kernel adds our process id, as the service sees it, to this (SO_PASSCRED). */
    tell('H', (unsigned char[]){1, getpid() == 1}, 2);
    for (;;) {
        struct pollfd on[3] = {{CONTROL, POLLIN, 0}, {children, POLLIN, 0}, {timer, POLLIN, 0}};
        int ticking = job.pid && !job.ended;
        timerfd_settime(timer, 0, ticking ? &tick : &stopped, NULL);
        while (poll(on, 3, -1) < 0 && errno == EINTR)
            ;
        if (on[1].revents) {
            struct signalfd_siginfo info;
            while (read(children, &info, sizeof info) > 0)
                ;
            reap();
            /* The program's end is the job's end, whatever it left running. */
            if (job.pid && job.ended)
                finish_job('-');
        }
        if (on[2].revents) {
            uint64_t ticks;
            if (read(timer, &ticks, sizeof ticks) > 0 && job.pid && !job.ended)
                watch_limits();
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

int main(int argc, char **argv)
{
    if (argc > 2 && !strcmp(argv[1], "enter"))
        return enter(argv + 2);
    if (argc == 2 && !strcmp(argv[1], "serve"))
        return serve();
    fprintf(stderr, "usage: streamer-init enter [--cgroup=FILE]... [--uid=N] [--gid=N] "
                    "[--pid-namespace] -- COMMAND... | serve\n");
    return 125;
}
