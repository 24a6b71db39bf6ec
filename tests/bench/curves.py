# SPDX-License-Identifier: Apache-2.0
"""The table of k-NN figures of docs/training.md: a column a run, of dinov-train or of pretrain_peer.py.

    curves.py NAME=RUN[,RUN...]...     runs joined by commas are seeds of one column: the mean, and each
"""
import json
import sys
from pathlib import Path


def figures(run):
    """{step: per cent}"""
    lines = [json.loads(line) for line in open(Path(run) / "metrics.jsonl")]
    ours = {line["iteration"]: line["knn_20"] for line in lines if "knn_20" in line}
    return ours or {line["step"]: 100 * line["knn20"] for line in lines if "knn20" in line}


columns = {name: [figures(run) for run in runs.split(",")] for name, _, runs in (item.partition("=") for item in sys.argv[1:])}
steps = sorted({step for seeds in columns.values() for seed in seeds for step in seed})
print("| step |", " | ".join(columns), "|")
print("| --- |", " | ".join("---" for _ in columns), "|")
for step in steps:
    cells = []
    for seeds in columns.values():
        values = [seed[step] for seed in seeds if step in seed]
        each = f" ({', '.join(f'{v:.2f}' for v in values)})" if len(seeds) > 1 else ""
        cells.append(f"{sum(values) / len(values):.2f}{each}" if len(values) == len(seeds) else "")
    print(f"| {step} |", " | ".join(cells), "|")
