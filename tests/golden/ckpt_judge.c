/* SPDX-License-Identifier: Apache-2.0
 *
 * What the C library makes of each file named: "VERDICT CODE PATH", one a line. With --rewrite IN OUT,
 * opens IN and writes what it holds to OUT.
 */
#include "dinov/format.h"

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
    for (int i = 1; i < argc; i++) {
        dinov_error  e      = {.code = "-"};
        dinov_status status = judge(argv[i], &e);
        printf("%s %s %s\n", verdict(status), e.code, argv[i]);
        if (status != DINOV_OK) fprintf(stderr, "%s\n", e.msg);
    }
    return 0;
}
