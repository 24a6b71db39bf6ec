# SPDX-License-Identifier: Apache-2.0
"""Full-size models on a device against the CPU's engine: one picture of 224 x 224, CLS and all patch tokens. Prints the table of
docs/numerics.md. On the host shim S takes seconds, g a quarter of an hour.

    device.py BIN INFER [NAME...]     BIN: the folder of the programs; INFER: dinov-infer of a CUDA build, or tests/infer_shim
"""
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

MODELS = {"S": [], "B": ["--dim", "768"], "L": ["--dim", "1024", "--depth", "24"], "g": ["--dim", "1536", "--depth", "40", "--swiglu"]}
BIN, INFER, *NAMES = sys.argv[1:]


def tokens(program, model, out, array, *words):
    begun = time.monotonic()
    subprocess.run([program, "-m", model, "-o", out, "-q", "--features", "cls,patch", *words, array], check=True)
    cls = np.load(os.path.join(out, "part-000000.cls.npy"))
    patch = np.load(os.path.join(out, "part-000000.patch.npy"))
    return np.concatenate([cls, patch.reshape(-1, cls.shape[1])]).astype(np.float64), time.monotonic() - begun


print("| model | computed in | over output | worst token | 1 - its cosine | seconds |\n|---|---|---|---|---|---|")
for name in NAMES or MODELS:
    with tempfile.TemporaryDirectory() as folder:
        model, array = os.path.join(folder, "m.safetensors"), os.path.join(folder, "x.npy")
        subprocess.run([os.path.join(BIN, "dinov-demo-model"), "-o", model, "--no-proof", *MODELS[name]], check=True, stderr=subprocess.DEVNULL)
        np.save(array, np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype("<f4"))
        want, _ = tokens(os.path.join(BIN, "dinov-infer"), model, os.path.join(folder, "cpu"), array)
        norms = np.linalg.norm(want, axis=1)
        for compute in ("f32", "f16", "bf16"):
            have, seconds = tokens(INFER, model, os.path.join(folder, compute), array, "--device", "cuda", "--compute", compute)
            worst = np.linalg.norm(have - want, axis=1) / norms
            cosine = (have * want).sum(1) / np.linalg.norm(have, axis=1) / norms
            print("| %s | %s | %.1e | %.1e | %.1e | %.0f |" % (
                name, compute, np.linalg.norm(have - want) / np.linalg.norm(want), worst.max(), 1 - cosine.min(), seconds), flush=True)
