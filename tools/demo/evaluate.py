"""Measure the demo model on held-out pictures.

    evaluate.py --make                         write heldout.json: which pictures, which questions, which answers
    evaluate.py --backend cli --llava BINARY   ask every question through the llava command
    evaluate.py --backend torch                the same through PyTorch

Every picture of heldout.json is drawn from its own seed, which training never uses. An answer counts when it is
exactly the expected one. Prints a table, one row for each kind of question.
"""
import argparse
import json
import os
import random
import subprocess
import tempfile

import torch

import catalog
import questions
import render

HERE = os.path.dirname(os.path.abspath(__file__))
HELDOUT = os.path.join(HERE, "heldout.json")
MODEL = os.path.join(HERE, "..", "..", "models", "demo")


# ------------------------------------------------------------------------------------------------------ pictures

def scene_of(entry, rng):
    """The scene of one entry; rng is the entry's own."""
    width, height = entry["size"]
    if "object" in entry:
        return render.single(rng, width, height, catalog.index_of(entry["object"]))
    if "word" in entry:
        return render.word(rng, width, height, catalog.WORDS.index(entry["word"]))
    return render.sample(rng, entry["task"], width, height, catalog.objects(), catalog.words())


def pictures_of(entry):
    """The pictures of one entry: none, one, or two of single objects."""
    if entry["task"] == "none":
        return []
    rng = random.Random(f"held out {entry['seed']}")
    if entry["task"] != "two":
        return [render.draw(scene_of(entry, rng), rng)]
    width, height = entry["size"]
    scenes = [render.single(rng, width, height, catalog.index_of(name)) for name in entry["objects"]]
    return [render.draw(scene, rng) for scene in scenes]


def _size(rng):
    """A picture size: square, wide or tall, up to 320 pixels."""
    side, kind = rng.randint(96, 240), rng.random()
    if kind < 0.6:
        return [side, side]
    longer = min(320, round(side * rng.uniform(1.15, 2.2)))
    return [longer, side] if kind < 0.85 else [side, longer]


def make():
    """heldout.json: every object and word once, and a fixed number of scenes of the other tasks."""
    entries = []

    def add(task, asks, **more):
        entries.append({"seed": len(entries), "task": task, **more, "asks": asks})

    def scene_asks(kinds, **more):
        seed = len(entries)
        scene = scene_of(more, random.Random(f"held out {seed}"))
        rng = random.Random(f"questions {seed}")
        asks = []
        for label, kind in kinds:
            for language in catalog.LANGUAGES:
                asks.append([f"{label}, {language}", *questions.ask(rng, scene, kind, language)])
        entries.append({"seed": seed, **more, "asks": asks})

    rng = random.Random("held out list")
    for index in catalog.objects():
        _, english, chinese = catalog.emoji()[index]
        asks = [["name, en", rng.choice(questions.NAME["en"]), english], ["name, zh", rng.choice(questions.NAME["zh"]), chinese]]
        add("single", asks, size=_size(rng), object=english)
    for index in catalog.words():
        scene_asks([("word", "read")], task="word", size=_size(rng), word=catalog.WORDS[index])
    for task, number, kinds in (
            ("shape", 100, [("colour", "colour"), ("shape", "shape")]), ("shapes", 60, [("colour", "colour"), ("shape", "shape")]),
            ("count", 120, [("count", "count")]), ("pair", 120, [("relation", "side"), ("relation", "beside"), ("place", "where")])):
        for _ in range(number):
            scene_asks(kinds, task=task, size=_size(rng))
    names = [catalog.emoji()[index][1] for index in catalog.objects()]
    for k in range(60):
        first = rng.choice(names)
        second = first if k % 2 else rng.choice(names)
        a, b = catalog.index_of(first), catalog.index_of(second)
        pair = [render.Scene("single", 0, 0, [render.Item("emoji", i, 0, 0, 0)]) for i in (a, b)]
        asks = [["two pictures", *ask] for ask in questions.about_two(rng, *pair, 2)]
        add("two", asks, size=[rng.randint(96, 240)] * 2, objects=[first, second])
    for _ in range(20):
        asks = [["no picture", question, said] for question, said in questions.without_picture(rng, 2)]
        add("none", asks)
    with open(HELDOUT, "w", encoding="utf-8") as f:
        f.write("[\n" + ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries) + "\n]\n")


# ------------------------------------------------------------------------------------------------------ asking

def ask_torch(options, asked):
    """The answers through PyTorch; asked holds (pictures, question)."""
    import export
    import model as llava
    model, tokenizer = export.read(options.model)
    return [llava.answer(model, tokenizer, pictures, question) for pictures, question in asked]


def ask_cli(options, asked):
    """The answers through `llava batch`, whose own options come from --arguments."""
    with tempfile.TemporaryDirectory() as folder:
        saved = {}
        with open(os.path.join(folder, "data.jsonl"), "w", encoding="utf-8") as f:
            for pictures, question in asked:
                names = [saved.setdefault(id(picture), f"{len(saved)}.png") for picture in pictures]
                for picture, name in zip(pictures, names):
                    path = os.path.join(folder, name)
                    if not os.path.exists(path):
                        picture.save(path, compress_level=1)
                f.write(json.dumps({"images": names, "question": question}) + "\n")
        command = [options.llava, "batch", options.model, "--data", f.name, "--parallel", "8", "--threads", str(options.threads),
                   "--torch-dtype", options.dtype, "--max-new-tokens", "48", *options.arguments.split()]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, encoding="utf-8")
        return [json.loads(line)["text"] for line in done.stdout.splitlines()]


def measure(ask, options, entries, wrong):
    """Right and asked for every kind of question; wrong answers go to the file wrong, if given."""
    asked, expected = [], []
    for entry in entries:
        pictures = pictures_of(entry)
        for label, question, answer in entry["asks"]:
            asked.append((pictures, question))
            expected.append((entry["seed"], label, question, answer))
    table = {}
    for (seed, label, question, answer), said in zip(expected, ask(options, asked), strict=True):
        right, count = table.get(label, (0, 0))
        table[label] = (right + (said.strip() == answer), count + 1)
        if wrong and said.strip() != answer:
            print(seed, label, question, answer, said, sep="\t", file=wrong)
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make", action="store_true", help="write heldout.json and stop")
    parser.add_argument("--backend", choices=["torch", "cli"], default="cli")
    parser.add_argument("--model", default=MODEL, help="checkpoint folder")
    parser.add_argument("--llava", default="llava", help="the llava command")
    parser.add_argument("--every", type=int, default=1, help="use only every n-th picture")
    parser.add_argument("--wrong", help="file for the wrong answers")
    parser.add_argument("--dtype", default="float32", help="--torch-dtype of the llava command")
    parser.add_argument("--arguments", default="", help="more options of the llava command, such as --load-4bit")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.make:
        make()
        return
    torch.set_num_threads(options.threads)
    with open(HELDOUT, encoding="utf-8") as f:
        entries = json.load(f)[::options.every]
    ask = {"torch": ask_torch, "cli": ask_cli}[options.backend]
    wrong = open(options.wrong, "w", encoding="utf-8") if options.wrong else None
    table = measure(ask, options, entries, wrong)
    print("| question | right | asked | share |\n|---|---|---|---|")
    for label, (right, asked) in table.items():
        print(f"| {label} | {right} | {asked} | {100 * right / asked:.1f} % |")


if __name__ == "__main__":
    main()
