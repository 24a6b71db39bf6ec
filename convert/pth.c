/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/pth.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/dtype.h"
#include "base/pool.h"

#include <stdio.h>
#include <stdlib.h>

static dinov_status refuse(const char *where, dinov_error *err, const char *code, const char *what)
{
    return dinov_fail(err, DINOV_ERR_FORMAT, code, "%s: %s", where, what);
}

/* The small text entries torch writes beside the weights. */
static dinov_status check_records(dinov_pth *pth, const char *where, dinov_error *err)
{
    const uint8_t   *bytes;
    dinov_zip_entry *version = dinov_zip_find(&pth->zip, "version"), *order = dinov_zip_find(&pth->zip, "byteorder");

    if (dinov_zip_find(&pth->zip, "constants.pkl"))
        return refuse(where, err, "PTH-TORCHSCRIPT",
                      "this is a TorchScript program, not weights; in PyTorch: torch.save(torch.jit.load(FILE).state_dict(), OUT)");
    if (!version) version = dinov_zip_find(&pth->zip, ".data/version");
    if (!version) return refuse(where, err, "PTH-VERSION", "expected the entry version, as in every torch.save file, found none");
    DINOV_TRY(dinov_zip_bytes(&pth->zip, version, &bytes, err));
    /* "1" to "10", perhaps with a line end. */
    uint64_t size = version->size;
    if (size > 0 && bytes[size - 1] == '\n') size--;
    bool known = (size == 1 && bytes[0] >= '1' && bytes[0] <= '9') || (size == 2 && memcmp(bytes, "10", 2) == 0);
    if (!known) return refuse(where, err, "PTH-VERSION", "expected container version 1 to 10, found another");
    if (order) {
        DINOV_TRY(dinov_zip_bytes(&pth->zip, order, &bytes, err));
        if (order->size == 3 && memcmp(bytes, "big", 3) == 0)
            return refuse(where, err, "PTH-BYTEORDER", "its numbers are big-endian; save it again on a little-endian machine");
        if (order->size != 6 || memcmp(bytes, "little", 6) != 0)
            return refuse(where, err, "PTH-BYTEORDER", "expected byte order little or big, found something else");
    }
    return DINOV_OK;
}

/* ---- Storages: one zip entry each, of exactly the size the pickle says ---- */

static int by_key(const void *a, const void *b)
{
    const dinov_pickle_storage *x = *(const dinov_pickle_storage *const *)a, *y = *(const dinov_pickle_storage *const *)b;
    return strcmp(x->key, y->key);
}

/* A storage may be described many times, always alike. */
static dinov_status check_storages_agree(const dinov_pickle *pickle, const char *where, dinov_error *err)
{
    dinov_status                 status = DINOV_OK;
    const dinov_pickle_storage **sorted = dinov_alloc(pickle->storage_count, sizeof *sorted);
    if (!sorted) return dinov_fail_nomem(err, where, "the list of storages");
    for (uint32_t i = 0; i < pickle->storage_count; i++) sorted[i] = &pickle->storages[i];
    qsort(sorted, pickle->storage_count, sizeof *sorted, by_key);
    for (uint32_t i = 1; i < pickle->storage_count && status == DINOV_OK; i++)
        if (strcmp(sorted[i - 1]->key, sorted[i]->key) == 0 &&
            (sorted[i - 1]->dtype != sorted[i]->dtype || sorted[i - 1]->numel != sorted[i]->numel))
            status = dinov_fail(err, DINOV_ERR_FORMAT, "PTH-STORAGE", "%s: storage %s is described in two different ways", where,
                                sorted[i]->key);
    dinov_free(sorted);
    return status;
}

