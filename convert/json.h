/* SPDX-License-Identifier: Apache-2.0
 *
 * JSON that others wrote: measured before any parser sees it, then parsed once.
 */
#ifndef DINOV_CONVERT_JSON_H
#define DINOV_CONVERT_JSON_H

#include <stddef.h>

typedef struct dinov_json_extent {
    long depth;  /* deepest nesting */
    long values; /* commas and colons outside of strings: bounds the parsed form, 150 bytes each */
} dinov_json_extent;

dinov_json_extent dinov_json_measure(const char *json, size_t size);

#endif
