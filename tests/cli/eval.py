# SPDX-License-Identifier: Apache-2.0
"""dinov-eval from outside: the three kinds of sets agree, labels from everywhere, what is printed and written, what is
refused. Pictures are drawn here. Standard library and numpy.

usage: eval.py BIN
"""
import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unittest
import zlib
from struct import pack

try:
    import numpy as np
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

BIN = None
COLOURS = {"cobalt": (30, 60, 200), "fern": (40, 170, 60), "rust": (190, 70, 30)}


def png(colour, seed, size=32):
    """A noisy picture of one colour."""
    dice = np.random.RandomState(seed)
    pixels = np.clip(np.array(colour) + dice.normal(0, 25, (size, size, 3)), 0, 255).astype("u1")

    def chunk(kind, data):
        return pack(">I", len(data)) + kind + data + pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.shared = tempfile.TemporaryDirectory()
        at = cls.at
        subprocess.run([f"{BIN}/dinov-demo-model", "-o", at("model"), "--dim", "128", "--depth", "5", "--grid", "5", "--no-proof"],
                       check=True, capture_output=True)
        for name, each, first in (("train", 8, 0), ("test", 3, 100)):
            for c, (label, colour) in enumerate(COLOURS.items()):
                os.makedirs(at(name, label))
                for i in range(each):
                    with open(at(name, label, f"{i}.png"), "wb") as f:
                        f.write(png(colour, first + 10 * c + i))
            cls.extract(at(name), at(f"{name}-run"))
            cls.shard(name)

    @classmethod
    def shard(cls, name):
        """NAME.tar.gz: the same pictures in the same order, with their classes as numbers."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for c, label in enumerate(COLOURS):
                for file in sorted(os.listdir(cls.at(name, label))):
                    with open(cls.at(name, label, file), "rb") as f:
                        for end, data in (("png", f.read()), ("cls", str(c).encode())):
                            info = tarfile.TarInfo(f"{label}-{file[:-4]}.{end}")
                            info.size = len(data)
                            tar.addfile(info, io.BytesIO(data))
        with open(cls.at(f"{name}.tar.gz"), "wb") as f:
            f.write(gzip.compress(buffer.getvalue()))

    @classmethod
    def tearDownClass(cls):
        cls.shared.cleanup()

    @classmethod
    def at(cls, *names):
        return os.path.join(cls.shared.name, *names)

    @classmethod
    def extract(cls, folder, out, *words, features="cls,mean", layers="-1,-2,-3,-4", preset="eval:28"):
        subprocess.run([f"{BIN}/dinov-infer", "-q", "-m", cls.at("model"), "-o", out, "--features", features, "--layers", layers,
                        "--preset", preset, *words, folder], check=True, capture_output=True)

    def setUp(self):
        self.temp = tempfile.TemporaryDirectory()
        self.addCleanup(self.temp.cleanup)

    def path(self, *names):
        return os.path.join(self.temp.name, *names)

    def put(self, name, data):
        with open(self.path(name), "wb") as f:
            f.write(data if isinstance(data, bytes) else data.encode())
        return self.path(name)

    def array(self, name, values, dtype=None):
        np.save(self.path(name), np.asarray(values, dtype))
        return self.path(name)

    def run_eval(self, *words, code=0):
        done = subprocess.run([f"{BIN}/dinov-eval", *words], capture_output=True, text=True, timeout=300)
        self.assertEqual(done.returncode, code, done.stderr)
        return done

    def json(self, *words):
        return json.loads(self.run_eval(*words, "--json", "-q").stdout)

    def refused(self, reason, *words, code):
        done = self.run_eval(*words, code=code)
        self.assertTrue(done.stderr.endswith(f"[{reason}]\n"), done.stderr)
        self.assertEqual(done.stdout, "")
        return done.stderr

    def runs(self, verb="knn"):
        return [verb, "--train", self.at("train-run"), "--test", self.at("test-run")]

    def pictures(self, verb="knn", end=""):
        return [verb, "-m", self.at("model"), "--preset", "eval:28", "--train", self.at(f"train{end}"), "--test", self.at(f"test{end}")]


class Sets(Case):
    def test_pictures_shards_runs_and_arrays_agree(self):
        want = self.json(*self.runs(), "-k", "1,3,10")
        self.assertEqual(list(want), [f"('full', {k}) Top {n}" for k in (1, 3, 10) for n in (1, 5)])
        self.assertGreater(want["('full', 3) Top 1"], 80)
        self.assertEqual(self.json(*self.pictures(), "-k", "1,3,10"), want)
        self.assertEqual(self.json(*self.pictures(end=".tar.gz"), "-k", "1,3,10", "-b", "5", "-t", "3"), want)
        labels = [self.array(f"{n}.npy", np.repeat([0, 1, 2], k), "<i8") for n, k in (("a", 8), ("b", 3))]
        features = [self.at(f"{n}-run", "part-000000.cls.npy") for n in ("train", "test")]
        arrays = ["knn", "--train", features[0], "--test", features[1], "--train-labels", labels[0], "--test-labels", labels[1]]
        self.assertEqual(self.json(*arrays, "-k", "1,3,10"), want)
        wide = [self.array(f"{i}-wide.npy", np.load(x), "<f8") for i, x in enumerate(features)]
        self.assertEqual(self.json("knn", "--train", wide[0], "--test", wide[1], *arrays[5:], "-k", "1,3,10"), want)

    def test_linear_agrees_too(self):
        few = ["--epochs", "1", "--epoch-length", "40", "--batch-size", "16", "--rates", "0.01,0.1"]
        want = self.run_eval(*self.runs("linear"), *few, "-q", "-o", self.path("a")).stdout
        self.assertEqual(self.run_eval(*self.pictures("linear"), *few, "-q", "-t", "1", "-o", self.path("b")).stdout, want)
        with open(self.path("a")) as a, open(self.path("b")) as b:
            text = a.read()
            self.assertEqual(b.read(), text)
        self.assertIn("4 blocks+mean", want)
        self.assertRegex(text, r'^iter: 40\n\{"best_classifier": \{"name": "classifier_[14]_blocks_avgpool_\w+_lr_0_\d+", "accuracy": [01]\.\d+\}\}\n\n$')

    def test_shards_and_folders_given_in_parts(self):
        parts = [word for label in COLOURS for word in ("--train", self.put_folder(label))]
        words = ["knn", "-m", self.at("model"), "--preset", "eval:28", "-k", "3"]
        want = self.json(*words, "--train", self.at("train"), "--test", self.at("test"))
        self.assertEqual(self.json(*words, *parts, "--test", self.at("test")), want)
        listed = self.put("list", self.at("train.tar.gz") + "\n")
        self.assertEqual(self.json(*words, "--train-list", listed, "--test", self.at("test.tar.gz")), want)

    def put_folder(self, label):
        """A folder that holds one class, as a sub-folder."""
        os.makedirs(self.path(f"part-{label}"))
        shutil.copytree(self.at("train", label), self.path(f"part-{label}", label))
        return self.path(f"part-{label}")

    def test_pictures_of_several_sizes(self):
        words = [w if w != "eval:28" else "full" for w in self.pictures()]
        shutil.copytree(self.at("train"), self.path("mixed"))
        for i, (label, colour) in enumerate(COLOURS.items()):
            with open(self.path("mixed", label, "big.png"), "wb") as f:
                f.write(png(colour, 50 + i, size=45))
        words[words.index("--train") + 1] = self.path("mixed")
        self.extract(self.path("mixed"), self.path("run"), preset="full")
        self.extract(self.at("test"), self.path("test-run"), preset="full")
        self.assertEqual(self.json(*words, "-k", "5"), self.json("knn", "--train", self.path("run"), "--test", self.path("test-run"), "-k", "5"))

    def test_half_precision_and_fewer_kinds(self):
        for name in ("train", "test"):
            self.extract(self.at(name), self.path(name), "--store", "f16", features="cls", layers="-1")
        self.json("knn", "--train", self.path("train"), "--test", self.path("test"), "-k", "3")
        out = self.run_eval("linear", "--train", self.path("train"), "--test", self.path("test"), "--epochs", "1", "--epoch-length", "5").stdout
        self.assertIn("1 block", out)
        self.assertNotIn("+mean", out)
        self.assertNotIn("4 blocks", out)


class Labels(Case):
    def keys(self, name):
        with open(self.at(f"{name}-run", "part-000000.keys.txt")) as f:
            return f.read().splitlines()

    def test_every_way_to_label_a_run(self):
        want = self.json(*self.runs(), "-k", "3")
        keys = {n: self.keys(n) for n in ("train", "test")}
        label = lambda key: key.split("/")[-2]
        bodies = {"number": lambda keys: "".join(f"{list(COLOURS).index(label(k))}\n" for k in keys),
                  "name": lambda keys: "\r\n".join(map(label, keys)),
                  "key": lambda keys: "".join(f"{k}\t{label(k)}\n" for k in [*reversed(keys), "no/such"])}
        for kind, body in bodies.items():
            words = [w for n in keys for w in (f"--{n}-labels", self.put(f"{n}-{kind}", body(keys[n])))]
            self.assertEqual(self.json(*self.runs(), *words, "-k", "3"), want, kind)

    def test_labels_of_a_run_with_bad_pictures(self):
        shutil.copytree(self.at("train"), self.path("in"))
        with open(self.path("in", "fern", "0.png"), "wb") as f:
            f.write(b"no picture")
        self.extract(self.path("in"), self.path("run"), "--max-bad", "100%")
        rows = [0] * 8 + [1] * 7 + [2] * 8
        inputs = [0] * 8 + [1] * 8 + [2] * 8
        test = ["--test", self.at("test-run"), "--test-labels", self.array("t.npy", np.repeat([0, 1, 2], 3), "u1"), "-k", "3"]
        by_row = self.json("knn", "--train", self.path("run"), "--train-labels", self.array("r.npy", rows, "<i4"), *test)
        by_input = self.json("knn", "--train", self.path("run"), "--train-labels", self.array("i.npy", inputs, "<i2"), *test)
        self.assertEqual(by_row, by_input)

    def test_refused(self):
        good = self.array("good.npy", np.repeat([0, 1, 2], 3), "<i8")
        runs = [*self.runs(), "--train-labels", self.array("train.npy", np.repeat([0, 1, 2], 8)), "--test-labels"]
        self.run_eval(*runs, good)
        for reason, path in (
                ("EVAL-COUNT", self.array("short.npy", [0, 1])),
                ("EVAL-COUNT", self.put("short.txt", "0\n1\n2\n")),
                ("EVAL-LABELS", self.array("real.npy", np.zeros(9))),
                ("EVAL-LABELS", self.array("flat.npy", np.zeros((3, 3), "<i4"))),
                ("EVAL-LABELS", self.array("large.npy", np.full(9, 2**40))),
                ("EVAL-LABELS", self.put("gap.txt", "0\n\n1\n2\n0\n1\n2\n0\n1\n")),
                ("EVAL-LABELS", self.put("mixed.txt", "0\nkey\t1\n")),
                ("EVAL-LABELS", self.put("twice.txt", "k\t0\nk\t1\n")),
                ("EVAL-UNLABELLED", self.put("absent.txt", "no-such-key\t0\n")),
                ("EVAL-CLASS", self.put("names.txt", "a\n" * 9)),
                ("EVAL-LABEL", self.put("minus.txt", "-1\n" * 9)),
                ("EVAL-LABEL", self.put("high.txt", "3\n" * 9))):
            self.refused(reason, *runs, path, code=2)
        self.refused("IO-OPEN", *runs, self.path("absent"), code=3)
        names = [*self.runs(), "--test-labels", self.put("other.txt", "fern\n" * 8 + "heather\n")]
        self.assertIn("class heather does not occur in the training set", self.refused("EVAL-CLASS", *names, code=2))

    def test_folders_that_are_no_classes(self):
        os.makedirs(self.path("flat"))
        for i in range(3):
            shutil.copy(self.at("train", "fern", f"{i}.png"), self.path("flat"))
        self.extract(self.path("flat"), self.path("flat-run"))
        self.refused("EVAL-UNLABELLED", "knn", "--train", self.path("flat-run"), "--test", self.at("test-run"), code=2)
        words = self.pictures()
        words[words.index("--train") + 1] = self.path("flat")
        self.refused("EVAL-UNLABELLED", *words, code=2)
        self.refused("EVAL-CLASS", *self.pictures(), "--train", self.at("train.tar.gz"), code=2)


class Refused(Case):
    def test_usage(self):
        for words in (["knn"], [], ["nonsense"], ["knn", "--train", "x"], [*self.runs(), "stray"], [*self.runs(), "--no-such-option"],
                      [*self.runs(), "-k", "0"], [*self.runs(), "-k", "5,"], [*self.runs(), "-k", "-1"], [*self.runs(), "-k", "ten"],
                      [*self.runs(), "--n-per-class", "0"], [*self.runs(), "--temperature", "0"], [*self.runs(), "--tries", "0"],
                      [*self.runs("linear"), "--rates", "x"], [*self.runs("linear"), "--epochs", "0"], [*self.runs(), "--epochs", "1"],
                      [*self.runs(), "--max-bad", "half"], ["knn", *sum((["--train", "x"] for _ in range(257)), [])]):
            self.run_eval(*words, code=64)
        self.refused("EVAL-RATE", *self.runs("linear"), "--rates", "0.1,0.1", code=64)
        self.refused("DEV-ISA", *self.runs(), "--isa", "abacus", code=2)

    def test_what_goes_together(self):
        features = self.at("train-run", "part-000000.cls.npy")
        self.refused("OPT-LABELS", "knn", "--train", features, "--test", self.at("test-run"), code=64)
        self.refused("OPT-LABELS", *self.pictures(), "--train-labels", features, code=64)
        self.refused("OPT-MODEL", *self.runs(), "-m", self.at("model"), code=64)
        self.refused("OPT-MODEL", "knn", "--train", self.at("train"), "--test", self.at("test"), code=64)

    def test_features(self):
        labels = ["--train-labels", self.array("l.npy", [0, 1]), "--test-labels", self.array("m.npy", [0, 1])]
        good = self.array("good.npy", [[1, 2], [2, 1]], "<f4")
        for reason, path in (("EVAL-FEATURES", self.array("int.npy", [[1, 2], [2, 1]])),
                             ("EVAL-FEATURES", self.array("flat.npy", [1., 2.])),
                             ("EVAL-FINITE", self.array("nan.npy", [[1, np.nan], [2, 1]], "<f4")),
                             ("EVAL-FINITE", self.array("inf.npy", [[1, 1e300], [2, 1]], "<f8")),
                             ("EVAL-DIM", self.array("dim.npy", [[1, 2, 3], [2, 1, 3]], "<f4"))):
            self.refused(reason, "knn", "--train", good, "--test", path, *labels, code=2)
        with open(good, "rb") as f:
            cut = self.put("cut.npy", f.read()[:-1])
        self.refused("NPY-SIZE", "knn", "--train", cut, "--test", good, *labels, code=2)

    def test_runs(self):
        self.extract(self.at("test"), self.path("other"), preset="eval:42")
        message = self.refused("EVAL-RUNS", "knn", "--train", self.at("train-run"), "--test", self.path("other"), code=64)
        self.assertIn("eval:42", message)
        self.extract(self.at("test"), self.path("mean"), features="mean", layers="-1")
        self.refused("EVAL-FEATURES", "knn", "--train", self.path("mean"), "--test", self.path("mean"), code=2)
        self.extract(self.at("test"), self.path("few"), features="cls", layers="-1")
        self.refused("EVAL-KINDS", *self.runs("linear")[:3], "--test", self.path("few"), code=2)
        shutil.copytree(self.at("test-run"), self.path("damaged"))
        np.save(self.path("damaged", "part-000000.cls.npy"), np.zeros((5, 128), "<f4"))
        self.refused("EVAL-FEATURES", "knn", "--train", self.at("train-run"), "--test", self.path("damaged"), code=2)
        self.put("run.json", "{}")
        shutil.copy(self.path("run.json"), self.path("damaged", "run.json"))
        self.refused("EVAL-FEATURES", "knn", "--train", self.path("damaged"), "--test", self.at("test-run"), code=2)

    def test_bad_pictures(self):
        shutil.copytree(self.at("train"), self.path("in"))
        for i in range(2):
            with open(self.path("in", "rust", f"{i}.png"), "wb") as f:
                f.write(b"\x89PNG\r\n\x1a\nno more")
        words = self.pictures()
        words[words.index("--train") + 1] = self.path("in")
        self.assertIn("2 of 24", self.refused("EVAL-MAX-BAD", *words, code=4))
        done = self.run_eval(*words, "--max-bad", "2")
        self.assertIn("22 training and 9 test rows", done.stderr)
        self.assertEqual(done.stderr.count("rust/"), 2)


class Output(Case):
    def test_file(self):
        out = self.path("results_eval_knn.json")
        table = self.run_eval(*self.runs(), "-k", "1,3", "--n-per-class=2,-1", "--tries", "4", "-o", out)
        with open(out) as f:
            lines = [json.loads(line) for line in f]
        self.assertEqual([list(x)[0] for x in lines], [f"('{g}', {k}) Top {n}" for g, ks in (("2 per class", (1, 2)), ("full", (1, 3)))
                                                       for k in ks for n in (1, 5)])
        self.assertIn("2 per class", table.stdout)
        self.assertIn("24 training and 9 test rows of 128 values, 3 classes", table.stderr)
        self.refused("IO-EXISTS", *self.runs(), "-o", out, code=3)
        self.run_eval(*self.runs(), "-o", out, "-f")
        self.refused("IO-CREATE", *self.runs(), "-o", self.path("no", "folder"), code=3)
        self.assertEqual(os.listdir(self.temp.name), ["results_eval_knn.json"])

    def test_linear(self):
        out, few = self.path("out"), ["--epochs", "2", "--epoch-length", "15", "--batch-size", "16", "--rates", "0.02,0.2"]
        got = self.run_eval(*self.runs("linear"), *few, "--eval-period", "10", "--val", self.at("train-run"), "--json", "-o", out)
        result = json.loads(got.stdout)
        self.assertEqual(list(result), ["best_classifier", "val_accuracy", "test_accuracy"])
        with open(out) as f:
            text = f.read()
        self.assertEqual([line for line in text.splitlines() if line.startswith("iter")], ["iter: 9", "iter: 19", "iter: 30", "iter: 30"])
        self.assertIn("iteration 20 of 30", got.stderr)
        final = json.loads(text.splitlines()[-2])["best_classifier"]
        self.assertEqual(final["name"], result["best_classifier"])
        self.assertAlmostEqual(100 * final["accuracy"], result["test_accuracy"])

    def test_same_bits(self):
        for verb in ([*self.runs(), "--n-per-class", "3"], [*self.runs("linear"), "--epochs", "1", "--epoch-length", "20"]):
            one, three = (self.run_eval(*verb, "-t", n, "--json", "-q").stdout for n in "13")
            self.assertEqual(one, three)

    def test_help(self):
        for verb in ("knn", "linear"):
            text = self.run_eval(verb, "--help").stdout
            self.assertEqual(text.split("examples:")[1].count("      ") >= 2, True)
        self.assertIn("without augmentation", text)


if __name__ == "__main__":
    BIN = sys.argv.pop(1)
    unittest.main(verbosity=0)
