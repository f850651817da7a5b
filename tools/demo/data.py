"""Training batches: pictures with questions and answers, rendered in worker processes while the model learns."""
import functools
import os
import random

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

import catalog
import model as llava
import questions
import render
from tokenizer import QwenTokenizer

TALK_MIX = [("single", 46), ("pair", 20), ("count", 9), ("shape", 6), ("shapes", 6), ("word", 13)]
LAYOUTS = {  # name: (weight in the first steps, weight later, share of the batch size); short prompts come first
    "square": (30, 45, 1.0), "padded": (50, 8, 1.0), "wide": (8, 30, 0.5), "two": (8, 13, 0.5), "none": (4, 4, 0.5)}
SHORT_STEPS = 1000
QUESTIONS = 4  # about one picture, all learnt in one pass behind the same picture
LONGEST = 128  # tokens of all questions and answers about one picture
BACKGROUND_SHARE = 0.1  # of the background patches that take part in the dense loss


def _pick(rng, mix):
    return rng.choices([name for name, _ in mix], [weight for _, weight in mix])[0]


@functools.lru_cache(maxsize=None)
def _tokenizer(folder):
    return QwenTokenizer(folder)


def _side(rng, c):
    """A picture side: half of the time the tower's own, else up to two and a half times that."""
    return c.image if rng.random() < 0.5 else rng.randint(c.image, 5 * c.image // 2)


class _Answers:
    """Token ids, branch numbers and offsets of the questions of a batch, and what each answer token should be."""

    def __init__(self, tokenizer):
        self.tokenizer, self.rows, self.kinds = tokenizer, [], []

    def add(self, asked, first, kind):
        """A row of several questions with answers, each begun by first; they do not see each other."""
        ids, labels, branch, offset, owner = [], [], [], [], []
        for k, (question, said) in enumerate(asked):
            head = self.tokenizer.encode(first + question + llava.SUFFIX)
            tail = self.tokenizer.encode(said) + [self.tokenizer.end]
            if len(ids) + len(head) + len(tail) - 1 > LONGEST:
                break
            ids += head + tail[:-1]
            labels += [-1] * (len(head) - 1) + tail
            branch += [k] * (len(head) + len(tail) - 1)
            offset += range(len(head) + len(tail) - 1)
            owner += [len(self.kinds)] * (len(head) + len(tail) - 1)
            self.kinds.append(kind)
        self.rows.append((ids, branch, offset, labels, owner))

    def table(self):
        length = -(-max(len(ids) for ids, *_ in self.rows) // 16) * 16
        fill = (self.tokenizer.pad, -1, 0, -1, -1)
        ids, branch, offset, labels, owner = (
            np.array([row[k] + [fill[k]] * (length - len(row[k])) for row in self.rows]) for k in range(5))
        where = np.flatnonzero(labels >= 0)  # the positions whose next token is part of an answer
        return {"ids": ids, "branch": branch, "offset": offset, "where": where, "wanted": labels.reshape(-1)[where],
                "owner": owner.reshape(-1)[where], "kinds": self.kinds}


def _dense(rng, labels):
    """Which patches of the first views take part in the dense losses, and their visual classes."""
    labels, background = labels.reshape(-1), catalog.dense_classes() - 1
    keep = np.random.default_rng(rng.getrandbits(32)).random(labels.size) < BACKGROUND_SHARE
    spots = np.flatnonzero((labels != background) | keep)
    things = np.flatnonzero(labels != background)
    return {"spots": spots, "classes": labels[spots], "things": things, "thing_classes": labels[things]}


def _scene_of(rng, c, layout, wide, known):
    if layout == "wide":
        return render.sample(rng, _pick(rng, TALK_MIX), *wide, *known)
    side = _side(rng, c)
    return render.sample(rng, _pick(rng, TALK_MIX), side, side, *known)


def talk_batch(seed, step, size, c, folder):
    """A batch of one layout: views, their plan, texts, and the visual classes of patches; all as a dictionary."""
    rng = random.Random(f"talk {seed} {step}")
    tokenizer = _tokenizer(folder)
    layout = _pick(rng, [(name, shares[step >= SHORT_STEPS]) for name, shares in LAYOUTS.items()])
    known = catalog.objects(), catalog.words()
    views, dense, answers = [], [], _Answers(tokenizer)
    short = rng.randint(c.image, 2 * c.image)
    wide = [round(short * rng.uniform(1.12, 2.3)), short]
    if rng.random() < 0.4:
        wide.reverse()
    for _ in range(max(1, int(LAYOUTS[layout][2] * size))):
        if layout == "none":
            answers.add(questions.without_picture(rng, 6), "", "none")
            continue
        if layout == "two":
            first = rng.choice(catalog.objects())
            second = first if rng.random() < 0.4 else rng.choice(catalog.objects())
            scenes = [render.single(rng, side, side, index) for index, side in ((first, _side(rng, c)), (second, _side(rng, c)))]
            views.append([np.asarray(llava.padded_view(render.draw(scene, rng), c)) for scene in scenes])
            answers.add(questions.about_two(rng, *scenes, QUESTIONS), "\n", "two")
        else:
            scenes = [_scene_of(rng, c, layout, wide, known)]
            picture = render.draw(scenes[0], rng)
            seen = llava.anyres_views(picture, c) if layout == "wide" else [llava.padded_view(picture, c)]
            views.append([np.asarray(view) for view in seen])
            answers.add(questions.about(rng, scenes[0], QUESTIONS), "\n", scenes[0].task)
        dense.append(render.dense_labels(scenes[0], c.grid))
    batch = {"layout": layout, **answers.table()}
    if views:
        plan = {"square": lambda: _square_plan(c), "wide": lambda: llava.anyres_plan(wide, c)}.get(
            layout, lambda: llava.padded_plan(c))()
        between = tokenizer.encode("\n" if rng.random() < 0.7 else " ") if layout == "two" else []
        batch.update(views=np.array(views), plan=plan, between=np.array(between, np.int64), **_dense(rng, np.array(dense)))
    return {key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for key, value in batch.items()}


def _square_plan(c):
    """anyres_plan for a square picture whose only tile equals the overview, so that the tower runs once."""
    cells = c.grid ** 2
    plan = llava.anyres_plan((c.image, c.image), c)
    return np.where(plan == 2 * cells, cells, plan % cells)


class _Batches(IterableDataset):
    """Batches start, start + 1, ...; every worker makes its share of them."""

    def __init__(self, arguments, start):
        self.arguments, self.start = arguments, start

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        first, stride = (info.id, info.num_workers) if info else (0, 1)
        torch.set_num_threads(1)
        os.nice(5)
        seed, *rest = self.arguments
        step = self.start + first
        while True:
            yield talk_batch(seed, step, *rest)
            step += stride


def talk_batches(seed, start, size, c, folder, workers, device):
    """Endless batches on the device, made ahead in worker processes; the order does not depend on their number."""
    loader = DataLoader(_Batches((seed, size, c, folder), start), batch_size=None, num_workers=workers,
                        prefetch_factor=6 if workers else None, pin_memory=device.type == "cuda")
    for batch in loader:
        yield {key: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
               for key, value in batch.items()}


def sample_pixels(seed, count, c):
    """A few normalised views outside the training sequence."""
    rng, out = random.Random(f"sample {seed}"), []
    known = catalog.objects(), catalog.words()
    for _ in range(count):
        scene = render.sample(rng, _pick(rng, TALK_MIX), c.image, c.image, *known)
        out.append(np.asarray(render.draw(scene, rng)))
    return normalise(torch.from_numpy(np.array(out)))


def normalise(pixels):
    """uint8 [..., side, side, 3] to the tower's input [..., 3, side, side]."""
    return pixels.movedim(-1, -3).float() / 127.5 - 1
