/* SPDX-License-Identifier: Apache-2.0 */
#include "train/prototypes.h"

#include "base/alloc.h"
#include "model/real.h"

#include <math.h>
#include <string.h>

/* Logits of one side, a chunk of prototypes at a time. */
struct logits {
    const dinov_head *head;
    const dinov_mat  *z;
    dinov_mat         out;   /* [M, chunk] */
    int64_t           first; /* the chunk that `out` holds; -1: none */
};

struct dinov_prototypes {
    dinov_prototypes_plan plan;
    const dinov_ops      *ops;
    dinov_stream          stream;
    const dinov_comm     *comm;
    dinov_arena           arena;

    int64_t       chunk;
    struct logits teacher, student;
    double        temperature;        /* the teacher's */
    void         *bias;               /* [K]: -c / t, or log v */
    void         *lse;                /* [teacher_rows] */
    void         *entropy;            /* [teacher_rows] */
    void         *max, *sum;          /* [rows] running softmax statistics */
    void         *student_lse;        /* [student_rows] */
    void         *weights, *dweights; /* [PIECE, bottleneck] rows of the last layer, and their gradient */
    void         *packed, *packed_bias;
};

enum {
    LINE  = 64,   /* chunks are a multiple of it */
    PIECE = 2048, /* prototypes whose weights are at hand at a time: few enough to stay in the cache */
};

static int64_t chunk_of(const dinov_prototypes_plan *plan, size_t real)
{
    int64_t rows = plan->teacher_rows + plan->student_rows, chunk = (int64_t)(plan->logits_budget / real) / rows / LINE * LINE;
    if (chunk < LINE) chunk = LINE;
    return chunk < plan->prototypes ? chunk : plan->prototypes;
}

static void lay_out(dinov_prototypes *p)
{
    const dinov_prototypes_plan *plan = &p->plan;
    const dinov_ops             *ops  = p->ops;
    dinov_arena                 *a    = &p->arena;
    size_t                       real = ops->real_size;
    int64_t                      rows = plan->teacher_rows > plan->student_rows ? plan->teacher_rows : plan->student_rows;
    int64_t                      b    = plan->bottleneck > plan->teacher_bottleneck ? plan->bottleneck : plan->teacher_bottleneck;

    p->chunk        = chunk_of(plan, real);
    size_t  forward = ops->linear_size(PIECE, b), back = ops->linear_size(b, PIECE);
    int64_t bias   = (int64_t)ops->linear_bias_size(PIECE > b ? PIECE : b);
    p->teacher.out = dinov_mat_take(a, plan->teacher_rows, p->chunk, real);
    p->student.out = dinov_mat_take(a, plan->student_rows, p->chunk, real);
    p->bias        = dinov_arena_take(a, plan->prototypes, real);
    p->lse         = dinov_arena_take(a, plan->teacher_rows, real);
    p->entropy     = dinov_arena_take(a, plan->teacher_rows, real);
    p->max         = dinov_arena_take(a, rows, real);
    p->sum         = dinov_arena_take(a, rows, real);
    p->student_lse = dinov_arena_take(a, plan->student_rows, real);
    p->weights     = dinov_arena_take(a, PIECE * b, real);
    p->dweights    = dinov_arena_take(a, PIECE * b, real);
    p->packed      = dinov_arena_take(a, (int64_t)(forward > back ? forward : back), real);
    p->packed_bias = dinov_arena_take(a, bias, real);
}

size_t dinov_prototypes_memory(const dinov_prototypes_plan *plan, const dinov_ops *ops)
{
    dinov_prototypes p = {.plan = *plan, .ops = ops};
    lay_out(&p);
    return p.arena.used;
}

dinov_status dinov_prototypes_new(dinov_prototypes **out, const dinov_prototypes_plan *plan, const dinov_ops *ops, dinov_pool *pool,
                                  const dinov_comm *comm, dinov_error *err)
{
    *out                = NULL;
    dinov_prototypes *p = dinov_calloc(1, sizeof *p);
    if (!p) return dinov_fail_nomem(err, "prototypes", "themselves");
    *p = (dinov_prototypes){.plan = *plan, .ops = ops, .stream = {.pool = pool}, .comm = comm};
    lay_out(p);
    dinov_status status = dinov_arena_allocate(&p->arena, "prototypes", err);
    if (status != DINOV_OK) {
        dinov_prototypes_free(&p);
        return status;
    }
    lay_out(p);
    *out = p;
    return DINOV_OK;
}

void dinov_prototypes_free(dinov_prototypes **prototypes)
{
    if (!prototypes || !*prototypes) return;
    dinov_arena_clear(&(*prototypes)->arena);
    dinov_free(*prototypes);
    *prototypes = NULL;
}

static void *at(const dinov_prototypes *p, void *array, int64_t i) { return (char *)array + (size_t)i * p->ops->real_size; }

