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

/* Files a run makes, finished or temporary. */
static bool ours(const char *name) { return strncmp(name, "part-000000.", 12) == 0 || strncmp(name, "run.json", 8) == 0; }

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

/* Appends "name: old -> new" for every setting that differs. */
static void describe_difference(char *text, size_t size, const json_t *old, const json_t *settings)
{
    const char *name;
    json_t     *value;
    size_t      used = 0;
    text[0]          = '\0';
    json_object_foreach((json_t *)(uintptr_t)settings, name, value)
    {
        const json_t *before = json_object_get(old, name);
        if (before && json_equal(before, value)) continue;
        char *a = before ? json_dumps(before, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
        char *b = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
        if (used < size)
            used += (size_t)snprintf(text + used, size - used, "%s%s %.150s there, %.150s now", used ? "; " : "", name,
                                     a ? a : "absent", b ? b : "?");
        dinov_free(a);
        dinov_free(b);
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

dinov_status dinov_result_open(dinov_result *out, const char *folder, const json_t *settings, bool overwrite, dinov_error *err)
{
    dinov_status status = DINOV_OK;
    json_t      *run    = NULL;

    *out        = (dinov_result){.lock = -1, .overwrite = overwrite};
    out->folder = dinov_strdup(folder);
    if (!out->folder) return dinov_fail_nomem(err, "output folder", "its name");
    if (mkdir(folder, 0777) == 0)
        out->created = true;
    else if (errno != EEXIST) {
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
        const json_t *old = json_object_get(run, "settings");
        if (!json_equal(old, settings)) {
            char text[700];
            describe_difference(text, sizeof text, old, settings);
            status = dinov_fail(err, DINOV_ERR_CONFIG, "RUN-DIFFERS",
                                "%s: holds a finished run with other settings: %s; choose another folder, or -f to replace it",
                                shown(folder), text);
            goto fail;
        }
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

dinov_status dinov_result_commit(dinov_result *result, const json_t *run, dinov_error *err)
{
    dinov_out   *file = NULL;
    char        *text = json_dumps(run, JSON_INDENT(2));
    char        *path = dinov_result_path(result, "run.json");
    dinov_status status;

    if (!text || !path) {
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
    dinov_free(result->folder);
    *result = (dinov_result){.lock = -1};
}
