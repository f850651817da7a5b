"""Train the demo model from nothing, on questions and answers about pictures that are drawn as it learns.

    train.py --state DIR --steps N         a given number of batches, or
    train.py --state DIR --minutes M       a given time

Resumes from DIR when started again with the same length. The learning rate rises over a short warm-up, stays, and falls
to zero over the last --decay of the run.
"""
import argparse
import os
import random
import time

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads are very slow where cores are shared
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import torch.nn.functional as F
from torch import nn

import catalog
import data
import model as llava
import questions
import render
from optim import Muon, split
from tokenizer import QwenTokenizer, learn

WARMUP = 200  # steps
AVERAGE_SHARE = 0.003  # of the newest weights in their moving average
BACKGROUND_WEIGHT = 0.3
DENSE_WEIGHT = 0.4  # of the patch classes beside the answers
NAMING_WEIGHT = 0.2  # of the names of the patches, falling to zero over the first half


def dense_head(c):
    """Training only: the visual class of a patch from the tower's output."""
    return nn.Sequential(nn.LayerNorm(c.tower_width), nn.Linear(c.tower_width, catalog.dense_classes()))


def dense_loss(head, features, batch):
    """Cross entropy over the patches with something on them and a share of the others."""
    wanted = batch["classes"]
    scores = head(features.flatten(0, 1)[batch["spots"]])
    weight = torch.where(wanted == catalog.dense_classes() - 1, BACKGROUND_WEIGHT, 1.0)
    return (F.cross_entropy(scores.float(), wanted, reduction="none") * weight).sum() / weight.sum()


def name_tokens(tokenizer, most=16):
    """The tokens of every visual class's names in both languages, [classes, most], filled with -1; none for background."""
    table = torch.full((catalog.dense_classes(), most), -1)
    for kind, count in (("emoji", len(catalog.emoji())), ("shape", len(catalog.SHAPES)), ("word", len(catalog.WORDS))):
        for index in range(count):
            for colour in range(len(catalog.COLOURS) if kind == "shape" else 1):
                item = render.Item(kind, index, 0, 0, 0, colour=colour)
                names = {questions.name(item, language) for language in catalog.LANGUAGES}
                tokens = sorted({token for name in names for token in tokenizer.encode(name)})[:most]
                table[item.dense_class(), :len(tokens)] = torch.tensor(tokens)
    return table


def naming_loss(model, rows, batch, tokens, most=4096):
    """How badly the picture rows, read as words, say the tokens of what lies on them. Brings the rows near their words."""
    wanted = tokens[batch["thing_classes"][:most]]
    chosen = rows.flatten(0, 1)[batch["things"][:most]]
    scores = model.logits(model.model.norm(chosen.float()).to(chosen.dtype)).float().log_softmax(-1)
    return -(scores.gather(1, wanted.clamp(min=0)) * (wanted >= 0)).sum() / (wanted >= 0).sum()


