/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/torch.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/dtype.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    /* A dict may stand in many places, and then each of its tensors has as many names. */
    MAX_WALK  = 1 << 19, /* entries on all paths together; without sharing, a pickle cannot hold more */
    MAX_NAMES = 4 << 20, /* bytes of all names */
};

/* ---- Names ---- */

struct walk {
    dinov_tensors      *out;
    uint32_t           *which, room;
    const dinov_pickle *pickle;
    const char         *where;
    dinov_error        *err;
    uint64_t            names;
    char                path[DINOV_TENSORS_NAME + 1]; /* "teacher.backbone." */
};

static dinov_status add_name(struct walk *w, size_t size, uint32_t index)
{
    const dinov_pickle_tensor *t    = &w->pickle->tensors[index];
    dinov_tensor               view = {.dtype = w->pickle->storages[t->storage].dtype, .rank = t->rank};

    memcpy(view.dim, t->dim, sizeof view.dim);
    if (w->out->count == w->room) {
        uint32_t  room = w->room ? 2 * w->room : 64;
        uint32_t *more = dinov_realloc(w->which, room, sizeof *more);
        if (!more) return dinov_fail_nomem(w->err, w->where, "the list of tensors");
        w->which = more;
        w->room  = room;
    }
    w->names += size;
    if (w->names > MAX_NAMES)
        return dinov_fail(w->err, DINOV_ERR_LIMIT, "NAME-COUNT", "%s: expected at most %d bytes of tensor names, found more",
                          w->where, MAX_NAMES);
    w->which[w->out->count] = index;
    return dinov_tensors_add(w->out, w->path, size, &view, w->where, w->err);
}

static dinov_status refuse_long(const struct walk *w, size_t before, const dinov_node *key)
{
    char path[DINOV_ESCAPED], text[DINOV_ESCAPED];
    return dinov_fail(w->err, DINOV_ERR_FORMAT, "NAME-BAD", "%s: tensor name \"%s%s\": expected 1 to %d bytes, found %zu", w->where,
                      dinov_escape(path, sizeof path, w->path, before), dinov_escape(text, sizeof text, key->text, key->size),
                      DINOV_TENSORS_NAME, before + key->size);
}

/* Depth first with the path as the only stack; the pickle has proven that it is no deeper. */
static dinov_status walk(struct walk *w)
{
    const dinov_node *nodes = w->pickle->nodes;
    struct frame {
        uint32_t node, next;
        size_t   before; /* bytes of the path that lead here */
    } stack[DINOV_PICKLE_DEPTH] = {{w->pickle->root, 0, 0}};
    int depth                   = 1;

    for (long steps = 0; depth > 0;) {
        struct frame     *f    = &stack[depth - 1];
        const dinov_node *dict = &nodes[f->node];
        if (f->next == dict->count) {
            depth--;
            continue;
        }
        const dinov_node *key = &nodes[dict->items[f->next]], *value = &nodes[dict->items[f->next + 1]];
        uint32_t          value_index = dict->items[f->next + 1];
        f->next += 2;
        if (++steps > MAX_WALK)
            return dinov_fail(w->err, DINOV_ERR_LIMIT, "PKL-LARGE",
                              "%s: pickle: expected at most %d entries of dicts within dicts, found more", w->where, MAX_WALK);
        bool leaf = value->kind == DINOV_NODE_TENSOR;
        if (key->kind != DINOV_NODE_STRING || (!leaf && value->kind != DINOV_NODE_DICT)) continue;
        if (key->size >= sizeof w->path - f->before) return refuse_long(w, f->before, key);
        memcpy(w->path + f->before, key->text, key->size);
        size_t size = f->before + key->size;
        if (leaf) {
            DINOV_TRY(add_name(w, size, (uint32_t)value->integer));
        } else {
            w->path[size]  = '.'; /* a path that is full has no room for a key, which is at least one byte */
            stack[depth++] = (struct frame){value_index, 0, size + 1};
        }
    }
    return DINOV_OK;
}

