# SPDX-License-Identifier: Apache-2.0
"""The README's commands, in blocks and in tables, run as they stand on a small model under the file names they use.   readme.py BIN"""
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import OrderedDict
from pathlib import Path

import weightfiles
from infer import png

bin_dir = sys.argv[1]
text = (Path(__file__).parents[2] / "README.md").read_text()
lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.S) for line in block.splitlines() if line and not line.startswith("#")]
rows = re.findall(r"^\|.*\| `(dinov-[^`]*)` \|$", text, re.M)
assert len(lines) >= 8 and len(rows) >= 12, "the README's commands were not found"
lines += [row for row in rows if row not in lines]
with tempfile.TemporaryDirectory() as work:
    Path(work, "dinov2_vits14_pretrain.pth").write_bytes(weightfiles.pth_of(weightfiles.model(registers=0, depth=4)))
    teacher = OrderedDict(("teacher.backbone." + k, v) for k, v in weightfiles.model(registers=0, depth=4).items())
    Path(work, "teacher_checkpoint.pth").write_bytes(weightfiles.pth_of(teacher))
    Path(work, "photos").mkdir()
    for i in range(3):
        Path(work, "photos", f"{i}.png").write_bytes(png(120 + 30 * i, 90, i))
    for split, name in enumerate(("train", "val")):
        for label in ("cat", "dog"):
            Path(work, name, label).mkdir(parents=True)
            for i in range(3):
                Path(work, name, label, f"{i}.png").write_bytes(png(120, 90, 10 + 6 * split + 3 * (label == "dog") + i))
    Path(work, "shards").mkdir()
    with tarfile.open(f"{work}/shards/train-000.tar", "w") as shard:
        for i in range(3):
            shard.add(f"{work}/photos/{i}.png", f"{i}.png")
    for line in lines:
        done = subprocess.run(line, shell=True, cwd=work, env=dict(os.environ, PATH=f"{bin_dir}:{os.environ['PATH']}"), capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\nexit code {done.returncode}\n{done.stdout}{done.stderr}"
    for name in ("features/part-000000.cls.npy", "maps/part-000000.patch.npy", "maps/part-000000.offsets.npy", "plain.safetensors",
                 "results_eval_linear.json", "vits14.onnx", "golden/trtexec.txt", "vits14-hf/config.json", "from-onnx.safetensors"):
        assert Path(work, name).exists(), name
print(f"{len(lines)} commands ran")
