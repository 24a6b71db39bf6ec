/* SPDX-License-Identifier: Apache-2.0 */
#include "train/report.h"

#include "base/alloc.h"
#include "base/file.h"
#include "format/training.h"
#include "train/schedule.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { LINES = 20, METRICS_BYTES = 1 << 30 };

/* What is shown of the metrics, and how to read it. */
static const struct meaning {
    const char *key, *words;
} meanings[] = {
    {"total_loss", "sum of the terms below; it may rise while features improve, because the teacher sharpens"},
    {"dino_local_crops_loss", "class tokens of local crops against the teacher's"},
    {"dino_global_crops_loss", "class tokens of one global crop against the other's"},
    {"ibot_loss", "masked patches against the teacher's, halved as upstream logs it"},
    {"koleo_loss", "falls as class tokens spread; far below 0 is good"},
    {"dino_kl", "what the student has yet to learn of the teacher's targets; near 0 from the start means nothing is taught"},
    {"dino_teacher_entropy", "nats; near ln K: no prototype stands out, near 0: one prototype takes all"},
    {"feature_rank", "directions that class tokens use, of at most 64; near 1 is a collapse"},
    {"cls_norm", "mean length of class tokens before the last norm"},
    {"patch_norm", "the same of patch tokens; outliers far above cls_norm are artefacts, and registers help"},
    {"grad_norm_backbone", "before clipping"},
    {"duplicates", "copies in a batch; many say that the data wants deduplication"},
    {"knn_20", "20-NN accuracy of the averaged model, per cent: the figure to trust"},
    {"waited_for_data", "share of the time spent waiting for pictures"},
    {"images_per_s", "speed"},
};

enum { KEYS = sizeof meanings / sizeof meanings[0] };

/* A number over the run: where it began, its mean over the last lines, its best. */
struct series {
    double  first, best, last[LINES];
    int64_t count;
};

static void series_add(struct series *s, double value)
{
    if (s->count == 0) s->first = s->best = value;
    if (value > s->best) s->best = value;
    s->last[s->count++ % LINES] = value;
}

static double series_mean(const struct series *s)
{
    int64_t n   = s->count < LINES ? s->count : LINES;
    double  sum = 0;
    for (int64_t i = 0; i < n; i++) sum += s->last[i];
    return n ? sum / (double)n : 0;
}

static const struct series *find(const struct series *all, const char *key)
{
    for (int i = 0; i < KEYS; i++)
        if (strcmp(meanings[i].key, key) == 0) return &all[i];
    return NULL;
}

static void say(dinov_text *out, const char *format, ...) DINOV_PRINTF(2, 3);
static void say(dinov_text *out, const char *format, ...)
{
    char    line[600];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    dinov_text_puts(out, line);
}

/* Lines that are no JSON (the one being written) are passed over. Returns the last iteration; counts steps that were not finite. */
static int64_t read_lines(struct series *all, int64_t *bad, char *text)
{
    int64_t iteration = 0;
    char   *rest      = text;
    for (char *line; (line = strtok_r(rest, "\n", &rest));) {
        json_t *j = json_loads(line, 0, NULL);
        if (!j) continue;
        iteration = json_integer_value(json_object_get(j, "iteration"));
        *bad += json_is_null(json_object_get(j, "total_loss"));
        for (int i = 0; i < KEYS; i++) {
            const json_t *value = json_object_get(j, meanings[i].key);
            if (json_is_number(value)) series_add(&all[i], json_number_value(value));
        }
        json_decref(j);
    }
    return iteration;
}

static void write_table(dinov_text *out, const struct series *all)
{
    say(out, "\n%-24s %12s %12s\n", "", "first", "lately");
    for (int i = 0; i < KEYS; i++)
        if (all[i].count)
            say(out, "%-24s %12.4g %12.4g   %s\n", meanings[i].key, all[i].first, series_mean(&all[i]), meanings[i].words);
}

