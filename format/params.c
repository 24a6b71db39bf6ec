/* SPDX-License-Identifier: Apache-2.0 */
#include "format/params.h"

#include "base/alloc.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What stands for a size in a row below. */
enum dim { NONE, ONE, D, D3, F, F2, POS, REG, CHANNELS, PATCH };

/* Rows that only some models have. */
enum only { ALWAYS, WITH_REGISTERS, WITH_QKV_BIAS, WITH_LAYERSCALE, WITH_MLP, WITH_SWIGLU };

struct row {
    const char *name;
    enum dim    dim[4];
    enum only   only;
};

static const struct row head[] = {
    {"cls_token", {ONE, ONE, D}, ALWAYS},
    {"pos_embed", {ONE, POS, D}, ALWAYS},
    {"register_tokens", {ONE, REG, D}, WITH_REGISTERS},
    {"mask_token", {ONE, D}, ALWAYS},
    {"patch_embed.proj.weight", {D, CHANNELS, PATCH, PATCH}, ALWAYS},
    {"patch_embed.proj.bias", {D}, ALWAYS},
};

static const struct row block[] = {
    {"norm1.weight", {D}, ALWAYS},
    {"norm1.bias", {D}, ALWAYS},
    {"attn.qkv.weight", {D3, D}, ALWAYS},
    {"attn.qkv.bias", {D3}, WITH_QKV_BIAS},
    {"attn.proj.weight", {D, D}, ALWAYS},
    {"attn.proj.bias", {D}, ALWAYS},
    {"ls1.gamma", {D}, WITH_LAYERSCALE},
    {"norm2.weight", {D}, ALWAYS},
    {"norm2.bias", {D}, ALWAYS},
    {"mlp.fc1.weight", {F, D}, WITH_MLP},
    {"mlp.fc1.bias", {F}, WITH_MLP},
    {"mlp.fc2.weight", {D, F}, WITH_MLP},
    {"mlp.fc2.bias", {D}, WITH_MLP},
    {"mlp.w12.weight", {F2, D}, WITH_SWIGLU},
    {"mlp.w12.bias", {F2}, WITH_SWIGLU},
    {"mlp.w3.weight", {D, F}, WITH_SWIGLU},
    {"mlp.w3.bias", {D}, WITH_SWIGLU},
    {"ls2.gamma", {D}, WITH_LAYERSCALE},
};

static const struct row tail[] = {
    {"norm.weight", {D}, ALWAYS},
    {"norm.bias", {D}, ALWAYS},
};

#define COUNT(rows) (sizeof(rows) / sizeof((rows)[0]))

static int present(const struct row *row, const dinov_model *m)
{
    switch (row->only) {
    case ALWAYS: return 1;
    case WITH_REGISTERS: return m->registers > 0;
    case WITH_QKV_BIAS: return m->qkv_bias;
    case WITH_LAYERSCALE: return m->layerscale;
    case WITH_MLP: return m->ffn == DINOV_FFN_MLP;
    case WITH_SWIGLU: return m->ffn == DINOV_FFN_SWIGLU;
    }
    return 0;
}

static int64_t size_of(enum dim dim, const dinov_model *m)
{
    switch (dim) {
    case NONE: break;
    case ONE: return 1;
    case D: return m->dim;
    case D3: return 3 * m->dim;
    case F: return m->hidden;
    case F2: return 2 * m->hidden;
    case POS: return 1 + m->grid_h * m->grid_w;
    case REG: return m->registers;
    case CHANNELS: return m->channels;
    case PATCH: return m->patch;
    }
    return 0;
}

static size_t count_present(const struct row *rows, size_t count, const dinov_model *m)
{
    size_t n = 0;
    for (size_t i = 0; i < count; i++) n += (size_t)present(&rows[i], m);
    return n;
}

/* The index-th row that `m` has. */
static const struct row *nth_present(const struct row *rows, size_t count, size_t index, const dinov_model *m)
{
    for (size_t i = 0; i < count; i++)
        if (present(&rows[i], m) && index-- == 0) return &rows[i];
    dinov_bug(__FILE__, __LINE__, "parameter index within the list");
}

