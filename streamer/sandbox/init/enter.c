/* Outside the sandbox: enter control groups, become the sandbox's user, execute. */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif

/* The argument of clone3(2) up to Linux 5.7; older headers do not have all of it. */
struct clone_into {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
        set_tid_size, cgroup;
};

static void write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
        die(path);
    close(fd);
}

/* Lower a setting of a user namespace of our own; return whether that worked. */
int bound(const char *path, const char *most)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    int done = fd >= 0 && write(fd, most, strlen(most)) >= 0, failure = errno;
    if (fd >= 0)
        close(fd);
    errno = failure;
    return done;
}

static void become(long uid, long gid)
{
    if (uid < 0)
        return;
    if (setgroups(0, NULL) || setresgid(gid, gid, gid) || setresuid(uid, uid, uid))
        die("cannot become the sandbox's user");
}

/* What a job shares with all other programs of its account, by the counters of its user namespace
 * (namespaces(7), "The /proc/sys/user directory"). Without namespaces of cgroups it cannot mount
 * those of its account again, which `hide_cgroups` hides. */
static const struct {
    const char *path, *most;
} bounds[] = {
    {"/proc/sys/user/max_inotify_instances", INOTIFY_INSTANCES},
    {"/proc/sys/user/max_inotify_watches", INOTIFY_WATCHES},
    {"/proc/sys/user/max_cgroup_namespaces", "0"},
};

static void bound_all(void)
{
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++)
        if (!bound(bounds[i].path, bounds[i].most) && errno != ENOENT) /* before Linux 4.11 */
            die(bounds[i].path);
}

/* A part of /proc that is mounted. /proc/pressure is such a part: each trigger that a job sets there by
 * writing (Documentation/accounting/psi.rst) delays its end by an RCU grace period, 4096 of them by a
 * minute, in which nothing can kill it. */
void make_read_only(const char *path)
{
    unsigned long kept = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;
    if (access(path, F_OK) && errno == ENOENT)
        return; /* this kernel has none */
    if (mount(path, path, NULL, MS_BIND, NULL) || mount(NULL, path, NULL, MS_REMOUNT | MS_BIND | kept, NULL))
        die(path);
}

/* A folder of the host, for a job that runs as its owner. The kernel lets nobody drop a flag of the
 * mount that it is taken from. */
static void show_read_only(const char *path)
{
    static const struct {
        unsigned long of_file_system, of_mount;
    } flags[] = {
        {ST_NOSUID, MS_NOSUID},         {ST_NODEV, MS_NODEV},       {ST_NOEXEC, MS_NOEXEC},
        {ST_NOATIME, MS_NOATIME},       {ST_NODIRATIME, MS_NODIRATIME},
        {ST_RELATIME, MS_RELATIME},
    };
    struct statvfs there;
    unsigned long kept = MS_RDONLY;
    if (mount(path, path, NULL, MS_BIND | MS_REC, NULL)) {
        if (errno == ENOENT)
            return; /* it was removed meanwhile */
        die(path);
    }
    if (statvfs(path, &there))
        die(path);
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (there.f_flag & flags[i].of_file_system)
            kept |= flags[i].of_mount;
    if (mount(NULL, path, NULL, MS_REMOUNT | MS_BIND | kept, NULL))
        die(path);
}

