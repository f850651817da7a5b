#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""llava beside other programs on the same work, in turns, each as a fraction of the machine's limit
sampled right before and after. Random weights; see install.sh for the peers. Never part of CI.

    compare.py tower  --shape bench/shapes/llava-v1.6-vicuna-7b.json --sizes 1,5 --peers openvino,torch
    compare.py prompt --shape bench/shapes/llava-onevision-qwen2-0.5b.json --sizes 512 --peers transformers
    compare.py question --shape bench/shapes/llava-onevision-qwen2-0.5b.json --peers transformers,llama

--python is the peers' interpreter (DIR/bin/python), --build the folder llava was built in. The work
counted is llava's own count (docs/CLI.md, llava bench), the same for all. A question is a JPEG of
1280x720 with 60 tokens of text, and 16 tokens of answer after the first. Medians go to the standard
output, each run as it ends to the standard error. TMPDIR holds the peers' files, several GB.
"""
import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ANSWER = 16  # tokens after the first, as many as llava bench generates
MOST_TRIES = 3  # rounds in which others took a core away are repeated up to so many times


class Probe:
    """The machine's limit, sampled while every peer is stopped."""

    SAMPLES = 3  # a sample can only be too low: the best one counts
    WHOLE_CORES = 0.85  # of the threads' peaks added up: two threads at 1.7 times one

    def __init__(self, build, kind, threads):
        self.kind, self.threads = kind, threads
        self.process = subprocess.Popen([os.path.join(build, "bench", "limit_probe")], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, threads):
        self.process.stdin.write(f"{self.kind} {threads}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def sample(self):
        """(limit on all threads, whether each had a core to itself)"""
        time.sleep(0.05)
        one = max(self.ask(1) for _ in range(self.SAMPLES))
        limit = max(self.ask(self.threads) for _ in range(self.SAMPLES))
        return limit, limit >= self.WHOLE_CORES * self.threads * one


class Peer:
    def __init__(self, name, a):
        self.name = name
        env = dict(os.environ, OMP_NUM_THREADS=str(a.threads), HF_HUB_OFFLINE="1",
                   TOKENIZERS_PARALLELISM="false", PEER_OVERWRITE=a.overwrite,
                   PEER_PICTURE=a.picture, PEER_EXPORT=a.export,
                   PEER_EXPORT_PYTHON=a.export_python or beside(a.python),
                   PYTHONDONTWRITEBYTECODE="1",
                   TMPDIR=a.folder)  # a peer that is killed removes nothing itself
        command = [a.python, os.path.join(HERE, "worker.py"), a.stage, name, a.shape, a.dtype,
                   str(a.threads)]
        self.process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, env=env)
        self.about = self.read()["about"]
        self.pause()

    def pause(self):
        """Threads of a pool that spin for a while after their work would slow the next program."""
        self.process.send_signal(signal.SIGSTOP)

    def read(self):
        for line in self.process.stdout:
            if line.startswith("@"):
                return json.loads(line[1:])
        raise SystemExit(f"{self.name} ended with status {self.process.wait()}")

    def run(self, size, tokens=None):
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(json.dumps({"size": size, "tokens": tokens}) + "\n")
        self.process.stdin.flush()
        got = self.read()
        self.pause()
        return got

    def stop(self):
        self.process.kill()
        self.process.wait()


class Llava:
    """A process a run: its own warm-up is inside, and it leaves the memory to the peers."""
    name = about = "llava"

    def __init__(self, a):
        overwrite = json.loads(a.overwrite)
        if a.stage == "tower":
            overwrite["num_hidden_layers"] = 1  # of the decoder, which is not used
        self.command = [os.path.join(a.build, "cli", "llava"), "bench", "--dummy", a.shape,
                        "--torch-dtype", a.dtype, "--threads", str(a.threads), "--repeat", "1",
                        "--json", "--contexts", "0", "--overwrite-config", json.dumps(overwrite)]
        self.command += ["--image", a.picture] if a.stage == "question" else ["--no-question"]
        self.stage = a.stage

    def run(self, size, tokens=None):
        sizes = {"tower": "0", "prompt": "0", self.stage: str(size)}
        text = subprocess.run(self.command + ["--tiles", sizes["tower"], "--prompts",
                                              sizes["prompt"]],
                              check=True, text=True, stdout=subprocess.PIPE).stdout
        stages = {s["stage"]: s for s in json.loads(text)["stages"]}
        if self.stage == "question":
            first, answer = stages["question: first token"], stages["question: answer"]
            return {"ms": first["ms"], "token_ms": 1e3 / answer["per_second"],
                    "tower_ms": stages["question: tower"]["ms"], "tokens": first["size"],
                    "tiles": stages["question: tower"]["size"]}
        stage = stages[self.stage]
        self.work = stage["rate"] * 1e9 * stage["ms"] * 1e-3
        return stage


