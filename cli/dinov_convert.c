/* SPDX-License-Identifier: Apache-2.0
 *
 * dinov-convert: weights of any layout we read, in; a dinov checkpoint, or what other programs open, out.
 * Reads, recognises, proves the result right, writes, and reads back what it wrote.
 */
#include "base/alloc.h"
#include "base/dtype.h"
#include "cli/tool.h"
#include "convert/compare.h"
#include "convert/import.h"
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

static const char *output, *to = "dinov", *interp_text, *compat_text, *shard_text, *licence, *origin, *preset;
static uint64_t    shard_bytes;
static int64_t     heads, threads;
static bool        force, no_check, dry_run, quiet;

static const dinov_opt options[] = {
    {'o', "output", DINOV_OPT_TEXT, &output, "OUT", "the file to write", .common = true},
    {'f', "force", DINOV_OPT_FLAG, &force, NULL, "replace an existing file", .common = true},
    {0, "to", DINOV_OPT_TEXT, &to, "LAYOUT", "dinov, safetensors, hf (a folder) or timm (default dinov)", .common = true},
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
    {0, "no-check", DINOV_OPT_FLAG, &no_check, NULL, "do not read back and compare what was written", .common = false},
    {'q', "quiet", DINOV_OPT_FLAG, &quiet, NULL, "no notes on stderr", .common = false},
    {0},
};

