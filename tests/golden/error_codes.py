# SPDX-License-Identifier: Apache-2.0
"""docs/errors.md lists every code that base/ and format/ raise, and their sections list no other."""
import glob
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CODE = r'\b(?:CK|MODEL|IO|MEM|OPT|SYS)(?:-[A-Z]+)*\b'


def read(path):
    with open(path) as file:
        return file.read()


raised = set()
for path in glob.glob(os.path.join(ROOT, "base", "*.c")) + glob.glob(os.path.join(ROOT, "format", "*.c")):
    raised |= set(re.findall(r'"(%s)"' % CODE, read(path)))
listed = set()
section = ""
for line in read(os.path.join(ROOT, "docs", "errors.md")).splitlines():
    section = line if line.startswith("## ") else section
    if line.startswith("| ") and re.search(r"\((base|format)/", section):
        listed |= set(re.findall(CODE, line.split("|")[1]))
print("%d codes raised, not listed: %s, not raised: %s" % (len(raised), sorted(raised - listed), sorted(listed - raised)))
sys.exit(raised != listed or len(raised) < 40)
