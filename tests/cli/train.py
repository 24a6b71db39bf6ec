# SPDX-License-Identifier: Apache-2.0
"""dinov-train from outside: training goes on bit for bit after any stop, refuses what is another run, and distils.

    train.py BIN      BIN is the folder of the programs. Pictures are drawn here.

DINOV_KILLS and DINOV_TERMS: so many chains of kills, and stops by SIGTERM (6, 3). DINOV_RECORD=1: append a line for each to
tests/reliability/LEDGER.tsv.
"""
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

try:
    import numpy as np
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "reliability"))
import ledger  # noqa: E402

BIN = Path(sys.argv[1]).resolve()
TRAIN = str(BIN / "dinov-train")
KILLS, TERMS = int(os.environ.get("DINOV_KILLS", "6")), int(os.environ.get("DINOV_TERMS", "3"))

# A model of two blocks, ten steps.
MODEL = ["student.arch=vit_custom", "student.embed_dim=32", "student.depth=2", "student.num_heads=2", "student.patch_size=8",
         "crops.global_crops_size=32", "crops.local_crops_size=16", "crops.local_crops_number=2", "train.batch_size_per_gpu=4",
         "dino.head_n_prototypes=64", "dino.head_hidden_dim=32", "dino.head_bottleneck_dim=16", "train.num_workers=2",
         "optim.epochs=10", "optim.warmup_epochs=1", "train.OFFICIAL_EPOCH_LENGTH=1", "train.save_every=2", "train.log_every=1"]

failures = []


def png(pixels):
    """uint8 [h, w, 3]"""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) +
            chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def check(condition, what):
    if not condition:
        failures.append(what)
        print("FAILED", what)


def run(*arguments, code=0, says=""):
    done = subprocess.run([TRAIN, *map(str, arguments)], capture_output=True, text=True)
    told = done.stdout + done.stderr
    check(done.returncode == code and says in told, f"{arguments[0]} {arguments[1:4]}: code {done.returncode}, wanted {code} and {says!r}: {told[-600:]}")
    return done


def pretrain(folder, *more, **expect):
    return run("pretrain", "-o", folder, "pictures", *MODEL, "-q", *more, **expect)


def files(step):
    """All but the manifest, which names the run's own folder."""
    return {f.name: f.read_bytes() for f in Path(step).iterdir() if f.name != "manifest.json"}


def same_end(folder):
    check(files(f"{folder}/step-000000010") == files("whole/step-000000010"), f"{folder}: the last checkpoint differs from the undisturbed run's")
    lines = [json.loads(line)["iteration"] for line in open(f"{folder}/metrics.jsonl")]
    check(lines == list(range(1, 11)), f"{folder}: metrics of steps {lines}")


def record(harness, cases, begin, remark=""):
    if os.environ.get("DINOV_RECORD"):
        ledger.record(harness, cases, time.time() - begin, len(failures), remark)


def stops():
    """Stopped, killed and terminated runs end in the same bits, whatever their threads and workers."""
    pretrain("whole")
    pretrain("parts", "--stop-after", "3", "-t", "1")
    pretrain("parts", "--stop-after", "7", "-t", "3", "train.num_workers=1")
    pretrain("parts", "train.recompute=true")
    same_end("parts")
    random.seed(1)
    begin, kills = time.time(), 0
    for i in range(KILLS):
        for _ in range(random.randint(1, 3)):
            kills += 1
            child = subprocess.Popen([TRAIN, "pretrain", "-o", "killed", "pictures", *MODEL, "-q"])
            time.sleep(random.uniform(0.02, 0.5))
            child.send_signal(signal.SIGKILL)
            child.wait()
        pretrain("killed")
        same_end("killed")
        shutil.rmtree("killed")
    record("train_kill", KILLS, begin, f"chains, {kills} kills in all; the end is bit for bit the undisturbed run's")
    begin, terminated = time.time(), 0
    for i in range(TERMS):
        child = subprocess.Popen([TRAIN, "pretrain", "-o", "ended", "pictures", *MODEL, "-q", "optim.epochs=400"], stderr=subprocess.PIPE, text=True)
        while not list(Path(".").glob("ended/step-*/manifest.json")) and child.poll() is None:
            time.sleep(0.02)
        child.send_signal(signal.SIGTERM)
        terminated += child.wait() == 143
        newest = max(Path("ended").glob("step-*"))
        check((newest / "manifest.json").exists(), "SIGTERM left a step without its manifest")
        shutil.rmtree("ended")
    check(terminated == TERMS, f"{terminated} of {TERMS} runs ended with 143 on SIGTERM")
    record("train_term", TERMS, begin, f"{terminated} ended with 143 and a whole checkpoint")


