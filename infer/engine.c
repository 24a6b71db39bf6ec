/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine: what dinov/infer.h promises, checked here and run by the CPU (host.c) or by devices (remote.c).
 */
#include "infer/engine.h"

#include "base/alloc.h"

#include <string.h>

struct dinov_engine {
    dinov_model      model;
    dinov_preprocess preprocess;
    dinov_host      *host; /* or */
    dinov_remote    *remote;
};

dinov_status dinov_engine_open_weights(dinov_engine **out, const dinov_weights *weights, const dinov_engine_options *options,
                                       dinov_error *err)
{
    static const dinov_engine_options none = {0};
    const dinov_engine_options       *o    = options ? options : &none;
    bool                              cpu  = !o->device || strcmp(o->device, "cpu") == 0;
    dinov_dtype                       real = o->compute ? o->compute : DINOV_F32;
    dinov_status                      status;

    *out = NULL;
    if (real != DINOV_F32 && (cpu || (real != DINOV_BF16 && real != DINOV_F16)))
        return dinov_fail(err, DINOV_ERR_CONFIG, "OPT-COMPUTE", "compute in %s: expected %s", dinov_dtype_name(real),
                          cpu ? "f32, which is all a CPU does here; bf16 and f16 need --device cuda" : "f32, bf16 or f16");
    dinov_engine *e = dinov_calloc(1, sizeof *e);
    if (!e) return dinov_fail_nomem(err, "engine", "itself");
    e->model      = weights->model;
    e->preprocess = weights->preprocess;
    status        = cpu ? dinov_host_open(&e->host, weights, o->threads, o->isa, err)
                        : dinov_remote_open(&e->remote, weights, o->device, real, err);
    if (status == DINOV_OK)
        *out = e;
    else
        dinov_engine_close(&e);
    return status;
}

dinov_status dinov_engine_open(dinov_engine **out, const char *path, const dinov_engine_options *options, dinov_error *err)
{
    dinov_checkpoint *ckpt;

    *out = NULL;
    DINOV_TRY(dinov_checkpoint_open(&ckpt, path, err));
    dinov_status status = dinov_checkpoint_verify(ckpt, options ? options->threads : 0, err);
    if (status == DINOV_OK) status = dinov_engine_open_weights(out, dinov_checkpoint_weights(ckpt), options, err);
    dinov_checkpoint_close(&ckpt);
    return status;
}

void dinov_engine_close(dinov_engine **engine)
{
    if (!engine || !*engine) return;
    dinov_host_close(&(*engine)->host);
    dinov_remote_close(&(*engine)->remote);
    dinov_free(*engine);
    *engine = NULL;
}

const dinov_model      *dinov_engine_model(const dinov_engine *e) { return &e->model; }
const dinov_preprocess *dinov_engine_preprocess(const dinov_engine *e) { return &e->preprocess; }
const char *dinov_engine_isa(const dinov_engine *e) { return e->host ? dinov_host_isa(e->host) : dinov_remote_isa(e->remote); }
int         dinov_engine_threads(const dinov_engine *e) { return e->host ? dinov_host_threads(e->host) : 0; }
int         dinov_engine_lanes(const dinov_engine *e) { return e->host ? 1 : dinov_remote_lanes(e->remote); }
bool        dinov_engine_resizes(const dinov_engine *e) { return e->remote && e->model.channels == 3; }
double      dinov_engine_busy(dinov_engine *e) { return e->host ? 0 : dinov_remote_busy(e->remote); }
int         dinov_engine_devices(const dinov_engine *e) { return e->host ? 0 : dinov_remote_devices(e->remote); }

const char *dinov_engine_device(const dinov_engine *e) { return e->host ? "cpu" : dinov_remote_names(e->remote); }

int64_t dinov_engine_batch(const dinov_engine *e, int64_t height, int64_t width)
{
    int64_t tokens = 1 + e->model.registers + height / e->model.patch * (width / e->model.patch);
    return e->host ? 8 : dinov_remote_batch(e->remote, tokens);
}

dinov_status dinov_engine_jpeg(dinov_device_jpeg **out, dinov_engine *e, int i, dinov_error *err)
{
    *out = NULL;
    if (e->host)
        return dinov_fail(err, DINOV_ERR_CONFIG, "OPT-DECODE", "decoding by nvJPEG needs a GPU (--device cuda), found device cpu");
    return dinov_remote_jpeg(out, e->remote, i, err);
}

static dinov_status check_request(const dinov_model *m, int64_t images, int64_t height, int64_t width,
                                  const dinov_features *features, size_t count, dinov_error *err)
{
    if (images < 0 || height < m->patch || width < m->patch || height % m->patch || width % m->patch || height > 1 << 20 ||
        width > 1 << 20)
        return dinov_fail(
            err, DINOV_ERR_SHAPE, "INPUT-SIZE",
            "input of %lld images of %lld x %lld (width x height): expected sides that are multiples of the patch, %lld",
            (long long)images, (long long)width, (long long)height, (long long)m->patch);
    for (size_t i = 0; i < count; i++)
        if (features[i].layer < -m->depth || features[i].layer >= m->depth)
            return dinov_fail(err, DINOV_ERR_SHAPE, "INPUT-LAYER", "layer %d: expected %lld to %lld", features[i].layer,
                              (long long)-m->depth, (long long)m->depth - 1);
    return DINOV_OK;
}

static dinov_status run(dinov_engine *e, dinov_request *q, int64_t height, int64_t width, dinov_error *err)
{
    const dinov_model *m = &e->model;
    DINOV_TRY(check_request(m, q->images, height, width, q->features, q->count, err));
    q->h = height / m->patch, q->w = width / m->patch, q->last = -1;
    for (size_t i = 0; i < q->count; i++)
        if (dinov_block_of(&q->features[i], m->depth) > q->last) q->last = dinov_block_of(&q->features[i], m->depth);
    if (q->last < 0 || q->images == 0) return DINOV_OK;
    return e->host ? dinov_host_run(e->host, q, err) : dinov_remote_run(e->remote, q, err);
}

dinov_status dinov_engine_run(dinov_engine *e, const float *pixels, int64_t images, int64_t height, int64_t width,
                              const dinov_features *features, size_t count, dinov_error *err)
{
    dinov_request q = {.pixels = pixels, .images = images, .features = features, .count = count};
    return run(e, &q, height, width, err);
}

dinov_status dinov_engine_run_decoded(dinov_engine *e, const dinov_decoded *pictures, int64_t images, int64_t height, int64_t width,
                                      const dinov_features *features, size_t count, dinov_error *err)
{
    dinov_request q = {.pictures = pictures, .images = images, .features = features, .count = count};
    DINOV_ASSERT(dinov_engine_resizes(e));
    return run(e, &q, height, width, err);
}
