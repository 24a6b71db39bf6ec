/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/recognise.h"

#include "base/alloc.h"
#include "format/params.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct names {
    const dinov_named_tensor *tensors;
    size_t                    count;
};

static const dinov_tensor *find(const struct names *n, const char *name)
{
    for (size_t i = 0; i < n->count; i++)
        if (strcmp(n->tensors[i].name, name) == 0) return &n->tensors[i].tensor;
    return NULL;
}

/* The index of "blocks.7.norm1.weight", or -1; *rest is what follows it. */
static int64_t block_index(const char *name, const char **rest)
{
    if (strncmp(name, "blocks.", 7) != 0 || name[7] < '0' || name[7] > '9') return -1;
    char     *end;
    long long index = strtoll(name + 7, &end, 10);
    if (*end != '.' || index > 1 << 20) return -1;
    *rest = end + 1;
    return index;
}

static const struct {
    const char  *name;
    dinov_interp without, with_registers;
} compats[] = {
    [DINOV_COMPAT_HUB]  = {"hub", {0.1, 0}, {0, 1}},
    [DINOV_COMPAT_HF]   = {"hf", {0, 0}, {0, 1}},
    [DINOV_COMPAT_TIMM] = {"timm", {0, 1}, {0, 1}},
};

dinov_interp dinov_compat_rule(dinov_compat compat, int64_t registers)
{
    if (!compat) compat = DINOV_COMPAT_HUB;
    return registers > 0 ? compats[compat].with_registers : compats[compat].without;
}

dinov_compat dinov_compat_parse(const char *text)
{
    for (int i = DINOV_COMPAT_HUB; i <= DINOV_COMPAT_TIMM; i++)
        if (strcmp(text, compats[i].name) == 0) return (dinov_compat)i;
    return 0;
}

static dinov_status wrong_shape(const char *where, dinov_error *err, const char *name, const char *what)
{
    return dinov_fail(err, DINOV_ERR_SHAPE, "MODEL-SHAPE", "%s: tensor %s: %s", where, name, what);
}

static dinov_status read_embeddings(dinov_model *m, const struct names *n, const char *where, dinov_error *err)
{
    const dinov_tensor *patch = find(n, "patch_embed.proj.weight"), *pos = find(n, "pos_embed");
    const dinov_tensor *registers = find(n, "register_tokens");
    char                first[DINOV_ESCAPED];

    if (!patch || !pos)
        return dinov_fail(
            err, DINOV_ERR_FORMAT, "NAMES-UNKNOWN",
            "%s: expected the official DINOv2 names (patch_embed.proj.weight, pos_embed, blocks.0...), found %zu tensors "
            "without %s; the first is %s",
            where, n->count, patch ? "pos_embed" : "patch_embed.proj.weight",
            n->count ? dinov_escape(first, sizeof first, n->tensors[0].name, strlen(n->tensors[0].name)) : "missing");
    if (patch->rank != 4 || patch->dim[2] != patch->dim[3])
        return wrong_shape(where, err, "patch_embed.proj.weight", "expected [dim, channels, patch, patch], found another shape");
    if (pos->rank != 3 || pos->dim[1] < 2)
        return wrong_shape(where, err, "pos_embed", "expected [1, 1 + grid * grid, dim], found another shape");
    if (registers && registers->rank != 3)
        return wrong_shape(where, err, "register_tokens", "expected [1, registers, dim], found another shape");

    m->dim        = patch->dim[0];
    m->channels   = patch->dim[1];
    m->patch      = patch->dim[2];
    m->registers  = registers ? registers->dim[1] : 0;
    int64_t cells = pos->dim[1] - 1, side = (int64_t)(sqrt((double)cells) + 0.5);
    if (side > 1 << 20 || side * side != cells)
        return dinov_fail(
            err, DINOV_ERR_SHAPE, "MODEL-GRID",
            "%s: tensor pos_embed: expected 1 + a square number of positions, found %lld: the trained grid cannot be told", where,
            (long long)pos->dim[1]);
    m->grid_h = m->grid_w = side;
    return DINOV_OK;
}

