/* SPDX-License-Identifier: Apache-2.0 */
#include "train/session.h"

#include "base/alloc.h"
#include "format/params.h"
#include "model/real.h"
#include "train/data/preview.h"
#include "train/knn_watch.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { PATH = 4096, RATE_STEPS = 20 };

struct dinov_session {
    dinov_train_options options;
    dinov_config        config;
    dinov_text          yaml; /* the effective configuration */
    dinov_model         model;
    const dinov_ops    *ops;
    dinov_pool         *pool;
    dinov_source       *source;
    dinov_run          *run;
    dinov_trainer      *trainer;
    dinov_loader       *loader;
    dinov_knn_watch    *probe;                         /* NULL: no k-NN figures */
    double              knn;                           /* the last one; negative: none yet */
    dinov_views        *views;                         /* [accumulation] */
    const dinov_batch **batches;                       /* those behind the views */
    char                teacher[PATH], teacher_id[80]; /* its checkpoint's folder and content id; "": its own average */

    int64_t iteration, total, saved; /* steps done; of the run; in the last checkpoint */
    int64_t bad_steps, bad_pictures, warned;
    bool    stopped;
    double  began, stamps[RATE_STEPS]; /* when the last steps ended */
    int64_t steps;                     /* of this process */
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void note(const dinov_session *s, const char *format, ...) DINOV_PRINTF(2, 3);
static void note(const dinov_session *s, const char *format, ...)
{
    char    sentence[1400];
    va_list args;
    if (!s->options.note) return;
    va_start(args, format);
    vsnprintf(sentence, sizeof sentence, format, args);
    va_end(args);
    s->options.note(s->options.arg, sentence);
}

/* ---- Opening ---- */

static dinov_status open_data(dinov_session *s, dinov_error *err)
{
    dinov_source_spec spec  = {0};
    int64_t           count = s->options.data_count;
    const char      **paths = dinov_calloc((size_t)(2 * count + 1), sizeof *paths);
    if (!paths) return dinov_fail_nomem(err, "data", "its paths");
    const char **lists = paths + count;
    for (int64_t i = 0; i < count; i++)
        if (s->options.data[i][0] == '@')
            lists[spec.list_count++] = s->options.data[i] + 1;
        else
            paths[spec.path_count++] = s->options.data[i];
    spec.paths = paths, spec.lists = lists;
    dinov_status status =
        count ? dinov_source_open(&s->source, &spec, err)
              : dinov_fail(err, DINOV_ERR_CONFIG, "CFG-DATA", "no data: give folders, @LIST files or tar shards to train on");
    dinov_free(paths);
    DINOV_TRY(status);
    for (int64_t i = 0; i < dinov_source_problem_count(s->source); i++) {
        const dinov_error *why = dinov_source_problem(s->source, i);
        if (why) note(s, "%s [%s]", why->msg, why->code);
    }
    return DINOV_OK;
}

/* A checkpoint of this run, or of the run that is forked, to go on from. */
struct start {
    dinov_training *from; /* NULL: a new run */
    bool            forked;
};

static dinov_status find_start(dinov_session *s, struct start *start, dinov_error *err)
{
    const dinov_find_options how = {.verify = 1, .threads = s->options.threads, .note = s->options.note, .arg = s->options.arg};
    DINOV_TRY(dinov_run_resume(s->run, &start->from, s->options.threads, err));
    if (start->from && s->options.fork)
        return dinov_fail(err, DINOV_ERR_CONFIG, "CFG-CHANGED",
                          "%s: this run has begun already; --fork starts a new run: give another -o", s->options.output);
    if (!s->options.fork) return DINOV_OK;
    start->forked = true;
    return dinov_training_find(&start->from, s->options.fork, &how, err);
}

/* The run in the folder and the run asked for are the same one. */
static dinov_status same_run(dinov_session *s, const struct start *start, dinov_error *err)
{
    const dinov_manifest *manifest = dinov_training_manifest(start->from);
    const char           *path     = dinov_training_path(start->from);
    dinov_config          saved;
    dinov_text            diff = {0};

    if (strcmp(manifest->isa, s->ops->name) != 0)
        return dinov_fail(err, DINOV_ERR_UNSUPPORTED, "RUN-ISA",
                          "%s: this run was made with instruction set %s, and here it would be %s, which rounds otherwise; "
                          "give --isa %s, or start a new run with --fork",
                          path, manifest->isa, s->ops->name, manifest->isa);
    if (start->forked) return DINOV_OK;
    dinov_config_default(&saved);
    DINOV_TRY(dinov_config_read(&saved, manifest->config, strlen(manifest->config), path, NULL, NULL, err));
    bool         differs = dinov_config_diff(&saved, &s->config, false, &diff);
    dinov_status status  = diff.failed ? dinov_fail_nomem(err, "configuration", "the difference")
                           : differs   ? dinov_fail(err, DINOV_ERR_CONFIG, "CFG-CHANGED",
                                                    "%s: this run has another configuration; --fork %s@%" PRId64
                                                    " -o NEW starts a new one from it. What differs:\n%s",
                                                    s->options.output, s->options.output, manifest->iteration, diff.data)
                                       : DINOV_OK;
    dinov_text_clear(&diff);
    return status;
}

/* The model's numbers: of the checkpoint, of the weights to start from, or of the configuration. */
static dinov_status choose_model(dinov_session *s, const struct start *start, dinov_error *err)
{
    DINOV_TRY(dinov_config_model(&s->config, &s->model, err));
    if (start->from)
        s->model = dinov_checkpoint_weights(dinov_training_backbone(start->from))->model;
    else if (s->options.init)
        s->model = s->options.init->model;
    if (s->model.patch != s->config.student.patch_size)
        return dinov_fail(err, DINOV_ERR_CONFIG, "CFG-VALUE",
                          "student.patch_size: expected that of the weights to start from, %lld, found %lld",
                          (long long)s->model.patch, (long long)s->config.student.patch_size);
    return DINOV_OK;
}

/* A backbone's weights into the student. */
static dinov_status init_student(dinov_session *s, dinov_error *err)
{
    dinov_train_state *state = dinov_trainer_state(s->trainer);
    DINOV_TRY(dinov_weights_check(s->options.init, "weights to start from", err));
    for (size_t i = 0; i < s->options.init->count; i++) {
        const dinov_named_tensor   *from = &s->options.init->tensors[i];
        const dinov_paramset_entry *to   = dinov_paramset_find(state->set, "backbone", from->name);
        DINOV_ASSERT(to);
        dinov_to_real((float *)state->student + to->offset, sizeof(float), from->tensor.data, from->tensor.dtype,
                      (uint64_t)to->count);
    }
    dinov_trainer_reset_average(s->trainer);
    return DINOV_OK;
}

/* What the teacher of a distillation is, from the checkpoint of the run that made it. *from is the caller's to close. */
static dinov_status open_teacher(dinov_session *s, dinov_teacher *out, dinov_training **from, dinov_error *err)
{
    const dinov_find_options how = {.verify = 1, .threads = s->options.threads, .note = s->options.note, .arg = s->options.arg};
    dinov_config             config;

    DINOV_TRY(dinov_training_find(from, s->options.teacher, &how, err));
    const char *yaml = dinov_training_manifest(*from)->config;
    snprintf(s->teacher, sizeof s->teacher, "%s", dinov_training_path(*from));
    snprintf(s->teacher_id, sizeof s->teacher_id, "%s", dinov_checkpoint_content_id(dinov_training_backbone(*from)));
    dinov_config_default(&config);
    DINOV_TRY(dinov_config_read(&config, yaml, strlen(yaml), s->teacher, NULL, NULL, err));
    out->model                 = dinov_checkpoint_weights(dinov_training_backbone(*from))->model;
    out->separate_head         = config.ibot.separate_head;
    out->head[DINOV_TERM_DINO] = dinov_config_head(&config.dino.head, out->model.dim);
    out->head[DINOV_TERM_IBOT] =
        dinov_config_head(config.ibot.separate_head ? &config.ibot.head : &config.dino.head, out->model.dim);
    return DINOV_OK;
}

static dinov_status load(dinov_session *s, const struct start *start, dinov_error *err)
{
    const dinov_manifest *manifest = dinov_training_manifest(start->from);
    DINOV_TRY(dinov_run_load(start->from, dinov_trainer_state(s->trainer), err));
    s->iteration = manifest->iteration;
    s->bad_steps = manifest->bad_steps;
    s->saved     = start->forked ? -1 : s->iteration;
    if (s->iteration < s->total)
        note(s, "going on after step %" PRId64 " of %" PRId64 " (%s)", s->iteration, s->total, dinov_training_path(start->from));
    return DINOV_OK;
}

static dinov_status open_trainer(dinov_session *s, const struct start *start, dinov_error *err)
{
    dinov_status          status;
    dinov_teacher         teacher;
    dinov_training       *from     = NULL;
    const dinov_manifest *manifest = start->from ? dinov_training_manifest(start->from) : NULL;
    dinov_trainer_options o        = {.config = &s->config, .model = &s->model, .ops = s->ops, .pool = s->pool};
    if (s->options.teacher) {
        DINOV_TRY_GOTO(open_teacher(s, &teacher, &from, err));
        o.teacher = &teacher;
    }
    if (manifest && !start->forked && strcmp(manifest->teacher_id, s->teacher_id) != 0) {
        status =
            dinov_fail(err, DINOV_ERR_CONFIG, "CFG-CHANGED", "%s: this run has another teacher: %s (%s); --fork starts a new run",
                       s->options.output, manifest->teacher[0] ? manifest->teacher : "its own average", manifest->teacher_id);
        goto fail;
    }
    DINOV_TRY_GOTO(dinov_trainer_new(&s->trainer, &o, err));
    dinov_train_state *state = dinov_trainer_state(s->trainer);
    DINOV_TRY_GOTO(dinov_run_reserve(s->run, state, err));
    if (from) DINOV_TRY_GOTO(dinov_run_load_average(from, state->teacher_set, state->real_size, state->teacher, err));
    if (start->from)
        status = load(s, start, err);
    else
        status = s->options.init ? init_student(s, err) : DINOV_OK;
fail:
    dinov_training_close(&from);
    return status;
}

static dinov_status open_loader(dinov_session *s, dinov_error *err)
{
    const dinov_config *c = &s->config;
    dinov_loader_config l;
    long                cores = sysconf(_SC_NPROCESSORS_ONLN);

    dinov_loader_defaults(&l, c->crops.global_crops_size, s->model.patch);
    dinov_augment_defaults(&l.augment, c->crops.blur_as_published);
    memcpy(l.augment.global_crops_scale, c->crops.global_crops_scale, sizeof c->crops.global_crops_scale);
    memcpy(l.augment.local_crops_scale, c->crops.local_crops_scale, sizeof c->crops.local_crops_scale);
    l.augment.global_crops_size  = c->crops.global_crops_size;
    l.augment.local_crops_size   = c->crops.local_crops_size;
    l.augment.local_crops_number = c->crops.local_crops_number;
    memcpy(l.mask.mask_ratio_min_max, c->ibot.mask_ratio_min_max, sizeof c->ibot.mask_ratio_min_max);
    l.mask.mask_sample_probability = c->ibot.mask_sample_probability;
    l.seed                         = (uint64_t)c->train.seed;
    l.batch                        = c->train.batch_size_per_gpu;
    l.first_step                   = s->iteration * c->train.accumulation;
    l.workers                      = c->train.num_workers < cores ? c->train.num_workers : cores;
    l.depth                        = c->train.accumulation + 2;
    l.cache_limit                  = (size_t)c->train.cache_mib << 20;
    return dinov_loader_new(&s->loader, s->source, &l, err);
}

dinov_status dinov_session_open(dinov_session **out, const dinov_train_options *options, dinov_error *err)
{
    dinov_status   status;
    struct start   start = {0};
    dinov_session *s     = dinov_calloc(1, sizeof *s);

    *out = NULL;
    if (!s) return dinov_fail_nomem(err, "training", "itself");
    *s       = (dinov_session){.options = *options, .config = *options->config, .saved = -1, .knn = -1, .began = now()};
    s->total = dinov_schedule_iterations(&s->config);
    DINOV_TRY_GOTO(dinov_ops_cpu(&s->ops, options->isa, err));
    DINOV_TRY_GOTO(open_data(s, err));
    DINOV_TRY_GOTO(dinov_run_open(&s->run, options->output, options->note, options->arg, err));
    DINOV_TRY_GOTO(find_start(s, &start, err));
    if (start.from) DINOV_TRY_GOTO(same_run(s, &start, err));
    DINOV_TRY_GOTO(choose_model(s, &start, err));
    DINOV_TRY_GOTO(dinov_pool_new(&s->pool, options->threads, err));
    DINOV_TRY_GOTO(open_trainer(s, &start, err));
    dinov_config_print(&s->config, &s->yaml);
    DINOV_TRY_GOTO(dinov_run_write_config(s->run, &s->yaml, err));
    DINOV_TRY_GOTO(dinov_run_cut_metrics(s->run, s->iteration, err));
    s->views   = dinov_calloc((size_t)s->config.train.accumulation, sizeof *s->views);
    s->batches = dinov_calloc((size_t)s->config.train.accumulation, sizeof *s->batches);
    if (!s->views || !s->batches) {
        status = dinov_fail_nomem(err, "training", "a step's batches");
        goto fail;
    }
    if (s->iteration < s->total) DINOV_TRY_GOTO(open_loader(s, err));
    if (s->config.evaluation.knn_every)
        DINOV_TRY_GOTO(dinov_knn_watch_open(&s->probe, s->config.evaluation.knn_train, s->config.evaluation.knn_test,
                                            s->config.crops.global_crops_size, options->threads, err));
    dinov_training_close(&start.from);
    s->began = s->stamps[0] = now();
    *out                    = s;
    return DINOV_OK;
fail:
    dinov_training_close(&start.from);
    dinov_session_close(&s, NULL);
    return status;
}

dinov_status dinov_session_plan(dinov_train_plan *out, const dinov_train_options *options, const char *preview, dinov_error *err)
{
    dinov_status       status;
    const dinov_batch *batch;
    dinov_teacher      teacher;
    dinov_training    *from = NULL;
    dinov_session     *s    = dinov_calloc(1, sizeof *s);

    if (!s) return dinov_fail_nomem(err, "training", "itself");
    *s                      = (dinov_session){.options = *options, .config = *options->config};
    dinov_trainer_options o = {.config = &s->config, .model = &s->model};
    DINOV_TRY_GOTO(dinov_ops_cpu(&s->ops, options->isa, err));
    DINOV_TRY_GOTO(open_data(s, err));
    DINOV_TRY_GOTO(choose_model(s, &(struct start){0}, err));
    DINOV_TRY_GOTO(dinov_pool_new(&s->pool, options->threads, err));
    if (options->teacher) {
        DINOV_TRY_GOTO(open_teacher(s, &teacher, &from, err));
        o.teacher = &teacher;
    }
    o.ops = s->ops, o.pool = s->pool;
    *out = (dinov_train_plan){.model           = s->model,
                              .pictures        = dinov_source_count(s->source),
                              .steps           = dinov_schedule_iterations(&s->config),
                              .images_per_step = s->config.train.batch_size_per_gpu * s->config.train.accumulation,
                              .lr              = dinov_schedule_lr(&s->config, 1)};
    DINOV_TRY_GOTO(dinov_trainer_memory(&out->bytes, &out->parameters, &o, err));
    DINOV_TRY_GOTO(open_loader(s, err));
    DINOV_TRY_GOTO(dinov_loader_next(s->loader, &batch, err));
    DINOV_TRY_GOTO(dinov_preview_write(preview, batch, DINOV_PREVIEW_ROWS, 1, err));
fail:
    dinov_training_close(&from);
    dinov_session_close(&s, NULL);
    return status;
}

dinov_status dinov_session_close(dinov_session **session, dinov_error *err)
{
    if (!session || !*session) return DINOV_OK;
    dinov_session *s      = *session;
    dinov_status   status = dinov_run_close(&s->run, err);
    dinov_loader_free(&s->loader);
    dinov_knn_watch_close(&s->probe);
    dinov_trainer_free(&s->trainer);
    dinov_pool_free(&s->pool);
    dinov_source_close(&s->source);
    dinov_text_clear(&s->yaml);
    dinov_free(s->views);
    dinov_free(s->batches);
    dinov_free(s);
    *session = NULL;
    return status;
}

/* ---- A step ---- */

bool           dinov_session_goes_on(const dinov_session *s) { return s->iteration < s->total && !s->stopped; }
int64_t        dinov_session_iteration(const dinov_session *s) { return s->iteration; }
dinov_trainer *dinov_session_trainer(dinov_session *s) { return s->trainer; }
bool           dinov_session_stopped(const dinov_session *s) { return s->stopped; }
dinov_rates    dinov_session_rates(const dinov_session *s) { return dinov_schedule_rates(&s->config, 1, s->iteration); }

dinov_status dinov_session_crops(dinov_session *s, const dinov_views **micro, dinov_error *err)
{
    for (int64_t i = 0; i < s->config.train.accumulation; i++) {
        const dinov_batch *b;
        DINOV_TRY(dinov_loader_next(s->loader, &b, err));
        s->batches[i] = b;
        s->views[i]   = (dinov_views){.images       = b->images,
                                      .global       = b->global_crops,
                                      .local        = b->local_crops,
                                      .masks        = b->masks,
                                      .mask_indices = b->mask_indices,
                                      .masked       = b->n_masked};
        for (int64_t j = 0; j < b->bad_count; j++) {
            note(s, "left out: %s [%s]", b->bad[j].why->msg, b->bad[j].why->code);
            s->bad_pictures++;
        }
    }
    *micro = s->views;
    return DINOV_OK;
}

static void put(dinov_text *line, const char *key, double value)
{
    dinov_text_puts(line, ", \"");
    dinov_text_puts(line, key);
    dinov_text_puts(line, "\": ");
    if (isfinite(value))
        dinov_text_double(line, value);
    else
        dinov_text_puts(line, "null");
}

static double images_per_s(const dinov_session *s)
{
    int64_t steps = s->steps < RATE_STEPS - 1 ? s->steps : RATE_STEPS - 1;
    double  span  = s->stamps[s->steps % RATE_STEPS] - s->stamps[(s->steps - steps) % RATE_STEPS];
    return span > 0 ? (double)(steps * s->config.train.batch_size_per_gpu * s->config.train.accumulation) / span : 0;
}

static double waited(const dinov_session *s)
{
    double seconds = now() - s->began;
    return seconds > 0 ? dinov_loader_get_stats(s->loader).waited_s / seconds : 0;
}

static dinov_status write_metrics(dinov_session *s, const dinov_step_result *r, double rank, bool fresh_knn, dinov_error *err)
{
    dinov_rates           rates = dinov_session_rates(s);
    const dinov_paramset *set   = dinov_trainer_state(s->trainer)->set;
    dinov_text            line  = {0};

    dinov_text_puts(&line, "{\"iteration\": ");
    dinov_text_int(&line, s->iteration + 1);
    put(&line, "total_loss", r->total_loss);
    put(&line, "dino_local_crops_loss", r->dino_local_crops_loss);
    put(&line, "dino_global_crops_loss", r->dino_global_crops_loss);
    put(&line, "koleo_loss", r->koleo_loss);
    put(&line, "ibot_loss", r->ibot_loss);
    put(&line, "dino_teacher_entropy", r->teacher_entropy[DINOV_TERM_DINO]);
    put(&line, "ibot_teacher_entropy", r->teacher_entropy[DINOV_TERM_IBOT]);
    put(&line, "dino_kl", r->kl[DINOV_TERM_DINO]);
    put(&line, "ibot_kl", r->kl[DINOV_TERM_IBOT]);
    put(&line, "feature_rank", rank);
    put(&line, "cls_norm", r->cls_norm);
    put(&line, "patch_norm", r->patch_norm);
    for (int i = 0; i < set->module_count; i++) {
        char key[64];
        snprintf(key, sizeof key, "grad_norm_%s", set->modules[i]);
        put(&line, key, r->grad_norm[i]);
    }
    dinov_text_puts(&line, ", \"duplicates\": ");
    dinov_text_int(&line, r->duplicates);
    put(&line, "lr", rates.lr);
    put(&line, "wd", rates.weight_decay);
    put(&line, "mom", rates.momentum);
    put(&line, "teacher_temp", rates.teacher_temp);
    put(&line, "images_per_s", images_per_s(s));
    put(&line, "waited_for_data", waited(s));
    if (fresh_knn) put(&line, "knn_20", 100 * s->knn);
    dinov_text_puts(&line, "}");
    dinov_status status =
        line.failed ? dinov_fail_nomem(err, "metrics", "a line") : dinov_run_append_metrics(s->run, line.data, err);
    dinov_text_clear(&line);
    return status;
}

/* In plain words, once a thousand steps at most: signs that all pictures come to look the same. */
static void warn_of_collapse(dinov_session *s, const dinov_step_result *r, double rank)
{
    enum { QUIET = 1000, SETTLED = 500 };
    int64_t settled = s->config.optim.warmup_epochs * s->config.train.OFFICIAL_EPOCH_LENGTH;
    double  most    = log((double)s->config.dino.head.head_n_prototypes);
    if (s->iteration < (settled > SETTLED ? settled : SETTLED) || (s->warned && s->iteration - s->warned < QUIET) ||
        s->config.dino.head.loss_weight == 0)
        return;
    const char *sign =
        rank > 0 && rank < 1.5                       ? "the features of all pictures point the same way (feature_rank near 1)"
        : r->teacher_entropy[DINOV_TERM_DINO] < 0.01 ? "the teacher gives all pictures to single prototypes (entropy near 0)"
        : r->teacher_entropy[DINOV_TERM_DINO] > 0.999 * most ? "the teacher cannot tell prototypes apart (entropy near ln K)"
                                                             : NULL;
    if (!sign) return;
    s->warned = s->iteration;
    note(s,
         "step %" PRId64
         ": this looks like a collapse: %s. Lower optim.base_lr, lengthen the warm-up, or try train.centering=sinkhorn_knopp",
         s->iteration, sign);
}

/* The pictures behind a step that was not finite, so that it can be looked into. */
static dinov_status write_replay(dinov_session *s, const dinov_step_result *r, dinov_error *err)
{
    char       path[PATH];
    dinov_text text = {0};
    dinov_out *out  = NULL;
    snprintf(path, sizeof path, "%s/replay-%09" PRId64 ".json", s->options.output, s->iteration);
    dinov_text_puts(&text, "{\"iteration\": ");
    dinov_text_int(&text, s->iteration);
    dinov_text_puts(&text, ", \"not_finite\": \"");
    dinov_text_puts(&text, r->why);
    dinov_text_puts(&text, "\", \"seed\": ");
    dinov_text_int(&text, s->config.train.seed);
    dinov_text_puts(&text, ", \"pictures\": [");
    for (int64_t i = 0; i < s->config.train.accumulation; i++)
        for (int64_t j = 0; j < s->batches[i]->images; j++) {
            char name[DINOV_SOURCE_NAME];
            dinov_source_name(s->source, s->batches[i]->items[j], name, sizeof name);
            dinov_text_puts(&text, i + j ? ",\n\"" : "\n\"");
            dinov_text_escaped(&text, name, strlen(name));
            dinov_text_puts(&text, "\"");
        }
    dinov_text_puts(&text, "\n]}\n");
    dinov_status status = text.failed ? dinov_fail_nomem(err, path, "its text") : dinov_out_open(&out, path, 1, err);
    if (status == DINOV_OK) status = dinov_out_write(out, text.data, text.size, err);
    if (status == DINOV_OK) status = dinov_out_commit(&out, err);
    dinov_out_abort(&out);
    dinov_text_clear(&text);
    return status;
}

static dinov_status save(dinov_session *s, dinov_error *err)
{
    dinov_preprocess preprocess;
    dinov_preprocess_default(&preprocess, &s->model);
    /* Small models see whole pictures at the size they were trained on; the official transform is for 224 pixels. */
    if (s->config.crops.global_crops_size != 224)
        snprintf(preprocess.preset, sizeof preprocess.preset, "square:%" PRId64, s->config.crops.global_crops_size);
    dinov_manifest   info   = {.iteration  = s->iteration,
                               .adam_step  = dinov_trainer_state(s->trainer)->adam_step,
                               .samples    = s->iteration * s->config.train.accumulation * s->config.train.batch_size_per_gpu,
                               .bad_steps  = s->bad_steps,
                               .isa        = s->ops->name,
                               .config     = s->yaml.data,
                               .teacher    = s->teacher,
                               .teacher_id = s->teacher_id};
    dinov_run_saving saving = {.model      = &s->model,
                               .preprocess = &preprocess,
                               .info       = &info,
                               .keep_last  = s->config.train.keep_last,
                               .keep_every = s->config.train.keep_every,
                               .threads    = 1};
    if (s->saved == s->iteration) return DINOV_OK;
    s->saved = s->iteration;
    return dinov_run_save(s->run, dinov_trainer_state(s->trainer), &saving, err);
}

static bool due(const dinov_session *s)
{
    int64_t every = s->config.train.save_every ? s->config.train.save_every
                                               : s->config.train.saveckp_freq * s->config.train.OFFICIAL_EPOCH_LENGTH;
    return s->stopped || s->iteration == s->total || s->iteration % every == 0;
}

static void tell_progress(const dinov_session *s, const dinov_step_result *r)
{
    double rate = images_per_s(s),
           left = (double)((s->total - s->iteration) * s->config.train.batch_size_per_gpu * s->config.train.accumulation);
    dinov_train_progress p = {.iteration    = s->iteration,
                              .total        = s->total,
                              .result       = r,
                              .seconds      = now() - s->began,
                              .images_per_s = rate,
                              .left_s       = rate > 0 ? left / rate : 0,
                              .waited       = waited(s),
                              .bad_pictures = s->bad_pictures,
                              .knn          = s->knn};
    if (s->options.progress) s->options.progress(s->options.arg, &p);
}

dinov_status dinov_session_done(dinov_session *s, const dinov_step_result *r, dinov_error *err)
{
    bool probed = s->probe && ((s->iteration + 1) % s->config.evaluation.knn_every == 0 || s->iteration + 1 == s->total);
    bool log    = (s->iteration + 1) % s->config.train.log_every == 0 || s->iteration + 1 == s->total || !r->finite;

    s->stamps[++s->steps % RATE_STEPS] = now();
    s->bad_steps                       = r->finite ? 0 : s->bad_steps + 1;
    if (!r->finite) {
        note(s,
             "step %" PRId64 ": %s is not finite; the step was not taken, and its pictures are listed in %s/replay-%09" PRId64
             ".json",
             s->iteration + 1, r->why, s->options.output, s->iteration);
        DINOV_TRY(write_replay(s, r, err));
    }
    if (probed) DINOV_TRY(dinov_knn_watch_run(s->probe, &s->knn, dinov_trainer_state(s->trainer), &s->model, s->ops, s->pool, err));
    if (log || probed) {
        double rank = r->finite ? dinov_trainer_feature_rank(s->trainer) : 0;
        warn_of_collapse(s, r, rank);
        DINOV_TRY(write_metrics(s, r, rank, probed, err));
    }
    for (int64_t i = 0; i < s->config.train.accumulation; i++) dinov_loader_release(s->loader, s->batches[i]);
    s->iteration++;
    s->stopped =
        (s->options.stop && atomic_load(s->options.stop)) || (s->options.stop_after && s->iteration >= s->options.stop_after);
    tell_progress(s, r);
    DINOV_TRY(dinov_run_poll(s->run, err));
    bool over = s->bad_steps >= s->config.train.bad_steps;
    if (due(s) || over) DINOV_TRY(save(s, err));
    if (over) {
        DINOV_TRY(dinov_run_flush(s->run, err));
        return dinov_fail(err, DINOV_ERR_LIMIT, "TRAIN-BAD",
                          "%s: %" PRId64
                          " steps in a row were not finite (%s); the last good state is committed. Lower optim.base_lr, "
                          "or allow more with train.bad_steps",
                          s->options.output, s->bad_steps, r->why);
    }
    return s->stopped || s->iteration == s->total ? dinov_run_flush(s->run, err) : DINOV_OK;
}
