/* SPDX-License-Identifier: Apache-2.0
 *
 * dinov-train pretrain|distill|config|report: makes models. The work is train/session.h's.
 */
#include "cli/tool.h"
#include "convert/import.h"
#include "train/report.h"
#include "train/session.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EXIT_INT = 130 };

static const char *output, *config_path, *init_path, *fork_from, *teacher, *isa;
static int64_t     threads, stop_after;
static bool        quiet, dry_run;

static atomic_int   stop;
static volatile int stop_signal;

static void on_signal(int signal)
{
    stop_signal = signal;
    atomic_store(&stop, 1);
}

/* ---- What people see ---- */

struct watch {
    const dinov_tool *tool;
    bool              terminal, line;
    double            last;
};

static void end_line(struct watch *w)
{
    if (w->line) fputs("\r\033[K", stderr);
    w->line = false;
}

static void on_note(void *arg, const char *sentence)
{
    struct watch *w = arg;
    if (quiet) return;
    end_line(w);
    dinov_tool_note(w->tool, "%s", sentence);
}

/* On a terminal one line that is written again, elsewhere a line a minute. */
static void on_progress(void *arg, const dinov_train_progress *p)
{
    struct watch            *w     = arg;
    const dinov_step_result *r     = p->result;
    double                   pause = w->terminal ? 0.5 : 60;
    if (quiet || (p->seconds - w->last < pause && p->iteration < p->total)) return;
    w->last = p->seconds;
    if (w->terminal) fputs("\r\033[K", stderr);
    fprintf(stderr, "%" PRId64 "/%" PRId64 "  loss %.4f (local %.3f global %.3f koleo %.3f ibot %.3f)  %.1f img/s", p->iteration,
            p->total, r->total_loss, r->dino_local_crops_loss, r->dino_global_crops_loss, r->koleo_loss, r->ibot_loss,
            p->images_per_s);
    int64_t left = (int64_t)(p->left_s + 0.5);
    fprintf(stderr, "  %" PRId64 ":%02" PRId64 ":%02" PRId64 " left", left / 3600, left / 60 % 60, left % 60);
    fprintf(stderr, "  %s-bound (%.0f%%)", p->waited > 0.5 ? "data" : "model", 100 * (p->waited > 0.5 ? p->waited : 1 - p->waited));
    if (p->knn >= 0) fprintf(stderr, "  20-NN %.1f%%", 100 * p->knn);
    if (p->bad_pictures) fprintf(stderr, "  %" PRId64 " bad", p->bad_pictures);
    if (!w->terminal)
        fputc('\n', stderr);
    else
        w->line = true;
}

/* ---- Set-up ---- */

/* KEY=VALUE among the positional arguments is a setting; a path with '=' in it is written ./so. */
static bool is_setting(const char *argument)
{
    const char *equals = strchr(argument, '=');
    return equals && !memchr(argument, '/', (size_t)(equals - argument)) && argument[0] != '@';
}

static dinov_status read_settings(struct watch *w, dinov_config *config, int *argc, char **argv, dinov_error *err)
{
    int paths = 0;
    dinov_config_default(config);
    if (config_path) DINOV_TRY(dinov_config_load(config, config_path, on_note, w, err));
    for (int i = 0; i < *argc; i++)
        if (!is_setting(argv[i]))
            argv[paths++] = argv[i];
        else
            DINOV_TRY(dinov_config_set(config, argv[i], on_note, w, err));
    *argc = paths;
    /* Under the bounds of the table: what could not be read back from config.yaml could not go on after a stop. */
    return output ? dinov_config_put(config, "train.output_dir", output, "-o", err) : DINOV_OK;
}

