/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/products.h"

#include "base/alloc.h"
#include "kernels/cuda/products_table.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>

struct choice {
    struct choice    *next;
    dinov_product_row row;
    dinov_lt_product *product; /* NULL: our own kernel */
};

struct dinov_products {
    pthread_mutex_t lock; /* over all below, and while a product is issued */
    int             sm;
    dinov_dtype     real;
    dinov_cublaslt *lt; /* NULL: not there */
    struct choice  *choices;
    char            name[32];
};

dinov_status dinov_products_open(dinov_products **out, int sm, dinov_dtype real, dinov_error *err)
{
    dinov_products *p = *out = dinov_calloc(1, sizeof *p);
    if (!p) return dinov_fail_nomem(err, "cuda", "the products");
    pthread_mutex_init(&p->lock, NULL);
    p->sm   = sm;
    p->real = real;
    p->lt   = dinov_cublaslt_open(NULL, real);
    if (p->lt)
        snprintf(p->name, sizeof p->name, "cublaslt-%zu", dinov_cublaslt_version(p->lt));
    else
        snprintf(p->name, sizeof p->name, "own");
    return DINOV_OK;
}

void dinov_products_close(dinov_products **products)
{
    dinov_products *p = *products;
    if (!p) return;
    for (struct choice *c = p->choices, *next; c; c = next) {
        next = c->next;
        dinov_lt_product_free(p->lt, &c->product);
        dinov_free(c);
    }
    dinov_cublaslt_close(&p->lt);
    pthread_mutex_destroy(&p->lock);
    dinov_free(p);
    *products = NULL;
}

const char *dinov_products_name(const dinov_products *p) { return p->name; }

void dinov_products_bias_copy(dinov_stream *s, float *packed, int64_t n)
{
    if (dinov_queue_real(s->queue) != DINOV_F32) /* a weight of one row */
        dinov_cuda_pack(s, packed + dinov_cuda_stride(n), packed, 1, n, DINOV_ACT_NONE, 0, 1);
}

static bool same_layer(const dinov_product_row *a, const dinov_product_row *b)
{
    return a->sm == b->sm && a->real == b->real && a->n == b->n && a->k == b->k && a->act == b->act && a->residual == b->residual;
}

/* Tries the row's provider; NULL in *product is our own kernel. */
static bool make(dinov_products *p, const dinov_product_row *row, dinov_lt_product **product)
{
    *product = NULL;
    if (row->provider == DINOV_PRODUCT_OWN) return true;
    if (p->lt) *product = dinov_lt_product_new(p->lt, row->n, row->k, row->residual, &row->config);
    return *product;
}

static struct choice *find(dinov_products *p, const dinov_product_row *layer)
{
    struct choice *c = p->choices;
    while (c && !same_layer(&c->row, layer)) c = c->next;
    return c;
}

/* The choice for a layer, made if there is none. NULL: no memory for it, which our own kernel needs none of. */
static struct choice *choose(dinov_products *p, const dinov_product_row *layer)
{
    struct choice *c = find(p, layer);
    if (c) return c;
    c = dinov_calloc(1, sizeof *c);
    if (!c) return NULL;
    const dinov_product_row *row = product_rows;
    while (row->sm && !same_layer(row, layer)) row++;
    c->row = *layer;
    if (row->sm && make(p, row, &c->product))
        c->row = *row;
    else if (p->lt)
        c->product = dinov_lt_product_new(p->lt, layer->n, layer->k, layer->residual, NULL);
    c->row.provider = c->product ? DINOV_PRODUCT_CUBLASLT : DINOV_PRODUCT_OWN;
    c->next         = p->choices;
    p->choices      = c;
    return c;
}

void dinov_products_prepare(dinov_products *p, int64_t n, int64_t k, dinov_activation act)
{
    pthread_mutex_lock(&p->lock);
    for (int residual = 0; residual <= (act == DINOV_ACT_NONE); residual++)
        choose(p, &(dinov_product_row){.sm = p->sm, .real = p->real, .n = n, .k = k, .act = act, .residual = residual});
    pthread_mutex_unlock(&p->lock);
}

static bool aligned(const void *data, int64_t ld, size_t size) { return (uintptr_t)data % 16 == 0 && (size_t)ld * size % 16 == 0; }

