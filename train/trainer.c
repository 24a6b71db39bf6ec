/* SPDX-License-Identifier: Apache-2.0
 *
 * dinov_trainer_step reads like upstream's forward_backward: teacher, targets, student, losses,
 * backward, update. What comes before it is the layout of memory.
 */
#include "train/trainer.h"

#include "base/alloc.h"
#include "base/rng.h"
#include "model/real.h"
#include "train/prototypes.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { GLOBAL = 0, LOCAL = 1 }; /* groups of crops */

static const size_t LOGITS_BUDGET = (size_t)256 << 20;

/* One of the two cross-entropies: rows of tokens, their head, its prototypes. */
struct term {
    bool              active;
    dinov_head_dims   dims, teacher_dims;
    dinov_head        student, dstudent, teacher;
    dinov_head_pass  *head, *teacher_head;
    dinov_prototypes *prototypes;
    int64_t           teacher_rows, student_rows; /* the most; teacher's over all micro-batches */
    int64_t           taught;                     /* teacher rows of this step */

    dinov_mat targets_z; /* [teacher_rows, bottleneck] */
    int32_t  *rows;      /* [student_rows] rows of the stream */
    dinov_mat raw;       /* [rows, C] tokens before the final norm */
    dinov_mat tokens;    /* [rows, C] after it */
    dinov_mat dtokens;   /* [rows, C] */
    dinov_mat z, dz;     /* [rows, bottleneck] */
    int32_t  *targets;   /* [rows, 2] */
    void     *weight, *loss;
    void     *next_center;
};

/* One network: places of its parameters. */
struct network {
    dinov_model    model;
    dinov_paramset set;
};

struct dinov_trainer {
    dinov_config      config;
    const dinov_ops  *ops;
    dinov_pool       *pool;
    const dinov_comm *comm;
    size_t            logits_budget;
    bool              distilling;
    struct network    student, teacher; /* the teacher's set is empty in pretraining: it is the student's */
    int64_t           B, micros;        /* images of a micro-batch, micro-batches of a step */
    int64_t           locals;           /* crops an image */
    int64_t           patches;          /* of a global crop */

    dinov_train_state state;
    dinov_backbone    params, grads, teacher_params;
    dinov_pass       *pass, *teacher_pass;
    struct term       term[DINOV_TERMS];
    dinov_stream      stream;
    dinov_arena       arena;

    dinov_mat teacher_raw, teacher_tokens; /* [rows of a term in one micro-batch, C of the teacher] */
    int32_t  *teacher_rows;
    dinov_mat koleo_tokens, dkoleo; /* [micros * 2B, C] ordered by view, then image */
    void     *distance;             /* [micros * B] */

    dinov_drop_plan drop;
};

/* ---- Set-up ---- */

static void *at(const dinov_trainer *t, void *array, int64_t i) { return (char *)array + (size_t)i * t->ops->real_size; }

static dinov_crops group_shape(const dinov_trainer *t, int group)
{
    int64_t size = group == GLOBAL ? t->config.crops.global_crops_size : t->config.crops.local_crops_size, side = size / t->student.model.patch;
    return (dinov_crops){.images = (group == GLOBAL ? 2 : t->locals) * t->B, .h = side, .w = side};
}

/* Blocks of the student drop images at this rate (dinov2/models/vision_transformer.py). */
static double drop_rate(const dinov_trainer *t, int64_t block)
{
    double  rate  = t->distilling ? 0 : t->config.student.drop_path_rate;
    int64_t depth = t->student.model.depth;
    if (t->config.student.drop_path_uniform || depth == 1) return rate;
    return rate * (double)block / (double)(depth - 1);
}

static int64_t kept_images(int64_t images, double rate)
{
    int64_t kept = (int64_t)((double)images * (1 - rate));
    return kept > 1 ? kept : images < 1 ? images : 1;
}

static dinov_pass_plan pass_plan(const dinov_trainer *t, bool teacher)
{
    dinov_pass_plan plan = {.kind   = teacher ? DINOV_PASS_FORWARD : t->config.train.recompute ? DINOV_PASS_RECOMPUTE : DINOV_PASS_KEEP,
                            .groups = teacher || t->locals == 0 ? 1 : 2};
    for (int g = 0; g < plan.groups; g++) {
        dinov_crops shape    = group_shape(t, g);
        plan.group[g].images = plan.group[g].kept = shape.images;
        plan.group[g].h = shape.h, plan.group[g].w = shape.w;
        if (teacher) continue;
        plan.group[g].kept = 0;
        for (int64_t i = 0; i < t->student.model.depth; i++) {
            int64_t kept = kept_images(shape.images, drop_rate(t, i));
            if (kept > plan.group[g].kept) plan.group[g].kept = kept;
        }
    }
    return plan;
}

