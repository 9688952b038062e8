/* What the parts of the init share; streamer-init.c says what it is. */
#ifndef STREAMER_INIT_H
#define STREAMER_INIT_H

#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

enum { CONTROL = 0 };

/* See streamer/sandbox/drivers/protocol.py, which has the same numbers. */
enum { PROTOCOL = 16 };
enum { SEES_PROC = 1, UNBOUNDED = 2, FIRST = 4 }; /* flags of 'H' */
enum { WALK_DISK = 1 }; /* flags of 'C', 'R' and 'U' */
enum { REST_ONLY = 2 }; /* of 'C' */
enum { GROUP_MEMORY = 2, GROUP_TIME = 4, GROUP_SHARE = 8, HOLD = 16, FORK = 32, TERMINAL = 64, KEEP = 128, GATE = 256 }; /* of 'R' */

enum { OF_RUN = 256 }; /* of 'U' */

/* A share of what an account has: Linux gives it 128 and some ten thousand. */
#define INOTIFY_INSTANCES "16"
#define INOTIFY_WATCHES "8192"

void die(const char *what);
void make_read_only(const char *path);

/* enter.c: outside the sandbox */
int enter(char **argv);
int bound(const char *path, const char *most);

/* streamer-init.c */
int own_user_namespace(void);
int serve_from_template(void);

/* template.c: inside a sandbox that stays */
void make_sandboxes(void);
void bring_terminal(void);

/* become.c: the same, by an interpreter. There these are its socket and our library. */
enum { FORK_CONTROL = 200, FORK_LIBRARY = 201 };
void become_interpreter(unsigned char *data, size_t size, int library);

/* channel.c: the socket */
extern struct channel {
    unsigned char *bytes;
    size_t used, room;
    int fds[3];   /* those of a program, or that of a project */
    int fd_count;
} in;

void put32(unsigned char *to, uint32_t value);
void put64(unsigned char *to, uint64_t value);
uint32_t get32(const unsigned char *from);
uint64_t get64(const unsigned char *from);
void tell(unsigned char type, const unsigned char *payload, size_t size);
void tell_failure(unsigned char stage);
int receive(void);
void drop_received(void);
int hand_out(int fd, const unsigned char *frame, size_t size);

/* answer.c: what the service asks for */
int hand_out_listener(const unsigned char *data, size_t size);
int hand_out_path(const unsigned char *data, size_t size);
int open_beneath(const char *path, uint32_t flags, uint32_t mode);
int tell_use(const unsigned char *data, size_t size);

/* The program that runs, its limits, and what it has used. */
extern struct job {
    pid_t pid;               /* the program, or 0 */
    int ended;               /* it was reaped: `status` holds */
    int lingering;           /* it has ended; what it left may run for a moment more */
    int keeps;               /* what it leaves may go on, beside later programs */
    int on_terminal;
    int status;
    unsigned char cause;     /* '-', or why we ended it: 'c' CPU, 'm' memory,
                              * 'd' disk, 'k' told to, 'l' its time is over */
    uint64_t cpu_limit_us, memory_limit, disk_limit;
    uint32_t inode_limit, walk_disk;
    uint32_t group;          /* what a control group does: GROUP_* */
    uint64_t reaped_us;      /* CPU of everything reaped, its own reaped children included */
    uint64_t peak_process, peak_tree;
    uint64_t seen_us, estimated_us; /* CPU of every process that was ever seen: processes.c */
    uint64_t started_us;
    int nice, crowded; /* see share.c */
    uint64_t wall_us;
} job;

/* usage.c: what is used now */
struct usage {
    uint64_t cpu_us;            /* of what is alive, its reaped children included */
    uint64_t anonymous, shared; /* memory that is mapped, in bytes */
    uint64_t threads;           /* of all processes together */
    int running;                /* threads that run or would like to */
};
struct stat_line {
    pid_t parent;
    uint64_t own_us, children_us; /* CPU time: its own, and that of its reaped children */
    uint64_t started_us;          /* on CLOCK_BOOTTIME */
    long threads;
    char state; /* of its first thread */
};

uint64_t microseconds(clockid_t clock);
int read_stat(const char *pid, struct stat_line *found);
void check_sight(void);
void memory_of(const char *pid, int exact, struct usage *used);
void look_at_ipc(void);
void watch_mount(const char *path);
uint64_t memory_in_use(const struct usage *used);
struct disk {
    uint64_t bytes, inodes; /* that are left */
};
int mounts_are_full(struct disk *left);
int folder_is_full(void);
uint64_t disk_in_use(void);

/* processes.c: which there are, and their CPU time */
void keep_sight(void);
int proc_is_ours(void);
void forget_processes(void);
void begin_looking(void);
int same_processes(uint64_t *ran_us);
enum survey {
    LOOK,
    EXACT, /* pages that processes share are divided among them, which may take long */
    GLANCE,
};
void survey(enum survey how, struct usage *used);

/* watch.c: when to look at the limits */
void begin_watch(void);
void watch_limits(void);
uint64_t next_look(void);

/* disk.c: what is in the workspace */
extern int workspace;
void keep_workspace(void);
uint64_t workspace_bytes(void);
int workspace_is_over(uint64_t other_bytes, uint64_t other_inodes);

/* share.c: the processors that it may have */
long processors(void);
int running_threads(const char *pid, const struct stat_line *stat);
void share_processors(int running);

/* end.c: whatever ends */
uint64_t cpu_of_run(uint64_t living_us);
uint64_t cpu_so_far(uint64_t living_us);
int reap(void);
void end_all(void);
void end_or_linger(void);
int rest_runs(void);
void leave_rest(void);
void end_unstarted(int output);
void finish_job(unsigned char cause);

/* files.c: the files of a job */
void take_file(unsigned char type, unsigned char *data, size_t size);
int keep_quota(const unsigned char *data, size_t size);
int check_files(const unsigned char *data, size_t size);
int files_are_whole(void);
int count_inode(void);

/* project.c: a project that they lie over */
int take_project(size_t size);
int unpack_project(int from);
void keep_project(void);
void remove_project(void);

/* terminal.c: the terminal of a program */
void open_terminal(const char *path);
void forbid_terminals(void);
int hand_out_terminal(const unsigned char *data, size_t size);
int terminal_of_program(void);
void leave_terminal(void);
void hang_up(void);

/* calls.c: what a program may do before its job has come */
int keep_same(const unsigned char *data, size_t size);
int reveals_nothing(pid_t thread, uint32_t machine, uint64_t number, const uint64_t *arguments);

/* hold.c: a program that waits for its job */
int is_held(void);
int stands_still(void);
void hold_program(int gate);
void hold_forked(int gate);
void hold_unexecuted(int gate);
int release_program(size_t size);
void thread_has_stopped(pid_t id, int status);
int thread_has_ended(pid_t id);

/* start.c: programs */
extern const struct forking {
    void (*renew)(void); /* what a fork does not renew, and execve(2) does */
    void (*go_on)(void); /* does not return */
} *forking; /* how to go on as the program of a job, if we are a copy of one that waits (forked/forked.c) */
int keep_mounts(unsigned char *data, size_t size);
int keep_filter(const unsigned char *data, size_t size);
int start_job(unsigned char *data, size_t size);

#endif
