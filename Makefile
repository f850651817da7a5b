# SPDX-License-Identifier: Apache-2.0
# Thin: meson does the work. `make run` and `make test` start from a fresh Debian 12.
BUILD ?= build
DEMO_QUESTION ?= What is this?

.PHONY: all deps test-deps build run test install format lint clean

all: build

deps:
	@tools/install_deps.sh

test-deps:
	@tools/install_deps.sh test

$(BUILD)/build.ninja:
	@meson setup $(BUILD) -Dtests=false -Dbench=false >/dev/null

build: deps $(BUILD)/build.ninja
	@ninja -C $(BUILD) --quiet

run: build
	@tools/run_demo.sh $(BUILD)/cli/llava "$(DEMO_QUESTION)"

test: test-deps
	@tools/run_tests.sh

install: build
	@meson install -C $(BUILD)

format:
	@find include src cli tests bench examples -name '*.[ch]' | xargs clang-format -i

lint:
	@tools/lint.sh

clean:
	rm -rf build build-test build-sanitize build-clang
