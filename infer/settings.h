/* SPDX-License-Identifier: Apache-2.0
 *
 * run.json: the settings everything depends on, by which a run is recognised when its command is
 * given again, and around them what happened.
 */
#ifndef DINOV_INFER_SETTINGS_H
#define DINOV_INFER_SETTINGS_H

#include "infer/extract.h"

#include <jansson.h>

/* What there is to say about a run before it begins. */
typedef struct dinov_facts {
    const dinov_extract_options *options;
    const dinov_source          *source; /* or */
    const char                  *array;  /* the path of an .npy file */
    const dinov_engine          *engine;
    const int                   *layers; /* [options->layer_count], 0..depth-1 */
    int64_t                      total;  /* inputs; for .npy its rows */
    const char                  *jpegs;  /* the device's decoder, or NULL */
} dinov_facts;

/* The same settings mean the same bytes of results. *out for json_decref. */
dinov_status dinov_settings_new(json_t **out, const dinov_facts *facts, dinov_error *err);

/* The whole of run.json; `settings` as above. *out for json_decref. */
dinov_status dinov_run_json(json_t **out, const dinov_facts *facts, json_t *settings, const dinov_extract_report *report,
                            int64_t rows, double seconds, dinov_error *err);

#endif
