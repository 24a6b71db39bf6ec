/* SPDX-License-Identifier: Apache-2.0
 *
 * dinov-ckpt: look into weights of any layout we read. show says what a file is, explain how its
 * names become ours, verify that it is whole and computes what it promises, diff (ckpt_diff.c) how two differ.
 */
#include "base/alloc.h"
#include "base/dtype.h"
#include "cli/ckpt.h"
#include "cli/model.h"
#include "convert/import.h"
#include "dinov/infer.h"
#include "format/params.h"
#include "format/training.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool    json, with_id, with_run, no_fence;
static int64_t threads, heads;

#define OPT_JSON                                                                                                                   \
    {                                                                                                                              \
        0, "json", DINOV_OPT_FLAG, &json, NULL, "one JSON object instead of text", .common = true                                  \
    }
#define OPT_THREADS                                                                                                                \
    {                                                                                                                              \
        't', "threads", DINOV_OPT_INT, &threads, "N", "threads (default 0: all cores)", 0, 1024, true                              \
    }
#define OPT_HEADS                                                                                                                  \
    {                                                                                                                              \
        0, "heads", DINOV_OPT_INT, &heads, "N", "attention heads (default 0: width / 64)", 0, 4096, true                           \
    }

static dinov_status open_reader(const dinov_tool *tool, dinov_reader *reader, const char *path, dinov_error *err)
{
    const dinov_reader_options how = {.threads = (int)threads, .unfenced = no_fence};
    DINOV_TRY(dinov_reader_open(reader, path, &how, err));
    dinov_tool_note_fence(tool, reader);
    return DINOV_OK;
}

static uint64_t bytes_of(const dinov_tensor *t)
{
    uint64_t bytes = 0;
    dinov_tensor_bytes(t, &bytes);
    return bytes;
}

int dinov_ckpt_print(const dinov_tool *tool, json_t *root)
{
    if (root) json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
    putchar('\n');
    json_decref(root);
    return dinov_tool_flush(tool);
}

json_t *dinov_ckpt_number(double value) { return isfinite(value) ? json_real(value) : json_null(); }

json_t *dinov_ckpt_shape(const dinov_tensor *t)
{
    json_t *shape = json_array();
    for (int i = 0; i < t->rank; i++) json_array_append_new(shape, json_integer(t->dim[i]));
    return shape;
}

/* ---- show ---- */

struct view {
    dinov_reader            source;
    dinov_survey            survey;
    const dinov_provenance *provenance; /* NULL unless ours */
    const dinov_proof      *proof;
    dinov_model             model;
    dinov_preprocess        preprocess;
    bool                    recognised;
    dinov_error             why; /* not recognised */
};

static dinov_status open_view(const dinov_tool *tool, struct view *v, const char *path, dinov_error *err)
{
    const dinov_recognise_options how = {.heads = heads};
    *v                                = (struct view){0};
    dinov_status status               = open_reader(tool, &v->source, path, err);
    if (status != DINOV_OK) {
        dinov_reader_close(&v->source);
        return status;
    }
    const dinov_checkpoint *ckpt = v->source.checkpoint;
    if (ckpt) {
        v->provenance = dinov_checkpoint_provenance(ckpt);
        v->proof      = dinov_checkpoint_proof(ckpt);
        v->model      = dinov_checkpoint_weights(ckpt)->model;
        v->preprocess = dinov_checkpoint_weights(ckpt)->preprocess;
        v->recognised = true;
        return DINOV_OK;
    }
    v->recognised = dinov_survey_make(&v->survey, &v->source, &how, &v->why) == DINOV_OK;
    v->model      = v->survey.model;
    if (v->recognised) dinov_survey_preprocess(&v->preprocess, &v->survey, &v->source);
    return DINOV_OK;
}

