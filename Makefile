# rope.c: `make demo` and `make test` are all that most people need; both install what is missing first.
#
#   all      build/rope                       deps     install missing Debian packages (names them)
#   demo     text -> tokenizer -> model -> sample      test     unit tests and an end-to-end run
#   asan     tests under address+undefined    tsan     tests under the thread sanitizer
#   bench    measurements of this machine     oracle   comparison with PyTorch (needs Python; not in CI)
#   mutants, faults, fuzz, soak, coverage, valgrind, wide, avx512: tests/reliability.mk
#   lint, format, layers, install (PREFIX, DESTDIR), clean

CC       ?= cc
CXX      ?= c++
BUILD    ?= build
PREFIX   ?= /usr/local
OPTIMIZE ?= -O3
SANITIZE ?=
OPENMP   ?= -fopenmp

ifeq ($(origin CC),default)
CC := gcc
CXX := g++
endif

WARNINGS := -Wall -Wextra -Wshadow -Wpointer-arith -Wvla -Wno-psabi
CFLAGS_ALL   = -std=gnu11 -g $(OPTIMIZE) -fno-math-errno -fno-trapping-math $(OPENMP) $(WARNINGS) -Wstrict-prototypes -Wmissing-prototypes $(SANITIZE) -I. -MMD -MP -D_GNU_SOURCE $(CFLAGS)
CXXFLAGS_ALL = -std=c++17 -g -O2 $(WARNINGS) $(SANITIZE) -I. -MMD -MP $(CXXFLAGS)
LDFLAGS_ALL  = $(OPENMP) $(SANITIZE) $(LDFLAGS)
LIBS         = -lopenblas -lfftw3f -lfftw3 -lsentencepiece_train -lsentencepiece -linih -ljansson -lz -lm

# *_kernels.c are compiled once per instruction set and chosen at run time (core/simd.h).
ISA_FLAGS_portable := -DROPE_ISA=portable
ISA_FLAGS_avx2     := -DROPE_ISA=avx2 -mavx2 -mfma
ISA_FLAGS_avx512   := -DROPE_ISA=avx512 -mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma -mprefer-vector-width=512
ISAS := portable avx2 avx512

