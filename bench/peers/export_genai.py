#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Exports a LLaVA-NeXT of random weights for OpenVINO GenAI's VLMPipeline, with a tokenizer of
single bytes. Started by worker.py with the interpreter that has optimum-intel (install.sh), since
that needs an older transformers.

    export_genai.py SHAPE.json FOLDER
"""
import json
import os
import subprocess
import sys
import tempfile

import question
from worker import TOWERS

SPECIAL = ["<unk>", "<s>", "</s>", "<a>", "<b>", "<c>", "<d>", "<image>"]  # IMAGE_TOKEN's place


def make_tokenizer(vocab_size):
    """A token a byte, then words that no text has: any id the model makes can be decoded."""
    import tokenizers
    import transformers
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = SPECIAL + alphabet
    words += [f"unused{i}" for i in range(vocab_size - len(words))]
    model = tokenizers.models.BPE({w: i for i, w in enumerate(words)}, [])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        pad_token="<unk>", additional_special_tokens=["<image>"])


def main():
    import torch
    import transformers
    path, target = sys.argv[1:]
    with open(path) as f:
        shape = json.load(f)
    shape.update(json.loads(os.environ.get("PEER_OVERWRITE", "{}")))
    config = question.make_config(transformers, shape, TOWERS[shape["mm_vision_tower"]])
    torch.manual_seed(1)
    model = question.make_model(torch, transformers, config, "float16")
    processor = transformers.LlavaNextProcessor(
        image_processor=question.make_processor(transformers, config),
        tokenizer=make_tokenizer(shape["vocab_size"]), image_token="<image>",
        patch_size=config.vision_config.patch_size, vision_feature_select_strategy="default",
        num_additional_image_tokens=1)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        del model
        subprocess.run([os.path.join(os.path.dirname(sys.executable), "optimum-cli"), "export",
                        "openvino", "--model", folder, "--task", "image-text-to-text",
                        "--weight-format", "fp16", target], check=True, stdout=sys.stderr)


if __name__ == "__main__":
    main()
