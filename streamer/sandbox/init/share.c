/* A job's share of the processors where no control group sees to it: that of one thread, if it
 * has a crowd of them. Where the kernel knows processes only, and no sessions, a program takes 16
 * times as long and more beside a bomb without this, and 3 times with it (benchmarks/neighbours.py). */
#define _GNU_SOURCE
#include "init.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { CROWD = 2, CROWDED_LOOKS = 4, LEAST = 19 };

typedef int (*visitor)(const char *pid, pid_t thread);

static int visit_threads(const char *pid, visitor visit)
{
    char path[48];
    int sum = 0;
    struct dirent *entry;
    snprintf(path, sizeof path, "/proc/%.20s/task", pid);
    DIR *threads = opendir(path);
    if (!threads)
        return 0;
    while ((entry = readdir(threads)))
        if (atol(entry->d_name) > 0)
            sum += visit(pid, (pid_t)atol(entry->d_name));
    closedir(threads);
    return sum;
}

static int runs(const char *pid, pid_t thread)
{
    char name[64];
    struct stat_line stat;
    snprintf(name, sizeof name, "%.20s/task/%d", pid, thread);
    return read_stat(name, &stat) && stat.state == 'R';
}

/* Asked once: the C library reads files for it. */
long processors(void)
{
    static long online;
    if (online < 1)
        online = sysconf(_SC_NPROCESSORS_ONLN);
    return online < 1 ? 1 : online;
}

int running_threads(const char *pid, const struct stat_line *stat)
{
    return stat->threads > 1 ? visit_threads(pid, runs) : stat->state == 'R';
}

static int lower(const char *pid, pid_t thread)
{
    (void)pid;
    setpriority(PRIO_PROCESS, (id_t)thread, job.nice);
    return 0;
}

/* Whether the processes in /proc are those of the host: where nothing has made a namespace of process
 * ids. 4026531836 is the inode of the first one in every kernel (PROC_PID_INIT_INO, proc_ns.h). As root
 * all of them, the kernel's own threads too, would be lowered for good. */
static int among_those_of_the_host(void)
{
    char name[32] = "";
    ssize_t len = readlink("/proc/self/ns/pid", name, sizeof name - 1);
    return len > 0 && !strcmp(name, "pid:[4026531836]");
}

/* One step of nice(2) is a fifth less (sched(7)), so the steps make up for the crowd. Nobody but
 * root can take them back, so it takes a crowd that stays. */
void share_processors(int running)
{
    struct dirent *entry;
    int nice = 0;
    if (running <= CROWD * processors()) {
        job.crowded = 0;
        return;
    }
    if (++job.crowded < CROWDED_LOOKS || among_those_of_the_host())
        return;
    for (long weight = 1000; weight < 1000L * running && nice < LEAST; nice++)
        weight += weight / 4;
    if (nice > job.nice)
        job.nice = nice;
    DIR *proc = opendir("/proc");
    if (!proc)
        return;
    while ((entry = readdir(proc))) {
        pid_t pid = (pid_t)atol(entry->d_name);
        if (pid > 1 && pid != getpid())
            visit_threads(entry->d_name, lower);
    }
    closedir(proc);
}
