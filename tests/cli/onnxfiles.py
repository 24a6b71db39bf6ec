# SPDX-License-Identifier: Apache-2.0
"""ONNX models built byte by byte with the standard library alone: protobuf's wire format, and the graph of a small
DINOv2 around the tensors of weightfiles.model(). Every field can be set wrong on purpose.
"""
import struct



TYPES = {"F32": 1, "U8": 2, "I8": 3, "I32": 6, "I64": 7, "STRING": 8, "BOOL": 9, "F16": 10, "F64": 11, "BF16": 16, "I4": 22}


# ---- protobuf ----

def varint(value):
    value &= (1 << 64) - 1
    out = b""
    while True:
        out += bytes([value & 127 | (128 if value > 127 else 0)])
        value >>= 7
        if not value:
            return out


def number(field, value):
    return varint(field << 3) + varint(value)


def text(field, value):
    raw = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(raw)) + raw


def real(field, value):
    return varint(field << 3 | 5) + struct.pack("<f", value)


# ---- ONNX ----

def tensor(name, shape, raw=None, dtype="F32", extra=b"", packed=True):
    dims = text(1, b"".join(map(varint, shape))) if packed and shape else b"".join(number(1, n) for n in shape)
    return dims + number(2, TYPES[dtype]) + (text(8, name) if name is not None else b"") + (text(9, raw) if raw is not None else b"") + extra


def external(name, shape, dtype="F32", **entries):
    """A tensor whose values lie in another file."""
    extra = b"".join(text(13, text(1, key) + text(2, value)) for key, value in entries.items()) + number(14, 1)
    return tensor(name, shape, None, dtype, extra)


def ints(name, values, shape=None):
    return tensor(name, [len(values)] if shape is None else shape, struct.pack("<%dq" % len(values), *values), "I64")


def floats(name, values, shape=()):
    return tensor(name, shape, struct.pack("<%df" % len(values), *values))


def attribute(name, value):
    if isinstance(value, bool) or isinstance(value, int):
        return text(1, name) + number(3, value) + number(20, 2)
    if isinstance(value, float):
        return text(1, name) + real(2, value) + number(20, 1)
    if isinstance(value, (list, tuple)):
        return text(1, name) + b"".join(number(8, n) for n in value) + number(20, 7)
    if isinstance(value, str):
        return text(1, name) + text(4, value) + number(20, 3)
    return text(1, name) + text(5, value) + number(20, 4)  # bytes: a tensor


def node(op, ins, outs, domain="", name=None, extra=b"", **attributes):
    return (b"".join(text(1, x) for x in ins) + b"".join(text(2, x) for x in outs) +
            text(3, name if name is not None else "the " + op + " of " + (outs[0] if outs else "nothing")) + text(4, op) +
            b"".join(text(5, attribute(key, value)) for key, value in attributes.items()) + (text(7, domain) if domain else b"") + extra)


def value(name, *dims):
    """A ValueInfoProto of floats; sizes are numbers or names."""
    shape = b"".join(text(1, number(1, d) if isinstance(d, int) else text(2, d)) for d in dims)
    return text(1, name) + text(2, text(1, number(1, 1) + text(2, shape)))


def graph(nodes, tensors, inputs=("pixels",), outputs=("out",), extra=b""):
    return (b"".join(text(1, n) for n in nodes) + text(2, "main") + b"".join(text(5, t) for t in tensors) +
            b"".join(text(11, value(n, "batch", 3, "height", "width")) for n in inputs) +
            b"".join(text(12, value(n, "batch", "tokens", "dim")) for n in outputs) + extra)


def model(body, opset=17, ir=8, extra=b"", metadata=()):
    return (number(1, ir) + text(2, "dinov tests") + text(7, body) + text(8, number(2, opset)) + text(8, text(1, "com.microsoft") + number(2, 1)) +
            b"".join(text(14, text(1, key) + text(2, value)) for key, value in metadata) + extra)


# ---- The graph of a model ----

