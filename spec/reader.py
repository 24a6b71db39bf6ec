#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A second reader of dinov checkpoints, written from checkpoint.md alone, in plain Python.

    python reader.py FILE|STEP...

opens and verifies each file, content id included, or each training checkpoint (a folder with a manifest), and prints
`VERDICT: what it is or why not`. The exit code is 0 when all are ok, 2 otherwise. Section numbers are those of
checkpoint.md.
"""
import hashlib
import json
import math
import os
import re
import stat
import struct
import sys

from xxh3 import hex_digest

PREFIX = b'{"__metadata__":{"dinov_header":"xxh3-128:'
MIDDLE = b'","format":"pt","dinov":"'
DIGITS_AT = 8 + len(PREFIX)
DOCUMENT_AT = DIGITS_AT + 32 + len(MIDDLE)
ALIGN = 64
BLOCK = 16777216
LARGEST = 2**63 - 1
DTYPES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


class Refused(Exception):
    def __init__(self, verdict, why):
        super().__init__(why)
        self.verdict = verdict


def corrupt(why):
    raise Refused("corrupt", why)


def require(condition, why):
    if not condition:
        corrupt(why)


UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def printable(raw, what):
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        corrupt(what + " is not UTF-8")
    require(not UNPRINTABLE.search(text), what + " is not printable")
    return text


# ---- 4.1: the spelling of values


def real(value, bits=64):
    """The one spelling of a finite real."""
    def back(text):
        value = float(text)
        if bits == 64:
            return value
        try:
            return struct.unpack("<f", struct.pack("<f", value))[0]
        except OverflowError:
            return math.inf
    for digits in range(1, 18):
        text = "%.*e" % (digits - 1, value)
        if back(text) == value:
            break
    mantissa, exponent = text.split("e")
    sign = "-" if mantissa[0] == "-" else ""
    digits, exponent = mantissa.lstrip("-").replace(".", ""), int(exponent)
    if not -4 <= exponent < 16:
        point = "." + digits[1:] if len(digits) > 1 else ""
        return "%s%s%se%+03d" % (sign, digits[0], point, exponent)
    if exponent < 0:
        return sign + "0." + "0" * (-exponent - 1) + digits
    digits = digits.ljust(exponent + 2, "0")
    return sign + digits[:exponent + 1] + "." + digits[exponent + 1:]


class Real32(float):
    """A real that stands for its nearest 32-bit value."""


def spell(value):
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Real32):
        return real(value, 32)
    if isinstance(value, float):
        return real(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, list):
        return "[" + ",".join(map(spell, value)) + "]"
    return "{" + ",".join(spell(name) + ":" + spell(member) for name, member in value.items()) + "}"


# ---- 3: the header


def load_header(data):
    """3.1, 3.2: the header's bytes, digest checked."""
    have = data[8:DIGITS_AT]
    if not have or not PREFIX.startswith(have):
        raise Refused("format", "not a dinov checkpoint; dinov-convert makes checkpoints from other files")
    require(len(data) >= DOCUMENT_AT, "the file ends inside its header")
    n, = struct.unpack_from("<Q", data)
    require(DOCUMENT_AT <= 8 + n <= len(data), "the file ends inside its header")
    if n > 100000000:
        raise Refused("limit", "the header is too large")
    header = bytes(data[:8 + n])
    zeroed = header[:DIGITS_AT] + b"0" * 32 + header[DIGITS_AT + 32:]
    require(header[DIGITS_AT:DIGITS_AT + 32] == hex_digest(zeroed).encode(), "the header is damaged")
    return header


def document_string(header):
    """3.3: the document's text and the offset after `"}`."""
    require(header[DIGITS_AT + 32:DOCUMENT_AT] == MIDDLE, "the metadata does not begin as it must")
    contents = re.compile(rb'((?:[^"\\]|\\["\\])*)"\}', re.DOTALL).match(header, DOCUMENT_AT)
    require(contents, "the document string does not end, or has an escape of its own")
    return printable(re.sub(rb"\\(.)", rb"\1", contents.group(1)), "the document"), contents.end()


ENTRY = re.compile(rb',"([^"\\]*)":\{"dtype":"([^"\\]*)","shape":\[((?:(?:0|[1-9]\d*)(?:,(?:0|[1-9]\d*))*)?)\],'
                   rb'"data_offsets":\[(0|[1-9]\d*),(0|[1-9]\d*)\]\}')


