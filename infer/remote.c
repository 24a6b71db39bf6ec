/* SPDX-License-Identifier: Apache-2.0
 *
 * A model on one or more devices. Each has the weights, one queue that computes, and a few lanes: a lane takes a
 * batch through pinned memory to the device, queues its work behind that of other lanes, and brings the features
 * back. So while one lane's batch is computed, others copy. Activations exist once a device, because batches are
 * computed one after the other. Work of a shape that comes again is recorded and replayed.
 */
#include "infer/block.h"

#include "base/alloc.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum {
    DEVICES      = 16,
    LANES        = 3, /* a device: one computes, one fetches, one brings back */
    GRIDS        = 32,
    GRAPHS       = 16, /* a lane */
    SPECS        = 4,  /* features that a recorded graph may have */
    BATCH_TOKENS = 32768,
    MOST_TOKENS  = 4 * BATCH_TOKENS, /* of one batch on the device */
};

struct buffer {
    void  *data;
    size_t size;
};

/* What a graph was recorded for. */
struct shape {
    int64_t images, h, w, last, count;
    struct spec {
        int64_t block, no_norm, cls, mean, reg, patch;
    } specs[SPECS];
};

struct gpu {
    dinov_device *device;
    dinov_vit     vit;
    dinov_queue  *compute;
    struct buffer memory; /* activations */
    float        *table;  /* [3][256] normalised values */
    struct grid {
        int64_t h, w;
        float  *pos;
    } grids[GRIDS];
    int             grid_count;
    int64_t         epoch; /* grows when memory or positions move: what was recorded before is void */
    pthread_mutex_t lock;  /* of all above but the weights, and of issuing on `compute` */
};

struct lane {
    struct gpu   *gpu;
    dinov_queue  *queue;
    bool          taken;
    struct buffer in, out;                 /* pinned */
    struct buffer block, pixels, features; /* of the device; block: pictures as decoded */
    struct buffer middle;                  /* of the device: between the passes of a resize */
    struct recorded {
        struct shape shape;
        int64_t      epoch;
        dinov_graph *graph; /* NULL: seen once */
    } graphs[GRAPHS];
    int next;
};

struct dinov_remote {
    const dinov_model *model; /* of the first device's weights */
    struct gpu         gpus[DEVICES];
    char               names[1024];
    int                gpu_count, lane_count;
    struct lane        lanes[DEVICES * LANES]; /* lane i is of gpu i % gpu_count */
    pthread_mutex_t    lock;                   /* of `taken` */
    pthread_cond_t     freed;
};

/* ---- Opening ---- */

static dinov_status parse_devices(const char *text, int index[DEVICES], int *count, dinov_error *err)
{
    char        shown[64];
    const char *p = text + 4;
    *count        = 0;
    if (strcmp(text, "cuda") == 0) {
        index[(*count)++] = 0;
        return DINOV_OK;
    }
    while (strncmp(text, "cuda", 4) == 0 && *p == (*count ? ',' : ':') && p[1] >= '0' && p[1] <= '9' && *count < DEVICES) {
        int n = 0;
        for (p++; *p >= '0' && *p <= '9' && n < 1000; p++) n = 10 * n + (*p - '0');
        for (int i = 0; i < *count; i++)
            if (index[i] == n) return dinov_fail(err, DINOV_ERR_CONFIG, "OPT-DEVICE", "device: cuda:%d is named twice", n);
        index[(*count)++] = n;
        if (!*p) return DINOV_OK;
    }
    return dinov_fail(err, DINOV_ERR_CONFIG, "OPT-DEVICE",
                      "device: expected cpu, cuda, cuda:N or a list such as cuda:0,1 (at most %d), found \"%s\"", DEVICES,
                      dinov_escape(shown, sizeof shown, text, strlen(text)));
}

static dinov_status open_gpu(struct gpu *g, const dinov_weights *weights, int index, dinov_dtype real, dinov_error *err)
{
    float table[3][256];
    DINOV_TRY(dinov_device_open(&g->device, index, real, err));
    DINOV_TRY(dinov_queue_new(&g->compute, g->device, err));
    DINOV_TRY(dinov_vit_init(&g->vit, weights, dinov_device_ops(g->device), NULL, g->device, g->compute, err));
    dinov_normalise_table(table, weights->preprocess.mean, weights->preprocess.std);
    g->table = dinov_device_alloc(g->device, sizeof table);
    if (!g->table) return dinov_fail_nomem(err, dinov_device_name(g->device), "a table");
    dinov_queue_send(g->compute, g->table, table, sizeof table);
    return dinov_queue_sync(g->compute, err);
}

