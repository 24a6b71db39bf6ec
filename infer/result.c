/* SPDX-License-Identifier: Apache-2.0 */
#include "infer/result.h"

#include "base/alloc.h"
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_RUN_JSON = 16 << 20 };

static const char *shown(const char *path)
{
    static _Thread_local char text[DINOV_ESCAPED];
    return dinov_escape(text, sizeof text, path, strlen(path));
}

char *dinov_result_path(const dinov_result *result, const char *name)
{
    size_t size = strlen(result->folder) + strlen(name) + 2;
    char  *path = dinov_alloc(size, 1);
    if (path) snprintf(path, size, "%s/%s", result->folder, name);
    return path;
}

/* Steps over `word` when *p begins with it. */
static bool skip(const char **p, const char *word)
{
    size_t n = strlen(word);
    if (strncmp(*p, word, n) != 0) return false;
    *p += n;
    return true;
}

static bool skip_digits(const char **p)
{
    size_t n = strspn(*p, "0123456789");
    *p += n;
    return n > 0;
}

/* Whether a run makes a file of that name, finished or temporary; every other file is the user's. */
static bool ours(const char *name)
{
    static const char *const kinds[] = {"cls.npy",   "mean.npy",  "reg.npy",           "patch.npy", "offsets.npy",
                                        "input.npy", "index.npy", "input-offsets.npy", "keys.txt"};
    const char              *p       = name;
    bool                     known   = skip(&p, "run.json");
    if (!known && skip(&p, "part-000000.")) {
        const char *after = p;
        if (skip(&after, "L") && skip_digits(&after) && skip(&after, ".")) p = after;
        for (size_t i = 0; !known && i < sizeof kinds / sizeof kinds[0]; i++) known = skip(&p, kinds[i]);
    }
    if (known && skip(&p, ".tmp-")) known = skip_digits(&p) && skip(&p, "-") && skip_digits(&p);
    return known && *p == '\0';
}

typedef dinov_status (*entry_fn)(dinov_result *result, const char *name, dinov_error *err);

static dinov_status each_entry(dinov_result *result, entry_fn fn, dinov_error *err)
{
    dinov_status status = DINOV_OK;
    DIR         *dir    = opendir(result->folder);
    if (!dir) return dinov_fail_errno(err, errno, "RUN-FOLDER", "%s: cannot read this folder", shown(result->folder));
    for (struct dirent *e; status == DINOV_OK && (e = readdir(dir));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) status = fn(result, e->d_name, err);
    closedir(dir);
    return status;
}

static dinov_status refuse_foreign(dinov_result *result, const char *name, dinov_error *err)
{
    char text[DINOV_ESCAPED];
    if (ours(name)) return DINOV_OK;
    return dinov_fail(err, DINOV_ERR_IO, "RUN-FOLDER", "%s: expected a new or empty folder for the results, found %s in it",
                      shown(result->folder), dinov_escape(text, sizeof text, name, strlen(name)));
}

static dinov_status remove_entry(dinov_result *result, const char *name, dinov_error *err)
{
    char text[DINOV_ESCAPED];
    if (!ours(name) || unlinkat(result->lock, name, 0) == 0) return DINOV_OK;
    return dinov_fail_errno(err, errno, "RUN-FOLDER", "%s: cannot remove %s, left by an earlier run", shown(result->folder),
                            dinov_escape(text, sizeof text, name, strlen(name)));
}

static dinov_status remove_temporary(dinov_result *result, const char *name, dinov_error *err)
{
    return strstr(name, ".tmp-") ? remove_entry(result, name, err) : DINOV_OK;
}

static dinov_status remove_finished(dinov_result *result, const char *name, dinov_error *err)
{
    return strstr(name, ".tmp-") ? DINOV_OK : remove_entry(result, name, err);
}

struct text {
    char   bytes[700];
    size_t used;
};

