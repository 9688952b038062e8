/* The processes of the job: which there are, and the CPU time of each. */
#define _GNU_SOURCE
#include "init.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statfs.h>
#include <unistd.h>

/* A child whose parent ignores SIGCHLD vanishes and is counted nowhere (wait(2), notes), so we
 * add up what we see of each process. That misses what it does after our last look, and
 * processes that we never see. So we also estimate: of processes that live for less than the
 * time between two looks we see one in a few, and extrapolate from it. */
static struct seen {
    pid_t pid;
    uint64_t started_us, own_us;
} *before, *now;
static size_t before_count, now_count, room;
static uint64_t looked_us;

/* ---- whether there is a new one ------------------------------------------------------- */

static int newest_is_in = -1; /* /proc/loadavg */
static long newest;           /* at the last survey; 0 if that was incomplete */

/* Opened before a program runs, as long as nothing can be mounted over it. */
void keep_sight(void)
{
    struct statfs fs;
    newest_is_in = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
    if (newest_is_in >= 0 && (fstatfs(newest_is_in, &fs) || fs.f_type != PROC_SUPER_MAGIC)) {
        close(newest_is_in); /* containers may have a file system of their own there (lxcfs) */
        newest_is_in = -1;
    }
}

/* The process or thread that was created last in our namespace: the last field (proc_loadavg(5)). */
static long newest_process(void)
{
    char text[128];
    ssize_t got = newest_is_in < 0 ? -1 : pread(newest_is_in, text, sizeof text - 1, 0);
    if (got <= 0)
        return 0;
    text[got] = 0;
    char *last = strrchr(text, ' ');
    return last ? atol(last) : 0;
}

/* The clock of a process counts all its threads, in nanoseconds (clock_getcpuclockid(3)). */
static int own_time(pid_t pid, uint64_t *us)
{
    struct timespec ran;
    clockid_t clock = (clockid_t)((~(unsigned)pid << 3) | 2);
    if (clock_gettime(clock, &ran))
        return 0;
    *us = (uint64_t)ran.tv_sec * 1000000 + (uint64_t)ran.tv_nsec / 1000;
    return 1;
}

static int told; /* whether it does, or -1: the first survey finds out */

/* Called just before the program is started. */
void forget_processes(void)
{
    before_count = now_count = 0;
    looked_us = microseconds(CLOCK_BOOTTIME);
    newest = newest_process();
    told = -1;
}

/* Called when the job of a program has come that was held, while nobody looked: nothing can have lived
 * and vanished unseen in that time. */
void begin_looking(void)
{
    looked_us = microseconds(CLOCK_BOOTTIME);
}

/* Whether no process or thread was started, and none was reaped, since the last survey; and the CPU
 * time that they have used since this was last asked. Reads no file of a process. */
int same_processes(uint64_t *ran_us)
{
    uint64_t time_us = microseconds(CLOCK_BOOTTIME);
    *ran_us = 0;
    if (told <= 0 || !newest || newest_process() != newest)
        return 0;
    for (size_t i = 0; i < before_count; i++) {
        uint64_t own_us;
        if (!own_time(before[i].pid, &own_us))
            return 0;
        uint64_t more = own_us > before[i].own_us ? own_us - before[i].own_us : 0;
        before[i].own_us += more;
        job.seen_us += more;
        job.estimated_us += more;
        *ran_us += more;
    }
    looked_us = time_us;
    return 1;
}

/* ---- all of them ---------------------------------------------------------------------- */

static int make_room(void)
{
    size_t wanted = room ? room * 2 : 256;
    struct seen *a = realloc(before, wanted * sizeof *a);
    if (a)
        before = a;
    struct seen *b = realloc(now, wanted * sizeof *b);
    if (b)
        now = b;
    if (a && b)
        room = wanted;
    return a && b;
}

/* /proc is read in the order of process ids, so `at` only grows. */
static void remember(pid_t pid, const struct stat_line *stat, size_t *at, uint64_t time_us)
{
    uint64_t more = stat->own_us, likely = more;
    uint64_t age = time_us > stat->started_us ? time_us - stat->started_us : 0;
    uint64_t interval = time_us - looked_us;
    if (now_count == room && !make_room()) {
        told = 0; /* one that is not remembered would not be missed */
        return;
    }
    now[now_count++] = (struct seen){pid, stat->started_us, stat->own_us};
    while (*at < before_count && before[*at].pid < pid)
        ++*at;
    if (*at < before_count && before[*at].pid == pid
        && before[*at].started_us == stat->started_us)
        likely = more = more > before[*at].own_us ? more - before[*at].own_us : 0;
    else if (age && age < interval)
        likely = more * interval / age;
    job.seen_us += more;
    job.estimated_us += likely;
}

/* Whether /proc shows our process-id namespace, and not the host's (see `enter`). */
int proc_is_ours(void)
{
    char self[16] = "";
    return readlink("/proc/self", self, sizeof self - 1) > 0 && atol(self) == getpid();
}

/* Sum over every process here but pid 1 and ourselves. What LOOK sees is remembered for the next one. */
void survey(enum survey how, struct usage *used)
{
    DIR *proc = proc_is_ours() ? opendir("/proc") : NULL;
    struct dirent *entry;
    size_t at = 0;
    int complete = 1;
    uint64_t time_us = microseconds(CLOCK_BOOTTIME);
    long last = newest_process(); /* what is created from now on we may see or not */
    memset(used, 0, sizeof *used);
    if (!proc) {
        check_sight();
        return;
    }
    now_count = 0;
    while ((entry = readdir(proc))) {
        struct stat_line stat;
        pid_t pid = (pid_t)atol(entry->d_name);
        if (pid <= 1 || pid == getpid())
            continue;
        if (!read_stat(entry->d_name, &stat)) {
            complete = 0; /* it has just ended, or the kernel was out of memory */
            continue;
        }
        own_time(pid, &stat.own_us); /* which /proc/PID/stat has in ticks */
        /* A process's reaped children count here; its rusage counts them too once we reap it. */
        used->cpu_us += stat.own_us + stat.children_us;
        used->running += running_threads(entry->d_name, &stat);
        if (pid != getppid()) /* a shell of the wrapper, in firejail */
            used->threads += (uint64_t)stat.threads;
        memory_of(entry->d_name, how == EXACT, used);
        if (how == LOOK)
            remember(pid, &stat, &at, time_us);
    }
    closedir(proc);
    if (how == LOOK) {
        struct seen *spare = before;
        before = now;
        before_count = now_count;
        now = spare;
        looked_us = time_us;
        if (told < 0) /* the program was created since */
            told = last && last != newest;
        newest = complete ? last : 0;
    }
}
