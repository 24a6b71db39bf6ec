# SPDX-License-Identifier: Apache-2.0
"""Our ONNX graphs beside the official code's own export, in ONNX Runtime on the CPU: same seeded weights, batch 1, float32.

    DINOV_UPSTREAM=checkout onnx_forms.py BIN [S:224 S:518 B:224 ...] [--threads 2] [--pairs 15]

The peer is the official PyTorch model exported at that size (TorchScript exporter, its position table baked in). Ours are the portable
graph and `--fuse ort`, both with `--size`. Outputs are compared first; then the three run in turn, the faster of two runs each
time. Medians [min max]; a ratio above 1 means that ours is faster. Exit 77 when something needed is absent, 1 when outputs differ.
"""
import argparse
import subprocess
import sys
import tempfile
import time

import numpy as np

import ort
import parity
import seeded

FORMS = {"portable": [], "fused": ["--fuse", "ort"]}


def session(path, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def compare(args, name, side, work):
    config = dict(parity.HUB[name])
    model, official = f"{work}/model.safetensors", f"{work}/official.onnx"
    parity.make_model(args.bin, config, model)
    ort.export(config, side, official)
    sessions = {"official": session(official, args.threads)}
    for form, flags in FORMS.items():
        path = f"{work}/{form}.onnx"
        subprocess.run([f"{args.bin}/dinov-convert", model, "-o", path, "-q", "--no-check", "--size", str(side), *flags], check=True, stdout=subprocess.DEVNULL)
        sessions[form] = session(path, args.threads)
    x = seeded.pixels(1, side, side)

    def run(form):
        s = sessions[form]
        return s.run(None, {s.get_inputs()[0].name: x})

    want = np.concatenate([y.reshape(-1) for y in run("official")]).astype(np.float64)
    for form in FORMS:
        have = np.concatenate([y.reshape(-1) for y in run(form)]).astype(np.float64)
        difference = np.linalg.norm(have - want) / np.linalg.norm(want)
        if not difference < 1e-5:
            sys.exit(f"{name} {side} {form}: outputs differ by {difference:.2e}; nothing timed")
    times = {form: [] for form in sessions}
    for i in range(args.pairs + 1):
        for form in sessions:
            time.sleep(0.05)
            runs = []
            for _ in range(3):
                start = time.perf_counter()
                run(form)
                runs.append(time.perf_counter() - start)
            if i:
                times[form].append(min(runs[1:]))
    cells = [ort.spread(times["official"], 1e3, 1)]
    for form in FORMS:
        cells += [ort.spread(times[form], 1e3, 1), ort.ratios(times["official"], times[form])]
    print(f"| {name} | {side} | {' | '.join(cells)} |", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bin")
    parser.add_argument("cases", nargs="*", default=["S:224", "S:518", "B:224"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=15)
    args = parser.parse_args()
    ort.begin(args.threads)
    print("\n| model | side | official export, ms | portable, ms | ratio | `--fuse ort`, ms | ratio |\n|---|---|---|---|---|---|---|")
    for case in args.cases:
        name, side = case.split(":")
        with tempfile.TemporaryDirectory() as work:
            compare(args, name, int(side), work)


if __name__ == "__main__":
    main()
