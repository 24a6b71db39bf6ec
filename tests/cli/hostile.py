# SPDX-License-Identifier: Apache-2.0
"""Hostile weight files: (name, bytes, the stable code they must be refused with). Every family of
unsafe or damaged input that the readers know, one case for each way in.
"""
import struct
import zlib

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
                         ("torch._utils", "_rebuild_wrapper_subclass"), ("torch._tensor", "_rebuild_from_type_v2"),
                         ("torch", "ComplexFloatStorage"), ("torch", "QInt8Storage"), ("torch.storage", "UntypedStorage"),
                         ("torch.storage", "_load_from_bytes"), ("argparse", "Namespace"), ("numpy.core.multiarray", "scalar"),
                         ("numpy.core.multiarray", "_reconstruct"), ("collections", "defaultdict"), ("collections", "Counter"),
                         ("_codecs", "encode"), ("operator", "attrgetter"), ("functools", "partial"), ("torch", "os.system"),
                         ("collections", "OrderedDict "), (" collections", "OrderedDict"), ("collections.OrderedDict", ""),
                         ("torch\x1b[31m", "FloatStorage"), ("torch", "FloatStorage\0"), ("TORCH", "FloatStorage")]:
        yield "global %r.%r" % (module, name), pkl(HEAD, g(module, name), b")R."), "PKL-GLOBAL"
    yield "global without end", pkl(HEAD, b"cos"), "PKL-GLOBAL"
    yield "global without name", pkl(HEAD, b"cos\nsystem"), "PKL-GLOBAL"
    yield "global of 300 bytes", pkl(HEAD, g("a" * 300, "b"), b")R."), "PKL-GLOBAL"


def call_cases():
    od = g("collections", "OrderedDict")
    v2 = g("torch._utils", "_rebuild_tensor_v2")
    yield "OrderedDict with parts", pkl(HEAD, od, t(i(1)), b"R."), "PKL-CALL"
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
    yield "string that turns the terminal", pkl(HEAD, s("a\x1b[2J"), b"."), "PKL-UTF8"


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
        code = "PKL-UTF8" if "\0" in key else "PKL-STORAGE"
        yield "storage key %r" % key, bad(storage_id(key=key)), code
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
    yield "wrapped in teacher", pth_of(OrderedDict(teacher=good), data={x.key: x.data for x in storages_of(good)}), "PTH-LAYOUT"
    yield "tensor under an int", dict_op(i(0), tensor_op()), "PTH-LAYOUT"
    yield "a float beside tensors", pth_of(OrderedDict(list(good.items()) + [("lr", 1e-4)]), data={x.key: x.data for x in storages_of(good)}), "PTH-LAYOUT"
    yield "name empty", dict_op(s(""), tensor_op()), "NAME-BAD"
    yield "name of 1025 bytes", dict_op(s("a" * 1025), tensor_op()), "NAME-BAD"
    yield "no tensors", dict_op(), "NAMES-UNKNOWN"
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
    legacy = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e") + b"\x80\x02M\xe9\x03."
    yield "legacy torch", legacy, "SRC-LEGACY"
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

    yield "Hugging Face names", st(renamed(lambda k: "embeddings." + k)), "NAMES-HF"
    yield "Hugging Face names, prefixed", st(renamed(lambda k: "dinov2." + k)), "NAMES-HF"
    yield "timm names", st(drop("mask_token")), "NAMES-TIMM"
    yield "timm names with registers", st(renamed(lambda k: "reg_token" if k == "register_tokens" else k), registers=4), "NAMES-TIMM"
    for prefix in ("backbone.", "module.", "teacher.backbone.", "student."):
        yield "prefix " + prefix, st(renamed(lambda k, p=prefix: p + k)), "NAMES-PREFIX"
    yield "chunked blocks", st(renamed(lambda k: k.replace("blocks.0.", "blocks.0.0."))), "NAMES-CHUNKED"
    yield "no blocks", st(renamed(lambda k: k.replace("blocks.", "layers."))), "MODEL-FFN"
    yield "both FFN kinds", st(put("blocks.0.mlp.w12.weight", tensor(512, 64))), "MODEL-FFN"
    yield "grid no square", st(put("pos_embed", tensor(1, 18, 64))), "MODEL-GRID"
    yield "patch no square", st(put("patch_embed.proj.weight", tensor(64, 3, 14, 16))), "MODEL-SHAPE"
    yield "patch of rank 2", st(put("patch_embed.proj.weight", tensor(64, 588))), "MODEL-SHAPE"
    yield "one tensor missing", st(drop("blocks.0.attn.proj.bias")), "MODEL-MISSING"
    yield "one tensor left over", st(put("head.weight", tensor(10, 64))), "MODEL-LEFTOVER"
    yield "a block missing", st(renamed(lambda k: k.replace("blocks.0.", "blocks.1."))), ("MODEL-FFN", "MODEL-MISSING")
    yield "block number of 2^40", st(put("blocks.1099511627776.norm1.weight", tensor(64))), "MODEL-LEFTOVER"
    yield "block number of a million", st(put("blocks.1000000.norm1.weight", tensor(64))), "MODEL-NUMBERS"
    yield "one shape wrong", st(put("blocks.0.norm2.weight", tensor(65))), "MODEL-SHAPE"
    yield "width 96 without heads", st(lambda state: None, dim=96), "MODEL-HEADS"
    yield "weights of int64", st(put("norm.bias", Tensor(Storage(0, "I64", b"\0" * 512), (64,)))), "MODEL-DTYPE"
    yield "weights of float64", st(put("norm.bias", Tensor(Storage(0, "F64", b"\0" * 512), (64,)))), "MODEL-DTYPE"


def as_file(raw):
    """Cases that give a bare pickle mean a .pth around it."""
    return pth_of(pkl=raw) if raw[:2] == HEAD and not raw.startswith(bytes.fromhex("80028a0a")) else raw


def cases():
    for group in (opcode_cases, global_cases, call_cases, machine_cases, storage_cases, tensor_cases, layout_cases, zip_cases,
                  record_cases, safetensors_cases, model_cases, onnx_cases):
        for name, raw, codes in group():
            yield name, as_file(raw), (codes,) if isinstance(codes, str) else codes
    for name, raw, codes in foreign_cases():
        yield name, raw, (codes,) if isinstance(codes, str) else codes
