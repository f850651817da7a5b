"""Write the trained model as a LLaVA-NeXT checkpoint, or read such a checkpoint back.

    export.py --state DIR --out FOLDER
"""
import argparse
import json
import os
import shutil

import torch
from safetensors.torch import load_file, save_file

import model as llava
from tokenizer import QwenTokenizer


def _write(folder, name, value):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
        json.dump(value, f, indent=1, sort_keys=True)
        f.write("\n")


def tower_config(c):
    """The tower's own config.json. It counts the last SigLIP layer, which LLaVA-NeXT never runs and which is not stored."""
    return {
        "architectures": ["SiglipVisionModel"], "attention_dropout": 0.0, "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": c.tower_width, "image_size": c.image, "intermediate_size": c.tower_mlp, "layer_norm_eps": 1e-6,
        "model_type": "siglip_vision_model", "num_attention_heads": c.tower_heads, "num_channels": 3,
        "num_hidden_layers": c.tower_layers + 1, "patch_size": c.patch, "torch_dtype": "bfloat16"}


def main_config(c, end):
    return {
        "architectures": ["LlavaQwenForCausalLM"], "attention_dropout": 0.0, "bos_token_id": None, "eos_token_id": end,
        "hidden_act": "silu", "hidden_size": c.width, "image_aspect_ratio": "anyres_max_9", "image_crop_resolution": None,
        "image_grid_pinpoints": c.pinpoints, "image_split_resolution": None, "initializer_range": 0.02,
        "intermediate_size": c.mlp, "max_position_embeddings": c.max_positions, "max_window_layers": c.layers,
        "mm_hidden_size": c.tower_width, "mm_newline_position": "one_token", "mm_patch_merge_type": "spatial_unpad",
        "mm_projector_type": "mlp2x_gelu", "mm_resampler_type": None, "mm_spatial_pool_mode": "bilinear",
        "mm_tunable_parts": "mm_vision_tower,mm_mlp_adapter,mm_language_model", "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False, "mm_vision_select_feature": "patch", "mm_vision_select_layer": -2,
        "mm_vision_tower": "tower", "model_type": "llava", "num_attention_heads": c.heads, "num_hidden_layers": c.layers,
        "num_key_value_heads": c.kv_heads, "rms_norm_eps": 1e-6, "rope_theta": c.rope_theta, "sliding_window": c.max_positions,
        "tie_word_embeddings": True, "tokenizer_model_max_length": c.max_positions, "tokenizer_padding_side": "right",
        "torch_dtype": "bfloat16", "transformers_version": "4.40.0", "use_cache": True, "use_mm_proj": True,
        "use_sliding_window": False, "vocab_size": c.vocab}


def write(state, out):
    """Export the averaged weights, in bfloat16, with everything a loader reads."""
    c = llava.Config()
    os.makedirs(os.path.join(out, "tower"), exist_ok=True)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copyfile(os.path.join(state, "tokenizer", name), os.path.join(out, name))
    tokenizer = QwenTokenizer(out)
    assert tokenizer.size == c.vocab
    weights = torch.load(os.path.join(state, "average.pt"), weights_only=True)
    save_file({name: tensor.contiguous() for name, tensor in sorted(weights.items())},
              os.path.join(out, "model.safetensors"), metadata={"format": "pt"})
    os.chmod(os.path.join(out, "model.safetensors"), 0o644)
    _write(out, "config.json", main_config(c, tokenizer.end))
    _write(os.path.join(out, "tower"), "config.json", tower_config(c))
    _write(out, "generation_config.json", {
        "do_sample": False, "eos_token_id": tokenizer.end, "pad_token_id": tokenizer.pad, "transformers_version": "4.40.0"})


def read(folder):
    """The model of an exported checkpoint, in float32, and its tokenizer."""
    model = llava.Llava(llava.Config())
    weights = load_file(os.path.join(folder, "model.safetensors"))
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return model.eval(), QwenTokenizer(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", required=True, help="folder of the training state")
    parser.add_argument("--out", required=True, help="folder of the checkpoint")
    options = parser.parse_args()
    write(options.state, options.out)
