/* A template becomes an interpreter that makes the sandboxes of jobs, with a program in each.
 *
 *   to it    u32 BECOME, u32 number of arguments, u32 number of variables, u64 limit of the stack, then strings
 *            with NUL: working directory, arguments, variables; with descriptors: our library
 *
 * The library is preloaded (ld.so(8)), and takes over where the program could notice its job: forked/forked.c. */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MOST_STRINGS = 256 };

/* Standard input and output are pipes, as those of a job: an interpreter asks what they are. They are the ends of one,
 * which keeps what is written before there is a job: see forked.c. */
static void pipes(void)
{
    int ends[2];
    if (pipe(ends) || dup2(ends[0], 0) < 0 || dup2(ends[1], 1) < 0)
        die("pipes");
}

/* Its start depends on this limit: where what is mapped lies, and the size of its threads' stacks. */
static void limit_stack(uint64_t most)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_STACK, &limit))
        die("the limit of the stack");
    limit.rlim_cur = most < limit.rlim_max ? most : limit.rlim_max;
    if (setrlimit(RLIMIT_STACK, &limit))
        die("the limit of the stack");
}

/* As a program has them (start.c), whatever the service itself was started with. */
static void default_signals(void)
{
    sigset_t none;
    for (int i = 1; i < NSIG; i++)
        signal(i, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

void become_interpreter(unsigned char *data, size_t size, int library)
{
    static char preload[64];
    char *words[MOST_STRINGS + 4] = {0};
    uint32_t arguments = size < 20 ? 0 : get32(data + 4), variables = size < 20 ? 0 : get32(data + 8);
    unsigned char *at = data + 20, *end = data + size;
    errno = EPROTO;
    if (!arguments || arguments > MOST_STRINGS / 2 || variables > MOST_STRINGS / 2)
        die("the program to start");
    char **cwd = words, **argv = words + 1, **env = argv + arguments + 1;
    for (uint32_t i = 0; i < 1 + arguments + variables; i++) {
        unsigned char *stop = at < end ? memchr(at, 0, (size_t)(end - at)) : NULL;
        if (!stop)
            die("the program to start");
        words[i < 1 + arguments ? i : i + 1] = (char *)at;
        at = stop + 1;
    }
    /* The last one, so that the library can cut it off. */
    snprintf(preload, sizeof preload, "LD_PRELOAD=/proc/self/fd/%d", FORK_LIBRARY);
    env[variables] = preload;
    if (dup2(CONTROL, FORK_CONTROL) < 0 || dup2(library, FORK_LIBRARY) < 0)
        die("descriptors");
    pipes();
    syscall(SYS_close_range, 3, FORK_CONTROL - 1, 0);
    limit_stack(get64(data + 12));
    default_signals();
    if (chdir(*cwd))
        die(*cwd);
    environ = env;
    execvpe(*argv, argv, env);
    die(*argv);
}
