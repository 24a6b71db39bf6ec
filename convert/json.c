/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/json.h"

#include <stdbool.h>

dinov_json_extent dinov_json_measure(const char *json, size_t size)
{
    dinov_json_extent extent = {0};
    long              depth  = 0;
    bool              quoted = false;
    for (size_t i = 0; i < size; i++) {
        char c = json[i];
        if (quoted) {
            if (c == '\\')
                i++;
            else if (c == '"')
                quoted = false;
            continue;
        }
        quoted = c == '"';
        if (c == '{' || c == '[') depth++;
        if (c == '}' || c == ']') depth--;
        if (c == ',' || c == ':') extent.values++;
        if (depth > extent.depth) extent.depth = depth;
    }
    return extent;
}
