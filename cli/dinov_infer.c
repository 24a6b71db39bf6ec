/* SPDX-License-Identifier: Apache-2.0
 *
 * dinov-infer: pictures in, feature files out; and the listing of what came out. Reads options, opens
 * model and inputs, calls dinov_extract, says how it went.
 */
#include "base/file.h"
#include "cli/model.h"
#include "infer/extract.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SHOWN_BAD = 20, EXIT_INT = 130 /* as shells have it */ };

static const char *model_path, *output, *list_path, *preset_text, *listing, *isa, *device, *compute;
static const char *decode_text = "cpu", *features_text = "cls", *layers_text = "-1", *store_text = "f32", *max_bad_text = "1%";
static int64_t     batch, threads, max_tokens = 32768;
static dinov_engine_options where;
static bool        no_norm, no_fence, dump_input, force, quiet, verbose, json;

static const dinov_opt options[] = {
    {'m', "model", DINOV_OPT_TEXT, &model_path, "MODEL", "dinov checkpoint, training run, or weights of any layout dinov-convert reads", .common = true},
    {'o', "output", DINOV_OPT_TEXT, &output, "OUT", "folder for the results, new or empty", .common = true},
    {0, "features", DINOV_OPT_TEXT, &features_text, "LIST", "of cls, mean, patch, reg (default cls)", .common = true},
    {0, "preset", DINOV_OPT_TEXT, &preset_text, "PRESET", "eval[:N], short:N, long:N, square:N or full (default: the model's own)",
     .common = true},
    {0, "filelist", DINOV_OPT_TEXT, &list_path, "F", "further inputs, one path a line; - is standard input (default none)",
     .common = true},
    {0, "layers", DINOV_OPT_TEXT, &layers_text, "LIST", "block indices, negative from the end (default -1)", .common = false},
    {0, "no-norm", DINOV_OPT_FLAG, &no_norm, NULL, "features before the final LayerNorm", .common = false},
    {'b', "batch", DINOV_OPT_INT, &batch, "N", "pictures run together (default 8, on a GPU what suits it); does not change results", 1, 4096, true},
    {'t', "threads", DINOV_OPT_INT, &threads, "N", "threads (default 0: all cores); does not change results", 0, 1024, true},
    DINOV_OPT_DEVICE(&device, &compute),
    {0, "decode", DINOV_OPT_TEXT, &decode_text, "WHERE", "cpu, or nvjpeg: JPEGs on the GPU, to slightly other pixels (default cpu)",
     .common = false},
    {0, "store", DINOV_OPT_TEXT, &store_text, "TYPE", "f32 or f16 (default f32)", .common = false},
    {0, "dump-input", DINOV_OPT_FLAG, &dump_input, NULL, "also write the pixels the model saw", .common = false},
    {0, "max-bad", DINOV_OPT_TEXT, &max_bad_text, "N|P%", "bad inputs allowed (default 1%); beyond it the exit code is 4",
     .common = false},
    {0, "max-tokens", DINOV_OPT_INT, &max_tokens, "N", "patch tokens an input may have (default 32768); more is too-large", 1,
     (int64_t)1 << 31, false},
    {'f', "force", DINOV_OPT_FLAG, &force, NULL, "replace the results in OUT", .common = true},
    {0, "ls", DINOV_OPT_TEXT, &listing, "OUT", "print the index of finished results", .common = true},
    {0, "json", DINOV_OPT_FLAG, &json, NULL, "with --ls: JSON lines", .common = false},
    {0, "isa", DINOV_OPT_TEXT, &isa, "NAME", "force an instruction set (default: the best this CPU has)", .common = false},
    {'q', "quiet", DINOV_OPT_FLAG, &quiet, NULL, "no progress, no notes", .common = false},
    DINOV_OPT_NO_FENCE(&no_fence),
    {'v', "verbose", DINOV_OPT_FLAG, &verbose, NULL, "name every bad input", .common = false},
    {0},
};

