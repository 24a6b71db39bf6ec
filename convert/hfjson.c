/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/hfjson.h"

#include "base/alloc.h"
#include "convert/json.h"
#include "dinov/image.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    MAX_DEPTH  = 16,
    MAX_VALUES = 1 << 17, /* labels of a large classifier, tensors of a large model */
};

static dinov_status bad(const char *where, const char *code, const char *what, dinov_error *err)
{
    return dinov_fail(err, DINOV_ERR_FORMAT, code, "%s: %s", where, what);
}

static dinov_status load(json_t **out, const void *json, size_t size, const char *where, dinov_error *err)
{
    json_error_t      e;
    char              text[DINOV_ESCAPED], what[DINOV_ESCAPED + 64];
    dinov_json_extent extent = dinov_json_measure(json, size);
    if (size > DINOV_HF_JSON_MAX || extent.depth > MAX_DEPTH || extent.values > MAX_VALUES)
        return dinov_fail(err, DINOV_ERR_LIMIT, "HF-LARGE",
                          "%s: expected at most %d bytes, %d levels and %d values of JSON, found more", where, DINOV_HF_JSON_MAX,
                          MAX_DEPTH, MAX_VALUES);
    *out = json_loadb(json, size, JSON_REJECT_DUPLICATES, &e);
    if (!*out && !e.text[0]) return dinov_fail_nomem(err, where, "the document"); /* the parser says nothing then */
    if (!*out) {
        snprintf(what, sizeof what, "expected JSON, found at byte %d: %s", e.position,
                 dinov_escape(text, sizeof text, e.text, strlen(e.text)));
        return bad(where, "HF-JSON", what, err);
    }
    if (json_is_object(*out)) return DINOV_OK;
    json_decref(*out);
    return bad(where, "HF-JSON", "expected an object, found another value", err);
}

/* ---- config.json ---- */

/* A size, or two equal ones in a list; 0 when it is absent or null. */
static dinov_status read_size(int64_t *out, const json_t *root, const char *key, const char *where, dinov_error *err)
{
    char          what[96];
    const json_t *value = json_object_get(root, key), *second;
    *out                = 0;
    if (!value || json_is_null(value)) return DINOV_OK;
    if (json_is_array(value) && json_array_size(value) == 2) {
        second = json_array_get(value, 1);
        value  = json_array_get(value, 0);
        if (!json_equal(value, second)) value = NULL;
    }
    if (json_is_integer(value) && json_integer_value(value) > 0 && json_integer_value(value) <= 1 << 20) {
        *out = json_integer_value(value);
        return DINOV_OK;
    }
    snprintf(what, sizeof what, "%s: expected a number from 1 to 1048576, found another value", key);
    return bad(where, "HF-CONFIG", what, err);
}

static dinov_status read_config(dinov_hf_config *out, const json_t *root, const char *where, dinov_error *err)
{
    const struct {
        const char *key;
        int64_t    *to;
    } sizes[] = {
        {"hidden_size", &out->dim},  {"num_hidden_layers", &out->depth}, {"num_attention_heads", &out->heads},
        {"patch_size", &out->patch}, {"image_size", &out->image},        {"num_channels", &out->channels},
    };
    const json_t *type = json_object_get(root, "model_type"), *eps = json_object_get(root, "layer_norm_eps");
    const json_t *act = json_object_get(root, "hidden_act"), *gated = json_object_get(root, "use_swiglu_ffn");
    const char   *name = json_string_value(type);
    char          text[DINOV_ESCAPED];

    if (!name || (strcmp(name, "dinov2") != 0 && strcmp(name, "dinov2_with_registers") != 0))
        return dinov_fail(err, DINOV_ERR_FORMAT, "HF-CONFIG",
                          "%s: model_type: expected dinov2 or dinov2_with_registers, found %s; other models are not read", where,
                          name ? dinov_escape(text, sizeof text, name, strlen(name)) : "none");
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) DINOV_TRY(read_size(sizes[i].to, root, sizes[i].key, where, err));
    if (strcmp(name, "dinov2_with_registers") == 0) DINOV_TRY(read_size(&out->registers, root, "num_register_tokens", where, err));
    if (eps && !(json_is_number(eps) && json_number_value(eps) > 0 && json_number_value(eps) < 1))
        return bad(where, "HF-CONFIG", "layer_norm_eps: expected a number between 0 and 1, found another value", err);
    out->ln_eps = json_number_value(eps);
    /* A gated FFN has a function of its own. */
    if (act && !json_is_true(gated) && !(json_is_string(act) && strcmp(json_string_value(act), "gelu") == 0)) {
        const char *found = json_is_string(act) ? json_string_value(act) : "another value";
        return dinov_fail(err, DINOV_ERR_FORMAT, "HF-CONFIG", "%s: hidden_act: expected gelu, which is all DINOv2 has, found %s",
                          where, dinov_escape(text, sizeof text, found, strlen(found)));
    }
    return DINOV_OK;
}

dinov_status dinov_hf_config_read(dinov_hf_config *out, const void *json, size_t size, const char *where, dinov_error *err)
{
    json_t *root;
    *out = (dinov_hf_config){0};
    DINOV_TRY(load(&root, json, size, where, err));
    dinov_status status = read_config(out, root, where, err);
    json_decref(root);
    return status;
}

