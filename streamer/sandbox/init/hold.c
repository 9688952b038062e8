/* A program that is started before its job, and held where it could notice that.
 *
 * We trace it (ptrace(2)) from its execve(2) on, and let each of its threads go on until it makes a call
 * that is not in calls.c: those concern nothing but the process itself, and files that are the same in
 * every sandbox. Such a call has not begun yet when we are told of it. With the first one of the first
 * thread the program is held. When its job has come and its files are there we detach, and the call
 * proceeds, of a program that nobody traces: what it is and sees is what it would be and see, had it been
 * started then. (Only how long ago it was started it can find out, in /proc/self/stat.)
 *
 * This is no wall: all that a program could gain by deceiving us, for example with a path that another
 * thread changes after we have read it, is a look at the sandbox before the files of its job are in it. */
#define _GNU_SOURCE
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/ptrace.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST_THREADS = 256, SYSCALL_STOP = SIGTRAP | 0x80 };
enum { OPTIONS = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXEC | PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL };

static struct {
    enum {
        NONE,
        STARTS, /* until the first thread makes a call that would reveal something */
        STOPS,  /* the others are told to stop */
        HELD,   /* nothing of it runs */
        LEAVES  /* those that run are told to stop once more, so that we can detach */
    } state;
    int executes; /* the program itself: what ran before it was our own code */
    struct thread {
        pid_t id;
        int stopped, signal; /* the signal to deliver when it goes on */
    } threads[MOST_THREADS];
    size_t count;
    int gate; /* what a program waits for that is not traced, or 0 */
} held;

static long trace(int request, pid_t thread, unsigned long address, unsigned long data)
{
    return syscall(SYS_ptrace, (long)request, (long)thread, address, data);
}

/* Whether the program waits for its job. Nothing of it has been noticed by anybody then. */
int is_held(void)
{
    return job.pid && held.state != NONE && held.state != LEAVES;
}

/* Whether nothing of it runs, so that nothing needs to be watched. */
int stands_still(void)
{
    return job.pid && held.state == HELD;
}

static void tell_held(int failure)
{
    unsigned char out[4];
    put32(out, (uint32_t)failure);
    tell('P', out, sizeof out);
}

static void open_gate(void)
{
    unsigned char byte = 0;
    if (held.gate) {
        send(held.gate, &byte, 1, MSG_NOSIGNAL); /* it may have ended */
        close(held.gate);
    }
    held.gate = 0;
}

static void give_up(int failure)
{
    held.state = NONE;
    tell_held(failure);
    finish_job('k');
}

static struct thread *known(pid_t id)
{
    for (size_t i = 0; i < held.count; i++)
        if (held.threads[i].id == id)
            return &held.threads[i];
    return NULL;
}

static struct thread *learn(pid_t id)
{
    struct thread *thread = known(id);
    if (thread || held.count == MOST_THREADS)
        return thread;
    thread = &held.threads[held.count++];
    *thread = (struct thread){.id = id};
    return thread;
}

static void forget(struct thread *thread)
{
    *thread = held.threads[--held.count];
    if (!held.count)
        held.state = NONE;
}

static void leave(struct thread *thread)
{
    trace(PTRACE_DETACH, thread->id, 0, (unsigned long)thread->signal);
    forget(thread);
}

static void stop_others(void)
{
    int running = 0;
    for (size_t i = 0; i < held.count; i++)
        if (!held.threads[i].stopped) {
            running++;
            trace(PTRACE_INTERRUPT, held.threads[i].id, 0, 0);
        }
    held.state = running ? STOPS : HELD;
    if (!running)
        tell_held(0);
}

/* Called for each process or thread that has ended; return whether it was a thread of the program's, beside
 * the first: what these have used is known with the process. */
int thread_has_ended(pid_t id)
{
    struct thread *thread = known(id);
    if (id == job.pid) {
        held.count = 0;
        held.state = NONE;
        open_gate();
        return 0;
    }
    if (thread)
        forget(thread);
    if (held.state == STOPS)
        stop_others(); /* it may have been the last that ran */
    return thread != NULL;
}

