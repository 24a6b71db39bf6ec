/* SPDX-License-Identifier: Apache-2.0 */
#include "eval/set.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "infer/index.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

enum { MEAN = DINOV_LABELLED_BLOCKS, MAX_RUN_JSON = 16 << 20 };

static const char *shown(const char *path)
{
    static _Thread_local char text[DINOV_ESCAPED];
    return dinov_escape(text, sizeof text, path, strlen(path));
}

void dinov_set_close(dinov_set *set)
{
    for (int i = 0; i <= DINOV_LABELLED_BLOCKS; i++) {
        dinov_free(set->memory[i]);
        if (set->map[i].data) dinov_map_close(&set->map[i]);
    }
    dinov_classes_clear(&set->classes);
    dinov_free(set->made);
    *set = (dinov_set){0};
}

/* ---- Arrays ---- */

static float load_value(const uint8_t *p, int width)
{
    double wide;
    if (width == 2) return dinov_le_f16(p);
    if (width == 4) return dinov_le_f32(p);
    uint64_t bits = dinov_le64(p);
    memcpy(&wide, &bits, sizeof wide);
    return (float)wide;
}

/* Array `slot` of the set: used where it lies when it is float32, converted otherwise. */
static dinov_status open_array(dinov_set *set, int slot, const char *path, const float **values, int64_t *rows, int64_t *cols,
                               dinov_error *err)
{
    dinov_npy npy;
    uint64_t  count, bytes;

    DINOV_TRY(dinov_map_open(&set->map[slot], path, err));
    DINOV_TRY(dinov_npy_parse(&npy, set->map[slot].data, set->map[slot].size, path, err));
    int width = npy.descr_size == 5 && npy.descr[1] == '<' && npy.descr[2] == 'f' ? npy.descr[3] - '0' : 0;
    if ((width != 2 && width != 4 && width != 8) || npy.rank != 2 || npy.dim[0] < 1 || npy.dim[1] < 1)
        return dinov_fail(err, DINOV_ERR_FORMAT, "EVAL-FEATURES",
                          "%s: expected features as little-endian float16, float32 or float64 of two dimensions, rows and values; "
                          "found another type or shape",
                          shown(path));
    if (!dinov_ck_mul((uint64_t)npy.dim[0], (uint64_t)npy.dim[1], &count) || !dinov_ck_mul(count, (uint64_t)width, &bytes) ||
        bytes != npy.size)
        return dinov_fail(err, DINOV_ERR_CORRUPT, "NPY-SIZE", "%s: does not hold the %" PRId64 " x %" PRId64 " values it says",
                          shown(path), npy.dim[0], npy.dim[1]);
    *rows = npy.dim[0];
    *cols = npy.dim[1];
    if (width == 4 && (uintptr_t)npy.data % sizeof(float) == 0) {
        *values = (const float *)(const void *)npy.data;
        return DINOV_OK;
    }
    float *copy = dinov_alloc((size_t)count, sizeof *copy);
    if (!copy) return dinov_fail_nomem(err, path, "features");
    for (uint64_t i = 0; i < count; i++) copy[i] = load_value(npy.data + i * (uint64_t)width, width);
    *values = set->memory[slot] = copy;
    return DINOV_OK;
}

static dinov_status read_array(dinov_set *set, const char *path, const char *labels, dinov_error *err)
{
    DINOV_TRY(open_array(set, 0, path, &set->view.cls[0], &set->view.count, &set->view.dim, err));
    dinov_rows rows = {.name = set->view.name, .count = set->view.count};
    return dinov_classes_read(&set->classes, labels, &rows, err);
}

dinov_status dinov_set_open_array(dinov_set *out, const char *name, const char *path, const char *labels, dinov_error *err)
{
    *out                = (dinov_set){.view.name = name};
    dinov_status status = read_array(out, path, labels, err);
    if (status != DINOV_OK) dinov_set_close(out);
    return status;
}

