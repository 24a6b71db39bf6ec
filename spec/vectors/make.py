#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the test vectors beside this file and README.md, from spec/checkpoint.md.

    python make.py [FOLDER]

Every bad- file is a good one with a single rule broken and all digests put right afterwards, unless
the digests are what is tested. The same files come out every time.
"""
import copy
import hashlib
import math
import os
import random
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
from reader import BLOCK, DIGITS_AT, DTYPES, MIDDLE, PREFIX, Real32, model_tensors, spell  # noqa: E402
from xxh3 import hex_digest  # noqa: E402

README = """# Test vectors

Made by `make.py`; the first word is the class. A reader must come to the verdict of section 1 of `../checkpoint.md`
that stands in the second column when it opens and verifies the file, content id included. The third column is the
code of the C library (`docs/errors.md`).

| file | verdict | code | what it is |
| --- | --- | --- | --- |
"""


def f32(value):
    return Real32(struct.unpack("<f", struct.pack("<f", value))[0])


class File:
    """A checkpoint in parts, each of which a vector may spoil before the file is put together."""

    def __init__(self, model=None, dtype="F32", proof=None):
        self.model = {"patch": 2, "dim": 2, "depth": 1, "heads": 2, "ffn": "mlp", "hidden": 2, "registers": 0,
                      "channels": 2, "layerscale": False, "qkv_bias": False, "ln_eps": 1e-06,
                      "position": {"kind": "learned", "grid": [2, 1], "offset": 0.1, "antialias": False}}
        self.model.update(model or {})
        source = random.Random(3)
        # name, dtype, shape, bytes; `dtype` may choose by name
        self.tensors = []
        for name, shape in model_tensors(self.model):
            kind = dtype(name) if callable(dtype) else dtype
            self.tensors.append([name, kind, shape, source.randbytes(math.prod(shape) * DTYPES[kind])])
        self.document = {
            "version": {"read": 1, "write": 1, "safe_to_ignore": [], "safe_to_read": [], "must_understand": []},
            "kind": "backbone",
            "model": copy.deepcopy(self.model),
            "preprocess": {
                "preset": "eval:224", "resize": {"side": "shorter", "size": 256, "filter": "bicubic", "antialias": True},
                "crop": [224, 224], "orientation": "ignore", "alpha": "drop", "colour": "rgb",
                "mean": [f32(0.485), f32(0.456), f32(0.406)], "std": [f32(0.229), f32(0.224), f32(0.225)]},
            "integrity": {"algorithm": "xxh3-128", "block": BLOCK, "digests": None},
            "identity": {"content_id": None, "provenance": {
                "source_format": "code", "source_sha256": "", "converter": "make.py", "transforms": "",
                "licence": "CC0-1.0", "origin": ""}},
            "proof": proof,
        }
        self.sort()
        self.offsets = None      # [(begin, end)]: otherwise from the sizes
        self.entry_text = {}     # index -> bytes instead of the canonical entry
        self.document_text = lambda text: text
        self.string = lambda raw: raw.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
        self.middle = MIDDLE
        self.after_string = b'"}'
        self.padding = lambda used: b" " * (-used % 64)

    def sort(self):
        self.tensors.sort(key=lambda t: (0, 0, t[0].encode()) if len(t[3]) % 64 == 0 else (1, -DTYPES[t[1]], t[0].encode()))

    def tensor(self, name):
        return next(t for t in self.tensors if t[0] == name)

    def entry(self, tensor, begin, end):
        name, dtype, shape, _ = tensor
        name = name if isinstance(name, bytes) else name.encode()
        return b'"%s":{"dtype":"%s","shape":%s,"data_offsets":[%d,%d]}' % (
            name, dtype.encode(), spell(shape).encode(), begin, end)

    def digests(self):
        return [hex_digest(t[3][at:at + BLOCK]) for t in self.tensors for at in range(0, len(t[3]), BLOCK)]

    def content_id(self):
        name = lambda t: t[0] if isinstance(t[0], bytes) else t[0].encode()
        lines = sorted((name(t), ("%s %s %s\n" % (t[1], spell(t[2]), hashlib.sha256(t[3]).hexdigest())).encode())
                       for t in self.tensors)
        return "sha256:" + hashlib.sha256(b"".join(n + b" " + rest for n, rest in lines)).hexdigest()

    def header(self):
        document = self.document
        if document["integrity"]["digests"] is None:
            document["integrity"]["digests"] = self.digests()
        if document["identity"]["content_id"] is None:
            document["identity"]["content_id"] = self.content_id()
        text = self.document_text(spell(document)).encode("utf-8", "surrogateescape")
        offsets, at = self.offsets, 0
        if offsets is None:
            offsets = []
            for t in self.tensors:
                offsets.append((at, at + len(t[3])))
                at += len(t[3])
        entries = [self.entry_text.get(i, self.entry(t, *offsets[i])) for i, t in enumerate(self.tensors)]
        body = PREFIX + b"0" * 32 + self.middle + self.string(text) + self.after_string
        body += b"".join(b"," + e for e in entries) + b"}"
        body += self.padding(8 + len(body))
        return seal(struct.pack("<Q", len(body)) + body)

    def data(self):
        return b"".join(t[3] for t in self.tensors)

    def bytes(self):
        return self.header() + self.data()


def seal(header):
    """Puts the digest of the header right."""
    zeroed = header[:DIGITS_AT] + b"0" * 32 + header[DIGITS_AT + 32:]
    return header[:DIGITS_AT] + hex_digest(zeroed).encode() + header[DIGITS_AT + 32:]


VECTORS = []


def vector(name, verdict, code, what):
    def keep(make):
        VECTORS.append((name, verdict, code, what, make))
        return make
    return keep


def spoiled(name, verdict, code, what, spoil, model=None):
    """A vector whose `spoil` changes parts of an otherwise good file."""
    def make():
        file = File(model)
        spoil(file)
        return file.bytes()
    VECTORS.append((name, verdict, code, what, make))


def in_document(name, verdict, code, what, old, new):
    """A vector whose document has `new` where the canonical text has `old`."""
    def spoil(file):
        def replace(text):
            assert old in text, (name, old)
            return text.replace(old, new, 1)
        file.document_text = replace
    spoiled(name, verdict, code, what, spoil)


def in_entry(name, verdict, code, what, old, new):
    """A vector whose first table entry has `new` where it should have `old`."""
    def spoil(file):
        entry = file.entry(file.tensors[0], 0, len(file.tensors[0][3]))
        assert old in entry, (name, entry)
        file.entry_text[0] = entry.replace(old, new, 1)
    spoiled(name, verdict, code, what, spoil)


# ---- good

PROOF = {"computed_by": "make.py", "tolerance": 5e-06, "cases": [
    {"height": 2, "width": 4, "seed": 0, "cls": [f32(0.1), f32(-1.5), f32(1e-42), f32(3.4028235e38)],
     "patch": [f32(0.0), f32(-0.0), f32(16777216.0), f32(1 / 3)]},
    {"height": 6, "width": 2, "seed": 2147483647, "cls": [f32(1e-05), f32(1e16), f32(123456.0), f32(2.0)],
     "patch": [f32(0.0001), f32(9.999e15), f32(1e22), f32(-7.25)]}]}

vector("good-mlp", "ok", "-", "a model of one block with an MLP")(lambda: File().bytes())
vector("good-swiglu", "ok", "-", "SwiGLU, registers, LayerScale, qkv bias, two blocks")(
    lambda: File({"ffn": "swiglu", "registers": 3, "layerscale": True, "qkv_bias": True, "depth": 2,
                  "position": {"kind": "learned", "grid": [2, 3], "offset": 0.0, "antialias": True}}).bytes())
vector("good-f16", "ok", "-", "all tensors F16")(lambda: File(dtype="F16").bytes())
vector("good-mixed", "ok", "-", "F32 matrices, BF16 and F16 vectors: both groups of the order")(
    lambda: File(dtype=lambda n: "BF16" if n.endswith("bias") else "F16" if "norm" in n else "F32").bytes())
vector("good-proof", "ok", "-", "golden vectors with values that test the spelling of numbers")(
    lambda: File({"dim": 4}, proof=PROOF).bytes())
vector("good-proof-largest", "ok", "-", "a golden input of 1,024 patches, the most there may be")(
    lambda: File({"dim": 4}, proof={**PROOF, "cases": [{**PROOF["cases"][0], "height": 64, "width": 64}]}).bytes())


def preset(text, resize, orientation="apply"):
    def make():
        file = File()
        file.document["preprocess"].update({"preset": text, "resize": resize, "crop": None, "orientation": orientation})
        return file.bytes()
    return make


BICUBIC = {"filter": "bicubic", "antialias": True}
vector("good-preset-full", "ok", "-", "preset full: no size, no crop")(preset("full", {"side": "none", **BICUBIC}))
vector("good-preset-short", "ok", "-", "preset short:333")(preset("short:333", {"side": "shorter", "size": 333, **BICUBIC}))


@vector("good-texts", "ok", "-", "quotes, backslashes and letters of several scripts in the provenance")
def _():
    file = File()
    file.document["identity"]["provenance"].update({
        "origin": 'a "quote", a \\ backslash, \\" both, \u00e9t\u00e9 \u4e2d\u6587 \U0001f600',
        "source_sha256": "0123456789abcdef" * 4})
    return file.bytes()


@vector("good-feature", "ok", "-", "a feature that is safe to ignore, with members this version does not know, in free order")
def _():
    file = File()
    document = file.document
    document["version"]["safe_to_ignore"] = ["colour-notes"]
    document["model"] = {"notes": {"a": [1, 2]}, **dict(reversed(list(document["model"].items())))}
    document["extra"] = None
    file.document_text = lambda text: text.replace(":1e-06", ": 0.000001")
    return file.bytes()


@vector("good-write-2", "ok", "-", "write version 2: readable, not to be derived from")
def _():
    file = File()
    file.document["version"]["write"] = 2
    file.document["identity"]["parents"] = []
    return file.bytes()


# ---- sound, but for a newer reader

in_document("unsupported-read-2", "version", "CK-NEWER", "read version 2", '"read":1,"write":1', '"read":2,"write":2')
spoiled("unsupported-all-else", "version", "CK-NEWER", "read version 2, and nothing else in the document is known",
        lambda f: setattr(f, "document_text", lambda text: '{"version":{"read":2,"write":3},"tokens":[]}'))
in_document("unsupported-feature", "version", "CK-FEATURE", "a feature that must be understood", '"must_understand":[]',
            '"must_understand":["rope2d"]')
in_document("unsupported-kind", "version", "CK-KIND", "another kind of file", '"backbone"', '"sidecar"')

# ---- no checkpoint at all

vector("bad-empty", "format", "CK-FORMAT", "no bytes")(lambda: b"")
vector("bad-short", "format", "CK-FORMAT", "8 bytes: nothing to recognise")(lambda: File().bytes()[:8])
vector("bad-zip", "format", "CK-FORMAT", "the first bytes of a zip archive")(lambda: b"PK\x03\x04" + bytes(60))
vector("bad-gguf", "format", "CK-FORMAT", "the first bytes of a GGUF file")(lambda: b"GGUF\x03\0\0\0" + bytes(56))


@vector("bad-plain-safetensors", "format", "CK-FORMAT", "safetensors without dinov's metadata")
def _():
    body = b'{"cls_token":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}  '
    return struct.pack("<Q", len(body)) + body + bytes(4)


@vector("bad-rewritten", "format", "CK-REWRITTEN", "the metadata in another order, as another tool writes it back")
def _():
    data = File().bytes()
    moved = data.replace(PREFIX, b'{"__metadata__":{"format":"pt",              "dinov_header":"xxh3-128:')
    return moved


vector("bad-rewritten-member", "format", "CK-REWRITTEN", "of the metadata only the member dinov is left")(
    lambda: File().bytes().replace(b'"dinov_header"', b'"other_header"'))

# ---- damaged

vector("bad-cut-prefix", "corrupt", "CK-TRUNCATED", "ends inside the prefix")(lambda: File().bytes()[:30])
vector("bad-cut-header", "corrupt", "CK-TRUNCATED", "ends inside the header")(lambda: File().bytes()[:1000])
vector("bad-cut-data", "corrupt", "CK-TRUNCATED", "one byte is missing at the end")(lambda: File().bytes()[:-1])
vector("bad-trailing", "corrupt", "CK-TRAILING", "one byte too many")(lambda: File().bytes() + b"\0")


def flipped(at):
    data = bytearray(File().bytes())
    data[at] ^= 1
    return bytes(data)


vector("bad-bit-length", "corrupt", "CK-HEADER-DIGEST", "one bit of N is flipped")(lambda: flipped(0))
vector("bad-bit-header", "corrupt", "CK-HEADER-DIGEST", "one bit of the document is flipped")(lambda: flipped(600))
vector("bad-bit-padding", "corrupt", "CK-HEADER-DIGEST", "one bit of the padding is flipped")(
    lambda: flipped(len(File().header()) - 1))
vector("bad-bit-data", "corrupt", "CK-DIGEST", "one bit of the first tensor is flipped")(lambda: flipped(len(File().header())))
vector("bad-bit-last", "corrupt", "CK-DIGEST", "one bit of the last byte is flipped")(lambda: flipped(-1))
vector("bad-digest-case", "corrupt", "CK-HEADER-DIGEST", "the header digest in upper case")(
    lambda: (lambda d: d[:DIGITS_AT] + d[DIGITS_AT:DIGITS_AT + 32].upper() + d[DIGITS_AT + 32:])(File().bytes()))


@vector("bad-swapped", "corrupt", "CK-DIGEST", "the bytes of two tensors of one shape are exchanged")
def _():
    file = File()
    header = file.header()
    a, b = file.tensor("norm.bias"), file.tensor("norm.weight")
    a[3], b[3] = b[3], a[3]
    return header + file.data()


def wrong_id(file):
    file.document["identity"]["content_id"] = "sha256:" + "0" * 64


spoiled("bad-content-id", "corrupt", "CK-ID", "the content id is another one", wrong_id)


# ---- header: metadata and padding

spoiled("bad-metadata-member", "corrupt", "CK-METADATA", "a fourth member of __metadata__",
        lambda f: setattr(f, "after_string", b'","x":"y"}'))
spoiled("bad-metadata-order", "corrupt", "CK-METADATA", "format is not where it must be",
        lambda f: setattr(f, "middle", b'","format":"np","dinov":"'))
spoiled("bad-metadata-escape", "corrupt", "CK-METADATA", "a quote of the document written \\u0022",
        lambda f: setattr(f, "string", lambda raw: raw.replace(b'"', b"\\u0022")))
spoiled("bad-document-control", "corrupt", "CK-DOCUMENT", "a line feed in the document",
        lambda f: setattr(f, "document_text", lambda text: text.replace('"origin":""', '"origin":"\n"')))
spoiled("bad-document-bidi", "corrupt", "CK-DOCUMENT", "a direction isolate in the document",
        lambda f: setattr(f, "document_text", lambda text: text.replace('"origin":""', '"origin":"\u2069"')))
spoiled("bad-document-utf8", "corrupt", "CK-DOCUMENT", "a byte of the document that is no UTF-8",
        lambda f: setattr(f, "document_text", lambda text: text.replace('"origin":""', '"origin":"\udcff"')))
spoiled("bad-padding-byte", "corrupt", "CK-PADDING", "a tab in the padding",
        lambda f: setattr(f, "padding", lambda used: b"\t" * (-used % 64 or 64)))
spoiled("bad-padding-long", "corrupt", "CK-PADDING", "64 spaces too many",
        lambda f: setattr(f, "padding", lambda used: b" " * (-used % 64 + 64)))
spoiled("bad-padding-short", "corrupt", "CK-PADDING", "8 + N is a multiple of 8 only",
        lambda f: setattr(f, "padding", lambda used: b" " * (-used % 64 - 8 if -used % 64 >= 8 else -used % 64 + 8)))

# ---- header: the tensor table

spoiled("bad-hole", "corrupt", "CK-HOLE", "64 bytes that no tensor owns",
        lambda f: setattr(f, "offsets", shift(f, 1, 64)))
spoiled("bad-overlap", "corrupt", "CK-OVERLAP", "two tensors share 64 bytes",
        lambda f: setattr(f, "offsets", shift(f, 1, -64)))


def shift(file, start, by):
    offsets, at = [], 0
    for i, t in enumerate(file.tensors):
        at += by if i == start else 0
        offsets.append((at, at + len(t[3])))
        at += len(t[3])
    return offsets


def swap_entries(file, a, b):
    tensors = file.tensors
    a, b = tensors.index(file.tensor(a)), tensors.index(file.tensor(b))
    tensors[a], tensors[b] = tensors[b], tensors[a]


spoiled("bad-order-name", "corrupt", "CK-ORDER", "two tensors are not sorted by name",
        lambda f: swap_entries(f, "norm.bias", "norm.weight"))
spoiled("bad-order-group", "corrupt", "CK-ORDER", "a tensor of a multiple of 64 bytes stands last",
        lambda f: f.tensors.append(f.tensors.pop(0)))


def duplicate(file):
    at = file.tensors.index(file.tensor("norm.bias"))
    file.tensors.insert(at, list(file.tensors[at]))


def duplicate_apart(file):
    file.tensors.append(["norm.bias", "F32", [16], bytes(64)])
    file.sort()


spoiled("bad-duplicate", "corrupt", "CK-DUPLICATE", "a name occurs twice, side by side", duplicate)
spoiled("bad-duplicate-apart", "corrupt", "CK-DUPLICATE", "a name occurs twice, in both groups", duplicate_apart)


def named(name):
    def spoil(file):
        file.tensors[0][0] = name
    return spoil


spoiled("bad-name-empty", "corrupt", "CK-NAME", "an empty name", named(b""))
spoiled("bad-name-long", "corrupt", "CK-NAME", "a name of 1,025 bytes", named(b"n" * 1025))
spoiled("bad-name-control", "corrupt", "CK-NAME", "an escape sequence for terminals in a name", named(b"a\x1b[2J"))
spoiled("bad-name-bidi", "corrupt", "CK-NAME", "a right-to-left override in a name", named("a\u202eb".encode()))
spoiled("bad-name-utf8", "corrupt", "CK-NAME", "an overlong UTF-8 sequence in a name", named(b"a\xc0\xafb"))
spoiled("bad-name-surrogate", "corrupt", "CK-NAME", "a surrogate in a name", named(b"a\xed\xa0\x80b"))
spoiled("bad-name-escape", "corrupt", "CK-NAME", "a name with a backslash", named(b"a\\u0062"))

first = b'"shape":[2,2,2,2]'
in_entry("bad-dtype", "corrupt", "CK-DTYPE", "a dtype of safetensors that this version does not have", b'"F32"', b'"F8_E4M3"')
in_entry("bad-size", "corrupt", "CK-SIZE", "shape and offsets disagree", first, b'"shape":[2,2,2,3]')
in_entry("bad-shape-zero", "corrupt", "CK-SIZE", "a dimension of 0", first, b'"shape":[2,2,2,0]')
in_entry("bad-shape-wrap", "corrupt", "CK-SIZE", "a shape whose size is right modulo 2^64",
         first, b'"shape":[4611686018427387920]')
in_entry("bad-shape-rank", "corrupt", "CK-TABLE", "nine dimensions", first, b'"shape":[1,1,1,1,1,2,2,2,2]')
in_entry("bad-offset-large", "corrupt", "CK-TABLE", "an offset of 2^63", b"[0,64]", b"[0,9223372036854775808]")
in_entry("bad-offset-wrap", "corrupt", "CK-TABLE", "an offset of 2^64 + 64", b"[0,64]", b"[0,18446744073709551680]")
in_entry("bad-offset-negative", "corrupt", "CK-TABLE", "a negative offset", b"[0,64]", b"[-0,64]")
in_entry("bad-offset-zeros", "corrupt", "CK-TABLE", "a leading zero", b"[0,64]", b"[0,064]")
in_entry("bad-offset-reversed", "corrupt", "CK-SIZE", "an end before its begin", b"[0,64]", b"[0,0]")
in_entry("bad-entry-member", "corrupt", "CK-TABLE", "a fourth member of an entry", b"]}", b'],"x":1}')
in_entry("bad-entry-order", "corrupt", "CK-TABLE", "members in another order", b'"dtype":"F32","shape":[2,2,2,2]',
         b'"shape":[2,2,2,2],"dtype":"F32"')
in_entry("bad-entry-space", "corrupt", "CK-TABLE", "white space in the table", b'"dtype":', b'"dtype": ')

# ---- document

in_document("bad-member-unknown", "corrupt", "CK-CANONICAL", "an unknown member, and no feature that announces it",
            '"kind":"backbone"', '"kind":"backbone","x":1')
in_document("bad-member-missing", "corrupt", "CK-DOCUMENT", "model.heads is missing", '"heads":2,', "")
in_document("bad-member-twice", "corrupt", "CK-DOCUMENT", "model.heads occurs twice", '"heads":2,', '"heads":2,"heads":2,')
in_document("bad-member-order", "corrupt", "CK-CANONICAL", "two members in the wrong order",
            '"depth":1,"heads":2', '"heads":2,"depth":1')
in_document("bad-member-type", "corrupt", "CK-DOCUMENT", "a number as a string", '"heads":2', '"heads":"2"')
in_document("bad-space", "corrupt", "CK-CANONICAL", "white space in the document", '"heads":2', '"heads": 2')
in_document("bad-number", "corrupt", "CK-CANONICAL", "1e-6 instead of 1e-06", "1e-06", "1e-6")
in_document("bad-number-real", "corrupt", "CK-DOCUMENT", "a real written as an integer", '"offset":0.1', '"offset":0')
in_document("bad-number-large", "corrupt", "CK-DOCUMENT", "an integer of 2^63", '"heads":2', '"heads":9223372036854775808')
in_document("bad-number-nan", "corrupt", "CK-DOCUMENT", "a number that is none", '"offset":0.1', '"offset":NaN')
in_document("bad-number-overflow", "corrupt", "CK-DOCUMENT", "a number beyond every double", '"offset":0.1', '"offset":1e999')
in_document("bad-string-escape", "corrupt", "CK-DOCUMENT", "a letter written \\u0063", '"code"', '"\\u0063ode"')
in_document("bad-json", "corrupt", "CK-DOCUMENT", "a bracket is missing", '"digests":[', '"digests":')
in_document("bad-depth", "limit", "CK-DOCUMENT-LARGE", "nine levels deep", '"proof":null', '"proof":' + "[" * 8 + "]" * 8)
in_document("bad-version-order", "corrupt", "CK-DOCUMENT", "write is below read", '"write":1', '"write":0')
in_document("bad-feature-name", "corrupt", "CK-DOCUMENT", "a feature name in capitals",
            '"safe_to_ignore":[]', '"safe_to_ignore":["X"]')
in_document("bad-version-member", "corrupt", "CK-DOCUMENT", "a sixth member of version", '"must_understand":[]',
            '"must_understand":[],"x":1')


def contradiction(file):
    file.document["version"]["safe_to_ignore"] = ["colour-notes"]
    file.document["preprocess"]["crop"] = [224, 210]


spoiled("bad-contradiction", "corrupt", "CK-DOCUMENT", "a feature allows unknown members; crop contradicts the preset all the same",
        contradiction)
in_document("bad-crop", "corrupt", "CK-CANONICAL", "crop contradicts the preset", "[224,224]", "[224,210]")
in_document("bad-preset", "corrupt", "CK-PREPROCESS", "an unknown preset", "eval:224", "eval:0224")
in_document("bad-preset-multiple", "corrupt", "CK-PREPROCESS", "eval of a size that is no multiple of the patch",
            "eval:224", "eval:225")


def small_eval(file):
    file.document["preprocess"].update({"preset": "eval:5", "crop": [5, 5]})
    file.document["preprocess"]["resize"]["size"] = 4


spoiled("bad-preset-small", "corrupt", "CK-PREPROCESS", "eval:5, whose resize to 4 is smaller than its crop", small_eval, {"patch": 1})
in_document("bad-std", "corrupt", "CK-PREPROCESS", "a std of 0", "0.229", "0.0")
in_document("bad-mean", "corrupt", "CK-PREPROCESS", "a mean beyond 32-bit floats", "0.485", "1e+39")
in_document("bad-block", "corrupt", "CK-CANONICAL", "another block size", "16777216", "16777217")
in_document("bad-ffn", "corrupt", "CK-DOCUMENT", "an unknown FFN", '"mlp"', '"moe"')
in_document("bad-position", "corrupt", "CK-CANONICAL", "an unknown position kind", '"learned"', '"rope2d"')
in_document("bad-source-hash", "corrupt", "CK-PROVENANCE", "a source hash of 3 digits",
            '"source_sha256":""', '"source_sha256":"abc"')
in_document("bad-text-long", "corrupt", "CK-PROVENANCE", "an origin of 4,097 bytes", '"origin":""', '"origin":"%s"' % ("o" * 4097))
in_document("bad-id-short", "corrupt", "CK-DOCUMENT", "a content id without its kind", '"sha256:', '"sha255:')


def digests(change):
    def spoil(file):
        file.document["integrity"]["digests"] = change(file.digests())
    return spoil


spoiled("bad-digest-missing", "corrupt", "CK-DIGEST-COUNT", "one digest too few", digests(lambda d: d[:-1]))
spoiled("bad-digest-extra", "corrupt", "CK-DIGEST-COUNT", "one digest too many", digests(lambda d: d + d[-1:]))
spoiled("bad-digest-upper", "corrupt", "CK-DOCUMENT", "a digest in upper case", digests(lambda d: ["ABCDEF" + d[0][6:]] + d[1:]))


def proof(change):
    def spoil(file):
        file.document["proof"] = copy.deepcopy(PROOF)
        change(file.document["proof"])
    return spoil


def bad_proof(name, code, what, change):
    spoiled("bad-proof-" + name, "corrupt", code, what, proof(change), {"dim": 4})


bad_proof("count", "CK-DOCUMENT", "a golden vector of 3 values for dim 4", lambda p: p["cases"][0]["cls"].pop())
bad_proof("integer", "CK-DOCUMENT", "a golden value written as an integer", lambda p: p["cases"][0]["cls"].__setitem__(0, 1))
bad_proof("digits", "CK-CANONICAL", "a golden value with more digits than it needs",
          lambda p: p["cases"][0]["cls"].__setitem__(0, 0.10000000149))
bad_proof("side", "CK-PROOF", "a golden input that is no multiple of the patch", lambda p: p["cases"][0].__setitem__("height", 3))
bad_proof("patches", "CK-PROOF", "a golden input of 1,025 patches", lambda p: p["cases"][0].update({"height": 82, "width": 50}))
bad_proof("seed", "CK-PROOF", "a negative seed", lambda p: p["cases"][0].__setitem__("seed", -1))
bad_proof("empty", "CK-DOCUMENT", "a proof without cases", lambda p: p["cases"].clear())
bad_proof("tolerance", "CK-PROOF", "a tolerance of 1", lambda p: p.__setitem__("tolerance", 1.0))

# ---- tensors that are not the model's

spoiled("bad-tensor-missing", "shape", "MODEL-MISSING", "norm.bias is missing", lambda f: f.tensors.remove(f.tensor("norm.bias")))


def leftover(file):
    file.tensors.append(["head.bias", "F32", [2], bytes(8)])
    file.sort()


def reshaped(file):
    file.tensor("norm.bias")[2] = [1, 2]


def wide(file):
    t = file.tensor("norm.bias")
    t[1], t[3] = "F64", bytes(16)
    file.sort()


spoiled("bad-tensor-leftover", "shape", "MODEL-LEFTOVER", "a tensor that the model does not have", leftover)
spoiled("bad-tensor-shape", "shape", "MODEL-SHAPE", "a tensor of the right size and the wrong shape", reshaped)
spoiled("bad-tensor-dtype", "shape", "MODEL-DTYPE", "an F64 tensor", wide)
in_document("bad-model-zero", "shape", "MODEL-NUMBERS", "a depth of 0", '"depth":1', '"depth":0')
in_document("bad-model-heads", "shape", "MODEL-NUMBERS", "heads that do not divide dim", '"heads":2', '"heads":3')
in_document("bad-model-large", "shape", "MODEL-NUMBERS", "a depth that no model has", '"depth":1', '"depth":9000000000000000000')


def main(folder):
    table = []
    for name, verdict, code, what, make in VECTORS:
        with open(os.path.join(folder, name + ".safetensors"), "wb") as out:
            out.write(make())
        table.append("| %s | %s | %s | %s |\n" % (name, verdict, code, what))
    with open(os.path.join(folder, "README.md"), "w") as out:
        out.write(README + "".join(table))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else HERE)
