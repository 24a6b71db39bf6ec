/* SPDX-License-Identifier: Apache-2.0
 *
 * Pretraining (Oquab et al., "DINOv2", section 4), a step at a time:
 *   two global crops and several local ones of each picture, some patches of the global ones masked;
 *   the teacher, an average of the student, sees the whole global crops;
 *   its class tokens, centred and sharpened over prototypes, are what the student's class tokens of
 *   every other crop must predict (DINO), its patch tokens what the student must predict at the patches
 *   masked from it (iBOT), while class tokens of different pictures keep apart (KoLeo);
 *   AdamW moves the student, the average follows it.
 * train/step.c has each of these lines as a function.
 */
#include "train/session.h"

dinov_status dinov_pretrain(const dinov_train_options *options, bool *stopped, dinov_error *err)
{
    dinov_session     *session;
    const dinov_views *crops;
    dinov_step_result  result;
    dinov_status       status;

    *stopped = false;
    DINOV_TRY(dinov_session_open(&session, options, err));
    while (dinov_session_goes_on(session)) {
        dinov_rates rates = dinov_session_rates(session);
        DINOV_TRY_GOTO(dinov_session_crops(session, &crops, err));
        DINOV_TRY_GOTO(dinov_trainer_step(dinov_session_trainer(session), dinov_session_iteration(session), crops, &rates, NULL,
                                          &result, err));
        DINOV_TRY_GOTO(dinov_session_done(session, &result, err));
    }
    *stopped = dinov_session_stopped(session);
    return dinov_session_close(&session, err);
fail:
    dinov_session_close(&session, NULL);
    return status;
}