static atomic_int stop_signal;

static void on_signal(int number) { atomic_store(&stop_signal, number); }

/* ---- Options ---- */

static int parse_features(const dinov_tool *tool, dinov_extract_options *o)
{
    for (const char *p = features_text;;) {
        size_t n  = strcspn(p, ",");
        bool  *to = n == 3 && !memcmp(p, "cls", 3)     ? &o->cls
                    : n == 4 && !memcmp(p, "mean", 4)  ? &o->mean
                    : n == 5 && !memcmp(p, "patch", 5) ? &o->patch
                    : n == 3 && !memcmp(p, "reg", 3)   ? &o->reg
                                                       : NULL;
        if (!to || *to)
            return dinov_tool_usage(tool, "--features: expected a list of cls, mean, patch, reg, each once, found \"%s\"",
                                    features_text);
        *to = true;
        if (!p[n]) return 0;
        p += n + 1;
    }
}

static int parse_options(const dinov_tool *tool, int argc, dinov_extract_options *o)
{
    int code;
    if (!model_path || !output) return dinov_tool_usage(tool, "expected -m MODEL and -o OUT");
    if (!argc && !list_path) return dinov_tool_usage(tool, "expected at least one input: a file, a folder, or --filelist");
    if ((code = parse_features(tool, o))) return code;
    if ((code = dinov_tool_layers(tool, layers_text, o->layers, DINOV_MAX_LAYERS, &o->layer_count))) return code;
    if ((code = dinov_tool_max_bad(tool, max_bad_text, &o->max_bad, &o->percent))) return code;
    o->f16 = strcmp(store_text, "f16") == 0;
    if (!o->f16 && strcmp(store_text, "f32") != 0)
        return dinov_tool_usage(tool, "--store: expected f32 or f16, found \"%s\"", store_text);
    o->nvjpeg = strcmp(decode_text, "nvjpeg") == 0;
    if (!o->nvjpeg && strcmp(decode_text, "cpu") != 0)
        return dinov_tool_usage(tool, "--decode: expected cpu or nvjpeg, found \"%s\"", decode_text);
    if (json) return dinov_tool_usage(tool, "--json goes with --ls");
    if ((code = dinov_tool_engine_options(&where, tool, (int)threads, isa, device, compute))) return code;
    o->out        = output;
    o->model_file = model_path;
    o->no_norm    = no_norm;
    o->dump_input = dump_input;
    o->overwrite  = force;
    o->batch      = batch;
    o->threads    = (int)threads;
    o->max_tokens = max_tokens;
    o->stop       = &stop_signal;
    return 0;
}

/* ---- Listing ---- */

/* A JSON string of bytes that are UTF-8 or not: a stray byte becomes \udcXX, as Python's
 * surrogateescape has it, so that os.fsencode gives the very name back. */
static void print_json_string(const char *bytes, size_t size)
{
    const uint8_t *p = (const uint8_t *)bytes;
    putchar('"');
    for (size_t i = 0; i < size;) {
        size_t n     = p[i] < 0x80                   ? 1
                       : p[i] >= 0xc2 && p[i] < 0xe0 ? 2
                       : (p[i] & 0xf0) == 0xe0       ? 3
                       : p[i] >= 0xf0 && p[i] < 0xf5 ? 4
                                                     : 0;
        bool   valid = n > 0 && i + n <= size;
        for (size_t k = 1; valid && k < n; k++) valid = (p[i + k] & 0xc0) == 0x80;
        if (valid && n == 3) valid = !(p[i] == 0xe0 && p[i + 1] < 0xa0) && !(p[i] == 0xed && p[i + 1] >= 0xa0);
        if (valid && n == 4) valid = !(p[i] == 0xf0 && p[i + 1] < 0x90) && !(p[i] == 0xf4 && p[i + 1] >= 0x90);
        if (!valid) {
            printf("\\udc%02x", p[i]);
            i++;
        } else if (n == 1 && (p[i] < 0x20 || p[i] == '"' || p[i] == '\\' || p[i] == 0x7f)) {
            printf("\\u%04x", p[i]);
            i++;
        } else {
            fwrite(p + i, 1, n, stdout);
            i += n;
        }
    }
    putchar('"');
}