static int64_t chunk_size(const dinov_prototypes *p, int64_t first)
{
    return p->plan.prototypes - first < p->chunk ? p->plan.prototypes - first : p->chunk;
}

/* The last layer's rows [first, first + n) into p->weights. */
static void piece_weights(dinov_prototypes *p, const dinov_head *head, int64_t first, int64_t n, int64_t b)
{
    p->ops->weight_norm(&p->stream, p->weights, at(p, head->v, first * b), at(p, head->g, first), n, b);
}

/* Columns [first, first + n) of a matrix. */
static dinov_mat columns(const dinov_prototypes *p, const dinov_mat *m, int64_t first, int64_t n)
{
    return (dinov_mat){at(p, m->data, first), m->rows, n, m->ld};
}

static int64_t piece_size(int64_t first, int64_t end) { return end - first < PIECE ? end - first : PIECE; }

/* side->out = z W^T for the chunk from `first` on, unless it is there already. */
static dinov_mat *compute(dinov_prototypes *p, struct logits *side, int64_t first)
{
    int64_t size = chunk_size(p, first), b = side->z->cols;
    if (side->first == first) return &side->out;
    side->out.rows = side->z->rows;
    side->out.cols = size;
    side->first    = first;
    p->ops->linear_pack_bias(&p->stream, p->packed_bias, NULL, PIECE, DINOV_ACT_NONE);
    for (int64_t i = 0; i < size; i += PIECE) {
        int64_t   n   = piece_size(i, size);
        dinov_mat out = columns(p, &side->out, i, n);
        piece_weights(p, side->head, first + i, n, b);
        p->ops->linear_pack(&p->stream, p->packed, p->weights, n, b, DINOV_ACT_NONE);
        p->ops->linear(&p->stream, &out, side->z, &(dinov_linear){.n = n, .k = b, .packed = p->packed, .bias = p->packed_bias},
                       NULL, NULL);
    }
    return &side->out;
}

static void stats_begin(dinov_prototypes *p, int64_t rows)
{
    for (int64_t m = 0; m < rows; m++) {
        dinov_real_set(p->max, p->ops->real_size, m, -(double)INFINITY);
        dinov_real_set(p->sum, p->ops->real_size, m, 0);
    }
}

static void stats_end(dinov_prototypes *p, void *lse, int64_t rows)
{
    size_t real = p->ops->real_size;
    for (int64_t m = 0; m < rows; m++)
        dinov_real_set(lse, real, m, dinov_real_get(p->max, real, m) + log(dinov_real_get(p->sum, real, m)));
}

/* p->bias = log v and p->lse, by rounds over samples and prototypes. The first round starts with u = 1: offsets of 0. */
static dinov_status sinkhorn(dinov_prototypes *p, dinov_error *err)
{
    size_t  real = p->ops->real_size;
    int64_t rows = p->teacher.z->rows;

    for (int64_t m = 0; m < rows; m++) dinov_real_set(p->lse, real, m, 0);
    for (int round = 0; round < DINOV_SINKHORN_ROUNDS; round++) {
        stats_begin(p, rows);
        for (int64_t first = 0; first < p->plan.prototypes; first += p->chunk) {
            int64_t    n    = chunk_size(p, first);
            dinov_mat *z    = compute(p, &p->teacher, first);
            void      *bias = at(p, p->bias, first);
            p->ops->exp_sums(&p->stream, bias, z, p->lse, p->temperature);
            DINOV_TRY(p->comm->all_reduce(p->comm, bias, n, real, err));
            for (int64_t k = 0; k < n; k++) dinov_real_set(bias, real, k, -log(dinov_real_get(bias, real, k)));
            p->ops->softmax_stats(&p->stream, p->max, p->sum, z, bias, p->temperature);
        }
        stats_end(p, p->lse, rows);
    }
    return DINOV_OK;
}

static dinov_status centered(dinov_prototypes *p, const void *center, void *next, dinov_error *err)
{
    size_t  real = p->ops->real_size;
    int64_t rows = p->teacher.z->rows, K = p->plan.prototypes;

    for (int64_t k = 0; k < K; k++) dinov_real_set(p->bias, real, k, -dinov_real_get(center, real, k) / p->temperature);
    memset(next, 0, (size_t)K * real);
    stats_begin(p, rows);
    for (int64_t first = 0; first < K; first += p->chunk) {
        dinov_mat *z = compute(p, &p->teacher, first);
        p->ops->softmax_stats(&p->stream, p->max, p->sum, z, at(p, p->bias, first), p->temperature);
        p->ops->column_sums(&p->stream, at(p, next, first), z);
    }
    stats_end(p, p->lse, rows);

    /* Each rank's mean counts alike, as upstream has it. */
    for (int64_t k = 0; k < K; k++) dinov_real_set(next, real, k, rows ? dinov_real_get(next, real, k) / (double)rows : 0);
    DINOV_TRY(p->comm->all_reduce(p->comm, next, K, real, err));
    for (int64_t k = 0; k < K; k++) {
        double mean = dinov_real_get(next, real, k) / (double)p->comm->size, old = dinov_real_get(center, real, k);
        dinov_real_set(next, real, k, old * DINOV_CENTER_MOMENTUM + mean * (1 - DINOV_CENTER_MOMENTUM));
    }
    return DINOV_OK;
}

