# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of the fuzz targets of convert/ (one folder each, see main) under tests/fuzz/corpus/, and the
model of tests/unit/convert.c.

usage: seeds_convert.py        (again after the hostile cases changed; the result is committed)
"""
import hashlib
import json
import os
import shutil
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "cli"))

import convert_names  # noqa: E402
import hostile  # noqa: E402
import names  # noqa: E402
import onnxfiles  # noqa: E402
from weightfiles import *  # noqa: E402,F401,F403
from weightfiles import Entry, Storage, Tensor  # noqa: E402

LIMIT = 4096  # bytes of one seed


def put(target, raw, limit=LIMIT):
    if len(raw) <= limit:
        with open(os.path.join(HERE, "corpus", target, hashlib.sha256(raw).hexdigest()[:16]), "wb") as f:
            f.write(raw)


def main():
    for target in ("pickle", "zip", "pth", "legacy", "safetensors", "hfjson", "names", "onnx", "onnxdata"):
        shutil.rmtree(os.path.join(HERE, "corpus", target), ignore_errors=True)
        os.makedirs(os.path.join(HERE, "corpus", target))

    tiny = OrderedDict((name, Tensor(Storage(n, "F32", b"\0" * 4 * numel(shape)), shape)) for n, (name, shape) in enumerate(
        model_shapes(dim=1, depth=1, registers=1, hidden=1, patch=1, grid=1).items()))
    two = OrderedDict([("a", Tensor(Storage(0, "F16", b"\1" * 12), (2, 3), (1, 2))), ("b", Tensor(Storage(1, "I64", b"\2" * 8), ()))])
    for state in (tiny, two):
        put("pickle", pickle_of(state))
        for raw in (pth_of(state), pth_of(state, zip_args={"align": 0, "zip64": False})):
            put("pth", raw)
            put("zip", raw)
        put("legacy", legacy_of(state))
        put("pth", legacy_of(state))
        for raw in (safetensors_of(state), safetensors_of(state, {"format": "pt"}, pad=0)):
            put("pth", raw)
            put("safetensors", raw)
    put("zip", zip_of([Entry("data/0", b"abcd" * 99, method=8), Entry("version", b"3\n")]))
    put("pth", pth_of(two, extra=[Entry("more", b"x" * 300, method=8)]))

    mixed = OrderedDict(tiny)
    mixed["blocks.0.attn.qkv.weight"] = Tensor(Storage(90, "F32", b"\0" * 24), (3, 1), (2, 1))
    mixed["norm.bias"] = Tensor(mixed["norm.weight"].storage, (1,))
    entries = [Entry(e.name, e.plain, method=8 * (e.name == "data/6")) for e in pth_entries(mixed)]
    with open(os.path.join(HERE, "..", "unit", "convert-tiny.pth"), "wb") as f:
        f.write(zip_of(entries))

    document = {"metadata": {"total_size": 4}, "weight_map": {"a": "x.safetensors", "b": "y.safetensors"}}
    for value in (convert_names.CONFIG, convert_names.PREPROCESSOR, document, {"weight_map": {"a": "../x"}},
                  convert_names.CONFIG | {"model_type": "dinov2_with_registers", "num_register_tokens": 4, "patch_size": [14, 14]},
                  convert_names.PREPROCESSOR | {"do_center_crop": False, "size": {"height": 70, "width": 70}}):
        put("hfjson", json.dumps(value).encode())
    for state in (model(dim=2, grid=2, patch=1, depth=2), model(dim=2, grid=2, patch=1, depth=1, registers=1, swiglu=True, hidden=2)):
        heads = OrderedDict([("teacher.dino_head.mlp.0.bias", state["norm.bias"])])
        for theirs in (state, names.hf(state), names.hf(state, 5), names.timm(state), names.chunked(state, 1),
                       OrderedDict(("teacher.backbone." + k, v) for k, v in state.items()) | heads):
            lines = ["%s %s%s" % (k, "", ",".join(map(str, v.shape))) for k, v in theirs.items()]
            put("names", "\n".join(lines).encode())

    for name, raw, codes in hostile.cases():
        group = codes[0].split("-")[0]
        if raw.startswith(LEGACY_MAGIC):
            put("legacy", raw)
            continue
        if group == "PKL":
            start = raw.find(b"archive/data.pkl")
            start += 16 + 4 + int.from_bytes(raw[start + 18:start + 20], "little")
            put("pickle", raw[start:raw.find(b"PK\x07\x08", start)])
        elif group == "ZIP":
            put("zip", raw)
        elif group == "ST":
            put("safetensors", raw)
        elif group == "PTH":
            put("pth", raw)
        elif group == "ONNX":
            put("onnx", raw, 1024)
    for kind in ("", "split", "Attention", "MultiHeadAttention"):
        for how in (dict(registers=1), dict(swiglu=True, layerscale=False)):
            state = model(dim=2, depth=1, hidden=2, patch=1, grid=1, **how)
            put("onnx", onnxfiles.Vit(state, heads=1, kind=kind).bytes(metadata=[("dinov", "{}")]), 6000)
    for entries in (dict(location="values"), dict(location="values", offset="16", length="16"), dict(location="secret"),
                    dict(location="../values"), dict(location="values", offset="64"), dict(location="values", length="17", checksum="0")):
        put("onnxdata", b"".join(onnxfiles.text(13, onnxfiles.text(1, k) + onnxfiles.text(2, v)) for k, v in entries.items()))


if __name__ == "__main__":
    main()
