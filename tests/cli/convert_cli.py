# SPDX-License-Identifier: Apache-2.0
"""dinov-convert and dinov-ckpt on honest files of every layout torch and safetensors writers produce,
their options, exit codes and refusals. Standard library only.

usage: convert_cli.py DINOV_CONVERT DINOV_CKPT
"""
import io
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import unittest
import zipfile

from weightfiles import *  # noqa: F401,F403
from weightfiles import Entry, Storage, Tensor

CONVERT, CKPT = None, None


class Case(unittest.TestCase):
    def setUp(self):
        self.temp = tempfile.TemporaryDirectory()
        self.addCleanup(self.temp.cleanup)

    def path(self, name):
        return os.path.join(self.temp.name, name)

    def put(self, name, raw):
        with open(self.path(name), "wb") as f:
            f.write(raw)
        return self.path(name)

    def get(self, name):
        with open(self.path(name), "rb") as f:
            return f.read()

    def run_tool(self, tool, *args, code=0, error=None, **more):
        done = subprocess.run([tool, *args], capture_output=True, text=True, timeout=120, **more)
        self.assertEqual(done.returncode, code, done.stderr)
        if error:
            self.assertTrue(done.stderr.endswith("[%s]\n" % error), done.stderr)
        return done

    def convert(self, *args, **more):
        return self.run_tool(CONVERT, *args, **more)

    def ckpt(self, *args, **more):
        return self.run_tool(CKPT, *args, **more)

    def show(self, path):
        return json.loads(self.ckpt("show", "--json", path).stdout)

    def assert_weights(self, path, state):
        """Plain safetensors made from `path` holds exactly the state dict's bytes."""
        plain = self.path("plain.safetensors")
        self.convert(path, "--to", "safetensors", "-o", plain, "-f")
        found, metadata = read_safetensors(plain)
        self.assertEqual(metadata, {"format": "pt"})
        self.assertEqual(set(found), set(state))
        for name, tensor in state.items():
            self.assertTrue(found[name] == (tensor.storage.dtype, tensor.shape, tensor.bytes()), name)  # no diff of megabytes
        self.assertEqual((8 + struct.unpack("<Q", self.get("plain.safetensors")[:8])[0]) % 64, 0)


def as_dtype(state, dtype):
    """The same model with 2-byte weights of random finite bits."""
    rng, out = random.Random(5), OrderedDict()
    for key, (name, tensor) in enumerate(state.items()):
        count = numel(tensor.shape)
        raw = struct.pack("<%dH" % count, *(rng.randrange(0x2000, 0x3000) | rng.randrange(2) << 15 for _ in range(count)))
        out[name] = Tensor(Storage(key, dtype, raw), tensor.shape)
    return out


