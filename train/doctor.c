// rope doctor: what this machine is, how fast its matrix products are, what would make training slow, and which attention
// the settings come down to here. Every check that fails comes with the remedy.
#include <jansson.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "core/blas.h"
#include "core/cpu.h"
#include "core/threads.h"
#include "train/command.h"

enum {
    RATE_SIZE = 1024,
    RATE_REPEATS = 5,
    COPY_BYTES = 1 << 27,
    PROBLEMS = 16,
    PROBLEM_SIZE = 320,
    CHOICE_SIZE = 1024
};

typedef struct Diagnosis {
    CpuInfo cpu;
    double core_rate, all_rate, library_rate; // GFLOP/s: one core, our products, OpenBLAS's own threading
    double copy;                              // bytes per second
    size_t problem_count;
    char problems[PROBLEMS][PROBLEM_SIZE];
    ModelSettings model;
    char choices[MODEL_MAX_LAYERS][CHOICE_SIZE]; // what each of model.methods would do, in words
} Diagnosis;

static void complain(Diagnosis *diagnosis, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void complain(Diagnosis *diagnosis, const char *format, ...) {
    REQUIRE(diagnosis->problem_count < PROBLEMS);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(diagnosis->problems[diagnosis->problem_count++], PROBLEM_SIZE, format, arguments);
    va_end(arguments);
}

static void measure(Diagnosis *diagnosis) {
    size_t threads = threads_count();
    threads_set(1);
    diagnosis->core_rate = blas_rate(RATE_SIZE, RATE_REPEATS);
    threads_set(threads);
    diagnosis->all_rate = blas_rate(RATE_SIZE, RATE_REPEATS);
    diagnosis->library_rate = blas_library_rate(RATE_SIZE, RATE_REPEATS);
    diagnosis->copy = copy_rate(COPY_BYTES, RATE_REPEATS);
}

static void judge(Diagnosis *diagnosis) {
    const CpuInfo *cpu = &diagnosis->cpu;
    if (cpu->blas_misread)
        complain(diagnosis,
                 "OpenBLAS takes this CPU for an old one and uses its %s kernels, several times too slow. "
                 "Start rope with OPENBLAS_CORETYPE=%s.",
                 cpu->blas_core, cpu->blas_wanted ? cpu->blas_wanted : "Haswell");
    if (!cpu->blas_openmp)
        complain(diagnosis,
                 "OpenBLAS is not the OpenMP build, so its threads and ours get in each other's way. Install "
                 "libopenblas-openmp-dev and choose it with update-alternatives --config libblas.so.3-$(uname "
                 "-m)-linux-gnu.");
    if (threads_count() < cpu->cores)
        complain(diagnosis, "%zu of %zu cores are used. Unset OMP_NUM_THREADS or set train.threads = 0.",
                 threads_count(), cpu->cores);
    if (threads_count() > cpu->cores)
        complain(diagnosis, "%zu threads share %zu cores. Lower OMP_NUM_THREADS or train.threads.", threads_count(),
                 cpu->cores);
    double load;
    if (getloadavg(&load, 1) == 1 && load > 1.5 * (double)cpu->cores)
        complain(
            diagnosis,
            "Other programs keep %.1f threads busy on %zu cores, so the figures above are low. If that is to stay, "
            "set OMP_WAIT_POLICY=passive: threads that wait then do not spin.",
            load, cpu->cores);
    // Hyper-threads share units, and other programs take time: only a clear loss is worth a word.
    if (threads_count() > 1 && diagnosis->all_rate < 1.15 * diagnosis->core_rate)
        complain(diagnosis,
                 "%zu threads reach %.0f GFLOP/s, one reaches %.0f: other programs are running, or the cores "
                 "are halves of one. Try train.threads = %zu.",
                 threads_count(), diagnosis->all_rate, diagnosis->core_rate, (threads_count() + 1) / 2);
    if (cpu->memory_available < (size_t)512 << 20)
        complain(diagnosis,
                 "Only %zu MiB of memory are available. Close other programs or raise the container's limit.",
                 cpu->memory_available >> 20);
}

// Plans the attention of the settings without running it: `auto` measures its candidates here, as training would.
static bool choose_attention(Diagnosis *diagnosis, const Config *config, Error *error) {
    ModelSettings *model = &diagnosis->model;
    config_model(config, config->batch, true, model);
    const AttentionSettings settings = model_attention_settings(model);
    for (size_t i = 0; i < model->method_count; i++) {
        AttentionPlan *plan = attention_create(model->methods[i], &settings, error);
        if (!plan) return false;
        attention_explain(plan, diagnosis->choices[i], CHOICE_SIZE);
        attention_destroy(plan);
    }
    return true;
}

static json_t *report(const Diagnosis *diagnosis) {
    const CpuInfo *cpu = &diagnosis->cpu;
    json_t *problems = json_array();
    for (size_t i = 0; i < diagnosis->problem_count; i++)
        json_array_append_new(problems, json_string(diagnosis->problems[i]));
    json_t *attention = json_array();
    for (size_t i = 0; i < diagnosis->model.method_count; i++)
        json_array_append_new(attention, json_string(diagnosis->choices[i]));
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:s, s:s, s:b, s:b, s:I, s:I, s:f, s:f, s:f, s:f, s:o, s:o}", "cpu",
                     cpu->model, "instruction_set", cpu_isa_name(cpu_isa()), "cores", (json_int_t)cpu->cores,
                     "memory_total", (json_int_t)cpu->memory_total, "memory_available",
                     (json_int_t)cpu->memory_available, "blas_core", cpu->blas_core, "blas_config", cpu->blas_config,
                     "blas_openmp", (int)cpu->blas_openmp, "blas_misread", (int)cpu->blas_misread, "blas_threads",
                     (json_int_t)cpu->blas_threads, "openmp_threads", (json_int_t)cpu->openmp_threads,
                     "sgemm_gflops_per_core", diagnosis->core_rate, "sgemm_gflops", diagnosis->all_rate,
                     "openblas_gflops", diagnosis->library_rate, "copy_bytes_per_s", diagnosis->copy, "attention",
                     attention, "problems", problems);
}

