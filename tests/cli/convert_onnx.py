# SPDX-License-Identifier: Apache-2.0
"""dinov-convert against the programs that write ONNX: graphs that PyTorch's two exporters make of the official model and
of transformers' come back bit for bit, and dinov-infer gives what onnxruntime gives when it runs the graph itself.

usage: convert_onnx.py DINOV_CONVERT DINOV_INFER [make FOLDER]
The official model needs its repository's folder in DINOV_UPSTREAM; without, its part is left out. `make` writes the small
files of convert_onnx_small.py.
"""
import contextlib
import hashlib
import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "train"))
try:
    import numpy as np
    from vision import torch  # before whatever imports torchvision
    import onnx
    import onnxruntime
    from onnxruntime.transformers import float16, optimizer
    from safetensors.numpy import load_file
    from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel
except ImportError as missing:
    print("skipped: %s" % missing)
    sys.exit(77)

import onnxfiles  # noqa: E402
import weightfiles  # noqa: E402

CONVERT, INFER = sys.argv[1:3]
UPSTREAM = os.environ.get("DINOV_UPSTREAM")
LIMIT = 1e-5
warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
onnxruntime.set_default_logger_severity(3)
if UPSTREAM:
    sys.path.insert(0, UPSTREAM)
    os.environ["XFORMERS_DISABLED"] = "1"
    from dinov2.models import vision_transformer as official_code


# ---- Models: seeded, every value another one (exporters merge equal tensors) ----

def seeded(model, seed=1):
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=rng) * 0.15 + (0.5 if p.ndim == 1 else 0))
    return model.eval()


class Official(torch.nn.Module):
    """Outputs [B, 1 + P, D]: class and patch tokens after the final norm."""

    def __init__(self, dim=32, depth=2, heads=4, grid=4, patch=4, ffn="mlp", registers=0, init_values=1.0):
        super().__init__()
        self.model = seeded(official_code.DinoVisionTransformer(
            img_size=grid * patch, patch_size=patch, embed_dim=dim, depth=depth, num_heads=heads, mlp_ratio=4, ffn_layer=ffn, block_chunks=0,
            num_register_tokens=registers, init_values=init_values, interpolate_antialias=registers > 0,
            interpolate_offset=0.0 if registers else 0.1,
            block_fn=official_code.partial(official_code.Block, attn_class=official_code.MemEffAttention)))
        self.skip, self.side = 0, grid * patch

    def forward(self, pixels):
        out = self.model.forward_features(pixels)
        return torch.cat((out["x_norm_clstoken"][:, None], out["x_norm_patchtokens"]), 1)

    def state(self):
        return dict(self.model.state_dict())


class HuggingFace(torch.nn.Module):
    """Outputs last_hidden_state."""

    def __init__(self, dim=32, depth=2, heads=4, grid=4, patch=4, registers=0, swiglu=False, attention="eager"):
        super().__init__()
        how = dict(hidden_size=dim, num_hidden_layers=depth, num_attention_heads=heads, image_size=grid * patch, patch_size=patch,
                   use_swiglu_ffn=swiglu, attn_implementation=attention)
        self.model = seeded(Dinov2WithRegistersModel(Dinov2WithRegistersConfig(num_register_tokens=registers, **how)) if registers
                            else Dinov2Model(Dinov2Config(**how)))
        self.skip, self.side, self.depth, self.swiglu = registers, grid * patch, depth, swiglu

    def forward(self, pixels):
        return self.model(pixel_values=pixels).last_hidden_state

    def state(self):
        """Under the hub's names."""
        s = dict(self.model.state_dict())

        def get(*names):
            return next(s[n] for n in names if n in s)

        e = "embeddings."
        out = {"cls_token": s[e + "cls_token"], "pos_embed": s[e + "position_embeddings"], "mask_token": s[e + "mask_token"],
               "patch_embed.proj.weight": s[e + "patch_embeddings.projection.weight"],
               "patch_embed.proj.bias": s[e + "patch_embeddings.projection.bias"],
               "norm.weight": s["layernorm.weight"], "norm.bias": s["layernorm.bias"]}
        if e + "register_tokens" in s:
            out["register_tokens"] = s[e + "register_tokens"]
        for i in range(self.depth):
            b, h = "blocks.%d." % i, "encoder.layer.%d." % i
            for kind in ("weight", "bias"):
                for n in ("norm1.", "norm2."):
                    out[b + n + kind] = s[h + n + kind]
                out[b + "attn.qkv." + kind] = torch.cat([get(h + "attention.%s_proj." % n[0] + kind, h + "attention.attention." + n + "." + kind)
                                                         for n in ("query", "key", "value")])
                out[b + "attn.proj." + kind] = get(h + "attention.o_proj." + kind, h + "attention.output.dense." + kind)
                if self.swiglu:
                    out[b + "mlp.w12." + kind] = torch.cat([s[h + "mlp.gate_proj." + kind], s[h + "mlp.up_proj." + kind]])
                    out[b + "mlp.w3." + kind] = s[h + "mlp.down_proj." + kind]
                else:
                    out[b + "mlp.fc1." + kind], out[b + "mlp.fc2." + kind] = s[h + "mlp.fc1." + kind], s[h + "mlp.fc2." + kind]
            out[b + "ls1.gamma"], out[b + "ls2.gamma"] = s[h + "layer_scale1.lambda1"], s[h + "layer_scale2.lambda1"]
        return out


