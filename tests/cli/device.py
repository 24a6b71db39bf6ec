# SPDX-License-Identifier: Apache-2.0
"""dinov-infer --device, on the host shim: the run folder of the CPU, in its order, with the features of each type; one
window of pictures behind another; stopping and failing leave nothing; JPEGs by a stand-in for nvJPEG.
usage: device.py INFER_SHIM DEMO_MODEL FAKE_NVJPEG"""
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import unittest

try:
    import numpy as np
except ImportError:
    print("skipped: numpy is absent")
    sys.exit(77)

try:
    from PIL import Image
except ImportError:
    Image = None

INFER, DEMO_MODEL, FAKE_NVJPEG = sys.argv[1:4]
SANITIZED = "DINOV_SANITIZED" in os.environ


def picture(path, width, height, seed):
    """A PPM would not do: PNG by zlib, 8-bit RGB."""
    import struct
    import zlib
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) +
                   chunk(b"IDAT", zlib.compress(raw, 1)) + chunk(b"IEND", b""))


class Device(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.model = os.path.join(cls.folder.name, "tiny.safetensors")
        subprocess.run([DEMO_MODEL, "-o", cls.model, *cls.shape()], check=True, stderr=subprocess.DEVNULL)
        cls.photos = os.path.join(cls.folder.name, "photos")
        os.mkdir(cls.photos)
        for i in range(23):
            picture(os.path.join(cls.photos, "%02d.png" % i), 20 + 7 * i, 90 - 3 * i, i)
        with open(os.path.join(cls.photos, "11b.png"), "wb") as file:
            file.write(b"\x89PNG\r\n\x1a\nno more")
        cls.count = 0

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    @staticmethod
    def shape():
        return ["--dim", "64", "--depth", "2", "--heads", "1", "--grid", "3"]

    def run_infer(self, *words, code=0, **environment):
        type(self).count += 1
        out = os.path.join(self.folder.name, "out%d" % self.count)
        result = subprocess.run([INFER, "-m", self.model, "-o", out, "--preset", "square:28", "--max-bad", "1", *words],
                                capture_output=True, text=True, env={**os.environ, **environment})
        self.assertEqual(result.returncode, code, result.stderr)
        return out, result.stderr

    @staticmethod
    def load(out, name):
        return np.load(os.path.join(out, "part-000000." + name))

    def same_folder(self, a, b):
        self.assertEqual(sorted(os.listdir(a)), sorted(os.listdir(b)))
        for name in ("index.npy", "keys.txt"):
            with open(os.path.join(a, "part-000000." + name), "rb") as x, open(os.path.join(b, "part-000000." + name), "rb") as y:
                self.assertEqual(x.read(), y.read(), name)

    def test_every_type_agrees_with_the_cpu(self):
        cpu, _ = self.run_infer("--features", "cls,patch,mean", self.photos)
        for compute, limit in (("f32", 1e-5), ("bf16", 2e-2), ("f16", 3e-3)):
            gpu, said = self.run_infer("--features", "cls,patch,mean", "--device", "cuda", "--compute", compute, "-b", "3", self.photos)
            self.same_folder(cpu, gpu)
            for name in ("cls.npy", "patch.npy", "mean.npy"):
                want, have = self.load(cpu, name), self.load(gpu, name)
                self.assertEqual(want.shape, have.shape)
                error = np.linalg.norm(want - have, axis=-1) / np.linalg.norm(want, axis=-1)
                self.assertLess(error.max(), limit, (compute, name))
            self.assertIn("busy", said)
            with open(os.path.join(gpu, "run.json")) as file:
                facts = json.load(file)
            self.assertIn(compute, facts["settings"]["isa"])
            self.assertTrue(facts["device"].startswith("cuda:0"), facts["device"])

    def test_batch_windows_and_lanes_change_nothing(self):
        one, _ = self.run_infer("--device", "cuda", "--compute", "bf16", "-b", "1", "-t", "1", self.photos)
        for words in (["-b", "2", "-t", "2"], ["-b", "64"], ["--device", "cuda:0,1", "-b", "2", "-t", "1"]):
            other, _ = self.run_infer("--device", "cuda", "--compute", "bf16", *words, self.photos)
            self.same_folder(one, other)
            self.assertEqual(self.load(one, "cls.npy").tobytes(), self.load(other, "cls.npy").tobytes(), words)

    def test_decoded_or_prepared(self):
        """--dump-input prepares pixels on the CPU; features are the same bits as from pictures resized by the device."""
        decoded, _ = self.run_infer("--device", "cuda", "--compute", "bf16", self.photos)
        prepared, _ = self.run_infer("--device", "cuda", "--compute", "bf16", "--dump-input", self.photos)
        self.assertEqual(self.load(decoded, "cls.npy").tobytes(), self.load(prepared, "cls.npy").tobytes())
        array = os.path.join(self.folder.name, "input.npy")
        np.save(array, self.load(prepared, "input.npy"))
        type(self).count += 1
        out = os.path.join(self.folder.name, "out%d" % self.count)
        subprocess.run([INFER, "-m", self.model, "-o", out, "--device", "cuda", "--compute", "bf16", "-q", array], check=True)
        self.assertEqual(self.load(decoded, "cls.npy").tobytes(), self.load(out, "cls.npy").tobytes())

    def test_sizes_of_their_own(self):
        cpu, _ = self.run_infer("--features", "patch", self.photos, "--preset", "short:28")
        gpu, _ = self.run_infer("--features", "patch", "--device", "cuda", self.photos, "--preset", "short:28")
        self.same_folder(cpu, gpu)
        want, have = self.load(cpu, "patch.npy"), self.load(gpu, "patch.npy")
        self.assertLess((np.linalg.norm(want - have, axis=-1) / np.linalg.norm(want, axis=-1)).max(), 1e-5)

    def test_jpegs_by_nvjpeg(self):
        """What it can have it decodes, to pixels of its own; everything else is as on the CPU, and the run says so."""
        if not Image:
            self.skipTest("Pillow is absent")
        photos = os.path.join(self.folder.name, "jpegs")
        os.mkdir(photos)

        def draw(name, width, height, **how):
            y, x = np.mgrid[0:height, 0:width]
            rows = np.stack([127 + 120 * np.sin(x / 5 + len(name)), 255 - 2.0 * y, (x + y) % 256], -1).clip(0, 255).astype(np.uint8)
            Image.fromarray(rows).convert(how.pop("mode", "RGB")).save(os.path.join(photos, name), **how)
        exif = Image.Exif()
        exif[0x0112] = 6
        for i in range(17):
            draw("%02d.jpg" % i, 40 + 3 * i, 75 - 2 * i, subsampling=i % 3)
        draw("20-grey.jpg", 60, 50, mode="L")
        draw("21-turned.jpg", 60, 50, exif=exif)
        draw("22-large.jpg", 900, 700, subsampling=0)
        ours = {"30-steps.jpg": {"progressive": True}, "31-inks.jpg": {"mode": "CMYK"}, "32.png": {}}
        for name, how in ours.items():
            draw(name, 60, 50, **how)
        with open(os.path.join(photos, "05.jpg"), "rb") as file:
            data = file.read()
        with open(os.path.join(photos, "40-cut.jpg"), "wb") as file:
            file.write(data[:len(data) // 2])
        with open(os.path.join(photos, "41-spoilt.jpg"), "wb") as file: # its markers are whole, its codes are not
            file.write(data[:len(data) * 3 // 4] + b"\0" * 40 + data[len(data) * 3 // 4:])
        words = ["--device", "cuda", "--compute", "f32", "--max-bad", "2"]
        there = {"LD_LIBRARY_PATH": FAKE_NVJPEG}
        cpu, _ = self.run_infer(*words, "--dump-input", photos)
        gpu, said = self.run_infer(*words, "--dump-input", "--decode", "nvjpeg", photos, **there)
        self.same_folder(cpu, gpu)
        self.assertIn("nvJPEG decoded 20 of them", said)
        with open(os.path.join(gpu, "run.json")) as file:
            facts = json.load(file)
        self.assertEqual(facts["settings"]["decode"], "nvjpeg-13.0.0")
        self.assertEqual(facts["decoded_by_device"], 20)
        with open(os.path.join(gpu, "part-000000.keys.txt")) as file:
            names = [os.path.basename(line.strip()) for line in file]
        self.assertEqual(len(names), 25)
        want, have = self.load(cpu, "input.npy"), self.load(gpu, "input.npy")
        self.assertEqual(len(want), 23)
        for name, a, b in zip(names, want, have):
            if name in ours:
                self.assertEqual(a.tobytes(), b.tobytes(), name)
            else:
                self.assertNotEqual(a.tobytes(), b.tobytes(), name)
                self.assertLess(np.abs(a - b).mean(), 0.1, name)
        # As decoded, resized by the device: the same bits; with one thread or many, on one device or two.
        for more in ([], ["-t", "1"], ["--device", "cuda:0,1", "-t", "5", "-b", "2"]):
            other, _ = self.run_infer(*words, "--decode", "nvjpeg", *more, photos, **there)
            self.assertEqual(self.load(gpu, "cls.npy").tobytes(), self.load(other, "cls.npy").tobytes(), more)
        # Other pixels are other settings.
        again = [INFER, "-m", self.model, "-o", other, "--preset", "square:28", *words, photos]
        result = subprocess.run(again, capture_output=True, text=True)
        self.assertIn("RUN-DIFFERS", result.stderr)
        self.assertIn("decode", result.stderr)
        # A device that fails is no fault of a picture: nothing is kept.
        out, said = self.run_infer(*words, "--max-bad", "100%", "--decode", "nvjpeg", photos, code=3, FAKE_NVJPEG="broken", **there)
        self.assertIn("DEV-FAULT", said)
        self.assertFalse(os.path.exists(out))

    def test_without_nvjpeg(self):
        there = {"LD_LIBRARY_PATH": FAKE_NVJPEG}
        out, said = self.run_infer("--device", "cuda", "--decode", "nvjpeg", self.photos, code=2, FAKE_NVJPEG="absent", **there)
        self.assertIn("DEV-NVJPEG", said)
        self.assertFalse(os.path.exists(out))
        try:
            ctypes.CDLL("libnvjpeg.so.13")
        except OSError: # this machine has none of its own
            _, said = self.run_infer("--device", "cuda", "--decode", "nvjpeg", self.photos, code=2, LD_LIBRARY_PATH="")
            self.assertIn("cannot be opened", said)
        _, said = self.run_infer("--device", "cuda", "--decode", "nvjpeg", self.photos, **there)
        self.assertIn("nvJPEG decoded 0 of them", said)
        for words in (["--decode", "nvjpeg"], ["--device", "cuda", "--decode", "gpu"]):
            self.run_infer(*words, self.photos, code=64, **there)
        array = os.path.join(self.folder.name, "nothing.npy")
        np.save(array, np.zeros((1, 3, 28, 28), np.float32))
        result = subprocess.run([INFER, "-m", self.model, "-o", out, "--device", "cuda", "--decode", "nvjpeg", array],
                                capture_output=True, text=True, env={**os.environ, **there})
        self.assertEqual(result.returncode, 64, result.stderr)
        self.assertIn("OPT-DECODE", result.stderr)

    def test_too_many_bad_is_4_and_everything_else_is_kept(self):
        out, said = self.run_infer("--device", "cuda", "--max-bad", "0", self.photos, code=4)
        self.assertEqual(len(self.load(out, "cls.npy")), 23)
        self.assertIn("RUN-MAX-BAD", said)

    def test_a_signal_stops_every_stage_and_nothing_is_kept(self):
        names = os.path.join(self.folder.name, "names.txt")
        with open(names, "w", encoding="utf-8") as file:
            file.writelines(os.path.join(self.photos, "%02d.png\n" % (i % 23)) for i in range(4000))
        for number, want in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
            for delay in (0.0, 0.3):
                out = os.path.join(self.folder.name, "stopped-%d-%g" % (number, delay))
                words = [INFER, "-m", self.model, "-o", out, "--preset", "square:28", "--device", "cuda", "-b", "2", "--filelist", names]
                process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
                while not os.path.exists(out) and process.poll() is None:
                    time.sleep(0.01)
                time.sleep(delay)
                process.send_signal(number)
                _, said = process.communicate(timeout=120)
                self.assertEqual(process.returncode, want, said)
                self.assertIn("RUN-STOPPED", said)
                self.assertFalse(os.path.exists(out))

    def test_a_full_disk_is_3_and_nothing_is_kept(self):
        out = os.path.join(self.folder.name, "full")
        words = [INFER, "-m", self.model, "-o", out, "--preset", "square:28", "--device", "cuda", "--features", "patch", self.photos]
        result = subprocess.run(words, capture_output=True, text=True,
                                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)))
        self.assertEqual(result.returncode, 3, result.stderr)
        self.assertIn("IO-WRITE", result.stderr)
        self.assertFalse(os.path.exists(out))

    def test_wrong_words_are_64(self):
        for words in (["--device", "gpu"], ["--device", "cuda:0,0"], ["--compute", "bf16"], ["--device", "cuda", "--compute", "fp8"],
                      ["--device", "cuda", "--isa", "avx2"], ["--device", "cpu", "--compute", "f16"]):
            self.run_infer(*words, self.photos, code=64)
        _, said = self.run_infer("--device", "cuda:7", self.photos, code=2)
        self.assertIn("DEV-CUDA", said)


unittest.main(argv=sys.argv[:1])
