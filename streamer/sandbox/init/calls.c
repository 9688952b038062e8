/* The system calls that a program may make before its job has come: what they do, and return, is the same
 * then and later. Whatever is not listed here may reveal the job, or be noticed by somebody. */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <termios.h> /* some machines need it for TCGETS */
#include <unistd.h>

#if defined(__x86_64__)
#define OUR_CALLS AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define OUR_CALLS AUDIT_ARCH_AARCH64
#else
#define OUR_CALLS 0 /* no call is one of ours: a program is held at once */
#endif

#ifndef F_DUPFD_CLOEXEC
#define F_DUPFD_CLOEXEC 1030
#endif

/* ---- files ---------------------------------------------------------------------------- */

static char *same_everywhere; /* paths, NUL-ended, one after another, with an empty one at the end */
static char work[PATH_MAX];
/* Where interpreters look for packages of their user (Python: site.py): nothing is there, and nothing will be,
 * since a program whose job brings a file there is not held. */
static const char packages[] = "/.local";

static int beneath(const char *path, const char *folder)
{
    size_t size = strlen(folder);
    return !strncmp(path, folder, size) && (!path[size] || path[size] == '/');
}

/* 'T' paths, NUL-ended: what is there is the same for each job of a sandbox such as this one. */
int keep_same(const unsigned char *data, size_t size)
{
    if (!size || data[size - 1]) {
        errno = EPROTO;
        return 0;
    }
    if (!getcwd(work, sizeof work))
        return 0;
    free(same_everywhere);
    char *to = same_everywhere = calloc(1, size + 1);
    if (!to)
        return 0;
    const char *end = (const char *)data + size;
    for (const char *path = (const char *)data; path < end; path += strlen(path) + 1)
        if (*path == '/' && !beneath(work, path))
            to = stpcpy(to, path) + 1;
    return 1;
}

static const char *const devices[] = {"/dev/null", "/dev/tty", "/dev/urandom", "/dev/random", "/dev/zero"};

static int is_device(const char *path)
{
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++)
        if (!strcmp(path, devices[i]))
            return 1;
    return 0;
}

/* What is in /proc changes with the program, which is traced: only what does not show that. */
static int is_same(const char *path)
{
    static const char *const others[] = {"/sys", "/proc/sys", "/proc/self/exe", "/proc/self/maps",
                                         "/proc/self/cgroup", "/proc/self/auxv", "/proc/meminfo",
                                         "/proc/cpuinfo", "/proc/filesystems", "/proc/version"};
    size_t size = strlen(path);
    if (strstr(path, "/../") || (size > 2 && !strcmp(path + size - 3, "/..")))
        return 0;
    if (beneath(path, work))
        return beneath(path + strlen(work), packages);
    if (!strcmp(path, "/") || is_device(path))
        return 1;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (beneath(path, others[i]))
            return 1;
    for (const char *at = same_everywhere; at && *at; at += strlen(at) + 1)
        if (beneath(path, at))
            return 1;
    return 0;
}

/* Read from the program's memory. */
static ssize_t read_bytes(pid_t thread, uint64_t address, void *into, size_t size)
{
    struct iovec ours = {into, size}, theirs = {(void *)(uintptr_t)address, size};
    return process_vm_readv(thread, &ours, 1, &theirs, 1, 0);
}

/* Text that ends with a zero byte; a page at a time, since the next one may not exist. */
static int read_text(pid_t thread, uint64_t address, char *into, size_t room)
{
    size_t done = 0;
    while (done < room) {
        size_t part = 4096 - ((address + done) & 4095);
        part = part < room - done ? part : room - done;
        ssize_t got = read_bytes(thread, address + done, into + done, part);
        if (got <= 0)
            return 0;
        if (memchr(into + done, 0, (size_t)got))
            return 1;
        done += (size_t)got;
    }
    return 0;
}

/* Whether a path reveals nothing: an absolute one, or none, which stands for the open file beside it. */
static int same_path(pid_t thread, uint64_t address, int folder, char path[PATH_MAX])
{
    return read_text(thread, address, path, PATH_MAX) && (*path ? is_same(path) : folder >= 0);
}

/* Files are only read, since whoever shares them would see the rest; what is a device shares nothing. */
static int opens_same(pid_t thread, uint64_t address, uint64_t flags)
{
    char path[PATH_MAX];
    int makes = O_CREAT | O_TRUNC | (O_TMPFILE & ~O_DIRECTORY);
    int reads = (flags & O_ACCMODE) == O_RDONLY && !(flags & (unsigned)makes);
    return same_path(thread, address, -1, path) && (reads || is_device(path));
}

