# SPDX-License-Identifier: Apache-2.0
"""dinov-convert against transformers and timm: random weights made by their own classes, read and computed with,
and our files opened by their own loaders. Features agree to 1e-5 at the trained size and at others.

usage: convert_hub.py DINOV_CONVERT DINOV_CKPT DINOV_INFER DINOV_DEMO_MODEL hf|timm
DINOV_OLDER, when set, is a folder with transformers 4.46, timm 1.0.11 and what they need (tests/requirements-2024.txt), which open our
files too.
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "train"))
OLD = "--old" in sys.argv  # this script again, in the older libraries
import vision  # noqa: E402,F401  exits 77 without torch

if not OLD:
    CONVERT, CKPT, INFER, DEMO, PART = sys.argv[1:6]

import numpy as np  # noqa: E402
import torch  # noqa: E402

try:
    import transformers
    if not OLD:
        import timm
        from safetensors.torch import load_file, save_file
except ImportError as missing:
    print("skipped: %s" % missing)
    sys.exit(77)

LIMIT = 1e-5  # relative, over all of a feature
worst = {}


def run(*args):
    done = subprocess.run(args, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit("FAIL %s: exit %d: %s" % (" ".join(args), done.returncode, done.stderr))
    return done.stdout


def pictures(height, width):
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(height * 1000 + width))


def randomise(model, seed=7):
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn(p.shape, generator=rng) * 0.05 + (1 if p.ndim == 1 and not name.endswith("bias") else 0))
    return model.eval()


def ours(folder, model, size):
    """[1 + registers + patches, dim]"""
    np.save(os.path.join(folder, "x.npy"), pictures(*size).numpy())
    out = os.path.join(folder, "features")
    shutil.rmtree(out, ignore_errors=True)
    registers = json.loads(run(CKPT, "show", "--json", model))["model"]["registers"]
    kinds = ["cls"] + ["reg"] * (registers > 0) + ["patch"]
    run(INFER, "-m", model, "-o", out, "--features", ",".join(kinds), os.path.join(folder, "x.npy"))
    parts = [np.load(os.path.join(out, "part-000000.%s.npy" % kind)) for kind in kinds]
    return np.concatenate([p.reshape(-1, p.shape[-1]) for p in parts])


def expect(found, wanted, what):
    wanted = wanted.detach().numpy().reshape(-1, wanted.shape[-1]).astype(np.float64)
    if found.shape != wanted.shape:
        raise SystemExit("FAIL %s: shape %s, expected %s" % (what, found.shape, wanted.shape))
    error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
    worst[what.split(",")[0]] = max(error, worst.get(what.split(",")[0], 0))
    if not error < LIMIT:
        raise SystemExit("FAIL %s: %.2g away" % (what, error))


def tokens_hf(model, size):
    with torch.no_grad():
        return model(pixel_values=pictures(*size)).last_hidden_state[0]


def content_id(path):
    return run(CONVERT, path, "--dry-run").split()[-1]


# ---- transformers ----

SIZES = [(518, 518), (224, 224), (70, 322), (602, 546)]
KINDS = [("S", {}), ("S", {"registers": 4}), ("g", {}), ("g", {"registers": 4})]
NUMBERS = {"S": dict(hidden_size=384, num_hidden_layers=12, num_attention_heads=6),
           "g": dict(hidden_size=1536, num_hidden_layers=1, num_attention_heads=24, use_swiglu_ffn=True)}


def make_hf(kind, registers=0, classifier=False):
    import transformers as t
    config = t.Dinov2WithRegistersConfig if registers else t.Dinov2Config
    base = "Dinov2WithRegisters" if registers else "Dinov2"
    numbers = NUMBERS[kind] | ({"num_register_tokens": registers} if registers else {})
    made = config(image_size=518, patch_size=14, mlp_ratio=4, **numbers)
    return randomise(getattr(t, base + ("ForImageClassification" if classifier else "Model"))(made))


def hf(folder):
    path = os.path.join
    for kind, numbers in KINDS:
        name = kind + (" with registers" if numbers else "")
        sizes = SIZES if kind == "S" else SIZES[1:3]
        model = make_hf(kind, **numbers)
        theirs, dinov, back, plain = path(folder, "theirs"), path(folder, "dinov"), path(folder, "back"), path(folder, "plain")
        for f in (theirs, back):
            shutil.rmtree(f, ignore_errors=True)
        model.save_pretrained(theirs)

        # In: the folder, and the names of 5.x as they are in memory.
        run(CONVERT, theirs, "-o", dinov, "-f", "--compat", "hf")
        torch.save(model.state_dict(), path(folder, "memory.pth"))
        if content_id(path(folder, "memory.pth")) != content_id(dinov):
            raise SystemExit("FAIL %s: the names in memory give other weights than those in the file" % name)
        for size in sizes:
            expect(ours(folder, dinov, size), tokens_hf(model, size), "hf in %s, %dx%d" % ((name,) + size))

        # Out: opened by their own loader, nothing missing and nothing unexpected, bit for bit.
        run(CONVERT, dinov, "-o", back, "--to", "hf", *(["--shard-size", "20M"] if kind == "S" else []))
        again, info = transformers.AutoModel.from_pretrained(back, output_loading_info=True)
        if any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")):
            raise SystemExit("FAIL %s: transformers says %s" % (name, info))
        for key, value in model.state_dict().items():
            if not torch.equal(value, again.state_dict()[key]):
                raise SystemExit("FAIL %s: %s is not bit-equal after --to hf" % (name, key))
        for key in ("hidden_size", "num_attention_heads", "num_hidden_layers", "mlp_ratio", "image_size", "patch_size", "layer_norm_eps", "model_type",
                    "use_swiglu_ffn", "qkv_bias", "hidden_act", "num_channels"):
            if getattr(again.config, key) != getattr(model.config, key):
                raise SystemExit("FAIL %s: config %s is %s" % (name, key, getattr(again.config, key)))
        for size in sizes[:2]:
            expect(ours(folder, dinov, size), tokens_hf(again.eval(), size), "hf out %s, %dx%d" % ((name,) + size))
        run(CONVERT, dinov, "-o", plain, "--to", "safetensors", "-f")
        if len({content_id(x) for x in (theirs, dinov, back, plain)}) != 1:
            raise SystemExit("FAIL %s: content ids differ" % name)
        check_processor(folder, back, name)
        if os.environ.get("DINOV_OLDER") and not numbers:  # 4.46 has no class with registers
            in_older(folder, dinov, back, "hf out " + name)
        print("ok", name)

    classifier = make_hf("S", classifier=True)
    theirs = path(folder, "classifier")
    classifier.save_pretrained(theirs)
    run(CONVERT, theirs, "-o", path(folder, "dinov"), "-f", "--compat", "hf")
    expect(ours(folder, path(folder, "dinov"), (224, 224)), tokens_hf(classifier.dinov2, (224, 224)), "hf classifier")
    print("ok a classifier's backbone")


def check_processor(folder, model, name):
    """Their image processor, from our file, does to a picture what our preset does."""
    from PIL import Image
    rng = np.random.default_rng(3)
    # Resized to 374 x 256: an odd margin is halved to the other side by torchvision, which evaluation goes by.
    picture = Image.fromarray(rng.integers(0, 256, (31, 45, 3), dtype=np.uint8)).resize((454, 310), Image.Resampling.BICUBIC)
    picture.save(os.path.join(folder, "picture.png"))
    out = os.path.join(folder, "input")
    shutil.rmtree(out, ignore_errors=True)
    run(INFER, "-m", model, "-o", out, "--dump-input", os.path.join(folder, "picture.png"))
    found = np.load(os.path.join(out, "part-000000.input.npy"))
    # On Pillow it is ours to the bit; the one on torch resizes with roundings of its own.
    for backend, limit in (("pil", 0), ("torchvision", 2.01 / 255 / 0.224)):
        processor = transformers.AutoImageProcessor.from_pretrained(model, backend=backend)
        theirs = np.asarray(processor(images=picture, return_tensors="np")["pixel_values"])
        error = np.abs(found - theirs).max() if found.shape == theirs.shape else np.inf
        worst["processor on " + backend] = max(worst.get("processor on " + backend, 0), error)
        if not error <= limit:
            raise SystemExit("FAIL %s: the image processor on %s is %.3g away" % (name, backend, error))


def in_older(folder, dinov, written, what, *make):
    """The features of the older library on what was written for it, beside ours."""
    env = dict(os.environ, PYTHONPATH=os.environ["DINOV_OLDER"])
    outputs = os.path.join(folder, "old.npy")
    done = subprocess.run([sys.executable, os.path.abspath(__file__), "--old", written, outputs, *make], env=env, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit("FAIL %s in the older library: %s%s" % (what, done.stdout, done.stderr))
    expect(ours(folder, dinov, (224, 224)), torch.from_numpy(np.load(outputs)), "%s in %s" % (what, done.stdout.strip()))


def old(written, outputs, make=None):
    """In the older libraries: opens a folder, or for timm a file of the model `make`, and writes its features."""
    if make:
        import timm

        features = tokens_timm(timm.create_model(make, num_classes=0, dynamic_img_size=True, checkpoint_path=written).eval(), (224, 224))
        print("timm", timm.__version__)
    else:
        model = transformers.AutoModel.from_pretrained(written)
        transformers.AutoImageProcessor.from_pretrained(written)
        features = tokens_hf(model.eval(), (224, 224))
        print("transformers", transformers.__version__)
    np.save(outputs, features.numpy())


# ---- timm ----

def tokens_timm(model, size):
    with torch.no_grad():
        return model.forward_features(pictures(*size))[0]


def timm_part(folder):
    path = os.path.join
    for kind, make, how in (("S", "vit_small_patch14_dinov2", {}), ("S with registers", "vit_small_patch14_reg4_dinov2", {}),
                            ("g", "vit_giant_patch14_dinov2", {"depth": 1}), ("g with registers", "vit_giant_patch14_reg4_dinov2", {"depth": 1})):
        sizes = SIZES if kind[0] == "S" else SIZES[1:3]
        model = randomise(timm.create_model(make, num_classes=0, dynamic_img_size=True, **how))
        theirs, dinov, back, twice = (path(folder, x) for x in ("theirs.safetensors", "dinov", "back.safetensors", "twice"))
        save_file(model.state_dict(), theirs)
        run(CONVERT, theirs, "-o", dinov, "-f", "--compat", "timm")
        for size in sizes:
            expect(ours(folder, dinov, size), tokens_timm(model, size), "timm in %s, %dx%d" % ((kind,) + size))
        run(CONVERT, dinov, "-o", back, "--to", "timm", "-f")
        state = load_file(back)
        for key, value in model.state_dict().items():
            if not torch.equal(state.pop(key), value):
                raise SystemExit("FAIL %s: %s is not bit-equal after --to timm" % (kind, key))
        if state:
            raise SystemExit("FAIL %s: left over: %s" % (kind, list(state)))
        run(CONVERT, back, "-o", twice, "-f")
        if content_id(dinov) != content_id(twice):
            raise SystemExit("FAIL %s: the content id changes on the way" % kind)

        # A hub's model, which has more than timm keeps: the same function, by timm's own loader.
        shape = ["--dim", "384"] if kind[0] == "S" else ["--dim", "1536", "--depth", "1", "--swiglu"]
        run(DEMO, "-o", path(folder, "demo"), "-f", *shape, *(["--registers", "4"] if "reg" in kind else []))
        run(CONVERT, path(folder, "demo"), "--compat", "timm", "-o", dinov, "-f")
        run(CONVERT, dinov, "-o", back, "--to", "timm", "-f")
        opened = timm.create_model(make, num_classes=0, dynamic_img_size=True, checkpoint_path=back, **how).eval()
        for size in sizes[:3]:
            expect(ours(folder, dinov, size), tokens_timm(opened, size), "timm out %s, %dx%d" % ((kind,) + size))
        if os.environ.get("DINOV_OLDER") and kind[0] == "S":
            in_older(folder, dinov, back, "timm out " + kind, make)
        run(CONVERT, back, "--compat", "timm", "-o", twice, "-f")
        a, b = ours(folder, dinov, (224, 224)), ours(folder, twice, (224, 224))
        if not np.linalg.norm(a - b) / np.linalg.norm(a) < 1e-6:
            raise SystemExit("FAIL %s: timm and back is another function" % kind)
        print("ok", kind)


if OLD:
    old(*sys.argv[2:])
else:
    with tempfile.TemporaryDirectory() as where:
        {"hf": hf, "timm": timm_part}[PART](where)
    for case, error in worst.items():
        print("%-40s %.1e" % (case, error))
