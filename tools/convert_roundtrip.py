#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `llava convert` writes, loaded by the Python reference: a development tool, not part of CI.

    convert_roundtrip.py original --llava BUILD/cli/llava --reference DIR --llava-next CHECKOUT
    convert_roundtrip.py hf       --llava BUILD/cli/llava --reference DIR
    convert_roundtrip.py quant    --llava BUILD/cli/llava --reference DIR

original: every checkpoint of models/ and every adapter and projector of formats/adapters, through
LLaVA-NeXT's own load_pretrained_model (transformers 4.40). hf: formats/hf/v*/, through transformers'
own classes. Tensors are compared bit for bit - merged ones with the recorded merge - and logits with
those of the checkpoint that was converted. quant: quant/models/llama-f16 under load_4bit and
load_8bit, through transformers with bitsandbytes, whose modules are compared bit for bit with those of
the checkpoint that transformers saved. tools/convert_roundtrip.sh makes the environments.
"""
import argparse
import contextlib
import glob
import io
import json
import os
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file

MERGE_TOLERANCE = 2e-6   # sums of a few products in another order, relative to the largest value
LOGIT_TOLERANCE = 1e-4   # standard deviations, where weights were merged
# Plain language models: the reference rounds the base to float16 before it merges, convert merges
# the base as it is stored and rounds once. A weight may be one step of float16 away.
HALF_STEP, HALF_LOGITS = 1e-3, 5e-2


def convert(args, source, out, *options):
    run = subprocess.run([args.llava, "convert", source, out, *options], cwd=args.reference,
                         capture_output=True, text=True, timeout=300)
    return None if run.returncode == 0 else "convert: " + run.stderr.strip()


def distance(a, b):
    """Largest difference relative to the largest value; 0 means the same bits."""
    if a.shape != b.shape:
        return float("inf")
    if a.dtype == b.dtype and torch.equal(a, b):
        return 0.0
    a, b = a.double(), b.double()
    return ((a - b).abs().max() / b.abs().max().clamp_min(1e-30)).item()


def compare_states(found, expected, skip=()):
    """(tensors with the same bits, tensors that differ, largest distance, what is missing)."""
    same, other, worst, missing = 0, 0, 0.0, []
    for name, tensor in expected.items():
        if any(part in name for part in skip) or "rotary_emb.inv_freq" in name:
            continue
        if name not in found:
            missing.append(name)
            continue
        rows = min(len(found[name]), len(tensor)) if tensor.ndim else 0
        d = distance(found[name], tensor) if not tensor.ndim else distance(found[name][:rows],
                                                                           tensor[:rows])
        same, other, worst = same + (d == 0), other + (d != 0), max(worst, d)
    return same, other, worst, missing


def logit_distance(a, b):
    if a.shape != b.shape:
        return float("inf")
    return ((a.double() - b.double()).abs().max() / b.double().std()).item()


class Score:
    def __init__(self, folder):
        self.folder, self.passed, self.failed = folder, 0, 0

    def add(self, name, problem, figures=""):
        self.passed, self.failed = self.passed + (not problem), self.failed + bool(problem)
        print("%-34s %s" % (name, "FAILED " + problem if problem else figures), flush=True)

    def close(self):
        print("%s: %d cases, %d passed, %d failed, 0 skipped" %
              (self.folder, self.passed + self.failed, self.passed, self.failed))
        return self.failed


# ---------------------------------------------------------------- the original layout

def load_original(path, name, attn=True):
    """The reference's loader in float32, which it reaches through its debugger stop."""
    from llava.model import builder
    from llava.model.language_model import llava_gemma, llava_qwen_moe
    builder.LlavaGemmaForCausalLM = llava_gemma.LlavaGemmaForCausalLM  # both are never imported
    builder.LlavaQwenMoeForCausalLM = llava_qwen_moe.LlavaQwenMoeForCausalLM
    builder.LlavaQwenMoeConfig = llava_qwen_moe.LlavaQwenMoeConfig
    options = {"attn_implementation": "eager"} if attn else {}
    with contextlib.redirect_stdout(io.StringIO()):
        return builder.load_pretrained_model(path, None, name, torch_dtype="float32", **options)


def outputs_of(model, processor, seed):
    """Logits of a text and features of a picture made of noise."""
    g = torch.Generator().manual_seed(seed)
    vocab = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(3, min(vocab, 300), (1, 11), generator=g)
    out = {"logits": model(input_ids=ids).logits}
    if processor is not None:
        size = processor.crop_size
        side = size["height"] if isinstance(size, dict) else size[0]
        out["features"] = model.encode_images(torch.randn(1, 3, side, side, generator=g))
    return out


