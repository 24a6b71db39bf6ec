/* SPDX-License-Identifier: Apache-2.0
 *
 * The index of an extraction: one record an input, in input order, in part-000000.index.npy, and the
 * inputs' names, one a line, in part-000000.keys.txt. It says which row is which picture, and what
 * became of those that have none.
 */
#ifndef DINOV_INFER_INDEX_H
#define DINOV_INFER_INDEX_H

#include "infer/npy.h"

/* Values are not stored; the names are ("ok", "truncated", ...). */
typedef enum dinov_input_status {
    DINOV_INPUT_OK,
    DINOV_INPUT_TRUNCATED,
    DINOV_INPUT_CORRUPT,
    DINOV_INPUT_UNSUPPORTED,
    DINOV_INPUT_TOO_LARGE,
    DINOV_INPUT_IO,
    DINOV_INPUT_STATUSES,
} dinov_input_status;

const char *dinov_input_status_name(dinov_input_status status);

typedef struct dinov_index_record {
    int64_t            row; /* -1 unless ok */
    dinov_input_status status;
    uint32_t           width, height;             /* as stored, before turning; 0 when unknown */
    uint32_t           input_width, input_height; /* what the model saw; 0 unless ok */
    uint32_t           grid_w, grid_h;
    uint64_t           key_offset; /* in keys.txt */
    uint32_t           key_size;   /* bytes, the newline not counted */
} dinov_index_record;

enum { DINOV_INDEX_RECORD = 56 };      /* bytes in the file */
extern const char dinov_index_descr[]; /* NumPy's name of the record type */
void              dinov_index_put(uint8_t out[DINOV_INDEX_RECORD], const dinov_index_record *record);

/* A finished index, read back and checked as a whole. */
typedef struct dinov_index {
    void          *file, *keys;
    const uint8_t *records;
    int64_t        count;
} dinov_index;

/* Of the output folder `folder`. ERR_IO, ERR_FORMAT (IDX-TYPE), ERR_CORRUPT (IDX-RECORD, NPY-*). */
dinov_status dinov_index_open(dinov_index *out, const char *folder, dinov_error *err);
void         dinov_index_clear(dinov_index *index);
/* *key is not terminated: record->key_size bytes. */
void dinov_index_get(const dinov_index *index, int64_t i, dinov_index_record *record, const char **key);

#endif