/* ---- calls ---------------------------------------------------------------------------- */

/* The standard descriptors are the job's; all others were opened by the program itself. */
static int own_file(uint64_t fd)
{
    return (unsigned)fd > 2;
}

static int harmless_fcntl(uint64_t fd, int command)
{
    switch (command) {
    case F_GETFD:
    case F_SETFD:
    case F_GETFL:
    case F_SETFL:
        return 1;
    case F_DUPFD:
    case F_DUPFD_CLOEXEC:
        return own_file(fd);
    }
    return 0;
}

/* Not how much there is to read (FIONREAD). */
static int harmless_ioctl(unsigned request)
{
    return request == TCGETS || request == TIOCGWINSZ || request == TIOCGPGRP || request == FIOCLEX
           || request == FIONCLEX || request == FIONBIO || request == 0x802c542a; /* TCGETS2 */
}

static int harmless_prctl(int option)
{
    return option == PR_SET_NAME || option == PR_GET_NAME || option == PR_GET_DUMPABLE
           || option == PR_CAPBSET_READ || option == PR_GET_NO_NEW_PRIVS
           || option == 0x53564d41; /* PR_SET_VMA */
}

static int makes_thread(uint64_t flags)
{
    return (flags & CLONE_THREAD) && !(flags & (CLONE_VFORK | CLONE_UNTRACED));
}

enum kind {
    REVEALS, /* or may; so does each call that is not in the list below */
    FREE,
    OF_FILE,       /* of the descriptor that is the first argument */
    OF_TWO_FILES,
    OF_PATH,       /* which is the first argument */
    OF_PATH_AT,    /* the second, after a folder */
    OPENS,
    OPENS_AT,
    MAPS,
    CLONES,
    CLONES_3,
    EXITS,
    FCNTL,
    IOCTL,
    PRCTL,
    PRLIMIT,
    EPOLL_CTL
};

