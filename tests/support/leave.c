// Processes that leave by _exit() take their counts of branches with them. In builds that count (make coverage) they write
// them down first, or all that runs in the child that trains a tokenizer would seem untested.
#ifdef ROPE_COVERAGE
#include <sys/syscall.h>
#include <unistd.h>

void __gcov_dump(void);

void _exit(int code) {
    __gcov_dump();
    syscall(SYS_exit_group, code);
    __builtin_unreachable();
}
#else
typedef int nothing_to_count;
#endif
