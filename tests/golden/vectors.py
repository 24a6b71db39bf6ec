# SPDX-License-Identifier: Apache-2.0
"""Two readers, one specification: python vectors.py JUDGE

Every file of spec/vectors, and everything in spec/vectors/training, must get the verdict its README states from the C library (program JUDGE,
code included) and from spec/reader.py; make.py must make the same files again; and the C writer,
given what a good file holds, must write that same file.
"""
import glob
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
VECTORS = os.path.join(ROOT, "spec", "vectors")
sys.dont_write_bytecode = True
sys.path[:0] = [os.path.join(ROOT, "spec"), VECTORS]
import make  # noqa: E402
import make_training  # noqa: E402
import reader  # noqa: E402

# Files with features or a newer write version: no 1.0 writer makes them.
NOT_OURS_TO_WRITE = {"good-feature", "good-write-2"}

failures = []


def check(condition, *what):
    if not condition:
        failures.append(" ".join(map(str, what)))
        print("FAIL", *what)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def stated(folder=VECTORS):
    rows = {}
    with open(os.path.join(folder, "README.md")) as readme:
        for line in readme:
            cells = [cell.strip() for cell in line.split("|")]
            if len(cells) == 6 and cells[1].split("-")[0] in ("good", "bad", "unsupported"):
                rows[cells[1]] = (cells[2], cells[3])
    return rows


def check_verdicts(name, expected, line, ours):
    """One vector: what the C library said, and what reader.py says."""
    verdict, code, _ = line.split(" ", 2)
    check((verdict, code) == expected, name, "C library:", verdict, code, "expected:", *expected)
    verdict, why = ours
    check(verdict == expected[0], name, "reader.py:", verdict, "expected:", expected[0], why)
    wanted = {"good": ("ok",), "unsupported": ("version",)}.get(name.split("-")[0], ("format", "corrupt", "shape", "limit"))
    check(verdict in wanted, name, "is named for another class than", verdict)


def judged(judge, *arguments):
    return subprocess.run([judge, *arguments], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout.splitlines()


def same_tree(a, b):
    return subprocess.run(["diff", "-r", a, b]).returncode == 0


def check_training(judge):
    """The vectors of section 12. Their number."""
    folder = os.path.join(VECTORS, "training")
    expected = stated(folder)
    names = sorted(name for name in os.listdir(folder) if name != "README.md")
    check(len(names) > 70 and set(expected) == set(names), "training/README.md and its folder list different vectors")
    lines = judged(judge, "--training", *(os.path.join(folder, name) for name in names))
    check(len(lines) == len(names), "the C library did not judge every vector of training/")
    for name, line in zip(names, lines):
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            ours = reader.judge_step(path)
        else:
            ours = (reader.judge_manifest if name.endswith(".json") else reader.judge_state)(read(path))
        check_verdicts(name, expected[name], line, ours)
    with tempfile.TemporaryDirectory() as again:
        make_training.main(again)
        check(same_tree(folder, again), "make_training.py makes others")
    return len(names)


def main(judge):
    expected = stated()
    paths = sorted(glob.glob(os.path.join(VECTORS, "*.safetensors")))
    names = [os.path.basename(path)[:-len(".safetensors")] for path in paths]
    check(len(names) > 100 and set(expected) == set(names), "README.md and the folder list different files")

    lines = judged(judge, *paths)
    for line, name, path in zip(lines, names, paths):
        check_verdicts(name, expected[name], line, reader.judge(read(path)))
    check(len(lines) == len(names), "the C library did not judge every file")

    with tempfile.TemporaryDirectory() as folder:
        make.main(folder)
        for path in paths + [os.path.join(VECTORS, "README.md")]:
            check(read(path) == read(os.path.join(folder, os.path.basename(path))), "make.py makes another", path)
        for name, path in zip(names, paths):
            if name.startswith("good-") and name not in NOT_OURS_TO_WRITE:
                out = os.path.join(folder, "rewritten")
                subprocess.run([judge, "--rewrite", path, out], check=True)
                check(read(path) == read(out), "the C writer writes another", name)
                os.unlink(out)
    print("%d vectors, %d failures" % (len(names) + check_training(judge), len(failures)))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
