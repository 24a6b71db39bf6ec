# SPDX-License-Identifier: Apache-2.0
"""The programs' main paths under valgrind: no error, no leak of any kind, no descriptor left open.   valgrind.py BIN"""
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import weightfiles
from infer import png

bin_dir = sys.argv[1]
if not shutil.which("valgrind"):
    print("skipped: valgrind is not installed")
    sys.exit(77)
with tempfile.TemporaryDirectory() as work:
    def run(code, program, *arguments):
        command = ["valgrind", "-q", "--error-exitcode=99", "--leak-check=full", "--show-leak-kinds=all", "--track-fds=yes",
                   "--errors-for-leak-kinds=all", "--child-silent-after-fork=yes", f"{bin_dir}/{program}", *arguments]
        done = subprocess.run(command, cwd=work, capture_output=True, text=True)
        # A descriptor of our own left open is reported as one opened inside the process, not inherited.
        left = [part for part in done.stderr.split("Open file descriptor")[1:] if "inherited from parent" not in part]
        assert done.returncode == code and not left, f"{program} {arguments}: exit code {done.returncode}, expected {code}\n{done.stderr}"

    Path(work, "hub.pth").write_bytes(weightfiles.pth_of(weightfiles.model(registers=1)))
    Path(work, "photos").mkdir()
    for i in range(3):
        Path(work, "photos", f"{i}.png").write_bytes(png(40 + 30 * i, 50, i))
    Path(work, "photos", "cut.png").write_bytes(png(40, 50)[:-200])
    run(0, "dinov-convert", "hub.pth", "-o", "hub.safetensors", "-t", "2")
    # The reader's own process ends without clearing up; here it is part of the one that is watched.
    run(0, "dinov-convert", "hub.pth", "--no-fence", "-o", "hub.safetensors", "-f", "-t", "2")
    run(0, "dinov-convert", "hub.safetensors", "-o", "hub2.pth", "--to", "pth")
    run(0, "dinov-convert", "hub.safetensors", "-o", "plain.safetensors", "--to", "safetensors")
    run(0, "dinov-ckpt", "show", "hub.safetensors")
    run(0, "dinov-ckpt", "explain", "plain.safetensors")
    run(0, "dinov-ckpt", "verify", "--id", "--run", "hub.safetensors")
    run(0, "dinov-ckpt", "diff", "hub.pth", "plain.safetensors")
    run(0, "dinov-infer", "-m", "hub.safetensors", "-o", "out", "--features", "cls,mean,patch,reg", "--max-bad", "1", "--preset", "short:56",
        "-t", "2", "photos")
    run(4, "dinov-infer", "-m", "hub.safetensors", "-o", "all-bad", "--max-bad", "0", "--preset", "full", "photos")
    run(0, "dinov-infer", "--ls", "out", "--json")
    damaged = bytearray(Path(work, "hub.safetensors").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    Path(work, "damaged.safetensors").write_bytes(damaged)
    run(2, "dinov-ckpt", "verify", "damaged.safetensors")
    run(2, "dinov-infer", "-m", "damaged.safetensors", "-o", "none", "photos")
    run(3, "dinov-convert", "absent.pth", "-o", "none.safetensors")
