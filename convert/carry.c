/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/carry.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/dtype.h"

#include <math.h>
#include <string.h>

/* ---- Putting ---- */

static void put32(dinov_text *out, uint32_t value)
{
    uint8_t bytes[4];
    dinov_put_le32(bytes, value);
    dinov_text_add(out, bytes, sizeof bytes);
}

static void put64(dinov_text *out, uint64_t value)
{
    uint8_t bytes[8];
    dinov_put_le64(bytes, value);
    dinov_text_add(out, bytes, sizeof bytes);
}

static void put_string(dinov_text *out, const char *text)
{
    put32(out, (uint32_t)strlen(text));
    dinov_text_puts(out, text);
}

/* The region that holds all of the tensor, or `count`. */
static size_t region_of(const dinov_tensor *t, uint64_t bytes, const dinov_region *regions, size_t count)
{
    uintptr_t at = (uintptr_t)t->data;
    for (size_t i = 0; i < count; i++) {
        uintptr_t begin = (uintptr_t)regions[i].data;
        if (at >= begin && at - begin <= regions[i].size && bytes <= regions[i].size - (at - begin)) return i;
    }
    return count;
}

static dinov_status put_tensor(dinov_text *out, dinov_tensors *list, const dinov_named_tensor *named, const dinov_region *regions,
                               size_t count, const char *where, dinov_error *err)
{
    dinov_tensor t = named->tensor;
    uint64_t     bytes;
    DINOV_ASSERT(dinov_tensor_bytes(&t, &bytes));
    size_t region = bytes ? region_of(&t, bytes, regions, count) : 0;
    if (region == count) {
        void *copy;
        DINOV_TRY(dinov_tensors_room(list, &copy, bytes, where, err));
        memcpy(copy, t.data, bytes);
        t.data = copy;
        region = count - 1;
    }
    put_string(out, named->name);
    put32(out, (uint32_t)t.dtype);
    put32(out, (uint32_t)t.rank);
    for (int i = 0; i < t.rank; i++) put64(out, (uint64_t)t.dim[i]);
    put32(out, (uint32_t)region);
    put64(out, bytes ? (uint64_t)((const uint8_t *)t.data - regions[region].data) : 0);
    return DINOV_OK;
}

dinov_status dinov_carry_reader(dinov_text *out, dinov_reader *reader, const dinov_region *regions, size_t count, dinov_error *err)
{
    put32(out, DINOV_CARRIED_READER);
    put32(out, (uint32_t)reader->layout);
    dinov_text_add(out, &reader->facts, sizeof reader->facts);
    put64(out, reader->torch.copied);
    put32(out, reader->torch.no_crc);
    put64(out, reader->count);
    for (size_t i = 0; i < reader->count; i++)
        DINOV_TRY(put_tensor(out, &reader->plain, &reader->tensors[i], regions, count, reader->where, err));
    return DINOV_OK;
}

void dinov_carry_error(dinov_text *out, const dinov_error *why)
{
    put32(out, DINOV_CARRIED_ERROR);
    put32(out, (uint32_t)why->status);
    put_string(out, why->code);
    put_string(out, why->msg);
}

void dinov_carry_wanted(dinov_text *out, const char *name)
{
    put32(out, DINOV_CARRIED_WANTED);
    put_string(out, name);
}

void dinov_carry_beside(dinov_text *out, const dinov_hf_beside *beside)
{
    put32(out, DINOV_CARRIED_BESIDE);
    dinov_text_add(out, &beside->config, sizeof beside->config);
    put32(out, beside->said);
    dinov_text_add(out, &beside->preprocess, sizeof beside->preprocess);
}

/* ---- Taking ---- */

/* A string of printable UTF-8 with room for its end. */
static bool take_string(dinov_cursor *c, char *out, size_t room)
{
    uint32_t       size = dinov_cursor_le32(c);
    const uint8_t *p    = dinov_cursor_take(c, size);
    if (!p || size >= room || !dinov_text_printable((const char *)p, size)) return false;
    memcpy(out, p, size);
    out[size] = '\0';
    return true;
}

