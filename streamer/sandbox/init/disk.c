/* What is in the workspace, where that is a folder of the host: counted by a walk through it while
 * the job may change whatever it likes there. */
#define _GNU_SOURCE
#include "init.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* So many walks in a row may be incomplete before that counts as over the limit: folders appear,
 * vanish and move while a program works, but not for a second without pause. */
enum { BLIND_WALKS = 5, SEEN = S_IRUSR | S_IXUSR };

struct level {
    struct level *above;
    dev_t device;
    ino_t inode;
    int opened;    /* by us, and `closed` is the mode to give back */
    mode_t closed;
    char *names;   /* of the folders in it, NUL-ended each, still to be walked */
    size_t used, room, at;
};

static uint64_t bytes, inodes, most_bytes, most_inodes;
static int blind;

static int over(void)
{
    return bytes > most_bytes || inodes > most_inodes;
}

static int keep_name(struct level *level, const char *name)
{
    size_t size = strlen(name) + 1;
    if (level->used + size > level->room) {
        size_t wanted = level->room * 2 + size; /* there may be many levels with one folder each */
        char *grown = realloc(level->names, wanted);
        if (!grown)
            return 0;
        level->names = grown;
        level->room = wanted;
    }
    memcpy(level->names + level->used, name, size);
    level->used += size;
    return 1;
}

/* Count what is in a folder, and keep the names of the folders in it. */
static void count_entries(int folder, struct level *level)
{
    int again = fcntl(folder, F_DUPFD_CLOEXEC, 0);
    DIR *entries = again < 0 ? NULL : fdopendir(again);
    struct dirent *entry;
    if (!entries) {
        check_sight();
        blind = 1;
        if (again >= 0)
            close(again);
        return;
    }
    rewinddir(entries);
    while (!over() && (entry = readdir(entries))) {
        struct stat at;
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        inodes++;
        if (fstatat(folder, entry->d_name, &at, AT_SYMLINK_NOFOLLOW)) {
            blind |= errno != ENOENT;
            continue;
        }
        /* Each name of a file has its share of it. */
        bytes += (uint64_t)at.st_blocks * 512
                 / (S_ISDIR(at.st_mode) || !at.st_nlink ? 1 : (uint64_t)at.st_nlink);
        if (S_ISDIR(at.st_mode) && at.st_dev == level->device && !keep_name(level, entry->d_name))
            blind = 1;
    }
    closedir(entries);
}

/* Open a folder, also one that its owner (the job's user, which is ours too) has made inaccessible. */
static int open_folder(int parent, const char *name, struct level *level)
{
    struct stat at;
    if (fstatat(parent, name, &at, AT_SYMLINK_NOFOLLOW) || !S_ISDIR(at.st_mode)
        || at.st_dev != level->device)
        return -1; /* it is gone or was replaced */
    if ((at.st_mode & SEEN) != SEEN && at.st_uid == geteuid()
        && !fchmodat(parent, name, (at.st_mode & 07777) | SEEN, 0)) {
        level->closed = at.st_mode & 07777;
        level->opened = 1;
    }
    int folder = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (folder < 0) {
        check_sight();
        blind |= errno == EACCES;
    } else if (!fstat(folder, &at)) {
        level->inode = at.st_ino;
    }
    return folder;
}

/* Give a folder back the mode that it had, unless the job has changed it meanwhile. */
static void close_again(int folder, const struct level *level)
{
    struct stat at;
    if (level->opened && !fstat(folder, &at) && (at.st_mode & 07777) == (level->closed | SEEN)
        && fchmod(folder, level->closed))
        return; /* it stays open to the job itself only */
}

static struct level *leave(struct level *level)
{
    struct level *above = level->above;
    free(level->names);
    free(level);
    return above;
}

static int parent_of(int folder, const struct level *above)
{
    struct stat at;
    int outer = openat(folder, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (outer >= 0
        && (fstat(outer, &at) || at.st_ino != above->inode || at.st_dev != above->device)) {
        close(outer);
        outer = -1;
    }
    return outer;
}

/* With two descriptors whatever the depth, and no path: names may be longer together than one may
 * be. A folder that the job moves while we are in it has another parent then, which we must not
 * go on in. */
static void walk(int folder, struct level *level)
{
    count_entries(folder, level);
    while (level) {
        if (level->at < level->used && !over()) {
            const char *name = level->names + level->at;
            struct level *below = calloc(1, sizeof *below);
            level->at += strlen(name) + 1;
            if (!below) {
                blind = 1;
                continue;
            }
            below->above = level;
            below->device = level->device;
            int inner = open_folder(folder, name, below);
            if (inner < 0) {
                leave(below);
                continue;
            }
            close(folder);
            folder = inner;
            level = below;
            count_entries(folder, level);
            continue;
        }
        int outer = level->above ? parent_of(folder, level->above) : -1;
        close_again(folder, level);
        close(folder);
        folder = outer;
        level = leave(level);
        blind |= level && folder < 0;
        while (level && folder < 0)
            level = leave(level);
    }
}

int workspace = -1;

/* Called before a program runs, which could make the folder inaccessible, also for us. */
void keep_workspace(void)
{
    workspace = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* Walk through it until there is more than this; what other mounts have is counted before. */
static void walk_workspace(uint64_t other_bytes, uint64_t other_inodes)
{
    struct level *root = calloc(1, sizeof *root);
    struct stat at;
    int folder = fcntl(workspace, F_DUPFD_CLOEXEC, 0);
    bytes = other_bytes;
    inodes = other_inodes + 1;
    blind = !root || folder < 0 || fstat(folder, &at);
    if (blind) {
        check_sight();
        free(root);
        if (folder >= 0)
            close(folder);
    } else {
        mode_t mode = at.st_mode & 07777;
        root->device = at.st_dev;
        root->inode = at.st_ino;
        if ((mode & SEEN) != SEEN && !fchmod(folder, mode | SEEN)) {
            root->closed = mode;
            root->opened = 1;
        }
        walk(folder, root);
    }
}

/* Whether the workspace, our working directory, has more than the limits, or cannot be looked at. */
int workspace_is_over(uint64_t other_bytes, uint64_t other_inodes)
{
    static int blind_walks;
    most_bytes = job.disk_limit;
    most_inodes = job.inode_limit;
    walk_workspace(other_bytes, other_inodes);
    blind_walks = blind ? blind_walks + 1 : 0;
    return over() || blind_walks >= BLIND_WALKS;
}

/* What is in it, or as much as it may have at most; without a limit no program has run yet. */
uint64_t workspace_bytes(void)
{
    most_bytes = job.disk_limit ? job.disk_limit : UINT64_MAX;
    most_inodes = job.inode_limit ? job.inode_limit : UINT64_MAX;
    walk_workspace(0, 0);
    return bytes;
}
