/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/cudnn.h"

#include "base/alloc.h"
#include "kernels/cuda/library.h"
#include "kernels/cuda/products.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

struct functions {
    int (*create)(void **handle);
    int (*destroy)(void *handle);
    int (*set_stream)(void *handle, void *stream);
    size_t (*version)(void);
    void (*last_error)(char *text, size_t size);
    int (*descriptor_create)(int kind, void **descriptor);
    int (*descriptor_destroy)(void *descriptor);
    int (*finalize)(void *descriptor);
    int (*set)(void *descriptor, int attribute, int type, int64_t count, const void *values);
    int (*get)(void *descriptor, int attribute, int type, int64_t most, int64_t *count, void *values);
    int (*execute)(void *handle, void *plan, void *pack);
};

static const char *const symbols[] = {
    "cudnnCreate",
    "cudnnDestroy",
    "cudnnSetStream",
    "cudnnGetVersion",
    "cudnnGetLastErrorString",
    "cudnnBackendCreateDescriptor",
    "cudnnBackendDestroyDescriptor",
    "cudnnBackendFinalize",
    "cudnnBackendSetAttribute",
    "cudnnBackendGetAttribute",
    "cudnnBackendExecute",
};
enum { SYMBOLS = sizeof symbols / sizeof *symbols };
_Static_assert(sizeof(struct functions) == SYMBOLS * sizeof(void *), "a name for each function");

enum {
    OLDEST   = 91600, /* what came before wants lengths in multiples of 128 */
    HEAD_DIM = 64,
    KNOBS    = 48,  /* settings of an engine, at most */
    OWNED    = 128, /* descriptors of a plan, at most */
    CONFIGS  = 8,   /* of the heuristic's, tried */
};

static const int64_t canonical_images = 64, every_images[] = {1, 64, 1024};

/* Tensors: columns of qkv, out, and the factor of the scores. */
enum { Q = 1, K, V, O, SCALE, TENSORS = SCALE };

/* An engine and its settings. */
struct engine {
    int64_t index;
    int64_t knobs, value[KNOBS];
    int     type[KNOBS];
};

/* What the choice of an engine depends on. */
struct shape {
    int64_t heads, tokens, qkv_ld, out_ld;
};

struct chosen {
    struct chosen *next;
    struct shape   shape;
    bool           possible;
    struct engine  engine;
    char           why[400]; /* it is not */
};

struct plan {
    struct plan *next;
    struct shape shape;
    int64_t      images;
    void        *plan;
    int64_t      workspace;
    void        *owned[OWNED];
    int          count;
};

struct dinov_cudnn {
    pthread_mutex_t  lock;                      /* over all below, and while a plan is executed */
    void            *library, *handle, *device; /* a handle, or the description of a device */
    struct functions f;
    dinov_dtype      real;
    int64_t          from;
    struct chosen   *choices;
    struct plan     *plans;
    char             name[32];
};

/* ---- The library ---- */

static dinov_cudnn *unconnected(dinov_dtype real)
{
    dinov_cudnn *c = dinov_calloc(1, sizeof *c);
    if (!c) return NULL;
    pthread_mutex_init(&c->lock, NULL);
    c->real = real;
    c->from = INT64_MAX;
    snprintf(c->name, sizeof c->name, "none");
    return c;
}

static void connect(dinov_cudnn *c, const char *library)
{
    const char *const names[] = {library, NULL};
    void             *found[SYMBOLS];
    if (c->library || c->real == DINOV_F32) return;
    c->library = dinov_library_open(names, symbols, found, SYMBOLS);
    if (!c->library) return;
    memcpy(&c->f, found, sizeof found);
    if (c->f.version() >= OLDEST) {
        snprintf(c->name, sizeof c->name, "cudnn-%zu", c->f.version());
        return;
    }
    dinov_library_close(c->library);
    c->library = NULL;
}

/* A handle takes memory of the device and time, so it is made when attention may be cuDNN's. */
static void begin(dinov_cudnn *c, int64_t from)
{
    c->from = from;
    if (from == INT64_MAX || c->handle || c->device) return;
    connect(c, "libcudnn.so.9");
    if (!c->library || c->f.create(&c->handle) == DNN_SUCCESS) return;
    c->handle = NULL;
    snprintf(c->name, sizeof c->name, "none");
}