static bool flag(int value) { return value == 0 || value == 1; }

static bool printable(const char *text, size_t room)
{
    const char *end = memchr(text, '\0', room);
    return end && dinov_text_printable(text, (size_t)(end - text));
}

static bool preprocess_sound(const dinov_preprocess *p)
{
    bool ok = printable(p->preset, sizeof p->preset);
    for (int i = 0; i < 3; i++) ok = ok && isfinite((double)p->mean[i]) && isfinite((double)p->std[i]) && p->std[i] > 0;
    return ok;
}

static bool facts_sound(const dinov_facts *f)
{
    bool ok = f->heads >= 0 && f->heads <= 1 << 20 && isfinite(f->ln_eps) && f->ln_eps >= 0 && flag(f->has_interp) &&
              flag(f->has_preprocess) && printable(f->transforms, sizeof f->transforms) &&
              printable(f->licence, sizeof f->licence) && printable(f->origin, sizeof f->origin);
    if (f->has_interp) ok = ok && f->interp.offset >= 0 && f->interp.offset < 1 && flag(f->interp.antialias);
    return ok && (!f->has_preprocess || preprocess_sound(&f->preprocess));
}

static dinov_status take_tensor(dinov_cursor *c, dinov_reader *reader, const dinov_region *regions, size_t count, bool *sound,
                                dinov_error *err)
{
    uint32_t       size  = dinov_cursor_le32(c);
    const uint8_t *name  = dinov_cursor_take(c, size);
    uint32_t       dtype = dinov_cursor_le32(c), rank = dinov_cursor_le32(c);
    dinov_tensor   tensor = {.dtype = (dinov_dtype)dtype, .rank = (int)rank};
    uint64_t       bytes, end;

    *sound = false;
    if (c->failed || dtype > DINOV_BOOL || !dinov_dtype_size(tensor.dtype) || rank > DINOV_MAX_RANK) return DINOV_OK;
    for (uint32_t i = 0; i < rank; i++) tensor.dim[i] = (int64_t)dinov_cursor_le64(c);
    uint32_t region = dinov_cursor_le32(c);
    uint64_t offset = dinov_cursor_le64(c);
    if (c->failed || region >= count || !dinov_tensor_bytes(&tensor, &bytes)) return DINOV_OK;
    if (!dinov_ck_add(offset, bytes, &end) || end > regions[region].size) return DINOV_OK;
    tensor.data = regions[region].data + offset;
    if (bytes && (uintptr_t)tensor.data % dinov_dtype_size(tensor.dtype) != 0) return DINOV_OK;
    *sound = true;
    return dinov_tensors_add(&reader->plain, (const char *)name, size, &tensor, reader->where, err);
}

static dinov_status unsound(const char *where, const char *what, dinov_error *err)
{
    return dinov_fail(err, DINOV_ERR_INTERNAL, "FENCE-ANSWER",
                      "%s: the process that reads it answered with %s that cannot be: this is a bug, or the file is an attack; "
                      "please report it",
                      where, what);
}

/* Readers refuse a name twice; this one is not believed. */
static dinov_status check_unique(const dinov_reader *reader, dinov_error *err)
{
    const dinov_tensors       *list   = &reader->plain;
    const dinov_named_tensor **sorted = dinov_tensors_sort(list->items, list->count);
    bool                       twice  = false;
    if (!sorted) return dinov_fail_nomem(err, reader->where, "the list of tensors");
    for (size_t i = 1; i < list->count; i++) twice = twice || strcmp(sorted[i - 1]->name, sorted[i]->name) == 0;
    dinov_free(sorted);
    return twice ? unsound(reader->where, "a name twice", err) : DINOV_OK;
}

