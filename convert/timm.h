/* SPDX-License-Identifier: Apache-2.0
 *
 * A model as timm keeps it: one safetensors file under timm's names, without mask_token, and with
 * registers the class token's position added to the token. Reading needs nothing of its own
 * (convert/names.h).
 */
#ifndef DINOV_CONVERT_TIMM_H
#define DINOV_CONVERT_TIMM_H

#include "base/fail.h"
#include "dinov/format.h"

/* What timm.create_model(NAME, checkpoint_path=PATH) opens. As dinov_safetensors_write. */
dinov_status dinov_timm_write(const char *path, const dinov_weights *weights, int overwrite, dinov_error *err);

#endif
