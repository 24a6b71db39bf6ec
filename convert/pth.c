/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/pth.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/dtype.h"
#include "base/pool.h"
#include "convert/zip.h"

#include <stdio.h>
#include <stdlib.h>

static dinov_status refuse(const char *where, dinov_error *err, const char *code, const char *what)
{
    return dinov_fail(err, DINOV_ERR_FORMAT, code, "%s: %s", where, what);
}

/* The small text entries torch writes beside the weights. */
static dinov_status check_records(const dinov_zip *zip, const char *where, dinov_error *err)
{
    const uint8_t   *bytes;
    dinov_zip_entry *version = dinov_zip_find(zip, "version"), *order = dinov_zip_find(zip, "byteorder");

    if (dinov_zip_find(zip, "constants.pkl"))
        return refuse(where, err, "PTH-TORCHSCRIPT",
                      "this is a TorchScript program, not weights; in PyTorch: torch.save(torch.jit.load(FILE).state_dict(), OUT)");
    if (!version) version = dinov_zip_find(zip, ".data/version");
    if (!version) return refuse(where, err, "PTH-VERSION", "expected the entry version, as in every torch.save file, found none");
    DINOV_TRY(dinov_zip_bytes(zip, version, &bytes, err));
    /* "1" to "10", perhaps with a line end. */
    uint64_t size = version->size;
    if (size > 0 && bytes[size - 1] == '\n') size--;
    bool known = (size == 1 && bytes[0] >= '1' && bytes[0] <= '9') || (size == 2 && memcmp(bytes, "10", 2) == 0);
    if (!known) return refuse(where, err, "PTH-VERSION", "expected container version 1 to 10, found another");
    if (order) {
        DINOV_TRY(dinov_zip_bytes(zip, order, &bytes, err));
        if (order->size == 3 && memcmp(bytes, "big", 3) == 0)
            return refuse(where, err, "PTH-BYTEORDER", "its numbers are big-endian; save it again on a little-endian machine");
        if (order->size != 6 || memcmp(bytes, "little", 6) != 0)
            return refuse(where, err, "PTH-BYTEORDER", "expected byte order little or big, found something else");
    }
    return DINOV_OK;
}

/* ---- Storages: one zip entry each, of exactly the size the pickle says ---- */