/* The first few keys of a dict without tensors, for the message. */
static const char *list_keys(char *out, size_t size, const dinov_pickle *pickle, const dinov_node *dict)
{
    size_t used = 0;
    out[0]      = '\0';
    for (uint32_t i = 0; i < dict->count && i < 2 * 6; i += 2) {
        const dinov_node *key = &pickle->nodes[dict->items[i]];
        char              text[40];
        if (key->kind == DINOV_NODE_INT)
            snprintf(text, sizeof text, "%lld", (long long)key->integer);
        else
            dinov_escape(text, sizeof text, key->text, key->size);
        int n = snprintf(out + used, size - used, "%s%s", i ? ", " : "", text);
        if (n < 0 || (size_t)n >= size - used) break;
        used += (size_t)n;
    }
    if (dict->count > 2 * 6) snprintf(out + used, size - used, ", ...");
    return dict->count ? out : "none";
}

/* {"a.b": x, "a": {"b": y}} */
static dinov_status check_unique(const dinov_tensors *out, const char *where, dinov_error *err)
{
    const dinov_named_tensor **sorted = dinov_tensors_sort(out->items, out->count);
    dinov_status               status = DINOV_OK;
    char                       text[DINOV_ESCAPED];
    if (!sorted) return dinov_fail_nomem(err, where, "the list of tensors");
    for (size_t i = 1; i < out->count && status == DINOV_OK; i++)
        if (strcmp(sorted[i - 1]->name, sorted[i]->name) == 0)
            status = dinov_fail(err, DINOV_ERR_FORMAT, "PTH-DUPLICATE",
                                "%s: tensor %s: expected one of that name, found two, in dicts within dicts", where,
                                dinov_escape(text, sizeof text, sorted[i]->name, strlen(sorted[i]->name)));
    dinov_free(sorted);
    return status;
}

dinov_status dinov_torch_names(dinov_tensors *out, uint32_t **which, const dinov_pickle *pickle, const char *where,
                               dinov_error *err)
{
    struct walk       w    = {.out = out, .pickle = pickle, .where = where, .err = err};
    const dinov_node *root = &pickle->nodes[pickle->root];
    char              keys[320];
    dinov_status      status;

    *which = NULL;
    if (root->kind != DINOV_NODE_DICT)
        return dinov_fail(err, DINOV_ERR_FORMAT, "PTH-LAYOUT",
                          "%s: expected a state dict (names to tensors), found another object; save model.state_dict()", where);
    DINOV_TRY_GOTO(walk(&w));
    if (out->count == 0) {
        status =
            dinov_fail(err, DINOV_ERR_FORMAT, "PTH-LAYOUT",
                       "%s: expected a state dict (names to tensors), found a dict without any named tensor; its keys: %s. Save "
                       "model.state_dict()",
                       where, list_keys(keys, sizeof keys, pickle, root));
        goto fail;
    }
    DINOV_TRY_GOTO(check_unique(out, where, err));
    *which = w.which;
    return DINOV_OK;
fail:
    dinov_free(w.which);
    return status;
}

/* ---- Storages ---- */

static int by_key(const void *a, const void *b)
{
    const dinov_pickle_storage *x = *(const dinov_pickle_storage *const *)a, *y = *(const dinov_pickle_storage *const *)b;
    return strcmp(x->key, y->key);
}

dinov_status dinov_torch_storages(const dinov_pickle_storage ***out, uint32_t *count, const dinov_pickle *pickle, const char *where,
                                  dinov_error *err)
{
    uint32_t                     total = pickle->storage_count, unique = 0;
    const dinov_pickle_storage **sorted = dinov_alloc(total, sizeof *sorted);

    *out   = NULL;
    *count = 0;
    if (!sorted) return dinov_fail_nomem(err, where, "the list of storages");
    for (uint32_t i = 0; i < total; i++) sorted[i] = &pickle->storages[i];
    qsort(sorted, total, sizeof *sorted, by_key);
    for (uint32_t i = 0; i < total; i++) {
        const dinov_pickle_storage *s = sorted[i], *last = unique ? sorted[unique - 1] : NULL;
        if (!last || strcmp(last->key, s->key) != 0) {
            sorted[unique++] = s;
        } else if (last->dtype != s->dtype || last->numel != s->numel) {
            dinov_status status = dinov_fail(err, DINOV_ERR_FORMAT, "PTH-STORAGE",
                                             "%s: storage %s is described in two different ways", where, s->key);
            dinov_free(sorted);
            return status;
        }
    }
    *out   = sorted;
    *count = unique;
    return DINOV_OK;
}

