# SPDX-License-Identifier: Apache-2.0
"""The PyTorch peer of pretraining: the official modules, losses and AdamW in float32 on the CPU. For speed, and for what is learnt.

    DINOV_UPSTREAM=checkout pretrain_peer.py inputs tiny|small FOLDER [--steps 4] [--drop-path 0.3]
    DINOV_UPSTREAM=checkout pretrain_peer.py bench FOLDER [--threads 2] [--steps 7]
    DINOV_UPSTREAM=checkout pretrain_peer.py learn DATA OUT [--config FILE] [...] [KEY=VALUE...]
    DINOV_UPSTREAM=checkout pretrain_peer.py knn DATA WEIGHTS [--heads 3] [--size 64]

inputs writes FOLDER/in as tests/train/parity.py describes it (case.json, step<i>.global.npy, .local.npy, .masks.npy; no weights and
no subsets: both sides draw those themselves). bench trains on those crops, in turn, and prints one line of JSON.

learn reads WebDataset shards (KEY.jpg, KEY.cls) from DATA, decodes them once, and trains by the recipe: upstream's default YAML,
FILE over it, KEY=VALUE over both, upstream's key names and dinov-train's student.arch: vit_custom. OUT gets metrics.jsonl, recipe.json and teacher.safetensors (the teacher's
backbone under hub names). Labels serve the k-NN figure alone. knn gives that figure for any backbone under hub names.

The peer at its best: F.scaled_dot_product_attention (what the official attention calls without xFormers), no FSDP, each crop group
forwarded by itself, stochastic depth on a subset of the batch. Needs torchvision and PyYAML beside tests/requirements.txt (learn, knn).
Exit 77 when something needed is absent.
"""
import argparse
import glob
import io
import json
import math
import os
import random
import statistics
import sys
import tarfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "train"), str(HERE.parent / "parity")]

try:
    import numpy as np
    import torch

    import official
    import seeded
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

ARCHITECTURES = {"vit_tiny": (192, 12, 3), "vit_small": (384, 12, 6), "vit_base": (768, 12, 12), "vit_large": (1024, 24, 16),
                 "vit_giant2": (1536, 40, 24)}
CUSTOM = ("student.embed_dim", "student.depth", "student.num_heads")


class Peer:
    """Training from fresh weights, in float32. config: a case as in tests/train/parity.py; the teacher starts as the student."""

    def __init__(self, config, seed=0, fused=False):
        self.up = official.upstream()
        torch.manual_seed(seed)
        self.training = official.Training(self.up, config, {"fused": True} if fused else {"foreach": True})
        self.training.teacher.load_state_dict(self.training.student.state_dict())

    def step(self, global_crops, local_crops, masks, schedule):
        """Tensors, crop-major; schedule as a step of a case. Returns the losses as upstream logs them."""
        return self.training.step(global_crops, local_crops, masks, schedule)[0]

    def teacher_backbone(self):
        return self.training.teacher["backbone"]


# Speed.

def bench_case(name, drop_path):
    head = dict(bottleneck=256, hidden=2048, nlayers=3)
    arch, patch, size, local, batch, prototypes = {
        "tiny": ("vit_tiny", 8, 64, 32, 64, 4096), "small": ("vit_small", 14, 224, 98, 4, 65536)}[name]
    dim, depth, heads = ARCHITECTURES[arch]
    return {
        "model": {"patch": patch, "dim": dim, "depth": depth, "heads": heads, "ffn": "mlp", "hidden": 4 * dim, "registers": 0,
                  "grid_h": size // patch, "grid_w": size // patch, "ln_eps": 1e-6, "layerscale": True, "qkv_bias": True,
                  "interp_offset": 0.1, "interp_antialias": False},
        "dino": dict(head, n_prototypes=prototypes, loss_weight=1.0, koleo_loss_weight=0.1),
        "ibot": dict(head, n_prototypes=prototypes, separate_head=False, loss_weight=1.0),
        "centering": "centering", "batch": batch, "local_crops": 8, "global_size": size, "local_size": local, "drop_path": drop_path,
        "clip_grad": 3.0, "layerwise_decay": 0.9, "patch_embed_lr_mult": 0.2, "beta1": 0.9, "beta2": 0.999}


