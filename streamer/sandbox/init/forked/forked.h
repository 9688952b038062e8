/* What the parts of the preloaded library share. */
#ifndef STREAMER_FORKED_H
#define STREAMER_FORKED_H

#include <features.h>

/* Elsewhere it is not known by which functions an interpreter looks for a file. */
#if defined __GLIBC__ && (defined __x86_64__ || defined __aarch64__)
#define CAN_FORK 1
#else
#define CAN_FORK 0
#endif

extern int fork_waits; /* whether the interpreter starts, and has not yet noticed that it has no job */
extern char fork_workspace[4096];

void wait_for_jobs(void);

#endif
