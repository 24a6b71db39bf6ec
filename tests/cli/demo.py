# SPDX-License-Identifier: Apache-2.0
"""The demonstration model: small, whole, computing here what it computed where it was made, and better than no training at all.

    demo.py BIN      BIN is the folder of the programs. Retrieval needs the shared pictures (DINOV_DATA, or ../shared/data)
"""
import json
import os
import subprocess
import sys
from pathlib import Path

BIN, ROOT = Path(sys.argv[1]).resolve(), Path(__file__).parents[2]
MODEL, DATA = ROOT / "demo/grocery.safetensors", Path(os.environ.get("DINOV_DATA", ROOT.parent / "shared" / "data"))
RAW_PIXELS, RANDOM = 12.6, 14.2  # R@1 in per cent, demo/README.md


def call(program, *arguments):
    done = subprocess.run([BIN / program, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


assert MODEL.stat().st_size <= 8_000_000, MODEL.stat().st_size
assert "golden vectors" in call("dinov-ckpt", "verify", "--id", "--run", MODEL)
assert json.loads(call("dinov-ckpt", "show", "--json", MODEL))["provenance"]["licence"] == "Apache-2.0"
if not DATA.is_dir():
    print(f"skipped: no pictures in {DATA}")
    sys.exit(77)
result = json.loads(call("dinov-eval", "knn", "-m", MODEL, "--train", DATA / "grocery-gallery.tar", "--test", DATA / "grocery-query.tar",
                         "-k", "1", "--json"))
recall = next(value for key, value in result.items() if key.endswith("Top 1"))
print(f"R@1 {recall:.2f} %: raw pixels {RAW_PIXELS}, a random network {RANDOM}")
assert recall > 2 + max(RAW_PIXELS, RANDOM)  # a query more or less is 0.4