static dinov_prototypes_plan prototypes_plan(const dinov_trainer *t, const struct term *term)
{
    return (dinov_prototypes_plan){.prototypes   = term->dims.prototypes,
                                   .bottleneck   = term->dims.bottleneck,
                                   .teacher_bottleneck = term->teacher_dims.bottleneck,
                                   .teacher_rows = term->teacher_rows,
                                   .student_rows = term->student_rows,
                                   .centering    = t->config.train.centering,
                                   .logits_budget = t->logits_budget};
}

static dinov_head_dims head_dims(const dinov_head_config *c, int64_t in)
{
    return (dinov_head_dims){.in = in, .hidden = c->head_hidden_dim, .bottleneck = c->head_bottleneck_dim,
                             .prototypes = c->head_n_prototypes, .layers = c->head_nlayers};
}

/* The most patches that can be masked in a micro-batch: upstream's upperbound, each share rounded up. */
static int64_t most_masked(const dinov_trainer *t)
{
    int64_t       masked = (int64_t)((double)(2 * t->B) * t->config.ibot.mask_sample_probability), most = 0;
    const double *ratio  = t->config.ibot.mask_ratio_min_max;
    for (int64_t i = 1; i <= masked; i++)
        most += (int64_t)ceil((double)t->patches * (ratio[0] + (ratio[1] - ratio[0]) * (double)i / (double)masked));
    return most;
}

/* The numbers of everything, from the configuration. */
static dinov_status describe(dinov_trainer *t, const dinov_trainer_options *o, dinov_error *err)
{
    const dinov_config *c = o->config;

    t->config     = *c;
    t->ops        = o->ops;
    t->pool       = o->pool;
    t->comm       = o->comm ? o->comm : &dinov_comm_self;
    t->distilling = o->teacher != NULL;
    t->logits_budget = o->logits_budget ? o->logits_budget : LOGITS_BUDGET;
    t->student.model = *o->model;
    t->teacher.model = o->teacher ? o->teacher->model : t->student.model;
    t->B             = c->train.batch_size_per_gpu;
    t->micros        = c->train.accumulation;
    t->locals        = c->crops.local_crops_number;
    dinov_crops global = group_shape(t, GLOBAL);
    t->patches         = global.h * global.w;
    if (o->teacher && o->teacher->model.patch != t->student.model.patch)
        return dinov_fail(err, DINOV_ERR_CONFIG, "CFG-TEACHER", "teacher: expected the student's patch size %lld, found %lld",
                          (long long)t->student.model.patch, (long long)o->teacher->model.patch);

    struct term *dino = &t->term[DINOV_TERM_DINO], *ibot = &t->term[DINOV_TERM_IBOT];
    dino->active       = c->dino.head.loss_weight > 0;
    dino->teacher_rows = 2 * t->B * t->micros;
    dino->student_rows = (2 + t->locals) * t->B;
    ibot->active       = c->ibot.head.loss_weight > 0;
    ibot->student_rows = most_masked(t);
    ibot->teacher_rows = ibot->student_rows * t->micros;
    for (int i = 0; i < DINOV_TERMS; i++) {
        bool own               = i == DINOV_TERM_IBOT && c->ibot.separate_head;
        t->term[i].dims         = head_dims(own ? &c->ibot.head : &c->dino.head, t->student.model.dim);
        t->term[i].teacher_dims = o->teacher ? o->teacher->head[i] : t->term[i].dims;
        if (t->term[i].active && t->term[i].teacher_dims.prototypes != t->term[i].dims.prototypes)
            return dinov_fail(err, DINOV_ERR_CONFIG, "CFG-TEACHER", "%s.head_n_prototypes: expected the teacher's %lld, found %lld",
                              own ? "ibot" : "dino", (long long)t->term[i].teacher_dims.prototypes, (long long)t->term[i].dims.prototypes);
        if (t->term[i].student_rows == 0) t->term[i].active = false;
    }
    return DINOV_OK;
}

/* The parameter sets, in upstream's order of modules. */
static dinov_status list_parameters(dinov_trainer *t, const dinov_teacher *teacher, dinov_error *err)
{
    DINOV_TRY(dinov_paramset_add_backbone(&t->student.set, "backbone", &t->student.model, err));
    DINOV_TRY(dinov_paramset_add_head(&t->student.set, "dino_head", &t->term[DINOV_TERM_DINO].dims, err));
    if (t->config.ibot.separate_head)
        DINOV_TRY(dinov_paramset_add_head(&t->student.set, "ibot_head", &t->term[DINOV_TERM_IBOT].dims, err));
    if (!teacher) return DINOV_OK;
    DINOV_TRY(dinov_paramset_add_backbone(&t->teacher.set, "backbone", &teacher->model, err));
    DINOV_TRY(dinov_paramset_add_head(&t->teacher.set, "dino_head", &teacher->head[DINOV_TERM_DINO], err));
    return teacher->separate_head ? dinov_paramset_add_head(&t->teacher.set, "ibot_head", &teacher->head[DINOV_TERM_IBOT], err)
                                  : DINOV_OK;
}

