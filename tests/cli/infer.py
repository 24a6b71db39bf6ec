# SPDX-License-Identifier: Apache-2.0
"""dinov-infer from outside: options, exit codes, what lies in the output folder, bad pictures, full
disks, kills. Pictures are drawn here. Standard library and numpy.

usage: infer.py DINOV_INFER DINOV_DEMO_MODEL DINOV_CONVERT
"""
import fcntl
import json
import os
import random
import re
import resource
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest
import zlib

try:
    import numpy as np
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

INFER, DEMO, CONVERT = None, None, None
PARTS = ("part-000000.cls.npy", "part-000000.index.npy", "part-000000.keys.txt", "run.json")
KEYS = ["path", "status", "row", "width", "height", "input_width", "input_height", "grid_w", "grid_h"]


def png(w, h, seed=0, exif=None):
    dice = random.Random(seed * 7919 + w * 31 + h)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(dice.randrange(256) for _ in range(3 * w)) for _ in range(h))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0)) +
            (chunk(b"eXIf", exif) if exif else b"") + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b""))


def turned(value):
    return b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x112, 3, 1, value, 0, 0)


def safetensors(path):
    """The F32 tensors of a file."""
    with open(path, "rb") as f:
        size, = struct.unpack("<Q", f.read(8))
        header, data = json.loads(f.read(size)), f.read()
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            yield name, np.frombuffer(data[begin:end], "<f4").reshape(entry["shape"])


def write_safetensors(path, tensors):
    header, data = {}, b""
    for name, a in tensors.items():
        header[name] = {"dtype": "F32", "shape": a.shape, "data_offsets": [len(data), len(data) + a.nbytes]}
        data += a.tobytes()
    text = json.dumps(header).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)


def with_field(records, field, value):
    records[field][1] = value
    return records


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.shared = tempfile.TemporaryDirectory()
        cls.model = os.path.join(cls.shared.name, "model.safetensors")
        # No golden vectors: the file's bytes then depend on no instruction set.
        subprocess.run([DEMO, "-o", cls.model, "--dim", "128", "--depth", "3", "--registers", "2",
                        "--grid", "5", "--no-proof"], check=True, capture_output=True)

    @classmethod
    def tearDownClass(cls):
        cls.shared.cleanup()

    def setUp(self):
        self.temp = tempfile.TemporaryDirectory()
        self.addCleanup(self.temp.cleanup)

    def path(self, *names):
        return os.path.join(self.temp.name, *names)

    def put(self, name, data):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(self.path(name), "wb") as f:
            f.write(data)
        return self.path(name)

    def pictures(self, count=10, folder="in"):
        for i in range(count):
            self.put(f"{folder}/p{i:03}.png", png(20 + 9 * (i % 4), 24 + 5 * (i % 3), i))
        return self.path(folder)

    def run_infer(self, *words, code=0, stdin=None, **more):
        result = subprocess.run([INFER, *words], capture_output=True, input=stdin, timeout=300, **more)
        if code is not None:
            self.assertEqual(result.returncode, code, result.stderr.decode(errors="replace"))
        return result

    def refused(self, reason, *words, code, **more):
        """The run ends with that code, and the message ends with that stable word."""
        result = self.infer(*words, code=code, **more)
        self.assertIn(f"[{reason}]\n", result.stderr.decode(errors="replace"))
        return result.stderr

    def infer(self, *words, out="out", code=0, preset="eval:28", **more):
        words = (("--preset", preset) if preset else ()) + words
        return self.run_infer("-m", self.model, "-o", self.path(out), *words, code=code, **more)

    def load(self, name, out="out"):
        return np.load(self.path(out, f"part-000000.{name}.npy"))

    def listing(self, out="out"):
        text = self.run_infer("--ls", self.path(out), "--json").stdout.decode()
        return [json.loads(line) for line in text.splitlines()]

    def files(self, out="out"):
        return sorted(os.listdir(self.path(out)))

    def bytes_of(self, out="out"):
        result = {}
        for name in self.files(out):
            if name != "run.json":
                with open(self.path(out, name), "rb") as f:
                    result[name] = f.read()
        return result


