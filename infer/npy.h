/* SPDX-License-Identifier: Apache-2.0
 *
 * NumPy's .npy files: reading float32 arrays of unknown origin, and writing arrays whose number of
 * rows is known only at the end.
 */
#ifndef DINOV_INFER_NPY_H
#define DINOV_INFER_NPY_H

#include "base/file.h"
#include "dinov/base.h"

#include <stdbool.h>

/* An array in an .npy file: the header's text and the bytes after it. */
typedef struct dinov_npy {
    const char    *descr; /* inside the header: as written there, quotes or brackets included */
    size_t         descr_size;
    int            rank;
    int64_t        dim[DINOV_MAX_RANK];
    const uint8_t *data; /* not necessarily aligned */
    uint64_t       size; /* bytes from `data` to the end of the file */
} dinov_npy;

/* True when the bytes begin like an .npy file. */
bool dinov_npy_is(const void *bytes, size_t size);

/* Reads the header, versions 1.0 to 3.0; C order only. The caller compares descr and size.
 * ERR_FORMAT (NPY-MAGIC, NPY-HEADER), ERR_VERSION (NPY-VERSION), ERR_UNSUPPORTED (NPY-ORDER). */
dinov_status dinov_npy_parse(dinov_npy *out, const void *bytes, size_t size, const char *name, dinov_error *err);

/* The same for little-endian float32 of exactly the bytes its shape needs.
 * Also ERR_UNSUPPORTED (NPY-DTYPE), ERR_CORRUPT (NPY-SIZE). */
dinov_status dinov_npy_parse_f32(dinov_npy *out, const void *bytes, size_t size, const char *name, dinov_error *err);

/* An array being written: the first dimension grows, the others are fixed. */
typedef struct dinov_npy_out {
    dinov_out  *file; /* NULL: not open */
    const char *descr;
    int         rank; /* the first dimension included */
    int64_t     dim[DINOV_MAX_RANK];
    size_t      header;
} dinov_npy_out;

/* `descr` as it stands in the header, "'<f4'"; kept until commit. dim[0] starts as 0. */
dinov_status dinov_npy_create(dinov_npy_out *out, const char *path, const char *descr, int rank, const int64_t *dim, int overwrite,
                              dinov_error *err);
dinov_status dinov_npy_append(dinov_npy_out *out, const void *data, size_t bytes, int64_t rows, dinov_error *err);
/* Writes the final shape; the file appears. Nothing is left open either way. */
dinov_status dinov_npy_commit(dinov_npy_out *out, dinov_error *err);
void         dinov_npy_abort(dinov_npy_out *out);

#endif
