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
#include <sys/wait.h>
#include <unistd.h>

static void write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
        die(path);
    close(fd);
}

/* Lower a setting of a user namespace of our own; kernels before Linux 4.11 do not have all. */
void bound(const char *path, const char *most)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0 && write(fd, most, strlen(most)) < 0 && errno != EINVAL)
        die(path);
    if (fd >= 0)
        close(fd);
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
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++)
        bound(bounds[i].path, bounds[i].most);
    write_file("/proc/self/setgroups", "deny");
    snprintf(map, sizeof map, "%u %u 1", uid, uid);
    write_file("/proc/self/uid_map", map);
    snprintf(map, sizeof map, "%u %u 1", gid, gid);
    write_file("/proc/self/gid_map", map);
}

int enter(char **argv)
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
        int root = geteuid() == 0;
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
         * processes. In a container whose /proc is masked the kernel refuses: the init then
         * says that it sees nothing, and the service does without this backend. */
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
        if (!root)
            hide_cgroups();
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