#if defined(__x86_64__) || defined(__aarch64__)
static const unsigned char kinds[512] = {
    /* Its memory. */
    [SYS_brk] = FREE, [SYS_mmap] = MAPS, [SYS_munmap] = FREE, [SYS_mremap] = FREE, [SYS_mprotect] = FREE,
    [SYS_madvise] = FREE, [SYS_membarrier] = FREE, [SYS_pkey_alloc] = FREE, [SYS_pkey_free] = FREE,
    [SYS_pkey_mprotect] = FREE, [SYS_memfd_create] = FREE, [SYS_get_mempolicy] = FREE,
    /* Its threads, and how they wait for each other. */
    [SYS_futex] = FREE, [SYS_set_robust_list] = FREE, [SYS_set_tid_address] = FREE, [SYS_rseq] = FREE,
    [SYS_clone] = CLONES, [SYS_clone3] = CLONES_3, [SYS_exit] = EXITS, [SYS_sched_yield] = FREE,
    [SYS_sched_getaffinity] = FREE, [SYS_sched_getparam] = FREE, [SYS_sched_getscheduler] = FREE,
    [SYS_sched_get_priority_min] = FREE, [SYS_sched_get_priority_max] = FREE, [SYS_getpriority] = FREE,
    [SYS_getcpu] = FREE, [SYS_prctl] = PRCTL, [SYS_restart_syscall] = FREE,
    /* How it takes signals. */
    [SYS_rt_sigaction] = FREE, [SYS_rt_sigprocmask] = FREE, [SYS_rt_sigreturn] = FREE,
    [SYS_rt_sigpending] = FREE, [SYS_sigaltstack] = FREE,
    /* Who and where it is. */
    [SYS_getpid] = FREE, [SYS_getppid] = FREE, [SYS_gettid] = FREE, [SYS_getpgid] = FREE,
    [SYS_getsid] = FREE, [SYS_getuid] = FREE, [SYS_geteuid] = FREE, [SYS_getgid] = FREE,
    [SYS_getegid] = FREE, [SYS_getresuid] = FREE, [SYS_getresgid] = FREE, [SYS_getgroups] = FREE,
    [SYS_capget] = FREE, [SYS_getcwd] = FREE, [SYS_umask] = FREE, [SYS_uname] = FREE,
    /* What it may use and has used, the time, and chance. */
    [SYS_prlimit64] = PRLIMIT, [SYS_getrusage] = FREE, [SYS_times] = FREE, [SYS_sysinfo] = FREE,
    [SYS_getrandom] = FREE, [SYS_gettimeofday] = FREE, [SYS_clock_gettime] = FREE, [SYS_clock_getres] = FREE,
    /* Descriptors of its own. */
    [SYS_read] = OF_FILE, [SYS_readv] = OF_FILE, [SYS_pread64] = OF_FILE, [SYS_preadv] = OF_FILE,
    [SYS_write] = OF_FILE, [SYS_writev] = OF_FILE, [SYS_close] = OF_FILE, [SYS_close_range] = OF_FILE,
    [SYS_getdents64] = OF_FILE, [SYS_fstatfs] = OF_FILE, [SYS_fadvise64] = OF_FILE, [SYS_dup] = OF_FILE,
    [SYS_dup3] = OF_TWO_FILES, [SYS_pipe2] = FREE, [SYS_eventfd2] = FREE, [SYS_epoll_create1] = FREE,
    [SYS_epoll_ctl] = EPOLL_CTL,
    /* Any descriptor, since they are pipes. */
    [SYS_lseek] = FREE, [SYS_fcntl] = FCNTL, [SYS_ioctl] = IOCTL,
    /* Files. */
    [SYS_openat] = OPENS_AT, [SYS_statx] = OF_PATH_AT, [SYS_statfs] = OF_PATH,
    [SYS_faccessat] = OF_PATH_AT, [SYS_readlinkat] = OF_PATH_AT,
#ifdef SYS_faccessat2
    [SYS_faccessat2] = OF_PATH_AT,
#endif
#ifdef SYS_newfstatat /* calls that one of them does not have */
    [SYS_newfstatat] = OF_PATH_AT, [SYS_fstat] = FREE,
#endif
#ifdef SYS_getrlimit
    [SYS_getrlimit] = FREE, [SYS_setrlimit] = FREE,
#endif
#ifdef SYS_open
    [SYS_open] = OPENS, [SYS_stat] = OF_PATH, [SYS_lstat] = OF_PATH, [SYS_access] = OF_PATH,
    [SYS_readlink] = OF_PATH, [SYS_getpgrp] = FREE, [SYS_time] = FREE, [SYS_pipe] = FREE,
    [SYS_getdents] = OF_FILE, [SYS_dup2] = OF_TWO_FILES, [SYS_epoll_create] = FREE, [SYS_eventfd] = FREE,
    [SYS_arch_prctl] = FREE,
#endif
};
#else
static const unsigned char kinds[1]; /* others do not have all of these calls */
#endif

/* Whether a call of a thread that is about to make it reveals nothing; `machine` is an AUDIT_ARCH. */
int reveals_nothing(pid_t thread, uint32_t machine, uint64_t number, const uint64_t *arguments)
{
    char path[PATH_MAX];
    uint64_t flags;
    if (machine != OUR_CALLS || number >= sizeof kinds)
        return 0;
    switch ((enum kind)kinds[number]) {
    case FREE:
        return 1;
    case OF_FILE:
        return own_file(arguments[0]);
    case OF_TWO_FILES:
        return own_file(arguments[0]) && own_file(arguments[1]);
    case OF_PATH:
        return same_path(thread, arguments[0], -1, path);
    case OF_PATH_AT:
        return same_path(thread, arguments[1], (int)arguments[0], path);
    case OPENS:
        return opens_same(thread, arguments[0], arguments[1]);
    case OPENS_AT:
        return opens_same(thread, arguments[1], arguments[2]);
    case MAPS:
        return arguments[3] & MAP_ANONYMOUS || own_file(arguments[4]);
    case CLONES:
        return makes_thread(arguments[0]);
    case CLONES_3:
        return read_bytes(thread, arguments[0], &flags, sizeof flags) == (ssize_t)sizeof flags
               && makes_thread(flags); /* struct clone_args begins with them */
    case EXITS:
        return thread != job.pid;
    case FCNTL:
        return harmless_fcntl(arguments[0], (int)arguments[1]);
    case IOCTL:
        return harmless_ioctl((unsigned)arguments[1]);
    case PRCTL:
        return harmless_prctl((int)arguments[0]);
    case PRLIMIT:
        return !arguments[0] || (pid_t)arguments[0] == job.pid;
    case EPOLL_CTL:
        return own_file(arguments[0]) && own_file(arguments[2]);
    case REVEALS:
        break;
    }
    return 0;
}
