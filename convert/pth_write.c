/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/pth_write.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/dtype.h"
#include "base/file.h"
#include "base/text.h"

#include <stdio.h>
#include <zlib.h>

enum {
    ALIGNMENT   = 64,
    NAME_SIZE   = 40, /* "archive/data/" and a number */
    CHUNK       = 4 << 20,
    FLAG_UTF8   = 0x0800,
    FLAG_SIZES  = 0x0008, /* sizes and CRC follow the bytes */
    DATE_1980   = 0x0021,
    AROUND_DATA = 5, /* entries beside the storages */
};

#define SATURATED32 0xffffffffu
#define SATURATED16 0xffffu

/* ---- The pickle ---- */

static void put_int(dinov_text *text, uint64_t value)
{
    uint8_t bytes[11] = {0};
    size_t  size      = 0;
    dinov_put_le64(bytes + 2, value);
    if (value < 1u << 8) {
        bytes[1] = 'K', size = 1;
    } else if (value < 1u << 16) {
        bytes[1] = 'M', size = 2;
    } else if (value < 1u << 31) {
        bytes[1] = 'J', size = 4;
    }
    if (size) {
        dinov_text_add(text, bytes + 1, 1 + size);
        return;
    }
    for (size = 1; value >> (8 * size - 1); size++) continue; /* the top bit is the sign; a size is below 2^63 */
    bytes[0] = 0x8a, bytes[1] = (uint8_t)size;
    dinov_text_add(text, bytes, 2 + size);
}

static void put_string(dinov_text *text, const char *string)
{
    uint8_t head[5] = {'X'};
    size_t  size    = strlen(string);
    dinov_put_le32(head + 1, (uint32_t)size);
    dinov_text_add(text, head, sizeof head);
    dinov_text_add(text, string, size);
}

static const char *storage_class(dinov_dtype dtype)
{
    switch (dtype) {
    case DINOV_F32:
        return "Float";
    case DINOV_F16:
        return "Half";
    case DINOV_BF16:
        return "BFloat16";
    case DINOV_F64:
        return "Double";
    case DINOV_I64:
        return "Long";
    case DINOV_I32:
        return "Int";
    case DINOV_I16:
        return "Short";
    case DINOV_I8:
        return "Char";
    case DINOV_U8:
        return "Byte";
    case DINOV_BOOL:
        return "Bool";
    }
    dinov_bug(__FILE__, __LINE__, "a dtype");
}

static void put_tuple(dinov_text *text, const uint64_t *values, int count)
{
    if (count == 0) {
        dinov_text_puts(text, ")");
        return;
    }
    dinov_text_puts(text, "(");
    for (int i = 0; i < count; i++) put_int(text, values[i]);
    dinov_text_puts(text, "t");
}

static void put_tensor(dinov_text *text, const dinov_named_tensor *named, size_t key)
{
    const dinov_tensor *t = &named->tensor;
    uint64_t            dim[DINOV_MAX_RANK], stride[DINOV_MAX_RANK], bytes, step = 1;
    char                digits[24];

    DINOV_ASSERT(dinov_tensor_bytes(t, &bytes));
    uint64_t numel = bytes / dinov_dtype_size(t->dtype);
    for (int i = t->rank - 1; i >= 0; i--) {
        dim[i]    = (uint64_t)t->dim[i];
        stride[i] = step;
        if (dim[i] > 1 && dim[i] <= INT64_MAX / step) step *= dim[i]; /* never more unless it is empty, where strides say nothing */
    }
    snprintf(digits, sizeof digits, "%zu", key);
    put_string(text, named->name);
    dinov_text_puts(text, "ctorch._utils\n_rebuild_tensor_v2\n((");
    put_string(text, "storage");
    dinov_text_puts(text, "ctorch\n");
    dinov_text_puts(text, storage_class(t->dtype));
    dinov_text_puts(text, "Storage\n");
    put_string(text, digits);
    put_string(text, "cpu");
    put_int(text, numel);
    dinov_text_puts(text, "tQ");
    put_int(text, 0); /* offset */
    put_tuple(text, dim, t->rank);
    put_tuple(text, stride, t->rank);
    dinov_text_puts(text, "\x89"
                          "ccollections\nOrderedDict\n)RtR"); /* no gradient, no hooks */
}

