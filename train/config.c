/* SPDX-License-Identifier: Apache-2.0
 *
 * One row a key: its name, where it lies, its default, its bounds and its help. Defaults, reading,
 * writing, comparing and docs/config.md all come from this table.
 */
#include "train/config.h"

#include "format/params.h"
#include "train/config_rows.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define KEY(field) offsetof(dinov_config, field)
#define HEAD(group, name)                                                                                                          \
    {name ".head_n_prototypes", DINOV_CFG_INT, KEY(group.head.head_n_prototypes), "65536", 1, 1 << 24, 0, "prototypes K"},         \
        {name ".head_bottleneck_dim",  DINOV_CFG_INT, KEY(group.head.head_bottleneck_dim), "256", 1, 1 << 16, 0,                   \
         "width before the prototypes"},                                                                                           \
        {name ".head_nlayers", DINOV_CFG_INT, KEY(group.head.head_nlayers), "3", 1, 8, 0, "layers of the head's MLP"},             \
    {                                                                                                                              \
        name ".head_hidden_dim", DINOV_CFG_INT, KEY(group.head.head_hidden_dim), "2048", 1, 1 << 20, 0,                            \
            "width inside the head's MLP"                                                                                          \
    }

#define PRECISION(part, reduce)                                                                                                    \
    {"compute_precision." part ".sharding_strategy", DINOV_CFG_IGNORED, 0, "SHARD_GRAD_OP", 0, 0, 0, PRECISION_HELP},              \
        {"compute_precision." part ".mixed_precision.param_dtype", DINOV_CFG_IGNORED, 0, "fp16", 0, 0, 0, PRECISION_HELP},         \
        {"compute_precision." part ".mixed_precision.reduce_dtype", DINOV_CFG_IGNORED, 0, reduce, 0, 0, 0, PRECISION_HELP},        \
    {                                                                                                                              \
        "compute_precision." part ".mixed_precision.buffer_dtype", DINOV_CFG_IGNORED, 0, "fp32", 0, 0, 0, PRECISION_HELP           \
    }

static const char PRECISION_HELP[] = "everything is computed in f32";

#define REAL_MAX 1e9
#define WHOLE_MAX 1e12
/* Of what is multiplied into steps or images, so that products stay inside 63 bits. */
#define FACTOR_MAX 2147483647.0