static dinov_status find_storages(dinov_pth *pth, dinov_zip_entry **entries, const char *where, dinov_error *err)
{
    DINOV_TRY(check_storages_agree(&pth->pickle, where, err));
    for (uint32_t i = 0; i < pth->pickle.storage_count; i++) {
        const dinov_pickle_storage *s = &pth->pickle.storages[i];
        char                        name[32];
        uint64_t                    bytes;
        snprintf(name, sizeof name, "data/%s", s->key);
        entries[i] = dinov_zip_find(&pth->zip, name);
        if (!entries[i])
            return dinov_fail(err, DINOV_ERR_FORMAT, "PTH-STORAGE", "%s: storage %s: expected the zip entry %s, found none", where,
                              s->key, name);
        if (!dinov_ck_mul((uint64_t)s->numel, dinov_dtype_size(s->dtype), &bytes) || bytes != entries[i]->size)
            return dinov_fail(err, DINOV_ERR_FORMAT, "PTH-STORAGE",
                              "%s: storage %s: expected %lld elements of %s as the pickle says, found %llu bytes", where, s->key,
                              (long long)s->numel, dinov_dtype_name(s->dtype), (unsigned long long)entries[i]->size);
    }
    return DINOV_OK;
}

struct load {
    const dinov_zip  *zip;
    dinov_zip_entry **entries;
    dinov_status     *status;
    dinov_error      *errors;
};

static void load_one(void *arg, int64_t block, int worker)
{
    struct load   *l = arg;
    const uint8_t *bytes;
    (void)worker;
    l->status[block] = dinov_zip_bytes(l->zip, l->entries[block], &bytes, &l->errors[block]);
}

static int by_entry(const void *a, const void *b)
{
    const dinov_zip_entry *x = *(dinov_zip_entry *const *)a, *y = *(dinov_zip_entry *const *)b;
    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

/* Unpacks and proves every entry in use, each once; the first bad one in file order is reported. */
static dinov_status load_storages(dinov_pth *pth, dinov_zip_entry *const *entries, int threads, const char *where, dinov_error *err)
{
    uint32_t     count = pth->pickle.storage_count, unique = 0;
    dinov_pool  *pool   = NULL;
    dinov_status status = DINOV_OK;
    struct load  l      = {.zip     = &pth->zip,
                           .entries = dinov_alloc(count, sizeof(dinov_zip_entry *)),
                           .status  = dinov_calloc(count, sizeof(dinov_status)),
                           .errors  = dinov_calloc(count, sizeof(dinov_error))};

    if (!l.entries || !l.status || !l.errors) {
        status = dinov_fail_nomem(err, where, "the list of storages");
        goto done;
    }
    if (count) memcpy(l.entries, entries, count * sizeof *l.entries);
    qsort(l.entries, count, sizeof *l.entries, by_entry);
    for (uint32_t i = 0; i < count; i++)
        if (i == 0 || l.entries[i] != l.entries[i - 1]) l.entries[unique++] = l.entries[i];
    if (threads != 1 && unique > 1) status = dinov_pool_new(&pool, threads, err);
    if (status == DINOV_OK) dinov_pool_run(pool, unique, load_one, &l);
    for (uint32_t i = 0; i < unique && status == DINOV_OK; i++) {
        status = l.status[i];
        if (status != DINOV_OK && err) *err = l.errors[i];
    }
done:
    dinov_pool_free(&pool);
    dinov_free(l.entries);
    dinov_free(l.status);
    dinov_free(l.errors);
    return status;
}

/* ---- Tensors ---- */

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
static dinov_status add_tensor(dinov_pth *pth, const dinov_node *name, const dinov_pickle_tensor *t, const uint8_t *storage,
                               dinov_dtype dtype, uint64_t *budget, const char *where, dinov_error *err)
{
    size_t       size = dinov_dtype_size(dtype);
    dinov_tensor view = {.dtype = dtype, .rank = t->rank};
    uint64_t     bytes;
    memcpy(view.dim, t->dim, sizeof view.dim);
    if (!dinov_tensor_bytes(&view, &bytes)) return refuse(where, err, "PTH-LAYOUT", "a tensor's size does not fit 64 bits");

    bool in_order = row_major(t);
    view.data     = bytes ? storage + (uint64_t)t->offset * size : storage;
    if (!in_order || (uintptr_t)view.data % size != 0) {
        char text[DINOV_ESCAPED];
        if (bytes > *budget)
            return dinov_fail(
                err, DINOV_ERR_LIMIT, "PTH-LARGE",
                "%s: tensor %s: expected at most twice the file's size of tensors that are not row-major, found more; "
                "save it with .contiguous()",
                where, dinov_escape(text, sizeof text, name->text, name->size));
        *budget -= bytes;
        void *copy;
        DINOV_TRY(dinov_tensors_room(&pth->tensors, &copy, bytes, where, err));
        if (in_order)
            memcpy(copy, view.data, bytes);
        else
            copy_strided(copy, storage, t, bytes / size, size);
        if (!in_order) pth->copied++;
        view.data = copy;
    }
    return dinov_tensors_add(&pth->tensors, name->text, name->size, &view, where, err);
}

/* The first few keys of a dict that is no state dict, for the message. */
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
    return out;
}

