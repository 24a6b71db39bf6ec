# SPDX-License-Identifier: Apache-2.0
"""Hostile weight files: (name, bytes, the stable code they must be refused with). Every family of
unsafe or damaged input that the readers know, one case for each way in.
"""
import struct
import zlib

import names
from onnxhostile import onnx_cases
from weightfiles import *  # noqa: F401,F403
from weightfiles import Entry, Storage, Tensor

KIB = b"\0" * 16


def pkl(*ops):
    """A whole .pth around a hand-made pickle."""
    return pth_of(pkl=b"".join(ops))


def opcode_cases():
    # Every opcode of protocols 0 to 5 that is not on the list, with its argument.
    for name, raw in {
            "POP": b"0", "POP_MARK": b"1", "DUP": b"2", "FLOAT": b"F1.0\n", "INT": b"I1\n", "LONG": b"L1L\n", "PERSID": b"Pa\n",
            "STRING": b"S'a'\n", "BINSTRING": b"T\1\0\0\0a", "SHORT_BINSTRING": b"U\1a", "UNICODE": b"Va\n",
            "BINBYTES": b"B\1\0\0\0a", "SHORT_BINBYTES": b"C\1a", "DICT": b"(d", "LIST": b"(l", "GET": b"g0\n", "PUT": b"p0\n",
            "INST": b"(ios\nsystem\n", "OBJ": b"(" + b"No", "NEWOBJ": b"\x81", "EXT1": b"\x82\1", "EXT2": b"\x83\1\0",
            "EXT4": b"\x84\1\0\0\0", "LONG4": b"\x8b\1\0\0\0\1", "SHORT_BINUNICODE": b"\x8c\1a",
            "BINUNICODE8": b"\x8d\1\0\0\0\0\0\0\0a", "BINBYTES8": b"\x8e\1\0\0\0\0\0\0\0a", "EMPTY_SET": b"\x8f", "ADDITEMS": b"\x90",
            "FROZENSET": b"(\x91", "NEWOBJ_EX": b"\x92", "STACK_GLOBAL": b"\x93", "MEMOIZE": b"\x94",
            "FRAME": b"\x95\0\0\0\0\0\0\0\0", "BYTEARRAY8": b"\x96\0\0\0\0\0\0\0\0", "NEXT_BUFFER": b"\x97",
            "READONLY_BUFFER": b"\x98", "NUL": b"\0", "FF": b"\xff"}.items():
        yield "opcode " + name, pkl(HEAD, b"}", raw, b"."), "PKL-OPCODE"


def global_cases():
    for module, name in [("os", "system"), ("posix", "system"), ("nt", "system"), ("sys", "exit"), ("builtins", "eval"),
                         ("builtins", "exec"), ("builtins", "getattr"), ("__builtin__", "eval"), ("builtins", "set"),
                         ("subprocess", "Popen"), ("runpy", "_run_code"), ("importlib", "import_module"), ("webbrowser", "open"),
                         ("torch.hub", "load"), ("torch", "load"), ("torch.jit", "load"), ("torch._utils", "_rebuild_qtensor"),
                         ("torch._utils", "_rebuild_sparse_tensor"), ("torch._utils", "_rebuild_tensor_v3"),
                         ("torch", "ComplexFloatStorage"), ("torch", "QInt8Storage"), ("torch.storage", "UntypedStorage"),
                         ("torch.storage", "_load_from_bytes"), ("argparse", "Namespace"), ("numpy.core.multiarray", "scalar"),
                         ("numpy.core.multiarray", "_reconstruct"), ("collections", "defaultdict"),
                         ("_codecs", "encode"), ("operator", "attrgetter"), ("functools", "partial"), ("torch", "os.system"),
                         ("collections", "OrderedDict "), (" collections", "OrderedDict"), ("collections.OrderedDict", ""),
                         ("torch\x1b[31m", "FloatStorage"), ("torch", "FloatStorage\0"), ("TORCH", "FloatStorage")]:
        yield "global %r.%r" % (module, name), pkl(HEAD, g(module, name), b")R."), "PKL-GLOBAL"
    for module, name in [("torch.distributed._shard.sharded_tensor.api", "ShardedTensor"), ("torch.distributed.fsdp", "ShardedStateDictConfig"),
                         ("torch.distributed.tensor", "DTensor"), ("torch._utils", "_rebuild_wrapper_subclass"), ("torch.distributed._shard.sharded_tensor.shard", "Shard")]:
        yield "FSDP %s.%s" % (module, name), pkl(HEAD, b"}", s("model"), g(module, name), b")R."), "PKL-SHARD"
    yield "global without end", pkl(HEAD, b"cos"), "PKL-GLOBAL"
    yield "global without name", pkl(HEAD, b"cos\nsystem"), "PKL-GLOBAL"
    yield "global of 300 bytes", pkl(HEAD, g("a" * 300, "b"), b")R."), "PKL-GLOBAL"


