# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of the fuzz target shard under tests/fuzz/corpus/shard/: small archives of every kind the
reader takes, and the ways in which they break.

usage: seeds_shard.py        (the result is committed)
"""
import gzip
import hashlib
import io
import os
import shutil
import tarfile

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "corpus", "shard")
MEMBERS = [("a/0.jpg", b"\xff\xd8\xff"), ("a/0.cls", b"3\n"), ("a/1.cls", b"x"), ("a/1.seg.png", b"seg"), ("a/1.png", b"\x89PNG"),
           ("note", b"n")]


def packed(members, kind, end=True, **extra):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind, **extra) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        size = out.tell()
    return out.getvalue()[:size + 1024 * end]


def put(raw):
    with open(os.path.join(FOLDER, hashlib.sha256(raw).hexdigest()[:16]), "wb") as f:
        f.write(raw)


def zstd_raw(raw):
    """A zstd frame of raw blocks, by its specification (RFC 8878)."""
    header = b"\x28\xb5\x2f\xfd\xa0" + len(raw).to_bytes(4, "little")
    return header + (len(raw) << 3 | 1).to_bytes(3, "little") + raw


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    os.makedirs(FOLDER)
    for kind in (tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        whole = packed(MEMBERS, kind)
        for raw in (whole, packed(MEMBERS, kind, end=False), whole[:700], whole[:1000], whole + whole):
            put(raw)
        put(gzip.compress(whole, mtime=0))
        put(gzip.compress(whole, mtime=0)[:-30])
        put(zstd_raw(whole))
        put(zstd_raw(whole)[:-100])
    long = [("d" * 150 + "/\u00fc.png", b"1"), ("e" * 300 + ".jpg", b"2")]
    put(packed(long, tarfile.PAX_FORMAT))
    put(packed(long, tarfile.GNU_FORMAT))
    put(packed(MEMBERS[:2], tarfile.PAX_FORMAT, pax_headers={"comment": "c" * 600}))
    base = bytearray(packed(MEMBERS[:1], tarfile.USTAR_FORMAT))
    for kind in b"0123456789SLKxgVNMDA":
        base[156] = kind
        base[148:156] = b" " * 8
        base[148:156] = b"%06o\0 " % sum(base[:512])
        put(bytes(base))
    for size in (b"77777777777\0", b"\x80" + bytes(7) + b"\x7f" * 4, b"\xff" * 12, b"           \0"):
        base[156] = ord("0")
        base[124:136] = size
        base[148:156] = b" " * 8
        base[148:156] = b"%06o\0 " % sum(base[:512])
        put(bytes(base))
    sparse = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n25 GNU.sparse.name=0.jpg\n27 GNU.sparse.realsize=999\n"
    info = tarfile.TarInfo("0.jpg")
    info.size = 1024
    header = tarfile.TarInfo("pax")
    header.type, header.size = b"x", len(sparse)
    put(header.tobuf(tarfile.USTAR_FORMAT) + sparse.ljust(512, b"\0") + info.tobuf(tarfile.USTAR_FORMAT)
        + b"1\n500\n10\n".ljust(1024, b"x") + bytes(1024))


main()
