/* SPDX-License-Identifier: Apache-2.0 */
#include "infer/settings.h"

#include "base/alloc.h"
#include "base/hash.h"
#include "base/pool.h"
#include "infer/engine.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* "SIZE MTIME ", mtime in nanoseconds; "- - " for a file that cannot be looked at. */
static void describe_file(char out[64], const char *path)
{
    struct stat st;
    snprintf(out, 64, "- - ");
    if (stat(path, &st) == 0)
        snprintf(out, 64, "%lld %lld%09ld ", (long long)st.st_size, (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
}

/*
 * SHA-256 over a line for every input, "SIZE MTIME PATH" or "SIZE MTIME SHARD:MEMBER": which inputs, and in which state. A file
 * written anew makes other settings even under its old name.
 */
static dinov_status hash_inputs(const dinov_facts *facts, char out[DINOV_SHA_HEX + 1], dinov_error *err)
{
    dinov_sha256 sha;
    const char  *before = NULL;
    char         state[64];
    DINOV_TRY(dinov_sha256_init(&sha, err));
    for (int64_t i = 0; i < (facts->source ? facts->total : 1); i++) {
        const char *member = NULL, *path = facts->source ? dinov_source_path(facts->source, i, &member) : facts->array;
        if (path != before) describe_file(state, path); /* a shard's members share its path */
        before = path;
        dinov_sha256_add(&sha, state, strlen(state));
        dinov_sha256_add(&sha, path, strlen(path));
        if (member) {
            dinov_sha256_add(&sha, ":", 1);
            dinov_sha256_add(&sha, member, strlen(member));
        }
        dinov_sha256_add(&sha, "\n", 1);
    }
    dinov_sha256_done(&sha, out);
    return DINOV_OK;
}

static const char *preset_name(const dinov_preset *preset, char out[32])
{
    static const char *const names[] = {"?", "eval", "short", "long", "square", "full"};
    if (preset->kind == DINOV_PRESET_FULL)
        snprintf(out, 32, "full");
    else
        snprintf(out, 32, "%s:%lld", names[preset->kind], (long long)preset->size);
    return out;
}

static json_t *feature_names(const dinov_extract_options *o)
{
    json_t *names = json_array();
    if (o->cls) json_array_append_new(names, json_string("cls"));
    if (o->mean) json_array_append_new(names, json_string("mean"));
    if (o->reg) json_array_append_new(names, json_string("reg"));
    if (o->patch) json_array_append_new(names, json_string("patch"));
    return names;
}

static json_t *layer_numbers(const int *layers, int count)
{
    json_t *numbers = json_array();
    for (int i = 0; i < count; i++) json_array_append_new(numbers, json_integer(layers[i]));
    return numbers;
}

static json_t *colours(const float value[3]) { return json_pack("[f,f,f]", (double)value[0], (double)value[1], (double)value[2]); }

dinov_status dinov_settings_new(json_t **out, const dinov_facts *facts, dinov_error *err)
{
    const dinov_extract_options *o = facts->options;
    const dinov_preprocess      *p = dinov_engine_preprocess(facts->engine);
    char                         inputs[DINOV_SHA_HEX + 1], preset[32];

    DINOV_TRY(hash_inputs(facts, inputs, err));
    *out = json_pack("{s:s, s:s, s:o, s:o, s:o, s:o, s:b, s:s, s:b, s:I, s:s, s:{s:I, s:s}}", "model", o->model_id, "preset",
                     facts->array ? "npy" : preset_name(&o->preset, preset), "mean", colours(p->mean), "std", colours(p->std),
                     "features", feature_names(o), "layers", layer_numbers(facts->layers, o->layer_count), "norm", !o->no_norm,
                     "store", o->f16 ? "f16" : "f32", "dump_input", o->dump_input, "max_tokens", (json_int_t)o->max_tokens, "isa",
                     dinov_engine_isa(facts->engine), "inputs", "count", (json_int_t)facts->total, "sha256", inputs);
    /* Only where it is not our own decoder, by which all other runs are known. */
    if (*out && facts->jpegs) json_object_set_new(*out, "decode", json_string(facts->jpegs));
    return *out ? DINOV_OK : dinov_fail_nomem(err, "output folder", "run.json");
}

/* The preset in numbers, for whoever must repeat it elsewhere. */
static json_t *preset_rule(const dinov_preset *p, int64_t patch)
{
    const char *orientation = p->kind == DINOV_PRESET_EVAL ? "ignored" : "applied";
    json_t *rule = json_pack("{s:s, s:s, s:I, s:s, s:s}", "filter", "bicubic a=-0.5, antialias, 8-bit", "orientation", orientation,
                             "patch", (json_int_t)patch, "alpha", "dropped", "colour", "RGB, ICC ignored");
    if (rule && p->kind == DINOV_PRESET_EVAL)
        json_object_set_new(rule, "resize_shorter", json_integer(p->size * 256 / 224 / 2 * 2));
    if (rule && p->kind != DINOV_PRESET_FULL)
        json_object_set_new(rule, p->kind == DINOV_PRESET_EVAL ? "centre_crop" : "size", json_integer(p->size));
    return rule;
}

dinov_status dinov_run_json(json_t **out, const dinov_facts *facts, json_t *settings, const dinov_extract_report *report,
                            int64_t rows, double seconds, dinov_error *err)
{
    const dinov_extract_options *o      = facts->options;
    json_t                      *counts = json_object();
    json_t                      *rule =
        facts->array ? json_pack("{s:s}", "kind", "npy") : preset_rule(&o->preset, dinov_engine_model(facts->engine)->patch);
    char file[DINOV_ESCAPED];

    for (int i = 0; i < DINOV_INPUT_STATUSES; i++)
        json_object_set_new(counts, dinov_input_status_name((dinov_input_status)i), json_integer(report->count[i]));
    dinov_escape(file, sizeof file, o->model_file, strlen(o->model_file));
    *out = json_pack("{s:s, s:s, s:s, s:O, s:o, s:I, s:o, s:i, s:s, s:I, s:f}", "program", "dinov-infer", "version",
                     DINOV_VERSION_STRING, "model_file", file, "settings", settings, "preset_rule", rule, "rows", (json_int_t)rows,
                     "counts", counts, "threads", o->threads ? o->threads : dinov_pool_cores(), "device",
                     dinov_engine_device(facts->engine), "batch", (json_int_t)o->batch, "seconds", seconds);
    if (*out && facts->jpegs) json_object_set_new(*out, "decoded_by_device", json_integer(report->by_device));
    return *out ? DINOV_OK : dinov_fail_nomem(err, "output folder", "run.json");
}
