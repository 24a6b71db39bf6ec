/* SPDX-License-Identifier: Apache-2.0
 *
 * A training run in numbers: upstream's configuration keys under upstream's names
 * (facebookresearch/dinov2, dinov2/configs/ssl_default_config.yaml), and a few of our own, marked.
 */
#ifndef DINOV_TRAIN_CONFIG_H
#define DINOV_TRAIN_CONFIG_H

#include "base/fail.h"
#include "base/text.h"
#include "dinov/format.h"

#include <stdbool.h>

typedef enum dinov_centering {
    DINOV_CENTERING      = 1, /* "centering": softmax of the centred logits */
    DINOV_SINKHORN_KNOPP = 2, /* "sinkhorn_knopp" */
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
        char            dataset_path[DINOV_CONFIG_TEXT], output_dir[DINOV_CONFIG_TEXT];
        int64_t         saveckp_freq; /* epochs between checkpoints, unless save_every says otherwise */
        int64_t         seed, num_workers, OFFICIAL_EPOCH_LENGTH;
        dinov_centering centering;
        /* ours */
        int64_t accumulation; /* micro-batches of one step */
        bool    recompute;    /* activations are computed again instead of kept */
        int64_t save_every, keep_last, keep_every, log_every;
        int64_t bad_steps; /* steps in a row that are not finite and end the run */
        int64_t cache_mib; /* decoded pictures kept in memory */
    } train;
    struct {
        char      arch[32];
        int64_t   embed_dim, depth, num_heads; /* ours: of arch vit_custom */
        int64_t   patch_size, num_register_tokens;
        double    drop_path_rate, layerscale;
        bool      drop_path_uniform, qkv_bias, interpolate_antialias;
        dinov_ffn ffn_layer;
        double    interpolate_offset;
        char      pretrained_weights[DINOV_CONFIG_TEXT];
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
        bool    blur_as_published; /* ours: blur with the published probabilities, not those of the released training */
    } crops;
    struct {               /* ours */
        int64_t knn_every; /* steps between k-NN figures; 0: none */
        char    knn_train[DINOV_CONFIG_TEXT], knn_test[DINOV_CONFIG_TEXT];
    } evaluation;
} dinov_config;

/* Upstream's ssl_default_config.yaml, with our own keys at their defaults. */
void dinov_config_default(dinov_config *config);

/* Called with a sentence for each key that is understood and has no meaning here. */
typedef void (*dinov_config_note)(void *arg, const char *sentence);

/* Sets what a YAML document says, over what is there. `name` stands for the file. note may be NULL. ERR_CONFIG: CFG-YAML for what
 * is no plain mapping of keys, CFG-KEY for an unknown key (with the nearest name), CFG-VALUE, CFG-ARCH, CFG-REFUSED. ERR_NOMEM. */
dinov_status dinov_config_read(dinov_config *config, const void *yaml, size_t size, const char *name, dinov_config_note note,
                               void *arg, dinov_error *err);
/* A file, or one of our presets by name ("tiny-cpu"). */
dinov_status dinov_config_load(dinov_config *config, const char *path, dinov_config_note note, void *arg, dinov_error *err);
/* "optim.base_lr=0.002", "ibot.mask_ratio_min_max=[0.1,0.5]"; a value in quotes is read as YAML, any other text as it is. */
dinov_status dinov_config_set(dinov_config *config, const char *assignment, dinov_config_note note, void *arg, dinov_error *err);
/* Sets a key that exists from text as it is, a path of an option say, under the same bounds; `where` stands for its place.
 * CFG-VALUE. */
dinov_status dinov_config_put(dinov_config *config, const char *key, const char *text, const char *where, dinov_error *err);

/* Every key, as YAML that reads back to the same configuration. dinov_text_clear; `failed` when memory ran out. */
void dinov_config_print(const dinov_config *config, dinov_text *out);
/* A line for each key that differs, "optim.base_lr: 0.004 -> 0.002"; false when there is none. Keys that may change in the
 * middle of a run are left out unless `all`, and then end in " (may change)". */
bool dinov_config_diff(const dinov_config *a, const dinov_config *b, bool all, dinov_text *out);
/* The table of keys as Markdown: docs/config.md. */
void dinov_config_document(dinov_text *out);

/* The student's numbers. ERR_CONFIG: CFG-ARCH for an architecture that does not exist or sizes beside one that has its own,
 * CFG-VALUE for sizes that do not fit. */
dinov_status dinov_config_model(const dinov_config *config, dinov_model *model, dinov_error *err);
/* train.dataset_path names pictures, not a data set of the official code. ERR_CONFIG CFG-DATA. */
dinov_status dinov_config_check_data(const dinov_config *config, dinov_error *err);

#endif
