/* SPDX-License-Identifier: Apache-2.0
 *
 * The tensor table: the order tensors have in a file, and the one spelling of their entries
 * (spec/checkpoint.md 3.4, 3.5). The scanner accepts that spelling and nothing else, so it needs no
 * JSON parser, no memory beyond the names, and time linear in the table.
 */
#ifndef DINOV_FORMAT_TABLE_H
#define DINOV_FORMAT_TABLE_H

#include "base/bytes.h"
#include "base/text.h"
#include "dinov/format.h"

#include "base/fail.h"

typedef struct dinov_table {
    dinov_named_tensor *tensors; /* file order; data is NULL until the caller sets it */
    uint64_t           *offsets; /* of each tensor, from the start of the data */
    size_t              count;
    uint64_t            bytes; /* where the last tensor ends */
    char               *names; /* what tensors[].name points into */
} dinov_table;

/* Reads `,"name":{...},...}` up to and with the closing brace, and proves: names legal and distinct,
 * dtypes known, sizes right, order canonical, no hole, no overlap. ERR_CORRUPT, ERR_LIMIT, ERR_NOMEM. */
dinov_status dinov_table_scan(dinov_table *out, dinov_cursor *c, const char *where, dinov_error *err);
void         dinov_table_clear(dinov_table *table);

/* One member of a safetensors header, after a comma: "name":{dtype, shape, data_offsets}. */
void dinov_table_entry(dinov_text *text, const dinov_named_tensor *tensor, uint64_t begin, uint64_t end);

/* The same bytes for tensors that are in file order. */
void dinov_table_build(dinov_text *text, const dinov_named_tensor *const *tensors, size_t count);

/* Sorts into file order. ERR_SHAPE: CK-NAME, CK-DUPLICATE, CK-SIZE (no bytes, or more than a file holds). */
dinov_status dinov_table_sort(const dinov_named_tensor **tensors, size_t count, const char *where, dinov_error *err);

/* By name, bytewise; names must be legal and distinct (ERR_SHAPE: CK-NAME, CK-DUPLICATE). */
dinov_status dinov_table_sort_names(const dinov_named_tensor **tensors, size_t count, const char *where,
                                    dinov_error *err);

#endif
