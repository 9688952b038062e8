/* When to look at what the job uses, and what to do about it.
 *
 * Programs cannot take memory or disk without CPU time, and most wait most of the time. So a look is cheap
 * (`same_processes`) unless they have used some, and a survey of /proc, which opens files of each
 * process, waits until that is worth it. With a control group the kernel keeps to the limits meanwhile. */
#define _GNU_SOURCE
#include "init.h"

#include <string.h>

enum {
    ESTIMATE_SLACK_US = 500000,

    /* Between two looks on average: while something may happen, and at most. */
    SHORT_US = 50000,
    LONG_US = 500000,

    /* A survey is worth so much CPU time of the job, and due after so much time in any case. */
    SURVEY_RAN_US = 5000,
    SURVEY_US = 2000000,

    /* The most memory, in bytes, that can be touched in a microsecond of CPU time: 10 KiB was
     * measured, with huge pages. */
    TOUCHED = 16 << 10,

    /* What a job may use up of its room in a microsecond before the look is late: bytes of memory,
     * bytes and files of its mounts. One processor was measured at 2 KiB (in pages of 4 KiB) and 0.17
     * files. */
    MEMORY_RATE = 4 << 10,
    DISK_RATE = 1 << 10,
    US_PER_FILE = 4,

    /* Between two walks through a folder of the host, also as a multiple of the CPU time that the last
     * took. As long as a second job may take for it: the walk is bounded by the limits. */
    WALK_US = 200000,
    WALK_SHARE = 10,
};

static struct {
    struct usage used;             /* at the last survey */
    uint64_t memory;               /* in use then */
    uint64_t surveyed_us, ran_us;  /* when that was, and the CPU time used since */
    struct disk left;
    uint64_t walked_us, walk_took_us;
    int walk_pending;              /* the job may have changed the folder since */
    enum { IDLE, RUNS, BUSY } state; /* nothing has run; or processes have come, gone, or run for long */
} watch;

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t most(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Called when a program is about to start. */
void begin_watch(void)
{
    memset(&watch, 0, sizeof watch); /* no room is known, so the first look is soon */
    watch.state = BUSY;
}

/* The estimate depends on chance, so it must be far over the limit; a group counts everything. */
static int cpu_is_used_up(uint64_t living_us)
{
    return job.reaped_us + living_us > job.cpu_limit_us || job.seen_us > job.cpu_limit_us
           || (!(job.group & GROUP_TIME)
               && job.estimated_us > 2 * job.cpu_limit_us + ESTIMATE_SLACK_US);
}

static int survey_is_due(uint64_t now_us)
{
    return watch.ran_us >= SURVEY_RAN_US || now_us - watch.surveyed_us >= SURVEY_US
           || (job.memory_limit && !(job.group & GROUP_MEMORY)
               && watch.memory + watch.ran_us * TOUCHED > job.memory_limit);
}

/* Whether anything can have changed: what does not run takes nothing. */
static int look_at_processes(uint64_t now_us)
{
    uint64_t ran_us;
    int same = same_processes(&ran_us);
    watch.ran_us += ran_us;
    watch.state = !same || ran_us > SHORT_US / 10 ? BUSY : ran_us ? RUNS : IDLE;
    watch.walk_pending |= watch.state != IDLE;
    if (same && !survey_is_due(now_us))
        return watch.state != IDLE;
    survey(LOOK, &watch.used);
    watch.memory = memory_in_use(&watch.used);
    if (job.memory_limit && watch.memory > job.memory_limit) {
        struct usage exact;
        survey(EXACT, &exact);
        watch.memory = memory_in_use(&exact);
    }
    watch.surveyed_us = now_us;
    watch.ran_us = 0;
    if (watch.memory > job.peak_tree)
        job.peak_tree = watch.memory;
    return 1;
}

static uint64_t walk_pause(void)
{
    return most(WALK_US, least(WALK_SHARE * watch.walk_took_us, SURVEY_US));
}

/* What was written to a file may arrive on a disk later, so it is walked now and then in any case. */
static int folder_is_over(uint64_t now_us)
{
    uint64_t pause_us = watch.walk_pending ? walk_pause() : SURVEY_US;
    if (!job.walk_disk || now_us - watch.walked_us < pause_us)
        return 0;
    watch.walk_pending = 0;
    watch.walked_us = now_us;
    uint64_t began_us = microseconds(CLOCK_PROCESS_CPUTIME_ID);
    int full = folder_is_full();
    watch.walk_took_us = microseconds(CLOCK_PROCESS_CPUTIME_ID) - began_us;
    return full;
}

void watch_limits(void)
{
    uint64_t now_us = microseconds(CLOCK_MONOTONIC);
    if (!look_at_processes(now_us) && !watch.walk_pending)
        return;
    if (job.memory_limit && watch.memory > job.memory_limit)
        finish_job('m');
    else if (job.cpu_limit_us && cpu_is_used_up(watch.used.cpu_us + watch.ran_us))
        finish_job('c');
    else if (mounts_are_full(&watch.left) || folder_is_over(now_us))
        finish_job('d');
    else if (!(job.group & GROUP_SHARE) && watch.surveyed_us == now_us)
        share_processors(watch.used.running);
}

static uint64_t room(uint64_t limit, uint64_t used)
{
    return limit > used ? limit - used : 0;
}

/* How long no limit can be reached, by the rates above; and by all processors at once for CPU time. */
static uint64_t pause_us(uint64_t now_us)
{
    uint64_t pause = LONG_US;
    /* The kernel limits what is in the mounts, which is memory: late is only the verdict. */
    if (watch.state != IDLE || !(job.group & GROUP_MEMORY)) {
        pause = least(pause, watch.left.bytes / DISK_RATE);
        pause = least(pause, least(watch.left.inodes, LONG_US) * US_PER_FILE);
    }
    if (job.walk_disk)
        pause = least(pause, watch.walk_pending ? room(watch.walked_us + walk_pause(), now_us)
                                                : walk_pause());
    if (job.memory_limit && !(job.group & GROUP_MEMORY))
        pause = least(pause, room(job.memory_limit, watch.memory) / MEMORY_RATE);
    if (job.cpu_limit_us) {
        uint64_t used = most(job.seen_us, job.reaped_us + watch.used.cpu_us + watch.ran_us);
        pause = least(pause, room(job.cpu_limit_us, used) / (uint64_t)processors());
    }
    /* Nothing but looks sees processes that nobody reaps, or a crowd of them. */
    if (watch.state == BUSY && (job.group & (GROUP_TIME | GROUP_SHARE)) != (GROUP_TIME | GROUP_SHARE))
        return SHORT_US;
    return most(pause, SHORT_US);
}

/* When to look next: at random, otherwise a job could run just between two looks. */
uint64_t next_look(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t now_us = (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
    uint64_t pause = pause_us(now_us);
    return now_us + pause / 2 + (uint64_t)now.tv_nsec % pause;
}