/* A cudaError_t and a sentence for a status. */
static void failed(dinov_stream *s, int status)
{
    enum { OUT_OF_MEMORY = 2, LAUNCH_FAILURE = 719 };
    switch (status) {
    case LT_ALLOC_FAILED:
        dinov_queue_failed(s->queue, OUT_OF_MEMORY, "a product by cuBLASLt");
        break;
    case LT_NOT_SUPPORTED:
        dinov_queue_failed(s->queue, LAUNCH_FAILURE, "a product that cuBLASLt promised and then refused");
        break;
    case LT_INVALID_VALUE:
        dinov_queue_failed(s->queue, LAUNCH_FAILURE, "a product that cuBLASLt finds invalid");
        break;
    default:
        dinov_queue_failed(s->queue, LAUNCH_FAILURE, "a product by cuBLASLt");
        break;
    }
}

bool dinov_products_run(dinov_products *p, dinov_stream *s, dinov_mat *y, const dinov_mat *x, const dinov_linear *w,
                        const dinov_mat *residual)
{
    size_t size = p->real == DINOV_F32 ? 4 : 2;
    if (!p->lt || (residual && w->act != DINOV_ACT_NONE)) return false;
    /* Not by row: strides are whole units, so one row is aligned as the others are. */
    if (!aligned(x->data, x->ld, size) || !aligned(y->data, y->ld, residual ? 4 : size) || !aligned(w->packed, 0, size) ||
        !aligned(w->bias, 0, size) || (residual && !aligned(residual->data, residual->ld, 4)))
        return false;

    dinov_product_row layer = {.sm = p->sm, .real = p->real, .n = w->n, .k = w->k, .act = w->act, .residual = residual != NULL};
    const float      *bias  = w->bias;
    if (size == 2 && !residual) bias += dinov_cuda_stride(w->n);
    pthread_mutex_lock(&p->lock);
    struct choice *c      = choose(p, &layer);
    bool           taken  = c && c->product;
    int            status = LT_SUCCESS;
    if (taken && x->rows)
        status = dinov_lt_product_run(p->lt, c->product, dinov_queue_stream(s->queue), y, x, w->packed, bias, residual);
    pthread_mutex_unlock(&p->lock);
    if (status) failed(s, status);
    return taken;
}

int dinov_products_candidates(dinov_products *p, const dinov_product_row *row, dinov_product_row out[DINOV_LT_CANDIDATES + 1])
{
    dinov_lt_config configs[DINOV_LT_CANDIDATES];
    out[0]          = *row;
    out[0].sm       = p->sm;
    out[0].real     = p->real;
    out[0].provider = DINOV_PRODUCT_OWN;
    out[0].config   = (dinov_lt_config){0};
    if (!p->lt || (row->residual && row->act != DINOV_ACT_NONE)) return 1;
    pthread_mutex_lock(&p->lock);
    int count = dinov_lt_candidates(p->lt, row->n, row->k, row->residual, configs);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < count; i++) {
        out[1 + i]          = out[0];
        out[1 + i].provider = DINOV_PRODUCT_CUBLASLT;
        out[1 + i].config   = configs[i];
    }
    return 1 + count;
}

bool dinov_products_choose(dinov_products *p, const dinov_product_row *row)
{
    dinov_lt_product *product;
    pthread_mutex_lock(&p->lock);
    struct choice *c    = choose(p, row);
    bool           done = c && make(p, row, &product);
    if (done) {
        dinov_lt_product_free(p->lt, &c->product);
        c->product = product;
        c->row     = *row;
    }
    pthread_mutex_unlock(&p->lock);
    return done;
}

const char *dinov_product_text(char *out, size_t size, const dinov_product_row *row)
{
    static const char *const acts[] = {"DINOV_ACT_NONE", "DINOV_ACT_GELU", "DINOV_ACT_SWIGLU"};
    const dinov_lt_config   *c      = &row->config;
    snprintf(out, size, "{%d, DINOV_%s, %" PRId64 ", %" PRId64 ", %s, %s, %s, {%d, %d, %d, %d, %d, %d, %d}},", row->sm,
             row->real == DINOV_BF16  ? "BF16"
             : row->real == DINOV_F16 ? "F16"
                                      : "F32",
             row->n, row->k, acts[row->act], row->residual ? "true" : "false",
             row->provider == DINOV_PRODUCT_OWN ? "DINOV_PRODUCT_OWN" : "DINOV_PRODUCT_CUBLASLT", c->id, c->tile, c->stages,
             c->swizzle, c->custom, c->inner, c->cluster);
    return out;
}

int64_t dinov_products_attention_from(int sm, dinov_dtype real)
{
    for (int i = 0; attention_rows[i].sm; i++)
        if (attention_rows[i].sm == sm && attention_rows[i].real == real) return attention_rows[i].tokens;
    return INT64_MAX;
}
