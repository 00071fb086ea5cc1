#include "train/signals.h"

#include <stdbool.h>
#include <string.h>
#include <unistd.h>

volatile sig_atomic_t signals_stop;
static const char *first_words = "", *last_words = "";

static void say(const char *text, const char *end) {
    const char *const parts[] = {"\nrope: ", text, end};
    for (size_t i = 0; i < 3; i++) {
        ssize_t ignored = write(2, parts[i], strlen(parts[i])); // stdio is not safe in a handler
        (void)ignored;
    }
}

static void ask_to_stop(int number) {
    const bool insists = number == SIGINT || number == SIGTERM;
    if (signals_stop && !insists) return;
    if (signals_stop) {
        say(last_words, ".\n");
        _exit(128 + number);
    }
    signals_stop = 1;
    say(first_words, "; once more stops at once.\n");
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

void signals_catch(const char *finishing, const char *at_once) {
    first_words = finishing;
    last_words = at_once;
    catch(SIGINT);
    catch(SIGTERM);
    catch_unless_ignored(SIGHUP);
}

void signals_catch_pipe(void) { catch_unless_ignored(SIGPIPE); }
