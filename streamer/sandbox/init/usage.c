/* What the programs use now: CPU time, memory, disk. */
#define _GNU_SOURCE
#include "init.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

enum { WALK_TICKS = 4, MAX_MOUNTS = 16 };

uint64_t microseconds(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* A process of the same user may set the limits of another, also ours (prlimit(2)): without
 * descriptors we would see no usage. The filter denies it, if there is one; in any case an init
 * that cannot check the usage exits. */
void check_sight(void)
{
    if (errno == EMFILE)
        die("cannot look at what the job uses"); /* the job dies with us */
}

static ssize_t slurp(const char *pid, const char *name, char *into, size_t room)
{
    char path[80];
    snprintf(path, sizeof path, "/proc/%.47s/%s", pid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        check_sight();
        return -1;
    }
    ssize_t got = read(fd, into, room - 1);
    close(fd);
    if (got >= 0)
        into[got] = 0;
    return got;
}

/* The fields of /proc/PID/stat after the command, which may hold anything: proc_pid_stat(5). */
int read_stat(const char *pid, struct stat_line *found)
{
    char text[1024];
    unsigned long user, system, child_user, child_system;
    unsigned long long start, ran;
    uint64_t tick_us = 1000000 / (uint64_t)sysconf(_SC_CLK_TCK);
    if (slurp(pid, "stat", text, sizeof text) <= 0)
        return 0;
    char *rest = strrchr(text, ')');
    if (!rest || sscanf(rest + 1, " %c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %lu %lu"
                                  " %*d %*d %ld %*d %llu",
                        &found->state, &found->parent, &user, &system, &child_user, &child_system,
                        &found->threads, &start) != 8)
        return 0;
    found->own_us = (user + system) * tick_us;
    found->children_us = (child_user + child_system) * tick_us;
    found->started_us = start * tick_us;
    /* /proc/PID/stat counts in ticks; this clock has nanoseconds. */
    if (!found->own_us && slurp(pid, "schedstat", text, sizeof text) > 0
        && sscanf(text, "%llu", &ran) == 1)
        found->own_us = ran / 1000;
    return 1;
}

/* A line of /proc/PID/status or smaps_rollup, in bytes; 0 where there is none. */
static uint64_t kib_line(const char *text, const char *name)
{
    const char *line = strstr(text, name);
    return line ? strtoull(line + strlen(name), NULL, 10) * 1024 : 0;
}

/* A thread of a process that has memory yet, as PID/task/TID. */
static int living_thread(const char *pid, char *into, size_t room)
{
    char text[4096], path[48];
    struct dirent *entry;
    int found = 0;
    snprintf(path, sizeof path, "/proc/%.20s/task", pid);
    DIR *threads = opendir(path);
    if (!threads) {
        check_sight();
        return 0;
    }
    while (!found && (entry = readdir(threads))) {
        snprintf(into, room, "%.20s/task/%.20s", pid, entry->d_name);
        found = atol(entry->d_name) > 0 && slurp(into, "status", text, sizeof text) > 0
                && strstr(text, "\nRssAnon:");
    }
    closedir(threads);
    return found;
}

/* All but mapped files: what a program may share with its children (MAP_SHARED) is memory
 * too, and so are its page tables. With `exact`, shared pages are divided among their users,
 * so that the common pages of forked workers are not counted many times; for a process that
 * made itself undumpable this is impossible, and its shared pages count in full.
 * Swap counts as well: a program may move its own pages there (MADV_PAGEOUT). */
static void memory_of(const char *pid, int exact, struct usage *used)
{
    char text[4096], thread[48];
    if (slurp(pid, "status", text, sizeof text) <= 0)
        return;
    if (!strstr(text, "\nRssAnon:")) {
        /* Its first thread has ended; then /proc has no memory here for the other threads. */
        if (!living_thread(pid, thread, sizeof thread))
            return;
        pid = thread;
        if (slurp(pid, "status", text, sizeof text) <= 0)
            return;
    }
    uint64_t own = kib_line(text, "\nRssAnon:"), shared = kib_line(text, "\nRssShmem:");
    uint64_t swapped = kib_line(text, "\nVmSwap:");
    used->anonymous += kib_line(text, "\nVmPTE:");
    if (exact && slurp(pid, "smaps_rollup", text, sizeof text) > 0) {
        own = kib_line(text, "\nPss_Anon:");
        shared = kib_line(text, "\nPss_Shmem:");
        swapped = kib_line(text, "\nSwapPss:");
    }
    used->anonymous += own + swapped;
    used->shared += shared;
}

/* ---- processes that nobody reaps ------------------------------------------------------ */

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

void forget_processes(void)
{
    before_count = now_count = 0;
    looked_us = microseconds(CLOCK_BOOTTIME);
}

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
    if (now_count == room && !make_room())
        return;
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

/* Sum over every process here but pid 1 and ourselves. */
void survey(int exact, struct usage *used)
{
    DIR *proc = proc_is_ours() ? opendir("/proc") : NULL;
    struct dirent *entry;
    size_t at = 0;
    uint64_t time_us = microseconds(CLOCK_BOOTTIME);
    memset(used, 0, sizeof *used);
    if (!proc) {
        check_sight();
        return;
    }
    now_count = 0;
    while ((entry = readdir(proc))) {
        struct stat_line stat;
        pid_t pid = (pid_t)atol(entry->d_name);
        if (pid <= 1 || pid == getpid() || !read_stat(entry->d_name, &stat))
            continue;
        /* A process's reaped children count here; its rusage counts them too once we reap it. */
        used->cpu_us += stat.own_us + stat.children_us;
        used->running += running_threads(entry->d_name, &stat);
        memory_of(entry->d_name, exact, used);
        if (!exact)
            remember(pid, &stat, &at, time_us);
    }
    closedir(proc);
    if (!exact) {
        struct seen *spare = before;
        before = now;
        before_count = now_count;
        now = spare;
        looked_us = time_us;
    }
}

/* ---- memory that no process maps ------------------------------------------------------ */

/* Memory of System V objects, by the sum of some columns of /proc/sysvipc (proc_sysvipc(5)), and
 * the kernel's own for each. Stops at `enough`: there may be many thousands. */
static uint64_t ipc_memory(uint64_t enough)
{
    static const struct {
        const char *path, *format;
        uint64_t first, second;
    } kinds[] = {
        {"/proc/sysvipc/shm", /* rss, swap */
         "%*d %*d %*o %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %llu %llu", 1, 1},
        {"/proc/sysvipc/msg", "%*d %*d %*o %llu %llu", 1, 64}, /* bytes, messages */
        {"/proc/sysvipc/sem", "%*d %*d %*o %llu", 64, 0},      /* semaphores */
    };
    char line[512];
    uint64_t sum = 0;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        FILE *file = fopen(kinds[i].path, "re");
        if (!file)
            continue;
        while (sum <= enough && fgets(line, sizeof line, file)) {
            unsigned long long first = 0, second = 0;
            if (sscanf(line, kinds[i].format, &first, &second) > 0)
                sum += 1024 + first * kinds[i].first + second * kinds[i].second;
        }
        fclose(file);
    }
    return sum;
}

