# SPDX-License-Identifier: Apache-2.0
"""dinov-convert and dinov-ckpt on weights under other people's names, in and out: Hugging Face's files and
folders, timm's, training checkpoints. Standard library only; convert_hub.py has the real libraries.

usage: convert_names.py DINOV_CONVERT DINOV_CKPT
"""
import json
import os
import shutil
import struct
import subprocess
import sys
import unittest

import convert_cli
import names
from weightfiles import *  # noqa: F401,F403
from weightfiles import ITEM, Storage, Tensor

CONFIG = {"model_type": "dinov2", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14, "image_size": 56,
          "num_channels": 3, "layer_norm_eps": 1e-5, "hidden_act": "gelu", "use_swiglu_ffn": False, "mlp_ratio": 4}
PREPROCESSOR = {"do_resize": True, "size": {"shortest_edge": 96}, "resample": 3, "do_center_crop": True, "crop_size": {"height": 84, "width": 84},
                "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5, 0.25, 0.125], "image_std": [1, 0.5, 0.25]}


def zeros(tensor):
    return Tensor(Storage(0, tensor.storage.dtype, b"\0" * len(tensor.bytes())), tensor.shape)


def own_storages(state):
    """A tensor, a storage: what a .pth needs."""
    return OrderedDict((k, Tensor(Storage(n, v.storage.dtype, v.bytes()), v.shape)) for n, (k, v) in enumerate(state.items()))


def prefixed(state, prefix):
    return OrderedDict((prefix + k, v) for k, v in state.items())


class Case(convert_cli.Case):
    def check(self, raw, state, transforms=None, *args):
        """`raw` holds exactly the tensors of `state`; both outputs have them."""
        path = raw if isinstance(raw, str) else self.put("in", raw)
        self.assert_weights(path, state)
        done = self.convert(path, "-o", self.path("out"), "-f", *args)
        self.ckpt("verify", "--id", "--run", self.path("out"))
        view = self.show(self.path("out"))
        if transforms is not None:
            self.assertEqual(view["provenance"]["transforms"], transforms)
        self.ckpt("explain", path)
        self.stderr = done.stderr
        return view

    def assert_found(self, found, wanted):
        self.assertEqual(set(found), set(wanted))
        for name, tensor in wanted.items():
            self.assertTrue(found[name] == ("F32", tensor.shape, tensor.bytes()), name)

    def folder(self, files, name="hf"):
        shutil.rmtree(self.path(name), ignore_errors=True)
        os.mkdir(self.path(name))
        for file, content in files.items():
            self.put(name + "/" + file, content if isinstance(content, bytes) else json.dumps(content).encode())
        return self.path(name)

    def id_of(self, path):
        return self.convert(path, "--dry-run").stdout.split()[-1]


class HuggingFaceIn(Case):
    def test_names(self):
        for numbers in ({}, {"registers": 4}, {"swiglu": True, "hidden": 176}, {"depth": 12, "dim": 64}):
            state = model(**numbers)
            for version in (4, 5):
                theirs = names.hf(state, version)
                self.check(safetensors_of(theirs), state, "hf-names,joined")
                self.check(safetensors_of(OrderedDict((k.replace("encoder.layer.", "encoder.layers."), v) for k, v in theirs.items())), state)
                self.check(pth_of(own_storages(theirs)), state)

    def test_half(self):
        state = convert_cli.as_dtype(model(), "BF16")
        self.check(safetensors_of(names.hf(state)), state)

    def test_order_does_not_matter(self):
        state = model()
        theirs = names.hf(state)
        self.check(safetensors_of(theirs, order=list(reversed(theirs))), state)
        self.check(safetensors_of(theirs, order=sorted(theirs, key=lambda k: k[::-1])), state)

    def test_inside_a_classifier(self):
        state = model()
        for prefix in ("dinov2.", "dinov2_with_registers."):
            theirs = prefixed(names.hf(state), prefix)
            theirs["classifier.weight"] = Tensor(Storage(0, "F32", b"\0" * 512), (1, 128))
            theirs["classifier.bias"] = Tensor(Storage(0, "F32", b"\0" * 4), (1,))
            self.check(safetensors_of(theirs), state, "hf-names,prefix-stripped,backbone-only,joined")
            self.assertIn("2 tensors that are no part of the backbone are left out, the first is classifier.", self.stderr)
            out = self.ckpt("explain", self.path("in")).stdout
            self.assertRegex(out, r"classifier\.weight +-> \(left out\) .* a classifier")
            self.assertIn("2 left out, 0 left over, 0 missing", out)

    def test_without_mask_token(self):
        state = model()
        theirs = names.hf(state)
        del theirs["embeddings.mask_token"]
        state["mask_token"] = zeros(state["mask_token"])
        self.check(safetensors_of(theirs), state, "hf-names,joined,mask_token-zeros")
        self.assertIn("has no mask_token", self.stderr)
        self.assertRegex(self.ckpt("explain", self.path("in")).stdout, r"\(zeros\) +-> mask_token .*not in the source")
        self.convert(self.path("out"), "-o", self.path("again"))  # it stays marked
        self.assertEqual(self.show(self.path("again"))["provenance"]["transforms"], "hf-names,joined,mask_token-zeros")

    def test_explain(self):
        out = self.ckpt("explain", self.put("in", safetensors_of(names.hf(model())))).stdout
        self.assertRegex(out, r"encoder\.layer\.1\.attention\.attention\.key\.weight +-> blocks\.1\.attn\.qkv\.weight +\[64, 64\] +F32 +rows 64 to 127\n")
        self.assertRegex(out, r"layernorm\.bias +-> norm\.bias +\[64\] +F32 *\n")
        self.assertEqual(len(out.splitlines()), len(names.hf(model())) + 1)
        out = self.ckpt("explain", self.put("in", safetensors_of(names.hf(model(), 5)))).stdout
        self.assertRegex(out, r"encoder\.layer\.0\.attention\.v_proj\.bias +-> blocks\.0\.attn\.qkv\.bias .*rows 128 to 191")


class HuggingFaceFolder(Case):
    def setUp(self):
        super().setUp()
        self.state = model()
        self.weights = safetensors_of(names.hf(self.state))

    def refused(self, error, code=2, name="hf", **files):
        before = sorted(os.listdir(self.temp.name))
        self.convert(self.path(name), "-o", self.path("no"), code=code, error=error)
        self.assertEqual(sorted(os.listdir(self.temp.name)), before)

    def test_config(self):
        folder = self.folder({"model.safetensors": self.weights, "config.json": CONFIG, "preprocessor_config.json": PREPROCESSOR})
        for path in (folder, folder + "/", folder + "/config.json", folder + "/model.safetensors"):
            view = self.check(path, self.state, "hf-names,joined")
            self.assertEqual((view["model"]["heads"], view["model"]["ln_eps"]), (2, 1e-5))
            self.assertEqual(view["model"]["interp"], {"offset": 0.1, "antialias": False})
            self.assertIn("other sizes than 56x56 follow the hub's rule of position interpolation; --compat hf", self.stderr)
            self.assertEqual(view["preprocess"], {"preset": "eval:84", "mean": [0.5, 0.25, 0.125], "std": [1.0, 0.5, 0.25]})
        self.assertEqual(self.show(folder)["preprocess"]["preset"], "eval:84")
        self.assertEqual(self.check(folder, self.state, None, "--heads", "4", "--compat", "hf")["model"]["heads"], 4)
        self.assertNotIn("--compat", self.stderr)
        here = subprocess.run([os.path.abspath(convert_cli.CONVERT), "config.json", "--dry-run"], cwd=folder, capture_output=True, text=True)
        self.assertEqual(here.returncode, 0, here.stderr)

    def test_only_for_their_names(self):
        """timm keeps a config.json too, which says other things."""
        folder = self.folder({"model.safetensors": safetensors_of(self.state), "config.json": {"architecture": "vit_small_patch14_dinov2"}})
        self.assertEqual(self.check(folder, self.state, "")["model"]["heads"], 1)

    def test_linked_files(self):
        """As the cache of Hugging Face's programs keeps them."""
        blobs = self.folder({"a": self.weights, "b": CONFIG}, "blobs")
        folder = self.folder({})
        os.symlink(blobs + "/a", folder + "/model.safetensors")
        os.symlink(blobs + "/b", folder + "/config.json")
        self.assertEqual(self.check(folder, self.state)["model"]["heads"], 2)

    def test_older_weights(self):
        folder = self.folder({"pytorch_model.bin": pth_of(own_storages(names.hf(self.state))), "config.json": CONFIG})
        self.assertEqual(self.check(folder, self.state)["model"]["heads"], 2)

    def test_no_weights(self):
        self.folder({"config.json": CONFIG})
        self.refused("HF-FOLDER")
        self.convert(self.path("hf/config.json"), "-o", self.path("no"), code=2, error="HF-FOLDER")

    def test_presets(self):
        for change, preset in (
                ({}, "eval:84"), ({"size": 96, "crop_size": 84}, "eval:84"), ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}, "eval:224"),
                ({"do_center_crop": False, "size": {"height": 70, "width": 70}}, "square:70"),
                # No preset does these.
                ({"size": {"shortest_edge": 100}}, None), ({"crop_size": {"height": 84, "width": 70}}, None), ({"resample": 2}, None),
                ({"do_resize": False}, None), ({"do_rescale": False}, None), ({"rescale_factor": 1}, None), ({"do_normalize": False}, None),
                ({"image_mean": [0.5]}, None), ({"image_std": [0, 1, 1]}, None), ({"image_std": None}, None), ({"image_mean": ["a", "b", "c"]}, None),
                ({"do_center_crop": False}, None), ({"do_center_crop": False, "size": {"height": 71, "width": 71}}, None),
                ({"size": {"shortest_edge": 2 ** 40}, "crop_size": 2 ** 40}, None), ({"size": "large"}, None), ({"crop_size": -84}, None)):
            with self.subTest(change):
                folder = self.folder({"model.safetensors": self.weights, "config.json": CONFIG, "preprocessor_config.json": PREPROCESSOR | change})
                done = self.convert(folder, "-o", self.path("out"), "-f")
                self.assertEqual(self.show(self.path("out"))["preprocess"]["preset"], preset or "eval:224")
                self.assertEqual("asks for what no preset does" in done.stderr, preset is None)

    def test_wrong_configs(self):
        for change in ({"model_type": "vit"}, {"model_type": None}, {"model_type": 3}, {"hidden_size": 65}, {"hidden_size": "64"}, {"hidden_size": -64},
                       {"num_hidden_layers": 3}, {"num_attention_heads": 0}, {"num_attention_heads": 1.5}, {"num_attention_heads": 2 ** 40},
                       {"patch_size": 16}, {"patch_size": [14, 16]}, {"image_size": 224}, {"num_channels": 1}, {"layer_norm_eps": 0},
                       {"layer_norm_eps": 1}, {"layer_norm_eps": "1e-6"}, {"hidden_act": "gelu_new"}, {"hidden_act": "silu\x1b[2J"},
                       {"model_type": "dinov2_with_registers", "num_register_tokens": 4}):
            with self.subTest(change):
                self.folder({"model.safetensors": self.weights, "config.json": CONFIG | change})
                self.refused("HF-CONFIG")
        self.folder({"model.safetensors": self.weights, "config.json": CONFIG | {"num_attention_heads": 5}})
        self.refused("MODEL-NUMBERS")

    def test_right_configs(self):
        for change in ({"patch_size": [14, 14]}, {"image_size": [56, 56]}, {"num_attention_heads": None}, {"use_swiglu_ffn": True, "hidden_act": "silu"},
                       {"id2label": {str(n): "label %d \u00e9" % n for n in range(21841)}}, {"more": [[[[1]]]]}):
            with self.subTest(list(change)):
                self.check(self.folder({"model.safetensors": self.weights, "config.json": CONFIG | change}), self.state)

    def test_bad_json(self):
        good = json.dumps(CONFIG).encode()
        for document in ("config.json", "preprocessor_config.json"):
            for raw, error, code in ((b"", "HF-JSON", 2), (b"[]", "HF-JSON", 2), (b"{", "HF-JSON", 2), (good[:-1], "HF-JSON", 2), (good + b"x", "HF-JSON", 2),
                                     (b'{"a":1,"a":2}', "HF-JSON", 2), (b'{"a":"\xff"}', "HF-JSON", 2), (b'{"a":NaN}', "HF-JSON", 2), (b"\0", "HF-JSON", 2),
                                     (b"[" * 100000, "HF-LARGE", 4), (b'{"a":[' + b"1," * 200000 + b"1]}", "HF-LARGE", 4),
                                     (b'{"a":"' + b"x" * (5 << 20) + b'"}', "IO-LARGE", 4)):
                with self.subTest(document=document, raw=raw[:20]):
                    self.folder({"model.safetensors": self.weights, "config.json": CONFIG, document: raw})
                    self.refused(error, code)


