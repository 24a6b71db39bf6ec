# SPDX-License-Identifier: Apache-2.0
"""Weight files built byte by byte with the standard library alone: torch.save's pickle and zip, and
safetensors. Every field can be set wrong on purpose; the defaults are what torch 2.x writes.
"""
import json
import pickle
import random
import struct
import sys
import types
import zlib
from collections import OrderedDict
from io import BytesIO

# ---- A state dict: an ordered dict of name -> Tensor ----

ITEM = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
STORAGE = {"F32": "FloatStorage", "F16": "HalfStorage", "BF16": "BFloat16Storage", "F64": "DoubleStorage",
           "I64": "LongStorage", "I32": "IntStorage", "I16": "ShortStorage", "I8": "CharStorage",
           "U8": "ByteStorage", "BOOL": "BoolStorage"}


class Storage:
    def __init__(self, key, dtype, data):
        self.key, self.dtype, self.data = str(key), dtype, data
        self.numel = len(data) // ITEM[dtype]


class Tensor:
    """A view: strides in elements, row-major by default."""

    def __init__(self, storage, shape, stride=None, offset=0):
        self.storage, self.shape, self.offset = storage, tuple(shape), offset
        if stride is None:
            stride, step = [], 1
            for n in reversed(self.shape):
                stride.insert(0, step)
                step *= max(n, 1)
        self.stride = tuple(stride)

    def __reduce_ex__(self, protocol):
        return (torch_names()["_rebuild_tensor_v2"],
                (self.storage, self.offset, self.shape, self.stride, False, OrderedDict()))

    def bytes(self):
        """The elements in row-major order."""
        size, out = ITEM[self.storage.dtype], []

        def walk(d, at):
            if d == len(self.shape):
                out.append(self.storage.data[at * size:(at + 1) * size])
                return
            for i in range(self.shape[d]):
                walk(d + 1, at + i * self.stride[d])

        walk(0, self.offset)
        return b"".join(out)


def numel(shape):
    n = 1
    for s in shape:
        n *= s
    return n


def floats(rng, count, scale=0.05, base=0.0):
    return struct.pack("<%df" % count, *(base + scale * rng.uniform(-1, 1) for _ in range(count)))


def model_shapes(dim=64, depth=2, registers=0, hidden=None, swiglu=False, layerscale=True, patch=14, grid=4):
    """The hub's names and shapes in the hub's order."""
    hidden = hidden or 4 * dim
    shapes = OrderedDict()
    shapes["cls_token"] = (1, 1, dim)
    shapes["pos_embed"] = (1, 1 + grid * grid, dim)
    if registers:
        shapes["register_tokens"] = (1, registers, dim)
    shapes["mask_token"] = (1, dim)
    shapes["patch_embed.proj.weight"] = (dim, 3, patch, patch)
    shapes["patch_embed.proj.bias"] = (dim,)
    for i in range(depth):
        b = "blocks.%d." % i
        shapes[b + "norm1.weight"] = shapes[b + "norm1.bias"] = (dim,)
        shapes[b + "attn.qkv.weight"], shapes[b + "attn.qkv.bias"] = (3 * dim, dim), (3 * dim,)
        shapes[b + "attn.proj.weight"], shapes[b + "attn.proj.bias"] = (dim, dim), (dim,)
        if layerscale:
            shapes[b + "ls1.gamma"] = (dim,)
        shapes[b + "norm2.weight"] = shapes[b + "norm2.bias"] = (dim,)
        up, down = ("mlp.w12.", "mlp.w3.") if swiglu else ("mlp.fc1.", "mlp.fc2.")
        rows = 2 * hidden if swiglu else hidden
        shapes[b + up + "weight"], shapes[b + up + "bias"] = (rows, dim), (rows,)
        shapes[b + down + "weight"], shapes[b + down + "bias"] = (dim, hidden), (dim,)
        if layerscale:
            shapes[b + "ls2.gamma"] = (dim,)
    shapes["norm.weight"] = shapes["norm.bias"] = (dim,)
    return shapes


def model(seed=1, **numbers):
    rng = random.Random(seed)
    out = OrderedDict()
    for key, (name, shape) in enumerate(model_shapes(**numbers).items()):
        base = 1.0 if name.endswith(("norm1.weight", "norm2.weight", "norm.weight", "gamma")) else 0.0
        out[name] = Tensor(Storage(key, "F32", floats(rng, numel(shape), base=base)), shape)
    return out


# ---- The pickle, written by Python's own pickler under torch's names ----