/* The state's blocks and the rows between backbone and heads, in one walk that runs twice (base/arena.h). */
static void lay_out(dinov_trainer *t)
{
    dinov_arena *a = &t->arena;
    size_t       real = t->ops->real_size;
    int64_t      C = t->student.model.dim, most = 0;

    t->state.student = dinov_arena_take(a, t->student.set.total, real);
    t->state.average = dinov_arena_take(a, t->student.set.total, real);
    t->state.m       = dinov_arena_take(a, t->student.set.total, real);
    t->state.v       = dinov_arena_take(a, t->student.set.total, real);
    t->state.grads   = dinov_arena_take(a, t->student.set.total, real);
    t->state.teacher = t->distilling ? dinov_arena_take(a, t->teacher.set.total, real) : t->state.average;
    for (int i = 0; i < DINOV_TERMS; i++) {
        struct term *term = &t->term[i];
        bool         centred = term->active && t->config.train.centering == DINOV_CENTERING;
        t->state.prototypes[i] = term->dims.prototypes;
        t->state.center[i] = centred ? dinov_arena_take(a, term->dims.prototypes, real) : NULL;
        term->next_center  = centred ? dinov_arena_take(a, term->dims.prototypes, real) : NULL;
        term->targets_z    = dinov_mat_take(a, term->teacher_rows, term->teacher_dims.bottleneck, real);
        term->rows         = dinov_arena_take(a, term->student_rows, sizeof(int32_t));
        term->targets      = dinov_arena_take(a, 2 * term->student_rows, sizeof(int32_t));
        term->raw          = dinov_mat_take(a, term->student_rows, C, real);
        term->tokens       = dinov_mat_take(a, term->student_rows, C, real);
        term->dtokens      = dinov_mat_take(a, term->student_rows, C, real);
        term->z            = dinov_mat_take(a, term->student_rows, term->dims.bottleneck, real);
        term->dz           = dinov_mat_take(a, term->student_rows, term->dims.bottleneck, real);
        term->weight       = dinov_arena_take(a, term->student_rows, real);
        term->loss         = dinov_arena_take(a, term->student_rows, real);
        if (term->teacher_rows / t->micros > most) most = term->teacher_rows / t->micros;
        if (term->student_rows > most) most = term->student_rows;
    }
    t->teacher_raw    = dinov_mat_take(a, most, t->teacher.model.dim, real);
    t->teacher_tokens = dinov_mat_take(a, most, t->teacher.model.dim, real);
    t->teacher_rows   = dinov_arena_take(a, most, sizeof(int32_t));
    t->koleo_tokens   = dinov_mat_take(a, 2 * t->B * t->micros, C, real);
    t->dkoleo         = dinov_mat_take(a, 2 * t->B * t->micros, C, real);
    t->distance       = dinov_arena_take(a, t->B * t->micros, real);

    size_t scratch = t->ops->koleo_scratch(t->B * t->micros, C), norm = t->ops->layernorm_backward_scratch(most, C);
    t->stream.scratch = dinov_arena_take(a, (int64_t)(scratch > norm ? scratch : norm), 1);
    for (int g = 0; g < 2; g++) {
        t->drop.kept[g] = dinov_arena_take(a, t->student.model.depth, sizeof(int32_t));
        t->drop.keep[g] = dinov_arena_take(a, 2 * t->student.model.depth * group_shape(t, g).images, sizeof(int32_t));
    }
}

