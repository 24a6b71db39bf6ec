# SPDX-License-Identifier: Apache-2.0
"""dinov-convert against the programs people use: files by torch.save come out bit-equal in the
safetensors package, load into the official model with strict=True, and go back to torch unchanged.

usage: convert_torch.py DINOV_CONVERT DINOV_CKPT formats|official
`official` needs the official repository's folder in DINOV_UPSTREAM.
"""
import json
import os
import subprocess
import sys
import tempfile
from collections import OrderedDict

try:
    import torch
    from safetensors.torch import load_file, save_file
except ImportError as missing:
    print("skipped: %s" % missing)
    sys.exit(77)

CONVERT, CKPT, PART = sys.argv[1:4]


def state_dict(dim=384, depth=2, registers=0, hidden=None, swiglu=False, layerscale=True, patch=14, grid=37, seed=1):
    rng = torch.Generator().manual_seed(seed)
    hidden = hidden or 4 * dim

    def r(*shape):
        return torch.randn(*shape, generator=rng) * 0.05

    out = OrderedDict(cls_token=r(1, 1, dim), pos_embed=r(1, 1 + grid * grid, dim))
    if registers:
        out["register_tokens"] = r(1, registers, dim)
    out["mask_token"] = r(1, dim)
    out["patch_embed.proj.weight"], out["patch_embed.proj.bias"] = r(dim, 3, patch, patch), r(dim)
    for i in range(depth):
        b = "blocks.%d." % i
        out[b + "norm1.weight"], out[b + "norm1.bias"] = 1 + r(dim), r(dim)
        out[b + "attn.qkv.weight"], out[b + "attn.qkv.bias"] = r(3 * dim, dim), r(3 * dim)
        out[b + "attn.proj.weight"], out[b + "attn.proj.bias"] = r(dim, dim), r(dim)
        if layerscale:
            out[b + "ls1.gamma"] = 1 + r(dim)
        out[b + "norm2.weight"], out[b + "norm2.bias"] = 1 + r(dim), r(dim)
        up, down = ("mlp.w12.", "mlp.w3.") if swiglu else ("mlp.fc1.", "mlp.fc2.")
        rows = 2 * hidden if swiglu else hidden
        out[b + up + "weight"], out[b + up + "bias"] = r(rows, dim), r(rows)
        out[b + down + "weight"], out[b + down + "bias"] = r(dim, hidden), r(dim)
        if layerscale:
            out[b + "ls2.gamma"] = 1 + r(dim)
    out["norm.weight"], out["norm.bias"] = 1 + r(dim), r(dim)
    return out


def run(*args):
    done = subprocess.run(args, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit("FAIL %s: exit %d: %s" % (" ".join(args), done.returncode, done.stderr))
    return done.stdout


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.contiguous().flatten().view(torch.uint8),
                                                                     b.contiguous().flatten().view(torch.uint8))


def expect(found, wanted, what):
    if set(found) != set(wanted):
        raise SystemExit("FAIL %s: names differ: %s" % (what, set(found) ^ set(wanted)))
    for name in wanted:
        if not same_bits(found[name], wanted[name]):
            raise SystemExit("FAIL %s: %s is not bit-equal" % (what, name))