static const struct row rows[] = {
    {"dino.loss_weight", DINOV_CFG_REAL, KEY(dino.head.loss_weight), "1.0", 0, REAL_MAX, 0,
     "weight of the DINO loss; 0 leaves it out"},
    HEAD(dino, "dino"),
    {"dino.koleo_loss_weight", DINOV_CFG_REAL, KEY(dino.koleo_loss_weight), "0.1", 0, REAL_MAX, 0, "weight of KoLeo"},
    {"ibot.loss_weight", DINOV_CFG_REAL, KEY(ibot.head.loss_weight), "1.0", 0, REAL_MAX, 0,
     "weight of the iBOT loss; 0 leaves it out"},
    {"ibot.mask_sample_probability", DINOV_CFG_REAL, KEY(ibot.mask_sample_probability), "0.5", 0, 1, 0,
     "part of the global crops that is masked"},
    {"ibot.mask_ratio_min_max", DINOV_CFG_PAIR, KEY(ibot.mask_ratio_min_max), "[0.1, 0.5]", 0, 1, 0,
     "part of a masked crop's patches"},
    {"ibot.separate_head", DINOV_CFG_BOOL, KEY(ibot.separate_head), "false", 0, 1, 0, "iBOT has a head of its own"},
    HEAD(ibot, "ibot"),
    {"train.batch_size_per_gpu", DINOV_CFG_INT, KEY(train.batch_size_per_gpu), "64", 1, 1 << 20, 0, "images of one micro-batch"},
    {"train.accumulation", DINOV_CFG_INT, KEY(train.accumulation), "1", 1, 1 << 16, 0,
     "ours: micro-batches of one step; centring, Sinkhorn-Knopp and KoLeo see all of them"},
    {"train.dataset_path", DINOV_CFG_TEXT, KEY(train.dataset_path), "ImageNet:split=TRAIN", 0, 0, 0,
     "folders, lists or tar shards, separated by ':'; usually given on the command line"},
    {"train.output_dir", DINOV_CFG_TEXT, KEY(train.output_dir), ".", 0, 0, 1,
     "the run's folder; usually given on the command line (-o)"},
    {"train.saveckp_freq", DINOV_CFG_INT, KEY(train.saveckp_freq), "20", 1, FACTOR_MAX, 1, "epochs between checkpoints"},
    {"train.save_every", DINOV_CFG_INT, KEY(train.save_every), "0", 0, WHOLE_MAX, 1,
     "ours: steps between checkpoints; 0: saveckp_freq epochs"},
    {"train.keep_last", DINOV_CFG_INT, KEY(train.keep_last), "3", 2, WHOLE_MAX, 1, "ours: newest checkpoints that are kept"},
    {"train.keep_every", DINOV_CFG_INT, KEY(train.keep_every), "0", 0, WHOLE_MAX, 1,
     "ours: checkpoints of steps that divide by it are kept too; 0: none"},
    {"train.log_every", DINOV_CFG_INT, KEY(train.log_every), "10", 1, WHOLE_MAX, 1, "ours: steps between lines of metrics.jsonl"},
    {"train.bad_steps", DINOV_CFG_INT, KEY(train.bad_steps), "3", 1, WHOLE_MAX, 1,
     "ours: steps in a row that are not finite and end the run"},
    {"train.cache_mib", DINOV_CFG_INT, KEY(train.cache_mib), "256", 0, 1 << 24, 1, "ours: MiB of decoded pictures kept in memory"},
    {"train.recompute", DINOV_CFG_BOOL, KEY(train.recompute), "false", 0, 1, 1,
     "ours: compute activations again instead of keeping them"},
    {"train.seed", DINOV_CFG_INT, KEY(train.seed), "0", 0, WHOLE_MAX, 0, "seed of everything that is drawn"},
    {"train.num_workers", DINOV_CFG_INT, KEY(train.num_workers), "10", 1, 1024, 1,
     "threads that prepare pictures, at most one a core"},
    {"train.OFFICIAL_EPOCH_LENGTH", DINOV_CFG_INT, KEY(train.OFFICIAL_EPOCH_LENGTH), "1250", 1, FACTOR_MAX, 0,
     "steps of an epoch, however many pictures there are"},
    {"train.cache_dataset", DINOV_CFG_IGNORED, 0, "true", 0, 0, 0, "the index is always built at the start"},
    {"train.centering", DINOV_CFG_CENTERING, KEY(train.centering), "centering", 0, 0, 0,
     "how targets of the teacher are balanced over the prototypes"},
    {"student.arch", DINOV_CFG_ARCH, KEY(student.arch), "vit_large", 0, 0, 0,
     "the transformer; ours: vit_custom, with the three below"},
    {"student.embed_dim", DINOV_CFG_INT, KEY(student.embed_dim), "384", 1, 1 << 16, 0, "ours: width of vit_custom"},
    {"student.depth", DINOV_CFG_INT, KEY(student.depth), "12", 1, 4096, 0, "ours: blocks of vit_custom"},
    {"student.num_heads", DINOV_CFG_INT, KEY(student.num_heads), "6", 1, 4096, 0, "ours: heads of vit_custom"},
    {"student.patch_size", DINOV_CFG_INT, KEY(student.patch_size), "16", 1, 1024, 0, "side of a patch"},
    {"student.drop_path_rate", DINOV_CFG_REAL, KEY(student.drop_path_rate), "0.3", 0, 0.999, 0,
     "part of a batch that a block leaves out (stochastic depth)"},
    {"student.layerscale", DINOV_CFG_REAL, KEY(student.layerscale), "1.0e-05", 0, REAL_MAX, 0,
     "first value of LayerScale; 0: none"},
    {"student.drop_path_uniform", DINOV_CFG_BOOL, KEY(student.drop_path_uniform), "true", 0, 1, 0,
     "the same rate in every block, or growing from 0"},
    {"student.pretrained_weights", DINOV_CFG_TEXT, KEY(student.pretrained_weights), "", 0, 0, 0, "backbone to start from (--init)"},
    {"student.ffn_layer", DINOV_CFG_FFN, KEY(student.ffn_layer), "mlp", 0, 0, 0,
     "feed-forward layer of the blocks; the two swiglu are one"},
    {"student.block_chunks", DINOV_CFG_IGNORED, 0, "0", 0, 0, 0, "blocks are not grouped"},
    {"student.qkv_bias", DINOV_CFG_BOOL, KEY(student.qkv_bias), "true", 0, 1, 0, "attn.qkv has a bias"},
    {"student.proj_bias", DINOV_CFG_FIXED, 0, "true", 0, 0, 0, "always true"},
    {"student.ffn_bias", DINOV_CFG_FIXED, 0, "true", 0, 0, 0, "always true"},
    {"student.num_register_tokens", DINOV_CFG_INT, KEY(student.num_register_tokens), "0", 0, 4096, 0, "register tokens"},
    {"student.interpolate_antialias", DINOV_CFG_BOOL, KEY(student.interpolate_antialias), "false", 0, 1, 0,
     "position embeddings are resampled with antialiasing"},
    {"student.interpolate_offset", DINOV_CFG_REAL, KEY(student.interpolate_offset), "0.1", 0, 0.999, 0,
     "and with this added to the target's side"},
    {"teacher.momentum_teacher", DINOV_CFG_REAL, KEY(teacher.momentum_teacher), "0.992", 0, 1, 0,
     "momentum of the teacher's average at the start"},
    {"teacher.final_momentum_teacher", DINOV_CFG_REAL, KEY(teacher.final_momentum_teacher), "1.0", 0, 1, 0, "and at the end"},
    {"teacher.warmup_teacher_temp", DINOV_CFG_REAL, KEY(teacher.warmup_teacher_temp), "0.04", 1e-3, 10, 0,
     "teacher temperature at the start"},
    {"teacher.teacher_temp", DINOV_CFG_REAL, KEY(teacher.teacher_temp), "0.07", 1e-3, 10, 0, "and after its warm-up"},
    {"teacher.warmup_teacher_temp_epochs", DINOV_CFG_INT, KEY(teacher.warmup_teacher_temp_epochs), "30", 0, FACTOR_MAX, 0,
     "length of that warm-up, in epochs"},
    {"optim.epochs", DINOV_CFG_INT, KEY(optim.epochs), "100", 1, FACTOR_MAX, 0, "length of the run, in epochs"},
    {"optim.weight_decay", DINOV_CFG_REAL, KEY(optim.weight_decay), "0.04", 0, REAL_MAX, 0, "weight decay at the start"},
    {"optim.weight_decay_end", DINOV_CFG_REAL, KEY(optim.weight_decay_end), "0.4", 0, REAL_MAX, 0, "and at the end"},
    {"optim.base_lr", DINOV_CFG_REAL, KEY(optim.base_lr), "0.004", 0, REAL_MAX, 0,
     "learning rate of a batch of 1024; scaled by sqrt(batch / 1024)"},
    {"optim.lr", DINOV_CFG_IGNORED, 0, "0.", 0, 0, 0, "computed from base_lr"},
    {"optim.warmup_epochs", DINOV_CFG_INT, KEY(optim.warmup_epochs), "10", 0, FACTOR_MAX, 0,
     "warm-up of the learning rate, in epochs"},
    {"optim.min_lr", DINOV_CFG_REAL, KEY(optim.min_lr), "1.0e-06", 0, REAL_MAX, 0, "learning rate at the end; not scaled"},
    {"optim.clip_grad", DINOV_CFG_REAL, KEY(optim.clip_grad), "3.0", 0, REAL_MAX, 0,
     "largest gradient norm of a module; 0: no clipping"},
    {"optim.freeze_last_layer_epochs", DINOV_CFG_INT, KEY(optim.freeze_last_layer_epochs), "1", 0, FACTOR_MAX, 0,
     "epochs in which the prototypes stand still"},
    {"optim.scaling_rule", DINOV_CFG_FIXED, 0, "sqrt_wrt_1024", 0, 0, 0, "the only rule"},
    {"optim.patch_embed_lr_mult", DINOV_CFG_REAL, KEY(optim.patch_embed_lr_mult), "0.2", 0, REAL_MAX, 0,
     "learning rate of the patch embedding, times this"},
    {"optim.layerwise_decay", DINOV_CFG_REAL, KEY(optim.layerwise_decay), "0.9", 0, 1, 0,
     "learning rate of a block against the next one's"},
    {"optim.adamw_beta1", DINOV_CFG_REAL, KEY(optim.adamw_beta1), "0.9", 0, 0.999999, 0, "beta of AdamW"},
    {"optim.adamw_beta2", DINOV_CFG_REAL, KEY(optim.adamw_beta2), "0.999", 0, 0.999999, 0, "beta of AdamW"},
    {"crops.global_crops_scale", DINOV_CFG_PAIR, KEY(crops.global_crops_scale), "[0.32, 1.0]", 0, 1, 0,
     "part of the picture's area that a crop takes"},
    {"crops.local_crops_number", DINOV_CFG_INT, KEY(crops.local_crops_number), "8", 0, 1024, 0, "local crops of a picture"},
    {"crops.local_crops_scale", DINOV_CFG_PAIR, KEY(crops.local_crops_scale), "[0.05, 0.32]", 0, 1, 0,
     "part of the picture's area that a crop takes"},
    {"crops.global_crops_size", DINOV_CFG_INT, KEY(crops.global_crops_size), "224", 1, 65535, 0, "side of a global crop"},
    {"crops.local_crops_size", DINOV_CFG_INT, KEY(crops.local_crops_size), "96", 1, 65535, 0, "side of a local crop"},
    {"crops.blur_as_published", DINOV_CFG_BOOL, KEY(crops.blur_as_published), "false", 0, 1, 0,
     "ours: blur 1.0, 0.1 and 0.5 of the crops, as the paper has it, not 0, 0.9 and 0.5 as the released models were trained"},
    {"evaluation.eval_period_iterations", DINOV_CFG_IGNORED, 0, "12500", 0, 0, 0,
     "every checkpoint holds the backbone; see knn_every"},
    {"evaluation.knn_every", DINOV_CFG_INT, KEY(evaluation.knn_every), "0", 0, WHOLE_MAX, 1,
     "ours: steps between k-NN figures; 0: none"},
    {"evaluation.knn_train", DINOV_CFG_TEXT, KEY(evaluation.knn_train), "", 0, 0, 1, "ours: labelled folder or shards that vote"},
    {"evaluation.knn_test", DINOV_CFG_TEXT, KEY(evaluation.knn_test), "", 0, 0, 1,
     "ours: labelled folder or shards that are asked"},
    {"compute_precision.grad_scaler", DINOV_CFG_IGNORED, 0, "true", 0, 0, 0, PRECISION_HELP},
    PRECISION("teacher.backbone", "fp16"),
    PRECISION("teacher.dino_head", "fp16"),
    PRECISION("teacher.ibot_head", "fp16"),
    PRECISION("student.backbone", "fp16"),
    PRECISION("student.dino_head", "fp32"),
    PRECISION("student.ibot_head", "fp32"),
    {"MODEL.WEIGHTS", DINOV_CFG_IGNORED, 0, "", 0, 0, 0, "checkpoints are found in the run's folder"},
};