def call_cases():
    od = g("collections", "OrderedDict")
    v2 = g("torch._utils", "_rebuild_tensor_v2")
    yield "OrderedDict with parts", pkl(HEAD, od, t(i(1)), b"R."), "PKL-CALL"
    yield "Counter of nothing", pkl(HEAD, g("collections", "Counter"), b")R."), "PKL-CALL"
    yield "Counter of a list", pkl(HEAD, g("collections", "Counter"), b"]\x85R."), "PKL-CALL"
    yield "BUILD on a Counter", pkl(HEAD, g("collections", "Counter"), b"}\x85R}", s("_metadata"), ORDERED, b"sb."), "PKL-CALL"
    kind, args = g("torch._tensor", "_rebuild_from_type_v2"), t(storage_id(), i(0), t(i(4)), t(i(1)), b"\x89", ORDERED)
    tensor = g("torch", "Tensor")
    yield "call of Tensor", pkl(HEAD, tensor, b")R."), "PKL-CALL"
    yield "typed tensor of 3 parts", pkl(HEAD, kind, t(v2, tensor, args), b"R."), "PKL-CALL"
    yield "typed tensor of another function", pkl(HEAD, kind, t(od, tensor, b")", b"}"), b"R."), "PKL-CALL"
    yield "typed tensor of itself", pkl(HEAD, kind, t(kind, tensor, t(v2, tensor, args, b"}"), b"}"), b"R."), "PKL-CALL"
    yield "typed tensor of another type", pkl(HEAD, kind, t(v2, od, args, b"}"), b"R."), "PKL-CALL"
    yield "typed tensor of a list", pkl(HEAD, kind, t(v2, tensor, b"]", b"}"), b"R."), "PKL-CALL"
    yield "typed tensor beyond storage", pkl(HEAD, kind, t(v2, tensor, t(storage_id(), i(1), t(i(4)), t(i(1)), b"\x89", ORDERED), b"}"), b"R."), "PKL-TENSOR"
    yield "call of a string", pkl(HEAD, s("os"), b")R."), "PKL-CALL"
    yield "call with a list", pkl(HEAD, od, b"]R."), "PKL-CALL"
    yield "call of a storage type", pkl(HEAD, g("torch", "FloatStorage"), b")R."), "PKL-CALL"
    yield "tensor of no parts", pkl(HEAD, v2, b")R."), "PKL-CALL"
    yield "tensor of 8 parts", pkl(HEAD, v2, t(*[i(1)] * 8), b"R."), "PKL-CALL"
    yield "tensor of ints", pkl(HEAD, v2, t(*[i(1)] * 6), b"R."), "PKL-TENSOR"
    yield "tensor of a tensor", dict_op(s("a"), tensor_op(storage=tensor_op())), "PKL-TENSOR"
    yield "tensor with hooks", dict_op(s("a"), tensor_op(tail=b"\x89" + ORDERED + i(1) + i(2) + b"s")), "PKL-CALL"
    yield "tensor with int flag", dict_op(s("a"), tensor_op(tail=i(0) + ORDERED)), "PKL-CALL"
    yield "tensor to be conjugated", dict_op(s("a"), tensor_op(tail=b"\x89" + ORDERED + b"}" + s("conj") + b"\x88s")), "PKL-CALL"
    yield "parameter of a string", pkl(HEAD, g("torch._utils", "_rebuild_parameter"), t(s("a"), b"\x88", ORDERED), b"R."), "PKL-CALL"
    yield "parameter of two parts", pkl(HEAD, g("torch._utils", "_rebuild_parameter"), t(s("a"), b"\x88"), b"R."), "PKL-CALL"
    yield "Size of an int", pkl(HEAD, g("torch", "Size"), t(i(1)), b"R."), "PKL-CALL"
    yield "device of an int", pkl(HEAD, g("torch", "device"), t(i(1)), b"R."), "PKL-CALL"
    yield "BUILD on a dict", pkl(HEAD, b"}}", s("_metadata"), ORDERED, b"sb."), "PKL-CALL"
    yield "BUILD with other state", pkl(HEAD, ORDERED, b"}", s("__dict__"), ORDERED, b"sb."), "PKL-CALL"
    yield "BUILD with a tuple", pkl(HEAD, ORDERED, b")b."), "PKL-CALL"
    yield "BUILD on a tensor", dict_op(s("a"), tensor_op(), b"}b"), "PKL-CALL"
    yield "BUILD on nothing", pkl(HEAD, b"}b."), "PKL-STACK"


def machine_cases():
    yield "protocol 0", pkl(b"(dp0\n."), "PKL-PROTO"
    for version in (0, 1, 3, 4, 5, 255):
        yield "protocol %d" % version, pkl(b"\x80", bytes([version]), b"}."), "PKL-PROTO"
    yield "protocol twice", pkl(HEAD, HEAD, b"}."), "PKL-PROTO"
    yield "empty pickle", pkl(b""), "PKL-PROTO"
    yield "protocol alone", pkl(HEAD), "PKL-TRUNCATED"
    whole = dict_op(s("a"), tensor_op())
    for cut in range(2, len(whole) - 1, 7):
        yield "cut at %d" % cut, pkl(whole[:cut]), ("PKL-TRUNCATED", "PKL-GLOBAL", "PKL-STACK")
    yield "STOP on nothing", pkl(HEAD, b"."), "PKL-STACK"
    yield "STOP on two", pkl(HEAD, b"NN."), "PKL-STACK"
    yield "STOP in a mark", pkl(HEAD, b"}(."), "PKL-STACK"
    yield "bytes after STOP", pkl(dict_op(s("a"), tensor_op()), b"cos\nsystem\n)R."), "PKL-TRAILING"
    yield "second pickle", pkl(dict_op(s("a"), tensor_op()), dict_op()), "PKL-TRAILING"
    yield "tuple without mark", pkl(HEAD, b"t."), "PKL-STACK"
    yield "tuple across a mark", pkl(HEAD, b"N(\x85."), "PKL-STACK"
    yield "REDUCE across a mark", pkl(HEAD, g("collections", "OrderedDict"), b")(R."), "PKL-STACK"
    yield "SETITEMS without container", pkl(HEAD, b"(u."), "PKL-STACK"
    yield "SETITEMS of odd number", pkl(HEAD, b"}(", s("a"), b"u."), "PKL-STACK"
    yield "SETITEM on two", pkl(HEAD, b"}N" b"s."), "PKL-STACK"
    yield "SETITEM on a list", pkl(HEAD, b"]", s("a"), b"Ns."), "PKL-TYPE"
    yield "SETITEMS on a tuple", pkl(HEAD, b")(", s("a"), b"Nu."), "PKL-TYPE"
    yield "APPEND to a dict", pkl(HEAD, b"}Na."), "PKL-TYPE"
    yield "APPENDS to a string", pkl(HEAD, s("a"), b"(Ne."), "PKL-TYPE"
    yield "key of a tuple", pkl(HEAD, b"}(", b")N", b"u."), "PKL-KEY"
    yield "key of a tensor", pkl(HEAD, b"}(", tensor_op(), b"Nu."), "PKL-KEY"
    yield "key twice", dict_op(s("a"), tensor_op(), s("a"), tensor_op()), "PKL-DUPLICATE"
    yield "memo not set", pkl(HEAD, b"h\0."), "PKL-MEMO"
    yield "memo with a gap", pkl(HEAD, b"}q\1."), "PKL-MEMO"
    yield "memo of 4 billion", pkl(HEAD, b"}r\xff\xff\xff\xff."), "PKL-MEMO"
    yield "memo far", pkl(HEAD, b"}q\0j\0\0\0\x80."), "PKL-MEMO"
    yield "PUT on nothing", pkl(HEAD, b"q\0."), "PKL-STACK"
    yield "list in itself", pkl(HEAD, b"]q\0h\0a."), "PKL-CYCLE"
    yield "dict in itself", pkl(HEAD, b"}q\0", s("a"), b"h\0s."), "PKL-CYCLE"
    yield "cycle of two", pkl(HEAD, b"]q\0]q\1h\0ah\1a."), ("PKL-CYCLE", "PKL-STACK")
    yield "cycle below", pkl(HEAD, b"}", s("a"), b"]q\0]q\1h\0aas."), "PKL-CYCLE"
    yield "65 levels", pkl(HEAD, b")" + b"\x85" * 64, b"."), "PKL-DEPTH"
    yield "a million levels of tuples", pkl(HEAD, b")" + b"\x85" * 500000, b"."), "PKL-DEPTH"
    laughs = b")q\0" + b"".join((b"h" + bytes([n])) * 3 + b"\x87q" + bytes([n + 1]) for n in range(70))
    yield "laughs of 3^70", pkl(HEAD, b"(", laughs, b"t."), "PKL-DEPTH"
    yield "1001 marks", pkl(HEAD, b"(" * 1001), "PKL-DEPTH"
    yield "too many opcodes", pkl(HEAD, b"N" * (1 << 20)), "PKL-LARGE"
    yield "LONG1 of 9 bytes", pkl(HEAD, b"\x8a\x09" + b"\1" * 9 + b"."), "PKL-LONG"
    yield "LONG1 of 255 bytes", pkl(HEAD, b"\x8a\xff" + b"\1" * 255 + b"."), "PKL-LONG"
    yield "string longer than the file", pkl(HEAD, b"X\xff\xff\xff\xffabc."), "PKL-TRUNCATED"
    yield "string that is no UTF-8", pkl(HEAD, s(b"\xff\xfe"), b"."), "PKL-UTF8"
    yield "string of a surrogate", pkl(HEAD, s(b"\xed\xa0\x80"), b"."), "PKL-UTF8"
    yield "name that turns the terminal", dict_op(s("a\x1b[2J"), tensor_op()), "NAME-BAD"
    yield "keys that turn the terminal", dict_op(s("a\x1b[2J"), i(1), s("b\u202e"), i(1)), "PTH-LAYOUT"


