// rope: trains small RoPE language models on CPUs, with attention whose cost grows almost linearly with context length.
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "core/cpu.h"
#include "train/command.h"

// A file opened later would take the place of a standard stream that the caller closed, and messages would be written
// into it. What stands there instead fails as a closed one does: it cannot be read as input, nor written as output.
static void hold_closed_streams(void) {
    for (int stream = 0; stream < 3; stream++)
        if (fcntl(stream, F_GETFD) < 0 && open("/dev/null", stream == 0 ? O_WRONLY : O_RDONLY) < 0) return;
}

int main(int argc, char **argv) {
    hold_closed_streams();
    cpu_mend_blas(argv);
    if (argc < 2) {
        command_usage(stderr);
        return 2;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        command_usage(stdout);
        return 0;
    }
    const Command *command = command_find(argv[1]);
    if (!command) return command_unknown(argv[1]);
    return command->run(argc - 1, argv + 1);
}
