/* SPDX-License-Identifier: Apache-2.0 */
#include "convert/hf.h"

#include "base/alloc.h"
#include "base/file.h"
#include "convert/carry.h"
#include "convert/safetensors.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- Where things lie ---- */

/* The length of the folder's part of a path, its slash included; 0: here. */
static size_t folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) + 1 : 0;
}

/* `name` in the folder that is the first `size` bytes of `path`. */
static dinov_status join_path(char **out, const char *path, size_t size, const char *name, dinov_error *err)
{
    *out = dinov_alloc(size + strlen(name) + 2, 1);
    if (!*out) return dinov_fail_nomem(err, path, "a file name");
    memcpy(*out, path, size);
    bool slash = size > 0 && path[size - 1] != '/';
    snprintf(*out + size, strlen(name) + 2, "%s%s", slash ? "/" : "", name);
    return DINOV_OK;
}

static bool is_folder(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

dinov_status dinov_hf_find(char **out, const char *path, dinov_error *err)
{
    static const char *const weights[] = {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"};
    char                     text[DINOV_ESCAPED];
    bool                     folder = is_folder(path);
    size_t                   size   = folder ? strlen(path) : folder_of(path);

    *out = NULL;
    if (!folder && strcmp(path + size, "config.json") != 0) {
        *out = dinov_strdup(path);
        return *out ? DINOV_OK : dinov_fail_nomem(err, "input", "its name");
    }
    for (size_t i = 0; i < sizeof weights / sizeof weights[0]; i++) {
        DINOV_TRY(join_path(out, path, size, weights[i], err));
        if (access(*out, F_OK) == 0) return DINOV_OK;
        dinov_free(*out);
        *out = NULL;
    }
    return dinov_fail(
        err, DINOV_ERR_FORMAT, "HF-FOLDER",
        "%s: expected a folder with model.safetensors, model.safetensors.index.json or pytorch_model.bin, found none of "
        "them%s",
        dinov_escape(text, sizeof text, path, strlen(path)), folder ? "" : " beside it");
}

bool dinov_hf_is_folder(const char *path)
{
    char *file;
    bool  found;
    if (!is_folder(path)) return false;
    if (dinov_hf_find(&file, path, NULL) != DINOV_OK && join_path(&file, path, strlen(path), "config.json", NULL) != DINOV_OK)
        return false;
    found = access(file, F_OK) == 0;
    dinov_free(file);
    return found;
}

/* ---- Shards ---- */

/* A shard by its file name, read when it is first asked for. `seen` has the place plus one of those that are read. */
static dinov_status find_shard(struct dinov_shard **out, dinov_shards *s, json_t *seen, dinov_files *files, const json_t *file,
                               const char *where, dinov_error *err)
{
    const char *name = json_string_value(file);
    size_t      at   = (size_t)json_integer_value(json_object_get(seen, name));
    char        text[DINOV_ESCAPED], shown[2 * DINOV_ESCAPED + 16];
    dinov_map   map;

    if (at == 0) {
        DINOV_TRY(dinov_files_get(files, &map, name, json_string_length(file), err));
        struct dinov_shard *items = dinov_realloc(s->items, s->count + 1, sizeof *items);
        if (!items) return dinov_fail_nomem(err, where, "the list of shards");
        s->items            = items;
        items[s->count]     = (struct dinov_shard){.sorted = NULL};
        at                  = ++s->count;
        dinov_tensors *list = &items[at - 1].tensors;
        snprintf(shown, sizeof shown, "%s: shard %s", where, dinov_escape(text, sizeof text, name, strlen(name)));
        DINOV_TRY(dinov_safetensors_read(list, map.data, map.size, shown, err));
        items[at - 1].sorted = dinov_tensors_sort(list->items, list->count);
        if (!items[at - 1].sorted || json_object_set_new(seen, name, json_integer((json_int_t)at)) != 0)
            return dinov_fail_nomem(err, where, "the list of shards");
    }
    *out = &s->items[at - 1];
    return DINOV_OK;
}

static dinov_status read_shards(dinov_shards *s, json_t *map, json_t *seen, dinov_files *files, const char *where, dinov_error *err)
{
    struct dinov_shard *shard = NULL;
    const char         *name;
    json_t             *file;
    char                one[DINOV_ESCAPED], two[DINOV_ESCAPED];

    json_object_foreach(map, name, file)
    {
        DINOV_TRY(find_shard(&shard, s, seen, files, file, where, err));
        const dinov_named_tensor *t = dinov_tensors_find(shard->sorted, shard->tensors.count, name);
        if (!t)
            return dinov_fail(err, DINOV_ERR_FORMAT, "HF-INDEX",
                              "%s: tensor %s: expected it in the shard %s, found none of that name", where,
                              dinov_escape(one, sizeof one, name, strlen(name)),
                              dinov_escape(two, sizeof two, json_string_value(file), json_string_length(file)));
        DINOV_TRY(dinov_tensors_add(&s->tensors, name, strlen(name), &t->tensor, where, err));
    }
    return DINOV_OK;
}

dinov_status dinov_shards_read(dinov_shards *out, dinov_files *files, const void *json, size_t size, const char *where,
                               dinov_error *err)
{
    json_t *map;
    *out = (dinov_shards){0};
    DINOV_TRY(dinov_hf_index_read(&map, json, size, where, err));
    json_t      *seen = json_object();
    dinov_status status =
        seen ? read_shards(out, map, seen, files, where, err) : dinov_fail_nomem(err, where, "the list of shards");
    json_decref(seen);
    json_decref(map);
    return status;
}

void dinov_shards_clear(dinov_shards *s)
{
    for (size_t i = 0; i < s->count; i++) {
        dinov_free(s->items[i].sorted);
        dinov_tensors_clear(&s->items[i].tensors);
    }
    dinov_free(s->items);
    dinov_tensors_clear(&s->tensors);
    *s = (dinov_shards){0};
}

/* ---- The documents beside ---- */

enum { MEMORY = 256 << 20 }; /* bytes that parsing two of them takes at most, with room to spare */

/* *out is the document's text (dinov_free), or NULL when there is no such file. */
static dinov_status read_beside(void **out, size_t *size, char *where, size_t where_size, const char *path, const char *name,
                                dinov_error *err)
{
    char *file;
    *out = NULL;
    DINOV_TRY(join_path(&file, path, folder_of(path), name, err));
    dinov_escape(where, where_size, file, strlen(file));
    dinov_status status = access(file, F_OK) == 0 ? dinov_file_read(out, size, file, DINOV_HF_JSON_MAX, err) : DINOV_OK;
    dinov_free(file);
    return status;
}

struct documents {
    dinov_hf_beside *out;
    void            *config, *preprocess; /* NULL: not there */
    size_t           config_size, preprocess_size;
    char             where[sizeof((dinov_hf_beside *)0)->where]; /* preprocessor_config.json */
};

static dinov_status parse(const struct documents *d, dinov_error *err)
{
    dinov_hf_beside *out = d->out;
    if (d->config) DINOV_TRY(dinov_hf_config_read(&out->config, d->config, d->config_size, out->where, err));
    if (!d->preprocess) return DINOV_OK;
    return dinov_hf_preprocess_read(&out->preprocess, &out->said, d->preprocess, d->preprocess_size, d->where, err);
}

static void parse_confined(void *arg, dinov_text *answer)
{
    const struct documents *d = arg;
    dinov_error             why;
    if (parse(d, &why) == DINOV_OK)
        dinov_carry_beside(answer, d->out);
    else
        dinov_carry_error(answer, &why);
}

static dinov_status parse_fenced(struct documents *d, dinov_fence *fence, dinov_error *err)
{
    const dinov_fence_job job = {.run = parse_confined, .arg = d, .memory = MEMORY, .scratch = -1, .where = d->out->where};
    dinov_text            answer;
    DINOV_TRY(dinov_fence_run(&answer, fence, &job, err));
    dinov_status status = dinov_carry_take_beside(d->out, answer.data, answer.size, d->out->where, err);
    dinov_text_clear(&answer);
    return status;
}

dinov_status dinov_hf_beside_read(dinov_hf_beside *out, const char *path, dinov_fence *fence, dinov_error *err)
{
    struct documents d = {.out = out};

    *out                = (dinov_hf_beside){0};
    dinov_status status = read_beside(&d.config, &d.config_size, out->where, sizeof out->where, path, "config.json", err);
    if (status == DINOV_OK)
        status = read_beside(&d.preprocess, &d.preprocess_size, d.where, sizeof d.where, path, "preprocessor_config.json", err);
    out->has_config     = d.config != NULL;
    out->has_preprocess = d.preprocess != NULL;
    if (status == DINOV_OK && (d.config || d.preprocess)) status = *fence ? parse_fenced(&d, fence, err) : parse(&d, err);
    dinov_free(d.config);
    dinov_free(d.preprocess);
    return status;
}
