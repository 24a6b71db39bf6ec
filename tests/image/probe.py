# SPDX-License-Identifier: Apache-2.0
"""Speaks the line protocol of tests/image/probe.c; shared by the picture tests."""
import os
import subprocess
import sys
import tempfile


class Probe:
    def __init__(self, program):
        self.folder = tempfile.TemporaryDirectory()
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def ask(self, *words):
        self.process.stdin.write(" ".join(str(w) for w in words) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().split()
        if not answer:
            sys.exit(f"the probe died at: {words}")
        return answer

    def bytes_of(self, *words):
        """The answer's numbers and the bytes written to OUT, which is added to the command."""
        out = self.path("out.raw")
        answer = self.ask(*words, out)
        if answer[0] != "ok":
            raise AssertionError(f"{words}: {' '.join(answer)}")
        with open(out, "rb") as f:
            return [int(a) for a in answer[1:]], f.read()
