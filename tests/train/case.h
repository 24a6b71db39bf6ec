/* SPDX-License-Identifier: Apache-2.0
 *
 * Inputs of training steps from a folder that tests/train/parity.py or tests/bench/pretrain_peer.py wrote;
 * the former says what is in it. What is read lives as long as the program; what is wrong ends it.
 */
#ifndef TESTS_TRAIN_CASE_H
#define TESTS_TRAIN_CASE_H

#include "infer/npy.h"
#include "train/trainer.h"

#include <jansson.h>

void case_must(dinov_status status, const dinov_error *err);

json_t     *case_read(const char *folder, dinov_config *config, dinov_model *model);
int64_t     case_steps(const json_t *case_);
dinov_rates case_rates(const json_t *case_, int64_t step);
dinov_views case_views(const char *folder, const dinov_config *config, int64_t step, int64_t patches);
/* The stored subsets of a step in `plan`; NULL at rate 0. */
dinov_drop_plan *case_drop(const char *folder, dinov_drop_plan *plan, const dinov_config *config, const dinov_model *model,
                           int64_t step);

/* The bytes of FOLDER/in/NAME.npy; NULL when there is no such file. */
const void *case_input(const char *folder, dinov_npy *npy, const char *format, ...) DINOV_PRINTF(3, 4);

#endif
