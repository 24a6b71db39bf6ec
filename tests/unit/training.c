/* SPDX-License-Identifier: Apache-2.0
 *
 * Training checkpoints as files: what is written is read back, every bit that changes and every file that
 * is missing, exchanged or led elsewhere is found, and runs give their newest whole checkpoint.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "folder.h"
#include "format/checkpoint.h"
#include "format/training.h"
#include "format_model.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TENSORS = 7 };

static char       root[PATH], aside[PATH];
static tiny_model tiny;
static float      values[TENSORS][96];
static char       notes[4096];

static int setup(void **state)
{
    (void)state;
    if (make_folder(root, "training") != 0) return -1;
    print(aside, "%s/aside", root);
    tiny_make(&tiny, 6, DINOV_F32);
    for (int i = 0; i < TENSORS; i++)
        for (int j = 0; j < 96; j++) values[i][j] = (float)(i * 1000 + j) / 7.0f;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    tiny_free(&tiny);
    remove_all(root);
    return 0;
}

static void note(void *arg, const char *sentence)
{
    (void)arg;
    strncat(notes, sentence, sizeof notes - strlen(notes) - 2);
    strcat(notes, "\n");
}

/* ---- A checkpoint made by hand ---- */

static dinov_manifest plain_manifest(int64_t iteration)
{
    return (dinov_manifest){.iteration  = iteration,
                            .adam_step  = iteration - 1,
                            .samples    = 64 * iteration,
                            .bad_steps  = 1,
                            .isa        = "avx2",
                            .teacher    = "runs/\"big\"\\one",
                            .teacher_id = "",
                            .config     = "a:\n  b: \"c\"\n\nd: 1\n"};
}

static size_t state_tensors(dinov_named_tensor *out)
{
    static const char *const names[TENSORS] = {"student.a", "student.b.c", "average.head", "m.a", "m.b.c", "v.a", "v.b.c"};
    for (int i = 0; i < TENSORS; i++)
        out[i] = (dinov_named_tensor){names[i], {.data = values[i], .dtype = DINOV_F32, .rank = 2, .dim = {1 + i, i < 3 ? 16 : 5}}};
    return TENSORS;
}

static dinov_status write_files(const char *folder, dinov_manifest *manifest, dinov_manifest_file *files, int64_t parts,
                                dinov_error *err)
{
    dinov_named_tensor        tensors[TENSORS], share[TENSORS];
    const dinov_named_tensor *sorted[TENSORS];
    dinov_write_options       options = {.threads = 1, .overwrite = 1};
    char                      path[PATH], name[DINOV_MANIFEST_NAME];
    struct stat               st;

    size_t total = state_tensors(tensors);
    for (size_t i = 0; i < total; i++) sorted[i] = &tensors[i];
    DINOV_TRY(dinov_table_sort_names(sorted, total, "test", err));
    for (int64_t part = -1; part < parts; part++) {
        print(path, "%s/%s", folder, dinov_manifest_file_name(name, (size_t)(part + 1)));
        if (part < 0) {
            dinov_checkpoint_made made = {0};
            DINOV_TRY(dinov_checkpoint_make(path, &tiny.weights, &tiny.provenance, &tiny.proof, &options, &made, err));
            files[0].header = made.header;
        } else {
            dinov_state_info info = {manifest->iteration, part, parts};
            size_t           first, count;
            dinov_state_share(sorted, total, part, parts, &first, &count);
            for (size_t i = 0; i < count; i++) share[i] = *sorted[first + i];
            DINOV_TRY(dinov_state_write(path, &info, share, count, 1, &files[part + 1].header, err));
        }
        assert_int_equal(stat(path, &st), 0);
        files[part + 1].bytes = (uint64_t)st.st_size;
    }
    manifest->files      = files;
    manifest->file_count = (size_t)parts + 1;
    return DINOV_OK;
}

static void put_file(const char *folder, const char *name, const void *bytes, size_t size)
{
    char path[PATH];
    print(path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, size, f), size);
    fclose(f);
}