static void print_json_record(const dinov_index_record *r, const char *key)
{
    printf("{\"path\": ");
    print_json_string(key, r->key_size);
    printf(", \"status\": \"%s\", \"row\": ", dinov_input_status_name(r->status));
    if (r->status == DINOV_INPUT_OK)
        printf("%" PRId64, r->row);
    else
        printf("null");
    printf(", \"width\": %u, \"height\": %u, \"input_width\": %u, \"input_height\": %u, \"grid_w\": %u, \"grid_h\": %u}\n",
           r->width, r->height, r->input_width, r->input_height, r->grid_w, r->grid_h);
}

static void print_record(const dinov_index_record *r, const char *key)
{
    char shown[4 * DINOV_ESCAPED], row[24] = "-";
    if (r->status == DINOV_INPUT_OK) snprintf(row, sizeof row, "%" PRId64, r->row);
    printf("%8s  %-11s  %5ux%-5u  %4ux%-4u  %3ux%-3u  %s\n", row, dinov_input_status_name(r->status), r->width, r->height,
           r->input_width, r->input_height, r->grid_w, r->grid_h, dinov_escape(shown, sizeof shown, key, r->key_size));
}

static int list(const dinov_tool *tool)
{
    dinov_error err;
    dinov_index index;
    if (dinov_index_open(&index, listing, &err) != DINOV_OK) return dinov_tool_fail(tool, &err);
    if (!json) printf("%8s  %-11s  %-11s  %-9s  %-7s  %s\n", "row", "status", "stored", "input", "grid", "path");
    for (int64_t i = 0; i < index.count; i++) {
        dinov_index_record r;
        const char        *key;
        dinov_index_get(&index, i, &r, &key);
        (json ? print_json_record : print_record)(&r, key);
    }
    dinov_index_clear(&index);
    return dinov_tool_flush(tool);
}

/* ---- Inputs ---- */

/* Whether a named file begins like an .npy file. */
static bool is_array(const char *path)
{
    char        head[8];
    struct stat st;
    FILE       *f = stat(path, &st) == 0 && S_ISREG(st.st_mode) ? fopen(path, "rbe") : NULL;
    size_t      n = f ? fread(head, 1, sizeof head, f) : 0;
    if (f) fclose(f);
    return dinov_npy_is(head, n);
}

/* *array: the path of the one .npy input; otherwise *source. */
static dinov_status open_inputs(dinov_source **source, const char **array, const dinov_tool *tool, int argc, char **argv,
                                dinov_error *err)
{
    dinov_source_spec spec = {
        .paths = (const char *const *)argv, .path_count = argc, .lists = &list_path, .list_count = list_path ? 1 : 0};
    for (int i = 0; i < argc; i++)
        if (is_array(argv[i])) *array = argv[i];
    if (*array && preset_text)
        return dinov_fail(err, DINOV_ERR_CONFIG, "OPT-PRESET", "--preset: an .npy input is taken as it is; leave the preset away");
    if (*array && (argc != 1 || list_path))
        return dinov_fail(err, DINOV_ERR_CONFIG, "OPT-INPUT", "an .npy input stands alone: expected no other inputs beside it");
    if (*array) return DINOV_OK;
    DINOV_TRY(dinov_source_open(source, &spec, err));
    for (int64_t i = 0; dinov_source_problem(*source, i); i++)
        dinov_tool_note(tool, "%s [%s]", dinov_source_problem(*source, i)->msg, dinov_source_problem(*source, i)->code);
    return DINOV_OK;
}

/* ---- Reporting ---- */