class Talker:
    """The model, what training adds to it, and the loss of a batch."""

    def __init__(self, arguments, c, folder, device):
        self.device, self.tokenizer = device, QwenTokenizer(folder)
        self.model, self.head = llava.Llava(c), dense_head(c)
        self.model.tower.embeddings.start_from(data.sample_pixels(arguments.seed, 400, c))
        self.modules = {"model": self.model.to(device), "head": self.head.to(device)}
        self.tokens = name_tokens(self.tokenizer).to(device)
        self.prefix = torch.tensor(self.tokenizer.encode(llava.PREFIX), device=device)
        if arguments.compile:
            for layer in list(self.model.model.layers) + list(self.model.tower.encoder.layers):
                layer.compile(dynamic=True)

    def parts(self, batch):
        """Embeddings before the questions, the tower's features and the projected rows of the first views."""
        embed, count = self.model.model.embed_tokens, len(batch["ids"])
        parts = [embed(self.prefix).expand(count, -1, -1)]
        if "views" not in batch:
            return parts, None, None
        views, between = batch["views"], batch["between"]
        features = self.model.tower(data.normalise(views).flatten(0, 1))
        rows = self.model.model.mm_projector(features).unflatten(0, views.shape[:2])
        for k, picture in enumerate(rows.split(1, 1) if len(between) else [rows]):
            if k:
                parts.append(embed(between).expand(count, -1, -1))
            parts.append(self.model.rows(picture, batch["plan"]))
        return parts, features.unflatten(0, views.shape[:2])[:, 0], rows[:, 0]

    def loss(self, batch, naming_share):
        """The loss, and the parts of it to be logged."""
        parts, features, rows = self.parts(batch)
        common, (count, length) = sum(part.shape[1] for part in parts), batch["ids"].shape
        more = -(common + length) % 8  # the fast attention kernels want multiples of eight
        ids, branch, offset = (F.pad(batch[key], (0, more), value=value) for key, value in (
            ("ids", self.tokenizer.pad), ("branch", -1), ("offset", 0)))
        parts.append(self.model.model.embed_tokens(ids))
        total = common + length + more
        positions = torch.cat((torch.arange(common, device=self.device).expand(count, -1), common + offset), 1)
        mask = torch.ones(total, total, dtype=torch.bool, device=self.device).tril().repeat(count, 1, 1)
        mask[:, common:, common:] &= branch[:, :, None] == branch[:, None, :]
        hidden = self.model.hidden(torch.cat([part.float() for part in parts], 1), positions, mask[:, None])
        scores = self.model.logits(hidden[:, common:common + length].flatten(0, 1)[batch["where"]]).float()
        loss = F.cross_entropy(scores, batch["wanted"])
        right = torch.ones(len(batch["kinds"]), device=self.device)
        right.scatter_reduce_(0, batch["owner"], (scores.argmax(-1) == batch["wanted"]).float(), "amin")
        logged = {"talk": loss.detach()}
        if features is not None:
            dense = dense_loss(self.head, features, batch)
            loss, logged["dense"] = loss + DENSE_WEIGHT * dense, dense.detach()
            if naming_share > 0:
                naming = naming_loss(self.model, rows, batch, self.tokens)
                loss, logged["naming"] = loss + NAMING_WEIGHT * naming_share * naming, naming.detach()
        return loss, logged, right


class Run:
    """A resumable run: parameters, optimisers, progress and log."""

    def __init__(self, arguments, talker):
        self.path = os.path.join(arguments.state, "training.pt")
        self.arguments, self.modules = arguments, talker.modules
        self.step, self.fresh, self.spent = 0, 0, 0.0
        self.sums, self.kinds = {}, {}
        matrices, rest = split(*self.modules.values())
        self.parameters, self.rates = matrices + rest, [arguments.muon_lr, arguments.adam_lr]
        self.optimisers = [Muon(matrices, arguments.muon_lr), torch.optim.AdamW(
            rest, arguments.adam_lr, betas=(0.9, 0.98), weight_decay=0.01, fused=talker.device.type == "cuda")]
        # A moving average of the model's weights is what gets exported.
        self.weights = list(self.modules["model"].parameters())
        self.average = [p.detach().clone() for p in self.weights]
        if os.path.exists(self.path):
            self.load(talker.device)
        self.began, self.logged = time.time() - self.spent, time.time()

    def load(self, device):
        saved = torch.load(self.path, weights_only=True, map_location=device)
        self.step, self.fresh, self.spent, self.average = saved["step"], saved["fresh"], saved["spent"], saved["average"]
        for key, module in self.modules.items():
            module.load_state_dict(saved[key])
        for optimiser, state in zip(self.optimisers, saved["optimisers"]):
            optimiser.load_state_dict(state)

    def save(self):
        self.spent = time.time() - self.began
        state = {key: module.state_dict() for key, module in self.modules.items()}
        state.update(step=self.step, fresh=self.fresh, spent=self.spent, average=self.average,
                     optimisers=[o.state_dict() for o in self.optimisers])
        torch.save(state, self.path + ".new")
        os.replace(self.path + ".new", self.path)
        names = [name for name, _ in self.modules["model"].named_parameters()]
        torch.save({name: value.bfloat16().cpu() for name, value in zip(names, self.average)},
                   os.path.join(self.arguments.state, "average.pt"))

    def progress(self):
        if self.arguments.minutes:
            return (time.time() - self.began) / 60 / self.arguments.minutes
        return self.step / self.arguments.steps

    def update(self, loss, logged, right, kinds):
        """One optimiser step; logs the means of the measures and the share of whole answers that are right."""
        factor = min(1.0, (self.step + 1) / WARMUP, max(0.0, 1 - self.progress()) / self.arguments.decay)
        for optimiser, rate in zip(self.optimisers, self.rates):
            for group in optimiser.param_groups:
                group["lr"] = rate * factor
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.weights, max(AVERAGE_SHARE, 1 / self.step))
        for key, value in logged.items():
            self.sums.setdefault(key, []).append(value)
        if kinds:
            self.kinds.setdefault(kinds[0] if len(set(kinds)) == 1 else "mixed", []).append((right, kinds))
        if self.step % self.arguments.log_every == 0:
            self.log(factor)
        if self.step % self.arguments.save_every == 0:
            self.save()

    def log(self, factor):
        table = {}
        for right, kinds in (pair for pairs in self.kinds.values() for pair in pairs):
            for flag, kind in zip(right.tolist(), kinds):
                table.setdefault(kind, []).append(flag)
        shares = " ".join(f"{k} {100 * sum(v) / len(v):.0f}%" for k, v in sorted(table.items()))
        means = " ".join(f"{k} {torch.stack(v).mean().item():.3f}" for k, v in sorted(self.sums.items()))
        pace = (time.time() - self.logged) / self.arguments.log_every
        print(f"step {self.step} fresh {self.fresh} {means} | {shares} | rate {factor:.2f} {pace:.3f} s/step "
              f"at {(time.time() - self.began) / 60:.1f} min", flush=True)
        self.sums, self.kinds, self.logged = {}, {}, time.time()