dinov_status dinov_prototypes_teach(dinov_prototypes *p, const dinov_head *teacher, const dinov_mat *z, double temperature,
                                    const void *old_center, void *next_center, dinov_error *err)
{
    DINOV_ASSERT(z->rows <= p->plan.teacher_rows && z->cols == p->plan.teacher_bottleneck);
    p->teacher.head  = teacher;
    p->teacher.z     = z;
    p->teacher.first = -1;
    p->temperature   = temperature;
    return p->plan.centering == DINOV_SINKHORN_KNOPP ? sinkhorn(p, err) : centered(p, old_center, next_center, err);
}

/* dz += dlogits W and the gradients of g and v, for the chunk whose gradient stands in the student's logits. */
static void chunk_backward(dinov_prototypes *p, const dinov_head *student, const dinov_head *grads, const dinov_mat *z,
                           int64_t first, dinov_mat *dz)
{
    const dinov_ops *ops  = p->ops;
    int64_t          size = chunk_size(p, first), b = z->cols;

    ops->linear_pack_bias(&p->stream, p->packed_bias, NULL, b, DINOV_ACT_NONE);
    for (int64_t i = 0; i < size; i += PIECE) {
        int64_t   n = piece_size(i, size), k = first + i;
        dinov_mat dlogits = columns(p, &p->student.out, i, n);
        piece_weights(p, student, k, n, b);
        ops->linear_pack_transposed(&p->stream, p->packed, p->weights, n, b, NULL);
        ops->linear(&p->stream, dz, &dlogits, &(dinov_linear){.n = b, .k = n, .packed = p->packed, .bias = p->packed_bias}, dz,
                    NULL);
        memset(p->dweights, 0, (size_t)(n * b) * ops->real_size);
        ops->linear_backward(&p->stream, p->dweights, NULL, &dlogits, z);
        ops->weight_norm_backward(&p->stream, at(p, grads->v, k * b), at(p, grads->g, k), p->dweights, at(p, student->v, k * b),
                                  at(p, student->g, k), n, b);
    }
}

void dinov_prototypes_learn(dinov_prototypes *p, const dinov_head *student, const dinov_head *grads, const dinov_mat *z,
                            const int32_t *targets, const void *weight, void *loss, dinov_mat *dz)
{
    const dinov_ops *ops  = p->ops;
    size_t           real = ops->real_size;
    int64_t          rows = z->rows, K = p->plan.prototypes;

    DINOV_ASSERT(rows <= p->plan.student_rows && dz->rows == rows);
    p->student = (struct logits){.head = student, .z = z, .out = p->student.out, .first = -1};
    stats_begin(p, rows);
    for (int64_t first = 0; first < K; first += p->chunk)
        ops->softmax_stats(&p->stream, p->max, p->sum, compute(p, &p->student, first), NULL, DINOV_STUDENT_TEMPERATURE);
    stats_end(p, p->student_lse, rows);

    for (int64_t m = 0; m < rows; m++) dinov_real_set(loss, real, m, 0);
    for (int64_t m = 0; m < rows; m++) memset((char *)dz->data + (size_t)(m * dz->ld) * real, 0, (size_t)dz->cols * real);
    memset(p->entropy, 0, (size_t)p->plan.teacher_rows * real);
    for (int64_t first = 0; first < K; first += p->chunk) {
        dinov_mat *probabilities = compute(p, &p->teacher, first), *logits = compute(p, &p->student, first);
        ops->softmax_apply(&p->stream, probabilities, p->entropy, at(p, p->bias, first), p->lse, p->temperature);
        p->teacher.first = -1; /* no longer logits */
        ops->cross_entropy(&p->stream, logits, loss, p->student_lse, probabilities, targets, weight, DINOV_STUDENT_TEMPERATURE);
        p->student.first = -1;
        chunk_backward(p, student, grads, z, first, dz);
    }
    for (int64_t m = 0; m < rows; m++) {
        double count = (targets[2 * m] >= 0) + (targets[2 * m + 1] >= 0);
        dinov_real_set(loss, real, m,
                       dinov_real_get(loss, real, m) +
                           count * dinov_real_get(weight, real, m) * dinov_real_get(p->student_lse, real, m));
    }
}

double dinov_prototypes_entropy(const dinov_prototypes *p)
{
    double total = 0;
    for (int64_t m = 0; m < p->teacher.z->rows; m++) total += dinov_real_get(p->entropy, p->ops->real_size, m);
    return p->teacher.z->rows ? total / (double)p->teacher.z->rows : 0;
}
