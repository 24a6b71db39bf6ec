/* SPDX-License-Identifier: Apache-2.0
 *
 * base/stage.h: what stands in an output's place, with every way a stage can end.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/file.h"
#include "base/folder.h"
#include "base/stage.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char home[32];

static int make_home(void **state)
{
    (void)state;
    snprintf(home, sizeof home, "/tmp/dinov-stage-XXXXXX");
    return mkdtemp(home) ? 0 : -1;
}

/* A stage that left something behind fails here. */
static int drop_home(void **state)
{
    (void)state;
    return rmdir(home);
}

static const char *at(const char *name)
{
    static char paths[4][640];
    static int  next;
    next = (next + 1) % 4;
    snprintf(paths[next], sizeof paths[next], "%s/%s", home, name);
    return paths[next];
}

static void put(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static void expect(const char *path, const char *text)
{
    dinov_map map;
    assert_int_equal(dinov_map_open(&map, path, NULL), DINOV_OK);
    assert_int_equal(map.size, strlen(text));
    assert_memory_equal(map.data, text, map.size);
    dinov_map_close(&map);
}

static bool ours(const char *name) { return strcmp(name, "one") == 0 || strcmp(name, "two") == 0; }

static void expect_refusal(const char *path, const dinov_stage_options *how, const char *code)
{
    dinov_stage *stage;
    dinov_error  err;
    assert_int_equal(dinov_stage_open(&stage, path, how, &err), DINOV_ERR_IO);
    assert_string_equal(err.code, code);
    assert_null(stage);
}

static void what_may_not_be_replaced_is_refused_first(void **state)
{
    (void)state;
    const dinov_stage_options keep = {0}, force = {.overwrite = 1}, folder = {.folder = 1},
                              force_folder = {.folder = 1, .replaces = ours};
    put(at("file"), "old");
    assert_int_equal(mkdir(at("folder"), 0777), 0);
    put(at("folder/other"), "");
    expect_refusal(at("file"), &keep, "IO-EXISTS");
    expect_refusal(at("folder"), &force, "IO-CREATE");
    expect_refusal(at("none/"), &force, "IO-CREATE");
    expect_refusal(at("none/file"), &force, "IO-CREATE");
    expect_refusal("", &force, "IO-CREATE");
    expect_refusal(at("folder"), &folder, "IO-EXISTS");
    expect_refusal(at("folder"), &force_folder, "IO-EXISTS");
    expect_refusal(at("file"), &force_folder, "IO-EXISTS");
    unlink(at("folder/other"));
    rmdir(at("folder"));
    unlink(at("file"));
}

static dinov_stage *start(const char *path, const dinov_stage_options *how)
{
    dinov_stage *stage;
    dinov_error  err;
    assert_int_equal(dinov_stage_open(&stage, path, how, &err), DINOV_OK);
    return stage;
}

/* "new" under the output's name, "data" beside it. */
static dinov_stage *start_file(int overwrite)
{
    dinov_stage *stage = start(at("file"), &(dinov_stage_options){.overwrite = overwrite});
    char         beside[600];
    put(dinov_stage_path(stage), "new");
    snprintf(beside, sizeof beside, "%.*s/data", (int)(strrchr(dinov_stage_path(stage), '/') - dinov_stage_path(stage)),
             dinov_stage_path(stage));
    put(beside, "beside");
    return stage;
}

static void a_file_stays_until_the_new_one_is_right(void **state)
{
    (void)state;
    dinov_error err;
    put(at("file"), "old");
    dinov_stage *stage = start_file(1);
    expect(at("file"), "old");
    dinov_stage_abort(&stage);
    assert_null(stage);
    expect(at("file"), "old");
    assert_int_not_equal(access(at("data"), F_OK), 0);

    stage = start_file(1);
    assert_int_equal(dinov_stage_commit(&stage, &err), DINOV_OK);
    assert_null(stage);
    expect(at("file"), "new");
    expect(at("data"), "beside");
    unlink(at("data"));
    unlink(at("file"));

    /* What came meanwhile is not replaced unless that was asked for, beside the file either. */
    stage = start_file(0);
    put(at("data"), "another's");
    assert_int_equal(dinov_stage_commit(&stage, &err), DINOV_ERR_IO);
    assert_string_equal(err.code, "IO-EXISTS");
    assert_non_null(strstr(err.msg, at("data")));
    assert_int_not_equal(access(at("file"), F_OK), 0);
    expect(at("data"), "another's");
    unlink(at("data"));
    stage = start_file(0);
    put(at("file"), "another's");
    assert_int_equal(dinov_stage_commit(&stage, &err), DINOV_ERR_IO);
    assert_string_equal(err.code, "IO-EXISTS");
    expect(at("file"), "another's");
    unlink(at("data"));
    unlink(at("file"));
}

static dinov_stage *start_folder(const char *path)
{
    dinov_stage *stage = start(path, &(dinov_stage_options){.folder = 1, .replaces = ours});
    char         file[600];
    assert_int_equal(mkdir(dinov_stage_path(stage), 0777), 0);
    snprintf(file, sizeof file, "%s/two", dinov_stage_path(stage));
    put(file, "new");
    return stage;
}

static void a_folder_stays_until_the_new_one_is_right(void **state)
{
    (void)state;
    dinov_error err;
    assert_int_equal(mkdir(at("folder"), 0777), 0);
    put(at("folder/one"), "old");
    dinov_stage *stage = start_folder(at("folder"));
    dinov_stage_abort(&stage);
    expect(at("folder/one"), "old");

    stage = start_folder(at("folder//"));
    assert_int_equal(dinov_stage_commit(&stage, &err), DINOV_OK);
    expect(at("folder/two"), "new");
    assert_int_not_equal(access(at("folder/one"), F_OK), 0);

    stage = start_folder(at("folder"));
    put(at("folder/other"), "another's");
    assert_int_equal(dinov_stage_commit(&stage, &err), DINOV_ERR_IO);
    assert_string_equal(err.code, "IO-EXISTS");
    expect(at("folder/other"), "another's");
    unlink(at("folder/other"));
    unlink(at("folder/two"));
    rmdir(at("folder"));
}

static void messages_name_the_output(void **state)
{
    (void)state;
    char         shown[DINOV_ESCAPED], want[sizeof((dinov_error *)0)->msg], longest[201];
    dinov_error  err;
    dinov_stage *stage = start(at("a\x1b"), &(dinov_stage_options){0});
    const char  *path  = dinov_stage_path(stage);
    dinov_escape(shown, sizeof shown, path, strlen(path));
    dinov_raise(&err, DINOV_ERR_IO, "IO-OPEN", "%s: is not %s/x of %s", shown, shown, home);
    dinov_stage_reword(stage, &err);
    snprintf(want, sizeof want, "%s/a\\x1b: is not %s/a\\x1b/x of %s", home, home, home);
    assert_string_equal(err.msg, want);
    dinov_stage_abort(&stage);

    /* One so long that neither name fits a message, and messages that are full. */
    memset(longest, 'n', 200);
    longest[200] = '\0';
    stage        = start(at(longest), &(dinov_stage_options){0});
    path         = dinov_stage_path(stage);
    dinov_escape(shown, sizeof shown, path, strlen(path));
    memset(err.msg, ' ', sizeof err.msg);
    for (size_t before = sizeof err.msg - 1 - strlen(shown), i = 0; i < 2; before -= 40, i++) {
        memset(err.msg, ' ', sizeof err.msg);
        memcpy(err.msg + before, shown, strlen(shown));
        err.msg[sizeof err.msg - 1] = '\0';
        dinov_stage_reword(stage, &err);
        assert_null(strstr(err.msg, ".tmp-"));
        assert_non_null(strstr(err.msg, at(longest)));
    }
    dinov_stage_abort(&stage);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_may_not_be_replaced_is_refused_first, make_home, drop_home),
        cmocka_unit_test_setup_teardown(a_file_stays_until_the_new_one_is_right, make_home, drop_home),
        cmocka_unit_test_setup_teardown(a_folder_stays_until_the_new_one_is_right, make_home, drop_home),
        cmocka_unit_test_setup_teardown(messages_name_the_output, make_home, drop_home),
    };
    return cmocka_run_group_tests_name("stage", tests, NULL, NULL);
}
