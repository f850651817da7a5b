#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks the structure that the documentation promises.

- a file of src/ includes only its own folder and those before it in the pipeline;
- file names are unique in the tree; each folder has its interface header;
- no file over 800 lines, no function over 80 lines outside kernels (120 there);
- the library does not print, exit, or read the environment; no marks of unfinished work.
"""

import pathlib
import re
import sys

ORDER = ["base", "tensor", "hub", "checkpoint", "config", "device", "image", "text", "model",
         "load", "generate"]
FILE_LIMIT, FUNCTION_LIMIT, KERNEL_LIMIT = 800, 80, 120
FORBIDDEN = re.compile(r"\b(printf|puts|putchar|perror|abort|exit|_exit|getenv|secure_getenv)\s*\(")
STDERR = re.compile(r"\b(stderr|stdout)\b")
UNFINISHED = re.compile(r"\b(%s)\b" % "|".join(["todo", "fixme", "xxx", "hack"]).upper())
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)
COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.S)
STRING = re.compile(r'"(?:\\.|[^"\\\n])*"')


def blank(text):
    """The code with comments and strings blanked, line numbers kept."""
    keep_lines = lambda match: re.sub(r"[^\n]", " ", match.group())
    return STRING.sub(keep_lines, COMMENT.sub(keep_lines, text))


def functions(code):
    """(name, first line, lines) of every function body that opens in column 0's scope."""
    lines = code.split("\n")
    start = None
    for number, line in enumerate(lines, 1):
        if start is None and line.rstrip().endswith("{") and line[:1] not in (" ", "\t", "#", "}"):
            head = line if "(" in line else ""
            back = number - 1
            while back > 0 and "(" not in head and lines[back - 1].strip():
                back -= 1
                head = lines[back] + head
            if re.match(r"(typedef|struct|enum|union|static const|const)\b[^(]*\{$", head.strip()):
                continue
            match = re.search(r"(\w+)\s*\(", head)
            if match and "=" not in head.split("(")[0]:
                start, name = number, match.group(1)
        elif start is not None and line.startswith("}"):
            yield name, start, number - start + 1
            start = None


def check_source(path, root, problems):
    text = path.read_text()
    relative = path.relative_to(root)
    code = blank(text)
    if text.count("\n") > FILE_LIMIT:
        problems.append(f"{relative}: {text.count(chr(10))} lines, at most {FILE_LIMIT}")
    if not text.startswith("/* SPDX-License-Identifier: Apache-2.0"):
        problems.append(f"{relative}: expected an SPDX line first")
    if UNFINISHED.search(text):
        problems.append(f"{relative}: unfinished work is marked")
    limit = KERNEL_LIMIT if "kernels" in path.name else FUNCTION_LIMIT
    for name, line, length in functions(code):
        if length > limit:
            problems.append(f"{relative}:{line}: {name} has {length} lines, at most {limit}")
    if relative.parts[0] == "src":
        check_library(relative, text, code, problems)


def check_library(relative, text, code, problems):
    for pattern in (FORBIDDEN, STDERR):
        match = pattern.search(code)
        if match:
            line = code[:match.start()].count("\n") + 1
            problems.append(f"{relative}:{line}: the library may not use {match.group().strip()}")
    if len(relative.parts) < 3:
        return
    own = ORDER.index(relative.parts[1])
    for include in INCLUDE.findall(text):
        folder = include.split("/")[0] if "/" in include else relative.parts[1]
        if include == "llava.h" or folder not in ORDER:
            continue
        if ORDER.index(folder) > own:
            problems.append(f"{relative}: includes {include}, which lies below it")


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    problems = []
    names = {}
    folders = ["include", "src", "cli", "server", "bindings", "tests", "bench", "examples"]
    for folder in folders:
        for path in sorted((root / folder).rglob("*.[ch]")):
            names.setdefault(path.name, []).append(path.relative_to(root))
            check_source(path, root, problems)
    for name, paths in names.items():
        if len(paths) > 1:
            problems.append(f"{name}: the name stands twice: {', '.join(map(str, paths))}")
    for folder in (root / "src").iterdir():
        if folder.is_dir() and not (folder / f"{folder.name}.h").exists():
            problems.append(f"src/{folder.name}: expected an interface header {folder.name}.h")
    print("\n".join(problems) if problems else f"structure: {len(names)} files are in order")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
