/* SPDX-License-Identifier: Apache-2.0
 *
 * dinov-convert: weights of any layout we read, in; a dinov checkpoint, or what other programs open, out.
 * Reads, recognises, proves the result right, writes, and reads back what it wrote.
 */
#include "base/alloc.h"
#include "base/dtype.h"
#include "base/stage.h"
#include "cli/model.h"
#include "cli/onnx_options.h"
#include "convert/compare.h"
#include "convert/import.h"
#include "convert/onnx/golden.h"
#include "convert/onnx/prove.h"
#include "convert/onnx/write.h"
#include "convert/pth_write.h"
#include "convert/safetensors.h"
#include "convert/timm.h"
#include "dinov/image.h"
#include "dinov/infer.h"
#include "format/training.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *output, *to, *ort_path, *golden_path, *interp_text, *compat_text, *shard_text, *licence, *origin, *preset;
static uint64_t    shard_bytes;
static int64_t     heads, threads;
static bool        no_fence, force, no_check, dry_run, quiet;

static dinov_tool_onnx    onnx;
static dinov_onnx_options graph;

static const dinov_opt options[] = {
    {'o', "output", DINOV_OPT_TEXT, &output, "OUT", "the file to write", .common = true},
    {'f', "force", DINOV_OPT_FLAG, &force, NULL, "replace an existing file", .common = true},
    {0, "to", DINOV_OPT_TEXT, &to, "LAYOUT",
     "dinov, safetensors, pth, hf (a folder), timm or onnx (default: onnx when OUT ends in .onnx, otherwise dinov)",
     .common = true},
    {0, "interp", DINOV_OPT_TEXT, &interp_text, "RULE",
     "position interpolation: OFFSET[,antialias] (default: with registers 0,antialias, else 0.1)", .common = true},
    {0, "compat", DINOV_OPT_TEXT, &compat_text, "WHOSE",
     "the rule of hub, hf or timm in place of --interp (default: as the source says, or hub)", .common = true},
    {0, "shard-size", DINOV_OPT_TEXT, &shard_text, "SIZE",
     "with --to hf: at most so much in one file, such as 900M or 5G (default: one file)", .common = false},
    {0, "heads", DINOV_OPT_INT, &heads, "N", "attention heads (default 0: width / 64)", 0, 4096, true},
    {'t', "threads", DINOV_OPT_INT, &threads, "N", "threads (default 0: all cores)", 0, 1024, true},
    {0, "dry-run", DINOV_OPT_FLAG, &dry_run, NULL, "read and check everything, write nothing", .common = true},
    {0, "licence", DINOV_OPT_TEXT, &licence, "TEXT", "SPDX licence of the weights, kept in the file (default: as the source says)",
     .common = false},
    {0, "origin", DINOV_OPT_TEXT, &origin, "TEXT", "where the weights come from, kept in the file (default: as the source says)",
     .common = false},
    {0, "preset", DINOV_OPT_TEXT, &preset, "PRESET",
     "how pictures are prepared unless dinov-infer is told otherwise (default: as the source says, or eval:224)", .common = false},
    {0, "no-check", DINOV_OPT_FLAG, &no_check, NULL,
     "neither read back and run what was written, nor compute golden vectors for it", .common = false},
    {0, "size", DINOV_OPT_TEXT, &onnx.size, "HxW", "onnx: pixels of the input (default: as the preset makes them)", .common = true},
    {0, "dynamic-size", DINOV_OPT_FLAG, &onnx.dynamic_size, NULL, "onnx: any height and width that are multiples of the patch",
     .common = true},
    {0, "batch", DINOV_OPT_INT, &onnx.batch, "N", "onnx: pictures a run (default 1)", 1, 65536, false},
    {0, "dynamic-batch", DINOV_OPT_FLAG, &onnx.dynamic_batch, NULL, "onnx: any number of pictures", .common = true},
    {0, "dtype", DINOV_OPT_TEXT, &onnx.dtype, "TYPE",
     "onnx: f32, f16 or bf16 products; norms, softmax and residual stream stay f32 (default f32)", .common = true},
    {0, "features", DINOV_OPT_TEXT, &onnx.features, "LIST", "onnx: outputs, of cls, patch, reg (default cls,patch)",
     .common = false},
    {0, "layers", DINOV_OPT_TEXT, &onnx.layers, "LIST", "onnx: block indices, negative from the end (default -1)", .common = false},
    {0, "names", DINOV_OPT_TEXT, &onnx.names, "NAMES",
     "onnx: hub (image, cls, patch) or hf (pixel_values, last_hidden_state, pooler_output) (default hub)", .common = false},
    {0, "with-preprocess", DINOV_OPT_FLAG, &onnx.preprocess, NULL,
     "onnx: takes uint8 [B, H, W, 3] pixels and normalises them itself", .common = false},
    {0, "fuse", DINOV_OPT_TEXT, &onnx.fuse, "ort", "onnx: with ONNX Runtime's own operators, its fastest form", .common = false},
    {0, "opset", DINOV_OPT_INT, &onnx.opset, "N", "onnx: operator set, 17 to 23 (default 17, for bf16 22)", DINOV_ONNX_OPSET_MIN,
     DINOV_ONNX_OPSET_MAX, false},
    {0, "external-data", DINOV_OPT_FLAG, &onnx.external, NULL,
     "onnx: weights in a file beside OUT (default: only where a model exceeds 2 GiB)", .common = false},
    {0, "golden", DINOV_OPT_TEXT, &golden_path, "DIR",
     "onnx: also an input with its outputs as raw files, and the trtexec lines that run them (default: none)", .common = false},
    {0, "ort", DINOV_OPT_TEXT, &ort_path, "LIB",
     "onnx: the library of ONNX Runtime to check with (default: libonnxruntime.so where found)", .common = false},
    {'q', "quiet", DINOV_OPT_FLAG, &quiet, NULL, "no notes on stderr", .common = false},
    DINOV_OPT_NO_FENCE(&no_fence),
    {0},
};

