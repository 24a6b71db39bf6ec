# SPDX-License-Identifier: Apache-2.0
"""dinov-convert --to pth: PyTorch opens what it writes in every way it can, bit for bit; so do unzip and
Python's zipfile; equal weights give equal bytes. And what torch.save writes beyond flat state dicts.

usage: convert_pth.py DINOV_CONVERT DINOV_CKPT DINOV_DEMO_MODEL REPACK
`DINOV_TORCH_OLD`, an interpreter with PyTorch 1.13, opens the files too.
"""
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections import OrderedDict

from weightfiles import dict_op, i, legacy_of, s, storage_id, t, tensor_op

# PyTorch then proves that each storage lies where it computes it from the sizes before.
os.environ["TORCH_SERIALIZATION_DEBUG"] = "1"
try:
    import torch
    from safetensors.torch import load_file, save_file
    from torch.utils.serialization import config
except ImportError as missing:
    print("skipped: %s" % missing)
    sys.exit(77)

CONVERT, CKPT, DEMO, REPACK = sys.argv[1:5]
OLD = """
import sys, torch
from collections import OrderedDict
state = torch.load(sys.argv[1], weights_only=True)
assert type(state) is OrderedDict
for name, value in state.items():
    print(name, value.dtype, list(value.shape), value.stride(), bytes(value.storage().untyped().tolist()).hex()[:4000])
"""


def run(*args):
    done = subprocess.run(args, capture_output=True, text=True)
    assert done.returncode == 0, "%s: exit %d: %s%s" % (args, done.returncode, done.stdout, done.stderr)
    return done.stdout


def raw(x):
    return x.contiguous().flatten().view(torch.uint8).numpy().tobytes() if x.numel() else b""


def expect(found, wanted, what):
    assert type(found) is OrderedDict, "%s: %s" % (what, type(found))
    assert list(found) == list(wanted), "%s: names differ" % what
    for name, w in wanted.items():
        f = found[name]
        assert f.dtype == w.dtype and f.shape == w.shape and f.is_contiguous() and not f.requires_grad, "%s: %s" % (what, name)
        assert raw(f) == raw(w), "%s: %s is not bit-equal" % (what, name)


def everywhere(path, wanted):
    expect(torch.load(path, weights_only=True), wanted, "load")
    expect(torch.load(path, weights_only=True, mmap=True), wanted, "mmap")
    config.load.calculate_storage_offsets = True
    expect(torch.load(path, weights_only=True, mmap=True), wanted, "mmap, computed places")
    config.load.calculate_storage_offsets = False
    expect(torch.load(io.BytesIO(open(path, "rb").read())), wanted, "stream")
    with zipfile.ZipFile(path) as z:
        assert z.testzip() is None
        names = [i.filename for i in z.infolist()]
        assert names[:4] == ["archive/" + n for n in ("data.pkl", ".format_version", ".storage_alignment", "byteorder")], names[:4]
        for entry in z.infolist():
            with open(path, "rb") as f:
                f.seek(entry.header_offset + 26)
                begin = entry.header_offset + 30 + sum(int.from_bytes(f.read(2), "little") for _ in range(2))
            assert begin % 64 == 0 and entry.date_time == (1980, 1, 1, 0, 0, 0), entry.filename
    if shutil.which("unzip"):
        run("unzip", "-tqq", path)
    old = os.environ.get("DINOV_TORCH_OLD")
    if old:
        for line, (name, w) in zip(run(old, "-c", OLD, path).splitlines(), wanted.items()):
            want = "%s %s %s %s %s" % (name, w.dtype, list(w.shape), w.stride(), raw(w).hex()[:4000])
            assert line == want, "PyTorch 1.13: expected %s, found %s" % (want[:200], line[:200])


def reference(state):
    """The same as PyTorch writes it; only the pickle may have another size."""
    out = io.BytesIO()
    torch.save(state, out)
    with zipfile.ZipFile(out) as z:
        return [(i.filename, i.file_size, i.CRC) for i in z.infolist() if not i.filename.endswith((".pkl", "serialization_id"))]


