/* SPDX-License-Identifier: Apache-2.0
 *
 * A model as a folder that transformers opens: the two documents spelled out, the tensors as views of
 * ours under its names, in one file or in shards with an index.
 */
#include "convert/hf.h"

#include "base/alloc.h"
#include "base/dtype.h"
#include "base/file.h"
#include "base/folder.h"
#include "base/text.h"
#include "convert/names.h"
#include "convert/safetensors.h"
#include "dinov/image.h"
#include "format/params.h"

#include <stdio.h>
#include <string.h>

static dinov_status unsaid(const char *where, const char *what, dinov_error *err)
{
    return dinov_fail(err, DINOV_ERR_SHAPE, "HF-MODEL", "%s: config.json has no way to say %s; use --to safetensors or --to timm",
                      where, what);
}

/* transformers computes the FFN's width from a whole number. */
static int64_t hidden_of(const dinov_model *m, int64_t ratio)
{
    int64_t hidden = m->dim * ratio;
    return m->ffn == DINOV_FFN_MLP ? hidden : (hidden * 2 / 3 + 7) / 8 * 8;
}

static dinov_status find_ratio(int64_t *ratio, const dinov_model *m, const char *where, dinov_error *err)
{
    char what[96];
    if (!m->layerscale) return unsaid(where, "a model without LayerScale", err);
    if (m->grid_h != m->grid_w) return unsaid(where, "a trained grid that is no square", err);
    for (*ratio = 1; hidden_of(m, *ratio) < m->hidden; ++*ratio) {}
    if (hidden_of(m, *ratio) == m->hidden) return DINOV_OK;
    snprintf(what, sizeof what, "an FFN of width %lld in a model of width %lld", (long long)m->hidden, (long long)m->dim);
    return unsaid(where, what, err);
}

static void put_int(dinov_text *t, const char *key, int64_t value)
{
    dinov_text_puts(t, key);
    dinov_text_int(t, value);
}

static void put_bool(dinov_text *t, const char *key, bool value)
{
    dinov_text_puts(t, key);
    dinov_text_puts(t, value ? "true" : "false");
}

static void put_three(dinov_text *t, const char *key, const float *values)
{
    dinov_text_puts(t, key);
    for (int i = 0; i < 3; i++) {
        dinov_text_puts(t, i ? ", " : "[");
        dinov_text_float(t, values[i]);
    }
    dinov_text_puts(t, "]");
}

static const char *dtype_name(const dinov_weights *weights)
{
    dinov_dtype dtype = dinov_weights_find(weights, "patch_embed.proj.weight")->dtype;
    return dtype == DINOV_F16 ? "float16" : dtype == DINOV_BF16 ? "bfloat16" : "float32";
}

static void build_config(dinov_text *t, const dinov_weights *weights, int64_t ratio)
{
    const dinov_model *m              = &weights->model;
    bool               register_class = m->registers > 0;
    dinov_text_puts(t, "{\n  \"architectures\": [\"");
    dinov_text_puts(t, register_class ? "Dinov2WithRegistersModel" : "Dinov2Model");
    dinov_text_puts(t, "\"],\n  \"model_type\": \"");
    dinov_text_puts(t, register_class ? "dinov2_with_registers" : "dinov2");
    put_int(t, "\",\n  \"hidden_size\": ", m->dim);
    put_int(t, ",\n  \"num_hidden_layers\": ", m->depth);
    put_int(t, ",\n  \"num_attention_heads\": ", m->heads);
    put_int(t, ",\n  \"mlp_ratio\": ", ratio);
    put_bool(t, ",\n  \"use_swiglu_ffn\": ", m->ffn == DINOV_FFN_SWIGLU);
    put_int(t, ",\n  \"image_size\": ", m->grid_h * m->patch);
    put_int(t, ",\n  \"patch_size\": ", m->patch);
    put_int(t, ",\n  \"num_channels\": ", m->channels);
    if (register_class) put_int(t, ",\n  \"num_register_tokens\": ", m->registers);
    dinov_text_puts(t, ",\n  \"layer_norm_eps\": ");
    dinov_text_double(t, m->ln_eps);
    put_bool(t, ",\n  \"qkv_bias\": ", m->qkv_bias);
    dinov_text_puts(t, ",\n  \"hidden_act\": \"gelu\",\n  \"layerscale_value\": 1.0,\n  \"attention_probs_dropout_prob\": 0.0,\n"
                       "  \"hidden_dropout_prob\": 0.0,\n  \"drop_path_rate\": 0.0,\n  \"initializer_range\": 0.02,\n"
                       "  \"apply_layernorm\": true,\n  \"reshape_hidden_states\": true,\n  \"torch_dtype\": \"");
    dinov_text_puts(t, dtype_name(weights));
    dinov_text_puts(t, "\"\n}\n");
}