dinov_status dinov_cudnn_open(dinov_cudnn **out, int sm, dinov_dtype real, dinov_error *err)
{
    dinov_cudnn *c = *out = unconnected(real);
    if (!c) return dinov_fail_nomem(err, "cuda", "the plans of attention");
    begin(c, dinov_products_attention_from(sm, real));
    return DINOV_OK;
}

static void forget(dinov_cudnn *c, struct plan *p)
{
    while (p->count) c->f.descriptor_destroy(p->owned[--p->count]);
}

void dinov_cudnn_close(dinov_cudnn **cudnn)
{
    dinov_cudnn *c = *cudnn;
    if (!c) return;
    for (struct plan *p = c->plans, *next; p; p = next) {
        next = p->next;
        forget(c, p);
        dinov_free(p);
    }
    for (struct chosen *o = c->choices, *next; o; o = next) {
        next = o->next;
        dinov_free(o);
    }
    if (c->device) c->f.descriptor_destroy(c->device);
    if (c->handle) c->f.destroy(c->handle);
    dinov_library_close(c->library);
    pthread_mutex_destroy(&c->lock);
    dinov_free(c);
    *cudnn = NULL;
}

const char *dinov_cudnn_name(const dinov_cudnn *c) { return c->name; }

void dinov_cudnn_from(dinov_cudnn *c, int64_t tokens)
{
    pthread_mutex_lock(&c->lock);
    begin(c, tokens);
    pthread_mutex_unlock(&c->lock);
}

/* ---- Descriptors: steps that are skipped once one has failed; `what` then names it. ---- */

struct steps {
    dinov_cudnn *c;
    struct plan *p; /* owns what is made */
    const char  *what;
    int          status;
};

static void judge(struct steps *s, int status, const char *what)
{
    if (!status || s->what) return;
    s->what   = what;
    s->status = status;
}

static void *create(struct steps *s, int kind, const char *what)
{
    void *descriptor = NULL;
    if (s->what) return NULL;
    if (s->p->count == OWNED) {
        judge(s, -1, what);
        return NULL;
    }
    judge(s, s->c->f.descriptor_create(kind, &descriptor), what);
    if (s->what) return NULL;
    return s->p->owned[s->p->count++] = descriptor;
}

static void set(struct steps *s, void *descriptor, int attribute, int type, int64_t count, const void *values, const char *what)
{
    if (!s->what) judge(s, s->c->f.set(descriptor, attribute, type, count, values), what);
}

static int64_t get(struct steps *s, void *descriptor, int attribute, int type, int64_t most, void *values, const char *what)
{
    int64_t count = 0;
    if (!s->what) judge(s, s->c->f.get(descriptor, attribute, type, most, &count, values), what);
    return s->what ? 0 : count;
}

static void finalize(struct steps *s, void *descriptor, const char *what)
{
    if (!s->what) judge(s, s->c->f.finalize(descriptor), what);
}

dinov_status dinov_cudnn_open_described(dinov_cudnn **out, const char *library, const char *description, dinov_dtype real,
                                        dinov_error *err)
{
    struct plan  first = {0};
    dinov_cudnn *c = *out = unconnected(real);
    if (!c) return dinov_fail_nomem(err, library, "the plans of attention");
    connect(c, library);
    if (!c->library) {
        dinov_cudnn_close(out);
        return dinov_fail(err, DINOV_ERR_UNSUPPORTED, "DEV-CUDNN", "%s: expected the library of cuDNN %d.%d or newer", library,
                          OLDEST / 10000, OLDEST / 100 % 100);
    }
    struct steps s = {.c = c, .p = &first};
    c->device      = create(&s, DNN_DEVICEPROP, "a device");
    set(&s, c->device, DNN_DEVICEPROP_JSON, DNN_TYPE_CHAR, (int64_t)strlen(description) + 1, description, "its description");
    finalize(&s, c->device, "a device");
    if (!s.what) return DINOV_OK;
    char words[300] = "";
    c->f.last_error(words, sizeof words);
    dinov_cudnn_close(out);
    return dinov_fail(err, DINOV_ERR_UNSUPPORTED, "DEV-CUDNN", "%s: %s: status %d: %s", library, s.what, s.status, words);
}