/* The data on the command line, or the configuration's, whose paths are separated by ':'. */
static dinov_status choose_data(dinov_config *config, int argc, char **argv, const char **paths, int64_t most, int64_t *count,
                                dinov_error *err)
{
    static char text[DINOV_CONFIG_TEXT];
    *count = 0;
    if (argc > 0) {
        size_t used = 0;
        for (int i = 0; i < argc; i++) {
            if (*count == most)
                return dinov_fail(err, DINOV_ERR_CONFIG, "CFG-DATA",
                                  "expected at most %" PRId64 " paths of data; name a folder, or a list by @FILE", most);
            paths[(*count)++] = argv[i];
            used += (size_t)snprintf(text + used, sizeof text - used, "%s%s", i ? ":" : "", argv[i]);
            if (used >= sizeof text)
                return dinov_fail(err, DINOV_ERR_CONFIG, "CFG-DATA",
                                  "the paths of data are too long together; name a folder, or a list by @FILE");
        }
        return dinov_config_put(config, "train.dataset_path", text, "DATA", err);
    }
    DINOV_TRY(dinov_config_check_data(config, err));
    snprintf(text, sizeof text, "%s", config->train.dataset_path);
    for (char *path = strtok(text, ":"); path && *count < most; path = strtok(NULL, ":")) paths[(*count)++] = path;
    return DINOV_OK;
}

/* ---- Verbs ---- */

static int finish(const dinov_tool *tool, dinov_status status, bool stopped, const dinov_error *err)
{
    if (status != DINOV_OK) return dinov_tool_fail(tool, err);
    if (!stopped) {
        if (!quiet) dinov_tool_note(tool, "%s: finished", output);
        return DINOV_EXIT_OK;
    }
    if (!quiet) dinov_tool_note(tool, "%s: stopped, everything up to here is committed; the same command goes on", output);
    return stop_signal == SIGINT ? EXIT_INT : stop_signal ? DINOV_EXIT_TERM : DINOV_EXIT_OK;
}

static dinov_status plan(const dinov_train_options *o, dinov_error *err)
{
    char             preview[4096];
    dinov_train_plan p;
    if ((size_t)snprintf(preview, sizeof preview, "%s.preview.png", o->output) >= sizeof preview)
        return dinov_fail(err, DINOV_ERR_IO, "RUN-OPEN", "the run's path is too long");
    DINOV_TRY(dinov_session_plan(&p, o, preview, err));
    const dinov_config *c = o->config;
    printf("data      %" PRId64 " pictures; the run sees each %.1f times\n", p.pictures,
           (double)p.steps * (double)p.images_per_step / (double)p.pictures);
    printf("student   width %" PRId64 ", %" PRId64 " blocks, %" PRId64 " heads, patch %" PRId64
           ", %s; %.2f M parameters with its heads\n",
           p.model.dim, p.model.depth, p.model.heads, p.model.patch, p.model.ffn == DINOV_FFN_SWIGLU ? "SwiGLU" : "MLP",
           1e-6 * (double)p.parameters);
    printf("step      %" PRId64 " images: 2 crops of %" PRId64 " and %" PRId64 " of %" PRId64
           " pixels each, %s, learning rate %g\n",
           p.images_per_step, c->crops.global_crops_size, c->crops.local_crops_number, c->crops.local_crops_size,
           c->train.centering == DINOV_SINKHORN_KNOPP ? "Sinkhorn-Knopp" : "centring", p.lr);
    printf("run       %" PRId64 " steps\n", p.steps);
    printf("memory    %.0f MiB for state and activations, up to %" PRId64
           " MiB of cached pictures; saving takes %.0f MiB more for its copy\n",
           (double)p.bytes / (1 << 20), c->train.cache_mib, 16 * (double)p.parameters / (1 << 20));
    printf("preview   %s: the first batch, a row an image\n", preview);
    return DINOV_OK;
}

