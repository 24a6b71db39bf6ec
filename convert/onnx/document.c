/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/onnx/document.h"

#include "base/alloc.h"
#include "base/text.h"
#include "dinov/image.h"
#include "format/json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* The numbers that the graph has, too, are the same. */
static bool fits(const json_t *root, const dinov_model *found, dinov_facts *facts, bool *resampled)
{
    json_int_t patch, dim, depth, heads, registers, rows, columns;
    if (json_unpack((json_t *)(uintptr_t)root, "{s:{s:I,s:I,s:I,s:I,s:I,s:f,s:{s:[II!],s:f,s:b}}}", "model", "patch", &patch, "dim",
                    &dim, "depth", &depth, "heads", &heads, "registers", &registers, "ln_eps", &facts->ln_eps, "position", "grid",
                    &rows, &columns, "offset", &facts->interp.offset, "antialias", &facts->interp.antialias) != 0)
        return false;
    facts->heads      = heads;
    facts->has_interp = 1;
    *resampled        = rows != found->grid_h || columns != found->grid_w;
    return patch == found->patch && dim == found->dim && depth == found->depth && registers == found->registers && heads > 0 &&
           heads <= dim && dim % heads == 0 && (!found->heads || heads == found->heads) &&
           (float)facts->ln_eps == (float)found->ln_eps && facts->interp.offset >= 0 && facts->interp.offset < 1;
}

static bool read_triple(const json_t *array, float out[3])
{
    for (size_t i = 0; i < 3; i++) {
        out[i] = (float)json_number_value(json_array_get(array, i));
        if (!isfinite(out[i])) return false;
    }
    return json_array_size(array) == 3;
}

/* Left out when it is not one that dinov-infer could follow. */
static void read_preprocess(const json_t *root, const dinov_model *found, dinov_facts *facts)
{
    const json_t    *part = json_object_get(root, "preprocess");
    const char      *text = json_string_value(json_object_get(part, "preset"));
    dinov_preprocess p    = {0};
    dinov_preset     preset;
    int64_t          w, h;
    if (!text || dinov_preset_parse(&preset, text, NULL) != DINOV_OK ||
        dinov_preset_size(&preset, found->patch, 1, 1, &w, &h, NULL) != DINOV_OK)
        return;
    if (snprintf(p.preset, sizeof p.preset, "%s", text) >= (int)sizeof p.preset) return;
    if (!read_triple(json_object_get(part, "mean"), p.mean) || !read_triple(json_object_get(part, "std"), p.std)) return;
    if (!(p.std[0] > 0 && p.std[1] > 0 && p.std[2] > 0)) return;
    facts->preprocess     = p;
    facts->has_preprocess = 1;
}

/* A string of the provenance; left out when it is not one that a checkpoint could keep. */
static void read_origin(char *out, size_t room, const json_t *root, const char *key)
{
    const json_t *value = json_object_get(json_object_get(json_object_get(root, "identity"), "provenance"), key);
    const char   *text  = json_string_value(value);
    size_t        size  = json_string_length(value);
    if (text && size < room && dinov_text_printable(text, size)) memcpy(out, text, size + 1);
}

dinov_status dinov_onnx_document(dinov_facts *facts, bool *agrees, bool *resampled, const dinov_model *found, const char *json,
                                 size_t size, const char *where, dinov_error *err)
{
    const dinov_json at    = {where, "the dinov document", "backbone"};
    dinov_facts      heard = *facts;
    json_t          *root  = NULL;
    *agrees = *resampled = false;
    dinov_status status  = dinov_json_limits(json, size, &at, NULL);
    if (status == DINOV_OK) status = dinov_json_load(&root, json, size, &at, NULL);
    if (status == DINOV_ERR_NOMEM) return dinov_fail_nomem(err, where, "the dinov document");
    if (status != DINOV_OK) return DINOV_OK;
    *agrees = fits(root, found, &heard, resampled);
    if (*agrees) {
        read_preprocess(root, found, &heard);
        read_origin(heard.licence, sizeof heard.licence, root, "licence");
        read_origin(heard.origin, sizeof heard.origin, root, "origin");
    }
    if (*agrees) *facts = heard;
    json_decref(root);
    return DINOV_OK;
}
