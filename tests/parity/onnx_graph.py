# SPDX-License-Identifier: Apache-2.0
"""Graphs of dinov-convert in ONNX Runtime against the official PyTorch code run in float64, on seeded weights.

    onnx_graph.py check BIN             stored outputs of the official code (parity.py dump), small models (CI)
    onnx_graph.py older BIN             the same in the onnx and onnxruntime of the folder DINOV_OLDER (tests/requirements-2024.txt)
    onnx_graph.py table BIN [NAME...]   full-size models, live; prints docs/onnx.md's table; needs DINOV_UPSTREAM

BIN is the folder of the programs. Limits: 1e-5 over an output, 1e-4 for its worst token; for f16 and bf16 the cosine of the worst token.
"""
import os
import subprocess
import sys
import tempfile

import numpy as np

if sys.argv[1:2] == ["older"]:
    if "DINOV_OLDER" not in os.environ:
        print("skipped: DINOV_OLDER is not set")
        sys.exit(77)
    sys.path.insert(0, os.environ["DINOV_OLDER"])

try:
    import onnx
    import onnxruntime
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

import parity
import seeded

SIZES = [(14, 14), (28, 42), (56, 28), (98, 140), (140, 98), (224, 224), (224, 336), (518, 518), (518, 14), (14, 518), (546, 546), (602, 602),
         (546, 1092), (1022, 518)]
HALF = {"f16": 0.9999, "bf16": 0.999}


def convert(bin_dir, model, out, *flags):
    done = subprocess.run([f"{bin_dir}/dinov-convert", model, "-o", out, "-f", "-q", *flags], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"FAILED dinov-convert {' '.join(flags)}: exit {done.returncode}: {done.stderr}")


def check_form(path):
    """The checker's strictest, and shapes that can be inferred without a contradiction."""
    onnx.checker.check_model(path, full_check=True)
    onnx.shape_inference.infer_shapes_path(path, path + ".inferred", strict_mode=True, data_prop=True)
    os.remove(path + ".inferred")


class Session:
    def __init__(self, path):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 2
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.names = [o.name for o in self.session.get_outputs()]

    def run(self, pixels):
        return dict(zip(self.names, self.session.run(None, {self.session.get_inputs()[0].name: pixels})))


def tokens_of(outputs, layer, config):
    """[images, tokens, dim] of one layer: cls, registers, patches."""
    suffix = "" if layer == config["depth"] - 1 else f".L{layer:02d}"
    kinds = ["cls", "reg", "patch"] if config.get("registers") else ["cls", "patch"]
    parts = [outputs[kind + suffix] for kind in kinds]
    return np.concatenate([p[:, None] if p.ndim == 2 else p for p in parts], 1).astype(np.float64)


def worst_cosine(have, want):
    return (np.sum(have * want, -1) / np.linalg.norm(have, axis=-1) / np.linalg.norm(want, axis=-1)).min()


class Judge:
    def __init__(self):
        self.total = self.bad = 0
        self.over = self.worst = 0.0

    def __call__(self, label, have, want, half=None):
        over, worst = parity.errors(have, want)
        cosine = worst_cosine(have, want)
        ok = cosine >= HALF[half] if half else over <= 1e-5 and worst <= 1e-4
        self.total += 1
        self.bad += not ok
        if not half:
            self.over, self.worst = max(self.over, over), max(self.worst, worst)
        if not ok:
            print(f"FAILED {label}: over the output {over:.2e}, worst token {worst:.2e}, worst cosine {cosine:.7f}")


def check(bin_dir, older=False):
    judge = Judge()
    for name, (config, layers, sizes) in parity.CASES.items():
        stored = np.load(parity.GOLDEN / f"{name}.npz")
        with tempfile.TemporaryDirectory() as work:
            model = f"{work}/model.safetensors"
            parity.make_model(bin_dir, config, model)
            features = ["--features", "cls,reg,patch" if config.get("registers") else "cls,patch", "--layers", ",".join(map(str, layers))]

            def compare(session, label, size, batch=1, half=None):
                pixels = seeded.pixels(1, *size)
                if batch == 3:
                    pixels = np.concatenate([pixels, pixels[:, :, ::-1, ::-1], pixels])
                want, outputs = stored[f"{size[0]}x{size[1]}"], session.run(pixels)
                for i, layer in enumerate(layers):
                    have = tokens_of(outputs, layer, config)
                    tokens = have.shape[1]
                    rows = parity.kept(tokens)
                    for part, where in parity.outputs_of(config, tokens).items():
                        inside = np.isin(rows, np.arange(tokens)[where])
                        for image in {0, batch - 1}:
                            judge(f"{name} {label} {size[0]}x{size[1]} layer {layer} {part}", have[image, rows[inside]], want[i, inside], half)

            path = f"{work}/any.onnx"
            newest = "21" if older else "23"  # what that ONNX Runtime knows
            for flags in ([], ["--opset", "20"], ["--opset", newest, "--external-data"], ["--fuse", "ort"]):
                convert(bin_dir, model, path, "--dynamic-size", "--dynamic-batch", *features, *flags)
                check_form(path) if "--fuse" not in flags else None
                session = Session(path)
                for size in sizes:
                    compare(session, "any size " + " ".join(flags), size)
                compare(session, "any size " + " ".join(flags), sizes[0], 3)
            for size in sizes[:3]:
                for batch in (1, 3):
                    convert(bin_dir, model, path, "--size", f"{size[0]}x{size[1]}", "--batch", str(batch), *features)
                    check_form(path)
                    compare(Session(path), "one size", size, batch)
            for half in HALF:
                convert(bin_dir, model, path, "--dynamic-size", "--dtype", half, *features)
                check_form(path)
                if half == "f16":
                    compare(Session(path), half, sizes[0], half=half)
            named = f"{work}/hf.onnx"
            convert(bin_dir, model, named, "--size", "%dx%d" % sizes[0], "--names", "hf")
            check_form(named)
            hidden = Session(named).run(seeded.pixels(1, *sizes[0]))
            convert(bin_dir, model, path, "--size", "%dx%d" % sizes[0], *features[:2])
            plain = tokens_of(Session(path).run(seeded.pixels(1, *sizes[0])), config["depth"] - 1, config)
            if not (np.array_equal(hidden["last_hidden_state"], plain.astype(np.float32)) and np.array_equal(hidden["pooler_output"], plain[:, 0].astype(np.float32))):
                sys.exit(f"FAILED {name}: names hf give other values")
    print(f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}: {judge.total} outputs checked, {judge.bad} beyond their limits; f32: worst {judge.over:.1e} over an output, {judge.worst:.1e} for a token")
    return judge.bad


