/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/source.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/pool.h"
#include "convert/carry.h"
#include "convert/legacy.h"
#include "convert/onnx/read.h"
#include "convert/pth.h"
#include "convert/safetensors.h"
#include "format/foreign.h"
#include "format/header.h"

#include <stdbool.h>
#include <string.h>

const char *dinov_layout_name(dinov_layout layout)
{
    switch (layout) {
    case DINOV_LAYOUT_DINOV:
        return "dinov";
    case DINOV_LAYOUT_PTH:
    case DINOV_LAYOUT_LEGACY:
        return "pth";
    case DINOV_LAYOUT_SAFETENSORS:
    case DINOV_LAYOUT_SHARDS:
        return "safetensors";
    case DINOV_LAYOUT_ONNX:
        return "onnx";
    }
    return "?";
}

static dinov_status refuse_foreign(const uint8_t *data, size_t size, const char *where, dinov_error *err)
{
    const dinov_foreign *f = dinov_foreign_find(data, size);
    char                 text[64];
    if (f) return dinov_fail(err, DINOV_ERR_FORMAT, f->code, "%s: this is %s; %s", where, f->what, f->advice);
    return dinov_fail(
        err, DINOV_ERR_FORMAT, "SRC-UNKNOWN",
        "%s: expected a dinov checkpoint, a .pth written by torch.save, a safetensors file or an ONNX model, found %zu bytes that begin \"%s\"",
        where, size, dinov_escape(text, sizeof text, data, size < 12 ? size : 12));
}

/* An object as text. */
static bool is_json(const uint8_t *data, size_t size)
{
    size_t at = 0;
    while (at < size && at < 4096 && (data[at] == ' ' || data[at] == '\t' || data[at] == '\r' || data[at] == '\n')) at++;
    return at < size && data[at] == '{';
}

dinov_status dinov_layout_detect(dinov_layout *out, bool *rewritten, const void *bytes, size_t size, const char *where,
                                 dinov_error *err)
{
    const uint8_t *data = bytes;
    *rewritten          = false;
    if (size == 0) return dinov_fail(err, DINOV_ERR_FORMAT, "SRC-EMPTY", "%s: expected weights, found an empty file", where);
    if (size >= 4 && memcmp(data, "PK\3\4", 4) == 0) {
        *out = DINOV_LAYOUT_PTH;
        return DINOV_OK;
    }
    if (dinov_legacy_is(data, size)) {
        *out = DINOV_LAYOUT_LEGACY;
        return DINOV_OK;
    }
    /* safetensors: a length that fits an 8-byte number with zeros on top, then JSON, perhaps after spaces. */
    size_t at = 8;
    while (at < size && at < 8 + 4096 && (data[at] == ' ' || data[at] == '\t' || data[at] == '\r' || data[at] == '\n')) at++;
    if (at < size && data[at] == '{' && data[7] == 0 && data[6] == 0) {
        bool ours  = dinov_header_ours(data, size);
        *rewritten = !ours && dinov_header_rewritten(data, size);
        *out       = ours ? DINOV_LAYOUT_DINOV : DINOV_LAYOUT_SAFETENSORS;
        return DINOV_OK;
    }
    if (is_json(data, size)) {
        *out = DINOV_LAYOUT_SHARDS;
        return DINOV_OK;
    }
    if (dinov_foreign_onnx(data, size)) {
        *out = DINOV_LAYOUT_ONNX;
        return DINOV_OK;
    }
    return refuse_foreign(data, size, where, err);
}

