/* SPDX-License-Identifier: Apache-2.0
 *
 * What a confined reader found, as bytes for the process that started it: tensors by name and by where in the shared
 * regions their bytes lie, facts, or a refusal, or the name of a file that it needs. Taking it believes nothing: the
 * reader may have been turned by the file it read.
 */
#ifndef DINOV_CONVERT_CARRY_H
#define DINOV_CONVERT_CARRY_H

#include "base/text.h"
#include "convert/source.h"

/* Bytes that both processes have at the same address. */
typedef struct dinov_region {
    const uint8_t *data;
    uint64_t       size;
} dinov_region;

typedef enum dinov_carried {
    DINOV_CARRIED_READER = 1,
    DINOV_CARRIED_ERROR  = 2,
    DINOV_CARRIED_WANTED = 3,
    DINOV_CARRIED_BESIDE = 4,
} dinov_carried;

/* In the reader's process. Tensors lie in regions, the last of which is the scratch; others are copied there. */
dinov_status dinov_carry_reader(dinov_text *out, dinov_reader *reader, const dinov_region *regions, size_t count, dinov_error *err);
void         dinov_carry_error(dinov_text *out, const dinov_error *why);
void         dinov_carry_wanted(dinov_text *out, const char *name);
/* What the documents beside Hugging Face's weights say, without which of them are there. */
void dinov_carry_beside(dinov_text *out, const dinov_hf_beside *beside);

/* In the other. A reader's tensors are appended to reader->plain, its facts and notes are set; ERR_INTERNAL FENCE-ANSWER for what
 * no reader of ours says. An error becomes the status and *err; wanted: `name` is set. */
dinov_status dinov_carry_take(dinov_carried *what, dinov_reader *reader, char name[DINOV_FILES_NAME + 1], const void *answer,
                              size_t size, const dinov_region *regions, size_t count, dinov_error *err);
/* Likewise for an answer of dinov_carry_beside, or an error. */
dinov_status dinov_carry_take_beside(dinov_hf_beside *out, const void *answer, size_t size, const char *where, dinov_error *err);

#endif