size_t dinov_param_count(const dinov_model *m)
{
    return count_present(head, COUNT(head), m) + (size_t)m->depth * count_present(block, COUNT(block), m) + COUNT(tail);
}

void dinov_param_at(const dinov_model *m, size_t index, dinov_param *out)
{
    size_t            heads  = count_present(head, COUNT(head), m);
    size_t            blocks = count_present(block, COUNT(block), m);
    const struct row *row;

    *out = (dinov_param){0};
    if (index < heads) {
        row = nth_present(head, COUNT(head), index, m);
        snprintf(out->name, sizeof out->name, "%s", row->name);
    } else if (index < heads + (size_t)m->depth * blocks) {
        row = nth_present(block, COUNT(block), (index - heads) % blocks, m);
        snprintf(out->name, sizeof out->name, "blocks.%zu.%s", (index - heads) / blocks, row->name);
    } else {
        row = nth_present(tail, COUNT(tail), index - heads - (size_t)m->depth * blocks, m);
        snprintf(out->name, sizeof out->name, "%s", row->name);
    }
    while (out->rank < 4 && row->dim[out->rank] != NONE) {
        out->dim[out->rank] = size_of(row->dim[out->rank], m);
        out->rank++;
    }
}

dinov_status dinov_model_check(const dinov_model *m, const char *where, dinov_error *err)
{
    /* Caps keep every product of two of these far inside 64 bits. */
    const struct {
        const char *name;
        int64_t     value, min, max;
    } rules[] = {
        {"patch", m->patch, 1, 1024},         {"dim", m->dim, 1, 65536},        {"depth", m->depth, 1, 4096},
        {"heads", m->heads, 1, 4096},         {"ffn", m->ffn, 1, 2},            {"hidden", m->hidden, 1, 1 << 20},
        {"registers", m->registers, 0, 4096}, {"channels", m->channels, 1, 64}, {"grid_h", m->grid_h, 1, 4096},
        {"grid_w", m->grid_w, 1, 4096},       {"layerscale", m->layerscale, 0, 1}, {"qkv_bias", m->qkv_bias, 0, 1},
        {"antialias", m->interp.antialias, 0, 1},
    };
    for (size_t i = 0; i < COUNT(rules); i++)
        if (rules[i].value < rules[i].min || rules[i].value > rules[i].max)
            return dinov_fail(err, DINOV_ERR_SHAPE, "MODEL-NUMBERS", "%s: model.%s: expected %lld to %lld, found %lld", where,
                              rules[i].name, (long long)rules[i].min, (long long)rules[i].max, (long long)rules[i].value);
    if (m->dim % m->heads != 0)
        return dinov_fail(err, DINOV_ERR_SHAPE, "MODEL-NUMBERS",
                          "%s: model.dim: expected a multiple of heads (%lld), found %lld", where, (long long)m->heads,
                          (long long)m->dim);
    if (!(m->ln_eps > 0 && m->ln_eps < 1))
        return dinov_fail(err, DINOV_ERR_SHAPE, "MODEL-NUMBERS", "%s: model.ln_eps: expected between 0 and 1, found %g", where,
                          m->ln_eps);
    if (!(m->interp.offset >= 0 && m->interp.offset < 1))
        return dinov_fail(err, DINOV_ERR_SHAPE, "MODEL-NUMBERS",
                          "%s: model.interp.offset: expected at least 0 and below 1, found %g", where, m->interp.offset);
    return DINOV_OK;
}

void dinov_preprocess_default(dinov_preprocess *out, const dinov_model *model)
{
    /* eval:224 crops to 224, which other patch sides may not divide: then the nearest multiple below. */
    int64_t size = model->patch <= 224 ? 224 / model->patch * model->patch : model->patch;
    *out         = (dinov_preprocess){.mean = {0.485f, 0.456f, 0.406f}, .std = {0.229f, 0.224f, 0.225f}};
    snprintf(out->preset, sizeof out->preset, "eval:%lld", (long long)size);
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const dinov_named_tensor *const *)a)->name, (*(const dinov_named_tensor *const *)b)->name);
}

