#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One peer in a process of its own: loads a model of random weights, then answers requests, one
JSON line each: {"size": N} -> {"ms": ...}, for a question with more beside it (question.py).
Started by compare.py.

    worker.py STAGE PEER SHAPE.json DTYPE THREADS
"""
import json
import os
import sys
import tempfile
import time

import question

TOWERS = {  # hidden, inner, layers that LLaVA runs, heads, picture, patch, class token
    "openai/clip-vit-large-patch14-336": (1024, 4096, 23, 16, 336, 14, True),
    "google/siglip-so400m-patch14-384": (1152, 4304, 26, 16, 384, 14, False),
}


def torch_with_threads(threads):
    import torch
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    torch.manual_seed(1)
    return torch


# ------------------------------------------------------------------------------ tower


def make_tower(torch, shape):
    """Tower and two-layer projector, in float32."""
    import transformers
    d, inner, layers, heads, side, patch, clip = TOWERS[shape["mm_vision_tower"]]
    kind = "CLIP" if clip else "Siglip"
    extra = {} if clip else {"vision_use_head": False}
    config = getattr(transformers, kind + "VisionConfig")(
        image_size=side, patch_size=patch, num_hidden_layers=layers, hidden_size=d,
        intermediate_size=inner, num_attention_heads=heads, **extra)
    vit = getattr(transformers, kind + "VisionModel")(config)
    width = shape["hidden_size"]

    class Tower(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.vit = vit
            self.projector = torch.nn.Sequential(torch.nn.Linear(d, width), torch.nn.GELU(),
                                                 torch.nn.Linear(width, width))

        def forward(self, pixels):
            return self.projector(self.vit(pixel_values=pixels).last_hidden_state[:, int(clip):])

    return Tower().eval(), side


def tower_torch(shape, dtype, threads):
    torch = torch_with_threads(threads)
    model, side = make_tower(torch, shape)
    model = model.to(getattr(torch, dtype))

    def run(n):
        x = torch.rand(n, 3, side, side).to(getattr(torch, dtype))
        start = time.perf_counter()
        model(x)
        return time.perf_counter() - start
    return run, "torch " + torch.__version__


def tower_openvino(shape, dtype, threads):
    import numpy
    import openvino
    torch = torch_with_threads(threads)
    model, side = make_tower(torch, shape)
    converted = openvino.convert_model(model, example_input=torch.rand(1, 3, side, side))
    folder = tempfile.TemporaryDirectory()
    path = os.path.join(folder.name, "tower.xml")
    openvino.save_model(converted, path, compress_to_fp16=False)
    del model, converted
    core, compiled = openvino.Core(), {}
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY",
               "INFERENCE_PRECISION_HINT": {"bfloat16": "bf16", "float32": "f32"}[dtype]}

    def prepare(n):
        compiled.clear()  # one batch size at a time in memory
        static = core.read_model(path)
        static.reshape([n, 3, side, side])
        made = core.compile_model(static, "CPU", options)
        got = str(made.get_property("INFERENCE_PRECISION_HINT"))
        if ("bf" in got) != (dtype == "bfloat16"):
            raise SystemExit(f"OpenVINO computes in {got} here")
        compiled[n] = made.create_infer_request()

    def run(n):
        if n not in compiled:
            prepare(n)
        x = numpy.random.default_rng(1).random((n, 3, side, side), dtype="f4")
        start = time.perf_counter()
        compiled[n].infer([x])
        return time.perf_counter() - start
    run.folder = folder
    return run, "openvino " + openvino.__version__.split("-")[0]


def tower_onnxruntime(shape, dtype, threads):
    import numpy
    import onnxruntime
    if dtype != "float32":
        raise SystemExit("onnxruntime is compared in float32 only: its CPU kernels have no bfloat16")
    torch = torch_with_threads(threads)
    model, side = make_tower(torch, shape)
    folder = tempfile.TemporaryDirectory()
    path = os.path.join(folder.name, "tower.onnx")
    torch.onnx.export(model, (torch.rand(2, 3, side, side),), path, input_names=["pixels"],
                      dynamo=True, external_data=True,
                      dynamic_shapes=({0: torch.export.Dim("n", min=1, max=64)},))
    del model
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(n):
        x = numpy.random.default_rng(1).random((n, 3, side, side), dtype="f4")
        start = time.perf_counter()
        session.run(None, {"pixels": x})
        return time.perf_counter() - start
    run.folder = folder
    return run, "onnxruntime " + onnxruntime.__version__


# ------------------------------------------------------------------------------ prompt

def make_decoder(torch, shape, dtype):
    import transformers
    qwen = "Qwen" in shape["architectures"][0]
    config = (transformers.Qwen2Config if qwen else transformers.LlamaConfig)(
        **{k: shape[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers",
                                 "num_attention_heads", "num_key_value_heads", "vocab_size",
                                 "max_position_embeddings", "rms_norm_eps",
                                 "tie_word_embeddings")})
    with torch.device("meta"):
        model = (transformers.Qwen2ForCausalLM if qwen else transformers.LlamaForCausalLM)(config)
    model = model.to(getattr(torch, dtype)).to_empty(device="cpu")
    for p in model.parameters():
        p.normal_(0, 0.02)
    fresh = type(model.model.rotary_emb)(config=config)
    model.model.rotary_emb = fresh  # its tables are no parameters
    return model.eval()


def prompt_transformers(shape, dtype, threads):
    torch = torch_with_threads(threads)
    import transformers
    model = make_decoder(torch, shape, dtype)

    def run(n):
        ids = torch.randint(0, shape["vocab_size"], (1, n))
        start = time.perf_counter()
        model(ids, use_cache=True, logits_to_keep=1)
        return time.perf_counter() - start
    return run, f"transformers {transformers.__version__}, torch {torch.__version__}"


def prompt_openvino(shape, dtype, threads):
    """The decoder with its keys and values as results, as a first pass leaves them."""
    import numpy
    import openvino
    torch = torch_with_threads(threads)
    model = make_decoder(torch, shape, "float32")

    class Prompt(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, ids):
            return self.model(ids, use_cache=False, logits_to_keep=1).logits

    converted = openvino.convert_model(Prompt(), example_input=torch.zeros(1, 64, dtype=torch.long))
    del model
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY",
               "INFERENCE_PRECISION_HINT": {"bfloat16": "bf16", "float32": "f32"}[dtype]}
    request = openvino.Core().compile_model(converted, "CPU", options).create_infer_request()

    def run(n):
        ids = numpy.random.default_rng(1).integers(0, shape["vocab_size"], (1, n))
        start = time.perf_counter()
        request.infer([ids])
        return time.perf_counter() - start
    return run, "openvino " + openvino.__version__.split("-")[0] + ", no cache kept"


# ------------------------------------------------------------------------------ question

def question_transformers(shape, dtype, threads):
    return question.transformers_question(torch_with_threads(threads), shape,
                                          TOWERS[shape["mm_vision_tower"]], dtype)


def question_llama(shape, dtype, threads):
    return question.llama_question(shape, TOWERS[shape["mm_vision_tower"]], dtype, threads)


def question_genai(shape, dtype, threads):
    return question.genai_question(shape, TOWERS[shape["mm_vision_tower"]], sys.argv[3], dtype,
                                   threads)


# ------------------------------------------------------------------------------ serving

def main():
    stage, peer, path, dtype, threads = sys.argv[1:]
    with open(path) as f:
        shape = json.load(f)
    shape.update(json.loads(os.environ.get("PEER_OVERWRITE", "{}")))
    run, about = globals()[f"{stage}_{peer}"](shape, dtype, int(threads))
    print("@" + json.dumps({"about": about}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        got = run(request) if stage == "question" else {"ms": 1e3 * run(request["size"])}
        print("@" + json.dumps(got), flush=True)


if __name__ == "__main__":
    main()
