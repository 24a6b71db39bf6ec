# SPDX-License-Identifier: Apache-2.0
"""The peer of bench_augment: upstream's DataAugmentationDINO (DINOV_UPSTREAM), on one thread, on the same kind
of pictures, beside ours in the same run.

usage: augment.py BENCH_AUGMENT
"""
import os
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "train"))
sys.path.insert(0, os.environ["DINOV_UPSTREAM"])

from vision import torch  # noqa: E402
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402
from dinov2.data.augmentations import DataAugmentationDINO  # noqa: E402

torch.set_num_threads(1)
print("ours:", subprocess.run([sys.argv[1]], capture_output=True, text=True, check=True).stdout, sep="\n", end="")
print("upstream:")
for w, h, big, small in ((32, 32, 64, 32), (144, 144, 98, 42), (500, 375, 224, 98)):
    i = np.arange(3 * w * h)
    picture = Image.fromarray((i // 3 % w * 2 + i // w + i * i % 23).astype(np.uint8).reshape(h, w, 3))
    augment = DataAugmentationDINO((0.32, 1.0), (0.05, 0.32), 8, global_crops_size=big, local_crops_size=small)
    runs = []
    for _ in range(9):
        begin = time.process_time()
        for _ in range(16):
            augment(picture)
        runs.append((time.process_time() - begin) / 16 * 1e3)
    print(f"{w} x {h} into 2 x {big} and 8 x {small}: {statistics.median(runs):.3f} ms an image ({min(runs):.3f} to {max(runs):.3f})")