def inputs(args):
    up, case, into = official.upstream(), bench_case(args.name, args.drop_path), Path(args.folder) / "in"
    into.mkdir(parents=True, exist_ok=True)
    random.seed(0)
    steps = []
    for i in range(args.steps):
        masks, bound = official.draw_masks(up, case["batch"], case["global_size"], case["model"]["patch"])
        np.save(into / f"step{i}.masks.npy", masks.numpy().astype(np.uint8))
        for kind, count, size in (("global", 2, case["global_size"]), ("local", case["local_crops"], case["local_size"])):
            pixels = seeded.uniform(f"step{i}.{kind}", 7, count * case["batch"] * 3 * size * size)
            np.save(into / f"step{i}.{kind}.npy", pixels.reshape(-1, 3, size, size))
        steps.append({"lr": 1e-4, "last_layer_lr": 1e-4, "wd": 0.04, "momentum": 0.992, "teacher_temp": 0.04, "upperbound": bound})
    (into / "case.json").write_text(json.dumps({"name": args.name} | case | {"steps": steps}, indent=1) + "\n")


def peak_mib():
    """The peak resident set of this process."""
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024


def bench(args):
    torch.set_num_threads(args.threads)
    folder = Path(args.folder) / "in"
    case = json.loads((folder / "case.json").read_text())
    load = lambda i, kind: torch.from_numpy(np.load(folder / f"step{i}.{kind}.npy"))
    batches = [(load(i, "global"), load(i, "local"), load(i, "masks").bool(), s) for i, s in enumerate(case["steps"])]
    peer, times, losses = Peer(case, fused=args.fused), [], []
    for i in range(args.warm + args.steps):
        start = time.perf_counter()
        losses.append(peer.step(*batches[i % len(batches)]))
        times.append(time.perf_counter() - start)
    times = times[args.warm:]
    print(json.dumps({
        "case": case["name"], "torch": torch.__version__, "threads": args.threads, "batch": case["batch"], "drop_path": case["drop_path"],
        "steps": len(times), "median_s": statistics.median(times), "min_s": min(times), "max_s": max(times),
        "images_per_s": case["batch"] / statistics.median(times), "peak_mib": peak_mib(), "first_losses": losses[0]}))


# Learning.

def read_shards(folder, pattern, limit=0):
    """(pictures, labels): decoded RGB, in the order of the shards."""
    from PIL import Image

    pictures, labels = {}, {}
    paths = sorted(glob.glob(f"{folder}/{pattern}"))
    if not paths:
        print(f"skipped: no {pattern} in {folder}")
        sys.exit(77)
    for path in paths:
        with tarfile.open(path) as shard:
            for member in shard:
                key, _, kind = member.name.partition(".")
                if kind in ("jpg", "jpeg", "png"):
                    pictures[key] = Image.open(io.BytesIO(shard.extractfile(member).read())).convert("RGB")
                elif kind == "cls":
                    labels[key] = int(shard.extractfile(member).read())
                if limit and len(labels) >= limit and len(pictures) >= limit:
                    break
    keys = list(pictures)[:limit or None]
    return [pictures[k] for k in keys], [labels.get(k, -1) for k in keys]


def parse(text):
    """A value of a recipe. YAML 1.1 takes 1e-6 for a word."""
    import yaml

    value = yaml.safe_load(text) if isinstance(text, str) else text
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def recipe_of(args):
    """Upstream's defaults, then the file, then the command line; leaves by dotted key."""
    import yaml

    def leaves(tree, prefix=""):
        for key, value in (tree or {}).items():
            if isinstance(value, dict):
                yield from leaves(value, f"{prefix}{key}.")
            else:
                yield prefix + key, parse(value)

    with open(f"{os.environ['DINOV_UPSTREAM']}/dinov2/configs/ssl_default_config.yaml") as file:
        recipe = dict(leaves(yaml.safe_load(file)))
    changes = {}
    if args.config:
        with open(args.config) as file:
            changes = dict(leaves(yaml.safe_load(file)))
    for item in args.overrides:
        key, _, value = item.partition("=")
        changes[key] = parse(value)
    unknown = changes.keys() - recipe.keys() - set(CUSTOM)
    if unknown:
        sys.exit(f"unknown keys of a recipe: {', '.join(sorted(unknown))}")
    return recipe | changes


