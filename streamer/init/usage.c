/* What the programs use now: CPU time, memory, disk. */
#define _GNU_SOURCE
#include "init.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { WALK_TICKS = 4 };

uint64_t since_start(void)
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
int read_stat(const char *pid, pid_t *parent, uint64_t *cpu_us)
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
void survey(int exact, uint64_t *cpu_us, uint64_t *memory)
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
int disk_is_full(void)
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
