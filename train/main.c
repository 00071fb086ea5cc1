// rope: trains small RoPE language models on CPUs, with attention whose cost grows almost linearly with context length.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/cpu.h"
#include "train/command.h"

// A file opened later would take the place of a standard stream that the caller closed, and messages would be written
// into it. What stands there instead fails as a closed one does: it cannot be read as input, nor written as output.
static void hold_closed_streams(void) {
    for (int stream = 0; stream < 3; stream++)
        if (fcntl(stream, F_GETFD) < 0 && open("/dev/null", stream == 0 ? O_WRONLY : O_RDONLY) < 0) return;
}

// Help, of which nobody else looks whether it was written.
static void check_output(int code, void *nothing) {
    (void)nothing;
    if (code || (fflush(stdout) == 0 && !ferror(stdout))) return;
    fputs("rope: Writing to standard output failed.\n", stderr);
    _exit(1);
}

// `rope help train` is `rope train --help`.
static int help(int argc, char **argv) {
    const char *about = argc > 2 && !strcmp(argv[1], "help") ? argv[2] : "help";
    if (!strcmp(about, "help") || *about == '-') {
        command_usage(stdout);
        return 0;
    }
    const Command *command = command_find(about);
    char option[] = "--help", *arguments[] = {argv[2], option, NULL};
    return command ? command->run(2, arguments) : command_unknown(about);
}

int main(int argc, char **argv) {
    hold_closed_streams();
    cpu_mend_blas(argv);
    on_exit(check_output, NULL);
    if (argc < 2) {
        command_usage(stderr);
        return 2;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) return help(argc, argv);
    const Command *command = command_find(argv[1]);
    if (!command) return command_unknown(argv[1]);
    return command->run(argc - 1, argv + 1);
}
