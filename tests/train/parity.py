# SPDX-License-Identifier: Apache-2.0
"""Our training step against the official modules in float64: one step's gradients, ten steps' weights.

    parity.py check PROGRAM [ISA...]   stored outputs of the official code, small cases (CI); 77 without numpy
    parity.py dump                     makes those outputs; needs DINOV_UPSTREAM, a checkout of facebookresearch/dinov2
    parity.py inputs CASE FOLDER       writes FOLDER/in of one case, to run the program by hand

PROGRAM FOLDER f64|f32 [ISA] reads FOLDER/in and writes FOLDER/out, both plain .npy beside case.json:

    in/case.json                          the model, heads, recipe and one schedule entry a step
    in/{student,teacher}.NAME.npy         f64, initial parameters; NAME starts with backbone, dino_head or ibot_head
    in/step<i>.global.npy                 f32 [2B,3,S,S], all first crops, then all second crops
    in/step<i>.local.npy                  f32 [nB,3,s,s]; absent without local crops
    in/step<i>.masks.npy                  u8 [2B,N]
    in/step<i>.keep.BLOCK.{attn,ffn}.{global,local}.npy   i32 [k], the crops a residual branch takes; absent at rate 0
    out/loss.npy                          [steps,4] as upstream logs them: local, global, KoLeo, iBOT
    out/gradnorm.npy                      [steps,submodules], before clipping: backbone, dino_head, ibot_head
    out/grad.NAME.npy                     step 0, before clipping
    out/{student,teacher}.NAME.npy        after the last step
    out/center.{dino,ibot}.npy            after the last step with the last update applied; with centering only

Limits in float64: losses and norms 1e-9, a gradient 1e-9 of its norm (1e-12 absolute where it is zero by analysis),
weights and centres 1e-8. In float32: three times the official code's own float32 error, which is the worst of eight
runs (OWN_RUNS), and never below FLOOR.
"""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import numpy as np
except ImportError:
    print("skipped: numpy is missing")
    sys.exit(77)

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "parity"))
import seeded

GOLDEN = HERE / "golden"
STEPS = 10
LOSSES = ("dino_local_crops_loss", "dino_global_crops_loss", "koleo_loss", "ibot_loss")

# A single float32 run can be lucky: the error of a small tensor varies fivefold between runs that are equally good. So the
# official code's own error is the worst of its runs on the weights as they are, and on weights moved to a neighbouring
# float32 or not, at random. Below FLOOR even that is luck: one rounding of a result is 6e-8.
OWN_RUNS = 8
FLOOR = 1e-7
FACTOR = 3.0

# The hard casts to float32 that dump lifts. All but the first kind follow from torch's default dtype being float64.
LIFTED = [
    ("models/vision_transformer.py", "interpolate_pos_encoding: pos_embed.float()", "Tensor.float is the identity on float64"),
    ("loss/dino_clstoken_loss.py", "sinkhorn_knopp_teacher: teacher_output.float()", "Tensor.float is the identity on float64"),
    ("loss/ibot_patch_loss.py", "sinkhorn_knopp_teacher: teacher_output.float()", "Tensor.float is the identity on float64"),
    ("loss/ibot_patch_loss.py", "lossfunc: s.float(), t.float()", "only with xFormers, which is absent: no cast in the other branch"),
    ("loss/dino_clstoken_loss.py", "center: a float32 buffer", "default dtype"),
    ("loss/ibot_patch_loss.py", "center: a float32 buffer", "default dtype"),
    ("loss/ibot_patch_loss.py", "masks_weight: 1 / count in float32 (data/collate.py the same)", "default dtype"),
    ("loss/koleo_loss.py", "autocast(enabled=False)", "autocast is never on here"),
    ("data/collate.py", "crops to fp16", "crops are float32 values, widened"),
    ("train/ssl_meta_arch.py, fsdp", "fp16 parameters, gradients and gradient scaler", "no FSDP: parameters in the default dtype"),
]


