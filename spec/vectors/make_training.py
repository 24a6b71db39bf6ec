#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the test vectors of training checkpoints in training/, with their README.md, from section 12 of
spec/checkpoint.md.

    python make_training.py [FOLDER]

Three kinds: NAME.json is a manifest, NAME.safetensors a file of state, a folder NAME a whole checkpoint. Every bad- one
is a good one with a single rule broken and all digests put right afterwards, unless the digests are what is tested.
"""
import os
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), HERE]
from make import BLOCK, DIGITS_AT, DTYPES, MIDDLE, PREFIX, File, hex_digest, seal, spell  # noqa: E402
from reader import MANIFEST_AT, VERSION, spell_manifest  # noqa: E402

README = """# Test vectors of training checkpoints

Made by `../make_training.py`; the first word is the class. A `.json` is a manifest (12.1), a `.safetensors` a file of
state (12.2), a folder a whole checkpoint (12.3), read as that and verified. The second column is the verdict of section 1 of
`../../checkpoint.md`, the third the code of the C library (`docs/errors.md`).

| vector | verdict | code | what it is |
| --- | --- | --- | --- |
"""

VECTORS = []  # name, verdict, code, what, make -> bytes or {name: bytes}


def vector(name, verdict, code, what, make):
    VECTORS.append((name, verdict, code, what, make))


# ---- files of state


def state(tensors=None, text=lambda text: text, iteration=1250, part=0, parts=1):
    tensors = tensors if tensors is not None else [["center.dino", "F32", [3], struct.pack("<3f", 0.5, -1, 2)],
                                                   ["m.backbone.norm.bias", "F32", [2], struct.pack("<2f", 1e-3, -2)],
                                                   ["student.backbone.norm.weight", "F32", [4, 4], bytes(range(64))]]
    tensors.sort(key=lambda t: (0, 0, t[0]) if len(t[3]) % 64 == 0 else (1, -DTYPES[t[1]], t[0]))
    digests = [hex_digest(t[3][at:at + BLOCK]) for t in tensors for at in range(0, len(t[3]), BLOCK)]
    document = {"version": VERSION, "kind": "training-state", "state": {"iteration": iteration, "part": part, "parts": parts},
                "integrity": {"algorithm": "xxh3-128", "block": BLOCK, "digests": digests}}
    raw = text(spell(document)).encode()
    body = PREFIX + b"0" * 32 + MIDDLE + raw.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"}'
    at = 0
    for name, dtype, shape, data in tensors:
        body += b',"%s":{"dtype":"%s","shape":%s,"data_offsets":[%d,%d]}' % (
            name.encode(), dtype.encode(), spell(shape).encode(), at, at + len(data))
        at += len(data)
    body += b"}"
    body += b" " * (-(8 + len(body)) % 64)
    return seal(struct.pack("<Q", len(body)) + body) + b"".join(t[3] for t in tensors)


def flipped(data, at):
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


vector("good-state.safetensors", "ok", "-", "three tensors in both groups of the order", state)
vector("good-state-f64.safetensors", "ok", "-", "a state of doubles",
       lambda: state([["v.x", "F64", [3], struct.pack("<3d", 0.1, -1, 2)]]))
vector("good-state-none.safetensors", "ok", "-", "no tensor at all: a process may have nothing to write",
       lambda: state([]))
vector("bad-state-bit.safetensors", "corrupt", "CK-DIGEST", "one bit of the last byte is flipped", lambda: flipped(state(), -1))
vector("bad-state-header.safetensors", "corrupt", "CK-HEADER-DIGEST", "one bit of the document is flipped", lambda: flipped(state(), 150))
vector("bad-state-cut.safetensors", "corrupt", "CK-TRUNCATED", "one byte is missing at the end", lambda: state()[:-1])
vector("bad-state-iteration.safetensors", "corrupt", "CK-DOCUMENT", "a step of ten digits", lambda: state(iteration=10**9))
vector("bad-state-part.safetensors", "corrupt", "CK-DOCUMENT", "part 1 of 1", lambda: state(part=1))
vector("bad-state-parts.safetensors", "corrupt", "CK-DOCUMENT", "4,097 parts", lambda: state(parts=4097))
vector("bad-state-missing.safetensors", "corrupt", "CK-DOCUMENT", "no member state",
       lambda: state(text=lambda t: t.replace('"state":{"iteration":1250,"part":0,"parts":1},', "")))
vector("bad-state-member.safetensors", "corrupt", "CK-CANONICAL", "a document with a member of a backbone's",
       lambda: state(text=lambda t: t[:-1] + ',"proof":null}'))
vector("bad-state-digests.safetensors", "corrupt", "CK-DIGEST-COUNT", "a digest too many",
       lambda: state(text=lambda t: t.replace('"digests":[', '"digests":["' + "0" * 32 + '",')))
vector("unsupported-state-read-2.safetensors", "version", "CK-NEWER", "read version 2",
       lambda: state(text=lambda t: t.replace('"read":1,"write":1', '"read":2,"write":2')))
vector("unsupported-state-kind.safetensors", "version", "CK-KIND", "a backbone where a state is expected", lambda: File().bytes())


# ---- manifests


def seal_manifest(data):
    zeroed = data[:MANIFEST_AT] + b"0" * 32 + data[MANIFEST_AT + 32:]
    return data[:MANIFEST_AT] + hex_digest(zeroed).encode() + data[MANIFEST_AT + 32:]


def members(files=None, **changed):
    m = {"dinov_training": "xxh3-128:" + "0" * 32, "version": VERSION, "kind": "training", "iteration": 1250, "adam_step": 1249,
         "samples": 80000, "bad_steps": 0, "isa": "avx2", "teacher": "", "teacher_id": "",
         "config": ["train:", "  seed: 0", '  output_dir: "a \\"b\\" \u00e9"', ""],
         "files": files or [entry("backbone.safetensors", 4096), entry("state-00000.safetensors", 0)]}
    m.update(changed)
    return m


def manifest(m=None, old=None, new=None, files=None):
    text = spell_manifest(m or members(files))
    if old is not None:
        assert old in text, old
        text = text.replace(old, new, 1)
    return seal_manifest(text.encode("utf-8", "surrogateescape"))


def entry(name, size=1):
    return {"name": name, "bytes": size, "header": "xxh3-128:" + "0123456789abcdef" * 2}


TEACHER = {"teacher": "runs/large@5000", "teacher_id": "sha256:" + "0123456789abcdef" * 4}
FIRST = entry("backbone.safetensors")

vector("good-manifest.json", "ok", "-", "the members of 12.2", manifest)
vector("good-manifest-teacher.json", "ok", "-", "a distillation", lambda: manifest(members(**TEACHER)))
vector("good-manifest-config-none.json", "ok", "-", "an empty configuration", lambda: manifest(members(config=[])))
vector("good-manifest-largest.json", "ok", "-", "the largest numbers, and several files of state", lambda: manifest(members(
    iteration=999999999, adam_step=2**63 - 1, samples=2**63 - 1, bad_steps=2**63 - 1, isa="x" * 4096,
    files=[entry("backbone.safetensors", 2**63 - 1), entry("state-00000.safetensors"), entry("state-00001.safetensors")])))


def with_feature(order):
    m = members(version={**VERSION, "safe_to_ignore": ["notes"]}, notes={"a": [1, 2]})
    m["files"][1]["rank"] = 3
    if order:
        first = m.pop("dinov_training")
        m = {"dinov_training": first, **dict(reversed(list(m.items())))}
    return m


vector("good-manifest-feature.json", "ok", "-", "a feature that is safe to ignore, with members this version does not know, in free order",
       lambda: manifest(with_feature(True)))
vector("good-manifest-write-2.json", "ok", "-", "write version 2",
       lambda: manifest(members(version={**VERSION, "write": 2}), '"samples":', '"samples": '))

vector("unsupported-manifest-read-2.json", "version", "CK-NEWER", "read version 2, and nothing else is known", lambda: manifest(
    {"dinov_training": "xxh3-128:" + "0" * 32, "version": {"read": 2, "write": 3}, "ranks": []}))
vector("unsupported-manifest-feature.json", "version", "CK-FEATURE", "a feature that must be understood",
       lambda: manifest(members(version={**VERSION, "must_understand": ["shards"]})))

vector("unsupported-manifest-kind.json", "version", "CK-KIND", "another kind of document", lambda: manifest(members(kind="archive")))

vector("bad-manifest-empty.json", "format", "MAN-FORMAT", "no bytes", lambda: b"")
vector("bad-manifest-other.json", "format", "MAN-FORMAT", "another JSON file", lambda: b'{"version":{"read":1}}\n')
vector("bad-manifest-cut-prefix.json", "corrupt", "MAN-DIGEST", "ends inside the prefix", lambda: manifest()[:20])
vector("bad-manifest-cut.json", "corrupt", "MAN-DIGEST", "the last byte is missing", lambda: manifest()[:-1])
vector("bad-manifest-trailing.json", "corrupt", "MAN-DIGEST", "a byte too many", lambda: manifest() + b"\n")
vector("bad-manifest-bit.json", "corrupt", "MAN-DIGEST", "one bit is flipped", lambda: flipped(manifest(), 180))
vector("bad-manifest-digest-case.json", "corrupt", "MAN-DIGEST", "the digest in upper case",
       lambda: (lambda d: d[:MANIFEST_AT] + d[MANIFEST_AT:MANIFEST_AT + 32].upper() + d[MANIFEST_AT + 32:])(manifest()))
vector("bad-manifest-json.json", "corrupt", "CK-DOCUMENT", "no JSON", lambda: manifest(None, '"bad_steps":', '"bad_steps"'))
vector("bad-manifest-control.json", "corrupt", "CK-DOCUMENT", "a tab in a line", lambda: manifest(None, "  seed", "\tseed"))
vector("bad-manifest-bidi.json", "corrupt", "CK-DOCUMENT", "a direction isolate", lambda: manifest(None, "  seed", "\u2066seed"))
vector("bad-manifest-utf8.json", "corrupt", "CK-DOCUMENT", "a byte that is no UTF-8", lambda: manifest(None, "  seed", "\udcffseed"))
vector("bad-manifest-escape.json", "corrupt", "CK-DOCUMENT", "an escape other than the two", lambda: manifest(None, "  seed", "\\u0020 seed"))
vector("bad-manifest-newline.json", "corrupt", "CK-DOCUMENT", "two lines of the configuration in one string",
       lambda: manifest(None, '"train:",\n"  seed', '"train:\\n  seed'))
vector("bad-manifest-member-missing.json", "corrupt", "CK-DOCUMENT", "no samples", lambda: manifest(None, '"samples":80000,\n', ""))
vector("bad-manifest-member-unknown.json", "corrupt", "CK-CANONICAL", "a member that no version announces",
       lambda: manifest(members(notes=1)))
vector("bad-manifest-member-twice.json", "corrupt", "CK-DOCUMENT", "a member that occurs twice",
       lambda: manifest(None, '"samples":80000,\n', '"samples":80000,\n"samples":80000,\n'))
vector("bad-manifest-member-order.json", "corrupt", "CK-CANONICAL", "two members exchanged",
       lambda: manifest(None, '"adam_step":1249,\n"samples":80000', '"samples":80000,\n"adam_step":1249'))
vector("bad-manifest-space.json", "corrupt", "CK-CANONICAL", "a space", lambda: manifest(None, '"samples":', '"samples": '))
vector("bad-manifest-line-feed.json", "corrupt", "CK-CANONICAL", "a line feed less", lambda: manifest(None, ',\n"isa"', ',"isa"'))
vector("bad-manifest-end.json", "corrupt", "CK-DOCUMENT", "no line feed at the end", lambda: manifest(None, "}]}\n", "}]}"))
vector("bad-manifest-iteration.json", "corrupt", "CK-DOCUMENT", "a step of ten digits", lambda: manifest(members(iteration=10**9)))
vector("bad-manifest-negative.json", "corrupt", "CK-DOCUMENT", "samples below 0", lambda: manifest(members(samples=-1)))
vector("bad-manifest-number.json", "corrupt", "CK-DOCUMENT", "samples of 2^63", lambda: manifest(members(samples=2**63)))
vector("bad-manifest-real.json", "corrupt", "CK-DOCUMENT", "a real number of samples", lambda: manifest(members(samples=1.0)))
vector("bad-manifest-isa.json", "corrupt", "CK-DOCUMENT", "an instruction set of 4,097 bytes", lambda: manifest(members(isa="x" * 4097)))
vector("bad-manifest-teacher.json", "corrupt", "CK-DOCUMENT", "a teacher that is an object", lambda: manifest(members(teacher=TEACHER)))
vector("bad-manifest-teacher-long.json", "corrupt", "CK-DOCUMENT", "a teacher's path of 4,097 bytes",
       lambda: manifest(members(teacher="x" * 4097)))
vector("bad-manifest-config.json", "corrupt", "CK-DOCUMENT", "a configuration that is one string", lambda: manifest(members(config=[]), '"config":[]', '"config":"train:"'))
vector("bad-manifest-config-number.json", "corrupt", "CK-DOCUMENT", "a line that is a number", lambda: manifest(members(config=["a", 1])))
vector("bad-manifest-file-none.json", "corrupt", "CK-DOCUMENT", "no file of state", lambda: manifest(files=[FIRST]))
vector("bad-manifest-file-first.json", "corrupt", "CK-DOCUMENT", "no backbone",
       lambda: manifest(files=[entry("state-00000.safetensors"), entry("state-00001.safetensors")]))
vector("bad-manifest-file-order.json", "corrupt", "CK-DOCUMENT", "files of state in another order",
       lambda: manifest(files=[FIRST, entry("state-00001.safetensors"), entry("state-00000.safetensors")]))
vector("bad-manifest-file-gap.json", "corrupt", "CK-DOCUMENT", "files of state that begin at 1",
       lambda: manifest(files=[FIRST, entry("state-00001.safetensors")]))
vector("bad-manifest-file-twice.json", "corrupt", "CK-DOCUMENT", "a file twice",
       lambda: manifest(files=[FIRST, entry("state-00000.safetensors"), entry("state-00000.safetensors")]))
for word, name in (("path", "../state-00000.safetensors"), ("folder", "a/state-00000.safetensors"), ("root", "/etc/passwd"), ("dots", ".."),
                   ("itself", "manifest.json"), ("digits", "state-0000.safetensors"), ("letter", "state-0000a.safetensors"),
                   ("long", "state-00000.safetensors" + "x" * 60), ("end", "state-00000.safetensor")):
    vector("bad-manifest-name-%s.json" % word, "corrupt", "CK-DOCUMENT", "a file named %s" % name[:40],
           lambda name=name: manifest(files=[FIRST, entry(name)]))
vector("bad-manifest-file-size.json", "corrupt", "CK-DOCUMENT", "a size below 0", lambda: manifest(files=[FIRST, entry("state-00000.safetensors", -1)]))
vector("bad-manifest-file-digest.json", "corrupt", "CK-DOCUMENT", "a digest in upper case",
       lambda: manifest(files=[FIRST, {**entry("state-00000.safetensors"), "header": "xxh3-128:" + "F" * 32}]))
vector("bad-manifest-file-algorithm.json", "corrupt", "CK-DOCUMENT", "a digest of another algorithm",
       lambda: manifest(files=[FIRST, {**entry("state-00000.safetensors"), "header": "xxh3-129:" + "f" * 32}]))
vector("bad-manifest-version.json", "corrupt", "CK-DOCUMENT", "a write version below the read version", lambda: manifest(None, '"write":1', '"write":0'))
vector("bad-manifest-contradiction.json", "corrupt", "CK-DOCUMENT", "a digest of another algorithm, beside a feature", lambda: manifest(
    (lambda m: m["files"][1].update(header="xxh3-129:" + "f" * 32) or m)(with_feature(False))))
vector("bad-manifest-depth.json", "limit", "CK-DOCUMENT-LARGE", "lists nested 9 deep", lambda: manifest(members(notes=[[[[[[[[1]]]]]]]])))

# ---- whole checkpoints


ZERO = [["v.x", "F32", [1], bytes(4)]]


def step(files=None, listed=None, drop=None):
    """Contents by name; `files` replace those of the good checkpoint before the manifest is made, `listed` members of its entries."""
    contents = {"backbone.safetensors": File().bytes(), "state-00000.safetensors": state(parts=2),
                "state-00001.safetensors": state(ZERO, part=1, parts=2)}
    contents.update(files or {})
    entries = [{"name": name, "bytes": len(data), "header": "xxh3-128:" + data[DIGITS_AT:DIGITS_AT + 32].decode("latin-1")}
               for name, data in sorted(contents.items())]
    for e in entries:
        e.update((listed or {}).get(e["name"], {}))
    contents["manifest.json"] = manifest(members(entries))
    contents.pop(drop, None)
    return contents


def replaced(second):
    """The good checkpoint with a file exchanged after its manifest was made."""
    return {**step(), "state-00001.safetensors": second}


vector("good-step", "ok", "-", "a backbone and two files of state", step)
vector("good-step-more", "ok", "-", "and a file that the manifest does not name", lambda: {**step(), "notes.txt": b"mine\n"})
vector("good-step-none", "ok", "-", "a file of state without tensors",
       lambda: step({"state-00001.safetensors": state([], part=1, parts=2)}))
vector("bad-step-bit", "corrupt", "CK-DIGEST", "one bit of a state is flipped",
       lambda: replaced(flipped(state(ZERO, part=1, parts=2), -1)))
vector("bad-step-backbone", "corrupt", "CK-DIGEST", "one bit of the backbone is flipped",
       lambda: {**step(), "backbone.safetensors": flipped(File().bytes(), -1)})
vector("bad-step-missing", "corrupt", "MAN-FILE", "a file is missing", lambda: step(drop="state-00001.safetensors"))
vector("bad-step-none", "format", "MAN-NONE", "no manifest", lambda: step(drop="manifest.json"))
vector("bad-step-size", "corrupt", "MAN-FILE", "a file is one byte longer than the manifest says",
       lambda: step(listed={"state-00001.safetensors": {"bytes": len(state(ZERO, part=1, parts=2)) - 1}}))
vector("bad-step-older", "corrupt", "MAN-FILE", "a sound file of the right size and place, with other numbers",
       lambda: replaced(state([["v.x", "F32", [1], b"\1\2\3\4"]], part=1, parts=2)))
vector("bad-step-iteration", "corrupt", "MAN-FILE", "a state of another step, named by the manifest",
       lambda: step({"state-00001.safetensors": state(ZERO, iteration=1251, part=1, parts=2)}))
vector("bad-step-part", "corrupt", "MAN-FILE", "a state of another part, named by the manifest",
       lambda: step({"state-00001.safetensors": state(ZERO, part=0, parts=2)}))
vector("bad-step-parts", "corrupt", "MAN-FILE", "a state of three parts, and there are two",
       lambda: step({"state-00001.safetensors": state(ZERO, part=1, parts=3)}))
vector("unsupported-step-kind", "version", "CK-KIND", "a backbone in the place of a state",
       lambda: step({"state-00001.safetensors": File().bytes()}))
vector("bad-step-twice", "corrupt", "CK-DUPLICATE", "a tensor in two files of state",
       lambda: step({"state-00001.safetensors": state([["center.dino", "F32", [1], bytes(4)]], part=1, parts=2)}))


def main(folder):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "README.md"), "w") as readme:
        readme.write(README)
        for name, verdict, code, what, make in VECTORS:
            readme.write("| %s | %s | %s | %s |\n" % (name, verdict, code, what))
            made = make()
            files = {"": made} if isinstance(made, bytes) else {"/" + part: data for part, data in made.items()}
            if "" not in files:
                os.makedirs(os.path.join(folder, name), exist_ok=True)
            for part, data in files.items():
                with open(os.path.join(folder, name) + part, "wb") as file:
                    file.write(data)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "training"))
