# SPDX-License-Identifier: Apache-2.0
"""20-NN on CIFAR-10 with features anybody can compute: histograms of oriented gradients, for which others report 52.2, and raw
pixels, counted again by numpy for some of the queries.

    known.py DINOV_EVAL      needs numpy, Pillow and the shared pictures (DINOV_DATA, or ../shared/data beside the repository)
"""
import glob
import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

try:
    import numpy as np
    from PIL import Image
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

PROGRAM, QUERIES = sys.argv[1], 2000
DATA = Path(os.environ.get("DINOV_DATA", Path(__file__).parents[3] / "shared" / "data"))
if not (DATA / "cifar10-test.tar.gz").exists():
    print(f"skipped: no pictures in {DATA}")
    sys.exit(77)


def pictures(pattern):
    """uint8 [n, 32, 32, 3] and labels."""
    images, labels = [], []
    for shard in sorted(glob.glob(str(DATA / pattern))):
        with gzip.open(shard) as packed, tarfile.open(fileobj=io.BytesIO(packed.read())) as tar:
            for member in tar:
                data = tar.extractfile(member).read()
                if member.name.endswith(".cls"):
                    labels.append(int(data))
                else:
                    images.append(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    return np.stack(images), np.array(labels, "<i4")


def pixels(images):
    return (images.reshape(len(images), -1) / 255.0).astype("<f4")


def hog(images, cell=4, bins=9):
    """Histograms of 9 unsigned orientations in 4 x 4 cells of the grey picture, blocks of 2 x 2 cells of unit length."""
    grey = images.astype("f4").mean(-1)
    dx, dy = np.zeros_like(grey), np.zeros_like(grey)
    dx[:, :, 1:-1] = grey[:, :, 2:] - grey[:, :, :-2]
    dy[:, 1:-1] = grey[:, 2:] - grey[:, :-2]
    size, angle = np.hypot(dx, dy), np.mod(np.arctan2(dy, dx), np.pi) * (bins / np.pi)
    low = np.floor(angle).astype(int)
    share = angle - low
    n, side = len(grey), 32 // cell
    cells = np.zeros((n, side, side, bins), "f4")
    for b in range(bins):
        weight = size * ((low % bins == b) * (1 - share) + ((low + 1) % bins == b) * share)
        cells[..., b] = weight.reshape(n, side, cell, side, cell).sum((2, 4))
    blocks = np.concatenate([cells[:, i:side - 1 + i, j:side - 1 + j] for i in (0, 1) for j in (0, 1)], -1)
    blocks /= np.linalg.norm(blocks, axis=-1, keepdims=True) + 1e-3
    return blocks.reshape(n, -1).astype("<f4")


def accuracy(train, test, folder):
    """Top-1 of the program."""
    words = [PROGRAM, "knn", "-k", "20", "--json", "-q"]
    for name, (features, labels) in (("train", train), ("test", test)):
        for kind, array in (("", features), ("-labels", labels)):
            np.save(os.path.join(folder, f"{name}{kind}.npy"), array)
            words += [f"--{name}{kind}", os.path.join(folder, f"{name}{kind}.npy")]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)["('full', 20) Top 1"]


def recount(train, test):
    """The same in numpy."""
    (x, labels), (queries, want), right = train, test, 0
    x, queries = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, queries))
    for begin in range(0, len(queries), 100):
        for similarity, y in zip(queries[begin:begin + 100] @ x.T, want[begin:begin + 100]):
            near = np.argpartition(-similarity, 20)[:20]
            right += np.bincount(labels[near], np.exp(similarity[near] / 0.07)).argmax() == y
    return 100 * right / len(queries)


(train, train_labels), (test, test_labels) = pictures("cifar10-train-0*.tar.gz"), pictures("cifar10-test.tar.gz")
assert len(train) == 50000 and len(test) == 10000
with tempfile.TemporaryDirectory() as folder:
    got = accuracy((hog(train), train_labels), (hog(test), test_labels), folder)
    few = ((pixels(train), train_labels), (pixels(test[:QUERIES]), test_labels[:QUERIES]))
    raw, again = accuracy(*few, folder), recount(*few)
print(f"HOG: {got:.2f}, known 52.2; raw pixels, {QUERIES} queries: {raw:.2f}, numpy {again:.2f}")
# A query or two may lie on the edge of float32's rounding.
sys.exit(bool(abs(got - 52.2) > 0.5 or abs(raw - again) > 0.11))
