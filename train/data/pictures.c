/* SPDX-License-Identifier: Apache-2.0
 *
 * One open-addressed table by item under a lock; decoding happens outside of it. Two threads may decode
 * the same picture at the same time, and then one result is thrown away.
 */
#include "train/data/pictures.h"

#include "base/alloc.h"

#include <pthread.h>

enum { TOLD = 4096 }; /* unreadable pictures whose sentence is kept */

struct entry {
    int64_t      item; /* -1: free */
    dinov_image  image;
    dinov_error *why;  /* of an unreadable one */
    bool         told; /* of that: dinov_pictures_tell has */
};

struct dinov_pictures {
    const dinov_source *source;
    size_t              limit, bytes;
    pthread_mutex_t     lock;
    struct entry       *table;
    size_t              room, count; /* room: a power of two */
    int64_t             told;
    dinov_error         untold; /* stands for every unreadable picture after the first TOLD */
};

dinov_status dinov_pictures_new(dinov_pictures **out, const dinov_source *source, size_t limit, dinov_error *err)
{
    dinov_pictures *p = *out = dinov_calloc(1, sizeof *p);
    if (!p) return dinov_fail_nomem(err, "pictures", "their table");
    p->source = source;
    p->limit  = limit;
    pthread_mutex_init(&p->lock, NULL);
    dinov_raise(&p->untold, DINOV_ERR_CORRUPT, "DATA-UNREADABLE", "unreadable, as %d pictures before it", TOLD);
    return DINOV_OK;
}

void dinov_pictures_free(dinov_pictures **pictures)
{
    if (!pictures || !*pictures) return;
    dinov_pictures *p = *pictures;
    for (size_t i = 0; i < p->room; i++) {
        if (p->table[i].item < 0) continue;
        dinov_image_clear(&p->table[i].image);
        if (p->table[i].why != &p->untold) dinov_free(p->table[i].why);
    }
    pthread_mutex_destroy(&p->lock);
    dinov_free(p->table);
    dinov_free(p);
    *pictures = NULL;
}

/* ---- The table; the lock is held ---- */

/* The entry of an item, or the free one where it would go; NULL in an empty table. */
static struct entry *place(const dinov_pictures *p, int64_t item)
{
    if (!p->room) return NULL;
    size_t i = (size_t)((uint64_t)item * 0x9E3779B97F4A7C15u >> 20) & (p->room - 1);
    while (p->table[i].item >= 0 && p->table[i].item != item) i = (i + 1) & (p->room - 1);
    return &p->table[i];
}

/* Room for one more, at most half full. */
static bool grow(dinov_pictures *p)
{
    if (2 * (p->count + 1) <= p->room) return true;
    size_t        room = p->room ? 2 * p->room : 256, old_room = p->room;
    struct entry *table = dinov_alloc(room, sizeof *table), *old = p->table;
    if (!table) return false;
    for (size_t i = 0; i < room; i++) table[i] = (struct entry){.item = -1};
    p->table = table;
    p->room  = room;
    for (size_t i = 0; i < old_room; i++)
        if (old[i].item >= 0) *place(p, old[i].item) = old[i];
    dinov_free(old);
    return true;
}

/* What is known of an item, if anything. */
static bool recall(const dinov_pictures *p, int64_t item, dinov_image *out, const dinov_error **why)
{
    const struct entry *e = place(p, item);
    if (!e || e->item != item) return false;
    *out = e->image;
    *why = e->why;
    return true;
}

/* Remembers a picture; false when it is the caller's still: no room, or known already. */
static bool remember(dinov_pictures *p, int64_t item, const dinov_image *image)
{
    size_t        bytes = 3 * (size_t)(image->width * image->height) + 2 * sizeof(struct entry);
    struct entry *e     = place(p, item);
    if (bytes > p->limit - p->bytes || (e && e->item == item) || !grow(p)) return false;
    *place(p, item) = (struct entry){.item = item, .image = *image};
    p->count++;
    p->bytes += bytes;
    return true;
}

/* Remembers that an item is unreadable; NULL when memory is out. */
static const dinov_error *remember_bad(dinov_pictures *p, int64_t item, const dinov_error *error)
{
    dinov_error *why = p->told < TOLD ? dinov_alloc(1, sizeof *why) : &p->untold;
    if (!why || !grow(p)) {
        if (why != &p->untold) dinov_free(why);
        return NULL;
    }
    if (why != &p->untold) *why = *error, p->told++;
    *place(p, item) = (struct entry){.item = item, .why = why};
    p->count++;
    return why;
}

dinov_status dinov_pictures_get(dinov_pictures *pictures, int64_t item, dinov_image *out, bool *owned, const dinov_error **why,
                                dinov_error *err)
{
    dinov_pictures *p = pictures;
    dinov_error     error;

    *owned = false;
    *why   = NULL;
    pthread_mutex_lock(&p->lock);
    bool known = recall(p, item, out, why);
    pthread_mutex_unlock(&p->lock);
    if (known) return DINOV_OK;

    dinov_status status = dinov_source_decode(p->source, item, out, &error);
    if (status == DINOV_ERR_NOMEM) return dinov_fail(err, status, error.code, "%s", error.msg);
    pthread_mutex_lock(&p->lock);
    if (status == DINOV_OK)
        *owned = !remember(p, item, out);
    else if (!recall(p, item, out, why)) /* by another thread, meanwhile */
        *why = remember_bad(p, item, &error);
    else
        status = DINOV_OK;
    pthread_mutex_unlock(&p->lock);
    return status == DINOV_OK || *why ? DINOV_OK : dinov_fail_nomem(err, "pictures", "their table");
}

const dinov_error *dinov_pictures_tell(dinov_pictures *pictures, int64_t item)
{
    const dinov_error *why = NULL;
    pthread_mutex_lock(&pictures->lock);
    struct entry *e = place(pictures, item);
    if (e && e->item == item && !e->told) {
        why     = e->why;
        e->told = true;
    }
    pthread_mutex_unlock(&pictures->lock);
    return why;
}

size_t dinov_pictures_bytes(dinov_pictures *pictures)
{
    pthread_mutex_lock(&pictures->lock);
    size_t bytes = pictures->bytes;
    pthread_mutex_unlock(&pictures->lock);
    return bytes;
}