static dinov_status bind(dinov_trainer *t, dinov_error *err)
{
    size_t                real = t->ops->real_size;
    const dinov_paramset *set = &t->student.set, *teacher_set = t->distilling ? &t->teacher.set : set;

    t->state.set         = set;
    t->state.teacher_set = teacher_set;
    t->state.real_size   = real;
    DINOV_TRY(dinov_backbone_bind(&t->params, set, "backbone", &t->student.model, t->state.student, real, err));
    DINOV_TRY(dinov_backbone_bind(&t->grads, set, "backbone", &t->student.model, t->state.grads, real, err));
    DINOV_TRY(dinov_backbone_bind(&t->teacher_params, teacher_set, "backbone", &t->teacher.model, t->state.teacher, real, err));
    for (int i = 0; i < DINOV_TERMS; i++) {
        struct term *term  = &t->term[i];
        const char  *own   = i == DINOV_TERM_IBOT && t->config.ibot.separate_head ? "ibot_head" : "dino_head";
        const char  *their = i == DINOV_TERM_IBOT && teacher_set->module_count > 2 ? "ibot_head" : "dino_head";
        dinov_head_bind(&term->student, set, own, &term->dims, t->state.student, real);
        dinov_head_bind(&term->dstudent, set, own, &term->dims, t->state.grads, real);
        dinov_head_bind(&term->teacher, teacher_set, their, &term->teacher_dims, t->state.teacher, real);
    }
    return DINOV_OK;
}

static dinov_status make_passes(dinov_trainer *t, dinov_error *err)
{
    dinov_pass_plan student = pass_plan(t, false), teacher = pass_plan(t, true);
    DINOV_TRY(dinov_pass_new(&t->pass, &t->student.model, t->ops, t->pool, &student, err));
    DINOV_TRY(dinov_pass_new(&t->teacher_pass, &t->teacher.model, t->ops, t->pool, &teacher, err));
    for (int i = 0; i < DINOV_TERMS; i++) {
        struct term          *term = &t->term[i];
        dinov_prototypes_plan plan = prototypes_plan(t, term);
        if (!term->active) continue;
        DINOV_TRY(dinov_head_pass_new(&term->head, &term->dims, t->ops, t->pool, term->student_rows, true, err));
        DINOV_TRY(dinov_head_pass_new(&term->teacher_head, &term->teacher_dims, t->ops, t->pool, term->teacher_rows / t->micros, false, err));
        DINOV_TRY(dinov_prototypes_new(&term->prototypes, &plan, t->ops, t->pool, t->comm, err));
    }
    return DINOV_OK;
}

dinov_status dinov_trainer_new(dinov_trainer **out, const dinov_trainer_options *options, dinov_error *err)
{
    dinov_status   status;
    dinov_trainer *t = dinov_calloc(1, sizeof *t);
    *out             = NULL;
    if (!t) return dinov_fail_nomem(err, "trainer", "itself");
    DINOV_TRY_GOTO(describe(t, options, err));
    DINOV_TRY_GOTO(list_parameters(t, options->teacher, err));
    lay_out(t);
    DINOV_TRY_GOTO(dinov_arena_allocate(&t->arena, "training state", err));
    lay_out(t);
    t->stream.pool = t->pool;
    DINOV_TRY_GOTO(bind(t, err));
    DINOV_TRY_GOTO(make_passes(t, err));
    dinov_paramset_init(&t->student.set, t->state.student, t->ops->real_size, (uint64_t)t->config.train.seed, t->config.student.layerscale);
    dinov_trainer_reset_average(t);
    *out = t;
    return DINOV_OK;
fail:
    dinov_trainer_free(&t);
    return status;
}

void dinov_trainer_free(dinov_trainer **trainer)
{
    if (!trainer || !*trainer) return;
    dinov_trainer *t = *trainer;
    *trainer         = NULL;
    for (int i = 0; i < DINOV_TERMS; i++) {
        dinov_head_pass_free(&t->term[i].head);
        dinov_head_pass_free(&t->term[i].teacher_head);
        dinov_prototypes_free(&t->term[i].prototypes);
    }
    dinov_pass_free(&t->pass);
    dinov_pass_free(&t->teacher_pass);
    dinov_backbone_clear(&t->params);
    dinov_backbone_clear(&t->grads);
    dinov_backbone_clear(&t->teacher_params);
    dinov_paramset_clear(&t->student.set);
    dinov_paramset_clear(&t->teacher.set);
    dinov_arena_clear(&t->arena);
    dinov_free(t);
}

dinov_status dinov_trainer_memory(size_t *bytes, const dinov_trainer_options *options, dinov_error *err)
{
    dinov_trainer t      = {0};
    dinov_status  status = describe(&t, options, err);
    *bytes               = 0;
    if (status == DINOV_OK) status = list_parameters(&t, options->teacher, err);
    if (status == DINOV_OK) {
        int             threads = dinov_pool_threads(options->pool);
        dinov_pass_plan student = pass_plan(&t, false), teacher = pass_plan(&t, true);
        lay_out(&t);
        *bytes = t.arena.used + dinov_pass_memory(&t.student.model, t.ops, &student, threads) +
                 dinov_pass_memory(&t.teacher.model, t.ops, &teacher, threads);
        for (int i = 0; i < DINOV_TERMS; i++) {
            const struct term    *term = &t.term[i];
            dinov_prototypes_plan plan = prototypes_plan(&t, term);
            if (term->active)
                *bytes += dinov_head_pass_memory(&term->dims, t.ops, term->student_rows, true) +
                          dinov_head_pass_memory(&term->teacher_dims, t.ops, term->teacher_rows / t.micros, false) +
                          dinov_prototypes_memory(&plan, t.ops);
        }
    }
    dinov_paramset_clear(&t.student.set);
    dinov_paramset_clear(&t.teacher.set);
    return status;
}

