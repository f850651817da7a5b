#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""check_broken.py LLAVA LIBRARY_TEST [--sanitized]: every file of formats/broken through the library
and through `llava info`, of the file and of its directory, with the memory of each process limited.

The folder is that of LLAVA_REFERENCE, by default the project's own selection. A sanitized build
reserves terabytes of addresses, so there the sanitizer's own limits stand in for RLIMIT_AS.
"""

import json
import os
import resource
import subprocess
import sys

LIMIT_MB = 256
FILES = {  # what a directory of each kind is about
    "config": ["config.json"],
    "index": ["model.safetensors.index.json"],
    "tokenizer": ["tokenizer.json", "tokenizer.model", "vocab.json"],
}


class Runner:
    def __init__(self, folder, sanitized):
        self.folder = folder
        self.sanitized = sanitized
        self.environment = dict(os.environ, LC_ALL="C.UTF-8", OMP_NUM_THREADS="2")
        if sanitized:
            self.environment["ASAN_OPTIONS"] = ":".join([
                "halt_on_error=1", "abort_on_error=1", "detect_leaks=1",
                "hard_rss_limit_mb=%d" % (2 * LIMIT_MB), "max_allocation_size_mb=%d" % LIMIT_MB,
                "allocator_may_return_null=1", "quarantine_size_mb=16"])
            self.environment["UBSAN_OPTIONS"] = "halt_on_error=1:abort_on_error=1"

    def limit(self):
        if not self.sanitized:
            resource.setrlimit(resource.RLIMIT_AS, (LIMIT_MB << 20, LIMIT_MB << 20))

    def run(self, *command):
        return subprocess.run(command, cwd=self.folder, env=self.environment, timeout=120,
                              preexec_fn=self.limit, capture_output=True)


def target(folder, path):
    """The file that a case is about, relative to the reference folder."""
    path = "formats/broken/" + path
    if os.path.isfile(os.path.join(folder, path)):
        return path
    kind = path.split("/")[2]
    for name in FILES[kind]:
        if os.path.isfile(os.path.join(folder, path, name)):
            return path + "/" + name
    return path + "/" + FILES[kind][0]


def report_of(result):
    """(report, None) or (None, what is wrong with the answer)."""
    if result.returncode not in (0, 1):
        return None, "exit status %d: %s" % (result.returncode,
                                             result.stderr.decode(errors="replace")[-2000:])
    try:
        report = json.loads(result.stdout.decode("utf-8"))
    except ValueError as problem:
        return None, "no JSON: %s: %s" % (problem, result.stderr.decode(errors="replace")[-500:])
    if report["loadable"] != (result.returncode == 0):
        return None, "exit status %d, loadable %s" % (result.returncode, report["loadable"])
    if not report["loadable"] and not (report["errors"] and result.stderr.strip()):
        return None, "refused without a reason"
    return report, None


def compare_tensors(report, expected):
    found = {t["name"]: t for t in report["tensor_list"]}
    if sorted(found) != sorted(expected):
        return "tensors %s, expected %s" % (sorted(found), sorted(expected))
    for name, tensor in expected.items():
        if (found[name]["dtype"], found[name]["shape"]) != (tensor["dtype"], tensor["shape"]):
            return "%s is %s %s, expected %s %s" % (name, found[name]["dtype"],
                                                    found[name]["shape"], tensor["dtype"],
                                                    tensor["shape"])
    return None


def judge(case, report):
    """None, or how the report of the file differs from what is expected."""
    if not report["loadable"]:
        error = report["errors"][0]
        if case["expect"] == "accept":
            return "refused: " + error["message"]
        if case["expect"] == "reject" and error["refusal"] != case["error"]:
            return "refused as %s, expected %s: %s" % (error["refusal"], case["error"],
                                                       error["message"])
        return None
    if case["expect"] == "reject":
        return "read, but " + case["what"]
    expected = case["python"].get("tensors")
    return compare_tensors(report, expected) if expected is not None else None


def judge_directory(case, report):
    """A directory with one file alone is no checkpoint; the file's own fault must be named."""
    if report["loadable"]:
        return "a directory without weights is loadable"
    classes = [error["refusal"] for error in report["errors"]]
    kind = case["path"].split("/")[0]
    if kind != "tokenizer" and case["expect"] == "reject" and case["error"] not in classes:
        return "problems of class %s, expected one of %s" % (classes, case["error"])
    return None


def check_case(runner, llava, case):
    result = runner.run(llava, "info", target(runner.folder, case["path"]), "--json")
    report, wrong = report_of(result)
    wrong = wrong or judge(case, report)
    if not wrong and os.path.isdir(os.path.join(runner.folder, "formats/broken", case["path"])):
        result = runner.run(llava, "info", "formats/broken/" + case["path"], "--json")
        report, wrong = report_of(result)
        wrong = wrong or judge_directory(case, report)
    if not wrong:  # as people read it
        result = runner.run(llava, "info", target(runner.folder, case["path"]))
        if result.returncode not in (0, 1) or not (result.stdout or result.stderr):
            wrong = "as text: exit status %d" % result.returncode
    return wrong


def main():
    llava, library = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    folder = os.environ.get("LLAVA_REFERENCE") or os.environ["LLAVA_REFERENCE_DEFAULT"]
    runner = Runner(folder, "--sanitized" in sys.argv[3:])
    with open(os.path.join(folder, "formats/broken/expected.json"), encoding="utf-8") as file:
        cases = json.load(file)["cases"]
    failed = 0
    for case in cases:
        wrong = check_case(runner, llava, case)
        if wrong:
            failed += 1
            print("formats/broken/%s: %s" % (case["path"], wrong))
    print("formats/broken/info: %d cases, %d passed, %d failed, 0 skipped" %
          (len(cases), len(cases) - failed, failed))
    result = runner.run(library)
    sys.stdout.write(result.stdout.decode(errors="replace"))
    sys.stdout.write(result.stderr.decode(errors="replace"))
    if result.returncode != 0:
        print("%s: exit status %d" % (library, result.returncode))
    return 0 if failed == 0 and cases and result.returncode == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