enum { ROWS = sizeof rows / sizeof rows[0] };

const struct row *dinov_config_rows(int64_t *count)
{
    *count = ROWS;
    return rows;
}

/* ---- Values as text ---- */

static const char *const centerings[] = {[DINOV_CENTERING] = "centering", [DINOV_SINKHORN_KNOPP] = "sinkhorn_knopp"};

static void *place(const dinov_config *c, const struct row *row) { return (char *)(uintptr_t)c + row->offset; }

/* Architectures that have numbers of their own. */
static const struct {
    const char *name;
    int64_t     dim, depth, heads;
} archs[] = {{"vit_small", 384, 12, 6}, {"vit_base", 768, 12, 12}, {"vit_large", 1024, 24, 16}, {"vit_giant2", 1536, 40, 24}};

enum { ARCHS = sizeof archs / sizeof archs[0] };

/* The row of archs, ARCHS for vit_custom, or -1. */
static int arch_of(const char *name)
{
    for (int i = 0; i < ARCHS; i++)
        if (strcmp(name, archs[i].name) == 0) return i;
    return strcmp(name, "vit_custom") == 0 ? ARCHS : -1;
}

static dinov_status refuse_arch(const char *where, const char *name, dinov_error *err)
{
    char found[DINOV_ESCAPED];
    return dinov_fail(err, DINOV_ERR_CONFIG, "CFG-ARCH",
                      "%sstudent.arch: expected vit_small, vit_base, vit_large, vit_giant2 or vit_custom, found \"%s\"", where,
                      dinov_escape(found, sizeof found, name, strlen(name)));
}