dinov_train_state *dinov_trainer_state(dinov_trainer *t) { return &t->state; }
const dinov_model *dinov_trainer_model(const dinov_trainer *t) { return &t->student.model; }

void dinov_trainer_reset_average(dinov_trainer *t)
{
    memcpy(t->state.average, t->state.student, (size_t)t->student.set.total * t->ops->real_size);
}

/* ---- The step ---- */

/* Which images each branch keeps, for micro-batch `micro` of an iteration. NULL: all of them. */
static const dinov_drop_plan *draw_drop(dinov_trainer *t, int64_t iteration, int64_t micro)
{
    bool any = false;
    for (int64_t block = 0; block < t->student.model.depth; block++) {
        double rate = drop_rate(t, block);
        any |= rate > 0;
        for (int g = 0; g < 2; g++) {
            int64_t images = group_shape(t, g).images;
            t->drop.kept[g][block] = (int32_t)kept_images(images, rate);
            for (int branch = 0; branch < 2 && images > 0; branch++) {
                uint64_t  item = (uint64_t)(((micro * t->student.model.depth + block) * 2 + branch) * 2 + g);
                dinov_rng rng  = dinov_rng_make((uint64_t)t->config.train.seed, DINOV_RNG_DROP, (uint64_t)iteration, item);
                dinov_rng_permutation(&rng, t->drop.keep[g] + (2 * block + branch) * images, images);
            }
        }
    }
    return any ? &t->drop : NULL;
}

/* Tokens of the teacher's stream through its final norm and head: z [count, bottleneck] of one micro-batch. */
static void teacher_rows(dinov_trainer *t, struct term *term, const dinov_mat *stream, int64_t count)
{
    const dinov_ops *ops = t->ops;
    dinov_mat        raw = t->teacher_raw, tokens = t->teacher_tokens;
    dinov_mat        z = dinov_mat_rows(&term->targets_z, ops->real_size, term->taught, count);

    raw.rows = tokens.rows = count;
    ops->gather(&t->stream, &raw, stream, t->teacher_rows, 1);
    ops->layernorm(&t->stream, &tokens, &raw, t->teacher_params.norm_weight, t->teacher_params.norm_bias, t->teacher.model.ln_eps);
    dinov_head_forward(term->teacher_head, &term->teacher, &z, &tokens);
    term->taught += count;
}

/* Row of the stream of global patch `index` of [2B * N]. */
static int32_t patch_row(const dinov_trainer *t, const dinov_pass *pass, int64_t registers, int64_t index)
{
    return (int32_t)dinov_pass_row(pass, GLOBAL, index / t->patches, 1 + registers + index % t->patches);
}

static void teacher_forward(dinov_trainer *t, const dinov_views *views)
{
    dinov_crops      crops = group_shape(t, GLOBAL);
    struct term     *dino = &t->term[DINOV_TERM_DINO], *ibot = &t->term[DINOV_TERM_IBOT];
    crops.pixels            = views->global;
    const dinov_mat *stream = dinov_pass_forward(t->teacher_pass, &t->teacher_params, &crops, NULL);
    if (dino->active) {
        /* Swapped, so that row i is the other view of the student's row i. */
        for (int64_t i = 0; i < 2 * t->B; i++)
            t->teacher_rows[i] = (int32_t)dinov_pass_row(t->teacher_pass, GLOBAL, (i + t->B) % (2 * t->B), 0);
        teacher_rows(t, dino, stream, 2 * t->B);
    }
    if (ibot->active && views->masked > 0) {
        for (int64_t i = 0; i < views->masked; i++)
            t->teacher_rows[i] = patch_row(t, t->teacher_pass, t->teacher.model.registers, views->mask_indices[i]);
        teacher_rows(t, ibot, stream, views->masked);
    }
}

static dinov_status make_targets(dinov_trainer *t, double temperature, dinov_error *err)
{
    for (int i = 0; i < DINOV_TERMS; i++) {
        struct term *term = &t->term[i];
        if (!term->active) continue;
        term->targets_z.rows = term->taught;
        if (term->taught > 0)
            DINOV_TRY(dinov_prototypes_teach(term->prototypes, &term->teacher, &term->targets_z, temperature, t->state.center[i],
                                             term->next_center, err));
        else if (t->state.center[i]) /* nothing masked in the whole step: the centre stays */
            memcpy(term->next_center, t->state.center[i], (size_t)term->dims.prototypes * t->ops->real_size);
    }
    return DINOV_OK;
}

