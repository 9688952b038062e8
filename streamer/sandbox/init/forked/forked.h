/* What the parts of the preloaded library share. */
#ifndef STREAMER_FORKED_H
#define STREAMER_FORKED_H

extern int fork_waits; /* whether the interpreter starts, and has not yet noticed that it has no job */
extern char fork_workspace[4096];

void wait_for_jobs(void);

#endif
