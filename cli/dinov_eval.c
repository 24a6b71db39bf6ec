/* SPDX-License-Identifier: Apache-2.0
 *
 * dinov-eval: how good features are, by the two protocols of the official code. Reads options, opens the
 * sets, calls dinov_knn or the linear probe, prints what came out.
 */
#include "base/alloc.h"
#include "base/text.h"
#include "cli/model.h"
#include "eval/knn.h"
#include "eval/linear.h"
#include "eval/set.h"
#include "infer/npy.h"

#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { SHOWN_BAD = 20, STRIDE = 25 /* iterations between looks at the clock */ };

/* Where a set comes from, as the options have it. */
struct origin {
    dinov_opt_list paths;
    const char    *list, *labels;
};

static struct origin train_from, test_from, val_from;
static const char   *model_path, *preset_text, *isa, *device, *compute, *output, *max_bad_text = "1%";
static dinov_engine_options where;
static const char   *k_text = "10,20,100,200", *temperature_text = "0.07", *per_class_text = "-1", *rates_text;
static int64_t       batch = 8, threads, max_tokens = 32768, seed, tries = 1;
static int64_t       epochs = 10, epoch_length = 1250, batch_size = 128, eval_period = 1250;
static bool          no_fence, force, quiet, verbose, json;

#define SET_OPTIONS                                                                                                                \
    {0, "train", DINOV_OPT_LIST, &train_from.paths, "SET", "training set; again for more folders or shards", .common = true},      \
        {0, "test", DINOV_OPT_LIST, &test_from.paths, "SET", "test set, likewise", .common = true},                                \
        {0, "train-labels", DINOV_OPT_TEXT, &train_from.labels, "FILE", "labels of features (default: the folders of the keys)",   \
         .common = true},                                                                                                          \
        {0, "test-labels", DINOV_OPT_TEXT, &test_from.labels, "FILE", "likewise", .common = true},                                 \
        {0, "train-list", DINOV_OPT_TEXT, &train_from.list, "F", "more pictures or shards, one path a line (default none)",        \
         .common = false},                                                                                                         \
        {0, "test-list", DINOV_OPT_TEXT, &test_from.list, "F", "likewise", .common = false},                                       \
        {'m', "model", DINOV_OPT_TEXT, &model_path, "MODEL", "weights or training run, for sets of pictures", .common = true},     \
        {0, "preset", DINOV_OPT_TEXT, &preset_text, "PRESET",                                                                      \
         "eval[:N], short:N, long:N, square:N or full (default: the model's own)", .common = true},                                \
        {'o', "output", DINOV_OPT_TEXT, &output, "FILE", "also write the results as the official code does", .common = true},      \
        {'f', "force", DINOV_OPT_FLAG, &force, NULL, "replace FILE", .common = true},                                              \
        {0, "json", DINOV_OPT_FLAG, &json, NULL, "print one line of JSON with the official keys", .common = true},                 \
        {'t', "threads", DINOV_OPT_INT, &threads, "N", "threads (default 0: all cores); does not change results", 0, 1024, true},  \
        {'b', "batch", DINOV_OPT_INT, &batch, "N", "pictures run together (default 8); does not change results", 1, 4096, false},  \
        {0, "seed", DINOV_OPT_INT, &seed, "N", "of everything drawn (default 0)", 0, INT64_MAX, false},                            \
        {0, "max-bad", DINOV_OPT_TEXT, &max_bad_text, "N|P%", "bad pictures allowed (default 1%); beyond it the exit code is 4",   \
         .common = false},                                                                                                         \
        {0, "max-tokens", DINOV_OPT_INT, &max_tokens, "N", "patch tokens a picture may have (default 32768)", 1,                   \
         (int64_t)1 << 31, false},                                                                                                 \
        DINOV_OPT_DEVICE(&device, &compute),                                                                                       \
        {0, "isa", DINOV_OPT_TEXT, &isa, "NAME", "force an instruction set (default: the best this CPU has)", .common = false},    \
        {'q', "quiet", DINOV_OPT_FLAG, &quiet, NULL, "no progress, no notes", .common = false},                                    \
        DINOV_OPT_NO_FENCE(&no_fence),                                                                                             \
        {'v', "verbose", DINOV_OPT_FLAG, &verbose, NULL, "name every bad picture", .common = false},                               \
    {0}

