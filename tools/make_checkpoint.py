#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes a random checkpoint of a given shape in the original LLaVA-NeXT layout, for measurements
of memory and speed. The answers of such a model mean nothing. Needs Python alone.

    make_checkpoint.py DIR --preset small
    make_checkpoint.py DIR --preset qwen2-7b-siglip --layers 4 --dtype float16

The decoder is Qwen2's; the tower CLIP's, SigLIP's or none. The same arguments give the same bytes.
"""
import argparse
import json
import os
import random
import struct

PRESETS = {  # hidden, intermediate, layers, heads, kv heads, vocabulary; tower's like it
    "small": dict(hidden=512, intermediate=1408, layers=12, heads=8, kv_heads=4, vocab=16000,
                  tower="clip", tower_hidden=256, tower_intermediate=1024, tower_layers=6,
                  tower_heads=4, image_size=224, patch_size=14),
    "medium": dict(hidden=1024, intermediate=2816, layers=8, heads=16, kv_heads=4, vocab=16000,
                   tower="clip", tower_hidden=256, tower_intermediate=1024, tower_layers=6,
                   tower_heads=4, image_size=224, patch_size=14),
    "qwen2-0.5b-siglip": dict(hidden=896, intermediate=4864, layers=24, heads=14, kv_heads=2,
                              vocab=151936, tower="siglip", tower_hidden=1152,
                              tower_intermediate=4304, tower_layers=27, tower_heads=16,
                              image_size=384, patch_size=14),
    "qwen2-7b-siglip": dict(hidden=3584, intermediate=18944, layers=28, heads=28, kv_heads=4,
                            vocab=152064, tower="siglip", tower_hidden=1152,
                            tower_intermediate=4304, tower_layers=27, tower_heads=16,
                            image_size=384, patch_size=14),
    "7b-clip": dict(hidden=4096, intermediate=11008, layers=32, heads=32, kv_heads=32,
                    vocab=32000, tower="clip", tower_hidden=1024, tower_intermediate=4096,
                    tower_layers=24, tower_heads=16, image_size=336, patch_size=14),
}
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHUNK = 1 << 20


# ------------------------------------------------------------------------------ numbers

# bytes, mantissa bits, exponent bias, name in safetensors
TYPES = {"float32": (4, 23, 127, "F32"), "float16": (2, 10, 15, "F16"),
         "bfloat16": (2, 7, 127, "BF16")}


def repeat(pattern, size, n_bytes):
    """pattern, `size` bytes wide, over n_bytes, as one big integer."""
    return int.from_bytes(pattern.to_bytes(size, "little") * (n_bytes // size), "little")


class Numbers:
    """Random floats made of bits: a random sign and mantissa under one exponent, so that
    magnitudes lie in [2^e, 2^(e+1)) and the root mean square is about 1.53 * 2^e."""

    def __init__(self, dtype, seed):
        self.size, self.mantissa, self.bias, self.name = TYPES[dtype]
        self.random = random.Random(seed)

    def fill(self, out, count, exponent, one):
        """one: values from 1 up to 1 + 1/8 instead, for norms."""
        sign = 1 << (8 * self.size - 1)
        keep = (1 << self.mantissa - 3) - 1 if one else sign | (1 << self.mantissa) - 1
        put = (self.bias + (0 if one else exponent)) << self.mantissa
        left = count * self.size
        while left:
            n = min(left, CHUNK)
            bits = int.from_bytes(self.random.randbytes(n), "little")
            bits = bits & repeat(keep, self.size, n) | repeat(put, self.size, n)
            out.write(bits.to_bytes(n, "little"))
            left -= n


def exponent_for(fan_in):
    """2^e near 1 / sqrt(1.53^2 * fan_in): products keep the size of their input."""
    e = 0
    while 1.53 * 1.53 * fan_in * 4.0 ** e > 1.0:
        e -= 1
    return e


# ------------------------------------------------------------------------------ tensors

def linear(name, rows, cols, bias):
    yield name + ".weight", [rows, cols], "matrix"
    if bias:
        yield name + ".bias", [rows], "small"


def norm(name, width, bias):
    yield name + ".weight", [width], "one"
    if bias:
        yield name + ".bias", [width], "small"


def decoder_tensors(a):
    head_dim = a.hidden // a.heads
    yield "model.embed_tokens.weight", [a.vocab, a.hidden], "matrix"
    for i in range(a.layers):
        p = f"model.layers.{i}."
        yield from norm(p + "input_layernorm", a.hidden, False)
        yield from linear(p + "self_attn.q_proj", a.heads * head_dim, a.hidden, True)
        yield from linear(p + "self_attn.k_proj", a.kv_heads * head_dim, a.hidden, True)
        yield from linear(p + "self_attn.v_proj", a.kv_heads * head_dim, a.hidden, True)
        yield from linear(p + "self_attn.o_proj", a.hidden, a.heads * head_dim, False)
        yield from norm(p + "post_attention_layernorm", a.hidden, False)
        yield from linear(p + "mlp.gate_proj", a.intermediate, a.hidden, False)
        yield from linear(p + "mlp.up_proj", a.intermediate, a.hidden, False)
        yield from linear(p + "mlp.down_proj", a.hidden, a.intermediate, False)
    yield from norm("model.norm", a.hidden, False)
    if not a.tied:
        yield from linear("lm_head", a.vocab, a.hidden, False)


def tower_tensors(a):
    p = "model.vision_tower.vision_tower.vision_model."
    clip = a.tower == "clip"
    patches = (a.image_size // a.patch_size) ** 2
    if clip:
        yield p + "embeddings.class_embedding", [a.tower_hidden], "small"
    yield (p + "embeddings.patch_embedding.weight",
           [a.tower_hidden, 3, a.patch_size, a.patch_size], "matrix")
    if not clip:
        yield p + "embeddings.patch_embedding.bias", [a.tower_hidden], "small"
    yield p + "embeddings.position_embedding.weight", [patches + clip, a.tower_hidden], "small"
    if clip:
        yield from norm(p + "pre_layrnorm", a.tower_hidden, True)
    for i in range(a.tower_layers - (not clip)):  # the loader leaves out SigLIP's last layer
        q = f"{p}encoder.layers.{i}."
        yield from norm(q + "layer_norm1", a.tower_hidden, True)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from linear(q + "self_attn." + name, a.tower_hidden, a.tower_hidden, True)
        yield from norm(q + "layer_norm2", a.tower_hidden, True)
        yield from linear(q + "mlp.fc1", a.tower_intermediate, a.tower_hidden, True)
        yield from linear(q + "mlp.fc2", a.tower_hidden, a.tower_intermediate, True)
    yield from norm(p + "post_layernorm", a.tower_hidden, True)
    yield from linear("model.mm_projector.0", a.hidden, a.tower_hidden, True)
    yield from linear("model.mm_projector.2", a.hidden, a.hidden, True)
    yield "model.image_newline", [a.hidden], "small"


def write_weights(path, tensors, numbers):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape, _ in tensors:
        n_bytes = numbers.size
        for n in shape:
            n_bytes *= n
        header[name] = {"dtype": numbers.name, "shape": shape,
                        "data_offsets": [offset, offset + n_bytes]}
        offset += n_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name, shape, kind in tensors:
            count = fan_in = 1
            for n in shape:
                count *= n
            for n in shape[1:]:
                fan_in *= n
            exponent = exponent_for(fan_in) if kind == "matrix" else -6
            numbers.fill(out, count, exponent, kind == "one")
    return offset


# ------------------------------------------------------------------------------ other files

def byte_characters():
    """GPT-2's printable stand-ins for the 256 bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table, extra = {b: chr(b) for b in plain}, 0
    for b in range(256):
        if b not in table:
            table[b] = chr(256 + extra)
            extra += 1
    return [table[b] for b in range(256)]


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as out:
        json.dump(value, out, indent=1, ensure_ascii=False)
        out.write("\n")


