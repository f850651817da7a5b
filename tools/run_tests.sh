#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds and passes everything: both compilers, unit tests, reference suite, CLI, fuzz corpora,
# sanitizers, formatting, structure, exports, documentation. Ends with "N passed, N failed".
# LLAVA_REFERENCE names another folder of recorded reference data for the reference suite.
set -u
cd "$(dirname "$0")/.." || exit 1
passed=0
failed=0
failures=

check() { # NAME COMMAND...
    name=$1
    shift
    echo "== $name"
    if "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        failures="$failures
  $name"
    fi
}

# Adds a meson run's own counts, read from its log of one JSON object a line.
count_tests() { # DIRECTORY
    counts=$(python3 - "$1/meson-logs/testlog.json" <<'PY'
import json, sys
rows = [json.loads(line) for line in open(sys.argv[1])]
bad = [row["name"] for row in rows if row["result"] not in ("OK", "EXPECTEDFAIL", "SKIP")]
print(sum(row["result"] in ("OK", "EXPECTEDFAIL") for row in rows), len(bad), *bad, sep="\n")
PY
    ) || counts="0
1
the log of $1"
    passed=$((passed + $(echo "$counts" | sed -n 1p)))
    failed=$((failed + $(echo "$counts" | sed -n 2p)))
    names=$(echo "$counts" | sed -n '3,$s/^/  /p')
    [ -z "$names" ] || failures="$failures
$names"
}

setup() { # DIRECTORY OPTION...
    directory=$1
    shift
    [ -f "$directory/build.ninja" ] || meson setup "$directory" "$@" >/dev/null
}

suites() { # DIRECTORY ARGUMENT...
    directory=$1
    shift
    rm -f "$directory/meson-logs/testlog.json"
    meson test -C "$directory" --no-rebuild --print-errorlogs --num-processes 2 "$@"
    count_tests "$directory"
}

check "configure (gcc)" setup build-test
check "build (gcc)" ninja -C build-test --quiet
suites build-test
# What the reference suite counted, folder by folder.
grep -hE '^[a-z/_-]+: [0-9]+ cases' build-test/meson-logs/testlog.txt
# A newcomer has the bundled selection alone: it passes by itself as well.
if [ -n "${LLAVA_REFERENCE-}" ]; then
    whole=$LLAVA_REFERENCE
    unset LLAVA_REFERENCE
    suites build-test --suite reference
    export LLAVA_REFERENCE="$whole"
fi

check "configure (sanitizers)" setup build-sanitize --buildtype=debugoptimized -Db_ndebug=false \
    -Db_sanitize=address,undefined -Db_lundef=false -Dbench=false
check "build (sanitizers)" ninja -C build-sanitize --quiet
UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 suites build-sanitize --timeout-multiplier 6

check "configure (clang)" env CC=clang sh -c '[ -f build-clang/build.ninja ] ||
    meson setup build-clang >/dev/null'
check "build (clang)" ninja -C build-clang --quiet

check "formatting" sh -c "find include src cli tests bench examples -name '*.[ch]' |
    xargs clang-format --dry-run -Werror"
check "structure" python3 tools/check_layers.py
check "exported symbols" tools/check_symbols.sh build-test/src/libllava.so include/llava.h
check "documentation" python3 tools/check_docs.py

[ -z "$failures" ] || echo "failed:$failures"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
