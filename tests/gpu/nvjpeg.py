# SPDX-License-Identifier: Apache-2.0
"""What --decode nvjpeg does to pictures: how far its pixels and features are from the CPU decoder's, that they are the same bits
from run to run, and how many damaged pictures each of the two lets through.
usage: nvjpeg.py INFER MODEL JPEGS [WORD...]   words for both runs (default --device cuda --compute bf16)"""
import os
import random
import subprocess
import sys
import tempfile

import numpy as np

INFER, MODEL, JPEGS = sys.argv[1:4]
WORDS = sys.argv[4:] or ["--device", "cuda", "--compute", "bf16"]


def infer(out, pictures, *words):
    run = subprocess.run([INFER, "-m", MODEL, "-o", out, "-q", "--max-bad", "100%", "--dump-input", *WORDS, *words, pictures],
                         stderr=subprocess.PIPE, text=True)
    if run.returncode:
        sys.exit(run.stderr)
    return {name: np.load(os.path.join(out, "part-000000.%s.npy" % name)) for name in ("cls", "input", "index")}


def spoil(folder):
    """Each sound picture with one kind of damage; the rest of it stays."""
    dice = random.Random(5)
    os.mkdir(folder)
    for i, name in enumerate(sorted(os.listdir(JPEGS))[:64]):
        with open(os.path.join(JPEGS, name), "rb") as file:
            data = bytearray(file.read())
        at = dice.randrange(len(data) // 3, len(data) - 100)
        for kind in ("cut", "bit", "zeros", "gap"):
            bad = bytearray(data)
            if kind == "cut":
                del bad[at:]
            elif kind == "bit":
                bad[at] ^= 1 << dice.randrange(8)
            elif kind == "zeros":
                bad[at:at + 64] = bytes(64)
            else:
                del bad[at:at + 64]
            with open(os.path.join(folder, "%s-%02d.jpg" % (kind, i)), "wb") as file:
                file.write(bad)


with tempfile.TemporaryDirectory() as work:
    sound = os.path.join(work, "sound")
    os.mkdir(sound)
    for name in sorted(os.listdir(JPEGS))[:64]:
        os.symlink(os.path.abspath(os.path.join(JPEGS, name)), os.path.join(sound, name))
    cpu = infer(os.path.join(work, "cpu"), sound)
    gpu, again = (infer(os.path.join(work, out), sound, "--decode", "nvjpeg") for out in ("gpu", "again"))
    levels = np.abs(cpu["input"] - gpu["input"]) * np.float32([0.229, 0.224, 0.225]).reshape(3, 1, 1) * 255
    cosine = (cpu["cls"] * gpu["cls"]).sum(-1) / np.linalg.norm(cpu["cls"], axis=-1) / np.linalg.norm(gpu["cls"], axis=-1)
    print("pixels of %d pictures, resized: %.2f levels apart on average, %.0f at most; features: cosine %.5f at least" %
          (len(levels), levels.mean(), levels.max(), cosine.min()))
    same = all(gpu[name].tobytes() == again[name].tobytes() for name in gpu)
    print("the same bits again:", "yes" if same else "NO")
    bad = os.path.join(work, "bad")
    spoil(bad)
    ours, theirs = infer(os.path.join(work, "bad-cpu"), bad)["index"], infer(os.path.join(work, "bad-gpu"), bad, "--decode", "nvjpeg")["index"]
    with open(os.path.join(work, "bad-cpu", "part-000000.keys.txt")) as file:
        kinds = np.array([os.path.basename(line).split("-")[0] for line in file])
    for kind in ("cut", "bit", "zeros", "gap"):
        a, b = (index["row"][kinds == kind] >= 0 for index in (ours, theirs))
        print("damaged (%s): of %d the CPU lets %d through, nvJPEG %d, %d of them refused by the CPU" % (kind, len(a), a.sum(), b.sum(), (b & ~a).sum()))
    cuts = theirs["row"][kinds == "cut"] >= 0
    sys.exit(0 if same and levels.mean() < 2 and not cuts.any() else 1)
