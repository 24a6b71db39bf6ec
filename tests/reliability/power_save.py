# SPDX-License-Identifier: Apache-2.0
"""Power cuts while saving: python power_save.py SAVER [--cuts N] [--seed S] [--record]

A process saves checkpoints on an ext4 file system in an image. At random moments the image is copied: what has
reached the "disk" by then, and nothing else. Each copy is mounted as after a power cut (the journal is replayed): the
newest checkpoint must be whole, one that was saved, and none that was reported as committed before the cut may be
lost; then saving goes on there. Needs root and loop devices; exits 77 without.
"""
import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ledger  # noqa: E402

MIB = 24


def call(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def skip(why):
    print("skipped: " + why)
    sys.exit(77)


class Mounted:
    """An image on a loop device, mounted; gone at the end."""

    def __init__(self, image, where):
        self.where = where
        os.makedirs(where, exist_ok=True)
        made = call("losetup", "--find", "--show", image)
        self.device = made.stdout.strip() if made.returncode == 0 else None
        if not self.device or call("mount", self.device, where).returncode != 0:
            self.close()
            skip("no loop device can be mounted here: " + made.stdout.strip())

    def writes(self):
        """Requests the device has taken and completed, and those under way."""
        with open("/sys/block/%s/stat" % os.path.basename(self.device)) as file:
            fields = file.read().split()
        return fields[4], fields[6], fields[8]

    def close(self):
        call("umount", self.where)
        if self.device:
            call("losetup", "--detach", self.device)


class Saver:
    def __init__(self, program, run):
        self.child = subprocess.Popen([program, "loop", run], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        os.set_blocking(self.child.stdout.fileno(), False)
        self.text, self.committed = b"", -1

    def read(self):
        """What was reported up to now."""
        try:
            self.text += self.child.stdout.read() or b""
        except BlockingIOError:
            pass
        for line in self.text.decode().splitlines():
            if line.startswith("committed "):
                self.committed = max(self.committed, int(line.split()[1]))
        self.text = self.text[self.text.rfind(b"\n") + 1:]
        return self.committed

    def pause(self):
        assert self.child.poll() is None, "saving ended by itself: %s" % self.child.stderr.read().decode()
        self.child.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.child.pid, os.WSTOPPED)

    def resume(self):
        self.child.send_signal(signal.SIGCONT)

    def end(self):
        self.child.kill()
        return self.child.communicate()[1]


def copy_at_rest(disk, image, to):
    """The image as it is at one moment: again when the device was written to while it was copied."""
    for _ in range(50):
        before = disk.writes()
        shutil.copyfile(image, to)
        if disk.writes() == before:
            return True
        time.sleep(0.002)
    return False


def after_the_cut(program, image, where, committed):
    disk = Mounted(image, where)
    try:
        run = os.path.join(where, "run")
        if not os.path.isdir(run):
            return None if committed < 0 else "%d was committed, and there is no run" % committed
        check = call(program, "check", run)
        if check.returncode != 0 or len(check.stdout.split()) != 1:
            return "what is there is not what was saved: " + check.stdout
        newest = -1 if check.stdout.strip() == "none" else int(check.stdout)
        if newest < committed:
            return "%d was committed, %d is the newest" % (committed, newest)
        more = call(program, "loop", run, str(newest + 2))
        check = call(program, "check", run)
        if more.returncode != 0 or check.stdout.strip() != str(newest + 2):
            return "saving does not go on: %s%s" % (more.stdout, check.stdout)
        return None
    finally:
        disk.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("saver")
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--record", action="store_true", help="append a line to LEDGER.tsv")
    options = parser.parse_args()
    if os.geteuid() != 0 or not shutil.which("mkfs.ext4") or not shutil.which("losetup"):
        skip("needs root, losetup and mkfs.ext4")
    if "--inside" not in os.environ.get("DINOV_POWER", ""):  # a mount namespace of our own
        os.environ["DINOV_POWER"] = "--inside"
        try:
            os.execvp("unshare", ["unshare", "-m", sys.executable, *sys.argv])
        except OSError:
            skip("no unshare")
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    source = random.Random(seed)
    begin, unfinished, moved = time.time(), 0, 0
    shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="dinov-power-", dir=shm) as folder:
        image, copy, here, there = (os.path.join(folder, name) for name in ("image", "copy", "here", "there"))
        done = 0
        while done < options.cuts:
            with open(image, "wb") as file:
                file.truncate(MIB << 20)
            if call("mkfs.ext4", "-q", "-F", image).returncode != 0:
                skip("mkfs.ext4 does not work here")
            disk = Mounted(image, here)
            saver = Saver(options.saver, os.path.join(here, "run"))
            try:
                for i in range(min(10, options.cuts - done)):
                    time.sleep(source.uniform(0, 0.03) if i % 3 else source.uniform(0, 0.5))
                    saver.pause()
                    committed = saver.read()
                    run = os.path.join(here, "run")
                    steps = [s for s in os.listdir(run) if s.startswith((".step-", "step-"))] if os.path.isdir(run) else []
                    unfinished += any(s[0] == "." or not os.path.exists(os.path.join(run, s, "manifest.json")) for s in steps)
                    at_rest = copy_at_rest(disk, image, copy)
                    # It stays paused meanwhile, or on a slow machine it fills the disk with checkpoints that it keeps.
                    wrong = after_the_cut(options.saver, copy, there, committed) if at_rest else None
                    saver.resume()
                    if not at_rest:
                        moved += 1
                        continue
                    if wrong:
                        print("cut %d: %s\nrepeat (as far as chance allows): power_save.py %s --cuts %d --seed %d" %
                              (done, wrong, options.saver, options.cuts, seed))
                        return 1
                    done += 1
            finally:
                errors = saver.end()
                disk.close()
            if errors:
                print("saving failed by itself: %s" % errors.decode())
                return 1
    print("%d power cuts, %d of them within a save, %d copies given up; seed %d" % (done, unfinished, moved, seed))
    if options.record:
        ledger.record("power_save", done, time.time() - begin, 0, "ext4, %d within a save" % unfinished)
    return 0


if __name__ == "__main__":
    sys.exit(main())