class Codes(unittest.TestCase):
    def test_every_code_is_in_the_table(self):
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        with open(os.path.join(root, "docs", "errors.md"), encoding="utf-8") as f:
            table = f.read()
        found = set()
        for folder, name in [("image", n) for n in os.listdir(os.path.join(root, "image"))] + [
                ("infer", "extract.c"), ("infer", "index.c"), ("infer", "npy.c"), ("infer", "result.c"), ("infer", "settings.c"), ("cli", "dinov_infer.c")]:
            with open(os.path.join(root, folder, name), encoding="utf-8") as f:
                found |= set(re.findall(r'"((?:IMG|NPY|IDX|RUN|INPUT|OPT)-[A-Z0-9-]+)"', f.read()))
        self.assertGreater(len(found), 25)
        self.assertEqual([c for c in sorted(found) if f"| {c} |" not in table], [])
        tests = ""
        for name in ("cli/infer.py", "unit/image.c", "unit/source.c", "unit/npy.c", "unit/remote.c", "image/tables.py"):
            with open(os.path.join(root, "tests", name), encoding="utf-8") as f:
                tests += f.read()
        self.assertEqual([c for c in sorted(found) if c not in tests], [], "codes that no test reaches")


class Usage(Case):
    def test_help_and_version(self):
        for flag in ("-h", "--help", "--version"):
            self.assertIn(b"dinov-infer", self.run_infer(flag).stdout)

    def test_wrong_usage_is_64(self):
        folder = self.pictures(1)
        m = ("-m", self.model)
        o = ("-o", self.path("out"))
        for words in ((), (folder,), (*m, folder), (*o, folder), (*m, *o), ("--nonsense",), (*m, *o, folder, "-b", "0"),
                      (*m, *o, folder, "-b", "x"), (*m, *o, folder, "-t", "-1"), (*m, *o, folder, "--features", "cls,cls"),
                      (*m, *o, folder, "--features", "head"), (*m, *o, folder, "--features", ""),
                      (*m, *o, folder, "--layers", "1,"), (*m, *o, folder, "--layers", "3"), (*m, *o, folder, "--layers", "-4"),
                      (*m, *o, folder, "--layers", "2,-1"), (*m, *o, folder, "--store", "f64"),
                      (*m, *o, folder, "--preset", "evil"), (*m, *o, folder, "--preset", "eval:30"),
                      (*m, *o, folder, "--max-bad", "101%"), (*m, *o, folder, "--max-bad", "-1"),
                      (*m, *o, folder, "--max-bad", "1.5"), (*m, *o, folder, "--max-bad", "1e300"),
                      (*m, *o, folder, "--max-bad", "inf"), (*m, *o, folder, "--max-bad", "nan"),
                      (*m, *o, folder, "--max-bad", "nan%"), (*m, *o, folder, "--max-tokens", "0"),
                      (*m, *o, folder, "--preset", "eval:5"), (*m, *o, folder, "--json"), ("--ls", self.path("x"), folder),
                      (*m, *o, folder, "-q=1"), (*m, "-o")):
            result = self.run_infer(*words, code=64)
            self.assertLessEqual(result.stderr.count(b"\n"), 20)
            self.assertFalse(os.path.exists(self.path("out")), words)

    def test_a_gpu_that_is_not_there_is_refused_with_a_sentence(self):
        result = self.run_infer("-m", self.model, "-o", self.path("out"), "--device", "cuda:17", self.pictures(1), code=2)
        self.assertRegex(result.stderr.decode(), r"^dinov-infer: device cuda:17: .*(on the CPU \[DEV-NONE\]|\[DEV-CUDA\])\n$")
        self.assertFalse(os.path.exists(self.path("out")))

    def test_decoding_on_a_gpu_needs_one(self):
        result = self.run_infer("-m", self.model, "-o", self.path("out"), "--decode", "nvjpeg", self.pictures(1), code=64)
        self.assertIn(b"[OPT-DECODE]", result.stderr)
        self.assertFalse(os.path.exists(self.path("out")))

    def test_missing_things_are_3_and_wrong_files_2(self):
        folder = self.pictures(1)
        out = self.path("out")
        os.mkdir(self.path("empty"))
        self.put("notes/readme.txt", b"BM is no picture here")
        for words, code in (((("-m", self.path("none"), "-o", out, folder)), 3),
                            ((("-m", folder + "/p000.png", "-o", out, folder)), 2),
                            ((("-m", self.model, "-o", out, self.path("none"))), 3),
                            ((("-m", self.model, "-o", out, "--filelist", self.path("none"))), 3),
                            ((("-m", self.model, "-o", out, self.path("empty"))), 2),
                            ((("-m", self.model, "-o", out, self.path("notes"))), 2),
                            ((("-m", self.model, "-o", self.path("a", "b", "c"), folder)), 3),
                            ((("-m", self.model, "-o", folder + "/p000.png", folder)), 3),
                            ((("--ls", self.path("empty"))), 3)):
            self.run_infer(*words, code=code)
            self.assertFalse(os.path.exists(out), words)

    def test_isa(self):
        folder = self.pictures(2)
        self.infer(folder, "--isa", "ref")
        with open(self.path("out", "run.json")) as f:
            self.assertEqual(json.load(f)["settings"]["isa"], "ref")
        self.infer(folder, "--isa", "abacus", out="other", code=None)
        self.assertFalse(os.path.exists(self.path("other")))


    def test_codes_of_options_and_inputs(self):
        folder = self.pictures(1)
        plain = self.path("plain.safetensors")
        subprocess.run([DEMO, "-o", self.path("bare.safetensors"), "--dim", "64", "--depth", "1", "--grid", "2", "--no-proof"],
                       check=True, capture_output=True)
        self.refused("OPT-LAYERS", folder, "--layers", "3", code=64)
        self.refused("OPT-LAYERS", folder, "--layers", "2,-1", code=64)
        self.refused("OPT-PRESET", folder, preset="eval:30", code=64)
        self.refused("INPUT-OPEN", self.path("none"), code=3)
        self.refused("INPUT-LIST", "--filelist", self.path("none"), code=3)
        self.refused("INPUT-LIST", "--filelist", self.put("zero.txt", b"a\0b\n"), code=2)
        os.mkdir(self.path("empty"))
        self.refused("INPUT-EMPTY", self.path("empty"), code=2)
        bare = self.run_infer("-m", self.path("bare.safetensors"), "-o", self.path("out"), "--features", "reg", folder, code=64)
        self.assertIn(b"[OPT-FEATURES]", bare.stderr)
        np.save(self.path("a.npy"), np.zeros((1, 3, 14, 14), "<f4"))
        self.refused("OPT-INPUT", self.path("a.npy"), folder, preset=None, code=64)
        # The same model for one channel, which pictures do not have.
        subprocess.run([CONVERT, self.model, "-o", plain, "--to", "safetensors"], check=True, capture_output=True)
        tensors = dict(safetensors(plain))
        tensors["patch_embed.proj.weight"] = tensors["patch_embed.proj.weight"][:, :1]
        write_safetensors(plain, tensors)
        grey = self.run_infer("-m", plain, "-o", self.path("out"), folder, code=2)
        self.assertIn(b"[RUN-CHANNELS]", grey.stderr)
        self.assertFalse(os.path.exists(self.path("out")))

    def test_the_models_own_preset(self):
        """One that the format allows and no picture can have: the file's fault, not the command's."""
        large = self.path("large\x1b.safetensors")
        subprocess.run([DEMO, "-o", large, "--dim", "64", "--depth", "1", "--grid", "2", "--no-proof", "--preset", "eval:65520"],
                       check=True, capture_output=True)
        for isa in ((), ("--isa", "ref")):
            result = self.run_infer("-m", large, "-o", self.path("out"), *isa, self.pictures(1), code=2)
            self.assertIn(b"large\\x1b.safetensors: asks for preset eval:65520", result.stderr)
            self.assertIn(b"[RUN-PRESET]", result.stderr)
        self.run_infer("-m", large, "-o", self.path("out"), "--preset", "eval:28", self.pictures(1))

    def test_listing_refuses(self):
        bad = self.run_infer("--ls", self.path("no\x1bthing"), code=3)
        self.assertIn(b"no\\x1bthing: holds no finished run", bad.stderr)
        self.assertIn(b"[IDX-OPEN]", bad.stderr)
        self.infer(self.pictures(2))
        index = self.path("out/part-000000.index.npy")
        whole = np.load(index)
        for change, code, status in ((lambda a: a["row"], "IDX-TYPE", 2), (lambda a: a[["row"]], "IDX-TYPE", 2),
                                     (lambda a: with_field(a, "key_size", 1 << 30), "IDX-RECORD", 2),
                                     (lambda a: with_field(a, "key_offset", 1 << 60), "IDX-RECORD", 2),
                                     (lambda a: with_field(a, "status", b"splendid"), "IDX-RECORD", 2)):
            np.save(index, change(whole.copy()))
            self.assertIn(f"[{code}]".encode(), self.run_infer("--ls", self.path("out"), code=status).stderr)