static int train(const dinov_tool *tool, int argc, char **argv,
                 dinov_status (*method)(const dinov_train_options *, bool *, dinov_error *))
{
    enum { MOST = 4096 };
    static const char  *paths[MOST];
    static dinov_config config;
    dinov_error         err     = {0};
    dinov_import       *import  = NULL;
    bool                stopped = false;
    struct watch        watch   = {.tool = tool, .terminal = isatty(STDERR_FILENO)};
    dinov_train_options o       = {.config     = &config,
                                   .data       = paths,
                                   .fork       = fork_from,
                                   .teacher    = teacher,
                                   .threads    = (int)threads,
                                   .isa        = isa,
                                   .stop       = &stop,
                                   .stop_after = stop_after,
                                   .progress   = on_progress,
                                   .note       = on_note,
                                   .arg        = &watch};

    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);

    dinov_status status = read_settings(&watch, &config, &argc, argv, &err);
    if (status == DINOV_OK) status = choose_data(&config, argc, argv, paths, MOST, &o.data_count, &err);
    if (status != DINOV_OK) return dinov_tool_fail(tool, &err);
    if (!output && strcmp(config.train.output_dir, ".") == 0) return dinov_tool_usage(tool, "-o RUN: the run's folder is missing");
    if (!output) output = config.train.output_dir;
    o.output = output;
    if (!init_path && config.student.pretrained_weights[0]) init_path = config.student.pretrained_weights;
    if (init_path) {
        status = dinov_import_open(&import, init_path, NULL, &err);
        if (status == DINOV_OK) o.init = dinov_import_weights(import);
    }
    if (status == DINOV_OK && dry_run) {
        status = plan(&o, &err);
        dinov_import_close(&import);
        return status == DINOV_OK ? dinov_tool_flush(tool) : dinov_tool_fail(tool, &err);
    }
    if (status == DINOV_OK) status = method(&o, &stopped, &err);
    end_line(&watch);
    dinov_import_close(&import);
    return finish(tool, status, stopped, &err);
}

static int run_pretrain(const dinov_tool *tool, int argc, char **argv) { return train(tool, argc, argv, dinov_pretrain); }

static int run_distill(const dinov_tool *tool, int argc, char **argv)
{
    if (!teacher) return dinov_tool_usage(tool, "--teacher RUN: the teacher is missing");
    return train(tool, argc, argv, dinov_distill);
}

static int run_config(const dinov_tool *tool, int argc, char **argv)
{
    static dinov_config config;
    dinov_error         err   = {0};
    dinov_text          text  = {0};
    struct watch        watch = {.tool = tool};
    if (read_settings(&watch, &config, &argc, argv, &err) != DINOV_OK) return dinov_tool_fail(tool, &err);
    if (argc > 0) return dinov_tool_usage(tool, "expected KEY=VALUE, found %s", argv[0]);
    dinov_config_print(&config, &text);
    if (text.data) fputs(text.data, stdout);
    dinov_text_clear(&text);
    return dinov_tool_flush(tool);
}

static int run_report(const dinov_tool *tool, int argc, char **argv)
{
    dinov_error err  = {0};
    dinov_text  text = {0};
    if (argc != 1) return dinov_tool_usage(tool, "expected one run");
    dinov_status status = dinov_train_report(argv[0], &text, &err);
    if (status == DINOV_OK) fputs(text.data, stdout);
    dinov_text_clear(&text);
    return status == DINOV_OK ? dinov_tool_flush(tool) : dinov_tool_fail(tool, &err);
}

/* clang-format off */
/* Shared by the verbs that train. */
#define TRAINING_OPTIONS \
    {'o', "output", DINOV_OPT_TEXT, &output, "RUN", "the run's folder; an unfinished run in it goes on", 0, 0, true}, \
    {'c', "config", DINOV_OPT_TEXT, &config_path, "FILE", "YAML, or tiny-cpu or small-1gpu (default: the official defaults)", 0, 0, true}, \
    {0, "init", DINOV_OPT_TEXT, &init_path, "FILE", "start from this backbone, any layout dinov reads (default: fresh)", 0, 0, true}, \
    {0, "fork", DINOV_OPT_TEXT, &fork_from, "RUN@STEP", "start a new run from a checkpoint of another one", 0, 0, false}, \
    {0, "dry-run", DINOV_OPT_FLAG, &dry_run, NULL, "print the plan, draw the first batch in RUN.preview.png, train nothing", 0, 0, true}, \
    {'t', "threads", DINOV_OPT_INT, &threads, "N", "threads (default 0: all cores)", 0, 1024, true}, \
    {0, "isa", DINOV_OPT_TEXT, &isa, "NAME", "force ref, avx2 or avx512 (default: the best here)", 0, 0, false}, \
    {0, "stop-after", DINOV_OPT_INT, &stop_after, "STEP", "end after this step, as if stopped (default 0: not)", 0, INT64_MAX, false}, \
    {'q', "quiet", DINOV_OPT_FLAG, &quiet, NULL, "no progress and no notes", 0, 0, true}
/* clang-format on */

static const dinov_opt pretrain_options[] = {TRAINING_OPTIONS, {0}};

