#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Records where accelerate 0.29.3 puts the modules of made-up LLaVA models on made-up machines:
tests/load/placement.json, which tests/load/test_place.c repeats.

    pip install torch==2.5.1 accelerate==0.29.3 && tools/record_placement.py > tests/load/placement.json
"""

import json
import logging
import random

import accelerate.utils.modeling
import torch
from accelerate import infer_auto_device_map
from accelerate.utils import get_balanced_memory
from torch import nn

logging.disable(logging.CRITICAL)


class TorchWithGpus:
    """torch, but a number is a GPU's also where there is none."""

    def __getattr__(self, name):
        return getattr(torch, name)

    def device(self, name):
        return torch.device("cuda", name) if isinstance(name, int) else torch.device(name)


accelerate.utils.modeling.torch = TorchWithGpus()
LAYERS = ["LlamaDecoderLayer", "CLIPEncoderLayer"]


def tensor(n_bytes):
    return nn.Parameter(torch.empty(n_bytes, dtype=torch.uint8, device="meta"), requires_grad=False)


def module(name="Module", **parts):
    made = type(name, (nn.Module,), {})()
    for key, part in parts.items():
        setattr(made, key, part)
    return made


def linear(n_bytes, bias=0):
    return module(weight=tensor(n_bytes), **({"bias": tensor(bias)} if bias else {}))


def decoder_layer(rng):
    width = rng.randint(4, 40)
    attention = module(**{f"{key}_proj": linear(width) for key in "qkvo"})
    mlp = module(gate_proj=linear(3 * width), up_proj=linear(3 * width), down_proj=linear(3 * width))
    return module(LAYERS[0], self_attn=attention, mlp=mlp, input_layernorm=linear(2))


def tower_layer(rng):
    width = rng.randint(2, 30)
    return module(LAYERS[1], self_attn=module(q_proj=linear(width, 2)), mlp=module(fc1=linear(width, 3)))


def llava(rng):
    same = rng.random() < 0.5
    seed = rng.random()
    pick = lambda: random.Random(seed) if same else rng
    model = module(image_newline=tensor(rng.randint(1, 9)), embed_tokens=linear(rng.randint(5, 400)),
                   layers=nn.ModuleList(decoder_layer(pick()) for _ in range(rng.randint(1, 9))),
                   norm=linear(3))
    if rng.random() < 0.8:
        encoder = module(layers=nn.ModuleList(tower_layer(pick()) for _ in range(rng.randint(1, 6))))
        embeddings = module(class_embedding=tensor(4), patch_embedding=linear(rng.randint(3, 90)))
        inner = module(embeddings=embeddings, pre_layrnorm=linear(2, 2), encoder=encoder)
        model.vision_tower = module(vision_tower=module(vision_model=inner))
        model.mm_projector = nn.ModuleDict({"0": linear(rng.randint(3, 60), 5), "2": linear(30, 5)})
    head = linear(model.embed_tokens.weight.numel())
    if rng.random() < 0.4:
        head.weight = model.embed_tokens.weight
    return module(model=model, lm_head=head)


def limits(rng, total):
    memory = {i: int(total * rng.uniform(0, 1.2) / rng.randint(1, 3)) for i in range(rng.randint(0, 4))}
    if not memory or rng.random() < 0.8:
        memory["cpu"] = int(total * rng.uniform(0, 1.5))
    return memory


def record(seed):
    rng = random.Random(seed)
    model = llava(rng)
    named = dict(model.named_parameters())
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    memory = limits(rng, sum(t.numel() for t in named.values()))
    rule = rng.choice(["auto", "balanced_low_0", "sequential"])
    table = dict(memory)
    if rule != "sequential":
        table = get_balanced_memory(model, dict(memory), LAYERS, low_zero=rule == "balanced_low_0")
    found = infer_auto_device_map(model, dict(table), LAYERS)
    names = list(named) + (["lm_head.weight"] if tied else [])
    longest = lambda name: max((k for k in found if not k or (name + ".").startswith(k + ".")), key=len)
    return {"tensors": [[n, named[n].numel() if n in named else 0, str(found[longest(n)])] for n in names],
            "tied": tied, "rule": rule, "max_memory": memory,
            "balanced": {str(k): int(v) for k, v in table.items()}}


def main():
    cases = [json.dumps(record(seed), separators=(",", ":")) for seed in range(48)]
    print("[" + ",\n".join(cases) + "]")


if __name__ == "__main__":
    main()