def preprocess(bin_dir):
    """uint8 pixels in give what torchvision's arithmetic (float32: / 255, - mean, / std) gives."""
    with tempfile.TemporaryDirectory() as work:
        parity.make_model(bin_dir, dict(dim=64, depth=1, heads=1), f"{work}/m.safetensors")
        pixels = np.random.default_rng(1).integers(0, 256, (2, 56, 70, 3), dtype=np.uint8)
        mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
        planes = ((pixels.astype(np.float32) / np.float32(255) - mean) / std).transpose(0, 3, 1, 2)
        outs = []
        for flags, x in ((["--with-preprocess"], pixels), ([], planes)):
            convert(bin_dir, f"{work}/m.safetensors", f"{work}/m.onnx", "--dynamic-size", "--dynamic-batch", *flags)
            check_form(f"{work}/m.onnx")
            outs.append(Session(f"{work}/m.onnx").run(np.ascontiguousarray(x)))
        for key in outs[0]:
            if not np.array_equal(outs[0][key], outs[1][key]):
                sys.exit(f"FAILED --with-preprocess: {key} is {np.abs(outs[0][key] - outs[1][key]).max()} away")
    print("ok --with-preprocess: the same bits")


def table(bin_dir, names):
    print("| model | graph | sizes | batch | over output | worst token |\n|---|---|---|---|---|---|")
    bad = 0
    for name in names or ["S", "S+reg", "B", "B+reg", "g/2", "g+reg/2"]:
        letter, short = name[0], name.endswith("/2")
        config = dict(parity.HUB[letter], registers=4 if "+reg" in name else 0) | ({"depth": 2} if short else {})
        with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as work:
            model = f"{work}/model.safetensors"
            parity.make_model(bin_dir, config, model)
            net = parity.official(config).double()
            layer = config["depth"] - 1
            features = ["--features", "cls,reg,patch" if config["registers"] else "cls,patch"]
            path = f"{work}/m.onnx"
            judges = {"any size": Judge(), "one size": Judge()}
            convert(bin_dir, model, path, "--dynamic-size", "--dynamic-batch", *features)
            check_form(path)
            any_size = Session(path)
            for size in SIZES:
                pixels = seeded.pixels(3, *size)
                wants = np.stack([parity.official_tokens(net, pixels[i:i + 1], [layer])[0] for i in range(3)])
                fixed = f"{work}/fixed.onnx"
                for batch in (1, 3):
                    convert(bin_dir, model, fixed, "--size", "%dx%d" % size, "--batch", str(batch), *features)
                    for label, session in (("any size", any_size), ("one size", Session(fixed))):
                        have = tokens_of(session.run(pixels[:batch]), layer, config)
                        for part, where in parity.outputs_of(config, have.shape[1]).items():
                            for i in range(batch):
                                judges[label](f"{name} {label} {size} {part}", have[i, where], wants[i, where])
            for label, judge in judges.items():
                bad += judge.bad
                print(f"| {name} | {label} | {len(SIZES)} | 1, 3 | {judge.over:.1e} | {judge.worst:.1e} |", flush=True)
    return bad


if __name__ == "__main__":
    verb, bin_dir, *names = sys.argv[1:]
    if verb == "table" and "DINOV_UPSTREAM" not in os.environ:
        sys.exit("set DINOV_UPSTREAM to a checkout of facebookresearch/dinov2 at the commit in tests/requirements.txt")
    sys.exit(table(bin_dir, names) if verb == "table" else preprocess(bin_dir) or check(bin_dir, verb == "older"))
