"""Train the demo model from nothing: first its tower, then the whole model.

    train.py tower --state DIR --steps N     the tower learns the visual class of every patch
    train.py talk  --state DIR --steps N     tower, projector and language model learn to answer

Both stages resume from their file in DIR. The learning rate is constant after a short warm-up and falls to zero over
the last --decay steps, so a run can be prolonged by giving more steps as long as its decay has not begun.
"""
import argparse
import os
import time

import torch
import torch.nn.functional as F
from torch import nn

import catalog
import data
import model as llava
import questions
from optim import Muon, split
from tokenizer import QwenTokenizer, learn

BACKGROUND_WEIGHT = 0.3
DENSE_WEIGHT = 0.3  # of the patch classes while learning to talk
BACKGROUND_SHARE = 0.15  # of the background patches that take part in the dense loss


def dense_head(c):
    """Training only: the visual class of a patch from the tower's output."""
    return nn.Sequential(nn.LayerNorm(c.tower_width), nn.Linear(c.tower_width, catalog.dense_classes()))


def dense_loss(head, features, labels):
    """Cross entropy over the patches with something on them and a share of the others; also the accuracy on the former."""
    background = catalog.dense_classes() - 1
    chosen = ((labels != background) & (labels >= 0)) | ((labels == background) & (torch.rand(labels.shape) < BACKGROUND_SHARE))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = head(features[chosen])
    wanted = labels[chosen]
    weight = torch.where(wanted == background, BACKGROUND_WEIGHT, 1.0)
    loss = (F.cross_entropy(scores.float(), wanted, reduction="none") * weight).sum() / weight.sum()
    right = (scores.argmax(-1) == wanted)[wanted != background].float().mean()
    return loss, right.item()


class Run:
    """A resumable run: parameters, optimisers, step and log."""

    def __init__(self, arguments, modules, name):
        self.path = os.path.join(arguments.state, name + ".pt")
        self.steps, self.decay, self.warmup = arguments.steps, arguments.decay, 100
        self.modules, self.step, self.sums, self.began = modules, 0, {}, time.time()
        matrices, rest = split(*modules.values())
        self.optimisers = [Muon(matrices, arguments.muon_lr),
                           torch.optim.AdamW(rest, arguments.adam_lr, betas=(0.9, 0.98), weight_decay=0.01)]
        self.parameters = matrices + rest
        self.rates = [arguments.muon_lr, arguments.adam_lr]
        if os.path.exists(self.path):
            saved = torch.load(self.path, weights_only=True)
            self.step = saved["step"]
            for key, module in modules.items():
                module.load_state_dict(saved[key])
            for optimiser, state in zip(self.optimisers, saved["optimisers"]):
                optimiser.load_state_dict(state)

    def save(self):
        state = {key: module.state_dict() for key, module in self.modules.items()}
        state.update(step=self.step, optimisers=[o.state_dict() for o in self.optimisers])
        torch.save(state, self.path + ".new")
        os.replace(self.path + ".new", self.path)

    def update(self, loss, **measures):
        """One optimiser step; logs the means of the measures every 50 steps and saves every 500."""
        factor = min(1.0, (self.step + 1) / self.warmup)
        if self.decay:
            factor *= min(1.0, (self.steps - self.step) / self.decay)
        for optimiser, rate in zip(self.optimisers, self.rates):
            for group in optimiser.param_groups:
                group["lr"] = rate * factor
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        for key, value in measures.items():
            total, count = self.sums.get(key, (0.0, 0))
            self.sums[key] = (total + value, count + 1)
        if self.step % 50 == 0:
            shown = " ".join(f"{k} {t / n:.3f}" for k, (t, n) in sorted(self.sums.items()))
            print(f"step {self.step} {shown} {(time.time() - self.began) / 50:.2f} s/step", flush=True)
            self.sums, self.began = {}, time.time()
        if self.step % 500 == 0 or self.step == self.steps:
            self.save()


def train_tower(arguments):
    c = llava.Config()
    tower, head = llava.VisionModel(c), dense_head(c)
    llava.initialise(tower)
    tower.embeddings.start_from(data.dense_sample(arguments.seed, 400, c))
    run = Run(arguments, {"tower": tower, "head": head}, "tower")
    compiled = torch.compile(tower)
    for pixels, labels in data.dense_batches(arguments.seed, run.step, arguments.batch, c):
        if run.step >= run.steps:
            break
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = compiled(pixels)
        loss, right = dense_loss(head, features, labels)
        run.update(loss, dense=loss.item(), right=right)


def talk_embeddings(model, tokenizer, batch):
    """Input embeddings, positions and mask of a batch, the length of its common beginning, and the tower's features."""
    _, views, _, plan, between, ids, _, branch, offset = batch
    embed, count = model.model.embed_tokens, len(ids)
    parts, features = [embed(torch.tensor(tokenizer.encode(llava.PREFIX))).expand(count, -1, -1)], None
    if views is not None:
        features = model.tower(data.normalise(views).flatten(0, 1)).unflatten(0, views.shape[:2])
        projected = model.model.mm_projector(features)
        pictures = projected.split(1, 1) if between else [projected]
        for k, picture in enumerate(pictures):
            if k:
                parts.append(embed(torch.tensor(between)).expand(count, -1, -1))
            parts.append(model.rows(picture, torch.from_numpy(plan)))
    common = sum(part.shape[1] for part in parts)
    parts.append(embed(torch.from_numpy(ids)))
    branch, offset = torch.from_numpy(branch), torch.from_numpy(offset)
    total = common + branch.shape[1]
    positions = torch.cat((torch.arange(common).expand(count, -1), common + offset), 1)
    mask = torch.ones(total, total, dtype=torch.bool).tril().repeat(count, 1, 1)
    mask[:, common:, common:] &= branch[:, :, None] == branch[:, None, :]
    return torch.cat([part.float() for part in parts], 1), positions, mask[:, None], common, features


def train_talk(arguments):
    c = llava.Config()
    tokens = os.path.join(arguments.state, "tokenizer")
    if not os.path.exists(tokens):
        learn(questions.corpus(), c.vocab, tokens)
    tokenizer = QwenTokenizer(tokens)
    model, head = llava.Llava(c), dense_head(c)
    first = torch.load(os.path.join(arguments.state, "tower.pt"), weights_only=True)
    model.tower.load_state_dict(first["tower"])
    head.load_state_dict(first["head"])
    run = Run(arguments, {"model": model, "head": head}, "talk")
    for layer in [*model.tower.encoder.layers, *model.model.layers]:
        layer.compile(dynamic=True)
    for batch in data.talk_batches(arguments.seed, run.step, arguments.batch, c, tokens):
        if run.step >= run.steps:
            break
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x, positions, mask, common, features = talk_embeddings(model, tokenizer, batch)
            hidden = model.hidden(x, positions, mask)[:, common:]
            labels = torch.from_numpy(batch[6])
            scores = model.logits(hidden[labels >= 0])
        loss = F.cross_entropy(scores.float(), labels[labels >= 0])
        measures = {batch[0]: loss.item()}
        if features is not None:
            seen, right = dense_loss(head, features[:, 0], torch.from_numpy(batch[2]))
            loss = loss + DENSE_WEIGHT * seen
            measures.update(dense=seen.item(), right=right)
        run.update(loss, **measures)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["tower", "talk"])
    parser.add_argument("--state", required=True, help="folder of the training state")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--decay", type=int, default=0, help="steps over which the learning rate falls to zero at the end")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    os.makedirs(arguments.state, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    {"tower": train_tower, "talk": train_talk}[arguments.stage](arguments)


if __name__ == "__main__":
    main()