def is_plain(config):
    return not config["architectures"][0].startswith("Llava")


def roundtrip_model(args, name, folder):
    source, out = "models/" + name, os.path.join(folder, name)
    problem = convert(args, source, out)
    if problem:
        return problem, ""
    with open(os.path.join(args.reference, source, "config.json"), encoding="utf-8") as file:
        attn = not is_plain(json.load(file))
    route = name if attn else name.replace("llava", "")
    _, before, processor, _ = load_original(source, route, attn)
    _, after, _, _ = load_original(out, route, attn)
    written = {}
    for shard in glob.glob(os.path.join(out, "*.safetensors")):
        written.update(load_file(shard))
    states = before.state_dict(), after.state_dict()
    same, other, worst, missing = compare_states(states[1], states[0])
    # what Python holds is what was written
    stored = {k: v.to(states[1][k].dtype) for k, v in written.items() if k in states[1]}
    kept, changed, _, _ = compare_states(states[1], stored)
    first, second = (outputs_of(m.eval(), processor, 7) for m in (before, after))
    far = max(distance(second[k], first[k]) for k in first)
    if other or missing or changed or far:
        return "%d tensors differ (%.1e), %d of the file's, missing %s; outputs differ by %.1e" % (
            other, worst, changed, missing[:3], far), ""
    return None, "%3d tensors the same bits, %3d as written; %s the same bits" % (
        same, kept, " and ".join(first))


def load_merged(case, out):
    """A merged adapter is a checkpoint as any other; MPT has no multimodal branch in the loader."""
    if case["architecture"] == "LlavaMptForCausalLM":
        from llava.model.language_model.llava_mpt import LlavaMptForCausalLM
        return LlavaMptForCausalLM.from_pretrained(out, torch_dtype=torch.float32)
    name = case["architecture"].lower().replace("forcausallm", "").replace("llava", "llava-")
    return load_original(out, name)[1]


def merged_outputs(model, case, trace):
    def forward(**inputs):
        if case["architecture"] == "LlavaMptForCausalLM":  # its forward passes wrong arguments on
            from transformers import MptForCausalLM
            return MptForCausalLM.forward(model, **inputs).logits
        return model(**inputs).logits
    out = {"text.logits": forward(input_ids=trace["text.input_ids"])}
    if "image.pixels" in trace:
        out["image.features"] = model.encode_images(trace["image.pixels"])
        out["image.logits"] = forward(inputs_embeds=trace["image.inputs_embeds"])
    return out


def roundtrip_adapter(args, name, case, folder):
    out = os.path.join(folder, name)
    half = not case["architecture"].startswith("Llava")  # the reference merges those in float16
    problem = convert(args, case["model_path"], out, "--model-base", case["model_base"],
                      "--model-name", case["model_name"], "--torch-dtype",
                      "float16" if half else "float32")
    if problem:
        return problem, ""
    expected = os.path.join(args.reference, "formats/adapters/expected", name)
    exact = os.path.exists(expected + ".exact.trace.safetensors")  # without needless roundings
    trace = load_file(expected + (".exact" if exact else "") + ".trace.safetensors")
    state = expected + (".exact.merged.safetensors" if half else ".merged.safetensors")
    model = load_merged(case, out).eval()
    found = {k: v.half() if half else v for k, v in model.state_dict().items()}
    # the recorded projector of an exact case went through float16
    skip = ("mm_projector",) if exact and not half else ()
    base = load_file(os.path.join(args.reference, case["model_base"], "model.safetensors"))
    rows = base["lm_head.weight"].shape[0] if "lm_head.weight" in base else case["vocab_rows"]
    recorded = {k: v[:rows] if k == "lm_head.weight" else v  # rows beyond are random there
                for k, v in load_file(state).items()}
    same, other, worst, missing = compare_states(found, recorded, skip)
    outputs = merged_outputs(model, case, trace)
    far = max(logit_distance(v[..., :rows], trace[k][..., :rows]) for k, v in outputs.items())
    limits = (HALF_STEP, HALF_LOGITS) if half else (MERGE_TOLERANCE, LOGIT_TOLERANCE)
    if missing or worst > limits[0] or far > limits[1]:
        return "distance %.1e, missing %s, outputs %.1e" % (worst, missing[:3], far), ""
    return None, "%3d tensors the same bits, %2d within %.0e; outputs within %.0e" % (
        same, other, worst, far)