class Honest(Case):
    """Files that must be read, whoever wrote them."""

    def check(self, raw, state):
        path = self.put("in", raw)
        self.assert_weights(path, state)
        self.convert(path, "-o", self.path("out"), "-f")
        self.ckpt("verify", "--id", "--run", self.path("out"))
        self.ckpt("diff", path, self.path("out"))

    def test_torch_2(self):
        for numbers in ({}, {"registers": 4}, {"swiglu": True, "hidden": 176}, {"layerscale": False}, {"patch": 16, "grid": 3},
                        {"dim": 128, "depth": 3}):
            with self.subTest(numbers):
                state = model(**numbers)
                self.check(pth_of(state), state)

    def test_half_types(self):
        for dtype in ("F16", "BF16"):
            state = as_dtype(model(depth=1), dtype)
            self.check(pth_of(state), state)
            self.check(safetensors_of(state), state)

    def test_mixed_types(self):
        state = model(depth=1)
        state["norm.bias"] = as_dtype(state, "F16")["norm.bias"]
        self.check(pth_of(OrderedDict((k, Tensor(Storage(n, v.storage.dtype, v.storage.data), v.shape))
                                      for n, (k, v) in enumerate(state.items()))), state)

    def test_torch_1_13(self):
        """Fewer entries, storages in string order, version last, no byte order."""
        state = model(depth=1)
        data = sorted(storages_of(state), key=lambda x: x.key)
        entries = [Entry("data.pkl", pickle_of(state))] + [Entry("data/" + x.key, x.data) for x in data] + [Entry("version", b"3\n")]
        self.check(zip_of(entries, prefix="dinov2_vits14"), state)

    def test_prefixes(self):
        state = model(depth=1)
        for prefix in ("archive", "x", "a model's name (1)", "modèle-日本", "a.b.c"):
            self.check(zip_of(pth_entries(state), prefix=prefix), state)

    def test_version_spellings(self):
        state = model(depth=1)
        for version in (b"3\n", b"3", b"1", b"10\n"):
            self.check(pth_of(state, version=version), state)
        self.check(pth_of(state, version=None, extra=[Entry(".data/version", b"6\n")]), state)

    def test_crc_switched_off(self):
        state = model(depth=1)
        entries = pth_entries(state)
        for e in entries:
            e.over["crc"] = 0
        path = self.put("in", zip_of(entries))
        self.assertIn("CRCs switched off", self.convert(path, "-o", self.path("out")).stderr)
        self.ckpt("verify", path, code=2, error="CKPT-NO-CHECKSUM")

    def test_unaligned_entries(self):
        """A zip made by another tool: storages at any byte are copied."""
        state = model(depth=1)
        self.check(zip_of(pth_entries(state), align=0, prefix="abc"), state)

    def test_no_zip64_records(self):
        state = model(depth=1)
        self.check(zip_of(pth_entries(state), zip64=False), state)

    def test_sizes_in_local_headers(self):
        state = model(depth=1)
        entries = pth_entries(state)
        for e in entries:
            e.flags = 0x0800
        self.check(zip_of(entries), state)

    def test_wide_descriptors_and_extras(self):
        """What torch writes around an entry of 4 GiB, and around one behind it, on small entries."""
        state = model(depth=1)
        entries = pth_entries(state)
        for n, e in enumerate(entries):
            if not e.plain:
                continue
            e.over["descriptor"] = struct.pack("<IIQQ", 0x08074b50, e.crc, len(e.stored), len(e.plain))
            if n == 4:
                e.over["l_extra"] = struct.pack("<HHQQ", 1, 16, len(e.plain), 0) + b"FB\x08\0" + b"Z" * 8
                e.over.update(c_size=0xffffffff, c_packed=0xffffffff, c_extra=struct.pack("<HHQQ", 1, 16, len(e.plain), len(e.plain)))
        self.check(zip_of(entries), state)

    def test_entry_with_wide_offset(self):
        state = model(depth=1)
        entries = pth_entries(state)
        at = zip_of(entries[:5])
        offset = at.rfind(b"PK\3\4")
        entries[4].over.update(c_header=0xffffffff, c_extra=struct.pack("<HHQ", 1, 8, offset),
                               l_extra=struct.pack("<HHQ", 1, 8, offset))
        raw = zip_of(entries)
        self.assertEqual(raw[offset:offset + 4], b"PK\3\4")
        self.check(raw, state)

    def test_python_zipfile(self):
        state = model(depth=1)
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            out = io.BytesIO()
            with zipfile.ZipFile(out, "w", method) as z:
                for e in pth_entries(state):
                    z.writestr("archive/" + e.name, e.plain)
            self.check(out.getvalue(), state)

    def test_folder_entry(self):
        state = model(depth=1)
        self.check(pth_of(state, extra=[Entry("", b""), Entry("data/", b"")]), state)

    def test_signatures_inside_tensors(self):
        state = model(depth=1)
        raw = (b"PK\7\x08" + b"PK\1\2" + b"PK\5\6" + b"PK\3\4") * 16
        state["norm.bias"] = Tensor(Storage(state["norm.bias"].storage.key, "F32", raw), (64,))
        self.check(pth_of(state), state)

    def test_strides(self):
        """Transposed, sliced, expanded and shared views."""
        state = model(depth=1)
        rng = random.Random(7)
        state["blocks.0.attn.qkv.weight"] = Tensor(Storage(100, "F32", floats(rng, 64 * 192)), (192, 64), (1, 192))
        state["blocks.0.attn.proj.weight"] = Tensor(Storage(101, "F32", floats(rng, 64 * 130 + 3)), (64, 64), (130, 2), 3)
        state["norm.weight"] = Tensor(Storage(102, "F32", floats(rng, 1)), (64,), (0,))
        shared = Storage(103, "F32", floats(rng, 64 * 64))
        state["norm.bias"] = Tensor(shared, (64,), (1,), 640)
        state["blocks.0.ls1.gamma"] = Tensor(shared, (64,), (64,), 7)
        state["cls_token"] = Tensor(shared, (1, 1, 64), (2 ** 62, 2 ** 61, 1), 64)
        path = self.put("in", pth_of(state))
        self.assertIn("4 tensors were strided", self.convert(path, "-o", self.path("out")).stderr)
        self.assertEqual(self.show(self.path("out"))["provenance"]["transforms"], "row-major")
        self.check(pth_of(state), state)

    def test_pickle_spellings(self):
        """Plain dict, hand-made without memo, _metadata, Parameters, very old tensors."""
        state = model(depth=1)
        names = torch_names()
        self.check(pth_of(dict(state)), state)

        def op(tensor, wrap=None):
            storage = storage_id(tensor.storage.key, tensor.storage.numel)
            if wrap == "old":
                return g("torch._utils", "_rebuild_tensor") + t(storage, i(0), t(*map(i, tensor.shape)), t(*map(i, tensor.stride))) + b"R"
            plain = tensor_op(storage, 0, tensor.shape, tensor.stride)
            if wrap == "parameter":
                return g("torch._utils", "_rebuild_parameter") + t(plain, b"\x88", ORDERED) + b"R"
            if wrap == "state":
                return g("torch._utils", "_rebuild_parameter_with_state") + t(plain, b"\x88", ORDERED, b"}") + b"R"
            if wrap == "bits":
                return tensor_op(storage, 0, tensor.shape, tensor.stride, b"\x89" + ORDERED + b"}")
            return plain

        for wrap in (None, "old", "parameter", "state", "bits"):
            items = b"".join(s(name) + op(tensor, wrap) for name, tensor in state.items())
            self.check(pth_of(state, pkl=dict_op(items)), state)
        items = b"".join(s(name) + op(tensor) + b"s" for name, tensor in state.items())
        metadata = b"}" + s("_metadata") + ORDERED + s("") + b"}" + s("version") + i(1) + b"s" + b"s" + b"s" + b"b"
        self.check(pth_of(state, pkl=HEAD + ORDERED + items + metadata + b"."), state)
        self.assertIn("_rebuild_parameter", names)

    def test_safetensors_spellings(self):
        state = model(depth=1)
        self.check(safetensors_of(state), state)
        self.check(safetensors_of(state, {"format": "pt", "note": "x" * 1000}), state)
        self.check(safetensors_of(state, pad=0), state)
        self.check(safetensors_of(state, order=list(reversed(list(state)))), state)
        for shift in range(1, 4):  # misaligned data
            raw = safetensors_of(state)
            n = struct.unpack("<Q", raw[:8])[0]
            header = raw[8:8 + n] + b" " * shift
            self.check(struct.pack("<Q", len(header)) + header + raw[8 + n:], state)
            self.check(struct.pack("<Q", len(header)) + b" " * shift + raw[8:8 + n] + raw[8 + n:], state)

    def test_one_content_id(self):
        state, ids = model(registers=2), set()
        for name, raw in {"a": pth_of(state), "b": safetensors_of(state), "c": zip_of(pth_entries(dict(state)), prefix="other", align=0)}.items():
            self.convert(self.put(name, raw), "-o", self.path(name + ".out"))
            ids.add(self.show(self.path(name + ".out"))["content_id"])
        self.convert(self.path("a.out"), "--to", "safetensors", "-o", self.path("plain"))
        self.convert(self.path("plain"), "-o", self.path("d.out"))
        ids.add(self.show(self.path("d.out"))["content_id"])
        self.convert(self.path("plain"), "--to", "pth", "-o", self.path("back.pth"))
        with zipfile.ZipFile(self.path("back.pth")) as z:
            self.assertIsNone(z.testzip())
        self.convert(self.path("back.pth"), "-o", self.path("f.out"))
        ids.add(self.show(self.path("f.out"))["content_id"])
        self.assertEqual(len(ids), 1)
        state["norm.bias"].storage.data = b"\1" + state["norm.bias"].storage.data[1:]
        self.convert(self.put("e", pth_of(state)), "-o", self.path("e.out"))
        self.assertNotIn(self.show(self.path("e.out"))["content_id"], ids)