def refusals():
    pretrain("whole", "optim.base_lr=0.1", code=64, says="CFG-CHANGED")
    pretrain("whole", "--isa", "ref", code=2, says="RUN-ISA") if isa() != "ref" else None
    pretrain("new", "--fork", "whole@3", code=3, says="RUN-STEP")
    pretrain("new", "--fork", "whole@10", "student.embed_dim=64", code=64, says="student.embed_dim")
    pretrain("new", "--fork", "whole@10", "dino.head_hidden_dim=48", code=2, says="STATE-TENSOR")
    pretrain("file/run", code=3, says="RUN-OPEN")
    pretrain("new", "optim.epoch=3", code=64, says="optim.epochs")
    run("pretrain", "-o", "new", *MODEL, code=64, says="CFG-DATA")
    run("pretrain", "-o", "new", "nothing-here", *MODEL, "-q", code=3, says="nothing-here")
    Path("empty").mkdir()
    run("pretrain", "-o", "new", "empty", *MODEL, "-q", code=2, says="INPUT-EMPTY")
    run("pretrain", code=64)
    run("distill", "-o", "new", "pictures", code=64, says="--teacher")
    child = subprocess.Popen([TRAIN, "pretrain", "-o", "locked", "pictures", *MODEL, "-q", "optim.epochs=4000"])
    while not Path("locked/config.yaml").exists() and child.poll() is None:
        time.sleep(0.02)
    pretrain("locked", "optim.epochs=4000", code=3, says="RUN-LOCK")
    child.kill()
    child.wait()


def isa():
    return json.loads(Path("whole/step-000000010/manifest.json").read_text())["isa"]


def verify(operand, code, says):
    done = subprocess.run([BIN / "dinov-ckpt", "verify", operand], capture_output=True, text=True)
    check(done.returncode == code and says in done.stdout + done.stderr, f"verify {operand}: {done.returncode} {done.stdout} {done.stderr}")


def damage():
    """A damaged newest checkpoint is named and passed over; a run of nothing else says so."""
    verify("whole", 0, "whole/step-000000010: manifest, backbone and")
    shutil.copytree("whole", "damaged")
    state = next(Path("damaged/step-000000010").glob("state-*"))
    whole = state.read_bytes()
    state.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    verify("damaged@10", 2, "CK-")
    state.write_bytes(whole)
    path = Path("damaged/step-000000010/manifest.json")
    bytes_ = bytearray(path.read_bytes())
    bytes_[100] ^= 1
    path.write_bytes(bytes_)
    verify("damaged", 2, "CKPT-DAMAGED")
    done = run("pretrain", "-o", "damaged", "pictures", *MODEL)
    check("passing over" in done.stderr and "MAN-DIGEST" in done.stderr, f"a damaged manifest is not named: {done.stderr[:400]}")
    same_end("damaged")
    state = next(Path("damaged/step-000000010").glob("state-*"))
    state.write_bytes(state.read_bytes()[:-4])
    done = run("pretrain", "-o", "damaged", "pictures", *MODEL)
    check("passing over" in done.stderr, f"a state that was cut is not named: {done.stderr[:400]}")
    same_end("damaged")
    for step in Path("damaged").glob("step-*"):
        (step / "backbone.safetensors").unlink()
    pretrain("damaged", code=2, says="RUN-BROKEN")
    run("pretrain", "-o", "new", "--fork", "damaged/step-000000010", "pictures", *MODEL, "-q", code=2, says="MAN-FILE")


def distil():
    run("distill", "-o", "student", "--teacher", "whole", "pictures", *MODEL, "-q", "student.embed_dim=16", "student.depth=1")
    made = subprocess.run([BIN / "dinov-ckpt", "verify", "--run", "student/step-000000010/backbone.safetensors"], capture_output=True, text=True)
    check(made.returncode == 0, f"the student's backbone does not prove itself: {made.stdout}{made.stderr}")
    run("distill", "-o", "student", "--teacher", "whole@8", "pictures", *MODEL, "-q", "student.embed_dim=16", "student.depth=1", code=64, says="CFG-CHANGED")
    run("distill", "-o", "other", "--teacher", "whole", "pictures", *MODEL, "-q", "dino.head_n_prototypes=32", code=64, says="CFG-TEACHER")