def formats(folder):
    full = state_dict()
    awkward = OrderedDict(full)
    base = torch.randn(384 * 3, 384 * 2)
    awkward["blocks.0.attn.qkv.weight"] = base[:, ::2]
    awkward["blocks.1.attn.qkv.weight"] = base[:, 1::2]
    awkward["blocks.0.attn.proj.weight"] = awkward["blocks.0.attn.proj.weight"].t()
    awkward["norm.weight"] = torch.ones(1).expand(384)
    awkward["norm.bias"] = base[0, :384]
    awkward["blocks.0.mlp.fc1.weight"] = torch.as_strided(torch.randn(1536 * 400), (1536, 384), (1, 1536))
    special = state_dict(depth=1, seed=3)
    special["norm.bias"] = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45] * 96)
    module = torch.nn.Module()
    for name, value in state_dict(depth=1).items():
        parts, at = name.split("."), module
        for part in parts[:-1]:
            if not hasattr(at, part):
                at.add_module(part, torch.nn.Module())
            at = getattr(at, part)
        at.register_parameter(parts[-1], torch.nn.Parameter(value))
    cases = {
        "S-shaped": full,
        "all twelve blocks": state_dict(depth=12),
        "registers": state_dict(registers=4),
        "SwiGLU": state_dict(dim=128, swiglu=True, hidden=344),
        "no LayerScale": state_dict(layerscale=False),
        "patch 16": state_dict(patch=16, grid=14),
        "half": OrderedDict((k, v.half()) for k, v in full.items()),
        "bfloat16": OrderedDict((k, v.bfloat16()) for k, v in full.items()),
        "strided, transposed, expanded, shared": awkward,
        "plain dict": dict(full),
        "module.state_dict()": module.state_dict(),
        "parameters": OrderedDict((k, torch.nn.Parameter(v)) for k, v in full.items()),
        "not finite": special,
    }
    for what, state in cases.items():
        wanted = {k: v.detach() for k, v in state.items()}
        pth, st, ours, back, ours2 = (os.path.join(folder, x) for x in ("in.pth", "in.safetensors", "ours", "back", "ours2"))
        torch.save(state, pth)
        check = [] if what != "not finite" else ["--to", "safetensors"]
        run(CONVERT, pth, "-o", ours, "-f", *check)
        expect(load_file(ours), wanted, what + ", ours")
        torch.save(state, pth, _use_new_zipfile_serialization=False)
        run(CONVERT, pth, "-o", ours2, "-f", *check)
        expect(load_file(ours2), wanted, what + ", legacy")
        run(CONVERT, ours, "-o", back, "--to", "safetensors", "-f")
        expect(load_file(back), wanted, what + ", back")
        if not check:
            save_file({k: v.contiguous().clone() for k, v in wanted.items()}, st)
            run(CONVERT, st, "-o", ours2, "-f")
            ids = [json.loads(run(CKPT, "show", "--json", x))["content_id"] for x in (ours, ours2)]
            if ids[0] != ids[1]:
                raise SystemExit("FAIL %s: content id differs between .pth and .safetensors of the same weights" % what)
            run(CKPT, "verify", "--id", "--run", ours)
        run(CKPT, "diff", pth, back)
        print("ok", what)

    # Saved otherwise than by default.
    small = state_dict(dim=64, depth=1, grid=4)
    pth = os.path.join(folder, "in.pth")
    refused = {"protocol 4": (dict(pickle_protocol=4), "PKL-PROTO")}
    for what, (how, code) in refused.items():
        torch.save(small, pth, **how)
        done = subprocess.run([CONVERT, pth, "-o", os.path.join(folder, "no")], capture_output=True, text=True)
        if done.returncode != 2 or "[%s]" % code not in done.stderr:
            raise SystemExit("FAIL %s: expected %s, found %s" % (what, code, done.stderr))
        print("ok", what, "refused")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), pth)
    done = subprocess.run([CONVERT, pth, "-o", os.path.join(folder, "no")], capture_output=True, text=True)
    if done.returncode != 2 or "[PTH-TORCHSCRIPT]" not in done.stderr:
        raise SystemExit("FAIL TorchScript: %s" % done.stderr)
    print("ok TorchScript refused")


def prove(model, path):
    """The official model on the inputs of the file's golden vectors: largest relative difference."""
    with open(path, "rb") as f:
        header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
    worst = 0.0
    for case in json.loads(header["__metadata__"]["dinov"])["proof"]["cases"]:
        c, y, x = torch.arange(3)[:, None, None], torch.arange(case["height"])[:, None], torch.arange(case["width"])
        image = (((c * 31 + y * 17 + x * 7 + case["seed"] * 13) % 64 - 32) / 16).double()[None]
        with torch.no_grad():
            out = model.eval().forward_features(image)
        for found, name in ((out["x_norm_clstoken"][0], "cls"), (out["x_norm_patchtokens"][0, -1], "patch")):
            wanted = torch.tensor(case[name], dtype=torch.float64)
            worst = max(worst, ((found - wanted).norm() / found.norm()).item())
    return worst


