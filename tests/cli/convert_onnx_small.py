# SPDX-License-Identifier: Apache-2.0
"""Small ONNX files, one of each family of exporters (onnx/, made by convert_onnx.py), and graphs built byte by byte: what
comes out is what went in, bit for bit, with what the graph says of the model; files beside a model are found, or refused.

usage: convert_onnx_small.py DINOV_CONVERT DINOV_CKPT
"""
import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile
import unittest

import onnxfiles
import weightfiles
from onnxfiles import Vit, node, text

CONVERT, CKPT = None, None
HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "onnx")
SMALL = dict(dim=8, depth=2, grid=2, patch=2, hidden=12)


def small(**how):
    return weightfiles.model(seed=5, **dict(SMALL, **how))


class Case(unittest.TestCase):
    def setUp(self):
        self.temp = tempfile.TemporaryDirectory()
        self.addCleanup(self.temp.cleanup)

    def path(self, name):
        return os.path.join(self.temp.name, name)

    def put(self, raw, name="model.onnx"):
        with open(self.path(name), "wb") as f:
            f.write(raw)
        return self.path(name)

    def convert(self, path, *more, code=0, error=None):
        done = subprocess.run([CONVERT, path, "-o", self.path("out"), "-f", *more], capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, code, done.stderr)
        if error:
            self.assertTrue(done.stderr.endswith("[%s]\n" % error), done.stderr)
        return done

    def show(self, path):
        self.convert(path)
        done = subprocess.run([CKPT, "show", "--json", self.path("out")], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def tensors(self, path):
        self.convert(path, "--to", "safetensors")
        return weightfiles.read_safetensors(self.path("out"))[0]

    def assert_weights(self, path, state):
        found = self.tensors(path)
        self.assertEqual(set(found), set(state))
        for name, t in state.items():
            raw = t.bytes() if name != "mask_token" else b"\0" * len(t.bytes())
            self.assertEqual(found[name], (t.storage.dtype, t.shape, raw), name)


class Exporters(Case):
    def test_each(self):
        with open(os.path.join(HERE, "expected.json")) as f:
            expected = json.load(f)["sha256"]
        self.assertGreaterEqual(len(expected), 7)
        for name, digests in expected.items():
            with self.subTest(name):
                found = self.tensors(os.path.join(HERE, name + ".onnx"))
                self.assertEqual({k: hashlib.sha256(raw).hexdigest() for k, (_, _, raw) in found.items()}, digests)

    def test_facts(self):
        for name, interp in (("script", [0.1, False]), ("script-unfolded-any-size", [0.1, False]), ("dynamo-any-size", [0.0, False]),
                             ("dynamo", [0.0, True])):
            with self.subTest(name):
                model = self.show(os.path.join(HERE, name + ".onnx"))["model"]
                self.assertEqual((model["heads"], model["ln_eps"], model["grid"]), (2, 1e-6, [2, 2]))
                self.assertEqual([model["interp"]["offset"], model["interp"]["antialias"]], interp)


class Graphs(Case):
    def test_kinds(self):
        for kind in ("", "split", "Attention", "MultiHeadAttention"):
            for how in (dict(), dict(registers=3), dict(swiglu=True), dict(layerscale=False), dict(depth=1, dim=16, grid=1)):
                with self.subTest(kind=kind, **how):
                    state = small(**how)
                    path = self.put(Vit(state, heads=4, kind=kind).bytes())
                    self.assert_weights(path, state)
                    self.assertEqual(self.show(path)["model"]["heads"], 4)

    def test_positions_apart(self):
        for kind in ("", "thirds", "thirds, MultiHeadAttention"):
            for how in (dict(), dict(registers=2)):
                for resampling in (None, [0.5, 0.5, 0.25, 0.75]):
                    with self.subTest(kind=kind, resampling=resampling, **how):
                        path = self.put(Vit(small(**how), heads=4, kind=kind, apart=True, resampling=resampling).bytes())
                        self.assert_weights(path, small(**how))
                        self.assertEqual(self.show(path)["model"]["heads"], 4)

    def test_order(self):
        v = Vit(small(), heads=2)
        v.nodes.reverse()
        self.assert_weights(self.put(v.bytes()), small())
        v.nodes = v.nodes[::2] + v.nodes[1::2]
        self.assert_weights(self.put(v.bytes()), small())

    def test_old_files(self):
        """Initializers that are listed as inputs, sizes one a field, and ONNX's own domain by its other name."""
        v = Vit(small(), heads=2)
        v.nodes = [n + text(7, "ai.onnx") for n in v.nodes]
        v.tensors = [onnxfiles.tensor("norm.weight", (8,), small()["norm.weight"].bytes(), packed=False)
                     if text(8, "norm.weight") in t and b"blocks" not in t else t for t in v.tensors]
        inputs = ["pixels", "norm.weight", "cls_token"]
        self.assert_weights(self.put(onnxfiles.model(onnxfiles.graph(v.nodes, v.tensors, inputs), ir=3)), small())

    def test_epsilon(self):
        for eps in (1e-6, 1e-5, 1e-12, 0.01, 3.7e-7):
            self.assertEqual(self.show(self.put(Vit(small(), heads=2, eps=eps).bytes()))["model"]["ln_eps"], eps)

    def test_without_one_gamma(self):
        """Exporters drop a product with ones."""
        state = small()
        del state["blocks.1.ls1.gamma"]
        path = self.put(Vit(state, heads=2).bytes())
        self.assertEqual(self.tensors(path)["blocks.1.ls1.gamma"], ("F32", (8,), struct.pack("<8f", *[1.0] * 8)))
        self.assertIn("layerscale-ones", self.show(path)["provenance"]["transforms"])

    def test_what_was_done(self):
        shown = self.show(self.put(Vit(small(), heads=2).bytes()))["provenance"]
        self.assertEqual((shown["source_format"], shown["transforms"]), ("onnx", "mask_token-zeros"))

    def test_input_nodes(self):
        v = Vit(small(), heads=2)
        v.nodes[0] = v.nodes[0].replace(text(1, "pixels"), text(1, "scaled"))
        v.nodes.insert(0, node("Div", ["pixels", "scale"], ["scaled"]))
        path = self.put(v.bytes())
        self.assert_weights(path, small())
        self.assertEqual(self.show(path)["provenance"]["transforms"], "input-nodes,mask_token-zeros")

    def test_document(self):
        model = dict(patch=2, dim=8, depth=2, heads=2, ffn="mlp", hidden=12, registers=0, channels=3, layerscale=True, qkv_bias=True,
                     ln_eps=1e-6, position=dict(kind="learned", grid=[2, 2], offset=0.0, antialias=True))
        preprocess = dict(preset="short:100", mean=[0.5, 0.25, 0.125], std=[0.5, 1.0, 2.0])

        def shown(document):
            raw = document if isinstance(document, (str, bytes)) else json.dumps(document)
            return self.show(self.put(Vit(small(), heads=2).bytes(metadata=[("dinov", raw)])))

        found = shown(dict(model=model, preprocess=preprocess))
        self.assertEqual((found["model"]["interp"]["offset"], found["model"]["interp"]["antialias"]), (0.0, True))
        self.assertEqual(found["preprocess"]["preset"], "short:100")
        self.assertEqual(found["provenance"]["transforms"], "mask_token-zeros")
        found = shown(dict(model=dict(model, position=dict(model["position"], grid=[37, 37]))))
        self.assertEqual(found["provenance"]["transforms"], "positions-resampled,mask_token-zeros")
        for wrong in ({}, [], "", "{", "\xff", b"\xff\0", dict(model=dict(model, heads=4)), dict(model=dict(model, depth=3)),
                      dict(model=dict(model, dim=16)), dict(model=dict(model, ln_eps=1e-5)), dict(model=dict(model, patch=14)),
                      dict(model=dict(model, registers=4)), dict(model=dict(model, heads="2")), "[" * 100000):
            found = shown(wrong)
            self.assertEqual(found["model"]["interp"], dict(offset=0.1, antialias=False), wrong)
            self.assertEqual(found["provenance"]["transforms"], "document-ignored,mask_token-zeros")
        for said, kept in (("A" * 255, "A" * 255), ("A" * 256, ""), ("\u00e9", "\u00e9"), ("a\nb", ""), ("\u202e", ""), (7, ""), (None, "")):
            found = shown(json.dumps(dict(model=model, identity=dict(provenance=dict(licence=said, origin=said))), ensure_ascii=False))["provenance"]
            self.assertEqual((found["licence"], found["origin"]), (kept, kept))
        for wrong in (dict(preprocess, preset="no:1"), dict(preprocess, std=[0, 1, 1]), dict(preprocess, mean=[1]), dict(preprocess, preset=5), 7):
            self.assertEqual(shown(dict(model=model, preprocess=wrong))["preprocess"]["preset"], "eval:224")


class Beside(Case):
    """Values in other files."""

    def setUp(self):
        super().setUp()
        self.vit = Vit(small(), heads=2)

    def moved(self, align=1, **more):
        """Every initializer's values in values.bin."""
        data, tensors = b"", []
        for raw in self.vit.tensors:
            name, shape, dtype, values = parsed(raw)
            data += b"\0" * (-len(data) % align)
            tensors.append(onnxfiles.external(name, shape, dtype, **dict(dict(location="values.bin", offset=str(len(data)), length=str(len(values))), **more)))
            data += values
        self.put(data, "values.bin")
        return self.put(onnxfiles.model(onnxfiles.graph(self.vit.nodes, tensors)))

    def test_found(self):
        for align in (1, 64, 4096):
            self.assert_weights(self.moved(align), small())
        self.assert_weights(self.moved(checksum="00", basepath="/nowhere", more="than known"), small())

    def test_absent(self):
        path = self.moved()
        os.remove(self.path("values.bin"))
        self.convert(path, code=3, error="IO-OPEN")

    def test_cut(self):
        path = self.moved()
        os.truncate(self.path("values.bin"), os.path.getsize(self.path("values.bin")) - 1)
        self.convert(path, code=2, error="ONNX-EXTERNAL")

    def test_links(self):
        path = self.moved()
        os.rename(self.path("values.bin"), self.path("real"))
        os.symlink("real", self.path("values.bin"))
        self.convert(path, code=3, error="IO-OPEN")
        os.remove(self.path("values.bin"))
        os.link(self.path("real"), self.path("values.bin"))
        self.convert(path, code=2, error="FILES-NAME")

    def test_places(self):
        os.mkdir(self.path("folder"))
        self.put(b"\0" * 65536, "folder/values.bin")
        for place in ("folder/values.bin", "./values.bin", "/etc/passwd", "../values.bin", "folder", ".hidden"):
            path = self.moved(location=place)
            self.convert(path, code=3 if place == "folder" else 2, error="IO-OPEN" if place == "folder" else "FILES-NAME")


def fields(raw):
    """Of a message of numbers and bytes."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            at += 1
            value |= (raw[at - 1] & 127) << shift
            shift += 7
            if raw[at - 1] < 128:
                return value

    while at < len(raw):
        tag, value = varint(), varint()
        if tag & 7 == 2:
            value, at = raw[at:at + value], at + value
        yield tag >> 3, value


def parsed(raw):
    """Name, shape, dtype and values of a tensor that onnxfiles wrote; sizes are below 128."""
    found = dict(fields(raw))
    dtype = next(name for name, number in onnxfiles.TYPES.items() if number == found[2])
    return found[8].decode(), tuple(found.get(1, b"")), dtype, found[9]


if __name__ == "__main__":
    CONVERT, CKPT = sys.argv[1:3]
    unittest.main(argv=sys.argv[:1])
