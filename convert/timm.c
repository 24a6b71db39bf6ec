/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/timm.h"

#include "convert/names.h"
#include "convert/safetensors.h"

#include <string.h>

dinov_status dinov_timm_write(const char *path, const dinov_weights *weights, int overwrite, dinov_error *err)
{
    char          where[DINOV_ESCAPED];
    dinov_tensors list;
    dinov_escape(where, sizeof where, path, strlen(path));
    dinov_status status = dinov_names_rename(&list, weights, DINOV_NAMING_TIMM, where, err);
    if (status == DINOV_OK) status = dinov_safetensors_write(path, list.items, list.count, overwrite, err);
    dinov_tensors_clear(&list);
    return status;
}
