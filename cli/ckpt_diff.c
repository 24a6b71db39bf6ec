/* SPDX-License-Identifier: Apache-2.0
 *
 * dinov-ckpt diff: how two files are apart. Tensors are compared under the hub's names where the files go by different
 * ones; models also by the features they give; golden files with what a runtime exported.
 */
#include "base/alloc.h"
#include "base/dtype.h"
#include "base/file.h"
#include "cli/ckpt.h"
#include "cli/model.h"
#include "convert/compare.h"
#include "convert/import.h"
#include "convert/onnx/golden.h"
#include "convert/onnx/prove.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool        json, all_tensors, outputs, no_fence;
static int64_t     threads, heads;
static const char *tolerance_text;

/* One of two files: its tensors as they are, or under the hub's names. */
struct side {
    dinov_reader              source;
    dinov_names               names;
    dinov_tensors             renamed;
    const char               *where;
    const dinov_named_tensor *tensors;
    size_t                    count;
};

static dinov_status open_side(const dinov_tool *tool, struct side *s, const char *path, dinov_error *err)
{
    const dinov_reader_options how = {.threads = (int)threads, .unfenced = no_fence};
    *s                             = (struct side){.where = path};
    DINOV_TRY(dinov_reader_open(&s->source, path, &how, err));
    dinov_tool_note_fence(tool, &s->source);
    s->where   = s->source.where;
    s->tensors = s->source.tensors;
    s->count   = s->source.count;
    return DINOV_OK;
}

static void close_side(struct side *s)
{
    dinov_tensors_clear(&s->renamed);
    dinov_names_clear(&s->names);
    dinov_reader_close(&s->source);
}

/* What has a place in the hub's names goes by it, joined; what has none keeps its own. */
static dinov_status rename_side(struct side *s, dinov_error *err)
{
    DINOV_TRY(dinov_names_fill(&s->names, s->where, err));
    for (size_t i = 0; i < s->names.tensors.count; i++) {
        const dinov_named_tensor *t = &s->names.tensors.items[i];
        if (s->names.made[i].pieces) DINOV_TRY(dinov_tensors_add(&s->renamed, t->name, strlen(t->name), &t->tensor, s->where, err));
    }
    for (size_t i = 0; i < s->source.count; i++) {
        const dinov_named_tensor *t = &s->source.tensors[i];
        if (s->names.fate[i]) DINOV_TRY(dinov_tensors_add(&s->renamed, t->name, strlen(t->name), &t->tensor, s->where, err));
    }
    s->tensors = s->renamed.items;
    s->count   = s->renamed.count;
    return DINOV_OK;
}

/* Two files that go by different names are compared under the hub's, where both can be. */
static dinov_status match_names(struct side *a, struct side *b, dinov_error *err)
{
    if (dinov_names_map(&a->names, a->source.tensors, a->source.count, a->where, NULL) != DINOV_OK ||
        dinov_names_map(&b->names, b->source.tensors, b->source.count, b->where, NULL) != DINOV_OK ||
        strcmp(a->names.transforms, b->names.transforms) == 0)
        return DINOV_OK;
    DINOV_TRY(rename_side(a, err));
    return rename_side(b, err);
}

struct tally {
    size_t equal, within, differ, only_a, only_b;
    double worst;
};

