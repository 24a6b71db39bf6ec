/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of keys, shared by config.c, which owns it, and config_yaml.c, which reads into it.
 */
#ifndef DINOV_TRAIN_CONFIG_ROWS_H
#define DINOV_TRAIN_CONFIG_ROWS_H

#include "train/config.h"

enum kind {
    DINOV_CFG_REAL,      /* double */
    DINOV_CFG_INT,       /* int64_t */
    DINOV_CFG_BOOL,      /* bool */
    DINOV_CFG_PAIR,      /* double [2], ascending */
    DINOV_CFG_TEXT,      /* char [DINOV_CONFIG_TEXT] */
    DINOV_CFG_ARCH,      /* char [32] */
    DINOV_CFG_CENTERING, /* dinov_centering */
    DINOV_CFG_FFN,       /* dinov_ffn */
    DINOV_CFG_FIXED,     /* upstream's key with one value here; another would change what is trained */
    DINOV_CFG_IGNORED,   /* upstream's key that changes nothing here */
};

struct row {
    const char *name; /* "dino.head_n_prototypes" */
    enum kind   kind;
    size_t      offset; /* in dinov_config */
    const char *text;   /* the default */
    double      min, max;
    int         free; /* 1: may change in the middle of a run */
    const char *help;
};

const struct row *dinov_config_rows(int64_t *count);

/* `text` says the row's default, be it in another spelling. */
bool dinov_config_row_is_default(const struct row *row, const char *text);

/* Sets one key from its text. `where` stands for the place in messages. */
dinov_status dinov_config_set_row(dinov_config *config, const struct row *row, const char *text, const char *where,
                                  dinov_error *err);

/* CFG-VALUE: "WHERE: KEY: expected EXPECTED, found "TEXT"". */
dinov_status dinov_config_refuse(const struct row *row, const char *where, const char *expected, const char *text,
                                 dinov_error *err);

#endif
