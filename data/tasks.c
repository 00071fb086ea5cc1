// The generators behind tasks.h, one function each. Draws for different purposes come from different Philox counters,
// (example, purpose), because random_permute and random_below with the same counter would be correlated.
#include "data/tasks.h"

#include <math.h>
#include <string.h>

#include "core/random.h"

const char *const task_filler_names[TASK_FILLER_COUNT] = {"random", "distinct", "blank"};

enum { INDUCTION_BLOCK = 4 };

typedef enum Purpose { DRAW_KEYS, DRAW_VALUES, DRAW_POSITIONS, DRAW_ORDER, DRAW_FILLER } Purpose;

// One example: its rows of the batch, and the root of its random numbers.
typedef struct Example {
    const TaskSettings *settings;
    uint64_t index;
    int32_t *inputs, *targets, *distances; // (tokens); distances may be NULL
} Example;

static Random draw(const Example *example, Purpose purpose) {
    uint64_t step = (uint64_t)example->settings->held_out << 63 | example->index << 3 | (uint64_t)purpose;
    return (Random){.seed = example->settings->seed, .stream = RANDOM_TASK, .step = step};
}

static void ask(const Example *example, size_t position, size_t source, int32_t answer) {
    example->targets[position] = answer;
    if (example->distances) example->distances[position] = (int32_t)(position - source);
}

// Pair j of an example: all keys differ, and so do all values.
static int32_t key_of(const Example *example, uint64_t j) {
    return 1 + (int32_t)random_permute(draw(example, DRAW_KEYS), j, example->settings->vocabulary / 2 - 1);
}
static int32_t value_of(const Example *example, uint64_t j) {
    size_t vocabulary = example->settings->vocabulary, first = vocabulary / 2;
    return (int32_t)(first + random_permute(draw(example, DRAW_VALUES), j, vocabulary - first));
}

static bool is_key(const int32_t *keys, size_t stride, size_t count, int32_t token) {
    for (size_t j = 0; j < count; j++)
        if (keys[j * stride] == token) return true;
    return false;
}

// A filler token for `position`. The example's keys stand at keys[0], keys[stride], …
static int32_t filler_at(const Example *example, size_t position, const int32_t *keys, size_t stride) {
    const TaskSettings *settings = example->settings;
    Random random = draw(example, DRAW_FILLER);
    if (settings->filler == TASK_FILLER_BLANK) return 0;
    if (settings->filler == TASK_FILLER_RANDOM) return (int32_t)random_below(random, position, settings->vocabulary);
    for (uint64_t index = position;; index += settings->tokens) {
        int32_t token = 1 + (int32_t)random_below(random, index, settings->vocabulary - 1);
        if (!is_key(keys, stride, settings->pairs, token)) return token;
    }
}

// i in [1, count] with probability ∝ i^(a-1). Inverts the continuous law x^(a-1) on [1, count+1), whose integral over
// [i, i+1) is i^a·((1+1/i)^a - 1)/a, and thins by the ratio of the two, which is largest at i = 1. draws counts up.
static size_t draw_power_law(Random random, uint64_t *draws, size_t count, double a) {
    for (;;) {
        double u = random_uniform(random, (*draws)++), keep = random_uniform(random, (*draws)++);
        double x = exp(log1p(u * expm1(a * log((double)count + 1.0))) / a);
        double i = fmin(floor(x), (double)count);
        if (keep * i * expm1(a * log1p(1.0 / i)) < expm1(a * M_LN2)) return (size_t)i;
    }
}

static void make_mqar(const Example *example) {
    const TaskSettings *settings = example->settings;
    size_t pairs = settings->pairs, start = 2 * pairs, gaps = (settings->tokens - start) / 2;
    int32_t *inputs = example->inputs;
    for (size_t j = 0; j < pairs; j++) {
        inputs[2 * j] = key_of(example, j);
        inputs[2 * j + 1] = value_of(example, j);
    }
    for (size_t t = start; t < settings->tokens; t++) inputs[t] = filler_at(example, t, inputs, 2);
    uint64_t draws = 0;
    for (size_t j = 0; j < pairs; j++) {
        size_t position;
        do // without replacement: draw again where a query stands already
            position =
                start + 2 * (draw_power_law(draw(example, DRAW_POSITIONS), &draws, gaps, settings->gap_power) - 1);
        while (example->targets[position] >= 0);
        inputs[position] = inputs[2 * j];
        ask(example, position, 2 * j + 1, inputs[2 * j + 1]);
    }
}