static void put_pickle(dinov_text *text, const dinov_named_tensor *tensors, size_t count)
{
    dinov_text_puts(text, "\x80\x02"
                          "ccollections\nOrderedDict\n)R");
    if (count) dinov_text_puts(text, "(");
    for (size_t i = 0; i < count; i++) put_tensor(text, &tensors[i], i);
    dinov_text_puts(text, count ? "u." : ".");
}

/* ---- The zip: local headers without sizes, as torch writes them. Newer PyTorch computes where a storage
 * lies from the sizes before it, so headers, padding and descriptors have exactly torch's sizes. ---- */

struct entry {
    char     name[NAME_SIZE];
    uint64_t header, size;
    uint32_t crc;
};

struct writer {
    dinov_out    *out;
    struct entry *entries;
    size_t        count;
};

static uint32_t saturate(uint64_t value) { return value >= SATURATED32 ? SATURATED32 : (uint32_t)value; }

/* The extra field of values that do not fit 32 bits; its size, 0 where there are none. `second` is the other
 * of the two sizes: torch's local headers have 0 there. */
static size_t put_wide(uint8_t *p, const struct entry *e, uint64_t second)
{
    size_t size = 4;
    if (e->size >= SATURATED32) {
        dinov_put_le64(p + size, e->size);
        dinov_put_le64(p + size + 8, second);
        size += 16;
    }
    if (e->header >= SATURATED32) {
        dinov_put_le64(p + size, e->header);
        size += 8;
    }
    if (size == 4) return 0;
    dinov_put_le16(p, 1);
    dinov_put_le16(p + 2, (uint16_t)(size - 4));
    return size;
}

static uint16_t flags_of(const struct entry *e) { return (uint16_t)(e->size ? FLAG_UTF8 | FLAG_SIZES : FLAG_UTF8); }

static dinov_status put_local(struct writer *w, const struct entry *e, dinov_error *err)
{
    uint8_t head[30 + NAME_SIZE + 28 + 4 + ALIGNMENT] = {'P', 'K', 3, 4};
    size_t  name = strlen(e->name), wide = put_wide(head + 30 + name, e, 0), at = 30 + name + wide;
    size_t  pad = (size_t)(-(e->header + at + 4) % ALIGNMENT);

    dinov_put_le16(head + 6, flags_of(e));
    dinov_put_le16(head + 12, DATE_1980);
    dinov_put_le16(head + 26, (uint16_t)name);
    dinov_put_le16(head + 28, (uint16_t)(wide + 4 + pad));
    memcpy(head + 30, e->name, name);
    memcpy(head + at, "FB", 2);
    dinov_put_le16(head + at + 2, (uint16_t)pad);
    memset(head + at + 4, 'Z', pad);
    return dinov_out_write(w->out, head, at + 4 + pad, err);
}

static dinov_status put_descriptor(struct writer *w, const struct entry *e, dinov_error *err)
{
    uint8_t tail[24] = {'P', 'K', 7, 8};
    dinov_put_le32(tail + 4, e->crc);
    if (e->size >= SATURATED32 || e->header >= SATURATED32) {
        dinov_put_le64(tail + 8, e->size);
        dinov_put_le64(tail + 16, e->size);
        return dinov_out_write(w->out, tail, 24, err);
    }
    dinov_put_le32(tail + 8, (uint32_t)e->size);
    dinov_put_le32(tail + 12, (uint32_t)e->size);
    return dinov_out_write(w->out, tail, 16, err);
}

static dinov_status put_entry(struct writer *w, const char *name, const void *data, uint64_t size, dinov_error *err)
{
    struct entry *e = &w->entries[w->count++];
    snprintf(e->name, sizeof e->name, "archive/%s", name);
    e->header = dinov_out_size(w->out);
    e->size   = size;
    e->crc    = (uint32_t)crc32(0, NULL, 0);
    DINOV_TRY(put_local(w, e, err));
    for (uint64_t done = 0; done < size;) {
        const uint8_t *part = (const uint8_t *)data + done;
        uint64_t       step = size - done < CHUNK ? size - done : CHUNK;
        e->crc              = (uint32_t)crc32(e->crc, part, (uInt)step);
        DINOV_TRY(dinov_out_write(w->out, part, (size_t)step, err));
        done += step;
    }
    return size ? put_descriptor(w, e, err) : DINOV_OK;
}