def compare(programs, probe, size, rounds, warm_up=True):
    """{name: ([(what a run gave, the limit around it)], rounds dropped)}"""
    got = {p.name: [] for p in programs}
    dropped = dict.fromkeys(got, 0)
    for p in programs[1:] if warm_up else []:
        p.run(size)  # compiles, where there is something to compile
    tokens = None
    for _ in range(MOST_TRIES * rounds):
        for p in programs:
            if len(got[p.name]) == rounds:
                continue
            before, whole_before = probe.sample()
            run = p.run(size, tokens)
            tokens = tokens or run.get("tokens")
            after, whole_after = probe.sample()
            whole = whole_before and whole_after
            if whole:
                got[p.name].append((run, 0.5 * (before + after)))
            else:
                dropped[p.name] += 1
            print(p.name, size, json.dumps(run), "" if whole else "dropped", file=sys.stderr,
                  flush=True)
    return {name: (runs, dropped[name]) for name, runs in got.items()}


def median(runs, key):
    values = [run[key] for run, _ in runs if run.get(key) is not None]
    return statistics.median(values) if values else None


def report(programs, probe, a):
    print("| program | size | ms | of peak | rounds | dropped |\n|---|---|---|---|---|---|")
    for size in map(int, a.sizes.split(",")):
        result = compare(programs, probe, size, a.rounds)
        for p in programs:
            runs, dropped = result[p.name]
            if not runs:
                print(f"| {p.about} | {size} | no undisturbed round | | 0 | {dropped} |")
                continue
            fraction = statistics.median(programs[0].work / (run["ms"] * 1e-3) / limit
                                         for run, limit in runs)
            print(f"| {p.about} | {size} | {median(runs, 'ms'):.0f} | {100 * fraction:.0f} % "
                  f"| {len(runs)} | {dropped} |", flush=True)


def report_question(programs, probe, a):
    print("| program | tiles | tokens | first token, s | of llava's | tower, s | tokens a second "
          "| rounds | dropped |\n" + 9 * "|---" + "|")
    result = compare(programs, probe, ANSWER + 1, a.rounds, warm_up=False)
    own = median(result["llava"][0], "ms")
    for p in programs:
        runs, dropped = result[p.name]
        if not runs:
            print(f"| {p.about} | no undisturbed round |" + 5 * " |" + f" 0 | {dropped} |")
            continue
        ms, tiles = median(runs, "ms"), median(runs, "tiles")
        ratio = f"{ms / own:.2f}" if own else ""
        tiles = f"{tiles:.0f}" if tiles else ""
        print(f"| {p.about} | {tiles} | {median(runs, 'tokens'):.0f} | {ms / 1e3:.2f} | {ratio} "
              f"| {median(runs, 'tower_ms') / 1e3:.2f} | {1e3 / median(runs, 'token_ms'):.1f} "
              f"| {len(runs)} | {dropped} |", flush=True)


def beside(python):
    """The interpreter that install.sh puts beside this one, for optimum-intel."""
    return os.path.join(os.path.dirname(os.path.dirname(python)), "export", "bin", "python")


def make_picture(a):
    subprocess.run([a.python, "-c", "import sys; sys.path.insert(0, sys.argv[1]); import question; "
                    "picture = question.make_picture(question.WIDTH, question.HEIGHT); "
                    "open(sys.argv[2], 'wb').write(picture)", HERE, a.picture], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["tower", "prompt", "question"])
    parser.add_argument("--shape", required=True)
    parser.add_argument("--sizes", default="1")
    parser.add_argument("--peers", required=True)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--overwrite", default="{}", help="JSON over the shape's, e.g. fewer layers")
    parser.add_argument("--export", default="", help="folder that keeps genai's export, which "
                        "takes minutes; of one shape and overwrite alone")
    parser.add_argument("--python", default="python3")
    parser.add_argument("--export-python", default="", help="with optimum-intel; by default "
                        "export/bin/python beside --python's bin")
    parser.add_argument("--build", default="build")
    a = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # and the peers with it
    folder = tempfile.TemporaryDirectory()
    a.folder, a.picture = folder.name, os.path.join(folder.name, "picture.jpg")
    if a.stage == "question":
        make_picture(a)
    probe = Probe(a.build, "bf16" if a.dtype == "bfloat16" else "f32", a.threads)
    programs = [Llava(a)]
    try:
        for name in a.peers.split(","):
            programs.append(Peer(name, a))
        print(f"{a.stage}, {os.path.basename(a.shape)}, {a.overwrite}, {a.dtype}, "
              f"{a.threads} threads\n", flush=True)
        (report_question if a.stage == "question" else report)(programs, probe, a)
    finally:
        for p in programs[1:]:
            p.stop()  # stopped processes do not see their input close


if __name__ == "__main__":
    main()