_names = {}


def torch_names():
    """Stand-ins that pickle under torch's module names; torch itself must not be loaded."""
    if _names:
        return _names
    assert "torch" not in sys.modules
    for module in ("torch", "torch._utils"):
        sys.modules[module] = types.ModuleType(module)
    for name in list(STORAGE.values()) + ["ComplexFloatStorage", "QInt8Storage"]:
        _names[name] = type(name, (), {"__module__": "torch"})
        setattr(sys.modules["torch"], name, _names[name])
    for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_parameter_with_state"):
        def stand_in(*args):
            raise RuntimeError("never called")
        stand_in.__module__, stand_in.__qualname__, stand_in.__name__ = "torch._utils", name, name
        _names[name] = stand_in
        setattr(sys.modules["torch._utils"], name, stand_in)
    return _names


class TorchPickler(pickle.Pickler):
    more = ()  # (None,) in the layout of before PyTorch 1.6

    def persistent_id(self, obj):
        if isinstance(obj, Storage):
            return ("storage", torch_names()[STORAGE[obj.dtype]], obj.key, "cpu", obj.numel) + self.more
        return None


class LegacyPickler(TorchPickler):
    more = (None,)


def pickle_of(obj, protocol=2, pickler=TorchPickler):
    out = BytesIO()
    pickler(out, protocol).dump(obj)
    return out.getvalue()


# ---- Opcodes by hand, for what no pickler writes ----

def g(module, name):
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def s(text):
    raw = text.encode() if isinstance(text, str) else text
    return b"X" + struct.pack("<I", len(raw)) + raw


def i(value):
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if 0 <= value < 65536:
        return b"M" + struct.pack("<H", value)
    if -2 ** 31 <= value < 2 ** 31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def t(*parts):
    return b"(" + b"".join(parts) + b"t"


ORDERED = g("collections", "OrderedDict") + b")R"
HEAD = b"\x80\x02"


def storage_id(key="0", numel=4, cls="FloatStorage", tag="storage", more=b""):
    """`more`: b"N" or a view in the layout of before PyTorch 1.6."""
    return t(s(tag), g("torch", cls), s(key), s("cpu"), i(numel), more) + b"Q"


def tensor_op(storage=None, offset=0, shape=(4,), stride=(1,), tail=b"\x89" + ORDERED):
    return (g("torch._utils", "_rebuild_tensor_v2") + b"(" + (storage if storage is not None else storage_id()) + i(offset) +
            t(*map(i, shape)) + t(*map(i, stride)) + tail + b"tR")


def dict_op(*pairs):
    return HEAD + b"}(" + b"".join(pairs) + b"u."


# ---- The zip, every field open ----

class Entry:
    """One entry; fields named c_* and l_* override the central directory's and the local header's."""

    def __init__(self, name, data, method=0, **over):
        self.name, self.plain, self.method = name, data, method
        if method == 8:
            z = zlib.compressobj(9, zlib.DEFLATED, -15)
            self.stored = z.compress(data) + z.flush()
        else:
            self.stored = data
        self.crc = zlib.crc32(data)
        self.flags = 0x0808 if data else 0x0800
        self.over = over

    def get(self, field, default):
        return self.over.get(field, default)


