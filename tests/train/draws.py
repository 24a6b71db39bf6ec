# SPDX-License-Identifier: Apache-2.0
"""Distributions of our random draws against torchvision's and upstream's own, by two-sample tests.

usage: draws.py PROBE [crops|masks|schedule]...
       draws.py store N        makes tests/train/masks.json from upstream's MaskingGenerator (DINOV_UPSTREAM)

Seeds are fixed, so each run gives the same p-values: the same distribution must not be rejected (p > 1e-4),
and a run with one parameter changed must be (p < 1e-6), which shows that the test would see it.

crops: boxes and jitter against torchvision's get_params; probabilities against the numbers of upstream's
DataAugmentationDINO, which are read from it when DINOV_UPSTREAM is a checkout of facebookresearch/dinov2.
masks, schedule: against upstream's MaskingGenerator and collate function when DINOV_UPSTREAM is set, else
against the stored histograms and numbers.
"""
import json
import math
import os
import random
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "image"))
UPSTREAM = os.environ.get("DINOV_UPSTREAM")
if UPSTREAM:
    sys.path.insert(0, UPSTREAM)

from vision import torch, transforms  # noqa: E402
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402
from probe import Probe  # noqa: E402

SAME, OTHER = 1e-4, 1e-6
STORE = os.path.join(HERE, "masks.json")


def kolmogorov(a, b):
    """p of the two-sample Kolmogorov-Smirnov test (asymptotic, and cautious for values with ties)."""
    both = np.concatenate([a, b])
    order = np.argsort(both, kind="stable")
    steps = np.where(order < len(a), 1 / len(a), -1 / len(b)).cumsum()
    last = np.append(np.diff(both[order]) > 0, True)  # of equal values
    d = np.abs(steps[last]).max()
    x = d * math.sqrt(len(a) * len(b) / (len(a) + len(b)))
    return 1.0 if x < 0.2 else min(1.0, 2 * sum((-1) ** (k - 1) * math.exp(-2 * (k * x) ** 2) for k in range(1, 101)))


def chi_square(a, b):
    """p of the two-sample chi-square test of two histograms; neighbours of a rare value are counted with it."""
    x, y, bins = 0, 0, []
    for value in sorted(set(a) | set(b)):
        x, y = x + a.get(value, 0), y + b.get(value, 0)
        if x + y >= 40:
            bins.append((x, y))
            x = y = 0
    if bins:
        bins[-1] = (bins[-1][0] + x, bins[-1][1] + y)
    if len(bins) < 2:
        return 1.0
    n, m = sum(a.values()), sum(b.values())
    statistic = sum((math.sqrt(m / n) * p - math.sqrt(n / m) * q) ** 2 / (p + q) for p, q in bins)
    return float(torch.special.gammaincc(torch.tensor((len(bins) - 1) / 2, dtype=torch.float64),
                                         torch.tensor(statistic / 2, dtype=torch.float64)))


def histogram(values):
    found, counts = np.unique(values, return_counts=True)
    return {int(v): int(c) for v, c in zip(found, counts)}


def is_share(k, n, p):
    """p-value of k of n for a probability p."""
    if p in (0, 1):
        return float(k == n * p)
    return math.erfc(abs(k - n * p) / math.sqrt(2 * n * p * (1 - p)))


def verdict(what, ps, same=True):
    worst = min(ps, key=ps.get)
    if same and ps[worst] < SAME:
        sys.exit(f"FAILED {what}: {worst} is distributed otherwise: p = {ps[worst]:.3g}")
    if not same and ps[worst] > OTHER:
        sys.exit(f"FAILED {what}: the change goes unnoticed: {ps}")
    return ps[worst]


# ---- Crops ----

# Upstream's DataAugmentationDINO in numbers; p of the blurs as released.
RELEASED = {"scale": ((0.32, 1.0), (0.05, 0.32)), "ratio": (0.75, 4 / 3), "flip": 0.5, "jitter": 0.8, "brightness": (0.6, 1.4),
            "contrast": (0.6, 1.4), "saturation": (0.8, 1.2), "hue": (-0.1, 0.1), "grey": 0.2, "sigma": (0.1, 2.0), "blur": (0.0, 0.9, 0.5),
            "solarize": (0.0, 0.2, 0.0), "threshold": 128}