static const dinov_opt knn_options[] = {
    {'k', "k", DINOV_OPT_TEXT, &k_text, "LIST", "numbers of neighbours (default 10,20,100,200)", .common = true},
    {0, "temperature", DINOV_OPT_TEXT, &temperature_text, "T", "votes weigh exp(similarity / T) (default 0.07)", .common = false},
    {0, "n-per-class", DINOV_OPT_TEXT, &per_class_text, "LIST", "training items of each class, -1 for all (default -1)", .common = false},
    {0, "tries", DINOV_OPT_INT, &tries, "N", "random subsets for each of those, averaged (default 1)", 1, 10000, false},
    SET_OPTIONS};

static const dinov_opt linear_options[] = {
    {0, "val", DINOV_OPT_LIST, &val_from.paths, "SET", "set to choose the classifier on (default: the test set, as upstream)",
     .common = true},
    {0, "val-labels", DINOV_OPT_TEXT, &val_from.labels, "FILE", "likewise", .common = false},
    {0, "val-list", DINOV_OPT_TEXT, &val_from.list, "F", "likewise", .common = false},
    {0, "rates", DINOV_OPT_TEXT, &rates_text, "LIST", "learning rates, used times batch/256 (default upstream's 13, 1e-5 to 0.1)",
     .common = false},
    {0, "epochs", DINOV_OPT_INT, &epochs, "N", "epochs (default 10)", 1, 1000000, true},
    {0, "epoch-length", DINOV_OPT_INT, &epoch_length, "N", "iterations of an epoch (default 1250)", 1, 1000000000, true},
    {0, "batch-size", DINOV_OPT_INT, &batch_size, "N", "training rows an iteration (default 128)", 1, 1 << 20, true},
    {0, "eval-period", DINOV_OPT_INT, &eval_period, "N", "iterations between evaluations, 0 for one at the end (default 1250)", 0,
     1000000000, false},
    SET_OPTIONS};

/* ---- Lists of numbers ---- */

/* Up to `room` whole numbers; 0 or the exit code. */
static int parse_integers(const dinov_tool *tool, const char *option, const char *text, int64_t *out, int room, int *count)
{
    *count = 0;
    for (const char *p = text;;) {
        char     *end;
        long long v = strtoll(p, &end, 10);
        if (end == p || (*end && *end != ',') || v < -1 || v == 0 || v > INT32_MAX || *count == room)
            return dinov_tool_usage(tool, "--%s: expected up to %d whole numbers like 10,20, found \"%s\"", option, room, text);
        out[(*count)++] = v;
        if (!*end) return 0;
        p = end + 1;
    }
}

static int parse_rates(const dinov_tool *tool, dinov_probe_options *o)
{
    for (const char *p = rates_text; p;) {
        char  *end;
        double v = strtod(p, &end);
        if (end == p || (*end && *end != ',') || !isfinite(v) || o->rate_count == DINOV_PROBE_RATES)
            return dinov_tool_usage(tool, "--rates: expected up to %d numbers like 0.001,0.01, found \"%s\"", DINOV_PROBE_RATES,
                                    rates_text);
        o->rates[o->rate_count++] = v;
        p                         = *end ? end + 1 : NULL;
    }
    return 0;
}

/* ---- Progress ---- */

