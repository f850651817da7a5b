#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# clang-tidy and cppcheck over the library and the CLI.
set -eu
cd "$(dirname "$0")/.."
[ -f build/compile_commands.json ] || meson setup build >/dev/null
cppcheck --quiet --std=c11 --enable=warning,performance,portability --inline-suppr \
    --suppress=missingIncludeSystem -Iinclude -Isrc --error-exitcode=1 src cli
git ls-files 'src/*.c' 'cli/*.c' | xargs clang-tidy --quiet -p build \
    --checks='-*,bugprone-*,-bugprone-easily-swappable-parameters,-bugprone-narrowing-conversions,-bugprone-implicit-widening-of-multiplication-result,clang-analyzer-*,-clang-analyzer-security.insecureAPI.DeprecatedOrUnsafeBufferHandling'