/* ---- Plans ---- */

static void *tensor(struct steps *s, int64_t id, int type, const int64_t dim[4], const int64_t stride[4], bool by_value)
{
    int64_t alignment = by_value ? 4 : 16;
    void   *t         = create(s, DNN_TENSOR, "a tensor");
    set(s, t, DNN_TENSOR_DATA_TYPE, DNN_TYPE_DATA_TYPE, 1, &type, "a tensor's type");
    set(s, t, DNN_TENSOR_DIMENSIONS, DNN_TYPE_INT64, 4, dim, "a tensor's size");
    set(s, t, DNN_TENSOR_STRIDES, DNN_TYPE_INT64, 4, stride, "a tensor's strides");
    set(s, t, DNN_TENSOR_UNIQUE_ID, DNN_TYPE_INT64, 1, &id, "a tensor's number");
    set(s, t, DNN_TENSOR_BYTE_ALIGNMENT, DNN_TYPE_INT64, 1, &alignment, "a tensor's alignment");
    if (by_value) set(s, t, DNN_TENSOR_IS_BY_VALUE, DNN_TYPE_BOOLEAN, 1, &by_value, "a number's place");
    finalize(s, t, "a tensor");
    return t;
}

/* softmax(scale Q K^T) V over (image, head, token, HEAD_DIM), in place in the packed columns of qkv. */
static void *graph(struct steps *s, const struct shape *h, int64_t images)
{
    int           type    = s->c->real == DINOV_BF16 ? DNN_DATA_BFLOAT16 : DNN_DATA_HALF;
    const int64_t dim[4]  = {images, h->heads, h->tokens, HEAD_DIM};
    const int64_t in[4]   = {h->tokens * h->qkv_ld, HEAD_DIM, h->qkv_ld, 1};
    const int64_t out[4]  = {h->tokens * h->out_ld, HEAD_DIM, h->out_ld, 1};
    const int64_t ones[4] = {1, 1, 1, 1};
    void         *q       = tensor(s, Q, type, dim, in, false);
    void         *k       = tensor(s, K, type, dim, in, false);
    void         *v       = tensor(s, V, type, dim, in, false);
    void         *o       = tensor(s, O, type, dim, out, false);
    void         *scale   = tensor(s, SCALE, DNN_DATA_FLOAT, ones, ones, true);
    void         *op      = create(s, DNN_SDPA_FWD, "attention");
    set(s, op, DNN_SDPA_FWD_Q, DNN_TYPE_DESCRIPTOR, 1, &q, "attention's Q");
    set(s, op, DNN_SDPA_FWD_K, DNN_TYPE_DESCRIPTOR, 1, &k, "attention's K");
    set(s, op, DNN_SDPA_FWD_V, DNN_TYPE_DESCRIPTOR, 1, &v, "attention's V");
    set(s, op, DNN_SDPA_FWD_O, DNN_TYPE_DESCRIPTOR, 1, &o, "attention's O");
    set(s, op, DNN_SDPA_FWD_SCALE, DNN_TYPE_DESCRIPTOR, 1, &scale, "attention's scale");
    finalize(s, op, "attention");
    void *g = create(s, DNN_OPERATIONGRAPH, "a graph");
    if (s->c->handle) set(s, g, DNN_OPERATIONGRAPH_HANDLE, DNN_TYPE_HANDLE, 1, &s->c->handle, "a graph's handle");
    set(s, g, DNN_OPERATIONGRAPH_OPS, DNN_TYPE_DESCRIPTOR, 1, &op, "a graph's operation");
    finalize(s, g, "a graph");
    return g;
}