def integer(digits):
    require(len(digits) <= 19 and int(digits) <= LARGEST, "an integer above 2^63 - 1")
    return int(digits)


def scan_table(header, at):
    """3.4, 3.5: [(name, dtype, shape, begin, end)], everything checked but the end of the file."""
    tensors, names, end, last = [], set(), 0, None
    while header[at:at + 1] == b",":
        entry = ENTRY.match(header, at)
        require(entry, "a table entry near byte %d is not spelled as it must be" % at)
        at = entry.end()
        if len(tensors) == 100000:
            raise Refused("limit", "too many tensors")
        raw = entry.group(1)
        require(1 <= len(raw) <= 1024, "a tensor name is empty or too long")
        name = printable(raw, "a tensor name")
        require(raw not in names, "tensor %s occurs twice" % name)
        names.add(raw)
        dtype = entry.group(2).decode("latin-1")
        require(dtype in DTYPES, "tensor %s: unknown dtype" % name)
        shape = [integer(d) for d in entry.group(3).split(b",")] if entry.group(3) else []
        require(len(shape) <= 8 and 0 not in shape, "tensor %s: bad shape" % name)
        begin, stop = integer(entry.group(4)), integer(entry.group(5))
        size = math.prod(shape) * DTYPES[dtype]
        require(begin == end, "tensor %s: a hole or an overlap before it" % name)
        require(stop - begin == size, "tensor %s: its size is not that of its shape" % name)
        end = stop
        key = (0, 0, raw) if size % ALIGN == 0 else (1, -DTYPES[dtype], raw)
        require(last is None or last < key, "tensor %s stands in the wrong place" % name)
        last = key
        tensors.append((name, dtype, shape, begin, stop))
    padding = header[at + 1:]
    require(header[at:at + 1] == b"}", "the table does not end as it must")
    require(len(header) % ALIGN == 0 and len(padding) < ALIGN and not padding.strip(b" "), "wrong padding")
    return tensors, end


# ---- 4 to 8: the document


def check_limits(text):
    """10, before the parser sees the text."""
    size = len(text.encode())
    values = depth = deepest = 0
    for token in re.findall(r'"(?:[^"\\]|\\.)*(?:"|$)|[][{},]', text):
        require(not re.search(r"\\[^\"\\]", token.replace("\\\\", "")), "a string of the document has another escape")
        values += token in ",[{"
        depth += 1 if token in "[{" else -1 if token in "]}" else 0
        deepest = max(deepest, depth)
    if size > 16777216 or values > 262144 or deepest > 8:
        raise Refused("limit", "the document is too large")


def parse_json(text):
    def members(pairs):
        require(len({name for name, _ in pairs}) == len(pairs), "a member occurs twice")
        return dict(pairs)

    def whole(digits):
        require(abs(int(digits)) <= LARGEST, "an integer above 2^63 - 1")
        return int(digits)

    def finite(digits):
        require(math.isfinite(float(digits)), "a number is not finite")
        return float(digits)

    def constant(_):
        corrupt("a number is not finite")
    try:
        return json.loads(text, object_pairs_hook=members, parse_int=whole, parse_float=finite, parse_constant=constant)
    except ValueError as error:
        corrupt("the document is no JSON: %s" % error)


class Members:
    """An object whose members are taken with their type and range."""

    def __init__(self, value, where):
        require(isinstance(value, dict), where + " is no object")
        self.value, self.where = value, where

    def take(self, name, kind, good=lambda value: True):
        value = self.value.get(name, self)
        what = "%s.%s" % (self.where, name)
        require(type(value) is kind, what + " is missing or of another type")
        require(good(value), what + " has a value it must not have")
        return value

    def number(self, name, low, high):
        value = self.take(name, int)
        if not low <= value <= high:
            raise Refused("shape", "%s.%s is out of range" % (self.where, name))
        return value

    def string(self, name, good=lambda value: True):
        return self.take(name, str, good)

    def real32s(self, name, count):
        def to32(value):
            require(type(value) is float, "%s.%s: a value is no real" % (self.where, name))
            try:
                return Real32(struct.unpack("<f", struct.pack("<f", value))[0])
            except OverflowError:
                corrupt("%s.%s: a value is not finite" % (self.where, name))
        values = self.take(name, list, lambda value: len(value) == count)
        result = [to32(value) for value in values]
        require(all(map(math.isfinite, result)), "%s.%s: a value is not finite" % (self.where, name))
        return result