def run_original(args):
    os.environ["LLAVA_NEXT"] = args.llava_next
    sys.path.insert(0, os.path.join(args.reference, "make"))
    from models_common import cpu_reference  # the work-arounds that the recording used
    with open("formats/adapters/expected.json", encoding="utf-8") as file:
        adapters = json.load(file)
    failed = 0
    with cpu_reference(), tempfile.TemporaryDirectory() as folder, torch.no_grad():
        score = Score("models")
        for name in sorted(n for n in os.listdir("models") if os.path.isdir("models/" + n)):
            if args.only in name:
                score.add(name, *attempt(roundtrip_model, args, name, folder))
        failed += score.close()
        score = Score("formats/adapters")
        for name, case in sorted(adapters.items()):
            if args.only in name:
                score.add(name, *attempt(roundtrip_adapter, args, name, case, folder))
        failed += score.close()
    return failed


# ---------------------------------------------------------------- transformers' own layout

def roundtrip_hf(args, source, folder):
    import transformers
    out = os.path.join(folder, source.replace("/", "-"))
    problem = convert(args, source, out)
    if problem:
        return problem, ""
    with open(os.path.join(out, "config.json"), encoding="utf-8") as file:
        cls = getattr(transformers, json.load(file)["architectures"][0])
    options = {"attn_implementation": "eager", "torch_dtype": torch.float32}
    before, after = (cls.from_pretrained(path, **options).eval() for path in (source, out))
    states = before.state_dict(), after.state_dict()
    # rows of the vocabulary beyond the tokenizer are not written, and the text ids stay below
    same, other, worst, missing = compare_states(states[1], states[0])
    far, cases = 0.0, 0
    for trace in sorted(glob.glob("formats/hf/traces/%s/*.safetensors" % source.split("/")[-1])):
        recorded = load_file(trace)
        inputs = {k[3:]: v for k, v in recorded.items() if k.startswith("in.")}
        logits = after(**inputs).logits
        far = max(far, distance(logits, before(**inputs).logits[..., :logits.shape[-1]]))
        cases += 1
    transformers.AutoProcessor.from_pretrained(out)
    if other or missing or far:
        return "%d tensors differ (%.1e), missing %s; logits differ by %.1e" % (
            other, worst, missing[:3], far), ""
    return None, "%3d tensors and the logits of %d recorded inputs the same bits" % (same, cases)


def run_hf(args):
    import transformers
    score = Score("formats/hf with transformers " + transformers.__version__)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for source in sorted(glob.glob("formats/hf/v4.*/*")):
            if args.only in source:
                score.add(source, *attempt(roundtrip_hf, args, source, folder))
    return score.close()


QUANTIZED = {"llama-nf4-double": ["--load-4bit"],
             "llama-nf4": ["--load-4bit", "--quantization-config",
                           '{"bnb_4bit_use_double_quant": false}'],
             "llama-int8": ["--load-8bit"]}


def roundtrip_quantized(args, name, folder):
    import transformers
    out = os.path.join(folder, name)
    problem = convert(args, "quant/models/llama-f16", out, *QUANTIZED[name])
    if problem:
        return problem, ""
    found, expected = (
        transformers.AutoModelForCausalLM.from_pretrained(path).state_dict()
        for path in (out, "quant/models/" + name))
    # bitsandbytes' library for CPUs puts -1 into the first entry of that table
    same, other, worst, missing = compare_states(found, expected, ["nested_quant_map", "quant_state"])
    if other or missing:
        return "%d tensors differ (%.1e), missing %s" % (other, worst, missing[:3]), ""
    return None, "%3d tensors the same bits" % same


def run_quantized(args):
    import bitsandbytes
    import transformers
    score = Score("quant/models with transformers %s, bitsandbytes %s" %
                  (transformers.__version__, bitsandbytes.__version__))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for name in QUANTIZED:
            score.add(name, *attempt(roundtrip_quantized, args, name, folder))
    return score.close()


def attempt(function, *arguments):
    try:
        return function(*arguments)
    except Exception as problem:  # a case that breaks is a failed case, not the end
        return "%s: %s" % (type(problem).__name__, str(problem)[:300]), ""


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layout", choices=["original", "hf", "quant"])
    parser.add_argument("--llava", required=True, help="the command line tool")
    parser.add_argument("--reference", required=True, help="the recorded reference data")
    parser.add_argument("--llava-next", help="a checkout of LLaVA-NeXT")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    args = parser.parse_args()
    args.llava, args.reference = os.path.abspath(args.llava), os.path.abspath(args.reference)
    if args.layout == "original" and not args.llava_next:
        parser.error("original needs --llava-next")
    if args.llava_next:
        args.llava_next = os.path.abspath(args.llava_next)
    os.chdir(args.reference)
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    torch.set_num_threads(1)
    run = {"original": run_original, "hf": run_hf, "quant": run_quantized}[args.layout]
    return 1 if run(args) else 0


if __name__ == "__main__":
    sys.exit(main())