/* entries[i] is storage i's. */
static dinov_status find_storages(dinov_zip_entry **entries, const dinov_zip *zip, const dinov_pickle *pickle, const char *where,
                                  dinov_error *err)
{
    for (uint32_t i = 0; i < pickle->storage_count; i++) {
        const dinov_pickle_storage *s = &pickle->storages[i];
        char                        name[32];
        uint64_t                    bytes;
        snprintf(name, sizeof name, "data/%s", s->key);
        entries[i] = dinov_zip_find(zip, name);
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

/* Unpacks and proves entries, each once; the first bad one in file order is reported. Unpacked bytes belong to `out`. */
static dinov_status load_entries(dinov_tensors *out, const dinov_zip *zip, dinov_zip_entry **entries, uint32_t count, int threads,
                                 const char *where, dinov_error *err)
{
    uint32_t     unique = 0;
    dinov_pool  *pool   = NULL;
    dinov_status status = DINOV_OK;
    struct load  l      = {.zip     = zip,
                           .entries = entries,
                           .status  = dinov_calloc(count, sizeof(dinov_status)),
                           .errors  = dinov_calloc(count, sizeof(dinov_error))};

    if (!l.status || !l.errors) {
        status = dinov_fail_nomem(err, where, "the list of storages");
        goto fail;
    }
    qsort(entries, count, sizeof *entries, by_entry);
    for (uint32_t i = 0; i < count; i++)
        if (i == 0 || entries[i] != entries[unique - 1]) entries[unique++] = entries[i];
    for (uint32_t i = 0; i < unique; i++)
        if (entries[i]->method == 8) DINOV_TRY_GOTO(dinov_tensors_room(out, &entries[i]->room, entries[i]->size, where, err));
    if (threads != 1 && unique > 1) DINOV_TRY_GOTO(dinov_pool_new(&pool, threads, err));
    dinov_pool_run(pool, unique, load_one, &l);
    for (uint32_t i = 0; i < unique && status == DINOV_OK; i++) {
        status = l.status[i];
        if (status != DINOV_OK && err) *err = l.errors[i];
    }
fail:
    dinov_pool_free(&pool);
    dinov_free(l.status);
    dinov_free(l.errors);
    return status;
}

/* ---- The file ---- */

struct pth {
    dinov_zip         zip;
    dinov_pickle      pickle;
    uint32_t         *which;    /* per tensor */
    dinov_zip_entry **entries;  /* per storage */
    dinov_zip_entry **used;     /* of named tensors */
    const uint8_t   **storages; /* per storage; NULL where none is used */
};

static dinov_status read_pickle(struct pth *p, const char *where, dinov_error *err)
{
    const uint8_t   *bytes;
    dinov_zip_entry *entry = dinov_zip_find(&p->zip, "data.pkl");
    if (!entry)
        return refuse(where, err, "PTH-NO-PICKLE", "expected the zip entry data.pkl, found none: this is no torch.save file");
    if (entry->size > DINOV_PICKLE_MAX)
        return dinov_fail(err, DINOV_ERR_LIMIT, "PKL-LARGE", "%s: pickle: expected at most %d bytes, found %llu", where,
                          DINOV_PICKLE_MAX, (unsigned long long)entry->size);
    DINOV_TRY(dinov_zip_bytes(&p->zip, entry, &bytes, err));
    return dinov_pickle_read(&p->pickle, bytes, (size_t)entry->size, where, err);
}

static dinov_status read_storages(struct pth *p, dinov_tensors *out, int threads, const char *where, dinov_error *err)
{
    const dinov_pickle          *pickle = &p->pickle;
    const dinov_pickle_storage **sorted;
    uint32_t                     unique;

    DINOV_TRY(dinov_torch_storages(&sorted, &unique, pickle, where, err));
    dinov_free(sorted);
    p->entries  = dinov_calloc(pickle->storage_count, sizeof *p->entries);
    p->used     = dinov_calloc(out->count, sizeof *p->used);
    p->storages = dinov_calloc(pickle->storage_count, sizeof *p->storages);
    if (!p->entries || !p->used || !p->storages) return dinov_fail_nomem(err, where, "the list of storages");
    DINOV_TRY(find_storages(p->entries, &p->zip, pickle, where, err));
    for (size_t i = 0; i < out->count; i++) p->used[i] = p->entries[pickle->tensors[p->which[i]].storage];
    DINOV_TRY(load_entries(out, &p->zip, p->used, (uint32_t)out->count, threads, where, err));
    for (size_t i = 0; i < out->count; i++) {
        uint32_t s = pickle->tensors[p->which[i]].storage;
        DINOV_TRY(dinov_zip_bytes(&p->zip, p->entries[s], &p->storages[s], err)); /* proven above: a look-up */
    }
    return DINOV_OK;
}

dinov_status dinov_pth_read(dinov_tensors *out, dinov_torch_notes *notes, const void *data, size_t size, int threads,
                            const char *where, dinov_error *err)
{
    struct pth   p = {0};
    dinov_status status;

    DINOV_TRY_GOTO(dinov_zip_open(&p.zip, data, size, where, err));
    notes->no_crc = p.zip.no_crc;
    DINOV_TRY_GOTO(check_records(&p.zip, where, err));
    DINOV_TRY_GOTO(read_pickle(&p, where, err));
    DINOV_TRY_GOTO(dinov_torch_names(out, &p.which, &p.pickle, where, err));
    DINOV_TRY_GOTO(read_storages(&p, out, threads, where, err));
    DINOV_TRY_GOTO(dinov_torch_fill(out, p.which, &p.pickle, p.storages, size, &notes->copied, where, err));
fail:
    dinov_free(p.storages);
    dinov_free(p.used);
    dinov_free(p.entries);
    dinov_free(p.which);
    dinov_pickle_clear(&p.pickle);
    dinov_zip_close(&p.zip);
    return status;
}