static void *get_file(const char *folder, const char *name, size_t *size)
{
    char  path[PATH];
    void *bytes;
    print(path, "%s/%s", folder, name);
    OK(dinov_file_read(&bytes, size, path, 1 << 20, err));
    return bytes;
}

static void put_manifest(const char *folder, const dinov_manifest *manifest)
{
    dinov_text text = {0};
    dinov_manifest_build(&text, manifest);
    put_file(folder, DINOV_MANIFEST, text.data, text.size);
    dinov_text_clear(&text);
}

static void make_step(char folder[PATH], const char *run, int64_t iteration, int64_t parts)
{
    dinov_manifest_file files[16];
    dinov_manifest      manifest = plain_manifest(iteration);
    char                name[DINOV_STEP_NAME];
    mkdir(run, 0777);
    print(folder, "%s/%s", run, dinov_step_name(name, iteration));
    remove_all(folder);
    mkdir(folder, 0777);
    OK(write_files(folder, &manifest, files, parts, err));
    put_manifest(folder, &manifest);
}

static dinov_status open_and_verify(const char *folder, dinov_error *err)
{
    dinov_training *t;
    DINOV_TRY(dinov_training_open(&t, folder, err));
    dinov_status status = dinov_training_verify(t, 1, err);
    dinov_training_close(&t);
    return status;
}

/* ---- Reading back ---- */

static void round_trip(void **state)
{
    (void)state;
    for (int64_t parts = 1; parts <= 9; parts++) { /* more than there are tensors: some files hold none */
        char               folder[PATH];
        dinov_training    *t;
        dinov_named_tensor want[TENSORS];
        size_t             count, total = state_tensors(want);
        make_step(folder, root, 123, parts);
        OK(dinov_training_open(&t, folder, err));
        OK(dinov_training_verify(t, 2, err));
        const dinov_manifest *m = dinov_training_manifest(t), expected = plain_manifest(123);
        assert_true(m->iteration == 123 && m->adam_step == 122 && m->samples == 64 * 123 && m->bad_steps == 1);
        assert_string_equal(m->isa, expected.isa);
        assert_string_equal(m->teacher, expected.teacher);
        assert_string_equal(m->teacher_id, expected.teacher_id);
        assert_string_equal(m->config, expected.config);
        assert_string_equal(dinov_training_path(t), folder);
        assert_int_equal(dinov_checkpoint_weights(dinov_training_backbone(t))->count, tiny.weights.count);
        dinov_training_state(t, &count);
        assert_int_equal(count, total);
        for (size_t i = 0; i < total; i++) {
            const dinov_tensor *have  = dinov_training_find_tensor(t, want[i].name);
            uint64_t            bytes = 0;
            assert_non_null(have);
            assert_true(have->rank == 2 && have->dim[0] == want[i].tensor.dim[0] && have->dim[1] == want[i].tensor.dim[1]);
            dinov_tensor_bytes(have, &bytes);
            assert_memory_equal(have->data, want[i].tensor.data, bytes);
        }
        assert_null(dinov_training_find_tensor(t, "student"));
        dinov_training_close(&t);
        assert_null(t);
    }
}

/* Shares are whole, in order, and about equal when there are many tensors. */
static void shares(void **state)
{
    enum { COUNT = 1000 };
    static dinov_named_tensor tensors[COUNT];
    const dinov_named_tensor *sorted[COUNT];
    uint64_t                  all = 0;
    (void)state;
    for (int i = 0; i < COUNT; i++) {
        tensors[i] = (dinov_named_tensor){"t", {.dtype = DINOV_F32, .rank = 1, .dim = {1 + i % 97 * (i % 13 == 0 ? 40 : 1)}}};
        sorted[i]  = &tensors[i];
        all += 4 * (uint64_t)tensors[i].tensor.dim[0];
    }
    for (int64_t parts = 1; parts < 20; parts++) {
        size_t next = 0, first, count;
        for (int64_t part = 0; part < parts; part++) {
            uint64_t bytes = 0;
            dinov_state_share(sorted, COUNT, part, parts, &first, &count);
            assert_int_equal(first, next);
            next += count;
            for (size_t i = first; i < next; i++) bytes += 4 * (uint64_t)tensors[i].tensor.dim[0];
            assert_true(bytes < all / (uint64_t)parts + 20000 && bytes + 20000 > all / (uint64_t)parts);
        }
        assert_int_equal(next, COUNT);
    }
}

