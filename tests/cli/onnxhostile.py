# SPDX-License-Identifier: Apache-2.0
"""Hostile ONNX models: (name, bytes, the stable code they must be refused with)."""
import struct

from onnxfiles import *  # noqa: F401,F403
from onnxfiles import Vit, external, floats, graph, ints, model, node, number, tensor, text, varint
from weightfiles import model as state_of

SMALL = dict(dim=8, depth=1, grid=2, patch=2, hidden=12)


def cut_cases(raw):
    for size in list(range(6, 64, 7)) + [len(raw) // 2, len(raw) - 1]:
        yield "ONNX cut to %d bytes" % size, raw[:size], "ONNX-WIRE"
    yield "ONNX, one byte more", raw + b"\x0a", "ONNX-WIRE"
    yield "ONNX with a group", raw + b"\x0b", "ONNX-WIRE"
    yield "ONNX with field 0", raw + b"\x00\x00", "ONNX-WIRE"
    yield "ONNX with an endless number", raw + b"\x08" + b"\xff" * 11, "ONNX-WIRE"
    yield "ONNX with a number of 65 bits", raw + b"\x08" + b"\xff" * 9 + b"\x02", "ONNX-WIRE"
    yield "ONNX with a length beyond 64 bits", raw + b"\x3a" + b"\xff" * 9 + b"\x01", "ONNX-WIRE"
    yield "ONNX with two graphs", raw + text(7, b""), "ONNX-WIRE"
    yield "ONNX without a graph", b"\x08\x08\x12\x07pytorch\x1a\x051.8.0", "ONNX-WIRE"
    yield "ONNX whose metadata is cut", raw + text(14, b"\x0a\xff"), "ONNX-WIRE"
    yield "ONNX of zeros", b"\x08\x08\x12\x07pytorch\x1a\x051.8.0:" + b"\0" * 64, ("ONNX-WIRE", "ONNX-STRUCTURE")
    yield "ONNX whose node is a number", model(graph([], [], extra=b"") + b"\x0a\x02\x08\x01"), "ONNX-WIRE"
    yield "ONNX whose attribute is cut", model(graph([text(5, b"\x0a\xff")], [])), "ONNX-WIRE"


def tensor_cases():
    def one(raw):
        return model(graph([], [raw]))

    yield "ONNX tensor, too few bytes", one(tensor("a", [4], b"\0" * 12)), "ONNX-TENSOR"
    yield "ONNX tensor, too many bytes", one(tensor("a", [4], b"\0" * 20)), "ONNX-TENSOR"
    yield "ONNX tensor without values", one(tensor("a", [4])), "ONNX-TENSOR"
    yield "ONNX tensor with values twice", one(tensor("a", [1], b"\0" * 4, extra=text(4, b"\0" * 4))), "ONNX-TENSOR"
    yield "ONNX tensor with values in two pieces", one(tensor("a", [2], b"\0" * 4, extra=text(9, b"\0" * 4))), "ONNX-TENSOR"
    yield "ONNX tensor of floats as integers", one(tensor("a", [2], extra=text(5, b"\1\1"))), "ONNX-TENSOR"
    yield "ONNX tensor, too few numbers", one(tensor("a", [3], dtype="I64", extra=text(7, b"\1\1"))), "ONNX-TENSOR"
    yield "ONNX tensor of a negative size", one(tensor("a", [-1], b"")), "ONNX-TENSOR"
    yield "ONNX tensor of nine sizes", one(tensor("a", [1] * 9, b"\0" * 4)), "ONNX-TENSOR"
    yield "ONNX tensor of a million sizes", one(tensor("a", [1] * 1000000, b"\0" * 4)), "ONNX-TENSOR"
    yield "ONNX tensor of 2^124 values", one(tensor("a", [1 << 62, 1 << 62], b"\0" * 4)), "ONNX-TENSOR"
    yield "ONNX tensor of 2^62 values", one(tensor("a", [1 << 31, 1 << 31], b"\0" * 4)), "ONNX-TENSOR"
    yield "ONNX tensor whose sizes are cut", one(text(1, b"\xff")), "ONNX-WIRE"
    for what, place in {"absolute": "/etc/passwd", "above": "../secret", "folder": "a/b", "nothing": "", "hidden": ".bashrc",
                        "NUL": "a\0b", "backslash": "..\\secret", "long": "a" * 256, "itself above": "./../in"}.items():
        yield "ONNX external data, " + what, one(external("a", [1], location=place)), "FILES-NAME"
    for what, entries in {"offset is a word": dict(offset="x"), "offset is negative": dict(offset="-4"), "offset of 2^64": dict(offset=str(1 << 64)),
                          "length is another": dict(length="8"), "length of 2^64": dict(length=str(1 << 64))}.items():
        yield "ONNX external data, " + what, one(external("a", [1], location="in", **entries)), "ONNX-EXTERNAL"
    yield "ONNX external data and values", one(external("a", [1], location="in") + text(9, b"\0" * 4)), "ONNX-EXTERNAL"
    yield "ONNX external data beyond the end", one(external("a", [1 << 20], location="in")), "ONNX-EXTERNAL"
    yield "ONNX external data far beyond", one(external("a", [1], location="in", offset=str((1 << 64) - 1))), "ONNX-EXTERNAL"
    yield "ONNX external data, cut entry", one(tensor("a", [1], extra=text(13, b"\x0a\xff"))), "ONNX-WIRE"


def graph_cases():
    def of(nodes, tensors=()):
        return model(graph(nodes, tensors))

    yield "ONNX cycle", of([node("Identity", ["b"], ["a"]), node("Identity", ["a"], ["b"])]), "ONNX-NAME"
    yield "ONNX node of itself", of([node("Identity", ["a"], ["a"])]), "ONNX-NAME"
    yield "ONNX value made twice", of([node("Identity", ["pixels"], ["a"]), node("Identity", ["pixels"], ["a"])]), "ONNX-NAME"
    yield "ONNX initializer twice", of([], [tensor("a", [1], b"\0" * 4)] * 2), "ONNX-NAME"
    yield "ONNX initializer made by a node", of([node("Identity", ["pixels"], ["a"])], [tensor("a", [1], b"\0" * 4)]), "ONNX-NAME"
    yield "ONNX input made by a node", of([node("Identity", [], ["pixels"])]), "ONNX-NAME"
    yield "ONNX with a terminal in a name", of([node("Identity", ["\x1b[31m"], ["a"])]), "ONNX-NAME"
    yield "ONNX of nothing", of([]), "ONNX-STRUCTURE"
    yield "ONNX of a million nodes", model(b"\x0a\x00" * 1000000), "ONNX-LIMIT"
    yield "ONNX of a million initializers", model(b"\x2a\x00" * 1000000), "ONNX-LIMIT"
    yield "ONNX of a million inputs", model(b"\x5a\x00" * 1000000), "ONNX-LIMIT"
    yield "ONNX node of a million inputs", of([b"\x0a\x00" * 1000000]), "ONNX-LIMIT"
    yield "ONNX name of 2 KB", of([node("Identity", ["a" * 2000], ["b"])]), "ONNX-LIMIT"
    deep = b""
    for _ in range(20000):
        deep = text(5, text(1, "body") + text(6, text(1, deep)))[-(1 << 22):]
    yield "ONNX graphs in graphs", of([text(4, "If") + deep]), ("ONNX-STRUCTURE", "ONNX-WIRE")
    most = (1 << 15) - 1
    chain = [node("Identity", ["pixels" if i == 0 else "v%d" % (i - 1)], ["v%d" % i], name="") for i in range(most)]
    yield "ONNX chain of identities", of(chain), "ONNX-STRUCTURE"
    chain = [node("Add", ["c" if i == 0 else "v%d" % (i - 1), "c"], ["v%d" % i], name="") for i in range(most)]
    yield "ONNX chain of sums", of(chain, [floats("c", [1.0])]), "ONNX-STRUCTURE"
    chain = [node("Constant", [], ["v%d" % i], name="", value=floats("", [1.0])) for i in range(most)]
    yield "ONNX of constants alone", of(chain), "ONNX-STRUCTURE"
    wide = [node("Split", ["c"], ["v%d" % i for i in range(100000)])]
    yield "ONNX constant in a hundred thousand parts", of(wide, [floats("c", [1.0])]), "ONNX-STRUCTURE"
    norms = [node("LayerNormalization", ["pixels", "c", "c"], ["v%d" % i], name="") for i in range(most)]
    yield "ONNX of norms alone", of(norms, [floats("c", [1.0], [1])]), ("ONNX-STRUCTURE", "ONNX-NODE")
    for op in ("DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv",
               "MatMulNBits", "MatMulBnb4", "MatMulFpQ4", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QAttention"):
        yield "ONNX with " + op, of([node(op, ["pixels"], ["a"])]), "ONNX-QUANTISED"


def heavy():
    """A small file whose weights would take gigabytes: each layer of many blocks is the same one."""
    dim, most = 256, 1200
    zeros = tensor("w", [dim, dim], b"\0" * (4 * dim * dim))
    bias, three = tensor("b", [dim], b"\0" * (4 * dim)), tensor("b3", [3 * dim], b"\0" * (12 * dim))
    wide = tensor("w3", [dim, 3 * dim], b"\0" * (12 * dim * dim))
    nodes = [node("Conv", ["pixels", "k", "b"], ["c"], strides=[2, 2]), node("Transpose", ["c"], ["p"], perm=[0, 2, 1]),
             node("Concat", ["cls", "p"], ["t"], axis=1), node("Add", ["t", "pos"], ["x0"])]
    x = "x0"
    for i in range(most):
        n = "n%d" % i
        nodes.append(node("LayerNormalization", [x, "b", "b"], [n], epsilon=1e-6))
        if i % 2 == 0:
            nodes += [node("Attention", [n, "w3", "b3"], ["a" + n], domain="com.microsoft", num_heads=4), node("Gemm", ["a" + n, "w", "b"], ["y" + n])]
        else:
            nodes += [node("Gemm", [n, "w", "b"], ["h" + n]), node("Gelu", ["h" + n], ["g" + n]), node("Gemm", ["g" + n, "w", "b"], ["y" + n])]
        nodes.append(node("Add", [x, "y" + n], ["s" + n]))
        x = "s" + n
    nodes.append(node("LayerNormalization", [x, "b", "b"], ["out"], epsilon=1e-6))
    return model(graph(nodes, [zeros, bias, three, wide, tensor("k", [dim, 3, 2, 2], b"\0" * (4 * dim * 12)),
                               tensor("cls", [1, 1, dim], b"\0" * (4 * dim)), tensor("pos", [1, 5, dim], b"\0" * (20 * dim))]))


def structure_cases():
    def changed(old, new, count=1, **how):
        """The honest graph with one node's bytes replaced."""
        v = Vit(state_of(seed=5, **dict(SMALL, **how)), heads=2)
        hits = [i for i, n in enumerate(v.nodes) if old in n][:count]
        assert hits, old
        for i in hits:
            v.nodes[i] = new(v.nodes[i])
        return v.bytes()

    def op(old, new):
        return changed(text(4, old), lambda n: n.replace(text(4, old), text(4, new)))

    for old, new in (("Conv", "ConvTranspose"), ("Softmax", "LogSoftmax"), ("Erf", "Tanh"), ("Transpose", "Cosh"), ("Concat", "Max"),
                     ("Gather", "GatherND"), ("LayerNormalization", "RMSNormalization")):
        yield "ONNX with %s for %s" % (new, old), op(old, new), ("ONNX-NODE", "ONNX-STRUCTURE")
    for what, mask in (("constant", [0.0, 1.0]), ("almost nothing", [0.0, -0.0]), ("dynamic", None)):
        v = Vit(state_of(seed=5, **SMALL), heads=2)
        at = next(i for i, n in enumerate(v.nodes) if text(4, "Softmax") in n)
        scores = "v%d" % (at - 1)
        v.nodes[at] = v.nodes[at].replace(text(1, scores), text(1, "masked"))
        v.nodes.insert(at, node("Add", [scores, "mask" if mask else "norm of pixels"], ["masked"]))
        if mask:
            v.tensors.append(floats("mask", mask, [2]))
        else:
            v.nodes.insert(0, node("Sigmoid", ["pixels"], ["norm of pixels"]))
        yield "ONNX with a mask, " + what, v.bytes(), "ONNX-NODE"
    for what, op_, more in (("tanh", "Gelu", dict(approximate="tanh")), ("FastGelu", "FastGelu", dict(domain="com.microsoft")),
                            ("QuickGelu", "QuickGelu", dict(domain="com.microsoft", alpha=1.702)), ("Relu", "Relu", {})):
        v = Vit(state_of(seed=5, **SMALL), heads=2)
        at = next(i for i, n in enumerate(v.nodes) if text(4, "Mul") in n and text(1, "half") in n)
        v.nodes[at] = node(op_, ["v%d" % (at - 5)], ["v%d" % at], **more)
        yield "ONNX activated by " + what, v.bytes(opset=20), "ONNX-NODE"
    yield "ONNX of another scale", Vit(state_of(seed=5, **SMALL), heads=2).bytes().replace(
        struct.pack("<f", 4 ** -0.25), struct.pack("<f", 1.0)), "ONNX-NODE"
    yield "ONNX with overlapping patches", changed(text(4, "Conv"), lambda n: n.replace(number(8, 2) * 2, number(8, 1) * 2, 1)), "ONNX-NODE"
    yield "ONNX with another epsilon", changed(text(4, "LayerNormalization"), lambda n: n.replace(struct.pack("<f", 1e-6), struct.pack("<f", 1e-5))), "ONNX-NODE"
    for what, eps in (("nan", float("nan")), ("infinite", float("inf")), ("negative", -1e-6), ("zero", 0.0)):
        yield "ONNX with epsilon " + what, Vit(state_of(seed=5, **SMALL), heads=2, eps=eps).bytes(), "ONNX-NODE"
    gated = Vit(state_of(seed=5, swiglu=True, **SMALL), heads=2, gate="ba")
    yield "ONNX gated by the other half", gated.bytes(), "ONNX-NODE"
    v = Vit(state_of(seed=5, **SMALL), heads=2)
    v.tensors = [t.replace(struct.pack("<5q", 0, -1, 3, 2, 4), struct.pack("<5q", 0, -1, 2, 3, 4)) for t in v.tensors]
    yield "ONNX with q, k and v of each head together", v.bytes(), "ONNX-NODE"
    v = Vit(state_of(seed=5, **SMALL), heads=2)
    v.nodes.insert(0, node("LayerNormalization", ["pixels", "other", "other"], ["more"]))
    v.tensors.append(tensor("other", [8], b"\0" * 32))
    yield "ONNX with a norm of something else", v.bytes(), "ONNX-NODE"
    v = Vit(state_of(seed=5, **dict(SMALL, depth=2)), heads=2)
    hits = [i for i, n in enumerate(v.nodes) if text(4, "Reshape") in n and text(1, "to heads") in n]
    v.nodes[hits[1]] = v.nodes[hits[1]].replace(text(1, "to heads"), text(1, "to other heads"))
    v.tensors.append(ints("to other heads", [0, -1, 3, 4, 2]))
    yield "ONNX with other heads in block 1", v.bytes(), "ONNX-NODE"
    v = Vit(state_of(seed=5, **SMALL), heads=2)
    v.tensors = [t for t in v.tensors if text(8, "pos_embed") not in t] + [tensor("pos_embed", [1, 7, 8], b"\0" * (7 * 8 * 4))]
    yield "ONNX with positions of another picture", v.bytes(), "ONNX-GRID"
    yield "ONNX of the same weights again and again", heavy(), "ONNX-COPY"
    half = Vit(state_of(seed=5, **SMALL), heads=2)
    half.tensors = [tensor("norm.weight", [8], b"\0" * 64, "F64") if text(8, "norm.weight") in t and b"blocks" not in t else t for t in half.tensors]
    yield "ONNX with a norm of doubles", half.bytes(), "MODEL-DTYPE"


def onnx_cases():
    yield from cut_cases(Vit(state_of(seed=5, **SMALL), heads=2).bytes())
    yield from tensor_cases()
    yield from graph_cases()
    yield from structure_cases()


__all__ = ["onnx_cases", "varint"]