/* Appends "name OLD there, NEW now". The old names and values come from a file. */
static void add_difference(struct text *t, const char *name, const json_t *old, const json_t *now)
{
    char  shown[3][160];
    char *values[2] = {old ? json_dumps(old, JSON_ENCODE_ANY | JSON_COMPACT) : NULL,
                       now ? json_dumps(now, JSON_ENCODE_ANY | JSON_COMPACT) : NULL};
    dinov_escape(shown[2], 60, name, strlen(name));
    for (int i = 0; i < 2; i++) {
        const char *value = values[i] ? values[i] : "absent";
        dinov_escape(shown[i], sizeof shown[i], value, strlen(value));
        dinov_free(values[i]);
    }
    if (t->used < sizeof t->bytes)
        t->used += (size_t)snprintf(t->bytes + t->used, sizeof t->bytes - t->used, "%s%s %s there, %s now", t->used ? "; " : "",
                                    shown[2], shown[0], shown[1]);
}

/* Every setting that differs, or that only one of the two has. */
static void describe_difference(struct text *t, json_t *old, json_t *settings)
{
    const char *name;
    json_t     *value;
    *t = (struct text){0};
    json_object_foreach(settings, name, value)
    {
        const json_t *before = json_object_get(old, name);
        if (!before || !json_equal(before, value)) add_difference(t, name, before, value);
    }
    json_object_foreach(old, name, value)
    {
        if (!json_object_get(settings, name)) add_difference(t, name, value, NULL);
    }
}

/* Reads run.json when there is one. An unreadable one is somebody else's file. */
static dinov_status read_previous(dinov_result *result, json_t **run, dinov_error *err)
{
    void        *bytes = NULL;
    size_t       size;
    json_error_t where;
    char        *path = dinov_result_path(result, "run.json");

    *run = NULL;
    if (!path) return dinov_fail_nomem(err, "output folder", "a path");
    if (access(path, F_OK) != 0) {
        dinov_free(path);
        return DINOV_OK;
    }
    dinov_status status = dinov_file_read(&bytes, &size, path, MAX_RUN_JSON, err);
    if (status == DINOV_OK) {
        *run = json_loadb(bytes, size, JSON_REJECT_DUPLICATES, &where);
        if (!*run || !json_is_object(json_object_get(*run, "settings"))) {
            json_decref(*run);
            *run = NULL;
            status =
                dinov_fail(err, DINOV_ERR_IO, "RUN-FOLDER", "%s: run.json is not one this program wrote", shown(result->folder));
        }
    }
    dinov_free(bytes);
    dinov_free(path);
    return status;
}