static json_t *json_model(const dinov_model *m)
{
    char name[64];
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:s, s:I, s:I, s:I, s:[I,I], s:b, s:b, s:f, s:{s:f, s:b}}", "name",
                     dinov_model_name(name, sizeof name, m), "patch", (json_int_t)m->patch, "dim", (json_int_t)m->dim, "depth",
                     (json_int_t)m->depth, "heads", (json_int_t)m->heads, "ffn", m->ffn == DINOV_FFN_MLP ? "mlp" : "swiglu",
                     "hidden", (json_int_t)m->hidden, "registers", (json_int_t)m->registers, "channels", (json_int_t)m->channels,
                     "grid", (json_int_t)m->grid_h, (json_int_t)m->grid_w, "layerscale", m->layerscale, "qkv_bias", m->qkv_bias,
                     "ln_eps", m->ln_eps, "interp", "offset", m->interp.offset, "antialias", m->interp.antialias);
}

/* Three floats, each as the short decimal it was written as: 0.485. */
static json_t *json_floats(const float *values)
{
    json_t *array = json_array();
    for (int i = 0; i < 3; i++) {
        char text[32];
        snprintf(text, sizeof text, "%.7g", (double)values[i]);
        json_array_append_new(array, json_real(strtod(text, NULL)));
    }
    return array;
}

static json_t *json_view(const struct view *v)
{
    json_t *root = json_pack("{s:s, s:s, s:s?}", "file", v->source.where, "layout", dinov_layout_name(v->source.layout),
                             "content_id", v->source.checkpoint ? dinov_checkpoint_content_id(v->source.checkpoint) : NULL);
    json_object_set_new(root, "model", v->recognised ? json_model(&v->model) : json_null());
    if (!v->recognised)
        json_object_set_new(root, "why_no_model", json_pack("{s:s, s:s}", "code", v->why.code, "message", v->why.msg));
    if (v->recognised) {
        json_t *preprocess = json_pack("{s:s, s:o, s:o}", "preset", v->preprocess.preset, "mean", json_floats(v->preprocess.mean),
                                       "std", json_floats(v->preprocess.std));
        json_object_set_new(root, "preprocess", preprocess);
    }
    if (v->provenance) {
        const dinov_provenance *p = v->provenance;
        json_object_set_new(root, "provenance",
                            json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "source_format", p->source_format, "source_sha256",
                                      p->source_sha256, "converter", p->converter, "transforms", p->transforms, "licence",
                                      p->licence, "origin", p->origin));
    }
    if (*v->source.facts.licence || *v->source.facts.origin)
        json_object_set_new(root, "provenance",
                            json_pack("{s:s, s:s}", "licence", v->source.facts.licence, "origin", v->source.facts.origin));
    if (v->proof && v->proof->count) {
        json_t *cases = json_array();
        for (size_t i = 0; i < v->proof->count; i++) {
            const dinov_golden *g = &v->proof->cases[i];
            json_array_append_new(cases, json_pack("{s:I, s:I, s:I}", "height", (json_int_t)g->height, "width",
                                                   (json_int_t)g->width, "seed", (json_int_t)g->seed));
        }
        json_object_set_new(
            root, "proof",
            json_pack("{s:s, s:f, s:o}", "computed_by", v->proof->computed_by, "tolerance", v->proof->tolerance, "cases", cases));
    }
    json_t *tensors = json_array();
    for (size_t i = 0; i < v->source.count; i++) {
        const dinov_named_tensor *t = &v->source.tensors[i];
        json_array_append_new(tensors,
                              json_pack("{s:s, s:s, s:o, s:I}", "name", t->name, "dtype", dinov_dtype_name(t->tensor.dtype),
                                        "shape", dinov_ckpt_shape(&t->tensor), "bytes", (json_int_t)bytes_of(&t->tensor)));
    }
    json_object_set_new(root, "tensors", tensors);
    return root;
}

