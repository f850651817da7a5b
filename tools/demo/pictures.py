"""Make the pictures and the questions that come with the checkpoint.

    pictures.py draw --out FOLDER     draw FOLDER/pictures
    pictures.py ask --out FOLDER      answer the questions with the checkpoint in FOLDER, write FOLDER/questions.json
"""
import argparse
import json
import os

import torch
from PIL import Image

import catalog
import export
import model as llava
import render

QUESTIONS = [
    (["dog.png"], "What is this?"),
    (["cat.png"], "这是什么？"),
    (["square.png"], "What colour is the square?"),
    (["two-dogs.png"], "How many dog faces are there?"),
    (["dog-left-of-cat.jpg"], "What is left of the cat?"),
    (["tall.jpg"], "What is above the banana?"),
    (["wide.jpg"], "Describe the picture."),
    (["stop.png"], "What does it say?"),
    (["dog.png", "cat.png"], "Are these the same?"),
    ([], "What is this?")]


def _emoji(name, x, y, size, angle=0.0):
    return render.Item("emoji", catalog.index_of(name), x, y, size, angle)


def _shape(name, colour, x, y, size):
    index, number = [s[0] for s in catalog.SHAPES].index(name), [c[0] for c in catalog.COLOURS].index(colour)
    return render.Item("shape", index, x, y, size, 0.0, number, catalog.COLOURS[number][2])


def scenes():
    """What each picture shows, and the colour behind it."""
    black = catalog.COLOURS[8][2]
    stop = render.Item("word", catalog.WORDS.index("STOP"), 0.5, 0.5, 0.8, 3.0, 8, black, 1)
    return {
        "dog.png": (render.Scene("single", 160, 160, [_emoji("dog face", 0.5, 0.5, 0.8)]), (225, 240, 250)),
        "cat.png": (render.Scene("single", 150, 150, [_emoji("cat face", 0.48, 0.52, 0.82, -6)]), (250, 225, 225)),
        "two-dogs.png": (render.Scene("count", 200, 200, [_emoji("dog face", 0.3, 0.35, 0.36, 8), _emoji("dog face", 0.7, 0.66, 0.36)]),
                         (200, 230, 190)),
        "square.png": (render.Scene("shape", 128, 128, [_shape("square", "blue", 0.45, 0.5, 0.6)]), (250, 240, 215)),
        "dog-left-of-cat.jpg": (render.Scene("pair", 240, 240, [
            _emoji("dog", 0.26, 0.5, 0.44), _emoji("cat", 0.75, 0.5, 0.44)]), (255, 255, 255)),
        "tall.jpg": (render.Scene("pair", 200, 400, [
            _emoji("elephant", 0.5, 0.26, 0.8), _emoji("banana", 0.5, 0.75, 0.8)]), (235, 225, 245)),
        "wide.jpg": (render.Scene("pair", 640, 320, [
            _emoji("locomotive", 0.26, 0.5, 0.8), _emoji("sailboat", 0.75, 0.5, 0.8)]), (190, 225, 245)),
        "stop.png": (render.Scene("word", 192, 128, [stop]), (255, 255, 255))}


def draw(out):
    folder = os.path.join(out, "pictures")
    os.makedirs(folder, exist_ok=True)
    for name, (scene, colour) in scenes().items():
        picture = Image.new("RGB", (scene.width, scene.height), colour)
        render.paint(scene, picture)
        picture.save(os.path.join(folder, name), **({"quality": 92} if name.endswith(".jpg") else {"optimize": True}))


def ask(out):
    torch.set_num_threads(1)
    model, tokenizer = export.read(out)
    answered = []
    for names, question in QUESTIONS:
        paths = [os.path.join("pictures", name) for name in names]
        pictures = [Image.open(os.path.join(out, path)).convert("RGB") for path in paths]
        answered.append({"images": paths, "question": question, "answer": llava.answer(model, tokenizer, pictures, question)})
        print(*names, question, "->", answered[-1]["answer"])
    with open(os.path.join(out, "questions.json"), "w", encoding="utf-8") as f:
        json.dump({"questions": answered}, f, ensure_ascii=False, indent=1)
        f.write("\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["draw", "ask"])
    parser.add_argument("--out", required=True, help="folder of the checkpoint")
    options = parser.parse_args()
    {"draw": draw, "ask": ask}[options.what](options.out)
