/* SPDX-License-Identifier: Apache-2.0
 *
 * A growing piece of text, and the one way numbers are spelled in files: canonical JSON is built
 * from these calls. Running out of memory sets `failed`; later calls do nothing, and the caller
 * looks once, at the end.
 */
#ifndef DINOV_BASE_TEXT_H
#define DINOV_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct dinov_text {
    char  *data; /* zero-terminated; NULL before the first call */
    size_t size, capacity;
    bool   failed;
} dinov_text; /* starts as {0} */

void dinov_text_add(dinov_text *text, const void *bytes, size_t size);
void dinov_text_puts(dinov_text *text, const char *string);
void dinov_text_int(dinov_text *text, int64_t value);

/* The fewest significant digits that read back as the same value, "0.1", "1e-06", "2.0": never a
 * plain integer. `value` is finite. dinov_text_float: reads back when taken as double, then float. */
void dinov_text_double(dinov_text *text, double value);
void dinov_text_float(dinov_text *text, float value);

/* " and \ get a backslash, everything else stands for itself: the caller has checked that the
 * bytes are printable (dinov_text_printable). No quotes around. */
void dinov_text_escaped(dinov_text *text, const char *bytes, size_t size);

/* Leaves an empty text; also after a failure. */
void dinov_text_clear(dinov_text *text);

/* Well-formed UTF-8. */
bool dinov_text_utf8(const char *bytes, size_t size);
/* The same without control, line-separating or direction-changing characters. */
bool dinov_text_printable(const char *bytes, size_t size);

#endif
