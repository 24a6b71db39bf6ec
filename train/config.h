/* SPDX-License-Identifier: Apache-2.0
 *
 * A training run in numbers: upstream's configuration keys under upstream's names
 * (facebookresearch/dinov2, dinov2/configs/ssl_default_config.yaml), and a few of our own, marked.
 */
#ifndef DINOV_TRAIN_CONFIG_H
#define DINOV_TRAIN_CONFIG_H

#include "base/fail.h"
#include "dinov/format.h"

#include <stdbool.h>

typedef enum dinov_centering {
    DINOV_CENTERING       = 1, /* "centering": softmax of the centred logits */
    DINOV_SINKHORN_KNOPP  = 2, /* "sinkhorn_knopp" */
} dinov_centering;

typedef struct dinov_head_config {
    double  loss_weight;
    int64_t head_n_prototypes, head_bottleneck_dim, head_nlayers, head_hidden_dim;
} dinov_head_config;

enum { DINOV_CONFIG_TEXT = 1024 };

typedef struct dinov_config {
    struct {
        dinov_head_config head;
        double            koleo_loss_weight;
    } dino;
    struct {
        dinov_head_config head;
        double            mask_sample_probability, mask_ratio_min_max[2];
        bool              separate_head;
    } ibot;
    struct {
        int64_t         batch_size_per_gpu; /* images of one micro-batch */
        int64_t         accumulation;       /* ours: micro-batches of one step (1) */
        char            dataset_path[DINOV_CONFIG_TEXT], output_dir[DINOV_CONFIG_TEXT];
        int64_t         saveckp_freq; /* epochs between checkpoints */
        int64_t         seed, num_workers, OFFICIAL_EPOCH_LENGTH;
        dinov_centering centering;
        bool            recompute; /* ours: activations are computed again instead of kept (false) */
    } train;
    struct {
        char    arch[32];                 /* vit_small, vit_base, vit_large, vit_giant2, or vit_custom with the next three */
        int64_t embed_dim, depth, num_heads; /* ours */
        int64_t patch_size, num_register_tokens;
        double  drop_path_rate, layerscale;
        bool    drop_path_uniform, qkv_bias, interpolate_antialias;
        dinov_ffn ffn_layer;
        double  interpolate_offset;
        char    pretrained_weights[DINOV_CONFIG_TEXT];
    } student;
    struct {
        double  momentum_teacher, final_momentum_teacher, warmup_teacher_temp, teacher_temp;
        int64_t warmup_teacher_temp_epochs;
    } teacher;
    struct {
        int64_t epochs, warmup_epochs, freeze_last_layer_epochs;
        double  weight_decay, weight_decay_end, base_lr, min_lr, clip_grad, patch_embed_lr_mult, layerwise_decay;
        double  adamw_beta1, adamw_beta2;
    } optim;
    struct {
        double  global_crops_scale[2], local_crops_scale[2];
        int64_t local_crops_number, global_crops_size, local_crops_size;
        bool    blur_as_published; /* ours: blur with the published probabilities, not those of the released training (false) */
    } crops;
} dinov_config;

/* Upstream's ssl_default_config.yaml, with our own keys at their defaults. */
void dinov_config_default(dinov_config *config);

/* The student's numbers. ERR_CONFIG (CFG-ARCH, CFG-VALUE) for an architecture that does not exist or cannot be. */
dinov_status dinov_config_model(const dinov_config *config, dinov_model *model, dinov_error *err);

#endif