static void student_forward(dinov_trainer *t, const dinov_views *views, const dinov_drop_plan *drop, const dinov_mat **stream)
{
    dinov_crops crops[2] = {group_shape(t, GLOBAL), group_shape(t, LOCAL)};
    crops[GLOBAL].pixels = views->global;
    crops[GLOBAL].mask   = t->distilling ? NULL : views->masks;
    crops[LOCAL].pixels  = views->local;
    *stream              = dinov_pass_forward(t->pass, &t->params, crops, drop);
}

/* The rows a term takes from the student, their targets and weights. `taught` rows of earlier micro-batches come first. */
static void dino_rows(dinov_trainer *t, struct term *term, int64_t taught)
{
    int64_t B = t->B, n = t->locals;
    /* Upstream: all pairs weigh alike, and the number of local terms is at least 1 even where there are none. */
    double pairs = 2 + (double)(n > 0 ? 2 * n : 1), weight = t->config.dino.head.loss_weight / (pairs * (double)(B * t->micros));
    for (int64_t i = 0; i < (n + 2) * B; i++) {
        bool    local = i < n * B;
        int64_t image = local ? i : i - n * B;
        term->rows[i] = (int32_t)dinov_pass_row(t->pass, local ? LOCAL : GLOBAL, image, 0);
        term->targets[2 * i]     = (int32_t)(taught + (local ? image % B : image));
        term->targets[2 * i + 1] = local ? (int32_t)(taught + B + image % B) : -1;
        dinov_real_set(term->weight, t->ops->real_size, i, weight);
    }
    term->tokens.rows = (n + 2) * B;
}

static void ibot_rows(dinov_trainer *t, struct term *term, const dinov_views *views, int64_t taught)
{
    double scale = t->config.ibot.head.loss_weight / (double)(2 * t->B * t->micros);
    for (int64_t i = 0, begin = 0; i < views->masked; i++) {
        int64_t image = views->mask_indices[i] / t->patches, next = begin;
        if (i == begin) { /* the first of its image: indices ascend */
            while (next < views->masked && views->mask_indices[next] / t->patches == image) next++;
            for (int64_t j = begin; j < next; j++) dinov_real_set(term->weight, t->ops->real_size, j, scale / (double)(next - begin));
            begin = next;
        }
        term->rows[i]            = patch_row(t, t->pass, t->student.model.registers, views->mask_indices[i]);
        term->targets[2 * i]     = (int32_t)(taught + i);
        term->targets[2 * i + 1] = -1;
    }
    term->tokens.rows = views->masked;
}

static void student_tokens(dinov_trainer *t, struct term *term, const dinov_mat *stream)
{
    term->raw.rows = term->dtokens.rows = term->z.rows = term->dz.rows = term->tokens.rows;
    t->ops->gather(&t->stream, &term->raw, stream, term->rows, 1);
    t->ops->layernorm(&t->stream, &term->tokens, &term->raw, t->params.norm_weight, t->params.norm_bias, t->student.model.ln_eps);
}

static double sum_of(const dinov_trainer *t, const void *array, int64_t first, int64_t count)
{
    double sum = 0;
    for (int64_t i = first; i < first + count; i++) sum += dinov_real_get(array, t->ops->real_size, i);
    return sum;
}

/* Head, loss, and the gradient down to the tokens (into term->dtokens). */
static void term_backward(dinov_trainer *t, struct term *term, dinov_term_kind kind, dinov_step_result *result)
{
    int64_t rows = term->tokens.rows;
    dinov_head_forward(term->head, &term->student, &term->z, &term->tokens);
    dinov_prototypes_learn(term->prototypes, &term->student, &term->dstudent, &term->z, term->targets, term->weight, term->loss, &term->dz);
    dinov_head_backward(term->head, &term->student, &term->dstudent, &term->dtokens, &term->dz);

    double loss = sum_of(t, term->loss, 0, rows), entropy = dinov_prototypes_entropy(term->prototypes), pairs = 0;
    for (int64_t i = 0; i < rows; i++)
        pairs += dinov_real_get(term->weight, t->ops->real_size, i) * (term->targets[2 * i + 1] >= 0 ? 2 : 1);
    result->teacher_entropy[kind] += entropy / (double)t->micros;
    result->kl[kind] += (loss / pairs - entropy) / (double)t->micros;
    if (kind == DINOV_TERM_DINO) {
        double local = sum_of(t, term->loss, 0, t->locals * t->B) / t->config.dino.head.loss_weight;
        result->dino_local_crops_loss += local;
        result->dino_global_crops_loss += loss / t->config.dino.head.loss_weight - local;
    } else result->ibot_loss += loss / t->config.ibot.head.loss_weight / 2;
}

