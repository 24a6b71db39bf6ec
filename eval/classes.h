/* SPDX-License-Identifier: Apache-2.0
 *
 * Where the labels of rows come from: a file of labels, or the folders pictures lie in. Labels are
 * numbers where every one is written as a number, and otherwise names, which become numbers when a
 * test set is matched with its training set.
 */
#ifndef DINOV_EVAL_CLASSES_H
#define DINOV_EVAL_CLASSES_H

#include "base/fail.h"

typedef struct dinov_bytes {
    const char *at; /* not terminated */
    size_t      size;
} dinov_bytes;

typedef struct dinov_classes {
    int32_t *label; /* [count] */
    char   **name;  /* [name_count], by bytes; NULL: labels are numbers as they stand */
    int64_t  count, name_count;
} dinov_classes; /* starts as {0} */

void dinov_classes_clear(dinov_classes *classes);

/* The label of each row as a text. ERR_NOMEM. */
dinov_status dinov_classes_from_texts(dinov_classes *out, const dinov_bytes *texts, int64_t count, dinov_error *err);

/* What is known of the rows that a file is to label. */
typedef struct dinov_rows {
    const char        *name;   /* of the set, for messages */
    int64_t            count;  /* rows */
    const dinov_bytes *key;    /* [count]: names of the pictures; NULL when unknown */
    const int64_t     *input;  /* [count]: the input each row came from; NULL when all inputs gave one */
    int64_t            inputs; /* inputs in all */
} dinov_rows;

/* A file of labels: an .npy of integers [N], or text of one label a line, N being the rows or the inputs;
 * or lines of KEY tab LABEL in any order.
 * ERR_FORMAT (EVAL-LABELS), ERR_SHAPE (EVAL-COUNT, EVAL-UNLABELLED), and those of dinov_file_read and dinov_npy_parse. */
dinov_status dinov_classes_read(dinov_classes *out, const char *path, const dinov_rows *rows, dinov_error *err);

/* The last folder of each key. ERR_SHAPE EVAL-UNLABELLED: a key without one, or all in the same. */
dinov_status dinov_classes_from_folders(dinov_classes *out, const dinov_rows *rows, dinov_error *err);

/* Turns the names of `test` into the numbers that `train` gives them. ERR_SHAPE EVAL-CLASS: a class that
 * `train` lacks, or names here and numbers there. */
dinov_status dinov_classes_match(dinov_classes *test, const char *test_name, const dinov_classes *train, const char *train_name,
                                 dinov_error *err);

#endif
