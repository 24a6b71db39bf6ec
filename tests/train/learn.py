# SPDX-License-Identifier: Apache-2.0
"""It learns: 300 steps of learn.yaml on CIFAR-10 without labels let the losses fall, and 20-NN on the averaged model's features
beats the same network at random by more than MARGIN points. A figure of 10,000 pictures has a standard deviation of half a point;
six points were seen, on AVX-512.

    learn.py BIN      BIN is the folder of the programs. Needs the shared pictures (DINOV_DATA, or ../shared/data beside the repository)
"""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

BIN, HERE = Path(sys.argv[1]).resolve(), Path(__file__).parent
DATA = Path(os.environ.get("DINOV_DATA", Path(__file__).parents[3] / "shared" / "data"))
TRAIN, TEST = sorted(map(str, DATA.glob("cifar10-train-*.tar.gz"))), str(DATA / "cifar10-test.tar.gz")
STEPS, MARGIN = 300, 4

if not TRAIN:
    print(f"skipped: no pictures in {DATA}")
    sys.exit(77)


def call(program, *arguments):
    done = subprocess.run([BIN / program, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode in (0, 143), done.stderr[-1000:]  # 143: --stop-after
    return done.stdout


def neighbours(backbone):
    """Accuracy of 20-NN in per cent: 10,000 training pictures vote."""
    result = json.loads(call("dinov-eval", "knn", "-m", backbone, "--train", TRAIN[0], "--test", TEST, "-k", "20", "--preset",
                             "square:32", "--json"))
    return next(value for key, value in result.items() if key.endswith("Top 1"))


with tempfile.TemporaryDirectory(prefix="dinov-learn-") as folder:
    run = Path(folder) / "run"
    command = ["dinov-train", "pretrain", "-q", "-o", run, "-c", HERE / "learn.yaml", "optim.epochs=3", *TRAIN]
    watch = [f"evaluation.knn_every={STEPS}", f"evaluation.knn_train={TRAIN[0]}", f"evaluation.knn_test={TEST}"]
    call(*command, *watch, "--stop-after", 1)
    random = neighbours(run / "step-000000001" / "backbone.safetensors")  # the rate is still almost zero: as drawn
    call(*command, *watch)
    learnt = neighbours(run / f"step-{STEPS:09d}" / "backbone.safetensors")
    lines = [json.loads(line) for line in open(run / "metrics.jsonl")]

watched = [line["knn_20"] for line in lines if "knn_20" in line]
mean = lambda part, key: sum(line[key] for line in part) / len(part)
print(f"20-NN: {random:.2f} % at random, {learnt:.2f} % after {STEPS} steps; while training {watched}")
for key in ("dino_local_crops_loss", "dino_global_crops_loss", "ibot_loss"):
    first, last = mean(lines[:3], key), mean(lines[-3:], key)
    print(f"{key}: {first:.3f}, then {last:.3f}")
    assert last < first, key
assert len(watched) == 1 and abs(watched[-1] - learnt) < 0.005, "the figure while training is not dinov-eval's"
assert learnt > random + MARGIN
