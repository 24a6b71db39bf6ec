# SPDX-License-Identifier: Apache-2.0
"""Our training step beside the official modules in PyTorch: the same crops and masks, two threads, in alternation.

    DINOV_UPSTREAM=checkout pretrain.py BENCH_PRETRAIN [tiny|small] [ROUNDS]

Each round starts both programs afresh, one after the other, and times a few steps of each; the ratio is taken round by round.
First losses are compared before any time is counted: both start from fresh weights of their own draw, so each loss must be
near ln K, as an untrained network's is.
"""
import json
import math
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PEER = Path(__file__).parent / "pretrain_peer.py"


def line(command):
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main():
    program, names, rounds = sys.argv[1], sys.argv[2:3] or ["tiny", "small"], int((sys.argv[3:] or [5])[0])
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, PEER, "inputs", name, folder], check=True)
            prototypes = json.loads((Path(folder) / "in/case.json").read_text())["dino"]["n_prototypes"]
            ratios, memory, ours, peers, fractions = [], [], [], [], []
            for _ in range(rounds):
                peer = line([sys.executable, PEER, "bench", folder, "--threads", "2", "--steps", "5"])
                us = line([program, folder, "2", "7"])
                for who in (peer, us):
                    first = who["first_losses"]
                    untrained = (first["dino_local_crops_loss"] + first["dino_global_crops_loss"],
                                 2 * first["ibot_loss"] / 0.5)  # of iBOT's mean over all crops, half are masked
                    assert all(abs(loss / math.log(prototypes) - 1) < 0.2 for loss in untrained), who
                ratios.append(peer["median_s"] / us["median_s"])
                memory.append(us["peak_mib"] / peer["peak_mib"])
                ours.append(us["median_s"]), peers.append(peer["median_s"]), fractions.append(us["of_peak"])
            spread = lambda values: f"{statistics.median(values):.2f} [{min(values):.2f} {max(values):.2f}]"
            print(f"{name}: {spread(ratios)} x the peer's speed; step {spread(ours)} s, peer {spread(peers)} s; "
                  f"{spread(fractions)} of the FMA peak; {spread(memory)} of its memory", flush=True)


main()