struct watch {
    const dinov_tool      *tool;
    bool                   terminal, line;
    double                 last;
    int64_t                bad;
    dinov_extract_progress progress; /* the last */
};

static void end_line(struct watch *w)
{
    if (w->line) fputs("\r\033[K", stderr);
    w->line = false;
}

static void on_progress(void *arg, const dinov_extract_progress *p)
{
    struct watch *w = arg;
    w->progress     = *p;
    if (!w->terminal || quiet || (p->seconds - w->last < 0.2 && p->done < p->total)) return;
    double      rate  = p->seconds > 0 ? (double)p->done / p->seconds : 0;
    int64_t     left  = rate > 0 ? (int64_t)((double)(p->total - p->done) / rate + 0.5) : 0;
    const char *stage = p->model >= p->decode && p->model >= p->write ? "model" : p->decode >= p->write ? "decode" : "write";
    w->last           = p->seconds;
    w->line           = true;
    fprintf(stderr, "\r\033[K%" PRId64 "/%" PRId64 "  %.1f img/s  %" PRId64 ":%02" PRId64 ":%02" PRId64 " left  %s-bound (%.0f%%)",
            p->done, p->total, rate, left / 3600, left / 60 % 60, left % 60, stage,
            100 *
                (stage[0] == 'm'   ? p->model
                 : stage[0] == 'd' ? p->decode
                                   : p->write) /
                (p->seconds > 0 ? p->seconds : 1));
    if (p->bad) fprintf(stderr, "  %" PRId64 " bad", p->bad);
}

static void on_bad(void *arg, const char *key, dinov_input_status status, const dinov_error *why)
{
    struct watch *w = arg;
    (void)key;
    if (++w->bad > SHOWN_BAD && !verbose) return;
    end_line(w);
    dinov_tool_note(w->tool, "%s: %s [%s]", dinov_input_status_name(status), why->msg, why->code);
}

static void report(const struct watch *w, const dinov_extract_report *r)
{
    int64_t bad = r->total - r->count[DINOV_INPUT_OK];
    if (!verbose && w->bad > SHOWN_BAD) dinov_tool_note(w->tool, "and %" PRId64 " more bad inputs; see --ls", w->bad - SHOWN_BAD);
    if (quiet) return;
    if (r->already)
        dinov_tool_note(w->tool, "%s: this run is already finished: %" PRId64 " rows", output, r->count[DINOV_INPUT_OK]);
    else
        dinov_tool_note(w->tool, "%s: %" PRId64 " rows of %" PRId64 " inputs, %" PRId64 " bad", output, r->count[DINOV_INPUT_OK],
                        r->total, bad);
    if (strcmp(decode_text, "nvjpeg") == 0 && !r->already)
        dinov_tool_note(w->tool, "nvJPEG decoded %" PRId64 " of them, the CPU the others", r->by_device);
}

/* Work on a GPU runs beside decoding and writing: says which of them the others waited for. */
static void report_busy(const struct watch *w)
{
    const dinov_extract_progress *p = &w->progress;
    const char                   *pace = "the GPU sets the pace";
    if (quiet || p->seconds <= 0 || !device || strcmp(device, "cpu") == 0) return;
    if (p->decode > p->model) pace = "decoding sets the pace; more cores (-t) or smaller pictures would help";
    if (p->write > p->decode && p->write > p->model) pace = "writing sets the pace; a faster disk or --store f16 would help";
    dinov_tool_note(w->tool, "%.1f img/s: GPU %.0f%% busy, decoding threads %.0f%%, writing %.0f%%: %s", (double)p->done / p->seconds,
                    100 * p->model / p->seconds, 100 * p->decode / p->seconds, 100 * p->write / p->seconds, pace);
}

