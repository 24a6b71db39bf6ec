# SPDX-License-Identifier: Apache-2.0
"""Prints tests/unit/schedule_values.h: upstream's schedules of its short recipe. Needs DINOV_UPSTREAM, a checkout of facebookresearch/dinov2.

The class is taken out of dinov2/utils/utils.py by itself, so that nothing else of upstream needs to be installed.
"""
import ast
import math
import os
from pathlib import Path

import numpy as np

source = (Path(os.environ["DINOV_UPSTREAM"]) / "dinov2/utils/utils.py").read_text()
node = next(n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == "CosineScheduler")
names = {"np": np}
exec(ast.unparse(node), names)
Scheduler = names["CosineScheduler"]

EPOCH, TOTAL = 1250, 100 * 1250
lr = Scheduler(0.004 * math.sqrt(64 * 32 / 1024.0), 1e-6, TOTAL, 10 * EPOCH, 0)
last = Scheduler(0.004 * math.sqrt(64 * 32 / 1024.0), 1e-6, TOTAL, 10 * EPOCH, 0)
last.schedule[:EPOCH] = 0
wd, momentum = Scheduler(0.04, 0.4, TOTAL), Scheduler(0.992, 1, TOTAL)
temperature = Scheduler(0.07, 0.07, 30 * EPOCH, 30 * EPOCH, 0.04)
print("/* Made by tests/train/schedule_values.py: iteration, {lr, last_layer_lr, weight_decay, momentum, teacher_temp}. */")
for i in (0, 1, 1249, 1250, 7777, 12499, 12500, 12501, 37499, 37500, 62500, 124999, 125000, 200000):
    values = ", ".join(repr(float(s[i])) for s in (lr, last, wd, momentum, temperature))
    print(f"{{{i}, {{{values}}}}},")