/* Whether a thread that starts must stop: it is about to make a call that may reveal something. */
static int must_stop(pid_t id)
{
    struct ptrace_syscall_info call;
    uint64_t arguments[sizeof call.entry.args / sizeof *call.entry.args];
    if (trace(PTRACE_GET_SYSCALL_INFO, id, sizeof call, (unsigned long)&call) <= 0) {
        if (errno != ESRCH) /* it was killed */
            give_up(errno); /* before Linux 5.3 */
        return 1;
    }
    memcpy(arguments, call.entry.args, sizeof arguments);
    return call.op == PTRACE_SYSCALL_INFO_ENTRY && held.executes
           && !reveals_nothing(id, call.arch, call.entry.nr, arguments);
}

/* A thread that we trace has stopped, for one of the reasons in ptrace(2). */
void thread_has_stopped(pid_t id, int status)
{
    int event = status >> 16, number = WSTOPSIG(status);
    struct thread *thread = learn(id);
    if (!job.pid || held.state == NONE) { /* a thread of whose start we did not know when we detached */
        trace(PTRACE_DETACH, id, 0, 0);
        if (thread)
            forget(thread);
        return;
    }
    if (!thread) {
        give_up(EAGAIN);
        return;
    }
    thread->signal = event || number == SYSCALL_STOP ? 0 : number;
    if (held.state == LEAVES) {
        leave(thread);
        return;
    }
    if (event == PTRACE_EVENT_STOP && number != SIGTRAP) {
        trace(PTRACE_LISTEN, id, 0, 0); /* somebody has stopped the program itself */
        return;
    }
    held.executes |= event == PTRACE_EVENT_EXEC;
    thread->stopped = held.state != STARTS || (number == SYSCALL_STOP && must_stop(id));
    if (held.state == STARTS && !thread->stopped)
        trace(PTRACE_SYSCALL, id, 0, (unsigned long)thread->signal);
    else if (held.state == STOPS || (held.state == STARTS && id == job.pid))
        stop_others();
}

static int is_at(int gate)
{
    unsigned char byte;
    ssize_t got;
    do
        got = read(gate, &byte, 1);
    while (got < 0 && errno == EINTR);
    return got == 1;
}

static int keep_gate(int gate)
{
    held.gate = fcntl(gate, F_DUPFD_CLOEXEC, 3);
    if (held.gate < 0) {
        held.gate = 0;
        give_up(errno);
        return 0;
    }
    held.state = HELD;
    return 1;
}

/* Hold a forked program, which needs no trace: it waits in our own code, where its interpreter had stopped. */
void hold_forked(int gate)
{
    memset(&held, 0, sizeof held);
    if (!is_at(gate))
        give_up(ESRCH);
    else if (keep_gate(gate))
        tell_held(0);
}

/* Let a program wait in our own code, before its execve(2). It need not have come there yet: nobody waits for that. */
void hold_unexecuted(int gate)
{
    memset(&held, 0, sizeof held);
    keep_gate(gate);
}

/* Begin to hold the program that has just been made, and waits at the other end of `gate`: it is our code up
 * to its execve(2). */
void hold_program(int gate)
{
    unsigned char byte = 0;
    memset(&held, 0, sizeof held);
    if (!is_at(gate)) { /* only one that is dumpable can be traced: see become_program */
        give_up(ESRCH);
    } else if (trace(PTRACE_SEIZE, job.pid, 0, OPTIONS)) {
        give_up(errno);
    } else {
        held.state = STARTS;
        learn(job.pid);
        if (write(gate, &byte, 1) != 1)
            return; /* it has been killed */
    }
}

/* 'G': the job of the program has come. What it may use now is all its own. With a byte of payload the
 * service does not know that it was held, and is told whether it goes on: it may have ended before. */
int release_program(size_t size)
{
    unsigned char goes_on = (unsigned char)is_held();
    if (goes_on && !files_are_whole())
        return 0;
    if (size)
        tell('G', &goes_on, 1);
    if (!goes_on)
        return 1;
    job.started_us = microseconds(CLOCK_MONOTONIC);
    begin_looking();
    begin_watch();
    if (held.gate) {
        held.state = NONE;
        open_gate();
        return 1;
    }
    held.state = LEAVES;
    for (size_t i = held.count; i-- > 0;) /* the first thread last */
        if (held.threads[i].stopped)
            leave(&held.threads[i]);
        else
            trace(PTRACE_INTERRUPT, held.threads[i].id, 0, 0);
    return 1;
}
