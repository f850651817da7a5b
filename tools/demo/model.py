"""The demo model in PyTorch: a SigLIP tower, a two-layer projector and a Qwen2 language model.

Module names are those of the LLaVA-NeXT checkpoint, so a state_dict is the checkpoint. Also here: the picture
preprocessing of LLaVA-NeXT (anyres with spatial_unpad, pad), the prompt, and greedy decoding.
"""
import dataclasses
import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn


@dataclasses.dataclass
class Config:
    image: int = 96  # side of a tower view in pixels
    patch: int = 12
    tower_width: int = 192
    tower_mlp: int = 768
    tower_heads: int = 6
    tower_layers: int = 7  # the layers that run; the tower's config.json counts one more, which LLaVA-NeXT drops
    width: int = 192
    mlp: int = 512
    heads: int = 6
    kv_heads: int = 2
    layers: int = 4
    vocab: int = 3000
    rope_theta: float = 10000.0
    max_positions: int = 2048

    @property
    def grid(self):
        return self.image // self.patch

    @property
    def pinpoints(self):
        return [[self.image * w, self.image * h] for w, h in ((1, 1), (1, 2), (2, 1), (1, 3), (3, 1))]


def attend(q, k, v, mask=None):
    """Attention; on a CPU in float32 also under autocast, because the bfloat16 kernel's backward pass is slow there."""
    if q.is_cuda:
        return F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, attn_mask=mask)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask)


# ------------------------------------------------------------------------------------------------------ tower

class TowerAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        b, n, d = x.shape
        q, k, v = (p(x).view(b, n, self.heads, d // self.heads).transpose(1, 2)
                   for p in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(attend(q, k, v).transpose(1, 2).reshape(b, n, d))


class TowerMLP(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class TowerLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.layer_norm1, self.layer_norm2 = (nn.LayerNorm(c.tower_width, eps=1e-6) for _ in range(2))
        self.self_attn = TowerAttention(c.tower_width, c.tower_heads)
        self.mlp = TowerMLP(c.tower_width, c.tower_mlp)

    def forward(self, x):
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class TowerEmbeddings(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.patch_embedding = nn.Conv2d(3, c.tower_width, c.patch, c.patch)
        self.position_embedding = nn.Embedding(c.grid ** 2, c.tower_width)

    @torch.no_grad()
    def start_from(self, pixels):
        """Start as the whitened principal components of the patches of these pictures, and sine positions."""
        width, patch = self.patch_embedding.out_channels, self.patch_embedding.kernel_size[0]
        patches = F.unfold(pixels, patch, stride=patch).transpose(1, 2).flatten(0, 1)
        mean = patches.mean(0)
        values, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
        values, vectors = values[-width:], vectors[:, -width:]
        filters = (vectors / (values + 0.02 * values.mean()).sqrt()).T * 0.5
        self.patch_embedding.weight.copy_(filters.view_as(self.patch_embedding.weight))
        self.patch_embedding.bias.copy_(-filters @ mean)
        grid = math.isqrt(self.position_embedding.num_embeddings)
        frequency = 2 * math.pi / (2.0 * grid) * 2 ** (torch.arange(width // 4) / (width / 4) * 3)
        angle = torch.arange(grid)[:, None] * frequency
        axis = torch.cat((angle.sin(), angle.cos()), 1)
        both = torch.cat((axis[:, None].expand(-1, grid, -1), axis[None].expand(grid, -1, -1)), -1)
        self.position_embedding.weight.copy_(both.flatten(0, 1) * 0.3)

    def forward(self, pixels):
        return self.patch_embedding(pixels).flatten(2).transpose(1, 2) + self.position_embedding.weight


class VisionModel(nn.Module):
    """SigLIP without its last layer and without applying post_layernorm, as LLaVA-NeXT runs it."""

    def __init__(self, c):
        super().__init__()
        self.embeddings = TowerEmbeddings(c)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(TowerLayer(c) for _ in range(c.tower_layers))
        self.post_layernorm = nn.LayerNorm(c.tower_width, eps=1e-6)

    def forward(self, pixels):
        x = self.embeddings(pixels)
        for layer in self.encoder.layers:
            x = layer(x)
        return x


# ------------------------------------------------------------------------------------------------------ language model

class RMSNorm(nn.Module):
    def __init__(self, width, eps=1e-6):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        f = x.float()
        return (f * torch.rsqrt(f.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


def rotary(positions, size, theta):
    """cos and sin of [..., positions, size] for the rotate-half convention."""
    frequency = theta ** (-torch.arange(0, size, 2, dtype=torch.float32, device=positions.device) / size)
    angle = positions.float()[..., None] * frequency
    angle = torch.cat((angle, angle), -1)
    return angle.cos(), angle.sin()


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.kv_heads, self.size = c.heads, c.kv_heads, c.width // c.heads
        self.q_proj = nn.Linear(c.width, c.heads * self.size)
        self.k_proj, self.v_proj = (nn.Linear(c.width, c.kv_heads * self.size) for _ in range(2))
        self.o_proj = nn.Linear(c.heads * self.size, c.width, bias=False)

    def forward(self, x, cos, sin, mask):
        b, n, _ = x.shape
        q = self.q_proj(x).view(b, n, self.heads, self.size).transpose(1, 2)
        k, v = (p(x).view(b, n, self.kv_heads, self.size).transpose(1, 2) for p in (self.k_proj, self.v_proj))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        k, v = (t.repeat_interleave(self.heads // self.kv_heads, 1) for t in (k, v))
        y = attend(q, k, v, mask)
        return self.o_proj(y.transpose(1, 2).reshape(b, n, -1))


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(c.width, c.mlp, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(c.mlp, c.width, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.self_attn, self.mlp = Attention(c), MLP(c)
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(c.width), RMSNorm(c.width)

    def forward(self, x, cos, sin, mask):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


def initialise(module):
    """Small normal weights, zero biases."""
    for name, p in module.named_parameters():
        if p.ndim >= 2:
            nn.init.normal_(p, std=0.02)
        elif name.endswith("bias"):
            nn.init.zeros_(p)


class Llava(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.config = c
        m = self.model = nn.Module()
        m.embed_tokens = nn.Embedding(c.vocab, c.width)
        m.layers = nn.ModuleList(Layer(c) for _ in range(c.layers))
        m.norm = RMSNorm(c.width)
        m.vision_tower = nn.Module()
        m.vision_tower.vision_tower = nn.Module()
        m.vision_tower.vision_tower.vision_model = VisionModel(c)
        m.mm_projector = nn.Sequential(nn.Linear(c.tower_width, c.width), nn.GELU(), nn.Linear(c.width, c.width))
        m.image_newline = nn.Parameter(torch.randn(c.width) * 0.02)
        initialise(self)

    @property
    def tower(self):
        return self.model.vision_tower.vision_tower.vision_model

    def rows(self, features, plan):
        """Image rows [batch, rows, width] from projected features [batch, views, grid², width] and a plan()."""
        b = features.shape[0]
        with_newline = torch.cat((features.flatten(1, 2), self.model.image_newline.to(features.dtype).expand(b, 1, -1)), 1)
        return with_newline[:, plan]

    def hidden(self, embeddings, positions, mask):
        """The final hidden states; mask is boolean, true where a query may look."""
        cos, sin = rotary(positions, self.config.width // self.config.heads, self.config.rope_theta)
        if cos.ndim == 3:
            cos, sin = cos[:, None], sin[:, None]
        x = embeddings
        for layer in self.model.layers:
            x = layer(x, cos, sin, mask)
        return self.model.norm(x)

    def logits(self, hidden):
        return hidden @ self.model.embed_tokens.weight.T.to(hidden.dtype)


# ------------------------------------------------------------------------------------------------------ pictures

def to_pixels(views):
    """RGB images of the tower's size as normalised [views, 3, side, side]."""
    a = np.stack([np.asarray(v, np.float32) for v in views]).transpose(0, 3, 1, 2)
    return torch.from_numpy((a / 255 - 0.5) / 0.5)


def best_resolution(size, pinpoints):
    """LLaVA-NeXT's select_best_resolution."""
    best, best_effective, best_waste = None, 0, math.inf
    for w, h in pinpoints:
        scale = min(w / size[0], h / size[1])
        effective = min(int(size[0] * scale) * int(size[1] * scale), size[0] * size[1])
        waste = w * h - effective
        if effective > best_effective or (effective == best_effective and waste < best_waste):
            best, best_effective, best_waste = (w, h), effective, waste
    return best


def anyres_views(picture, c):
    """The squashed overview and the tiles of resize_and_pad_image."""
    w, h = best_resolution(picture.size, c.pinpoints)
    sw, sh = w / picture.width, h / picture.height
    if sw < sh:
        new = (w, min(math.ceil(picture.height * sw), h))
    else:
        new = (min(math.ceil(picture.width * sh), w), h)
    canvas = Image.new("RGB", (w, h))
    canvas.paste(picture.resize(new, Image.Resampling.BICUBIC), ((w - new[0]) // 2, (h - new[1]) // 2))
    tiles = [canvas.crop((x, y, x + c.image, y + c.image)) for y in range(0, h, c.image) for x in range(0, w, c.image)]
    return [picture.resize((c.image, c.image), Image.Resampling.BICUBIC)] + tiles


def anyres_plan(size, c):
    """Indices into the flattened views (one past the end: the newline) that make the image rows of spatial_unpad."""
    n = c.grid
    w, h = best_resolution(size, c.pinpoints)
    gw, gh = w // c.image, h // c.image
    cell = np.arange(gw * gh * n * n).reshape(gh, gw, n, n).transpose(0, 2, 1, 3).reshape(gh * n, gw * n) + n * n
    if size[0] / size[1] > (gw * n) / (gh * n):
        pad = (gh * n - int(size[1] * (gw * n / size[0]))) // 2
        cell = cell[pad:gh * n - pad]
    else:
        pad = (gw * n - int(size[0] * (gh * n / size[1]))) // 2
        cell = cell[:, pad:gw * n - pad]
    newline = np.full((cell.shape[0], 1), (1 + gw * gh) * n * n)
    return np.concatenate((np.arange(n * n), np.concatenate((cell, newline), 1).reshape(-1)))


def padded_view(picture, c):
    """One view on a grey square: how each of several pictures is seen."""
    side = max(picture.size)
    square = Image.new("RGB", (side, side), (127, 127, 127))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square.resize((c.image, c.image), Image.Resampling.BICUBIC)


def padded_plan(c):
    return np.arange(c.grid ** 2 + 1)


# ------------------------------------------------------------------------------------------------------ asking

PREFIX = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n"


def features_of(model, views):
    """Projected features [1, views, grid², width] of a list of RGB views."""
    return model.model.mm_projector(model.tower(to_pixels(views)))[None]


@torch.no_grad()
def answer(model, tokenizer, pictures, question, limit=48):
    """The greedy answer; pictures are RGB images. One picture goes through anyres, several through pad."""
    c, embed = model.config, model.model.embed_tokens
    prompt = PREFIX + "<image>\n" * len(pictures) + question + SUFFIX
    if len(pictures) == 1:
        images = [model.rows(features_of(model, anyres_views(pictures[0], c)), anyres_plan(pictures[0].size, c))]
    else:
        images = [model.rows(features_of(model, [padded_view(p, c)]), padded_plan(c)) for p in pictures]
    pieces = []
    for k, chunk in enumerate(prompt.split("<image>")):
        pieces.append(embed(torch.tensor([tokenizer.encode(chunk)], dtype=torch.long)))
        if k < len(images):
            pieces.append(images[k])
    x, out = torch.cat(pieces, 1), []
    while len(out) < limit:
        n = x.shape[1]
        mask = torch.ones(n, n, dtype=torch.bool).tril()
        token = int(model.logits(model.hidden(x, torch.arange(n), mask)[:, -1]).argmax())
        if token == tokenizer.end:
            break
        out.append(token)
        x = torch.cat((x, embed(torch.tensor([[token]]))), 1)
    return tokenizer.decode(out)