class Recognised(Case):
    def model_of(self, *args, **numbers):
        self.convert(self.put("in", safetensors_of(model(**numbers))), "-o", self.path("out"), "-f", *args)
        return self.show(self.path("out"))

    def test_numbers(self):
        m = self.model_of(dim=128, depth=3, registers=4, swiglu=True, hidden=344, patch=16, grid=5)["model"]
        self.assertEqual(m, {"name": "vit d128 l3 h2 p16 r4", "patch": 16, "dim": 128, "depth": 3, "heads": 2, "ffn": "swiglu",
                             "hidden": 344, "registers": 4, "channels": 3, "grid": [5, 5], "layerscale": True, "qkv_bias": True,
                             "ln_eps": 1e-6, "interp": {"offset": 0.0, "antialias": True}})
        m = self.model_of(layerscale=False)["model"]
        self.assertEqual((m["ffn"], m["hidden"], m["registers"], m["layerscale"], m["interp"]),
                         ("mlp", 256, 0, False, {"offset": 0.1, "antialias": False}))

    def test_interp(self):
        for text, want in {"0.1": (0.1, False), "0": (0.0, False), "0,antialias": (0.0, True), "0.5,antialias": (0.5, True)}.items():
            self.assertEqual(self.model_of("--interp", text, registers=4)["model"]["interp"], {"offset": want[0], "antialias": want[1]})
        path = self.put("in", safetensors_of(model(depth=1)))
        for text in ("", "x", "1", "-0.1", "nan", "inf", "0.1,", "0.1,bicubic", "0.1 "):
            self.convert(path, "-o", self.path("no"), "--interp", text, code=64, error="INTERP")

    def test_heads(self):
        self.assertEqual(self.model_of("--heads", "4")["model"]["heads"], 4)
        self.assertEqual(self.model_of("--heads", "3", dim=96, depth=1)["model"]["heads"], 3)
        path = self.put("in", safetensors_of(model(depth=1)))
        self.convert(path, "-o", self.path("no"), "--heads", "5", code=2, error="MODEL-NUMBERS")

    def test_preprocess(self):
        for patch, preset in ((14, "eval:224"), (16, "eval:224"), (15, "eval:210")):
            self.assertEqual(self.model_of(patch=patch, depth=1)["preprocess"],
                             {"preset": preset, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]})