static void names_of_steps(void **state)
{
    char    name[DINOV_STEP_NAME];
    int64_t iteration = 0;
    (void)state;
    assert_string_equal(dinov_step_name(name, 0), "step-000000000");
    assert_string_equal(dinov_step_name(name, 999999999), "step-999999999");
    assert_true(dinov_step_parse("step-000001250", &iteration) && iteration == 1250);
    static const char *const none[] = {
        "step-1250", "step-0000001250", "step-00000125a", "Step-000001250", ".step-000001250", "step-00000125 ", ""};
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) assert_false(dinov_step_parse(none[i], &iteration));
}

/* ---- Damage ---- */

/* Every bit of every file, every length, and bytes behind its end. */
static void every_bit(void **state)
{
    char     folder[PATH], name[PATH];
    unsigned flips = 0, cuts = 0;
    (void)state;
    make_step(folder, root, 7, 2);
    for (size_t file = 0; file < 4; file++) {
        size_t size;
        char  *longer;
        if (file == 3)
            print(name, "%s", DINOV_MANIFEST);
        else
            dinov_manifest_file_name(name, file);
        uint8_t *bytes = get_file(folder, name, &size);
        /* All of the manifest; of the others, whose own tests flip every bit, one bit in each byte. */
        for (size_t bit = 0; bit < 8 * size; bit += file == 3 ? 1 : size > 4000 ? 17 : 9) {
            bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
            put_file(folder, name, bytes, size);
            dinov_error  e      = {0};
            dinov_status status = open_and_verify(folder, &e);
            if (status != DINOV_ERR_CORRUPT && status != DINOV_ERR_FORMAT) fail_msg("%s, bit %zu: %d %s", name, bit, status, e.msg);
            if (file == 3 && bit / 8 >= 28) assert_string_equal(e.code, "MAN-DIGEST");
            bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
            flips++;
        }
        for (size_t count = 0; count < size; count += file == 3 ? 1 : 37) {
            put_file(folder, name, bytes, count);
            dinov_error  e      = {0};
            dinov_status status = open_and_verify(folder, &e);
            assert_int_equal(status, count == 0 && file == 3 ? DINOV_ERR_FORMAT : DINOV_ERR_CORRUPT);
            assert_string_equal(e.code, file != 3 ? "MAN-FILE" : count ? "MAN-DIGEST" : "MAN-FORMAT");
            cuts++;
        }
        longer = malloc(size + 1);
        memcpy(longer, bytes, size);
        longer[size] = '\n';
        put_file(folder, name, longer, size + 1);
        REFUSED(open_and_verify(folder, err), ERR_CORRUPT, file == 3 ? "MAN-DIGEST" : "MAN-FILE");
        put_file(folder, name, bytes, size);
        OK(open_and_verify(folder, err));
        free(longer);
        dinov_free(bytes);
    }
    printf("%u flips, %u cuts\n", flips, cuts);
}