def write_tokenizer(directory, vocab):
    words = byte_characters()
    fillers = vocab - len(words) - len(SPECIALS)
    if fillers < 0:
        raise SystemExit(f"--vocab must be at least {len(words) + len(SPECIALS)}")
    words += [f"filler{i}" for i in range(fillers)]
    write_json(os.path.join(directory, "vocab.json"), {w: i for i, w in enumerate(words)})
    with open(os.path.join(directory, "merges.txt"), "w", encoding="utf-8") as out:
        out.write("#version: 0.2\n")
    added = {str(len(words) + i): {"content": s, "lstrip": False, "normalized": False,
                                   "rstrip": False, "single_word": False, "special": True}
             for i, s in enumerate(SPECIALS)}
    write_json(os.path.join(directory, "tokenizer_config.json"),
               {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added,
                "additional_special_tokens": SPECIALS[1:], "eos_token": SPECIALS[2],
                "pad_token": SPECIALS[0], "bos_token": None, "unk_token": None,
                "model_max_length": 32768, "clean_up_tokenization_spaces": False})


def decoder_config(a):
    return {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
            "hidden_act": "silu", "hidden_size": a.hidden, "intermediate_size": a.intermediate,
            "num_hidden_layers": a.layers, "num_attention_heads": a.heads,
            "num_key_value_heads": a.kv_heads, "vocab_size": a.vocab,
            "max_position_embeddings": a.context, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
            "use_sliding_window": False, "tie_word_embeddings": a.tied, "torch_dtype": a.dtype,
            "bos_token_id": None, "eos_token_id": a.vocab - 1}


