/* SPDX-License-Identifier: Apache-2.0 */
#include "base/text.h"

#include "base/alloc.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void dinov_text_add(dinov_text *text, const void *bytes, size_t size)
{
    if (text->failed) return;
    if (size >= text->capacity - text->size) {
        size_t capacity = text->capacity ? text->capacity : 256;
        while (capacity - text->size <= size && capacity <= SIZE_MAX / 2) capacity *= 2;
        char *data = capacity - text->size <= size ? NULL : dinov_realloc(text->data, capacity, 1);
        if (!data) {
            text->failed = true;
            return;
        }
        text->data     = data;
        text->capacity = capacity;
    }
    if (size) memcpy(text->data + text->size, bytes, size);
    text->size += size;
    text->data[text->size] = '\0';
}

void dinov_text_puts(dinov_text *text, const char *string) { dinov_text_add(text, string, strlen(string)); }

void dinov_text_int(dinov_text *text, int64_t value)
{
    char digits[24];
    snprintf(digits, sizeof digits, "%lld", (long long)value);
    dinov_text_puts(text, digits);
}

enum { MAX_DIGITS = 17, LAST_PLAIN_EXPONENT = 15, FIRST_PLAIN_EXPONENT = -4 };

/* "d.ddde-XX" with the fewest digits that read back. Printed and read under the same locale. */
static void shortest(char *out, size_t size, double value, bool single)
{
    for (int digits = 1; digits <= MAX_DIGITS; digits++) {
        snprintf(out, size, "%.*e", digits - 1, value);
        double back = strtod(out, NULL);
        if (single ? (float)back == (float)value : back == value) return;
    }
}

static void number(dinov_text *text, double value, bool single)
{
    char scientific[48], digits[MAX_DIGITS + 1], part[16];
    int  count = 0;

    DINOV_ASSERT(isfinite(value));
    shortest(scientific, sizeof scientific, value, single);
    /* Digits are picked one by one: the decimal point between them belongs to the locale. */
    const char *p = scientific;
    if (*p == '-') dinov_text_add(text, p++, 1);
    for (; *p != 'e'; p++)
        if (*p >= '0' && *p <= '9') digits[count++] = *p;
    int exponent = atoi(p + 1);

    if (exponent < FIRST_PLAIN_EXPONENT || exponent > LAST_PLAIN_EXPONENT) {
        dinov_text_add(text, digits, 1);
        if (count > 1) dinov_text_puts(text, "."), dinov_text_add(text, digits + 1, (size_t)count - 1);
        snprintf(part, sizeof part, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
        dinov_text_puts(text, part);
        return;
    }
    if (exponent < 0) dinov_text_puts(text, "0.");
    for (int i = exponent < 0 ? exponent + 1 : 0; i < count || i <= exponent + 1; i++) {
        if (i == exponent + 1 && exponent >= 0) dinov_text_puts(text, ".");
        dinov_text_add(text, i >= 0 && i < count ? &digits[i] : "0", 1);
    }
}

void dinov_text_double(dinov_text *text, double value) { number(text, value, false); }

void dinov_text_float(dinov_text *text, float value) { number(text, (double)value, true); }

void dinov_text_escaped(dinov_text *text, const char *bytes, size_t size)
{
    size_t plain = 0;
    for (size_t i = 0; i < size; i++) {
        if (bytes[i] != '"' && bytes[i] != '\\') continue;
        dinov_text_add(text, bytes + plain, i - plain);
        dinov_text_puts(text, "\\");
        plain = i;
    }
    dinov_text_add(text, bytes + plain, size - plain);
}

void dinov_text_clear(dinov_text *text)
{
    dinov_free(text->data);
    *text = (dinov_text){0};
}

/* The code point at `p` and its length; 0 when the bytes are not well-formed UTF-8. */
static size_t code_point(const unsigned char *p, size_t left, uint32_t *out)
{
    if (p[0] < 0x80) return *out = p[0], 1;
    size_t   length = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    uint32_t least  = length == 4 ? 0x10000 : length == 3 ? 0x800 : 0x80;
    if (p[0] < 0xc2 || p[0] > 0xf4 || length > left) return 0;
    uint32_t value = p[0] & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) {
        if ((p[i] & 0xc0) != 0x80) return 0;
        value = value << 6 | (p[i] & 0x3f);
    }
    *out = value;
    return value < least || value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff) ? 0 : length;
}

bool dinov_text_utf8(const char *bytes, size_t size)
{
    for (size_t i = 0; i < size;) {
        uint32_t c;
        size_t   length = code_point((const unsigned char *)bytes + i, size - i, &c);
        if (length == 0) return false;
        i += length;
    }
    return true;
}

bool dinov_text_printable(const char *bytes, size_t size)
{
    for (size_t i = 0; i < size;) {
        uint32_t c;
        size_t   length = code_point((const unsigned char *)bytes + i, size - i, &c);
        if (length == 0 || c < 0x20 || (c >= 0x7f && c < 0xa0)) return false;
        if ((c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069)) return false;
        i += length;
    }
    return true;
}