def zip_of(entries, prefix="archive", align=64, zip64=True, before=b"", after=b"", end=None, end64=None, shift=0):
    """`end` and `end64` override fields of the end records; `shift` moves every recorded offset."""
    out, central = bytearray(before), bytearray()
    for e in entries:
        name = ((prefix + "/") if prefix is not None else "").encode() + e.name.encode("utf-8", "surrogateescape")
        header = len(out) + shift
        extra = b""
        if align:
            start = len(out) + 30 + len(name) + 4
            pad = -start % align
            extra = b"FB" + struct.pack("<H", pad) + b"Z" * pad
        extra = e.get("l_extra", extra)
        l_name = e.get("l_name", name)
        follows = e.flags & 8
        out += struct.pack("<IHHHHHIIIHH", e.get("l_magic", 0x04034b50), 0, e.get("l_flags", e.flags), e.get("l_method", e.method),
                           0, 0, e.get("l_crc", 0 if follows else e.crc), e.get("l_packed", 0 if follows else len(e.stored)),
                           e.get("l_size", 0 if follows else len(e.plain)), len(l_name), len(extra)) + l_name + extra
        out += e.stored
        if follows:
            out += e.get("descriptor", struct.pack("<IIII", 0x08074b50, e.get("crc", e.crc), len(e.stored), len(e.plain)))
        out += e.get("gap", b"")
        c_extra = e.get("c_extra", b"")
        c_name = e.get("c_name", name)
        central += struct.pack("<IHHHHHHIIIHHHHHII", 0x02014b50, 0, 0, e.get("c_flags", e.flags), e.get("c_method", e.method), 0, 0,
                               e.get("crc", e.crc), e.get("c_packed", len(e.stored)), e.get("c_size", len(e.plain)), len(c_name),
                               len(c_extra), 0, e.get("c_disk", 0), 0, 0, e.get("c_header", header)) + c_name + c_extra
    offset, size, count = len(out) + shift, len(central), len(entries)
    out += central
    f = {"disk": 0, "here": count, "count": count, "size": size, "offset": offset, "comment": b""}
    f.update(end or {})
    if zip64:
        w = {"size": size, "offset": offset, "here": count, "count": count, "at": len(out) + shift, "record": 44, "disks": 1}
        w.update(end64 or {})
        out += struct.pack("<IQHHIIQQQQ", 0x06064b50, w["record"], 30, 45, 0, 0, w["here"], w["count"], w["size"], w["offset"])
        out += struct.pack("<IIQI", 0x07064b50, 0, w["at"], w["disks"])
    out += struct.pack("<IHHHHIIH", 0x06054b50, f["disk"], f["disk"], f["here"], f["count"], f["size"], f["offset"],
                       len(f["comment"])) + f["comment"]
    return bytes(out) + after


def storages_of(state):
    seen = OrderedDict()
    for tensor in state.values():
        seen.setdefault(tensor.storage.key, tensor.storage)
    return seen.values()


def pth_entries(state=None, pkl=None, data=None, version=b"3\n", byteorder=b"little", extra=()):
    """The entries torch 2.x writes; `pkl` and `data` ({key: bytes}) replace what `state` would give."""
    entries = [Entry("data.pkl", pkl if pkl is not None else pickle_of(state)), Entry(".format_version", b"1"),
               Entry(".storage_alignment", b"64")]
    if byteorder is not None:
        entries.append(Entry("byteorder", byteorder))
    if data is None:
        data = {st.key: st.data for st in storages_of(state)} if state is not None else {"0": b"\0" * 16}
    entries += [Entry("data/" + key, raw) for key, raw in data.items()]
    if version is not None:
        entries.append(Entry("version", version))
    return entries + list(extra) + [Entry(".data/serialization_id", b"1234567890" * 4)]


def pth_of(state=None, zip_args=None, **entry_args):
    return zip_of(pth_entries(state, **entry_args), **(zip_args or {}))


# ---- torch.save before PyTorch 1.6: pickles and storages one after the other ----

LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
LEGACY_MACHINE = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


def legacy_of(state=None, pkl=None, data=None, magic=LEGACY_MAGIC, version=1001, machine=LEGACY_MACHINE, keys=None, counts=None, after=b""):
    """`data` is {key: (elements, bytes)}; `keys` and `counts` override the list of keys and the counts before the bytes."""
    if data is None:
        data = {st.key: (st.numel, st.data) for st in storages_of(state)} if state is not None else {"0": (4, b"\0" * 16)}

    def part(value):
        return value if isinstance(value, bytes) else pickle_of(value)

    out = magic + part(version) + part(machine) + (pkl if pkl is not None else pickle_of(state, pickler=LegacyPickler))
    out += part(sorted(data) if keys is None else keys)
    for key in sorted(data):
        out += struct.pack("<Q", (counts or {}).get(key, data[key][0])) + data[key][1]
    return out + after


# ---- safetensors ----

def st_header(header, data=b"", pad=8, length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-(8 + len(raw)) % pad if pad else 0)
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def safetensors_of(state, metadata=None, pad=8, order=None):
    header, data = {}, b""
    if metadata is not None:
        header["__metadata__"] = metadata
    for name in order or state:
        raw = state[name].bytes()
        header[name] = {"dtype": state[name].storage.dtype, "shape": list(state[name].shape),
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    return st_header(header, data, pad)


def read_safetensors(path):
    """name -> (dtype, shape, bytes), and the metadata."""
    with open(path, "rb") as f:
        raw = f.read()
    n = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + n])
    metadata = header.pop("__metadata__", {})
    return {k: (v["dtype"], tuple(v["shape"]), raw[8 + n + v["data_offsets"][0]:8 + n + v["data_offsets"][1]])
            for k, v in header.items()}, metadata