def others():
    pretrain("forked", "--fork", "whole@10", "optim.epochs=12", "optim.base_lr=0.001")
    check(Path("forked/step-000000012/manifest.json").exists(), "a fork has not gone on to step 12")
    run("pretrain", "-o", "init", "--init", "whole/step-000000010/backbone.safetensors", "pictures", *MODEL, "-q", "optim.epochs=1")
    plan = run("pretrain", "-o", "plan", "--dry-run", "pictures", *MODEL, says="10 steps").stdout
    check("memory" in plan and Path("plan.preview.png").read_bytes()[:4] == b"\x89PNG" and not Path("plan").exists(), "the dry run's plan or picture")
    told = run("report", "whole", says="step 10 of 10; ").stdout
    check("feature_rank" in told and "total_loss" in told, f"the report: {told}")
    run("report", "pictures", code=3)
    Path("begun").mkdir()
    shutil.copy("whole/config.yaml", "begun")
    Path("begun/metrics.jsonl").write_text("")
    run("report", "begun", code=2, says="RUN-METRICS")
    printed = run("config", *MODEL).stdout
    Path("mine.yaml").write_text(printed)
    check(run("config", "-c", "mine.yaml").stdout == printed, "a printed configuration reads back differently")
    # Numbers that are not finite end the run with the last good state, and name their pictures.
    pretrain("hot", "optim.base_lr=1e9", "optim.warmup_epochs=0", "optim.clip_grad=0", "optim.epochs=40", code=4, says="TRAIN-BAD")
    replay = json.loads(next(Path("hot").glob("replay-*.json")).read_text())
    check(len(replay["pictures"]) == 4 and replay["not_finite"], f"the replay file: {replay}")
    check(list(Path("hot").glob("step-*/manifest.json")), "a run that ended on bad steps has no checkpoint")
    # A bad picture costs one picture.
    shutil.copytree("pictures", "some")
    Path("some/cut.png").write_bytes(Path("pictures/0.png").read_bytes()[:60])
    done = run("pretrain", "-o", "bad", "some", *MODEL)
    check("cut.png" in done.stderr, f"the bad picture is not named: {done.stderr[-300:]}")
    # One picture on the disk, a batch of one.
    run("pretrain", "-o", "single", "pictures/0.png", *MODEL, "-q", "train.batch_size_per_gpu=1")


def watched():
    """The k-NN figure while training is what dinov-eval says of the same step's backbone."""
    for i in range(12):
        to = Path(f"labelled/{'ab'[i % 2]}")
        to.mkdir(parents=True, exist_ok=True)
        shutil.copy(f"pictures/{i}.png", to)
    pretrain("watched", "evaluation.knn_every=10", "evaluation.knn_train=labelled", "evaluation.knn_test=labelled")
    figure = [json.loads(line)["knn_20"] for line in open("watched/metrics.jsonl") if "knn_20" in line]
    told = subprocess.run([BIN / "dinov-eval", "knn", "-m", "watched/step-000000010/backbone.safetensors", "--train", "labelled", "--test",
                           "labelled", "-k", "20", "--preset", "square:32", "--json"], capture_output=True, text=True).stdout
    said = [value for key, value in (json.loads(told) if told else {}).items() if key.endswith("Top 1")]
    check(len(figure) == 1 and len(said) == 1 and abs(figure[0] - said[0]) < 0.01, f"the k-NN figure {figure} while training, {told}")


def taken():
    """A run is a model: its newest step, or the one that is named."""
    for operand, step in (("watched", 10), ("watched@6", 6), ("watched/step-000000006", 6)):
        rows = []
        for model in (operand, f"watched/step-{step:09d}/backbone.safetensors"):
            shutil.rmtree("features", ignore_errors=True)
            told = subprocess.run([BIN / "dinov-infer", "-m", model, "-o", "features", "pictures"], capture_output=True, text=True)
            check(told.returncode == 0 and (model != operand or f"averaged model of step {step}" in told.stderr), f"{model}: {told.stderr}")
            rows.append(np.load("features/part-000000.cls.npy"))
        check((rows[0] == rows[1]).all(), f"features of {operand}")
    told = subprocess.run([BIN / "dinov-convert", "watched@6", "-o", "six.safetensors"], capture_output=True, text=True)
    check(told.returncode == 0 and "watched/step-000000006/backbone.safetensors" in told.stderr, f"dinov-convert of a run: {told.stderr}")
    Path("watched/step-000000006/manifest.json").write_text("{}")
    told = subprocess.run([BIN / "dinov-infer", "-m", "watched/step-000000006", "-o", "none", "pictures"], capture_output=True, text=True)
    check(told.returncode == 2 and "[MAN-" in told.stderr, f"a broken manifest: {told.returncode} {told.stderr}")
    told = subprocess.run([BIN / "dinov-infer", "-m", "watched@7", "-o", "none", "pictures"], capture_output=True, text=True)
    check(told.returncode == 3 and "RUN-STEP" in told.stderr, f"a step that is not there: {told.returncode} {told.stderr}")


def main():
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("pictures").mkdir()
        Path("file").write_text("")
        for i in range(12):
            small = rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)
            Path(f"pictures/{i}.png").write_bytes(png(np.kron(small, np.ones((9, 8, 1), dtype=np.uint8))))
        for part in (stops, refusals, damage, distil, others, watched, taken):
            part()
        os.chdir("/")
    print(f"{len(failures)} failures")
    return bool(failures)


sys.exit(main())