static dinov_status read_blocks(dinov_model *m, const struct names *n, const char *where, dinov_error *err)
{
    const char *rest;
    for (size_t i = 0; i < n->count; i++) {
        int64_t index = block_index(n->tensors[i].name, &rest);
        if (index >= m->depth) m->depth = index + 1;
    }
    const dinov_tensor *fc1 = find(n, "blocks.0.mlp.fc1.weight"), *w12 = find(n, "blocks.0.mlp.w12.weight");
    if (!fc1 == !w12)
        return dinov_fail(err, DINOV_ERR_SHAPE, "MODEL-FFN",
                          "%s: block 0: expected either mlp.fc1.weight or mlp.w12.weight, found %s", where,
                          fc1 ? "both" : "neither");
    const dinov_tensor *up = fc1 ? fc1 : w12;
    if (up->rank != 2 || (w12 && up->dim[0] % 2 != 0))
        return wrong_shape(where, err, fc1 ? "blocks.0.mlp.fc1.weight" : "blocks.0.mlp.w12.weight",
                           "expected [hidden, dim] (w12: [2 * hidden, dim]), found another shape");
    m->ffn        = fc1 ? DINOV_FFN_MLP : DINOV_FFN_SWIGLU;
    m->hidden     = fc1 ? up->dim[0] : up->dim[0] / 2;
    m->layerscale = find(n, "blocks.0.ls1.gamma") != NULL;
    m->qkv_bias   = find(n, "blocks.0.attn.qkv.bias") != NULL;
    return DINOV_OK;
}

dinov_status dinov_recognise_numbers(dinov_model *out, const dinov_named_tensor *tensors, size_t count,
                                     const dinov_recognise_options *options, const char *where, dinov_error *err)
{
    struct names n = {tensors, count};
    dinov_model  m = {.ln_eps = options && options->ln_eps > 0 ? options->ln_eps : 1e-6};

    DINOV_TRY(read_embeddings(&m, &n, where, err));
    DINOV_TRY(read_blocks(&m, &n, where, err));
    m.heads = options && options->heads ? options->heads : m.dim / 64;
    if (!(options && options->heads) && m.dim % 64 != 0)
        return dinov_fail(err, DINOV_ERR_SHAPE, "MODEL-HEADS",
                          "%s: the width %lld is no multiple of 64, so the number of heads cannot be told; give --heads N", where,
                          (long long)m.dim);
    m.interp = options && options->interp ? *options->interp : dinov_compat_rule(options ? options->compat : 0, m.registers);
    DINOV_TRY(dinov_model_check(&m, where, err));
    *out = m;
    return DINOV_OK;
}

dinov_status dinov_recognise(dinov_model *out, const dinov_named_tensor *tensors, size_t count,
                             const dinov_recognise_options *options, const char *where, dinov_error *err)
{
    dinov_weights weights = {.tensors = tensors, .count = count};
    DINOV_TRY(dinov_recognise_numbers(&weights.model, tensors, count, options, where, err));
    DINOV_TRY(dinov_weights_check(&weights, where, err));
    *out = weights.model;
    return DINOV_OK;
}

const char *dinov_model_name(char *out, size_t size, const dinov_model *m)
{
    static const struct {
        int64_t   dim, depth, heads, hidden;
        dinov_ffn ffn;
        char      letter;
    } hub[]            = {{384, 12, 6, 1536, DINOV_FFN_MLP, 's'},
                          {768, 12, 12, 3072, DINOV_FFN_MLP, 'b'},
                          {1024, 24, 16, 4096, DINOV_FFN_MLP, 'l'},
                          {1536, 40, 24, 4096, DINOV_FFN_SWIGLU, 'g'}};
    char registers[32] = "";
    for (size_t i = 0; i < sizeof hub / sizeof hub[0]; i++) {
        if (m->dim != hub[i].dim || m->depth != hub[i].depth || m->heads != hub[i].heads || m->hidden != hub[i].hidden ||
            m->ffn != hub[i].ffn || m->channels != 3 || !m->layerscale || !m->qkv_bias)
            continue;
        if (m->registers == 4)
            snprintf(registers, sizeof registers, "_reg"); /* the hub's four go without a number */
        else if (m->registers)
            snprintf(registers, sizeof registers, "_reg%lld", (long long)m->registers);
        snprintf(out, size, "dinov2_vit%c%lld%s", hub[i].letter, (long long)m->patch, registers);
        return out;
    }
    if (m->registers) snprintf(registers, sizeof registers, " r%lld", (long long)m->registers);
    snprintf(out, size, "vit d%lld l%lld h%lld p%lld%s", (long long)m->dim, (long long)m->depth, (long long)m->heads,
             (long long)m->patch, registers);
    return out;
}

dinov_status dinov_interp_parse(dinov_interp *out, const char *text, dinov_error *err)
{
    char  *end;
    double offset = strtod(text, &end);
    bool   plain = *end == '\0', antialias = strcmp(end, ",antialias") == 0;
    if (end == text || (!plain && !antialias) || !(offset >= 0 && offset < 1)) {
        char shown[DINOV_ESCAPED];
        return dinov_fail(
            err, DINOV_ERR_CONFIG, "INTERP",
            "--interp: expected OFFSET or OFFSET,antialias with an offset from 0 up to but not 1, such as 0.1 or 0,antialias, "
            "found \"%s\"",
            dinov_escape(shown, sizeof shown, text, strlen(text)));
    }
    *out = (dinov_interp){offset, antialias};
    return DINOV_OK;
}
