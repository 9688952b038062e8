/* The end of a program, by itself or by us, with everything it started. */
#define _GNU_SOURCE
#include "init.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { STOP_PASSES = 50, STOP_PAUSE_US = 1000, MOST_AT_ONCE = 1000 };

struct job job;

static uint64_t earlier_us; /* CPU time of the programs before */

static uint64_t micros(const struct timeval *t)
{
    return (uint64_t)t->tv_sec * 1000000 + (uint64_t)t->tv_usec;
}

/* Whether the process, alive or not, has us among its ancestors; -1 if one vanished meanwhile. */
static int descends(const struct stat_line *stat)
{
    struct stat_line at = *stat;
    char pid[16];
    while (at.parent > 1 && at.parent != getpid()) {
        snprintf(pid, sizeof pid, "%d", at.parent);
        if (!read_stat(pid, &at))
            return -1;
    }
    return at.parent == getpid();
}

/* Signal all that comes from us; return how many of them could still run. */
static int signal_descendants(int number)
{
    DIR *proc = opendir("/proc");
    struct dirent *entry;
    int running = 0;
    if (!proc) {
        check_sight(); /* otherwise we would wait for processes that we cannot see and kill */
        return 0;
    }
    while ((entry = readdir(proc))) {
        struct stat_line stat;
        pid_t pid = (pid_t)atol(entry->d_name);
        if (pid <= 1 || pid == getpid() || !read_stat(entry->d_name, &stat))
            continue;
        int ours = descends(&stat);
        if (ours > 0)
            kill(pid, number);
        /* 'Z' is also a process whose first thread has ended and whose others go on: it is
         * signalled as any other, and its state tells no more. 't' waits for us (hold.c). */
        running += ours && !strchr("TtZX", stat.state);
    }
    closedir(proc);
    return running;
}

/* As pid 1, kill(2) with -1 reaches everything in our namespace but us, at once and
 * without a race against fork. Otherwise it would reach the user's other processes, so we
 * go from one to the next. What is stopped cannot fork, nor make room for another to fork by
 * its end; to kill one by one would be a race that a fork bomb wins. */
static void kill_all(void)
{
    if (getpid() == 1) {
        kill(-1, SIGKILL);
        return;
    }
    for (int pass = 0; pass < STOP_PASSES && signal_descendants(SIGSTOP); pass++)
        usleep(STOP_PAUSE_US);
    signal_descendants(SIGKILL);
}

static void account(pid_t pid, int status, const struct rusage *usage)
{
    uint64_t peak = (uint64_t)usage->ru_maxrss * 1024;
    int waits = is_held();
    if (WIFSTOPPED(status)) {
        thread_has_stopped(pid, status);
        return;
    }
    if (thread_has_ended(pid))
        return;
    job.reaped_us += micros(&usage->ru_utime) + micros(&usage->ru_stime);
    if (peak > job.peak_process)
        job.peak_process = peak;
    if (pid == job.pid) {
        job.ended = 1;
        job.status = status;
        leave_terminal(); /* what it has left has an end, which is there when nobody is at it any more */
        job.wall_us = waits ? 0 : microseconds(CLOCK_MONOTONIC) - job.started_us;
    }
}

/* Take what has ended, and what has stopped because we trace it; return whether there may be more. */
int reap(void)
{
    struct rusage usage;
    int status;
    for (int i = 0; i < MOST_AT_ONCE; i++) {
        pid_t pid = wait4(-1, &status, WNOHANG, &usage);
        if (pid <= 0)
            return 0;
        account(pid, status, &usage);
    }
    return 1;
}

/* Leave nothing alive: returns when the kernel says that we have no child left. */
void end_all(void)
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
        reap();
    }
}

/* CPU time of the program that runs, with that of what is alive now. */
uint64_t cpu_of_run(uint64_t living_us)
{
    uint64_t now_us = job.reaped_us + living_us;
    if (!job.pid)
        return 0;
    return now_us > job.seen_us ? now_us : job.seen_us;
}

/* That of all programs. */
uint64_t cpu_so_far(uint64_t living_us)
{
    return earlier_us + cpu_of_run(living_us);
}

static void report_end(void)
{
    unsigned char out[1 + 4 + 4 * 8];
    /* The hard RLIMIT_CPU of one process is the same limit, seen by the kernel first. */
    if (job.cause == '-' && WIFSIGNALED(job.status) && job.cpu_limit_us
        && job.reaped_us >= job.cpu_limit_us
        && (WTERMSIG(job.status) == SIGXCPU || WTERMSIG(job.status) == SIGKILL))
        job.cause = 'c';
    uint64_t cpu_us = job.reaped_us > job.seen_us ? job.reaped_us : job.seen_us;
    if (job.keeps)
        cpu_us = 0; /* it has that of what was left before: only the group knows */
    if (job.cause == 'c' && cpu_us < job.cpu_limit_us)
        cpu_us = job.estimated_us; /* by which it was ended */
    earlier_us += cpu_us;
    out[0] = job.cause;
    put32(out + 1, (uint32_t)job.status);
    put64(out + 5, cpu_us);
    put64(out + 13, job.peak_process);
    put64(out + 21, job.peak_tree);
    put64(out + 29, job.wall_us);
    tell('X', out, sizeof out);
    job.pid = 0;
}

void finish_job(unsigned char cause)
{
    if (!job.pid)
        return;
    if (!job.ended)
        job.cause = cause;
    end_all();
    report_end();
}

/* Whether anything that a program has started is there. */
int rest_runs(void)
{
    siginfo_t info;
    return !waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) || errno != ECHILD;
}

/* The program has ended, and what it has left goes on, if that may be; else kill it. */
void leave_rest(void)
{
    if (!job.pid || !job.ended)
        return;
    if (!job.keeps) {
        finish_job('-');
        return;
    }
    if (job.on_terminal)
        hang_up();
    report_end();
}

/* There are as many processes as there may be, by what earlier programs have left: that is no fault of the
 * sandbox, and ends as a command that a shell cannot start. */
void end_unstarted(int output)
{
    dprintf(output, "the program cannot be started: there are as many processes as it may have, with those that "
                    "earlier jobs have left running\n");
    job.ended = 1;
    job.status = 126 << 8;
    leave_terminal();
    report_end();
}

/* The program has ended. Processes that it left may still write (filters behind a pipe, `tee`):
 * the service, which has the other ends of the pipes, is notified with a 'W', and answers with a
 * 'K' or a 'V' when nobody holds the pipes any more or the time for it is over. */
void end_or_linger(void)
{
    if (!rest_runs())
        finish_job('-');
    else if (!job.lingering) {
        job.lingering = 1;
        tell('W', NULL, 0);
    }
}
