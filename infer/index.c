/* SPDX-License-Identifier: Apache-2.0 */
#include "infer/index.h"

#include "base/alloc.h"
#include "base/bytes.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char *const status_names[] = {"ok", "truncated", "corrupt", "unsupported", "too-large", "io"};

const char *dinov_input_status_name(dinov_input_status status) { return status_names[status]; }

const char dinov_index_descr[] = "[('row', '<i8'), ('status', '|S12'), ('width', '<u4'), ('height', '<u4'), "
                                 "('input_width', '<u4'), ('input_height', '<u4'), ('grid_w', '<u4'), ('grid_h', '<u4'), "
                                 "('key_offset', '<u8'), ('key_size', '<u4')]";

void dinov_index_put(uint8_t out[DINOV_INDEX_RECORD], const dinov_index_record *r)
{
    const char *status = dinov_input_status_name(r->status);
    memset(out, 0, DINOV_INDEX_RECORD);
    dinov_put_le64(out, (uint64_t)r->row);
    memcpy(out + 8, status, strlen(status));
    dinov_put_le32(out + 20, r->width);
    dinov_put_le32(out + 24, r->height);
    dinov_put_le32(out + 28, r->input_width);
    dinov_put_le32(out + 32, r->input_height);
    dinov_put_le32(out + 36, r->grid_w);
    dinov_put_le32(out + 40, r->grid_h);
    dinov_put_le64(out + 44, r->key_offset);
    dinov_put_le32(out + 52, r->key_size);
}

/* False for a status that is none of ours. */
static bool get(dinov_index_record *r, const uint8_t *in)
{
    char status[13] = {0};
    memcpy(status, in + 8, 12);
    *r = (dinov_index_record){.row          = (int64_t)dinov_le64(in),
                              .width        = dinov_le32(in + 20),
                              .height       = dinov_le32(in + 24),
                              .input_width  = dinov_le32(in + 28),
                              .input_height = dinov_le32(in + 32),
                              .grid_w       = dinov_le32(in + 36),
                              .grid_h       = dinov_le32(in + 40),
                              .key_offset   = dinov_le64(in + 44),
                              .key_size     = dinov_le32(in + 52)};
    for (int i = 0; i < DINOV_INPUT_STATUSES; i++)
        if (strcmp(status, status_names[i]) == 0) {
            r->status = (dinov_input_status)i;
            return true;
        }
    return false;
}

dinov_status dinov_index_open(dinov_index *out, const char *folder, dinov_error *err)
{
    size_t       length = strlen(folder) + 32, size, keys_size;
    char        *path   = dinov_alloc(length, 1), shown[DINOV_ESCAPED];
    dinov_npy    npy;
    dinov_status status;

    *out = (dinov_index){0};
    if (!path) return dinov_fail_nomem(err, "index", "its path");
    dinov_escape(shown, sizeof shown, folder, strlen(folder));
    snprintf(path, length, "%s/run.json", folder);
    if (access(path, F_OK) != 0) {
        status = dinov_fail_errno(err, errno, "IDX-OPEN", "%s: holds no finished run", shown);
        goto fail;
    }
    snprintf(path, length, "%s/part-000000.keys.txt", folder);
    DINOV_TRY_GOTO(dinov_file_read(&out->keys, &keys_size, path, SIZE_MAX, err));
    snprintf(path, length, "%s/part-000000.index.npy", folder);
    DINOV_TRY_GOTO(dinov_file_read(&out->file, &size, path, SIZE_MAX, err));
    DINOV_TRY_GOTO(dinov_npy_parse(&npy, out->file, size, path, err));
    if (npy.descr_size != strlen(dinov_index_descr) || memcmp(npy.descr, dinov_index_descr, npy.descr_size) != 0 || npy.rank != 1 ||
        (uint64_t)npy.dim[0] > npy.size || npy.size != (uint64_t)npy.dim[0] * DINOV_INDEX_RECORD) {
        status = dinov_fail(err, DINOV_ERR_FORMAT, "IDX-TYPE", "%s/part-000000.index.npy: not an index this program wrote", shown);
        goto fail;
    }
    out->records = npy.data;
    out->count   = npy.dim[0];
    for (int64_t i = 0; i < out->count; i++) {
        dinov_index_record r;
        if (!get(&r, out->records + i * DINOV_INDEX_RECORD) || r.key_offset > keys_size || r.key_size > keys_size - r.key_offset) {
            status = dinov_fail(err, DINOV_ERR_CORRUPT, "IDX-RECORD",
                                "%s/part-000000.index.npy: record %lld has an unknown status or a key outside keys.txt", shown,
                                (long long)i);
            goto fail;
        }
    }
    dinov_free(path);
    return DINOV_OK;
fail:
    dinov_free(path);
    dinov_index_clear(out);
    return status;
}

void dinov_index_clear(dinov_index *index)
{
    dinov_free(index->file);
    dinov_free(index->keys);
    *index = (dinov_index){0};
}

void dinov_index_get(const dinov_index *index, int64_t i, dinov_index_record *record, const char **key)
{
    DINOV_ASSERT(i >= 0 && i < index->count);
    get(record, index->records + i * DINOV_INDEX_RECORD);
    *key = (const char *)index->keys + record->key_offset;
}
