# SPDX-License-Identifier: Apache-2.0
"""docs/example.c, built and run: its CLS vector begins as dinov-infer's, for a turned picture too.   example.py BIN"""
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from infer import png, turned

bin_dir = sys.argv[1]
with tempfile.TemporaryDirectory() as work:
    picture = f"{work}/picture.png"
    Path(picture).write_bytes(png(150, 70, exif=turned(6)))
    for preset, grid in (("eval:224", "16 x 16"), ("short:56", "4 x 9")):  # 70 x 150 once turned; eval does not turn
        model, out = f"{work}/{preset[:4]}.safetensors", f"{work}/{preset[:4]}"
        subprocess.run([f"{bin_dir}/dinov-demo-model", "--dim=64", "--depth=2", f"--preset={preset}", "-o", model], check=True)
        subprocess.run([f"{bin_dir}/dinov-infer", "-q", "-m", model, "-o", out, picture], check=True)
        line = subprocess.run([f"{bin_dir}/dinov-example", model, picture], check=True, capture_output=True, text=True).stdout
        want = np.load(f"{out}/part-000000.cls.npy")[0]
        expected = f"{grid} patches, CLS[64] = {want[0]:.6f} {want[1]:.6f} {want[2]:.6f} ...\n"
        assert line == expected, f"expected {expected!r}, found {line!r}"
    wrong = subprocess.run([f"{bin_dir}/dinov-example", picture, picture], capture_output=True, text=True)
    assert wrong.returncode == 1 and "CK-FORMAT" in wrong.stderr, wrong
