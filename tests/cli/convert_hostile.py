# SPDX-License-Identifier: Apache-2.0
"""Every hostile file is refused: right code, exit 2 or 4, no output, little time and memory. Every code
that convert/ raises is reached by a case and listed in docs/errors.md.

usage: convert_hostile.py DINOV_CONVERT
"""
import glob
import os
import re
import resource
import subprocess
import sys
import tempfile
import time

import hostile

MEMORY = 32 << 20  # a refusal takes no more than this and once the file, on top of the mapping


def main():
    tool, bad, seen, count = sys.argv[1], [], set(), 0
    sanitized = os.environ.get("DINOV_SANITIZED") == "1"
    with tempfile.TemporaryDirectory() as folder:
        for name, raw, codes in hostile.cases():
            count += 1
            path, out = os.path.join(folder, "in"), os.path.join(folder, "out.safetensors")
            with open(path, "wb") as f:
                f.write(raw)
            start = time.monotonic()
            def limit(size=len(raw)):
                if not sanitized:  # writable memory; the mapped file does not count
                    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY + size, MEMORY + size))

            child = subprocess.run([tool, path, "-o", out, "-t", "1"], capture_output=True, preexec_fn=limit, timeout=120)
            stdout, stderr, took = child.stdout, child.stderr, time.monotonic() - start
            text = stderr.decode("ascii", "replace")
            found = re.findall(r"\[([A-Z0-9-]+)\]\n$", text)
            seen.update(found)
            problems = []
            if not found or found[0] not in codes:
                problems.append("expected %s, found %s" % ("/".join(codes), text.strip() or "no message"))
            if child.returncode not in (2, 4):
                problems.append("expected exit 2 or 4, found %d" % child.returncode)
            if any(c < 32 and c != 10 or c > 126 for c in stderr):
                problems.append("bytes of the file reach the terminal")
            if stdout:
                problems.append("a refusal prints results")
            if len(text.splitlines()) > 20:
                problems.append("a message of %d lines" % len(text.splitlines()))
            if sorted(os.listdir(folder)) != ["in"]:
                problems.append("left behind: %s" % sorted(os.listdir(folder)))
                for left in os.listdir(folder):
                    os.remove(os.path.join(folder, left))
            if took > (1 if not sanitized else 20) + len(raw) / 50e6:
                problems.append("took %.1f s" % took)
            if problems:
                bad.append(name)
                print("FAIL %s: %s" % (name, "; ".join(problems)))
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    raised = set()
    for path in glob.glob(os.path.join(root, "convert", "**", "*.c"), recursive=True):
        with open(path) as f:
            raised.update(re.findall(r'"((?:ZIP|PKL|PTH|ST|SRC|NAMES?|MODEL|ONNX)-[A-Z0-9-]+)"', f.read()))
    with open(os.path.join(root, "docs", "errors.md")) as f:
        documented = f.read()
    for code in sorted(raised - seen) + sorted(c for c in raised if not re.search(r"\b%s\b" % c, documented)):
        bad.append(code)
        print("FAIL %s: expected a case that reaches it and a line in docs/errors.md" % code)
    print("%d hostile files, %d codes, %d wrong" % (count, len(seen), len(bad)))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
