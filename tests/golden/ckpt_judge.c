/* SPDX-License-Identifier: Apache-2.0
 *
 * What the C library makes of each file named: "VERDICT CODE PATH", one a line; with --training first, of each manifest
 * (.json), file of state (.safetensors) or folder of a checkpoint. With --rewrite IN OUT, opens IN and writes what it holds
 * to OUT.
 */
#include "base/alloc.h"
#include "base/file.h"
#include "format/training.h"

#include <stdio.h>
#include <string.h>

static const char *verdict(dinov_status status)
{
    switch (status) {
    case DINOV_OK: return "ok";
    case DINOV_ERR_FORMAT: return "format";
    case DINOV_ERR_VERSION: return "version";
    case DINOV_ERR_CORRUPT: return "corrupt";
    case DINOV_ERR_SHAPE: return "shape";
    case DINOV_ERR_LIMIT: return "limit";
    default: return "failed";
    }
}

static dinov_status judge(const char *path, dinov_error *err)
{
    dinov_checkpoint *ckpt;
    dinov_status      status = dinov_checkpoint_open(&ckpt, path, err);
    if (status == DINOV_OK) status = dinov_checkpoint_verify(ckpt, 2, err);
    if (status == DINOV_OK) status = dinov_checkpoint_verify_id(ckpt, 2, err);
    dinov_checkpoint_close(&ckpt);
    return status;
}

static bool ends(const char *path, const char *end)
{
    size_t n = strlen(path), m = strlen(end);
    return n > m && strcmp(path + n - m, end) == 0;
}

static dinov_status judge_manifest(const char *path, dinov_error *err)
{
    dinov_manifest m;
    void          *bytes, *storage;
    size_t         size;
    DINOV_TRY(dinov_file_read(&bytes, &size, path, SIZE_MAX, err));
    dinov_status status = dinov_manifest_parse(&m, &storage, bytes, size, path, err);
    dinov_manifest_free(storage);
    dinov_free(bytes);
    return status;
}

static dinov_status judge_training(const char *path, dinov_error *err)
{
    dinov_state_file *state;
    dinov_training   *step;
    dinov_map         map;
    dinov_status      status;
    if (ends(path, ".json")) return judge_manifest(path, err);
    if (ends(path, ".safetensors")) {
        DINOV_TRY(dinov_map_open(&map, path, err));
        status = dinov_state_open(&state, map, path, err);
        if (status == DINOV_OK) status = dinov_container_verify(dinov_state_container(state), 2, err);
        dinov_state_close(&state);
        return status;
    }
    status = dinov_training_open(&step, path, err);
    if (status == DINOV_OK) status = dinov_training_verify(step, 2, err);
    dinov_training_close(&step);
    return status;
}

static dinov_status rewrite(const char *in, const char *out, dinov_error *err)
{
    dinov_checkpoint         *ckpt;
    const dinov_write_options options = {.threads = 2};
    dinov_status              status  = dinov_checkpoint_open(&ckpt, in, err);
    if (status == DINOV_OK)
        status = dinov_checkpoint_write(out, dinov_checkpoint_weights(ckpt), dinov_checkpoint_provenance(ckpt),
                                        dinov_checkpoint_proof(ckpt), &options, err);
    dinov_checkpoint_close(&ckpt);
    return status;
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "--rewrite") == 0) {
        dinov_error e;
        if (rewrite(argv[2], argv[3], &e) == DINOV_OK) return 0;
        fprintf(stderr, "%s %s\n", e.code, e.msg);
        return 1;
    }
    bool training = argc > 1 && strcmp(argv[1], "--training") == 0;
    for (int i = 1 + training; i < argc; i++) {
        dinov_error  e      = {.code = "-"};
        dinov_status status = training ? judge_training(argv[i], &e) : judge(argv[i], &e);
        printf("%s %s %s\n", verdict(status), e.code, argv[i]);
        if (status != DINOV_OK) fprintf(stderr, "%s\n", e.msg);
    }
    return 0;
}
