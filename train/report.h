/* SPDX-License-Identifier: Apache-2.0
 *
 * The state of a run in plain words: how far it is, what its numbers are and what they mean.
 */
#ifndef DINOV_TRAIN_REPORT_H
#define DINOV_TRAIN_REPORT_H

#include "base/fail.h"
#include "base/text.h"

/* Reads RUN/config.yaml and metrics.jsonl and the names of its checkpoints; a run under way may be asked about. `out` starts empty;
 * dinov_text_clear. ERR_IO (RUN-OPEN) when there is no run, ERR_FORMAT (RUN-METRICS) when it has no metrics yet, and those of the
 * configuration. */
dinov_status dinov_train_report(const char *run, dinov_text *out, dinov_error *err);

#endif