def case_of(recipe):
    arch = recipe["student.arch"]
    dim, depth, heads = (recipe[key] for key in CUSTOM) if arch == "vit_custom" else ARCHITECTURES[arch]
    r, grid = recipe, recipe["crops.global_crops_size"] // recipe["student.patch_size"]
    swiglu = r["student.ffn_layer"] != "mlp"
    head = lambda which: dict(n_prototypes=r[f"{which}.head_n_prototypes"], bottleneck=r[f"{which}.head_bottleneck_dim"],
                              hidden=r[f"{which}.head_hidden_dim"], nlayers=r[f"{which}.head_nlayers"],
                              loss_weight=r[f"{which}.loss_weight"])
    return {
        "model": {"patch": r["student.patch_size"], "dim": dim, "depth": depth, "heads": heads, "ffn": "swiglu" if swiglu else "mlp",
                  "registers": r["student.num_register_tokens"], "grid_h": grid, "grid_w": grid,
                  "layerscale": bool(r["student.layerscale"]), "layerscale_init": r["student.layerscale"],
                  "qkv_bias": r["student.qkv_bias"], "interp_offset": r["student.interpolate_offset"],
                  "interp_antialias": r["student.interpolate_antialias"]},
        "dino": head("dino") | {"koleo_loss_weight": r["dino.koleo_loss_weight"]},
        "ibot": head("ibot") | {"separate_head": r["ibot.separate_head"]},
        "centering": r["train.centering"], "batch": r["train.batch_size_per_gpu"], "local_crops": r["crops.local_crops_number"],
        "global_size": r["crops.global_crops_size"], "local_size": r["crops.local_crops_size"], "drop_path": r["student.drop_path_rate"],
        "clip_grad": r["optim.clip_grad"], "layerwise_decay": r["optim.layerwise_decay"],
        "patch_embed_lr_mult": r["optim.patch_embed_lr_mult"], "beta1": r["optim.adamw_beta1"], "beta2": r["optim.adamw_beta2"]}


def schedules(recipe):
    """The five schedules as upstream's train.py builds them; a function of the step."""
    from dinov2.utils.utils import CosineScheduler

    r, length = recipe, recipe["train.OFFICIAL_EPOCH_LENGTH"]
    steps = r["optim.epochs"] * length
    peak = r["optim.base_lr"] * math.sqrt(r["train.batch_size_per_gpu"] / 1024)
    rate = lambda: CosineScheduler(peak, r["optim.min_lr"], steps, warmup_iters=r["optim.warmup_epochs"] * length)
    cold, warm_steps = r["teacher.warmup_teacher_temp"], r["teacher.warmup_teacher_temp_epochs"] * length
    warm = r["teacher.teacher_temp"]
    made = {
        "lr": rate(), "last_layer_lr": rate(), "wd": CosineScheduler(r["optim.weight_decay"], r["optim.weight_decay_end"], steps),
        "momentum": CosineScheduler(r["teacher.momentum_teacher"], r["teacher.final_momentum_teacher"], steps),
        "teacher_temp": CosineScheduler(warm, warm, warm_steps, warmup_iters=warm_steps, start_warmup_value=cold)}
    made["last_layer_lr"].schedule[:r["optim.freeze_last_layer_epochs"] * length] = 0
    return steps, lambda step: {name: float(schedule[step]) for name, schedule in made.items()}


class Crops(torch.utils.data.Dataset):
    """Pictures as upstream's augmentation cuts them."""

    def __init__(self, pictures, transform):
        self.pictures, self.transform = pictures, transform

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, i):
        return self.transform(self.pictures[i]), ()


