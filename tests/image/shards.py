# SPDX-License-Identifier: Apache-2.0
"""Tar shards against Python's tarfile: written by it in every format, and, where that data is present (the
folder DINOV_DATA, or shared/data beside the source tree), the real shards read by both. Standard library only.

usage: shards.py PROBE drawn|real
"""
import gzip
import hashlib
import io
import os
import random
import sys
import tarfile

from probe import Probe

dice = random.Random(1)


def ask(probe, *paths):
    """(name without folder, label, digest) of each item, and how many problems there were."""
    out = probe.path("items")
    answer = probe.ask("source", out, *paths)
    if answer[0] != "ok":
        sys.exit(f"FAILED {paths}: {' '.join(answer)}")
    with open(out, encoding="ascii") as f:
        rows = [line.split() for line in f]
    return [(name.rpartition(":")[2], int(label), digest) for name, label, digest in rows], int(answer[2])


def expected(members):
    """What the layout says: consecutive members of one key are a sample; its .jpg, else its first picture."""
    samples = []
    for name, data in members:
        folder, _, base = name.rpartition("/")
        stem, dot, extension = base.partition(".")
        if not dot or not stem:
            continue
        if not samples or samples[-1][0] != (folder, stem):
            samples.append(((folder, stem), {}))
        samples[-1][1].setdefault(extension.lower(), (name, data))
    for _, parts in samples:
        picture = parts.get("jpg") or next((parts[e] for e in parts if e == "png"), None)
        if picture:
            yield picture[0], int(parts["cls"][1]) if "cls" in parts else -1, hashlib.sha256(picture[1]).hexdigest()


def drawn(probe):
    count = 0
    for turn in range(40):
        members = []
        for i in range(dice.randint(0, 30)):
            key = dice.choice(("", "a/", "long/" * dice.randint(0, 60))) + f"{i:03d}"
            parts = [(f"{key}.{e}", os.urandom(dice.randint(1, 3000))) for e in ("jpg", "png") if dice.random() < 0.7]
            if dice.random() < 0.7:
                parts.append((f"{key}.cls", str(dice.randrange(1000)).encode()))
            if dice.random() < 0.3:
                parts.append((f"{key}.json", b"{}"))
            dice.shuffle(parts)
            members += parts
        kind = (tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)[turn % 3]
        members = [(n, d) for n, d in members if len(n) < 90 or kind != tarfile.USTAR_FORMAT]
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w", format=kind) as tar:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size, info.mtime = len(data), dice.random() * 1e9
                tar.addfile(info, io.BytesIO(data))
            if turn % 4 == 0:
                folder = tarfile.TarInfo("folder.jpg")
                folder.type = tarfile.DIRTYPE
                tar.addfile(folder)
        path = probe.path(f"{turn}.tar" + (".gz" if turn % 2 else ""))
        with open(path, "wb") as f:
            f.write(gzip.compress(raw.getvalue()) if turn % 2 else raw.getvalue())
        want = list(expected(members))
        if not want:
            continue
        # Names are cut where they would fill a message; those of these tests are long on purpose.
        got, problems = ask(probe, path)
        if problems or [(label, digest) for _, label, digest in got] != [(label, digest) for _, label, digest in want]:
            sys.exit(f"FAILED {path}: {len(got)} items instead of {len(want)}, {problems} problems")
        count += len(got)
    return f"{count} pictures of 40 archives by tarfile"


def real(probe):
    here = os.path.dirname(os.path.abspath(__file__))
    folder = os.environ.get("DINOV_DATA") or os.path.join(here, "..", "..", "..", "shared", "data")
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    shards = [n for n in names if n.endswith(".tar")] + [n for n in names if n.endswith(".tar.gz")][:1]
    if not shards:
        print(f"skipped: no shards in {folder}")
        sys.exit(77)
    count = 0
    for name in shards:
        with tarfile.open(os.path.join(folder, name)) as tar:
            want = list(expected((m.name, tar.extractfile(m).read()) for m in tar if m.isfile()))
        got, problems = ask(probe, os.path.join(folder, name))
        if problems or got != want:
            sys.exit(f"FAILED {name}: {len(got)} items instead of {len(want)}, {problems} problems")
        count += len(got)
    return f"{count} pictures of {len(shards)} real shards as tarfile reads them"


print(globals()[sys.argv[2]](Probe(sys.argv[1])))
