/* The pseudo-terminal of a program that has one.
 *
 * It belongs to the sandbox's own devpts, so that its name there is true (/dev/pts/0, ttyname(3)), and no other
 * terminal can be reached from it. It is opened before the first program runs, while we still may: afterwards
 * nobody in the sandbox can open another, since the host has a limited number for all. */
#define _GNU_SOURCE
#include "init.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

/* landlock(7); older headers do not have it. The numbers are the same on every architecture. */
enum { CREATE_RULESET = 444, ADD_RULE = 445, RESTRICT_SELF = 446, PATH_BENEATH = 1 };
enum { WRITE_FILE = 1 << 1, READ_FILE = 1 << 2, REFER = 1 << 13 };
struct path_beneath {
    uint64_t access;
    int32_t parent;
} __attribute__((packed));

enum { HANG_UP_PASSES = 50, HANG_UP_PAUSE_US = 1000 };

static int master = -1, slave = -1;
static dev_t device; /* of the slave */
static struct termios as_new;

/* `path` is that of the device that makes one (pts(4)). */
void open_terminal(const char *path)
{
    int locked = 0;
    master = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (master < 0 || ioctl(master, TIOCSPTLCK, &locked) || tcgetattr(master, &as_new))
        die(path);
    as_new.c_iflag |= IUTF8; /* so that the terminal erases a character and not a byte */
}

static void allow(int rules, const char *path)
{
    struct stat at;
    struct path_beneath rule = {WRITE_FILE | READ_FILE, open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC)};
    if (rule.parent < 0 || fstat(rule.parent, &at))
        return; /* what is not in the list is refused */
    if (S_ISDIR(at.st_mode))
        rule.access |= REFER; /* files may be renamed from one folder into another */
    if (!S_ISLNK(at.st_mode) && syscall(ADD_RULE, rules, PATH_BENEATH, &rule, 0))
        die(path);
    close(rule.parent);
}

static void allow_all(int rules, const char *folder, const char *but)
{
    DIR *names = opendir(folder);
    struct dirent *entry;
    char path[300];
    if (!names)
        die(folder);
    while ((entry = readdir(names)))
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..") && strcmp(entry->d_name, but)) {
            snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
            allow(rules, path);
        }
    closedir(names);
}

/* Where the wrapper lets every program open terminals: from now on nobody here can, also we. What there is
 * besides may be read and written as before, by whomever it may. */
void forbid_terminals(void)
{
    uint64_t handled[1] = {WRITE_FILE | READ_FILE | REFER};
    char name[32];
    unsigned number;
    int rules = (int)syscall(CREATE_RULESET, handled, sizeof handled, 0);
    if (rules < 0 || ioctl(master, TIOCGPTN, &number))
        die("Landlock");
    snprintf(name, sizeof name, "/dev/pts/%u", number);
    allow(rules, name);
    allow_all(rules, "/dev", "pts");
    allow_all(rules, "/", "dev");
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (syscall(RESTRICT_SELF, rules, 0))
        die("Landlock");
    close(rules);
    rules = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (rules >= 0 || errno != EACCES)
        die("a job could open terminals");
}

/* The program's side, or -1. We keep it open while the program runs: with nobody at it the service would read
 * the end of the output, and a program may close its descriptors and open /dev/tty later. */
int terminal_of_program(void)
{
    return slave;
}

void leave_terminal(void)
{
    if (slave >= 0) {
        ioctl(slave, TIOCNXCL); /* if the program has let nobody else open it, we could not either */
        close(slave);
    }
    slave = -1;
}

/* Whether a process has the terminal, or does not let us see whether it has. */
static int has_terminal(const char *pid)
{
    char path[300];
    struct dirent *entry;
    struct stat at;
    int has = 0;
    snprintf(path, sizeof path, "/proc/%.20s/fd", pid);
    DIR *open_files = opendir(path);
    if (!open_files) {
        check_sight();
        return errno == EACCES;
    }
    while (!has && (entry = readdir(open_files))) {
        snprintf(path, sizeof path, "/proc/%.20s/fd/%.20s", pid, entry->d_name);
        has = !stat(path, &at) && S_ISCHR(at.st_mode) && at.st_rdev == device;
    }
    closedir(open_files);
    return has;
}

/* The program has ended, and what it has left may go on, but not on its terminal, which is that of the next
 * one too: as when a window is closed. */
void hang_up(void)
{
    for (int pass = 0, found = 1; found && pass < HANG_UP_PASSES; pass++) {
        DIR *proc = opendir("/proc");
        struct dirent *entry;
        if (pass)
            usleep(HANG_UP_PAUSE_US);
        found = 0;
        while (proc && (entry = readdir(proc))) {
            pid_t pid = (pid_t)atol(entry->d_name);
            if (pid > 1 && pid != getpid() && has_terminal(entry->d_name)) {
                found = 1;
                kill(pid, SIGKILL);
            }
        }
        if (proc)
            closedir(proc);
    }
}

/* 'Y' u16 columns, u16 rows: prepare the terminal for the next program, and hand out the side that the service
 * reads and writes. What an earlier program has left of it is gone: what was typed or written, its modes, and that
 * its output is stopped, which after a Ctrl-S only TCOOFF before TCOON undoes. */
int hand_out_terminal(const unsigned char *data, size_t size)
{
    static const unsigned char frame[5] = {1, 0, 0, 0, 'Y'};
    if (size != 4 || job.pid || master < 0) {
        errno = EPROTO;
        return 0;
    }
    struct winsize shape = {.ws_col = (unsigned short)(data[0] | data[1] << 8),
                            .ws_row = (unsigned short)(data[2] | data[3] << 8)};
    struct stat at;
    leave_terminal();
    slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0 || fstat(slave, &at))
        return 0;
    device = at.st_rdev;
    return !tcsetattr(slave, TCSANOW, &as_new) && !tcflow(slave, TCOOFF) && !tcflow(slave, TCOON)
           && !tcflush(slave, TCIOFLUSH) && !tcflush(master, TCIOFLUSH) && !ioctl(slave, TIOCSWINSZ, &shape)
           && hand_out(master, frame, sizeof frame);
}