def storage_cases():
    def bad(storage):
        return pth_of(pkl=dict_op(s("a"), tensor_op(storage=storage)))

    def id_of(*parts):
        return t(*parts) + b"Q"

    fs = g("torch", "FloatStorage")
    yield "storage id that is a string", bad(s("0") + b"Q"), "PKL-STORAGE"
    yield "storage id of 4", bad(id_of(s("storage"), fs, s("0"), s("cpu"))), "PKL-STORAGE"
    yield "storage id of 6", bad(id_of(s("storage"), fs, s("0"), s("cpu"), i(4), b"N")), "PKL-STORAGE"
    yield "storage tag 'module'", bad(storage_id(tag="module")), "PKL-STORAGE"
    yield "storage type OrderedDict", bad(id_of(s("storage"), g("collections", "OrderedDict"), s("0"), s("cpu"), i(4))), "PKL-STORAGE"
    yield "storage key int", bad(id_of(s("storage"), fs, i(0), s("cpu"), i(4))), "PKL-STORAGE"
    for key in ("", "../0", "0/0", "00", "-1", "1e3", "a", "9" * 20, "0\x00"):
        yield "storage key %r" % key, bad(storage_id(key=key)), "PKL-STORAGE"
    yield "storage of -1", bad(id_of(s("storage"), fs, s("0"), s("cpu"), i(-1))), "PKL-STORAGE"
    yield "storage without entry", bad(storage_id(key="7")), "PTH-STORAGE"
    yield "storage shorter than its entry", bad(storage_id(numel=5)), "PTH-STORAGE"
    yield "storage longer than its entry", pth_of(pkl=dict_op(s("a"), tensor_op(storage=storage_id(numel=3), shape=(3,)))), "PTH-STORAGE"
    yield "storage whose size wraps", bad(storage_id(numel=2 ** 62 + 4)), "PTH-STORAGE"
    yield "storage of another width", bad(storage_id(cls="DoubleStorage")), "PTH-STORAGE"
    yield "storage of two types", pth_of(pkl=dict_op(s("a"), tensor_op(), s("b"), tensor_op(storage=storage_id(cls="IntStorage")))), "PTH-STORAGE"
    yield "storage of two sizes", pth_of(pkl=dict_op(s("a"), tensor_op(), s("b"), tensor_op(storage=storage_id(numel=2), shape=(2,)))), "PTH-STORAGE"


def tensor_cases():
    def bad(**view):
        return pth_of(pkl=dict_op(s("a"), tensor_op(**view)))

    yield "tensor beyond storage", bad(shape=(5,)), "PKL-TENSOR"
    yield "tensor offset beyond storage", bad(offset=1), "PKL-TENSOR"
    yield "tensor offset huge", bad(offset=2 ** 62), "PKL-TENSOR"
    yield "tensor offset negative", bad(offset=-1), "PKL-TENSOR"
    yield "tensor size negative", bad(shape=(-4,)), "PKL-TENSOR"
    yield "tensor stride negative", bad(stride=(-1,)), "PKL-TENSOR"
    yield "tensor stride beyond", bad(shape=(2,), stride=(4,)), "PKL-TENSOR"
    yield "tensor stride wraps", bad(shape=(3,), stride=(2 ** 63 - 1,)), "PKL-TENSOR"
    yield "tensor size wraps", bad(shape=(2 ** 32, 2 ** 32), stride=(0, 0)), "PKL-TENSOR"
    yield "tensor size and stride wrap", bad(shape=(2 ** 33 + 1, 1), stride=(2 ** 31, 1)), "PKL-TENSOR"
    yield "tensor of rank 9", bad(shape=(1,) * 9, stride=(1,) * 9), "PKL-TENSOR"
    yield "tensor with fewer strides", bad(shape=(2, 2), stride=(1,)), "PKL-TENSOR"
    yield "tensor shape a list", dict_op(s("a"), g("torch._utils", "_rebuild_tensor_v2") + b"(" + storage_id() + i(0) + b"]" + b")" +
                                         b"\x89" + ORDERED + b"tR"), "PKL-TENSOR"
    yield "tensor empty, offset beyond", bad(offset=5, shape=(0,)), "PKL-TENSOR"
    yield "tensor of 2^40 from one element", pth_of(pkl=dict_op(s("a"), tensor_op(storage=storage_id(numel=1), shape=(2 ** 40,), stride=(0,))),
                                                    data={"0": b"\0" * 4}), "PTH-LARGE"
    many = b"".join(s("t%d" % n) + tensor_op(storage=storage_id(numel=1024), shape=(64, 1024), stride=(0, 1)) for n in range(40))
    yield "many expanded tensors", pth_of(pkl=dict_op(many), data={"0": b"\0" * 4096}), "PTH-LARGE"