# ---- Exporters ----

def export(model, path, pixels, **how):
    """Exporters print what they do; a failure shows it."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            torch.onnx.export(model, (pixels,), path, **how)
    except Exception:
        print(said.getvalue()[-2000:])
        raise


def script(model, path, pixels, opset=17, dynamic=(), **how):
    axes = {"pixels": {i: n for i, n in enumerate(("batch", None, "height", "width")) if n in dynamic}} if dynamic else None
    export(model, path, pixels, dynamo=False, opset_version=opset, input_names=["pixels"], output_names=["tokens"], dynamic_axes=axes, **how)


def dynamo(model, path, pixels, **how):
    export(model, path, pixels, dynamo=True, verbose=False, **how)


def optimised(source, path, level=None):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level or onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = path
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


# ---- Judging ----

def convert(path, out, *more):
    done = subprocess.run([CONVERT, path, "-o", out, "-f", "-q", *more], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit("FAIL %s: %s" % (path, done.stderr))


def expect_weights(path, out, state, what):
    convert(path, out)
    found = load_bits(out)
    if set(found) != set(state):
        raise SystemExit("FAIL %s: names differ: %s" % (what, sorted(set(found) ^ set(state))))
    for name, tensor in state.items():
        wanted = (tuple(tensor.shape), bits(tensor if name != "mask_token" else torch.zeros_like(tensor)))
        if found[name] != wanted:
            raise SystemExit("FAIL %s: %s is not bit-equal" % (what, name))


def bits(tensor):
    return tensor.detach().contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def load_bits(path):
    return {name: (shape, raw) for name, (dtype, shape, raw) in weightfiles.read_safetensors(path)[0].items()}


def features(checkpoint, pixels, folder):
    """Class and patch tokens of dinov-infer, [B, 1 + P, D]."""
    np.save(os.path.join(folder, "pixels.npy"), pixels)
    out = os.path.join(folder, "features")
    done = subprocess.run([INFER, "-m", checkpoint, "-o", out, "-f", "-q", "--features", "cls,patch", os.path.join(folder, "pixels.npy")],
                          capture_output=True, text=True)
    if done.returncode:
        raise SystemExit("FAIL %s" % done.stderr)
    cls, patch = (np.load(os.path.join(out, "part-000000.%s.npy" % n)) for n in ("cls", "patch"))
    return np.concatenate((cls[:, None], patch.reshape(len(cls), -1, cls.shape[-1])), 1)


def expect_outputs(path, checkpoint, pixels, skip, folder, what):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    wanted = session.run(None, {session.get_inputs()[0].name: pixels})[0]
    wanted = np.concatenate((wanted[:, :1], wanted[:, 1 + skip:]), 1)
    found = features(checkpoint, pixels, folder)
    if found.shape != wanted.shape:
        raise SystemExit("FAIL %s: %s tokens, onnxruntime has %s" % (what, found.shape, wanted.shape))
    off = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
    if not off <= LIMIT:
        raise SystemExit("FAIL %s: %.2g away from onnxruntime's own run" % (what, off))
    return off


def judge(what, path, model, pixels, folder):
    out = os.path.join(folder, "out.safetensors")
    expect_weights(path, out, model.state(), what)
    print("ok %s: %.1e from onnxruntime" % (what, expect_outputs(path, out, pixels, model.skip, folder, what)))


def pixels_of(model, batch=1, side=None, wide=None):
    rng = torch.Generator().manual_seed(9)
    return torch.randn(batch, 3, side or model.side, wide or side or model.side, generator=rng)


def exports(make, kinds, folder, name):
    """Every way in `kinds` to export what `make` gives."""
    model = make()
    same, other = pixels_of(model), pixels_of(model, side=model.side + 8, wide=model.side + 12)
    for kind in kinds:
        path = os.path.join(folder, "graph.onnx")
        for left in os.listdir(folder):
            if left.startswith("graph"):
                os.remove(os.path.join(folder, left))
        what, pixels = "%s, %s" % (name, kind), same
        if kind.startswith("script"):
            opset = int(re.search(r"\d+", kind).group())
            dynamic = ("batch", "height", "width") if "any size" in kind else ("batch",) if "any batch" in kind else ()
            pixels = other if "any size" in kind else same
            script(model, path, pixels, opset, dynamic, do_constant_folding="unfolded" not in kind)
        elif kind == "dynamo":
            dynamo(model, path, same)
        elif kind == "dynamo, unoptimised":
            dynamo(model, path, same, optimize=False)
        elif kind == "dynamo, one file":
            dynamo(model, path, same, external_data=False)
        elif kind == "dynamo, opset 23":
            dynamo(model, path, same, opset_version=23)
        elif kind == "dynamo, any batch":
            dynamo(model, path, torch.cat((same, same)), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=16)},))
        elif kind == "dynamo, any size":
            sides = {2: 4 * torch.export.Dim("rows"), 3: 4 * torch.export.Dim("columns")}
            dynamo(model, path, other, dynamic_shapes=(sides,))
            pixels = other
        judge(what, path, model, pixels.numpy(), folder)
        if kind in ("script 17", "script 16", "script 17, any batch", "dynamo"):
            better = os.path.join(folder, "better.onnx")
            optimised(path, better)
            judge(what + ", optimised by onnxruntime", better, model, pixels.numpy(), folder)


def transformers_part(folder):
    sizes = ["script 13", "script 17", "script 17, any batch", "script 17, any size", "script 17, any size, unfolded", "script 20", "dynamo",
             "dynamo, unoptimised", "dynamo, any size"]
    exports(HuggingFace, sizes, folder, "transformers")
    exports(lambda: HuggingFace(attention="sdpa"), ["script 17", "dynamo", "dynamo, opset 23"], folder, "transformers with SDPA")
    exports(lambda: HuggingFace(registers=3), ["dynamo", "dynamo, any batch"], folder, "transformers with registers")
    exports(lambda: HuggingFace(swiglu=True), ["script 17", "dynamo"], folder, "transformers with SwiGLU")
    exports(lambda: HuggingFace(swiglu=True, registers=2), ["dynamo"], folder, "transformers with SwiGLU and registers")


def official_part(folder):
    kinds = ["script 16", "script 17", "script 17, unfolded", "script 17, any batch", "script 17, any size", "script 17, any size, unfolded",
             "script 20", "dynamo", "dynamo, unoptimised", "dynamo, one file", "dynamo, opset 23", "dynamo, any batch"]
    exports(Official, kinds, folder, "official")
    exports(lambda: Official(registers=4), ["script 17", "script 17, any batch", "dynamo"], folder, "official with registers")
    exports(lambda: Official(ffn="swiglufused"), ["script 16", "script 17", "dynamo"], folder, "official with SwiGLU")
    exports(lambda: Official(init_values=None), ["script 17", "dynamo"], folder, "official without LayerScale")
    exports(lambda: Official(dim=384, heads=6, grid=37, patch=14), ["script 17"], folder, "official, S-shaped")


def half_part(folder):
    """Half precision: weights as they are stored."""
    path, out = os.path.join(folder, "graph.onnx"), os.path.join(folder, "out.safetensors")
    model = HuggingFace()
    script(model, path, pixels_of(model))
    halved = float16.convert_float_to_float16(onnx.load(path), keep_io_types=True)
    onnx.save(halved, path)
    state = {k: v.half() for k, v in model.state().items()}
    expect_weights(path, out, state, "converted to half")
    print("ok converted to half: bit-equal")
    state = model.half().state()
    script(model, path, pixels_of(model).half())
    expect_weights(path, out, state, "exported in half")
    print("ok exported in half: bit-equal")


def storage_part(folder):
    """The same graph, its values stored otherwise."""
    path, out = os.path.join(folder, "graph.onnx"), os.path.join(folder, "out.safetensors")
    model = HuggingFace()
    script(model, path, pixels_of(model))
    for what, how in {"one file beside it": dict(all_tensors_to_one_file=True, location="graph.data", size_threshold=0),
                      "a file for each tensor": dict(all_tensors_to_one_file=False, size_threshold=1024)}.items():
        within = os.path.join(folder, "beside")
        os.makedirs(within)
        moved = os.path.join(within, "graph.onnx")
        onnx.save_model(onnx.load(path), moved, save_as_external_data=True, **how)
        expect_weights(moved, out, model.state(), what)
        print("ok external data, %s: bit-equal" % what)
        shutil.rmtree(within)
    graph = onnx.load(path)
    for t in graph.graph.initializer:
        if t.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(t).flatten().tolist()
            t.ClearField("raw_data")
            t.float_data.extend(values)
    onnx.save(graph, path)
    expect_weights(path, out, model.state(), "typed fields")
    print("ok typed fields: bit-equal")
    halved = float16.convert_float_to_float16(onnx.load(path))
    for t in halved.graph.initializer:
        if t.data_type == onnx.TensorProto.FLOAT16:
            values = onnx.numpy_helper.to_array(t).view(np.uint16).flatten().tolist()
            t.ClearField("raw_data")
            t.ClearField("int32_data")
            t.int32_data.extend(values)
    onnx.save(halved, path)
    expect_weights(path, out, {k: v.half() for k, v in model.state().items()}, "halves as integers")
    print("ok halves as integers: bit-equal")


def fused_part(folder):
    """onnxruntime's own operators: by its optimiser, and where that fuses nothing, by hand and run by it."""
    path, out, better = (os.path.join(folder, n) for n in ("graph.onnx", "out.safetensors", "better.onnx"))
    model = HuggingFace()
    for layer in model.model.encoder.layer:
        layer.layer_scale1 = layer.layer_scale2 = torch.nn.Identity()
    state = {k: v for k, v in HuggingFace().state().items() if "gamma" not in k}
    script(model, path, pixels_of(model), dynamic=("batch",))
    made = optimizer.optimize_model(path, model_type="vit", num_heads=4, hidden_size=32, opt_level=0)
    if made.get_fused_operator_statistics()["SkipLayerNormalization"] < 4 or made.get_fused_operator_statistics()["BiasGelu"] < 2:
        raise SystemExit("FAIL the optimiser no longer fuses what this test is for: %s" % made.get_fused_operator_statistics())
    made.save_model_to_file(better)
    expect_weights(better, out, state, "transformer optimiser")
    print("ok transformer optimiser: %.1e from onnxruntime" % expect_outputs(better, out, pixels_of(model).numpy(), 0, folder, "optimiser"))

    numbers = dict(dim=32, depth=2, grid=4, patch=4)
    rng = np.random.default_rng(3)
    pixels = rng.standard_normal((1, 3, 16, 16)).astype(np.float32)
    for kind in ("", "split", "thirds", "Attention", "MultiHeadAttention"):
        for more in (dict(), dict(registers=2), dict(swiglu=True, hidden=40), dict(layerscale=False)):
            given = weightfiles.model(seed=4, **numbers, **more)
            with open(path, "wb") as f:
                f.write(onnxfiles.Vit(given, heads=4, kind=kind, apart=kind == "thirds").bytes())
            onnx.checker.check_model(path)
            what = "by hand, %s %s" % (kind or "fused", more or "")
            expect_weights(path, out, {k: torch.frombuffer(bytearray(v.bytes()), dtype=torch.float32).reshape(v.shape)
                                       for k, v in given.items()}, what)
            off = expect_outputs(path, out, pixels, more.get("registers", 0), folder, what)
            print("ok %s: %.1e from onnxruntime" % (what, off))


