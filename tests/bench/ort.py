# SPDX-License-Identifier: Apache-2.0
"""dinov against ONNX Runtime on the CPU: ViT-S/14 and B/14 at 224, batch 1, float32, same seeded weights.

    DINOV_UPSTREAM=checkout ort.py BIN [--threads 2] [--pairs 15] [--side 224] [S B ...]

The peer's graph is the official PyTorch model exported at this size (its position table baked in). Outputs are
compared first. Then runs alternate, ours and theirs, with a pause so that the other's idle threads stop spinning;
and fresh processes are started in turn for open + first run and for the peak resident set. Medians [min max].
Exit 77 when something needed is absent, 1 when outputs differ.
"""
import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "parity"))
import parity
import seeded

PEER = """
import sys, time, numpy as np, onnxruntime as ort
x = np.fromfile(sys.argv[2], np.float32).reshape(1, 3, int(sys.argv[3]), int(sys.argv[3]))
o = ort.SessionOptions(); o.intra_op_num_threads = int(sys.argv[4])
t = time.perf_counter()
s = ort.InferenceSession(sys.argv[1], o, providers=["CPUExecutionProvider"])
u = time.perf_counter()
s.run(None, {"x": x})
v = time.perf_counter()
peak = [l for l in open("/proc/self/status") if l.startswith("VmHWM")][0].split()[1]
print(u - t, v - u, peak)
"""


def spread(values, scale=1.0, digits=2):
    values = sorted(v * scale for v in values)
    return f"{values[len(values) // 2]:.{digits}f} [{values[0]:.{digits}f} {values[-1]:.{digits}f}]"


def ratios(theirs, ours):
    return spread([t / o for t, o in zip(theirs, ours)])


def export(config, side, path):
    import torch

    net = parity.official(config)

    class Features(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            out = self.net.forward_features(x)
            return out["x_norm_clstoken"], out["x_norm_patchtokens"]

    torch.onnx.export(Features(), torch.zeros(1, 3, side, side), path, opset_version=17, dynamo=False,
                      input_names=["x"], output_names=["cls", "patch"])


def compare(args, name, work):
    import onnxruntime as ort

    config = dict(parity.HUB[name], grid=args.side // 14)
    model, graph, pixels, out = (f"{work}/{f}" for f in ("model.safetensors", "model.onnx", "x.f32", "y.f32"))
    parity.make_model(args.bin, config, model)
    export(config, args.side, graph)
    x = seeded.pixels(1, args.side, args.side)
    x.tofile(pixels)
    ours_command = [f"{args.bin}/../tests/bench_engine", model, str(args.side), pixels, out, str(args.threads)]
    peer_command = [sys.executable, "-c", PEER, graph, pixels, str(args.side), str(args.threads)]

    # Fresh processes: open + first run, peak memory.
    fresh = {"ours": [], "peer": []}
    for _ in range(6):
        for who, command in (("ours", ours_command), ("peer", peer_command)):
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
            fresh[who].append([float(v) for v in done.stdout.split()[:3]])
    fresh = {who: np.array(rows[1:]) for who, rows in fresh.items()}  # the first pair warms the page cache

    process = subprocess.Popen(ours_command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    isa = process.stdout.readline().split()[3]
    options = ort.SessionOptions()
    options.intra_op_num_threads = args.threads
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    want = np.concatenate([o.reshape(-1) for o in session.run(None, {"x": x})]).astype(np.float64)
    have = np.fromfile(out, np.float32).astype(np.float64)
    difference = np.linalg.norm(have - want) / np.linalg.norm(want)
    if not difference < 1e-5:
        sys.exit(f"{name}: outputs differ by {difference:.2e}; nothing timed")

    def ours():
        process.stdin.write("run\n")
        process.stdin.flush()
        return float(process.stdout.readline())

    def peer():
        start = time.perf_counter()
        session.run(None, {"x": x})
        return time.perf_counter() - start

    times = {"ours": [], "peer": []}
    for i in range(args.pairs + 2):
        for who, run in (("ours", ours), ("peer", peer)):
            time.sleep(0.08)
            run()  # wakes its threads
            value = min(run(), run())
            if i >= 2:
                times[who].append(value)
    process.stdin.close()
    process.wait()

    start = {who: rows[:, 0] + rows[:, 1] for who, rows in fresh.items()}
    flop = {"S": 12.25, "B": 46.3, "L": 162.3}.get(name) if args.side == 224 else None
    rate = f", {flop / np.median(times['ours']):.0f} GFLOP/s" if flop else ""
    print(f"{name}/14 {args.side} {isa}, {args.threads} threads, outputs differ by {difference:.1e}{rate}")
    print(f"  run            ours {spread(times['ours'], 1e3)} ms, ONNX Runtime {spread(times['peer'], 1e3)} ms, speed {ratios(times['peer'], times['ours'])} x")
    print(f"  open + first   ours {spread(start['ours'], 1e3, 0)} ms, ONNX Runtime {spread(start['peer'], 1e3, 0)} ms, ours takes {ratios(start['ours'], start['peer'])} x")
    print(f"  peak memory    ours {spread(fresh['ours'][:, 2], 1 / 1024, 0)} MiB, ONNX Runtime {spread(fresh['peer'][:, 2], 1 / 1024, 0)} MiB, ours takes {ratios(fresh['ours'][:, 2], fresh['peer'][:, 2])} x", flush=True)


def begin(threads):
    """What the figures were made on; ends with 77 where something needed is absent."""
    if "DINOV_UPSTREAM" not in os.environ:
        print("skipped: DINOV_UPSTREAM is not set")
        sys.exit(77)
    try:
        import onnxruntime
        import torch
    except ImportError as missing:
        print(f"skipped: {missing}")
        sys.exit(77)
    cpu = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    print(f"{time.strftime('%Y-%m-%d')}, {cpu[0] if cpu else platform.machine()} x {len(cpu)}, {threads} threads, onnxruntime {onnxruntime.__version__}, torch {torch.__version__}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bin")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--side", type=int, default=224)
    args = parser.parse_args()
    begin(args.threads)
    for name in args.names or ["S", "B"]:
        with tempfile.TemporaryDirectory() as work:
            compare(args, name, work)


if __name__ == "__main__":
    main()