COLUMNS = "x y width height flip jitter order brightness contrast saturation hue grey blur sigma solarize size".split()


def read_upstream():
    """RELEASED, from upstream's own objects."""
    from dinov2.data.augmentations import DataAugmentationDINO
    a = DataAugmentationDINO((0.32, 1.0), (0.05, 0.32), 8, global_crops_size=224, local_crops_size=96)
    boxes = (a.geometric_augmentation_global.transforms[0], a.geometric_augmentation_local.transforms[0])
    chains = [t.transforms for t in (a.global_transfo1, a.global_transfo2, a.local_transfo)]
    apply, grey = chains[0][0].transforms
    jitter = apply.transforms[0]
    second = chains[1][1].transforms
    blurs = (chains[0][1], second[0], chains[2][1])

    def rounded(*values):
        return tuple(round(v, 12) for v in values)

    return {"scale": tuple(b.scale for b in boxes), "ratio": boxes[0].ratio, "flip": a.geometric_augmentation_global.transforms[1].p,
            "jitter": apply.p, "brightness": rounded(*jitter.brightness), "contrast": rounded(*jitter.contrast),
            "saturation": rounded(*jitter.saturation), "hue": rounded(*jitter.hue), "grey": grey.p, "sigma": blurs[0].transforms[0].sigma,
            "blur": rounded(*(b.p for b in blurs)), "solarize": (0.0, second[1].p, 0.0), "threshold": second[1].threshold}


def ours_crops(probe, kind, w, h, n, published=0, **changes):
    words = [word for key, value in changes.items() for word in (key, value)]
    _, raw = probe.bytes_of("draws", kind, w, h, published, 11, n, *words)
    return dict(zip(COLUMNS, np.frombuffer(raw, np.float64).reshape(n, len(COLUMNS)).T))


def their_boxes(w, h, scale, n):
    picture = Image.new("RGB", (w, h))
    boxes = np.array([transforms.RandomResizedCrop.get_params(picture, scale, RELEASED["ratio"]) for _ in range(n)], np.float64)
    return dict(zip(("y", "x", "height", "width"), boxes.T))


def compare_boxes(a, b, w, h):
    def sides(c):
        yield "area", c["width"] * c["height"]
        yield "ratio", c["width"] / c["height"]
        yield "place across", c["x"] / np.maximum(w - c["width"], 1)
        yield "place down", c["y"] / np.maximum(h - c["height"], 1)
        yield "x", c["x"]
    return {name: kolmogorov(p, q) for (name, p), (_, q) in zip(sides(a), sides(b))}


