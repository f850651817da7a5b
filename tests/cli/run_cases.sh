#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs the commands in cases/*.sh with the reference folder as working directory and compares what
# they print, and their exit status, with the .expected file beside each.
#
#   run_cases.sh LLAVA JSON_CHECK            compare
#   run_cases.sh LLAVA JSON_CHECK --rewrite  write the .expected files anew; look at the difference then
#
# A case that needs a checkpoint says so in its first line: "# needs models/NAME".
set -u
LLAVA=$(realpath "$1")
JSON_CHECK=$(realpath "$2")
rewrite=${3-}
cases=$(cd "$(dirname "$0")/cases" && pwd)
CLI_DATA=$(cd "$(dirname "$0")/data" && pwd)
CLI_SOURCE=$(cd "$(dirname "$0")/../../cli" && pwd)
reference=${LLAVA_REFERENCE:-${LLAVA_REFERENCE_DEFAULT:-}}
if [ ! -d "$reference" ]; then
    echo "cli: there is no reference folder '$reference'"
    exit 1
fi
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
export LLAVA JSON_CHECK CLI_DATA CLI_SOURCE WORK="$work" LC_ALL=C.UTF-8
cd "$reference" || exit 1

passed=0 failed=0 skipped=0
for file in "$cases"/*.sh; do
    name=$(basename "$file" .sh)
    needed=$(sed -n '1s/^# needs //p' "$file")
    if [ -n "$needed" ] && [ ! -e "$needed" ]; then
        echo "cli: skipped $name: $needed is not there"
        skipped=$((skipped + 1))
        continue
    fi
    rm -rf "${work:?}"/*
    # the temporary folder's name is the one thing that changes from run to run
    sh "$file" 2>&1 | sed "s|$work|WORK|g; s|$CLI_DATA|DATA|g" >"$work/.output"
    if [ "$rewrite" = --rewrite ]; then
        cp "$work/.output" "$cases/$name.expected"
    elif diff -u "$cases/$name.expected" "$work/.output"; then
        passed=$((passed + 1))
    else
        echo "cli: FAILED $name"
        failed=$((failed + 1))
    fi
done
echo "cli: $((passed + failed + skipped)) cases, $passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
