/* SPDX-License-Identifier: Apache-2.0
 *
 * k-NN classification on frozen features as the official code defines it (dinov2/eval/knn.py): unit
 * vectors, the training items of largest dot product, votes of weight exp(similarity / temperature).
 *
 * Results are the same bits for any number of threads. A table of CPU operations is expected.
 */
#ifndef DINOV_EVAL_KNN_H
#define DINOV_EVAL_KNN_H

#include "eval/labelled.h"

enum { DINOV_KNN_CHOICES = 16 }; /* most values in a list of options */

typedef struct dinov_neighbour {
    float   similarity; /* dot product of the unit vectors */
    int32_t item;
} dinov_neighbour;

/*
 * out [queries, k]: for each query the k nearest of `items`, best first; of equals the lower item first.
 * query [queries, dim]; item [items, dim], of which only `rows` [items] when it is not NULL (out[].item
 * then counts within it). 1 <= k <= items < 2^31. All values finite. ERR_NOMEM.
 */
dinov_status dinov_neighbours(dinov_neighbour *out, int64_t k, const float *query, int64_t queries, const float *item,
                              const int32_t *rows, int64_t items, int64_t dim, const dinov_ops *ops, dinov_pool *pool,
                              dinov_error *err);

/* All zero means what the official code does by default. */
typedef struct dinov_knn_options {
    int64_t k[DINOV_KNN_CHOICES]; /* default 10, 20, 100, 200; all items vote where there are fewer */
    int     k_count;
    double  temperature; /* default 0.07 */
    /* Subsets of so many items of each class (all of a class that has fewer); -1 stands for the whole
     * set, which is the default. With n items a class, k is each value of the list up to n, and n. */
    int64_t per_class[DINOV_KNN_CHOICES];
    int     per_class_count;
    int     tries; /* subsets drawn for each, of which results are the means (default 1) */
    /* Draws are keyed by (seed, DINOV_RNG_PROBE, try, class): other subsets than the official code's,
     * which are torch.randperm's, and the same on every machine. */
    uint64_t seed;
} dinov_knn_options;

typedef struct dinov_knn_result {
    int64_t per_class, k; /* per_class -1: the whole set */
    double  top1, top5;   /* parts of 1. A tie goes to the lower class */
} dinov_knn_result;

/* cls[0] of both sets is compared. *out (dinov_free) receives *count results, in the order of
 * per_class and then of k. Errors: dinov_labelled_check's, ERR_CONFIG (EVAL-K, EVAL-TEMPERATURE), ERR_NOMEM. */
dinov_status dinov_knn(dinov_knn_result **out, int64_t *count, const dinov_labelled *train, const dinov_labelled *test,
                       const dinov_knn_options *options, const dinov_ops *ops, dinov_pool *pool, dinov_error *err);

#endif