static dinov_status read_tensors(dinov_reader *s, const void *data, size_t size, int threads, dinov_error *err)
{
    switch (s->layout) {
    case DINOV_LAYOUT_DINOV:
        DINOV_TRY(dinov_checkpoint_open_memory(&s->checkpoint, data, size, s->where, err));
        s->tensors = dinov_checkpoint_weights(s->checkpoint)->tensors;
        s->count   = dinov_checkpoint_weights(s->checkpoint)->count;
        return DINOV_OK;
    case DINOV_LAYOUT_PTH:
        DINOV_TRY(dinov_pth_read(&s->plain, &s->torch, data, size, threads, s->where, err));
        break;
    case DINOV_LAYOUT_LEGACY:
        DINOV_TRY(dinov_legacy_read(&s->plain, &s->torch, data, size, s->where, err));
        break;
    case DINOV_LAYOUT_SAFETENSORS:
        DINOV_TRY(dinov_safetensors_read(&s->plain, data, size, s->where, err));
        break;
    case DINOV_LAYOUT_SHARDS:
        DINOV_TRY(dinov_shards_read(&s->shards, &s->files, data, size, s->where, err));
        s->tensors = s->shards.tensors.items;
        s->count   = s->shards.tensors.count;
        return DINOV_OK;
    case DINOV_LAYOUT_ONNX:
        s->files.where = s->where;
        DINOV_TRY(dinov_onnx_read(&s->plain, &s->facts, &s->files, data, size, s->where, err));
        break;
    }
    s->tensors = s->plain.items;
    s->count   = s->plain.count;
    return DINOV_OK;
}

/* ---- In a process of its own ---- */

enum {
    /* What a reader may need beside its files: a pickle's or a header's objects, threads' stacks. */
    MEMORY        = 512 << 20,
    MEMORY_FILES  = 2, /* times the files' bytes */
    MEMORY_THREAD = 16 << 20,
    COPIES_FILES  = 8,        /* copied tensors take at most this many times the files' bytes, */
    COPIES        = 64 << 20, /* and this */
    REGIONS       = 2 + DINOV_FILES_MAX,
};

struct confined {
    dinov_reader *reader;
    int           threads;
    dinov_region *regions; /* the file, those beside it, the scratch */
    size_t        count;
};

static void read_and_tell(struct confined *c, dinov_text *answer)
{
    dinov_reader *s = c->reader;
    dinov_error   err;

    s->files.confined   = true;
    s->plain.scratch    = &s->scratch;
    dinov_status status = read_tensors(s, s->map.data, s->map.size, c->threads, &err);
    if (s->files.wanted[0]) {
        dinov_carry_wanted(answer, s->files.wanted);
        return;
    }
    if (status == DINOV_OK) status = dinov_carry_reader(answer, s, c->regions, c->count, &err);
    if (status == DINOV_OK) return;
    dinov_text_clear(answer);
    dinov_carry_error(answer, &err);
}

static void read_confined(void *arg, dinov_text *answer)
{
    struct confined *c = arg;
    read_and_tell(c, answer);
    dinov_scratch_close(&c->reader->scratch); /* here alone: the file and the parent's view of it stay */
}

/* One start of the reader. *what tells whether it is done or wants the file `name`. */
static dinov_status read_once(dinov_reader *s, dinov_carried *what, char *name, struct confined *c, dinov_error *err)
{
    uint64_t        total = 0, copies, memory;
    dinov_text      answer;
    dinov_fence_job job = {.run = read_confined, .arg = c, .where = s->where};

    c->count               = 0;
    c->regions[c->count++] = (dinov_region){s->map.data, s->map.size};
    for (size_t i = 0; i < s->files.count; i++)
        c->regions[c->count++] = (dinov_region){s->files.items[i].map.data, s->files.items[i].map.size};
    for (size_t i = 0; i < c->count; i++)
        if (!dinov_ck_add(total, c->regions[i].size, &total)) total = UINT64_MAX;
    if (!dinov_ck_mul(total, COPIES_FILES, &copies) || !dinov_ck_add(copies, COPIES, &copies) ||
        !dinov_ck_mul(total, MEMORY_FILES, &memory) ||
        !dinov_ck_add(memory, (uint64_t)MEMORY + (uint64_t)(c->threads > 0 ? c->threads : dinov_pool_cores()) * MEMORY_THREAD,
                      &memory))
        return dinov_fail(err, DINOV_ERR_LIMIT, "FENCE-LARGE", "%s: the files are too large to be read", s->where);
    DINOV_TRY(dinov_scratch_open(&s->scratch, copies, s->where, err));
    c->regions[c->count++] = (dinov_region){s->scratch.memory, s->scratch.span};
    job.memory             = memory;
    job.scratch            = s->scratch.fd;

    DINOV_TRY(dinov_fence_run(&answer, &s->fence, &job, err));
    c->regions[c->count - 1].size = dinov_scratch_seal(&s->scratch);
    dinov_status status           = dinov_carry_take(what, s, name, answer.data, answer.size, c->regions, c->count, err);
    dinov_text_clear(&answer);
    return status;
}

