#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""llava beside other programs on the same work, in turns, each as a fraction of the machine's limit
sampled right before and after. Random weights; see install.sh for the peers. Never part of CI.

    compare.py tower  --shape bench/shapes/llava-v1.6-vicuna-7b.json --sizes 1,5 --peers openvino,torch
    compare.py prompt --shape bench/shapes/llava-onevision-qwen2-0.5b.json --sizes 512 --peers transformers

--python is the peers' interpreter (DIR/bin/python), --build the folder llava was built in. The work
counted is llava's own count (docs/CLI.md, llava bench), the same for all.
"""
import argparse
import json
import os
import statistics
import subprocess
import time

HERE = os.path.dirname(os.path.abspath(__file__))


class Probe:
    def __init__(self, build, kind, threads):
        self.question = f"{kind} {threads}\n"
        self.process = subprocess.Popen([os.path.join(build, "bench", "limit_probe")], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def sample(self):
        time.sleep(0.05)  # the last program's threads go to sleep
        self.process.stdin.write(self.question)
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


class Peer:
    def __init__(self, name, a):
        self.name = name
        env = dict(os.environ, OMP_NUM_THREADS=str(a.threads), HF_HUB_OFFLINE="1",
                   TOKENIZERS_PARALLELISM="false", PEER_OVERWRITE=a.overwrite)
        command = [a.python, os.path.join(HERE, "worker.py"), a.stage, name, a.shape, a.dtype,
                   str(a.threads)]
        self.process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, env=env)
        self.about = self.read()["about"]

    def read(self):
        for line in self.process.stdout:
            if line.startswith("@"):
                return json.loads(line[1:])
        raise SystemExit(f"{self.name} ended with status {self.process.wait()}")

    def run(self, size):
        self.process.stdin.write(json.dumps({"size": size}) + "\n")
        self.process.stdin.flush()
        return self.read()["ms"]


class Llava:
    """A process a run: its own warm-up is inside, and it leaves the memory to the peers."""
    name = about = "llava"

    def __init__(self, a):
        overwrite = json.loads(a.overwrite)
        if a.stage == "tower":
            overwrite["num_hidden_layers"] = 1  # of the decoder, which is not used
        self.command = [os.path.join(a.build, "cli", "llava"), "bench", "--dummy", a.shape,
                        "--torch-dtype", a.dtype, "--threads", str(a.threads), "--repeat", "1",
                        "--no-question", "--json", "--contexts", "0", "--overwrite-config",
                        json.dumps(overwrite)]
        self.stage = a.stage

    def run(self, size):
        sizes = ["--tiles", "0", "--prompts", "0"]
        sizes[1 if self.stage == "tower" else 3] = str(size)
        report = json.loads(subprocess.run(self.command + sizes, check=True, text=True,
                                           stdout=subprocess.PIPE).stdout)
        stage = next(s for s in report["stages"] if s["stage"] == self.stage)
        self.work = stage["rate"] * 1e9 * stage["ms"] * 1e-3
        return stage["ms"]


def compare(programs, probe, size, rounds):
    """{name: (ms, fraction) medians}"""
    got = {p.name: [] for p in programs}
    for p in programs:
        p.run(size)  # warm-up, and compiling where there is any
    for _ in range(rounds):
        for p in programs:
            before = probe.sample()
            ms = p.run(size)
            got[p.name].append((ms, 0.5 * (before + probe.sample())))
    work = programs[0].work
    return {name: (statistics.median(ms for ms, _ in runs),
                   statistics.median(work / (ms * 1e-3) / limit for ms, limit in runs))
            for name, runs in got.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["tower", "prompt"])
    parser.add_argument("--shape", required=True)
    parser.add_argument("--sizes", default="1")
    parser.add_argument("--peers", required=True)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--overwrite", default="{}", help="JSON over the shape's, e.g. fewer layers")
    parser.add_argument("--python", default="python3")
    parser.add_argument("--build", default="build")
    a = parser.parse_args()
    probe = Probe(a.build, "bf16" if a.dtype == "bfloat16" else "f32", a.threads)
    programs = [Llava(a)] + [Peer(name, a) for name in a.peers.split(",")]
    print(f"{a.stage}, {os.path.basename(a.shape)}, {a.dtype}, {a.threads} threads\n")
    print("| program | size | ms | of peak |\n|---|---|---|---|")
    for size in map(int, a.sizes.split(",")):
        result = compare(programs, probe, size, a.rounds)
        for p in programs:
            ms, fraction = result[p.name]
            print(f"| {p.about} | {size} | {ms:.0f} | {100 * fraction:.0f} % |", flush=True)


if __name__ == "__main__":
    main()
