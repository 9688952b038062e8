/* An interpreter that was started once, and goes on as the program of each job.
 *
 * This is preloaded into it (become.c). It starts as it would for a job, with the same arguments, variables
 * and kinds of descriptors, up to the first call through which it could notice the job: hooks.c. There it
 * becomes a template (template.c), with the same code: the child that it makes for a job is pid 1 of the job's
 * namespaces, and serves (streamer-init.c). To run the program that child forks, and where others are executed
 * this one returns from the call: it has the job's user, limits, filter and descriptors then, and goes on with
 * its own start. Nothing of the interpreter was changed, and it is given nothing to run but the job's file.
 *
 * What a fork does not renew, and execve(2) does, is renewed here as far as it can be. Python is told of the fork as
 * os.fork() tells it, so modules that were imported by then, by a *.pth of the operator's packages, renew what they
 * must: `random` its state. What cannot be renewed is the same in all jobs of one such interpreter: where everything
 * lies in its address space, what depends on that, and what it drew at its start: the seed of its hashes, and the
 * guards of its stack and of pointers in its C library. */
#define _GNU_SOURCE
#include "../init.h"
#include "forked.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined __x86_64__ || defined __i386__
enum { RSEQ_SIGNATURE = 0x53053053 };
#elif defined __aarch64__
enum { RSEQ_SIGNATURE = (int)0xd428bc00 };
#else
enum { RSEQ_SIGNATURE = 0 }; /* where no program is forked */
#endif
enum { RSEQ_BYTES = 32, RSEQ_UNREGISTERED = -2 };
enum { RANDOM_BYTES = 16 }; /* at AT_RANDOM: getauxval(3) */
enum { ALONE = 3 };         /* links of /proc/self/task with one thread in it */
enum { MOST_OPEN = 1024 };  /* the least number that is free is taken */

int fork_waits;
char fork_workspace[4096];

static struct {
    jmp_buf back;
    struct sigaction actions[NSIG];
    sigset_t blocked;
    char name[16];
    char *arguments, *kept; /* /proc/self/cmdline */
    size_t argument_bytes;
    int *tid; /* where the C library keeps it */
    void *robust;
    size_t robust_bytes;
    int lock; /* Python's, as it was */
    int unread; /* what the template had said before */
} us;

/* Python's interface for programs that fork (docs.python.org/3/c-api/sys.html, .../init.html). */
static struct {
    int (*take_lock)(void);
    void (*give_lock)(int before);
    void (*before_fork)(void), (*after_fork)(void);
} python;

/* What /proc/self/stat says of our memory, in the order of its fields from the 26th and the 45th on. */
static int read_map(struct prctl_mm_map *map)
{
    char text[2048];
    unsigned long long code[3], data[7];
    int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC), field = 2;
    ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    close(fd);
    text[got < 0 ? 0 : got] = 0;
    char *at = strrchr(text, ')');
    for (char *word = at ? strtok(at + 1, " ") : NULL; word; word = strtok(NULL, " ")) {
        field++;
        if (field >= 26 && field < 29)
            code[field - 26] = strtoull(word, NULL, 10);
        if (field >= 45 && field < 52)
            data[field - 45] = strtoull(word, NULL, 10);
    }
    if (field < 51)
        return 0;
    *map = (struct prctl_mm_map){
        .start_code = code[0], .end_code = code[1], .start_stack = code[2],
        .start_data = data[0], .end_data = data[1], .start_brk = data[2],
        .arg_start = data[3], .arg_end = data[4], .env_start = data[5], .env_end = data[6],
        .brk = (uintptr_t)sbrk(0), .exe_fd = (uint32_t)-1,
    };
    return 1;
}

/* Take the variable that has loaded us from the environment, also as /proc/self/environ shows it. */
static void forget_preload(void)
{
    struct prctl_mm_map map;
    char **last = environ;
    while (*last && last[1])
        last++;
    if (!*last || strncmp(*last, "LD_PRELOAD=", 11) || !read_map(&map))
        die("the variables");
    us.arguments = (char *)(uintptr_t)map.arg_start;
    us.argument_bytes = (size_t)(map.arg_end - map.arg_start);
    map.env_end = (uintptr_t)*last;
    *last = NULL;
    if (prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof map, 0))
        die("PR_SET_MM_MAP, for which the kernel needs CONFIG_CHECKPOINT_RESTORE");
}

/* How many bytes wait to be read: standard output is the other end of our input (become.c), and the service reads
 * standard error only of a template that has failed. */
static int unread(void)
{
    int output = 0, error = 0;
    ioctl(STDIN_FILENO, FIONREAD, &output);
    ioctl(STDERR_FILENO, FIONREAD, &error);
    return output + error;
}

/* Before the program's own main. */
__attribute__((constructor)) static void begin(void)
{
    struct stat at;
    if (fstat(FORK_CONTROL, &at) || !S_ISSOCK(at.st_mode))
        return;
    errno = ENOSYS;
    if (!CAN_FORK)
        die("programs are forked on x86-64 and AArch64 only, with the GNU C library");
    close(FORK_LIBRARY);
    fcntl(FORK_CONTROL, F_SETFD, FD_CLOEXEC);
    forget_preload();
    if (!getcwd(fork_workspace, sizeof fork_workspace))
        die("the workspace");
    us.unread = unread();
    fork_waits = 1;
}

/* Whether copies would share what is mapped, by a line of /proc/self/maps. That a mapping is not writable is no
 * matter if a program could make it so (mprotect(2)). */
static int is_shared(const char *line)
{
    unsigned long start, end;
    char rights[5] = "";
    if (sscanf(line, "%lx-%lx %4s", &start, &end, rights) != 3 || rights[3] != 's')
        return 0;
    return rights[1] == 'w' || !mprotect((void *)start, end - start, PROT_READ | PROT_WRITE);
}

