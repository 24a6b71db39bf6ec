/* SPDX-License-Identifier: Apache-2.0
 *
 * One input of a run on its way to the engine: decoded, turned, resized and normalised, or planned so that a device does the
 * last two; or a row of an .npy file. Any thread, any input, a worker's number for one thread at a time.
 */
#ifndef DINOV_INFER_PREPARE_H
#define DINOV_INFER_PREPARE_H

#include "infer/engine.h"
#include "infer/extract.h"
#include "infer/npy.h"

typedef struct dinov_prepare {
    const dinov_extract_options *options;
    const dinov_source          *source; /* or */
    const char                  *array_path;
    const dinov_npy             *array;
    dinov_engine                *engine;
    const dinov_model           *model;
    bool                         decoded; /* pictures go to the engine as decoded */
    dinov_device_jpeg          **jpegs;   /* a worker each, for the JPEGs they know; or NULL */
} dinov_prepare;

typedef struct dinov_item {
    dinov_index_record record;
    bool               ready;     /* the engine can have it; else `why` says what is wrong */
    bool               by_device; /* decoded by one of `jpegs` */
    float             *pixels;    /* [channels, input_height, input_width], or */
    dinov_image        image;     /* with its plan */
    dinov_resize_plan  plan;
    int64_t            group, place; /* where its features are */
    dinov_status       status;
    dinov_error        why;
} dinov_item;

/* Input i, by that worker. The item needs no clearing before, and afterwards when it is ready. */
void dinov_item_prepare(dinov_item *item, const dinov_prepare *p, int64_t i, int worker);
void dinov_item_clear(dinov_item *item); /* of what is to be computed; its record stays */

/* ERR_LIMIT RUN-TOKENS when an input of that size has more patch tokens than the options allow. */
dinov_status dinov_check_tokens(const dinov_prepare *p, const char *shown, int64_t w, int64_t h, dinov_error *err);

#endif