/* IN and OUT are one file, by any name. */
static bool same_file(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* Golden vectors: the source's own, or computed here and now. */
static dinov_status write_checkpoint(const dinov_import *in, dinov_error *err)
{
    const dinov_weights *weights = dinov_import_weights(in);
    const dinov_proof   *proof   = dinov_import_proof(in);
    dinov_engine_options how     = {.threads = (int)threads};
    dinov_write_options  writing = {.threads = (int)threads, .overwrite = force};
    dinov_golden         cases[DINOV_GOLDEN_CASES];
    dinov_proof          own = {0};

    if (!proof) {
        dinov_engine *engine;
        dinov_error   why;
        DINOV_TRY(dinov_engine_open_weights(&engine, weights, &how, err));
        dinov_status status = dinov_engine_make_proof(engine, &own, cases, &why);
        dinov_engine_close(&engine);
        if (status != DINOV_OK) return dinov_fail(err, status, why.code, "%s: %s", dinov_import_source(in)->where, why.msg);
    }
    dinov_status status = dinov_checkpoint_write(output, weights, dinov_import_provenance(in), proof ? proof : &own, &writing, err);
    if (!proof) dinov_engine_free_proof(&own);
    return status;
}

static dinov_status write_plain(const dinov_import *in, dinov_error *err)
{
    const dinov_weights *weights = dinov_import_weights(in);
    return dinov_safetensors_write(output, weights->tensors, weights->count, force, err);
}

static dinov_status write_hf(const dinov_import *in, dinov_error *err)
{
    return dinov_hf_write(output, dinov_import_weights(in), shard_bytes, force, err);
}

static dinov_status write_timm(const dinov_import *in, dinov_error *err)
{
    return dinov_timm_write(output, dinov_import_weights(in), force, err);
}

static void remove_file(const char *path) { unlink(path); }

/* What can be written, and whose names its tensors have then. */
static const struct writer {
    const char  *to;
    dinov_naming naming;
    dinov_compat compat; /* whose code will read it; 0: it carries its own rule, or the hub's code */
    dinov_status (*write)(const dinov_import *in, dinov_error *err);
    void (*remove)(const char *path);
} writers[] = {
    {"dinov", DINOV_NAMING_HUB, 0, write_checkpoint, remove_file},
    {"safetensors", DINOV_NAMING_HUB, DINOV_COMPAT_HUB, write_plain, remove_file},
    {"hf", DINOV_NAMING_HF, DINOV_COMPAT_HF, write_hf, dinov_hf_remove},
    {"timm", DINOV_NAMING_TIMM, DINOV_COMPAT_TIMM, write_timm, remove_file},
};

static const struct writer *find_writer(const char *name)
{
    for (size_t i = 0; i < sizeof writers / sizeof writers[0]; i++)
        if (strcmp(writers[i].to, name) == 0) return &writers[i];
    return NULL;
}

/* What was written, read back, says bit for bit what `tensors` do. */
static dinov_status compare_back(const dinov_named_tensor *tensors, size_t count, dinov_error *err)
{
    dinov_reader               back;
    const dinov_named_tensor **sorted = NULL;
    dinov_status               status = dinov_reader_open(&back, output, (int)threads, err);
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

static dinov_status check_written(const dinov_weights *weights, const struct writer *writer, dinov_error *err)
{
    dinov_tensors list;
    if (writer->naming == DINOV_NAMING_HUB) return compare_back(weights->tensors, weights->count, err);
    dinov_status status = dinov_names_rename(&list, weights, writer->naming, output, err);
    if (status == DINOV_OK) status = compare_back(list.items, list.count, err);
    dinov_tensors_clear(&list);
    return status;
}

static uint64_t total_bytes(const dinov_weights *weights)
{
    uint64_t total = 0, bytes;
    for (size_t i = 0; i < weights->count; i++)
        if (dinov_tensor_bytes(&weights->tensors[i].tensor, &bytes)) total += bytes;
    return total;
}

static dinov_status convert(const dinov_import *in, const struct writer *writer, dinov_error *err)
{
    const dinov_weights *weights = dinov_import_weights(in);
    char                 name[64], id[72];

    /* Our own file's checksums stand for its bytes: what is damaged is not carried on. */
    if (dinov_import_source(in)->checkpoint)
        DINOV_TRY(dinov_checkpoint_verify(dinov_import_source(in)->checkpoint, (int)threads, err));
    DINOV_TRY(dinov_content_id(id, weights->tensors, weights->count, (int)threads, err));
    if (!dry_run) {
        DINOV_TRY(writer->write(in, err));
        dinov_status status = no_check ? DINOV_OK : check_written(weights, writer, err);
        if (status != DINOV_OK) {
            writer->remove(output);
            return status;
        }
    }
    printf("%s\t%s\t%zu tensors\t%llu bytes\t%s\n", dry_run ? "(nothing written)" : output,
           dinov_model_name(name, sizeof name, &weights->model), weights->count, (unsigned long long)total_bytes(weights), id);
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
    dinov_import_options how   = {.digest = 1, .licence = licence, .origin = origin, .preset = preset};
    dinov_interp         interp;
    dinov_import        *in;
    dinov_error          err;

    if (argc != 1) return dinov_tool_usage(tool, "expected one input file, found %d", argc);
    if (!output && !dry_run) return dinov_tool_usage(tool, "expected -o OUT");
    const struct writer *writer = find_writer(to);
    if (!writer) return dinov_tool_usage(tool, "--to: expected dinov, safetensors, hf or timm, found \"%s\"", to);
    if (shard_text && strcmp(to, "hf") != 0) return dinov_tool_usage(tool, "--shard-size: only --to hf writes shards");
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
    }
    if (dinov_import_open(&in, input, &how, &err) != DINOV_OK) return dinov_tool_fail(tool, &err);
    const dinov_reader *source = dinov_import_source(in);
    if (!quiet && source->pth.copied)
        dinov_tool_note(tool, "%s: %zu tensors were strided or transposed and are written in row-major order", source->where,
                        source->pth.copied);
    if (!quiet && source->pth.zip.no_crc)
        dinov_tool_note(tool, "%s: was saved with CRCs switched off, so damage in it cannot be seen", source->where);
    for (size_t i = 0; !quiet && dinov_import_note(in, i); i++) dinov_tool_note(tool, "%s", dinov_import_note(in, i));
    if (!quiet) note_reader(tool, in, writer);
    dinov_status status = convert(in, writer, &err);
    dinov_import_close(&in);
    return status == DINOV_OK ? dinov_tool_flush(tool) : dinov_tool_fail(tool, &err);
}

int main(int argc, char **argv)
{
    static const dinov_tool tool = {
        .name     = "dinov-convert",
        .usage    = "IN -o OUT [options]",
        .summary  = "turn DINOv2 weights of any layout into one file that proves itself",
        .examples = "  dinov-convert dinov2_vits14_pretrain.pth -o vits14.safetensors\n"
                    "      the official hub's weights as a dinov checkpoint\n"
                    "  dinov-convert vits14.safetensors --to safetensors -o plain.safetensors\n"
                    "      the tensors alone, under the hub's names\n"
                    "  dinov-convert vits14.safetensors --to hf -o vits14-hf\n"
                    "      a folder for transformers; --to timm writes a file for timm\n",
        .details  = "IN is a .pth of torch.save (nothing in it is executed), a safetensors file or a dinov checkpoint,\n"
                    "told apart by content; a folder of Hugging Face's, or its config.json; or a training run, RUN or\n"
                    "RUN@STEP. Names are the official hub's, Hugging Face's, timm's or those of training checkpoints. The\n"
                    "model is recognised from shapes; two things are not in the weights and follow the hub's rule: heads,\n"
                    "unless config.json has them, and how position embeddings are interpolated.\n"
                    "Models trained with the official training code use --interp 0.1, with registers too.\n",
        .options  = options,
        .run      = run,
    };
    return dinov_tool_main(&tool, argc, argv);
}