/* IN and OUT are one file, by any name. */
static bool same_file(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* Golden vectors: the source's own, or computed here and now. */
struct proof {
    const dinov_proof *is;
    dinov_proof        own;
    dinov_golden       cases[DINOV_GOLDEN_CASES];
};

static dinov_status make_proof(struct proof *p, const dinov_import *in, dinov_error *err)
{
    dinov_engine_options how = {.threads = (int)threads};
    dinov_engine        *engine;
    dinov_error          why;
    p->is = dinov_import_proof(in);
    if (p->is || no_check) return DINOV_OK;
    DINOV_TRY(dinov_engine_open_weights(&engine, dinov_import_weights(in), &how, err));
    dinov_status status = dinov_engine_make_proof(engine, &p->own, p->cases, &why);
    dinov_engine_close(&engine);
    if (status != DINOV_OK) return dinov_fail(err, status, why.code, "%s: %s", dinov_import_source(in)->where, why.msg);
    p->is = &p->own;
    return DINOV_OK;
}

/* ---- An ONNX graph, run against the source ---- */

static const dinov_tool tool;

/* `arg` is who ran it. */
static void print_agreement(void *arg, const dinov_agreement *a)
{
    printf("%s\t%lldx%lld\t%s\tmax-abs %.3g\trelative %.3g\tworst token: relative %.3g, cosine %.9f\t%s\n", (const char *)arg,
           (long long)a->height, (long long)a->width, a->output, a->max_abs, a->relative, a->worst, a->cosine,
           a->ok ? "right" : "WRONG");
}

/* The weights are found again in the graph, as any reader of it finds them. */
static dinov_status prove_by_engine(const dinov_import *in, dinov_engine *engine, const dinov_stage *stage, dinov_error *err)
{
    static char                who[] = "dinov";
    const dinov_model         *m     = &dinov_import_weights(in)->model;
    dinov_engine_options       how   = {.threads = (int)threads};
    const dinov_import_options as    = {
           .recognise = {.heads = m->heads, .interp = &m->interp}, .threads = (int)threads, .unfenced = no_fence};
    dinov_engine *again = NULL;
    dinov_import *back;
    dinov_status  status = dinov_import_open(&back, dinov_stage_path(stage), &as, err);
    if (status != DINOV_OK && strcmp(err->code, "ONNX-GRID") == 0) {
        if (!quiet)
            dinov_tool_note(
                &tool, "not run in our own engine: positions are baked in for %lldx%lld, and no model is trained on such a grid",
                (long long)graph.height, (long long)graph.width);
        return DINOV_OK;
    }
    if (status == DINOV_OK) status = dinov_engine_open_weights(&again, dinov_import_weights(back), &how, err);
    if (status == DINOV_OK) status = dinov_onnx_prove_weights(again, engine, &graph, output, print_agreement, who, err);
    dinov_engine_close(&again);
    dinov_import_close(&back);
    return status;
}

static dinov_status prove_by_runtime(dinov_engine *engine, const dinov_stage *stage, dinov_error *err)
{
    static char  who[] = "onnxruntime";
    dinov_ort   *ort;
    dinov_status status = dinov_ort_open(&ort, ort_path, dinov_stage_path(stage), (int)threads, err);
    if (status == DINOV_ERR_UNSUPPORTED && !(ort_path && strcmp(err->code, "ORT-ABSENT") == 0)) {
        dinov_stage_reword(stage, err);
        if (!quiet) dinov_tool_note(&tool, "not run in ONNX Runtime: %s", err->msg);
        return DINOV_OK;
    }
    if (status == DINOV_OK) status = dinov_onnx_prove(ort, engine, &graph, output, print_agreement, who, err);
    dinov_ort_close(&ort);
    return status;
}

static dinov_status prove_onnx(const dinov_import *in, const dinov_stage *stage, dinov_error *err)
{
    dinov_engine_options how = {.threads = (int)threads};
    dinov_engine        *engine;
    DINOV_TRY(dinov_engine_open_weights(&engine, dinov_import_weights(in), &how, err));
    dinov_status status = prove_by_engine(in, engine, stage, err);
    if (status == DINOV_OK) status = prove_by_runtime(engine, stage, err);
    dinov_engine_close(&engine);
    return status;
}

/* ---- One function a layout that is written: into a stage, where it is checked ---- */

static dinov_status write_dinov(dinov_import *in, const dinov_stage *stage, dinov_error *err)
{
    dinov_write_options writing = {.threads = (int)threads};
    struct proof        proof   = {0};
    DINOV_TRY(make_proof(&proof, in, err));
    dinov_status status = dinov_import_write(in, dinov_stage_path(stage), proof.is, &writing, err);
    dinov_engine_free_proof(&proof.own);
    return status;
}

static dinov_status write_plain(dinov_import *in, const dinov_stage *stage, dinov_error *err)
{
    const dinov_weights *weights = dinov_import_weights(in);
    return dinov_safetensors_write(dinov_stage_path(stage), weights->tensors, weights->count, 0, err);
}

static dinov_status write_hf(dinov_import *in, const dinov_stage *stage, dinov_error *err)
{
    return dinov_hf_write(dinov_stage_path(stage), dinov_import_weights(in), shard_bytes, 0, err);
}

static dinov_status write_timm(dinov_import *in, const dinov_stage *stage, dinov_error *err)
{
    return dinov_timm_write(dinov_stage_path(stage), dinov_import_weights(in), 0, err);
}

static dinov_status write_pth(dinov_import *in, const dinov_stage *stage, dinov_error *err)
{
    const dinov_weights *weights = dinov_import_weights(in);
    return dinov_pth_write(dinov_stage_path(stage), weights->tensors, weights->count, 0, err);
}

static dinov_status write_golden(const dinov_import *in, dinov_error *err)
{
    dinov_engine_options how = {.threads = (int)threads};
    dinov_engine        *engine;
    DINOV_TRY(dinov_engine_open_weights(&engine, dinov_import_weights(in), &how, err));
    dinov_status status = dinov_onnx_golden_write(golden_path, output, engine, &graph, dinov_import_content_id(in), err);
    dinov_engine_close(&engine);
    return status;
}

static dinov_status write_onnx(dinov_import *in, const dinov_stage *stage, dinov_error *err)
{
    struct proof proof = {0};
    DINOV_TRY(make_proof(&proof, in, err));
    dinov_onnx_file file   = {.content_id = dinov_import_content_id(in),
                              .provenance = dinov_import_provenance(in),
                              .proof      = proof.is,
                              .external   = onnx.external};
    dinov_status    status = dinov_onnx_write(dinov_stage_path(stage), dinov_import_weights(in), &graph, &file, err);
    dinov_engine_free_proof(&proof.own);
    return status;
}

/* What can be written, and whose names its tensors have then. */
static const struct writer {
    const char  *to;
    dinov_naming naming;
    dinov_compat compat; /* whose code will read it; 0: it carries its own rule, or the hub's code */
    dinov_status (*write)(dinov_import *in, const dinov_stage *stage, dinov_error *err);
    bool (*replaces)(const char *name); /* NULL: it is a file; otherwise a folder, in which -f replaces these */
} writers[] = {
    {"dinov", DINOV_NAMING_HUB, 0, write_dinov, NULL},
    {"safetensors", DINOV_NAMING_HUB, DINOV_COMPAT_HUB, write_plain, NULL},
    {"pth", DINOV_NAMING_HUB, DINOV_COMPAT_HUB, write_pth, NULL},
    {"hf", DINOV_NAMING_HF, DINOV_COMPAT_HF, write_hf, dinov_hf_is_written},
    {"timm", DINOV_NAMING_TIMM, DINOV_COMPAT_TIMM, write_timm, NULL},
    {"onnx", DINOV_NAMING_HUB, 0, write_onnx, NULL},
};

static const struct writer *find_writer(const char *name)
{
    size_t size = output ? strlen(output) : 0;
    if (!name) name = size > 5 && strcmp(output + size - 5, ".onnx") == 0 ? "onnx" : "dinov";
    for (size_t i = 0; i < sizeof writers / sizeof writers[0]; i++)
        if (strcmp(writers[i].to, name) == 0) return &writers[i];
    return NULL;
}

/* What was written, read back, says bit for bit what `tensors` do. */
static dinov_status compare_back(const dinov_named_tensor *tensors, size_t count, const dinov_stage *stage, dinov_error *err)
{
    const dinov_reader_options how = {.threads = (int)threads, .unfenced = no_fence};
    dinov_reader               back;
    const dinov_named_tensor **sorted = NULL;
    dinov_status               status = dinov_reader_open(&back, dinov_stage_path(stage), &how, err);
    if (status == DINOV_OK && back.checkpoint) status = dinov_checkpoint_verify(back.checkpoint, (int)threads, err);
    if (status == DINOV_OK && back.count != count)
        status = dinov_fail(err, DINOV_ERR_IO, "CONVERT-CHECK", "%s: expected %zu tensors after writing, found %zu", back.where,
                            count, back.count);
    if (status == DINOV_OK && !(sorted = dinov_tensors_sort(back.tensors, back.count)))
        status = dinov_fail_nomem(err, back.where, "the list of tensors");
    for (size_t i = 0; i < count && status == DINOV_OK; i++) {
        const dinov_named_tensor *t = dinov_tensors_find(sorted, back.count, tensors[i].name);
        if (!t || !dinov_tensor_compare(&tensors[i].tensor, &t->tensor).equal)
            status = dinov_fail(err, DINOV_ERR_IO, "CONVERT-CHECK",
                                "%s: tensor %s: expected the source's bits after writing, found others; the disk or memory fails",
                                back.where, tensors[i].name);
    }
    dinov_free(sorted);
    dinov_reader_close(&back);
    return status;
}

/* Whoever reads what was written finds the same model: with bits that are equal, the same features. */
static dinov_status compare_model(const dinov_model *m, const struct writer *writer, const dinov_stage *stage, dinov_error *err)
{
    /* What a layout cannot say is taken as known. */
    bool                       says = writer->naming == DINOV_NAMING_HF || writer->write == write_dinov;
    const dinov_import_options as   = {.recognise = {.heads  = says ? 0 : m->heads,
                                                     .ln_eps = says ? 0 : m->ln_eps,
                                                     .interp = writer->write == write_dinov ? NULL : &m->interp},
                                       .threads   = (int)threads,
                                       .unfenced  = no_fence};
    dinov_import              *back;
    DINOV_TRY(dinov_import_open(&back, dinov_stage_path(stage), &as, err));
    const dinov_model *b = &dinov_import_weights(back)->model;
    bool same = b->patch == m->patch && b->dim == m->dim && b->depth == m->depth && b->heads == m->heads && b->ffn == m->ffn &&
                b->hidden == m->hidden && b->registers == m->registers && b->grid_h == m->grid_h && b->ln_eps == m->ln_eps &&
                b->interp.offset == m->interp.offset && b->interp.antialias == m->interp.antialias;
    dinov_import_close(&back);
    return same ? DINOV_OK
                : dinov_fail(err, DINOV_ERR_INTERNAL, "CONVERT-MODEL",
                             "%s: expected the source's model after writing, found another (heads, epsilon or position rule): this "
                             "is a bug; "
                             "please report it",
                             output);
}

static dinov_status check_written(const dinov_weights *weights, const struct writer *writer, const dinov_stage *stage,
                                  dinov_error *err)
{
    if (writer->naming == DINOV_NAMING_HUB) {
        DINOV_TRY(compare_back(weights->tensors, weights->count, stage, err));
    } else {
        dinov_tensors list;
        dinov_status  status = dinov_names_rename(&list, weights, writer->naming, output, err);
        if (status == DINOV_OK) status = compare_back(list.items, list.count, stage, err);
        dinov_tensors_clear(&list);
        DINOV_TRY(status);
    }
    return compare_model(&weights->model, writer, stage, err);
}

static uint64_t total_bytes(const dinov_weights *weights)
{
    uint64_t total = 0, bytes;
    for (size_t i = 0; i < weights->count; i++)
        if (dinov_tensor_bytes(&weights->tensors[i].tensor, &bytes)) total += bytes;
    return total;
}

/* What is in OUT's place stays until all of the new is found right. */
static dinov_status put_output(dinov_import *in, const struct writer *writer, dinov_error *err)
{
    const dinov_stage_options how = {
        .overwrite = force, .folder = writer->replaces != NULL, .replaces = force ? writer->replaces : NULL};
    dinov_stage *stage;
    DINOV_TRY(dinov_stage_open(&stage, output, &how, err));
    dinov_status status = writer->write(in, stage, err);
    if (status == DINOV_OK && !no_check)
        status =
            writer->write == write_onnx ? prove_onnx(in, stage, err) : check_written(dinov_import_weights(in), writer, stage, err);
    if (status == DINOV_OK && golden_path) status = write_golden(in, err);
    if (status == DINOV_OK) return dinov_stage_commit(&stage, err);
    dinov_stage_reword(stage, err);
    dinov_stage_abort(&stage);
    return status;
}

static dinov_status convert(dinov_import *in, const struct writer *writer, dinov_error *err)
{
    const dinov_weights *weights = dinov_import_weights(in);
    char                 name[64];

    /* Our own file's checksums stand for its bytes: what is damaged is not carried on. */
    if (dinov_import_source(in)->checkpoint)
        DINOV_TRY(dinov_checkpoint_verify(dinov_import_source(in)->checkpoint, (int)threads, err));
    /* Our own format has it found while the tensors are being written. */
    if (writer->write != write_dinov || dry_run) DINOV_TRY(dinov_import_identify(in, (int)threads, err));
    if (!dry_run) DINOV_TRY(put_output(in, writer, err));
    printf("%s\t%s\t%zu tensors\t%llu bytes\t%s\n", dry_run ? "(nothing written)" : output,
           dinov_model_name(name, sizeof name, &weights->model), weights->count, (unsigned long long)total_bytes(weights),
           dinov_import_content_id(in));
    return DINOV_OK;
}

/* "900M": a whole number and perhaps k, M or G, powers of 1000 as transformers counts. */
static bool parse_bytes(uint64_t *out, const char *text)
{
    char              *end;
    unsigned long long n    = strtoull(text, &end, 10);
    uint64_t           unit = *end == 'k' ? 1000 : *end == 'M' ? 1000000 : *end == 'G' ? 1000000000 : 1;
    if (*text < '0' || *text > '9' || n == 0 || n > 1000000000 || (unit > 1 ? end[1] : *end)) return false;
    *out = n * unit;
    return true;
}

/* What the program that will read the output computes otherwise. */
static void note_reader(const dinov_tool *tool, const dinov_import *in, const struct writer *writer)
{
    const dinov_model *m    = &dinov_import_weights(in)->model;
    dinov_interp       rule = dinov_compat_rule(writer->compat, m->registers);
    if (writer->compat && (rule.offset != m->interp.offset || rule.antialias != m->interp.antialias))
        dinov_tool_note(
            tool,
            "whoever reads %s interpolates positions by another rule: results agree at %lldx%lld pixels, at other sizes with "
            "those of --compat %s",
            output ? output : "the output", (long long)(m->grid_h * m->patch), (long long)(m->grid_w * m->patch),
            strcmp(writer->to, "safetensors") == 0 ? "hub" : writer->to);
    dinov_preset preset_of;
    const char  *said = dinov_import_weights(in)->preprocess.preset;
    if (writer->naming == DINOV_NAMING_HF && dinov_preset_parse(&preset_of, said, NULL) == DINOV_OK &&
        preset_of.kind != DINOV_PRESET_EVAL && preset_of.kind != DINOV_PRESET_SQUARE)
        dinov_tool_note(tool, "preprocessor_config.json cannot say the preset %s; it gets the hub's evaluation instead", said);
}

/* The averaged model of a training run. */
static dinov_status backbone_of(char path[DINOV_TRAINING_PATH + 32], const dinov_tool *tool, const char *run, dinov_error *err)
{
    dinov_find_options how = {.note = dinov_tool_pass_on, .arg = (void *)tool};
    dinov_training    *t;
    DINOV_TRY(dinov_training_find(&t, run, &how, err));
    snprintf(path, DINOV_TRAINING_PATH + 32, "%s/%s", dinov_training_path(t), DINOV_BACKBONE_FILE);
    dinov_training_close(&t);
    return DINOV_OK;
}

static int run(const dinov_tool *tool, int argc, char **argv)
{
    char                 backbone[DINOV_TRAINING_PATH + 32];
    const char          *input = argv[0];
    dinov_import_options how   = {.licence = licence, .origin = origin, .preset = preset, .unfenced = no_fence};
    dinov_interp         interp;
    dinov_import        *in;
    dinov_error          err;

    if (argc != 1) return dinov_tool_usage(tool, "expected one input file, found %d", argc);
    if (!output && !dry_run) return dinov_tool_usage(tool, "expected -o OUT");
    const struct writer *writer = find_writer(to);
    if (!writer) return dinov_tool_usage(tool, "--to: expected dinov, safetensors, pth, hf, timm or onnx, found \"%s\"", to);
    if (writer->write != write_onnx && (golden_path || ort_path || dinov_tool_onnx_given(&onnx)))
        return dinov_tool_usage(tool, "options that shape an ONNX graph go with --to onnx, found --to %s", writer->to);
    if (shard_text && writer->write != write_hf) return dinov_tool_usage(tool, "--shard-size: only --to hf writes shards");
    if (shard_text && !parse_bytes(&shard_bytes, shard_text))
        return dinov_tool_usage(tool, "--shard-size: expected a size such as 900M or 5G, found \"%s\"", shard_text);
    if (compat_text && interp_text)
        return dinov_tool_usage(tool, "--compat and --interp both name the rule of interpolation; give one");
    if (compat_text && !(how.recognise.compat = dinov_compat_parse(compat_text)))
        return dinov_tool_usage(tool, "--compat: expected hub, hf or timm, found \"%s\"", compat_text);
    if (interp_text) {
        if (dinov_interp_parse(&interp, interp_text, &err) != DINOV_OK) return dinov_tool_fail(tool, &err);
        how.recognise.interp = &interp;
    }
    how.recognise.heads = heads;
    how.threads         = (int)threads;
    if (dinov_tool_is_run(input) && !dinov_hf_is_folder(input)) {
        if (backbone_of(backbone, tool, input, &err) != DINOV_OK) return dinov_tool_fail(tool, &err);
        input = backbone;
        if (!quiet) dinov_tool_note(tool, "converting %s", input);
    }
    if (output && !dry_run) {
        /* Before minutes of work, not after; the writer asks again. */
        if (same_file(input, output)) return dinov_tool_usage(tool, "input and output are the same file, %s", output);
        if (!force && access(output, F_OK) == 0) {
            dinov_raise(&err, DINOV_ERR_IO, "IO-EXISTS", "%s: exists already; give -f to replace it", output);
            return dinov_tool_fail(tool, &err);
        }
        if (golden_path && access(golden_path, F_OK) == 0) {
            dinov_raise(&err, DINOV_ERR_IO, "IO-EXISTS", "%s: exists already; golden files go into a new folder", golden_path);
            return dinov_tool_fail(tool, &err);
        }
    }
    if (dinov_import_open(&in, input, &how, &err) != DINOV_OK) return dinov_tool_fail(tool, &err);
    const dinov_reader *source = dinov_import_source(in);
    if (!quiet) dinov_tool_note_fence(tool, source);
    if (!quiet && source->torch.copied)
        dinov_tool_note(tool, "%s: %zu tensors were strided or transposed and are written in row-major order", source->where,
                        source->torch.copied);
    if (!quiet && source->torch.no_crc)
        dinov_tool_note(tool, "%s: was saved with CRCs switched off, so damage in it cannot be seen", source->where);
    for (size_t i = 0; !quiet && dinov_import_note(in, i); i++) dinov_tool_note(tool, "%s", dinov_import_note(in, i));
    if (!quiet) note_reader(tool, in, writer);
    dinov_status status = DINOV_OK;
    if (writer->write == write_onnx) {
        int code = dinov_tool_onnx_read(tool, &graph, &onnx, dinov_import_weights(in));
        if (code) {
            dinov_import_close(&in);
            return code;
        }
        status = dinov_onnx_options_check(&graph, &dinov_import_weights(in)->model, source->where, &err);
    }
    if (status == DINOV_OK) status = convert(in, writer, &err);
    if (status == DINOV_OK && no_check && !dry_run && !quiet)
        dinov_tool_note(tool, "%s: not checked: it was neither read back nor run%s", output,
                        writer->write == write_dinov && !dinov_import_proof(in) ? ", and holds no golden vectors" : "");
    dinov_import_close(&in);
    return status == DINOV_OK ? dinov_tool_flush(tool) : dinov_tool_fail(tool, &err);
}

static const dinov_tool tool = {
    .name     = "dinov-convert",
    .usage    = "IN -o OUT [options]",
    .summary  = "turn DINOv2 weights of any layout into one file that proves itself",
    .examples = "  dinov-convert dinov2_vits14_pretrain.pth -o vits14.safetensors\n"
                "      the official hub's weights as a dinov checkpoint\n"
                "  dinov-convert vits14.safetensors -o vits14.onnx --dynamic-size --dynamic-batch\n"
                "      a graph that is right at every size; --dtype f16 for half the bytes\n"
                "  dinov-convert vits14.safetensors --to hf -o vits14-hf\n"
                "      a folder for transformers; --to timm and --to pth write files for timm and PyTorch\n",
    .details  = "IN is a .pth of torch.save, old or new (nothing in it is executed), a safetensors file, an ONNX graph or\n"
                "a dinov checkpoint, told apart by content; a folder of Hugging Face's, or its config.json; or a training\n"
                "run, RUN or RUN@STEP. Names are the official hub's, Hugging Face's, timm's or those of training\n"
                "checkpoints. The model is recognised from shapes; two things are not in the weights and follow the hub's\n"
                "rule: heads, unless the file has them, and how position embeddings are interpolated.\n"
                "Models trained with the official training code use --interp 0.1, with registers too.\n"
                "What was written is read back and compared; an ONNX graph is run, also in ONNX Runtime where that is found.\n"
                "Until it is found right it lies in a folder OUT.tmp-PID-N, and what is in OUT's place stays.\n",
    .options  = options,
    .run      = run,
};

int main(int argc, char **argv) { return dinov_tool_main(&tool, argc, argv); }
