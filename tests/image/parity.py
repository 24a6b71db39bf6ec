# SPDX-License-Identifier: Apache-2.0
"""Decoding, resizing and preprocessing against Pillow and torch, on pictures drawn here.

usage: parity.py PROBE [resize|png|jpeg|eval]...
"""
import io
import random
import struct
import sys
import zlib

from probe import Probe

try:
    import numpy as np
    import PIL
    from PIL import Image, ImageOps
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

rng = np.random.default_rng(2304)
dice = random.Random(7193)


def drawn(w, h, detail=1.0):
    """A picture with slopes, edges and noise."""
    y, x = np.mgrid[0:h, 0:w].astype(np.float64)
    planes = []
    for c in range(3):
        a, b, p = rng.uniform(-0.2, 0.2, 3)
        plane = 128 + 90 * np.sin(a * x + b * y + 6 * p) + 40 * ((x // 7 + y // 5 + c) % 2) * detail
        planes.append(plane + rng.normal(0, 12 * detail, (h, w)))
    return np.clip(np.stack(planes, -1), 0, 255).astype(np.uint8)


def check(what, ok, detail=""):
    if not ok:
        sys.exit(f"FAILED {what}: {detail}")


def pil_resize(pil, ow, oh):
    """Pillow's resize. Before 13.0 it always filtered rows first; single passes agree in all versions,
    so there the order we follow is spelled out."""
    w, h = pil.size
    if int(PIL.__version__.split(".")[0]) >= 13:
        return pil.resize((ow, oh), Image.BICUBIC)
    first = (w, oh) if oh < h and h - oh > 2 * (w - ow) else (ow, h)
    return pil.resize(first, Image.BICUBIC).resize((ow, oh), Image.BICUBIC)


def test_resize(probe):
    for i in range(500):
        limit = 40 if i < 120 else 700
        w, h, ow, oh = (dice.randint(1, limit) for _ in range(4))
        if i % 9 == 0:
            ow = w
        if i % 11 == 0:
            oh = h
        # Noise at full contrast drives the filter's overshoot into both clamps.
        kind = i % 3
        pixels = (drawn(w, h) if kind == 0 else rng.integers(0, 256, (h, w, 3), dtype=np.uint8) if kind == 1
                  else rng.integers(0, 2, (h, w, 3), dtype=np.uint8) * 255)
        pixels = np.ascontiguousarray(pixels.astype(np.uint8))
        with open(probe.path("in.raw"), "wb") as f:
            f.write(pixels.tobytes())
        x, y = dice.randrange(ow), dice.randrange(oh)
        cw, ch = dice.randint(1, ow - x), dice.randint(1, oh - y)
        if i % 2:
            x, y, cw, ch = 0, 0, ow, oh
        _, got = probe.bytes_of("resize", probe.path("in.raw"), w, h, ow, oh, x, y, cw, ch)
        want = np.asarray(pil_resize(Image.fromarray(pixels), ow, oh))[y:y + ch, x:x + cw]
        check(f"resize {w}x{h} -> {ow}x{oh}", got == want.tobytes())
    return "500 sizes bit-equal"


def png_bytes(samples, colour, depth, interlaced, palette=None, trns=None, exif=None):
    """A PNG by its specification: random filters, short IDATs; samples [h, w, channels]."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def packed(rows):
        h, w, c = rows.shape
        if depth == 16:
            return [r.astype(">u2").tobytes() for r in rows]
        if depth == 8:
            return [r.astype(np.uint8).tobytes() for r in rows]
        out = []
        for r in rows.reshape(h, w * c):
            bits = "".join(format(int(v), f"0{depth}b") for v in r)
            bits += "0" * (-len(bits) % 8)
            out.append(bytes(int(bits[i:i + 8], 2) for i in range(0, len(bits), 8)))
        return out

    def filtered(rows, bpp):
        out, before = b"", None
        for row in rows:
            kind = dice.randrange(5)
            a = bytes(bpp) + row
            b = before if before is not None else bytes(len(row))
            c = bytes(bpp) + b
            line = bytearray()
            for i, value in enumerate(row):
                left, up, corner = a[i], b[i], c[i]
                if kind == 4:
                    p = left + up - corner
                    pa, pb, pc = abs(p - left), abs(p - up), abs(p - corner)
                    guess = left if pa <= pb and pa <= pc else up if pb <= pc else corner
                else:
                    guess = (0, left, up, (left + up) // 2)[kind]
                line.append((value - guess) & 255)
            out += bytes([kind]) + bytes(line)
            before = row
        return out

    h, w, channels = samples.shape
    bpp = max(1, channels * depth // 8)
    raw = b""
    if interlaced:
        for x0, y0, dx, dy in ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)):
            part = samples[y0::dy, x0::dx]
            if part.size:
                raw += filtered(packed(part), bpp)
    else:
        raw = filtered(packed(samples), bpp)
    body = zlib.compress(raw)
    out = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, depth, colour, 0, 0, int(interlaced)))
    if palette is not None:
        out += chunk(b"PLTE", palette.astype(np.uint8).tobytes())
    if trns is not None:
        out += chunk(b"tRNS", trns)
    if exif is not None:
        out += chunk(b"eXIf", exif)
    for i in range(0, len(body), 211):
        out += chunk(b"IDAT", body[i:i + 211])
    return out + chunk(b"tEXt", b"Comment\0drawn") + chunk(b"IEND", b"")


def test_png(probe):
    count = 0
    for colour, depths, channels in ((0, (1, 2, 4, 8, 16), 1), (2, (8, 16), 3), (3, (1, 2, 4, 8), 1), (4, (8, 16), 2), (6, (8, 16), 4)):
        for depth in depths:
            for interlaced in (False, True):
                for w, h in ((1, 1), (3, 2), (9, 17), (37, 23)):
                    top = 1 << depth
                    samples = rng.integers(0, top, (h, w, channels))
                    palette = rng.integers(0, 256, (top, 3)) if colour == 3 else None
                    trns = None
                    if count % 2:
                        trns = {0: b"\0\1", 2: b"\0\1\0\2\0\3", 3: bytes([0, 128])}.get(colour)
                    data = png_bytes(samples, colour, depth, interlaced, palette, trns)
                    with open(probe.path("in.png"), "wb") as f:
                        f.write(data)
                    eight = samples if depth == 8 else samples >> 8 if depth == 16 else samples * 255 // (top - 1)
                    want = palette[samples[..., 0]] if colour == 3 else eight[..., :3] if colour in (2, 6) else eight[..., [0, 0, 0]]
                    size, got = probe.bytes_of("decode", probe.path("in.png"))
                    name = f"png colour {colour} depth {depth} interlaced {interlaced} {w}x{h}"
                    check(name, size == [w, h, 1] and got == want.astype(np.uint8).tobytes())
                    pil = Image.open(io.BytesIO(data))
                    if pil.mode in ("1", "L", "P", "RGB", "RGBA", "LA") and depth <= 8:
                        if trns is not None and colour in (0, 2, 3):
                            pil.info.pop("transparency", None)
                        check(name + " (Pillow)", pil.convert("RGBA").convert("RGB").tobytes() == got)
                    count += 1
    for value in range(0, 10):
        for order in ("<", ">"):
            exif = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IHHHI", 8, 1, 0x112, 3, 1)
            exif += struct.pack(order + "HHI", value, 0, 0)
            data = png_bytes(rng.integers(0, 256, (3, 5, 3)), 2, 8, False, exif=exif)
            with open(probe.path("in.png"), "wb") as f:
                f.write(data)
            (w, h, left), got = probe.bytes_of("turn", probe.path("in.png"))
            want = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
            check(f"turning by {value}", left == 1 and (w, h) == want.size and got == want.tobytes())
            count += 1
    return f"{count} drawn PNGs bit-equal"


def test_jpeg(probe):
    count, worst, most = 0, 0.0, 0
    for w, h in ((1, 1), (16, 16), (227, 149), (61, 200), (8, 301), (640, 480)):
        for mode in ("RGB", "L", "CMYK"):
            for quality in (30, 75, 90, 98):
                for sampling in (0, 1, 2):
                    for progressive in (False, True):
                        if mode == "L" and sampling:
                            continue
                        pil = Image.fromarray(drawn(w, h, 0.4)).convert(mode)
                        data = io.BytesIO()
                        pil.save(data, "JPEG", quality=quality, subsampling=sampling, progressive=progressive,
                                 restart_marker_rows=count % 3, optimize=bool(count % 2))
                        trailing = b"junk after the end" if count % 5 == 0 else b""
                        with open(probe.path("in.jpg"), "wb") as f:
                            f.write(data.getvalue() + trailing)
                        size, got = probe.bytes_of("decode", probe.path("in.jpg"))
                        want = np.asarray(Image.open(data).convert("RGB")).astype(int)
                        delta = np.abs(np.frombuffer(got, np.uint8).reshape(h, w, 3).astype(int) - want).max(-1)
                        share = float((delta > 1).mean())
                        name = f"jpeg {mode} {w}x{h} quality {quality} sampling {sampling} progressive {progressive}"
                        check(name, size[:2] == [w, h] and share <= 0.001, f"{share:.5f} of pixels differ by more than 1")
                        worst, most = max(worst, share), max(most, int(delta.max()))
                        count += 1
    return f"{count} drawn JPEGs: at most {worst:.5f} of pixels differ by more than 1, largest difference {most}"


def test_eval(probe):
    try:
        import torch
    except ImportError as missing:
        print(f"skipped: {missing}")
        sys.exit(77)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    for i in range(60):
        n = (224, 518, 14, 98)[i % 4]
        w, h = dice.randint(1, 900), dice.randint(1, 900)
        if i % 7 == 0:
            w, h = dice.randint(1, 6), dice.randint(200, 3000)
        pil = Image.fromarray(drawn(w, h))
        pil.save(probe.path("in.png"))
        short = int(n * 256 / 224) // 2 * 2
        # torchvision: Resize(short) then CenterCrop(n)
        rw, rh = (short, int(short * h / w)) if w <= h else (int(short * w / h), short)
        left, top = int(round((rw - n) / 2.0)), int(round((rh - n) / 2.0))
        cropped = pil_resize(pil, rw, rh).crop((left, top, left + n, top + n))
        tensor = torch.from_numpy(np.array(cropped)).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        want = tensor.sub_(mean).div_(std).numpy()
        size, got = probe.bytes_of("preset", f"eval:{n}", 14, probe.path("in.png"))
        check(f"eval:{n} of {w}x{h}", size == [n, n] and got == want.tobytes())
    return "60 whole preprocessings bit-equal"


def main():
    probe = Probe(sys.argv[1])
    for name in sys.argv[2:] or ("resize", "png", "jpeg", "eval"):
        print(f"{name}: {globals()['test_' + name](probe)}")


main()
