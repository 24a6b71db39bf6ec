# SPDX-License-Identifier: Apache-2.0
"""dinov-infer against the official PyTorch code run in float64, on seeded weights.

    parity.py check BIN [ISA...]     stored outputs of the official code, small models (CI)
    parity.py dump                   makes those outputs; needs DINOV_UPSTREAM, a checkout of facebookresearch/dinov2
    parity.py shapes                 names and shapes of the eight hub models, as rows of tests/unit/params.c; needs DINOV_UPSTREAM
    parity.py table BIN [NAME...]    full-size models at full sizes, live; prints docs/numerics.md's table; needs DINOV_UPSTREAM

BIN is the folder of the programs. Limits: 5e-6 over an output, 1e-5 for its worst token, and twice the error of
the official code's own float32.
"""
import json
import os
import subprocess
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path

import numpy as np

import seeded

HERE = Path(__file__).parent
GOLDEN = HERE / "golden"
SEED = 1
KEPT_TOKENS = 24

# Small models and sizes (height, width in pixels): MLP and SwiGLU, with and without registers and LayerScale,
# other patches and grids; the last two are the hub's S and B cut to two blocks.
CASES = {
    "mlp": (dict(dim=64, depth=4, heads=1), [0, 3], [(14, 14), (98, 140), (224, 224), (1022, 14), (518, 518)]),
    "swiglu-reg": (dict(dim=128, depth=3, heads=2, registers=4, swiglu=True), [1, 2], [(14, 14), (98, 140), (224, 224), (602, 602)]),
    "patch16": (dict(dim=96, depth=2, heads=4, patch=16, grid=14, layerscale=False), [1], [(224, 224), (32, 160)]),
    "patch5-reg": (dict(dim=60, depth=2, heads=5, patch=5, grid=6, registers=1), [0, 1], [(35, 15), (30, 30)]),
    "s-short": (dict(dim=384, depth=2, heads=6), [1], [(98, 140), (546, 1092)]),
    "b-reg-short": (dict(dim=768, depth=2, heads=12, registers=4), [1], [(98, 140)]),
}

HUB = {
    "S": dict(dim=384, depth=12, heads=6),
    "B": dict(dim=768, depth=12, heads=12),
    "L": dict(dim=1024, depth=24, heads=16),
    "g": dict(dim=1536, depth=40, heads=24, swiglu=True),
}


def official(config):
    """The official model with seeded weights, float32."""
    sys.path.insert(0, os.environ["DINOV_UPSTREAM"])
    warnings.filterwarnings("ignore")
    import torch
    from dinov2.layers import MemEffAttention
    from dinov2.layers import NestedTensorBlock as Block
    from dinov2.models.vision_transformer import DinoVisionTransformer

    patch, registers = config.get("patch", 14), config.get("registers", 0)
    model = DinoVisionTransformer(
        img_size=config.get("grid", 37) * patch, patch_size=patch, embed_dim=config["dim"], depth=config["depth"],
        num_heads=config["heads"], mlp_ratio=4, init_values=1.0 if config.get("layerscale", True) else None,
        ffn_layer="swiglufused" if config.get("swiglu") else "mlp", block_chunks=0, num_register_tokens=registers,
        interpolate_antialias=registers > 0, interpolate_offset=0.0 if registers else 0.1,
        block_fn=partial(Block, attn_class=MemEffAttention))
    state = {k: torch.from_numpy(v) for k, v in seeded.state_dict(config, SEED).items()}
    model.load_state_dict(state, strict=True)
    return model.eval()


def official_tokens(model, pixels, layers):
    """[len(layers), tokens, dim] of one picture: cls, registers, patches, after the final norm."""
    import torch

    with torch.no_grad():
        x = torch.from_numpy(pixels).to(next(model.parameters()).dtype)
        outputs = model._get_intermediate_layers_not_chunked(x, layers)
        return torch.stack([model.norm(o)[0] for o in outputs]).double().numpy()