class Vit:
    """Nodes and initializers, open to change until bytes() writes them."""

    def __init__(self, state, heads=1, eps=1e-6, kind="", gate="ab", apart=False, resampling=None):
        self.state, self.nodes, self.tensors, self.heads, self.eps, self.gate = state, [], [], heads, eps, gate
        self.apart, self.resampling = apart, resampling
        self.dim = state["cls_token"].shape[-1]
        self.depth = 1 + max(int(k.split(".")[1]) for k in state if k.startswith("blocks."))
        self.build(kind)

    def add(self, op, *ins, out=None, **attributes):
        out = out or "v%d" % len(self.nodes)
        self.nodes.append(node(op, ins, [out], **attributes))
        return out

    def store(self, name):
        t = self.state[name]
        self.tensors.append(tensor(name, t.shape, t.bytes(), t.storage.dtype))
        return name

    def constant(self, name, raw):
        if raw not in self.tensors:
            self.tensors.append(raw)
        return name

    def linear(self, x, name, rows=slice(None), tag=""):
        """x W^T + b with the weight stored as [in, out], as exporters do."""
        weight, bias = self.packed(name, rows, tag)
        return self.add("Add", self.add("MatMul", x, weight), bias)

    def packed(self, name, rows=slice(None), tag=""):
        t, b = self.state[name + ".weight"], self.state[name + ".bias"]
        out, width = t.shape
        picked = range(*rows.indices(out))
        raw, size = t.bytes(), 4
        turned = b"".join(raw[(r * width + c) * size:(r * width + c + 1) * size] for c in range(width) for r in picked)
        self.tensors.append(tensor(name + tag + ".turned", (width, len(picked)), turned))
        self.tensors.append(tensor(name + tag + ".bias", (len(picked),), b.bytes()[picked[0] * size:(picked[-1] + 1) * size]))
        return name + tag + ".turned", name + tag + ".bias"

    def norm(self, x, name, out=None):
        return self.add("LayerNormalization", x, self.store(name + ".weight"), self.store(name + ".bias"), out=out, epsilon=self.eps)

    def attention(self, x, name, kind):
        """q, k and v as one layer with heads apart, or taken apart before ("thirds"), or as three ("split"); or by
        onnxruntime's operator of the name in `kind`."""
        heads, size = self.heads, self.dim // self.heads
        if kind == "Attention":
            y = self.add(kind, x, *self.packed(name + "qkv"), domain="com.microsoft", num_heads=heads)
            return self.linear(y, name + "proj")
        if kind == "MultiHeadAttention":
            q, k, v = (self.linear(x, name + "qkv", slice(i * self.dim, (i + 1) * self.dim), ".%d" % i) for i in range(3))
            return self.linear(self.add(kind, q, k, v, domain="com.microsoft", num_heads=heads), name + "proj")
        if kind.startswith("thirds"):
            fused = self.linear(x, name + "qkv")
            q, k, v = ("qkv"[i] + fused for i in range(3))
            self.nodes.append(node("Split", [fused, self.constant("thirds", ints("thirds", [self.dim] * 3))], [q, k, v], axis=-1))
            if "MultiHeadAttention" in kind:
                return self.linear(self.add("MultiHeadAttention", q, k, v, domain="com.microsoft", num_heads=heads), name + "proj")
            q, k, v = (self.add("Reshape", y, self.constant("to heads", ints("to heads", [0, 0, heads, size]))) for y in (q, k, v))
        elif kind == "split":
            q, k, v = (self.add("Reshape", self.linear(x, name + "qkv", slice(i * self.dim, (i + 1) * self.dim), ".%d" % i),
                                self.constant("to heads", ints("to heads", [0, -1, heads, size]))) for i in range(3))
        else:
            fused = self.add("Reshape", self.linear(x, name + "qkv"), self.constant("to heads", ints("to heads", [0, -1, 3, heads, size])))
            q, k, v = (self.add("Gather", fused, self.constant("i%d" % i, ints("i%d" % i, [i], ())), axis=2) for i in range(3))
        q, v = (self.add("Transpose", y, perm=[0, 2, 1, 3]) for y in (q, v))
        k = self.add("Transpose", k, perm=[0, 2, 3, 1])
        scale = self.constant("scale", floats("scale", [size ** -0.25]))
        scores = self.add("MatMul", self.add("Mul", q, scale), self.add("Mul", k, scale))
        y = self.add("Transpose", self.add("MatMul", self.add("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
        return self.linear(self.add("Reshape", y, self.constant("from heads", ints("from heads", [0, -1, self.dim]))), name + "proj")

    def mlp(self, x, name):
        h = self.linear(x, name + "fc1")
        root, one, half = (self.constant(n, floats(n, [v])) for n, v in (("root", 2 ** 0.5), ("one", 1.0), ("half", 0.5)))
        e = self.add("Add", self.add("Erf", self.add("Div", h, root)), one)
        return self.linear(self.add("Mul", self.add("Mul", h, e), half), name + "fc2")

    def swiglu(self, x, name):
        h = self.linear(x, name + "w12")
        self.nodes.append(node("Split", [h], [self.gate[0] + h, self.gate[1] + h], axis=-1))
        gate = self.add("Mul", "a" + h, self.add("Sigmoid", "a" + h))
        return self.linear(self.add("Mul", gate, "b" + h), name + "w3")

    def embed(self, x):
        """As upstream: registers are put between what has a position already."""
        x = self.add("Add", self.add("Concat", self.store("cls_token"), x, axis=1), self.store("pos_embed"))
        if "register_tokens" in self.state:
            zero, one, end = (self.constant(n, ints(n, [v])) for n, v in (("n0", 0), ("n1", 1), ("end", 2 ** 63 - 1)))
            first = self.add("Slice", x, zero, one, one)
            x = self.add("Concat", first, self.store("register_tokens"), self.add("Slice", x, one, end, one), axis=1)
        return x

    def embed_apart(self, x):
        """Positions of the class token and of patches are stored and added apart; `resampling`, a square matrix, makes
        another table of the latter."""
        raw, row = self.state["pos_embed"].bytes(), 4 * self.dim
        count = len(raw) // row - 1
        self.tensors += [tensor("pos.cls", (1, 1, self.dim), raw[:row]), tensor("pos.patches", (1, count, self.dim), raw[row:])]
        table = "pos.patches"
        if self.resampling:
            side = int(count ** 0.5)
            weights = self.add("Identity", self.constant("matrix", floats("matrix", self.resampling, (side, side))))
            weights = self.add("MatMul", weights, self.constant("unit", floats("unit", [float(i % (side + 1) == 0) for i in range(side * side)], (side, side))))
            table = self.add("Reshape", table, self.constant("wide", ints("wide", [side, side * self.dim])))
            table = self.add("Reshape", self.add("MatMul", weights, table), self.constant("narrow", ints("narrow", [-1, side, self.dim])))
            table = self.add("Reshape", self.add("MatMul", weights, table), self.constant("flat", ints("flat", [1, -1, self.dim])))
        x = self.add("Add", x, table)
        cls = self.add("Expand", self.add("Add", self.store("cls_token"), "pos.cls"), self.constant("same", ints("same", [1, 1, 1])))
        return self.add("Concat", cls, *([self.store("register_tokens")] if "register_tokens" in self.state else []), x, axis=1)

    def build(self, kind):
        patch = self.state["patch_embed.proj.weight"].shape[-1]
        x = self.add("Conv", "pixels", self.store("patch_embed.proj.weight"), self.store("patch_embed.proj.bias"),
                     strides=[patch, patch], kernel_shape=[patch, patch])
        x = self.add("Reshape", x, self.constant("to row", ints("to row", [0, self.dim, -1])))
        x = self.add("Transpose", x, perm=[0, 2, 1])
        x = self.embed_apart(x) if self.apart else self.embed(x)
        for i in range(self.depth):
            b = "blocks.%d." % i
            for k, branch in ((1, lambda y: self.attention(y, b + "attn.", kind)),
                              (2, lambda y: (self.mlp if b + "mlp.fc1.weight" in self.state else self.swiglu)(y, b + "mlp."))):
                y = branch(self.norm(x, b + "norm%d" % k))
                if b + "ls%d.gamma" % k in self.state:
                    y = self.add("Mul", y, self.store(b + "ls%d.gamma" % k))
                x = self.add("Add", x, y)
        self.norm(x, "norm", out="out")

    def bytes(self, **how):
        return model(graph(self.nodes, self.tensors), **how)
