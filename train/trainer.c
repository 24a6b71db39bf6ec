/* SPDX-License-Identifier: Apache-2.0
 *
 * A trainer's numbers and memory: what the configuration asks for, laid out once. The step is step.c.
 */
#include "train/internal.h"

#include "base/alloc.h"

#include <math.h>
#include <string.h>

/* Bytes of a term's logits kept at a time, teacher and student together: few enough to stay in the cache, which is worth
 * computing them twice where they do not all fit. */
static const size_t LOGITS_BUDGET = (size_t)16 << 20;

dinov_crops dinov_trainer_group(const dinov_trainer *t, int group)
{
    int64_t size = group == GLOBAL ? t->config.crops.global_crops_size : t->config.crops.local_crops_size,
            side = size / t->student.model.patch;
    return (dinov_crops){.images = (group == GLOBAL ? 2 : t->locals) * t->B, .h = side, .w = side};
}

/* dinov2/models/vision_transformer.py: uniform, or from 0 to the rate over depth. */
double dinov_trainer_drop_rate(const dinov_trainer *t, int64_t block)
{
    double  rate  = t->distilling ? 0 : t->config.student.drop_path_rate;
    int64_t depth = t->student.model.depth;
    if (t->config.student.drop_path_uniform || depth == 1) return rate;
    return rate * (double)block / (double)(depth - 1);
}

int64_t dinov_trainer_kept(int64_t images, double rate)
{
    int64_t kept = (int64_t)((double)images * (1 - rate));
    return kept > 1 ? kept : images < 1 ? images : 1;
}

static dinov_pass_plan pass_plan(const dinov_trainer *t, bool teacher)
{
    dinov_pass_plan plan = {.kind   = teacher                     ? DINOV_PASS_FORWARD
                                      : t->config.train.recompute ? DINOV_PASS_RECOMPUTE
                                                                  : DINOV_PASS_KEEP,
                            .groups = teacher || t->locals == 0 ? 1 : 2};
    for (int g = 0; g < plan.groups; g++) {
        dinov_crops shape    = dinov_trainer_group(t, g);
        plan.group[g].images = plan.group[g].kept = shape.images;
        plan.group[g].h = shape.h, plan.group[g].w = shape.w;
        if (teacher) continue;
        plan.group[g].kept = 0;
        for (int64_t i = 0; i < t->student.model.depth; i++) {
            int64_t kept = dinov_trainer_kept(shape.images, dinov_trainer_drop_rate(t, i));
            if (kept > plan.group[g].kept) plan.group[g].kept = kept;
        }
    }
    return plan;
}

static dinov_prototypes_plan prototypes_plan(const dinov_trainer *t, const struct term *term)
{
    return (dinov_prototypes_plan){.prototypes         = term->dims.prototypes,
                                   .bottleneck         = term->dims.bottleneck,
                                   .teacher_bottleneck = term->teacher_dims.bottleneck,
                                   .teacher_rows       = term->teacher_rows,
                                   .student_rows       = term->student_rows,
                                   .centering          = t->config.train.centering,
                                   .logits_budget      = t->logits_budget};
}

/* Every head of the step, one after another: at most two a term. Returns how many. */
static int head_uses(const dinov_trainer *t, dinov_head_use *uses)
{
    int count = 0;
    for (int i = 0; i < DINOV_TERMS; i++) {
        const struct term *term = &t->term[i];
        if (!term->active) continue;
        uses[count++] = (dinov_head_use){term->dims, term->student_rows};
        uses[count++] = (dinov_head_use){term->teacher_dims, term->teacher_rows / t->micros};
    }
    return count;
}

dinov_head_dims dinov_config_head(const dinov_head_config *c, int64_t in)
{
    return (dinov_head_dims){.in         = in,
                             .hidden     = c->head_hidden_dim,
                             .bottleneck = c->head_bottleneck_dim,
                             .prototypes = c->head_n_prototypes,
                             .layers     = c->head_nlayers};
}

/* The most patches that can be masked in a micro-batch: upstream's upperbound, each share rounded up. */
static int64_t most_masked(const dinov_trainer *t)
{
    int64_t       masked = (int64_t)((double)(2 * t->B) * t->config.ibot.mask_sample_probability), most = 0;
    const double *ratio = t->config.ibot.mask_ratio_min_max;
    for (int64_t i = 1; i <= masked; i++)
        most += (int64_t)ceil((double)t->patches * (ratio[0] + (ratio[1] - ratio[0]) * (double)i / (double)masked));
    return most;
}