static bool size_of(const dinov_result *result, const char *name, json_int_t *size)
{
    struct stat st;
    if (fstatat(result->lock, name, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(st.st_mode)) return false;
    *size = (json_int_t)st.st_size;
    return true;
}

/* A finished run is believed only while its files have the sizes it recorded. */
static dinov_status check_files(const dinov_result *result, json_t *run, dinov_error *err)
{
    char        text[DINOV_ESCAPED];
    const char *name;
    json_t     *want;
    json_object_foreach(json_object_get(run, "files"), name, want)
    {
        json_int_t have = -1;
        if (!size_of(result, name, &have) || have != json_integer_value(want))
            return dinov_fail(err, DINOV_ERR_CORRUPT, "RUN-DAMAGED",
                              "%s: a finished run, but %s has %lld bytes where run.json says %lld; -f makes it again",
                              shown(result->folder), dinov_escape(text, sizeof text, name, strlen(name)), (long long)have,
                              (long long)json_integer_value(want));
    }
    return DINOV_OK;
}

static dinov_status record_file(dinov_result *result, const char *name, dinov_error *err)
{
    json_int_t size;
    if (!ours(name) || !size_of(result, name, &size)) return DINOV_OK;
    if (json_object_set_new(result->files, name, json_integer(size)) == 0) return DINOV_OK;
    return dinov_fail_nomem(err, "output folder", "run.json");
}

dinov_status dinov_result_open(dinov_result *out, const char *folder, json_t *settings, bool overwrite, dinov_error *err)
{
    dinov_status status = DINOV_OK;
    json_t      *run    = NULL;

    *out        = (dinov_result){.lock = -1, .overwrite = overwrite};
    out->folder = dinov_strdup(folder);
    if (!out->folder) return dinov_fail_nomem(err, "output folder", "its name");
    if (mkdir(folder, 0777) == 0)
        out->created = true;
    else if (errno == ENOENT) {
        status = dinov_fail(err, DINOV_ERR_IO, "RUN-FOLDER", "%s: the folder it is to be made in does not exist", shown(folder));
        goto fail;
    } else if (errno != EEXIST) {
        status = dinov_fail_errno(err, errno, "RUN-FOLDER", "%s: cannot make this folder", shown(folder));
        goto fail;
    }
    out->lock = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (out->lock < 0) {
        status = dinov_fail_errno(err, errno, "RUN-FOLDER", "%s: cannot open this folder", shown(folder));
        goto fail;
    }
    if (flock(out->lock, LOCK_EX | LOCK_NB) != 0) {
        status = dinov_fail_errno(err, errno, "RUN-BUSY", "%s: another run is writing to this folder", shown(folder));
        goto fail;
    }
    DINOV_TRY_GOTO(read_previous(out, &run, err));
    if (run && !overwrite) {
        json_t *old = json_object_get(run, "settings");
        if (!json_equal(old, settings)) {
            struct text text;
            describe_difference(&text, old, settings);
            status = dinov_fail(err, DINOV_ERR_CONFIG, "RUN-DIFFERS",
                                "%s: holds a finished run with other settings: %s; choose another folder, or -f to replace it",
                                shown(folder), text.bytes);
            goto fail;
        }
        DINOV_TRY_GOTO(check_files(out, run, err));
        out->previous = run;
        return DINOV_OK;
    }
    if (!overwrite) DINOV_TRY_GOTO(each_entry(out, refuse_foreign, err));
    DINOV_TRY_GOTO(each_entry(out, overwrite ? remove_temporary : remove_entry, err));
    json_decref(run);
    return DINOV_OK;
fail:
    json_decref(run);
    dinov_result_close(out);
    return status;
}

dinov_status dinov_result_clean(dinov_result *result, dinov_error *err)
{
    /* The old commit point first: from here on the folder holds leftovers until the new one is there. */
    if (unlinkat(result->lock, "run.json", 0) != 0 && errno != ENOENT)
        return dinov_fail_errno(err, errno, "RUN-FOLDER", "%s: cannot remove run.json", shown(result->folder));
    return each_entry(result, remove_finished, err);
}

dinov_status dinov_result_commit(dinov_result *result, json_t *run, dinov_error *err)
{
    result->files = json_object();
    DINOV_TRY(each_entry(result, record_file, err));

    dinov_out   *file  = NULL;
    int          added = json_object_set(run, "files", result->files);
    char        *text  = json_dumps(run, JSON_INDENT(2));
    char        *path  = dinov_result_path(result, "run.json");
    dinov_status status;

    if (added != 0 || !text || !path) {
        status = dinov_fail_nomem(err, "output folder", "run.json");
        goto fail;
    }
    DINOV_TRY_GOTO(dinov_out_open(&file, path, 0, err));
    DINOV_TRY_GOTO(dinov_out_write(file, text, strlen(text), err));
    DINOV_TRY_GOTO(dinov_out_write(file, "\n", 1, err));
    status = dinov_out_commit(&file, err);
fail:
    dinov_out_abort(&file);
    dinov_free(text);
    dinov_free(path);
    return status;
}

void dinov_result_close(dinov_result *result)
{
    if (result->created && result->folder) rmdir(result->folder); /* fails, as it should, unless empty */
    if (result->lock >= 0) close(result->lock);
    json_decref(result->previous);
    json_decref(result->files);
    dinov_free(result->folder);
    *result = (dinov_result){.lock = -1};
}
