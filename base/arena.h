/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory by rehearsal: one function lays out an object by taking places from an arena. It runs twice,
 * first on an empty arena, which only adds up sizes, then on one that has memory.
 */
#ifndef DINOV_BASE_ARENA_H
#define DINOV_BASE_ARENA_H

#include "base/alloc.h"
#include "base/fail.h"

#include <string.h>

typedef struct dinov_arena {
    char  *memory; /* NULL while rehearsing */
    size_t used;
} dinov_arena; /* starts as {0} */

/* `count` elements of `size` bytes on a 64-byte boundary; NULL while rehearsing. Not cleared. */
static inline void *dinov_arena_take(dinov_arena *arena, int64_t count, size_t size)
{
    void *at = arena->memory ? arena->memory + arena->used : NULL;
    arena->used += ((size_t)count * size + 63) / 64 * 64;
    return at;
}

/* Ends the rehearsal: allocates what was counted, cleared. `what` names it in the message. */
static inline dinov_status dinov_arena_allocate(dinov_arena *arena, const char *what, dinov_error *err)
{
    arena->memory = (char *)dinov_alloc_aligned(arena->used ? arena->used : 1, 1);
    if (!arena->memory) return dinov_fail(err, DINOV_ERR_NOMEM, "MEM", "%s: out of memory for %zu MiB", what, arena->used >> 20);
    memset(arena->memory, 0, arena->used);
    arena->used = 0;
    return DINOV_OK;
}

static inline void dinov_arena_clear(dinov_arena *arena)
{
    dinov_free(arena->memory);
    *arena = (dinov_arena){0};
}

#endif