static void print_model(const struct view *v)
{
    const dinov_model *m = &v->model;
    char               name[64];
    if (!v->recognised) {
        printf("model       not recognised: %s [%s]\n", v->why.msg, v->why.code);
        return;
    }
    printf("model       %s\n", dinov_model_name(name, sizeof name, m));
    printf("            patch %lld, width %lld, %lld blocks, %lld heads, %s of %lld, %lld registers, %s\n", (long long)m->patch,
           (long long)m->dim, (long long)m->depth, (long long)m->heads, m->ffn == DINOV_FFN_MLP ? "MLP" : "SwiGLU",
           (long long)m->hidden, (long long)m->registers, m->layerscale ? "LayerScale" : "no LayerScale");
    printf("            trained grid %lld x %lld, interpolation offset %g%s\n", (long long)m->grid_h, (long long)m->grid_w,
           m->interp.offset, m->interp.antialias ? ", antialias" : "");
    printf("preprocess  %s, mean %g %g %g, std %g %g %g\n", v->preprocess.preset, (double)v->preprocess.mean[0],
           (double)v->preprocess.mean[1], (double)v->preprocess.mean[2], (double)v->preprocess.std[0], (double)v->preprocess.std[1],
           (double)v->preprocess.std[2]);
    if (!v->provenance) printf("            (recognised from names and shapes; the hub's rule for what they cannot say)\n");
}

static void print_view(const struct view *v)
{
    uint64_t total = 0;
    char     shape[DINOV_SHAPE_TEXT];

    printf("file        %s\nlayout      %s\n", v->source.where, dinov_layout_name(v->source.layout));
    print_model(v);
    if (v->provenance) {
        const dinov_provenance *p = v->provenance;
        printf("made by     %s from %s%s%s\n", p->converter, p->source_format, *p->source_sha256 ? " sha256:" : "",
               p->source_sha256);
        printf("transforms  %s\nlicence     %s\norigin      %s\n", *p->transforms ? p->transforms : "none",
               *p->licence ? p->licence : "unknown", *p->origin ? p->origin : "unknown");
        printf("content id  %s\n", dinov_checkpoint_content_id(v->source.checkpoint));
        if (v->proof && v->proof->count)
            printf("proof       %zu cases by %s, tolerance %g\n", v->proof->count, v->proof->computed_by, v->proof->tolerance);
        else
            printf("proof       none\n");
    }
    if (*v->source.facts.licence) printf("licence     %s\n", v->source.facts.licence);
    if (*v->source.facts.origin) printf("origin      %s\n", v->source.facts.origin);
    for (size_t i = 0; i < v->source.count; i++) total += bytes_of(&v->source.tensors[i].tensor);
    printf("tensors     %zu, %llu bytes\n", v->source.count, (unsigned long long)total);
    for (size_t i = 0; i < v->source.count; i++) {
        const dinov_named_tensor *t = &v->source.tensors[i];
        printf("  %-32s %-4s %-20s %12llu\n", t->name, dinov_dtype_name(t->tensor.dtype), dinov_shape_text(shape, &t->tensor),
               (unsigned long long)bytes_of(&t->tensor));
    }
}

static int run_show(const dinov_tool *tool, int argc, char **argv)
{
    struct view v;
    dinov_error err;
    if (argc != 1) return dinov_tool_usage(tool, "expected one file, found %d", argc);
    if (open_view(tool, &v, argv[0], &err) != DINOV_OK) return dinov_tool_fail(tool, &err);
    int code = DINOV_EXIT_OK;
    if (v.source.rewritten)
        dinov_tool_note(tool, "%s: was a dinov checkpoint and was written again by another tool, or is damaged", v.source.where);
    if (json) {
        code = dinov_ckpt_print(tool, json_view(&v));
    } else {
        print_view(&v);
        code = dinov_tool_flush(tool);
    }
    dinov_survey_clear(&v.survey);
    dinov_reader_close(&v.source);
    return code;
}

static const dinov_opt  show_options[] = {OPT_JSON, OPT_HEADS, DINOV_OPT_NO_FENCE(&no_fence), {0}};
static const dinov_tool show           = {
              .name     = "dinov-ckpt show",
              .usage    = "FILE [--json]",
              .summary  = "what a file is: model, preprocessing, where from, proof, every tensor",
              .examples = "  dinov-ckpt show vits14.safetensors\n"
                                    "      our own file, or a hub .pth, or plain safetensors\n"
                                    "  dinov-ckpt show --json vits14.safetensors | jq .model.name\n"
                                    "      for scripts\n",
              .options  = show_options,
              .run      = run_show,
};