/* KoLeo of the whole step's cls tokens, view by view; its gradient goes to t->dkoleo. */
static void koleo(dinov_trainer *t, dinov_step_result *result)
{
    int64_t images = t->B * t->micros;
    size_t  real   = t->ops->real_size;
    double  weight = t->config.dino.koleo_loss_weight;

    memset(t->dkoleo.data, 0, (size_t)(t->dkoleo.rows * t->dkoleo.ld) * real);
    if (images < 2) return; /* nobody has a neighbour */
    for (int view = 0; view < 2; view++) {
        dinov_mat x = dinov_mat_rows(&t->koleo_tokens, real, view * images, images), dx = dinov_mat_rows(&t->dkoleo, real, view * images, images);
        double    loss = 0, copy = 1e-6;
        t->ops->koleo(&t->stream, t->distance, &dx, &x, weight);
        for (int64_t i = 0; i < images; i++) {
            double distance = dinov_real_get(t->distance, real, i);
            loss -= log(distance + 1e-8) / (double)images;
            result->duplicates += distance < copy;
        }
        result->koleo_loss += weight * loss / 2;
    }
}

/* The student's global cls tokens of a micro-batch, to or from their places by view. */
static dinov_mat view_rows(const dinov_trainer *t, const dinov_mat *by_view, int64_t micro, int view)
{
    return dinov_mat_rows(by_view, t->ops->real_size, (view * t->micros + micro) * t->B, t->B);
}

static void collect_cls(dinov_trainer *t, const struct term *dino, int64_t micro)
{
    for (int view = 0; view < 2; view++) {
        dinov_mat from = dinov_mat_rows(&dino->tokens, t->ops->real_size, (t->locals + view) * t->B, t->B);
        dinov_mat to   = view_rows(t, &t->koleo_tokens, micro, view);
        t->ops->gather(&t->stream, &to, &from, NULL, 1);
    }
}

static void tokens_backward(dinov_trainer *t, struct term *term, dinov_mat *dstream)
{
    t->ops->layernorm_backward(&t->stream, &term->dtokens, t->grads.norm_weight, t->grads.norm_bias, &term->dtokens, &term->raw,
                               t->params.norm_weight, t->student.model.ln_eps);
    t->ops->scatter_add(&t->stream, dstream, term->rows, &term->dtokens, NULL, 1);
}

static double mean_length(dinov_trainer *t, const dinov_mat *x, int64_t first, int64_t rows)
{
    double total = 0, squares;
    for (int64_t i = first; i < first + rows; i++) {
        t->ops->sum_squares(&t->stream, &squares, at(t, x->data, i * x->ld), x->cols);
        total += sqrt(squares);
    }
    return rows ? total / (double)rows : 0;
}

static void student_backward(dinov_trainer *t, int64_t micro, const dinov_views *views, const int64_t *taught, const dinov_drop_plan *drop,
                             dinov_step_result *result)
{
    struct term     *dino = &t->term[DINOV_TERM_DINO], *ibot = &t->term[DINOV_TERM_IBOT];
    bool             spread = dino->active && t->config.dino.koleo_loss_weight > 0;
    const dinov_mat *stream;

    student_forward(t, views, drop, &stream);
    dinov_mat *dstream = dinov_pass_gradient(t->pass);
    if (dino->active) {
        dino_rows(t, dino, taught[DINOV_TERM_DINO]);
        student_tokens(t, dino, stream);
        if (spread && t->micros == 1) {
            collect_cls(t, dino, 0);
            koleo(t, result);
        }
        result->cls_norm += mean_length(t, &dino->raw, t->locals * t->B, 2 * t->B) / (double)t->micros;
        term_backward(t, dino, DINOV_TERM_DINO, result);
        for (int view = 0; view < 2 && spread; view++) {
            dinov_mat to = dinov_mat_rows(&dino->dtokens, t->ops->real_size, (t->locals + view) * t->B, t->B);
            dinov_mat from = view_rows(t, &t->dkoleo, micro, view);
            t->ops->scatter_add(&t->stream, &to, NULL, &from, NULL, 1);
        }
        tokens_backward(t, dino, dstream);
    }
    if (ibot->active && views->masked > 0) {
        ibot_rows(t, ibot, views, taught[DINOV_TERM_IBOT]);
        student_tokens(t, ibot, stream);
        result->patch_norm += mean_length(t, &ibot->raw, 0, ibot->raw.rows) / (double)t->micros;
        term_backward(t, ibot, DINOV_TERM_IBOT, result);
        tokens_backward(t, ibot, dstream);
    }
    dinov_pass_backward(t->pass, &t->params, &t->grads);
}