struct watch {
    const dinov_tool *tool;
    const char       *what;
    bool              line;
    double            last;
    int64_t           bad;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void end_line(struct watch *w)
{
    if (w->line) fputs("\r\033[K", stderr);
    w->line = false;
}

static void show(struct watch *w, int64_t done, int64_t total, double seconds)
{
    if (quiet || !isatty(STDERR_FILENO) || (seconds - w->last < 0.2 && seconds >= w->last && done < total)) return;
    double  rate = seconds > 0 ? (double)done / seconds : 0;
    int64_t left = rate > 0 ? (int64_t)((double)(total - done) / rate + 0.5) : 0;
    w->last      = seconds;
    w->line      = true;
    fprintf(stderr, "\r\033[K%s: %" PRId64 "/%" PRId64 "  %.1f/s  %" PRId64 ":%02" PRId64 ":%02" PRId64 " left", w->what, done, total,
            rate, left / 3600, left / 60 % 60, left % 60);
}

static void on_progress(void *arg, int64_t done, int64_t total, double seconds) { show(arg, done, total, seconds); }

static void on_bad(void *arg, const dinov_error *why)
{
    struct watch *w = arg;
    if (++w->bad > SHOWN_BAD && !verbose) return;
    end_line(w);
    dinov_tool_note(w->tool, "%s [%s]", why->msg, why->code);
}

/* ---- Sets ---- */

/* What one evaluation needs open. */
struct evaluation {
    const dinov_tool *tool;
    dinov_tool_model  model;
    dinov_set         train, test, val;
    bool              has_val, all; /* all: every kind of feature */
    const dinov_ops  *ops;
    dinov_pool       *pool;
    dinov_text        file; /* for -o */
};

static bool is_run(const char *path)
{
    struct stat st;
    size_t      size = strlen(path) + sizeof "/run.json";
    char       *name = dinov_alloc(size, 1);
    if (!name) return false;
    snprintf(name, size, "%s/run.json", path);
    bool found = stat(name, &st) == 0;
    dinov_free(name);
    return found;
}

static bool is_array(const char *path)
{
    char        head[8];
    struct stat st;
    FILE       *f = stat(path, &st) == 0 && S_ISREG(st.st_mode) ? fopen(path, "rbe") : NULL;
    size_t      n = f ? fread(head, 1, sizeof head, f) : 0;
    if (f) fclose(f);
    return dinov_npy_is(head, n);
}

static dinov_status extract_set(struct evaluation *e, dinov_set *set, const char *name, const dinov_source *source, dinov_error *err)
{
    struct watch      watch = {.tool = e->tool, .what = name};
    dinov_set_options o     = {.batch = batch, .max_tokens = max_tokens, .threads = (int)threads, .all = e->all,
                               .progress = on_progress, .bad = on_bad, .arg = &watch};

    for (int64_t i = 0; dinov_source_problem(source, i); i++)
        dinov_tool_note(e->tool, "%s [%s]", dinov_source_problem(source, i)->msg, dinov_source_problem(source, i)->code);
    dinov_tool_max_bad(e->tool, max_bad_text, &o.max_bad, &o.percent); /* it was checked before */
    e->model.unfenced = no_fence;
    if (!e->model.engine) DINOV_TRY(dinov_tool_model_open(&e->model, e->tool, model_path, &where, quiet, err));
    DINOV_TRY(preset_text ? dinov_preset_parse(&o.preset, preset_text, err) : dinov_tool_model_preset(&o.preset, &e->model, err));
    dinov_status status = dinov_set_extract(set, name, e->model.engine, source, &o, err);
    end_line(&watch);
    if (watch.bad > SHOWN_BAD && !verbose) dinov_tool_note(e->tool, "and %" PRId64 " more bad pictures; see -v", watch.bad - SHOWN_BAD);
    return status;
}

static dinov_status open_set(struct evaluation *e, dinov_set *set, const char *name, const struct origin *from, dinov_error *err)
{
    bool        one  = from->paths.count == 1 && !from->list;
    const char *path = from->paths.value[0];

    if (one && is_run(path)) return dinov_set_open_run(set, name, path, from->labels, e->all, err);
    if (one && is_array(path)) {
        if (from->labels) return dinov_set_open_array(set, name, path, from->labels, err);
        return dinov_fail(err, DINOV_ERR_CONFIG, "OPT-LABELS",
                          "%s: features in an .npy file have no labels; give --train-labels, --test-labels or --val-labels", name);
    }
    if (from->labels)
        return dinov_fail(err, DINOV_ERR_CONFIG, "OPT-LABELS",
                          "%s: pictures have their labels beside them, as sub-folders or KEY.cls; a file of labels goes with features",
                          name);
    if (!model_path)
        return dinov_fail(err, DINOV_ERR_CONFIG, "OPT-MODEL",
                          "%s: neither a run of dinov-infer nor an .npy file; to evaluate pictures give -m MODEL", name);
    dinov_source     *source = NULL;
    dinov_source_spec spec   = {.paths = from->paths.value, .path_count = from->paths.count, .lists = &from->list,
                                .list_count = from->list != NULL, .label_folders = 1};
    dinov_status      status = dinov_source_open(&source, &spec, err);
    if (status == DINOV_OK) status = extract_set(e, set, name, source, err);
    dinov_source_close(&source);
    return status;
}

/* Fails now where the results could not be written later. */
static dinov_status try_output(dinov_error *err)
{
    dinov_out *out = NULL;
    if (!output) return DINOV_OK;
    dinov_status status = dinov_out_open(&out, output, force, err);
    dinov_out_abort(&out);
    return status;
}

static dinov_status open_sets(struct evaluation *e, dinov_error *err)
{
    DINOV_TRY(dinov_ops_cpu(&e->ops, isa, err));
    DINOV_TRY(try_output(err));
    DINOV_TRY(open_set(e, &e->train, "training set", &train_from, err));
    DINOV_TRY(open_set(e, &e->test, "test set", &test_from, err));
    if (e->has_val) DINOV_TRY(open_set(e, &e->val, "validation set", &val_from, err));
    if (model_path && !e->model.engine)
        return dinov_fail(err, DINOV_ERR_CONFIG, "OPT-MODEL", "-m: these sets are features already; a model goes with pictures");
    dinov_engine_close(&e->model.engine);
    DINOV_TRY(dinov_set_match(&e->test, &e->train, err));
    if (e->has_val) DINOV_TRY(dinov_set_match(&e->val, &e->train, err));
    return dinov_pool_new(&e->pool, (int)threads, err);
}

static void close_sets(struct evaluation *e)
{
    dinov_set_close(&e->train);
    dinov_set_close(&e->test);
    dinov_set_close(&e->val);
    dinov_tool_model_close(&e->model);
    dinov_pool_free(&e->pool);
    dinov_text_clear(&e->file);
}

static dinov_status write_output(const struct evaluation *e, dinov_error *err)
{
    dinov_out *out = NULL;
    if (e->file.failed) return dinov_fail_nomem(err, "results", "their text");
    if (!output) return DINOV_OK;
    DINOV_TRY(dinov_out_open(&out, output, force, err));
    dinov_status status = dinov_out_write(out, e->file.data, e->file.size, err);
    if (status == DINOV_OK) return dinov_out_commit(&out, err);
    dinov_out_abort(&out);
    return status;
}

static bool given(const struct origin *from) { return from->paths.count > 0 || from->list; }

/* What both verbs check of the command line; 0 or the exit code. */
static int check_options(const dinov_tool *tool, int argc, char **argv)
{
    double number;
    bool   percent;
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file-size limit comes back as an error of write, like a full disk */
    if (argc) return dinov_tool_usage(tool, "expected options only, found %s", argv[0]);
    if (!given(&train_from) || !given(&test_from)) return dinov_tool_usage(tool, "expected --train SET and --test SET");
    int code = dinov_tool_engine_options(&where, tool, (int)threads, isa, device, compute);
    return code ? code : dinov_tool_max_bad(tool, max_bad_text, &number, &percent);
}

static void describe_sets(const struct evaluation *e, int64_t classes)
{
    if (quiet) return;
    dinov_tool_note(e->tool, "%" PRId64 " training and %" PRId64 " test rows of %" PRId64 " values, %" PRId64 " classes",
                    e->train.view.count, e->test.view.count, e->train.view.dim, classes);
}

/* ---- k-NN ---- */

static int parse_knn(const dinov_tool *tool, dinov_knn_options *o)
{
    char *end;
    int   code = parse_integers(tool, "k", k_text, o->k, DINOV_KNN_CHOICES, &o->k_count);
    if (!code) code = parse_integers(tool, "n-per-class", per_class_text, o->per_class, DINOV_KNN_CHOICES, &o->per_class_count);
    if (code) return code;
    for (int i = 0; i < o->k_count; i++)
        if (o->k[i] < 1) return dinov_tool_usage(tool, "--k: expected numbers of neighbours of at least 1, found \"%s\"", k_text);
    o->temperature = strtod(temperature_text, &end);
    if (end == temperature_text || *end || !(o->temperature > 0) || !isfinite(o->temperature))
        return dinov_tool_usage(tool, "--temperature: expected a number above 0, found \"%s\"", temperature_text);
    o->tries = (int)tries;
    o->seed  = (uint64_t)seed;
    return 0;
}

/* "full", "5 per class" */
static const char *group_name(int64_t per_class, char out[40])
{
    if (per_class < 0)
        snprintf(out, 40, "full");
    else
        snprintf(out, 40, "%" PRId64 " per class", per_class);
    return out;
}

static void add_figure(dinov_text *text, const char *before, const dinov_knn_result *r, int top, const char *after)
{
    char group[40], key[96];
    snprintf(key, sizeof key, "%s\"('%s', %" PRId64 ") Top %d\": ", before, group_name(r->per_class, group), r->k, top);
    dinov_text_puts(text, key);
    dinov_text_double(text, 100 * (top == 1 ? r->top1 : r->top5));
    dinov_text_puts(text, after);
}

static dinov_status print_knn(struct evaluation *e, const dinov_knn_result *results, int64_t count, dinov_error *err)
{
    char       group[40];
    dinov_text line = {0};

    for (int64_t i = 0; i < 2 * count; i++) {
        int top = i % 2 ? 5 : 1;
        add_figure(&e->file, "{", &results[i / 2], top, "}\n");
        add_figure(&line, i ? ", " : "{", &results[i / 2], top, i == 2 * count - 1 ? "}\n" : "");
    }
    DINOV_TRY(write_output(e, err));
    if (json && !line.failed) fputs(line.data, stdout);
    if (!json) {
        printf("%-16s %6s  %6s  %6s\n", "training items", "k", "top-1", "top-5");
        for (int64_t i = 0; i < count; i++)
            printf("%-16s %6" PRId64 "  %6.2f  %6.2f\n", group_name(results[i].per_class, group), results[i].k, 100 * results[i].top1,
                   100 * results[i].top5);
    }
    dinov_text_clear(&line);
    return DINOV_OK;
}

static dinov_status knn(struct evaluation *e, const dinov_knn_options *o, dinov_error *err)
{
    dinov_knn_result *results = NULL;
    int64_t           count, classes;

    DINOV_TRY(open_sets(e, err));
    DINOV_TRY(dinov_labelled_check(&e->train.view, &e->test.view, &classes, e->ops, e->pool, err));
    describe_sets(e, classes);
    DINOV_TRY(dinov_knn(&results, &count, &e->train.view, &e->test.view, o, e->ops, e->pool, err));
    dinov_status status = print_knn(e, results, count, err);
    dinov_free(results);
    return status;
}

static int run_knn(const dinov_tool *tool, int argc, char **argv)
{
    dinov_error       err = {0};
    dinov_knn_options o   = {0};
    struct evaluation e   = {.tool = tool};
    int               code = check_options(tool, argc, argv);
    if (!code) code = parse_knn(tool, &o);
    if (code) return code;
    dinov_status status = knn(&e, &o, &err);
    close_sets(&e);
    return status == DINOV_OK ? dinov_tool_flush(tool) : dinov_tool_fail(tool, &err);
}

/* ---- Linear probe ---- */

/* What upstream writes of one evaluation. */
static void add_evaluation(dinov_text *text, int64_t iteration, const char *name, double accuracy)
{
    dinov_text_puts(text, "iter: ");
    dinov_text_int(text, iteration);
    dinov_text_puts(text, "\n{\"best_classifier\": {\"name\": \"");
    dinov_text_puts(text, name);
    dinov_text_puts(text, "\", \"accuracy\": ");
    dinov_text_double(text, accuracy);
    dinov_text_puts(text, "}}\n\n");
}

static dinov_status train_probe(struct evaluation *e, dinov_probe *probe, const dinov_labelled *val, dinov_probe_score *scores,
                                dinov_error *err)
{
    struct watch watch   = {.tool = e->tool, .what = "training"};
    double       started = now();
    int64_t      total   = dinov_probe_total(probe), done;

    while ((done = dinov_probe_done(probe)) < total) {
        int64_t stop = eval_period ? (done / eval_period + 1) * eval_period : total, most = done + STRIDE;
        dinov_probe_train(probe, (stop < most ? stop : most) - done);
        done = dinov_probe_done(probe);
        show(&watch, done, total, now() - started);
        if (done != stop || done >= total) continue;
        DINOV_TRY(dinov_probe_evaluate(probe, val, scores, err));
        int best = dinov_probe_best(probe, scores);
        add_evaluation(&e->file, done - 1, dinov_probe_get(probe, best)->name, scores[best].top1);
        end_line(&watch);
        if (!quiet)
            dinov_tool_note(e->tool, "iteration %" PRId64 " of %" PRId64 ": %.2f by %s", done, total, 100 * scores[best].top1,
                            dinov_probe_get(probe, best)->name);
    }
    end_line(&watch);
    return dinov_probe_evaluate(probe, val, scores, err);
}

/* Top-1 of all classifiers: a line for each rate, a column for each kind. */
static void print_classifiers(const dinov_probe *probe, const dinov_probe_score *scores, const char *set)
{
    int count = dinov_probe_count(probe), rates = 0;
    while (rates < count && dinov_probe_get(probe, rates)->blocks == dinov_probe_get(probe, 0)->blocks &&
           dinov_probe_get(probe, rates)->avgpool == dinov_probe_get(probe, 0)->avgpool)
        rates++;
    printf("%-14s", "learning rate");
    for (int i = 0; i < count; i += rates) {
        const dinov_probe_classifier *c = dinov_probe_get(probe, i);
        printf("  %s%s", c->blocks == 1 ? "1 block " : "4 blocks", c->avgpool ? "+mean" : "     ");
    }
    printf("   top-1 on the %s\n", set);
    for (int r = 0; r < rates; r++) {
        printf("%-14g", dinov_probe_get(probe, r)->rate);
        for (int i = r; i < count; i += rates) printf("  %8.2f     ", 100 * scores[i].top1);
        putchar('\n');
    }
}

static void print_linear(const struct evaluation *e, const dinov_probe *probe, const dinov_probe_score *chosen,
                         const dinov_probe_score *scores)
{
    int         best = dinov_probe_best(probe, chosen);
    const char *name = dinov_probe_get(probe, best)->name;
    dinov_text  line = {0};

    if (json) {
        dinov_text_puts(&line, "{\"best_classifier\": \"");
        dinov_text_puts(&line, name);
        dinov_text_puts(&line, "\", ");
        if (e->has_val) {
            dinov_text_puts(&line, "\"val_accuracy\": ");
            dinov_text_double(&line, 100 * chosen[best].top1);
            dinov_text_puts(&line, ", ");
        }
        dinov_text_puts(&line, "\"test_accuracy\": ");
        dinov_text_double(&line, 100 * scores[best].top1);
        dinov_text_puts(&line, "}\n");
        if (!line.failed) fputs(line.data, stdout);
        dinov_text_clear(&line);
        return;
    }
    print_classifiers(probe, chosen, e->has_val ? "validation set" : "test set");
    printf("\n%s, chosen on the %s set: top-1 %.2f, top-5 %.2f on the test set\n", name, e->has_val ? "validation" : "test",
           100 * scores[best].top1, 100 * scores[best].top5);
}

static dinov_status run_probe(struct evaluation *e, dinov_probe *probe, dinov_error *err)
{
    size_t                count  = (size_t)dinov_probe_count(probe);
    dinov_probe_score    *chosen = dinov_calloc(2 * count, sizeof *chosen), *scores = chosen + count;
    const dinov_labelled *val    = e->has_val ? &e->val.view : &e->test.view;
    dinov_status          status;

    if (!chosen) return dinov_fail_nomem(err, "linear probe", "its scores");
    DINOV_TRY_GOTO(train_probe(e, probe, val, chosen, err));
    DINOV_TRY_GOTO(dinov_probe_evaluate(probe, &e->test.view, scores, err));
    int best = dinov_probe_best(probe, chosen);
    add_evaluation(&e->file, dinov_probe_total(probe), dinov_probe_get(probe, best)->name, chosen[best].top1);
    if (e->has_val) add_evaluation(&e->file, dinov_probe_total(probe), dinov_probe_get(probe, best)->name, scores[best].top1);
    DINOV_TRY_GOTO(write_output(e, err));
    print_linear(e, probe, chosen, scores);
fail:
    dinov_free(chosen);
    return status;
}

static dinov_status linear(struct evaluation *e, const dinov_probe_options *o, dinov_error *err)
{
    dinov_probe *probe = NULL;
    int64_t      classes;

    DINOV_TRY(open_sets(e, err));
    DINOV_TRY(dinov_labelled_check(&e->train.view, &e->test.view, &classes, e->ops, e->pool, err));
    if (e->has_val) DINOV_TRY(dinov_labelled_check(&e->train.view, &e->val.view, &classes, e->ops, e->pool, err));
    describe_sets(e, classes);
    DINOV_TRY(dinov_probe_new(&probe, &e->train.view, classes, o, e->ops, e->pool, err));
    dinov_status status = run_probe(e, probe, err);
    dinov_probe_free(&probe);
    return status;
}

static int run_linear(const dinov_tool *tool, int argc, char **argv)
{
    dinov_error         err = {0};
    dinov_probe_options o   = {.batch = batch_size, .iterations = epochs * epoch_length, .seed = (uint64_t)seed};
    struct evaluation   e   = {.tool = tool, .all = true, .has_val = given(&val_from)};
    int                 code = check_options(tool, argc, argv);
    if (!code) code = parse_rates(tool, &o);
    if (code) return code;
    dinov_status status = linear(&e, &o, &err);
    close_sets(&e);
    return status == DINOV_OK ? dinov_tool_flush(tool) : dinov_tool_fail(tool, &err);
}

/* ---- The verbs ---- */

#define SETS                                                                                                          \
    "SET is the output folder of dinov-infer, an .npy file of anybody's features [N, D], or, with -m, pictures:\n"    \
    "folders with a sub-folder for each class, or tar shards of KEY.jpg and KEY.cls (.tar, .tar.gz, .tar.zst).\n\n"   \
    "Labels of features are in a file: an .npy of integers, text of one label a line, or lines of KEY tab LABEL.\n"   \
    "Without one, the class of a row of dinov-infer is the folder its picture lies in. Classes may be numbers from 0\n" \
    "or names.\n\n"

static const dinov_tool knn_tool = {
    .name     = "dinov-eval knn",
    .usage    = "--train SET --test SET [-m MODEL]",
    .summary  = "k-NN accuracy, as the official evaluation computes it",
    .examples = "  dinov-eval knn -m vits14.safetensors --train train/ --test val/\n"
                "      top-1 and top-5 for 10, 20, 100 and 200 neighbours, from pictures in folders by class\n"
                "  dinov-eval knn --train features --test features-test --n-per-class 5,-1 --tries 3 --json\n"
                "      from two runs of dinov-infer, also with five pictures a class, averaged over three draws\n",
    .details  = SETS "Items of unit length are compared by their dot product. Where there are fewer training items than k, all\n"
                    "vote. A tie goes to the lower class. Subsets of --n-per-class are drawn by our own generator, so they are\n"
                    "others than the official code's with the same seed.\n",
    .options  = knn_options,
    .run      = run_knn,
};

static const dinov_tool linear_tool = {
    .name     = "dinov-eval linear",
    .usage    = "--train SET --test SET [--val SET] [-m MODEL]",
    .summary  = "accuracy of linear classifiers on frozen features, as the official evaluation trains them",
    .examples = "  dinov-infer -m vits14.safetensors -o features --features cls,mean --layers -1,-2,-3,-4 train/\n"
                "  dinov-eval linear --train features --test features-test -o results_eval_linear.json\n"
                "      all 52 classifiers on cached features: last block or four, with or without the mean patch, 13 rates\n"
                "  dinov-eval linear -m vits14.safetensors --train train/ --val val/ --test test/ --epochs 2\n"
                "      from pictures; chosen on one set, reported on another\n",
    .details  = SETS "Classifiers are trained together by SGD (momentum 0.9, cosine to 0) and the best on the test set is reported,\n"
                    "as upstream does; --val chooses on another set. A run without the layers -2 to -4, or without mean, and any\n"
                    ".npy, gives fewer kinds of classifiers.\n\n"
                    "NOT as upstream: each picture is seen once, without augmentation. Upstream crops and flips every training\n"
                    "picture anew each time, which gives somewhat higher figures on large models.\n",
    .options  = linear_options,
    .run      = run_linear,
};

int main(int argc, char **argv)
{
    static const dinov_tool *const verbs[] = {&knn_tool, &linear_tool, NULL};
    return dinov_tool_verbs("dinov-eval", "how good features are: k-NN and linear probe", verbs, argc, argv);
}
