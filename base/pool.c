/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "base/pool.h"

#include "base/alloc.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>

enum { MAX_THREADS = 1024, SPINS = 20000 };

struct worker {
    dinov_pool *pool;
    int         index;
    pthread_t   thread;
};

struct dinov_pool {
    int            threads;
    struct worker *workers; /* [threads - 1]; the caller is worker 0 */

    /* The loop under way, published by the increment of `generation`. */
    dinov_block_fn fn;
    void          *arg;
    int64_t        blocks;

    _Alignas(64) atomic_llong next;     /* first block nobody has taken */
    _Alignas(64) atomic_int running;    /* workers that have not finished this loop */
    _Alignas(64) atomic_uint generation;
    atomic_bool     stop;
    pthread_mutex_t lock;
    pthread_cond_t  wake;
};

static void pause_cpu(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void take_blocks(dinov_pool *pool, int worker)
{
    for (;;) {
        int64_t block = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);
        if (block >= pool->blocks) return;
        pool->fn(pool->arg, block, worker);
    }
}

/* Waits for a generation other than `seen`: spins, then sleeps. */
static unsigned next_generation(dinov_pool *pool, unsigned seen)
{
    for (int i = 0; i < SPINS; i++) {
        unsigned now = atomic_load_explicit(&pool->generation, memory_order_acquire);
        if (now != seen) return now;
        pause_cpu();
    }
    pthread_mutex_lock(&pool->lock);
    unsigned now;
    while ((now = atomic_load_explicit(&pool->generation, memory_order_acquire)) == seen)
        pthread_cond_wait(&pool->wake, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
    return now;
}

static void *work(void *arg)
{
    struct worker *self = arg;
    dinov_pool    *pool = self->pool;
    unsigned       seen = 0;
    for (;;) {
        seen = next_generation(pool, seen);
        if (atomic_load_explicit(&pool->stop, memory_order_relaxed)) return NULL;
        take_blocks(pool, self->index);
        atomic_fetch_sub_explicit(&pool->running, 1, memory_order_release);
    }
}

static void publish(dinov_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add_explicit(&pool->generation, 1, memory_order_release);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
}

void dinov_pool_run(dinov_pool *pool, int64_t blocks, dinov_block_fn fn, void *arg)
{
    if (!pool || pool->threads == 1 || blocks <= 1) {
        for (int64_t i = 0; i < blocks; i++) fn(arg, i, 0);
        return;
    }
    pool->fn     = fn;
    pool->arg    = arg;
    pool->blocks = blocks;
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    atomic_store_explicit(&pool->running, pool->threads - 1, memory_order_relaxed);
    publish(pool);
    take_blocks(pool, 0);
    for (int spins = 0; atomic_load_explicit(&pool->running, memory_order_acquire) != 0; spins++)
        if (spins < SPINS) pause_cpu();
        else sched_yield();
}

int dinov_pool_cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
    return 1;
}

dinov_status dinov_pool_new(dinov_pool **out, int threads, dinov_error *err)
{
    *out = NULL;
    if (threads == 0) threads = dinov_pool_cores();
    if (threads < 1 || threads > MAX_THREADS)
        return dinov_fail(err, DINOV_ERR_CONFIG, "OPT-THREADS", "threads: expected 0 (all cores) to %d, found %d",
                          MAX_THREADS, threads);
    dinov_pool *pool = dinov_alloc_aligned(1, sizeof *pool);
    if (!pool) return dinov_fail_nomem(err, "thread pool", "itself");
    *pool         = (dinov_pool){.threads = 1};
    pool->workers = dinov_calloc((size_t)threads, sizeof *pool->workers);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    if (!pool->workers) {
        dinov_pool_free(&pool);
        return dinov_fail_nomem(err, "thread pool", "its workers");
    }
    for (int i = 0; i < threads - 1; i++) {
        pool->workers[i] = (struct worker){.pool = pool, .index = i + 1};
        int reason       = pthread_create(&pool->workers[i].thread, NULL, work, &pool->workers[i]);
        if (reason != 0) {
            dinov_pool_free(&pool);
            return dinov_fail_errno(err, reason, "SYS-THREAD", "thread pool: cannot start thread %d of %d", i + 2, threads);
        }
        pool->threads++;
    }
    *out = pool;
    return DINOV_OK;
}

void dinov_pool_free(dinov_pool **pool)
{
    if (!pool || !*pool) return;
    dinov_pool *p = *pool;
    *pool         = NULL;
    atomic_store_explicit(&p->stop, true, memory_order_relaxed);
    publish(p);
    for (int i = 0; i < p->threads - 1; i++) pthread_join(p->workers[i].thread, NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    dinov_free(p->workers);
    dinov_free(p);
}

int dinov_pool_threads(const dinov_pool *pool) { return pool ? pool->threads : 1; }