def sharded():
    """One rank's part of an FSDP checkpoint, as older and newer PyTorch make it."""
    import torch.distributed as dist
    from torch.distributed._shard import sharded_tensor
    from torch.distributed._shard.sharding_spec import ChunkShardingSpec
    from torch.distributed.tensor import Replicate, distribute_tensor, init_device_mesh

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield {"model": {"w": sharded_tensor.rand(ChunkShardingSpec(dim=0, placements=["rank:0/cpu"]), 4, 4)}, "iteration": 3}
    yield {"model": {"w": distribute_tensor(torch.ones(3), init_device_mesh("cpu", (1,)), [Replicate()])}}


def named(value, prefix=""):
    """Tensors reached by string keys, under dotted names."""
    for key, v in value.items():
        if isinstance(key, str) and isinstance(v, torch.Tensor):
            yield prefix + key, v.detach()
        elif isinstance(key, str) and isinstance(v, dict):
            yield from named(v, prefix + key + ".")


def every_kind():
    g = torch.Generator().manual_seed(1)
    state = OrderedDict()
    for dtype in (torch.float64, torch.int64, torch.float32, torch.int32, torch.float16, torch.bfloat16, torch.int16, torch.int8,
                  torch.uint8, torch.bool):
        for shape in ((), (1,), (3,), (0,), (2, 0, 5), (7, 9), (1, 255, 1), (256,), (2, 1, 2, 1, 2, 1, 2, 1)):
            value = torch.randint(0, 2 if dtype == torch.bool else 100, shape, generator=g)
            state["%s.%s" % (dtype, "x".join(map(str, shape)))] = value.to(dtype)
    return state


def checkpoints():
    torch.manual_seed(5)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.LayerNorm(7), torch.nn.Linear(7, 2))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(3, 5)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 7])
    state = model.state_dict()
    yield "teacher", {"teacher": state}
    yield "trainer", {"model": state, "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(), "iteration": 5,
                      "rng": torch.get_rng_state(), "best": 0.5, "done": False, "extra": None, "sizes": torch.Size([2, 3]),
                      "device": torch.device("cpu"), "dtype": torch.bfloat16, "by number": {0: torch.ones(2), 1: {"x": torch.ones(2)}},
                      "big": 2 ** 40, "list": [torch.ones(2)], "empty": {}}
    yield "mmcv", {"meta": {"env_info": "line\nline\ttab\0", "epoch": 12, "classes": ("a", "b"), "seed": None}, "state_dict": state,
                   "message_hub": {"log_scalars": {}, "runtime_info": {"iter": 3}}}
    tagged, parameter = torch.arange(6.0), torch.nn.Parameter(torch.arange(3.0))
    tagged.note, parameter.note = "x", "y"
    yield "with attributes", {"tensor": tagged, "parameter": parameter, "buffer": torch.nn.Buffer(torch.ones(3)), "view": tagged[2:4]}
    base = torch.arange(60.0).reshape(3, 4, 5)
    yield "every dtype and shape", every_kind()
    yield "views", {"t": base.transpose(0, 2), "slice": base[1:, ::2, 3], "flat": base[2], "scalar": base[1, 2, 3],
                    "expanded": torch.ones(1).expand(7), "empty": base[3:], "flipped": base.flip(0), "half": base.half()[1:, :, 1:]}
    yield "deep", {"a": {"b": {"c": {"d": {"e": OrderedDict(f=torch.arange(4))}}}}}
    yield "shared", {"student": state, "teacher": state, "ema": {k: v.clone() for k, v in state.items()}}


