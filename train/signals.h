// SIGINT and SIGTERM ask a run to stop: the step at hand finishes and is saved. A second one ends the program at once.
// SIGHUP asks as well, unless nohup has it ignored; terminals that close may send it twice, so it never ends at once.
#ifndef ROPE_TRAIN_SIGNALS_H
#define ROPE_TRAIN_SIGNALS_H

#include <signal.h>

extern volatile sig_atomic_t signals_stop; // nonzero: stop after this step
void signals_catch(void);
void signals_catch_pipe(void); // for what saves: a reader of its messages that goes away (SIGPIPE) asks to stop as well

#endif