def test_crops(probe):
    if UPSTREAM:
        found = read_upstream()
        if found != RELEASED:
            sys.exit(f"FAILED: upstream says {found}")
    torch.manual_seed(3)
    n, fewer = 100000, 40000
    for kind, w, h, count in ((0, 500, 375, n), (2, 500, 375, n), (1, 32, 32, n // 10), (0, 900, 200, n // 10), (2, 20, 700, n // 10)):
        scale = RELEASED["scale"][kind == 2]
        theirs = their_boxes(w, h, scale, count)
        verdict(f"boxes of kind {kind} in {w} x {h}", compare_boxes(ours_crops(probe, kind, w, h, n), theirs, w, h))
        if (w, h) == (500, 375):
            changes = ([("global_crops_scale0", 0.34), ("global_crops_scale1", 0.9), ("ratio1", 1.38)] if kind == 0 else
                       [("local_crops_scale0", 0.055), ("local_crops_scale1", 0.33)])
            for key, value in changes:
                verdict(f"{key} {value}", compare_boxes(ours_crops(probe, kind, w, h, fewer, **{key: value}), theirs, w, h), same=False)

    params = [transforms.ColorJitter.get_params(*(RELEASED[k] for k in ("brightness", "contrast", "saturation", "hue"))) for _ in range(n)]
    order = histogram([((p[0][0] * 4 + p[0][1]) * 4 + p[0][2]) * 4 + p[0][3] for p in (([int(i) for i in q[0]],) for q in params)])
    factors = dict(zip(("brightness", "contrast", "saturation", "hue"), np.array([p[1:] for p in params]).T))
    sigma = np.array([transforms.GaussianBlur.get_params(*RELEASED["sigma"]) for _ in range(n)])

    def compare_colours(c, kind, blur=RELEASED["blur"]):
        ps = {name: kolmogorov(c[name], values) for name, values in factors.items()}
        ps["order"] = chi_square(histogram(c["order"]), order)
        for name, p in (("flip", RELEASED["flip"]), ("jitter", RELEASED["jitter"]), ("grey", RELEASED["grey"]), ("blur", blur[kind]),
                        ("solarize", RELEASED["solarize"][kind])):
            ps[name] = is_share(c[name].sum(), len(c[name]), p)
        if blur[kind]:
            ps["sigma"] = kolmogorov(c["sigma"][c["blur"] > 0], sigma)
        return ps

    for kind in range(3):
        verdict(f"colours of kind {kind}", compare_colours(ours_crops(probe, kind, 64, 64, n), kind))
        verdict(f"colours of kind {kind} as published", compare_colours(ours_crops(probe, kind, 64, 64, n, 1), kind, (1.0, 0.1, 0.5)))
    changes = {"flip_p0": 0.52, "jitter_p0": 0.82, "brightness0": 0.42, "contrast0": 0.38, "saturation0": 0.21, "hue0": 0.105, "grey_p0": 0.22,
               "blur_p1": 0.89, "sigma1": 2.1, "solarize_p0": 0.18}
    for key, value in changes.items():
        verdict(f"{key} {value}", compare_colours(ours_crops(probe, 1, 64, 64, fewer, **{key: value}), 1), same=False)
    return f"{n} draws of each kind as torchvision's; {5 + len(changes)} changed parameters noticed"


# ---- Masks ----

CASES = [(224, 14, 77), (224, 14, 128), (224, 16, 31), (64, 8, 20), (518, 14, 400), (98, 14, 24)]


def statistics(masks):
    """Histograms that see how many, how large, how long and where the blocks are; masks [n, G, G]."""
    m = masks.astype(np.int64)
    g = m.shape[1]
    return {name: histogram(values) for name, values in {
        "count": m.sum((1, 2)),
        "edges across": np.abs(np.diff(m, axis=2)).sum((1, 2)),
        "edges down": np.abs(np.diff(m, axis=1)).sum((1, 2)),
        "corner": m[:, :g // 2, :g // 2].sum((1, 2)),
        "first row": m[:, 0].sum(1),
        "last column": m[:, :, -1].sum(1),
        "longest row": m.sum(2).max(1),
    }.items()}


def upstream_masks(size, patch, target, n):
    from dinov2.data import MaskingGenerator
    generator = MaskingGenerator(input_size=(size // patch, size // patch), max_num_patches=0.5 * size // patch * size // patch)
    return np.array([generator(target) for _ in range(n)])


def store(n):
    random.seed(5)
    cases = [{"case": case, "statistics": statistics(upstream_masks(*case, n))} for case in CASES]
    batches = {f"{size} {patch} {crops}": upstream_batch(size, patch, crops)["upperbound"] for size, patch, crops in BATCHES}
    with open(STORE, "w") as f:
        json.dump({"command": f"DINOV_UPSTREAM=dinov2 tests/train/draws.py store {n}", "upperbound": batches, "masks": cases}, f, separators=(",", ":"))
        f.write("\n")


def stored():
    with open(STORE) as f:
        return json.load(f)


def test_masks(probe):
    n = 40000
    random.seed(5)
    for i, case in enumerate(CASES):
        if UPSTREAM:
            theirs = statistics(upstream_masks(*case, 3000))
        else:
            theirs = {k: {int(v): c for v, c in h.items()} for k, h in stored()["masks"][i]["statistics"].items()}

        def compare(count=n, **changes):
            words = [word for key, value in changes.items() for word in (key, value)]
            (g,), raw = probe.bytes_of("masks", *case, 13, count, *words)
            ours = statistics(np.frombuffer(raw, np.uint8).reshape(count, g, g))
            return {name: chi_square(ours[name], theirs[name]) for name in theirs}

        verdict(f"masks {case}", compare(n if case[0] < 500 else n // 10))
        if case == (224, 14, 77) and not UPSTREAM:
            for key, value in (("min_num_patches0", 5), ("max_num_patches0", 60), ("min_aspect0", 0.33), ("max_aspect0", 3.0)):
                verdict(f"{key} {value}", compare(**{key: value}), same=False)
    return f"{len(CASES)} kinds of masks as upstream's" + ("" if UPSTREAM else "; 4 changed parameters noticed")


# ---- The schedule of a batch ----

BATCHES = [(224, 16, 128), (224, 14, 64), (224, 14, 24), (64, 8, 128), (224, 14, 2), (224, 14, 1)]


def upstream_batch(size, patch, crops):
    from dinov2.data import MaskingGenerator
    from dinov2.data.collate import collate_data_and_cast
    grid = size // patch
    generator = MaskingGenerator(input_size=(grid, grid), max_num_patches=0.5 * size // patch * size // patch)
    # Two global crops a sample, or one, for an odd number.
    per = 2 if crops % 2 == 0 else 1
    samples = [({"global_crops": [torch.zeros(1)] * per, "local_crops": [torch.zeros(1)]},)] * (crops // per)
    return collate_data_and_cast(samples, (0.1, 0.5), 0.5, torch.float32, n_tokens=grid * grid, mask_generator=generator)


def our_batches(probe, size, patch, crops, n, *words):
    (grid, upperbound), raw = probe.bytes_of("schedule", size, patch, crops, 17, n, *words)
    room, at = crops * grid * grid, 0
    for _ in range(n):
        masks = np.frombuffer(raw, np.uint8, room, at)
        count = int(np.frombuffer(raw, np.int64, 1, at + room)[0])
        indices = np.frombuffer(raw, np.int32, count, at + room + 8)
        weights = np.frombuffer(raw, np.float32, count, at + room + 8 + 4 * count)
        at += room + 8 + 8 * count
        yield masks.reshape(crops, -1), indices, weights, upperbound


def test_schedule(probe):
    bounds = None if UPSTREAM else stored()["upperbound"]
    for size, patch, crops in BATCHES:
        want = int(upstream_batch(size, patch, crops)["upperbound"]) if UPSTREAM else bounds[f"{size} {patch} {crops}"]
        for masks, indices, weights, upperbound in our_batches(probe, size, patch, crops, 50):
            # As collate_data_and_cast computes them from its masks.
            m = torch.from_numpy(masks.astype(bool))
            index = m.flatten().nonzero().flatten().numpy()
            weight = (1 / m.sum(-1).clamp(min=1.0)).unsqueeze(-1).expand_as(m)[m].numpy()
            if not np.array_equal(index, indices) or not np.array_equal(weight, weights):
                sys.exit(f"FAILED schedule {size}/{patch}, {crops} crops: indices or weights differ")
            if upperbound != want or len(indices) > upperbound or (m.any(1).sum() != crops // 2):
                sys.exit(f"FAILED schedule {size}/{patch}, {crops} crops: upperbound {upperbound}, expected {want}")

    # Stratified: the sorted targets of a batch lie in one interval each; masks may fall a few patches short.
    n, patches = 2000, 256
    sizes = np.array([np.sort(masks.sum(1)) for masks, _, _, _ in our_batches(probe, 224, 14, 64, n)])
    edges = np.linspace(0.1, 0.5, 33)
    masked = sizes[:, 32:]
    if (sizes[:, :32] != 0).any() or (masked > (patches * edges[1:] + 1e-3)).any() or np.mean(masked < np.floor(patches * edges[:-1])) > 0.02:
        sys.exit("FAILED schedule: the ratios are not spread evenly")
    # Each crop is masked in half of the batches, whatever its place.
    place = np.array([masks.any(1) for masks, _, _, _ in our_batches(probe, 224, 14, 64, n)]).sum(0)
    verdict("schedule", {f"crop {i}": is_share(k, n, 0.5) for i, k in enumerate(place)})
    uneven = np.array([masks.any(1) for masks, _, _, _ in our_batches(probe, 224, 14, 64, n, "mask_sample_probability0", 0.6)]).sum(0)
    verdict("mask_sample_probability 0.6", {f"crop {i}": is_share(k, n, 0.5) for i, k in enumerate(uneven)}, same=False)
    return f"{len(BATCHES)} sizes of batches: upperbound, indices and weights as upstream's; ratios spread evenly, crops chosen evenly"


def main():
    torch.set_num_threads(1)
    if sys.argv[1] == "store":
        return store(int(sys.argv[2]))
    probe = Probe(sys.argv[1])
    for name in sys.argv[2:] or ("crops", "masks", "schedule"):
        print(f"{name}: {globals()['test_' + name](probe)}", flush=True)


main()