class Shards(Case):
    def setUp(self):
        super().setUp()
        self.state = model(depth=3)
        self.theirs = list(names.hf(self.state).items())

    def shards(self, count, index=None, **extra):
        files, where = {}, {}
        for n in range(count):
            part = OrderedDict(self.theirs[n::count])
            files["model-%05d-of-%05d.safetensors" % (n + 1, count)] = safetensors_of(part, {"format": "pt"})
            where.update((k, "model-%05d-of-%05d.safetensors" % (n + 1, count)) for k in part)
        files["model.safetensors.index.json"] = {"metadata": {"total_size": 1.5, "more": {}}, "weight_map": where | (index or {}), "more": []}
        return self.folder(files | extra)

    def test_honest(self):
        for count in (1, 2, 7):
            folder = self.shards(count, **{"config.json": CONFIG | {"num_hidden_layers": 3}})
            for path in (folder, folder + "/config.json", folder + "/model.safetensors.index.json"):
                view = self.check(path, self.state, "hf-names,joined")
                self.assertEqual((view["model"]["heads"], view["provenance"]["source_format"], view["provenance"]["source_sha256"]),
                                 (2, "safetensors", ""))

    def test_more_than_is_named(self):
        folder = self.shards(1)
        extra = OrderedDict(self.theirs + [("other", Tensor(Storage(0, "F32", b"\0" * 4), (1,)))])
        self.put("hf/model-00001-of-00001.safetensors", safetensors_of(extra))
        self.check(folder, self.state)

    def test_hostile(self):
        name = self.theirs[0][0]
        for file, error, code in (("../hf/model-00001-of-00002.safetensors", "FILES-NAME", 2), ("/etc/passwd", "FILES-NAME", 2), ("..", "FILES-NAME", 2),
                                  ("a\\b", "FILES-NAME", 2), ("", "FILES-NAME", 2), (".hidden", "FILES-NAME", 2), ("x" * 300, "FILES-NAME", 2),
                                  ("absent.safetensors", "IO-OPEN", 3), ("link", "IO-OPEN", 3), ("folder", "IO-OPEN", 3), ("hard", "FILES-NAME", 2),
                                  ("junk", "ST-HEADER", 2), ("model.safetensors.index.json", "ST-HEADER", 2),
                                  ("model-00002-of-00002.safetensors", "HF-INDEX", 2), (3, "HF-INDEX", 2), (None, "HF-INDEX", 2)):
            with self.subTest(file):
                folder = self.shards(2, {name: file}, junk=b"junk")
                os.symlink("model-00001-of-00002.safetensors", folder + "/link")
                os.link(folder + "/model-00002-of-00002.safetensors", folder + "/hard2")
                os.link(folder + "/junk", folder + "/hard")
                os.remove(folder + "/hard2")
                if file == "junk":
                    os.remove(folder + "/hard")
                os.mkdir(folder + "/folder")
                self.convert(folder, "-o", self.path("no"), code=code, error=error)
                self.assertFalse(os.path.exists(self.path("no")))

    def test_bad_indices(self):
        for raw, error, code in ((b"{}", "HF-INDEX", 2), (b'{"weight_map":{}}', "HF-INDEX", 2), (b'{"weight_map":[]}', "HF-INDEX", 2), (b"{", "HF-JSON", 2),
                                 (b'{"weight_map":{"a":"b","a":"c"}}', "HF-JSON", 2), (b"{" + b"[" * 9000, "HF-LARGE", 4), (b"  {\n}", "HF-INDEX", 2),
                                 (b'{"x":"' + b" " * (5 << 20) + b'"}', "HF-LARGE", 4)):
            with self.subTest(raw[:20]):
                self.convert(self.put("in", raw), "-o", self.path("no"), code=code, error=error)

    def test_a_thousand_shards(self):
        """More files than a model has, and far more names than the shards have: refused, and soon."""
        one = safetensors_of(OrderedDict(a=Tensor(Storage(0, "F32", b"\0" * 4), (1,))))
        files = {"s%d" % n: one for n in range(1025)}
        files["model.safetensors.index.json"] = {"weight_map": {"a" if n == 0 else "b%d" % n: "s%d" % n for n in range(1025)}}
        self.convert(self.folder(files), "-o", self.path("no"), code=2, error="HF-INDEX")
        tensors = {"s%d" % n: safetensors_of(OrderedDict([("b%d" % n, Tensor(Storage(0, "F32", b"\0" * 4), (1,)))])) for n in range(1025)}
        tensors["model.safetensors.index.json"] = {"weight_map": {"b%d" % n: "s%d" % n for n in range(1025)}}
        self.convert(self.folder(tensors), "-o", self.path("no"), code=4, error="FILES-COUNT")


