# SPDX-License-Identifier: Apache-2.0
"""docs/errors.md lists exactly the codes that the sources raise, and a test or a vector names each of them."""
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FAMILIES = "CFG CK CKPT CONVERT DATA DEV EVAL FENCE FILES GOLDEN GRAPH HF IDX IMG INPUT IO MAN MODEL NAME NAMES NPY ONNX OPT ORT PKL PROOF PTH RUN SHARD SRC ST STATE SYS TRAIN ZIP"
CODE = r"(?<![A-Z-])(?:(?:%s)(?:-[A-Z0-9]+)+|INTERP|MEM)\b" % FAMILIES.replace(" ", "|")
# Out of a test's reach, and why.
UNTESTED = {
    "CONVERT-MODEL": "only a bug of a writer or reader of ours makes it",
    "CONVERT-CHECK": "only a disk or memory that fails makes what is read back differ",
    "IO-MAP": "a system call fails that a test cannot make fail", "IO-READ": "the same", "IO-RENAME": "the same",
    "IO-SYNC": "the same", "SYS-THREAD": "the same",
}


def text(folder, ends):
    for path, _, names in os.walk(os.path.join(ROOT, folder)):
        for name in sorted(names):
            if name.endswith(ends) and name != "error_codes.py":
                with open(os.path.join(path, name)) as file:
                    yield file.read()


raised = set()
for folder in "base format image kernels model infer eval train convert cli include".split():
    for source in text(folder, (".c", ".h")):
        raised |= set(re.findall(r'"(%s)"' % CODE, source))
listed = set()
for page in text("docs", "errors.md"):
    for line in page.splitlines():
        if line.startswith("| "):
            listed |= set(re.findall(CODE, line.split("|")[1]))
tested = set()
for source in [*text("tests", (".c", ".py")), *text("spec/vectors", (".py", ".md"))]:
    tested |= set(re.findall(CODE, source))
complaints = {"not listed": raised - listed, "listed, never raised": listed - raised,
              "named by no test": raised - tested - set(UNTESTED), "on the list of untested in vain": set(UNTESTED) & tested}
print("%d codes raised" % len(raised), {what: sorted(codes) for what, codes in complaints.items() if codes})
sys.exit(any(complaints.values()) or len(raised) < 150)