def make_model(bin_dir, config, path):
    flags = [f"--{key}={config[key]}" for key in ("dim", "depth", "heads", "patch", "grid", "registers") if key in config]
    flags += ["--swiglu"] * config.get("swiglu", False) + ["--no-layerscale"] * (not config.get("layerscale", True))
    subprocess.run([f"{bin_dir}/dinov-demo-model", "-f", "--no-proof", f"--seed={SEED}", "-o", path, *flags], check=True)


def our_tokens(bin_dir, model, config, pixels, layers, work, isa=None):
    """The same from dinov-infer."""
    np.save(f"{work}/input.npy", pixels)
    command = [f"{bin_dir}/dinov-infer", "-q", "-f", "-m", model, "-o", f"{work}/out", "--features", "cls,reg,patch" if
               config.get("registers") else "cls,patch", "--layers", ",".join(map(str, layers)), f"{work}/input.npy"]
    subprocess.run(command + (["--isa", isa] if isa else []), check=True)
    result = []
    for layer in layers:
        middle = "" if layer == config["depth"] - 1 else f".L{layer:02d}"
        load = lambda kind: np.load(f"{work}/out/part-000000{middle}.{kind}.npy").reshape(-1, config["dim"])
        result.append(np.concatenate([load(k) for k in (["cls", "reg", "patch"] if config.get("registers") else ["cls", "patch"])]))
    return np.stack(result).astype(np.float64)


def errors(have, want):
    """(over the output, of the worst token), relative."""
    d = np.linalg.norm(have - want, axis=-1)
    n = np.linalg.norm(want, axis=-1)
    return np.linalg.norm(d) / np.linalg.norm(n), (d / n).max()


def outputs_of(config, tokens):
    """Names and slices of the outputs, each held to the limits by itself."""
    registers = config.get("registers", 0)
    parts = {"cls": slice(0, 1), "patch": slice(1 + registers, tokens)}
    return parts | ({"reg": slice(1, 1 + registers)} if registers else {})


def kept(tokens):
    """Of a long output every CLS, register and some patch tokens are stored."""
    if tokens <= KEPT_TOKENS:
        return np.arange(tokens)
    return np.unique(np.r_[np.arange(8), np.linspace(8, tokens - 1, KEPT_TOKENS - 8).round().astype(int)])


def dump():
    import torch

    GOLDEN.mkdir(exist_ok=True)
    for name, (config, layers, sizes) in CASES.items():
        arrays = {}
        for height, width in sizes:
            pixels = seeded.pixels(1, height, width)
            want = official_tokens(official(config).double(), pixels, layers)
            own = official_tokens(official(config), pixels, layers)
            arrays[f"{height}x{width}"] = want[:, kept(want.shape[1])]
            arrays[f"{height}x{width}.own"] = np.array([
                [errors(own[i, s], want[i, s]) for s in outputs_of(config, want.shape[1]).values()] for i in range(len(layers))])
        np.savez_compressed(GOLDEN / f"{name}.npz", **arrays)
    meta = {"made_by": "tests/parity/parity.py dump", "torch": torch.__version__, "seed": SEED}
    (GOLDEN / "made.json").write_text(json.dumps(meta, indent=2) + "\n")


def judge(label, have, want, own):
    """own: the official float32's (over, worst)."""
    over, worst = errors(have, want)
    limit_over, limit_worst = min(5e-6, 2 * own[0]), min(1e-5, 2 * own[1])
    ok = over <= limit_over and worst <= limit_worst
    print(f"{'ok    ' if ok else 'FAILED'} {label}: {over:.2e} (limit {limit_over:.2e}), worst token {worst:.2e} (limit {limit_worst:.2e})")
    return ok