dinov_status dinov_remote_open(dinov_remote **out, const dinov_weights *weights, const char *devices, dinov_dtype real,
                               dinov_error *err)
{
    int          index[DEVICES], count;
    dinov_status status;

    *out = NULL;
    DINOV_TRY(parse_devices(devices, index, &count, err));
    dinov_remote *r = dinov_calloc(1, sizeof *r);
    if (!r) return dinov_fail_nomem(err, "engine", "itself");
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->freed, NULL);
    for (; r->gpu_count < count; r->gpu_count++) {
        struct gpu *g = &r->gpus[r->gpu_count];
        pthread_mutex_init(&g->lock, NULL);
        status = open_gpu(g, weights, index[r->gpu_count], real, err);
        if (status != DINOV_OK) {
            r->gpu_count++;
            goto fail;
        }
    }
    r->model = &r->gpus[0].vit.config;
    for (int i = 0; i < count; i++) {
        const char *first = dinov_remote_isa(r), *here = dinov_device_ops(r->gpus[i].device)->name;
        if (strcmp(first, here)) { /* whose bits a picture gets would be chance */
            status =
                dinov_fail(err, DINOV_ERR_CONFIG, "OPT-DEVICE", "device: expected GPUs of one kind, found %s (%s) beside %s (%s)",
                           dinov_device_name(r->gpus[i].device), here, dinov_device_name(r->gpus[0].device), first);
            goto fail;
        }
        size_t used = strlen(r->names);
        snprintf(r->names + used, sizeof r->names - used, "%s%s", i ? ", " : "", dinov_device_name(r->gpus[i].device));
    }
    for (; r->lane_count < LANES * count; r->lane_count++) {
        struct lane *lane = &r->lanes[r->lane_count];
        lane->gpu         = &r->gpus[r->lane_count % count];
        DINOV_TRY_GOTO(dinov_queue_new(&lane->queue, lane->gpu->device, err));
    }
    *out = r;
    return DINOV_OK;
fail:
    dinov_remote_close(&r);
    return status;
}

static void close_lane(struct lane *l)
{
    dinov_device *d = l->gpu->device;
    for (int i = 0; i < GRAPHS; i++) dinov_graph_free(&l->graphs[i].graph);
    dinov_queue_free(&l->queue);
    dinov_pinned_free(d, l->in.data);
    dinov_pinned_free(d, l->out.data);
    dinov_device_free(d, l->block.data);
    dinov_device_free(d, l->pixels.data);
    dinov_device_free(d, l->features.data);
    dinov_device_free(d, l->middle.data);
}

static void close_gpu(struct gpu *g)
{
    pthread_mutex_destroy(&g->lock);
    if (!g->device) return;
    dinov_queue_free(&g->compute);
    dinov_vit_clear(&g->vit);
    dinov_device_free(g->device, g->memory.data);
    dinov_device_free(g->device, g->table);
    for (int i = 0; i < g->grid_count; i++) dinov_device_free(g->device, g->grids[i].pos);
    dinov_device_close(&g->device);
}

void dinov_remote_close(dinov_remote **remote)
{
    if (!*remote) return;
    dinov_remote *r = *remote;
    *remote         = NULL;
    for (int i = 0; i < r->lane_count; i++) close_lane(&r->lanes[i]);
    for (int i = 0; i < r->gpu_count; i++) close_gpu(&r->gpus[i]);
    pthread_cond_destroy(&r->freed);
    pthread_mutex_destroy(&r->lock);
    dinov_free(r);
}

const char *dinov_remote_isa(const dinov_remote *r) { return dinov_device_ops(r->gpus[0].device)->name; }
const char *dinov_remote_names(const dinov_remote *r) { return r->names; }
int         dinov_remote_lanes(const dinov_remote *r) { return r->lane_count; }
int         dinov_remote_devices(const dinov_remote *r) { return r->gpu_count; }

int64_t dinov_remote_batch(const dinov_remote *r, int64_t tokens)
{
    (void)r;
    return tokens < BATCH_TOKENS ? BATCH_TOKENS / tokens : 1;
}

dinov_status dinov_remote_jpeg(dinov_device_jpeg **out, dinov_remote *r, int i, dinov_error *err)
{
    return dinov_device_jpeg_open(out, r->gpus[i % r->gpu_count].device, err);
}

double dinov_remote_busy(dinov_remote *r)
{
    double busy = 0;
    for (int i = 0; i < r->gpu_count; i++) {
        pthread_mutex_lock(&r->gpus[i].lock);
        busy += dinov_queue_busy(r->gpus[i].compute);
        pthread_mutex_unlock(&r->gpus[i].lock);
    }
    return busy;
}

