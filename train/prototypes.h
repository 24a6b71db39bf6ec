/* SPDX-License-Identifier: Apache-2.0
 *
 * From unit vectors to the loss over prototypes: the last layer of both heads (logits W z, W_k =
 * g_k v_k / |v_k|), the teacher's centring, the student's cross-entropy, and its gradient
 * (dinov2/loss/dino_clstoken_loss.py, ibot_patch_loss.py).
 *
 * Logits come a chunk of prototypes at a time and are computed again where they are needed again, so
 * memory does not grow with their number; when all fit into one chunk nothing is computed twice.
 *
 * Every teacher target is a softmax: centring is softmax((z - c) / t), and Sinkhorn-Knopp is
 * softmax(z / t + log v), where v and the samples' scalings 1 / u are normalised in turn. (Q =
 * diag(u) exp(z / t) diag(v); the constants K, B and the first division by the total cancel when the
 * last step makes the rows sum to 1.)
 */
#ifndef DINOV_TRAIN_PROTOTYPES_H
#define DINOV_TRAIN_PROTOTYPES_H

#include "model/head.h"
#include "train/comm.h"
#include "train/config.h"

/* Fixed by the method: the student's temperature, the centre's momentum, the rounds of Sinkhorn-Knopp. */
#define DINOV_STUDENT_TEMPERATURE 0.1
#define DINOV_CENTER_MOMENTUM 0.9
enum { DINOV_SINKHORN_ROUNDS = 3 };

typedef struct dinov_prototypes dinov_prototypes;

typedef struct dinov_prototypes_plan {
    int64_t         prototypes, bottleneck, teacher_bottleneck;
    int64_t         teacher_rows, student_rows; /* the most of one call */
    dinov_centering centering;
    size_t          logits_budget; /* bytes of logits kept at a time */
} dinov_prototypes_plan;

/* `ops`, `pool` and `comm` are kept. */
dinov_status dinov_prototypes_new(dinov_prototypes **out, const dinov_prototypes_plan *plan, const dinov_ops *ops, dinov_pool *pool,
                                  const dinov_comm *comm, dinov_error *err);
void         dinov_prototypes_free(dinov_prototypes **prototypes);
size_t       dinov_prototypes_memory(const dinov_prototypes_plan *plan, const dinov_ops *ops);

/* Makes the targets of one step from the teacher's unit rows z [M, teacher_bottleneck], M >= 1 over all ranks; z and `teacher` stay
 * in use. center: real [K], centring only; next_center [K] receives what it will be in the next step. */
dinov_status dinov_prototypes_teach(dinov_prototypes *p, const dinov_head *teacher, const dinov_mat *z, double temperature,
                                    const void *center, void *next_center, dinov_error *err);

/* The loss of the student's unit rows z [M, bottleneck] against rows of the targets: row m has targets[2m] and
 * targets[2m + 1] (-1: none), each with weight[m] (real [M]). loss [M] receives weight times cross-entropy, summed over the
 * row's targets; dz [M, bottleneck] its gradient; grads->g and grads->v accumulate. */
void dinov_prototypes_learn(dinov_prototypes *p, const dinov_head *student, const dinov_head *grads, const dinov_mat *z,
                            const int32_t *targets, const void *weight, void *loss, dinov_mat *dz);

/* Mean entropy of the targets of the last step, in nats; valid after dinov_prototypes_learn. */
double dinov_prototypes_entropy(const dinov_prototypes *p);

#endif