def layout_cases():
    good = model(depth=1)
    yield "pickle of a list", pkl(HEAD, b"]."), "PTH-LAYOUT"
    yield "pickle of a tensor", pkl(HEAD, tensor_op(), b"."), "PTH-LAYOUT"
    yield "tensor under an int", dict_op(i(0), tensor_op()), "PTH-LAYOUT"
    yield "tensors in a list", dict_op(s("a"), b"](", tensor_op(), tensor_op(), b"e"), "PTH-LAYOUT"
    yield "tensors in a tuple", dict_op(s("a"), tensor_op() + b"\x85"), "PTH-LAYOUT"
    yield "tensor below an int", dict_op(s("state"), b"}" + i(0) + b"}" + s("exp_avg") + tensor_op() + b"ss"), "PTH-LAYOUT"
    yield "dicts of settings", dict_op(s("model"), b"}" + s("lr") + b"Ns", s("x"), b"N"), "PTH-LAYOUT"
    yield "no dict of tensors, 63 deep", pkl(HEAD, b"}", b"".join(s("a") + b"}" for _ in range(62)), b"s" * 62, b"."), "PTH-LAYOUT"
    yield "dicts 65 deep", pkl(HEAD, b"}", b"".join(s("a") + b"}" for _ in range(64)), b"s" * 64, b"."), "PKL-DEPTH"
    yield "one name on two paths", dict_op(s("a.b"), tensor_op(), s("a"), b"}" + s("b") + tensor_op() + b"s"), "PTH-DUPLICATE"
    yield "one name on two paths, dots", dict_op(s("a."), b"}" + s("b") + tensor_op() + b"s", s("a"), b"}" + s(".b") + tensor_op() + b"s"), "PTH-DUPLICATE"
    yield "name of 1025 bytes on a path", dict_op(s("a" * 512), b"}" + s("b" * 512) + tensor_op() + b"s"), "NAME-BAD"
    yield "dict's name of 1025 bytes", dict_op(s("a" * 1025), b"}" + s("b") + tensor_op() + b"s"), "NAME-BAD"
    yield "name not printable on a path", dict_op(s("a\n"), b"}" + s("b") + tensor_op() + b"s"), "NAME-BAD"

    def doubled(leaf, a="a", b="b", levels=40):
        """Dicts that share dicts: 2^40 paths."""
        pairs = [s("0") + leaf + b"r\0\0\0\0"]
        for n in range(levels):
            below = b"j" + struct.pack("<I", n)
            pairs.append(s(str(n + 1)) + b"}r" + struct.pack("<I", n + 1) + b"(" + s(a) + below + s(b) + below + b"u")
        return dict_op(*pairs)

    leaf = b"}" + s("t") + tensor_op() + b"s"
    yield "2^40 paths to empty dicts", doubled(b"}"), "PKL-LARGE"
    yield "2^40 paths to a tensor", doubled(leaf), "NAME-COUNT"
    yield "2^20 paths of 1,000 bytes to a tensor", doubled(leaf, "a" * 48, "b" * 48, 20), "NAME-COUNT"
    yield "2^40 paths of 4,000 bytes to a tensor", doubled(leaf, "a" * 98, "b" * 98), ("NAME-BAD", "NAME-COUNT")
    yield "name empty", dict_op(s(""), tensor_op()), "NAME-BAD"
    yield "name of 1025 bytes", dict_op(s("a" * 1025), tensor_op()), "NAME-BAD"
    yield "no tensors", dict_op(), "PTH-LAYOUT"
    yield "other names", dict_op(s("conv1.weight"), tensor_op()), "NAMES-UNKNOWN"