def order(count, wanted, seed):
    """Indices: one shuffled pass after another."""
    passes = (np.random.default_rng([seed, p]).permutation(count) for p in range(-(-wanted // count)))
    return np.concatenate(list(passes))[:wanted].tolist()


def features(backbone, pictures, size, batch=128):
    """Normalised cls tokens, by upstream's evaluation transform at the size of global crops."""
    transform = official.data_module("transforms").make_classification_eval_transform(resize_size=size, crop_size=size)
    out = []
    with torch.no_grad():
        for i in range(0, len(pictures), batch):
            out.append(backbone(torch.stack([transform(p) for p in pictures[i:i + batch]])))
    return torch.nn.functional.normalize(torch.cat(out), dim=-1)


def nearest_neighbours(backbone, train, test, size, k=20, temperature=0.07):
    """Share of test pictures whose class wins the weighted vote of the k nearest training pictures."""
    (train_pictures, train_labels), (test_pictures, test_labels) = train, test
    bank, labels = features(backbone, train_pictures, size), torch.tensor(train_labels)
    similarity, nearest = (features(backbone, test_pictures, size) @ bank.T).topk(min(k, len(bank)), dim=1)
    votes = torch.zeros(len(test_labels), int(labels.max()) + 1)
    votes.scatter_add_(1, labels[nearest], (similarity / temperature).softmax(1))
    return (votes.argmax(1) == torch.tensor(test_labels)).float().mean().item()


def first(labelled, limit):
    return [part[:limit or None] for part in labelled]


def learn(args):
    from safetensors.torch import save_file

    import vision  # noqa: F401, loads torchvision, which the official augmentation and evaluation use

    torch.set_num_threads(args.threads)
    recipe = recipe_of(args)
    case, out, size = case_of(recipe), Path(args.out), recipe["crops.global_crops_size"]
    peer = Peer(case, args.seed, args.fused)
    steps, schedule = schedules(recipe)
    stop = min(args.stop or steps, steps)
    train, test = read_shards(args.data, args.train), read_shards(args.data, args.test, args.knn_test)
    augment = official.data_module("augmentations").DataAugmentationDINO(
        recipe["crops.global_crops_scale"], recipe["crops.local_crops_scale"], case["local_crops"],
        global_crops_size=size, local_crops_size=case["local_size"])
    patch = case["model"]["patch"]
    generator = peer.up.MaskingGenerator(input_size=(size // patch, size // patch), max_num_patches=0.5 * size // patch * size // patch)

    def collate(samples):
        return peer.up.collate(samples, recipe["ibot.mask_ratio_min_max"], recipe["ibot.mask_sample_probability"], torch.float32,
                               n_tokens=(size // patch) ** 2, mask_generator=generator)

    torch.manual_seed(args.seed)  # workers seed themselves from this
    random.seed(args.seed)
    loader = torch.utils.data.DataLoader(
        Crops(train[0], augment), batch_size=case["batch"], sampler=order(len(train[0]), stop * case["batch"], args.seed),
        num_workers=args.workers, collate_fn=collate, prefetch_factor=4 if args.workers else None)
    out.mkdir(parents=True, exist_ok=True)
    settings = {"recipe": recipe, "seed": args.seed, "steps": steps, "stop": stop, "case": case}
    (out / "recipe.json").write_text(json.dumps(settings, indent=1) + "\n")
    with open(out / "metrics.jsonl", "w") as log:
        def write(**line):
            log.write(json.dumps(line) + "\n")
            log.flush()

        def judge(step):
            accuracy = nearest_neighbours(peer.teacher_backbone(), first(train, args.knn_train), test, size)
            write(step=step, knn20=accuracy)
            print(f"step {step}: 20-NN {100 * accuracy:.2f} %", flush=True)

        judge(0)
        start = mark = time.perf_counter()
        for step, batch in enumerate(loader):
            waited = time.perf_counter() - mark
            now = schedule(step) | {"upperbound": batch["upperbound"]}
            losses = peer.step(batch["collated_global_crops"], batch["collated_local_crops"], batch["collated_masks"], now)
            total = sum(losses.values())
            if not math.isfinite(total):
                sys.exit(f"step {step}: the loss is {total}")
            mark = time.perf_counter()
            write(step=step, total_loss=total, **losses, **now, wait_s=round(waited, 4), elapsed_s=round(mark - start, 3))
            if args.eval_every and (step + 1) % args.eval_every == 0 and step + 1 < stop:
                judge(step + 1)
                mark = time.perf_counter()
        save_file({k: v.contiguous() for k, v in peer.teacher_backbone().state_dict().items()}, out / "teacher.safetensors")
        judge(stop)


def knn(args):
    """The shapes tell the model, but for heads and the rule of the position table, which the size makes needless."""
    from safetensors.torch import load_file

    import vision  # noqa: F401, loads torchvision, which the official augmentation and evaluation use

    torch.set_num_threads(args.threads)
    state = load_file(args.weights)
    dim, _, patch, _ = state["patch_embed.proj.weight"].shape
    grid = math.isqrt(state["pos_embed"].shape[1] - 1)
    registers = state["register_tokens"].shape[1] if "register_tokens" in state else 0
    depth = 1 + max(int(k.split(".")[1]) for k in state if k.startswith("blocks."))
    case = {"patch": patch, "dim": dim, "heads": args.heads, "depth": depth,
            "ffn": "swiglu" if "blocks.0.mlp.w12.weight" in state else "mlp", "registers": registers, "grid_h": grid, "grid_w": grid,
            "layerscale": "blocks.0.ls1.gamma" in state, "qkv_bias": "blocks.0.attn.qkv.bias" in state,
            "interp_offset": 0.0 if registers else 0.1, "interp_antialias": registers > 0}
    backbone = official.backbone(official.upstream(), case).eval()
    backbone.load_state_dict(state, strict=True)
    train, test = read_shards(args.data, args.train, args.knn_train), read_shards(args.data, args.test, args.knn_test)
    accuracy = nearest_neighbours(backbone, train, test, args.size or grid * patch)
    print(json.dumps({"weights": args.weights, "train": len(train[0]), "test": len(test[0]), "knn20": accuracy}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("inputs")
    verb.add_argument("name", choices=("tiny", "small"))
    verb.add_argument("folder")
    verb.add_argument("--steps", type=int, default=4)
    verb.add_argument("--drop-path", type=float, default=0.3)
    verb = verbs.add_parser("bench")
    verb.add_argument("folder")
    verb.add_argument("--threads", type=int, default=2)
    verb.add_argument("--warm", type=int, default=2)
    verb.add_argument("--steps", type=int, default=7)
    verb.add_argument("--fused", action="store_true", help="AdamW in one kernel, where upstream asks for foreach")
    for name in ("learn", "knn"):
        verb = verbs.add_parser(name)
        verb.add_argument("data", help="folder of shards")
        verb.add_argument("out" if name == "learn" else "weights")
        verb.add_argument("--train", default="cifar10-train-*.tar.gz", help="shards to train on, and to look neighbours up in")
        verb.add_argument("--test", default="cifar10-test.tar.gz")
        verb.add_argument("--threads", type=int, default=2)
        verb.add_argument("--knn-train", type=int, default=10000, help="training pictures that vote; 0: all")
        verb.add_argument("--knn-test", type=int, default=2000, help="test pictures; 0: all")
        if name == "learn":
            verb.add_argument("--config", help="YAML recipe over upstream's default")
            verb.add_argument("--seed", type=int, default=0)
            verb.add_argument("--stop", type=int, default=0, help="end after so many steps of the schedules; 0: all")
            verb.add_argument("--workers", type=int, default=2, help="processes that cut crops")
            verb.add_argument("--eval-every", type=int, default=0, help="steps between k-NN figures; the first and last are always taken")
            verb.add_argument("--fused", action="store_true")
        else:
            verb.add_argument("--heads", type=int, required=True)
            verb.add_argument("--size", type=int, default=0, help="side of the input; default: the trained grid")
    # Overrides of the recipe may stand between options, which argparse does not allow positional arguments.
    args, args.overrides = parser.parse_known_args()
    if any(args.verb != "learn" or o.startswith("-") or "=" not in o for o in args.overrides):
        parser.error(f"not understood: {' '.join(args.overrides)}")
    if "DINOV_UPSTREAM" not in os.environ:
        print("skipped: DINOV_UPSTREAM is not set")
        sys.exit(77)
    try:
        {"inputs": inputs, "bench": bench, "learn": learn, "knn": knn}[args.verb](args)
    except ImportError as missing:
        print(f"skipped: {missing}")
        sys.exit(77)


if __name__ == "__main__":
    main()
