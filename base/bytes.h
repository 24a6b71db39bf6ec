/* SPDX-License-Identifier: Apache-2.0
 *
 * Numbers from files: checked arithmetic, little- and big-endian loads, stored reals, and the one cursor every
 * parser reads through. Nothing else in the tree does arithmetic on an offset from a file.
 */
#ifndef DINOV_BASE_BYTES_H
#define DINOV_BASE_BYTES_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* A run of bytes in memory, or in a mapped file. */
typedef struct dinov_span {
    const uint8_t *data;
    uint64_t       size;
} dinov_span;

/* True and *out set when the result fits. */
static inline bool dinov_ck_add(uint64_t a, uint64_t b, uint64_t *out) { return !__builtin_add_overflow(a, b, out); }
static inline bool dinov_ck_mul(uint64_t a, uint64_t b, uint64_t *out) { return !__builtin_mul_overflow(a, b, out); }
/* Rounds up to a multiple of `to`, a power of two. */
static inline bool dinov_ck_align(uint64_t a, uint64_t to, uint64_t *out)
{
    if (!dinov_ck_add(a, to - 1, out)) return false;
    *out &= ~(to - 1);
    return true;
}

static inline uint16_t dinov_le16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static inline uint32_t dinov_le32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static inline uint64_t dinov_le64(const uint8_t *p) { return (uint64_t)dinov_le32(p) | (uint64_t)dinov_le32(p + 4) << 32; }
static inline uint16_t dinov_be16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }
static inline uint32_t dinov_be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | (uint32_t)p[3];
}
/* Stored reals as floats, which hold each of them exactly. */
static inline float dinov_float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
static inline float dinov_le_f32(const uint8_t *p) { return dinov_float_of(dinov_le32(p)); }
static inline float dinov_le_bf16(const uint8_t *p) { return dinov_float_of((uint32_t)dinov_le16(p) << 16); }
static inline float dinov_le_f16(const uint8_t *p)
{
    uint32_t h = dinov_le16(p), sign = (h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 1023;
    if (exponent == 0) return (float)fraction * (sign ? -0x1p-24f : 0x1p-24f); /* zero or subnormal */
    return dinov_float_of(sign | (exponent == 31 ? 255 : exponent + 112) << 23 | fraction << 13);
}

static inline void dinov_put_le16(uint8_t *p, uint16_t v) { p[0] = (uint8_t)v, p[1] = (uint8_t)(v >> 8); }
static inline void dinov_put_le32(uint8_t *p, uint32_t v) { dinov_put_le16(p, (uint16_t)v), dinov_put_le16(p + 2, (uint16_t)(v >> 16)); }
static inline void dinov_put_le64(uint8_t *p, uint64_t v) { dinov_put_le32(p, (uint32_t)v), dinov_put_le32(p + 4, (uint32_t)(v >> 32)); }

/* A window of untrusted bytes. Once a read does not fit, `failed` stays set and reads give NULL or 0. */
typedef struct dinov_cursor {
    const uint8_t *data;
    uint64_t       size, pos;
    bool           failed;
} dinov_cursor;

static inline dinov_cursor dinov_cursor_make(const void *data, uint64_t size)
{
    return (dinov_cursor){.data = data, .size = size};
}
static inline uint64_t dinov_cursor_left(const dinov_cursor *c) { return c->failed ? 0 : c->size - c->pos; }
/* The next `n` bytes, or NULL. */
static inline const uint8_t *dinov_cursor_take(dinov_cursor *c, uint64_t n)
{
    if (c->failed || n > c->size - c->pos) {
        c->failed = true;
        return NULL;
    }
    const uint8_t *p = c->data + c->pos;
    c->pos += n;
    return p;
}
static inline bool dinov_cursor_seek(dinov_cursor *c, uint64_t pos)
{
    if (c->failed || pos > c->size) {
        c->failed = true;
        return false;
    }
    c->pos = pos;
    return true;
}
static inline uint8_t dinov_cursor_u8(dinov_cursor *c)
{
    const uint8_t *p = dinov_cursor_take(c, 1);
    return p ? *p : 0;
}
static inline uint16_t dinov_cursor_le16(dinov_cursor *c)
{
    const uint8_t *p = dinov_cursor_take(c, 2);
    return p ? dinov_le16(p) : 0;
}
static inline uint32_t dinov_cursor_le32(dinov_cursor *c)
{
    const uint8_t *p = dinov_cursor_take(c, 4);
    return p ? dinov_le32(p) : 0;
}
static inline uint64_t dinov_cursor_le64(dinov_cursor *c)
{
    const uint8_t *p = dinov_cursor_take(c, 8);
    return p ? dinov_le64(p) : 0;
}

#endif