static int name_is(const void *key, const void *entry)
{
    return strcmp(key, (*(const dinov_named_tensor *const *)entry)->name);
}

/* "[384, 3, 14, 14]" */
static const char *shape_text(char *out, size_t size, const int64_t *dim, int rank)
{
    int used = snprintf(out, size, "[");
    for (int i = 0; i < rank; i++) used += snprintf(out + used, size - (size_t)used, "%s%lld", i ? ", " : "", (long long)dim[i]);
    snprintf(out + used, size - (size_t)used, "]");
    return out;
}

static dinov_status check_one(const dinov_param *want, const dinov_tensor *have, const char *where, dinov_error *err)
{
    char expected[192], found[192];
    if (have->rank != want->rank || memcmp(have->dim, want->dim, (size_t)want->rank * sizeof want->dim[0]) != 0)
        return dinov_fail(err, DINOV_ERR_SHAPE, "MODEL-SHAPE", "%s: tensor %s: expected shape %s, found %s", where, want->name,
                          shape_text(expected, sizeof expected, want->dim, want->rank),
                          shape_text(found, sizeof found, have->dim, have->rank));
    if (have->dtype != DINOV_F32 && have->dtype != DINOV_F16 && have->dtype != DINOV_BF16)
        return dinov_fail(err, DINOV_ERR_SHAPE, "MODEL-DTYPE", "%s: tensor %s: expected F32, F16 or BF16, found %s", where,
                          want->name, dinov_dtype_name(have->dtype));
    return DINOV_OK;
}

dinov_status dinov_weights_check(const dinov_weights *weights, const char *where, dinov_error *err)
{
    DINOV_TRY(dinov_model_check(&weights->model, where, err));

    size_t                     wanted = dinov_param_count(&weights->model);
    const dinov_named_tensor **sorted = dinov_calloc(weights->count, sizeof *sorted);
    bool                      *known  = dinov_calloc(weights->count, sizeof *known);
    if (!sorted || !known) {
        dinov_free(sorted);
        dinov_free(known);
        return dinov_fail_nomem(err, where, "the list of tensors");
    }
    for (size_t i = 0; i < weights->count; i++) sorted[i] = &weights->tensors[i];
    qsort(sorted, weights->count, sizeof *sorted, by_name);

    dinov_status status = DINOV_OK;
    for (size_t i = 0; i < wanted && status == DINOV_OK; i++) {
        dinov_param want;
        dinov_param_at(&weights->model, i, &want);
        const dinov_named_tensor **hit = bsearch(want.name, sorted, weights->count, sizeof *sorted, name_is);
        status = hit ? check_one(&want, &(*hit)->tensor, where, err)
                     : dinov_fail(err, DINOV_ERR_SHAPE, "MODEL-MISSING",
                                  "%s: tensor %s is missing: the model described has %zu tensors, the file %zu",
                                  where, want.name, wanted, weights->count);
        if (hit) known[*hit - weights->tensors] = true;
    }
    for (size_t i = 0; i < weights->count && status == DINOV_OK; i++) {
        char name[DINOV_ESCAPED];
        if (!known[i])
            status = dinov_fail(err, DINOV_ERR_SHAPE, "MODEL-LEFTOVER",
                                "%s: tensor %s does not belong to the model described", where,
                                dinov_escape(name, sizeof name, weights->tensors[i].name, strlen(weights->tensors[i].name)));
    }
    dinov_free(known);
    dinov_free(sorted);
    return status;
}

const dinov_tensor *dinov_weights_find(const dinov_weights *weights, const char *name)
{
    for (size_t i = 0; i < weights->count; i++)
        if (strcmp(weights->tensors[i].name, name) == 0) return &weights->tensors[i].tensor;
    return NULL;
}