class Results(Case):
    def test_rows_and_index(self):
        self.put("in/b.png", png(40, 30, 1))
        self.put("in/a/z.png", png(30, 40, 2))
        self.put("in/a-b.png", png(31, 31, 3))
        self.put("in/noname", png(50, 30, 4))
        self.put("in/notes.txt", b"no picture")
        self.put("in/bad.jpg", b"no picture either")
        result = self.infer(self.path("in"), "--max-bad", "1")
        self.assertIn(b"bad.jpg", result.stderr)
        self.assertIn(b"IMG-FORMAT", result.stderr)
        self.assertEqual(self.files(), sorted(PARTS))
        rows = self.listing()
        self.assertEqual([list(r) for r in rows], [KEYS] * 5)
        self.assertEqual([os.path.relpath(r["path"], self.path("in")) for r in rows],
                         ["a-b.png", "a/z.png", "b.png", "bad.jpg", "noname"])
        self.assertEqual([r["row"] for r in rows], [0, 1, 2, None, 3])
        self.assertEqual(rows[3], dict(zip(KEYS, [self.path("in/bad.jpg"), "unsupported", None, 0, 0, 0, 0, 0, 0])))
        self.assertEqual(rows[2], dict(zip(KEYS, [self.path("in/b.png"), "ok", 2, 40, 30, 28, 28, 2, 2])))
        self.assertEqual(self.load("cls").shape, (4, 128))
        index = self.load("index")
        with open(self.path("out/part-000000.keys.txt"), "rb") as f:
            keys = f.read()
        self.assertEqual([keys[r["key_offset"]:][:r["key_size"]].decode() for r in index], [r["path"] for r in rows])
        self.assertEqual(list(index["row"]), [0, 1, 2, -1, 3])
        self.assertEqual(list(index["status"]), [b"ok", b"ok", b"ok", b"unsupported", b"ok"])
        self.assertIn(b"unsupported", self.run_infer("--ls", self.path("out")).stdout)

    def test_run_json_and_again(self):
        folder = self.pictures(3)
        self.infer(folder)
        before = self.bytes_of()
        with open(self.path("out", "run.json")) as f:
            run = json.load(f)
        self.assertTrue(run["settings"]["model"].startswith("sha256:"))
        self.assertEqual(run["settings"]["preset"], "eval:28")
        self.assertEqual(run["counts"]["ok"], 3)
        self.assertIn(b"already finished", self.infer(folder, "-b", "2", "-t", "1").stderr)
        refused = self.infer(folder, "--no-norm", code=64)
        self.assertIn(b"norm true there, false now", refused.stderr)
        self.put("in/more.png", png(20, 20))
        self.assertIn(b"inputs", self.infer(folder, code=64).stderr)
        self.assertEqual(before, self.bytes_of())
        path = self.path("out", "run.json")
        run["settings"]["gone\x1b"] = 7
        with open(path, "w") as f:
            json.dump(run, f)
        del run["settings"]["inputs"]
        os.unlink(self.path("in/more.png"))
        self.assertIn(b"other settings: gone\\x1b 7 there, absent now;", self.refused("RUN-DIFFERS", folder, code=64))
        with open(path, "w") as f:
            json.dump(run, f)
        self.assertIn(b"inputs absent there, {", self.refused("RUN-DIFFERS", folder, code=64))
        self.put("in/more.png", png(20, 20))
        self.infer(folder, "-f", "--features", "mean")
        self.assertEqual(self.files(), sorted(("part-000000.mean.npy",) + PARTS[1:]))
        self.assertEqual(self.load("mean").shape, (4, 128))

    def test_changed_inputs_are_other_settings(self):
        folder = self.pictures(2)
        self.infer(folder)
        with open(self.path("in/p001.png"), "rb") as f:
            whole = f.read()
        times = os.stat(self.path("in/p001.png"))
        self.put("in/p001.png", png(29, 29, 77))
        self.assertIn(b"inputs {", self.refused("RUN-DIFFERS", folder, code=64))
        self.put("in/p001.png", whole)
        os.utime(self.path("in/p001.png"), ns=(times.st_atime_ns, times.st_mtime_ns + 1))
        self.refused("RUN-DIFFERS", folder, code=64)
        os.utime(self.path("in/p001.png"), ns=(times.st_atime_ns, times.st_mtime_ns))
        self.assertIn(b"already finished", self.infer(folder).stderr)
        # Another shape of as many bytes, under the same name.
        np.save(self.path("a.npy"), np.zeros((2, 3, 14, 42), "<f4"))
        self.infer(self.path("a.npy"), preset=None, out="array")
        np.save(self.path("a.npy"), np.zeros((2, 3, 42, 14), "<f4"))
        self.refused("RUN-DIFFERS", self.path("a.npy"), preset=None, out="array", code=64)

    def test_features_layers_and_grids(self):
        folder = self.pictures(5)
        result = self.infer(folder, "--features", "cls,mean,patch,reg", "--layers", "-1,0")
        self.assertIn(b"warning: preset eval crops", result.stderr)
        for layer in ("", "L00."):
            self.assertEqual(self.load(layer + "cls").shape, (5, 128))
            self.assertEqual(self.load(layer + "reg").shape, (5, 2, 128))
            patch = self.load(layer + "patch")
            self.assertEqual(patch.shape, (5, 2, 2, 128))
            np.testing.assert_allclose(patch.mean((1, 2)), self.load(layer + "mean"), rtol=1e-5, atol=1e-6)
        self.infer(folder, "--features", "cls,patch", preset="short:28", out="short")
        patch, offsets = self.load("patch", "short"), self.load("offsets", "short")
        rows = self.listing("short")
        self.assertEqual(list(np.diff(offsets)), [r["grid_w"] * r["grid_h"] for r in rows])
        self.assertEqual(patch.shape, (offsets[-1], 128))
        self.infer(folder, "--no-norm", out="raw")
        self.assertFalse(np.allclose(self.load("cls"), self.load("cls", "raw")))

    def test_the_same_bits_for_any_threads_and_batch(self):
        folder = self.pictures(23)
        for preset in ("eval:28", "short:28"):
            reference = None
            for t in ("1", "2", "3"):
                for b in ("1", "7", "64"):
                    out = f"{preset}-{t}-{b}"
                    self.infer(folder, "-t", t, "-b", b, "--features", "cls,mean,patch,reg", "--layers", "-1,1",
                               "--dump-input", preset=preset, out=out)
                    found = self.bytes_of(out)
                    reference = reference or found
                    self.assertEqual(found, reference, out)

    def test_dumped_input_is_input(self):
        folder = self.pictures(7)
        self.infer(folder, "--dump-input", "--features", "cls,patch")
        dumped = self.load("input")
        self.assertEqual((dumped.shape, dumped.dtype), ((7, 3, 28, 28), np.float32))
        self.infer(self.path("out/part-000000.input.npy"), "--features", "cls,patch", preset=None, out="again")
        self.assertEqual(self.load("cls").tobytes(), self.load("cls", "again").tobytes())
        self.assertEqual(self.load("patch").tobytes(), self.load("patch", "again").tobytes())
        self.assertEqual(self.listing("again")[6]["path"], self.path("out/part-000000.input.npy") + "#6")
        self.infer(folder, "--dump-input", preset="full", out="full")
        sizes = [3 * r["input_width"] * r["input_height"] for r in self.listing("full")]
        self.assertEqual(list(np.diff(self.load("input-offsets", "full"))), sizes)

    def test_npy_input(self):
        a = np.random.default_rng(5).normal(size=(5, 3, 14, 42)).astype("<f4")
        a[3, 1, 2, 3] = np.nan
        np.save(self.path("a.npy"), a)
        bad = self.infer(self.path("a.npy"), "--features", "patch", "--max-bad", "1", preset=None).stderr
        self.assertIn(b"a.npy: row 3: value 675 is not a finite number [NPY-FINITE]", bad)
        self.assertEqual(self.load("patch").shape, (4, 1, 3, 128))
        self.assertEqual([r["status"] for r in self.listing()], ["ok", "ok", "ok", "corrupt", "ok"])
        np.save(self.path("bad1.npy"), a[:, :, :13])
        np.save(self.path("bad2.npy"), a.astype("<f8"))
        np.save(self.path("bad3.npy"), a[:0])
        np.save(self.path("bad4.npy"), a[:, :2])
        with open(self.path("a.npy"), "rb") as f:
            self.put("bad5.npy", f.read()[:-1])
        for i in range(1, 6):
            bad = self.infer(self.path(f"bad{i}.npy"), preset=None, out="no", code=2).stderr
            self.assertIn((b"[NPY-SHAPE]", b"[NPY-DTYPE]", b"[NPY-SHAPE]", b"[NPY-SHAPE]", b"[NPY-SIZE]")[i - 1], bad)
            self.assertFalse(os.path.exists(self.path("no")))
        self.infer(self.path("a.npy"), out="no", code=64)
        self.infer(self.path("a.npy"), self.pictures(1), preset=None, out="no", code=64)

    def test_store_f16(self):
        folder = self.pictures(6)
        self.infer(folder, "--features", "cls,patch", preset="short:28")
        self.infer(folder, "--features", "cls,patch", "--store", "f16", preset="short:28", out="half")
        for name in ("cls", "patch"):
            self.assertEqual(self.load(name, "half").dtype, np.float16)
            self.assertEqual(self.load(name, "half").tobytes(), self.load(name).astype("<f2").tobytes())

    def test_too_large_for_f16(self):
        np.save(self.path("a.npy"), np.full((2, 3, 14, 14), 1e7, "<f4"))
        words = (self.path("a.npy"), "--features", "patch", "--no-norm")
        self.assertIn(b"a.npy#0: a feature of ", self.refused("RUN-F16", *words, "--store", "f16", preset=None, code=4))
        self.assertFalse(os.path.exists(self.path("out")))
        self.infer(*words, preset=None)

    def test_orientation(self):
        self.put("in/a.png", png(56, 28, 1, turned(6)))
        self.infer(self.path("in"), preset="full")
        row = self.listing()[0]
        self.assertEqual([row[k] for k in KEYS[3:]], [56, 28, 28, 56, 2, 4])
        self.infer(self.path("in"), out="eval")
        self.put("in2/a.png", png(56, 28, 1))
        self.infer(self.path("in2"), out="plain")
        self.assertEqual(self.load("cls", "eval").tobytes(), self.load("cls", "plain").tobytes())

    def test_lists_and_names(self):
        odd = os.fsencode(self.path("in")) + b"/\xff\xfe \"quoted\" \xc3\xa9.png"
        self.put("in/x.png", png(20, 20))
        with open(odd, "wb") as f:
            f.write(png(21, 21))
        os.symlink("..", self.path("in/loop"))
        os.symlink("x.png", self.path("in/y.png"))
        os.symlink("nothing", self.path("in/dangling.png"))
        self.infer(self.path("in"), "--max-bad", "50%")
        rows = self.listing()
        self.assertEqual([os.path.basename(r["path"]) for r in rows][:3], ["dangling.png", "x.png", "y.png"])
        self.assertEqual(os.fsencode(rows[3]["path"]), odd)
        self.assertEqual([r["status"] for r in rows], ["io", "ok", "ok", "ok"])
        names = b"\n".join([os.fsencode(self.path("in/y.png")), b"", odd, os.fsencode(self.path("gone.png"))])
        self.infer("--filelist", "-", "--max-bad", "1", out="listed", stdin=names)
        self.assertEqual([r["status"] for r in self.listing("listed")], ["ok", "ok", "io"])
        self.assertEqual(self.load("cls", "listed")[0].tobytes(), self.load("cls")[0].tobytes())
        self.put("list.txt", names)
        self.infer(self.path("in/x.png"), "--filelist", self.path("list.txt"), "--max-bad", "1", out="both")
        self.assertEqual(len(self.listing("both")), 4)

    def test_shards(self):
        """A shard's pictures have the features of the same pictures as files; a cut shard costs what is cut off, and says so."""
        folder = self.pictures(5)
        self.infer(folder, out="files")
        shard, cut = self.path("s.tar"), self.path("cut.tar")
        names = sorted(os.listdir(folder))
        with tarfile.open(shard, "w", format=tarfile.USTAR_FORMAT) as tar:
            for name in names:
                tar.add(os.path.join(folder, name), name)
        self.infer(shard, out="shard")
        np.testing.assert_array_equal(self.load("cls", "shard"), self.load("cls", "files"))
        self.assertEqual([row["path"] for row in self.listing("shard")], [f"{shard}:{name}" for name in names])
        self.assertIn(b"already finished", self.infer(shard, out="shard").stderr)
        os.utime(shard, (1, 1))  # the shard has changed
        self.assertIn(b"[RUN-DIFFERS]", self.infer(shard, out="shard", code=64).stderr)
        with open(shard, "rb") as whole, open(cut, "wb") as part:
            part.write(whole.read(os.path.getsize(os.path.join(folder, names[0])) + 512 + 600))
        stderr = self.infer(cut, out="cut", code=4).stderr
        self.assertIn(b"[SHARD-TRUNCATED]", stderr)
        self.assertIn(b"damaged in 1 place, more than --max-bad", stderr)

    def test_foreign_weights(self):
        plain = self.path("plain.safetensors")
        folder = self.pictures(3)
        subprocess.run([CONVERT, self.model, "-o", plain, "--to", "safetensors"], check=True, capture_output=True)
        self.infer(folder)
        result = self.run_infer("-m", plain, "-o", self.path("foreign"), "--preset", "eval:28", folder)
        self.assertIn(b"dinov-convert", result.stderr)
        with open(self.path("out/run.json")) as a, open(self.path("foreign/run.json")) as b:
            self.assertEqual(json.load(a)["settings"], json.load(b)["settings"])
        self.assertEqual(self.bytes_of(), self.bytes_of("foreign"))