/* ---- explain ---- */

static void explain_line(const char *from, const char *to, const dinov_tensor *t, const char *remark)
{
    char shape[DINOV_SHAPE_TEXT] = "";
    if (t) dinov_shape_text(shape, t);
    printf("%-48s -> %-32s %-20s %-4s%s%s\n", from, to, shape, t ? dinov_dtype_name(t->dtype) : "", *remark ? "  " : "", remark);
}

/* One hub tensor, a line for each source tensor whose rows it takes. */
static void explain_made(const char *hub, const dinov_tensor *t, const dinov_made *made, const char *remark)
{
    char    text[96 + DINOV_SHAPE_TEXT];
    int64_t row = made->zeros;
    if (made->pieces == 0) explain_line("(zeros)", hub, t, "not in the source");
    for (int i = 0; i < made->pieces; i++) {
        const dinov_tensor *piece = &made->piece[i]->tensor;
        const char         *sep   = *remark ? "; " : "";
        if (made->zeros)
            snprintf(text, sizeof text, "behind a position of zeros for the class token%s%s", sep, remark);
        else if (made->pieces > 1)
            snprintf(text, sizeof text, "rows %lld to %lld%s%s", (long long)row, (long long)(row + piece->dim[0] - 1), sep, remark);
        else
            snprintf(text, sizeof text, "%s", remark);
        explain_line(made->piece[i]->name, hub, piece, text);
        if (made->pieces > 1) row += piece->dim[0];
    }
}

/* Source names with their place in the model, then what the model has and the source lacks, then what has no place. */
static dinov_status explain_against(const dinov_reader *s, const dinov_survey *survey, size_t *missing, size_t *leftover,
                                    dinov_error *err)
{
    const dinov_names         *names  = &survey->names;
    const dinov_tensors       *list   = &names->tensors;
    size_t                     wanted = survey->has_model ? dinov_param_count(&survey->model) : 0;
    bool                      *used   = dinov_calloc(list->count, sizeof *used);
    const dinov_named_tensor **sorted = dinov_tensors_sort(list->items, list->count);
    dinov_status               status = used && sorted ? DINOV_OK : dinov_fail_nomem(err, s->where, "the list of names");

    *missing  = 0;
    *leftover = names->leftover;
    for (size_t i = 0; i < wanted && status == DINOV_OK; i++) {
        dinov_param p;
        dinov_param_at(&survey->model, i, &p);
        const dinov_named_tensor *t     = dinov_tensors_find(sorted, list->count, p.name);
        dinov_tensor              shape = {.rank = p.rank};
        memcpy(shape.dim, p.dim, sizeof p.dim);
        if (t) {
            char remark[DINOV_SHAPE_TEXT + 16] = "", expected[DINOV_SHAPE_TEXT];
            if (t->tensor.rank != p.rank || memcmp(t->tensor.dim, p.dim, (size_t)p.rank * sizeof p.dim[0]) != 0)
                snprintf(remark, sizeof remark, "expected %s", dinov_shape_text(expected, &shape));
            explain_made(p.name, &t->tensor, &names->made[t - list->items], remark);
            used[t - list->items] = true;
        } else {
            explain_line("(missing)", p.name, &shape, "");
            ++*missing;
        }
    }
    for (size_t i = 0; i < list->count && status == DINOV_OK; i++) {
        if (used[i] || names->made[i].pieces == 0) continue;
        explain_made("(leftover)", &list->items[i].tensor, &names->made[i], "");
        *leftover += (size_t)names->made[i].pieces;
    }
    for (size_t i = 0; i < s->count && status == DINOV_OK; i++)
        if (names->fate[i]) {
            bool known = *names->fate[i] != '\0';
            explain_line(s->tensors[i].name, known ? "(left out)" : "(leftover)", &s->tensors[i].tensor, names->fate[i]);
        }
    dinov_free(sorted);
    dinov_free(used);
    return status;
}

