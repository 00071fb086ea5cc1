// SIGINT and SIGTERM ask a command to stop: what is at hand finishes. A second one ends the program at once.
// SIGHUP asks as well, unless nohup has it ignored; terminals that close may send it twice, so it never ends at once.
#ifndef ROPE_TRAIN_SIGNALS_H
#define ROPE_TRAIN_SIGNALS_H

#include <signal.h>

extern volatile sig_atomic_t signals_stop; // nonzero: stop after what is at hand
// What is said at the first signal, "Finishing this step and saving", and at the second, "Stopped at once; the last saved
// checkpoint is whole". Both are to stay where they are.
void signals_catch(const char *finishing, const char *at_once);
void signals_catch_pipe(void); // for what saves: a reader of its messages that goes away (SIGPIPE) asks to stop as well

#endif
