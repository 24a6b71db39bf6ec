/* SPDX-License-Identifier: Apache-2.0
 *
 * Sources of pictures: folders, lists, tar shards of every kind libarchive writes, hostile shards,
 * allocation failures.
 */
#include "image/source.h"

#include "base/alloc.h"
#include "image/shard.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <archive.h>
#include <archive_entry.h>
#include <cmocka.h>
#include <png.h>

enum { ROOM = 1 << 20 };

static char folder[] = "/tmp/dinov-source-XXXXXX";

static const char *in_folder(const char *name)
{
    static char path[8][4096];
    static int  turn;
    turn = (turn + 1) % 8;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

static void write_file(const char *name, const void *data, size_t size)
{
    FILE *f = fopen(in_folder(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

/* A picture of one colour, width 4 + colour. */
static size_t picture(uint8_t *out, size_t room, int colour)
{
    uint8_t          pixels[260 * 3 * 3];
    int              w     = 4 + colour;
    png_image        image = {.version = PNG_IMAGE_VERSION, .width = (unsigned)w, .height = 3, .format = PNG_FORMAT_RGB};
    png_alloc_size_t size  = room;
    memset(pixels, colour, sizeof pixels);
    assert_true(png_image_write_to_memory(&image, out, &size, 0, pixels, 0, NULL));
    return size;
}

static void write_picture(const char *name, int colour)
{
    uint8_t bytes[4096];
    write_file(name, bytes, picture(bytes, sizeof bytes, colour));
}

struct entry {
    const char *name;
    int         colour; /* a picture of it; -1: `text` */
    const char *text;
};

static size_t pack(uint8_t *out, const struct entry *entries, size_t count, int format, int filter)
{
    size_t          used = 0;
    struct archive *a    = archive_write_new();
    assert_int_equal(archive_write_set_format(a, format), ARCHIVE_OK);
    assert_int_equal(archive_write_add_filter(a, filter), ARCHIVE_OK);
    assert_int_equal(archive_write_open_memory(a, out, ROOM, &used), ARCHIVE_OK);
    for (size_t i = 0; i < count; i++) {
        uint8_t               bytes[4096];
        size_t                size;
        struct archive_entry *e = archive_entry_new();
        if (entries[i].colour >= 0)
            size = picture(bytes, sizeof bytes, entries[i].colour);
        else
            memcpy(bytes, entries[i].text, size = strlen(entries[i].text));
        archive_entry_set_pathname(e, entries[i].name);
        archive_entry_set_size(e, (int64_t)size);
        archive_entry_set_filetype(e, AE_IFREG);
        archive_entry_set_perm(e, 0644);
        assert_true(archive_write_header(a, e) >= ARCHIVE_WARN); /* names this locale cannot spell */
        assert_int_equal(archive_write_data(a, bytes, size), size);
        archive_entry_free(e);
    }
    assert_int_equal(archive_write_close(a), ARCHIVE_OK);
    archive_write_free(a);
    return used;
}

static dinov_source *opened(const char *const *paths, int64_t count, int labels)
{
    dinov_source_spec spec = {.paths = paths, .path_count = count, .label_folders = labels};
    dinov_source     *s;
    dinov_error       err = {0};
    if (dinov_source_open(&s, &spec, &err) != DINOV_OK) fail_msg("%s", err.msg);
    return s;
}

/* Item `i` is the picture of that colour, under a name that ends in `name`. */
static void is_item(const dinov_source *s, int64_t i, const char *name, int colour, int64_t label)
{
    char        shown[DINOV_SOURCE_NAME];
    dinov_image image = {0};
    dinov_error err   = {0};
    dinov_source_name(s, i, shown, sizeof shown);
    assert_true(strlen(shown) >= strlen(name));
    assert_string_equal(shown + strlen(shown) - strlen(name), name);
    if (dinov_source_decode(s, i, &image, &err) != DINOV_OK) fail_msg("%s", err.msg);
    assert_int_equal(image.width, 4 + colour);
    assert_int_equal(image.pixels[0], colour);
    assert_int_equal(dinov_source_label(s, i), label);
    dinov_image_clear(&image);
}

static const struct entry usual[] = {
    {"a/one.jpg", 1, NULL},     {"a/one.cls", -1, "7"},      {"a/two.cls", -1, "0\n"}, {"a/two.png", 2, NULL},
    {"b/two.PNG", 3, NULL},     {"readme", -1, "no"},        {"b/three.png", 4, NULL}, {"b/three.jpeg", 5, NULL},
    {"b/four.txt", -1, "no"},   {"b/five.seg.png", 6, NULL}, {"b/five.webp", 7, NULL}, {"b/.six.png", 8, NULL},
    {"b/seven.json", -1, "{}"}, {"b/seven.cls", -1, "x"},    {"b/seven.png", 9, NULL},
};

static void is_usual(const dinov_source *s)
{
    assert_int_equal(dinov_source_count(s), 6);
    is_item(s, 0, ":a/one.jpg", 1, 7);
    is_item(s, 1, ":a/two.png", 2, 0);
    is_item(s, 2, ":b/two.PNG", 3, -1);
    is_item(s, 3, ":b/three.jpeg", 5, -1); /* .jpg before .png of one key */
    is_item(s, 4, ":b/five.webp", 7, -1);  /* one ending before several */
    is_item(s, 5, ":b/seven.png", 9, -1);
    assert_int_equal(dinov_source_problem_count(s), 1);
    assert_string_equal(dinov_source_problem(s, 0)->code, "SHARD-LABEL");
    assert_null(dinov_source_problem(s, 1));
}

static void every_kind_of_archive_reads_alike(void **state)
{
    (void)state;
    static const int   formats[] = {ARCHIVE_FORMAT_TAR_USTAR, ARCHIVE_FORMAT_TAR_PAX_INTERCHANGE, ARCHIVE_FORMAT_TAR_GNUTAR};
    static const int   filters[] = {ARCHIVE_FILTER_NONE, ARCHIVE_FILTER_GZIP, ARCHIVE_FILTER_ZSTD};
    static const char *names[]   = {"s.tar", "s.tar.gz", "s.tzst"};
    static uint8_t     bytes[ROOM];
    for (int f = 0; f < 3; f++)
        for (int p = 0; p < 3; p++) {
            size_t size = pack(bytes, usual, sizeof usual / sizeof usual[0], formats[f], filters[p]);
            write_file(names[p], bytes, size);
            write_file("unnamed", bytes, size);
            const char   *named = in_folder(names[p]), *unnamed = in_folder("unnamed");
            dinov_source *s = opened(&named, 1, 0);
            is_usual(s);
            const char *member, *path = dinov_source_path(s, 0, &member);
            assert_string_equal(path, named);
            assert_string_equal(member, "a/one.jpg");
            dinov_source_close(&s);
            s = opened(&unnamed, 1, 0); /* by its first bytes */
            is_usual(s);
            dinov_source_close(&s);
        }
    unlink(in_folder("unnamed"));
}

static void long_and_foreign_names(void **state)
{
    (void)state;
    static uint8_t bytes[ROOM];
    char           name[300];
    memset(name, 'd', sizeof name);
    memcpy(name + 280, "/\xc3\xa9.png", 8);
    const struct entry entries[] = {{name, 1, NULL}, {"\xc3\xbc.png", 2, NULL}, {"\xff.png", 3, NULL}};
    for (int f = 0; f < 2; f++) {
        write_file("names.tar", bytes,
                   pack(bytes, entries, f ? 3 : 2, f ? ARCHIVE_FORMAT_TAR_GNUTAR : ARCHIVE_FORMAT_TAR_PAX_INTERCHANGE, 0));
        const char   *path = in_folder("names.tar");
        dinov_source *s    = opened(&path, 1, 0);
        assert_int_equal(dinov_source_count(s), f ? 3 : 2);
        is_item(s, 0, "/\\xc3\\xa9.png", 1, -1);
        is_item(s, 1, ":\\xc3\\xbc.png", 2, -1);
        if (f) is_item(s, 2, ":\\xff.png", 3, -1);
        char shown[DINOV_SOURCE_NAME];
        assert_int_equal(strlen(dinov_source_name(s, 0, shown, 100)), 99);
        dinov_source_close(&s);
    }
}

static void folders_files_lists_and_shards_in_order(void **state)
{
    (void)state;
    static uint8_t           bytes[ROOM];
    static const char *const made[] = {"tree", "tree/b", "tree/a", "tree/b/deep", "tree/none"};
    for (size_t i = 0; i < sizeof made / sizeof made[0]; i++) assert_int_equal(mkdir(in_folder(made[i]), 0777), 0);
    write_picture("tree/b/2.png", 10);
    write_picture("tree/b/deep/1.png", 11);
    write_picture("tree/a/9.png", 12);
    write_picture("tree/z.png", 13);
    write_picture("tree/b/10.png", 14);
    write_file("tree/notes.txt", "x", 1);
    static const struct entry inside[] = {{"k.png", 15, NULL}, {"k.cls", -1, "3"}, {"l.png", 16, NULL}};
    write_file("tree/b/5.tar", bytes, pack(bytes, inside, 3, ARCHIVE_FORMAT_TAR_USTAR, 0));
    char list[8192];
    snprintf(list, sizeof list, "%s\r\n\n%s\n", in_folder("tree/z.png"), in_folder("tree/b/5.tar"));
    write_file("list", list, strlen(list));

    const char       *paths[] = {in_folder("tree/"), in_folder("tree/a/9.png")}, *lists[] = {in_folder("list")};
    dinov_source_spec spec = {.paths = paths, .path_count = 2, .lists = lists, .list_count = 1, .label_folders = 1};
    dinov_source     *s;
    assert_int_equal(dinov_source_open(&s, &spec, NULL), DINOV_OK);
    assert_int_equal(dinov_source_count(s), 11);
    is_item(s, 0, "/a/9.png", 12, 0);
    is_item(s, 1, "/b/10.png", 14, 1);
    is_item(s, 2, "/b/2.png", 10, 1);
    is_item(s, 3, "/b/5.tar:k.png", 15, 3);
    is_item(s, 4, "/b/5.tar:l.png", 16, -1);
    is_item(s, 5, "/b/deep/1.png", 11, 1);
    is_item(s, 6, "/z.png", 13, -1);
    is_item(s, 7, "/a/9.png", 12, -1); /* named itself: no folder below the input */
    is_item(s, 8, "/z.png", 13, -1);
    is_item(s, 9, "/b/5.tar:k.png", 15, 3);
    assert_int_equal(dinov_source_class_count(s), 2);
    assert_string_equal(dinov_source_class_name(s, 0), "a");
    assert_string_equal(dinov_source_class_name(s, 1), "b");
    dinov_source_close(&s);
}

static void refused(const char *const *paths, int64_t count, size_t limit, dinov_status status, const char *code, const char *part)
{
    dinov_source_spec spec = {.paths = paths, .path_count = count, .unpack_limit = limit};
    dinov_source     *s    = (dinov_source *)1;
    dinov_error       err  = {0};
    assert_int_equal(dinov_source_open(&s, &spec, &err), status);
    assert_null(s);
    assert_string_equal(err.code, code);
    if (!strstr(err.msg, part)) fail_msg("%s", err.msg);
}

static void what_cannot_be_opened(void **state)
{
    (void)state;
    static uint8_t bytes[ROOM];
    const char    *path = in_folder("absent");
    refused(&path, 1, 0, DINOV_ERR_IO, "INPUT-OPEN", "absent");
    path = in_folder("tree/none");
    refused(&path, 1, 0, DINOV_ERR_FORMAT, "INPUT-EMPTY", "no pictures found");
    refused(NULL, 0, 0, DINOV_ERR_FORMAT, "INPUT-EMPTY", "no pictures found");
    write_file("junk.tar", "this is no tar", 14);
    path = in_folder("junk.tar");
    refused(&path, 1, 0, DINOV_ERR_FORMAT, "INPUT-EMPTY", "junk.tar: at byte 0: expected a tar archive");
    write_picture("sound.png", 20);
    const char   *both[] = {path, in_folder("sound.png")};
    dinov_source *sound  = opened(both, 2, 0);
    assert_int_equal(dinov_source_count(sound), 1);
    assert_string_equal(dinov_source_problem(sound, 0)->code, "SHARD-FORMAT");
    dinov_source_close(&sound);
    write_file("s.tar.gz", bytes, pack(bytes, usual, 3, ARCHIVE_FORMAT_TAR_USTAR, ARCHIVE_FILTER_GZIP));
    path = in_folder("s.tar.gz");
    refused(&path, 1, 3000, DINOV_ERR_LIMIT, "SHARD-LARGE", "3000 bytes");
    const char *twice[] = {path, path};
    refused(twice, 2, 7000, DINOV_ERR_LIMIT, "SHARD-LARGE", "s.tar.gz"); /* one fits */

    const char       *list = in_folder("list");
    dinov_source_spec spec = {.lists = &list, .list_count = 1};
    dinov_source     *s;
    dinov_error       err = {0};
    write_file("list", "absent.tar\n", 11);
    assert_int_equal(dinov_source_open(&s, &spec, &err), DINOV_ERR_IO);
    assert_string_equal(err.code, "SHARD-OPEN");
    write_file("list", "a\0b\n", 4);
    assert_int_equal(dinov_source_open(&s, &spec, &err), DINOV_ERR_FORMAT);
    assert_string_equal(err.code, "INPUT-LIST");
}

/* ---- Hostile shards, as bytes in memory ---- */

static uint8_t tar[ROOM];
static size_t  tar_size;

static void seal(uint8_t *header)
{
    unsigned sum = 0;
    memset(header + 148, ' ', 8);
    for (int i = 0; i < 512; i++) sum += header[i];
    snprintf((char *)header + 148, 8, "%06o", sum);
}

static uint8_t *header(const char *name, char type, uint64_t size)
{
    uint8_t *h = tar + tar_size;
    memset(h, 0, 512);
    memcpy(h, name, strlen(name));
    memcpy(h + 100, "0000644\0000000000\0000000000", 24);
    snprintf((char *)h + 124, 12, "%011llo", (unsigned long long)size);
    memcpy(h + 136, "00000000000", 12);
    h[156] = (uint8_t)type;
    memcpy(h + 257, "ustar\00000", 8);
    seal(h);
    tar_size += 512;
    return h;
}

static void content(const void *data, size_t size)
{
    memset(tar + tar_size, 0, (size + 511) / 512 * 512);
    memcpy(tar + tar_size, data, size);
    tar_size += (size + 511) / 512 * 512;
}

static void begin(void)
{
    tar_size = 0;
    header("first.png", '0', 4);
    content("\x89PNG", 4);
}

static void end(void)
{
    memset(tar + tar_size, 0, 1024);
    tar_size += 1024;
}

/* The index has `count` items; `code` is that of the one problem, NULL for none. */
static void indexed(int64_t count, const char *code)
{
    dinov_shard    shard;
    dinov_problems problems = {0};
    dinov_error    err      = {0};
    assert_int_equal(dinov_shard_index(&shard, tar, tar_size, "x.tar", 1 << 20, &problems, &err), DINOV_OK);
    if (problems.count != (code != NULL)) fail_msg("%s", problems.count ? problems.list[0].msg : "no problem");
    if (code) {
        if (strcmp(problems.list[0].code, code) != 0) fail_msg("expected %s, found %s", code, problems.list[0].msg);
        assert_non_null(strstr(problems.list[0].msg, "x.tar: at byte "));
    }
    assert_int_equal(shard.count, count);
    for (int64_t i = 0; i < shard.count; i++) {
        void  *bytes;
        size_t size;
        assert_int_equal(dinov_shard_read(&shard, i, &bytes, &size, &err), DINOV_OK);
        assert_int_equal(size, shard.items[i].size);
        dinov_free(bytes);
    }
    dinov_shard_close(&shard);
    dinov_problems_clear(&problems);
}

static void hostile_shards(void **state)
{
    (void)state;
    begin(), end();
    indexed(1, NULL);
    begin(); /* without the end mark: as some writers leave it */
    indexed(1, NULL);
    tar_size = 0;
    indexed(0, NULL);
    end();
    indexed(0, NULL);

    begin(), header("big.png", '0', (uint64_t)DINOV_SHARD_MEMBER + 1); /* a lie; nothing of that size is there */
    indexed(1, "SHARD-TRUNCATED");
    begin(), header("cut.png", '0', 600), content("x", 1);
    indexed(1, "SHARD-TRUNCATED");
    begin(), header("cut.png", '0', 8), content("12345678", 8), tar_size -= 505;
    indexed(1, "SHARD-TRUNCATED");
    begin(), header("all.png", '0', 8), content("12345678", 8), tar_size -= 504; /* only padding is missing */
    indexed(2, "SHARD-DAMAGED");
    begin(), header("cut.png", '0', 8), tar_size -= 100;
    indexed(1, "SHARD-DAMAGED");
    begin(), header("bad.png", '0', 0)[0] ^= 1; /* header checksum */
    end();
    indexed(1, "SHARD-DAMAGED");
    begin(), header("neg.png", '0', 0);
    memcpy(tar + tar_size - 512 + 124, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", 12); /* base-256, negative */
    seal(tar + tar_size - 512), end();
    indexed(1, "SHARD-DAMAGED");
    begin(), header("huge.png", '0', 0);
    memcpy(tar + tar_size - 512 + 124, "\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff", 12);
    seal(tar + tar_size - 512), end();
    indexed(1, "SHARD-DAMAGED");
    begin(), end(), header("after.png", '0', 0), end();
    indexed(1, "SHARD-TRAILING");

    /* Members that are no files of their own, and names that would climb out of a folder. */
    begin(), header("link.png", '2', 0), header("hard.png", '1', 0), header("dir.png/", '5', 0), header("pipe.png", '6', 0), end();
    indexed(1, NULL);
    begin(), header("../../etc/passwd.png", '0', 1), content("x", 1), header("/abs.png", '0', 1), content("x", 1), end();
    indexed(3, NULL);

    /* Labels. */
    begin(), header("first.cls", '0', 40), content("1                                       ", 40), end();
    indexed(1, "SHARD-LABEL");
    begin(), header("first.cls", '0', 11), content("99999999999", 11), end();
    indexed(1, "SHARD-LABEL");
    begin(), header("first.cls", '0', 0), end();
    indexed(1, "SHARD-LABEL");
    begin(), header("first.cls", '0', 4), content("\x1b[2J", 4), end();
    indexed(1, "SHARD-LABEL");

    /* A GNU long name of 5,000 bytes, and one past what the archive holds. */
    char name[5000];
    memset(name, 'n', sizeof name);
    memcpy(name + sizeof name - 5, ".png", 5);
    begin(), header("././@LongLink", 'L', sizeof name), content(name, sizeof name), header("n", '0', 1), content("x", 1), end();
    indexed(1, "SHARD-MEMBER");
    begin(), header("././@LongLink", 'L', 100000), end();
    indexed(1, "SHARD-DAMAGED");
    begin(), header("././@LongLink", 'L', 1 << 21), end(); /* over libarchive's own limit */
    indexed(1, "SHARD-DAMAGED");

    /* Pax headers: nonsense, a sparse file, a chain without end. */
    begin(), header("pax", 'x', 5), content("zzzz\n", 5), header("p.png", '0', 1), content("x", 1), end();
    {
        dinov_shard    shard;
        dinov_problems problems = {0};
        assert_int_equal(dinov_shard_index(&shard, tar, tar_size, "x.tar", 0, &problems, NULL), DINOV_OK);
        assert_true(shard.count >= 1);
        dinov_shard_close(&shard);
        dinov_problems_clear(&problems);
    }
    static const char sparse[] =
        "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n25 GNU.sparse.name=p.png\n28 GNU.sparse.realsize=9999\n";
    begin(), header("pax", 'x', sizeof sparse - 1), content(sparse, sizeof sparse - 1);
    header("p.png", '0', 1024), content("1\n5000\n100\n", 11), content("x", 1), end();
    indexed(1, "SHARD-MEMBER");
    begin();
    for (int i = 0; i < 200; i++) header("pax", 'x', 16), content("16 comment=hello\n", 16);
    end();
    indexed(1, "SHARD-DAMAGED");
}

static void packed_damage_keeps_what_stands_before(void **state)
{
    (void)state;
    static const int filters[] = {ARCHIVE_FILTER_GZIP, ARCHIVE_FILTER_ZSTD};
    static uint8_t   noise[ROOM / 4];
    struct entry     entries[200];
    char             names[200][16];
    for (int i = 0; i < 200; i++) {
        snprintf(names[i], sizeof names[i], "%03d.png", i);
        entries[i] = (struct entry){names[i], i, NULL};
    }
    for (int f = 0; f < 2; f++) {
        dinov_shard    shard;
        dinov_problems problems = {0};
        size_t         size     = pack(noise, entries, 200, ARCHIVE_FORMAT_TAR_USTAR, filters[f]);
        assert_int_equal(dinov_shard_index(&shard, noise, size, "x.tar.gz", 1 << 20, &problems, NULL), DINOV_OK);
        assert_int_equal(shard.count, 200);
        assert_int_equal(problems.count, 0);
        dinov_shard_close(&shard);
        assert_int_equal(dinov_shard_index(&shard, noise, size / 2, "x.tar.gz", 1 << 20, &problems, NULL), DINOV_OK);
        assert_in_range(problems.count, 1, 2);
        assert_string_equal(problems.list[0].code, "SHARD-UNPACK");
        dinov_shard_close(&shard);
        dinov_problems_clear(&problems);
    }
    for (size_t i = 0; i < 5; i++) { /* a magic number and little else */
        dinov_shard    shard;
        dinov_problems problems = {0};
        assert_int_equal(dinov_shard_index(&shard, "\x28\xb5\x2f\xfd\0", i, "x", 1 << 20, &problems, NULL), DINOV_OK);
        assert_int_equal(shard.count, 0);
        dinov_shard_close(&shard);
        dinov_problems_clear(&problems);
    }
}

static void a_shard_that_changes_is_noticed(void **state)
{
    (void)state;
    static uint8_t bytes[ROOM];
    size_t         size = pack(bytes, usual, 4, ARCHIVE_FORMAT_TAR_USTAR, 0);
    write_file("s.tar", bytes, size);
    const char   *path = in_folder("s.tar");
    dinov_source *s    = opened(&path, 1, 0);
    is_item(s, 1, "two.png", 2, 0);
    write_file("other", bytes, size);
    assert_int_equal(rename(in_folder("other"), path), 0);
    void       *got;
    size_t      got_size;
    dinov_error err = {0};
    assert_int_equal(dinov_source_read(s, 1, &got, &got_size, &err), DINOV_ERR_IO);
    assert_string_equal(err.code, "SHARD-READ");
    unlink(path);
    assert_int_equal(dinov_source_read(s, 1, &got, &got_size, &err), DINOV_ERR_IO);
    assert_string_equal(err.code, "SHARD-READ");
    dinov_source_close(&s);
}

/* Over 1 GiB, as a hole in a file: left out, and what follows is read. */
static void a_huge_member_is_left_out(void **state)
{
    (void)state;
    begin(), header("huge.png", '0', (uint64_t)DINOV_SHARD_MEMBER + 512);
    write_file("huge.tar", tar, tar_size);
    size_t before = tar_size;
    header("last.png", '0', 4), content("\x89PNG", 4), end();
    FILE *f = fopen(in_folder("huge.tar"), "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, (long)before + DINOV_SHARD_MEMBER + 512, SEEK_SET), 0);
    assert_int_equal(fwrite(tar + before, 1, tar_size - before, f), tar_size - before);
    assert_int_equal(fclose(f), 0);
    const char   *path = in_folder("huge.tar");
    dinov_source *s    = opened(&path, 1, 0);
    assert_int_equal(dinov_source_count(s), 2);
    assert_int_equal(dinov_source_problem_count(s), 1);
    assert_string_equal(dinov_source_problem(s, 0)->code, "SHARD-MEMBER");
    void  *bytes;
    size_t size;
    assert_int_equal(dinov_source_read(s, 1, &bytes, &size, NULL), DINOV_OK);
    assert_int_equal(size, 4);
    assert_memory_equal(bytes, "\x89PNG", 4);
    dinov_free(bytes);
    dinov_source_close(&s);
    unlink(path);
}

static void memory_runs_out_anywhere(void **state)
{
    (void)state;
    static uint8_t bytes[ROOM];
    write_file("s.tar", bytes, pack(bytes, usual, 4, ARCHIVE_FORMAT_TAR_USTAR, 0));
    write_file("s.tar.gz", bytes, pack(bytes, usual, 4, ARCHIVE_FORMAT_TAR_USTAR, ARCHIVE_FILTER_GZIP));
    const char       *paths[] = {in_folder("s.tar"), in_folder("s.tar.gz"), in_folder("tree")};
    dinov_source_spec spec    = {.paths = paths, .path_count = 3, .label_folders = 1};
    for (long n = 1;; n++) {
        dinov_source *s;
        dinov_error   err = {0};
        void         *got = NULL;
        size_t        size;
        dinov_alloc_fail_at(n, 0);
        dinov_status status = dinov_source_open(&s, &spec, &err);
        if (status == DINOV_OK) status = dinov_source_read(s, 0, &got, &size, &err);
        dinov_alloc_fail_at(0, 0);
        dinov_free(got);
        dinov_source_close(&s);
        if (status == DINOV_OK && n > 10) break; /* fitting a buffer may fail unnoticed */
        if (status != DINOV_OK) assert_int_equal(status, DINOV_ERR_NOMEM);
        assert_true(n < 1000);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_of_archive_reads_alike),
        cmocka_unit_test(long_and_foreign_names),
        cmocka_unit_test(folders_files_lists_and_shards_in_order),
        cmocka_unit_test(what_cannot_be_opened),
        cmocka_unit_test(hostile_shards),
        cmocka_unit_test(packed_damage_keeps_what_stands_before),
        cmocka_unit_test(a_shard_that_changes_is_noticed),
        cmocka_unit_test(a_huge_member_is_left_out),
        cmocka_unit_test(memory_runs_out_anywhere),
    };
    char command[128];
    if (!mkdtemp(folder)) return 3;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command) != 0 || failed;
}