/* Decimal, and neither too large nor too small for a double; strtod alone would take "0x1p4" and "inf" too. */
static bool number(double *out, const char *text, const char **end)
{
    char *stop;
    if (strspn(text, "+-.0123456789") == 0) return false;
    errno = 0;
    *out  = strtod(text, &stop);
    *end  = stop;
    return stop != text && !errno && strspn(text, "+-.0123456789eE") >= (size_t)(stop - text);
}

/* Decimal without leading zeros, which YAML takes for octal. */
static bool whole(int64_t *out, const char *text)
{
    const char *digits = text + (*text == '+' || *text == '-');
    if (!*digits || strspn(digits, "0123456789") != strlen(digits) || (*digits == '0' && digits[1])) return false;
    errno = 0;
    *out  = strtoll(text, NULL, 10);
    return !errno;
}

/* Upstream's value in another spelling: "0" for "0.", "True" for "true". */
static bool same_value(const char *a, const char *b)
{
    double      x, y;
    const char *end_a, *end_b;
    if (number(&x, a, &end_a) && number(&y, b, &end_b) && !*end_a && !*end_b) return x == y;
    return strcasecmp(a, b) == 0;
}

bool dinov_config_row_is_default(const struct row *row, const char *text) { return same_value(row->text, text); }

dinov_status dinov_config_refuse(const struct row *row, const char *where, const char *expected, const char *text, dinov_error *err)
{
    char found[DINOV_ESCAPED];
    return dinov_fail(err, DINOV_ERR_CONFIG, "CFG-VALUE", "%s: %s: expected %s, found \"%s\"", where, row->name, expected,
                      dinov_escape(found, sizeof found, text, strlen(text)));
}