/* An account may end processes of its control groups by writing to a file (cgroup.kill). */
static void hide_cgroups(void)
{
    if (mount("tmpfs", "/sys/fs/cgroup", "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
              "size=4k,mode=755")
        && errno != ENOENT && errno != ENOTDIR)
        die("cannot hide the control groups");
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

/* Fork, with the child in a group of version 2, if one is given. A process that enters it later,
 * by its cgroup.procs, waits for an RCU grace period: 12 ms if nobody else did just before. */
static pid_t fork_into(const char *group)
{
    char procs[4096];
    int fd = -1;
    if (group && (fd = open(group, O_PATH | O_DIRECTORY | O_CLOEXEC)) < 0)
        die(group);
    if (fd >= 0) {
        struct clone_into how = {
            .flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (uint64_t)fd};
        pid_t child = (pid_t)syscall(SYS_clone3, &how, sizeof how);
        close(fd);
        if (child >= 0)
            return child;
    }
    /* Before Linux 5.7, or where a filter of system calls has no clone3. If the group itself is
     * the reason, the write says so. */
    pid_t child = fork();
    if (group && !child) {
        snprintf(procs, sizeof procs, "%s/cgroup.procs", group);
        write_file(procs, "0"); /* 0 is the writer itself: cgroups(7) */
    }
    return child;
}

/* Wait for the child, outside its namespaces and its group, and end as it does. */
static void follow(pid_t child, pid_t parent)
{
    int status;
    /* The other ends of its descriptors must see when the child has closed them. */
    for (int fd = 0; fd < 3; fd++)
        close(fd);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(125);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    if (WIFSIGNALED(status)) {
        sigset_t the_same;
        prctl(PR_SET_DUMPABLE, 0); /* one core file is enough */
        signal(WTERMSIG(status), SIG_DFL);
        sigemptyset(&the_same);
        sigaddset(&the_same, WTERMSIG(status));
        kill(getpid(), WTERMSIG(status));
        sigprocmask(SIG_UNBLOCK, &the_same, NULL);
        _exit(128 + WTERMSIG(status));
    }
    _exit(WEXITSTATUS(status));
}

/* Go on as a child, while this process only waits for it. It ignores what is sent to the process
 * group of both, except what nobody can. */
static void go_on_in_child(const char *group, pid_t parent)
{
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    pid_t child = fork_into(group);
    if (child < 0)
        die("fork");
    if (child > 0)
        follow(child, parent);
    sigprocmask(SIG_SETMASK, &before, NULL);
}

int enter(char **argv)
{
    pid_t parent = getppid(), waiting = getpid();
    const char *group = NULL;
    long uid = -1, gid = -1;
    int own_pids = 0;
    char **options = argv;
    for (; *argv && strcmp(*argv, "--"); argv++) {
        if (!strncmp(*argv, "--uid=", 6))
            uid = atol(*argv + 6);
        else if (!strncmp(*argv, "--gid=", 6))
            gid = atol(*argv + 6);
        else if (!strncmp(*argv, "--cgroup=", 9))
            write_file(*argv + 9, "0");
        else if (!strncmp(*argv, "--start-in=", 11))
            group = *argv + 11;
        else if (!strcmp(*argv, "--pid-namespace"))
            own_pids = 1;
        else if (!strncmp(*argv, "--read-only=", 12))
            ; /* below, in a mount namespace */
        else
            die(*argv);
    }
    if (!*argv || !argv[1]) {
        errno = EINVAL;
        die("no command");
    }
    argv++;
    int root = geteuid() == 0;
    if (own_pids)
        new_namespaces();
    if (own_pids || group)
        go_on_in_child(group, parent);
    if (own_pids) {
        /* Without a /proc of its own the job would see, and could open, the host's
         * processes. In a container whose /proc is masked the kernel refuses: the init then
         * says that it sees nothing, and the service does without this backend. */
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
        int seen = !mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
        if (seen)
            make_read_only("/proc/pressure");
        if (!root && seen)
            bound_all();
        if (!root)
            hide_cgroups();
        for (; strcmp(*options, "--"); options++)
            if (!strncmp(*options, "--read-only=", 12))
                show_read_only(*options + 12);
    }
    become(uid, gid);
    if (own_pids)
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (own_pids || group) {
        /* Cleared by a change of user, so set last; the parent may be gone already, which
         * cannot be seen in a namespace of process ids of its own. */
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (!own_pids && getppid() != waiting)
            _exit(125);
    }
    execvp(argv[0], argv);
    die(argv[0]);
    return 125;
}