def zip_cases():
    e = pth_entries(pkl=dict_op(s("a"), tensor_op()))

    def with_entry(index, **over):
        out = pth_entries(pkl=dict_op(s("a"), tensor_op()))
        out[index].over.update(over)
        return out

    z = zip_of(e)
    yield "bytes before the zip", b"#!/bin/sh\n" + z, ("SRC-UNKNOWN",)
    yield "a zip header before the zip", b"PK\3\4" + z, ("ZIP-ZIP64", "ZIP-DIRECTORY", "ZIP-LOCAL", "ZIP-MAGIC")
    yield "self-extractor with right offsets", zip_of(e, before=b"MZ" + b"\0" * 62), ("SRC-UNKNOWN",)
    yield "first entry later, in zip clothes", zip_of(e, before=b"PK\3\4" + b"\0" * 60), "ZIP-MAGIC"
    yield "byte after the end", z + b"\0", "ZIP-END"
    yield "zip after the zip", z + z, ("ZIP-ZIP64", "ZIP-DIRECTORY", "ZIP-MAGIC")
    yield "comment", zip_of(e, end={"comment": b"hello"}), "ZIP-END"
    for cut in (4, 30, 100, len(z) // 2, len(z) - 23, len(z) - 1):
        yield "zip cut at %d" % cut, z[:cut], "ZIP-END"
    yield "empty zip", zip_of([]), ("SRC-UNKNOWN",)
    yield "volumes", zip_of(e, end={"disk": 1}), "ZIP-END"
    yield "count too small", zip_of(e, end={"here": 3, "count": 3}, end64={"here": 3, "count": 3}), "ZIP-DIRECTORY"
    yield "count too large", zip_of(e, end={"here": 99, "count": 99}, end64={"here": 99, "count": 99}), "ZIP-DIRECTORY"
    yield "count of 2^63", zip_of(e, end={"here": 65535, "count": 65535}, end64={"here": 2 ** 63, "count": 2 ** 63}), "ZIP-DIRECTORY"
    big = zip_of([Entry("data/0", b"\0" * (46 * 140000))])
    whole = len(big) - 98
    yield "140,000 entries", zip_of([Entry("data/0", b"\0" * (46 * 140000))], end={"here": 65535, "count": 65535, "offset": 0, "size": whole},
                                    end64={"here": 140000, "count": 140000, "offset": 0, "size": whole}), "ZIP-COUNT"
    yield "counts that disagree", zip_of(e, end64={"count": 3}), "ZIP-ZIP64"
    yield "end records that disagree", zip_of(e, end={"offset": 0}), "ZIP-ZIP64"
    yield "directory wraps", zip_of(e, end={"size": 2 ** 32 - 1, "offset": 2 ** 32 - 1}, end64={"size": 2 ** 64 - 8, "offset": 2 ** 64 - 8}), "ZIP-DIRECTORY"
    yield "zip64 end elsewhere", zip_of(e, end64={"at": 0}), "ZIP-ZIP64"
    yield "zip64 end of another length", zip_of(e, end64={"record": 60}), "ZIP-ZIP64"
    yield "zip64 on many disks", zip_of(e, end64={"disks": 2}), "ZIP-ZIP64"
    yield "saturated without zip64", zip_of(e, zip64=False, end={"here": 65535, "count": 65535}), "ZIP-ZIP64"
    yield "gap before the directory", zip_of(with_entry(-1, gap=b"\0" * 7)), "ZIP-DESCRIPTOR"
    yield "gap between entries", zip_of(with_entry(2, gap=b"hidden!")), "ZIP-DESCRIPTOR"
    yield "two entries over one", zip_of(with_entry(3, c_header=0, c_name=b"archive/data.pkl2")), ("ZIP-LOCAL", "ZIP-OVERLAP")
    at = zip_of(e[:5]).rfind(b"PK\3\4")
    yield "one local header named twice", zip_of(e + [Entry("data/0", KIB, c_header=at)]), "ZIP-OVERLAP"
    inner = zip_of([Entry("data/5", KIB)], align=0)[:30 + 14 + 16 + 16]
    outer = pth_entries(pkl=dict_op(s("a"), tensor_op()), data={"9": inner})
    at = zip_of(outer[:5]).find(inner)
    yield "an entry inside another's bytes", zip_of(outer + [Entry("data/5", KIB, c_header=at)]), "ZIP-OVERLAP"
    loose = pth_entries(pkl=dict_op(s("a"), tensor_op()))
    loose[4].flags = 0x0800
    loose[4].over["gap"] = b"hidden!"
    yield "bytes between entries without descriptor", zip_of(loose), "ZIP-OVERLAP"
    yield "entry in the directory", zip_of(with_entry(4, c_header=len(z) - 200)), "ZIP-LOCAL"
    yield "entry beyond the file", zip_of(with_entry(4, c_header=2 ** 31)), "ZIP-LOCAL"
    yield "entry larger than the file", zip_of(with_entry(4, c_packed=2 ** 31, c_size=2 ** 31)), "ZIP-LOCAL"
    yield "entry longer by one", zip_of(with_entry(4, c_packed=17, c_size=17)), ("ZIP-OVERLAP", "ZIP-DESCRIPTOR")
    yield "entry shorter by one", zip_of(with_entry(4, c_packed=15, c_size=15)), "ZIP-DESCRIPTOR"
    yield "name twice", zip_of(e + [Entry("data/0", KIB)]), "ZIP-DUPLICATE"
    yield "names that differ", zip_of(with_entry(4, l_name=b"archive/data/1")), "ZIP-LOCAL"
    yield "flags that differ", zip_of(with_entry(4, l_flags=0)), "ZIP-LOCAL"
    yield "methods that differ", zip_of(with_entry(4, l_method=8)), "ZIP-LOCAL"
    yield "local size that differs", zip_of(with_entry(4, l_size=15)), "ZIP-LOCAL"
    yield "local CRC that differs", zip_of(with_entry(4, l_crc=1)), "ZIP-LOCAL"
    yield "local magic wrong", zip_of(with_entry(4, l_magic=0x04034b51)), "ZIP-LOCAL"
    yield "descriptor wrong", zip_of(with_entry(4, descriptor=b"PK\7\x08" + b"\1" * 12)), "ZIP-DESCRIPTOR"
    yield "descriptor missing", zip_of(with_entry(4, descriptor=b"")), ("ZIP-DESCRIPTOR", "ZIP-OVERLAP")
    yield "local extra beyond its space", zip_of(with_entry(4, l_extra=b"FB\xff\0" + b"Z" * 8)), "ZIP-LOCAL"
    yield "local zip64 that lies", zip_of(with_entry(4, l_extra=struct.pack("<HHQQ", 1, 16, 99, 99))), "ZIP-LOCAL"
    yield "local zip64 twice", zip_of(with_entry(4, l_extra=struct.pack("<HHQQ", 1, 16, 16, 0) * 2)), "ZIP-LOCAL"
    yield "central zip64 too long", zip_of(with_entry(4, c_extra=struct.pack("<HHQ", 1, 8, 16))), "ZIP-ZIP64"
    yield "central zip64 missing", zip_of(with_entry(4, c_packed=2 ** 32 - 1, c_size=2 ** 32 - 1)), "ZIP-ZIP64"
    yield "central zip64 wraps", zip_of(with_entry(4, c_packed=2 ** 32 - 1, c_size=2 ** 32 - 1,
                                                   c_extra=struct.pack("<HHQQ", 1, 16, 2 ** 64 - 1, 2 ** 64 - 1))), "ZIP-LOCAL"
    yield "central extra beyond its space", zip_of(with_entry(4, c_extra=b"AB\xff\0")), "ZIP-DIRECTORY"
    yield "on another disk", zip_of(with_entry(4, c_disk=1)), "ZIP-DIRECTORY"
    yield "encrypted", zip_of(with_entry(4, c_flags=0x809, l_flags=0x809)), "ZIP-FLAGS"
    yield "patched", zip_of(with_entry(4, c_flags=0x828, l_flags=0x828)), "ZIP-FLAGS"
    for method in (1, 9, 12, 14, 93, 95, 99):
        yield "method %d" % method, zip_of(with_entry(4, c_method=method, l_method=method)), "ZIP-METHOD"
    yield "stored with two sizes", zip_of(with_entry(4, c_size=99)), "ZIP-DIRECTORY"
    yield "no prefix", zip_of(e, prefix=None), "ZIP-PREFIX"
    yield "two prefixes", zip_of(with_entry(4, c_name=b"brchive/data/0", l_name=b"brchive/data/0")), "ZIP-PREFIX"
    yield "name with NUL", zip_of(with_entry(4, c_name=b"archive/data/0\0x", l_name=b"archive/data/0\0x")), "ZIP-NAME"
    yield "name of 5000 bytes", zip_of(e + [Entry("n" * 5000, b"")]), "ZIP-NAME"
    yield "wrong CRC in data", zip_of(with_entry(4, crc=1)), "ZIP-CRC"
    yield "wrong CRC in the pickle", zip_of(with_entry(0, crc=1)), "ZIP-CRC"
    zero = with_entry(4, crc=0)
    yield "one CRC of zero", zip_of(zero), "ZIP-CRC"
    flipped = bytearray(z)
    at = flipped.find(b"archive/data/0") + 14
    at += 4 + struct.unpack("<H", flipped[at + 2:at + 4])[0]
    flipped[at] ^= 1
    yield "one bit of a weight", bytes(flipped), "ZIP-CRC"

    def deflated(raw, **over):
        out = pth_entries(pkl=dict_op(s("a"), tensor_op(storage=storage_id(numel=len(raw) // 4), shape=(len(raw) // 4,))), data={})
        out.insert(4, Entry("data/0", raw, method=8, **over))
        return zip_of(out)

    yield "a bomb of 64 MiB", deflated(b"\0" * (64 << 20)), "ZIP-BOMB"
    yield "a bomb that names itself small", deflated(b"\0" * (1 << 20), c_size=64, l_size=64,
                                                     descriptor=struct.pack("<IIII", 0x08074b50, zlib.crc32(b"\0" * (1 << 20)), 1040, 64)), \
        ("ZIP-INFLATE", "ZIP-DESCRIPTOR", "PTH-STORAGE")
    small = deflated(b"abcd" * 64)
    broken = bytearray(small)
    at = broken.find(b"archive/data/0") + 14
    at += 4 + struct.unpack("<H", broken[at + 2:at + 4])[0]
    broken[at] ^= 0xff
    yield "damaged deflate", bytes(broken), ("ZIP-INFLATE", "ZIP-CRC")
    two = pth_entries(pkl=dict_op(s("a"), tensor_op()), data={})
    bomb = [Entry("data/%d" % n, b"\0" * (1 << 20), method=8) for n in range(8)]
    yield "eight entries that unpack to more than the file allows", zip_of(two + bomb), "ZIP-BOMB"


def record_cases():
    p = dict_op(s("a"), tensor_op())
    yield "no data.pkl", zip_of([Entry("version", b"3\n"), Entry("data/0", KIB)]), "PTH-NO-PICKLE"
    yield "a zip of pictures", zip_of([Entry("a.jpg", b"x")], prefix="photos"), "PTH-VERSION"
    yield "an xlsx", zip_of([Entry("[Content_Types].xml", b"<xml/>"), Entry("xl/workbook.xml", b"<xml/>")], prefix=None), "ZIP-PREFIX"
    yield "TorchScript", pth_of(pkl=p, extra=[Entry("constants.pkl", b"\x80\x02)."), Entry("code/__torch__.py", b"x")]), "PTH-TORCHSCRIPT"
    yield "no version", pth_of(pkl=p, version=None), "PTH-VERSION"
    for version in (b"", b"0\n", b"11\n", b"3.0\n", b"99999999999\n", b"x", b"3\n\n"):
        yield "version %r" % version, pth_of(pkl=p, version=version), "PTH-VERSION"
    yield "big-endian", pth_of(pkl=p, byteorder=b"big"), "PTH-BYTEORDER"
    yield "byte order unknown", pth_of(pkl=p, byteorder=b"middle"), "PTH-BYTEORDER"


def foreign_cases():
    yield "bare pickle of a long number", b"\x80\x02\x8a\x0a" + b"\1" * 10 + b".", "SRC-PICKLE"
    yield "legacy magic cut", LEGACY_MAGIC[:14], "SRC-PICKLE"
    yield "legacy magic, one bit off", LEGACY_MAGIC[:8] + b"\xf8" + LEGACY_MAGIC[9:] + b"\x80\x02M\xe9\x03.", "SRC-PICKLE"
    yield "bare pickle", pickle.dumps({"a": 1}, 2), "SRC-PICKLE"
    yield "bare pickle that would run", b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R.", "SRC-PICKLE"
    yield "tar", b"storages" + b"\0" * 249 + b"ustar\x0000" + b"\0" * 248, "SRC-TAR"
    yield "preview", b"PYTORCH1" + b"\0" * 64, "SRC-PREVIEW"
    yield "GGUF", b"GGUF\3\0\0\0" + b"\0" * 64, "SRC-GGUF"
    yield "numpy", b"\x93NUMPY\1\0" + b"\0" * 64, "SRC-NUMPY"
    yield "HDF5", b"\x89HDF\r\n\x1a\n" + b"\0" * 64, "SRC-HDF5"
    yield "gzip", b"\x1f\x8b\x08" + b"\0" * 64, "SRC-ARCHIVE"
    yield "zstd", b"\x28\xb5\x2f\xfd" + b"\0" * 64, "SRC-ARCHIVE"
    yield "xz", b"\xfd7zXZ\0" + b"\0" * 64, "SRC-ARCHIVE"
    yield "7z", b"7z\xbc\xaf\x27\x1c" + b"\0" * 64, "SRC-ARCHIVE"
    yield "git-lfs pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "SRC-LFS"
    yield "web page", b"<!DOCTYPE html><html></html>", "SRC-WEBPAGE"
    yield "empty", b"", "SRC-EMPTY"
    yield "text", b"hello, these are no weights at all", "SRC-UNKNOWN"
    yield "random", bytes(random.Random(1).randrange(256) for _ in range(4096)), "SRC-UNKNOWN"


def legacy_cases():
    def id_of(key="0", numel=4, more=b"N", **rest):
        return storage_id(key, numel, more=more, **rest)

    def one(**how):
        return dict_op(s("a"), tensor_op(storage=id_of(**how)))

    def bad(pkl=None, **how):
        return legacy_of(pkl=pkl or one(), **how)

    def view(*parts):
        return one(more=t(*parts))

    good = bad()
    object_at = good.index(one())
    yield "legacy magic alone", LEGACY_MAGIC, "PKL-PROTO"
    for cut in range(len(LEGACY_MAGIC) + 1, len(good), 11):
        yield "legacy cut at %d" % cut, good[:cut], ("PKL-PROTO", "PKL-TRUNCATED", "PKL-GLOBAL", "PKL-STACK", "PTH-END")
    yield "legacy cut by one", good[:-1], "PTH-END"
    yield "legacy with a byte behind", good + b"\0", "PTH-END"
    yield "legacy twice", good + good, "PTH-END"
    yield "legacy with a zip behind", good + pth_of(pkl=dict_op(s("a"), tensor_op())), "PTH-END"
    yield "legacy in a zip", zip_of([Entry("data.pkl", good), Entry("version", b"3\n")]), "PKL-LONG"
    for version in (1000, 1002, -1001, 2 ** 40, "1001", [1001], None):
        yield "legacy version %r" % (version,), bad(version=version), "PTH-HEADER"
    yield "legacy version of 1 MiB", bad(version=b"\x80\x02" + s("x" * (1 << 20)) + b"."), "PKL-TRUNCATED"
    yield "legacy machine a list", bad(machine=[]), "PTH-HEADER"
    yield "legacy machine empty", bad(machine={}), "PTH-HEADER"
    yield "legacy machine with 1 for true", bad(machine=dict(LEGACY_MACHINE, little_endian=1)), "PTH-HEADER"
    yield "legacy machine big-endian", bad(machine=dict(LEGACY_MACHINE, little_endian=False)), "PTH-BYTEORDER"
    yield "legacy machine of 600 bytes", bad(machine=dict(LEGACY_MACHINE, more="x" * 600)), "PKL-TRUNCATED"
    yield "legacy machine that would run", bad(machine=b"\x80\x02cos\nsystem\nX\4\0\0\0true\x85R."), "PKL-GLOBAL"
    yield "legacy object that would run", bad(pkl=b"\x80\x02cos\nsystem\nX\4\0\0\0true\x85R."), "PKL-GLOBAL"
    yield "legacy keys that would run", bad(keys=b"\x80\x02cos\nsystem\nX\4\0\0\0true\x85R."), "PKL-GLOBAL"
    yield "legacy module", bad(pkl=one(tag="module")), "PKL-STORAGE"
    yield "legacy storage of five parts", bad(pkl=dict_op(s("a"), tensor_op())), "PKL-STORAGE"
    yield "legacy storage of seven parts", bad(pkl=one(more=b"NN")), "PKL-STORAGE"
    yield "legacy view a string", bad(pkl=one(more=s("x"))), "PKL-STORAGE"
    yield "legacy view of two", bad(pkl=view(s("1"), i(0))), "PKL-STORAGE"
    yield "legacy view key an int", bad(pkl=view(i(1), i(0), i(4))), "PKL-STORAGE"
    yield "legacy view beyond", bad(pkl=view(s("1"), i(1), i(4))), "PKL-STORAGE"
    yield "legacy view offset beyond", bad(pkl=view(s("1"), i(5), i(0))), "PKL-STORAGE"
    yield "legacy view negative", bad(pkl=view(s("1"), i(-1), i(4))), "PKL-STORAGE"
    yield "legacy view of -1", bad(pkl=view(s("1"), i(0), i(-1))), "PKL-STORAGE"
    yield "legacy view that wraps", bad(pkl=view(s("1"), i(1), i(2 ** 63 - 1))), "PKL-STORAGE"
    yield "legacy tensor beyond its view", bad(pkl=view(s("1"), i(0), i(3))), "PKL-TENSOR"
    yield "legacy tensor beyond storage", bad(pkl=dict_op(s("a"), tensor_op(storage=id_of(), shape=(5,)))), "PKL-TENSOR"
    yield "legacy keys a dict", bad(keys={"0": 1}), "PTH-KEYS"
    yield "legacy keys a tuple", bad(keys=("0",)), "PTH-KEYS"
    yield "legacy keys missing", bad(keys=[]), "PTH-KEYS"
    yield "legacy keys one more", bad(keys=["0", "1"]), "PTH-KEYS"
    yield "legacy keys another", bad(keys=["1"]), "PTH-KEYS"
    yield "legacy keys an int", bad(keys=[0]), "PTH-KEYS"
    yield "legacy keys a longer one", bad(keys=["0" * 30]), "PTH-KEYS"
    yield "legacy keys empty", bad(keys=[""]), "PTH-KEYS"
    two = dict_op(s("a"), tensor_op(storage=id_of()), s("b"), tensor_op(storage=id_of("1")))
    data = {"0": (4, KIB), "1": (4, KIB)}
    yield "legacy keys one twice", bad(pkl=two, data=data, keys=["0", "0"]), "PTH-KEYS"
    yield "legacy storage of two types", bad(pkl=dict_op(s("a"), tensor_op(storage=id_of()), s("b"), tensor_op(storage=id_of(cls="IntStorage")))), "PTH-STORAGE"
    for count in (0, 3, 5, 16, 2 ** 62 + 4, 2 ** 64 - 1):
        yield "legacy storage that says %d" % count, bad(counts={"0": count}), "PTH-STORAGE"
    yield "legacy storage larger than the file", bad(pkl=one(numel=2 ** 40), counts={"0": 2 ** 40}), "PTH-END"
    yield "legacy storage whose size wraps", bad(pkl=one(numel=2 ** 62 + 4), counts={"0": 2 ** 62 + 4}), "PTH-END"
    yield "legacy tensor of 2^40 from one element", bad(
        pkl=dict_op(s("a"), tensor_op(storage=id_of(numel=1), shape=(2 ** 40,), stride=(0,))), data={"0": (1, b"\0" * 4)}), "PTH-LARGE"
    yield "legacy of no tensors", bad(pkl=dict_op(), data={}), "PTH-LAYOUT"
    yield "legacy with pickle of a list", bad(pkl=HEAD + b"].", data={}), "PTH-LAYOUT"
    deep = HEAD + b"]" * 66 + b"a" * 65 + b"."
    yield "legacy object 66 deep", good[:object_at] + deep + good[object_at:], "PKL-DEPTH"
    yield "legacy object of many opcodes", good[:object_at] + HEAD + b"N" * (1 << 20), "PKL-LARGE"
    yield "legacy of other names", good, "NAMES-UNKNOWN"


def safetensors_cases():
    def one(dtype="F32", shape=(4,), offsets=(0, 16), data=KIB, **more):
        return st_header({"a": dict({"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}, **more)}, data)

    def raw(text, data=KIB):
        return st_header(text if isinstance(text, bytes) else text.encode(), data)

    ok = '{"dtype":"F32","shape":[4],"data_offsets":[0,16]}'
    yield "header beyond the file", st_header({}, length=1000), "ST-HEADER"
    yield "header length 2^47", st_header({"a": 1}, length=2 ** 47), ("ST-HEADER", "SRC-UNKNOWN")
    yield "header over the limit", st_header(b"{}" + b" " * 100000001), "ST-LARGE"
    yield "no JSON", raw("{not json}"), "ST-JSON"
    yield "JSON cut", raw('{"a":'), "ST-JSON"
    yield "JSON that is no UTF-8", raw(b'{"\xff":' + ok.encode() + b"}"), "ST-JSON"
    yield "JSON with bytes behind", raw('{"a":%s}x' % ok), "ST-JSON"
    yield "JSON with NUL in a name", raw('{"a\\u0000b":%s}' % ok), "ST-JSON"
    yield "JSON with half a surrogate", raw('{"\\ud800":%s}' % ok), "ST-JSON"
    yield "name twice in JSON", raw('{"a":%s,"a":%s}' % (ok, ok)), "ST-JSON"
    yield "name twice, once escaped", raw('{"a":%s,"\\u0061":%s}' % (ok, ok)), "ST-JSON"
    yield "nesting of 100,000", raw('{"a":' + "[" * 100000 + "]" * 100000 + "}"), "ST-DEPTH"
    yield "many values", raw('{"a":[' + "0," * 1100000 + "0]}"), "ST-LARGE"
    yield "number of 2^64", raw('{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,18446744073709551616]}}'), "ST-JSON"
    yield "entry a list", raw('{"a":[]}'), "ST-ENTRY"
    yield "entry with an extra member", one(extra=1), "ST-ENTRY"
    yield "entry without shape", raw('{"a":{"dtype":"F32","data_offsets":[0,16]}}'), "ST-ENTRY"
    yield "shape of a float", raw('{"a":{"dtype":"F32","shape":[4.0],"data_offsets":[0,16]}}'), "ST-ENTRY"
    yield "shape negative", one(shape=(-4,)), "ST-ENTRY"
    yield "shape of rank 9", one(shape=(1,) * 8 + (4,)), "ST-ENTRY"
    yield "three offsets", one(offsets=(0, 16, 16)), "ST-ENTRY"
    yield "offset negative", one(offsets=(-16, 0)), "ST-ENTRY"
    yield "metadata of ints", raw('{"__metadata__":{"a":1},"a":%s}' % ok), "ST-ENTRY"
    yield "metadata a list", raw('{"__metadata__":[],"a":%s}' % ok), "ST-ENTRY"
    for dtype in ("F8_E4M3", "F4", "U16", "C64", "f32", "", "F32\\u001b[2J"):
        yield "dtype %r" % dtype, raw('{"a":{"dtype":"%s","shape":[4],"data_offsets":[0,16]}}' % dtype), "ST-DTYPE"
    yield "end before begin", one(offsets=(16, 0)), "ST-OFFSETS"
    yield "hole at the start", one(offsets=(4, 20), data=KIB + b"\0" * 4), "ST-OFFSETS"
    yield "overlap", raw('{"a":%s,"b":{"dtype":"F32","shape":[4],"data_offsets":[8,24]}}' % ok, b"\0" * 24), "ST-OFFSETS"
    yield "same bytes twice", raw('{"a":%s,"b":%s}' % (ok, ok)), "ST-OFFSETS"
    yield "hole", raw('{"a":%s,"b":{"dtype":"F32","shape":[4],"data_offsets":[20,36]}}' % ok, b"\0" * 36), "ST-OFFSETS"
    yield "size of another shape", one(shape=(5,)), "ST-SIZE"
    yield "size wraps", one(shape=(2 ** 62, 4)), "ST-SIZE"
    yield "size wraps to right", one(shape=(2 ** 32, 2 ** 32, 4), offsets=(0, 0), data=b""), "ST-SIZE"
    yield "file cut short", one(data=KIB[:-1]), "ST-END"
    yield "byte behind the data", one(data=KIB + b"\0"), "ST-END"
    yield "name of 2000 bytes", raw('{"%s":%s}' % ("n" * 2000, ok)), "NAME-BAD"
    empty = ",".join('"t%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % n for n in range(16100))
    yield "16,100 tensors", raw("{%s}" % empty, b""), "NAME-COUNT"
    for key in ("dinov", "dinov_header"):
        yield "plain with a checkpoint's %s" % key, safetensors_of(model(depth=1), {key: "x"}), "SRC-REWRITTEN"
    yield "name empty in JSON", raw('{"":%s}' % ok), "NAME-BAD"
    yield "name that turns the terminal", raw('{"\\u001b[2J":%s}' % ok), "NAME-BAD"


def model_cases():
    def st(change, **numbers):
        state = model(depth=numbers.pop("depth", 1), **numbers)
        state = change(state) or state
        return safetensors_of(state)

    def renamed(rule):
        return lambda state: OrderedDict((rule(k), v) for k, v in state.items())

    def tensor(*shape):
        return Tensor(Storage(0, "F32", floats(random.Random(2), numel(shape))), shape)

    def put(name, value):
        def change(state):
            state[name] = value
        return change

    def drop(name):
        def change(state):
            del state[name]
        return change

    def pieces(change):
        """Hugging Face's names for block 0's qkv weight, changed."""
        def of(state):
            out = OrderedDict((names.hf_name(k), v) for k, v in state.items())
            names.split(out, "blocks.0.attn.qkv.weight", state["blocks.0.attn.qkv.weight"])
            names.split(out, "blocks.0.attn.qkv.bias", state["blocks.0.attn.qkv.bias"])
            change(out)
            return out
        return of

    query = "encoder.layer.0.attention.attention.%s.weight"
    yield "Hugging Face names of another model", st(renamed(lambda k: "embeddings." + k)), "NAMES-UNKNOWN"
    yield "a key missing", st(pieces(lambda out: out.pop(query % "key"))), "NAMES-PIECES"
    yield "a key of another width", st(pieces(lambda out: out.update({query % "key": tensor(64, 32)}))), "NAMES-PIECES"
    yield "a key of another height", st(pieces(lambda out: out.update({query % "key": tensor(63, 64)}))), "NAMES-PIECES"
    yield "a key of another rank", st(pieces(lambda out: out.update({query % "key": tensor(4096)}))), "NAMES-PIECES"
    yield "a key of another dtype", st(pieces(lambda out: out.update(
        {query % "key": Tensor(Storage(0, "F16", b"\0" * 8192), (64, 64))}))), "NAMES-PIECES"
    yield "a key twice", st(pieces(lambda out: out.update({"encoder.layer.0.attention.k_proj.weight": tensor(64, 64)}))), "NAMES-TWICE"
    yield "qkv of scalars", st(pieces(lambda out: out.update({query % n: tensor() for n in ("query", "key", "value")}))), "NAMES-PIECES"
    yield "two models", st(lambda state: OrderedDict([(p + k, v) for p in ("model.", "module.") for k, v in state.items()])), "NAMES-TWICE"
    yield "hub and Hugging Face names", st(pieces(lambda out: out.update({"cls_token": tensor(1, 1, 64)}))), "NAMES-LEFTOVER"
    yield "one rank's flat shard", st(put("_fsdp_wrapped_module._flat_param", tensor(64))), "NAMES-FLAT"
    yield "flat shard of a newer torch", st(renamed(lambda k: "model.student.backbone._fsdp_wrapped_module.blocks.0.flat_param")), "NAMES-FLAT"
    yield "a chunk twice", st(lambda state: OrderedDict([*state.items(), ("blocks.1.0.norm1.bias", tensor(64))])), "NAMES-TWICE"
    yield "timm positions no square", st(lambda state: names.timm(state) | {"pos_embed": tensor(1, 18, 64)}, registers=4), "MODEL-GRID"
    yield "fc1 of twice fc2, odd", st(put("blocks.0.mlp.fc1.weight", tensor(513, 64))), "MODEL-SHAPE"
    yield "norm with a tail", st(put("norm.weight.x\u202e", tensor(64))), "NAME-BAD"
    yield "norm with a long tail", st(put("norm." + "x" * 900, tensor(64))), "NAMES-LEFTOVER"
    yield "LayerScale in one block", st(put("blocks.1.ls1.gamma", tensor(64)), depth=2, layerscale=False), "MODEL-LEFTOVER"
    yield "mask token of another rank and no class token", st(lambda state: OrderedDict((k, v) for k, v in state.items() if k[1:] != "ls_token")), "MODEL-MISSING"
    yield "no blocks", st(renamed(lambda k: k.replace("blocks.", "layers."))), "MODEL-FFN"
    yield "both FFN kinds", st(put("blocks.0.mlp.w12.weight", tensor(512, 64))), "MODEL-FFN"
    yield "grid no square", st(put("pos_embed", tensor(1, 18, 64))), "MODEL-GRID"
    yield "patch no square", st(put("patch_embed.proj.weight", tensor(64, 3, 14, 16))), "MODEL-SHAPE"
    yield "patch of rank 2", st(put("patch_embed.proj.weight", tensor(64, 588))), "MODEL-SHAPE"
    yield "one tensor missing", st(drop("blocks.0.attn.proj.bias")), "MODEL-MISSING"
    yield "one tensor left over", st(put("heads.weight", tensor(10, 64))), "NAMES-LEFTOVER"
    yield "a block missing", st(renamed(lambda k: k.replace("blocks.0.", "blocks.1."))), ("MODEL-FFN", "MODEL-MISSING")
    yield "block number of 2^40", st(put("blocks.1099511627776.norm1.weight", tensor(64))), "NAMES-LEFTOVER"
    yield "block number of a million", st(put("blocks.1000000.norm1.weight", tensor(64))), "MODEL-NUMBERS"
    yield "one shape wrong", st(put("blocks.0.norm2.weight", tensor(65))), "MODEL-SHAPE"
    yield "width 96 without heads", st(lambda state: None, dim=96), "MODEL-HEADS"
    yield "weights of int64", st(put("norm.bias", Tensor(Storage(0, "I64", b"\0" * 512), (64,)))), "MODEL-DTYPE"
    yield "weights of float64", st(put("norm.bias", Tensor(Storage(0, "F64", b"\0" * 512), (64,)))), "MODEL-DTYPE"


def as_file(raw):
    """Cases that give a bare pickle mean a .pth around it."""
    return pth_of(pkl=raw) if raw[:2] == HEAD and not raw.startswith(LEGACY_MAGIC[:4]) else raw


def cases():
    for group in (opcode_cases, global_cases, call_cases, machine_cases, storage_cases, tensor_cases, layout_cases, zip_cases,
                  record_cases, legacy_cases, safetensors_cases, model_cases, onnx_cases):
        for name, raw, codes in group():
            yield name, as_file(raw), (codes,) if isinstance(codes, str) else codes
    for name, raw, codes in foreign_cases():
        yield name, raw, (codes,) if isinstance(codes, str) else codes