static const char *skip_blanks(const char *text) { return text + strspn(text, " "); }

static bool pair_of(double *pair, const char *text)
{
    if (*text != '[' || !number(&pair[0], skip_blanks(text + 1), &text)) return false;
    text = skip_blanks(text);
    if (*text != ',' || !number(&pair[1], skip_blanks(text + 1), &text)) return false;
    return strcmp(skip_blanks(text), "]") == 0;
}

dinov_status dinov_config_set_row(dinov_config *c, const struct row *row, const char *text, const char *where, dinov_error *err)
{
    char        expected[128];
    const char *end;
    double      real, pair[2];
    int64_t     integer;
    void       *at = place(c, row);

    switch (row->kind) {
    case DINOV_CFG_REAL:
        if (!number(&real, text, &end) || *end || real < row->min || real > row->max) {
            snprintf(expected, sizeof expected, "a number from %g to %g", row->min, row->max);
            return dinov_config_refuse(row, where, expected, text, err);
        }
        *(double *)at = real;
        return DINOV_OK;
    case DINOV_CFG_INT:
        if (!whole(&integer, text) || (double)integer < row->min || (double)integer > row->max) {
            snprintf(expected, sizeof expected, "a whole number from %.0f to %.0f", row->min, row->max);
            return dinov_config_refuse(row, where, expected, text, err);
        }
        *(int64_t *)at = integer;
        return DINOV_OK;
    case DINOV_CFG_BOOL:
        if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0 && strcmp(text, "True") != 0 && strcmp(text, "False") != 0)
            return dinov_config_refuse(row, where, "true or false", text, err);
        *(bool *)at = *text == 't' || *text == 'T';
        return DINOV_OK;
    case DINOV_CFG_PAIR:
        if (!pair_of(pair, text) || pair[0] < row->min || pair[1] > row->max || pair[0] > pair[1])
            return dinov_config_refuse(row, where, "two numbers from 0 to 1, ascending, as in [0.1, 0.5]", text, err);
        memcpy(at, pair, sizeof pair);
        return DINOV_OK;
    case DINOV_CFG_TEXT:
        if (strlen(text) >= DINOV_CONFIG_TEXT || !dinov_text_printable(text, strlen(text)))
            return dinov_config_refuse(row, where, "less than 1,024 bytes of printable text", text, err);
        memset(at, 0, DINOV_CONFIG_TEXT); /* nothing of a longer text before: equal configurations have equal bytes */
        memcpy(at, text, strlen(text));
        return DINOV_OK;
    case DINOV_CFG_ARCH:
        snprintf(expected, sizeof expected, "%.*s: ", (int)sizeof expected - 3, where);
        if (arch_of(text) < 0) return refuse_arch(expected, text, err);
        memset(at, 0, sizeof c->student.arch);
        memcpy(at, text, strlen(text));
        return DINOV_OK;
    case DINOV_CFG_CENTERING:
        for (int i = DINOV_CENTERING; i <= DINOV_SINKHORN_KNOPP; i++)
            if (strcmp(text, centerings[i]) == 0) {
                *(dinov_centering *)at = (dinov_centering)i;
                return DINOV_OK;
            }
        return dinov_config_refuse(row, where, "centering or sinkhorn_knopp", text, err);
    case DINOV_CFG_FFN:
        if (strcmp(text, "mlp") != 0 && strcmp(text, "swiglu") != 0 && strcmp(text, "swiglufused") != 0)
            return dinov_config_refuse(row, where, "mlp, swiglu or swiglufused", text, err);
        *(dinov_ffn *)at = strcmp(text, "mlp") == 0 ? DINOV_FFN_MLP : DINOV_FFN_SWIGLU;
        return DINOV_OK;
    case DINOV_CFG_FIXED:
        if (same_value(row->text, text)) return DINOV_OK;
        return dinov_fail(err, DINOV_ERR_CONFIG, "CFG-REFUSED",
                          "%s: %s: only \"%s\" exists here, and leaving your value out would change "
                          "what is trained; remove the line or set it to that",
                          where, row->name, row->text);
    case DINOV_CFG_IGNORED:
        return DINOV_OK;
    }
    return DINOV_OK;
}