def case(registers=0, ffn="mlp", grid=4, offset=0.1, antialias=False, separate=False, centering="centering", drop_path=0.0, local=2,
         decay=0.9, clip=3.0, weights=(1.0, 0.1, 1.0), ibot_layers=3):
    head = dict(n_prototypes=24, bottleneck=8, hidden=20, nlayers=3)
    other = dict(n_prototypes=21, bottleneck=6, hidden=12, nlayers=ibot_layers) if separate else head
    return {
        "model": {"patch": 4, "dim": 16, "depth": 2, "heads": 2, "ffn": ffn, "hidden": {"mlp": 64, "swiglu": 48}[ffn],
                  "registers": registers, "grid_h": grid, "grid_w": grid, "ln_eps": 1e-6, "layerscale": True, "qkv_bias": True,
                  "interp_offset": offset, "interp_antialias": antialias},
        "dino": dict(head, loss_weight=weights[0], koleo_loss_weight=weights[1]),
        "ibot": dict(other, separate_head=separate, loss_weight=weights[2]),
        "centering": centering, "batch": 3, "local_crops": local, "global_size": 16, "local_size": 8, "drop_path": drop_path,
        "clip_grad": clip, "layerwise_decay": decay, "patch_embed_lr_mult": 0.2, "beta1": 0.9, "beta2": 0.999}


SINKHORN = dict(centering="sinkhorn_knopp")
CASES = {
    # A position table of 4 x 4 is used as it is by global crops (4 x 4 patches) and interpolated for local ones (2 x 2).
    "plain": case(),
    "interpolated": case(grid=5, drop_path=0.3),
    "enlarged": case(grid=3, separate=True, drop_path=0.4, local=5, ibot_layers=2),
    "registers": case(registers=2, ffn="swiglu", offset=0.0, antialias=True, drop_path=0.4),
    "long-recipe": case(registers=2, ffn="swiglu", grid=5, offset=0.0, antialias=True, separate=True, drop_path=0.4, local=3, decay=1.0,
                        **SINKHORN),
    "sinkhorn": case(separate=True, drop_path=0.4, decay=1.0, clip=8.0, **SINKHORN),
    "clipped": case(ffn="swiglu", clip=0.05, weights=(0.7, 0.2, 1.3), **SINKHORN),
    "no-local": case(registers=2, grid=5, local=0, clip=100.0),
}


def schedule(step):
    """Past warm-up; the last layer is still frozen for two steps. Quick enough that every value shows in the result."""
    lr = 1e-3 * (1 - 0.05 * step)
    return {"lr": lr, "last_layer_lr": 0.0 if step < 2 else lr, "wd": 0.04 + 0.03 * step, "momentum": 0.9 + 0.01 * step,
            "teacher_temp": 0.05 + 0.002 * step}


def head_shapes(head, dim, prefix):
    """Names and shapes of a head; the last layer is normalised by rows."""
    sizes = [dim] + [head["hidden"]] * (head["nlayers"] - 1) + [head["bottleneck"]]
    out = {}
    for i, (a, b) in enumerate(zip(sizes, sizes[1:])):
        layer = f"{prefix}.mlp.{2 * i}" if head["nlayers"] > 1 else f"{prefix}.mlp"
        out |= {f"{layer}.weight": (b, a), f"{layer}.bias": (b,)}
    return out | {f"{prefix}.last_layer.weight_g": (head["n_prototypes"], 1),
                  f"{prefix}.last_layer.weight_v": (head["n_prototypes"], head["bottleneck"])}


def parameters(config, seed):
    """float32 initial parameters by name; student and teacher differ in the seed."""
    model = config["model"]
    shapes = seeded.shapes(model["dim"], model["depth"], model["hidden"], model["registers"], model["ffn"] == "swiglu", model["patch"],
                           model["grid_h"])
    shapes = {f"backbone.{name}": shape for name, shape in shapes.items()} | head_shapes(config["dino"], model["dim"], "dino_head")
    if config["ibot"]["separate_head"]:
        shapes |= head_shapes(config["ibot"], model["dim"], "ibot_head")

    def value(name, shape):
        if name.endswith(".weight_g"):
            return np.float32(1) + np.float32(0.2) * seeded.uniform(name, seed, shape[0]).reshape(shape)
        return seeded.tensor(name, shape, seed)

    return {name: value(name, shape) for name, shape in shapes.items()}


def crops(config, step):
    """float32 (global, local) of a step, crop-major."""
    def draw(name, count, size):
        return seeded.uniform(f"step{step}.{name}", 7, count * config["batch"] * 3 * size * size).reshape(-1, 3, size, size)

    return draw("global", 2, config["global_size"]), draw("local", config["local_crops"], config["local_size"])


def subset_sizes(config):
    """Crops that a residual branch takes, of the global and of the local group."""
    return [max(int(count * config["batch"] * (1 - config["drop_path"])), 1) for count in (2, config["local_crops"]) if count]