NUMERIC_DIRS := core attention model optim
KERNELS   := $(foreach d,$(NUMERIC_DIRS),$(wildcard $(d)/*_kernels.c))
NUMERIC   := $(filter-out $(KERNELS),$(foreach d,$(NUMERIC_DIRS),$(wildcard $(d)/*.c)))
DATA      := $(wildcard data/*.c)
DATA_CXX  := $(wildcard data/*.cc)
TRAIN     := $(filter-out train/main.c,$(wildcard train/*.c))

objects = $(NUMERIC:%.c=$(BUILD)/$(1)/%.o) $(foreach i,$(ISAS),$(KERNELS:%.c=$(BUILD)/$(1)/%.$(i).o))
FLOAT_OBJECTS  := $(call objects,float) $(DATA:%.c=$(BUILD)/float/%.o) $(DATA_CXX:%.cc=$(BUILD)/float/%.cc.o) $(TRAIN:%.c=$(BUILD)/float/%.o)
DOUBLE_OBJECTS := $(call objects,double)

# tests/test_*.c are cmocka programs in single precision; tests/double_*.c link with the double build.
TESTS        := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_*.c))
DOUBLE_TESTS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/double_*.c))
SUPPORT      := $(wildcard tests/support/*.c)

.PHONY: all deps demo test check asan tsan bench bench-check oracle lint format layers install clean build-tests
.DELETE_ON_ERROR:
.SECONDARY:

all: $(BUILD)/rope

$(BUILD)/rope: $(BUILD)/float/train/main.o $(BUILD)/librope.a
	$(CXX) $(LDFLAGS_ALL) -o $@ $^ $(LIBS)
$(BUILD)/librope.a: $(FLOAT_OBJECTS)
	rm -f $@ && $(AR) rcs $@ $^
$(BUILD)/librope_double.a: $(DOUBLE_OBJECTS)
	rm -f $@ && $(AR) rcs $@ $^

$(BUILD)/float/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -c -o $@ $<
$(BUILD)/float/%.cc.o: %.cc
	@mkdir -p $(@D)
	$(CXX) $(CXXFLAGS_ALL) -c -o $@ $<
$(BUILD)/double/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -DROPE_DOUBLE -c -o $@ $<
define ISA_RULES
$(BUILD)/float/%.$(1).o: %.c
	@mkdir -p $$(@D)
	$(CC) $$(CFLAGS_ALL) $(ISA_FLAGS_$(1)) -c -o $$@ $$<
$(BUILD)/double/%.$(1).o: %.c
	@mkdir -p $$(@D)
	$(CC) $$(CFLAGS_ALL) -DROPE_DOUBLE $(ISA_FLAGS_$(1)) -c -o $$@ $$<
endef
$(foreach i,$(ISAS),$(eval $(call ISA_RULES,$(i))))

SUPPORT_FLOAT  := $(SUPPORT:%.c=$(BUILD)/float/%.o)
SUPPORT_DOUBLE := $(SUPPORT:%.c=$(BUILD)/double/%.o)
$(BUILD)/tests/test_%: $(BUILD)/float/tests/test_%.o $(SUPPORT_FLOAT) $(BUILD)/librope.a
	@mkdir -p $(@D)
	$(CXX) $(LDFLAGS_ALL) -o $@ $^ $(LIBS) -lcmocka
$(BUILD)/tests/double_%: $(BUILD)/double/tests/double_%.o $(SUPPORT_DOUBLE) $(BUILD)/librope_double.a
	@mkdir -p $(@D)
	$(CXX) $(LDFLAGS_ALL) -o $@ $^ $(LIBS) -lcmocka

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)

# What shell tests read JSON and pages with.
$(BUILD)/tests/json_get $(BUILD)/tests/page_check: $(BUILD)/tests/%: tests/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(LDFLAGS_ALL) -o $@ $< -ljansson

build-tests: $(TESTS) $(DOUBLE_TESTS) $(BUILD)/tests/json_get $(BUILD)/tests/page_check $(BUILD)/rope

# DEPS=skip: everything is there already, under other names.
deps:
ifneq ($(DEPS),skip)
	@sh tests/deps.sh
endif

# Sub-makes, so that packages are there before anything is compiled. Only checks of pages need a browser: without one they
# are skipped, and counted as such.
test: deps
ifneq ($(DEPS),skip)
	@sh tests/deps.sh chromium || echo 'Chromium cannot be installed: the pages of reports will not be checked in a browser.'
endif
	@$(MAKE) --no-print-directory -j$$(nproc) build-tests
	@$(MAKE) --no-print-directory check
check: layers
	@BUILD=$(BUILD) sh tests/run.sh

# The working directory is made anew for every run; the Python packages in it stay.
$(BUILD)/oracle/dump_%: $(BUILD)/%/tests/oracle/dump.o
	@mkdir -p $(@D)
	$(CXX) $(LDFLAGS_ALL) -o $@ $^ $(LIBS)
$(BUILD)/oracle/dump_float: $(BUILD)/librope.a
$(BUILD)/oracle/dump_double: $(BUILD)/librope_double.a
oracle: $(BUILD)/oracle/dump_float $(BUILD)/oracle/dump_double
	@sh tests/oracle/run.sh $^ $(BUILD)/oracle

layers:
	@sh tests/layers.sh

demo: deps
	@$(MAKE) --no-print-directory -j$$(nproc) all
	@BUILD=$(BUILD) sh configs/demo.sh

# Each sanitizer has its own build directory, of each compiler too: objects of the other one would pass for up to date.
# Kernels keep -O1, so that the suite ends within minutes. With CC=clang CXX=clang++ asan uses clang's.
ASAN_BUILD := build/asan$(if $(findstring clang,$(CC)),-clang)
asan: deps
	@$(MAKE) --no-print-directory -j$$(nproc) BUILD=$(ASAN_BUILD) OPTIMIZE=-O1 \
	    SANITIZE='-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer' build-tests
	@UBSAN_OPTIONS=print_stacktrace=1 LSAN_OPTIONS=suppressions=$(CURDIR)/tests/lsan.txt:print_suppressions=0 \
	    BUILD=$(ASAN_BUILD) sh tests/run.sh
# clang's OpenMP tells the thread sanitizer about its barriers through archer; the one of gcc would be full of false alarms.
tsan:
	@sh tests/deps.sh clang libomp-dev
	@$(MAKE) --no-print-directory -j$$(nproc) CC=clang CXX=clang++ BUILD=build/tsan OPTIMIZE=-O1 \
	    SANITIZE='-fsanitize=thread -fno-omit-frame-pointer' build-tests
	@OMP_TOOL_LIBRARIES=$$(ls /usr/lib/llvm-*/lib/libarcher.so | tail -n 1) TSAN_OPTIONS='ignore_noninstrumented_modules=1 halt_on_error=1' \
	    BUILD=build/tsan sh tests/run.sh

bench: all
	$(BUILD)/rope bench gemm
	$(BUILD)/rope bench step
	$(BUILD)/rope bench attention

# Ratios against those committed in tests/bench_check.txt; a few minutes on a quiet machine.
bench-check: all $(BUILD)/tests/json_get
	@BUILD=$(BUILD) sh tests/bench_check.sh

lint:
	@sh tests/deps.sh cppcheck
	cppcheck --quiet --std=c11 --language=c --enable=warning,performance --inline-suppr --error-exitcode=1 \
	    --suppress=missingIncludeSystem --suppressions-list=.cppcheck -DROPE_ISA=portable -I. \
	    '-Djson_array_foreach(a,i,v)=while((v=json_array_get(a,i=next())))' '-Djson_object_foreach(o,k,v)=while((k=next(o,&v)))' \
	    -j$$(nproc) $(foreach d,core attention model optim data train,$(wildcard $(d)/*.c))
format:
	@sh tests/deps.sh clang-format
	clang-format -i $(foreach d,core attention model optim data train tests tests/support,$(wildcard $(d)/*.[ch]) $(wildcard $(d)/*.cc))

include tests/reliability.mk

install: all
	install -d "$(DESTDIR)$(PREFIX)/bin" "$(DESTDIR)$(PREFIX)/share/rope/configs"
	install -m 755 $(BUILD)/rope "$(DESTDIR)$(PREFIX)/bin/rope"
	install -m 644 $(wildcard configs/*.ini) "$(DESTDIR)$(PREFIX)/share/rope/configs"

clean:
	rm -rf build