def train(arguments):
    c, device = llava.Config(), torch.device(arguments.device)
    folder = os.path.join(arguments.state, "tokenizer")
    if not os.path.exists(folder):
        learn(questions.corpus(), c.vocab, folder)
    talker = Talker(arguments, c, folder, device)
    run = Run(arguments, talker)
    batches = data.talk_batches(arguments.seed, run.fresh, arguments.batch, c, folder, arguments.workers, device)
    kept, rng = [], random.Random(arguments.seed)
    for batch in batches:
        if not run.step:
            run.began = run.logged = time.time()
        if run.progress() >= 1:
            break
        run.fresh += 1
        again = rng.choices(kept, k=arguments.repeat - 1) if kept else []
        for k, one in enumerate([batch] + again):
            with torch.autocast(device.type, dtype=torch.bfloat16):
                loss, logged, right = talker.loss(one, 1 - 2 * run.progress())
            run.update(loss, logged if k == 0 else {}, right, one["kinds"] if k == 0 else [])
        if arguments.repeat > 1:
            kept = kept[-63:] + [batch]
    run.save()
    print(f"done: {run.step} steps, {run.fresh} batches drawn, {run.spent / 60:.1f} minutes", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", required=True, help="folder of the training state")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--steps", type=int)
    length.add_argument("--minutes", type=float)
    parser.add_argument("--decay", type=float, default=0.4, help="share of the run over which the learning rate falls")
    parser.add_argument("--batch", type=int, default=512, help="pictures in a step")
    parser.add_argument("--repeat", type=int, default=1, help="how often a drawn batch is learnt, on the mean")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=2e-3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="compile the layers (worth it on a GPU)")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="processes that draw")
    parser.add_argument("--log-every", type=int, default=25)
    parser.add_argument("--save-every", type=int, default=1000)
    arguments = parser.parse_args()
    os.makedirs(arguments.state, exist_ok=True)
    torch.set_num_threads(1 if arguments.device == "cpu" else torch.get_num_threads())
    torch.manual_seed(arguments.seed)
    if arguments.device != "cpu":
        torch.backends.cuda.matmul.allow_tf32 = True
    train(arguments)


if __name__ == "__main__":
    main()