// Tokens among which needles may lie.
static size_t needle_room(const TaskSettings *settings) {
    size_t near = settings->pairs + (settings->least_distance > 0 ? settings->least_distance - 1 : 0);
    return settings->tokens > near ? settings->tokens - near : 0;
}

static void make_needle(const Example *example) {
    const TaskSettings *settings = example->settings;
    size_t pairs = settings->pairs, stretch = needle_room(settings) / pairs, queries = settings->tokens - pairs;
    int32_t *inputs = example->inputs;
    for (size_t i = 0; i < pairs; i++) inputs[queries + i] = key_of(example, i); // the filler may have to avoid them
    for (size_t t = 0; t < queries; t++) inputs[t] = filler_at(example, t, inputs + queries, 1);
    for (size_t i = 0; i < pairs; i++) { // query i asks for the pair in stretch j
        size_t j = random_permute(draw(example, DRAW_ORDER), i, pairs);
        size_t place = j * stretch + random_below(draw(example, DRAW_POSITIONS), j, stretch - 1);
        inputs[place] = inputs[queries + i];
        inputs[place + 1] = value_of(example, i);
        ask(example, queries + i, place + 1, inputs[place + 1]);
    }
}

static size_t induction_repeated(size_t tokens) { return tokens / 2 / INDUCTION_BLOCK * INDUCTION_BLOCK; }

static void make_induction(const Example *example) {
    size_t tokens = example->settings->tokens, repeated = induction_repeated(tokens), first = tokens - repeated;
    int32_t *inputs = example->inputs;
    for (size_t t = 0; t < first; t++)
        inputs[t] = (int32_t)random_permute(draw(example, DRAW_KEYS), t, example->settings->vocabulary);
    for (size_t block = 0; block < repeated / INDUCTION_BLOCK; block++) {
        size_t place = first + block * INDUCTION_BLOCK;
        size_t source = random_permute(draw(example, DRAW_ORDER), block, repeated / INDUCTION_BLOCK) * INDUCTION_BLOCK;
        for (size_t i = 0; i < INDUCTION_BLOCK; i++) {
            inputs[place + i] = inputs[source + i];
            // what follows a block's last token is another block's first: nothing to be known
            if (i + 1 < INDUCTION_BLOCK) ask(example, place + i, source + i + 1, inputs[source + i + 1]);
        }
    }
}

static void make_copy(const Example *example) {
    size_t tokens = example->settings->tokens, length = tokens / 2;
    int32_t *inputs = example->inputs;
    for (size_t t = 0; t < length; t++)
        inputs[t] = 1 + (int32_t)random_below(draw(example, DRAW_FILLER), t, example->settings->vocabulary - 1);
    inputs[length] = 0;
    for (size_t t = 0; t < length; t++) {
        ask(example, length + t, t, inputs[t]);
        if (length + 1 + t < tokens) inputs[length + 1 + t] = inputs[t];
    }
}

static bool check_pairs(const TaskSettings *settings, Error *error) {
    size_t keys = settings->vocabulary / 2 - 1; // fewer than values
    if (settings->pairs == 0 || settings->pairs > keys)
        return error_set(error, ERROR_USER, "%s: %zu pairs; a vocabulary of %zu has 1 to %zu keys", settings->name,
                         settings->pairs, settings->vocabulary, keys);
    if ((unsigned)settings->filler >= TASK_FILLER_COUNT)
        return error_set(error, ERROR_USER, "%s: no such filler", settings->name);
    return true;
}

