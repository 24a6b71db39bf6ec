# SPDX-License-Identifier: Apache-2.0
"""Every hostile file is refused: right code, exit 2 or 4, no output, little time and memory. Every code
that convert/ raises is reached by a case and listed in docs/errors.md.

usage: convert_hostile.py DINOV_CONVERT
"""
import glob
import json
import os
import re
import resource
import subprocess
import sys
import tempfile

import hostile

MEMORY = 32 << 20  # a refusal takes no more than this and once the file, on top of the mapping

ITSELF = 4 << 20   # the program and its libraries, which count among the peak


def starter():
    """A small process that starts programs: what they are charged for begins with the size of whoever starts them."""
    ask, asked = os.pipe()
    told, tell = os.pipe()
    if os.fork() == 0:
        os.close(asked)
        os.close(told)
        for line in os.fdopen(ask):
            command, data, out, err = json.loads(line)

            def limit():
                resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
                if data:  # writable memory; the mapped file does not count
                    resource.setrlimit(resource.RLIMIT_DATA, (data, data))

            with open(out, "wb") as first, open(err, "wb") as second:
                child = subprocess.Popen(command, stdout=first, stderr=second, preexec_fn=limit)
                _, status, used = os.wait4(child.pid, 0)  # of the program and its reader, the larger
                child.returncode = os.waitstatus_to_exitcode(status)
            os.write(tell, (json.dumps([child.returncode, used.ru_maxrss << 10, used.ru_utime + used.ru_stime]) + "\n").encode())
        os._exit(0)
    os.close(ask)
    os.close(tell)
    answers = os.fdopen(told)

    def run(*job):
        os.write(asked, (json.dumps(job) + "\n").encode())
        return json.loads(answers.readline())
    return run


def main():
    run = starter()
    tool, bad, seen, count = sys.argv[1], [], set(), 0
    sanitized = os.environ.get("DINOV_SANITIZED") == "1"
    worst = [(-1, ""), (-1, "")]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as beside:
        said = [os.path.join(beside, stream) for stream in ("stdout", "stderr")]
        for name, raw, codes in hostile.cases():
            count += 1
            path, out = os.path.join(folder, "in"), os.path.join(folder, "out.safetensors")
            with open(path, "wb") as f:
                f.write(raw)
            code, peak, took = run([tool, path, "-o", out, "-t", "1"], 0 if sanitized else MEMORY + len(raw), *said)
            with open(said[0], "rb") as first, open(said[1], "rb") as second:
                stdout, stderr = first.read(), second.read()
            if peak - 2 * len(raw) > worst[0][0]:
                worst[0] = (peak - 2 * len(raw), "%s: %.1f MiB at the peak, %.2f MiB of file" % (name, peak / 2 ** 20, len(raw) / 2 ** 20))
            if len(raw) <= 1 << 20 and took > worst[1][0]:
                worst[1] = (took, "%s: %.0f ms of CPU" % (name, 1000 * took))
            text = stderr.decode("ascii", "replace")
            found = re.findall(r"\[([A-Z0-9-]+)\]\n$", text)
            seen.update(found)
            problems = []
            if not found or found[0] not in codes:
                problems.append("expected %s, found %s" % ("/".join(codes), text.strip() or "no message"))
            if code not in (2, 4):
                problems.append("expected exit 2 or 4, found %d" % code)
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
            if peak > ITSELF + MEMORY + 2 * len(raw) and not sanitized:
                problems.append("took %.1f MiB" % (peak / 2 ** 20))
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
    print("most memory: %s; longest of at most 1 MiB: %s" % (worst[0][1], worst[1][1]))
    if count < 200:
        bad.append("count")
    print("%d hostile files, %d codes, %d wrong" % (count, len(seen), len(bad)))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