class TimmIn(Case):
    def test_names(self):
        for numbers in ({}, {"swiglu": True, "hidden": 176}):
            state = model(**numbers)
            theirs = names.timm(state)
            state["mask_token"] = zeros(state["mask_token"])
            self.check(safetensors_of(theirs), state, ("timm-names," if numbers else "") + "mask_token-zeros")
            self.check(pth_of(own_storages(theirs)), state)

    def test_registers(self):
        state = model(registers=4)
        theirs = names.timm(state)
        pos = state["pos_embed"]
        state["mask_token"] = zeros(state["mask_token"])
        state["pos_embed"] = Tensor(Storage(0, "F32", b"\0" * 256 + pos.bytes()[256:]), pos.shape)
        view = self.check(safetensors_of(theirs), state, "timm-names,class-position-zeros,mask_token-zeros")
        self.assertEqual(view["model"]["registers"], 4)
        self.assertRegex(self.ckpt("explain", self.path("in")).stdout, r"pos_embed +-> pos_embed +\[1, 16, 64\] .*zeros for the class token")
        theirs["pos_embed"] = pos  # registers, and a position for the class token all the same
        state["pos_embed"] = pos
        self.check(safetensors_of(theirs), state, "timm-names,mask_token-zeros")

    def test_with_a_head(self):
        state = model()
        theirs = names.timm(state)
        theirs["head.weight"] = Tensor(Storage(0, "F32", b"\0" * 256), (1, 64))
        state["mask_token"] = zeros(state["mask_token"])
        self.check(safetensors_of(theirs), state, "backbone-only,mask_token-zeros")