static dinov_status take_reader(dinov_cursor *c, dinov_reader *reader, const dinov_region *regions, size_t count, dinov_error *err)
{
    uint32_t       layout = dinov_cursor_le32(c);
    const uint8_t *facts  = dinov_cursor_take(c, sizeof reader->facts);
    uint64_t       copied = dinov_cursor_le64(c);
    uint32_t       no_crc = dinov_cursor_le32(c);
    uint64_t       total  = dinov_cursor_le64(c);

    if (c->failed || layout != (uint32_t)reader->layout || no_crc > 1 || copied > total)
        return unsound(reader->where, "notes", err);
    memcpy(&reader->facts, facts, sizeof reader->facts);
    if (!facts_sound(&reader->facts)) return unsound(reader->where, "facts", err);
    reader->torch = (dinov_torch_notes){.copied = copied, .no_crc = no_crc};
    for (uint64_t i = 0; i < total; i++) {
        bool sound;
        DINOV_TRY(take_tensor(c, reader, regions, count, &sound, err));
        if (!sound) return unsound(reader->where, "a tensor", err);
    }
    if (dinov_cursor_left(c) != 0) return unsound(reader->where, "more bytes", err);
    return check_unique(reader, err);
}

static dinov_status take_error(dinov_cursor *c, const char *where, dinov_error *err)
{
    dinov_error why = {.status = (dinov_status)(int32_t)dinov_cursor_le32(c)};
    bool ok = take_string(c, why.code, sizeof why.code) && take_string(c, why.msg, sizeof why.msg) && dinov_cursor_left(c) == 0;
    switch (why.status) {
#define X(name, value, text, exit_code) case DINOV_##name:
        DINOV_STATUS_MAP(X)
#undef X
        break;
    default:
        ok = false;
    }
    if (!ok || why.status == DINOV_OK || !why.code[0] || !why.msg[0]) return unsound(where, "an error", err);
    if (err) *err = why;
    return why.status;
}

dinov_status dinov_carry_take(dinov_carried *what, dinov_reader *reader, char name[DINOV_FILES_NAME + 1], const void *answer,
                              size_t size, const dinov_region *regions, size_t count, dinov_error *err)
{
    dinov_cursor c = dinov_cursor_make(answer, size);
    *what          = (dinov_carried)dinov_cursor_le32(&c);
    switch (*what) {
    case DINOV_CARRIED_READER:
        return take_reader(&c, reader, regions, count, err);
    case DINOV_CARRIED_ERROR:
        return take_error(&c, reader->where, err);
    case DINOV_CARRIED_WANTED:
        if (take_string(&c, name, DINOV_FILES_NAME + 1) && name[0] && dinov_cursor_left(&c) == 0) return DINOV_OK;
        return unsound(reader->where, "a file's name", err);
    case DINOV_CARRIED_BESIDE:
        break;
    }
    return unsound(reader->where, "something", err);
}

static bool config_sound(const dinov_hf_config *c)
{
    const int64_t sizes[] = {c->dim, c->depth, c->heads, c->patch, c->image, c->channels, c->registers};
    bool          ok      = isfinite(c->ln_eps) && c->ln_eps >= 0;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) ok = ok && sizes[i] >= 0 && sizes[i] <= 1 << 20;
    return ok;
}

dinov_status dinov_carry_take_beside(dinov_hf_beside *out, const void *answer, size_t size, const char *where, dinov_error *err)
{
    dinov_cursor c    = dinov_cursor_make(answer, size);
    uint32_t     what = dinov_cursor_le32(&c);
    if (what == DINOV_CARRIED_ERROR) return take_error(&c, where, err);
    const uint8_t   *config     = dinov_cursor_take(&c, sizeof out->config);
    uint32_t         said       = dinov_cursor_le32(&c);
    const uint8_t   *preprocess = dinov_cursor_take(&c, sizeof out->preprocess);
    dinov_hf_config  numbers    = {0};
    dinov_preprocess input      = {.preset = ""};
    if (c.failed || what != DINOV_CARRIED_BESIDE || said > 1 || dinov_cursor_left(&c) != 0) return unsound(where, "something", err);
    memcpy(&numbers, config, sizeof numbers);
    memcpy(&input, preprocess, sizeof input);
    if (!config_sound(&numbers) || (said && !preprocess_sound(&input))) return unsound(where, "numbers", err);
    out->config     = numbers;
    out->said       = said;
    out->preprocess = input;
    return DINOV_OK;
}