static dinov_status read_fenced(dinov_reader *s, int threads, dinov_error *err)
{
    struct confined c      = {.reader = s, .threads = threads, .regions = dinov_calloc(REGIONS, sizeof *c.regions)};
    dinov_carried   what   = DINOV_CARRIED_WANTED;
    dinov_status    status = DINOV_OK;

    if (!c.regions) return dinov_fail_nomem(err, s->where, "its regions");
    while (status == DINOV_OK && what != DINOV_CARRIED_READER) {
        char name[DINOV_FILES_NAME + 1];
        dinov_scratch_close(&s->scratch);
        status = read_once(s, &what, name, &c, err);
        if (status == DINOV_OK && what == DINOV_CARRIED_WANTED) status = dinov_files_bring(&s->files, name, err);
    }
    dinov_free(c.regions);
    s->tensors = s->plain.items;
    s->count   = s->plain.count;
    return status;
}

static dinov_status name_source(dinov_reader *out, const char *path, dinov_error *err)
{
    char text[DINOV_ESCAPED];
    *out       = (dinov_reader){.files = {.folder = -1}, .scratch = {.fd = -1}};
    out->where = dinov_strdup(dinov_escape(text, sizeof text, path, strlen(path)));
    return out->where ? DINOV_OK : dinov_fail_nomem(err, text, "its name");
}

dinov_status dinov_reader_open(dinov_reader *out, const char *path, const dinov_reader_options *options, dinov_error *err)
{
    static const dinov_reader_options defaults = {0};
    const dinov_reader_options       *o        = options ? options : &defaults;
    char                             *file;

    *out = (dinov_reader){.files = {.folder = -1}, .scratch = {.fd = -1}};
    DINOV_TRY(dinov_hf_find(&file, path, err));
    dinov_status named = name_source(out, file, err);
    out->path          = file;
    DINOV_TRY(named);
    DINOV_TRY(dinov_map_open(&out->map, file, err));
    DINOV_TRY(dinov_files_open(&out->files, file, out->where, err));
    DINOV_TRY(dinov_layout_detect(&out->layout, &out->rewritten, out->map.data, out->map.size, out->where, err));
    if (o->unfenced || out->layout == DINOV_LAYOUT_DINOV) return read_tensors(out, out->map.data, out->map.size, o->threads, err);
    return read_fenced(out, o->threads, err);
}

dinov_status dinov_reader_open_memory(dinov_reader *out, const void *data, size_t size, const char *name, int threads,
                                      dinov_error *err)
{
    DINOV_TRY(name_source(out, name, err));
    DINOV_TRY(dinov_layout_detect(&out->layout, &out->rewritten, data, size, out->where, err));
    return read_tensors(out, data, size, threads, err);
}

void dinov_reader_close(dinov_reader *source)
{
    dinov_checkpoint_close(&source->checkpoint);
    dinov_tensors_clear(&source->plain);
    dinov_shards_clear(&source->shards);
    dinov_scratch_close(&source->scratch);
    dinov_files_close(&source->files);
    if (source->map.data) dinov_map_close(&source->map);
    dinov_free(source->where);
    dinov_free(source->path);
    *source = (dinov_reader){.files = {.folder = -1}, .scratch = {.fd = -1}};
}
