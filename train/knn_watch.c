/* SPDX-License-Identifier: Apache-2.0 */
#include "train/knn_watch.h"

#include "base/alloc.h"
#include "eval/knn.h"
#include "eval/set.h"
#include "format/params.h"

#include <stdio.h>
#include <string.h>

enum { MOST_PATHS = 256, BATCH = 64, MOST_TOKENS = 32768 };

struct dinov_knn_watch {
    dinov_source *train, *test;
    int64_t       size;
    int           threads;
};

static dinov_status open_set(dinov_source **out, const char *paths, dinov_error *err)
{
    const char       *list[MOST_PATHS];
    char             *text = dinov_strdup(paths), *rest = text;
    dinov_source_spec spec = {.paths = list, .label_folders = 1};
    if (!text) return dinov_fail_nomem(err, "k-NN", "its paths");
    for (char *path; spec.path_count < MOST_PATHS && (path = strtok_r(rest, ":", &rest));) list[spec.path_count++] = path;
    dinov_status status = dinov_source_open(out, &spec, err);
    dinov_free(text);
    return status;
}

dinov_status dinov_knn_watch_open(dinov_knn_watch **out, const char *train, const char *test, int64_t size, int threads,
                                  dinov_error *err)
{
    dinov_knn_watch *p = dinov_calloc(1, sizeof *p);
    *out               = NULL;
    if (!p) return dinov_fail_nomem(err, "k-NN", "itself");
    p->size = size, p->threads = threads;
    dinov_status status = open_set(&p->train, train, err);
    if (status == DINOV_OK) status = open_set(&p->test, test, err);
    if (status != DINOV_OK) dinov_knn_watch_close(&p);
    *out = p;
    return status;
}

void dinov_knn_watch_close(dinov_knn_watch **probe)
{
    if (!probe || !*probe) return;
    dinov_source_close(&(*probe)->train);
    dinov_source_close(&(*probe)->test);
    dinov_free(*probe);
    *probe = NULL;
}

/* An engine of the average, as it is now. */
static dinov_status open_average(dinov_engine **out, const dinov_train_state *s, const dinov_model *model, const char *isa,
                                 int threads, dinov_error *err)
{
    dinov_named_tensor *tensors = dinov_calloc((size_t)s->set->count, sizeof *tensors);
    dinov_weights       weights = {.model = *model, .tensors = tensors};
    if (!tensors) return dinov_fail_nomem(err, "k-NN", "the model's tensors");
    dinov_preprocess_default(&weights.preprocess, model);
    for (int64_t i = 0; i < s->set->count; i++) {
        const dinov_paramset_entry *e = &s->set->entries[i];
        if (e->module != 0) continue;
        dinov_named_tensor *t = &tensors[weights.count++];
        t->name               = e->name + strlen("backbone.");
        t->tensor             = (dinov_tensor){.data = (const float *)s->average + e->offset, .dtype = DINOV_F32, .rank = e->rank};
        memcpy(t->tensor.dim, e->dim, sizeof e->dim);
    }
    dinov_status status = dinov_engine_open_weights(out, &weights, &(dinov_engine_options){.threads = threads, .isa = isa}, err);
    dinov_free(tensors);
    return status;
}

dinov_status dinov_knn_watch_run(dinov_knn_watch *p, double *top1, const dinov_train_state *state, const dinov_model *model,
                                 const dinov_ops *ops, dinov_pool *pool, dinov_error *err)
{
    dinov_set         train = {0}, test = {0};
    dinov_engine     *engine  = NULL;
    dinov_knn_result *results = NULL;
    int64_t           count;
    dinov_knn_options knn     = {.k = {20}, .k_count = 1};
    dinov_set_options options = {.preset     = {DINOV_PRESET_SQUARE, p->size},
                                 .batch      = BATCH,
                                 .max_tokens = MOST_TOKENS,
                                 .threads    = p->threads,
                                 .max_bad    = 1,
                                 .percent    = true};

    dinov_status status = open_average(&engine, state, model, ops->name, p->threads, err);
    if (status == DINOV_OK) status = dinov_set_extract(&train, "evaluation.knn_train", engine, p->train, &options, err);
    if (status == DINOV_OK) status = dinov_set_extract(&test, "evaluation.knn_test", engine, p->test, &options, err);
    if (status == DINOV_OK) status = dinov_set_match(&test, &train, err);
    if (status == DINOV_OK) status = dinov_knn(&results, &count, &train.view, &test.view, &knn, ops, pool, err);
    if (status == DINOV_OK) *top1 = results[0].top1;
    dinov_free(results);
    dinov_set_close(&train);
    dinov_set_close(&test);
    dinov_engine_close(&engine);
    return status;
}
