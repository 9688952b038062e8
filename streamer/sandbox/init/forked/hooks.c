/* Where an interpreter that starts could notice its job first: a look at a path in the workspace, or in another
 * folder that is each job's own. For Python this is the program's own file. Before that it looks for packages in
 * $HOME/.local (site.py): there are none, since a job that brings some is not run here.
 *
 * All functions of the C library that take a path and do not change what is there are replaced by ones that look at
 * it first. Once the program belongs to a job they do no more than call the next. If an interpreter gets to a
 * job's path in another way it finds nothing there, and ends: then it is not forked (the trial at the start). */
#define _GNU_SOURCE
#undef _FORTIFY_SOURCE
#include "forked.h"

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#if CAN_FORK

static int lies_in(const char *path, const char *folder)
{
    size_t length = strlen(folder);
    return !strncmp(path, folder, length) && (!path[length] || path[length] == '/');
}

static int is_the_jobs(int folder, const char *path)
{
    static const char *const own[] = {"/tmp", "/var/tmp", "/dev", "/proc"};
    if (!path || *path != '/')
        return path && *path && folder == AT_FDCWD;
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        if (lies_in(path, own[i]))
            return 1;
    return lies_in(path, fork_workspace) && !lies_in(path + strlen(fork_workspace), "/.local");
}

static void look_at(int folder, const char *path)
{
    if (fork_waits && is_the_jobs(folder, path))
        wait_for_jobs();
}

/* The function that ours has replaced. Older versions of glibc had some that later ones keep only for the programs
 * of that time; they have no name without a version. */
static void *after_ours(const char *name)
{
    static const char *const versions[] = {"GLIBC_2.2.5", "GLIBC_2.4", "GLIBC_2.17"};
    void *next = dlsym(RTLD_NEXT, name);
    for (size_t i = 0; !next && i < sizeof versions / sizeof *versions; i++)
        next = dlvsym(RTLD_NEXT, name, versions[i]);
    return next;
}

/* Found first of all: a program may call ours where it must not look for others, such as in a signal handler. */
#define NEXT(result, name, parameters) \
    static result(*next_##name) parameters; \
    __attribute__((constructor(101))) static void find_##name(void) \
    { \
        *(void **)&next_##name = after_ours(#name); \
    }
#define HOOK(result, name, parameters, folder, path, ...) \
    NEXT(result, name, parameters) \
    __attribute__((visibility("default"))) result name parameters \
    { \
        look_at(folder, path); \
        return next_##name(__VA_ARGS__); \
    }
#define HOOK_STAT(name, type) \
    HOOK(int, name, (const char *path, struct type *to), AT_FDCWD, path, path, to)
#define HOOK_XSTAT(name, type) \
    int name(int version, const char *path, struct type *to); \
    HOOK(int, name, (int version, const char *path, struct type *to), AT_FDCWD, path, version, path, to)
#define HOOK_STAT_AT(name, type) \
    HOOK(int, name, (int at, const char *path, struct type *to, int flags), at, path, at, path, to, flags)
#define HOOK_XSTAT_AT(name, type) \
    int name(int version, int at, const char *path, struct type *to, int flags); \
    HOOK(int, name, (int version, int at, const char *path, struct type *to, int flags), at, path, \
         version, at, path, to, flags)
/* The mode is there only if a file may be created. */
#define MODE_AFTER(flags) \
    va_list more; \
    va_start(more, flags); \
    mode_t mode = flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(more, mode_t) : 0; \
    va_end(more)
#define HOOK_OPEN(name) \
    NEXT(int, name, (const char *, int, ...)) \
    __attribute__((visibility("default"))) int name(const char *path, int flags, ...) \
    { \
        MODE_AFTER(flags); \
        look_at(AT_FDCWD, path); \
        return next_##name(path, flags, mode); \
    }
#define HOOK_OPEN_AT(name) \
    NEXT(int, name, (int, const char *, int, ...)) \
    __attribute__((visibility("default"))) int name(int at, const char *path, int flags, ...) \
    { \
        MODE_AFTER(flags); \
        look_at(at, path); \
        return next_##name(at, path, flags, mode); \
    }

HOOK_STAT(stat, stat)
HOOK_STAT(stat64, stat64)
HOOK_STAT(lstat, stat)
HOOK_STAT(lstat64, stat64)
HOOK_STAT_AT(fstatat, stat)
HOOK_STAT_AT(fstatat64, stat64)
/* As programs call them that were built with glibc before 2.33. */
HOOK_XSTAT(__xstat, stat)
HOOK_XSTAT(__xstat64, stat64)
HOOK_XSTAT(__lxstat, stat)
HOOK_XSTAT(__lxstat64, stat64)
HOOK_XSTAT_AT(__fxstatat, stat)
HOOK_XSTAT_AT(__fxstatat64, stat64)
HOOK(int, statx, (int at, const char *path, int flags, unsigned mask, struct statx *to), at, path,
     at, path, flags, mask, to)
HOOK(int, access, (const char *path, int mode), AT_FDCWD, path, path, mode)
HOOK(int, faccessat, (int at, const char *path, int mode, int flags), at, path, at, path, mode, flags)
HOOK(ssize_t, readlink, (const char *path, char *to, size_t size), AT_FDCWD, path, path, to, size)
HOOK(ssize_t, readlinkat, (int at, const char *path, char *to, size_t size), at, path, at, path, to, size)
HOOK(DIR *, opendir, (const char *path), AT_FDCWD, path, path)
HOOK(FILE *, fopen, (const char *path, const char *mode), AT_FDCWD, path, path, mode)
HOOK(FILE *, fopen64, (const char *path, const char *mode), AT_FDCWD, path, path, mode)
HOOK_OPEN(open)
HOOK_OPEN(open64)
HOOK_OPEN_AT(openat)
HOOK_OPEN_AT(openat64)
int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
HOOK(int, __open_2, (const char *path, int flags), AT_FDCWD, path, path, flags)
HOOK(int, __open64_2, (const char *path, int flags), AT_FDCWD, path, path, flags)

#endif