class Convert(Case):
    def setUp(self):
        super().setUp()
        self.input = self.put("in.pth", pth_of(model(registers=1)))

    def test_never_overwrites(self):
        out = self.put("out", b"precious")
        self.convert(self.input, "-o", out, code=3, error="IO-EXISTS")
        self.convert(self.input, "-o", out, "--to", "safetensors", code=3, error="IO-EXISTS")
        self.assertEqual(self.get("out"), b"precious")
        self.convert(self.input, "-o", out, "-f")
        self.ckpt("verify", out)

    def test_a_refusal_keeps_the_old_file(self):
        out = self.put("out", b"precious")
        self.convert(self.put("bad", b"junk"), "-o", out, "-f", code=2, error="SRC-UNKNOWN")
        self.assertEqual(self.get("out"), b"precious")

    def test_input_is_output(self):
        os.symlink(self.input, self.path("link"))
        os.link(self.input, self.path("hard"))
        before = self.get("in.pth")
        for out in (self.input, self.path("link"), self.path("hard"), os.path.join(self.temp.name, ".", "in.pth")):
            self.assertIn("same file", self.convert(self.input, "-o", out, "-f", code=64).stderr)
        self.assertEqual(self.get("in.pth"), before)

    def test_usage(self):
        out = self.path("out")
        self.convert(code=64)
        self.convert(self.input, code=64)
        self.convert(self.input, self.input, "-o", out, code=64)
        self.convert(self.input, "-o", out, "--to", "tensorflow", code=64)
        self.convert(self.input, "-o", out, "--heads", "x", code=64)
        self.convert(self.input, "-o", out, "--what", code=64)
        self.convert(self.path("absent"), "-o", out, code=3, error="IO-OPEN")
        self.convert(self.temp.name, "-o", out, code=3, error="RUN-STEP")
        self.convert(self.input, "-o", self.path("no/such/folder/out"), code=3)
        self.assertEqual(os.listdir(self.temp.name), ["in.pth"])
        self.assertIn("usage: dinov-convert", self.convert("-h").stdout)
        self.assertIn("exit codes", self.convert("--help").stdout)

    def test_dry_run(self):
        answer = self.convert(self.input, "-o", self.path("out"), "--dry-run").stdout
        self.assertIn("sha256:", answer)
        self.assertIn("sha256:", self.convert(self.input, "--dry-run").stdout)
        self.assertEqual(os.listdir(self.temp.name), ["in.pth"])
        self.convert(self.put("bad", pth_of(model(depth=1))[:-1]), "--dry-run", code=2, error="ZIP-END")

    def test_same_bytes_again(self):
        for check in ([], ["--no-check"]):
            for threads in "123":
                self.convert(self.input, "-o", self.path("out" + threads), "-f", "-t", threads, *check)
                self.assertTrue(self.get("out" + threads) == self.get("out1"))

    def test_no_check(self):
        done = self.convert(self.input, "-o", self.path("out"))
        quick = self.convert(self.input, "-o", self.path("quick"), "--no-check")
        self.assertIn("not checked: it was neither read back nor run, and holds no golden vectors", quick.stderr)
        self.assertEqual(done.stdout.split("\t")[1:], quick.stdout.split("\t")[1:])  # the content id among them
        self.assertIn("proof       none", self.ckpt("show", self.path("quick")).stdout)
        again = self.convert(self.path("out"), "-o", self.path("again"), "--no-check")
        self.assertNotIn("golden", again.stderr)  # those that the source has are kept
        self.assertTrue(self.get("again") == self.get("out"))

    def test_weights_that_are_not_numbers(self):
        nan = model(depth=1)
        nan["norm.bias"].storage.data = struct.pack("<f", float("nan")) + nan["norm.bias"].storage.data[4:]
        path = self.put("nan", pth_of(nan))
        self.assertIn("[PROOF-FINITE]", self.convert(path, "-o", self.path("out"), code=2).stderr)
        self.assertFalse(os.path.exists(self.path("out")))
        self.convert(path, "-o", self.path("plain"), "--to", "safetensors")

    def test_preset(self):
        out, again = self.path("out"), self.path("again")
        self.convert(self.input, "-o", out, "--preset", "square:224")
        self.convert(out, "-o", again)
        self.assertEqual(self.show(again)["preprocess"]["preset"], "square:224")
        for wrong in ("square", "eval:30", "square:" + "0" * 40 + "224"):
            self.convert(self.input, "-o", self.path("none"), "--preset", wrong, code=64, error="OPT-PRESET")

    def test_provenance_survives(self):
        a, b, c = self.path("a"), self.path("b"), self.path("c")
        self.convert(self.input, "-o", a, "--licence", "Apache-2.0", "--origin", "trained in 2024")
        self.convert(a, "-o", b)
        self.assertEqual(self.get("a"), self.get("b"))
        from_a = self.show(a)["provenance"]
        import hashlib
        self.assertEqual(from_a, {"source_format": "pth", "source_sha256": hashlib.sha256(self.get("in.pth")).hexdigest(),
                                  "converter": "dinov-convert 0.1.0", "transforms": "", "licence": "Apache-2.0", "origin": "trained in 2024"})
        self.convert(a, "-o", c, "--interp", "0.1")
        from_c = self.show(c)
        self.assertEqual(from_c["provenance"], dict(from_a, transforms="interp"))
        self.assertEqual(from_c["content_id"], self.show(a)["content_id"])
        self.ckpt("verify", "--run", c)

    def test_damaged_checkpoint_is_not_carried_on(self):
        self.convert(self.input, "-o", self.path("a"))
        raw = bytearray(self.get("a"))
        for at in (len(raw) - 1, len(raw) // 2, 100, 8 + 20, 8 + 30):
            raw[at] ^= 4
            for to in ("dinov", "safetensors"):
                self.convert(self.put("damaged", bytes(raw)), "-o", self.path("b"), "--to", to, code=2)
            self.assertFalse(os.path.exists(self.path("b")))
            raw[at] ^= 4

    def test_rewritten_by_another_tool(self):
        """Tensors and metadata as a safetensors tool would write them again: never taken for plain in silence."""
        self.convert(self.input, "-o", self.path("a"))
        tensors, metadata = read_safetensors(self.path("a"))
        state = OrderedDict((k, Tensor(Storage(n, v[0], v[2]), v[1])) for n, (k, v) in enumerate(tensors.items()))
        for keep in (["dinov"], ["format", "dinov_header"], ["format", "dinov", "dinov_header"]):
            again = self.put("again", safetensors_of(state, {k: metadata[k] for k in keep}))
            self.convert(again, "-o", self.path("b"), code=2, error="SRC-REWRITTEN")
            self.ckpt("verify", again, code=2, error="CKPT-REWRITTEN")
            self.ckpt("diff", again, self.path("a"))
            self.assertIn("written again", self.ckpt("show", again).stderr)
            self.assertFalse(os.path.exists(self.path("b")))
        first = self.put("first", safetensors_of(state, {k: metadata[k] for k in ("dinov_header", "format", "dinov")}))
        self.convert(first, "-o", self.path("b"), code=2, error="CK-HEADER-DIGEST")
        self.convert(again, "-o", self.path("b"), "--interp", "0,antialias")
        self.assertEqual(self.show(self.path("b"))["content_id"], self.show(self.path("a"))["content_id"])

    def test_full_disk_on_stdout(self):
        with open("/dev/full", "w") as full:
            done = subprocess.run([CONVERT, self.input, "--dry-run"], stdout=full, stderr=subprocess.PIPE)
        self.assertEqual(done.returncode, 3)


class Ckpt(Case):
    def setUp(self):
        super().setUp()
        self.state = model()
        self.pth = self.put("in.pth", pth_of(self.state))
        self.ours = self.path("ours")
        self.convert(self.pth, "-o", self.ours)

    def test_show(self):
        for path, layout in ((self.pth, "pth"), (self.ours, "dinov"), (self.put("st", safetensors_of(self.state)), "safetensors")):
            view = self.show(path)
            self.assertEqual((view["layout"], view["model"]["name"]), (layout, "vit d64 l2 h1 p14"))
            self.assertEqual({x["name"]: (x["dtype"], tuple(x["shape"]), x["bytes"]) for x in view["tensors"]},
                             {k: ("F32", v.shape, 4 * numel(v.shape)) for k, v in self.state.items()})
            self.assertIn("vit d64 l2 h1 p14", self.ckpt("show", path).stdout)
        other = self.show(self.put("hf", safetensors_of(OrderedDict(("embeddings." + k, v) for k, v in self.state.items()))))
        self.assertIsNone(other["model"])
        self.assertEqual(other["why_no_model"]["code"], "NAMES-UNKNOWN")
        proof = self.show(self.ours)["proof"]
        self.assertEqual([(c["height"] // 14, c["width"] // 14) for c in proof["cases"]][0], (2, 2))
        self.assertTrue(any(c["height"] != c["width"] for c in proof["cases"]))

    def test_verify_run_needs_a_proof(self):
        vectors = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "spec", "vectors")
        self.ckpt("verify", "--run", os.path.join(vectors, "good-mlp.safetensors"), code=2, error="CKPT-NO-PROOF")

    def test_explain(self):
        for path in (self.pth, self.ours):
            lines = self.ckpt("explain", path).stdout.splitlines()
            self.assertEqual(len(lines), len(self.state) + 1)
            self.assertEqual([x.split()[2] for x in lines[:-1]], list(self.state))
            self.assertTrue(lines[-1].endswith("0 left over, 0 missing"))
        broken = OrderedDict(self.state)
        broken["heads.weight"] = broken.pop("norm.bias")
        out = self.ckpt("explain", self.put("broken", pth_of(broken)), code=2, error="MODEL-MISSING").stdout
        self.assertRegex(out, r"heads\.weight +-> \(leftover\)")
        self.assertRegex(out, r"\(missing\) +-> norm\.bias")
        self.assertIn("1 left over, 1 missing", out)
        wrong = OrderedDict(self.state)
        wrong["norm.bias"] = Tensor(Storage("99", "F32", b"\0" * 260), (65,))
        out = self.ckpt("explain", self.put("wrong", pth_of(wrong)), code=2, error="MODEL-SHAPE").stdout
        self.assertRegex(out, r"norm\.bias.*\[65\].*expected \[64\]")
        out = self.ckpt("explain", self.put("hf", safetensors_of(OrderedDict(("embeddings." + k, v) for k, v in self.state.items()))),
                        code=2, error="NAMES-UNKNOWN").stdout
        self.assertEqual(out.count("(leftover)"), len(self.state))
        self.ckpt("explain", self.put("junk", b"junk"), code=2, error="SRC-UNKNOWN")

    def test_verify(self):
        self.assertIn("right", self.ckpt("verify", self.ours).stdout)
        out = self.ckpt("verify", "--id", "--run", "-t", "1", self.ours).stdout
        self.assertEqual(out.count("right"), 3)
        self.assertIn("right", self.ckpt("verify", self.pth).stdout)
        self.ckpt("verify", "--id", self.pth, code=2, error="CKPT-NO-CHECKSUM")
        self.ckpt("verify", self.put("st", safetensors_of(self.state)), code=2, error="CKPT-NO-CHECKSUM")
        raw = bytearray(self.get("ours"))
        rng = random.Random(3)
        for at in [0, 8, 50, 100, len(raw) - 1] + [rng.randrange(len(raw)) for _ in range(40)]:
            raw[at] ^= 1 << rng.randrange(8)
            self.ckpt("verify", self.put("flipped", bytes(raw)), code=2)
            raw = bytearray(self.get("ours"))
        self.ckpt("verify", self.put("short", bytes(raw[:-1])), code=2)
        self.ckpt("verify", self.put("long", bytes(raw) + b"\0"), code=2)

    def test_diff(self):
        self.assertIn(" 0 differ", self.ckpt("diff", self.pth, self.ours).stdout)
        other = model()
        values = list(struct.unpack("<64f", other["norm.bias"].storage.data))
        before = list(values)
        values[3] += 0.5
        other["norm.bias"].storage.data = struct.pack("<64f", *values)
        changed = self.put("changed", pth_of(other))
        done = self.ckpt("diff", "--json", self.ours, changed, code=2)
        view = json.loads(done.stdout)
        self.assertEqual((view["same"], view["equal"], view["differ"]), (False, len(self.state) - 1, 1))
        entry = [x for x in view["tensors"] if not x["equal"]][0]
        values = struct.unpack("<64f", other["norm.bias"].storage.data)
        norm = sum(x * x for x in before) ** 0.5
        delta = abs(values[3] - before[3])
        self.assertEqual(entry["name"], "norm.bias")
        self.assertAlmostEqual(entry["max_abs"], delta, places=6)
        self.assertAlmostEqual(entry["relative"], delta / norm, places=4)
        cosine = sum(a * b for a, b in zip(before, values)) / norm / sum(x * x for x in values) ** 0.5
        self.assertAlmostEqual(entry["cosine"], cosine, places=5)
        self.assertRegex(self.ckpt("diff", self.ours, changed, code=2).stdout, r"norm\.bias .*max-abs 0\.5")
        self.ckpt("diff", "--tol", str(delta / norm * 1.01), self.ours, changed)
        self.ckpt("diff", "--tol", str(delta / norm * 0.99), self.ours, changed, code=2)
        del other["norm.bias"]
        out = self.ckpt("diff", self.ours, self.put("less", pth_of(other)), code=2).stdout
        self.assertRegex(out, r"norm\.bias +only in .*ours")
        self.ckpt("diff", self.path("less"), self.ours, code=2)
        self.ckpt("diff", self.ours, code=64)
        self.ckpt("diff", "--tol", "-1", self.ours, self.ours, code=64)
        self.ckpt("diff", self.ours, self.path("absent"), code=3)

    def test_diff_across_types(self):
        wide, half = model(depth=1), model(depth=1)
        half["norm.bias"] = Tensor(Storage(half["norm.bias"].storage.key, "F16",
                                           struct.pack("<64e", *struct.unpack("<64f", wide["norm.bias"].storage.data))), (64,))
        a, b = self.put("a", pth_of(wide)), self.put("b", pth_of(half))
        self.ckpt("diff", a, b, code=2)
        self.ckpt("diff", "--tol", "1e-3", a, b)
        self.ckpt("diff", "--tol", "1e-6", a, b, code=2)
        nan = model(depth=1)
        nan["norm.bias"].storage.data = struct.pack("<f", float("nan")) + nan["norm.bias"].storage.data[4:]
        self.ckpt("diff", "--tol", "1e30", a, self.put("nan", pth_of(nan)), code=2)
        view = json.loads(self.ckpt("diff", "--json", a, self.path("nan"), code=2).stdout)
        self.assertIsNone([x for x in view["tensors"] if not x["equal"]][0]["max_abs"])

    def test_verbs(self):
        self.ckpt(code=64)
        self.ckpt("melt", code=64)
        self.ckpt("show", code=64)
        self.ckpt("show", "--what", self.ours, code=64)
        self.assertIn("dinov-ckpt verify", self.ckpt("-h").stdout)
        self.assertIn("exit codes", self.ckpt("diff", "--help").stdout)
        self.assertEqual(self.ckpt("--version").stdout, "dinov-ckpt 0.1.0\n")


if __name__ == "__main__":
    CONVERT, CKPT = sys.argv[1:3]
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