/* ---- Runs of dinov-infer ---- */

struct run {
    const char *folder;
    json_t     *json;
    dinov_index index;
    dinov_bytes *key;   /* [rows] */
    int64_t     *input; /* [rows] */
    int64_t      rows;
};

static char *path_in(const char *folder, const char *name)
{
    size_t size = strlen(folder) + strlen(name) + 2;
    char  *path = dinov_alloc(size, 1);
    if (path) snprintf(path, size, "%s/%s", folder, name);
    return path;
}

static dinov_status read_run_json(struct run *r, dinov_error *err)
{
    void  *bytes;
    size_t size;
    char  *path = path_in(r->folder, "run.json");
    if (!path) return dinov_fail_nomem(err, r->folder, "a path");
    dinov_status status = dinov_file_read(&bytes, &size, path, MAX_RUN_JSON, err);
    dinov_free(path);
    if (status != DINOV_OK) return status;
    r->json = json_loadb(bytes, size, JSON_REJECT_DUPLICATES, NULL);
    dinov_free(bytes);
    if (json_is_object(json_object_get(r->json, "settings"))) return DINOV_OK;
    return dinov_fail(err, DINOV_ERR_FORMAT, "EVAL-FEATURES", "%s: run.json is not one that dinov-infer wrote", shown(r->folder));
}

/* The settings that features must share to be compared. */
static dinov_status describe(dinov_set *set, const struct run *r, dinov_error *err)
{
    static const char *const same[]   = {"model", "preset", "mean", "std", "norm"};
    json_t                  *settings = json_object_get(r->json, "settings"), *kept = json_object();
    for (size_t i = 0; kept && i < sizeof same / sizeof *same; i++) {
        json_t *value = json_object_get(settings, same[i]);
        if (value) json_object_set(kept, same[i], value);
    }
    char *text = kept ? json_dumps(kept, JSON_COMPACT) : NULL;
    json_decref(kept);
    if (text) set->made = dinov_strdup(text);
    dinov_free(text);
    return set->made ? DINOV_OK : dinov_fail_nomem(err, r->folder, "its settings");
}

/* Which picture each row is. */
static dinov_status list_rows(struct run *r, int64_t rows, dinov_error *err)
{
    r->rows  = 0;
    r->key   = dinov_alloc((size_t)r->index.count, sizeof *r->key);
    r->input = dinov_alloc((size_t)r->index.count, sizeof *r->input);
    if (!r->key || !r->input) return dinov_fail_nomem(err, r->folder, "its index");
    for (int64_t i = 0; i < r->index.count; i++) {
        dinov_index_record record;
        const char        *key;
        dinov_index_get(&r->index, i, &record, &key);
        if (record.status != DINOV_INPUT_OK) continue;
        if (record.row == r->rows) {
            r->key[r->rows]   = (dinov_bytes){key, record.key_size};
            r->input[r->rows] = i;
        }
        r->rows++;
    }
    if (r->rows == rows) return DINOV_OK;
    return dinov_fail(err, DINOV_ERR_FORMAT, "EVAL-FEATURES", "%s: %lld rows of features, but an index of %lld", shown(r->folder),
                      (long long)rows, (long long)r->rows);
}

/* The last block: the only one whose files carry no number. */
static int last_layer(const struct run *r)
{
    json_t *layers = json_object_get(json_object_get(r->json, "settings"), "layers");
    int     last   = -1;
    for (size_t i = 0; i < json_array_size(layers); i++) {
        int layer = (int)json_integer_value(json_array_get(layers, i));
        if (layer > last) last = layer;
    }
    return last;
}