static int run(const dinov_tool *tool, int argc, char **argv)
{
    dinov_error           err    = {0};
    dinov_extract_options o      = {0};
    dinov_extract_report  r      = {0};
    dinov_tool_model      m      = {0};
    dinov_source         *source = NULL;
    const char           *array  = NULL;
    struct watch          watch  = {.tool = tool, .terminal = isatty(STDERR_FILENO)};

    if (listing) return model_path || output || argc ? dinov_tool_usage(tool, "--ls OUT stands alone, or with --json") : list(tool);
    int code = parse_options(tool, argc, &o);
    if (code) return code;
    if (preset_text && dinov_preset_parse(&o.preset, preset_text, &err) != DINOV_OK) return dinov_tool_fail(tool, &err);

    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file-size limit comes back as an error of write, like a full disk */

    dinov_status status = open_inputs(&source, &array, tool, argc, argv, &err);
    m.unfenced = no_fence;
    if (status == DINOV_OK) status = dinov_tool_model_open(&m, tool, model_path, &where, quiet, &err);
    if (status == DINOV_OK && !preset_text && !array) status = dinov_tool_model_preset(&o.preset, &m, &err);
    if (status == DINOV_OK) {
        if (o.patch && o.preset.kind == DINOV_PRESET_EVAL && !array && !quiet)
            dinov_tool_note(tool, "warning: preset eval crops the picture, so patches of its borders are missing; "
                                  "short:N, square:N or full keep all of it");
        o.model_id = m.id;
        o.progress = on_progress;
        o.bad      = on_bad;
        o.arg      = &watch;
        status     = dinov_extract(m.engine, source, array, &o, &r, &err);
        end_line(&watch);
        if (status == DINOV_OK || strcmp(err.code, "RUN-MAX-BAD") == 0) {
            report(&watch, &r);
            report_busy(&watch);
        }
    }
    dinov_tool_model_close(&m);
    dinov_source_close(&source);
    if (status == DINOV_OK) return dinov_tool_flush(tool);
    code = dinov_tool_fail(tool, &err);
    return stop_signal && strcmp(err.code, "RUN-STOPPED") == 0 ? stop_signal == SIGINT ? EXIT_INT : DINOV_EXIT_TERM : code;
}

static const dinov_tool tool = {
    .name     = "dinov-infer",
    .usage    = "-m MODEL -o OUT INPUT...\n       dinov-infer --ls OUT [--json]",
    .summary  = "features out of pictures: CLS vectors, means, patch and register tokens as .npy files",
    .examples = "  dinov-infer -m vits14.safetensors -o features photos/\n"
                "      one CLS vector for every picture under photos/, and an index of which is which\n"
                "  find photos -name '*.jpg' | dinov-infer -m vits14.safetensors -o maps --features patch \\\n"
                "      --preset short:518 --filelist -\n"
                "      patch tokens of whole pictures, shorter side 518\n",
    .details  = "INPUT is a picture (JPEG or PNG), a folder (walked recursively, sorted by the bytes of the path), a tar shard\n"
                "(WebDataset layout; .tar, .tar.gz, .tar.zst), or one .npy file of float32 [N, 3, height, width], taken as\n"
                "already normalised. A shard's pictures are named SHARD:MEMBER.\n\n"
                "OUT gets part-000000.cls.npy, .mean.npy, .reg.npy, .patch.npy as asked for (.L08. in the name for a layer\n"
                "other than the last), part-000000.index.npy and .keys.txt saying which row is which input, and run.json.\n"
                "Patches of inputs of different sizes lie one after the other, part-000000.offsets.npy says where each\n"
                "begins. The same command again finds its work done; other settings need another folder or -f. A changed\n"
                "picture (its size or its time of change) counts as other settings.\n\n"
                "A bad picture gets no row, is listed, and counts against --max-bad. So does one of more patch tokens than\n"
                "--max-tokens, because time grows with their square. Stopped by SIGINT, the exit code is 130.\n",
    .options  = options,
    .run      = run,
};

int main(int argc, char **argv) { return dinov_tool_main(&tool, argc, argv); }