def official(folder):
    upstream = os.environ.get("DINOV_UPSTREAM")
    if not upstream:
        print("skipped: DINOV_UPSTREAM is not set to the official repository's folder")
        sys.exit(77)
    sys.path.insert(0, upstream)
    os.environ["XFORMERS_DISABLED"] = "1"
    from dinov2.models import vision_transformer as vit

    # The real widths; depth is cut where the file would be large.
    for name, make, depth, ffn in (("vits14", vit.vit_small, 12, "mlp"), ("vitb14", vit.vit_base, 12, "mlp"),
                                   ("vitl14", vit.vit_large, 2, "mlp"), ("vitg14", vit.vit_giant2, 1, "swiglufused")):
        for registers in (0, 4):
            torch.manual_seed(7)
            full = make.__wrapped__ if hasattr(make, "__wrapped__") else make
            how = dict(img_size=518, patch_size=14, init_values=1.0, ffn_layer=ffn, block_chunks=0, num_register_tokens=registers,
                       interpolate_antialias=registers > 0, interpolate_offset=0.0 if registers else 0.1)
            if depth == 12:
                model = full(**how)
            else:
                numbers = {"vitl14": dict(embed_dim=1024, num_heads=16), "vitg14": dict(embed_dim=1536, num_heads=24)}[name]
                model = vit.DinoVisionTransformer(depth=depth, mlp_ratio=4, block_fn=vit.partial(vit.Block, attn_class=vit.MemEffAttention),
                                                  **numbers, **how)
            with torch.no_grad():
                for p in model.parameters():
                    p.copy_(torch.randn_like(p) * 0.05 + (1 if p.ndim == 1 else 0))
            state = OrderedDict((k, v.clone()) for k, v in model.state_dict().items())
            pth, ours = os.path.join(folder, "in.pth"), os.path.join(folder, "ours")
            torch.save(model.state_dict(), pth)
            run(CONVERT, pth, "-o", ours, "-f")
            with torch.no_grad():
                for p in model.parameters():
                    p.zero_()
            model.load_state_dict(load_file(ours), strict=True)
            expect(model.state_dict(), state, name)
            shown = json.loads(run(CKPT, "show", "--json", ours))
            found = shown["model"]
            if depth == 12 and found["name"] != "dinov2_" + name + ("_reg" if registers else ""):
                raise SystemExit("FAIL %s: recognised as %s" % (name, found["name"]))
            wanted = dict(dim=model.embed_dim, depth=depth, heads=model.num_heads, registers=registers, ffn="mlp" if ffn == "mlp" else "swiglu",
                          patch=14, grid=[37, 37])
            for key, value in wanted.items():
                if found[key] != value:
                    raise SystemExit("FAIL %s: %s: expected %s, found %s" % (name, key, value, found[key]))
            worst = prove(model.double(), ours)
            if not worst < 5e-6:
                raise SystemExit("FAIL %s: the golden vectors are %.2g away from the official model in float64" % (name, worst))
            print("ok %s, %d registers: strict=True, golden vectors %.1e from the official model" % (name, registers, worst))
    training(folder, vit)


def training(folder, vit):
    """The official training's own modules: chunked blocks, heads, losses, student and teacher; the backbone alone comes out."""
    from dinov2.layers import DINOHead

    def parts(seed, chunks):
        torch.manual_seed(seed)
        made = {"backbone": vit.vit_small(img_size=56, patch_size=14, init_values=1e-5, block_chunks=chunks, ffn_layer="swiglufused"),
                "dino_head": DINOHead(384, 32, hidden_dim=16, bottleneck_dim=8), "ibot_head": DINOHead(384, 32, hidden_dim=16, bottleneck_dim=8)}
        return OrderedDict(("%s.%s" % (part, k), v) for part, module in made.items() for k, v in module.state_dict().items())

    wanted = OrderedDict((k[9:], v) for k, v in parts(1, 0).items() if k.startswith("backbone."))
    teacher, student = parts(1, 4), parts(2, 4)
    if not any(k.startswith("backbone.blocks.3.9.") for k in teacher):
        raise SystemExit("FAIL training: expected the official code to number blocks in chunks")
    whole = OrderedDict(("student." + k, v) for k, v in student.items()) | OrderedDict(("teacher." + k, v) for k, v in teacher.items())
    whole["dino_loss.center"], whole["ibot_patch_loss.center"] = torch.zeros(1, 32), torch.zeros(1, 1, 32)
    pth, plain = os.path.join(folder, "in.pth"), os.path.join(folder, "plain")
    for what, state in {"teacher": OrderedDict(("teacher." + k, v) for k, v in teacher.items()), "student and teacher": whole}.items():
        torch.save(state, pth)
        run(CONVERT, pth, "-o", plain, "--to", "safetensors", "-f")
        expect(load_file(plain), wanted, what)
        print("ok the official training's", what)


with tempfile.TemporaryDirectory() as folder:
    {"formats": formats, "official": official}[PART](folder)