class TrainingIn(Case):
    def heads(self, prefix=""):
        one = Tensor(Storage(0, "F32", b"\0" * 16), (2, 2))
        return OrderedDict((prefix + k, one) for k in ("dino_head.mlp.0.weight", "dino_head.last_layer.weight_v", "dino_head.last_layer.parametrizations.weight.original0",
                                                       "ibot_head.mlp.4.bias"))

    def test_prefixes(self):
        state = model()
        for prefix in ("teacher.backbone.", "backbone.", "module.", "student.backbone.", "model.", "state_dict.", "model.module.", "_orig_mod.", "encoder.",
                       "teacher.backbone._fsdp_wrapped_module.", "module._orig_mod.backbone.", "wrapped_model._model.",
                       "teacher_embedding_model.wrapped_model._model."):
            self.check(safetensors_of(prefixed(state, prefix)), state, "prefix-stripped")

    def test_wrapped_inside(self):
        state = model()
        for wrap in ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module._checkpoint_wrapped_module."):
            self.check(safetensors_of(OrderedDict((k.replace("blocks.0.", "blocks.0." + wrap), v) for k, v in state.items())), state, "prefix-stripped")

    def test_chunked(self):
        state = model(depth=12)
        for chunks in (1, 4, 12):
            self.check(safetensors_of(names.chunked(state, chunks)), state, "unchunked")
        self.assertRegex(self.ckpt("explain", self.path("in")).stdout, r"blocks\.11\.11\.ls1\.gamma +-> blocks\.11\.ls1\.gamma")

    def test_teacher_checkpoint(self):
        state = model(depth=4, swiglu=True, hidden=176)
        theirs = prefixed(names.chunked(state, 2), "teacher.backbone.") | self.heads("teacher.")
        self.check(safetensors_of(theirs), state, "prefix-stripped,unchunked,backbone-only")
        self.assertIn("4 tensors that are no part of the backbone are left out", self.stderr)
        self.check(pth_of(own_storages(theirs)), state)

    def test_teacher_and_student(self):
        teacher, student = model(seed=1), model(seed=2)
        both = prefixed(student, "model.student.backbone.") | prefixed(teacher, "model.teacher.backbone.") | self.heads("model.student.") | self.heads("model.teacher.")
        both["model.dino_loss.center"] = both["model.ibot_patch_loss.center"] = Tensor(Storage(0, "F32", b"\0" * 4), (1, 1))
        both["optimizer.state.0.exp_avg"] = Tensor(Storage(0, "F32", b"\0" * 4), (1,))
        self.check(safetensors_of(both), teacher, "prefix-stripped,backbone-only")
        out = self.ckpt("explain", self.path("in")).stdout
        self.assertRegex(out, r"model\.student\.backbone\.norm\.bias +-> \(left out\) .* the student's, beside the teacher's")
        self.assertRegex(out, r"optimizer\.state\.0\.exp_avg +-> \(left out\) .* the optimizer's")
        self.assertRegex(out, r"model\.dino_loss\.center +-> \(left out\) .* a loss's centre")

    def test_leftovers_fail(self):
        state = model()
        state["neck.weight"] = Tensor(Storage(0, "F32", b"\0" * 4), (1,))
        out = self.ckpt("explain", self.put("in", safetensors_of(state)), code=2, error="NAMES-LEFTOVER").stdout
        self.assertRegex(out, r"neck\.weight +-> \(leftover\)")
        self.assertIn("1 left over, 0 missing", out)