/* The engines that the heuristic names for a graph, best guess first. */
static int engines(struct steps *s, void *g, struct engine out[CONFIGS])
{
    int   mode = DNN_HEUR_MODE_A;
    void *heur = create(s, DNN_ENGINEHEUR, "the heuristic"), *configs[CONFIGS], *engine, *knobs[KNOBS];
    set(s, heur, DNN_ENGINEHEUR_OPERATION_GRAPH, DNN_TYPE_DESCRIPTOR, 1, &g, "the heuristic's graph");
    set(s, heur, DNN_ENGINEHEUR_MODE, DNN_TYPE_HEUR_MODE, 1, &mode, "the heuristic's mode");
    if (s->c->device) set(s, heur, DNN_ENGINEHEUR_DEVICEPROP, DNN_TYPE_DESCRIPTOR, 1, &s->c->device, "the heuristic's device");
    finalize(s, heur, "the heuristic");
    for (int i = 0; i < CONFIGS; i++) configs[i] = create(s, DNN_ENGINECFG, "a configuration");
    for (int i = 0; i < KNOBS; i++) knobs[i] = create(s, DNN_KNOB_CHOICE, "a setting");
    engine        = create(s, DNN_ENGINE, "an engine");
    int64_t count = get(s, heur, DNN_ENGINEHEUR_RESULTS, DNN_TYPE_DESCRIPTOR, CONFIGS, configs, "the heuristic's answer");
    if (count > CONFIGS) count = CONFIGS;
    for (int i = 0; i < count; i++) {
        get(s, configs[i], DNN_ENGINECFG_ENGINE, DNN_TYPE_DESCRIPTOR, 1, &engine, "an engine");
        get(s, engine, DNN_ENGINE_GLOBAL_INDEX, DNN_TYPE_INT64, 1, &out[i].index, "an engine's number");
        out[i].knobs = get(s, configs[i], DNN_ENGINECFG_KNOB_CHOICES, DNN_TYPE_DESCRIPTOR, KNOBS, knobs, "an engine's settings");
        if (out[i].knobs > KNOBS) judge(s, -1, "the number of an engine's settings");
        for (int64_t j = 0; !s->what && j < out[i].knobs; j++) {
            get(s, knobs[j], DNN_KNOB_CHOICE_TYPE, DNN_TYPE_KNOB_TYPE, 1, &out[i].type[j], "a setting");
            get(s, knobs[j], DNN_KNOB_CHOICE_VALUE, DNN_TYPE_INT64, 1, &out[i].value[j], "a setting's value");
        }
    }
    return s->what ? 0 : (int)count;
}

/* That engine with these settings for `images`, nothing left to a heuristic; finalizing it is what the library's check of
 * support comes with. */
static void *configure(struct steps *s, const struct shape *shape, int64_t images, const struct engine *e)
{
    void *g      = graph(s, shape, images), *knobs[KNOBS];
    void *engine = create(s, DNN_ENGINE, "an engine");
    set(s, engine, DNN_ENGINE_OPERATION_GRAPH, DNN_TYPE_DESCRIPTOR, 1, &g, "an engine's graph");
    set(s, engine, DNN_ENGINE_GLOBAL_INDEX, DNN_TYPE_INT64, 1, &e->index, "an engine's number");
    if (s->c->device) set(s, engine, DNN_ENGINE_DEVICEPROP, DNN_TYPE_DESCRIPTOR, 1, &s->c->device, "an engine's device");
    finalize(s, engine, "an engine");
    for (int64_t i = 0; i < e->knobs; i++) {
        knobs[i] = create(s, DNN_KNOB_CHOICE, "a setting");
        set(s, knobs[i], DNN_KNOB_CHOICE_TYPE, DNN_TYPE_KNOB_TYPE, 1, &e->type[i], "a setting");
        set(s, knobs[i], DNN_KNOB_CHOICE_VALUE, DNN_TYPE_INT64, 1, &e->value[i], "a setting's value");
        finalize(s, knobs[i], "a setting");
    }
    void *config = create(s, DNN_ENGINECFG, "a configuration");
    set(s, config, DNN_ENGINECFG_ENGINE, DNN_TYPE_DESCRIPTOR, 1, &engine, "a configuration's engine");
    if (e->knobs) set(s, config, DNN_ENGINECFG_KNOB_CHOICES, DNN_TYPE_DESCRIPTOR, e->knobs, knobs, "a configuration's settings");
    finalize(s, config, "a configuration");
    get(s, config, DNN_ENGINECFG_WORKSPACE_SIZE, DNN_TYPE_INT64, 1, &s->p->workspace, "a configuration's workspace");
    if (!s->what && s->p->workspace > DINOV_CUDNN_SCRATCH) judge(s, -1, "the size of a configuration's workspace");
    return config;
}