def check(bin_dir, *isas):
    bad = total = 0
    for name, (config, layers, sizes) in CASES.items():
        stored = np.load(GOLDEN / f"{name}.npz")
        with tempfile.TemporaryDirectory() as work:
            model = f"{work}/model.safetensors"
            make_model(bin_dir, config, model)
            for height, width in sizes:
                want, own = stored[f"{height}x{width}"], stored[f"{height}x{width}.own"]
                for isa in isas or [None]:
                    have = our_tokens(bin_dir, model, config, seeded.pixels(1, height, width), layers, work, isa)
                    tokens = have.shape[1]
                    rows = kept(tokens)
                    for i, layer in enumerate(layers):
                        for j, (part, where) in enumerate(outputs_of(config, tokens).items()):
                            inside = np.isin(rows, np.arange(tokens)[where])
                            label = f"{isa or 'default'} {name} {height}x{width} layer {layer} {part}"
                            total += 1
                            bad += not judge(label, have[i, rows[inside]], want[i, inside], own[i, j])
    print(f"{total} outputs checked, {bad} beyond their limits")
    return bad


def shapes():
    import hashlib

    for name, config in HUB.items():
        for registers in (0, 4):
            seeded.state_dict = lambda config, seed: {k: np.broadcast_to(np.float32(0), v) for k, v in seeded.shapes(**config).items()}
            state = official(dict(config, registers=registers)).state_dict()
            text = "".join(f"{k} {' '.join(map(str, v.shape))}\n" for k, v in state.items())
            print(f'{{"{name}", {config["dim"]}, {config["depth"]}, {config["heads"]}, {int(config.get("swiglu", False))}, {registers}, '
                  f'{len(state)}, {sum(v.numel() for v in state.values())},\n "{hashlib.sha256(text.encode()).hexdigest()}"}},')


def table(bin_dir, names):
    sizes = {"S": [(224, 224), (518, 518), (98, 140), (546, 1092), (14, 14), (1022, 14)]}
    print("| model | input (height x width) | layer | output | over output | worst token | official float32: over | worst |")
    print("|---|---|---|---|---|---|---|---|")
    for name in names or [f"{n}{r}" for n in HUB for r in ("", "+reg")]:
        config = dict(HUB[name[0]], registers=4 if name.endswith("+reg") else 0)
        layers = [config["depth"] // 2, config["depth"] - 1]
        with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as work:
            model = f"{work}/model.safetensors"
            make_model(bin_dir, config, model)
            ours, wants, owns = {}, {}, {}
            all_sizes = sizes.get(name[0], [s for s in sizes["S"] if s != (546, 1092)])
            for size in all_sizes:
                ours[size] = our_tokens(bin_dir, model, config, seeded.pixels(1, *size), layers, work)
            os.remove(model)
            net = official(config)
            for size in all_sizes:
                owns[size] = official_tokens(net, seeded.pixels(1, *size), layers)
            net = net.double()
            for size in all_sizes:
                wants[size] = official_tokens(net, seeded.pixels(1, *size), layers)
            del net
        for size in all_sizes:
            for i, layer in enumerate(layers):
                for part, where in outputs_of(config, wants[size].shape[1]).items():
                    want = wants[size][i, where]
                    over, worst = errors(ours[size][i, where], want)
                    own = errors(owns[size][i, where], want)
                    flag = "" if over <= min(5e-6, 2 * own[0]) and worst <= min(1e-5, 2 * own[1]) else " **beyond**"
                    print(f"| {name} | {size[0]} x {size[1]} | {layer} | {part} | {over:.2e} | {worst:.2e}{flag} | {own[0]:.2e} | {own[1]:.2e} |", flush=True)


if __name__ == "__main__":
    verb, arguments = sys.argv[1], sys.argv[2:]
    if verb != "check" and "DINOV_UPSTREAM" not in os.environ:
        sys.exit("set DINOV_UPSTREAM to a checkout of facebookresearch/dinov2 at the commit in tests/requirements.txt")
    sys.exit({"check": check, "dump": dump, "shapes": shapes, "table": lambda b, *n: table(b, n)}[verb](*arguments))