/* ---- Bytes ---- */

static bool row_major(const dinov_pickle_tensor *t)
{
    uint64_t step = 1;
    for (int i = t->rank - 1; i >= 0; i--) {
        if (t->dim[i] == 0) return true;
        if (t->dim[i] != 1 && (uint64_t)t->stride[i] != step) return false;
        step *= (uint64_t)t->dim[i]; /* cannot overflow: the pickle has proven the product */
    }
    return true;
}

/* Walks the elements in row-major order with a counter per dimension. */
static void copy_strided(uint8_t *out, const uint8_t *storage, const dinov_pickle_tensor *t, uint64_t count, size_t size)
{
    int64_t  at[DINOV_MAX_RANK] = {0};
    uint64_t from               = (uint64_t)t->offset; /* wraps and comes back where a dimension of 1 has a huge stride */
    for (uint64_t i = 0; i < count; i++) {
        memcpy(out + i * size, storage + from * size, size);
        for (int d = t->rank - 1; d >= 0; d--) {
            from += (uint64_t)t->stride[d];
            if (++at[d] < t->dim[d]) break;
            from -= (uint64_t)t->dim[d] * (uint64_t)t->stride[d];
            at[d] = 0;
        }
    }
}

/* `budget` is what may still be copied. */
static dinov_status fill_one(dinov_tensors *out, dinov_named_tensor *item, const dinov_pickle_tensor *t, const uint8_t *storage,
                             uint64_t *budget, size_t *copied, const char *where, dinov_error *err)
{
    dinov_tensor *view = &item->tensor;
    size_t        size = dinov_dtype_size(view->dtype);
    char          text[DINOV_ESCAPED];
    uint64_t      bytes;

    if (!dinov_tensor_bytes(view, &bytes))
        return dinov_fail(err, DINOV_ERR_FORMAT, "PTH-LAYOUT", "%s: tensor %s: its size does not fit 64 bits", where,
                          dinov_escape(text, sizeof text, item->name, strlen(item->name)));
    bool in_order = row_major(t);
    view->data    = bytes ? storage + (uint64_t)t->offset * size : storage;
    if (in_order && (uintptr_t)view->data % size == 0) return DINOV_OK;
    if (bytes > *budget)
        return dinov_fail(err, DINOV_ERR_LIMIT, "PTH-LARGE",
                          "%s: tensor %s: expected at most twice the file's size of tensors that must be copied, as they are not "
                          "row-major or not aligned, found more; save it with .contiguous()",
                          where, dinov_escape(text, sizeof text, item->name, strlen(item->name)));
    *budget -= bytes;
    void *copy;
    DINOV_TRY(dinov_tensors_room(out, &copy, bytes, where, err));
    if (in_order)
        memcpy(copy, view->data, bytes);
    else
        copy_strided(copy, storage, t, bytes / size, size);
    if (!in_order) ++*copied;
    view->data = copy;
    return DINOV_OK;
}

dinov_status dinov_torch_fill(dinov_tensors *out, const uint32_t *which, const dinov_pickle *pickle, const uint8_t *const *storages,
                              uint64_t file_size, size_t *copied, const char *where, dinov_error *err)
{
    uint64_t budget;
    if (!dinov_ck_mul(file_size, 2, &budget)) budget = UINT64_MAX;
    for (size_t i = 0; i < out->count; i++) {
        const dinov_pickle_tensor *t = &pickle->tensors[which[i]];
        DINOV_TRY(fill_one(out, &out->items[i], t, storages[t->storage], &budget, copied, where, err));
    }
    return DINOV_OK;
}
