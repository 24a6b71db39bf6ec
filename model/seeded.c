/* SPDX-License-Identifier: Apache-2.0 */
#include "model/seeded.h"

#include "base/alloc.h"
#include "format/params.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

static uint64_t fnv1a64(const char *text)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (; *text; text++) h = (h ^ (unsigned char)*text) * 0x100000001b3u;
    return h;
}

static uint64_t splitmix64(uint64_t base, uint64_t i)
{
    uint64_t z = base + (i + 1) * 0x9e3779b97f4a7c15u;
    z          = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z          = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}

/* Linear weights keep the scale of their input; LayerScale keeps deep models in range. */
static void range_of(const dinov_param *p, float *centre, float *spread)
{
    bool norm = strstr(p->name, "norm") != NULL;
    *centre   = 0;
    if (norm && ends_with(p->name, ".weight"))
        *centre = 1, *spread = 0.3f;
    else if (ends_with(p->name, ".gamma"))
        *centre = 0.3f, *spread = 0.2f;
    else if (ends_with(p->name, ".bias"))
        *spread = 0.2f;
    else if (ends_with(p->name, "_token") || ends_with(p->name, "_tokens") || ends_with(p->name, "pos_embed"))
        *spread = 0.5f;
    else {
        int64_t inputs = 1;
        for (int i = 1; i < p->rank; i++) inputs *= p->dim[i];
        *spread = (float)sqrt(3.0 / (double)inputs);
    }
}

struct seeded {
    dinov_weights       weights; /* first: the handle points here */
    dinov_named_tensor *tensors;
    char (*names)[DINOV_PARAM_NAME];
};

static dinov_status fill(dinov_named_tensor *out, const dinov_param *p, uint64_t seed, dinov_error *err)
{
    uint64_t count = 1, base = fnv1a64(p->name) ^ seed * 0xd1342543de82ef95u;
    float    centre, spread;
    for (int i = 0; i < p->rank; i++) count *= (uint64_t)p->dim[i];
    float *data = dinov_alloc_aligned(count, sizeof *data);
    if (!data) return dinov_fail_nomem(err, "seeded weights", p->name);
    range_of(p, &centre, &spread);
    for (uint64_t i = 0; i < count; i++) {
        float u = (float)(splitmix64(base, i) >> 40) * 0x1p-23f - 1.0f;
        data[i] = centre + spread * u;
    }
    out->tensor = (dinov_tensor){.data = data, .dtype = DINOV_F32, .rank = p->rank};
    memcpy(out->tensor.dim, p->dim, sizeof p->dim);
    return DINOV_OK;
}

dinov_status dinov_seeded_new(dinov_weights **out, const dinov_model *model, uint64_t seed, dinov_error *err)
{
    *out = NULL;
    DINOV_TRY(dinov_model_check(model, "seeded weights", err));
    size_t         count  = dinov_param_count(model);
    struct seeded *s      = dinov_calloc(1, sizeof *s);
    dinov_status   status = DINOV_OK;

    if (!s) return dinov_fail_nomem(err, "seeded weights", "itself");
    dinov_weights *handle = &s->weights;
    s->tensors            = dinov_calloc(count, sizeof *s->tensors);
    s->names              = dinov_calloc(count, sizeof *s->names);
    if (!s->tensors || !s->names) status = dinov_fail_nomem(err, "seeded weights", "the list");
    s->weights = (dinov_weights){.model = *model, .tensors = s->tensors, .count = s->tensors ? count : 0};
    dinov_preprocess_default(&s->weights.preprocess, model);
    for (size_t i = 0; i < count && status == DINOV_OK; i++) {
        dinov_param p;
        dinov_param_at(model, i, &p);
        memcpy(s->names[i], p.name, sizeof p.name);
        s->tensors[i].name = s->names[i];
        status             = fill(&s->tensors[i], &p, seed, err);
    }
    if (status != DINOV_OK)
        dinov_seeded_free(&handle);
    else
        *out = handle;
    return status;
}

void dinov_seeded_free(dinov_weights **weights)
{
    if (!weights || !*weights) return;
    struct seeded *s = (struct seeded *)*weights;
    *weights         = NULL;
    for (size_t i = 0; i < s->weights.count; i++) dinov_free((void *)(uintptr_t)s->tensors[i].tensor.data);
    dinov_free(s->tensors);
    dinov_free(s->names);
    dinov_free(s);
}