def read_version(root, kind):
    """4.2, 4.3. True when nothing in the file is unknown here."""
    version = Members(root.take("version", dict), "version")
    read = version.take("read", int, lambda value: value >= 1)
    write = version.take("write", int, lambda value: value >= read)
    if read > 1:
        raise Refused("version", "format version %d" % read)
    lists = {}
    for name in ("safe_to_ignore", "safe_to_read", "must_understand"):
        lists[name] = version.take(name, list, lambda value: len(value) <= 64)
        for feature in lists[name]:
            require(type(feature) is str and re.fullmatch("[a-z0-9-]{1,64}", feature), "a bad feature name")
    require(len(version.value) == 5, "version has other members")
    if lists["must_understand"]:
        raise Refused("version", "needs feature " + lists["must_understand"][0])
    found = root.string("kind")
    if found != kind:
        raise Refused("version", "kind " + found)
    return write == 1 and not lists["safe_to_ignore"] and not lists["safe_to_read"]


def read_model(root):
    m = Members(root.take("model", dict), "model")
    model = {
        "patch": m.number("patch", 1, 1024), "dim": m.number("dim", 1, 65536), "depth": m.number("depth", 1, 4096),
        "heads": m.number("heads", 1, 4096), "ffn": m.string("ffn", lambda value: value in ("mlp", "swiglu")),
        "hidden": m.number("hidden", 1, 1048576), "registers": m.number("registers", 0, 4096),
        "channels": m.number("channels", 1, 64), "layerscale": m.take("layerscale", bool),
        "qkv_bias": m.take("qkv_bias", bool), "ln_eps": m.take("ln_eps", float),
    }
    p = Members(m.take("position", dict), "model.position")
    p.string("kind", lambda value: value == "learned")
    grid = p.take("grid", list, lambda value: [type(v) for v in value] == [int, int])
    model["position"] = {"kind": "learned", "grid": grid, "offset": p.take("offset", float),
                         "antialias": p.take("antialias", bool)}
    if (model["dim"] % model["heads"] or not 0 < model["ln_eps"] < 1 or not 0 <= model["position"]["offset"] < 1
            or not all(1 <= side <= 4096 for side in grid)):
        raise Refused("shape", "the model's numbers are out of range")
    return model


def read_preprocess(root, patch):
    p = Members(root.take("preprocess", dict), "preprocess")
    preset = p.string("preset")
    match = re.fullmatch("(eval|short|long|square):([1-9][0-9]{0,4})|full", preset)
    require(match, "unknown preset")
    kind, size = match.group(1) or "full", int(match.group(2) or 0)
    require(size <= 65535 and (kind not in ("eval", "square") or size % patch == 0), "a preset size that cannot be")
    require(kind != "eval" or size not in (1, 3, 5), "a resize smaller than the crop")
    resize = {"side": {"eval": "shorter", "short": "shorter", "long": "longer", "square": "both", "full": "none"}[kind]}
    if size:
        resize["size"] = size * 256 // 224 // 2 * 2 if kind == "eval" else size
    resize.update({"filter": "bicubic", "antialias": True})
    mean, std = p.real32s("mean", 3), p.real32s("std", 3)
    require(min(std) > 0, "preprocess.std is not above 0")
    return {"preset": preset, "resize": resize, "crop": [size, size] if kind == "eval" else None,
            "orientation": "ignore" if kind == "eval" else "apply", "alpha": "drop", "colour": "rgb", "mean": mean,
            "std": std}


def is_hex(text, count):
    return re.fullmatch("[0-9a-f]{%d}" % count, text) is not None


def read_identity(root):
    identity = Members(root.take("identity", dict), "identity")
    content_id = identity.string("content_id", lambda value: value.startswith("sha256:") and is_hex(value[7:], 64))
    p = Members(identity.take("provenance", dict), "identity.provenance")
    names = ("source_format", "source_sha256", "converter", "transforms", "licence", "origin")
    provenance = {name: p.string(name, lambda value: len(value.encode()) <= 4096) for name in names}
    require(provenance["source_sha256"] == "" or is_hex(provenance["source_sha256"], 64), "a bad source_sha256")
    return {"content_id": content_id, "provenance": provenance}