/* eval and square are what the image processor can do; anything else becomes the hub's evaluation. */
static void build_preprocessor(dinov_text *t, const dinov_weights *weights)
{
    dinov_preprocess p = weights->preprocess, usual;
    dinov_preset     preset;
    dinov_preprocess_default(&usual, &weights->model);
    if (dinov_preset_parse(&preset, p.preset, NULL) != DINOV_OK ||
        (preset.kind != DINOV_PRESET_EVAL && preset.kind != DINOV_PRESET_SQUARE))
        DINOV_ASSERT(dinov_preset_parse(&preset, usual.preset, NULL) == DINOV_OK);

    dinov_text_puts(t,
                    "{\n  \"image_processor_type\": \"BitImageProcessor\",\n  \"do_convert_rgb\": true,\n  \"do_resize\": true,\n"
                    "  \"resample\": 3,\n  \"size\": {");
    if (preset.kind == DINOV_PRESET_EVAL) {
        put_int(t, "\"shortest_edge\": ", dinov_preset_shorter(preset.size));
    } else {
        put_int(t, "\"height\": ", preset.size);
        put_int(t, ", \"width\": ", preset.size);
    }
    put_bool(t, "},\n  \"do_center_crop\": ", preset.kind == DINOV_PRESET_EVAL);
    put_int(t, ",\n  \"crop_size\": {\"height\": ", preset.size);
    put_int(t, ", \"width\": ", preset.size);
    dinov_text_puts(t, "},\n  \"do_rescale\": true,\n  \"rescale_factor\": ");
    dinov_text_double(t, 1.0 / 255);
    put_three(t, ",\n  \"do_normalize\": true,\n  \"image_mean\": ", p.mean);
    put_three(t, ",\n  \"image_std\": ", p.std);
    dinov_text_puts(t, "\n}\n");
}

/* ---- Files ---- */

struct writer {
    const char *folder, *where;
    char       *path; /* folder and a name */
    size_t      room;
};

static const char *path_of(struct writer *w, const char *name)
{
    snprintf(w->path, w->room, "%s/%s", w->folder, name);
    return w->path;
}

static dinov_status write_text(struct writer *w, const char *name, dinov_text *text, dinov_error *err)
{
    dinov_out   *out    = NULL;
    dinov_status status = text->failed ? dinov_fail_nomem(err, w->where, name) : DINOV_OK;
    if (status == DINOV_OK) status = dinov_out_open(&out, path_of(w, name), 0, err);
    if (status == DINOV_OK) status = dinov_out_write(out, text->data, text->size, err);
    if (status == DINOV_OK) status = dinov_out_commit(&out, err);
    dinov_out_abort(&out);
    dinov_text_clear(text);
    return status;
}

static uint64_t bytes_of(const dinov_tensor *t)
{
    uint64_t bytes;
    DINOV_ASSERT(dinov_tensor_bytes(t, &bytes));
    return bytes;
}

/* How many of the tensors go into the next shard: what fits, and at least one. */
static size_t next_shard(const dinov_named_tensor *tensors, size_t count, uint64_t limit)
{
    size_t   n   = 1;
    uint64_t sum = bytes_of(&tensors[0].tensor);
    while (n < count && (limit == 0 || (sum <= limit && bytes_of(&tensors[n].tensor) <= limit - sum)))
        sum += bytes_of(&tensors[n++].tensor);
    return n;
}