static dinov_status put_central(struct writer *w, const struct entry *e, dinov_error *err)
{
    uint8_t head[46 + NAME_SIZE + 28] = {'P', 'K', 1, 2};
    size_t  name = strlen(e->name), wide = put_wide(head + 46 + name, e, e->size);
    dinov_put_le16(head + 8, flags_of(e));
    dinov_put_le16(head + 14, DATE_1980);
    dinov_put_le32(head + 16, e->crc);
    dinov_put_le32(head + 20, saturate(e->size));
    dinov_put_le32(head + 24, saturate(e->size));
    dinov_put_le16(head + 28, (uint16_t)name);
    dinov_put_le16(head + 30, (uint16_t)wide);
    dinov_put_le32(head + 42, saturate(e->header));
    memcpy(head + 46, e->name, name);
    return dinov_out_write(w->out, head, 46 + name + wide, err);
}

/* The directory and its end records; torch writes the 64-bit ones always. */
static dinov_status put_directory(struct writer *w, dinov_error *err)
{
    uint64_t begin = dinov_out_size(w->out);
    for (size_t i = 0; i < w->count; i++) DINOV_TRY(put_central(w, &w->entries[i], err));
    uint64_t end                = dinov_out_size(w->out);
    uint8_t  tail[56 + 20 + 22] = {'P', 'K', 6, 6}, *locator = tail + 56, *last = locator + 20;
    uint16_t count = w->count >= SATURATED16 ? SATURATED16 : (uint16_t)w->count;

    dinov_put_le64(tail + 4, 44); /* bytes that follow */
    dinov_put_le16(tail + 12, 45);
    dinov_put_le16(tail + 14, 45);
    dinov_put_le64(tail + 24, w->count);
    dinov_put_le64(tail + 32, w->count);
    dinov_put_le64(tail + 40, end - begin);
    dinov_put_le64(tail + 48, begin);
    memcpy(locator, "PK\6\7", 4);
    dinov_put_le64(locator + 8, end);
    dinov_put_le32(locator + 16, 1);
    memcpy(last, "PK\5\6", 4);
    dinov_put_le16(last + 8, count);
    dinov_put_le16(last + 10, count);
    dinov_put_le32(last + 12, saturate(end - begin));
    dinov_put_le32(last + 16, saturate(begin));
    return dinov_out_write(w->out, tail, sizeof tail, err);
}

static dinov_status put_all(struct writer *w, const dinov_text *pickle, const dinov_named_tensor *tensors, size_t count,
                            dinov_error *err)
{
    DINOV_TRY(put_entry(w, "data.pkl", pickle->data, pickle->size, err));
    /* These two say that storages come in the order of their numbers, aligned: what torch computes places from. */
    DINOV_TRY(put_entry(w, ".format_version", "1", 1, err));
    DINOV_TRY(put_entry(w, ".storage_alignment", "64", 2, err));
    DINOV_TRY(put_entry(w, "byteorder", "little", 6, err));
    for (size_t i = 0; i < count; i++) {
        char     name[NAME_SIZE - 8];
        uint64_t bytes = 0;
        dinov_tensor_bytes(&tensors[i].tensor, &bytes);
        snprintf(name, sizeof name, "data/%zu", i);
        DINOV_TRY(put_entry(w, name, tensors[i].tensor.data, bytes, err));
    }
    DINOV_TRY(put_entry(w, "version", "3\n", 2, err));
    return put_directory(w, err);
}

dinov_status dinov_pth_write(const char *path, const dinov_named_tensor *tensors, size_t count, int overwrite, dinov_error *err)
{
    struct writer w      = {.entries = dinov_calloc(count + AROUND_DATA, sizeof *w.entries)};
    dinov_text    pickle = {0};
    dinov_status  status;

    put_pickle(&pickle, tensors, count);
    if (!w.entries || pickle.failed) {
        char where[DINOV_ESCAPED];
        status = dinov_fail_nomem(err, dinov_escape(where, sizeof where, path, strlen(path)), "the list of tensors");
        goto fail;
    }
    DINOV_TRY_GOTO(dinov_out_open(&w.out, path, overwrite, err));
    DINOV_TRY_GOTO(put_all(&w, &pickle, tensors, count, err));
    DINOV_TRY_GOTO(dinov_out_commit(&w.out, err));
fail:
    dinov_out_abort(&w.out);
    dinov_text_clear(&pickle);
    dinov_free(w.entries);
    return status;
}