static void other_files(void **state)
{
    char folder[PATH], other[PATH], a[PATH], b[PATH];
    (void)state;
    make_step(folder, root, 7, 3);
    make_step(other, root, 8, 3);
    for (size_t i = 0; i < 4; i++) { /* the backbone is the same in both: there only the link is wrong */
        char name[DINOV_MANIFEST_NAME];
        dinov_manifest_file_name(name, i);
        print(a, "%s/%s", folder, name);
        print(b, "%s/%s", other, name);
        assert_int_equal(rename(a, aside), 0);
        REFUSED(open_and_verify(folder, err), ERR_CORRUPT, "MAN-FILE"); /* missing */
        assert_int_equal(symlink(aside, a), 0);
        REFUSED(open_and_verify(folder, err), ERR_CORRUPT, "MAN-FILE"); /* its own file, through a link */
        unlink(a);
        assert_int_equal(mkdir(a, 0777), 0);
        REFUSED(open_and_verify(folder, err), ERR_CORRUPT, "MAN-FILE");
        rmdir(a);
        assert_int_equal(mkfifo(a, 0666), 0);
        REFUSED(open_and_verify(folder, err), ERR_CORRUPT, "MAN-FILE");
        unlink(a);
        assert_int_equal(link(b, a), 0); /* of another step */
        if (i == 0)
            OK(open_and_verify(folder, err));
        else
            REFUSED(open_and_verify(folder, err), ERR_CORRUPT, "MAN-FILE");
        unlink(a);
        assert_int_equal(rename(aside, a), 0);
        OK(open_and_verify(folder, err));
    }
    print(a, "%s/state-00001.safetensors", folder);
    print(b, "%s/state-00002.safetensors", folder);
    assert_int_equal(renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE), 0);
    REFUSED(open_and_verify(folder, err), ERR_CORRUPT, "MAN-FILE");
    assert_int_equal(renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE), 0);
    put_file(folder, "notes.txt", "mine", 4); /* means nothing */
    OK(open_and_verify(folder, err));

    print(a, "%s/manifest.json", folder);
    print(b, "%s/manifest.json", other);
    unlink(a);
    REFUSED(open_and_verify(folder, err), ERR_FORMAT, "MAN-NONE");
    assert_int_equal(symlink(b, a), 0);
    REFUSED(open_and_verify(folder, err), ERR_FORMAT, "MAN-NONE");
    unlink(a);
    assert_int_equal(link(b, a), 0); /* the manifest of another step */
    REFUSED(open_and_verify(folder, err), ERR_CORRUPT, "MAN-FILE");
    assert_int_equal(truncate(a, DINOV_MANIFEST_BYTES + 1), 0);
    REFUSED(open_and_verify(folder, err), ERR_LIMIT, "MAN-LARGE");
    REFUSED(open_and_verify("/tmp/dinov-no-such-folder", err), ERR_IO, "IO-OPEN");
    REFUSED(open_and_verify("/dev/null", err), ERR_IO, "IO-OPEN");
}

