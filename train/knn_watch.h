/* SPDX-License-Identifier: Apache-2.0
 *
 * A k-NN figure while training: how well the averaged model sorts labelled pictures, which training itself
 * never sees the labels of (eval/knn.h).
 */
#ifndef DINOV_TRAIN_KNN_WATCH_H
#define DINOV_TRAIN_KNN_WATCH_H

#include "train/trainer.h"

typedef struct dinov_knn_watch dinov_knn_watch;

/* `train` votes and `test` is asked: a folder of class folders, or tar shards with KEY.cls; several paths are separated by ':'.
 * Pictures are brought to size x size. Errors: as dinov_source_open. */
dinov_status dinov_knn_watch_open(dinov_knn_watch **out, const char *train, const char *test, int64_t size, int threads,
                                  dinov_error *err);
void         dinov_knn_watch_close(dinov_knn_watch **probe);

/* 20-NN accuracy of the average, top 1, as a part of 1; sets smaller than 20 vote as a whole. Errors: as dinov_set_extract,
 * dinov_knn. */
dinov_status dinov_knn_watch_run(dinov_knn_watch *probe, double *top1, const dinov_train_state *state, const dinov_model *model,
                                 const dinov_ops *ops, dinov_pool *pool, dinov_error *err);

#endif
