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

enum { MAX_MOUNTS = 16 };

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
    unsigned long long start;
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
void memory_of(const char *pid, int exact, struct usage *used)
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

static uint64_t room(uint64_t limit, uint64_t used)
{
    return limit > used ? limit - used : 0;
}

/* Whether the sandbox's own mounts are full, or have more files than the limit; with that of the
 * workspace, if it is one. It stops the job's writes by itself, so there the limit counts as reached
 * when it is full: a program that ignores ENOSPC would go on for ever. */
int mounts_are_full(struct disk *left)
{
    struct statfs fs;
    uint64_t bytes, inodes;
    *left = (struct disk){UINT64_MAX, UINT64_MAX};
    if (!job.disk_limit)
        return 0;
    mounts_use(&bytes, &inodes);
    if (!job.walk_disk && !statfs(".", &fs)) {
        inodes += fs.f_files - fs.f_ffree;
        left->bytes = (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize;
    }
    left->inodes = room(job.inode_limit, inodes);
    return inodes > job.inode_limit || !left->bytes;
}

/* Whether a workspace that is a folder of the host is over its limit, together with the mounts. */
int folder_is_full(void)
{
    uint64_t bytes, inodes;
    if (!job.disk_limit || !job.walk_disk)
        return 0;
    mounts_use(&bytes, &inodes);
    return workspace_is_over(bytes, inodes);
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
