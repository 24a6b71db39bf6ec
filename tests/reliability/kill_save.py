# SPDX-License-Identifier: Apache-2.0
"""Saving killed at random moments: python kill_save.py SAVER [--kills N] [--seed S] [--record]

A process saves one checkpoint after the other and is killed (SIGKILL). Afterwards the newest checkpoint must be
whole, one that was saved, and none that was reported as committed may be lost; at most one step may be unfinished.
The next process goes on from there. Prints the command that repeats a failure.
"""
import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ledger  # noqa: E402

def unfinished(run):
    """Folders of steps that are being written or deleted."""
    steps = [name for name in os.listdir(run) if name.startswith((".step-", "step-"))]
    return [name for name in steps if name[0] == "." or not os.path.exists(os.path.join(run, name, "manifest.json"))]


def one_kill(saver, run, wait):
    """Returns what went wrong, or None; and whether a step was left unfinished."""
    child = subprocess.Popen([saver, "loop", run], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    opened = child.stdout.readline()  # the clock starts when it saves
    time.sleep(wait)
    child.send_signal(signal.SIGKILL)
    out, errors = child.communicate()
    lines = [line.split() for line in (opened + out).splitlines(keepends=False)]
    committed = max([int(line[1]) for line in lines if len(line) == 2], default=-1)
    if child.returncode != -signal.SIGKILL or errors:
        return "saving failed by itself: %s %s" % (child.returncode, errors), False
    left = unfinished(run)
    if len(left) > 2:  # one that was being written, one that was being deleted
        return "unfinished steps: %s" % left, False
    check = subprocess.run([saver, "check", run], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if check.returncode != 0 or check.stderr:
        return "what is there is not what was saved: %s" % check.stderr, False
    newest = -1 if check.stdout.strip() == "none" else int(check.stdout)
    if newest < committed:
        return "%d was committed, %d is the newest" % (committed, newest), False
    return None, bool(left)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("saver")
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--record", action="store_true", help="append a line to LEDGER.tsv")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    source = random.Random(seed)
    begin, torn = time.time(), 0
    with tempfile.TemporaryDirectory(prefix="dinov-kill-") as folder:
        run = os.path.join(folder, "run")
        for i in range(options.kills):
            # Often within the first save or two, now and then after many.
            wrong, left = one_kill(options.saver, run, source.uniform(0, 0.05 if i % 4 else 0.4))
            torn += left
            if wrong:
                print("kill %d: %s\nrepeat: kill_save.py %s --kills %d --seed %d" % (i, wrong, options.saver, options.kills, seed))
                return 1
    print("%d kills, %d of them within a save; seed %d" % (options.kills, torn, seed))
    if options.record:
        ledger.record("kill_save", options.kills, time.time() - begin, 0, "%d within a save" % torn)
    return 0 if torn else 1


if __name__ == "__main__":
    sys.exit(main())
