"""Training batches, rendered in a worker process while the model learns."""
import functools
import multiprocessing
import os
import random

import numpy as np
import torch
from PIL import Image

import catalog
import model as llava
import questions
import render
from tokenizer import QwenTokenizer

DENSE_MIX = [("single", 62), ("pair", 17), ("count", 6), ("shape", 4), ("shapes", 3), ("word", 8)]


def _dense_batch(seed, step, size, c):
    rng = random.Random(f"dense {seed} {step}")
    pixels, labels = [], []
    for _ in range(size):
        task = rng.choices([t for t, _ in DENSE_MIX], [w for _, w in DENSE_MIX])[0]
        side = c.image if rng.random() < 0.6 else rng.randint(c.image, 2 * c.image)
        width = height = side
        if rng.random() < 0.15:
            stretch = rng.uniform(1.1, 2.2)
            width, height = (round(side * stretch), side) if rng.random() < 0.6 else (side, round(side * stretch))
        scene = render.sample(rng, task, width, height)
        picture = render.draw(scene, rng)
        pixels.append(np.asarray(picture.resize((c.image, c.image), Image.Resampling.BICUBIC)))
        labels.append(render.dense_labels(scene, c.grid).reshape(-1))
    return np.stack(pixels), np.stack(labels)


def _work(make, arguments, start, queue):
    os.nice(19 - os.nice(0))
    step = start
    while True:
        queue.put(make(*arguments[:1], step, *arguments[1:]))
        step += 1


def prefetched(make, arguments, start):
    """make(seed, step, ...) for step = start, start + 1, ..., computed ahead in another process."""
    queue = multiprocessing.Queue(6)
    worker = multiprocessing.Process(target=_work, args=(make, arguments, start, queue), daemon=True)
    worker.start()
    while True:
        yield queue.get()


def normalise(pixels):
    """uint8 [..., side, side, 3] to the tower's input [..., 3, side, side]."""
    return torch.from_numpy(pixels).movedim(-1, -3).float() / 127.5 - 1


def dense_batches(seed, start, size, c):
    """Views and the visual class of every patch, for the tower's own training."""
    for pixels, labels in prefetched(_dense_batch, (seed, size, c), start):
        yield normalise(pixels), torch.from_numpy(labels)


def dense_sample(seed, size, c):
    """A few views outside the training sequence."""
    return normalise(_dense_batch(seed, -1, size, c)[0])


# ------------------------------------------------------------------------------------------------------ talk

LAYOUTS = {  # name: (weight, pictures in a batch of 32)
    "square": (42, 32), "padded": (24, 40), "wide": (16, 16), "two": (12, 24), "none": (6, 32)}
TALK_MIX = [("single", 52), ("pair", 15), ("count", 11), ("shape", 7), ("shapes", 6), ("word", 9)]
QUESTIONS = 6  # about one picture, all learnt in one pass behind the same picture
LONGEST = 144  # tokens of all questions and answers about one picture


@functools.lru_cache(maxsize=None)
def _tokenizer(folder):
    return QwenTokenizer(folder)


def _pick(rng, mix):
    return rng.choices([name for name, _ in mix], [weight for _, weight in mix])[0]


def _side(rng, c):
    """A picture side: half of the time the tower's own, else up to two and a half times that."""
    return c.image if rng.random() < 0.5 else rng.randint(c.image, 5 * c.image // 2)


def _branches(tokenizer, asked, first):
    """Token ids, labels, branch numbers and offsets of several questions with answers, each begun by first."""
    ids, labels, branch, offset = [], [], [], []
    for k, (question, said) in enumerate(asked):
        head = tokenizer.encode(first + question + llava.SUFFIX)
        tail = tokenizer.encode(said) + [tokenizer.end]
        if len(ids) + len(head) + len(tail) - 1 > LONGEST:
            break
        ids += head + tail[:-1]
        labels += [-1] * (len(head) - 1) + tail
        branch += [k] * (len(head) + len(tail) - 1)
        offset += range(len(head) + len(tail) - 1)
    return ids, labels, branch, offset


def _talk_batch(seed, step, size, c, folder):
    rng = random.Random(f"talk {seed} {step}")
    tokenizer = _tokenizer(folder)
    layout = _pick(rng, [(name, weight) for name, (weight, _) in LAYOUTS.items()])
    views, dense, rows = [], [], []
    stretch, upright = rng.uniform(1.15, 2.3), rng.random() < 0.4
    wide = (round(120 * stretch), 120) if not upright else (120, round(120 * stretch))
    for _ in range(max(1, LAYOUTS[layout][1] * size // 32)):
        if layout == "none":
            rows.append(_branches(tokenizer, questions.without_picture(rng, QUESTIONS), ""))
            continue
        if layout == "two":
            first = rng.randrange(len(catalog.emoji()))
            second = first if rng.random() < 0.4 else rng.randrange(len(catalog.emoji()))
            scenes = []
            for index in (first, second):
                side = _side(rng, c)
                scenes.append(render.single(rng, side, side, index))
            pictures = [render.draw(scene, rng) for scene in scenes]
            views.append([np.asarray(llava.padded_view(picture, c)) for picture in pictures])
            asked = questions.about_two(rng, *scenes, 4)
        else:
            side = _side(rng, c)
            width, height = wide if layout == "wide" else (side, side)
            scenes = [render.sample(rng, _pick(rng, TALK_MIX), width, height)]
            picture = render.draw(scenes[0], rng)
            seen = llava.anyres_views(picture, c) if layout == "wide" else [llava.padded_view(picture, c)]
            views.append([np.asarray(view) for view in seen])
            asked = questions.about(rng, scenes[0], QUESTIONS)
        dense.append(render.dense_labels(scenes[0], c.grid).reshape(-1))
        rows.append(_branches(tokenizer, asked, "\n"))
    length = -(-max(len(ids) for ids, *_ in rows) // 16) * 16
    fill = (tokenizer.pad, -1, -1, 0)
    table = [np.array([row[k] + [fill[k]] * (length - len(row[k])) for row in rows]) for k in range(4)]
    plan = {"square": lambda: _square_plan(c), "padded": lambda: llava.padded_plan(c), "two": lambda: llava.padded_plan(c),
            "wide": lambda: llava.anyres_plan(wide, c), "none": lambda: None}[layout]()
    between = tokenizer.encode("\n" if rng.random() < 0.7 else " ") if layout == "two" else []
    return (layout, np.array(views) if views else None, np.array(dense), plan, between, *table)


def _square_plan(c):
    """anyres_plan for a square picture whose only tile equals the overview, so that the tower runs once."""
    cells = c.grid ** 2
    plan = llava.anyres_plan((c.image, c.image), c)
    return np.where(plan == 2 * cells, cells, plan % cells)


def talk_batches(seed, start, size, c, folder):
    """Batches of pictures with questions and answers, every batch of one layout."""
    return prefetched(_talk_batch, (seed, size, c, folder), start)
