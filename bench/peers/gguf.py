# SPDX-License-Identifier: Apache-2.0
"""GGUF files of a LLaVA shape with random weights and no vocabulary, as llama.cpp reads them: a
language model and a vision file (tower and two-layer projector). Fit for timing alone.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""
import struct

import numpy

ALIGNMENT = 32
F32, F16, BF16 = 0, 1, 30  # ggml types; general.file_type has other numbers
FILE_TYPE = {F32: 0, F16: 1, BF16: 32}
ITEM_BYTES = {F32: 4, F16: 2, BF16: 2}
RANDOM_STRETCH = 1 << 22  # values; longer tensors repeat them


class File:
    def __init__(self, architecture, name, kind):
        self.random = numpy.random.default_rng(1)
        self.meta, self.tensors = [], []
        self.add("general.architecture", architecture)
        self.add("general.name", name)
        self.add("general.file_type", FILE_TYPE[kind])

    def add(self, key, value):
        self.meta.append(text(key) + metadata(value))

    def matrix(self, name, kind, *shape):
        """Random values with a variance of one over the inputs; the shape innermost first."""
        self.tensors.append((name, kind, shape, None))

    def vector(self, name, n, fill):
        self.tensors.append((name, F32, (n,), fill))

    def linear(self, name, kind, n_in, n_out, bias=True):
        self.matrix(name + ".weight", kind, n_in, n_out)
        if bias:
            self.vector(name + ".bias", n_out, 0)

    def norm(self, name, n, bias=True):
        self.vector(name + ".weight", n, 1)
        if bias:
            self.vector(name + ".bias", n, 0)

    def values(self, kind, shape, fill):
        n = int(numpy.prod(shape))
        if fill is not None:
            return numpy.full(n, fill, "<f4").tobytes()
        n_inputs = int(numpy.prod(shape[:-1]))
        x = self.random.standard_normal(min(n, RANDOM_STRETCH)) * n_inputs ** -0.5
        x = x.astype("<f4")
        if kind == F16:
            x = x.astype("<f2")
        elif kind == BF16:
            x = (x.view("<u4") >> 16).astype("<u2")
        return numpy.resize(x, n).tobytes()

    def write(self, path):
        infos, offset = b"", 0
        for name, kind, shape, _ in self.tensors:
            infos += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
            offset += padded(int(numpy.prod(shape)) * ITEM_BYTES[kind])
        head = b"GGUF" + struct.pack("<IQQ", 3, len(self.tensors), len(self.meta))
        head += b"".join(self.meta) + infos
        with open(path, "wb") as f:
            f.write(head.ljust(padded(len(head)), b"\0"))
            for _, kind, shape, fill in self.tensors:
                data = self.values(kind, shape, fill)
                f.write(data.ljust(padded(len(data)), b"\0"))


def padded(n):
    return (n + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def text(s):
    data = s.encode()
    return struct.pack("<Q", len(data)) + data


def metadata(v):
    """Type number and value: 4 uint32, 5 int32, 6 float32, 7 bool, 8 string, 9 array."""
    if isinstance(v, str):
        return struct.pack("<I", 8) + text(v)
    if isinstance(v, bool):
        return struct.pack("<IB", 7, v)
    if isinstance(v, float):
        return struct.pack("<If", 6, v)
    if isinstance(v, list):
        kind, letter = (6, "f") if isinstance(v[0], float) else (5, "i")
        return struct.pack(f"<IIQ{len(v)}{letter}", 9, kind, len(v), *v)
    return struct.pack("<II", 4, v)


def write_language(path, shape, kind):
    """shape: the fields of a config.json. Architecture qwen2 has biases of queries, keys, values."""
    qwen = "Qwen" in shape["architectures"][0]
    arch = "qwen2" if qwen else "llama"
    d, inner, vocab = shape["hidden_size"], shape["intermediate_size"], shape["vocab_size"]
    heads, kv_heads = shape["num_attention_heads"], shape["num_key_value_heads"]
    layers, head = shape["num_hidden_layers"], d // heads
    f = File(arch, "random", kind)
    for key, value in (("context_length", shape["max_position_embeddings"]),
                       ("embedding_length", d), ("block_count", layers),
                       ("feed_forward_length", inner), ("attention.head_count", heads),
                       ("attention.head_count_kv", kv_heads), ("vocab_size", vocab),
                       ("rope.dimension_count", head),
                       ("rope.freq_base", float(shape.get("rope_theta", 10000))),
                       ("attention.layer_norm_rms_epsilon", float(shape["rms_norm_eps"]))):
        f.add(f"{arch}.{key}", value)
    f.add("tokenizer.ggml.model", "none")
    f.matrix("token_embd.weight", kind, d, vocab)
    f.norm("output_norm", d, bias=False)
    if not shape["tie_word_embeddings"]:
        f.matrix("output.weight", kind, d, vocab)
    for i in range(layers):
        at = f"blk.{i}."
        f.norm(at + "attn_norm", d, bias=False)
        f.norm(at + "ffn_norm", d, bias=False)
        f.linear(at + "attn_q", kind, d, d, qwen)
        f.linear(at + "attn_k", kind, d, kv_heads * head, qwen)
        f.linear(at + "attn_v", kind, d, kv_heads * head, qwen)
        f.linear(at + "attn_output", kind, d, d, False)
        f.linear(at + "ffn_gate", kind, d, inner, False)
        f.linear(at + "ffn_up", kind, d, inner, False)
        f.linear(at + "ffn_down", kind, inner, d, False)
    f.write(path)


def write_vision(path, tower, width, pinpoints, kind):
    """tower: hidden, inner, layers that run, heads, picture, patch, class token. llama.cpp's LLaVA
    graph leaves the file's last layer out, so the file has one more."""
    d, inner, layers, heads, side, patch, clip = tower
    f = File("clip", "random", kind)
    f.add("clip.has_vision_encoder", True)
    f.add("clip.projector_type", "mlp")
    f.add("clip.use_gelu", not clip)
    for key, value in (("image_size", side), ("patch_size", patch), ("embedding_length", d),
                       ("feed_forward_length", inner), ("block_count", layers + 1),
                       ("projection_dim", width), ("attention.head_count", heads),
                       ("attention.layer_norm_epsilon", 1e-5), ("image_mean", [0.5] * 3),
                       ("image_std", [0.5] * 3), ("mm_patch_merge_type", "spatial_unpad"),
                       ("image_grid_pinpoints", [n for p in pinpoints for n in p])):
        f.add("clip.vision." + key, value)
    f.matrix("v.patch_embd.weight", F16, patch, patch, 3, d)  # ggml convolves no bfloat16
    f.matrix("v.position_embd.weight", F32, d, (side // patch) ** 2 + clip)
    if clip:
        f.vector("v.class_embd", d, 0)
        f.norm("v.pre_ln", d)
    else:
        f.vector("v.patch_embd.bias", d, 0)
        f.norm("v.post_ln", d)
    f.linear("mm.0", kind, d, width)
    f.linear("mm.2", kind, width, width)
    for i in range(layers + 1):
        at = f"v.blk.{i}."
        f.norm(at + "ln1", d)
        f.norm(at + "ln2", d)
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            f.linear(at + name, kind, d, d)
        f.linear(at + "ffn_up", kind, d, inner)
        f.linear(at + "ffn_down", kind, inner, d)
    f.write(path)
