/* SPDX-License-Identifier: Apache-2.0
 *
 * What the verbs of dinov-ckpt share.
 */
#ifndef DINOV_CLI_CKPT_H
#define DINOV_CLI_CKPT_H

#include "cli/tool.h"

#include <jansson.h>

/* cli/ckpt_diff.c */
extern const dinov_tool dinov_ckpt_diff;

/* Prints and frees `root`; returns the exit code. */
int dinov_ckpt_print(const dinov_tool *tool, json_t *root);
/* null for what is no finite number, which JSON does not have. */
json_t *dinov_ckpt_number(double value);
json_t *dinov_ckpt_shape(const dinov_tensor *tensor);

#endif
