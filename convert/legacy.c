/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/legacy.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/dtype.h"

#include <stdlib.h>

enum {
    VERSION    = 1001,
    MAX_HEADER = 512, /* of version and machine; they take some 120 */
};

static const uint8_t magic[] = {0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, 0x2e};

bool dinov_legacy_is(const void *data, size_t size) { return size >= sizeof magic && memcmp(data, magic, sizeof magic) == 0; }

static dinov_status refuse(const char *where, dinov_error *err, const char *code, const char *what)
{
    return dinov_fail(err, DINOV_ERR_FORMAT, code, "%s: %s", where, what);
}

static const dinov_node *find(const dinov_pickle *p, const dinov_node *dict, const char *key)
{
    for (uint32_t i = 0; i < dict->count; i += 2) {
        const dinov_node *k = &p->nodes[dict->items[i]];
        if (k->kind == DINOV_NODE_STRING && k->size == strlen(key) && memcmp(k->text, key, k->size) == 0)
            return &p->nodes[dict->items[i + 1]];
    }
    return NULL;
}

static dinov_status check_machine(const dinov_pickle *p, const char *where, dinov_error *err)
{
    const dinov_node *root   = &p->nodes[p->root];
    const dinov_node *little = root->kind == DINOV_NODE_DICT ? find(p, root, "little_endian") : NULL;
    if (!little || little->kind != DINOV_NODE_BOOL)
        return refuse(where, err, "PTH-HEADER", "expected the description of the machine that wrote it, found something else");
    if (!little->integer)
        return refuse(where, err, "PTH-BYTEORDER", "its numbers are big-endian; save it again on a little-endian machine");
    return DINOV_OK;
}

/* Magic number, version, machine; leaves the cursor behind them. */
static dinov_status read_header(dinov_cursor *c, const char *where, dinov_error *err)
{
    dinov_pickle p = {0};

    if (!dinov_legacy_is(c->data, c->size))
        return refuse(where, err, "PTH-HEADER", "expected the magic number of torch.save, found other bytes");
    dinov_cursor_seek(c, sizeof magic);
    dinov_cursor header = *c;
    if (dinov_cursor_left(c) > MAX_HEADER) header.size = c->pos + MAX_HEADER;
    dinov_status status = dinov_pickle_next(&p, &header, DINOV_PICKLE_LEGACY, where, err);
    if (status == DINOV_OK && (p.nodes[p.root].kind != DINOV_NODE_INT || p.nodes[p.root].integer != VERSION))
        status = refuse(where, err, "PTH-HEADER", "expected version 1001 of the layout, found another");
    dinov_pickle_clear(&p);
    DINOV_TRY(status);
    status = dinov_pickle_next(&p, &header, DINOV_PICKLE_LEGACY, where, err);
    if (status == DINOV_OK) status = check_machine(&p, where, err);
    dinov_pickle_clear(&p);
    if (status == DINOV_OK) dinov_cursor_seek(c, header.pos);
    return status;
}

struct legacy {
    dinov_pickle                 object, keys;
    uint32_t                    *which;    /* per tensor */
    const dinov_pickle_storage **sorted;   /* each storage once, by key */
    const uint8_t              **found;    /* per one of those: its bytes */
    const uint8_t              **storages; /* per storage of the object */
    uint32_t                     count;    /* of `sorted` */
};

static int key_is(const void *key, const void *item) { return strcmp(key, (*(const dinov_pickle_storage *const *)item)->key); }

/* The place of `key` in `sorted`, or -1. */
static int64_t place_of(const struct legacy *l, const char *key)
{
    const dinov_pickle_storage **hit = bsearch(key, l->sorted, l->count, sizeof *l->sorted, key_is);
    return hit ? hit - l->sorted : -1;
}

/* One storage: how many elements, then those. */
static dinov_status take_storage(struct legacy *l, dinov_cursor *c, const dinov_node *key, const char *where, dinov_error *err)
{
    char digits[sizeof l->sorted[0]->key] = {0};
    if (key->kind == DINOV_NODE_STRING && key->size < sizeof digits) memcpy(digits, key->text, key->size);
    int64_t at = place_of(l, digits);
    if (at < 0 || l->found[at])
        return refuse(where, err, "PTH-KEYS", "expected the key of each storage once, found another key or one twice");
    const dinov_pickle_storage *s     = l->sorted[at];
    uint64_t                    numel = dinov_cursor_le64(c), bytes;
    if (!c->failed && numel != (uint64_t)s->numel)
        return dinov_fail(err, DINOV_ERR_FORMAT, "PTH-STORAGE",
                          "%s: storage %s: expected %lld elements as the pickle says, found %llu", where, s->key,
                          (long long)s->numel, (unsigned long long)numel);
    if (dinov_ck_mul((uint64_t)s->numel, dinov_dtype_size(s->dtype), &bytes)) l->found[at] = dinov_cursor_take(c, bytes);
    if (!l->found[at])
        return dinov_fail(err, DINOV_ERR_FORMAT, "PTH-END",
                          "%s: storage %s: expected %lld elements of %s, found the end of the file, which is cut short", where,
                          s->key, (long long)s->numel, dinov_dtype_name(s->dtype));
    return DINOV_OK;
}

static dinov_status read_storages(struct legacy *l, dinov_cursor *c, const char *where, dinov_error *err)
{
    const dinov_node *list = &l->keys.nodes[l->keys.root];

    DINOV_TRY(dinov_torch_storages(&l->sorted, &l->count, &l->object, where, err));
    if (list->kind != DINOV_NODE_LIST || list->count != l->count)
        return refuse(where, err, "PTH-KEYS",
                      "expected a list with the key of each storage, found another number or something else");
    l->found    = dinov_calloc(l->count, sizeof *l->found);
    l->storages = dinov_calloc(l->object.storage_count, sizeof *l->storages);
    if (!l->found || !l->storages) return dinov_fail_nomem(err, where, "the list of storages");
    for (uint32_t i = 0; i < list->count; i++) DINOV_TRY(take_storage(l, c, &l->keys.nodes[list->items[i]], where, err));
    if (dinov_cursor_left(c) != 0)
        return refuse(where, err, "PTH-END", "expected the file to end with its last storage, found more bytes");
    for (uint32_t i = 0; i < l->object.storage_count; i++)
        l->storages[i] = l->found[place_of(l, l->object.storages[i].key)]; /* as many keys as storages, each once: all are there */
    return DINOV_OK;
}

dinov_status dinov_legacy_read(dinov_tensors *out, dinov_torch_notes *notes, const void *data, size_t size, const char *where,
                               dinov_error *err)
{
    struct legacy l = {0};
    dinov_cursor  c = dinov_cursor_make(data, size);
    dinov_status  status;

    DINOV_TRY_GOTO(read_header(&c, where, err));
    DINOV_TRY_GOTO(dinov_pickle_next(&l.object, &c, DINOV_PICKLE_LEGACY, where, err));
    DINOV_TRY_GOTO(dinov_pickle_next(&l.keys, &c, DINOV_PICKLE_LEGACY, where, err));
    DINOV_TRY_GOTO(dinov_torch_names(out, &l.which, &l.object, where, err));
    DINOV_TRY_GOTO(read_storages(&l, &c, where, err));
    DINOV_TRY_GOTO(dinov_torch_fill(out, l.which, &l.object, l.storages, size, &notes->copied, where, err));
fail:
    dinov_free(l.storages);
    dinov_free(l.found);
    dinov_free(l.sorted);
    dinov_free(l.which);
    dinov_pickle_clear(&l.keys);
    dinov_pickle_clear(&l.object);
    return status;
}
