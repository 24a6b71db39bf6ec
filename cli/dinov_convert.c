/* SPDX-License-Identifier: Apache-2.0
 *
 * dinov-convert: weights of any layout we read, in; a dinov checkpoint, plain safetensors or a PyTorch file, out.
 * Reads, recognises, proves the result right, writes, and reads back what it wrote.
 */
#include "base/dtype.h"
#include "cli/model.h"
#include "convert/compare.h"
#include "convert/import.h"
#include "convert/pth_write.h"
#include "convert/safetensors.h"
#include "dinov/infer.h"
#include "format/training.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *output, *to = "dinov", *interp_text, *licence, *origin, *preset;
static int64_t     heads, threads;
static bool        no_fence, force, no_check, dry_run, quiet;

static const dinov_opt options[] = {
    {'o', "output", DINOV_OPT_TEXT, &output, "OUT", "the file to write", .common = true},
    {'f', "force", DINOV_OPT_FLAG, &force, NULL, "replace an existing file", .common = true},
    {0, "to", DINOV_OPT_TEXT, &to, "LAYOUT", "dinov, safetensors or pth (default dinov)", .common = true},
    {0, "interp", DINOV_OPT_TEXT, &interp_text, "RULE",
     "position interpolation: OFFSET[,antialias] (default: with registers 0,antialias, else 0.1)", .common = true},
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
    DINOV_OPT_NO_FENCE(&no_fence),
    {0},
};

/* IN and OUT are one file, by any name. */
static bool same_file(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* What was written says bit for bit what was read. */
static dinov_status check_written(const dinov_weights *weights, dinov_error *err)
{
    const dinov_reader_options how = {.threads = (int)threads, .unfenced = no_fence};
    dinov_reader               back;
    dinov_status               status = dinov_reader_open(&back, output, &how, err);
    if (status == DINOV_OK && back.checkpoint) status = dinov_checkpoint_verify(back.checkpoint, (int)threads, err);
    const dinov_weights found = {.tensors = back.tensors, .count = back.count};
    if (status == DINOV_OK && back.count != weights->count)
        status = dinov_fail(err, DINOV_ERR_IO, "CONVERT-CHECK", "%s: expected %zu tensors after writing, found %zu", back.where,
                            weights->count, back.count);
    for (size_t i = 0; i < weights->count && status == DINOV_OK; i++) {
        const dinov_tensor *t = dinov_weights_find(&found, weights->tensors[i].name);
        if (!t || !dinov_tensor_compare(&weights->tensors[i].tensor, t).equal)
            status = dinov_fail(err, DINOV_ERR_IO, "CONVERT-CHECK",
                                "%s: tensor %s: expected the source's bits after writing, found others; the disk or memory fails",
                                back.where, weights->tensors[i].name);
    }
    dinov_reader_close(&back);
    return status;
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

static uint64_t total_bytes(const dinov_weights *weights)
{
    uint64_t total = 0, bytes;
    for (size_t i = 0; i < weights->count; i++)
        if (dinov_tensor_bytes(&weights->tensors[i].tensor, &bytes)) total += bytes;
    return total;
}

static dinov_status write_output(const dinov_import *in, dinov_error *err)
{
    const dinov_weights *weights = dinov_import_weights(in);
    if (strcmp(to, "safetensors") == 0) return dinov_safetensors_write(output, weights->tensors, weights->count, force, err);
    if (strcmp(to, "pth") == 0) return dinov_pth_write(output, weights->tensors, weights->count, force, err);
    return write_checkpoint(in, err);
}

static dinov_status convert(const dinov_import *in, dinov_error *err)
{
    const dinov_weights *weights = dinov_import_weights(in);
    char                 name[64], id[72];

    /* Our own file's checksums stand for its bytes: what is damaged is not carried on. */
    if (dinov_import_source(in)->checkpoint)
        DINOV_TRY(dinov_checkpoint_verify(dinov_import_source(in)->checkpoint, (int)threads, err));
    DINOV_TRY(dinov_content_id(id, weights->tensors, weights->count, (int)threads, err));
    if (!dry_run) {
        DINOV_TRY(write_output(in, err));
        dinov_status status = no_check ? DINOV_OK : check_written(weights, err);
        if (status != DINOV_OK) {
            unlink(output);
            return status;
        }
    }
    printf("%s\t%s\t%zu tensors\t%llu bytes\t%s\n", dry_run ? "(nothing written)" : output,
           dinov_model_name(name, sizeof name, &weights->model), weights->count, (unsigned long long)total_bytes(weights), id);
    return DINOV_OK;
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
    dinov_import_options how = {.digest = 1, .licence = licence, .origin = origin, .preset = preset, .unfenced = no_fence};
    dinov_interp         interp;
    dinov_import        *in;
    dinov_error          err;

    if (argc != 1) return dinov_tool_usage(tool, "expected one input file, found %d", argc);
    if (!output && !dry_run) return dinov_tool_usage(tool, "expected -o OUT");
    if (strcmp(to, "dinov") != 0 && strcmp(to, "safetensors") != 0 && strcmp(to, "pth") != 0)
        return dinov_tool_usage(tool, "--to: expected dinov, safetensors or pth, found \"%s\"", to);
    if (interp_text) {
        if (dinov_interp_parse(&interp, interp_text, &err) != DINOV_OK) return dinov_tool_fail(tool, &err);
        how.recognise.interp = &interp;
    }
    how.recognise.heads = heads;
    how.threads         = (int)threads;
    if (dinov_tool_is_run(input)) {
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
    if (!quiet) dinov_tool_note_fence(tool, source);
    if (!quiet && source->torch.copied)
        dinov_tool_note(tool, "%s: %zu tensors were strided or transposed and are written in row-major order", source->where,
                        source->torch.copied);
    if (!quiet && source->torch.no_crc)
        dinov_tool_note(tool, "%s: was saved with CRCs switched off, so damage in it cannot be seen", source->where);
    dinov_status status = convert(in, &err);
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
                    "      the tensors alone, under the hub's names\n",
        .details  = "IN is a .pth of torch.save (nothing in it is executed), a safetensors file under the hub's names,\n"
                    "or a dinov checkpoint, told apart by content; or a training run, RUN or RUN@STEP. The model is\n"
                    "recognised from shapes; two things are not in the weights and follow the hub's rule: heads, and how\n"
                    "position embeddings are interpolated.\n"
                    "Models trained with the official training code use --interp 0.1, with registers too.\n",
        .options  = options,
        .run      = run,
    };
    return dinov_tool_main(&tool, argc, argv);
}
