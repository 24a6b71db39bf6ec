/* SPDX-License-Identifier: Apache-2.0 */
#include "base/stage.h"

#include "base/alloc.h"
#include "base/file.h"
#include "base/folder.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct dinov_stage {
    dinov_stage_options how;
    char               *path, *place; /* the output, and the folder it is to lie in */
    char               *temp, *inner; /* the folder it lies in until then, and it in there */
    const char         *name;         /* the last part of `path` */
};

static bool any_name(const char *name)
{
    (void)name;
    return true;
}

static char *join(const char *folder, const char *name)
{
    size_t room = strlen(folder) + strlen(name) + 2;
    char  *path = dinov_alloc(room, 1);
    if (path) snprintf(path, room, "%s/%s", folder, name);
    return path;
}

static void stage_free(dinov_stage **stage)
{
    dinov_stage *s = *stage;
    *stage         = NULL;
    if (s->temp && s->inner && s->how.folder) dinov_folder_remove(s->inner, any_name);
    if (s->temp) dinov_folder_remove(s->temp, any_name);
    dinov_free(s->path);
    dinov_free(s->place);
    dinov_free(s->temp);
    dinov_free(s->inner);
    dinov_free(s);
}

dinov_status dinov_stage_open(dinov_stage **out, const char *path, const dinov_stage_options *options, dinov_error *err)
{
    dinov_status status;
    char         where[DINOV_ESCAPED];
    size_t       length = strlen(path);
    dinov_stage *s      = dinov_calloc(1, sizeof *s);

    *out = NULL;
    dinov_escape(where, sizeof where, path, length);
    if (!s) return dinov_fail_nomem(err, where, "its place");
    s->how  = *options;
    s->path = dinov_strdup(path);
    if (!s->path) DINOV_TRY_GOTO(dinov_fail_nomem(err, where, "its name"));
    while (s->how.folder && length > 1 && path[length - 1] == '/') length--;
    s->path[length] = '\0';
    DINOV_TRY_GOTO(s->how.folder ? dinov_folder_check_free(s->path, s->how.replaces, err)
                                 : dinov_file_check_free(s->path, s->how.overwrite, err));
    const char *slash = strrchr(s->path, '/');
    s->name           = slash ? slash + 1 : s->path;
    if (!*s->name) DINOV_TRY_GOTO(dinov_fail(err, DINOV_ERR_IO, "IO-CREATE", "%s: expected a file's name, found none", where));
    if (!(s->place = dinov_folder_of(s->path))) DINOV_TRY_GOTO(dinov_fail_nomem(err, where, "its folder's name"));
    DINOV_TRY_GOTO(dinov_folder_make_temp(&s->temp, s->path, err));
    if (!(s->inner = join(s->temp, s->name))) DINOV_TRY_GOTO(dinov_fail_nomem(err, where, "its name"));
    *out = s;
    return DINOV_OK;
fail:
    stage_free(&s);
    return status;
}

const char *dinov_stage_path(const dinov_stage *stage) { return stage->inner; }

void dinov_stage_reword(const dinov_stage *stage, dinov_error *err)
{
    char from[DINOV_ESCAPED], to[DINOV_ESCAPED], text[sizeof err->msg];
    dinov_escape(from, sizeof from, stage->inner, strlen(stage->inner));
    dinov_escape(to, sizeof to, stage->path, strlen(stage->path));
    for (char *at = err->msg; (at = strstr(at, from)); at += strlen(to)) {
        snprintf(text, sizeof text, "%s", at + strlen(from));
        snprintf(at, sizeof err->msg - (size_t)(at - err->msg), "%s%s", to, text);
        if (strlen(at) < strlen(to)) break; /* cut short */
    }
}

static dinov_status move_beside(const dinov_stage *s, const char *name, dinov_error *err)
{
    char        *from = join(s->temp, name), *to = join(s->place, name);
    dinov_status status = from && to ? dinov_file_move(from, to, s->how.overwrite, err) : dinov_fail_nomem(err, name, "its path");
    dinov_free(from);
    dinov_free(to);
    return status;
}

static dinov_status commit(dinov_stage *s, dinov_error *err)
{
    dinov_status status = DINOV_OK;
    char         where[DINOV_ESCAPED];
    DIR         *dir = opendir(s->temp);
    if (!dir)
        return dinov_fail_errno(err, errno, "IO-OPEN", "%s: cannot open the folder it was written in",
                                dinov_escape(where, sizeof where, s->temp, strlen(s->temp)));
    for (struct dirent *e; status == DINOV_OK && (e = readdir(dir));)
        if (strcmp(e->d_name, s->name) != 0 && dinov_folder_has(dirfd(dir), e->d_name, false))
            status = move_beside(s, e->d_name, err);
    closedir(dir);
    if (status != DINOV_OK) return status;
    return s->how.folder ? dinov_folder_move(s->inner, s->path, s->how.replaces, err)
                         : dinov_file_move(s->inner, s->path, s->how.overwrite, err);
}

dinov_status dinov_stage_commit(dinov_stage **stage, dinov_error *err)
{
    dinov_status status = commit(*stage, err);
    stage_free(stage);
    return status;
}

void dinov_stage_abort(dinov_stage **stage)
{
    if (stage && *stage) stage_free(stage);
}
