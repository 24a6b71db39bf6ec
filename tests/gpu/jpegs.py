# SPDX-License-Identifier: Apache-2.0
"""Pictures to decode: JPEGs of 500 x 375 as photographs are, smooth with edges and grain, about 60 kB each.
usage: jpegs.py FOLDER COUNT   (64 different ones, the rest links to them)"""
import os
import sys

try:
    import numpy as np
    from PIL import Image
except ImportError as why:
    print("no pictures are made:", why)
    sys.exit(77)

folder, count = sys.argv[1], int(sys.argv[2])
os.makedirs(folder)
for i in range(count):
    path = os.path.join(folder, "%05d.jpg" % i)
    if i >= 64:
        os.link(os.path.join(folder, "%05d.jpg" % (i % 64)), path)
        continue
    rng = np.random.default_rng(i)
    picture = np.zeros((375, 500, 3))
    for side in (3, 12, 48, 150):
        coarse = Image.fromarray(rng.integers(0, 256, (side, side * 4 // 3, 3), dtype=np.uint8))
        picture += np.asarray(coarse.resize((500, 375), Image.BICUBIC if side < 150 else Image.NEAREST)) * (0.5 if side < 48 else 0.12)
    picture += rng.normal(0, 4, picture.shape)
    Image.fromarray(np.clip(picture - 40, 0, 255).astype(np.uint8)).save(path, quality=88)
sizes = [os.path.getsize(os.path.join(folder, "%05d.jpg" % i)) for i in range(min(64, count))]
print("%d JPEGs, %d kB on average" % (count, sum(sizes) / len(sizes) / 1000))
