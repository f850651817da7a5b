"""Record five calls of the Python reference with the demo checkpoint, as cases for `llava verify`.

    LLAVA_NEXT=path/to/LLaVA-NeXT python record.py --recorder FOLDER --out FOLDER

--recorder is the folder of the scripts that made the project's reference recordings (models.py); --out gets
traces/demo/CASE.json and CASE.safetensors. Needs what those scripts need: torch 2.3.1, transformers 4.40.0, no GPU.
"""
import argparse
import json
import os
import shutil
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
CHECKPOINT = os.path.normpath(os.path.join(HERE, "..", "..", "models", "demo"))
KEPT_LOGITS = 4  # of the prompt's last positions

CASES = [
    {"name": "dog", "turns": ["<image>\nWhat is this?"], "images": [["dog.png"]], "new": 8, "beams": 3, "beam_new": 8},
    {"name": "cat", "turns": ["<image>\n这是什么？"], "images": [["cat.png"]], "new": 8},
    {"name": "tall", "turns": ["<image>\nWhat is above the banana?"], "images": [["tall.jpg"]], "new": 8},
    {"name": "wide", "turns": ["<image>\nDescribe the picture."], "images": [["wide.jpg"]], "new": 16},
    {"name": "none", "turns": ["What is this?"], "new": 8}]


def tower_folder(models, config):
    """A tower repository with weights: the reference loads those first and the checkpoint's own over them."""
    models.make_tower("tower", {
        "kind": "siglip", "hidden": config["hidden_size"], "mlp": config["intermediate_size"], "layers": config["num_hidden_layers"],
        "heads": config["num_attention_heads"], "image": config["image_size"], "patch": config["patch_size"],
        "act": config["hidden_act"], "eps": config["layer_norm_eps"]}, 7)
    os.makedirs("towers", exist_ok=True)
    os.symlink(os.path.abspath("tower"), "towers/tower")


def trim(facts, tensors):
    """Leave out what a CRC or a later stage covers, so that the cases stay small."""
    logits = tensors["logits"]
    facts["logits_from"] += max(0, len(logits) - KEPT_LOGITS)
    tensors["logits"] = logits[-KEPT_LOGITS:]
    facts.pop("pixel_values_in", None)
    return {key: value.float() for key, value in tensors.items() if not key.startswith("pixel_values")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recorder", required=True)
    parser.add_argument("--out", required=True)
    arguments = parser.parse_args()
    out = os.path.abspath(arguments.out)
    sys.path.append(os.path.abspath(arguments.recorder))
    import models
    import models_common as common
    models.save_picture = lambda name: "models/demo/pictures/" + name
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.mkdir("models")
        shutil.copytree(CHECKPOINT, "models/demo")
        with open("models/demo/config.json", encoding="utf-8") as f:
            config = json.load(f)
        with open("models/demo/tower/config.json", encoding="utf-8") as f:
            tower = json.load(f)
        with common.cpu_reference():
            tower_folder(models, tower)
            spec = {"name": "demo", "family": "qwen", "tower": "tower", "dtype": "bfloat16", "config": config,
                    "model_name": "llava-qwen-demo"}
            for case in CASES:
                facts, tensors = models.run_case(spec, {"conv": "qwen_1_5", **case}, {})
                tensors = trim(facts, tensors)
                base = os.path.join(out, "traces", "demo", case["name"])
                common.write_json(base + ".json", facts)
                common.write_tensors(base + ".safetensors", tensors)
                print(case["name"], facts["greedy"]["text"], facts["prompt_rows"], facts["greedy"]["uncached_max_difference"])


if __name__ == "__main__":
    main()