static bool all_finite(dinov_trainer *t, dinov_step_result *r)
{
    const struct {
        const char *name;
        double      value;
    } losses[] = {{"dino_local_crops_loss", r->dino_local_crops_loss}, {"dino_global_crops_loss", r->dino_global_crops_loss},
                  {"koleo_loss", r->koleo_loss}, {"ibot_loss", r->ibot_loss}};
    for (size_t i = 0; i < sizeof losses / sizeof losses[0]; i++)
        if (!isfinite(losses[i].value)) return snprintf(r->why, sizeof r->why, "%s", losses[i].name), false;
    for (int i = 0; i < t->student.set.module_count; i++)
        if (!isfinite(r->grad_norm[i])) return snprintf(r->why, sizeof r->why, "gradient of %s", t->student.set.modules[i]), false;
    for (int i = 0; i < DINOV_TERMS; i++) {
        double squares = 0;
        if (t->state.center[i]) t->ops->sum_squares(&t->stream, &squares, t->term[i].next_center, t->term[i].dims.prototypes);
        if (!isfinite(squares)) return snprintf(r->why, sizeof r->why, "centre of %s", i == DINOV_TERM_DINO ? "dino" : "ibot"), false;
    }
    return true;
}

static void update(dinov_trainer *t, const dinov_rates *rates, const dinov_step_result *result)
{
    dinov_train_state *s = &t->state;
    dinov_adamw_step(s->set, s->student, s->grads, s->m, s->v, result->grad_norm, t->student.model.depth, &t->config, rates,
                     ++s->adam_step, t->ops, &t->stream);
    t->ops->ema(&t->stream, s->average, s->student, s->set->total, rates->momentum);
    for (int i = 0; i < DINOV_TERMS; i++)
        if (s->center[i]) memcpy(s->center[i], t->term[i].next_center, (size_t)t->term[i].dims.prototypes * t->ops->real_size);
}

dinov_status dinov_trainer_step(dinov_trainer *t, int64_t iteration, const dinov_views *micro, const dinov_rates *rates,
                                const dinov_drop_plan *drop, dinov_step_result *result, dinov_error *err)
{
    bool    spread = t->term[DINOV_TERM_DINO].active && t->config.dino.koleo_loss_weight > 0;
    int64_t taught[DINOV_TERMS] = {0};

    *result = (dinov_step_result){0};
    memset(t->state.grads, 0, (size_t)t->student.set.total * t->ops->real_size);
    for (int i = 0; i < DINOV_TERMS; i++) t->term[i].taught = 0;

    for (int64_t i = 0; i < t->micros; i++) teacher_forward(t, &micro[i]);
    DINOV_TRY(make_targets(t, rates->teacher_temp, err));

    /* KoLeo's neighbours may be in another micro-batch, so all cls tokens come first. */
    for (int64_t i = 0; spread && t->micros > 1 && i < t->micros; i++) {
        const dinov_mat *stream;
        student_forward(t, &micro[i], drop ? drop : draw_drop(t, iteration, i), &stream);
        dino_rows(t, &t->term[DINOV_TERM_DINO], 0);
        student_tokens(t, &t->term[DINOV_TERM_DINO], stream);
        collect_cls(t, &t->term[DINOV_TERM_DINO], i);
    }
    if (spread && t->micros > 1) koleo(t, result);

    for (int64_t i = 0; i < t->micros; i++) {
        student_backward(t, i, &micro[i], taught, drop ? drop : draw_drop(t, iteration, i), result);
        taught[DINOV_TERM_DINO] += 2 * t->B;
        taught[DINOV_TERM_IBOT] += micro[i].masked;
    }

    if (t->comm->size > 1) {
        DINOV_TRY(t->comm->all_reduce(t->comm, t->state.grads, t->student.set.total, t->ops->real_size, err));
        dinov_mat all = {t->state.grads, 1, t->student.set.total, t->student.set.total};
        t->ops->gather(&t->stream, &all, &all, NULL, 1 / (double)t->comm->size);
    }
    dinov_gradient_norms(result->grad_norm, &t->student.set, t->state.grads, t->ops, &t->stream);
    result->total_loss = result->dino_local_crops_loss + result->dino_global_crops_loss + result->koleo_loss + result->ibot_loss;
    result->finite     = all_finite(t, result);
    if (result->finite) update(t, rates, result);
    return DINOV_OK;
}
