#include "train/signals.h"

#include <string.h>
#include <unistd.h>

volatile sig_atomic_t signals_stop;

static void say(const char *text) {
    ssize_t ignored = write(2, text, strlen(text)); // stdio is not safe in a handler
    (void)ignored;
}

static void ask_to_stop(int number) {
    if (signals_stop) {
        say("\nrope: Stopped at once; the last saved checkpoint is whole.\n");
        _exit(128 + number);
    }
    signals_stop = 1;
    say("\nrope: Finishing this step and saving; once more stops at once.\n");
}

void signals_catch(void) {
    struct sigaction action = {.sa_handler = ask_to_stop, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}
