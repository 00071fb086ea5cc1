#include "train/signals.h"

#include <stdbool.h>
#include <string.h>
#include <unistd.h>

volatile sig_atomic_t signals_stop;

static void say(const char *text) {
    ssize_t ignored = write(2, text, strlen(text)); // stdio is not safe in a handler
    (void)ignored;
}

static void ask_to_stop(int number) {
    const bool insists = number == SIGINT || number == SIGTERM;
    if (signals_stop && !insists) return;
    if (signals_stop) {
        say("\nrope: Stopped at once; the last saved checkpoint is whole.\n");
        _exit(128 + number);
    }
    signals_stop = 1;
    say("\nrope: Finishing this step and saving; once more stops at once.\n");
}

static void catch(int number) {
    struct sigaction action = {.sa_handler = ask_to_stop, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(number, &action, NULL);
}

static void catch_unless_ignored(int number) {
    struct sigaction before;
    if (sigaction(number, NULL, &before) == 0 && before.sa_handler != SIG_IGN) catch(number);
}

void signals_catch(void) {
    catch(SIGINT);
    catch(SIGTERM);
    catch_unless_ignored(SIGHUP);
}

void signals_catch_pipe(void) { catch_unless_ignored(SIGPIPE); }