/* With a point: "1e-06" is a text to YAML 1.1, "1.0e-06" a number to everyone. */
static void print_real(double value, dinov_text *out)
{
    dinov_text text = {0};
    dinov_text_double(&text, value);
    if (text.failed)
        out->failed = true;
    else {
        size_t n = strcspn(text.data, "e");
        dinov_text_add(out, text.data, n);
        if (text.data[n] && !memchr(text.data, '.', n)) dinov_text_puts(out, ".0");
        dinov_text_puts(out, text.data + n);
    }
    dinov_text_clear(&text);
}

static void print_value(const dinov_config *c, const struct row *row, dinov_text *out)
{
    const void *at = place(c, row);
    switch (row->kind) {
    case DINOV_CFG_REAL:
        print_real(*(const double *)at, out);
        break;
    case DINOV_CFG_INT:
        dinov_text_int(out, *(const int64_t *)at);
        break;
    case DINOV_CFG_BOOL:
        dinov_text_puts(out, *(const bool *)at ? "true" : "false");
        break;
    case DINOV_CFG_PAIR:
        dinov_text_puts(out, "[");
        print_real(((const double *)at)[0], out);
        dinov_text_puts(out, ", ");
        print_real(((const double *)at)[1], out);
        dinov_text_puts(out, "]");
        break;
    case DINOV_CFG_TEXT:
    case DINOV_CFG_ARCH:
        dinov_text_puts(out, "\"");
        dinov_text_escaped(out, at, strlen(at));
        dinov_text_puts(out, "\"");
        break;
    case DINOV_CFG_CENTERING:
        dinov_text_puts(out, centerings[*(const dinov_centering *)at]);
        break;
    case DINOV_CFG_FFN:
        dinov_text_puts(out, *(const dinov_ffn *)at == DINOV_FFN_SWIGLU ? "swiglufused" : "mlp");
        break;
    case DINOV_CFG_FIXED:
    case DINOV_CFG_IGNORED:
        dinov_text_puts(out, row->text);
        break;
    }
}

static bool has_value(const struct row *row) { return row->kind != DINOV_CFG_FIXED && row->kind != DINOV_CFG_IGNORED; }

/* ---- The public functions ---- */

void dinov_config_default(dinov_config *c)
{
    memset(c, 0, sizeof *c);
    for (int i = 0; i < ROWS; i++) DINOV_ASSERT(dinov_config_set_row(c, &rows[i], rows[i].text, "defaults", NULL) == DINOV_OK);
}

void dinov_config_print(const dinov_config *c, dinov_text *out)
{
    const char *group = ""; /* the name of the line before */
    for (int i = 0; i < ROWS; i++) {
        const char *dot = strchr(rows[i].name, '.');
        if (!has_value(&rows[i])) continue;
        if (strncmp(group, rows[i].name, (size_t)(dot + 1 - rows[i].name)) != 0) {
            dinov_text_add(out, rows[i].name, (size_t)(dot - rows[i].name));
            dinov_text_puts(out, ":\n");
        }
        group = rows[i].name;
        dinov_text_puts(out, "  ");
        dinov_text_puts(out, dot + 1);
        dinov_text_puts(out, ": ");
        print_value(c, &rows[i], out);
        dinov_text_puts(out, "\n");
    }
}