dinov_status dinov_hf_config_check(const dinov_hf_config *config, const dinov_model *m, const char *where, dinov_error *err)
{
    const struct {
        const char *key;
        int64_t     said, found;
    } numbers[] = {
        {"hidden_size", config->dim, m->dim},
        {"num_hidden_layers", config->depth, m->depth},
        {"patch_size", config->patch, m->patch},
        {"image_size", config->image, m->grid_h * m->patch},
        {"num_channels", config->channels, m->channels},
        {"num_register_tokens", config->registers, m->registers},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        if (numbers[i].said && numbers[i].said != numbers[i].found)
            return dinov_fail(
                err, DINOV_ERR_FORMAT, "HF-CONFIG",
                "%s: %s: expected %lld, as the tensors beside it have, found %lld; the two belong to different models", where,
                numbers[i].key, (long long)numbers[i].found, (long long)numbers[i].said);
    return DINOV_OK;
}

/* ---- preprocessor_config.json ---- */

/* {"height": N, "width": N}, or N alone; 0: something else. */
static int64_t square_side(const json_t *size)
{
    const json_t *h = json_object_get(size, "height"), *w = json_object_get(size, "width");
    if (json_is_integer(size)) h = w = size;
    return json_is_integer(h) && json_is_integer(w) && json_integer_value(h) == json_integer_value(w) ? json_integer_value(h) : 0;
}

/* {"shortest_edge": N}, or N alone as older files have it. */
static int64_t shortest_edge(const json_t *size)
{
    const json_t *edge = json_is_integer(size) ? size : json_object_get(size, "shortest_edge");
    return json_is_integer(edge) ? json_integer_value(edge) : 0;
}

static bool read_three(float out[3], const json_t *list, bool positive)
{
    if (!json_is_array(list) || json_array_size(list) != 3) return false;
    for (size_t i = 0; i < 3; i++) {
        const json_t *value = json_array_get(list, i);
        out[i]              = (float)json_number_value(value);
        if (!json_is_number(value) || !isfinite(out[i]) || (positive && !(out[i] > 0))) return false;
    }
    return true;
}

/* The preset that does the same; *preset stays empty for none. */
static void find_preset(char *preset, size_t size, const json_t *root)
{
    const json_t *edges = json_object_get(root, "size");
    bool          crops = json_is_true(json_object_get(root, "do_center_crop"));
    int64_t       crop = square_side(json_object_get(root, "crop_size")), edge = shortest_edge(edges), side = square_side(edges);
    dinov_preset  parsed = {.kind = DINOV_PRESET_EVAL, .size = crop};
    if (crops && crop > 0 && crop <= 1 << 16 && dinov_preset_shorter(crop) == edge)
        snprintf(preset, size, "eval:%lld", (long long)crop);
    else if (!crops && json_is_object(edges) && side > 0 && side <= 1 << 16)
        snprintf(preset, size, "square:%lld", (long long)side);
    /* What is no preset after all stays unsaid. */
    if (*preset && dinov_preset_parse(&parsed, preset, NULL) != DINOV_OK) *preset = '\0';
}

static bool read_preprocess(dinov_preprocess *p, const json_t *root)
{
    enum { BICUBIC = 3 };
    const json_t *scale  = json_object_get(root, "rescale_factor");
    bool          scales = json_is_true(json_object_get(root, "do_rescale")) && fabs(json_number_value(scale) * 255 - 1) < 1e-6;
    find_preset(p->preset, sizeof p->preset, root);
    return *p->preset && scales && json_is_true(json_object_get(root, "do_resize")) &&
           json_integer_value(json_object_get(root, "resample")) == BICUBIC &&
           json_is_true(json_object_get(root, "do_normalize")) && read_three(p->mean, json_object_get(root, "image_mean"), false) &&
           read_three(p->std, json_object_get(root, "image_std"), true);
}

dinov_status dinov_hf_preprocess_read(dinov_preprocess *out, bool *said, const void *json, size_t size, const char *where,
                                      dinov_error *err)
{
    dinov_preprocess p = {.preset = ""};
    json_t          *root;
    DINOV_TRY(load(&root, json, size, where, err));
    *said = read_preprocess(&p, root);
    if (*said) *out = p;
    json_decref(root);
    return DINOV_OK;
}

/* ---- model.safetensors.index.json ---- */

dinov_status dinov_hf_index_read(json_t **map, const void *json, size_t size, const char *where, dinov_error *err)
{
    json_t      *root, *weights, *file;
    const char  *name;
    dinov_status status = DINOV_OK;
    DINOV_TRY(load(&root, json, size, where, err));
    weights = json_object_get(root, "weight_map");
    if (!json_is_object(weights) || json_object_size(weights) == 0)
        status = bad(where, "HF-INDEX",
                     "expected the index of a sharded model, with a weight_map of tensor and file names, found other JSON", err);
    else
        json_object_foreach(weights, name, file)
        {
            if (!json_is_string(file))
                status = bad(where, "HF-INDEX", "weight_map: expected a file name for every tensor, found another value", err);
        }
    if (status == DINOV_OK) *map = json_incref(weights);
    json_decref(root);
    return status;
}
