/* SPDX-License-Identifier: Apache-2.0
 *
 * Mutates JSON as the text it is.
 */
#ifndef DINOV_TESTS_FUZZ_TEXT_H
#define DINOV_TESTS_FUZZ_TEXT_H

#include <stdint.h>
#include <string.h>

/* Replaces one digit, word or member boundary by another: what text needs and bit flips rarely find. At most `max` bytes. */
static size_t mutate_text(uint8_t *text, size_t size, size_t max, unsigned seed)
{
    static const char *const pieces[] = {"0", "1", "-1", "9223372036854775807", "9223372036854775808", "18446744073709551616",
                                         "999999999", "1e999", "0.1", "null", "true", "[]", "{}", "\"\"", ",", "[", "]", "{", "}",
                                         "\"", " ", "\n", "\\\"", "\\\\", "safe-feature", "F64", "BOOL", "full", "square:2",
                                         "state-00001.safetensors", "backbone.safetensors", "../x", "sha256:", "\x7f", "\xc2\x80"};
    const char *piece = pieces[seed / 7 % (sizeof pieces / sizeof pieces[0])];
    size_t      length = strlen(piece), at = size ? seed / 1009 % size : 0, cut = seed % 5;
    if (cut > size - at) cut = size - at;
    if (size + length > max) return size;
    memmove(text + at + length, text + at + cut, size - at - cut);
    memcpy(text + at, piece, length);
    return size + length - cut;
}

#endif
