/* What the parts of the init share; streamer-init.c says what it is. */
#ifndef STREAMER_INIT_H
#define STREAMER_INIT_H

#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

enum { CONTROL = 0, POLL_MS = 50 };

void die(const char *what);

/* enter.c: outside the sandbox */
int enter(char **argv);

/* channel.c: the socket */
extern struct channel {
    unsigned char *bytes;
    size_t used, room;
    int fds[3];
    int fd_count;
} in;

void put32(unsigned char *to, uint32_t value);
void put64(unsigned char *to, uint64_t value);
uint32_t get32(const unsigned char *from);
uint64_t get64(const unsigned char *from);
void tell(unsigned char type, const unsigned char *payload, size_t size);
void tell_failure(unsigned char stage);
int receive(void);
int hand_out_listener(const unsigned char *data, size_t size);

/* The program that runs, its limits, and what it has used. */
extern struct job {
    pid_t pid;               /* the program, or 0 */
    int ended;               /* it was reaped: `status` holds */
    int status;
    unsigned char cause;     /* '-', or why we ended it: 'c' CPU, 'm' memory,
                              * 'd' disk, 'k' told to */
    uint64_t cpu_limit_us, memory_limit, disk_limit;
    uint32_t inode_limit, walk_disk;
    uint32_t ticks;
    uint64_t reaped_us;      /* CPU of everything reaped, its own reaped children included */
    uint64_t peak_process, peak_tree;
    struct timespec started;
    uint64_t wall_us;
} job;

/* usage.c: what is used now */
uint64_t since_start(void);
int read_stat(const char *pid, pid_t *parent, uint64_t *cpu_us);
void survey(int exact, uint64_t *cpu_us, uint64_t *memory);
int disk_is_full(void);

/* end.c: whatever ends */
void reap(void);
void end_all(void);
void finish_job(unsigned char cause);
void watch_limits(void);

/* start.c: files and programs */
int put_file(unsigned char type, unsigned char *data, size_t size);
int keep_filter(const unsigned char *data, size_t size);
int start_job(unsigned char *data, size_t size);

#endif
