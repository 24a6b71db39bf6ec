/* SPDX-License-Identifier: Apache-2.0
 *
 * What an open checkpoint is made of. Private to format/.
 */
#ifndef DINOV_FORMAT_CHECKPOINT_H
#define DINOV_FORMAT_CHECKPOINT_H

#include "base/file.h"
#include "format/document.h"
#include "format/table.h"

struct dinov_checkpoint {
    char           name[DINOV_ESCAPED]; /* the path, for messages */
    dinov_map      map;                 /* empty when opened from memory */
    const uint8_t *data;                /* the tensor data in the file */
    uint64_t       data_at;             /* its offset in the file */

    dinov_text           json; /* the document */
    dinov_document       document;
    dinov_document_store store;
    dinov_table          table;
    void                *copies; /* tensors that lie unaligned in memory */
    dinov_weights        weights;
};

/* Tensor i as it lies in the file. */
dinov_span dinov_checkpoint_span(const dinov_checkpoint *ckpt, size_t i);

#endif
