/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/onnx_options.h"

#include "base/dtype.h"
#include "dinov/image.h"

#include <stdlib.h>
#include <string.h>

bool dinov_tool_onnx_given(const dinov_tool_onnx *t)
{
    return t->size || t->features || t->layers || t->dtype || t->names || t->fuse || t->batch || t->opset || t->dynamic_batch ||
           t->dynamic_size || t->preprocess || t->external;
}

static int read_features(const dinov_tool *tool, dinov_onnx_options *o, const char *text)
{
    for (const char *p = text;;) {
        size_t n  = strcspn(p, ",");
        bool  *to = n == 3 && !memcmp(p, "cls", 3)     ? &o->cls
                    : n == 5 && !memcmp(p, "patch", 5) ? &o->patch
                    : n == 3 && !memcmp(p, "reg", 3)   ? &o->reg
                                                       : NULL;
        if (!to || *to)
            return dinov_tool_usage(tool, "--features: expected a list of cls, patch, reg, each once, found \"%s\"", text);
        *to = true;
        if (!p[n]) return 0;
        p += n + 1;
    }
}

static int read_size(const dinov_tool *tool, dinov_onnx_options *o, const dinov_tool_onnx *text, const dinov_weights *weights)
{
    dinov_preset preset;
    int64_t      again_h, again_w, h, w;
    const char  *p = text->size;
    char        *end;
    if (p && text->dynamic_size) return dinov_tool_usage(tool, "--size and --dynamic-size: expected one of them");
    if (p) {
        o->height = strtol(p, &end, 10);
        o->width  = *end == 'x' ? strtol(end + 1, &end, 10) : o->height;
        if (end == p || *end || o->height < 1 || o->width < 1)
            return dinov_tool_usage(tool, "--size: expected HxW in pixels, such as 224x224, found \"%s\"", p);
        return 0;
    }
    if (text->dynamic_size || dinov_preset_parse(&preset, weights->preprocess.preset, NULL) != DINOV_OK) return 0;
    /* A preset that makes one size of a wide and of a tall picture has one size. */
    if (dinov_preset_size(&preset, weights->model.patch, 1000, 500, &w, &h, NULL) == DINOV_OK &&
        dinov_preset_size(&preset, weights->model.patch, 500, 1000, &again_w, &again_h, NULL) == DINOV_OK && w == again_w &&
        h == again_h) {
        o->height = h;
        o->width  = w;
    }
    return 0;
}

int dinov_tool_onnx_read(const dinov_tool *tool, dinov_onnx_options *out, const dinov_tool_onnx *text, const dinov_weights *weights)
{
    dinov_onnx_options o = {.batch = text->dynamic_batch ? 0 : text->batch ? text->batch : 1, .opset = (int)text->opset};
    int                code;
    if (text->dynamic_batch && text->batch) return dinov_tool_usage(tool, "--batch and --dynamic-batch: expected one of them");
    if ((code = read_size(tool, &o, text, weights))) return code;
    if (text->features && (code = read_features(tool, &o, text->features))) return code;
    if (text->layers && (code = dinov_tool_layers(tool, text->layers, o.layers, DINOV_ONNX_LAYERS, &o.layer_count))) return code;
    if (text->dtype) {
        o.dtype = !strcmp(text->dtype, "f32")    ? DINOV_F32
                  : !strcmp(text->dtype, "f16")  ? DINOV_F16
                  : !strcmp(text->dtype, "bf16") ? DINOV_BF16
                                                 : 0;
        if (!o.dtype) return dinov_tool_usage(tool, "--dtype: expected f32, f16 or bf16, found \"%s\"", text->dtype);
    }
    if (text->names) {
        o.hf_names = strcmp(text->names, "hf") == 0;
        if (!o.hf_names && strcmp(text->names, "hub") != 0)
            return dinov_tool_usage(tool, "--names: expected hub or hf, found \"%s\"", text->names);
    }
    if (text->fuse) {
        o.fuse = strcmp(text->fuse, "ort") == 0;
        if (!o.fuse) return dinov_tool_usage(tool, "--fuse: expected ort, found \"%s\"", text->fuse);
    }
    o.preprocess = text->preprocess;
    *out         = o;
    return 0;
}