/* The same as a plan, whose kernel is compiled now. */
static void compile(struct steps *s, const struct shape *shape, int64_t images, const struct engine *e)
{
    void *config = configure(s, shape, images, e), *plan = create(s, DNN_PLAN, "a plan");
    if (s->c->handle) set(s, plan, DNN_PLAN_HANDLE, DNN_TYPE_HANDLE, 1, &s->c->handle, "a plan's handle");
    set(s, plan, DNN_PLAN_ENGINE_CONFIG, DNN_TYPE_DESCRIPTOR, 1, &config, "a plan's configuration");
    if (s->c->device) set(s, plan, DNN_PLAN_DEVICEPROP, DNN_TYPE_DESCRIPTOR, 1, &s->c->device, "a plan's device");
    finalize(s, plan, "a plan");
    get(s, plan, DNN_PLAN_WORKSPACE_SIZE, DNN_TYPE_INT64, 1, &s->p->workspace, "a plan's workspace");
    if (!s->what && s->p->workspace > DINOV_CUDNN_SCRATCH) judge(s, -1, "the size of a plan's workspace");
    s->p->plan = plan;
}

static void say(const struct steps *s, char *why, size_t size)
{
    char words[300] = "";
    if (s->status != -1) s->c->f.last_error(words, sizeof words);
    snprintf(why, size, "%s: status %d: %s", s->what, s->status, words);
}

static bool fits(dinov_cudnn *c, const struct shape *shape, const struct engine *e, char *why, size_t size)
{
    for (size_t i = 0; i < sizeof every_images / sizeof *every_images; i++) {
        struct plan  p = {0};
        struct steps s = {.c = c, .p = &p};
        configure(&s, shape, every_images[i], e);
        if (s.what) say(&s, why, size);
        forget(c, &p);
        if (s.what) return false;
    }
    return true;
}

static bool same_shape(const struct shape *a, const struct shape *b)
{
    return a->heads == b->heads && a->tokens == b->tokens && a->qkv_ld == b->qkv_ld && a->out_ld == b->out_ld;
}

/* The engine for a shape, for any number of images. NULL: there is no memory. */
static const struct chosen *choose(dinov_cudnn *c, const struct shape *shape)
{
    for (struct chosen *o = c->choices; o; o = o->next)
        if (same_shape(&o->shape, shape)) return o;
    struct chosen *o = dinov_calloc(1, sizeof *o);
    struct engine *e = dinov_calloc(CONFIGS, sizeof *e);
    if (!o || !e) {
        dinov_free(o), dinov_free(e);
        return NULL;
    }
    o->shape           = *shape;
    struct plan  p     = {0};
    struct steps s     = {.c = c, .p = &p};
    int          count = engines(&s, graph(&s, shape, canonical_images), e);
    snprintf(o->why, sizeof o->why, "the heuristic names no engine");
    if (s.what) say(&s, o->why, sizeof o->why);
    forget(c, &p);
    for (int i = 0; i < count && !o->possible; i++) {
        o->possible = fits(c, shape, &e[i], o->why, sizeof o->why);
        o->engine   = e[i];
    }
    dinov_free(e);
    o->next    = c->choices;
    c->choices = o;
    return o;
}

