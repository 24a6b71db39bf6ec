# SPDX-License-Identifier: Apache-2.0
"""Row by row: real pictures of every variant, and damaged, lying and bomb-like files, where that data
is present: the folder DINOV_DATA, or shared/data beside the source tree. Standard library only.

usage: tables.py PROBE good|bad
"""
import hashlib
import os
import subprocess
import sys
import time

SECONDS, MEBIBYTES = 5, 300
READ = ("JPEG", "PNG")


def rows_of(folder):
    with open(os.path.join(folder, "EXPECTED.tsv"), encoding="utf-8") as f:
        header, *rows = [line.rstrip("\n").split("\t") for line in f]
    return [dict(zip(header, row)) for row in rows]


def ask(probe, command, path, out):
    """The answer of a fresh process, its seconds, and its peak memory in MiB."""
    begin = time.monotonic()
    process = subprocess.Popen([probe], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdin.write(f"{command} {path} {out}\n".encode())
    process.stdin.close()
    answer = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"{path}: the probe ended with {process.returncode}"
    return answer.strip(), time.monotonic() - begin, usage.ru_maxrss / 1024


def check_good(probe, folder, out):
    for row in rows_of(folder):
        name = row["file"]
        answer, _, _ = ask(probe, "turn", os.path.join(folder, name), out)
        if row["container"] not in READ:
            kind = {"PPM": "PNM", "WEBP": "WebP"}.get(row["container"], row["container"])
            assert answer.startswith("IMG-FORMAT ") and name in answer and kind in answer, f"{name}: {answer}"
            continue
        assert answer == f"ok {row['width']} {row['height']} 1", f"{name}: {answer}"
        with open(out, "rb") as f:
            pixels = f.read()
        for channel, column in enumerate(("mean_r", "mean_g", "mean_b")):
            values = pixels[channel::3]
            mean = sum(values) / len(values)
            assert abs(mean - float(row[column])) <= 1, f"{name}: {column} {mean} instead of {row[column]}"
        if row["rgb_sha256"] != "-":
            assert hashlib.sha256(pixels).hexdigest() == row["rgb_sha256"], f"{name}: other pixels"
    return len(rows_of(folder))


def check_bad(probe, folder, out):
    slow, large = ("", 0), ("", 0)
    for row in rows_of(os.path.join(folder, "bad")):
        name = row["file"]
        answer, seconds, memory = ask(probe, "decode", os.path.join(folder, "bad", name), out)
        refused = answer.startswith("IMG-") and name in answer
        assert refused or answer.startswith("ok "), f"{name}: {answer}"
        assert refused or not row["expected"].split()[0] == "fail", f"{name}: expected a refusal, found {answer}"
        assert seconds < SECONDS, f"{name}: {seconds:.1f} s"
        assert memory < MEBIBYTES, f"{name}: {memory:.0f} MiB"
        slow, large = max(slow, (name, seconds), key=lambda x: x[1]), max(large, (name, memory), key=lambda x: x[1])
    print(f"slowest {slow[0]} {slow[1]:.2f} s, largest {large[0]} {large[1]:.0f} MiB")
    return len(rows_of(os.path.join(folder, "bad")))


def main():
    probe, part = sys.argv[1:3]
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    data = os.environ.get("DINOV_DATA") or os.path.join(os.path.dirname(root), "shared", "data")
    folder = os.path.join(data, "photos")
    if not os.path.exists(os.path.join(folder, "EXPECTED.tsv")):
        print(f"skipped: no pictures in {folder} (DINOV_DATA names their folder)")
        sys.exit(77)
    out = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"dinov-tables-{os.getpid()}.raw")
    try:
        count = {"good": check_good, "bad": check_bad}[part](probe, folder, out)
    finally:
        if os.path.exists(out):
            os.unlink(out)
    print(f"{part}: {count} rows as expected")


main()
