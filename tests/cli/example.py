# SPDX-License-Identifier: Apache-2.0
"""docs/example.c, built and run: its CLS vector begins as dinov-infer's.   example.py BIN"""
import subprocess
import sys
import tempfile
import zlib

import numpy as np


def write_png(path, width, height):
    """A small RGB picture, without any library."""
    rows = b"".join(b"\0" + bytes((x * 3 + y * c * 7) % 256 for x in range(width) for c in range(3)) for y in range(height))
    chunk = lambda kind, data: len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    with open(path, "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


bin_dir = sys.argv[1]
with tempfile.TemporaryDirectory() as work:
    model, picture = f"{work}/model.safetensors", f"{work}/picture.png"
    write_png(picture, 300, 200)
    subprocess.run([f"{bin_dir}/dinov-demo-model", "--dim=64", "--depth=2", "-o", model], check=True)
    subprocess.run([f"{bin_dir}/dinov-infer", "-q", "-m", model, "-o", f"{work}/out", picture], check=True)
    line = subprocess.run([f"{bin_dir}/dinov-example", model, picture], check=True, capture_output=True, text=True).stdout
    want = np.load(f"{work}/out/part-000000.cls.npy")[0]
    expected = f"{picture}: 16 x 16 patches, CLS[64] = {want[0]:.6f} {want[1]:.6f} {want[2]:.6f} ...\n"
    assert line == expected, f"expected {expected!r}, found {line!r}"
    wrong = subprocess.run([f"{bin_dir}/dinov-example", picture, picture], capture_output=True, text=True)
    assert wrong.returncode == 1 and "CK-FORMAT" in wrong.stderr, wrong