static const dinov_opt distill_options[] = {
    {0, "teacher", DINOV_OPT_TEXT, &teacher, "RUN", "the run whose model teaches, or RUN@STEP; it is not changed", 0, 0, true},
    TRAINING_OPTIONS,
    {0},
};

static const dinov_opt config_options[] = {
    {'c', "config", DINOV_OPT_TEXT, &config_path, "FILE", "YAML, or tiny-cpu or small-1gpu", 0, 0, true},
    {0},
};

static const dinov_tool pretrain = {
    .name     = "dinov-train pretrain",
    .usage    = "-o RUN [-c CONFIG] DATA... [KEY=VALUE...]",
    .summary  = "trains a vision transformer on pictures without labels, by the method of DINOv2",
    .examples = "  dinov-train pretrain -o run -c tiny-cpu photos/\n"
                "      a small model on the pictures under photos/; the same command goes on after a stop\n"
                "  dinov-train pretrain -o run -c vitl16_short.yaml shards/train-*.tar optim.epochs=50\n"
                "      the official recipe on WebDataset shards, with one key changed\n",
    .details =
        "DATA are folders (walked recursively), tar shards (.tar, .tar.gz, .tar.zst), pictures, or lists by @FILE. No labels are\n"
        "needed. KEY=VALUE sets a key of the configuration (docs/config.md); a path with '=' in it is written ./PATH.\n\n"
        "RUN gets config.yaml, metrics.jsonl, and checkpoints step-000000250/ and so on, in each of which\n"
        "backbone.safetensors is the averaged model, ready for dinov-infer and dinov-convert. SIGTERM finishes the step,\n"
        "commits and exits with 143; the same command goes on, bit for bit as if it had not been stopped. A changed\n"
        "configuration is refused with the difference; --fork RUN@STEP -o NEW starts a new run from a checkpoint.\n",
    .options = pretrain_options,
    .run     = run_pretrain,
};

static const dinov_tool distill = {
    .name    = "dinov-train distill",
    .usage   = "-o RUN --teacher RUN [-c CONFIG] DATA... [KEY=VALUE...]",
    .summary = "trains a smaller model to see what a larger one sees",
    .examples =
        "  dinov-train distill -o small --teacher large-run -c mine.yaml photos/ student.embed_dim=192 student.num_heads=3\n"
        "      a student of width 192 from the newest checkpoint of large-run\n"
        "  dinov-train distill -o small --teacher large-run@5000 -c mine.yaml shards/*.tar\n"
        "      from a certain step of it\n",
    .details =
        "The teacher is a run of dinov-train, because its heads are needed: its prototypes are what the student learns to "
        "predict.\n"
        "The student's numbers of prototypes and its patch size must be the teacher's; everything else is free. The result is the\n"
        "average of the student, backbone.safetensors of each checkpoint. Otherwise as dinov-train pretrain.\n",
    .options = distill_options,
    .run     = run_distill,
};

static const dinov_opt no_options[] = {{0}};

static const dinov_tool report_tool = {
    .name     = "dinov-train report",
    .usage    = "RUN",
    .summary  = "the state of a run, and what its numbers mean",
    .examples = "  dinov-train report run\n"
                "      how far it is, each number then and now, and whether anything is wrong; also while it trains\n"
                "  watch -n 60 dinov-train report run\n"
                "      the same every minute\n",
    .options  = no_options,
    .run      = run_report,
};

static const dinov_tool config_tool = {
    .name     = "dinov-train config",
    .usage    = "[-c CONFIG] [KEY=VALUE...]",
    .summary  = "prints the effective configuration as YAML",
    .examples = "  dinov-train config -c tiny-cpu optim.epochs=5 > mine.yaml\n"
                "      a preset with one key changed, to be edited further\n"
                "  dinov-train config -c vitl14.yaml\n"
                "      an official recipe, with every key it leaves at its default\n",
    .options  = config_options,
    .run      = run_config,
};

int main(int argc, char **argv)
{
    static const dinov_tool *const verbs[] = {&pretrain, &distill, &report_tool, &config_tool, NULL};
    return dinov_tool_verbs("dinov-train", "trains models, and shows how training goes", verbs, argc, argv);
}
