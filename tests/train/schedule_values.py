# SPDX-License-Identifier: Apache-2.0
"""Schedules of the official code, as rows of tests/unit/schedule_values.h. Needs DINOV_UPSTREAM, a checkout of facebookresearch/dinov2.

usage: schedule_values.py print             prints that file
       schedule_values.py check             the file says what the checkout says

CosineScheduler, build_schedulers and apply_scaling_rules_to_cfg are taken out of the checkout one by one, so that nothing that they do not
use needs to be installed.
"""
import ast
import math
import os
import re
import sys
from types import SimpleNamespace

UPSTREAM = os.environ.get("DINOV_UPSTREAM")
if not UPSTREAM:
    print("DINOV_UPSTREAM is not set")
    sys.exit(77)
try:
    import numpy as np
    import yaml
except ImportError as missing:
    print(missing)
    sys.exit(77)

STORE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "unit", "schedule_values.h")
RANKS = 1


class Dict(dict):
    """Keys as attributes too, as upstream's configurations have them."""
    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__


def taken(path, name, names):
    with open(os.path.join(UPSTREAM, path)) as file:
        node = next(n for n in ast.parse(file.read()).body if getattr(n, "name", None) == name)
    exec(compile(ast.unparse(node), path, "exec"), names)
    return names[name]


quiet = SimpleNamespace(info=lambda *_: None)
Scheduler = taken("dinov2/utils/utils.py", "CosineScheduler", {"np": np})
build = taken("dinov2/train/train.py", "build_schedulers", {"CosineScheduler": Scheduler, "logger": quiet})
scale = taken("dinov2/utils/config.py", "apply_scaling_rules_to_cfg",
              {"math": math, "logger": quiet, "distributed": SimpleNamespace(get_global_size=lambda: RANKS)})


def configuration(file, changes):
    config = Dict()
    for path in ("ssl_default_config.yaml", file):
        with open(os.path.join(UPSTREAM, "dinov2/configs", path)) as text:
            for group, keys in yaml.safe_load(text).items():
                config.setdefault(group, Dict()).update(keys)
    for change in changes:
        key, value = change.split("=")
        config[key.split(".")[0]][key.split(".")[1]] = yaml.safe_load(value)
    return config


# Name, upstream's file, ranks, what is changed. The last ones have ends where ends meet.
RECIPES = [
    ("the short recipe", "train/vitl16_short.yaml", 32, []),
    ("the giant's recipe", "train/vitg14.yaml", 256, []),
    ("one epoch of warm-up, in epochs of a step", "ssl_default_config.yaml", 1,
     ["train.OFFICIAL_EPOCH_LENGTH=1", "optim.epochs=9", "optim.warmup_epochs=1", "teacher.warmup_teacher_temp_epochs=1"]),
    ("nothing but warm-up", "ssl_default_config.yaml", 3,
     ["train.OFFICIAL_EPOCH_LENGTH=3", "optim.epochs=2", "optim.warmup_epochs=2", "teacher.warmup_teacher_temp_epochs=5"]),
    ("no warm-up, and frozen to the end", "ssl_default_config.yaml", 7,
     ["train.OFFICIAL_EPOCH_LENGTH=3", "optim.epochs=2", "optim.warmup_epochs=0", "teacher.warmup_teacher_temp_epochs=0",
      "optim.freeze_last_layer_epochs=4", "teacher.momentum_teacher=0.9", "optim.weight_decay_end=0.01"]),
]
# base, final, start, total, warmup, freeze of the class itself, which build_schedulers never freezes.
CLASSES = [(0.7, 0.1, 0.2, 12, 4, 3), (0.7, 0.1, 0.2, 12, 1, 5), (0.7, 0.1, 0.2, 12, 0, 12), (0.3, 0.9, 0.5, 7, 7, 0), (2.0, 1.0, 0.0, 0, 0, 0)]
KEYS = ["train.batch_size_per_gpu", "train.OFFICIAL_EPOCH_LENGTH", "optim.epochs", "optim.warmup_epochs", "optim.freeze_last_layer_epochs",
        "optim.base_lr", "optim.min_lr", "optim.weight_decay", "optim.weight_decay_end", "teacher.momentum_teacher",
        "teacher.final_momentum_teacher", "teacher.warmup_teacher_temp", "teacher.teacher_temp", "teacher.warmup_teacher_temp_epochs"]


def written():
    global RANKS
    yield "/* Printed by: DINOV_UPSTREAM=... tests/train/schedule_values.py print */"
    yield ""
    yield f"static const struct recipe {{\n    const char *name, *keys[{len(KEYS)}];\n    int         ranks;\n}} recipes[] = {{"
    rows = []
    for number, (name, file, ranks, changes) in enumerate(RECIPES):
        RANKS = ranks
        config = scale(configuration(file, changes))
        keys = ",\n         ".join('"%s=%s"' % (key, config[key.split(".")[0]][key.split(".")[1]]) for key in KEYS)
        yield f'    {{"{name}",\n        {{{keys}}},\n     {ranks}}},'
        total = config.optim.epochs * config.train.OFFICIAL_EPOCH_LENGTH
        epoch, warm = config.train.OFFICIAL_EPOCH_LENGTH, config.optim.warmup_epochs * config.train.OFFICIAL_EPOCH_LENGTH
        temperature = config.teacher.warmup_teacher_temp_epochs * epoch
        places = range(total + 10) if total < 100 else sorted(
            {0, 1, epoch - 1, epoch, 7777, warm - 1, warm, warm + 1, temperature - 1, temperature, total // 2, total - 1, total, 2 * total})
        lr, decay, momentum, teacher, last = build(config)
        for i in places:
            rows.append("    {%d, %d, {%s}}," % (number, i, ", ".join(repr(float(s[i])) for s in (lr, last, decay, momentum, teacher))))
    yield "};\n\n/* Recipe, iteration, {lr, last_layer_lr, weight_decay, momentum, teacher_temp}. */"
    yield "static const struct row {\n    int         recipe;\n    int64_t     iteration;\n    dinov_rates want;\n} rows[] = {"
    yield from rows
    yield "};\n\n/* CosineScheduler itself: base, final, start, total, warm-up, freeze; iteration; value. */"
    yield "static const struct point {\n    dinov_cosine schedule;\n    int64_t      iteration;\n    double       want;\n} points[] = {"
    for base, final, start, total, warmup, freeze in CLASSES:
        schedule = Scheduler(base, final, total, warmup, start, freeze)
        for i in range(total + 2):
            yield f"    {{{{{base}, {final}, {start}, {total}, {warmup}, {freeze}}}, {i}, {float(schedule[i])!r}}},"
    yield "};"


number = re.compile(r"-?\d+\.?\d*(?:e[-+]?\d+)?")
if sys.argv[1:] == ["print"]:
    with np.errstate(all="ignore"):
        print("\n".join(written()))
elif sys.argv[1:] == ["check"]:
    with open(STORE) as file, np.errstate(all="ignore"):
        have, want = file.read(), "\n".join(written()) + "\n"
    # Another build of NumPy may round a cosine otherwise.
    same = number.sub("#", have) == number.sub("#", want) and all(
        math.isclose(float(a), float(b), rel_tol=1e-15, abs_tol=1e-15) for a, b in zip(number.findall(have), number.findall(want)))
    print("%d numbers compared" % len(number.findall(want)))
    sys.exit(not same)
else:
    sys.exit(__doc__)