/* What the numbers say together. */
static void write_verdict(dinov_text *out, const struct series *all, int64_t bad, const dinov_config *config, int64_t iteration)
{
    const struct series *rank = find(all, "feature_rank"), *entropy = find(all, "dino_teacher_entropy"), *knn = find(all, "knn_20");
    const struct series *wait = find(all, "waited_for_data"), *copies = find(all, "duplicates");
    bool                 settled = iteration >= config->optim.warmup_epochs * config->train.OFFICIAL_EPOCH_LENGTH, quiet = true;
    double               most = log((double)config->dino.head.head_n_prototypes);

    dinov_text_puts(out, "\n");
    if (settled && rank->count && series_mean(rank) > 0 && series_mean(rank) < 1.5) {
        say(out, "This looks like a collapse: class tokens of all pictures point the same way. Lower optim.base_lr or lengthen the "
                 "warm-up.\n");
        quiet = false;
    }
    if (settled && entropy->count && (series_mean(entropy) > 0.999 * most || series_mean(entropy) < 0.01)) {
        say(out,
            "The teacher's targets say nothing (entropy %.3g of ln K = %.3g): try train.centering=sinkhorn_knopp, or fewer "
            "prototypes.\n",
            series_mean(entropy), most);
        quiet = false;
    }
    if (knn->count > 2 && series_mean(knn) < knn->best - 5) {
        say(out,
            "20-NN was %.1f at its best and is %.1f lately: go back to an earlier checkpoint with --fork, and train more gently.\n",
            knn->best, series_mean(knn));
        quiet = false;
    }
    if (wait->count && series_mean(wait) > 0.2) {
        say(out, "Data is the bottleneck: raise train.num_workers or train.cache_mib, or store smaller pictures.\n");
        quiet = false;
    }
    if (copies->count && series_mean(copies) > 0.1 * (double)config->train.batch_size_per_gpu) {
        say(out, "A tenth of the pictures are copies of others in their batch.\n");
        quiet = false;
    }
    if (bad) {
        say(out, "%" PRId64 " logged steps were not finite and were not taken; replay-*.json name their pictures.\n", bad);
        quiet = false;
    }
    if (quiet) say(out, "Nothing here is a sign of trouble.\n");
}

static dinov_status read_config(dinov_config *config, const char *run, dinov_error *err)
{
    char path[4096];
    dinov_config_default(config);
    if ((size_t)snprintf(path, sizeof path, "%s/config.yaml", run) >= sizeof path)
        return dinov_fail(err, DINOV_ERR_IO, "RUN-OPEN", "the run's path is too long");
    return dinov_config_load(config, path, NULL, NULL, err);
}

dinov_status dinov_train_report(const char *run, dinov_text *out, dinov_error *err)
{
    char          path[4096];
    dinov_config  config;
    void         *bytes = NULL;
    size_t        size, steps = 0;
    int64_t      *saved = NULL, bad = 0;
    struct series all[KEYS] = {0};

    DINOV_TRY(read_config(&config, run, err));
    snprintf(path, sizeof path, "%s/metrics.jsonl", run);
    DINOV_TRY(dinov_file_read(&bytes, &size, path, METRICS_BYTES, err));
    char        *text   = dinov_alloc(size + 1, 1);
    dinov_status status = text ? dinov_steps_list(&saved, &steps, run, err) : dinov_fail_nomem(err, path, "its lines");
    if (status == DINOV_OK) {
        memcpy(text, bytes, size);
        text[size]        = '\0';
        int64_t iteration = read_lines(all, &bad, text), total = dinov_schedule_iterations(&config);
        if (iteration == 0)
            status = dinov_fail(err, DINOV_ERR_FORMAT, "RUN-METRICS", "%s: no step has been logged yet", path);
        else {
            say(out, "%s: step %" PRId64 " of %" PRId64 "; %zu checkpoints", run, iteration, total, steps);
            if (steps) say(out, ", the newest of step %" PRId64, saved[0]);
            say(out, "\n%s, %" PRId64 " images a step, learning rate %g after warm-up\n", config.student.arch,
                config.train.batch_size_per_gpu * config.train.accumulation, dinov_schedule_lr(&config, 1));
            write_table(out, all);
            write_verdict(out, all, bad, &config, iteration);
            if (out->failed) status = dinov_fail_nomem(err, run, "its report");
        }
    }
    dinov_free(saved);
    dinov_free(text);
    dinov_free(bytes);
    return status;
}
