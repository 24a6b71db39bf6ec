/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/model.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* Of the newest step that is whole, or of the one that is named. */
static dinov_status open_run(dinov_tool_model *m, const dinov_tool *tool, const char *path, int threads, bool quiet,
                             dinov_error *err)
{
    dinov_find_options how = {.threads = threads, .note = dinov_tool_pass_on, .arg = (void *)tool};
    DINOV_TRY(dinov_training_find(&m->training, path, &how, err));
    if (!quiet)
        dinov_tool_note(tool, "%s: the averaged model of step %lld", path,
                        (long long)dinov_training_manifest(m->training)->iteration);
    return DINOV_OK;
}

int dinov_tool_engine_options(dinov_engine_options *out, const dinov_tool *tool, int threads, const char *isa, const char *device,
                              const char *compute)
{
    static const struct {
        const char *name;
        dinov_dtype type;
    } types[]   = {{"f32", DINOV_F32}, {"bf16", DINOV_BF16}, {"f16", DINOV_F16}};
    bool on_cpu = !device || strcmp(device, "cpu") == 0;

    *out = (dinov_engine_options){.threads = threads, .isa = isa, .device = device};
    for (size_t i = 0; compute && i < sizeof types / sizeof types[0]; i++)
        if (strcmp(compute, types[i].name) == 0) out->compute = types[i].type;
    if (compute && !out->compute) return dinov_tool_usage(tool, "--compute: expected f32, bf16 or f16, found \"%s\"", compute);
    if (isa && !on_cpu) return dinov_tool_usage(tool, "--isa is for --device cpu");
    return 0;
}

dinov_status dinov_tool_model_open(dinov_tool_model *m, const dinov_tool *tool, const char *path, const dinov_engine_options *how,
                                   bool quiet, dinov_error *err)
{
    int                     threads = how->threads;
    const dinov_checkpoint *checkpoint;
    const dinov_weights    *weights;
    dinov_status            status = DINOV_OK;

    m->path = path;
    if (dinov_hf_is_folder(path))
        status = DINOV_ERR_FORMAT;
    else if (dinov_tool_is_run(path))
        DINOV_TRY(open_run(m, tool, path, threads, quiet, err));
    else
        status = dinov_checkpoint_open(&m->checkpoint, path, err);
    checkpoint = m->training ? dinov_training_backbone(m->training) : m->checkpoint;
    if (status == DINOV_OK) {
        DINOV_TRY(dinov_checkpoint_verify(checkpoint, threads, err));
        weights = dinov_checkpoint_weights(checkpoint);
        snprintf(m->id, sizeof m->id, "%s", dinov_checkpoint_content_id(checkpoint));
    } else {
        if (status != DINOV_ERR_FORMAT) return status;
        dinov_import_options import = {.threads = threads, .unfenced = m->unfenced};
        DINOV_TRY(dinov_import_open(&m->import, path, &import, err));
        weights = dinov_import_weights(m->import);
        if (!quiet) dinov_tool_note_fence(tool, dinov_import_source(m->import));
        DINOV_TRY(dinov_content_id(m->id, weights->tensors, weights->count, threads, err));
        for (size_t i = 0; !quiet && dinov_import_note(m->import, i); i++)
            dinov_tool_note(tool, "%s", dinov_import_note(m->import, i));
        if (!quiet)
            dinov_tool_note(tool, "%s: converted in memory; to keep the result: dinov-convert %s -o model.safetensors", path, path);
    }
    return dinov_engine_open_weights(&m->engine, weights, how, err);
}

void dinov_tool_note_fence(const dinov_tool *tool, const dinov_reader *reader)
{
    if (reader->fence == DINOV_FENCE_PROCESS)
        dinov_tool_note(tool, "%s: was read in a process of its own, which this system or build cannot confine further (seccomp)",
                        reader->where);
}

void dinov_tool_model_close(dinov_tool_model *m)
{
    dinov_engine_close(&m->engine);
    dinov_import_close(&m->import);
    dinov_checkpoint_close(&m->checkpoint);
    dinov_training_close(&m->training);
}

dinov_status dinov_tool_model_preset(dinov_preset *out, const dinov_tool_model *m, dinov_error *err)
{
    char         shown[DINOV_ESCAPED];
    int64_t      w, h;
    dinov_error  why;
    const char  *text   = dinov_engine_preprocess(m->engine)->preset;
    dinov_status status = dinov_preset_parse(out, text, &why);
    if (status == DINOV_OK) status = dinov_preset_size(out, dinov_engine_model(m->engine)->patch, 1, 1, &w, &h, &why);
    if (status == DINOV_OK) return DINOV_OK;
    return dinov_fail(err, DINOV_ERR_UNSUPPORTED, "RUN-PRESET", "%s: asks for preset %s, which cannot be used: %s; give --preset",
                      dinov_escape(shown, sizeof shown, m->path, strlen(m->path)), text, why.msg);
}