static void report_pair(const char *name, const dinov_tensor *a, const dinov_tensor *b, double tolerance, struct tally *tally,
                        json_t *list)
{
    dinov_difference d = dinov_tensor_compare(a, b);
    /* Without a tolerance, equal means every bit, dtype included. */
    bool ok = d.equal || (d.same_shape && tolerance_text && d.relative <= tolerance && !isnan(d.max_abs));
    char shape_a[DINOV_SHAPE_TEXT], shape_b[DINOV_SHAPE_TEXT];

    if (d.equal)
        tally->equal++;
    else if (ok)
        tally->within++;
    else
        tally->differ++;
    if (d.same_shape && d.relative > tally->worst) tally->worst = d.relative;
    if (list && !d.same_shape) {
        json_array_append_new(list, json_pack("{s:s, s:b, s:o, s:o}", "name", name, "equal", 0, "shape_a", dinov_ckpt_shape(a),
                                              "shape_b", dinov_ckpt_shape(b)));
    } else if (list) {
        json_array_append_new(list, json_pack("{s:s, s:b, s:s, s:s, s:o, s:o, s:o}", "name", name, "equal", d.equal, "dtype_a",
                                              dinov_dtype_name(a->dtype), "dtype_b", dinov_dtype_name(b->dtype), "max_abs",
                                              dinov_ckpt_number(d.max_abs), "relative", dinov_ckpt_number(d.relative), "cosine",
                                              dinov_ckpt_number(d.cosine)));
    } else if (!d.same_shape) {
        printf("%-32s shapes differ: %s, %s\n", name, dinov_shape_text(shape_a, a), dinov_shape_text(shape_b, b));
    } else if (!d.equal) {
        printf("%-32s %s/%s max-abs %.3g relative %.3g cosine %.9f%s\n", name, dinov_dtype_name(a->dtype),
               dinov_dtype_name(b->dtype), d.max_abs, d.relative, d.cosine, ok ? " (within --tol)" : "");
    } else if (all_tensors) {
        printf("%-32s equal\n", name);
    }
}

/* What `a` has; pairs are compared when `pairs`. */
static dinov_status diff_one_way(const struct side *a, const struct side *b, bool pairs, double tolerance, struct tally *tally,
                                 json_t *list, dinov_error *err)
{
    const dinov_named_tensor **sorted = dinov_tensors_sort(b->tensors, b->count);
    if (!sorted) return dinov_fail_nomem(err, b->where, "the list of names");
    for (size_t i = 0; i < a->count; i++) {
        const char               *name = a->tensors[i].name;
        const dinov_named_tensor *t    = dinov_tensors_find(sorted, b->count, name);
        if (t) {
            if (pairs) report_pair(name, &a->tensors[i].tensor, &t->tensor, tolerance, tally, list);
            continue;
        }
        if (pairs)
            tally->only_a++;
        else
            tally->only_b++;
        if (list)
            json_array_append_new(list, json_pack("{s:s, s:b, s:s}", "name", name, "equal", 0, "only_in", pairs ? "a" : "b"));
        else
            printf("%-32s only in %s\n", name, a->where);
    }
    dinov_free(sorted);
    return DINOV_OK;
}

static int print_tally(const dinov_tool *tool, const struct tally *t, json_t *list)
{
    bool same = t->differ + t->only_a + t->only_b == 0;
    int  code;
    if (json) {
        code = dinov_ckpt_print(tool,
                                json_pack("{s:b, s:I, s:I, s:I, s:I, s:I, s:o, s:O}", "same", same, "equal", (json_int_t)t->equal,
                                          "within_tolerance", (json_int_t)t->within, "differ", (json_int_t)t->differ, "only_in_a",
                                          (json_int_t)t->only_a, "only_in_b", (json_int_t)t->only_b, "worst_relative",
                                          dinov_ckpt_number(t->worst), "tensors", list));
    } else {
        printf("%zu equal, %zu within tolerance, %zu differ, %zu only in the first, %zu only in the second, worst relative %.3g\n",
               t->equal, t->within, t->differ, t->only_a, t->only_b, t->worst);
        code = dinov_tool_flush(tool);
    }
    return code == DINOV_EXIT_OK && !same ? DINOV_EXIT_INPUT : code;
}

static int diff_weights(const dinov_tool *tool, const struct side *a, const struct side *b)
{
    struct tally tally     = {0};
    double       tolerance = 0;
    dinov_error  err;
    if (tolerance_text) {
        char *end;
        tolerance = strtod(tolerance_text, &end);
        if (end == tolerance_text || *end || !(tolerance >= 0))
            return dinov_tool_usage(tool, "--tol: expected a number of at least 0, found \"%s\"", tolerance_text);
    }
    json_t      *list   = json ? json_array() : NULL;
    dinov_status status = diff_one_way(a, b, true, tolerance, &tally, list, &err);
    if (status == DINOV_OK) status = diff_one_way(b, a, false, tolerance, &tally, list, &err);
    int code = status == DINOV_OK ? print_tally(tool, &tally, list) : dinov_tool_fail(tool, &err);
    json_decref(list);
    return code;
}

