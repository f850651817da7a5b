#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes a random LoRA adapter on all linear layers of the decoder of a checkpoint that
tools/make_checkpoint.py made, for measurements of memory and speed. Needs Python alone.

    make_adapter.py DIR --base CHECKPOINT --rank 64
"""
import argparse
import json
import os

from make_checkpoint import Numbers, write_json, write_weights

LEAVES = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def adapted(base):
    """(module, rows, columns) of every linear layer, from the header of the base's file."""
    with open(os.path.join(base, "model.safetensors"), "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    for name, tensor in header.items():
        parts = name.split(".")
        if parts[-1] == "weight" and parts[-2] in LEAVES and parts[1] == "layers":
            yield name[:-len(".weight")], *tensor["shape"]


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("directory")
    p.add_argument("--base", required=True)
    p.add_argument("--rank", type=int, default=64)
    p.add_argument("--seed", type=int, default=2)
    a = p.parse_args()
    os.makedirs(a.directory, exist_ok=True)
    tensors = []
    for module, rows, columns in adapted(a.base):
        tensors += [(f"base_model.model.{module}.lora_A.weight", [a.rank, columns], "matrix"),
                    (f"base_model.model.{module}.lora_B.weight", [rows, a.rank], "matrix")]
    path = os.path.join(a.directory, "adapter_model.safetensors")
    n_bytes = write_weights(path, tensors, Numbers("float32", a.seed))
    write_json(os.path.join(a.directory, "adapter_config.json"),
               {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": a.base,
                "r": a.rank, "lora_alpha": 2 * a.rank, "target_modules": sorted(LEAVES)})
    with open(os.path.join(a.base, "config.json"), encoding="utf-8") as file:
        write_json(os.path.join(a.directory, "config.json"), json.load(file))
    print(f"{path}: {len(tensors)} tensors, {n_bytes / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