class Trouble(Case):
    def test_bad_pictures(self):
        self.pictures(5)
        whole = png(30, 30)
        self.put("in/cut.png", whole[:len(whole) // 2])
        self.put("in/empty.jpg", b"")
        self.put("in/flip.png", whole[:60] + bytes([whole[60] ^ 4]) + whole[61:])
        self.put("in/large.png", whole[:16] + struct.pack(">II", 60000, 60000) + whole[24:29] +
                 struct.pack(">I", zlib.crc32(whole[12:16] + struct.pack(">II", 60000, 60000) + whole[24:29])) + whole[33:])
        self.put("in/web.webp", b"RIFF\0\0\0\0WEBPVP8 ")
        want = {"cut.png": "truncated", "empty.jpg": "truncated", "flip.png": "corrupt", "large.png": "too-large", "web.webp": "unsupported"}
        text = self.refused("RUN-MAX-BAD", self.path("in"), code=4)
        self.assertIn(b"--max-bad", text)
        self.assertIn(b"[IMG-CORRUPT]", text)
        found = {os.path.basename(r["path"]): r["status"] for r in self.listing()}
        self.assertEqual({k: found[k] for k in want}, want)
        self.assertEqual(self.load("cls").shape, (5, 128))
        self.infer(self.path("in"), code=4)  # finished, and still too many
        self.infer(self.path("in"), "--max-bad", "5")
        self.infer(self.path("in"), "--max-bad", "50%")
        self.infer(self.path("in"), "--max-bad", "4", code=4)
        self.infer(self.pictures(5, "good"), out="clean")
        self.assertEqual(self.load("cls").tobytes(), self.load("cls", "clean").tobytes())

    def test_max_tokens(self):
        """A picture of little area and large aspect, whose attention alone would take many minutes."""
        folder = self.pictures(2)
        self.put("in/strip.png", png(4000, 15))
        words = (self.path("in"), "--max-bad", "1")
        text = self.infer(*words, preset="short:224").stderr
        self.assertIn(b"strip.png: an input of 59738 x 224 pixels makes 68272 patch tokens; expected at most 32768", text)
        self.assertIn(b"--max-tokens", text)
        self.assertIn(b"[RUN-TOKENS]", text)
        self.assertEqual([r["status"] for r in self.listing()], ["ok", "ok", "too-large"])
        self.refused("RUN-DIFFERS", *words, "--max-tokens", "40000", preset="short:224", code=64)
        self.infer(folder, "--max-tokens", "286", preset="short:14", out="more")
        self.assertEqual(self.listing("more")[2]["grid_w"], 267)
        for preset, code in (("eval:28", 4), ("square:28", 4)):
            self.refused("RUN-TOKENS", folder, "--max-tokens", "3", preset=preset, out="no", code=code)
            self.infer(folder, "--max-tokens", "4", preset=preset, out=preset)
        line = self.put("line.png", png(65000, 1))
        text = self.infer(line, "--max-bad", "1", preset="short:518", out="line").stderr
        self.assertIn(b"line.png: a picture of 65000 x 1 pixels leads to an input of", text)
        self.assertIn(b"[IMG-LARGE]", text)
        np.save(self.path("a.npy"), np.zeros((1, 3, 28, 42), "<f4"))
        self.assertIn(b"a.npy: ", self.refused("RUN-TOKENS", self.path("a.npy"), "--max-tokens", "5", preset=None, out="no", code=4))
        self.infer(self.path("a.npy"), "--max-tokens", "6", preset=None, out="array")
        self.assertFalse(os.path.exists(self.path("no")))

    def test_all_bad(self):
        for i in range(1100):
            self.put(f"in/{i:04}.jpg", b"")
        result = self.infer(self.path("in"), code=4)
        self.assertIn(b"RUN-ALL-BAD", result.stderr)
        self.assertLessEqual(result.stderr.count(b"\n"), 24)
        self.assertFalse(os.path.exists(self.path("out")))
        self.infer(self.path("in"), "--max-bad", "100%")
        self.assertEqual(self.load("cls").shape, (0, 128))

    def test_disk_full(self):
        folder = self.pictures(20)

        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

        result = self.infer(folder, "--features", "cls,patch", code=3, preexec_fn=limit)
        self.assertIn(b"IO-WRITE", result.stderr)
        self.assertFalse(os.path.exists(self.path("out")))

    def test_folders_of_others(self):
        folder = self.pictures(2)
        self.put("out/thesis.txt", b"precious")
        self.assertIn(b"thesis.txt", self.refused("RUN-FOLDER", folder, code=3))
        self.assertEqual(self.files(), ["thesis.txt"])
        self.put("json/run.json", b"{}")
        self.infer(folder, out="json", code=3)
        self.assertEqual(self.files("json"), ["run.json"])
        alien = ["part-000000.tar", "part-000000.cls.npy.bak", "part-000000.L1x.cls.npy", "part-000000.L.cls.npy", "run.json.bak",
                 "part-000000.cls.npy.tmp-", "part-000000.cls.npy.tmp-1", "part-000000.cls.npy.tmp-1-2-3", "part-000000.keys.txt2",
                 "part-000000.notes.npy", "run.json.tmp-x-1", "part-000000.", "part-000000.tar.tmp-1-2"]
        for i, name in enumerate(alien):
            self.put(f"alien{i}/{name}", b"precious")
            self.assertIn(name.encode(), self.refused("RUN-FOLDER", folder, out=f"alien{i}", code=3))
            self.infer(folder, "-f", out=f"alien{i}")
            self.assertEqual(self.files(f"alien{i}"), sorted((name,) + PARTS))
        for name in ("part-000000.L00.patch.npy", "part-000000.input-offsets.npy", "part-000000.keys.txt.tmp-12-0",
                     "part-000000.L11.reg.npy.tmp-4194304-0", "run.json.tmp-1-0"):
            self.put(f"left/{name}", b"left by a run that was killed")
        self.infer(folder, out="left")
        self.assertEqual(self.files("left"), sorted(PARTS))
        os.mkdir(self.path("busy"))
        held = os.open(self.path("busy"), os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX)
        self.assertIn(b"RUN-BUSY", self.infer(folder, out="busy", code=3).stderr)
        os.close(held)
        self.infer(folder, out="busy")

    def start_and_signal(self, number, folder, delay):
        """Starts a run, waits until its files are under way and a little longer, sends the signal."""
        process = subprocess.Popen([INFER, "-m", self.model, "-o", self.path("out"), "--preset", "short:112", "--isa", "ref",
                                    "--features", "cls,patch", "-t", "1", "-b", "1", folder], stderr=subprocess.PIPE)
        deadline = time.time() + 60
        while time.time() < deadline and process.poll() is None:
            if os.path.isdir(self.path("out")) and any(".tmp-" in n for n in self.files()):
                break
            time.sleep(0.001)
        time.sleep(delay)
        process.send_signal(number)
        _, text = process.communicate(timeout=60)
        return process.returncode, text

    def test_a_damaged_run_is_not_finished(self):
        folder = self.pictures(3)
        self.infer(folder)
        os.truncate(self.path("out", "part-000000.cls.npy"), 1000)
        self.assertIn(b"part-000000.cls.npy has 1000 bytes", self.refused("RUN-DAMAGED", folder, code=2))
        self.infer("-f", folder)
        os.unlink(self.path("out", "part-000000.keys.txt"))
        self.refused("RUN-DAMAGED", folder, code=2)

    def test_sigkill_then_the_same_command(self):
        folder = self.pictures(60)
        self.infer(folder, "--features", "cls,patch", "--isa", "ref", preset="short:112", out="clean")
        for delay in (0, 0.02, 0.1):
            code, _ = self.start_and_signal(signal.SIGKILL, folder, delay)
            self.assertEqual(code, -signal.SIGKILL)
            self.assertTrue(all(".tmp-" in n for n in self.files()), self.files())
            self.run_infer("--ls", self.path("out"), code=3)
        self.infer(folder, "--features", "cls,patch", "--isa", "ref", preset="short:112")
        self.assertEqual(self.bytes_of(), self.bytes_of("clean"))

    def test_sigterm_and_sigint(self):
        folder = self.pictures(60)
        for number, want in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
            code, text = self.start_and_signal(number, folder, 0.02)
            self.assertEqual(code, want, text)
            self.assertIn(b"[RUN-STOPPED]", text)
            self.assertFalse(os.path.exists(self.path("out")))


if __name__ == "__main__":
    INFER, DEMO, CONVERT = (os.path.abspath(p) for p in sys.argv[1:4])
    unittest.main(argv=[sys.argv[0], *sys.argv[4:]], verbosity=1)