class Diff(Case):
    def test_across_names(self):
        state = model(registers=2)
        ours = self.put("ours", safetensors_of(state))
        for theirs in (names.hf(state), names.hf(state, 5), prefixed(names.chunked(state, 2), "teacher.backbone.")):
            for pair in ((ours, self.put("theirs", safetensors_of(theirs))), (self.path("theirs"), ours)):
                self.assertIn("%d equal, 0 within tolerance, 0 differ, 0 only in the first, 0 only in the second" % len(state),
                              self.ckpt("diff", *pair).stdout)
        theirs = names.hf(model(registers=2, seed=2))
        self.assertIn("%d differ, 0 only" % len(state), self.ckpt("diff", ours, self.put("theirs", safetensors_of(theirs)), code=2).stdout)
        theirs = names.timm(state) | {"head.bias": Tensor(Storage(0, "F32", b"\0" * 4), (1,))}
        out = self.ckpt("diff", ours, self.put("theirs", safetensors_of(theirs)), code=2).stdout
        self.assertIn("%d equal, 0 within tolerance, 1 differ, 1 only in the first, 1 only in the second" % (len(state) - 2), out)
        self.assertRegex(out, r"mask_token +only in .*ours")
        self.assertRegex(out, r"head\.bias +only in .*theirs")

    def test_as_they_are(self):
        """The same naming on both sides, or none that is known."""
        theirs = names.hf(model())
        a, b = self.put("a", safetensors_of(theirs)), self.put("b", pth_of(own_storages(theirs)))
        self.assertIn("%d equal, 0 within" % len(theirs), self.ckpt("diff", a, b).stdout)
        twice = prefixed(model(), "a.model.") | prefixed(model(), "model.") | prefixed(model(), "module.")
        self.assertIn("%d equal, 0 within" % len(twice),
                      self.ckpt("diff", self.put("a", safetensors_of(twice)), self.put("b", safetensors_of(twice))).stdout)