static int run_explain(const dinov_tool *tool, int argc, char **argv)
{
    const dinov_recognise_options how    = {.heads = heads};
    dinov_survey                  survey = {.has_model = false};
    size_t                        missing, leftover;
    dinov_reader                  s;
    dinov_error                   err, why;

    if (argc != 1) return dinov_tool_usage(tool, "expected one file, found %d", argc);
    dinov_status status = open_reader(tool, &s, argv[0], &err);
    if (status == DINOV_OK) {
        dinov_status found = dinov_survey_make(&survey, &s, &how, &why);
        if (survey.names.fate) status = explain_against(&s, &survey, &missing, &leftover, &err);
        if (survey.names.fate && status == DINOV_OK) {
            printf("%zu tensors, ", s.count);
            if (survey.names.passed) printf("%zu left out, ", survey.names.passed);
            printf("%zu left over, %zu missing\n", leftover, missing);
        }
        if (status == DINOV_OK && found != DINOV_OK) {
            status = found;
            err    = why;
        }
    }
    int code = dinov_tool_flush(tool);
    if (status != DINOV_OK) code = dinov_tool_fail(tool, &err);
    dinov_survey_clear(&survey);
    dinov_reader_close(&s);
    return code;
}

static const dinov_opt  explain_options[] = {OPT_HEADS, DINOV_OPT_NO_FENCE(&no_fence), {0}};
static const dinov_tool explain           = {
              .name     = "dinov-ckpt explain",
              .usage    = "FILE",
              .summary  = "every name in the file, what it becomes, and what is left over either way",
              .examples = "  dinov-ckpt explain dinov2_vits14_pretrain.pth\n"
                                    "      source name -> our name, shape, dtype\n"
                                    "  dinov-ckpt explain mine.pth || echo cannot be converted\n"
                                    "      any leftover, either way, is exit code 2 and says why\n",
              .options  = explain_options,
              .run      = run_explain,
};

/* ---- verify ---- */

static dinov_status verify_ours(const dinov_checkpoint *ckpt, const char *where, dinov_error *err)
{
    DINOV_TRY(dinov_checkpoint_verify(ckpt, (int)threads, err));
    printf("%s: checksums of header and %zu tensors: right\n", where, dinov_checkpoint_weights(ckpt)->count);
    if (with_id) {
        DINOV_TRY(dinov_checkpoint_verify_id(ckpt, (int)threads, err));
        printf("%s: content id %s: right\n", where, dinov_checkpoint_content_id(ckpt));
    }
    if (!with_run) return DINOV_OK;

    const dinov_proof *proof = dinov_checkpoint_proof(ckpt);
    if (!proof || proof->count == 0)
        return dinov_fail(err, DINOV_ERR_UNSUPPORTED, "CKPT-NO-PROOF",
                          "%s: --run: expected golden vectors, found none in this file", where);
    dinov_engine_options how   = {.threads = (int)threads};
    double               worst = 0;
    dinov_engine        *engine;
    DINOV_TRY(dinov_engine_open_weights(&engine, dinov_checkpoint_weights(ckpt), &how, err));
    dinov_status status = dinov_engine_prove(engine, proof, &worst, err);
    if (status == DINOV_OK)
        printf("%s: golden vectors by %s, recomputed on %s: right, worst relative difference %.2g of %g allowed\n", where,
               proof->computed_by, dinov_engine_isa(engine), worst, proof->tolerance);
    dinov_engine_close(&engine);
    return status;
}

