/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/model.h"

#include <stdio.h>
#include <string.h>

dinov_status dinov_tool_model_open(dinov_tool_model *m, const dinov_tool *tool, const char *path, int threads, const char *isa,
                                   bool quiet, dinov_error *err)
{
    const dinov_weights *weights;
    dinov_status         status = dinov_checkpoint_open(&m->checkpoint, path, err);

    m->path = path;
    if (status == DINOV_OK) {
        DINOV_TRY(dinov_checkpoint_verify(m->checkpoint, threads, err));
        weights = dinov_checkpoint_weights(m->checkpoint);
        snprintf(m->id, sizeof m->id, "%s", dinov_checkpoint_content_id(m->checkpoint));
    } else {
        if (status != DINOV_ERR_FORMAT) return status;
        dinov_import_options how = {.threads = threads};
        DINOV_TRY(dinov_import_open(&m->import, path, &how, err));
        weights = dinov_import_weights(m->import);
        DINOV_TRY(dinov_content_id(m->id, weights->tensors, weights->count, threads, err));
        if (!quiet)
            dinov_tool_note(tool, "%s: converted in memory; to keep the result: dinov-convert %s -o model.safetensors", path, path);
    }
    dinov_engine_options how = {.threads = threads, .isa = isa};
    return dinov_engine_open_weights(&m->engine, weights, &how, err);
}

void dinov_tool_model_close(dinov_tool_model *m)
{
    dinov_engine_close(&m->engine);
    dinov_import_close(&m->import);
    dinov_checkpoint_close(&m->checkpoint);
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
