/* SPDX-License-Identifier: Apache-2.0 */
#include "base/alloc.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

enum { ALIGNMENT = 64, HUGE_PAGE = 2 << 20 };

static atomic_long count_;
static atomic_long fail_at_;
static atomic_int  fail_forever_;

static int refused(void)
{
    long now = atomic_fetch_add_explicit(&count_, 1, memory_order_relaxed) + 1;
    long at  = atomic_load_explicit(&fail_at_, memory_order_relaxed);
    return at != 0 && (now == at || (now > at && atomic_load_explicit(&fail_forever_, memory_order_relaxed)));
}

static size_t product(size_t count, size_t size, int *overflow)
{
    size_t total;
    *overflow = __builtin_mul_overflow(count, size, &total);
    return total ? total : 1;
}

void *dinov_alloc(size_t count, size_t size)
{
    int    overflow;
    size_t total = product(count, size, &overflow);
    return overflow || refused() ? NULL : malloc(total);
}

void *dinov_calloc(size_t count, size_t size)
{
    return refused() ? NULL : calloc(count ? count : 1, size ? size : 1);
}

void *dinov_realloc(void *p, size_t count, size_t size)
{
    int    overflow;
    size_t total = product(count, size, &overflow);
    return overflow || refused() ? NULL : realloc(p, total);
}

void *dinov_alloc_aligned(size_t count, size_t size)
{
    int    overflow;
    size_t total = product(count, size, &overflow);
    if (overflow || total > SIZE_MAX - ALIGNMENT || refused()) return NULL;
    /* Rows of a large block lie on many pages: asking for huge ones saves most of the address lookups. */
    size_t alignment = total < 2 * HUGE_PAGE ? ALIGNMENT : HUGE_PAGE;
    void  *p;
    if (posix_memalign(&p, alignment, total) != 0) return NULL;
#if defined(__linux__)
    if (alignment == HUGE_PAGE) (void)madvise(p, total / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
#endif
    return p;
}

char *dinov_strdup(const char *text)
{
    size_t size = strlen(text) + 1;
    char  *copy = dinov_alloc(size, 1);
    if (copy) memcpy(copy, text, size);
    return copy;
}

void dinov_free(void *p) { free(p); }

dinov_status dinov_fail_nomem(dinov_error *err, const char *where, const char *what)
{
    return dinov_fail(err, DINOV_ERR_NOMEM, "MEM", "%s: out of memory for %s", where, what);
}

void dinov_alloc_fail_at(long n, int forever)
{
    atomic_store(&fail_forever_, forever);
    atomic_store(&fail_at_, n ? atomic_load(&count_) + n : 0);
}

long dinov_alloc_count(void) { return atomic_load(&count_); }
