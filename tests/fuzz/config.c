/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a configuration: refused or read, and what is read prints and reads back to the same.
 */
#include "train/config.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    dinov_config a, b;
    dinov_model  m;
    dinov_error  err;
    dinov_text   text = {0};

    dinov_config_default(&a);
    if (dinov_config_read(&a, data, size, "fuzz", NULL, NULL, &err) != DINOV_OK) return 0;
    (void)dinov_config_model(&a, &m, &err);
    dinov_config_print(&a, &text);
    dinov_config_default(&b);
    if (!text.failed) {
        DINOV_ASSERT(dinov_config_read(&b, text.data, text.size, "fuzz", NULL, NULL, &err) == DINOV_OK);
        DINOV_ASSERT(memcmp(&a, &b, sizeof a) == 0);
    }
    dinov_text_clear(&text);
    return 0;
}
