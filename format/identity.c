/* SPDX-License-Identifier: Apache-2.0 */
#include "format/identity.h"

#include "base/alloc.h"
#include "base/dtype.h"
#include "base/pool.h"
#include "format/table.h"

#include <stdio.h>

/* ---- The content id: what the tensors are, whatever file they lie in ---- */

struct hashed {
    const dinov_named_tensor *tensor;
    dinov_status              status;
    char                      hex[DINOV_SHA_HEX + 1];
};

static void hash_one(void *arg, int64_t i, int worker)
{
    struct hashed *h = (struct hashed *)arg + i;
    dinov_sha256   sha;
    uint64_t       bytes = 0;
    (void)worker;
    h->status = dinov_sha256_init(&sha, NULL);
    if (h->status != DINOV_OK) return;
    dinov_tensor_bytes(&h->tensor->tensor, &bytes);
    dinov_sha256_add(&sha, h->tensor->tensor.data, bytes);
    dinov_sha256_done(&sha, h->hex);
}

/* "NAME DTYPE [D0,D1] SHA256\n" */
static void add_line(dinov_text *list, const struct hashed *h)
{
    const dinov_tensor *t = &h->tensor->tensor;
    dinov_text_puts(list, h->tensor->name);
    dinov_text_puts(list, " ");
    dinov_text_puts(list, dinov_dtype_name(t->dtype));
    dinov_text_puts(list, " [");
    for (int d = 0; d < t->rank; d++) {
        if (d) dinov_text_puts(list, ",");
        dinov_text_int(list, t->dim[d]);
    }
    dinov_text_puts(list, "] ");
    dinov_text_puts(list, h->hex);
    dinov_text_puts(list, "\n");
}

dinov_status dinov_content_id(char out[72], const dinov_named_tensor *tensors, size_t count, int threads,
                              dinov_error *err)
{
    static const char          where[] = "content id";
    dinov_status               status;
    dinov_pool                *pool   = NULL;
    dinov_text                 list   = {0};
    dinov_sha256               sha;
    char                       hex[DINOV_SHA_HEX + 1];
    struct hashed             *hashed = dinov_calloc(count, sizeof *hashed);
    const dinov_named_tensor **sorted = dinov_alloc(count, sizeof *sorted);

    if (!hashed || !sorted) {
        status = dinov_fail_nomem(err, where, "the list of tensors");
        goto fail;
    }
    for (size_t i = 0; i < count; i++) sorted[i] = &tensors[i];
    DINOV_TRY_GOTO(dinov_table_sort(sorted, count, where, err)); /* for its checks of sizes */
    DINOV_TRY_GOTO(dinov_table_sort_names(sorted, count, where, err));
    for (size_t i = 0; i < count; i++) hashed[i].tensor = sorted[i];

    DINOV_TRY_GOTO(dinov_pool_new(&pool, threads, err));
    dinov_pool_run(pool, (int64_t)count, hash_one, hashed);
    for (size_t i = 0; i < count; i++) {
        if (hashed[i].status != DINOV_OK) {
            status = dinov_fail_nomem(err, where, "SHA-256");
            goto fail;
        }
        add_line(&list, &hashed[i]);
    }
    if (list.failed) {
        status = dinov_fail_nomem(err, where, "the list of tensors");
        goto fail;
    }
    DINOV_TRY_GOTO(dinov_sha256_init(&sha, err));
    dinov_sha256_add(&sha, list.data, list.size);
    dinov_sha256_done(&sha, hex);
    snprintf(out, 72, "sha256:%s", hex);
fail:
    dinov_text_clear(&list);
    dinov_pool_free(&pool);
    dinov_free(sorted);
    dinov_free(hashed);
    return status;
}

/* ---- With the file they come from ---- */

void dinov_identity_zeros(dinov_identity *out, bool source)
{
    snprintf(out->content_id, sizeof out->content_id, "sha256:%0*d", DINOV_SHA_HEX, 0);
    *out->source_sha256 = '\0';
    if (source) snprintf(out->source_sha256, sizeof out->source_sha256, "%0*d", DINOV_SHA_HEX, 0);
}

struct finding {
    dinov_identity           *out;
    const dinov_named_tensor *tensors;
    size_t                    count;
    dinov_span                source;
    dinov_status              status[2];
    dinov_error               err[2];
};

static dinov_status hash_source(char out[DINOV_SHA_HEX + 1], dinov_span source, dinov_error *err)
{
    dinov_sha256 sha;
    DINOV_TRY(dinov_sha256_init(&sha, err));
    dinov_sha256_add(&sha, source.data, source.size);
    dinov_sha256_done(&sha, out);
    return DINOV_OK;
}

static void find_one(void *arg, int64_t which, int worker)
{
    struct finding *f = arg;
    (void)worker;
    f->status[which] = which == 0 ? dinov_content_id(f->out->content_id, f->tensors, f->count, 1, &f->err[0])
                                  : hash_source(f->out->source_sha256, f->source, &f->err[1]);
}

dinov_status dinov_identity_find(dinov_identity *out, const dinov_named_tensor *tensors, size_t count, dinov_span source,
                                 int threads, dinov_error *err)
{
    struct finding f    = {.out = out, .tensors = tensors, .count = count, .source = source};
    dinov_pool    *pool = NULL;

    *out = (dinov_identity){0};
    if (source.size == 0) return dinov_content_id(out->content_id, tensors, count, threads, err);
    if (threads != 1) DINOV_TRY(dinov_pool_new(&pool, 2, err));
    dinov_pool_run(pool, 2, find_one, &f);
    dinov_pool_free(&pool);
    for (int i = 0; i < 2; i++) {
        if (f.status[i] == DINOV_OK) continue;
        if (err) *err = f.err[i];
        return f.status[i];
    }
    return DINOV_OK;
}
