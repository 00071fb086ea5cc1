// What machine this is, and the mending of a misread BLAS kernel (see cpu.h).
#include "core/cpu.h"

#include <cblas.h>
#include <omp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/sysinfo.h>
#include <unistd.h>

static Isa detect(void) {
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return ISA_PORTABLE;
    bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    return wide ? ISA_AVX512 : ISA_AVX2;
}

const char *cpu_isa_name(Isa isa) {
    static const char *const names[ISA_COUNT] = {"portable", "avx2", "avx512"};
    return (size_t)isa < ISA_COUNT ? names[isa] : "unknown";
}

static Isa choose(void) {
    Isa best = detect();
    const char *wanted = getenv("ROPE_ISA");
    if (!wanted || !*wanted) return best;
    for (Isa isa = ISA_PORTABLE; isa < ISA_COUNT; isa++) {
        if (strcmp(wanted, cpu_isa_name(isa)) != 0) continue;
        if (isa > best) fprintf(stderr, "rope: this CPU has no %s; using %s\n", wanted, cpu_isa_name(best));
        return isa > best ? best : isa;
    }
    fprintf(stderr, "rope: ROPE_ISA=%s is none of portable, avx2, avx512; using %s\n", wanted, cpu_isa_name(best));
    return best;
}

Isa cpu_isa(void) {
    static int chosen = -1; // every thread that finds -1 stores the same value
    int isa = __atomic_load_n(&chosen, __ATOMIC_RELAXED);
    if (isa < 0) {
        isa = (int)choose();
        __atomic_store_n(&chosen, isa, __ATOMIC_RELAXED);
    }
    return (Isa)isa;
}

// The value after the colon of the first line of a /proc file that starts with `key`.
static bool proc_value(const char *path, const char *key, char *value, size_t size) {
    FILE *file = fopen(path, "r");
    if (!file) return false;
    char line[512];
    bool found = false;
    while (!found && fgets(line, sizeof line, file)) {
        const char *colon = strchr(line, ':');
        if (!colon || strncmp(line, key, strlen(key)) != 0) continue;
        colon += 1 + strspn(colon + 1, " \t");
        snprintf(value, size, "%.*s", (int)strcspn(colon, "\n"), colon);
        found = true;
    }
    fclose(file);
    return found;
}

static size_t meminfo_bytes(const char *key) {
    char value[64];
    if (!proc_value("/proc/meminfo", key, value, sizeof value)) return 0;
    return (size_t)strtoull(value, NULL, 10) * 1024;
}

// A number in a cgroup file; SIZE_MAX when there is none or it says "max".
static size_t cgroup_number(const char *folder, const char *name) {
    char path[1024], text[64] = "";
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "r");
    if (!file) return SIZE_MAX;
    bool read = fgets(text, sizeof text, file) != NULL;
    fclose(file);
    return read && *text >= '0' && *text <= '9' ? (size_t)strtoull(text, NULL, 10) : SIZE_MAX;
}

// Bytes of a group that the kernel gives back where memory is short: its counter of use holds them too, so that after
// one large file was read nothing would seem to be left.
static size_t cgroup_reclaimable(const char *folder, bool second) {
    static const char *const keys[][3] = {{"total_inactive_file ", "total_active_file "},
                                          {"inactive_file ", "active_file ", "slab_reclaimable "}};
    char path[1024], line[128];
    size_t bytes = 0;
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file))
        for (size_t i = 0; i < 3 && keys[second][i]; i++)
            if (!strncmp(line, keys[second][i], strlen(keys[second][i])))
                bytes += (size_t)strtoull(line + strlen(keys[second][i]), NULL, 10);
    if (file) fclose(file);
    return bytes;
}

// One group's: a limit may be below what is used for as long as the kernel takes to get there.
static void apply_cgroup(const char *folder, bool second, size_t *total, size_t *available) {
    const size_t limit = cgroup_number(folder, second ? "memory.max" : "memory.limit_in_bytes");
    const size_t counted = cgroup_number(folder, second ? "memory.current" : "memory.usage_in_bytes");
    if (limit < *total) *total = limit;
    if (limit == SIZE_MAX || counted == SIZE_MAX) return;
    const size_t reclaimable = cgroup_reclaimable(folder, second);
    const size_t used = counted > reclaimable ? counted - reclaimable : 0;
    const size_t left = limit > used ? limit - used : 1; // 0 would say that it is not known
    if (left < *available) *available = left;
}