def read_proof(root, model):
    if root.value.get("proof", root) is None:
        return None
    proof = Members(root.take("proof", dict), "proof")
    patch, cases = model["patch"], []
    for value in proof.take("cases", list, lambda value: 1 <= len(value) <= 16):
        c = Members(value, "a case")
        case = {name: c.take(name, int, lambda v: patch <= v <= 65535 and v % patch == 0) for name in ("height", "width")}
        require(case["height"] // patch * (case["width"] // patch) <= 1024, "a case of more than 1,024 patches")
        case["seed"] = c.take("seed", int, lambda v: 0 <= v <= 2147483647)
        case["cls"], case["patch"] = c.real32s("cls", model["dim"]), c.real32s("patch", model["dim"])
        cases.append(case)
    return {"computed_by": proof.string("computed_by", lambda value: 1 <= len(value.encode()) <= 95),
            "tolerance": proof.take("tolerance", float, lambda value: 0 < value < 1), "cases": cases}


def contains(theirs, ours):
    """Every member of ours is in theirs with the same value (4.2)."""
    if isinstance(ours, dict):
        return isinstance(theirs, dict) and all(n in theirs and contains(theirs[n], v) for n, v in ours.items())
    if isinstance(ours, list):
        return isinstance(theirs, list) and len(ours) == len(theirs) and all(map(contains, theirs, ours))
    if isinstance(ours, Real32):
        return type(theirs) is float and theirs == float(real(ours, 32))
    return type(theirs) is type(ours) and theirs == ours


def read_state(root):
    """12.2"""
    state = Members(root.take("state", dict), "state")
    parts = state.take("parts", int, lambda value: 1 <= value <= 4096)
    return {"iteration": state.take("iteration", int, lambda value: 0 <= value <= 999999999),
            "part": state.take("part", int, lambda value: 0 <= value < parts), "parts": parts}


VERSION = {"read": 1, "write": 1, "safe_to_ignore": [], "safe_to_read": [], "must_understand": []}


def read_document(text, kind):
    check_limits(text)
    root = Members(parse_json(text), "the document")
    exact = read_version(root, kind)
    document = {"version": VERSION, "kind": kind}
    if kind == "training-state":
        document["state"] = read_state(root)
    else:
        document["model"] = read_model(root)
        document["preprocess"] = read_preprocess(root, document["model"]["patch"])
    integrity = Members(root.take("integrity", dict), "integrity")
    digests = integrity.take("digests", list)
    require(all(type(d) is str and is_hex(d, 32) for d in digests), "a bad digest")
    document["integrity"] = {"algorithm": "xxh3-128", "block": BLOCK, "digests": digests}
    if kind == "backbone":
        document["identity"] = read_identity(root)
        document["proof"] = read_proof(root, document["model"])
    if exact:
        require(spell(document) == text, "the document is not spelled as its values are")
    else:
        known = {name: value for name, value in document.items() if name != "version"}
        require(contains(root.value, known), "members of the document contradict each other")
    return document


# ---- 5: the tensors a model has


def model_tensors(m):
    d, f = m["dim"], m["hidden"]
    rows, columns = m["position"]["grid"]
    yield "cls_token", [1, 1, d]
    yield "pos_embed", [1, 1 + rows * columns, d]
    if m["registers"]:
        yield "register_tokens", [1, m["registers"], d]
    yield "mask_token", [1, d]
    yield "patch_embed.proj.weight", [d, m["channels"], m["patch"], m["patch"]]
    yield "patch_embed.proj.bias", [d]
    for i in range(m["depth"]):
        block = [("norm1.weight", [d]), ("norm1.bias", [d]), ("attn.qkv.weight", [3 * d, d]),
                 ("attn.proj.weight", [d, d]), ("attn.proj.bias", [d]), ("norm2.weight", [d]), ("norm2.bias", [d])]
        if m["qkv_bias"]:
            block.append(("attn.qkv.bias", [3 * d]))
        if m["layerscale"]:
            block += [("ls1.gamma", [d]), ("ls2.gamma", [d])]
        if m["ffn"] == "mlp":
            block += [("mlp.fc1.weight", [f, d]), ("mlp.fc1.bias", [f]), ("mlp.fc2.weight", [d, f]), ("mlp.fc2.bias", [d])]
        else:
            block += [("mlp.w12.weight", [2 * f, d]), ("mlp.w12.bias", [2 * f]), ("mlp.w3.weight", [d, f]),
                      ("mlp.w3.bias", [d])]
        for name, shape in block:
            yield "blocks.%d.%s" % (i, name), shape
    yield "norm.weight", [d]
    yield "norm.bias", [d]


def check_tensors(model, tensors):
    have = {name: (shape, dtype) for name, dtype, shape, _, _ in tensors}
    for name, shape in model_tensors(model):
        if name not in have:
            raise Refused("shape", "tensor %s is missing" % name)
        found, dtype = have.pop(name)
        if found != shape or dtype not in ("F32", "F16", "BF16"):
            raise Refused("shape", "tensor %s is %s %s" % (name, dtype, found))
    if have:
        raise Refused("shape", "tensor %s is none of the model's" % sorted(have)[0])


# ---- 9: all of it


def open_checkpoint(data, kind="backbone"):
    """The document, the tensors, and where the data begins."""
    header = load_header(data)
    text, at = document_string(header)
    document = read_document(text, kind)
    tensors, end = scan_table(header, at)
    require(len(header) + end == len(data), "the file is %d bytes long, %d expected" % (len(data), len(header) + end))
    blocks = sum(-(-(stop - begin) // BLOCK) for _, _, _, begin, stop in tensors)
    require(blocks == len(document["integrity"]["digests"]), "the number of digests is wrong")
    if kind == "backbone":
        check_tensors(document["model"], tensors)
    return document, tensors, len(header)


def verify(data, document, tensors, start):
    """4.4, and 7.1 where there is a content id."""
    digests = iter(document["integrity"]["digests"])
    lines = []
    for name, dtype, shape, begin, stop in tensors:
        raw = data[start + begin:start + stop]
        for at in range(0, len(raw), BLOCK):
            require(hex_digest(raw[at:at + BLOCK]) == next(digests),
                    "tensor %s is damaged after byte %d" % (name, start + begin + at))
        if "identity" not in document:
            continue
        lines.append((name.encode(), "%s [%s] %s\n" % (dtype, ",".join(map(str, shape)), hashlib.sha256(raw).hexdigest())))
    listing = b"".join(name + b" " + rest.encode() for name, rest in sorted(lines))
    require("identity" not in document or "sha256:" + hashlib.sha256(listing).hexdigest() == document["identity"]["content_id"],
            "wrong content id")


# ---- 12: training checkpoints

MANIFEST_PREFIX = b'{"dinov_training":"xxh3-128:'
MANIFEST_AT = len(MANIFEST_PREFIX)


def spell_manifest(m):
    """12.1: line feeds where the text has them."""
    def listed(values):
        return "[" + ",".join("\n" + spell(value) for value in values) + "]"
    text = ""
    for name, value in m.items():
        text += "," if name == "kind" else ",\n" if text else "{"
        text += spell(name) + ":" + (listed(value) if name in ("config", "files") else spell(value))
    return text + "}\n"


def check_manifest_digest(data):
    if len(data) > 4194304:
        raise Refused("limit", "the manifest is too large")
    have = data[:MANIFEST_AT]
    if not have or not MANIFEST_PREFIX.startswith(have):
        raise Refused("format", "not the manifest of a training checkpoint")
    require(len(data) >= MANIFEST_AT + 32, "the manifest was cut")
    zeroed = data[:MANIFEST_AT] + b"0" * 32 + data[MANIFEST_AT + 32:]
    require(data[MANIFEST_AT:MANIFEST_AT + 32] == hex_digest(zeroed).encode(), "the manifest is damaged")


def file_name(index):
    return "state-%05d.safetensors" % (index - 1) if index else "backbone.safetensors"


def read_file_entry(value, index):
    f = Members(value, "a file")
    return {"name": f.string("name", lambda v: v == file_name(index)), "bytes": f.take("bytes", int, lambda v: v >= 0),
            "header": f.string("header", lambda v: v.startswith("xxh3-128:") and is_hex(v[9:], 32))}


def read_manifest(data):
    """The manifest's members, from its bytes."""
    check_manifest_digest(data)
    require(data.endswith(b"\n"), "the last line has no end")
    text = "\n".join(printable(line, "a line of the manifest") for line in data.split(b"\n"))
    check_limits(text)
    root = Members(parse_json(text), "the manifest")
    exact = read_version(root, "training")
    natural = lambda value: value >= 0  # noqa: E731
    short = lambda value: len(value.encode()) <= 4096  # noqa: E731
    m = {"dinov_training": data[19:MANIFEST_AT + 32].decode(), "version": VERSION, "kind": "training",
         "iteration": root.take("iteration", int, lambda value: 0 <= value <= 999999999),
         "adam_step": root.take("adam_step", int, natural), "samples": root.take("samples", int, natural),
         "bad_steps": root.take("bad_steps", int, natural), "isa": root.string("isa", short),
         "teacher": root.string("teacher", short), "teacher_id": root.string("teacher_id", short),
         "config": root.take("config", list, lambda lines: all(type(line) is str and "\n" not in line for line in lines))}
    files = root.take("files", list, lambda value: 2 <= len(value) <= 4097)
    m["files"] = [read_file_entry(value, i) for i, value in enumerate(files)]
    if exact:
        require(spell_manifest(m).encode() == data, "the manifest is not spelled as its values are")
    else:
        known = {name: value for name, value in m.items() if name != "version"}
        require(contains(root.value, known), "members of the manifest contradict each other")
    return m


def read_bytes(path):
    """The bytes of a plain file."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            require(stat.S_ISREG(os.fstat(file.fileno()).st_mode), path + " is no plain file")
            return file.read()
    except OSError as error:
        corrupt("%s: %s" % (path, error.strerror))


def verify_step(folder):
    """12.3: the manifest of a checkpoint that is whole."""
    path = os.path.join(folder, "manifest.json")
    if not os.path.lexists(path):
        raise Refused("format", "a folder without a manifest is no checkpoint")
    m = read_manifest(read_bytes(path))
    name = os.path.basename(os.path.abspath(folder))
    require(not re.fullmatch("step-[0-9]{9}", name) or int(name[5:]) == m["iteration"], "the folder has the name of another step")
    names = set()
    for i, f in enumerate(m["files"]):
        data = read_bytes(os.path.join(folder, f["name"]))
        require(len(data) == f["bytes"], f["name"] + " has another size")
        document, tensors, start = open_checkpoint(data, "training-state" if i else "backbone")
        require(data[DIGITS_AT:DIGITS_AT + 32] == f["header"][9:].encode(), f["name"] + " is another file")
        if i:
            place = {"iteration": m["iteration"], "part": i - 1, "parts": len(m["files"]) - 1}
            require(document["state"] == place, f["name"] + " is of another step or place")
            own = {name for name, _, _, _, _ in tensors}
            require(not own & names, f["name"] + " has a tensor that another file has too")
            names |= own
        verify(data, document, tensors, start)
    return m


def judge_step(folder):
    try:
        m = verify_step(folder)
    except Refused as refusal:
        return refusal.verdict, str(refusal)
    return "ok", "step %d, %d files" % (m["iteration"], len(m["files"]))


def judge_manifest(data):
    try:
        m = read_manifest(data)
    except Refused as refusal:
        return refusal.verdict, str(refusal)
    return "ok", "step %d, %d files" % (m["iteration"], len(m["files"]))


def judge_state(data):
    try:
        verify(data, *open_checkpoint(data, "training-state"))
    except Refused as refusal:
        return refusal.verdict, str(refusal)
    return "ok", "a state"


def judge(data):
    """(verdict, sentence)"""
    try:
        document, tensors, start = open_checkpoint(data)
        verify(data, document, tensors, start)
    except Refused as refusal:
        return refusal.verdict, str(refusal)
    m = document["model"]
    return "ok", "%d tensors, dim %d, depth %d, %s, %s" % (
        len(tensors), m["dim"], m["depth"], m["ffn"], document["identity"]["content_id"])


def main(paths):
    if not paths:
        print(__doc__, file=sys.stderr)
        return 64
    good = True
    for path in paths:
        if os.path.isdir(path):
            verdict, sentence = judge_step(path)
        else:
            with open(path, "rb") as file:
                verdict, sentence = judge(file.read())
        good = good and verdict == "ok"
        sentence = UNPRINTABLE.sub("?", sentence)
        print("%s: %s%s" % (verdict, path + ": " if len(paths) > 1 else "", sentence))
    return 0 if good else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