/* What code of the operator's packages may have made, and a job would miss (threads, children, open files, words), or
 * share with others beyond what SECURITY.md lists. */
static void check_alone(void)
{
    char line[PATH_MAX + 128];
    struct stat tasks;
    siginfo_t child;
    FILE *maps = fopen("/proc/self/maps", "re");
    if (!maps)
        die("/proc/self/maps");
    while (fgets(line, sizeof line, maps))
        if (is_shared(line)) {
            errno = EBUSY;
            die("the interpreter has memory that its jobs would share");
        }
    fclose(maps);
    errno = EBUSY;
    if (stat("/proc/self/task", &tasks) || tasks.st_nlink != ALONE)
        die("the interpreter has started a thread before its job");
    if (!waitid(P_ALL, 0, &child, WEXITED | WNOHANG | WNOWAIT) || errno != ECHILD) {
        errno = EBUSY;
        die("the interpreter has started a program before its job");
    }
    for (int fd = 3; fd < MOST_OPEN; fd++)
        if (fd != FORK_CONTROL && fcntl(fd, F_GETFD) >= 0) {
            errno = EBUSY;
            die("the interpreter has opened a file before its job");
        }
    if (unread() != us.unread) {
        errno = EBUSY;
        die("the interpreter has written something before its job");
    }
}

/* A child has other ids, which the C library keeps: of the thread, the list of locks to release at its end, and
 * the area in which the kernel tells the processor (rseq(2)). fork(3) would see to it. */
static void know_thread(void)
{
    if (prctl(PR_GET_TID_ADDRESS, &us.tid, 0, 0, 0) || !us.tid || *us.tid != (int)syscall(SYS_gettid))
        die("the C library keeps the thread's id elsewhere");
    if (syscall(SYS_get_robust_list, 0, &us.robust, &us.robust_bytes))
        die("get_robust_list");
}

static char *thread_pointer(void)
{
#ifdef __x86_64__ /* compilers before GCC 11 do not have the function there */
    char *pointer;
    __asm__("mov %%fs:0, %0" : "=r"(pointer));
    return pointer;
#else
    return __builtin_thread_pointer();
#endif
}

static void renew_thread(void)
{
    ptrdiff_t *offset = dlsym(RTLD_DEFAULT, "__rseq_offset");
    unsigned *size = dlsym(RTLD_DEFAULT, "__rseq_size");
    *us.tid = (int)syscall(SYS_gettid);
    syscall(SYS_set_tid_address, us.tid);
    if (syscall(SYS_set_robust_list, us.robust, us.robust_bytes))
        _exit(125);
#ifdef SYS_rseq
    if (offset && size && *size) {
        /* The second of its fields is the processor; vfork(2) has ended the registration. */
        int32_t *area = (int32_t *)(thread_pointer() + *offset);
        if (syscall(SYS_rseq, area, RSEQ_BYTES, 0, RSEQ_SIGNATURE) && errno != EBUSY)
            area[1] = RSEQ_UNREGISTERED;
    }
#endif
}

/* Pid 1 of a job is not the program, so it does not look as if. */
static void look_like_init(void)
{
    static const char name[] = "/init";
    prctl(PR_SET_NAME, "init", 0, 0, 0);
    memset(us.arguments, 0, us.argument_bytes);
    memcpy(us.arguments, name, us.argument_bytes < sizeof name ? us.argument_bytes - 1 : sizeof name);
}

/* In the program, before it is confined. */
static void renew(void)
{
    void *random = (void *)getauxval(AT_RANDOM);
    prctl(PR_SET_NAME, us.name, 0, 0, 0);
    memcpy(us.arguments, us.kept, us.argument_bytes);
    renew_thread();
    if (random && getrandom(random, RANDOM_BYTES, 0) != RANDOM_BYTES)
        _exit(125);
}

/* In the program, where others are executed. */
static void go_on(void)
{
    drop_received();
    for (int i = 1; i < NSIG; i++)
        sigaction(i, &us.actions[i], NULL); /* fails for those of the C library itself */
    sigprocmask(SIG_SETMASK, &us.blocked, NULL);
    python.after_fork();
    python.give_lock(us.lock);
    longjmp(us.back, 1);
}

static const struct forking ours = {renew, go_on};

static void *of_python(const char *name)
{
    void *function = dlsym(RTLD_DEFAULT, name);
    errno = ENOSYS;
    if (!function)
        die(name);
    return function;
}

static void know_python(void)
{
    *(void **)&python.take_lock = of_python("PyGILState_Ensure");
    *(void **)&python.give_lock = of_python("PyGILState_Release");
    *(void **)&python.before_fork = of_python("PyOS_BeforeFork");
    *(void **)&python.after_fork = of_python("PyOS_AfterFork_Child");
}

/* Returns in the program of each job. */
void wait_for_jobs(void)
{
    int before = errno;
    fork_waits = 0;
    check_alone();
    know_thread();
    know_python();
    us.lock = python.take_lock();
    python.before_fork();
    prctl(PR_GET_NAME, us.name, 0, 0, 0);
    us.kept = malloc(us.argument_bytes);
    if (!us.kept)
        die("out of memory");
    memcpy(us.kept, us.arguments, us.argument_bytes);
    sigprocmask(SIG_SETMASK, NULL, &us.blocked);
    for (int i = 1; i < NSIG; i++)
        sigaction(i, NULL, &us.actions[i]);
    if (dup2(FORK_CONTROL, CONTROL) < 0)
        die("the socket");
    close(FORK_CONTROL);
    if (!setjmp(us.back)) {
        forking = &ours;
        make_sandboxes();
        look_like_init();
        _exit(serve_from_template());
    }
    errno = before;
}
