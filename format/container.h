/* SPDX-License-Identifier: Apache-2.0
 *
 * The file itself, whatever kind of document it carries: header, table, data under digests
 * (spec/checkpoint.md 3 and 4.4). Kinds put their own rules on top: backbones in read.c and write.c,
 * training state in state.c.
 */
#ifndef DINOV_FORMAT_CONTAINER_H
#define DINOV_FORMAT_CONTAINER_H

#include "base/file.h"
#include "format/digest.h"
#include "format/table.h"

typedef struct dinov_container {
    char           name[DINOV_ESCAPED];          /* the path, for messages */
    dinov_map      map;                          /* empty when opened from memory */
    const uint8_t *data;                         /* the tensor data in the file */
    uint64_t       data_at;                      /* its offset in the file */
    char           digest[DINOV_CK_DIGEST_SIZE]; /* of the header, and through it of every byte */

    dinov_text          json; /* the document */
    dinov_table         table;
    void               *copies;  /* tensors that lie unaligned in memory */
    const dinov_digest *digests; /* those of the document, set by its reader */
    size_t              digest_count;
} dinov_container; /* starts as {0} */

/* Reads the document `json` of a container and sets its digests. */
typedef dinov_status (*dinov_container_reader)(void *arg, dinov_container *container, dinov_error *err);

/* Takes over `map`, which may be empty: then `data` stays the caller's. After a failure the container is to be closed too.
 * Errors as dinov_checkpoint_open, and those of `read`. */
dinov_status dinov_container_open(dinov_container *out, const void *data, size_t size, dinov_map map, const char *name,
                                  dinov_container_reader read, void *arg, dinov_error *err);
void         dinov_container_close(dinov_container *container);

/* Tensor i as it lies in the file. */
dinov_span dinov_container_span(const dinov_container *container, size_t i);

/* Recomputes every digest. ERR_CORRUPT (CK-DIGEST) names the first damaged tensor and its byte range. */
dinov_status dinov_container_verify(const dinov_container *container, int threads, dinov_error *err);

/* ---- Writing ---- */

/* Tensors in file order, with what is known of their bytes. */
typedef struct dinov_making {
    const dinov_named_tensor **tensors;
    dinov_span                *spans;
    size_t                     count;
    dinov_digest              *digests; /* the digit 0 until dinov_making_digest */
    size_t                     digest_count;
    dinov_out                 *out; /* once it is started */
    size_t                     header_size;
} dinov_making; /* starts as {0} */

/* Sorts. ERR_SHAPE (table.h), ERR_NOMEM; to be cleared in any case. */
dinov_status dinov_making_sort(dinov_making *making, const dinov_named_tensor *tensors, size_t count, const char *where,
                               dinov_error *err);
/* The tensors are written while what the document says of them is still being found out: digests have a known length, so a document
 * with zeros for them tells where the data begin. With threads 1 they are written before it returns, else by one thread more. */
dinov_status dinov_making_start(dinov_making *making, const dinov_text *zeros, const char *path, int overwrite, int threads,
                                const dinov_json *at, dinov_error *err);
dinov_status dinov_making_digest(dinov_making *making, int threads, const char *where, dinov_error *err);
/* The file, durably and whole or not at all, under the document as it is now. digest (NULL allowed) becomes that of the header. */
dinov_status dinov_making_finish(dinov_making *making, const dinov_text *json, dinov_digest *digest, const dinov_json *at,
                                 dinov_error *err);
/* Leaves no file behind unless it is finished. */
void dinov_making_clear(dinov_making *making);

#endif
