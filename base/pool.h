/* SPDX-License-Identifier: Apache-2.0
 *
 * A thread pool for loops over fixed blocks. The caller cuts the work into blocks whose size never
 * depends on the number of threads; which thread runs which block is decided as they become free.
 * So long as a block's result depends on its index alone, the bits are the same for any pool.
 *
 * A pool is used by one thread at a time. Workers spin for a short while between loops, because
 * loops follow each other within microseconds, and sleep after that.
 */
#ifndef DINOV_BASE_POOL_H
#define DINOV_BASE_POOL_H

#include "base/fail.h"

typedef struct dinov_pool dinov_pool;

/* `worker` is 0..threads-1: an index for scratch memory, never for results. */
typedef void (*dinov_block_fn)(void *arg, int64_t block, int worker);

/* The cores this process may use. */
int dinov_pool_cores(void);

/* threads 0: all cores this process may use. */
dinov_status dinov_pool_new(dinov_pool **out, int threads, dinov_error *err);
void         dinov_pool_free(dinov_pool **pool);

/* Threads that run blocks, the caller included; 1 for NULL. */
int dinov_pool_threads(const dinov_pool *pool);

/* Runs fn for 0..blocks-1 and returns when all are done. NULL runs them here, in order. */
void dinov_pool_run(dinov_pool *pool, int64_t blocks, dinov_block_fn fn, void *arg);

#endif
