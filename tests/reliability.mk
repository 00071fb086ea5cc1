# Targets of reliability: planted bugs, fault injection, fuzzing, the long forms, coverage. Included by Makefile.
#
#   mutants  every planted bug of tests/mutants is caught       faults    every injected fault is survived
#   fuzz     libFuzzer targets, FUZZ_SECONDS or FUZZ_RUNS each; FUZZ_TRACED=no: for long runs, about half as fast again
#   soak     long forms, SOAK_SECONDS in all
#   coverage branch coverage of the code that reads files       valgrind  the test programs under valgrind
#   wide     the test suite with vectors as wide as AVX-512's, on machines that have AVX2 alone
#   avx512   the kernels' test programs on an emulated CPU that has AVX-512, AVX512_SECONDS at most

FUZZ_SECONDS ?= 20
FUZZ_RUNS ?= -1
FUZZ_TRACED ?= yes
SOAK_SECONDS ?= 3600
FAULTS_DIRECTORY ?= $(if $(wildcard /dev/shm),/dev/shm,/tmp)/rope-faults

.PHONY: mutants faults fuzz soak coverage valgrind wide avx512

mutants:
	@MAKE='$(MAKE)' BUILD=$(BUILD) sh tests/mutants.sh

# Its own malloc and system calls: not for builds with a sanitizer.
$(BUILD)/tests/faults: $(patsubst %.c,$(BUILD)/float/%.o,$(wildcard tests/faults/*.c) tests/support/leave.c) $(BUILD)/librope.a
	@mkdir -p $(@D)
	$(CXX) $(LDFLAGS_ALL) -o $@ $^ $(LIBS)

# Functions that tests/failing/calls.c puts in the place of libc's, in our own code.
CALLS_THAT_FAIL := malloc calloc realloc reallocarray aligned_alloc strdup asprintf open_memstream free _Znwm \
    read pread write pwrite open close fsync rename renameat2 mkdir unlink remove symlink stat fstat access \
    scandir fopen fclose ini_parse_stream flock pipe fork waitpid atexit freopen
$(BUILD)/tests/test_failing_%: $(BUILD)/float/tests/test_failing_%.o $(BUILD)/float/tests/failing/calls.o $(SUPPORT_FLOAT) $(BUILD)/librope.a
	@mkdir -p $(@D)
	$(CXX) $(LDFLAGS_ALL) $(CALLS_THAT_FAIL:%=-Wl,--wrap=%) -o $@ $^ $(LIBS) -lcmocka

faults: $(BUILD)/tests/faults
	@$(BUILD)/tests/faults $(FAULTS_DIRECTORY).$$$$

# The quick share of the faults runs with the tests, but not in builds with a sanitizer, which has malloc for itself.
build-tests: $(if $(SANITIZE),,$(BUILD)/tests/faults)

# Traced comparisons lead to bytes that chance would not find, and take a third of the time; the corpus keeps what they
# led to, for the build without them.
FUZZ_BUILD := build/fuzz$(if $(filter no,$(FUZZ_TRACED)),-untraced)
FUZZ_SANITIZE := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all \
    -fsanitize-coverage-ignorelist=tests/fuzz/uncounted.txt $(if $(filter no,$(FUZZ_TRACED)),-fno-sanitize-coverage=trace-cmp)
# Functions that tests/fuzz/memory_files.c puts in the place of libc's, in our own code.
CALLS_IN_MEMORY := open fcntl read pread pwrite fsync close ftruncate fstat stat access mkdir rename fopen scandir
FUZZ_TARGET_OBJECTS := $(patsubst %.c,$(BUILD)/float/%.o,$(filter-out %/driver.c,$(wildcard tests/fuzz/*.c)))
$(BUILD)/tests/fuzz: $(BUILD)/float/tests/fuzz/driver.o $(FUZZ_TARGET_OBJECTS) $(BUILD)/librope.a
	@mkdir -p $(@D)
	$(CXX) $(LDFLAGS_ALL) -fsanitize=fuzzer $(CALLS_IN_MEMORY:%=-Wl,--wrap=%) -o $@ $^ $(LIBS)

$(BUILD)/tests/test_fuzz: $(BUILD)/float/tests/test_fuzz.o $(FUZZ_TARGET_OBJECTS) $(SUPPORT_FLOAT) $(BUILD)/librope.a
	@mkdir -p $(@D)
	$(CXX) $(LDFLAGS_ALL) $(CALLS_IN_MEMORY:%=-Wl,--wrap=%) -o $@ $^ $(LIBS) -lcmocka

# Files in memory are no part of what is looked for.
build/fuzz%/tests/fuzz/memory_files.o: override SANITIZE :=
# Kernels see no bytes from outside, and instrumented ones take clang minutes.
build/fuzz%_kernels.portable.o build/fuzz%_kernels.avx2.o build/fuzz%_kernels.avx512.o: override SANITIZE :=

fuzz:
	@sh tests/deps.sh clang libomp-dev
	@$(MAKE) --no-print-directory -j$$(nproc) CC=clang CXX=clang++ BUILD=$(FUZZ_BUILD) OPTIMIZE=-O2 \
	    SANITIZE='$(FUZZ_SANITIZE)' $(FUZZ_BUILD)/tests/fuzz
	@BUILD=$(FUZZ_BUILD) FUZZ_SECONDS=$(FUZZ_SECONDS) FUZZ_RUNS=$(FUZZ_RUNS) sh tests/fuzz.sh $(FUZZ_TARGETS)

valgrind: build-tests
	@sh tests/deps.sh valgrind
	@BUILD=$(BUILD) sh tests/valgrind.sh $(VALGRIND_TESTS)

# In the place of AVX2's kernels, whose instructions they use.
wide: deps
	@$(MAKE) --no-print-directory -j$$(nproc) BUILD=build/wide ISA_FLAGS_avx2='$(ISA_FLAGS_avx2) -DROPE_WIDE' build-tests
	@BUILD=build/wide sh tests/run.sh

# The real instructions, a machine around them, and all of it interpreted: Debian's bochs.
avx512: build-tests
	@sh tests/deps.sh bochs bochs-term bochsbios vgabios isolinux syslinux-common xorriso cpio
	@BUILD=$(BUILD) sh tests/emulate.sh $(AVX512_TESTS)

soak: $(BUILD)/tests/faults build-tests
	@BUILD=$(BUILD) SOAK_SECONDS=$(SOAK_SECONDS) sh tests/soak.sh

# Branches of what reads files and settings; the tests are built again for it, without optimisation, which would copy
# functions to where they are called and then count each copy's branches. But for kernels: those would take too long.
build/coverage/%_kernels.portable.o build/coverage/%_kernels.avx2.o build/coverage/%_kernels.avx512.o: override OPTIMIZE := -O1
COVERAGE_TESTS := safetensors checkpoint checkpoint_foreign data shards prepare prepare_refused config config_resolved \
    tokenizer tokenizer_foreign trainer run_directory resumed best fuzz failing_checkpoint failing_config failing_data \
    failing_run failing_tokenizer
coverage: deps
	@$(MAKE) --no-print-directory -j$$(nproc) BUILD=build/coverage OPTIMIZE=-O0 \
	    CFLAGS='--coverage -DROPE_COVERAGE' CXXFLAGS='--coverage -O0' LDFLAGS=--coverage \
	    $(COVERAGE_TESTS:%=build/coverage/tests/test_%)
	@BUILD=build/coverage sh tests/coverage.sh $(COVERAGE_TESTS)
