/* SPDX-License-Identifier: Apache-2.0
 *
 * The only place that asks the C library for memory, so that tests can count and fail allocations.
 * Sizes are products of counts that may come from a file: the two-argument forms check overflow.
 */
#ifndef DINOV_BASE_ALLOC_H
#define DINOV_BASE_ALLOC_H

#include "base/fail.h"

/* All return NULL when memory is out or count * size overflows; a zero size gives a valid pointer. */
void *dinov_alloc(size_t count, size_t size);
void *dinov_calloc(size_t count, size_t size);
void *dinov_realloc(void *p, size_t count, size_t size); /* on NULL, p is untouched */
void *dinov_alloc_aligned(size_t count, size_t size);    /* 64-byte aligned */
char *dinov_strdup(const char *text);
void  dinov_free(void *p); /* NULL allowed; for all of the above */

/* The standard sentence: "FILE: out of memory for N bytes of WHAT". */
dinov_status dinov_fail_nomem(dinov_error *err, const char *where, const char *what);

/* Tests only: the n-th allocation from now fails (n >= 1), and with `forever` every later one;
 * 0 switches it off. */
void dinov_alloc_fail_at(long n, int forever);

/* Allocations made so far; a test asserts that a steady state adds none. */
long dinov_alloc_count(void);

#endif