// Version 2 paths, then version 1; every level up counts.
void cpu_memory_of_groups(const char *self, const char *root, size_t *total, size_t *available) {
    FILE *file = fopen(self, "r");
    char line[512], top[300], folder[900];
    while (file && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = '\0';
        const char *path = strrchr(line, ':');
        const bool second = strncmp(line, "0::", 3) == 0;
        if (!path || (!second && !strstr(line, ":memory:"))) continue;
        snprintf(top, sizeof top, "%s%s", root, second ? "" : "/memory");
        snprintf(folder, sizeof folder, "%s%s", top, strcmp(path + 1, "/") == 0 ? "" : path + 1);
        for (;;) {
            apply_cgroup(folder, second, total, available);
            if (strlen(folder) <= strlen(top)) break;
            *strrchr(folder, '/') = '\0';
        }
    }
    if (file) fclose(file);
}

void cpu_memory(size_t *total, size_t *available) {
    struct sysinfo memory;
    *total = meminfo_bytes("MemTotal");
    *available = meminfo_bytes("MemAvailable");
    if (*total == 0 && sysinfo(&memory) == 0) { // no /proc, as in some containers: without what caches could give back
        *total = memory.totalram * memory.mem_unit;
        *available = (memory.freeram + memory.bufferram) * memory.mem_unit;
    }
    cpu_memory_of_groups("/proc/self/cgroup", "/sys/fs/cgroup", total, available);
}

// 0: older than AVX2, 1: AVX2, 2: AVX-512.
static int kernel_level(const char *core) {
    static const char *const avx2[] = {"Haswell", "Zen", "Excavator"};
    static const char *const avx512[] = {"SkylakeX", "Cooperlake", "SapphireRapids"};
    for (size_t i = 0; i < sizeof avx2 / sizeof *avx2; i++)
        if (strcasecmp(core, avx2[i]) == 0) return 1;
    for (size_t i = 0; i < sizeof avx512 / sizeof *avx512; i++)
        if (strcasecmp(core, avx512[i]) == 0) return 2;
    return 0;
}

// The OPENBLAS_CORETYPE that the CPU deserves when OpenBLAS uses `core`, or NULL when `core` will do. The Zen kernels
// will do with AVX-512 too: those CPUs multiply no faster with it (Zen 4).
static const char *better_core(const char *core) {
    Isa isa = detect();
    if (isa == ISA_PORTABLE || kernel_level(core) == 2 || strcasecmp(core, "Zen") == 0) return NULL;
    if (isa == ISA_AVX512) return "SkylakeX";
    return kernel_level(core) < 1 ? "Haswell" : NULL;
}

void cpu_info(CpuInfo *info) {
    *info = (CpuInfo){0};
    if (!proc_value("/proc/cpuinfo", "model name", info->model, sizeof info->model))
        snprintf(info->model, sizeof info->model, "unknown");
    cpu_set_t mask;
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    info->cores = sched_getaffinity(0, sizeof mask, &mask) == 0 ? (size_t)CPU_COUNT(&mask) : online > 0 ? online : 1;
    cpu_memory(&info->memory_total, &info->memory_available);
    snprintf(info->blas_core, sizeof info->blas_core, "%s", openblas_get_corename());
    snprintf(info->blas_config, sizeof info->blas_config, "%s", openblas_get_config());
    info->blas_openmp = openblas_get_parallel() == OPENBLAS_OPENMP;
    info->blas_wanted = better_core(info->blas_core);
    info->blas_misread = info->blas_wanted != NULL;
    info->blas_threads = (size_t)openblas_get_num_threads();
    info->openmp_threads = (size_t)omp_get_max_threads();
}

void cpu_mend_blas(char **argv) {
    // A core type that the user chose stands; the second variable marks a program that was already started again.
    if (getenv("OPENBLAS_CORETYPE") || getenv("ROPE_BLAS_MENDED")) return;
    const char *core = openblas_get_corename(), *wanted = better_core(core);
    if (!wanted) return;
    fprintf(stderr, "rope: OpenBLAS misread this CPU and uses its slow %s kernels; starting again with %s\n", core,
            wanted);
    fflush(NULL);
    setenv("OPENBLAS_CORETYPE", wanted, 1);
    setenv("ROPE_BLAS_MENDED", "1", 1);
    execv("/proc/self/exe", argv);
    perror("rope: could not start again, going on with the slow kernels");
}
