# SPDX-License-Identifier: Apache-2.0
"""20-NN on CIFAR-10 with features anybody can compute: pixels, and histograms of oriented gradients. What others get is known.

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

PROGRAM = sys.argv[1]
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
    """As they are: 0 to 1."""
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


train, test = pictures("cifar10-train-0*.tar.gz"), pictures("cifar10-test.tar.gz")
assert len(train[0]) == 50000 and len(test[0]) == 10000
failed = False
with tempfile.TemporaryDirectory() as folder:
    at = lambda name: os.path.join(folder, name)
    np.save(at("train-labels.npy"), train[1])
    np.save(at("test-labels.npy"), test[1])
    for feature, known in ((pixels, 39.4), (hog, 52.2)):
        np.save(at("train.npy"), feature(train[0]))
        np.save(at("test.npy"), feature(test[0]))
        done = subprocess.run([PROGRAM, "knn", "-k", "20", "--json", "-q", "--train", at("train.npy"), "--test", at("test.npy"),
                               "--train-labels", at("train-labels.npy"), "--test-labels", at("test-labels.npy")],
                              check=True, capture_output=True, text=True)
        top1 = json.loads(done.stdout)["('full', 20) Top 1"]
        print(f"{feature.__name__}: {top1:.2f}, known {known}")
        failed |= abs(top1 - known) > 1.0
sys.exit(failed)