class Compat(Case):
    def interp(self, *args, registers=0):
        self.convert(self.put("in", safetensors_of(model(depth=1, registers=registers))), "-o", self.path("out"), "-f", *args)
        rule = self.show(self.path("out"))["model"]["interp"]
        return rule["offset"], rule["antialias"]

    def test_rules(self):
        for whose, plain, registers in (("hub", (0.1, False), (0, True)), ("hf", (0, False), (0, True)), ("timm", (0, True), (0, True))):
            self.assertEqual(self.interp("--compat", whose), plain)
            self.assertEqual(self.interp("--compat", whose, registers=4), registers)
        self.convert(self.path("out"), "--compat", "hub", "-o", self.path("again"))
        self.convert(self.put("in", safetensors_of(model(depth=1))), "-o", self.path("out"), "-f")
        self.convert(self.path("out"), "--compat", "timm", "-o", self.path("again"), "-f")
        view = self.show(self.path("again"))
        self.assertEqual((view["model"]["interp"], view["provenance"]["transforms"]), ({"offset": 0.0, "antialias": True}, "interp"))

    def test_usage(self):
        path = self.put("in", safetensors_of(model(depth=1)))
        self.convert(path, "-o", self.path("no"), "--compat", "hf", "--interp", "0.1", code=64)
        self.convert(path, "-o", self.path("no"), "--compat", "torch", code=64)
        self.convert(path, "-o", self.path("no"), "--to", "onyx", code=64)
        self.convert(path, "-o", self.path("no"), "--shard-size", "1G", code=64)
        for size in ("0", "x", "1T", "1GB", "-1", "", "2000000000"):
            self.convert(path, "-o", self.path("no"), "--to", "hf", "--shard-size", size, code=64)
        self.assertFalse(os.path.exists(self.path("no")))


