# SPDX-License-Identifier: Apache-2.0
"""dinov-convert to ONNX as its user meets it: options, refusals, files beside the graph, the proof, golden folders.

usage: onnx_out.py BIN FAKE_ORT
Parts that need the onnx or onnxruntime packages are left out where they are absent.
"""
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import unittest

BIN, FAKE = sys.argv.pop(1), sys.argv.pop(1)
RUNTIME = importlib.util.find_spec("onnxruntime")
LIBRARY = RUNTIME and [os.path.join(f, n) for f, _, names in os.walk(os.path.dirname(RUNTIME.origin)) for n in names if n.startswith("libonnxruntime.so")]


def run(program, *arguments):
    return subprocess.run([f"{BIN}/{program}", *map(str, arguments)], capture_output=True, text=True)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def load(path):
    return json.loads(read(path))


class Onnx(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.model = f"{cls.folder.name}/m.safetensors"
        done = run("dinov-demo-model", "-f", "-o", cls.model, "--dim", 64, "--depth", 2, "--heads", 1, "--patch", 14, "--grid", 5)
        assert done.returncode == 0, done.stderr
        cls.reg = f"{cls.folder.name}/r.safetensors"
        assert run("dinov-demo-model", "-f", "-o", cls.reg, "--dim", 64, "--depth", 2, "--heads", 1, "--registers", 2, "--grid", 5).returncode == 0

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def setUp(self):
        self.work = tempfile.TemporaryDirectory()
        self.out = f"{self.work.name}/m.onnx"

    def tearDown(self):
        self.work.cleanup()

    def convert(self, *arguments, code=0, word=None, model=None):
        done = run("dinov-convert", model or self.model, "-o", self.out, *arguments)
        self.assertEqual(done.returncode, code, done.stderr)
        if word:
            self.assertIn(word, done.stderr)
        if code:
            self.assertEqual(os.listdir(self.work.name), [], "a refusal leaves nothing")
        return done

    def test_refusals(self):
        self.convert("--size", "100x224", code=64, word="[GRAPH-SIZE]")
        self.convert("--dtype", "bf16", "--opset", 17, code=64, word="[GRAPH-OPSET]")
        self.convert("--layers", "0,2", code=64, word="[GRAPH-LAYER]")
        self.convert("--layers", "1,-1", code=64, word="[GRAPH-LAYER]")
        self.convert("--features", "cls,reg", code=64, word="[GRAPH-OUTPUT]")
        self.convert("--names", "hf", "--features", "cls", code=64, word="[GRAPH-OUTPUT]")

    def test_usage(self):
        for wrong in (["--size", "224x"], ["--size", "0"], ["--size", "224", "--dynamic-size"], ["--batch", "2", "--dynamic-batch"], ["--dtype", "f64"],
                      ["--names", "timm"], ["--fuse", "tensorrt"], ["--opset", "16"], ["--opset", "99"], ["--features", "cls,cls"], ["--features", ""],
                      ["--layers", "a"], ["--to", "dinov", "--size", "224"], ["--to", "safetensors", "--golden", "x"]):
            self.convert(*wrong, code=64)

    def test_whole_or_not_at_all(self):
        self.convert()
        first = read(self.out)
        done = run("dinov-convert", self.model, "-o", self.out)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn("[IO-EXISTS]", done.stderr)
        self.convert("-f")
        self.assertTrue(read(self.out) == first, "the same bytes each time")
        self.assertEqual(os.listdir(self.work.name), ["m.onnx"])

    def test_full_disk(self):
        """A file size limit stands in for a disk that fills."""
        for room in (0, 100, 40000):
            done = subprocess.run(["bash", "-c", f"trap '' XFSZ; ulimit -f {room // 1024}; exec \"$@\"", "-", f"{BIN}/dinov-convert", self.model, "-o", self.out,
                                   "--external-data"], capture_output=True, text=True)
            self.assertEqual(done.returncode, 3, done.stderr)
            self.assertEqual(os.listdir(self.work.name), [])

    def test_external_data(self):
        self.convert("--external-data")
        names = sorted(os.listdir(self.work.name))
        self.assertEqual(len(names), 2)
        self.assertRegex(names[0], r"^m-[0-9a-f]{8}\.data$")
        self.assertLess(os.path.getsize(self.out), 120000)
        # Weights beyond what a reader copies of the model file itself: a wide block.
        wide = f"{self.work.name}/wide.safetensors"
        self.assertEqual(run("dinov-demo-model", "-o", wide, "--dim", 512, "--depth", 1, "--heads", 8, "--grid", 4, "--no-proof").returncode, 0)
        done = run("dinov-convert", wide, "-o", f"{self.work.name}/wide.onnx", "--external-data", "-q")
        self.assertEqual(done.returncode, 0, done.stderr)
        for name in os.listdir(self.work.name):
            if name.startswith("wide"):
                os.remove(f"{self.work.name}/{name}")
        # Other content never takes the name of data that a model is still using.
        self.convert("--external-data", "--dtype", "f16", "-f")
        self.assertEqual(len(os.listdir(self.work.name)), 3)

    def test_dry_run(self):
        self.convert("--dry-run")
        self.assertEqual(os.listdir(self.work.name), [])

    def test_notes(self):
        done = self.convert()
        self.assertIn("ONNX Runtime", done.stderr)  # it says that this check was left out
        self.assertEqual(self.convert("-f", "-q").stderr, "")
        os.remove(self.out)
        self.convert("--ort", "/nonexistent/libonnxruntime.so", code=2, word="[ORT-ABSENT]")

    @unittest.skipUnless(LIBRARY, "no onnxruntime package")
    def test_proof(self):
        for model, flags, outputs in ((self.model, ["--dynamic-size"], 8), (self.reg, ["--features", "cls,reg,patch", "--layers", "0,-1"], 6),
                                      (self.model, ["--with-preprocess", "--batch", "2"], 2), (self.reg, ["--names", "hf"], 2),
                                      (self.model, ["--fuse", "ort", "--dynamic-batch"], 2), (self.model, ["--dtype", "f16"], 2)):
            done = self.convert("-f", "--ort", LIBRARY[0], *flags, model=model)
            lines = [line for line in done.stdout.splitlines() if line.startswith(("onnxruntime\t", "dinov\t"))]
            self.assertEqual(len(lines), 2 * outputs, done.stdout)
            self.assertTrue(all(line.endswith("\tright") for line in lines), done.stdout)
        done = self.convert("-f", "--ort", LIBRARY[0], "--dtype", "bf16")
        self.assertTrue("[ORT-KERNEL]" in done.stderr or "cannot run it here" in done.stderr or "right" in done.stdout, done.stderr)

    @unittest.skipUnless(LIBRARY, "no onnxruntime package")
    def test_a_wrong_graph_is_found(self):
        """The proof against a graph of other weights: its words, its exit code, nothing left."""
        other = f"{self.work.name}/other.safetensors"
        self.assertEqual(run("dinov-demo-model", "-o", other, "--dim", 64, "--depth", 2, "--heads", 1, "--grid", 5, "--seed", 2).returncode, 0)
        golden = f"{self.work.name}/golden"
        self.convert("--golden", golden, "-q")
        import numpy as np
        import onnxruntime
        about = load(f"{golden}/golden.json")
        x = np.fromfile(f"{golden}/image.bin", np.float32).reshape(about["input"]["shape"])
        for model, word in ((self.out, None), (f"{self.work.name}/other.onnx", "[GOLDEN-DIFFERS]")):
            if word:
                self.assertEqual(run("dinov-convert", other, "-o", model, "-q").returncode, 0)
            session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
            exported = [{"name": o.name, "dimensions": "x".join(map(str, v.shape)), "values": [float(f) for f in v.ravel()]}
                        for o, v in zip(session.get_outputs(), session.run(None, {"image": x}))]
            with open(f"{self.work.name}/trt.json", "w") as file:
                json.dump(exported, file)
            done = run("dinov-ckpt", "diff", golden, f"{self.work.name}/trt.json")
            self.assertEqual(done.returncode, 2 if word else 0, done.stderr)
            self.assertEqual(done.stdout.count("WRONG" if word else "right"), 2, done.stdout)
            if word:
                self.assertIn(word, done.stderr)

    def test_what_the_runtime_says(self):
        """A library that answers as the model's name asks (fake_ort.c)."""
        size = ["--size", "70", "--ort", FAKE]
        for name, code, word in (("refuse", 2, "[ORT-REFUSED]"), ("run", 2, "[ORT-RUN]"), ("kind", 2, "[ORT-OUTPUT]"), ("names", 2, "[GRAPH-PROOF]"),
                                 ("fewer", 2, "[GRAPH-PROOF]"), ("wrong", 2, "[GRAPH-PROOF]"), ("kernel", 0, "cannot run it here")):
            self.out = f"{self.work.name}/{name}.onnx"
            done = self.convert(*size, code=code, word=word)
            self.assertNotIn("\x1b", done.stderr)
            self.assertEqual("WRONG" in done.stdout, name == "wrong", done.stdout)
        self.out = f"{self.work.name}/refuse2.onnx"
        done = run("dinov-convert", self.model, "-o", self.out, *size, "--no-check")
        self.assertEqual((done.returncode, os.path.exists(self.out)), (0, True), done.stderr)

    def test_a_failed_check_loses_nothing(self):
        """What stood in the graph's place is there still, its data too; golden files are of right graphs only."""
        golden, size = f"{self.work.name}/golden", ["--size", "70", "--ort", FAKE]
        for flags in ([], ["--external-data"]):
            self.out = f"{self.work.name}/wrong.onnx"
            self.convert("-q", "--no-check", "-f", *flags)
            before = {name: read(f"{self.work.name}/{name}") for name in os.listdir(self.work.name)}
            for more in (flags, [*flags, "--dtype", "f16"], ["--external-data"]):
                done = run("dinov-convert", self.reg, "-o", self.out, "-f", *size, *more, "--golden", golden)
                self.assertEqual((done.returncode, "[GRAPH-PROOF]" in done.stderr), (2, True), done.stderr)
                self.assertIn(f"{self.out}: ", done.stderr)
                self.assertNotIn(".tmp-", done.stderr + done.stdout)
                self.assertEqual({name: read(f"{self.work.name}/{name}") for name in os.listdir(self.work.name)}, before)
        for name, code in (("refuse", 2), ("kernel", 0)):  # the runtime's own words name the output as well
            self.out = f"{self.work.name}/{name}.onnx"
            done = run("dinov-convert", self.model, "-o", self.out, *size)
            self.assertEqual(done.returncode, code, done.stderr)
            self.assertIn(f"{self.out}: ", done.stderr)
            self.assertNotIn(".tmp-", done.stderr)

    def test_golden_folder_is_new(self):
        """Before any work, and nothing is written then."""
        golden = f"{self.work.name}/golden"
        os.mkdir(golden)
        done = run("dinov-convert", self.model, "-o", self.out, "--golden", golden)
        self.assertEqual((done.returncode, "[IO-EXISTS]" in done.stderr), (3, True), done.stderr)
        self.assertEqual(os.listdir(self.work.name), ["golden"])

    def test_and_back(self):
        """What a graph carries beside weights survives; what it lost is said."""
        back = f"{self.work.name}/back.safetensors"
        self.convert("--dynamic-size", "--licence", "Apache-2.0", "--origin", "here", "-q")
        for more, kept in (([], ("Apache-2.0", "here")), (["--origin", "there"], ("Apache-2.0", "there"))):
            done = run("dinov-convert", self.out, "-o", back, "-f", *more)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertNotIn("was made for pictures of one size", done.stderr)
            found = json.loads(run("dinov-ckpt", "show", "--json", back).stdout)["provenance"]
            self.assertEqual((found["licence"], found["origin"]), kept)
        found = json.loads(run("dinov-ckpt", "show", "--json", self.out).stdout)["provenance"]
        self.assertEqual(found, dict(licence="Apache-2.0", origin="here"))
        self.assertRegex(run("dinov-ckpt", "show", self.out).stdout, r"licence +Apache-2\.0\norigin +here\n")
        self.convert("--size", "42", "-q", "-f")
        done = run("dinov-convert", self.out, "-o", back, "-f")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("was made for pictures of one size, and has positions for 42x42 pixels", done.stderr)

    def diff(self, *arguments, code=0, word=None):
        done = run("dinov-ckpt", "diff", *arguments)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        if word:
            self.assertIn(word, done.stdout + done.stderr)
        return done

    def test_diff_across_layouts(self):
        self.convert("--dynamic-size", "-q")
        others = {"pth": "pth", "hf": "folder", "timm": "timm.safetensors", "safetensors": "plain.safetensors"}
        for to, name in others.items():
            done = run("dinov-convert", self.model, "--to", to, "-o", f"{self.work.name}/{name}", "-q")
            self.assertEqual(done.returncode, 0, done.stderr)
        for name in others.values():
            path = f"{self.work.name}/{name}"
            kept = "timm" not in name  # timm and ONNX do not carry mask_token
            self.diff(self.model, path, code=0 if kept else 2, word="%d equal, 0 within tolerance, 0 differ, %d only in the first" % (34 + kept, not kept))
            self.diff(path, self.out, code=2 if kept else 0)
            done = self.diff("--outputs", path, self.out)
            self.assertEqual(done.stdout.count("right"), 8, done.stdout)
        half = f"{self.work.name}/half.onnx"
        self.assertEqual(run("dinov-convert", self.model, "-o", half, "--dtype", "bf16", "-q").returncode, 0)
        self.diff("--outputs", self.model, half, word="right")
        other = f"{self.work.name}/other.safetensors"
        self.assertEqual(run("dinov-demo-model", "-o", other, "--dim", 64, "--depth", 2, "--heads", 1, "--grid", 5, "--seed", 9).returncode, 0)
        done = self.diff("--outputs", self.model, other, code=2, word="[GRAPH-PROOF]")
        self.assertIn("WRONG", done.stdout)
        shown = json.loads(self.diff("--outputs", "--json", self.model, self.out).stdout)
        self.assertEqual((shown["same"], len(shown["outputs"])), (True, 8))
        self.diff("--outputs", self.model, self.reg, code=2, word="[CKPT-OTHER-MODEL]")

    def test_golden(self):
        golden = f"{self.work.name}/golden"
        self.convert("--golden", golden, "--size", "28x42", "--batch", "2")
        about = load(f"{golden}/golden.json")
        self.assertEqual(about["input"], {"name": "image", "type": "f32", "shape": [2, 3, 28, 42]})
        self.assertEqual([o["shape"] for o in about["outputs"]], [[2, 64], [2, 6, 64]])
        for name, count in (("image", 2 * 3 * 28 * 42), ("cls", 2 * 64), ("patch", 2 * 6 * 64)):
            self.assertEqual(os.path.getsize(f"{golden}/{name}.bin"), 4 * count)
        lines = read(f"{golden}/trtexec.txt").decode()
        self.assertIn("--onnx=../m.onnx --stronglyTyped --noTF32", lines)
        self.assertIn("--loadInputs=image:image.bin --exportOutput=trt.json", lines)
        self.assertNotIn("Shapes", lines)
        done = run("dinov-convert", self.model, "-o", self.out, "-f", "--golden", golden)
        self.assertEqual((done.returncode, "[IO-EXISTS]" in done.stderr), (3, True), done.stderr)
        for name, text, word in (("no.json", "{", "[GOLDEN-EXPORT]"), ("none.json", "[]", "[GOLDEN-EXPORT]"), ("kind.json", "{}", "[GOLDEN-EXPORT]"),
                                 ("short.json", '[{"name":"cls","values":[1]}]', "[GOLDEN-EXPORT]")):
            with open(f"{self.work.name}/{name}", "w") as file:
                file.write(text)
            done = run("dinov-ckpt", "diff", golden, f"{self.work.name}/{name}")
            self.assertEqual((done.returncode, word in done.stderr), (2, True), done.stderr)
        with open(f"{golden}/golden.json", "w") as file:
            file.write("[]")
        done = run("dinov-ckpt", "diff", golden, f"{self.work.name}/none.json")
        self.assertEqual((done.returncode, "[GOLDEN-FOLDER]" in done.stderr), (2, True), done.stderr)


if __name__ == "__main__":
    unittest.main()