/* One array of the run; *values is NULL when it has none of that name. */
static dinov_status open_part(dinov_set *set, const struct run *r, int slot, const char *name, const float **values, dinov_error *err)
{
    int64_t rows = 0, cols = 0;
    *values = NULL;
    if (!json_object_get(json_object_get(r->json, "files"), name)) return DINOV_OK;
    char *path = path_in(r->folder, name);
    if (!path) return dinov_fail_nomem(err, r->folder, "a path");
    dinov_status status = open_array(set, slot, path, values, &rows, &cols, err);
    dinov_free(path);
    if (status != DINOV_OK) return status;
    if (slot == 0) {
        set->view.count = rows;
        set->view.dim   = cols;
    }
    if (rows == set->view.count && cols == set->view.dim) return DINOV_OK;
    return dinov_fail(err, DINOV_ERR_FORMAT, "EVAL-FEATURES", "%s: %s has another shape than part-000000.cls.npy", shown(r->folder),
                      name);
}

static dinov_status open_parts(dinov_set *set, const struct run *r, bool all, dinov_error *err)
{
    char name[64];
    DINOV_TRY(open_part(set, r, 0, "part-000000.cls.npy", &set->view.cls[0], err));
    if (!set->view.cls[0])
        return dinov_fail(err, DINOV_ERR_FORMAT, "EVAL-FEATURES",
                          "%s: holds no CLS vectors of the last block; expected a run of dinov-infer --features cls", shown(r->folder));
    if (!all) return DINOV_OK;
    for (int b = 1; b < DINOV_LABELLED_BLOCKS; b++) {
        snprintf(name, sizeof name, "part-000000.L%02d.cls.npy", last_layer(r) - b);
        DINOV_TRY(open_part(set, r, b, name, &set->view.cls[b], err));
    }
    /* Four blocks or one. */
    if (!set->view.cls[1] || !set->view.cls[2] || !set->view.cls[3]) set->view.cls[1] = set->view.cls[2] = set->view.cls[3] = NULL;
    return open_part(set, r, MEAN, "part-000000.mean.npy", &set->view.mean, err);
}

static dinov_status read_run(dinov_set *set, struct run *r, const char *labels, bool all, dinov_error *err)
{
    DINOV_TRY(dinov_index_open(&r->index, r->folder, err));
    DINOV_TRY(read_run_json(r, err));
    DINOV_TRY(describe(set, r, err));
    DINOV_TRY(open_parts(set, r, all, err));
    DINOV_TRY(list_rows(r, set->view.count, err));
    dinov_rows rows = {.name = set->view.name, .count = r->rows, .key = r->key, .input = r->input, .inputs = r->index.count};
    return labels ? dinov_classes_read(&set->classes, labels, &rows, err) : dinov_classes_from_folders(&set->classes, &rows, err);
}

dinov_status dinov_set_open_run(dinov_set *out, const char *name, const char *folder, const char *labels, bool all, dinov_error *err)
{
    struct run r        = {.folder = folder};
    *out                = (dinov_set){.view.name = name};
    dinov_status status = read_run(out, &r, labels, all, err);
    dinov_index_clear(&r.index);
    json_decref(r.json);
    dinov_free(r.key);
    dinov_free(r.input);
    if (status != DINOV_OK) dinov_set_close(out);
    return status;
}

/* ---- Two sets ---- */

dinov_status dinov_set_match(dinov_set *test, dinov_set *train, dinov_error *err)
{
    if (test->made && train->made && strcmp(test->made, train->made) != 0) {
        char one[DINOV_ESCAPED], other[DINOV_ESCAPED];
        return dinov_fail(err, DINOV_ERR_CONFIG, "EVAL-RUNS", "features that cannot be compared: the %s was made with %s, the %s with %s",
                          train->view.name, dinov_escape(one, sizeof one, train->made, strlen(train->made)), test->view.name,
                          dinov_escape(other, sizeof other, test->made, strlen(test->made)));
    }
    DINOV_TRY(dinov_classes_match(&test->classes, test->view.name, &train->classes, train->view.name, err));
    test->view.labels  = test->classes.label;
    train->view.labels = train->classes.label;
    return DINOV_OK;
}
