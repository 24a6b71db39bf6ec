/* SPDX-License-Identifier: Apache-2.0
 *
 * One step of the method, as upstream's forward_backward has it (dinov2/train/ssl_meta_arch.py): teacher,
 * targets, student, losses, backward; then the update, if every number is finite. The last function
 * of this file is the whole step; the ones before it are its parts in order.
 */
#include "train/internal.h"

#include "base/rng.h"
#include "model/real.h"
#include "train/rank.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static void *at(const dinov_trainer *t, void *array, int64_t i) { return (char *)array + (size_t)i * t->ops->real_size; }

/* Which images each branch keeps, for micro-batch `micro` of an iteration. NULL: all of them. */
static const dinov_drop_plan *draw_drop(dinov_trainer *t, int64_t iteration, int64_t micro)
{
    bool any = false;
    for (int64_t block = 0; block < t->student.model.depth; block++) {
        double rate = dinov_trainer_drop_rate(t, block);
        any |= rate > 0;
        for (int g = 0; g < 2; g++) {
            int64_t images         = dinov_trainer_group(t, g).images;
            t->drop.kept[g][block] = (int32_t)dinov_trainer_kept(images, rate);
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
    dinov_head_forward(t->head, &term->teacher, &z, &tokens);
    term->taught += count;
}

/* Row of the stream of global patch `index` of [2B * N]. */
static int32_t patch_row(const dinov_trainer *t, const dinov_pass *pass, int64_t registers, int64_t index)
{
    return (int32_t)dinov_pass_row(pass, GLOBAL, index / t->patches, 1 + registers + index % t->patches);
}

/* Marks the rows that the losses will look at: every cls token and the masked patches. */
static const uint8_t *mark_needed(dinov_trainer *t, const dinov_pass *pass, int groups, int64_t registers, const dinov_views *views)
{
    memset(t->needed, 0, (size_t)dinov_pass_rows(pass));
    for (int g = 0; g < groups; g++)
        for (int64_t i = 0; i < dinov_trainer_group(t, g).images; i++) t->needed[dinov_pass_row(pass, g, i, 0)] = 1;
    for (int64_t i = 0; i < views->masked; i++) t->needed[patch_row(t, pass, registers, views->mask_indices[i])] = 1;
    return t->needed;
}

static void teacher_forward(dinov_trainer *t, const dinov_views *views)
{
    dinov_crops  crops = dinov_trainer_group(t, GLOBAL);
    struct term *dino = &t->term[DINOV_TERM_DINO], *ibot = &t->term[DINOV_TERM_IBOT];
    int64_t      registers = t->teacher.model.registers;

    crops.pixels = views->global;
    const dinov_mat *stream =
        dinov_pass_forward(t->teacher_pass, &t->teacher_params, &crops, mark_needed(t, t->teacher_pass, 1, registers, views), NULL);
    if (dino->active) {
        /* Swapped, so that row i is the other view of the student's row i. */
        for (int64_t i = 0; i < 2 * t->B; i++)
            t->teacher_rows[i] = (int32_t)dinov_pass_row(t->teacher_pass, GLOBAL, (i + t->B) % (2 * t->B), 0);
        teacher_rows(t, dino, stream, 2 * t->B);
    }
    if (ibot->active && views->masked > 0) {
        for (int64_t i = 0; i < views->masked; i++)
            t->teacher_rows[i] = patch_row(t, t->teacher_pass, registers, views->mask_indices[i]);
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
    dinov_crops crops[2]  = {dinov_trainer_group(t, GLOBAL), dinov_trainer_group(t, LOCAL)};
    crops[GLOBAL].pixels  = views->global;
    crops[GLOBAL].mask    = t->distilling ? NULL : views->masks;
    crops[LOCAL].pixels   = views->local;
    const uint8_t *needed = mark_needed(t, t->pass, t->locals ? 2 : 1, t->student.model.registers, views);
    *stream               = dinov_pass_forward(t->pass, &t->params, crops, needed, drop);
}

/* The rows a term takes from the student, their targets and weights. `taught` rows of earlier micro-batches come first. */
static void dino_rows(dinov_trainer *t, struct term *term, int64_t taught)
{
    int64_t B = t->B, n = t->locals;
    /* Upstream: all pairs weigh alike, and the number of local terms is at least 1 even where there are none. */
    double pairs = 2 + (double)(n > 0 ? 2 * n : 1), weight = t->config.dino.head.loss_weight / (pairs * (double)(B * t->micros));
    for (int64_t i = 0; i < (n + 2) * B; i++) {
        bool    local            = i < n * B;
        int64_t image            = local ? i : i - n * B;
        term->rows[i]            = (int32_t)dinov_pass_row(t->pass, local ? LOCAL : GLOBAL, image, 0);
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
            for (int64_t j = begin; j < next; j++)
                dinov_real_set(term->weight, t->ops->real_size, j, scale / (double)(next - begin));
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
    dinov_head_forward(t->head, &term->student, &term->z, &term->tokens);
    dinov_prototypes_learn(term->prototypes, &term->student, &term->dstudent, &term->z, term->targets, term->weight, term->loss,
                           &term->dz);
    dinov_head_backward(t->head, &term->student, &term->dstudent, &term->dtokens, &term->dz);

    double loss = sum_of(t, term->loss, 0, rows), entropy = dinov_prototypes_entropy(term->prototypes), pairs = 0;
    for (int64_t i = 0; i < rows; i++)
        pairs += dinov_real_get(term->weight, t->ops->real_size, i) * (term->targets[2 * i + 1] >= 0 ? 2 : 1);
    result->teacher_entropy[kind] += entropy / (double)t->micros;
    result->kl[kind] += (loss / pairs - entropy) / (double)t->micros;
    if (kind == DINOV_TERM_DINO) {
        double local = sum_of(t, term->loss, 0, t->locals * t->B) / t->config.dino.head.loss_weight;
        result->dino_local_crops_loss += local;
        result->dino_global_crops_loss += loss / t->config.dino.head.loss_weight - local;
    } else
        result->ibot_loss += loss / t->config.ibot.head.loss_weight / 2;
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
        dinov_mat x  = dinov_mat_rows(&t->koleo_tokens, real, view * images, images),
                  dx = dinov_mat_rows(&t->dkoleo, real, view * images, images);
        double loss = 0, copy = 1e-6;
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

static void student_backward(dinov_trainer *t, int64_t micro, const dinov_views *views, const int64_t *taught,
                             const dinov_drop_plan *drop, dinov_step_result *result)
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
            dinov_mat to   = dinov_mat_rows(&dino->dtokens, t->ops->real_size, (t->locals + view) * t->B, t->B);
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
    } losses[] = {{"dino_local_crops_loss", r->dino_local_crops_loss},
                  {"dino_global_crops_loss", r->dino_global_crops_loss},
                  {"koleo_loss", r->koleo_loss},
                  {"ibot_loss", r->ibot_loss}};
    for (size_t i = 0; i < sizeof losses / sizeof losses[0]; i++)
        if (!isfinite(losses[i].value)) return snprintf(r->why, sizeof r->why, "%s", losses[i].name), false;
    for (int i = 0; i < t->student.set.module_count; i++)
        if (!isfinite(r->grad_norm[i])) return snprintf(r->why, sizeof r->why, "gradient of %s", t->student.set.modules[i]), false;
    for (int i = 0; i < DINOV_TERMS; i++) {
        double squares = 0;
        if (t->state.center[i]) t->ops->sum_squares(&t->stream, &squares, t->term[i].next_center, t->term[i].dims.prototypes);
        if (!isfinite(squares))
            return snprintf(r->why, sizeof r->why, "centre of %s", i == DINOV_TERM_DINO ? "dino" : "ibot"), false;
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

double dinov_trainer_feature_rank(const dinov_trainer *t)
{
    enum { MOST = 64 };
    const struct term *dino = &t->term[DINOV_TERM_DINO];
    double             gram[MOST * MOST];
    size_t             real = t->ops->real_size;
    int64_t            C = t->student.model.dim, n = 2 * t->B < MOST ? 2 * t->B : MOST, first = t->locals * t->B;

    if (!dino->active) return 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j <= i; j++) {
            double product = 0;
            for (int64_t c = 0; c < C; c++)
                product += dinov_real_get(dino->tokens.data, real, (first + i) * dino->tokens.ld + c) *
                           dinov_real_get(dino->tokens.data, real, (first + j) * dino->tokens.ld + c);
            gram[i * n + j] = gram[j * n + i] = product;
        }
    return dinov_effective_rank(gram, n);
}

dinov_status dinov_trainer_step(dinov_trainer *t, int64_t iteration, const dinov_views *micro, const dinov_rates *rates,
                                const dinov_drop_plan *drop, dinov_step_result *result, dinov_error *err)
{
    bool    spread              = t->term[DINOV_TERM_DINO].active && t->config.dino.koleo_loss_weight > 0;
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
