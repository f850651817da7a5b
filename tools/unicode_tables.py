#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes src/text/character_tables.c: the letters and numbers of Unicode 14.0.

Needs a Python whose unicodedata is version 14.0.0 (Python 3.11).
"""
import sys
import unicodedata

HEAD = """/* SPDX-License-Identifier: Apache-2.0
 *
 * Letters (L) and numbers (N) of Unicode 14.0 above ASCII as sorted ranges, both ends included.
 * Written by tools/unicode_tables.py. A table of our own, because the tokenizers' vocabularies
 * were made with this version and the Unicode library follows later ones.
 */
#include "text/characters.h"

/* clang-format off */
"""


def ranges(letter):
    found = []
    for code in range(0x80, 0x110000):
        if unicodedata.category(chr(code))[0] != letter:
            continue
        if found and found[-1][1] == code - 1:
            found[-1][1] = code
        else:
            found.append([code, code])
    return found


def table(name, letter):
    cells = ["{0x%x,0x%x}," % (a, b) for a, b in ranges(letter)]
    lines = ["const char_range %s[] = {" % name]
    line = ""
    for cell in cells:
        if len(line) + len(cell) > 99:
            lines.append(line)
            line = ""
        line += cell
    lines += [line, "};", "const size_t n_%s = LLAVA_COUNT(%s);" % (name, name)]
    return "\n".join(lines) + "\n"


def main():
    if unicodedata.unidata_version != "14.0.0":
        sys.exit("this Python knows Unicode %s, not 14.0.0" % unicodedata.unidata_version)
    with open(sys.argv[1], "w", encoding="ascii") as out:
        out.write(HEAD + table("letter_ranges", "L") + "\n" + table("number_ranges", "N"))
        out.write("/* clang-format on */\n")


main()
