#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# check_symbols.sh LIBRARY HEADER: the shared library exports what the header declares, no more and
# no less, and the header compiles alone in strict C11 and as C++.
set -eu
library=$1
header=$2
directory=$(mktemp -d)
trap 'rm -r "$directory"' EXIT
nm -D --defined-only "$library" | awk '{ print $NF }' | sed 's/@.*//' | sort >"$directory/exported"
grep -o 'llava_[a-z0-9_]*(' "$header" | tr -d '(' | sort -u >"$directory/named"
grep -v '^$' "$directory/named" | while read -r name; do
    grep -Eq "^LLAVA_API.*[ *]$name\(|^ *$name\(" "$header" && echo "$name"
done | sort -u >"$directory/declared"
if ! diff "$directory/declared" "$directory/exported"; then
    echo "symbols: the library's exports differ from the header (< header, > library)"
    exit 1
fi
echo '#include "llava.h"' >"$directory/alone.c"
${CC:-cc} -std=c11 -pedantic-errors -Wall -Wextra -Werror -fsyntax-only \
    -I"$(dirname "$header")" "$directory/alone.c"
echo "symbols: $(wc -l <"$directory/exported") exported, all declared"