with tempfile.TemporaryDirectory() as folder:
    st, pth, again = (os.path.join(folder, n) for n in ("in.safetensors", "a.pth", "other name"))
    state = every_kind()
    state["name with \u00fc, \u6f22 and \U0001f600"] = torch.arange(70000, dtype=torch.int32)  # sizes over 16 bits
    state = OrderedDict((k, state[k]) for k in state)
    save_file(dict(state), st)
    run(REPACK, st, pth)
    wanted = OrderedDict((k, state[k]) for k in torch.load(pth, weights_only=True))  # safetensors has an order of its own
    assert set(wanted) == set(state)
    everywhere(pth, wanted)
    with zipfile.ZipFile(pth) as z:
        found = [(i.filename, i.file_size, i.CRC) for i in z.infolist() if not i.filename.endswith(".pkl")]
    assert found == reference(wanted), "entries differ from torch.save's"
    print("ok every dtype and shape")

    many = OrderedDict(("t%d" % i, torch.tensor([i], dtype=torch.int16)) for i in range(15990))
    save_file(dict(many), st)
    run(REPACK, st, pth)
    everywhere(pth, OrderedDict((k, many[k]) for k in torch.load(pth, weights_only=True)))
    print("ok 15,990 tensors")

    for what, how in (("plain", []), ("registers, SwiGLU", ["--registers", "4", "--swiglu"])):
        demo = os.path.join(folder, "demo")
        run(DEMO, "-o", demo, "-f", "--dim", "128", "--depth", "2", *how)
        run(CONVERT, demo, "-o", pth, "--to", "pth", "-f")
        state = load_file(demo)
        found = torch.load(pth, weights_only=True)
        assert set(found) == set(state)
        everywhere(pth, OrderedDict((k, state[k]) for k in found))
        run(CONVERT, pth, "-o", again, "--to", "pth", "-f")
        digests = [hashlib.sha256(open(p, "rb").read()).hexdigest() for p in (pth, again)]
        assert digests[0] == digests[1], "%s: a second writing differs" % what
        run(CKPT, "diff", demo, pth)
        print("ok model,", what)

    for what, checkpoint in checkpoints():
        wanted = OrderedDict(named(checkpoint))
        assert wanted
        for zipped in (True, False):
            torch.save(checkpoint, again, _use_new_zipfile_serialization=zipped)
            run(REPACK, again, pth)
            expect(torch.load(pth, weights_only=True), wanted, what)
        print("ok %s: %d names" % (what, len(wanted)))

    # Storages that are views of others, which only PyTorch before 0.4 wrote.
    def view(key, first, count):
        return storage_id("7", 10, more=t(s(key), i(first), i(count)))

    with open(again, "wb") as f:
        f.write(legacy_of(pkl=dict_op(s("a"), tensor_op(storage=view("8", 2, 6), offset=1, shape=(2, 2), stride=(2, 1)),
                                      s("b"), tensor_op(storage=view("9", 7, 3), shape=(3,)),
                                      s("c"), tensor_op(storage=storage_id("7", 10, more=b"N"), shape=(10,))),
                          data={"7": (10, torch.arange(10.0).numpy().tobytes())}))
    wanted = OrderedDict(torch.load(again, weights_only=True))
    assert wanted["a"].flatten().tolist() == [3, 4, 5, 6] and wanted["b"].tolist() == [7, 8, 9]
    run(REPACK, again, pth)
    expect(torch.load(pth, weights_only=True), OrderedDict((k, v.contiguous()) for k, v in wanted.items()), "views of storages")
    print("ok views of storages")

    for checkpoint in sharded():
        torch.save(checkpoint, again)
        done = subprocess.run([CONVERT, again, "-o", pth, "-f"], capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.endswith("[PKL-SHARD]\n"), done.stderr
    print("ok FSDP's parts are refused by name")

    upstream = os.environ.get("DINOV_UPSTREAM")
    if upstream:
        sys.path.insert(0, upstream)
        os.environ["XFORMERS_DISABLED"] = "1"
        from dinov2.models import vision_transformer as vit

        run(DEMO, "-o", demo, "-f", "--no-proof")
        run(CONVERT, demo, "-o", pth, "--to", "pth", "-f")
        model = vit.vit_small(img_size=518, patch_size=14, init_values=1.0, ffn_layer="mlp", block_chunks=0)
        model.load_state_dict(torch.load(pth, weights_only=True), strict=True)
        print("ok the official model, strict=True")
