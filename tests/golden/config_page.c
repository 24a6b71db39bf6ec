/* SPDX-License-Identifier: Apache-2.0
 *
 * Prints docs/config.md from the table of keys; the test config_page compares.
 *   build/tests/config_page > docs/config.md
 */
#include "train/config.h"

#include <stdio.h>

int main(void)
{
    dinov_text page = {0};
    dinov_config_document(&page);
    bool ok = !page.failed && fwrite(page.data, 1, page.size, stdout) == page.size && fflush(stdout) == 0;
    dinov_text_clear(&page);
    return ok ? 0 : 70;
}