static dinov_status write_tensors(struct writer *w, const dinov_tensors *list, uint64_t limit, dinov_error *err)
{
    dinov_text   index  = {0};
    dinov_status status = DINOV_OK;
    uint64_t     total  = 0;
    size_t       shards = 0, used = 0;
    char         name[64];

    for (size_t at = 0; at < list->count; at += next_shard(list->items + at, list->count - at, limit)) shards++;
    if (shards == 1) return dinov_safetensors_write(path_of(w, "model.safetensors"), list->items, list->count, 0, err);

    for (size_t i = 0; i < list->count; i++) total += bytes_of(&list->items[i].tensor);
    put_int(&index, "{\n  \"metadata\": {\"total_size\": ", (int64_t)total);
    dinov_text_puts(&index, "},\n  \"weight_map\": {");
    for (size_t at = 0, shard = 1; at < list->count && status == DINOV_OK; at += used, shard++) {
        used = next_shard(list->items + at, list->count - at, limit);
        snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", shard, shards);
        for (size_t i = at; i < at + used; i++) {
            dinov_text_puts(&index, i ? ",\n    \"" : "\n    \"");
            dinov_text_puts(&index, list->items[i].name);
            dinov_text_puts(&index, "\": \"");
            dinov_text_puts(&index, name);
            dinov_text_puts(&index, "\"");
        }
        status = dinov_safetensors_write(path_of(w, name), list->items + at, used, 0, err);
    }
    dinov_text_puts(&index, "\n  }\n}\n");
    if (status == DINOV_OK) return write_text(w, "model.safetensors.index.json", &index, err);
    dinov_text_clear(&index);
    return status;
}

bool dinov_hf_is_written(const char *name)
{
    unsigned shard, shards;
    int      end = 0;
    if (strcmp(name, "config.json") == 0 || strcmp(name, "preprocessor_config.json") == 0 ||
        strcmp(name, "model.safetensors") == 0 || strcmp(name, "model.safetensors.index.json") == 0)
        return true;
    return sscanf(name, "model-%5u-of-%5u.safetensors%n", &shard, &shards, &end) == 2 && end > 0 && name[end] == '\0';
}

static dinov_status fill_folder(struct writer *w, const dinov_weights *weights, int64_t ratio, const dinov_tensors *list,
                                uint64_t shard_bytes, dinov_error *err)
{
    dinov_text text = {0};
    build_config(&text, weights, ratio);
    DINOV_TRY(write_text(w, "config.json", &text, err));
    text = (dinov_text){0};
    build_preprocessor(&text, weights);
    DINOV_TRY(write_text(w, "preprocessor_config.json", &text, err));
    return write_tensors(w, list, shard_bytes, err);
}

dinov_status dinov_hf_write(const char *path, const dinov_weights *weights, uint64_t shard_bytes, int overwrite, dinov_error *err)
{
    char              where[DINOV_ESCAPED];
    dinov_tensors     list = {0};
    dinov_new_folder *out  = NULL;
    struct writer     w    = {.where = where};
    int64_t           ratio;
    dinov_status      status;

    dinov_escape(where, sizeof where, path, strlen(path));
    DINOV_TRY_GOTO(dinov_names_rename(&list, weights, DINOV_NAMING_HF, where, err));
    DINOV_TRY_GOTO(find_ratio(&ratio, &weights->model, where, err));
    DINOV_TRY_GOTO(dinov_new_folder_open(&out, path, overwrite ? dinov_hf_is_written : NULL, err));
    w.folder = dinov_new_folder_path(out);
    w.room   = strlen(w.folder) + 64;
    w.path   = dinov_alloc(w.room, 1);
    if (!w.path) DINOV_TRY_GOTO(dinov_fail_nomem(err, where, "a file name"));
    DINOV_TRY_GOTO(fill_folder(&w, weights, ratio, &list, shard_bytes, err));
    DINOV_TRY_GOTO(dinov_new_folder_commit(&out, err));
fail:
    dinov_new_folder_abort(&out);
    dinov_free(w.path);
    dinov_tensors_clear(&list);
    return status;
}