def picture_config(a):
    size, sides = a.image_size, (1, 2, 3)
    return {"architectures": ["LlavaQwenForCausalLM"], "model_type": "llava_qwen",
            "mm_vision_tower": "tower", "mm_hidden_size": a.tower_hidden,
            "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2,
            "mm_vision_select_feature": "patch", "mm_patch_merge_type": "spatial_unpad",
            "image_aspect_ratio": a.aspect,
            "image_grid_pinpoints": [[size * w, size * h] for w in sides for h in sides],
            "mm_tunable_parts": "mm_vision_tower", "mm_use_im_start_end": False,
            "mm_use_im_patch_token": False}


def write_tower(directory, a):
    os.makedirs(directory, exist_ok=True)
    kind = "clip" if a.tower == "clip" else "siglip"
    vision = {"model_type": kind + "_vision_model", "hidden_size": a.tower_hidden,
              "intermediate_size": a.tower_intermediate, "num_hidden_layers": a.tower_layers,
              "num_attention_heads": a.tower_heads, "image_size": a.image_size,
              "patch_size": a.patch_size, "num_channels": 3,
              "hidden_act": "quick_gelu" if a.tower == "clip" else "gelu_pytorch_tanh",
              "layer_norm_eps": 1e-5 if a.tower == "clip" else 1e-6}
    write_json(os.path.join(directory, "config.json"),
               {"model_type": kind, "vision_config": vision})
    if a.tower == "clip":
        size = a.image_size
        write_json(os.path.join(directory, "preprocessor_config.json"),
                   {"crop_size": {"height": size, "width": size}, "do_center_crop": True,
                    "do_normalize": True, "do_resize": True, "do_rescale": True,
                    "image_mean": [0.48145466, 0.4578275, 0.40821073],
                    "image_std": [0.26862954, 0.26130258, 0.27577711], "resample": 3,
                    "rescale_factor": 1 / 255, "size": {"shortest_edge": size},
                    "image_processor_type": "CLIPImageProcessor"})


def parse():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("directory")
    p.add_argument("--preset", choices=PRESETS, default="small")
    p.add_argument("--dtype", choices=TYPES, default="bfloat16")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--context", type=int, default=32768, help="max_position_embeddings")
    p.add_argument("--aspect", default="anyres", help="image_aspect_ratio")
    p.add_argument("--tied", action="store_true", help="the head is the embedding")
    p.add_argument("--tower", choices=["clip", "siglip", "none"])
    for name in ("hidden", "intermediate", "layers", "heads", "kv-heads", "vocab", "tower-hidden",
                 "tower-intermediate", "tower-layers", "tower-heads", "image-size", "patch-size"):
        p.add_argument("--" + name, type=int)
    a = p.parse_args()
    for key, value in PRESETS[a.preset].items():
        if getattr(a, key) is None:
            setattr(a, key, value)
    return a


def main():
    a = parse()
    os.makedirs(a.directory, exist_ok=True)
    tensors, config = list(decoder_tensors(a)), decoder_config(a)
    if a.tower != "none":
        tensors += tower_tensors(a)
        config.update(picture_config(a))
        write_tower(os.path.join(a.directory, "tower"), a)
    write_json(os.path.join(a.directory, "config.json"), config)
    write_tokenizer(a.directory, a.vocab)
    path = os.path.join(a.directory, "model.safetensors")
    n_bytes = write_weights(path, tensors, Numbers(a.dtype, a.seed))
    print(f"{path}: {len(tensors)} tensors, {n_bytes / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