/* ---- Outputs ---- */

static void report_agreement(void *arg, const dinov_agreement *a)
{
    json_t *list = arg;
    if (list)
        json_array_append_new(list,
                              json_pack("{s:I, s:I, s:s, s:b, s:o, s:o, s:o, s:o}", "height", (json_int_t)a->height, "width",
                                        (json_int_t)a->width, "output", a->output, "ok", a->ok, "max_abs",
                                        dinov_ckpt_number(a->max_abs), "relative", dinov_ckpt_number(a->relative), "worst_token",
                                        dinov_ckpt_number(a->worst), "worst_cosine", dinov_ckpt_number(a->cosine)));
    else
        printf("%lldx%lld %-6s max-abs %.3g relative %.3g worst token: relative %.3g, cosine %.9f  %s\n", (long long)a->height,
               (long long)a->width, a->output, a->max_abs, a->relative, a->worst, a->cosine, a->ok ? "right" : "WRONG");
}

/* `differs` is the code of the error that says that outputs are too far apart. Frees `list`. */
static int print_agreements(const dinov_tool *tool, dinov_status status, const dinov_error *err, const char *differs, json_t *list)
{
    int code = DINOV_EXIT_OK;
    if (json && (status == DINOV_OK || strcmp(err->code, differs) == 0))
        code = dinov_ckpt_print(tool, json_pack("{s:b, s:O}", "same", status == DINOV_OK, "outputs", list));
    else if (status == DINOV_OK)
        code = dinov_tool_flush(tool);
    json_decref(list);
    return status == DINOV_OK ? code : dinov_tool_fail(tool, err);
}

/* The type that decides what is allowed: the narrowest that weights of either are stored in. */
static dinov_dtype narrowest(const dinov_weights *a, const dinov_weights *b)
{
    dinov_dtype type = DINOV_F32;
    for (size_t i = 0; i < a->count + b->count; i++) {
        dinov_dtype t = i < a->count ? a->tensors[i].tensor.dtype : b->tensors[i - a->count].tensor.dtype;
        if (t == DINOV_BF16 || (t == DINOV_F16 && type == DINOV_F32)) type = t;
    }
    return type;
}

static dinov_status run_both(const dinov_weights *a, const dinov_weights *b, const char *where, json_t *list, dinov_error *err)
{
    dinov_engine_options how   = {.threads = (int)threads};
    dinov_onnx_options   what  = {.cls = true, .patch = true, .reg = a->model.registers > 0, .dtype = narrowest(a, b)};
    dinov_engine        *first = NULL, *second = NULL;
    if (a->model.dim != b->model.dim || a->model.depth != b->model.depth || a->model.patch != b->model.patch ||
        a->model.registers != b->model.registers || a->model.channels != b->model.channels)
        return dinov_fail(err, DINOV_ERR_SHAPE, "CKPT-OTHER-MODEL",
                          "%s: --outputs: expected two models of one width, depth, patch and number of registers, found others",
                          where);
    what.layers[what.layer_count++] = (int)a->model.depth - 1;
    dinov_status status             = dinov_engine_open_weights(&first, a, &how, err);
    if (status == DINOV_OK) status = dinov_engine_open_weights(&second, b, &how, err);
    if (status == DINOV_OK) status = dinov_onnx_prove_weights(second, first, &what, where, report_agreement, list, err);
    dinov_engine_close(&first);
    dinov_engine_close(&second);
    return status;
}

static int diff_outputs(const dinov_tool *tool, const dinov_import *a, const dinov_import *b)
{
    dinov_error  err;
    json_t      *list   = json ? json_array() : NULL;
    dinov_status status = run_both(dinov_import_weights(a), dinov_import_weights(b), dinov_import_source(b)->where, list, &err);
    return print_agreements(tool, status, &err, "GRAPH-PROOF", list);
}

