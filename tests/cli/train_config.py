# SPDX-License-Identifier: Apache-2.0
"""Configurations of dinov-train from outside: the order of their sources, notes, exit codes, and what a run that goes on may change.
Pictures are drawn here. Standard library.

usage: train_config.py DINOV-TRAIN
"""
import os
import random
import subprocess
import sys
import tempfile
import unittest
import zlib
from struct import pack

PROGRAM = None
SMALL = """student: {arch: vit_custom, embed_dim: 32, depth: 1, num_heads: 1, patch_size: 8}
crops: {global_crops_size: 16, local_crops_size: 8, local_crops_number: 1}
dino: {head_n_prototypes: 16, head_hidden_dim: 16, head_bottleneck_dim: 8}
train: {batch_size_per_gpu: 2, OFFICIAL_EPOCH_LENGTH: 2, num_workers: 1}
optim: {epochs: 2, warmup_epochs: 1}
"""


def png(seed, size=24):
    dice = random.Random(seed)
    rows = b"".join(b"\0" + bytes(dice.randrange(256) for _ in range(3 * size)) for _ in range(size))

    def chunk(kind, data):
        return pack(">I", len(data)) + kind + data + pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.write("small.yaml", SMALL)
        os.mkdir(self.at("pictures"))
        for i in range(4):
            with open(self.at("pictures", f"{i}.png"), "wb") as file:
                file.write(png(i))

    def at(self, *parts):
        return os.path.join(self.folder.name, *parts)

    def write(self, name, text):
        with open(self.at(name), "w") as file:
            file.write(text)

    def run_it(self, *arguments, code=0):
        run = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, cwd=self.folder.name)
        self.assertEqual(run.returncode, code, run.stderr)
        return run

    def value(self, key, *arguments):
        group, name = key.split(".")
        text = self.run_it("config", *arguments).stdout
        inside = text[text.index(f"{group}:\n"):]
        return next(line.split(": ", 1)[1] for line in inside.splitlines() if line.startswith(f"  {name}: "))

    def test_defaults_then_file_then_command_line(self):
        self.assertEqual(self.value("optim.epochs"), "100")
        self.assertEqual(self.value("optim.epochs", "-c", "small.yaml"), "2")
        self.assertEqual(self.value("optim.epochs", "-c", "small.yaml", "optim.epochs=3", "optim.epochs=4"), "4")
        self.assertEqual(self.value("ibot.mask_ratio_min_max", "ibot.mask_ratio_min_max=[0.2,0.3]"), "[0.2, 0.3]")
        self.assertEqual(self.value("student.embed_dim", "-c", "tiny-cpu"), "192")
        self.assertEqual(self.value("student.arch", "-c", "small-1gpu"), '"vit_small"')

    def test_a_file_in_the_folder_does_not_hide_a_preset(self):
        self.write("tiny-cpu", "optim: {epochs: 7}\n")
        self.assertNotEqual(self.value("optim.epochs", "-c", "tiny-cpu"), "7")
        self.assertEqual(self.value("optim.epochs", "-c", "./tiny-cpu"), "7")

    def test_what_is_printed_is_read_again(self):
        text = self.run_it("config", "-c", "tiny-cpu", "train.dataset_path=a b: c # d").stdout
        self.write("again.yaml", text)
        self.assertEqual(self.run_it("config", "-c", "again.yaml").stdout, text)

    def test_notes_are_for_people(self):
        run = self.run_it("config", "student.block_chunks=4")
        self.assertIn("student.block_chunks has no effect here", run.stderr)
        self.assertNotIn("no effect", run.stdout)
        self.assertEqual(self.run_it("config", "student.block_chunks=0").stderr, "")

    def test_refusals(self):
        self.write("bad.yaml", "# first\noptim:\n  epochs: 1\n  base_lrr: 1\n")
        for arguments, code, says, status in [
                (["-c", "bad.yaml"], "CFG-KEY", "bad.yaml:4: there is no key optim.base_lrr; the nearest is optim.base_lr", 64),
                (["-c", "small.yaml", "optim.epochs=x"], "CFG-VALUE", "command line: optim.epochs", 64),
                (["student.ffn_layer=identity"], "CFG-VALUE", "mlp, swiglu or swiglufused", 64),
                (["optim.scaling_rule=linear"], "CFG-REFUSED", "sqrt_wrt_1024", 64),
                (["student.arch=vit_huge"], "CFG-ARCH", "vit_custom", 64),
                (["-c", "absent.yaml"], "IO-OPEN", "absent.yaml", 3)]:
            run = self.run_it("config", *arguments, code=status)
            self.assertIn(f"[{code}]", run.stderr)
            self.assertIn(says, run.stderr)
            self.assertEqual(run.stdout, "")

    def test_a_data_set_of_the_official_code_is_refused(self):
        run = self.run_it("pretrain", "-o", "run", "-c", "small.yaml", code=64)
        self.assertIn("[CFG-DATA]", run.stderr)
        self.assertIn("ImageNet:split=TRAIN", run.stderr)

    def test_a_run_goes_on_with_what_may_change(self):
        run = ["pretrain", "-o", "run", "-c", "small.yaml", "pictures", "-t", "1"]
        self.run_it(*run, "--stop-after", "1")
        said = self.run_it(*run, "optim.base_lr=0.5", "train.log_every=1", code=64).stderr
        self.assertIn("[CFG-CHANGED]", said)
        self.assertIn("optim.base_lr: 0.004 -> 0.5\n", said)
        self.assertNotIn("log_every", said)
        self.assertIn("going on after step 1", self.run_it(*run, "train.log_every=1", "train.num_workers=2").stderr)
        with open(self.at("run", "config.yaml")) as file:
            self.assertIn("log_every: 1\n", file.read())


if __name__ == "__main__":
    PROGRAM = os.path.abspath(sys.argv.pop(1))
    unittest.main()
