# SPDX-License-Identifier: Apache-2.0
"""The same draws applied to the same pictures, drawn here, by torchvision on Pillow and by ours.

usage: augment.py PROBE [crop|colour|exhaustive|blur|chain]...

Everything is bit-equal except the blur: torch adds its 81 products in an order of its own, so a value that
lies within a few 1e-5 of a half may be rounded the other way. Some 1 in 70,000 values differ by one level; 1 in
20,000 is the limit here.
"""
import os
import random
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "image"))

from vision import functional as F, torch, transforms  # noqa: E402
import numpy as np  # noqa: E402
import PIL  # noqa: E402
from PIL import Image  # noqa: E402
from probe import Probe  # noqa: E402

rng = np.random.default_rng(2304)
dice = random.Random(7193)
BICUBIC = transforms.InterpolationMode.BICUBIC
JITTERS = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)


def drawn(w, h):
    """A picture of slopes, edges and noise, or noise alone, or few colours."""
    kind = dice.randrange(4)
    if kind == 0:
        return rng.integers(0, 256, (h, w, 3), dtype=np.uint8)
    if kind == 1:
        return (rng.integers(0, 2, (h, w, 3)) * 255).astype(np.uint8)
    y, x = np.mgrid[0:h, 0:w].astype(np.float64)
    planes = []
    for c in range(3):
        a, b, p = rng.uniform(-0.2, 0.2, 3)
        planes.append(128 + 90 * np.sin(a * x + b * y + 6 * p) + 40 * ((x // 7 + y // 5 + c) % 2) + rng.normal(0, 6 * kind, (h, w)))
    return np.clip(np.stack(planes, -1), 0, 255).astype(np.uint8)


def plain(size, **changes):
    """The draws that change nothing, but for `changes`."""
    crop = dict(size=size, x=0, y=0, width=size, height=size, flip=0, jitter=0, order=[0, 1, 2, 3], factor=[1.0, 1.0, 1.0, 0.0], grey=0,
                sigma=0.0, solarize=0)
    crop.update(changes)
    return crop


def resized(pil, c):
    """resized_crop; Pillow before 13.0 always filtered rows first (tests/image/parity.py)."""
    size, w, h = c["size"], c["width"], c["height"]
    if int(PIL.__version__.split(".")[0]) < 13 and size < h and h - size > 2 * (w - size):
        box = pil.crop((c["x"], c["y"], c["x"] + w, c["y"] + h))
        return box.resize((w, size), Image.BICUBIC).resize((size, size), Image.BICUBIC)
    return F.resized_crop(pil, c["y"], c["x"], h, w, [size, size], BICUBIC)


def theirs(picture, c):
    pil = resized(Image.fromarray(picture), c)
    if c["flip"]:
        pil = F.hflip(pil)
    if c["jitter"]:
        for i in c["order"]:
            pil = JITTERS[i](pil, c["factor"][i])
    if c["grey"]:
        pil = F.rgb_to_grayscale(pil, num_output_channels=3)
    if c["sigma"]:
        pil = F.gaussian_blur(pil, [9, 9], [c["sigma"], c["sigma"]])
    if c["solarize"]:
        pil = F.solarize(pil, 128)
    return pil


def ours(probe, picture, c, kind="bytes"):
    with open(probe.path("in.raw"), "wb") as f:
        f.write(np.ascontiguousarray(picture).tobytes())
    h, w, _ = picture.shape
    _, got = probe.bytes_of("crop", kind, probe.path("in.raw"), w, h, c["size"], c["x"], c["y"], c["width"], c["height"], c["flip"],
                            c["jitter"], *c["order"], *[repr(f) for f in c["factor"]], c["grey"], repr(c["sigma"]), c["solarize"])
    got = np.frombuffer(got, np.float32 if kind == "floats" else np.uint8)
    return got.reshape(3, c["size"], c["size"])


def differences(probe, picture, c, what):
    """How many values differ; never by more than one level, and without a blur none."""
    want = np.asarray(theirs(picture, c)).transpose(2, 0, 1).astype(int)
    delta = np.abs(ours(probe, picture, c).astype(int) - want)
    if delta.max() > (1 if c["sigma"] and not c["solarize"] else 254 if c["sigma"] else 0):
        sys.exit(f"FAILED {what}: {c}: {int((delta > 0).sum())} values differ, by up to {delta.max()}")
    return int((delta > 0).sum()), delta.size


def random_box(w, h):
    bw, bh = dice.randint(1, w), dice.randint(1, h)
    return dict(x=dice.randint(0, w - bw), y=dice.randint(0, h - bh), width=bw, height=bh)


def random_jitter():
    return dict(jitter=1, order=dice.sample(range(4), 4),
                factor=[dice.uniform(0.6, 1.4), dice.uniform(0.6, 1.4), dice.uniform(0.8, 1.2), dice.uniform(-0.1, 0.1)])


def test_crop(probe):
    for i in range(150):
        w, h = dice.randint(1, 400), dice.randint(1, 400)
        c = plain(dice.choice((5, 14, 32, 64, 96, 98, 224)), flip=dice.randrange(2), **random_box(w, h))
        differences(probe, drawn(w, h), c, "crop")
    return "150 crops, flipped or not, bit-equal"


def test_colour(probe):
    for i in range(200):
        size = dice.choice((5, 31, 64, 98))
        picture = drawn(size, size)
        one = random_jitter()
        for k in range(4):  # each alone
            alone = [1.0, 1.0, 1.0, 0.0]
            alone[k] = dice.choice((one["factor"][k], (0.0, 0.0, 0.0, 0.5)[k], (1.0, 1.0, 1.0, -0.5)[k], 1.4 if k < 3 else 0.1))
            differences(probe, picture, plain(size, jitter=1, order=dice.sample(range(4), 4), factor=alone), f"jitter {k}")
        differences(probe, picture, plain(size, **one), "jitter")
        differences(probe, picture, plain(size, grey=1), "grey")
        differences(probe, picture, plain(size, solarize=1), "solarise")
    return "200 pictures: each jitter alone, all in random order, greyscale and solarise bit-equal"


def test_exhaustive(probe):
    """Every colour there is, as one picture of 4096 x 4096."""
    n = np.arange(1 << 24, dtype=np.uint32)
    picture = np.stack([n >> 16, n >> 8 & 255, n & 255], -1).astype(np.uint8).reshape(4096, 4096, 3)
    for factor in ([1.0, 1.0, 1.0, 0.07], [1.0, 1.0, 1.0, -0.1], [1.0, 1.0, 1.17, 0.0], [1.0, 1.0, 0.83, 0.0]):
        differences(probe, picture, plain(4096, jitter=1, factor=factor), "every colour")
    return "all 16,777,216 colours through hue and saturation bit-equal"


def test_blur(probe):
    differ = values = 0
    for i in range(150):
        size = dice.choice((5, 9, 32, 64, 98, 224))
        a, b = differences(probe, drawn(size, size), plain(size, sigma=dice.choice((0.1, 2.0, dice.uniform(0.1, 2.0)))), "blur")
        differ, values = differ + a, values + b
    if differ * 20000 > values:
        sys.exit(f"FAILED blur: {differ} of {values} values differ")
    return f"150 blurs: {differ} of {values} values differ by one level"


def test_chain(probe):
    """The whole chain with upstream's probabilities, down to the normalised floats."""
    normalise = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    to_tensor = transforms.ToTensor()
    differ = values = 0
    for i in range(300):
        w, h = dice.randint(20, 300), dice.randint(20, 300)
        picture, size = drawn(w, h), dice.choice((32, 64, 96, 98, 224))
        c = plain(size, flip=dice.randrange(2), grey=int(dice.random() < 0.2), solarize=int(dice.random() < 0.2),
                  sigma=dice.uniform(0.1, 2.0) if dice.random() < 0.5 else 0.0, **random_box(w, h))
        if dice.random() < 0.8:
            c.update(random_jitter())
        a, b = differences(probe, picture, c, "chain")
        want = normalise(to_tensor(theirs(picture, c))).numpy()
        floats = int((ours(probe, picture, c, "floats") != want).sum())
        if floats != a:
            sys.exit(f"FAILED chain: {c}: {a} bytes but {floats} floats differ")
        differ, values = differ + a, values + b
    if differ * 20000 > values:
        sys.exit(f"FAILED chain: {differ} of {values} values differ")
    return f"300 chains: {differ} of {values} values differ by one level, the rest bit-equal, as floats too"


def main():
    torch.set_num_threads(1)
    probe = Probe(sys.argv[1])
    tests = ["crop", "colour", "exhaustive", "blur", "chain"]
    if os.environ.get("DINOV_SANITIZED"):
        tests.remove("exhaustive")
    for name in sys.argv[2:] or tests:
        print(f"{name}: {globals()['test_' + name](probe)}", flush=True)


main()
