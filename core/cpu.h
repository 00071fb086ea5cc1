// What machine this is, and the one thing that must be mended before numerics start: OpenBLAS 0.3.21 misreads new CPUs
// and falls back to SSE3 kernels, five times too slow, silently. It reads OPENBLAS_CORETYPE in a constructor, so the
// program must set it and execute itself again.
#ifndef ROPE_CORE_CPU_H
#define ROPE_CORE_CPU_H

#include <stdbool.h>
#include <stddef.h>

typedef enum Isa { ISA_PORTABLE, ISA_AVX2, ISA_AVX512, ISA_COUNT } Isa;

// The instruction set that our kernels use: the best of the CPU, or less when ROPE_ISA=portable|avx2|avx512 says so.
Isa cpu_isa(void);
const char *cpu_isa_name(Isa isa);

typedef struct CpuInfo {
    char model[128];
    size_t cores;            // in the affinity mask
    size_t memory_total;     // bytes, the smaller of RAM and the cgroup's limit
    size_t memory_available; // bytes, likewise
    char blas_core[64];      // OpenBLAS kernel in use
    char blas_config[256];
    bool blas_openmp;        // openblas_get_parallel() == 2
    bool blas_misread;       // the kernel is below what the CPU has
    const char *blas_wanted; // OPENBLAS_CORETYPE that would mend it, or NULL
    size_t blas_threads, openmp_threads;
} CpuInfo;

void cpu_info(CpuInfo *info);
// The two memory figures alone; 0 if the system does not tell.
void cpu_memory(size_t *total, size_t *available);
// Lowers both figures to the limits of the control groups that /proc/self/cgroup names and of all above them: a container
// that gives 2 GiB of a 64 GiB machine kills whoever believes /proc/meminfo. What is used there counts without what the
// kernel would give back at once: pages of files, and caches of its own. root: /sys/fs/cgroup, or in tests a copy of such.
void cpu_memory_of_groups(const char *self, const char *root, size_t *total, size_t *available);
// Call first in main (programs and tests): if the BLAS kernel is misread, sets OPENBLAS_CORETYPE, says so in one line
// on standard error, and executes /proc/self/exe again, once (guarded by an environment variable). Returns if nothing
// is to be done or the exec fails.
void cpu_mend_blas(char **argv);

#endif