/* The numbers of everything, from the configuration. */
static dinov_status describe(dinov_trainer *t, const dinov_trainer_options *o, dinov_error *err)
{
    const dinov_config *c = o->config;

    t->config          = *c;
    t->ops             = o->ops;
    t->pool            = o->pool;
    t->comm            = o->comm ? o->comm : &dinov_comm_self;
    t->distilling      = o->teacher != NULL;
    t->logits_budget   = o->logits_budget ? o->logits_budget : LOGITS_BUDGET;
    t->student.model   = *o->model;
    t->teacher.model   = o->teacher ? o->teacher->model : t->student.model;
    t->B               = c->train.batch_size_per_gpu;
    t->micros          = c->train.accumulation;
    t->locals          = c->crops.local_crops_number;
    dinov_crops global = dinov_trainer_group(t, GLOBAL);
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
        bool own                = i == DINOV_TERM_IBOT && c->ibot.separate_head;
        t->term[i].dims         = dinov_config_head(own ? &c->ibot.head : &c->dino.head, t->student.model.dim);
        t->term[i].teacher_dims = o->teacher ? o->teacher->head[i] : t->term[i].dims;
        if (t->term[i].active && t->term[i].teacher_dims.prototypes != t->term[i].dims.prototypes)
            return dinov_fail(err, DINOV_ERR_CONFIG, "CFG-TEACHER", "%s.head_n_prototypes: expected the teacher's %lld, found %lld",
                              own ? "ibot" : "dino", (long long)t->term[i].teacher_dims.prototypes,
                              (long long)t->term[i].dims.prototypes);
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
    dinov_arena *a    = &t->arena;
    size_t       real = t->ops->real_size;
    int64_t      C = t->student.model.dim, most = 0;

    t->state.student = dinov_arena_take(a, t->student.set.total, real);
    t->state.average = dinov_arena_take(a, t->student.set.total, real);
    t->state.m       = dinov_arena_take(a, t->student.set.total, real);
    t->state.v       = dinov_arena_take(a, t->student.set.total, real);
    t->state.grads   = dinov_arena_take(a, t->student.set.total, real);
    t->state.teacher = t->distilling ? dinov_arena_take(a, t->teacher.set.total, real) : t->state.average;
    for (int i = 0; i < DINOV_TERMS; i++) {
        struct term *term      = &t->term[i];
        bool         centred   = term->active && t->config.train.centering == DINOV_CENTERING;
        t->state.prototypes[i] = term->dims.prototypes;
        t->state.center[i]     = centred ? dinov_arena_take(a, term->dims.prototypes, real) : NULL;
        term->next_center      = centred ? dinov_arena_take(a, term->dims.prototypes, real) : NULL;
        term->targets_z        = dinov_mat_take(a, term->teacher_rows, term->teacher_dims.bottleneck, real);
        term->rows             = dinov_arena_take(a, term->student_rows, sizeof(int32_t));
        term->targets          = dinov_arena_take(a, 2 * term->student_rows, sizeof(int32_t));
        term->raw              = dinov_mat_take(a, term->student_rows, C, real);
        term->tokens           = dinov_mat_take(a, term->student_rows, C, real);
        term->dtokens          = dinov_mat_take(a, term->student_rows, C, real);
        term->z                = dinov_mat_take(a, term->student_rows, term->dims.bottleneck, real);
        term->dz               = dinov_mat_take(a, term->student_rows, term->dims.bottleneck, real);
        term->weight           = dinov_arena_take(a, term->student_rows, real);
        term->loss             = dinov_arena_take(a, term->student_rows, real);
        if (term->teacher_rows / t->micros > most) most = term->teacher_rows / t->micros;
        if (term->student_rows > most) most = term->student_rows;
    }
    int64_t tokens = 0;
    for (int g = 0; g < 2; g++) {
        dinov_crops shape = dinov_trainer_group(t, g);
        int64_t     registers =
            t->student.model.registers > t->teacher.model.registers ? t->student.model.registers : t->teacher.model.registers;
        tokens += shape.images * (1 + registers + shape.h * shape.w);
    }
    t->needed         = dinov_arena_take(a, tokens, 1);
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
        t->drop.keep[g] = dinov_arena_take(a, 2 * t->student.model.depth * dinov_trainer_group(t, g).images, sizeof(int32_t));
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
    dinov_head_use uses[2 * DINOV_TERMS];
    DINOV_TRY(dinov_head_pass_new(&t->head, uses, head_uses(t, uses), t->ops, t->pool, err));
    for (int i = 0; i < DINOV_TERMS; i++) {
        struct term          *term = &t->term[i];
        dinov_prototypes_plan plan = prototypes_plan(t, term);
        if (!term->active) continue;
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
    dinov_paramset_init(&t->student.set, t->state.student, t->ops->real_size, (uint64_t)t->config.train.seed,
                        t->config.student.layerscale);
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
    for (int i = 0; i < DINOV_TERMS; i++) dinov_prototypes_free(&t->term[i].prototypes);
    dinov_head_pass_free(&t->head);
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

dinov_status dinov_trainer_memory(size_t *bytes, int64_t *parameters, const dinov_trainer_options *options, dinov_error *err)
{
    dinov_trainer t      = {0};
    dinov_status  status = describe(&t, options, err);
    *bytes               = 0;
    *parameters          = 0;
    if (status == DINOV_OK) status = list_parameters(&t, options->teacher, err);
    if (status == DINOV_OK) {
        int             threads = dinov_pool_threads(options->pool);
        dinov_pass_plan student = pass_plan(&t, false), teacher = pass_plan(&t, true);
        lay_out(&t);
        for (int64_t i = 0; i < t.student.set.count; i++) *parameters += t.student.set.entries[i].count;
        *bytes = t.arena.used + dinov_pass_memory(&t.student.model, t.ops, &student, threads) +
                 dinov_pass_memory(&t.teacher.model, t.ops, &teacher, threads);
        dinov_head_use uses[2 * DINOV_TERMS];
        *bytes += dinov_head_pass_memory(uses, head_uses(&t, uses), t.ops);
        for (int i = 0; i < DINOV_TERMS; i++) {
            const struct term    *term = &t.term[i];
            dinov_prototypes_plan plan = prototypes_plan(&t, term);
            if (term->active) *bytes += dinov_prototypes_memory(&plan, t.ops);
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