class HuggingFaceOut(Case):
    def write(self, state, *args, **more):
        return self.convert(self.put("in", safetensors_of(state)), "--to", "hf", "-o", self.path("hf"), *args, **more)

    def read(self, folder):
        """All tensors, by the index where there is one."""
        with open(os.path.join(folder, "config.json")) as f:
            config = json.load(f)
        index = os.path.join(folder, "model.safetensors.index.json")
        if not os.path.exists(index):
            found, metadata = read_safetensors(os.path.join(folder, "model.safetensors"))
            self.assertEqual(metadata, {"format": "pt"})
            return config, found, ["model.safetensors"]
        with open(index) as f:
            index = json.load(f)
        found = {}
        for name, file in index["weight_map"].items():
            shard, metadata = read_safetensors(os.path.join(folder, file))
            self.assertEqual(metadata, {"format": "pt"})
            found[name] = shard[name]
        self.assertEqual(index["metadata"]["total_size"], sum(len(x[2]) for x in found.values()))
        return config, found, sorted(set(index["weight_map"].values()))

    def test_round_trip(self):
        for numbers in ({}, {"registers": 4}, {"swiglu": True, "hidden": 176}, {"patch": 16, "grid": 3, "dim": 128}):
            state = model(**numbers)
            done = self.write(state, "-f", "--heads", "2")
            config, found, files = self.read(self.path("hf"))
            wanted = names.hf(state)
            self.assert_found(found, wanted)
            self.assertEqual(sorted(os.listdir(self.path("hf"))), sorted(["config.json", "preprocessor_config.json"] + files))
            self.assertEqual((config["model_type"], config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"], config["image_size"],
                              config["patch_size"], config["mlp_ratio"], config["use_swiglu_ffn"], config["torch_dtype"], config.get("num_register_tokens")),
                             ("dinov2_with_registers" if "registers" in numbers else "dinov2", numbers.get("dim", 64), 2, 2,
                              numbers.get("grid", 4) * numbers.get("patch", 14), numbers.get("patch", 14), 4, "swiglu" in numbers, "float32",
                              numbers.get("registers")))
            self.assertEqual("--compat hf" in done.stderr, "registers" not in numbers)
            view = self.check(self.path("hf"), state, "hf-names,joined")
            self.assertEqual(view["model"]["heads"], 2)
            self.assertEqual(view["content_id"], self.id_of(self.path("in")))

    def test_half_and_eps(self):
        state = convert_cli.as_dtype(model(), "F16")
        folder = self.folder({"model.safetensors": safetensors_of(names.hf(state)), "config.json": CONFIG}, "first")
        self.convert(folder, "--to", "hf", "-o", self.path("hf"))
        config, _, _ = self.read(self.path("hf"))
        self.assertEqual((config["torch_dtype"], config["layer_norm_eps"]), ("float16", 1e-5))
        self.assertEqual(self.check(self.path("hf"), state)["model"]["ln_eps"], 1e-5)

    def test_preprocessor(self):
        for preset, size, crop, after in (("eval:224", {"shortest_edge": 256}, True, "eval:224"), ("eval:518", {"shortest_edge": 592}, True, "eval:518"),
                                          ("square:70", {"height": 70, "width": 70}, False, "square:70"), ("full", {"shortest_edge": 256}, True, "eval:224")):
            done = self.write(model(), "-f", "--preset", preset)
            self.assertEqual("cannot say the preset full" in done.stderr, preset == "full")
            with open(self.path("hf/preprocessor_config.json")) as f:
                found = json.load(f)
            self.assertEqual((found["size"], found["do_center_crop"], found["image_mean"], found["image_std"], found["resample"]),
                             (size, crop, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], 3))
            self.assertEqual(self.show(self.path("hf"))["preprocess"]["preset"], after)

    def test_shards(self):
        state = model(depth=3)
        for size, least in (("200k", 3), ("1", 50), ("100M", 1)):
            self.write(state, "-f", "--shard-size", size)
            _, found, files = self.read(self.path("hf"))
            self.assert_found(found, names.hf(state))
            self.assertGreaterEqual(len(files), least)
            if size == "200k":
                for file in files:
                    shard, _ = read_safetensors(self.path("hf/" + file))
                    self.assertLessEqual(sum(len(x[2]) for x in shard.values()), 200000)
                self.assertEqual(files[0], "model-00001-of-%05d.safetensors" % len(files))
            self.check(self.path("hf"), state)

    def test_never_overwrites(self):
        state = model()
        self.write(state)
        before = self.get("hf/model.safetensors")
        self.write(model(seed=2), code=3, error="IO-EXISTS")
        self.assertEqual(self.get("hf/model.safetensors"), before)
        self.write(model(seed=2), "-f", "--shard-size", "100k")
        self.assertFalse(os.path.exists(self.path("hf/model.safetensors")))
        self.put("hf/precious.txt", b"mine")
        self.write(state, "-f", code=3, error="IO-EXISTS")
        self.assertEqual(self.get("hf/precious.txt"), b"mine")
        os.remove(self.path("hf/precious.txt"))
        os.mkdir(self.path("hf/model-00009-of-00009.safetensors"))
        self.write(state, "-f", code=3, error="IO-EXISTS")
        self.put("file", b"mine")
        self.convert(self.path("in"), "--to", "hf", "-o", self.path("file"), "-f", code=3, error="IO-EXISTS")
        self.assertEqual(self.get("file"), b"mine")
        self.convert(self.path("in"), "--to", "hf", "-o", self.path("absent/hf"), code=3, error="IO-CREATE")
        self.convert(self.path("in"), "--to", "hf", "-o", self.path("slash/"))
        self.read(self.path("slash"))
        self.assertEqual(sorted(os.listdir(self.temp.name)), ["file", "hf", "in", "slash"])

    def test_cannot_be_said(self):
        for numbers in ({"layerscale": False}, {"hidden": 100}, {"swiglu": True, "hidden": 100}):
            self.write(model(**numbers), code=2, error="HF-MODEL")
        self.assertEqual(os.listdir(self.temp.name), ["in"])