static void print_report(const Diagnosis *diagnosis) {
    const CpuInfo *cpu = &diagnosis->cpu;
    fprintf(stderr, "CPU             %s, %zu core%s, our kernels use %s\n", cpu->model, cpu->cores,
            cpu->cores == 1 ? "" : "s",
            cpu_isa_name(cpu_isa()));
    fprintf(stderr, "memory          %.1f GiB, %.1f GiB available\n", (double)cpu->memory_total / (1 << 30),
            (double)cpu->memory_available / (1 << 30));
    fprintf(stderr, "OpenBLAS        %s kernels, %s (%s)\n", cpu->blas_core, cpu->blas_openmp ? "OpenMP" : "not OpenMP",
            cpu->blas_config);
    fprintf(stderr, "threads         OpenMP %zu, OpenBLAS %zu\n", cpu->openmp_threads, cpu->blas_threads);
    fprintf(stderr, "sgemm           %.0f GFLOP/s on one core, %.0f on all (OpenBLAS's own threads: %.0f)\n",
            diagnosis->core_rate, diagnosis->all_rate, diagnosis->library_rate);
    fprintf(stderr, "memory copy     %.1f GB/s\n", diagnosis->copy / 1e9);
    for (size_t i = 0; i < diagnosis->model.method_count; i++) {
        char label[32] = "attention";
        if (diagnosis->model.method_count > 1) snprintf(label, sizeof label, "layer %zu", i);
        fprintf(stderr, "%-15s %s\n", label, diagnosis->choices[i]);
    }
    for (size_t i = 0; i < diagnosis->problem_count; i++)
        fprintf(stderr, "PROBLEM         %s\n", diagnosis->problems[i]);
    if (!diagnosis->problem_count) fprintf(stderr, "Nothing here slows training down.\n");
}

int command_doctor(int argc, char **argv) {
    static const CommandOption options[] = {{NULL, 0, NULL, NULL}};
    static CommandLine line;
    static Diagnosis diagnosis;
    command_parse(command_find("doctor"), options, NULL, argc, argv, &line);
    Error error = {0};
    if (line.positional_count) {
        error_set(&error, ERROR_USER, "doctor takes no arguments.");
        return command_fail(&error);
    }
    if (!config_resolve(&line.config, &error)) return command_fail(&error);
    threads_set(line.config.threads);
    if (!choose_attention(&diagnosis, &line.config, &error)) return command_fail(&error);
    cpu_info(&diagnosis.cpu);
    measure(&diagnosis);
    judge(&diagnosis);
    if (!line.json)
        print_report(&diagnosis);
    else if (!command_print_json(report(&diagnosis), &error))
        return command_fail(&error);
    return diagnosis.problem_count ? 1 : 0;
}
