/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as each of the three documents of Hugging Face's, and as an index whose shards are not at hand.
 */
#include "base/fail.h"
#include "convert/hf.h"

#include <math.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_error(dinov_status status, const dinov_error *err)
{
    DINOV_ASSERT(err->status == status && err->code[0] && err->msg[0]);
    for (const char *p = err->msg; *p; p++) DINOV_ASSERT(*p >= ' ' && *p < 127);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    dinov_error      err = {0};
    dinov_hf_config  config;
    dinov_preprocess preprocess = {.preset = ""};
    bool             said       = false;
    json_t          *map;
    dinov_shards     shards;
    dinov_files      files = {.where = "fuzz", .folder = -1};

    dinov_status status = dinov_hf_config_read(&config, data, size, "fuzz", &err);
    if (status != DINOV_OK)
        check_error(status, &err);
    else
        DINOV_ASSERT(config.dim >= 0 && config.heads >= 0 && config.patch >= 0 && config.ln_eps >= 0 && config.ln_eps < 1);

    status = dinov_hf_preprocess_read(&preprocess, &said, data, size, "fuzz", &err);
    if (status != DINOV_OK)
        check_error(status, &err);
    else if (said)
        for (int i = 0; i < 3; i++)
            DINOV_ASSERT(preprocess.preset[0] && isfinite(preprocess.mean[i]) && isfinite(preprocess.std[i]) &&
                         preprocess.std[i] > 0);

    status = dinov_hf_index_read(&map, data, size, "fuzz", &err);
    if (status != DINOV_OK)
        check_error(status, &err);
    else
        json_decref(map);

    status = dinov_shards_read(&shards, &files, data, size, "fuzz", &err);
    DINOV_ASSERT(status != DINOV_OK);
    check_error(status, &err);
    dinov_shards_clear(&shards);
    return 0;
}
