// rope: trains small RoPE language models on CPUs, with attention whose cost grows almost linearly with context length.
#include <stdio.h>
#include <string.h>

#include "core/cpu.h"
#include "train/command.h"

int main(int argc, char **argv) {
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
