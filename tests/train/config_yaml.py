# SPDX-License-Identifier: Apache-2.0
"""Configurations against PyYAML: what dinov-train config prints is what a merge of the same files by PyYAML has.

usage: config_yaml.py DINOV-TRAIN

Presets and files made up from a seed in many spellings; with DINOV_UPSTREAM, a checkout of facebookresearch/dinov2, its own files too: every
one is read, every key is known, defaults are its defaults, and what has no effect here is named.
"""
import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import yaml
except ImportError as missing:
    print(missing)
    sys.exit(77)

ROOT = Path(__file__).resolve().parents[2]
UPSTREAM = os.environ.get("DINOV_UPSTREAM")
program = sys.argv[1]
bad = 0


def complain(*words):
    global bad
    bad += 1
    print(*words)


def flat(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, prefix + key + ".")
        else:
            yield prefix + key, value


def load(text):
    return dict(flat(yaml.safe_load(text) or {}))


def same(a, b):
    """PyYAML takes 1e-06 for a text; so do only those of upstream's readers that are not OmegaConf."""
    if isinstance(a, list) or isinstance(b, list):
        return isinstance(a, list) and isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, bool) or isinstance(b, bool) or not (isinstance(a, (int, float)) or isinstance(b, (int, float))):
        return a == b and type(a) is type(b)
    try:
        return float(a) == float(b)
    except (TypeError, ValueError):
        return False


def ours(*arguments):
    """The configuration in effect, and the notes."""
    run = subprocess.run([program, "config", *map(str, arguments)], capture_output=True, text=True)
    if run.returncode != 0:
        complain(arguments, "refused:", run.stderr)
        return {}, ""
    return load(run.stdout), run.stderr


def compare(what, have, want):
    for key in sorted(set(have) | set(want)):
        if key not in have or key not in want or not same(have[key], want[key]):
            complain(f"{what}: {key}: {have.get(key)!r}, PyYAML has {want.get(key)!r}")


default, notes = ours()
page = re.findall(r"^\| `([^`]+)`( \*)? \| (?:`([^`]*)`)? \| ([^|]*) \| (.*) \|$", (ROOT / "docs/config.md").read_text(), re.M)
kinds = {key: values for key, _, _, values, _ in page}
silent = {key for key, _, _, values, meaning in page if values == "this only" or meaning.startswith("read, without effect")}
own = {key for key, _, _, _, meaning in page if meaning.startswith("ours: ") or key in ("student.embed_dim", "student.depth", "student.num_heads")}


def effective(key):
    return key not in silent and not any(s.endswith(".*") and key.startswith(s[:-1]) for s in silent)


compare("docs/config.md", {k: yaml.safe_load(t) if t else "" for k, _, t, _, _ in page if effective(k)}, default)
presets = sorted((ROOT / "configs").glob("*.yaml"))
for preset in presets:
    compare(preset.name, ours("-c", preset.stem)[0], default | load(preset.read_text()))
    compare(preset.name, ours("-c", preset)[0], default | load(preset.read_text()))

# ---- Files made up ----


def made_up(draw, key):
    now, kind = default[key], kinds[key]
    if isinstance(now, bool):
        return draw.random() < 0.5
    if isinstance(now, list):
        return sorted(round(draw.random(), draw.randrange(1, 17)) for _ in range(2))
    if isinstance(now, (int, float)):
        low, high = map(float, kind.split(" to "))
        if isinstance(now, int):
            return draw.choice([int(low), int(high), draw.randrange(int(low), int(high) + 1)])
        return draw.choice([low, high, low + (high - low) * draw.random() ** 8, low + (high - low) * 10.0 ** -draw.randrange(12)])
    if kind != "text":
        return draw.choice(kind.split(", "))
    return "".join(draw.choice("ab/.: #'\"\\-[]{},&*!|>%@`~?=0129 éж中") for _ in range(draw.randrange(12))).strip()


def made_up_file(seed):
    draw = random.Random(seed)
    tree = {}
    for key in draw.sample(sorted(default), draw.randrange(1, 30)):
        group, name = key.split(".")
        tree.setdefault(group, {})[name] = made_up(draw, key)
    return yaml.safe_dump(tree, default_flow_style=draw.choice([None, True, False]), default_style=draw.choice([None, None, None, '"', "'"]),
                          width=draw.choice([20, 80, 1000]), indent=draw.choice([2, 4, 8]), allow_unicode=draw.random() < 0.5,
                          explicit_start=draw.random() < 0.3, explicit_end=draw.random() < 0.3), tree


FILES = 30 if os.environ.get("DINOV_SANITIZED") else 300
with tempfile.TemporaryDirectory() as folder:
    for seed in range(FILES):
        text, tree = made_up_file(seed)
        # Styles of quotes would make PyYAML write tags where a number stands in quotes.
        text = re.sub(r"!!(?:int|float|bool) ", "", text)
        tree = dict(flat(tree))
        path = Path(folder) / f"{seed}.yaml"
        path.write_text(text)
        have, _ = ours("-c", path)
        want = default | tree | ({"student.ffn_layer": "swiglufused"} if tree.get("student.ffn_layer") == "swiglu" else {})
        compare(f"{text}\n", have, want)
        # The same on a command line, and what was printed read again.
        shown = subprocess.run([program, "config", "-c", path], capture_output=True, text=True).stdout
        path.write_text(shown)
        again = subprocess.run([program, "config", "-c", path], capture_output=True, text=True).stdout
        if shown != again:
            complain(text, "printed and read again is another configuration")
        words = ["%s=%s" % (k, "true" if v is True else "false" if v is False else v) for k, v in tree.items()
                 if not (isinstance(v, str) and v[:1] in ("'", '"', "[")) and v != "~"]
        have, _ = ours(*words)
        compare(words, have, default | {k: v for k, v in want.items() if k in {w.split("=")[0] for w in words}})

# ---- Upstream ----

files = []
if UPSTREAM:
    configs = Path(UPSTREAM) / "dinov2/configs"
    base = load((configs / "ssl_default_config.yaml").read_text())
    compare("upstream's defaults", {k: v for k, v in default.items() if k not in own}, {k: v for k, v in base.items() if effective(k)})
    for key in own:
        if key in base:
            complain(key, "is upstream's")
    files = sorted(configs.rglob("*.yaml"))
    for path in files:
        tree = load(path.read_text())
        have, notes = ours("-c", path)
        compare(path, {k: v for k, v in have.items() if k not in own}, {k: v for k, v in (base | tree).items() if effective(k)})
        quiet = {k for k, v in tree.items() if not effective(k) and same(v, base[k])}
        named = set(re.findall(r": (\S+) has no effect here", notes))
        if named != {k for k in tree if not effective(k)} - quiet:
            complain(path, "named without effect:", named)

print(f"{len(presets)} presets, {FILES} files made up, {len(files)} of upstream; {len(default)} keys; {bad} complaints")
sys.exit(bad > 0)