/* ---- Memory ---- */

static dinov_status grow(struct buffer *b, dinov_device *d, bool pinned, size_t size, const char *what, dinov_error *err)
{
    if (size <= b->size) return DINOV_OK;
    (pinned ? dinov_pinned_free : dinov_device_free)(d, b->data);
    b->size = 0;
    b->data = (pinned ? dinov_pinned_alloc : dinov_device_alloc)(d, size);
    if (!b->data)
        return dinov_fail(err, DINOV_ERR_NOMEM, "MEM",
                          "%s: out of %s memory for %zu MiB of %s; a smaller batch (-b) or picture needs less",
                          dinov_device_name(d), pinned ? "pinned" : "device", size >> 20, what);
    b->size = size;
    return DINOV_OK;
}

/* The gpu's activations and positions for a shape; whoever moves either waits for what still uses them. */
static dinov_status prepare_gpu(struct gpu *g, int64_t images, int64_t h, int64_t w, const float **pos, dinov_error *err)
{
    size_t size = dinov_vit_memory(&g->vit, images, h, w, 1);
    if (size > g->memory.size) {
        DINOV_TRY(dinov_queue_sync(g->compute, err));
        g->epoch++;
        DINOV_TRY(grow(&g->memory, g->device, false, size, "activations", err));
    }
    for (int i = 0; i < g->grid_count; i++)
        if (g->grids[i].h == h && g->grids[i].w == w) {
            *pos = g->grids[i].pos;
            return DINOV_OK;
        }
    if (g->grid_count == GRIDS) {
        DINOV_TRY(dinov_queue_sync(g->compute, err));
        g->epoch++;
        while (g->grid_count) dinov_device_free(g->device, g->grids[--g->grid_count].pos);
    }
    float *made = dinov_device_alloc(g->device, (size_t)((1 + h * w) * g->vit.config.dim) * sizeof *made);
    if (!made) return dinov_fail_nomem(err, dinov_device_name(g->device), "position embeddings");
    dinov_status status = dinov_vit_pos(&g->vit, g->compute, made, h, w, err);
    if (status != DINOV_OK) {
        dinov_device_free(g->device, made);
        return status;
    }
    g->grids[g->grid_count++] = (struct grid){h, w, made};
    *pos                      = made;
    return DINOV_OK;
}

/* ---- Features: an array of float a feature, one after the other in the order of `parts_of` ---- */

struct part {
    float  *to;           /* the caller's, of the first picture of all */
    int64_t first, count; /* tokens */
    bool    mean;
};

enum { PARTS = 4 };

static int parts_of(const dinov_model *m, const dinov_features *f, int64_t patches, struct part parts[PARTS])
{
    int n = 0;
    if (f->cls) parts[n++] = (struct part){f->cls, 0, 1, false};
    if (f->reg && m->registers) parts[n++] = (struct part){f->reg, 1, m->registers, false};
    if (f->patch) parts[n++] = (struct part){f->patch, 1 + m->registers, patches, false};
    if (f->mean) parts[n++] = (struct part){f->mean, 1 + m->registers, patches, true};
    return n;
}

/* Floats of one picture. */
static int64_t part_floats(const dinov_model *m, const struct part *p) { return (p->mean ? 1 : p->count) * m->dim; }

static int64_t all_floats(const dinov_model *m, const dinov_request *q)
{
    int64_t     floats = 0;
    struct part parts[PARTS];
    for (size_t i = 0; i < q->count; i++)
        for (int n = parts_of(m, &q->features[i], q->h * q->w, parts); n-- > 0;) floats += part_floats(m, &parts[n]);
    return floats;
}

/* ---- One batch ---- */

struct batch {
    struct lane         *lane;
    const dinov_request *request;
    int64_t              first, images; /* of the request's */
    const float         *pos;
};

static void tap(void *arg, int64_t block, dinov_stream *s, const dinov_mat *x, dinov_mat *spare)
{
    const struct batch  *b      = arg;
    const dinov_request *q      = b->request;
    const dinov_vit     *vit    = &b->lane->gpu->vit;
    float               *out    = b->lane->features.data;
    dinov_stream         stream = *s;
    struct part          parts[PARTS];

    stream.scratch = spare->data;
    for (size_t i = 0; i < q->count; i++) {
        const dinov_features *f = &q->features[i];
        int                   n = parts_of(&vit->config, f, q->h * q->w, parts);
        for (int k = 0; k < n; k++) {
            if (dinov_block_of(f, vit->config.depth) == block)
                vit->ops->features(&stream, out, x, b->images, parts[k].first, parts[k].count, parts[k].mean,
                                   f->no_norm ? NULL : vit->norm_weight, vit->norm_bias, vit->config.ln_eps);
            out += b->images * part_floats(&vit->config, &parts[k]);
        }
    }
}