class TimmOut(Case):
    def test_round_trip(self):
        for numbers in ({}, {"swiglu": True, "hidden": 176}, {"registers": 4}, {"registers": 4, "swiglu": True, "hidden": 176}, {"layerscale": False}):
            state = model(**numbers)
            done = self.convert(self.put("in", safetensors_of(state)), "--to", "timm", "-o", self.path("timm"), "-f")
            found, metadata = read_safetensors(self.path("timm"))
            wanted = {k: ("F32", v.shape, v.bytes()) for k, v in names.timm(state).items()}
            if "registers" in numbers:
                cls = [struct.unpack("<64f", state["cls_token"].bytes()), struct.unpack("<64f", state["pos_embed"].bytes()[:256])]
                wanted["cls_token"] = ("F32", (1, 1, 64), struct.pack("<64f", *(a + b for a, b in zip(*cls))))
            self.assertEqual((metadata, set(found)), ({"format": "pt"}, set(wanted)))
            for name in wanted:
                self.assertTrue(found[name] == wanted[name], name)
            self.assertEqual("--compat timm" in done.stderr, "registers" not in numbers)
            back = {k: Tensor(Storage(0, *v[::2]), v[1]) for k, v in wanted.items()}
            self.assertEqual(len(back), len(state) - 1)

    def test_half_registers(self):
        """The sum is kept in float: nothing of it is rounded away."""
        state = convert_cli.as_dtype(model(registers=2), "F16")
        self.convert(self.put("in", safetensors_of(state)), "--to", "timm", "-o", self.path("timm"))
        found, _ = read_safetensors(self.path("timm"))
        cls = [struct.unpack("<64e", state["cls_token"].bytes()), struct.unpack("<64e", state["pos_embed"].bytes()[:128])]
        self.assertEqual(found["cls_token"], ("F32", (1, 1, 64), struct.pack("<64f", *(a + b for a, b in zip(*cls)))))
        self.assertEqual(found["pos_embed"], ("F16", (1, 16, 64), state["pos_embed"].bytes()[128:]))
        self.convert(self.path("timm"), "-o", self.path("again"))


if __name__ == "__main__":
    convert_cli.CONVERT, convert_cli.CKPT = sys.argv[1:3]
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
