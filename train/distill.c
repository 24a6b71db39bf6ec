/* SPDX-License-Identifier: Apache-2.0
 *
 * Distillation (Oquab et al., "DINOv2", section 5): pretraining with these lines changed:
 *   the teacher is a larger model, frozen, with the heads it was trained with;
 *   the student sees no mask and drops no branch, so the masked loss compares visible patches, those that
 *   the masks choose;
 *   the average of the student teaches nobody: it is the result.
 * The student's heads are its own and have the teacher's numbers of prototypes.
 */
#include "train/session.h"

dinov_status dinov_distill(const dinov_train_options *options, bool *stopped, dinov_error *err)
{
    dinov_session     *session;
    const dinov_views *crops;
    dinov_step_result  result;
    dinov_status       status;

    *stopped = false;
    DINOV_ASSERT(options->teacher);
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
