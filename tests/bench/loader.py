# SPDX-License-Identifier: Apache-2.0
"""What the data cost: a step of dinov-train, whose loader decodes and cuts crops on the same cores, beside the step on crops in memory.

    DINOV_UPSTREAM=checkout loader.py BUILD [tiny|small] DATA... [--rounds 5]     BUILD: the build folder; DATA: pictures for dinov-train

Both train the cases of pretrain_peer.py on two threads; each round starts both programs afresh, one after the other.
"""
import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PEER = Path(__file__).parent / "pretrain_peer.py"
STEPS, WARM = 4, 2


def keys(case):
    """The case as dinov-train has it."""
    m, heads = case["model"], ("dino", "ibot")
    made = {"student.arch": "vit_custom", "student.embed_dim": m["dim"], "student.depth": m["depth"], "student.num_heads": m["heads"],
            "student.patch_size": m["patch"], "student.drop_path_rate": case["drop_path"], "train.centering": case["centering"],
            "train.batch_size_per_gpu": case["batch"], "crops.local_crops_number": case["local_crops"],
            "crops.global_crops_size": case["global_size"], "crops.local_crops_size": case["local_size"], "train.log_every": 1}
    for head in heads:
        made |= {f"{head}.head_n_prototypes": case[head]["n_prototypes"]}
    return [f"{key}={value}" for key, value in made.items()]


def cached(build, folder):
    done = subprocess.run([build / "tests/bench_pretrain", folder, "2", str(STEPS)], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])["median_s"]


def loaded(build, case, data):
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([build / "bin/dinov-train", "pretrain", "-q", "-t", "2", "-o", f"{folder}/run", *data, *keys(case),
                               "--stop-after", str(WARM + STEPS + 1)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in open(f"{folder}/run/metrics.jsonl")][1:]
        # A line's rate is that of all steps before it.
        ends = [(line["iteration"] - 1) * case["batch"] / line["images_per_s"] for line in lines]
        steps = [later - sooner for sooner, later in zip(ends, ends[1:])]
        return statistics.median(steps[WARM - 1:]), lines[-1]["waited_for_data"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("case", choices=("tiny", "small"))
    parser.add_argument("data", nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, PEER, "inputs", args.case, folder], check=True)
        case = json.loads((Path(folder) / "in/case.json").read_text())
        ratios, waits = [], []
        for _ in range(args.rounds):
            memory = cached(args.build, folder)
            step, waited = loaded(args.build, case, args.data)
            ratios.append(step / memory), waits.append(waited)
    print(f"{args.case}: {statistics.median(ratios):.3f} [{min(ratios):.3f} {max(ratios):.3f}] x the step on crops in memory; "
          f"waited for data at most {100 * max(waits):.2f} % of the time")


main()
