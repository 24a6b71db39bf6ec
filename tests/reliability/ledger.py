# SPDX-License-Identifier: Apache-2.0
"""A line of LEDGER.tsv for a run of a harness that was asked to --record."""
import datetime
import os
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
PATH = os.path.join(HERE, "LEDGER.tsv")


def record(harness, cases, seconds, findings, remark=""):
    def git(*arguments):
        return subprocess.run(["git", "-C", HERE, *arguments], stdout=subprocess.PIPE, text=True, check=False).stdout.strip()
    commit = git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    new = not os.path.exists(PATH)
    with open(PATH, "a") as file:
        if new:
            file.write("date\tcommit\tharness\tcases\tseconds\tfindings\tremark\n")
        line = "\t".join([datetime.date.today().isoformat(), commit, harness, str(cases), "%.0f" % seconds, str(findings), remark])
        file.write(line + "\n")
        print(line)