def write_inputs(name, stored, folder):
    """FOLDER/in of the case."""
    config, into = CASES[name], Path(folder) / "in"
    into.mkdir(parents=True)
    steps = [schedule(i) | {"upperbound": int(stored["upperbound"][i])} for i in range(STEPS)]
    (into / "case.json").write_text(json.dumps({"name": name} | config | {"steps": steps}, indent=1) + "\n")
    for who, seed in (("student", 1), ("teacher", 2)):
        for key, value in parameters(config, seed).items():
            np.save(into / f"{who}.{key}.npy", value.astype(np.float64))
    for i in range(STEPS):
        both = crops(config, i)
        np.save(into / f"step{i}.global.npy", both[0])
        np.save(into / f"step{i}.masks.npy", stored["masks"][i].astype(np.uint8))
        if config["local_crops"]:
            np.save(into / f"step{i}.local.npy", both[1])
        if config["drop_path"]:
            for g, size in enumerate(subset_sizes(config)):
                for block in range(config["model"]["depth"]):
                    for b, branch in enumerate(("attn", "ffn")):
                        kept = stored["keep"][i, g, block, b, :size].astype(np.int32)
                        np.save(into / f"step{i}.keep.{block}.{branch}.{('global', 'local')[g]}.npy", kept)


class Oracle:
    """The official modules on one case."""

    def __init__(self, up, name, dtype, masks, bounds, permutations, nudge=0):
        import official
        import torch

        torch.set_default_dtype(dtype)
        self.config, self.numpy_dtype = CASES[name], {torch.float64: np.float64, torch.float32: np.float32}[dtype]
        self.masks, self.bounds, self.permutations = masks, bounds, permutations
        self.training = official.Training(up, self.config)
        random = np.random.default_rng(nudge)
        for who, seed in (("student", 1), ("teacher", 2)):
            state = parameters(self.config, seed)
            if nudge:
                state = {k: np.nextafter(v, v + random.integers(-1, 2, v.shape).astype(np.float32)) for k, v in state.items()}
            state = {k: torch.from_numpy(v.astype(self.numpy_dtype)) for k, v in state.items()}
            getattr(self.training, who).load_state_dict(state, strict=True)

    def inputs(self, step):
        import torch

        both = [torch.from_numpy(c.astype(self.numpy_dtype)) for c in crops(self.config, step)]
        return *both, self.masks[step]

    def replay(self, step):
        """Makes stochastic depth take the permutations drawn for this step; they are used in the order of drawing."""
        import torch

        order = iter(self.permutations[step])

        def randperm(n, **options):
            drawn = next(order)
            assert len(drawn) == n
            return drawn

        torch.randperm = randperm

    def run(self):
        """Outputs of all steps under the keys of the golden file."""
        out, losses, norms = {}, [], []

        def watch(training):
            if not losses:
                out.update({f"grad/{k}": p.grad.double().numpy().copy() for k, p in training.student.named_parameters()})

        for i in range(STEPS):
            self.replay(i)
            logged, norm = self.training.step(*self.inputs(i), schedule(i) | {"upperbound": self.bounds[i]}, watch)
            losses.append([logged[k] for k in LOSSES])
            norms.append(norm)
        out |= {"loss": np.array(losses), "gradnorm": np.array(norms)}
        for who in ("student", "teacher"):
            module = getattr(self.training, who)
            out |= {f"{who}/{k}": p.detach().double().numpy() for k, p in module.named_parameters()}
        if self.config["centering"] == "centering":
            out |= {f"center/{k}": c.double().numpy() for k, c in self.training.centers().items()}
        return out

    def difference_quotients(self, gradients):
        """Worst relative difference between gradients of step 0 and five-point central differences, over some entries."""
        import torch

        training, inputs, bound = self.training, self.inputs(0), self.bounds[0]
        targets = training.targets(inputs[0], inputs[2], bound, schedule(0)["teacher_temp"])

        def total(entry, value):
            with torch.no_grad():
                entry.fill_(value)
                self.replay(0)
                return training.losses(*inputs, bound, targets)[1].item()

        worst, h = 0.0, 1e-4
        for name, parameter in training.student.named_parameters():
            if not name.endswith(("pos_embed", "mask_token", "proj.weight", "0.attn.qkv.weight", "mlp.0.weight", "weight_g", "weight_v")):
                continue
            gradient = gradients[f"grad/{name}"].reshape(-1)
            at = int(np.abs(gradient).argmax())
            entry = parameter.data.reshape(-1)[at]
            x = entry.item()
            f = [total(entry, x + k * h) for k in (-2, -1, 1, 2)]
            total(entry, x)
            worst = max(worst, abs((f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * h) / gradient[at] - 1))
        return worst


