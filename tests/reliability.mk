# Targets of reliability: planted bugs, fault injection, fuzzing, the long forms, coverage. Included by Makefile.
#
#   mutants  every planted bug of tests/mutants is caught       faults   every injected fault is survived
#   fuzz     libFuzzer targets, FUZZ_SECONDS each (clang)       soak     long forms, SOAK_SECONDS in all
#   coverage branch coverage of the code that reads files

FUZZ_SECONDS ?= 20
SOAK_SECONDS ?= 3600
FAULTS_DIRECTORY ?= $(if $(wildcard /dev/shm),/dev/shm,/tmp)/rope-faults

.PHONY: mutants faults fuzz soak coverage

mutants:
	@MAKE='$(MAKE)' BUILD=$(BUILD) sh tests/mutants.sh

# Its own malloc and system calls: not for builds with a sanitizer.
$(BUILD)/tests/faults: $(BUILD)/float/tests/faults/faults.o $(BUILD)/float/tests/faults/interpose.o $(BUILD)/librope.a
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS)

faults: $(BUILD)/tests/faults
	@$(BUILD)/tests/faults $(FAULTS_DIRECTORY).$$$$
