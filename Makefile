# A thin front for CMake: each target is one or two commands, and says which.
.PHONY: all deps dev-deps test test-gpu with-cuda demo bench bench-data check fuzz install clean

BUILD := build/release
JOBS ?= $(shell nproc)

all: deps
	@cmake --preset release >build-configure.log 2>&1 || { cat build-configure.log; rm -f build-configure.log; exit 1; }
	@rm -f build-configure.log
	cmake --build --preset release -j $(JOBS)

# What is missing is installed from the distribution's packages (asks for nothing when all is there).
deps:
	@scripts/install-deps

dev-deps:
	@scripts/install-deps --dev

test: all
	ctest --preset release -j $(JOBS)

# On a GPU, where there is one.
test-gpu: with-cuda
	@scripts/test-gpu build/cuda

# Beside the plain build, where CUDA's compiler is.
with-cuda: deps
	@if command -v nvcc >/dev/null; then cmake --preset cuda >/dev/null && cmake --build --preset cuda -j $(JOBS); fi

# The main job on an embedded default, or on your own text: make demo TEXT=FILE_OR_DIR. With a GPU and CUDA's compiler, on
# the GPU.
ifneq ($(and $(wildcard /dev/nvidiactl),$(shell command -v nvcc)),)
demo: BUILD := build/cuda
demo: with-cuda
else
demo: all
endif
demo:
	$(BUILD)/puyu demo $(if $(TEXT),--text "$(TEXT)") $(if $(OUT),--out "$(OUT)")

bench: all
	scripts/bench $(BUILD)/puyu

# The data stage against its marks: make bench-data DATA=DIR; scripts/bench-data says what the folder may hold.
bench-data: all
	scripts/bench-data

check: dev-deps
	scripts/check
	scripts/tidy

# Every fuzz target for SECONDS each.
SECONDS ?= 600
fuzz: dev-deps
	scripts/fuzz $(SECONDS)

install: all
	cmake --install $(BUILD)

clean:
	rm -rf build
