/* SPDX-License-Identifier: Apache-2.0
 *
 * eval/ on arrays that parity.py writes, with every number an oracle can inject.
 *
 *   eval_probe knn FOLDER K       train.npy, test.npy -> similarity.npy, item.npy [queries, K]
 *   eval_probe linear FOLDER CLASSES RATES...
 *       cls0.npy .. cls3.npy, mean.npy, labels.npy, the same with test- before them, rows.npy [iterations, batch],
 *       weight-N.npy, bias-N.npy -> final-weight-N.npy, final-bias-N.npy, and a line "NAME TOP1 TOP5" each
 */
#include "base/alloc.h"
#include "base/file.h"
#include "eval/knn.h"
#include "eval/linear.h"
#include "infer/npy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *folder;
static dinov_error err;

static void must(dinov_status status)
{
    if (status == DINOV_OK) return;
    fprintf(stderr, "%s [%s]\n", err.msg, err.code);
    exit(1);
}

static const float   *floats(const dinov_npy *npy) { return (const float *)(const void *)npy->data; }
static const int32_t *ints(const dinov_npy *npy) { return (const int32_t *)(const void *)npy->data; }

static const char *path_of(const char *name, int number, const char *end)
{
    static char path[4096];
    if (number < 0)
        snprintf(path, sizeof path, "%s/%s%s", folder, name, end);
    else
        snprintf(path, sizeof path, "%s/%s%d%s", folder, name, number, end);
    return path;
}

/* An array of 4-byte elements; never given back. */
static dinov_npy load(const char *name, int number)
{
    dinov_map   map;
    dinov_npy   npy;
    const char *path = path_of(name, number, ".npy");
    must(dinov_map_open(&map, path, &err));
    must(dinov_npy_parse(&npy, map.data, map.size, path, &err));
    DINOV_ASSERT(npy.descr_size == 5 && npy.descr[3] == '4' && (uintptr_t)npy.data % 4 == 0);
    return npy;
}

static void save(const char *name, int number, const char *descr, const void *data, int64_t rows, int64_t cols)
{
    dinov_npy_out out;
    int64_t       dim[] = {0, cols};
    must(dinov_npy_create(&out, path_of(name, number, ".npy"), descr, 2, dim, 1, &err));
    must(dinov_npy_append(&out, data, (size_t)(rows * cols) * 4, rows, &err));
    must(dinov_npy_commit(&out, &err));
}

static void knn(const dinov_ops *ops, int64_t k)
{
    dinov_npy        train = load("train", -1), test = load("test", -1);
    int64_t          queries = test.dim[0];
    dinov_neighbour *out     = dinov_alloc((size_t)(queries * k), sizeof *out);
    float           *value   = dinov_alloc((size_t)(queries * k), sizeof *value);
    int32_t         *item    = dinov_alloc((size_t)(queries * k), sizeof *item);

    DINOV_ASSERT(out && value && item);
    must(dinov_neighbours(out, k, floats(&test), queries, floats(&train), NULL, train.dim[0], train.dim[1], ops, NULL, &err));
    for (int64_t i = 0; i < queries * k; i++) value[i] = out[i].similarity, item[i] = out[i].item;
    save("similarity", -1, "'<f4'", value, queries, k);
    save("item", -1, "'<i4'", item, queries, k);
    dinov_free(out), dinov_free(value), dinov_free(item);
}

/* Views of PREFIXcls0.npy and so on. */
static dinov_labelled load_set(const char *prefix)
{
    char           name[32];
    dinov_npy      npy;
    dinov_labelled set = {.name = prefix};
    for (int b = 0; b < DINOV_LABELLED_BLOCKS; b++) {
        snprintf(name, sizeof name, "%scls", prefix);
        npy        = load(name, b);
        set.cls[b] = floats(&npy);
    }
    snprintf(name, sizeof name, "%smean", prefix);
    npy      = load(name, -1);
    set.mean = floats(&npy);
    set.dim  = npy.dim[1];
    snprintf(name, sizeof name, "%slabels", prefix);
    npy        = load(name, -1);
    set.labels = ints(&npy);
    set.count  = npy.dim[0];
    return set;
}

static void linear(const dinov_ops *ops, int64_t classes, int rates, char **rate)
{
    dinov_npy           rows  = load("rows", -1);
    dinov_labelled      train = load_set(""), test = load_set("test-");
    dinov_probe_options o = {.rate_count = rates, .batch = rows.dim[1], .iterations = rows.dim[0]};
    dinov_probe_score   scores[4 * DINOV_PROBE_RATES];
    dinov_probe        *probe;
    float              *weight, *bias;

    for (int r = 0; r < rates; r++) o.rates[r] = strtod(rate[r], NULL);
    must(dinov_probe_new(&probe, &train, classes, &o, ops, NULL, &err));
    for (int i = 0; i < dinov_probe_count(probe); i++) {
        dinov_npy w = load("weight-", i), b = load("bias-", i);
        int64_t   inputs = dinov_probe_weights(probe, i, &weight, &bias);
        DINOV_ASSERT(w.dim[0] == classes && w.dim[1] == inputs);
        memcpy(weight, w.data, (size_t)(classes * inputs) * 4);
        memcpy(bias, b.data, (size_t)classes * 4);
    }
    for (int64_t i = 0; i < rows.dim[0]; i++) dinov_probe_step(probe, ints(&rows) + i * rows.dim[1]);
    must(dinov_probe_evaluate(probe, &test, scores, &err));
    for (int i = 0; i < dinov_probe_count(probe); i++) {
        int64_t inputs = dinov_probe_weights(probe, i, &weight, &bias);
        save("final-weight-", i, "'<f4'", weight, classes, inputs);
        save("final-bias-", i, "'<f4'", bias, 1, classes);
        printf("%s %.9g %.9g\n", dinov_probe_get(probe, i)->name, scores[i].top1, scores[i].top5);
    }
    dinov_probe_free(&probe);
}

int main(int argc, char **argv)
{
    const dinov_ops *ops;
    must(dinov_ops_cpu(&ops, NULL, &err));
    DINOV_ASSERT(argc >= 4);
    folder = argv[2];
    if (strcmp(argv[1], "knn") == 0) knn(ops, atoi(argv[3]));
    if (strcmp(argv[1], "linear") == 0) linear(ops, atoi(argv[3]), argc - 4, argv + 4);
    return 0;
}