/* A folder of golden files, and what another runtime exported. */
static int diff_golden(const dinov_tool *tool, const char *folder, const char *exported)
{
    dinov_error err;
    json_t     *list = json ? json_array() : NULL;
    return print_agreements(tool, dinov_onnx_golden_compare(folder, exported, report_agreement, list, &err), &err, "GOLDEN-DIFFERS",
                            list);
}

static bool is_golden(const char *path)
{
    int  fd;
    bool is = dinov_folder_open(&fd, path, NULL) == DINOV_OK;
    if (is) {
        is = dinov_folder_has(fd, DINOV_ONNX_GOLDEN, false);
        close(fd);
    }
    return is;
}

/* ---- The verb ---- */

static int diff_files(const dinov_tool *tool, char **argv)
{
    struct side  a = {.where = NULL}, b = {.where = NULL};
    dinov_error  err;
    dinov_status status = open_side(tool, &a, argv[0], &err);
    if (status == DINOV_OK) status = open_side(tool, &b, argv[1], &err);
    if (status == DINOV_OK) status = match_names(&a, &b, &err);
    int code = status == DINOV_OK ? diff_weights(tool, &a, &b) : dinov_tool_fail(tool, &err);
    close_side(&a);
    close_side(&b);
    return code;
}

static int diff_models(const dinov_tool *tool, char **argv)
{
    const dinov_import_options how = {.recognise = {.heads = heads}, .threads = (int)threads, .unfenced = no_fence};
    dinov_import              *a = NULL, *b = NULL;
    dinov_error                err;
    dinov_status               status = dinov_import_open(&a, argv[0], &how, &err);
    if (status == DINOV_OK) status = dinov_import_open(&b, argv[1], &how, &err);
    if (status == DINOV_OK) dinov_tool_note_fence(tool, dinov_import_source(a));
    if (status == DINOV_OK) dinov_tool_note_fence(tool, dinov_import_source(b));
    int code = status == DINOV_OK ? diff_outputs(tool, a, b) : dinov_tool_fail(tool, &err);
    dinov_import_close(&a);
    dinov_import_close(&b);
    return code;
}

static int run_diff(const dinov_tool *tool, int argc, char **argv)
{
    if (argc != 2) return dinov_tool_usage(tool, "expected two files, found %d", argc);
    if (is_golden(argv[0])) return diff_golden(tool, argv[0], argv[1]);
    return outputs ? diff_models(tool, argv) : diff_files(tool, argv);
}

static const dinov_opt diff_options[] = {
    {0, "json", DINOV_OPT_FLAG, &json, NULL, "one JSON object instead of text", .common = true},
    {0, "tol", DINOV_OPT_TEXT, &tolerance_text, "X", "relative L2 difference that passes, dtypes apart (default: every bit equal)",
     .common = true},
    {0, "outputs", DINOV_OPT_FLAG, &outputs, NULL,
     "compare features at four sizes instead; allowed is what the narrower dtype of the two makes likely", .common = true},
    {0, "all", DINOV_OPT_FLAG, &all_tensors, NULL, "list equal tensors too", .common = true},
    {0, "heads", DINOV_OPT_INT, &heads, "N", "attention heads (default 0: as the file says, or width / 64)", 0, 4096, false},
    {'t', "threads", DINOV_OPT_INT, &threads, "N", "threads (default 0: all cores)", 0, 1024, true},
    DINOV_OPT_NO_FENCE(&no_fence),
    {0},
};

const dinov_tool dinov_ckpt_diff = {
    .name     = "dinov-ckpt diff",
    .usage    = "A B [--tol X | --outputs]",
    .summary  = "how far two files of any layout are apart, tensor by tensor or by what they compute",
    .examples = "  dinov-ckpt diff dinov2_vits14_pretrain.pth vits14.onnx\n"
                "      exit code 2 when anything differs\n"
                "  dinov-ckpt diff --outputs vits14.safetensors vits14-hf\n"
                "      features of both in our own engine\n",
    .details  = "Models are compared under the hub's names, whatever their layouts call the tensors. With a folder that\n"
                "dinov-convert --golden made and the JSON of trtexec --exportOutput: the verdict on that runtime.\n",
    .options  = diff_options,
    .run      = run_diff,
};