bool dinov_config_diff(const dinov_config *a, const dinov_config *b, bool all, dinov_text *out)
{
    bool differs = false;
    for (int i = 0; i < ROWS; i++) {
        dinov_text x = {0}, y = {0};
        if (!has_value(&rows[i]) || (rows[i].free && !all)) continue;
        print_value(a, &rows[i], &x);
        print_value(b, &rows[i], &y);
        if (x.failed || y.failed)
            out->failed = true;
        else if (strcmp(x.data, y.data) != 0) {
            differs = true;
            dinov_text_puts(out, rows[i].name);
            dinov_text_puts(out, ": ");
            dinov_text_puts(out, x.data);
            dinov_text_puts(out, " -> ");
            dinov_text_puts(out, y.data);
            dinov_text_puts(out, rows[i].free ? " (may change)\n" : "\n");
        }
        dinov_text_clear(&x);
        dinov_text_clear(&y);
    }
    return differs;
}

/* What a key may be set to, for the page; the longest is a list of names. */
static void document_values(const struct row *row, dinov_text *out)
{
    char text[64] = "";
    switch (row->kind) {
    case DINOV_CFG_REAL:
        snprintf(text, sizeof text, "%g to %g", row->min, row->max);
        break;
    case DINOV_CFG_INT:
        snprintf(text, sizeof text, "%.0f to %.0f", row->min, row->max);
        break;
    case DINOV_CFG_BOOL:
        snprintf(text, sizeof text, "true, false");
        break;
    case DINOV_CFG_PAIR:
        snprintf(text, sizeof text, "two of %g to %g", row->min, row->max);
        break;
    case DINOV_CFG_TEXT:
        snprintf(text, sizeof text, "text");
        break;
    case DINOV_CFG_ARCH:
        for (int i = 0; i < ARCHS; i++) {
            dinov_text_puts(out, archs[i].name);
            dinov_text_puts(out, ", ");
        }
        snprintf(text, sizeof text, "vit_custom");
        break;
    case DINOV_CFG_CENTERING:
        snprintf(text, sizeof text, "%s, %s", centerings[DINOV_CENTERING], centerings[DINOV_SINKHORN_KNOPP]);
        break;
    case DINOV_CFG_FFN:
        snprintf(text, sizeof text, "mlp, swiglu, swiglufused");
        break;
    case DINOV_CFG_FIXED:
        snprintf(text, sizeof text, "this only");
        break;
    case DINOV_CFG_IGNORED:
        snprintf(text, sizeof text, "any");
        break;
    }
    dinov_text_puts(out, text);
}

void dinov_config_document(dinov_text *out)
{
    dinov_text_puts(
        out, "# Configuration\n\n"
             "Keys of `dinov-train`, under the names of the official code's YAML files, which are read as they are. Order: these\n"
             "defaults, then `-c` (a file, or `tiny-cpu` or `small-1gpu`), then `KEY=VALUE` on the command line. Keys marked\n"
             "with a star may change when a run goes on; any other change is refused, and `--fork` starts a new run from it.\n"
             "`dinov-train config` prints what is in effect. This page is printed from the table in `train/config.c`.\n\n"
             "| key | default | values | meaning |\n| --- | --- | --- | --- |\n");
    for (int i = 0; i < ROWS; i++) {
        /* Keys that mean nothing here for one reason share the text of it, and a line. */
        const char *help  = rows[i].help;
        bool        first = i == 0 || rows[i - 1].help != help, last = i + 1 == ROWS || rows[i + 1].help != help;
        bool        same = rows[i].kind == DINOV_CFG_IGNORED && !(first && last);
        if (same && !first) continue;
        dinov_text_puts(out, "| `");
        dinov_text_add(out, rows[i].name, same ? strcspn(rows[i].name, ".") : strlen(rows[i].name));
        dinov_text_puts(out, same ? ".*`" : "`");
        dinov_text_puts(out, rows[i].free ? " * | " : " | ");
        if (!same && rows[i].text[0]) {
            dinov_text_puts(out, "`");
            dinov_text_puts(out, rows[i].text);
            dinov_text_puts(out, "`");
        }
        dinov_text_puts(out, " | ");
        document_values(&rows[i], out);
        dinov_text_puts(out, " | ");
        if (rows[i].kind == DINOV_CFG_IGNORED) dinov_text_puts(out, "read, without effect: ");
        dinov_text_puts(out, rows[i].help);
        dinov_text_puts(out, " |\n");
    }
}

