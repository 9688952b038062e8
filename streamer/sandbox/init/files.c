/* The files of a job. */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int file = -1; /* the one that is being written */
static int lost; /* errno of the first of these files that could not be written: the rest is skipped */

static uint32_t inodes_left; /* files and folders that may still be made */

/* What the files since the last 'Q' have made, the newest first, to be removed if not all of them can
 * be written: otherwise they would keep the disk of the next program full. */
static struct made {
    struct made *before;
    int file;
    uint32_t folders; /* so many, the innermost with the first `innermost` bytes of the path */
    size_t innermost;
    char path[];
} *newest;

static void forget_made(void)
{
    while (newest) {
        struct made *one = newest;
        newest = one->before;
        free(one);
    }
}

/* 'Q' u32 files and folders that may be created together: sent before the first file, since a
 * short name can need many folders, and nothing else counts them in time. */
int keep_quota(const unsigned char *data, size_t size)
{
    if (size != 4 || (job.pid && !is_held())) {
        errno = EPROTO;
        return 0;
    }
    inodes_left = get32(data);
    lost = 0;
    forget_made();
    keep_project();
    return 1;
}

/* Whether one more file or folder may be there. */
int count_inode(void)
{
    errno = EDQUOT;
    return inodes_left && inodes_left--;
}

static void close_file(void)
{
    if (file >= 0)
        close(file);
    file = -1;
}

/* Return the folder that the last name of a path is in, and leave that name in `path`; or -1. Make the
 * folders that are missing, if there is somebody to note that. A program may have run before and left
 * links: none is followed. */
static int open_folders(char **path, struct made *note)
{
    int folder = fcntl(workspace, F_DUPFD_CLOEXEC, 0);
    const char *whole = *path;
    for (char *slash; folder >= 0 && (slash = strchr(*path, '/')); *path = slash + 1) {
        int inner = -1, there = 1;
        *slash = 0;
        if (note && mkdirat(folder, *path, 0755)) {
            there = errno == EEXIST;
        } else if (note) {
            note->folders++;
            note->innermost = (size_t)(slash - whole);
            there = count_inode();
        }
        if (there)
            inner = openat(folder, *path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        int failure = errno;
        close(folder);
        errno = failure;
        folder = inner;
    }
    return folder;
}

/* Open a file to be written as a whole. A link or a pipe that a program has left there is refused, also if
 * one that goes on reads from the pipe. */
static int create(char *path, mode_t mode)
{
    struct stat at;
    size_t room = strlen(path) + 1;
    struct made *note = calloc(1, sizeof *note + room);
    if (!note)
        return -1;
    memcpy(note->path, path, room);
    note->before = newest;
    newest = note;
    int folder = open_folders(&path, note);
    if (folder < 0)
        return -1;
    if (count_inode())
        file = openat(folder, path,
                      O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
    int failure = errno;
    if (file >= 0 && (fstat(file, &at) || !S_ISREG(at.st_mode))) {
        close_file();
        failure = ENXIO;
    }
    close(folder);
    errno = failure;
    note->file = file >= 0;
    return file < 0 ? -1 : fchmod(file, mode);
}

static void remove_name(const char *path, int flags)
{
    char *copy = strdup(path), *name = copy;
    int folder = copy ? open_folders(&name, NULL) : -1;
    if (folder >= 0) {
        unlinkat(folder, name, flags);
        close(folder);
    }
    free(copy);
}

static void remove_made(void)
{
    for (struct made *one = newest; one; one = one->before) {
        if (one->file)
            remove_name(one->path, 0);
        for (; one->folders; one->folders--) {
            one->path[one->innermost] = 0;
            remove_name(one->path, AT_REMOVEDIR);
            while (one->innermost && one->path[--one->innermost] != '/')
                ;
        }
    }
}

/* 'F' u32 mode, path NUL, content; 'A' content for the file before. The service has checked that no
 * part of the path is empty, "." or "..". */
static int put_file(unsigned char type, unsigned char *data, size_t size)
{
    size_t done = 0;
    if (type == 'F') {
        if (size < 5) {
            errno = EPROTO;
            return 0;
        }
        char *path = (char *)data + 4;
        size_t length = strnlen(path, size - 4);
        mode_t mode = (mode_t)get32(data) & 0777;
        if (4 + length >= size) {
            errno = EPROTO;
            return 0;
        }
        close_file();
        if (create(path, mode))
            return 0;
        done = 4 + length + 1;
    }
    while (done < size) {
        ssize_t wrote = write(file, data + done, size - done);
        if (wrote < 0)
            return 0;
        done += (size_t)wrote;
    }
    return 1;
}

/* Files are not answered one by one, but by the answer to 'C'; after a failure the rest is skipped. */
void take_file(unsigned char type, unsigned char *data, size_t size)
{
    if (!lost && !put_file(type, data, size))
        lost = errno;
}

/* 'Z' with a descriptor: unpack the project in that file, before the files that lie over it. */
int take_project(size_t size)
{
    if (size || in.fd_count != 1 || (job.pid && !is_held())) {
        errno = EPROTO;
        return 0;
    }
    in.fd_count = 0;
    if (!lost && !unpack_project(in.fds[0]))
        lost = errno;
    else if (lost)
        close(in.fds[0]);
    return 1;
}

/* 'C' u64 disk limit in bytes, u32 limit of files, u32 flags: answer with a 'C' and the errno of what
 * kept the files since the last 'Q' from being written, or 0. In the first case all of them are removed;
 * what they replaced is lost. What is written before a program runs counts as what it writes itself.
 * With REST_ONLY it is asked whether what earlier programs have left running has written too much. */
int check_files(const unsigned char *data, size_t size)
{
    struct disk left;
    unsigned char out[4];
    if (size != 16 || (job.pid && !is_held())) {
        errno = EPROTO;
        return 0;
    }
    close_file();
    job.disk_limit = get64(data);
    job.inode_limit = get32(data + 8);
    job.walk_disk = get32(data + 12) & WALK_DISK;
    int looks = !(get32(data + 12) & REST_ONLY) || rest_runs();
    if (!lost && looks && (mounts_are_full(&left) || folder_is_full()))
        lost = EDQUOT; /* and ENOSPC is told of a full disk, which in a folder of the host's is its */
    if (lost) {
        remove_made();
        remove_project();
    }
    put32(out, (uint32_t)lost);
    lost = 0;
    forget_made();
    keep_project();
    tell('C', out, sizeof out);
    return 1;
}

/* Before a program runs: a file that is open for writing cannot be executed (execve(2)). Not without the
 * files of which the service does not know yet that they could not be written. */
int files_are_whole(void)
{
    close_file();
    errno = lost;
    return !lost;
}