/* NULL, `why` is filled; `never`: for no number of images. */
static struct plan *prepare(dinov_cudnn *c, const struct shape *shape, int64_t images, bool *never, char *why, size_t size)
{
    *never = false;
    for (struct plan *p = c->plans; p; p = p->next)
        if (p->images == images && same_shape(&p->shape, shape)) return p;
    const struct chosen *o = choose(c, shape);
    struct plan         *p = o && o->possible ? dinov_calloc(1, sizeof *p) : NULL;
    *never                 = o && !o->possible;
    if (!p) {
        snprintf(why, size, "%s", *never ? o->why : "out of memory");
        return NULL;
    }
    struct steps s = {.c = c, .p = p};
    p->shape       = *shape;
    p->images      = images;
    compile(&s, shape, images, &o->engine);
    if (s.what) {
        say(&s, why, size);
        forget(c, p);
        dinov_free(p);
        return NULL;
    }
    p->next  = c->plans;
    c->plans = p;
    return p;
}

dinov_status dinov_cudnn_plan(dinov_cudnn *c, int64_t images, int64_t heads, int64_t tokens, int64_t qkv_ld, int64_t out_ld,
                              dinov_error *err)
{
    char         why[400];
    bool         never;
    struct shape shape = {heads, tokens, qkv_ld, out_ld};
    pthread_mutex_lock(&c->lock);
    struct plan *p = prepare(c, &shape, images, &never, why, sizeof why);
    pthread_mutex_unlock(&c->lock);
    if (p) return DINOV_OK;
    return dinov_fail(err, DINOV_ERR_UNSUPPORTED, "DEV-CUDNN",
                      "attention of %lld images, %lld heads, %lld tokens: %s refuses it: %s", (long long)images, (long long)heads,
                      (long long)tokens, c->name, why);
}

/* ---- Running ---- */

static int execute(dinov_cudnn *c, struct plan *plan, dinov_stream *stream, dinov_mat *out, const dinov_mat *qkv)
{
    struct plan  own   = {0};
    struct steps s     = {.c = c, .p = &own};
    float        scale = 0.125f; /* 1 / sqrt(HEAD_DIM) */
    int64_t      dim = plan->shape.heads * HEAD_DIM, ids[TENSORS] = {Q, K, V, O, SCALE};
    uint16_t    *q             = qkv->data;
    void        *data[TENSORS] = {q, q + dim, q + 2 * dim, out->data, &scale};
    void        *pack          = create(&s, DNN_VARIANT_PACK, "a pack");
    set(&s, pack, DNN_VARIANT_PACK_UNIQUE_IDS, DNN_TYPE_INT64, TENSORS, ids, "a pack's numbers");
    set(&s, pack, DNN_VARIANT_PACK_DATA_POINTERS, DNN_TYPE_VOID_PTR, TENSORS, data, "a pack's tensors");
    set(&s, pack, DNN_VARIANT_PACK_WORKSPACE, DNN_TYPE_VOID_PTR, 1, &stream->scratch, "a pack's workspace");
    finalize(&s, pack, "a pack");
    if (!s.what) judge(&s, c->f.set_stream(c->handle, dinov_queue_stream(stream->queue)), "a stream");
    if (!s.what) judge(&s, c->f.execute(c->handle, plan->plan, pack), "an execution");
    forget(c, &own);
    return s.status;
}

bool dinov_cudnn_attention(dinov_cudnn *c, dinov_stream *s, dinov_mat *out, const dinov_mat *qkv, int64_t images, int64_t heads)
{
    enum { LAUNCH_FAILURE = 719 }; /* a cudaError_t */
    if (images == 0 || out->cols != heads * HEAD_DIM) return false;
    if ((uintptr_t)qkv->data % 16 || (uintptr_t)out->data % 16 || qkv->ld % 8 || out->ld % 8) return false;

    struct shape shape = {heads, qkv->rows / images, qkv->ld, out->ld};
    char         why[400];
    bool         never = true;
    const char  *what  = NULL;
    pthread_mutex_lock(&c->lock);
    if (c->handle && shape.tokens >= c->from) {
        struct plan *plan = prepare(c, &shape, images, &never, why, sizeof why);
        if (plan) {
            if (execute(c, plan, s, out, qkv)) what = "attention by cuDNN";
        } else if (!never) {
            what = "a plan of cuDNN for attention, which it has for other numbers of images";
        }
    }
    pthread_mutex_unlock(&c->lock);
    if (what) dinov_queue_failed(s->queue, LAUNCH_FAILURE, what);
    return !never;
}
