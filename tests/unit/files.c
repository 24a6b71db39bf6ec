/* SPDX-License-Identifier: Apache-2.0
 *
 * Which files beside a model its readers may have.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "convert/files.h"
#include "folder.h"

static void touch(const char *folder, const char *name, const char *text)
{
    char path[PATH];
    print(path, "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static void only_plain_files_of_the_same_folder(void **state)
{
    static const char *const wrong[] = {"", ".", "..", ".hidden", "../model", "a/b", "/etc/passwd", "a\\b"};
    char        folder[PATH], model[PATH], from[PATH], to[PATH];
    dinov_files files;
    dinov_map   map, again;
    (void)state;
    assert_int_equal(make_folder(folder, "files"), 0);
    touch(folder, "model", "m");
    touch(folder, "data", "hello");
    touch(folder, "twice", "x");
    print(model, "%s/model", folder);
    print(from, "%s/twice", folder);
    print(to, "%s/also", folder);
    assert_int_equal(link(from, to), 0);
    print(to, "%s/link", folder);
    assert_int_equal(symlink("data", to), 0);
    print(to, "%s/sub", folder);
    assert_int_equal(mkdir(to, 0700), 0);

    OK(dinov_files_open(&files, model, "model", err));
    OK(dinov_files_get(&files, &map, "data", 4, err));
    assert_int_equal(map.size, 5);
    assert_memory_equal(map.data, "hello", 5);
    OK(dinov_files_get(&files, &again, "data", 4, err));
    assert_ptr_equal(again.data, map.data);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        REFUSED(dinov_files_get(&files, &again, wrong[i], strlen(wrong[i]), err), ERR_FORMAT, "FILES-NAME");
    REFUSED(dinov_files_get(&files, &again, "da\0ta", 5, err), ERR_FORMAT, "FILES-NAME");
    REFUSED(dinov_files_get(&files, &again, "twice", 5, err), ERR_FORMAT, "FILES-NAME");
    REFUSED(dinov_files_get(&files, &again, "link", 4, err), ERR_IO, "IO-OPEN");
    REFUSED(dinov_files_get(&files, &again, "sub", 3, err), ERR_IO, "IO-OPEN");
    REFUSED(dinov_files_get(&files, &again, "absent", 6, err), ERR_IO, "IO-OPEN");
    assert_true(dinov_files_has(&files, "data"));
    assert_false(dinov_files_has(&files, "link"));
    dinov_files_close(&files);
    remove_all(folder);
}

static void at_most_so_many(void **state)
{
    char        folder[PATH], model[PATH], name[16];
    dinov_files files;
    dinov_map   map;
    (void)state;
    assert_int_equal(make_folder(folder, "files"), 0);
    print(model, "%s/model", folder);
    touch(folder, "model", "m");
    OK(dinov_files_open(&files, model, "model", err));
    for (int i = 0; i <= DINOV_FILES_MAX; i++) {
        snprintf(name, sizeof name, "f%d", i);
        touch(folder, name, "");
        if (i < DINOV_FILES_MAX)
            OK(dinov_files_get(&files, &map, name, strlen(name), err));
        else
            REFUSED(dinov_files_get(&files, &map, name, strlen(name), err), ERR_LIMIT, "FILES-COUNT");
    }
    dinov_files_close(&files);
    remove_all(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(only_plain_files_of_the_same_folder), cmocka_unit_test(at_most_so_many)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