static dinov_status sizes(const dinov_config *c, dinov_error *err)
{
    const struct {
        const char *name;
        int64_t     value;
    } crops[] = {{"crops.global_crops_size", c->crops.global_crops_size}, {"crops.local_crops_size", c->crops.local_crops_size}};
    for (int i = 0; i < (c->crops.local_crops_number ? 2 : 1); i++)
        if (crops[i].value % c->student.patch_size != 0)
            return dinov_fail(err, DINOV_ERR_CONFIG, "CFG-VALUE",
                              "%s: expected a multiple of student.patch_size (%lld), found %lld", crops[i].name,
                              (long long)c->student.patch_size, (long long)crops[i].value);
    int64_t steps = c->optim.epochs * c->train.OFFICIAL_EPOCH_LENGTH;
    if (c->optim.warmup_epochs > c->optim.epochs)
        return dinov_fail(err, DINOV_ERR_CONFIG, "CFG-VALUE",
                          "optim.warmup_epochs: expected at most optim.epochs (%lld), found %lld", (long long)c->optim.epochs,
                          (long long)c->optim.warmup_epochs);
    if (steps >> 32)
        return dinov_fail(err, DINOV_ERR_CONFIG, "CFG-VALUE", "optim.epochs: expected less than 2^32 steps in all, found %lld",
                          (long long)steps);
    if (c->dino.head.loss_weight == 0 && c->ibot.head.loss_weight == 0)
        return dinov_fail(err, DINOV_ERR_CONFIG, "CFG-VALUE",
                          "dino.loss_weight and ibot.loss_weight: expected one of them above 0, found both 0");
    return DINOV_OK;
}

/* Sizes of vit_custom that were set beside another architecture would be left out silently. */
static dinov_status named_sizes(const dinov_config *c, const dinov_model *m, dinov_error *err)
{
    dinov_config d;
    dinov_config_default(&d);
    if ((c->student.embed_dim == m->dim || c->student.embed_dim == d.student.embed_dim) &&
        (c->student.depth == m->depth || c->student.depth == d.student.depth) &&
        (c->student.num_heads == m->heads || c->student.num_heads == d.student.num_heads))
        return DINOV_OK;
    return dinov_fail(
        err, DINOV_ERR_CONFIG, "CFG-ARCH",
        "student.arch: %s has embed_dim=%lld depth=%lld num_heads=%lld of its own, and student has %lld, %lld and %lld; "
        "give student.arch=vit_custom to use these, or set them to its own",
        c->student.arch, (long long)m->dim, (long long)m->depth, (long long)m->heads, (long long)c->student.embed_dim,
        (long long)c->student.depth, (long long)c->student.num_heads);
}

dinov_status dinov_config_model(const dinov_config *c, dinov_model *m, dinov_error *err)
{
    int arch = arch_of(c->student.arch);
    if (arch < 0) return refuse_arch("", c->student.arch, err);
    *m = (dinov_model){
        .patch      = c->student.patch_size,
        .dim        = arch < ARCHS ? archs[arch].dim : c->student.embed_dim,
        .depth      = arch < ARCHS ? archs[arch].depth : c->student.depth,
        .heads      = arch < ARCHS ? archs[arch].heads : c->student.num_heads,
        .registers  = c->student.num_register_tokens,
        .channels   = 3,
        .ffn        = c->student.ffn_layer,
        .layerscale = c->student.layerscale > 0,
        .qkv_bias   = c->student.qkv_bias,
        .ln_eps     = 1e-6,
        .interp     = {c->student.interpolate_offset, c->student.interpolate_antialias},
    };
    if (arch < ARCHS) DINOV_TRY(named_sizes(c, m, err));
    DINOV_TRY(sizes(c, err));
    m->hidden = m->ffn == DINOV_FFN_SWIGLU ? (4 * m->dim * 2 / 3 + 7) / 8 * 8 : 4 * m->dim;
    m->grid_h = m->grid_w = c->crops.global_crops_size / m->patch;
    return dinov_model_check(m, "student", err);
}

dinov_status dinov_config_check_data(const dinov_config *c, dinov_error *err)
{
    const char *path = c->train.dataset_path;
    size_t      name = strcspn(path, ":");
    if (path[0] == '\0')
        return dinov_fail(err, DINOV_ERR_CONFIG, "CFG-DATA",
                          "train.dataset_path: expected folders, lists (@FILE) or tar shards of pictures, found none");
    if ((name == 8 && strncmp(path, "ImageNet", name) == 0) || (name == 11 && strncmp(path, "ImageNet22k", name) == 0))
        return dinov_fail(err, DINOV_ERR_CONFIG, "CFG-DATA",
                          "train.dataset_path: %s names a data set of the official code; give the folder, the list (@FILE) or "
                          "the tar shards that hold its pictures (a folder of that name is written ./%.*s)",
                          path, (int)name, path);
    return DINOV_OK;
}