static dinov_status verify_source(const dinov_reader *s, dinov_error *err)
{
    if (s->checkpoint) return verify_ours(s->checkpoint, s->where, err);
    if (s->rewritten)
        return dinov_fail(err, DINOV_ERR_CORRUPT, "CKPT-REWRITTEN",
                          "%s: was a dinov checkpoint and was written again by another tool, or its first bytes are damaged",
                          s->where);
    if (s->layout != DINOV_LAYOUT_PTH || s->torch.no_crc || with_id || with_run)
        return dinov_fail(err, DINOV_ERR_UNSUPPORTED, "CKPT-NO-CHECKSUM",
                          "%s: a %s file carries no %s; convert it: dinov-convert IN -o OUT", s->where,
                          dinov_layout_name(s->layout), with_id || with_run ? "content id and no golden vectors" : "checksums");
    printf("%s: CRCs of %zu tensors: right\n", s->where, s->count); /* opening has proven them */
    return DINOV_OK;
}

struct damage {
    const dinov_tool *tool;
    int               found;
};

static void note_damage(void *arg, const char *sentence)
{
    struct damage *damage = arg;
    dinov_tool_note(damage->tool, "%s", sentence);
    damage->found++;
}

/* The newest step of a run, or the one that is named. */
static dinov_status verify_training(const dinov_tool *tool, const char *which, dinov_error *err)
{
    struct damage      damage = {.tool = tool};
    dinov_find_options how    = {.note = note_damage, .arg = &damage};
    dinov_training    *t;
    DINOV_TRY(dinov_training_find(&t, which, &how, err));
    const char  *where  = dinov_training_path(t);
    dinov_status status = dinov_training_verify(t, (int)threads, err);
    if (status == DINOV_OK) {
        size_t tensors;
        dinov_training_state(t, &tensors);
        printf("%s: manifest, backbone and %zu tensors of state: right\n", where, tensors);
        status = verify_ours(dinov_training_backbone(t), where, err);
    }
    if (status == DINOV_OK && damage.found > 0)
        status = dinov_fail(err, DINOV_ERR_CORRUPT, "CKPT-DAMAGED",
                            "%s: the newest checkpoint is damaged; %s is the newest whole one", which, where);
    dinov_training_close(&t);
    return status;
}

static dinov_status verify_file(const dinov_tool *tool, const char *path, dinov_error *err)
{
    dinov_reader s;
    dinov_status status = open_reader(tool, &s, path, err);
    if (status == DINOV_OK) status = verify_source(&s, err);
    dinov_reader_close(&s);
    return status;
}

static int run_verify(const dinov_tool *tool, int argc, char **argv)
{
    dinov_error err;
    if (argc != 1) return dinov_tool_usage(tool, "expected one file or run, found %d", argc);
    dinov_status status = dinov_tool_is_run(argv[0]) && !dinov_hf_is_folder(argv[0]) ? verify_training(tool, argv[0], &err)
                                                                                     : verify_file(tool, argv[0], &err);
    int          code   = dinov_tool_flush(tool);
    return status == DINOV_OK ? code : dinov_tool_fail(tool, &err);
}

static const dinov_opt verify_options[] = {
    {0, "id", DINOV_OPT_FLAG, &with_id, NULL, "recompute the content id too", .common = true},
    {0, "run", DINOV_OPT_FLAG, &with_run, NULL, "recompute the golden vectors on this machine too", .common = true},
    OPT_THREADS,
    DINOV_OPT_NO_FENCE(&no_fence),
    {0},
};
static const dinov_tool verify = {
    .name     = "dinov-ckpt verify",
    .usage    = "FILE|RUN [--id] [--run]",
    .summary  = "is every byte as it was written, and does it compute what it promises",
    .examples = "  dinov-ckpt verify vits14.safetensors\n"
                "      checksums of every byte\n"
                "  dinov-ckpt verify --id --run vits14.safetensors\n"
                "      and the identity of the weights, and features on this machine\n"
                "  dinov-ckpt verify run@2000\n"
                "      a training checkpoint, all of its files\n",
    .options  = verify_options,
    .run      = run_verify,
};

int main(int argc, char **argv)
{
    static const dinov_tool *const verbs[] = {&show, &explain, &verify, &dinov_ckpt_diff, NULL};
    return dinov_tool_verbs("dinov-ckpt", "look into weights of any layout", verbs, argc, argv);
}