def only_float64():
    """A context in which the casts of LIFTED are lifted, and any operation that yields another floating type is an error."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    narrow = torch.Tensor.float

    class Watch(TorchDispatchMode):
        def __enter__(self):
            torch.Tensor.float = lambda t, *a, **k: t if t.dtype == torch.float64 else narrow(t, *a, **k)
            return super().__enter__()

        def __exit__(self, *exc):
            torch.Tensor.float = narrow
            return super().__exit__(*exc)

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for leaf in tree_leaves(result):
                if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and leaf.dtype != torch.float64:
                    raise TypeError(f"{function} yields {leaf.dtype}")
            return result

    return Watch()


def errors(precision, have, want):
    """Relative error by golden key: of a tensor over its norm, of losses and norms the worst step of each column.

    Softmax does not see the bias of keys: its gradient is zero but for rounding, and AdamW makes of that a walk with
    steps of up to lr. In float32 it would hide the errors of the query and value biases, so it is left out."""
    out = {}
    for key, w in want.items():
        d = have[key] - w
        if precision == "f32" and key.startswith(("student/", "teacher/")) and key.endswith("attn.qkv.bias"):
            d, w = (np.delete(v.reshape(3, -1), 1, 0) for v in (d, w))
        if key in ("loss", "gradnorm"):
            out[key] = (np.abs(d) / np.where(w == 0, 1, np.abs(w))).max(0)
        else:
            out[key] = np.linalg.norm(d) / (np.linalg.norm(w) or 1)
    return out


def draw_permutations(config, groups, branches, generator):
    """One step's permutations in the order in which the student draws them: crop group, block, branch.

    In a network of two blocks a crop can miss every attention branch; its cls token then never sees the picture. Two
    such crops coincide, and KoLeo's gradient at distance 0 is 1e8 times what remains of it: nothing to compare. They
    are drawn again."""
    import torch

    while True:
        drawn = [torch.randperm(b, generator=generator) for b in groups for _ in range(branches)]
        seeing = {int(i) for p in drawn[:branches:2] for i in p[:subset_sizes(config)[0]]}
        blind = [i for i in range(groups[0]) if i not in seeing]
        if not branches or len({i // config["batch"] for i in blind}) == len(blind):
            return drawn


def dump():
    import random

    import official
    import torch

    up = official.upstream()
    torch.set_num_threads(1)
    GOLDEN.mkdir(exist_ok=True)
    randperm, checks = torch.randperm, {}
    for number, (name, config) in enumerate(CASES.items()):
        torch.set_default_dtype(torch.float32)
        torch.randperm = randperm
        random.seed(number)
        drawn = [official.draw_masks(up, config["batch"], config["global_size"], config["model"]["patch"]) for _ in range(STEPS)]
        masks, bounds = [d[0] for d in drawn], [d[1] for d in drawn]
        assert all(m.any() for m in masks)

        generator = torch.Generator().manual_seed(number)
        groups = [c * config["batch"] for c in (2, config["local_crops"]) if c]
        branches = 2 * config["model"]["depth"] if config["drop_path"] else 0
        permutations = [draw_permutations(config, groups, branches, generator) for _ in range(STEPS)]
        stored = {"masks": np.stack([m.numpy() for m in masks]).astype(np.uint8), "upperbound": np.array(bounds, np.int32)}
        if branches:
            sizes = [len(up.block.get_branges_scales(torch.empty(b, 1, 1), config["drop_path"])[0]) for b in groups]
            assert sizes == subset_sizes(config)
            keep = np.full((STEPS, len(groups) * branches, max(sizes)), -1, np.int8)
            for i, drawn in enumerate(permutations):
                for j, p in enumerate(drawn):
                    k = sizes[j // branches]
                    keep[i, j, :k] = p[:k]
            stored["keep"] = keep.reshape(STEPS, len(groups), -1, 2, max(sizes))

        arguments = (masks, bounds, permutations)
        with only_float64():
            wide = Oracle(up, name, torch.float64, *arguments).run()
            quotient = Oracle(up, name, torch.float64, *arguments).difference_quotients(wide)
        if not quotient < 1e-6:
            sys.exit(f"{name}: a gradient differs from its difference quotient by {quotient:.1e}")
        runs = [errors("f32", Oracle(up, name, torch.float32, *arguments, nudge).run(), wide) for nudge in range(OWN_RUNS)]
        own = {k: np.max([r[k] for r in runs], axis=0) for k in wide}
        checks[name] = float(f"{quotient:.1e}")
        np.savez_compressed(GOLDEN / f"{name}.npz", **stored, **wide, **{f"err32/{k}": v for k, v in own.items()})
        group = lambda kind: max(v for k, v in own.items() if k.startswith(kind + "/"))
        zero = [k for k, v in wide.items() if k.startswith("grad/") and np.abs(v).max() < 1e-12]
        print(f"{name}: quotients {quotient:.1e}; own float32: loss {own['loss'].max():.1e}, gradient {group('grad'):.1e}, "
              f"student {group('student'):.1e}; norms {wide['gradnorm'].min(0)} .. {wide['gradnorm'].max(0)}; zero: {zero}")
    meta = {"made_by": "tests/train/parity.py dump", "torch": torch.__version__, "difference_quotients": checks, "lifted_casts": LIFTED}
    (GOLDEN / "made.json").write_text(json.dumps(meta, indent=2) + "\n")


def limit(precision, key, want, own):
    """Of the relative error of a key; an array for losses and norms."""
    if precision == "f32":
        return FACTOR * np.maximum(own, FLOOR)
    if key.startswith(("student/", "teacher/", "center/")):
        return 1e-8
    return 1e-9 if np.abs(want).max() > 1e-12 else 1e-12


def read_outputs(folder, keys):
    return {key: np.load(Path(folder) / "out" / f"{key.replace('/', '.')}.npy") for key in keys}


def judge(label, precision, have, want, own):
    """Prints a line: of each kind of output the worst error and how many times its limit that is. True where all are within."""
    for key, w in want.items():
        if have[key].shape != w.shape or not np.isfinite(have[key]).all():
            print(f"FAILED {label}: {key} has shape {list(have[key].shape)}, expected {list(w.shape)}, all finite")
            return False
    found = errors(precision, have, want)
    worst = {}
    for key, error in found.items():
        ratio = np.max(error / limit(precision, key, want[key], own[key]))
        kind = key.split("/")[0]
        if kind not in worst or not ratio <= worst[kind][0]:
            worst[kind] = (ratio, np.max(error), key)
    beyond = {kind: w for kind, w in worst.items() if not w[0] <= 1}
    print(f"{'FAILED' if beyond else 'ok    '} {label}: " + ", ".join(f"{kind} {e:.1e} ({r:.2g} x)" for kind, (r, e, _) in worst.items()))
    for kind, (ratio, error, key) in beyond.items():
        print(f"       {key}: {error:.3e}, {ratio:.3g} times its limit")
    return not beyond


def check(program, *isas):
    bad = total = 0
    for name in CASES:
        with np.load(GOLDEN / f"{name}.npz") as file:
            stored = {k: file[k] for k in file.files}
        want = {k: v for k, v in stored.items() if k in ("loss", "gradnorm") or k.startswith(("grad/", "student/", "teacher/", "center/"))}
        own = {k: stored[f"err32/{k}"] for k in want}
        with tempfile.TemporaryDirectory() as folder:
            write_inputs(name, stored, folder)
            for precision, isa in [("f64", None)] + [("f32", i) for i in isas or [None]]:
                for old in (Path(folder) / "out").glob("*"):
                    old.unlink()
                (Path(folder) / "out").mkdir(exist_ok=True)
                label = f"{name} {precision}{' ' + isa if isa else ''}"
                total += 1
                try:
                    subprocess.run([program, folder, precision] + ([isa] if isa else []), check=True)
                    bad += not judge(label, precision, read_outputs(folder, want), want, own)
                except (subprocess.CalledProcessError, OSError, ValueError) as problem:
                    print(f"FAILED {label}: {problem}")
                    bad += 1
    print(f"{total} runs checked, {bad} beyond their limits")
    return bad != 0


def inputs(name, folder):
    with np.load(GOLDEN / f"{name}.npz") as stored:
        write_inputs(name, stored, folder)


if __name__ == "__main__":
    verb, arguments = sys.argv[1], sys.argv[2:]
    if verb == "dump" and "DINOV_UPSTREAM" not in os.environ:
        sys.exit("set DINOV_UPSTREAM to a checkout of facebookresearch/dinov2 at the commit in tests/requirements.txt")
    sys.exit({"check": check, "dump": dump, "inputs": inputs}[verb](*arguments))