/* Files that are sound each for itself and do not belong together. */
static void contradictions(void **state)
{
    char                folder[PATH], path[PATH];
    dinov_manifest_file files[3];
    dinov_manifest      manifest = plain_manifest(7);
    dinov_named_tensor  tensors[TENSORS];
    struct stat         st;
    (void)state;
    make_step(folder, root, 7, 2);
    OK(write_files(root, &manifest, files, 0, err)); /* for the header digest of the backbone */
    state_tensors(tensors);
    static const struct {
        dinov_state_info info;
        size_t           count;
        const char      *code;
    } cases[] = {
        {{8, 1, 2}, 1, "MAN-FILE"}, {{7, 0, 2}, 1, "MAN-FILE"}, {{7, 1, 3}, 1, "MAN-FILE"}, {{7, 1, 2}, TENSORS, "CK-DUPLICATE"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (int64_t part = 0; part < 2; part++) {
            dinov_state_info right = {7, 0, 2};
            print(path, "%s/state-0000%d.safetensors", folder, (int)part);
            unlink(path);
            OK(dinov_state_write(path, part ? &cases[i].info : &right, part ? tensors : tensors + 1, part ? cases[i].count : 2, 1,
                                 &files[part + 1].header, err));
            assert_int_equal(stat(path, &st), 0);
            files[part + 1].bytes = (uint64_t)st.st_size;
        }
        print(path, "%s/" DINOV_BACKBONE_FILE, folder);
        assert_int_equal(stat(path, &st), 0);
        files[0].bytes      = (uint64_t)st.st_size;
        manifest.files      = files;
        manifest.file_count = 3;
        put_manifest(folder, &manifest);
        REFUSED(open_and_verify(folder, err), ERR_CORRUPT, cases[i].code);
    }
}

/* ---- Manifests ---- */

/* A manifest with `with` for `what`, its digest put right. */
static dinov_status parse_changed(const char *what, const char *with, dinov_error *err)
{
    dinov_manifest_file files[2] = {{.bytes = 1}, {.bytes = 2}};
    dinov_manifest      manifest = plain_manifest(3), back;
    dinov_text          text = {0}, changed = {0};
    void               *storage;
    char                hex[DINOV_XXH_HEX];
    memset(files[0].header.hex, '0', sizeof files[0].header.hex);
    memset(files[1].header.hex, 'f', sizeof files[1].header.hex);
    manifest.files      = files;
    manifest.file_count = 2;
    dinov_manifest_build(&text, &manifest);
    const char *at = strstr(text.data, what);
    assert_non_null(at);
    dinov_text_add(&changed, text.data, (size_t)(at - text.data));
    dinov_text_puts(&changed, with);
    dinov_text_puts(&changed, at + strlen(what));
    memset(changed.data + 28, '0', sizeof hex);
    dinov_xxh128_hex(hex, changed.data, changed.size);
    memcpy(changed.data + 28, hex, sizeof hex);
    dinov_status status = dinov_manifest_parse(&back, &storage, changed.data, changed.size, "memory", err);
    assert_true((status == DINOV_OK) == (storage != NULL));
    dinov_manifest_free(storage);
    dinov_text_clear(&text);
    dinov_text_clear(&changed);
    return status;
}

static void manifests(void **state)
{
    static const struct {
        const char  *what, *with;
        dinov_status status;
        const char  *code;
    } cases[] = {
        {"\"read\":1,\"write\":1", "\"read\":2,\"write\":2", DINOV_ERR_VERSION, "CK-NEWER"},
        {"\"must_understand\":[]", "\"must_understand\":[\"wings\"]", DINOV_ERR_VERSION, "CK-FEATURE"},
        {"\"kind\":\"training\"", "\"kind\":\"other\"", DINOV_ERR_VERSION, "CK-KIND"},
        {"\"iteration\":3", "\"iteration\":-1", DINOV_ERR_CORRUPT, "CK-DOCUMENT"},
        {"\"iteration\":3", "\"iteration\":1000000000", DINOV_ERR_CORRUPT, "CK-DOCUMENT"},
        {"\"iteration\":3", "\"iteration\":3.0", DINOV_ERR_CORRUPT, "CK-DOCUMENT"},
        {"\"iteration\":3", "\"iteration\":03", DINOV_ERR_CORRUPT, "CK-DOCUMENT"},
        {"\"iteration\":3", "\"iteration\":9223372036854775808", DINOV_ERR_CORRUPT, "CK-DOCUMENT"},
        {"\"samples\":192", "\"samples\":-1", DINOV_ERR_CORRUPT, "CK-DOCUMENT"},
        {"\"adam_step\":2,\n", "", DINOV_ERR_CORRUPT, "CK-DOCUMENT"},
        {"\"adam_step\":2,\n", "\"adam_step\":2,\n\"adam_step\":2,\n", DINOV_ERR_CORRUPT, "CK-DOCUMENT"},
        {"\"adam_step\":2,\n", "\"adam_step\":2,\n\"more\":2,\n", DINOV_ERR_CORRUPT, "CK-CANONICAL"},
        {"\"adam_step\":2,\n", "\"adam_step\":2, \n", DINOV_ERR_CORRUPT, "CK-CANONICAL"},
        {"\"adam_step\":2,\n", "\"adam_step\":2,", DINOV_ERR_CORRUPT, "CK-CANONICAL"},
        {"\"isa\":\"avx2\"", "\"isa\":\"avx\\u0032\"", DINOV_ERR_CORRUPT, "CK-DOCUMENT"},
        {"\"isa\":\"avx2\"", "\"isa\":\"\x1b[2J\"", DINOV_ERR_CORRUPT, "CK-DOCUMENT"},
        {"\"isa\":\"avx2\"", "\"isa\":\"\xff\"", DINOV_ERR_CORRUPT, "CK-DOCUMENT"},
        {"\"isa\":\"avx2\"", "\"isa\":2", DINOV_ERR_CORRUPT, "CK-DOCUMENT"},
        {"\"d: 1\"", "1", DINOV_ERR_CORRUPT, "CK-DOCUMENT"},
        {"\"config\":[", "\"config\":{},\"x\":[", DINOV_ERR_CORRUPT, "CK-DOCUMENT"},
        {"backbone.safetensors", "../backbone.safetensors", DINOV_ERR_CORRUPT, "CK-DOCUMENT"},
        {"state-00000.safetensors", "/etc/passwd", DINOV_ERR_CORRUPT, "CK-DOCUMENT"},
        {"state-00000.safetensors", "state-00001.safetensors", DINOV_ERR_CORRUPT, "CK-DOCUMENT"},
        {"\"bytes\":2", "\"bytes\":-2", DINOV_ERR_CORRUPT, "CK-DOCUMENT"},
        {"ffff", "fffF", DINOV_ERR_CORRUPT, "CK-DOCUMENT"},
        {"ffff", "fff", DINOV_ERR_CORRUPT, "CK-DOCUMENT"},
        {"xxh3-128:ffff", "sha3-128:ffff", DINOV_ERR_CORRUPT, "CK-DOCUMENT"},
        {"}]}\n", "}]}", DINOV_ERR_CORRUPT, "CK-DOCUMENT"},
        {"}]}\n", "}]}\n\n", DINOV_ERR_CORRUPT, "CK-CANONICAL"},
        {"}]}\n", "}]}\n{}\n", DINOV_ERR_CORRUPT, "CK-DOCUMENT"},
        {"\"files\":[", "\"files\":[[[[[[[[[", DINOV_ERR_LIMIT, "CK-DOCUMENT-LARGE"},
        {"\"adam_step\":2", "\"adam_step\":2", DINOV_OK, ""},
        {"\"write\":1,\"safe_to_ignore\":[]", "\"write\":2,\"safe_to_ignore\":[\"more\"]", DINOV_OK, ""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        dinov_error  e      = {0};
        dinov_status status = parse_changed(cases[i].what, cases[i].with, &e);
        if (status != cases[i].status || strcmp(e.code, cases[i].code) != 0)
            fail_msg("%s -> %s: expected %s, found %d %s (%s)", cases[i].what, cases[i].with, cases[i].code, status, e.code, e.msg);
    }
    /* A newer writer may say more, in other spellings, but nothing else. */
    REFUSED(parse_changed("\"safe_to_ignore\":[],\"safe_to_read\":[],\"must_understand\":[]},\"kind\":\"training\"",
                          "\"safe_to_ignore\":[\"x\"],\"safe_to_read\":[],\"must_understand\":[]},\"more\":{\"a\":[1]}", err),
            ERR_CORRUPT, "CK-DOCUMENT");
    OK(parse_changed(
        "\"safe_to_ignore\":[],\"safe_to_read\":[],\"must_understand\":[]},\"kind\":\"training\"",
        "\"safe_to_ignore\":[\"x\"],\"safe_to_read\":[],\"must_understand\":[]}, \"more\":{\"a\":[1]},\n \"kind\":\"training\"",
        err));
}

static void texts_that_no_manifest_holds(void **state)
{
    static char long_text[5000];
    (void)state;
    memset(long_text, 'x', sizeof long_text - 1);
    dinov_manifest good = plain_manifest(1), m;
    OK(dinov_manifest_check(&good, "test", err));
#define BAD(change)                                                                                                                \
    do {                                                                                                                           \
        m = good;                                                                                                                  \
        change;                                                                                                                    \
        REFUSED(dinov_manifest_check(&m, "test", err), ERR_CONFIG, "MAN-TEXT");                                                    \
    } while (0)
    BAD(m.iteration = -1);
    BAD(m.iteration = 1000000000);
    BAD(m.samples = -1);
    BAD(m.teacher = "a\nb");
    BAD(m.teacher = "\xff");
    BAD(m.teacher = long_text);
    BAD(m.isa = "\x1b");
    BAD(m.config = "no end");
    BAD(m.config = "a: \t\n");
}

/* ---- Runs ---- */

static void spoil(const char *folder, const char *name)
{
    size_t   size;
    uint8_t *bytes = get_file(folder, name, &size);
    bytes[size - 1] ^= 1;
    put_file(folder, name, bytes, size);
    dinov_free(bytes);
}

static int64_t newest(const char *run, const dinov_find_options *how)
{
    dinov_training *t;
    notes[0] = '\0';
    OK(dinov_training_newest(&t, run, how, err));
    int64_t iteration = t ? dinov_training_manifest(t)->iteration : -1;
    dinov_training_close(&t);
    return iteration;
}

static void the_newest_whole_one(void **state)
{
    const dinov_find_options headers = {.note = note}, whole = {.verify = 1, .threads = 1, .note = note};
    char                     run[PATH], folder[PATH], moved[PATH], other[PATH];
    int64_t                 *steps;
    size_t                   count;
    dinov_training          *t;
    (void)state;
    print(run, "%s/run", root);
    REFUSED(dinov_training_newest(&t, run, NULL, err), ERR_IO, "RUN-OPEN");
    mkdir(run, 0777);
    assert_int_equal(newest(run, &whole), -1);
    for (int64_t i = 9; i <= 11; i++) make_step(folder, run, i, 1);
    print(other, "%s/step-000000012", run); /* never finished */
    mkdir(other, 0777);
    print(other, "%s/step-000000013", run); /* a link is no step of this run */
    assert_int_equal(symlink(folder, other), 0);
    OK(dinov_steps_list(&steps, &count, run, err));
    assert_int_equal(count, 3);
    assert_true(steps[0] == 11 && steps[1] == 10 && steps[2] == 9);
    dinov_free(steps);
    assert_int_equal(newest(run, &whole), 11);
    assert_string_equal(notes, "");

    spoil(folder, "state-00000.safetensors"); /* the last byte: data */
    assert_int_equal(newest(run, &headers), 11);
    assert_int_equal(newest(run, &whole), 10);
    assert_non_null(strstr(notes, "step-000000011/state-00000.safetensors"));
    assert_non_null(strstr(notes, "[CK-DIGEST]"));
    print(folder, "%s/step-000000010", run);
    put_file(folder, DINOV_MANIFEST, "", 0); /* as a power cut may leave it */
    assert_int_equal(newest(run, &whole), 9);
    assert_non_null(strstr(notes, "[MAN-FORMAT]"));
    print(moved, "%s/step-000000014", run); /* by a name that is not its own */
    print(folder, "%s/step-000000009", run);
    assert_int_equal(rename(folder, moved), 0);
    REFUSED(dinov_training_newest(&t, run, &whole, err), ERR_CORRUPT, "RUN-BROKEN");
    OK(dinov_training_find(&t, moved, &whole, err)); /* named itself, it is what it is */
    dinov_training_close(&t);
    assert_int_equal(rename(moved, folder), 0);

    make_step(moved, run, 20, 1); /* newer than this program: for the user to know */
    dinov_manifest_file files[2];
    dinov_manifest      manifest = plain_manifest(20);
    dinov_text          text     = {0};
    char                hex[DINOV_XXH_HEX];
    memset(files, 'a', sizeof files);
    files[0].bytes = files[1].bytes = 1;
    manifest.files = files, manifest.file_count = 2;
    dinov_manifest_build(&text, &manifest);
    memcpy(strstr(text.data, "\"read\":1,\"write\":1"), "\"read\":2,\"write\":2", 18);
    memset(text.data + 28, '0', sizeof hex);
    dinov_xxh128_hex(hex, text.data, text.size);
    memcpy(text.data + 28, hex, sizeof hex);
    put_file(moved, DINOV_MANIFEST, text.data, text.size);
    dinov_text_clear(&text);
    REFUSED(dinov_training_newest(&t, run, &whole, err), ERR_VERSION, "CK-NEWER");
    remove_all(run);
}

static void found_by_step(void **state)
{
    char            run[PATH], folder[PATH], which[PATH];
    dinov_training *t;
    (void)state;
    print(run, "%s/a@5", root); /* a name that looks like a step of another run */
    for (int64_t i = 1; i <= 12; i++) make_step(folder, run, 100 * i, 1);
    OK(dinov_training_find(&t, run, NULL, err));
    assert_int_equal(dinov_training_manifest(t)->iteration, 1200);
    dinov_training_close(&t);
    print(which, "%s@300", run);
    OK(dinov_training_find(&t, which, NULL, err));
    assert_int_equal(dinov_training_manifest(t)->iteration, 300);
    dinov_training_close(&t);
    print(which, "%s/step-000000700/", run);
    OK(dinov_training_find(&t, which, &(dinov_find_options){.verify = 1}, err));
    assert_int_equal(dinov_training_manifest(t)->iteration, 700);
    dinov_training_close(&t);
    static const char *const none[] = {"@301", "@", "@-300", "@300x", "@0000000300", "/nothing"};
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
        dinov_error e = {0};
        print(which, "%s%s", run, none[i]);
        assert_int_equal(dinov_training_find(&t, which, NULL, &e), DINOV_ERR_IO);
        assert_string_equal(e.code, "RUN-STEP");
        if (i == 0) assert_non_null(strstr(e.msg, "1200, 1100"));
    }
    print(folder, "%s/empty", root);
    mkdir(folder, 0777);
    REFUSED(dinov_training_find(&t, folder, NULL, err), ERR_IO, "RUN-STEP");
    remove_all(run);
}

/* ---- No memory ---- */

static void without_memory(void **state)
{
    char folder[PATH];
    (void)state;
    make_step(folder, root, 7, 2);
    for (int forever = 0; forever < 2; forever++) {
        for (int writes = 0; writes < 2; writes++) {
            long n = 0, refused = 0;
            for (bool untouched = false; !untouched;) {
                dinov_error         e      = {0};
                long                before = dinov_alloc_count();
                dinov_manifest_file files[3];
                dinov_manifest      manifest = plain_manifest(7);
                char                path[PATH];
                print(path, "%s/out", root);
                if (writes) remove_all(path), mkdir(path, 0777);
                dinov_alloc_fail_at(++n, forever);
                dinov_status status = writes ? write_files(path, &manifest, files, 2, &e) : open_and_verify(folder, &e);
                dinov_alloc_fail_at(0, 0);
                untouched = dinov_alloc_count() - before < n;
                if (status == DINOV_OK)
                    assert_true(untouched || !forever);
                else if (status != DINOV_ERR_NOMEM || untouched)
                    fail_msg("allocation %ld: %s: %s", n, e.code, e.msg);
                refused += status != DINOV_OK;
            }
            printf("%s, %s: %ld allocations, %ld refusals\n", writes ? "write" : "read", forever ? "forever" : "once", n - 1,
                   refused);
            assert_true(refused > 20);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(shares),
        cmocka_unit_test(names_of_steps),
        cmocka_unit_test(every_bit),
        cmocka_unit_test(other_files),
        cmocka_unit_test(contradictions),
        cmocka_unit_test(manifests),
        cmocka_unit_test(texts_that_no_manifest_holds),
        cmocka_unit_test(the_newest_whole_one),
        cmocka_unit_test(found_by_step),
        cmocka_unit_test(without_memory),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
