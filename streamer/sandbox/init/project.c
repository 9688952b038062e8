/* The project of a job: one file that has all its files (streamer/model/project.py). The service has
 * checked the names when it came; here nothing but regular files and folders can come of it, under
 * names that were not there, and beneath the workspace. */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HEAD_BYTES = 16, NAME_BYTES = 1024, READ_BYTES = 128 << 10 };

/* It is kept until the service knows whether all is there: what was made of it is found by it. */
static int project = -1;
static uint32_t made; /* entries of it, from the first */

static struct {
    unsigned char bytes[READ_BYTES];
    size_t at, end;
    off_t next; /* where to read on in the file */
} part;

struct entry {
    char name[NAME_BYTES + 1];
    mode_t mode;
    uint64_t size;
};

/* Where the last name of an entry is, and the folder that it is in. */
static struct {
    char path[NAME_BYTES + 1]; /* with a slash at the end, or nothing */
    int fd;
} folder = {.fd = -1};

/* Have at least so many bytes at hand. */
static int have(size_t wanted)
{
    if (part.end - part.at >= wanted)
        return 1;
    memmove(part.bytes, part.bytes + part.at, part.end - part.at);
    part.end -= part.at;
    part.at = 0;
    while (part.end < wanted) {
        ssize_t got = pread(project, part.bytes + part.end, sizeof part.bytes - part.end, part.next);
        if (got == 0)
            errno = EPROTO; /* it has no end */
        if (got <= 0)
            return 0;
        part.end += (size_t)got;
        part.next += got;
    }
    return 1;
}

static void skip(uint64_t size)
{
    uint64_t here = part.end - part.at;
    part.at += size < here ? (size_t)size : (size_t)here;
    if (size > here)
        part.next += (off_t)(size - here);
}

/* Once more what the service has checked, since a name with ".." leads out. */
static int is_plain(const char *name, size_t size)
{
    if (strlen(name) != size)
        return 0;
    for (const char *at = name;; at++) {
        size_t length = strcspn(at, "/");
        if (!length || (at[0] == '.' && (length == 1 || (length == 2 && at[1] == '.'))))
            return 0;
        at += length;
        if (!*at)
            return 1;
    }
}

/* Read the head of the next entry: 1, or 0 at the end, or -1. */
static int next_entry(struct entry *entry)
{
    if (!have(HEAD_BYTES))
        return -1;
    size_t length = get32(part.bytes + part.at);
    entry->mode = (mode_t)get32(part.bytes + part.at + 4);
    entry->size = get64(part.bytes + part.at + 8);
    part.at += HEAD_BYTES;
    if (!length)
        return 0;
    if (length > NAME_BYTES) {
        errno = EPROTO;
        return -1;
    }
    if (!have(length))
        return -1;
    memcpy(entry->name, part.bytes + part.at, length);
    entry->name[length] = 0;
    part.at += length;
    if (is_plain(entry->name, length) && (S_ISREG(entry->mode) || (S_ISDIR(entry->mode) && !entry->size)))
        return 1;
    errno = EPROTO;
    return -1;
}

static void leave_folder(void)
{
    if (folder.fd >= 0)
        close(folder.fd);
    folder.fd = -1;
}

/* Return the last name of an entry, whose folder is then open; or NULL. Its files often follow one another. */
static const char *open_parent(const char *name)
{
    const char *slash = strrchr(name, '/');
    size_t length = slash ? (size_t)(slash - name) + 1 : 0;
    if (folder.fd < 0 || strncmp(folder.path, name, length) || folder.path[length]) {
        leave_folder();
        memcpy(folder.path, name, length);
        folder.path[length] = 0;
        folder.fd = open_beneath(length ? folder.path : ".", O_RDONLY | O_DIRECTORY, 0);
    }
    return folder.fd < 0 ? NULL : name + length;
}

static int write_content(int file, uint64_t size)
{
    while (size) {
        if (!have(1))
            return 0;
        size_t here = part.end - part.at;
        ssize_t wrote = write(file, part.bytes + part.at, size < here ? (size_t)size : here);
        if (wrote < 0)
            return 0;
        part.at += (size_t)wrote;
        size -= (uint64_t)wrote;
    }
    return 1;
}

static int make(const struct entry *entry)
{
    const char *name = open_parent(entry->name);
    if (!name || !count_inode())
        return 0;
    if (S_ISDIR(entry->mode)) {
        if (mkdirat(folder.fd, name, 0755))
            return 0;
        made++;
        return 1;
    }
    int file = openat(folder.fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                      entry->mode & 0777);
    if (file < 0)
        return 0;
    made++;
    int whole = write_content(file, entry->size);
    int failure = errno;
    close(file);
    errno = failure;
    return whole;
}

static void rewind_project(void)
{
    part.at = part.end = 0;
    part.next = 0;
}

/* Unpack all of it, from a descriptor that is ours now. */
int unpack_project(int from)
{
    struct entry entry;
    int more;
    keep_project();
    project = from;
    rewind_project();
    while ((more = next_entry(&entry)) > 0)
        if (!make(&entry)) {
            more = -1;
            break;
        }
    int failure = errno;
    leave_folder();
    errno = failure;
    return !more;
}

void keep_project(void)
{
    if (project >= 0)
        close(project);
    project = -1;
    made = 0;
}

/* Remove what was made of it: the files, then, since one may be in another, the folders until none is
 * left that can be removed. */
void remove_project(void)
{
    struct entry entry;
    int removed = project >= 0;
    for (int flags = 0; removed; flags = AT_REMOVEDIR) {
        removed = !flags;
        rewind_project();
        for (uint32_t i = 0; i < made && next_entry(&entry) > 0; i++) {
            const char *name = !S_ISDIR(entry.mode) == !flags ? open_parent(entry.name) : NULL;
            removed |= name && !unlinkat(folder.fd, name, flags);
            skip(entry.size);
        }
        leave_folder();
    }
}
