/* SPDX-License-Identifier: Apache-2.0
 *
 * The same numbers in float and in double, with guards around them: what kernels_check compares tables with.
 */
#ifndef DINOV_TESTS_KERNELS_PAIRS_H
#define DINOV_TESTS_KERNELS_PAIRS_H

#include "base/alloc.h"
#include "kernels/ops.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

extern int         failures, checks;
extern const char *table; /* under test */

void  report(int ok, const char *format, ...) DINOV_PRINTF(2, 3);
float uniform(void); /* -1..1 */
void *must(void *p);

/* GUARD stands wherever no op may write: between rows, and in a row after the last. */
#define GUARD 12345.678f

struct pair {
    dinov_mat f, d;
};

struct pair pair_new(int64_t rows, int64_t cols, int random);
struct pair pair_packed(int64_t rows, int64_t cols, int random); /* no gap between rows */
struct pair pair_copy(const struct pair *p);
void        pair_free(struct pair *p);
float      *vector(int64_t n, double **wide);

/* ||f - d|| / ||d||, infinite when a guard was overwritten or a result is missing. */
double difference(const struct pair *p);
/* What it may be: `limit`, or twice that for one to three values, which can be all that is left of terms that cancel. */
double allowed(const struct pair *p, double limit);
int    same_bits(const dinov_mat *a, const dinov_mat *b);

/* training.c */
void check_training(const dinov_ops *ops, dinov_pool *pool);
void bench_training(const dinov_ops *ops, dinov_pool *pool);

extern const char *bench_only;

/* bench.c: the median over some seconds of the rate of run(arg), as a fraction of the same of the machine taken before and
 * after each time. `flops`: floating-point operations of one run, against fused multiply-adds; else `bytes`, read and
 * written, against copying of memory. */
void bench(dinov_pool *pool, const char *what, double flops, double bytes, void (*run)(void *), void *arg);

#endif