static void forward(void *arg)
{
    const struct batch  *b = arg;
    const dinov_request *q = b->request;
    struct gpu          *g = b->lane->gpu;
    dinov_vit_forward(&g->vit, &(dinov_stream){.queue = g->compute}, g->memory.data, b->lane->pixels.data, b->pos, b->images, q->h,
                      q->w, q->last, tap, arg);
}

/* The place of this batch's shape among those the lane knows; it may be new. NULL: too many features to keep. */
static struct recorded *recall(struct lane *l, const struct batch *b)
{
    const dinov_request *q     = b->request;
    struct shape         shape = {b->images, q->h, q->w, q->last, (int64_t)q->count, {{0}}};
    if (q->count > SPECS) return NULL;
    for (size_t i = 0; i < q->count; i++) {
        const dinov_features *f = &q->features[i];
        shape.specs[i]          = (struct spec){dinov_block_of(f, l->gpu->vit.config.depth),
                                                f->no_norm != 0,
                                                f->cls != NULL,
                                                f->mean != NULL,
                                                f->reg != NULL,
                                                f->patch != NULL};
    }
    for (int i = 0; i < GRAPHS; i++)
        if (l->graphs[i].epoch == l->gpu->epoch && memcmp(&l->graphs[i].shape, &shape, sizeof shape) == 0) return &l->graphs[i];
    struct recorded *r = &l->graphs[l->next];
    l->next            = (l->next + 1) % GRAPHS;
    dinov_graph_free(&r->graph);
    *r = (struct recorded){shape, l->gpu->epoch - 1, NULL}; /* the next call's first sight of it is this one */
    return r;
}

/* The first time a shape runs as it is issued, the second it is recorded, then replayed. */
static dinov_status compute(struct batch *b, dinov_error *err)
{
    struct lane     *l = b->lane;
    struct gpu      *g = l->gpu;
    struct recorded *r = recall(l, b);
    if (!r || r->epoch != g->epoch) {
        if (r) r->epoch = g->epoch;
        forward(b);
        return DINOV_OK;
    }
    if (!r->graph) DINOV_TRY(dinov_queue_record(&r->graph, g->compute, forward, b, err));
    dinov_queue_replay(g->compute, r->graph);
    return DINOV_OK;
}

/* Room for the batch; moving the lane's memory voids what it recorded. */
static dinov_status prepare_lane(const struct batch *b, const dinov_block *block, size_t pixels, size_t features, dinov_error *err)
{
    struct lane  *l = b->lane;
    dinov_device *d = l->gpu->device;
    if (pixels > l->pixels.size || features > l->features.size)
        for (int i = 0; i < GRAPHS; i++) {
            dinov_graph_free(&l->graphs[i].graph);
            l->graphs[i] = (struct recorded){.epoch = -1};
        }
    DINOV_TRY(grow(&l->pixels, d, false, pixels, "pixels", err));
    DINOV_TRY(grow(&l->features, d, false, features, "features", err));
    DINOV_TRY(grow(&l->out, d, true, features, "features", err));
    DINOV_TRY(grow(&l->in, d, true, block ? block->size : pixels, "pixels", err));
    if (!block) return DINOV_OK;
    DINOV_TRY(grow(&l->block, d, false, block->size, "decoded pictures", err));
    return grow(&l->middle, d, false, block->middle, "half resized pictures", err);
}

static dinov_status issue(struct batch *b, const dinov_block *block, dinov_error *err)
{
    struct lane         *l      = b->lane;
    struct gpu          *g      = l->gpu;
    const dinov_request *q      = b->request;
    int64_t              patch  = g->vit.config.patch;
    dinov_stream         stream = {.queue = g->compute, .scratch = l->middle.data};

    DINOV_TRY(prepare_gpu(g, b->images, q->h, q->w, &b->pos, err));
    dinov_queue_after(g->compute, l->queue);
    dinov_queue_begin(g->compute);
    if (block)
        g->vit.ops->pictures(&stream, l->pixels.data, l->block.data, l->block.data, b->images, q->w * patch, q->h * patch,
                             block->widest, block->highest, g->table);
    dinov_status status = compute(b, err);
    dinov_queue_end(g->compute);
    dinov_queue_after(l->queue, g->compute);
    return status;
}