static int ipc_is_ours;

/* A new namespace begins empty; objects in the host's namespace do not belong to the job. */
void look_at_ipc(void)
{
    ipc_is_ours = ipc_memory(0) == 0;
}

static struct mount {
    int fd;
    dev_t device;
    uint64_t inodes; /* that were there before the job */
} mounts[MAX_MOUNTS];
static int mount_count;

static uint64_t tmpfs_bytes(const struct statfs *fs)
{
    if (fs->f_type != TMPFS_MAGIC)
        return 0;
    return (uint64_t)(fs->f_blocks - fs->f_bfree) * (uint64_t)fs->f_bsize;
}

/* A mount of the sandbox. A missing one counts as empty: it depends on the wrapper and the host. */
void watch_mount(const char *path)
{
    struct stat at;
    struct statfs fs;
    int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return;
    int known = mount_count == MAX_MOUNTS || fstat(fd, &at) || fstatfs(fd, &fs)
                || fs.f_type != TMPFS_MAGIC;
    for (int i = 0; !known && i < mount_count; i++)
        known = mounts[i].device == at.st_dev;
    if (known) {
        close(fd);
        return;
    }
    mounts[mount_count++] = (struct mount){fd, at.st_dev, fs.f_files - fs.f_ffree};
}

static void mounts_use(uint64_t *bytes, uint64_t *inodes)
{
    *bytes = *inodes = 0;
    for (int i = 0; i < mount_count; i++) {
        struct statfs fs;
        if (fstatfs(mounts[i].fd, &fs))
            continue;
        uint64_t all = fs.f_files - fs.f_ffree;
        *bytes += tmpfs_bytes(&fs);
        *inodes += all > mounts[i].inodes ? all - mounts[i].inodes : 0;
    }
}

/* Shared memory is mapped, or in a segment, or in a file of a tmpfs, or two of that at once:
 * so it is at least the larger sum. */
uint64_t memory_in_use(const struct usage *used)
{
    struct statfs here;
    uint64_t files, inodes;
    mounts_use(&files, &inodes);
    if (!job.walk_disk && !statfs(".", &here))
        files += tmpfs_bytes(&here);
    files += (ipc_is_ours ? ipc_memory(job.memory_limit) : 0);
    return used->anonymous + (used->shared > files ? used->shared : files);
}

/* ---- disk ------------------------------------------------------------------------------ */

/* Whether the workspace, our working directory, is over its limit, or has too many files
 * together with the other mounts. A workspace that is a mount of its own stops the job's writes
 * by itself, so there the limit counts as reached when it is full: a program that ignores
 * ENOSPC would go on for ever. */
int disk_is_full(int at_once)
{
    struct statfs fs;
    uint64_t bytes, inodes;
    if (!job.disk_limit)
        return 0;
    mounts_use(&bytes, &inodes);
    if (inodes > job.inode_limit)
        return 1;
    if (job.walk_disk) {
        /* As long as a second job may take for it: the walk is bounded by the limits. */
        if (!at_once && ++job.ticks % WALK_TICKS)
            return 0;
        return workspace_is_over(bytes, inodes);
    }
    if (statfs(".", &fs))
        return 0;
    return fs.f_bavail == 0 || fs.f_files - fs.f_ffree + inodes > job.inode_limit;
}

/* What is in the workspace. */
uint64_t disk_in_use(void)
{
    struct statfs fs;
    if (job.walk_disk)
        return workspace_bytes();
    if (statfs(".", &fs))
        return 0;
    return (uint64_t)(fs.f_blocks - fs.f_bfree) * (uint64_t)fs.f_bsize;
}
