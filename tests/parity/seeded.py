# SPDX-License-Identifier: Apache-2.0
"""Seeded weights under hub names: the formula of model/seeded.h, in numpy; both give the same bits."""
import numpy as np

MASK = (1 << 64) - 1


def fnv1a64(text):
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = ((h ^ byte) * 0x100000001B3) & MASK
    return h


def uniform(name, seed, count):
    """float32 [count] in [-1, 1)."""
    base = fnv1a64(name) ^ (seed * 0xD1342543DE82EF95 & MASK)
    with np.errstate(over="ignore"):
        z = np.uint64(base) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)


def tensor(name, shape, seed):
    centre = 0.0
    if "norm" in name and name.endswith(".weight"):
        centre, spread = 1.0, 0.3
    elif name.endswith(".gamma"):
        centre, spread = 0.3, 0.2
    elif name.endswith(".bias"):
        spread = 0.2
    elif name.endswith(("_token", "_tokens", "pos_embed")):
        spread = 0.5
    else:
        spread = np.sqrt(3.0 / np.prod(shape[1:]))
    u = uniform(name, seed, int(np.prod(shape)))
    return (np.float32(centre) + np.float32(spread) * u).reshape(shape)


def shapes(dim, depth, hidden=0, registers=0, swiglu=False, patch=14, grid=37, layerscale=True, **_):
    """Names and shapes in state_dict order."""
    hidden = hidden or (4 * dim * 2 // 3 + 7) // 8 * 8 if swiglu else hidden or 4 * dim
    out = {"cls_token": (1, 1, dim), "pos_embed": (1, 1 + grid * grid, dim)}
    if registers:
        out["register_tokens"] = (1, registers, dim)
    out |= {"mask_token": (1, dim), "patch_embed.proj.weight": (dim, 3, patch, patch), "patch_embed.proj.bias": (dim,)}
    up, down, wide = ("w12", "w3", 2 * hidden) if swiglu else ("fc1", "fc2", hidden)
    for i in range(depth):
        block = {
            "norm1.weight": (dim,), "norm1.bias": (dim,),
            "attn.qkv.weight": (3 * dim, dim), "attn.qkv.bias": (3 * dim,),
            "attn.proj.weight": (dim, dim), "attn.proj.bias": (dim,),
            "ls1.gamma": (dim,), "norm2.weight": (dim,), "norm2.bias": (dim,),
            f"mlp.{up}.weight": (wide, dim), f"mlp.{up}.bias": (wide,),
            f"mlp.{down}.weight": (dim, hidden), f"mlp.{down}.bias": (dim,), "ls2.gamma": (dim,),
        }
        out |= {f"blocks.{i}.{k}": v for k, v in block.items() if layerscale or not k.startswith("ls")}
    return out | {"norm.weight": (dim,), "norm.bias": (dim,)}


def state_dict(config, seed):
    return {name: tensor(name, shape, seed) for name, shape in shapes(**config).items()}


def pixels(images, height, width):
    """float32 [images, 3, height, width]: normalised pictures, smooth and noisy parts."""
    noise = uniform("pixels", 7, images * 3 * height * width).reshape(images, 3, height, width)
    y = np.arange(height, dtype=np.float32)[:, None] / np.float32(37)
    x = np.arange(width, dtype=np.float32)[None, :] / np.float32(53)
    return (noise + (y % 1 + x % 1 - 1)[None, None]).astype(np.float32)