# ---- The small files of the quick tier ----

def strip(path):
    """Without what exporters say about the code they saw, and as one file."""
    graph = onnx.load(path)
    for n in graph.graph.node:
        n.ClearField("doc_string")
        del n.metadata_props[:]
    for v in (*graph.graph.input, *graph.graph.output, *graph.graph.initializer):
        del v.metadata_props[:]
    del graph.graph.value_info[:]
    del graph.graph.metadata_props[:]
    del graph.metadata_props[:]
    onnx.save(graph, path)


def make(folder):
    tiny = dict(dim=8, depth=2, heads=2, grid=2, patch=2)
    expected = {}
    with tempfile.TemporaryDirectory() as temp:
        for name, model, how in (("script", Official(**tiny), dict(opset=17)),
                                 ("script-unfolded-any-size", Official(**tiny), dict(opset=17, do_constant_folding=False, dynamic=("height", "width"))),
                                 ("script-spelled", Official(registers=2, ffn="swiglufused", **tiny), dict(opset=16)),
                                 ("dynamo", Official(registers=2, **tiny), None), ("dynamo-any-size", HuggingFace(**tiny), "size"),
                                 ("onnxruntime", Official(**tiny), "optimised"), ("half", HuggingFace(**tiny), "half")):
            path, pixels, state = os.path.join(temp, "graph.onnx"), pixels_of(model), model.state()
            if isinstance(how, dict):
                script(model, path, pixels_of(model, side=6, wide=8) if "dynamic" in how else pixels, **how)
            elif how == "size":
                dynamo(model, path, pixels_of(model, side=6, wide=8),
                       dynamic_shapes=({2: 2 * torch.export.Dim("rows"), 3: 2 * torch.export.Dim("columns")},))
            elif how in ("optimised", "half"):
                script(model, path, pixels)
                if how == "half":
                    onnx.save(float16.convert_float_to_float16(onnx.load(path), keep_io_types=True), path)
                    state = {k: v.half() for k, v in state.items()}
                else:
                    optimised(path, os.path.join(temp, "better.onnx"))
                    os.replace(os.path.join(temp, "better.onnx"), path)
            else:
                dynamo(model, path, pixels)
            strip(path)
            shutil.copy(path, os.path.join(folder, name + ".onnx"))
            expected[name] = {k: hashlib.sha256(bits(v if k != "mask_token" else torch.zeros_like(v))).hexdigest() for k, v in sorted(state.items())}
    with open(os.path.join(folder, "expected.json"), "w") as f:
        json.dump({"made_by": "convert_onnx.py DINOV_CONVERT DINOV_INFER make FOLDER, torch %s, onnxruntime %s" % (
            torch.__version__, onnxruntime.__version__), "sha256": expected}, f, indent=1)
        f.write("\n")


def main():
    if sys.argv[3:4] == ["make"]:
        return make(sys.argv[4])
    with tempfile.TemporaryDirectory() as folder:
        parts = [transformers_part, half_part, storage_part, fused_part] + ([official_part] if UPSTREAM else [])
        for part in parts:
            for left in os.listdir(folder):
                (shutil.rmtree if os.path.isdir(os.path.join(folder, left)) else os.remove)(os.path.join(folder, left))
            part(folder)
    if not UPSTREAM:
        print("skipped: the official model; DINOV_UPSTREAM is not set to its repository's folder")
    return 0


if __name__ == "__main__":
    sys.exit(main())
