/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/tensors.h"

#include "base/alloc.h"
#include "base/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

dinov_status dinov_tensors_own(dinov_tensors *list, void *p, const char *where, dinov_error *err)
{
    if (list->owned_count == list->owned_room) {
        size_t room  = list->owned_room ? 2 * list->owned_room : 64;
        void **owned = dinov_realloc(list->owned, room, sizeof *owned);
        if (!owned) {
            dinov_free(p);
            return dinov_fail_nomem(err, where, "the list of tensors");
        }
        list->owned      = owned;
        list->owned_room = room;
    }
    list->owned[list->owned_count++] = p;
    return DINOV_OK;
}

dinov_status dinov_tensors_room(dinov_tensors *list, void **out, uint64_t bytes, const char *where, dinov_error *err)
{
    if (list->scratch) return dinov_scratch_take(list->scratch, out, bytes, where, err);
    *out = dinov_alloc_aligned(bytes, 1);
    return *out ? dinov_tensors_own(list, *out, where, err) : dinov_fail_nomem(err, where, "a tensor that must be copied");
}

dinov_status dinov_tensors_add(dinov_tensors *list, const char *name, size_t size, const dinov_tensor *tensor, const char *where,
                               dinov_error *err)
{
    char text[DINOV_ESCAPED];
    if (size == 0 || size > DINOV_TENSORS_NAME || !dinov_text_printable(name, size))
        return dinov_fail(err, DINOV_ERR_FORMAT, "NAME-BAD",
                          "%s: tensor name \"%s\": expected 1 to %d bytes of printable UTF-8, found %zu bytes%s", where,
                          dinov_escape(text, sizeof text, name, size), DINOV_TENSORS_NAME, size,
                          size && size <= DINOV_TENSORS_NAME ? " that are not" : "");
    if (list->count == DINOV_TENSORS_MAX)
        return dinov_fail(err, DINOV_ERR_LIMIT, "NAME-COUNT", "%s: expected at most %d tensors, found more", where,
                          DINOV_TENSORS_MAX);
    if (list->count == list->room) {
        size_t              room  = list->room ? 2 * list->room : 64;
        dinov_named_tensor *items = dinov_realloc(list->items, room, sizeof *items);
        if (!items) return dinov_fail_nomem(err, where, "the list of tensors");
        list->items = items;
        list->room  = room;
    }
    char *copy = dinov_alloc(size + 1, 1);
    if (!copy) return dinov_fail_nomem(err, where, "a tensor name");
    memcpy(copy, name, size);
    copy[size] = '\0';
    DINOV_TRY(dinov_tensors_own(list, copy, where, err));
    list->items[list->count++] = (dinov_named_tensor){copy, *tensor};
    return DINOV_OK;
}

void dinov_tensors_clear(dinov_tensors *list)
{
    for (size_t i = 0; i < list->owned_count; i++) dinov_free(list->owned[i]);
    dinov_free(list->owned);
    dinov_free(list->items);
    *list = (dinov_tensors){0};
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const dinov_named_tensor *const *)a)->name, (*(const dinov_named_tensor *const *)b)->name);
}

static int name_is(const void *key, const void *entry) { return strcmp(key, (*(const dinov_named_tensor *const *)entry)->name); }

const dinov_named_tensor **dinov_tensors_sort(const dinov_named_tensor *tensors, size_t count)
{
    const dinov_named_tensor **sorted = dinov_alloc(count, sizeof *sorted);
    for (size_t i = 0; sorted && i < count; i++) sorted[i] = &tensors[i];
    if (sorted) qsort(sorted, count, sizeof *sorted, by_name);
    return sorted;
}

const dinov_named_tensor *dinov_tensors_find(const dinov_named_tensor *const *sorted, size_t count, const char *name)
{
    const dinov_named_tensor *const *hit = bsearch(name, sorted, count, sizeof *sorted, name_is);
    return hit ? *hit : NULL;
}

const char *dinov_shape_text(char out[DINOV_SHAPE_TEXT], const dinov_tensor *tensor)
{
    size_t used = (size_t)snprintf(out, DINOV_SHAPE_TEXT, "[");
    for (int i = 0; i < tensor->rank; i++)
        used += (size_t)snprintf(out + used, DINOV_SHAPE_TEXT - used, "%s%lld", i ? ", " : "", (long long)tensor->dim[i]);
    snprintf(out + used, DINOV_SHAPE_TEXT - used, "]");
    return out;
}
