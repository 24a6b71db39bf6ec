/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a configuration. What is refused changes nothing and says why in a printable sentence; what is read prints and
 * reads back to the same. Bytes that begin with '=' are assignments of a command line, one a line.
 */
#include "base/alloc.h"
#include "train/schedule.h"

#include <math.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void sentence(const char *text) { DINOV_ASSERT(*text && dinov_text_printable(text, strlen(text))); }

static void note(void *arg, const char *text)
{
    (void)arg;
    sentence(text);
}

static void refused(const dinov_config *before, const dinov_config *after, const dinov_error *err)
{
    DINOV_ASSERT(memcmp(before, after, sizeof *before) == 0);
    DINOV_ASSERT(strncmp(err->code, "CFG-", 4) == 0);
    sentence(err->msg);
}

static void assign(dinov_config *config, const char *lines, size_t size)
{
    for (int count = 0; size > 0 && count < 16; count++) { /* each that names no key is compared with all of them */
        dinov_config before = *config;
        dinov_error  err    = {0};
        const char  *end    = memchr(lines, '\n', size);
        size_t       length = end ? (size_t)(end - lines) : size;
        char        *line   = dinov_alloc(length + 1, 1); /* of its own, so that a sanitizer sees its end */
        DINOV_ASSERT(line);
        memcpy(line, lines, length);
        line[length] = '\0';
        if (dinov_config_set(config, line, note, NULL, &err) != DINOV_OK) refused(&before, config, &err);
        dinov_free(line);
        length += end != NULL;
        lines += length, size -= length;
    }
}

static void use(const dinov_config *config)
{
    dinov_model m;
    dinov_error err = {0};
    if (dinov_config_check_data(config, &err) != DINOV_OK) sentence(err.msg);
    if (dinov_config_model(config, &m, &err) != DINOV_OK) {
        sentence(err.msg);
        return;
    }
    int64_t total = dinov_schedule_iterations(config), at[] = {0, 1, total / 2, total - 1, total};
    for (size_t i = 0; i < sizeof at / sizeof at[0]; i++) {
        dinov_rates r = dinov_schedule_rates(config, 1, at[i]);
        DINOV_ASSERT(isfinite(r.lr) && isfinite(r.last_layer_lr) && isfinite(r.weight_decay) && isfinite(r.momentum));
        DINOV_ASSERT(r.teacher_temp > 0 && isfinite(r.teacher_temp));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    dinov_config a, b, defaults;
    dinov_error  err  = {0};
    dinov_text   text = {0};

    dinov_config_default(&defaults);
    a = b = defaults;
    if (size > 0 && data[0] == '=')
        assign(&a, (const char *)data + 1, size - 1);
    else if (dinov_config_read(&a, data, size, "fuzz", note, NULL, &err) != DINOV_OK) {
        refused(&defaults, &a, &err);
        return 0;
    }
    use(&a);
    dinov_config_print(&a, &text);
    DINOV_ASSERT(!text.failed && dinov_config_read(&b, text.data, text.size, "fuzz", NULL, NULL, &err) == DINOV_OK);
    DINOV_ASSERT(memcmp(&a, &b, sizeof a) == 0);
    dinov_text_clear(&text);
    return 0;
}