static bool check_mqar(const TaskSettings *settings, Error *error) {
    if (!check_pairs(settings, error)) return false;
    if (settings->pairs > settings->tokens / 4)
        return error_set(error, ERROR_USER, "mqar: %zu pairs need at least %zu tokens, four for each; there are %zu",
                         settings->pairs, 4 * settings->pairs, settings->tokens);
    if (!(settings->gap_power > 0.0 && settings->gap_power <= 1.0))
        return error_set(error, ERROR_USER, "mqar: gap power %g must lie above 0 and be at most 1",
                         settings->gap_power);
    return true;
}

static bool check_needle(const TaskSettings *settings, Error *error) {
    if (!check_pairs(settings, error)) return false;
    if (settings->least_distance > settings->tokens || needle_room(settings) / settings->pairs < 2)
        return error_set(error, ERROR_USER, "needle: %zu pairs at a distance of %zu or more do not fit into %zu tokens",
                         settings->pairs, settings->least_distance, settings->tokens);
    return true;
}

static bool check_induction(const TaskSettings *settings, Error *error) {
    size_t different = settings->tokens - induction_repeated(settings->tokens);
    if (settings->tokens < 2 * INDUCTION_BLOCK)
        return error_set(error, ERROR_USER, "induction: needs at least %d tokens", 2 * INDUCTION_BLOCK);
    if (settings->vocabulary < different)
        return error_set(error, ERROR_USER,
                         "induction: %zu tokens need a vocabulary of %zu, so that no token comes twice by "
                         "chance; it is %zu",
                         settings->tokens, different, settings->vocabulary);
    return true;
}

static bool check_copy(const TaskSettings *settings, Error *error) {
    return settings->tokens >= 2 || error_set(error, ERROR_USER, "copy: needs at least 2 tokens");
}

static const struct Task {
    const char *name;
    bool (*check)(const TaskSettings *settings, Error *error);
    void (*make)(const Example *example);
} tasks[] = {
    {"mqar", check_mqar, make_mqar},
    {"induction", check_induction, make_induction},
    {"copy", check_copy, make_copy},
    {"needle", check_needle, make_needle},
};
enum { TASK_COUNT = sizeof tasks / sizeof *tasks };

const char *task_name(size_t index) { return index < TASK_COUNT ? tasks[index].name : NULL; }

static const struct Task *find_task(const char *name) {
    for (size_t i = 0; i < TASK_COUNT; i++)
        if (strcmp(tasks[i].name, name) == 0) return &tasks[i];
    return NULL;
}

bool task_check(const TaskSettings *settings, Error *error) {
    const struct Task *task = find_task(settings->name);
    if (!task)
        return error_set(error, ERROR_USER, "task \"%s\": choose mqar, induction, copy or needle", settings->name);
    if (settings->batch == 0 || settings->tokens == 0 || settings->tokens > INT32_MAX)
        return error_set(error, ERROR_USER, "%s: batch (%zu) and tokens (%zu) must be at least 1", settings->name,
                         settings->batch, settings->tokens);
    if (settings->vocabulary < 4 || settings->vocabulary > INT32_MAX)
        return error_set(error, ERROR_USER, "%s: a vocabulary of %zu; it must be at least 4", settings->name,
                         settings->vocabulary);
    return task->check(settings, error);
}

void task_batch(const TaskSettings *settings, uint64_t first_example, int32_t *inputs, int32_t *targets,
                int32_t *distances) {
    const struct Task *task = find_task(settings->name);
    REQUIRE(task);
    size_t tokens = settings->tokens;
#pragma omp parallel for schedule(static)
    for (size_t b = 0; b < settings->batch; b++) {
        Example example = {.settings = settings,
                           .index = first_example + b,
                           .inputs = inputs + b * tokens,
                           .targets = targets + b * tokens,
                           .distances = distances ? distances + b * tokens : NULL};
        memset(example.targets, 0xFF, tokens * sizeof *targets); // -1
        if (distances) memset(example.distances, 0, tokens * sizeof *distances);
        task->make(&example);
    }
}
