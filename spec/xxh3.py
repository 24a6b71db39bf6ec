# SPDX-License-Identifier: Apache-2.0
"""XXH3-128 (seed 0, default secret) in plain Python, for the second reader and the vectors.

Slow (some MB/s) and complete. `python xxh3.py` compares it with the xxhash module over many lengths.
"""
import struct

M64 = (1 << 64) - 1
P32_1, P32_2, P32_3 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
P64_1, P64_2, P64_3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
P64_4, P64_5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5

SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
    "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e")

STRIPE = 64
STRIPES_IN_BLOCK = (len(SECRET) - STRIPE) // 8
BLOCK = STRIPE * STRIPES_IN_BLOCK


def u32(data, at):
    return struct.unpack_from("<I", data, at)[0]


def u64(data, at):
    return struct.unpack_from("<Q", data, at)[0]


def avalanche64(h):
    h ^= h >> 33
    h = h * P64_2 & M64
    h ^= h >> 29
    h = h * P64_3 & M64
    return h ^ h >> 32


def avalanche3(h):
    h ^= h >> 37
    h = h * 0x165667919E3779F9 & M64
    return h ^ h >> 32


def fold(a, b):
    product = a * b
    return (product ^ product >> 64) & M64


def swap64(v):
    return int.from_bytes(v.to_bytes(8, "little"), "big")


def up_to_16(d):
    n = len(d)
    if n > 8:
        low_flip = u64(SECRET, 32) ^ u64(SECRET, 40)
        high_flip = u64(SECRET, 48) ^ u64(SECRET, 56)
        first, last = u64(d, 0), u64(d, n - 8)
        m = (first ^ last ^ low_flip) * P64_1
        low, high = (m & M64) + (n - 1 << 54) & M64, m >> 64
        last ^= high_flip
        high = high + last + (last & 0xFFFFFFFF) * (P32_2 - 1) & M64
        low ^= swap64(high)
        h = low * P64_2
        return avalanche3(h & M64), avalanche3((h >> 64) + high * P64_2 & M64)
    if n >= 4:
        keyed = (u32(d, 0) + (u32(d, n - 4) << 32)) ^ u64(SECRET, 16) ^ u64(SECRET, 24)
        m = keyed * (P64_1 + (n << 2))
        low, high = m & M64, m >> 64
        high = high + (low << 1) & M64
        low ^= high >> 3
        low ^= low >> 35
        low = low * 0x9FB21C651E98DF25 & M64
        low ^= low >> 28
        return low, avalanche3(high)
    if n > 0:
        combined = d[0] << 16 | d[n >> 1] << 24 | d[n - 1] | n << 8
        swapped = int.from_bytes(combined.to_bytes(4, "little"), "big")
        rotated = (swapped << 13 | swapped >> 19) & 0xFFFFFFFF
        return (avalanche64(combined ^ u32(SECRET, 0) ^ u32(SECRET, 4)),
                avalanche64(rotated ^ u32(SECRET, 8) ^ u32(SECRET, 12)))
    return avalanche64(u64(SECRET, 64) ^ u64(SECRET, 72)), avalanche64(u64(SECRET, 80) ^ u64(SECRET, 88))


def mix16(d, at, secret):
    return fold(u64(d, at) ^ u64(SECRET, secret), u64(d, at + 8) ^ u64(SECRET, secret + 8))


def mix32(low, high, d, a, b, secret):
    low = low + mix16(d, a, secret) & M64
    low ^= u64(d, b) + u64(d, b + 8) & M64
    high = high + mix16(d, b, secret + 16) & M64
    high ^= u64(d, a) + u64(d, a + 8) & M64
    return low, high


def up_to_240(d):
    n = len(d)
    low, high = n * P64_1 & M64, 0
    if n <= 128:
        for i in reversed(range((n - 1) // 32 + 1)):
            low, high = mix32(low, high, d, 16 * i, n - 16 * (i + 1), 32 * i)
    else:
        for i in range(4):
            low, high = mix32(low, high, d, 32 * i, 32 * i + 16, 32 * i)
        low, high = avalanche3(low), avalanche3(high)
        for i in range(4, n // 32):
            low, high = mix32(low, high, d, 32 * i, 32 * i + 16, 3 + 32 * (i - 4))
        low, high = mix32(low, high, d, n - 16, n - 32, 136 - 17 - 16)
    return (avalanche3(low + high & M64),
            -avalanche3(low * P64_1 + high * P64_4 + n * P64_2 & M64) & M64)


LANES = struct.Struct("<8Q")
KEYS = [LANES.unpack_from(SECRET, 8 * i) for i in range(STRIPES_IN_BLOCK + 1)]
LAST_KEYS = LANES.unpack_from(SECRET, len(SECRET) - STRIPE - 7)


def accumulate(acc, data, at, keys):
    lanes = LANES.unpack_from(data, at)
    for i in range(8):
        key = lanes[i] ^ keys[i]
        acc[i ^ 1] += lanes[i]
        acc[i] = acc[i] + (key & 0xFFFFFFFF) * (key >> 32) & M64
    for i in range(8):
        acc[i] &= M64


def merge(acc, secret, start):
    for i in range(4):
        start += fold(acc[2 * i] ^ u64(SECRET, secret + 16 * i), acc[2 * i + 1] ^ u64(SECRET, secret + 16 * i + 8))
    return avalanche3(start & M64)


def long_input(d):
    n = len(d)
    acc = [P32_3, P64_1, P64_2, P64_3, P64_4, P32_2, P64_5, P32_1]
    blocks = (n - 1) // BLOCK
    for b in range(blocks):
        for s in range(STRIPES_IN_BLOCK):
            accumulate(acc, d, b * BLOCK + s * STRIPE, KEYS[s])
        for i in range(8):
            a = acc[i]
            acc[i] = ((a ^ a >> 47) ^ KEYS[STRIPES_IN_BLOCK][i]) * P32_1 & M64
    for s in range((n - 1 - BLOCK * blocks) // STRIPE):
        accumulate(acc, d, blocks * BLOCK + s * STRIPE, KEYS[s])
    accumulate(acc, d, n - STRIPE, LAST_KEYS)
    return merge(acc, 11, n * P64_1 & M64), merge(acc, len(SECRET) - STRIPE - 11, ~(n * P64_2) & M64)


def hex_plain(data):
    n = len(data)
    low, high = up_to_16(data) if n <= 16 else up_to_240(data) if n <= 240 else long_input(data)
    return "%016x%016x" % (high, low)


try:
    from xxhash import xxh3_128_hexdigest as hex_digest
except ImportError:
    hex_digest = hex_plain


if __name__ == "__main__":
    import random
    source = random.Random(1)
    lengths = list(range(600)) + [1023, 1024, 1025, 1088, 2048, 2049, 4096, 10000]
    if hex_digest is hex_plain:
        raise SystemExit("skipped: the xxhash module is not installed")
    for length in lengths:
        data = source.randbytes(length)
        assert hex_plain(data) == hex_digest(data), length
    print("%d lengths agree" % len(lengths))