/* From the lane's pinned memory to the caller's. */
static dinov_status deliver(const struct batch *b, dinov_error *err)
{
    const dinov_request *q   = b->request;
    const dinov_model   *m   = &b->lane->gpu->vit.config;
    const float         *out = b->lane->out.data;
    struct part          parts[PARTS];
    for (size_t i = 0; i < q->count; i++) {
        int n = parts_of(m, &q->features[i], q->h * q->w, parts);
        for (int k = 0; k < n; k++) {
            int64_t  floats = part_floats(m, &parts[k]), all = b->images * floats;
            uint32_t bad = 0;
            for (int64_t j = 0; j < all; j++) {
                uint32_t bits;
                memcpy(&bits, out + j, sizeof bits);
                bad |= (bits & 0x7f800000u) == 0x7f800000u;
            }
            if (bad)
                return dinov_fail(err, DINOV_ERR_LIMIT, "DEV-RANGE",
                                  "%s: a feature of block %lld is not a finite number in %s; f16 is too small for some models: use "
                                  "--compute bf16 or f32",
                                  dinov_device_name(b->lane->gpu->device), (long long)dinov_block_of(&q->features[i], m->depth),
                                  b->lane->gpu->vit.ops->name);
            memcpy(parts[k].to + b->first * floats, out, (size_t)all * sizeof *out);
            out += all;
        }
    }
    return DINOV_OK;
}

static dinov_status run_batch(struct batch *b, dinov_error *err)
{
    struct lane         *l        = b->lane;
    struct gpu          *g        = l->gpu;
    const dinov_request *q        = b->request;
    const dinov_model   *m        = &g->vit.config;
    int64_t              image    = m->channels * q->h * q->w * m->patch * m->patch;
    size_t               pixels   = (size_t)(b->images * image) * sizeof(float);
    size_t               features = (size_t)(b->images * all_floats(m, q)) * sizeof(float);
    const dinov_decoded *pictures = q->pictures ? q->pictures + b->first : NULL;
    dinov_block          block    = pictures ? dinov_block_measure(pictures, b->images) : (dinov_block){0};
    dinov_block         *decoded  = pictures ? &block : NULL;

    DINOV_TRY(prepare_lane(b, decoded, pixels, features, err));
    if (decoded) {
        dinov_block_fill(l->in.data, pictures, b->images);
        dinov_queue_upload(l->queue, l->block.data, l->in.data, block.size);
    } else {
        memcpy(l->in.data, q->pixels + b->first * image, pixels);
        dinov_queue_upload(l->queue, l->pixels.data, l->in.data, pixels);
    }
    pthread_mutex_lock(&g->lock);
    dinov_status status = issue(b, decoded, err);
    pthread_mutex_unlock(&g->lock);
    if (status == DINOV_OK) dinov_queue_download(l->queue, l->out.data, l->features.data, features);
    /* Also after a failure: what was issued uses the lane's memory. */
    dinov_status synced = dinov_queue_sync(l->queue, status == DINOV_OK ? err : NULL);
    DINOV_TRY(status);
    DINOV_TRY(synced);
    return deliver(b, err);
}

static struct lane *take_lane(dinov_remote *r)
{
    struct lane *taken = NULL;
    pthread_mutex_lock(&r->lock);
    while (!taken) {
        for (int i = 0; i < r->lane_count && !taken; i++)
            if (!r->lanes[i].taken) taken = &r->lanes[i];
        if (!taken) pthread_cond_wait(&r->freed, &r->lock);
    }
    taken->taken = true;
    pthread_mutex_unlock(&r->lock);
    return taken;
}

static void give_lane(dinov_remote *r, struct lane *lane)
{
    pthread_mutex_lock(&r->lock);
    lane->taken = false;
    pthread_cond_signal(&r->freed);
    pthread_mutex_unlock(&r->lock);
}

dinov_status dinov_remote_run(dinov_remote *r, const dinov_request *q, dinov_error *err)
{
    int64_t      tokens = 1 + r->model->registers + q->h * q->w, most = tokens < MOST_TOKENS ? MOST_TOKENS / tokens : 1;
    struct lane *lane   = take_lane(r);
    dinov_status status = DINOV_OK;
    for (int64_t first = 0; first < q->images && status == DINOV_OK; first += most) {
        struct batch b = {lane, q, first, q->images - first < most ? q->images - first : most, NULL};
        status         = run_batch(&b, err);
    }
    give_lane(r, lane);
    return status;
}
