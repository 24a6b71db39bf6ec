/* SPDX-License-Identifier: Apache-2.0
 *
 * What a trainer is made of: shared by trainer.c, which lays it out, and step.c, which moves it.
 */
#ifndef DINOV_TRAIN_INTERNAL_H
#define DINOV_TRAIN_INTERNAL_H

#include "train/prototypes.h"
#include "train/trainer.h"

enum { GLOBAL = 0, LOCAL = 1 }; /* groups of crops */

/* One of the two cross-entropies: rows of tokens, their head, its prototypes. */
struct term {
    bool              active;
    dinov_head_dims   dims, teacher_dims;
    dinov_head        student, dstudent, teacher;
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
    dinov_head_pass  *head; /* of every head in turn */
    struct term       term[DINOV_TERMS];
    dinov_stream      stream;
    dinov_arena       arena;

    uint8_t  *needed;                      /* [rows of the student's stream] those that a loss looks at; the teacher's are fewer */
    dinov_mat teacher_raw, teacher_tokens; /* [rows of a term in one micro-batch, C of the teacher] */
    int32_t  *teacher_rows;
    dinov_mat koleo_tokens, dkoleo; /* [micros * 2B, C] ordered by view, then image */
    void     *distance;             /* [micros * B] */

    dinov_drop_plan drop;
};

/* The crops of one micro-batch in that group, without their pixels. */
dinov_crops dinov_trainer_group(const dinov_trainer *t, int group);
/* The rate at which a block of the student drops images, and how many of them its branches keep. */
double  dinov_trainer_drop_rate(const dinov_trainer *t, int64_t block);
int64_t dinov_trainer_kept(int64_t images, double rate);

#endif
