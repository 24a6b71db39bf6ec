/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a configuration, and their lines as KEY=VALUE: refused or read, and what is read prints and reads back to the same
 * bytes.
 */
#include "base/alloc.h"
#include "train/config.h"
#include "train/schedule.h"

#include <math.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void note(void *arg, const char *sentence)
{
    (void)arg;
    DINOV_ASSERT(strlen(sentence) > 0);
}

static void check(const dinov_config *a)
{
    dinov_config b;
    dinov_model  m;
    dinov_error  err;
    dinov_text   text = {0}, difference = {0};

    if (dinov_config_model(a, &m, &err) == DINOV_OK) {
        int64_t     total = dinov_schedule_iterations(a);
        dinov_rates r     = dinov_schedule_rates(a, 2147483647, total / 2);
        DINOV_ASSERT(isfinite(r.lr) && isfinite(r.last_layer_lr) && isfinite(r.weight_decay) && isfinite(r.momentum) &&
                     isfinite(r.teacher_temp));
    }
    (void)dinov_config_check_data(a, &err);
    dinov_config_print(a, &text);
    dinov_config_default(&b);
    if (!text.failed) {
        DINOV_ASSERT(dinov_config_read(&b, text.data, text.size, "fuzz", note, NULL, &err) == DINOV_OK);
        DINOV_ASSERT(memcmp(a, &b, sizeof b) == 0);
        DINOV_ASSERT(!dinov_config_diff(a, &b, true, &difference));
    }
    dinov_text_clear(&text);
    dinov_text_clear(&difference);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    dinov_config a, before;
    dinov_error  err;

    dinov_config_default(&a);
    before = a;
    if (dinov_config_read(&a, data, size, "fuzz", note, NULL, &err) == DINOV_OK)
        check(&a);
    else
        DINOV_ASSERT(memcmp(&a, &before, sizeof a) == 0 && err.msg[0]);

    /* The same bytes line by line, at most so many that each stays quick. */
    bool  any  = false;
    char *text = dinov_alloc(size + 1, 1);
    if (!text) return 0;
    if (size > 0) memcpy(text, data, size);
    text[size] = '\0';
    dinov_config_default(&a);
    char *line = text;
    for (int i = 0; i < 16 && line; i++) {
        char *end = strchr(line, '\n');
        if (end) *end++ = '\0';
        before = a;
        if (dinov_config_set(&a, line, note, NULL, &err) == DINOV_OK)
            any = true;
        else
            DINOV_ASSERT(memcmp(&a, &before, sizeof a) == 0 && err.msg[0]);
        line = end;
    }
    if (any) check(&a);
    dinov_free(text);
    return 0;
}