/* The top-level dict maps strings to tensors. */
static dinov_status check_layout(const dinov_pickle *pickle, const char *where, dinov_error *err)
{
    const dinov_node *root = &pickle->nodes[pickle->root];
    char              keys[320];
    if (root->kind != DINOV_NODE_DICT)
        return refuse(where, err, "PTH-LAYOUT",
                      "expected a state dict (names to tensors), found another object; save model.state_dict()");
    for (uint32_t i = 0; i < root->count; i += 2) {
        const dinov_node *key = &pickle->nodes[root->items[i]], *value = &pickle->nodes[root->items[i + 1]];
        if (key->kind == DINOV_NODE_STRING && value->kind == DINOV_NODE_TENSOR) continue;
        return dinov_fail(
            err, DINOV_ERR_FORMAT, "PTH-LAYOUT",
            "%s: expected a flat state dict (names to tensors), found a dict with the keys %s, whose values are not all "
            "tensors. Save the backbone's part of it alone: torch.save(torch.load(FILE)[KEY], OUT)",
            where, list_keys(keys, sizeof keys, pickle, root));
    }
    return DINOV_OK;
}

static dinov_status read_tensors(dinov_pth *pth, uint64_t file_size, int threads, const char *where, dinov_error *err)
{
    const dinov_pickle *p      = &pth->pickle;
    const dinov_node   *root   = &p->nodes[p->root];
    uint64_t            budget = 0;

    dinov_zip_entry **entries = dinov_calloc(p->storage_count, sizeof *entries);
    if (!entries) return dinov_fail_nomem(err, where, "the list of storages");
    dinov_status status = find_storages(pth, entries, where, err);
    if (status == DINOV_OK) status = load_storages(pth, entries, threads, where, err);
    if (!dinov_ck_mul(file_size, 2, &budget)) budget = UINT64_MAX;
    for (uint32_t i = 0; i < root->count && status == DINOV_OK; i += 2) {
        const dinov_pickle_tensor *t = &p->tensors[p->nodes[root->items[i + 1]].integer];
        const uint8_t             *storage;
        status = dinov_zip_bytes(&pth->zip, entries[t->storage], &storage, err); /* proven above: a look-up */
        if (status == DINOV_OK)
            status = add_tensor(pth, &p->nodes[root->items[i]], t, storage, p->storages[t->storage].dtype, &budget, where, err);
    }
    dinov_free(entries);
    return status;
}

dinov_status dinov_pth_open(dinov_pth *pth, const void *data, size_t size, int threads, const char *where, dinov_error *err)
{
    const uint8_t *bytes;

    *pth = (dinov_pth){0};
    DINOV_TRY(dinov_zip_open(&pth->zip, data, size, where, err));
    DINOV_TRY(check_records(pth, where, err));
    dinov_zip_entry *entry = dinov_zip_find(&pth->zip, "data.pkl");
    if (!entry)
        return refuse(where, err, "PTH-NO-PICKLE", "expected the zip entry data.pkl, found none: this is no torch.save file");
    if (entry->size > DINOV_PICKLE_MAX)
        return dinov_fail(err, DINOV_ERR_LIMIT, "PKL-LARGE", "%s: pickle: expected at most %d bytes, found %llu", where,
                          DINOV_PICKLE_MAX, (unsigned long long)entry->size);
    DINOV_TRY(dinov_zip_bytes(&pth->zip, entry, &bytes, err));
    DINOV_TRY(dinov_pickle_read(&pth->pickle, bytes, (size_t)entry->size, where, err));
    DINOV_TRY(check_layout(&pth->pickle, where, err));
    return read_tensors(pth, size, threads, where, err);
}

void dinov_pth_close(dinov_pth *pth)
{
    dinov_tensors_clear(&pth->tensors);
    dinov_pickle_clear(&pth->pickle);
    dinov_zip_close(&pth->zip);
}
