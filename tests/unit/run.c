/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs: what is saved is loaded to the bit, a failed save harms nothing, what is deleted and what stays, one process at a time, and
 * the files beside the checkpoints.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "dinov/infer.h"
#include "folder.h"
#include "reliability/made_state.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char       root[PATH], run_path[PATH];
static made_state made;
static char       notes[4096];

static int setup(void **state)
{
    (void)state;
    if (make_folder(root, "run") != 0) return -1;
    made_new(&made, 8, sizeof(float));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    made_free(&made);
    remove_all(root);
    return 0;
}

/* A new name for each test. */
static int fresh(void **state)
{
    static int count;
    (void)state;
    print(run_path, "%s/run-%d", root, count++);
    notes[0] = '\0';
    return 0;
}

static void note(void *arg, const char *sentence)
{
    (void)arg;
    strncat(notes, sentence, sizeof notes - strlen(notes) - 2);
    strcat(notes, "\n");
}

static dinov_run *open_run(void)
{
    dinov_run *run;
    OK(dinov_run_open(&run, run_path, note, NULL, err));
    return run;
}

static void save(dinov_run *run, int64_t iteration, int64_t keep_last, int64_t keep_every)
{
    dinov_run_saving saving = made_saving(&made);
    saving.keep_last = keep_last, saving.keep_every = keep_every;
    made_fill(&made, iteration);
    OK(dinov_run_save(run, &made.state, &saving, err));
    made_walk(&made, 123456, true); /* training goes on: what is written is the copy */
    OK(dinov_run_flush(run, err));
}

/* What is in the run's folder, sorted, in one line; ours to free. */
static const char *listing(void)
{
    static char     text[2048];
    struct dirent **entries;
    text[0]   = '\0';
    int count = scandir(run_path, &entries, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        if (strcmp(entries[i]->d_name, ".") != 0 && strcmp(entries[i]->d_name, "..") != 0) {
            strcat(text, text[0] ? " " : "");
            strcat(text, strncmp(entries[i]->d_name, "step-00000", 10) == 0 ? entries[i]->d_name + 10 : entries[i]->d_name);
        }
        free(entries[i]);
    }
    free(entries);
    return text;
}

/* The newest whole checkpoint is that of `iteration`, with the right numbers. */
static void expect_newest(dinov_run *run, int64_t iteration)
{
    dinov_training *t;
    dinov_error     e = {0};
    OK(dinov_run_resume(run, &t, 1, err));
    if (iteration < 0) {
        assert_null(t);
        return;
    }
    assert_non_null(t);
    assert_int_equal(dinov_training_manifest(t)->iteration, iteration);
    if (!made_is(&made, t, &e)) fail_msg("step %ld has other numbers: %s", (long)iteration, e.msg);
    dinov_training_close(&t);
}

static void file_of(char out[PATH], int64_t iteration, const char *name)
{
    char step[DINOV_STEP_NAME];
    print(out, "%s/%s/%s", run_path, dinov_step_name(step, iteration), name);
}

static void spoil(int64_t iteration, const char *name)
{
    char path[PATH];
    file_of(path, iteration, name);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, -1, SEEK_END);
    int byte = fgetc(f);
    fseek(f, -1, SEEK_END);
    fputc(byte ^ 4, f);
    fclose(f);
}

/* ---- Saving and loading ---- */

static void the_same_bits(void **state)
{
    (void)state;
    for (size_t real_size = 4; real_size <= 8; real_size += 4)
        for (int64_t parts = 1; parts <= 3; parts++) {
            made_state      m;
            dinov_training *t;
            dinov_error     e = {0};
            fresh(NULL);
            made_new(&m, 8, real_size);
            dinov_run       *run    = open_run();
            dinov_run_saving saving = made_saving(&m);
            saving.parts            = parts;
            OK(dinov_run_reserve(run, &m.state, err));
            made_fill(&m, 41);
            OK(dinov_run_save(run, &m.state, &saving, err));
            made_walk(&m, 42, true);
            OK(dinov_run_close(&run, err)); /* waits */
            assert_null(run);
            OK(dinov_training_find(&t, run_path, &(dinov_find_options){.verify = 1}, err));
            assert_int_equal(dinov_training_manifest(t)->file_count, parts + 1);
            if (!made_is(&m, t, &e)) fail_msg("other numbers: %s", e.msg);

            /* A deployable backbone: the average, with golden vectors that this build repeats. */
            const dinov_checkpoint *backbone = dinov_training_backbone(t);
            double                  worst;
            dinov_engine           *engine;
            OK(dinov_engine_open_weights(&engine, dinov_checkpoint_weights(backbone), &(dinov_engine_options){.threads = 1}, err));
            OK(dinov_engine_prove(engine, dinov_checkpoint_proof(backbone), &worst, err));
            assert_int_equal(dinov_checkpoint_proof(backbone)->count, DINOV_GOLDEN_CASES);
            assert_string_equal(dinov_checkpoint_provenance(backbone)->source_format, "training");
            dinov_engine_close(&engine);

            /* As a teacher: the averages alone. */
            void *block = made_block(m.set.total, real_size);
            OK(dinov_run_load_average(t, &m.set, real_size, block, err));
            if (real_size == 4) assert_memory_equal(block, m.state.average, (size_t)m.set.total * real_size);
            dinov_free(block);
            dinov_training_close(&t);
            made_free(&m);
        }
}

/* A float checkpoint teaches a trainer of doubles. */
static void averages_widen(void **state)
{
    dinov_training *t;
    (void)state;
    dinov_run *run = open_run();
    save(run, 3, 2, 0);
    OK(dinov_run_close(&run, err));
    OK(dinov_training_find(&t, run_path, NULL, err));
    double *block = made_block(made.set.total, sizeof *block);
    OK(dinov_run_load_average(t, &made.set, sizeof *block, block, err));
    for (int64_t i = 0; i < made.set.entries[0].count; i++)
        assert_true(block[made.set.entries[0].offset + i] == (double)(float)made_value(3, 1, made.set.entries[0].offset + i));
    dinov_free(block);
    dinov_training_close(&t);
}

static void other_configurations_are_refused(void **state)
{
    dinov_training *t;
    made_state      other;
    (void)state;
    dinov_run *run = open_run();
    save(run, 3, 2, 0);
    OK(dinov_run_close(&run, err));
    OK(dinov_training_find(&t, run_path, NULL, err));
    for (int i = 0; i < 4; i++) {
        made_new(&other, i == 0 ? 16 : 8, i == 1 ? 8 : 4);
        void *center = other.state.center[1];
        if (i == 2) other.state.center[1] = NULL; /* one tensor is left over */
        if (i == 3) other.set.count--;            /* one more, and one of the heads' average is missing nowhere */
        REFUSED(dinov_run_load(t, &other.state, err), ERR_SHAPE, "STATE-TENSOR");
        other.state.center[1] = center;
        if (i == 3) other.set.count++;
        if (i == 0) REFUSED(dinov_run_load_average(t, &other.set, 4, other.state.average, err), ERR_SHAPE, "STATE-TENSOR");
        made_free(&other);
    }
    dinov_training_close(&t);
}

/* Equal content gives equal bytes, whoever saves it. */
static void same_bytes_twice(void **state)
{
    static const char *const names[] = {"backbone.safetensors", "state-00000.safetensors", "state-00001.safetensors",
                                        "manifest.json"};
    char                     path[PATH];
    void                    *first[4], *second[4];
    size_t                   sizes[4], size;
    (void)state;
    for (int pass = 0; pass < 2; pass++) {
        dinov_run *run = open_run();
        save(run, 5, 2, 0);
        OK(dinov_run_close(&run, err));
        for (int i = 0; i < 4; i++) {
            file_of(path, 5, names[i]);
            OK(dinov_file_read(pass ? &second[i] : &first[i], pass ? &size : &sizes[i], path, 1 << 24, err));
            if (pass) {
                assert_int_equal(size, sizes[i]);
                assert_memory_equal(first[i], second[i], size);
                dinov_free(first[i]);
                dinov_free(second[i]);
            }
        }
        fresh(NULL);
    }
}

static void infinite_weights_are_kept_too(void **state)
{
    dinov_training *t;
    (void)state;
    dinov_run       *run    = open_run();
    dinov_run_saving saving = made_saving(&made);
    made_fill(&made, 9);
    ((float *)made.state.average)[made.set.entries[0].offset] = 1.0f / 0.0f;
    OK(dinov_run_save(run, &made.state, &saving, err));
    OK(dinov_run_close(&run, err));
    OK(dinov_training_find(&t, run_path, &(dinov_find_options){.verify = 1}, err));
    assert_int_equal(dinov_checkpoint_proof(dinov_training_backbone(t))->count, 0);
    OK(dinov_run_load(t, &made.state, err));
    assert_true(((float *)made.state.average)[made.set.entries[0].offset] > 3e38f);
    dinov_training_close(&t);
}

/* ---- What stays ---- */

static void old_ones_are_deleted(void **state)
{
    (void)state;
    dinov_run *run = open_run();
    for (int64_t i = 1; i <= 12; i++) save(run, 10 * i, 3, 50);
    assert_string_equal(listing(), ".lock metrics.jsonl 0050 0100 0110 0120");
    save(run, 130, 0, 0); /* fewer than two are never kept */
    assert_string_equal(listing(), ".lock metrics.jsonl 0120 0130");
    expect_newest(run, 130);
    OK(dinov_run_close(&run, err));
}

/* Damaged ones do not count as kept, and are left for their owner to look at. */
static void damaged_ones_do_not_count(void **state)
{
    (void)state;
    dinov_run *run = open_run();
    for (int64_t i = 1; i <= 4; i++) save(run, 10 * i, 4, 0);
    OK(dinov_run_close(&run, err));
    spoil(30, "state-00001.safetensors");
    spoil(40, "backbone.safetensors");
    run = open_run();
    expect_newest(run, 20);
    assert_non_null(strstr(notes, "0040/backbone.safetensors"));
    assert_non_null(strstr(notes, "0030/state-00001.safetensors"));
    save(run, 25, 2, 0); /* 25 and 20 are whole: only 10 may go */
    assert_string_equal(listing(), ".lock metrics.jsonl 0020 0025 0030 0040");
    save(run, 30, 2, 0); /* the place of a damaged one is taken */
    assert_string_equal(listing(), ".lock metrics.jsonl 0025 0030 0040");
    save(run, 40, 2, 0);
    assert_string_equal(listing(), ".lock metrics.jsonl 0030 0040");
    expect_newest(run, 40);
    OK(dinov_run_close(&run, err));
}

/* What another process left unverified is verified before it is relied upon. */
static void damage_since_is_seen_before_deleting(void **state)
{
    (void)state;
    dinov_run *run = open_run();
    for (int64_t i = 1; i <= 3; i++) save(run, 10 * i, 3, 0);
    OK(dinov_run_close(&run, err));
    run = open_run();
    expect_newest(run, 30); /* 10 and 20 have not been looked at */
    spoil(20, "state-00000.safetensors");
    save(run, 40, 3, 0);
    assert_string_equal(listing(), ".lock metrics.jsonl 0010 0020 0030 0040");
    save(run, 50, 3, 0);
    assert_string_equal(listing(), ".lock metrics.jsonl 0030 0040 0050");
    OK(dinov_run_close(&run, err));
}

static void all_damaged(void **state)
{
    dinov_training *t;
    (void)state;
    dinov_run *run = open_run();
    save(run, 10, 3, 0);
    save(run, 20, 3, 0);
    spoil(10, "manifest.json");
    spoil(20, "manifest.json");
    REFUSED(dinov_run_resume(run, &t, 1, err), ERR_CORRUPT, "RUN-BROKEN");
    OK(dinov_run_close(&run, err));
}

static void what_is_not_ours_stays(void **state)
{
    char path[PATH];
    (void)state;
    dinov_run *run = open_run();
    for (int64_t i = 1; i <= 2; i++) save(run, 10 * i, 2, 0);
    file_of(path, 10, "my-notes.txt");
    fclose(fopen(path, "w"));
    save(run, 30, 2, 0);
    assert_string_equal(listing(), ".lock metrics.jsonl 0010 0020 0030"); /* emptied of what is ours */
    assert_int_equal(access(path, F_OK), 0);
    file_of(path, 10, "manifest.json");
    assert_int_not_equal(access(path, F_OK), 0);
    file_of(path, 10, "backbone.safetensors");
    assert_int_not_equal(access(path, F_OK), 0);
    OK(dinov_run_close(&run, err));
}

static void touch_in(const char *folder, const char *name)
{
    char path[PATH];
    print(path, "%s/%s", run_path, folder);
    mkdir(path, 0777);
    if (!name) return;
    print(path, "%s/%s/%s", run_path, folder, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fclose(f);
}

static void leftovers_of_the_killed(void **state)
{
    (void)state;
    dinov_run *run = open_run();
    save(run, 10, 2, 0);
    OK(dinov_run_close(&run, err));
    touch_in(".step-000000020.tmp", "backbone.safetensors");
    touch_in(".step-000000020.tmp", "state-00000.safetensors.tmp-12-0");
    touch_in(".step-000000021.tmp", "manifest.json");
    touch_in(".step-000000022.tmp", NULL);
    touch_in("step-000000005", "state-00000.safetensors"); /* deleting it was cut short */
    touch_in(".", "config.yaml.tmp-4711-0");
    touch_in(".", "replay-000000001.json.tmp-4711-12");
    assert_string_equal(listing(),
                        ".lock .step-000000020.tmp .step-000000021.tmp .step-000000022.tmp config.yaml.tmp-4711-0 metrics.jsonl "
                        "replay-000000001.json.tmp-4711-12 0005 0010");
    touch_in(".step-000000023.tmp", "mine"); /* these are not ours to delete */
    touch_in(".step-23.tmp", "backbone.safetensors");
    touch_in(".", "other.txt.tmp-4711-0");
    touch_in(".", "config.yaml.tmp-4711-x");
    touch_in("step-000000006", "mine");
    touch_in("step-7", "backbone.safetensors");
    run = open_run();
    assert_string_equal(
        listing(), ".lock .step-000000023.tmp .step-23.tmp config.yaml.tmp-4711-x metrics.jsonl other.txt.tmp-4711-0 0006 0010 "
                   "step-7");
    expect_newest(run, 10);
    OK(dinov_run_close(&run, err));
}

/* ---- One process ---- */

static void one_process_at_a_time(void **state)
{
    dinov_run *again;
    (void)state;
    dinov_run *run = open_run();
    REFUSED(dinov_run_open(&again, run_path, NULL, NULL, err), ERR_IO, "RUN-LOCK");
    assert_null(again);
    save(run, 10, 2, 0); /* the other's try has harmed nothing */
    dinov_training *t;   /* reading is free */
    OK(dinov_training_newest(&t, run_path, NULL, err));
    dinov_training_close(&t);
    OK(dinov_run_close(&run, err));
    run = open_run();
    OK(dinov_run_close(&run, err));
    run = NULL;
    OK(dinov_run_close(&run, err));
    OK(dinov_run_close(NULL, err));
}

static void folders_that_cannot_be(void **state)
{
    dinov_run *run;
    char       path[PATH], *long_path = malloc(5000);
    (void)state;
    REFUSED(dinov_run_open(&run, "/tmp/dinov-no-such/run", NULL, NULL, err), ERR_IO, "RUN-OPEN");
    REFUSED(dinov_run_open(&run, "/dev/null", NULL, NULL, err), ERR_IO, "IO-OPEN");
    REFUSED(dinov_run_open(&run, "/proc", NULL, NULL, err), ERR_IO, "RUN-OPEN");
    memset(long_path, 'x', 4999);
    long_path[4999] = '\0';
    REFUSED(dinov_run_open(&run, long_path, NULL, NULL, err), ERR_IO, "RUN-OPEN");
    free(long_path);
    mkdir(run_path, 0777);
    print(path, "%s/.lock", run_path);
    assert_int_equal(symlink("/tmp/dinov-elsewhere", path), 0); /* nothing is written through a link */
    REFUSED(dinov_run_open(&run, run_path, NULL, NULL, err), ERR_IO, "RUN-OPEN");
    unlink(path);
    print(path, "%s/metrics.jsonl", run_path);
    assert_int_equal(symlink("/tmp/dinov-elsewhere", path), 0);
    REFUSED(dinov_run_open(&run, run_path, NULL, NULL, err), ERR_IO, "RUN-OPEN");
    assert_int_not_equal(access("/tmp/dinov-elsewhere", F_OK), 0);
}

/* ---- When the machine fails ---- */

/* The system refuses files beyond a size: a save fails at any place, and the older checkpoints are as they were. */
static void failing_saves(void **state)
{
    struct rlimit old;
    struct stat   st;
    char          path[PATH];
    int           failed = 0;
    (void)state;
    dinov_run       *run    = open_run();
    dinov_run_saving saving = made_saving(&made);
    save(run, 10, 2, 0);
    file_of(path, 10, "state-00000.safetensors");
    assert_int_equal(stat(path, &st), 0);
    getrlimit(RLIMIT_FSIZE, &old);
    signal(SIGXFSZ, SIG_IGN);
    for (rlim_t limit = 0; limit < (rlim_t)st.st_size; limit += 1501) {
        const struct rlimit small = {limit, old.rlim_max};
        dinov_error         e     = {0};
        made_fill(&made, 20);
        OK(dinov_run_save(run, &made.state, &saving, err));
        OK(dinov_run_flush(run, err)); /* this one was allowed all it wants */
        setrlimit(RLIMIT_FSIZE, &small);
        made_fill(&made, 30);
        OK(dinov_run_save(run, &made.state, &saving, err)); /* it fails later */
        dinov_status status = dinov_run_flush(run, &e);
        setrlimit(RLIMIT_FSIZE, &old);
        if (status != DINOV_OK) {
            failed++;
            assert_int_equal(status, DINOV_ERR_IO);
            assert_string_equal(e.code, "IO-WRITE");
            assert_string_equal(listing(), ".lock metrics.jsonl 0010 0020");
            expect_newest(run, 20);
            OK(dinov_run_flush(run, err)); /* told once */
        }
    }
    assert_true(failed > 3);
    /* A later call is told, whichever comes first; then saving works again. */
    for (int call = 0; call < 4; call++) {
        const struct rlimit small = {100, old.rlim_max};
        made_fill(&made, 40);
        setrlimit(RLIMIT_FSIZE, &small);
        OK(dinov_run_save(run, &made.state, &saving, err));
        if (call == 1) {
            dinov_error  e      = {0};
            dinov_status status = DINOV_OK;
            for (int i = 0; i < 5000 && status == DINOV_OK; i++) {
                status = dinov_run_poll(run, &e);
                usleep(1000);
            }
            assert_int_equal(status, DINOV_ERR_IO);
        } else if (call == 0) {
            REFUSED(dinov_run_save(run, &made.state, &saving, err), ERR_IO, "IO-WRITE");
        } else if (call == 2) {
            REFUSED(dinov_run_flush(run, err), ERR_IO, "IO-WRITE");
        } else {
            REFUSED(dinov_run_close(&run, err), ERR_IO, "IO-WRITE");
            setrlimit(RLIMIT_FSIZE, &old);
            run = open_run();
        }
        setrlimit(RLIMIT_FSIZE, &old);
        OK(dinov_run_poll(run, err));
        expect_newest(run, 20);
    }
    save(run, 50, 2, 0);
    expect_newest(run, 50);
    OK(dinov_run_close(&run, err));
}

/* In a child, which alone sees the mount. */
static int in_child(int (*what)(void))
{
    int how;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        if (unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) _exit(77);
        if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) _exit(77);
        _exit(what());
    }
    waitpid(child, &how, 0);
    return WIFEXITED(how) ? WEXITSTATUS(how) : 128 + WTERMSIG(how);
}

/* A file system with room for less and less of the second checkpoint. The first one stays; with room again, the second succeeds. */
static int full_disk(void)
{
    char data[PATH];
    int  failed = 0, saved = 0;
    for (int kib = 100; kib <= 420; kib += 4) {
        dinov_error      e      = {0};
        dinov_run       *run    = NULL;
        dinov_training  *t      = NULL;
        dinov_run_saving saving = made_saving(&made);
        mkdir(run_path, 0777);
        if (mount("dinov", run_path, "tmpfs", 0, "size=1m") != 0) return 77;
        made_fill(&made, 1);
        if (dinov_run_open(&run, run_path, NULL, NULL, &e) != DINOV_OK ||
            dinov_run_save(run, &made.state, &saving, &e) != DINOV_OK || dinov_run_flush(run, &e) != DINOV_OK)
            return 1;
        print(data, "size=%dk", kib);
        if (mount("dinov", run_path, "tmpfs", MS_REMOUNT, data) != 0) {
            dinov_run_close(&run, NULL);
            umount(run_path);
            continue; /* less than is used already */
        }
        made_fill(&made, 2);
        if (dinov_run_save(run, &made.state, &saving, &e) != DINOV_OK) return 2;
        dinov_status status = dinov_run_flush(run, &e);
        if (status != DINOV_OK && status != DINOV_ERR_IO) return 3;
        if (dinov_run_resume(run, &t, 1, &e) != DINOV_OK || !t || !made_is(&made, t, &e)) return 4;
        if (dinov_training_manifest(t)->iteration != (status == DINOV_OK ? 2 : 1)) return 5;
        dinov_training_close(&t);
        failed += status != DINOV_OK, saved += status == DINOV_OK;
        if (status != DINOV_OK) {
            if (strcmp(listing(), ".lock metrics.jsonl 0001") != 0) return 6;
            mount("dinov", run_path, "tmpfs", MS_REMOUNT, "size=1m");
            made_fill(&made, 2);
            if (dinov_run_save(run, &made.state, &saving, &e) != DINOV_OK || dinov_run_flush(run, &e) != DINOV_OK) return 7;
        }
        if (dinov_run_close(&run, &e) != DINOV_OK) return 8;
        umount(run_path);
    }
    printf("%d saves met a full disk, %d had room\n", failed, saved);
    fflush(stdout);
    return failed > 5 && saved > 0 ? 0 : 9;
}

static int read_only_disk(void)
{
    dinov_error      e      = {0};
    dinov_run       *run    = NULL;
    dinov_training  *t      = NULL;
    dinov_run_saving saving = made_saving(&made);
    mkdir(run_path, 0777);
    if (mount("dinov", run_path, "tmpfs", 0, "size=1m") != 0) return 77;
    made_fill(&made, 1);
    if (dinov_run_open(&run, run_path, NULL, NULL, &e) != DINOV_OK || dinov_run_save(run, &made.state, &saving, &e) != DINOV_OK ||
        dinov_run_flush(run, &e) != DINOV_OK)
        return 1;
    dinov_run_close(&run, NULL);
    if (mount("dinov", run_path, "tmpfs", MS_REMOUNT | MS_RDONLY, "size=1m") != 0) return 77;
    if (dinov_run_open(&run, run_path, NULL, NULL, &e) != DINOV_ERR_IO || strcmp(e.code, "RUN-OPEN") != 0) return 2;
    if (dinov_training_find(&t, run_path, &(dinov_find_options){.verify = 1}, &e) != DINOV_OK || !made_is(&made, t, &e)) return 3;
    dinov_training_close(&t);
    return 0;
}

static void on_other_disks(int (*what)(void))
{
    int code = in_child(what);
    if (code == 77) {
        print_message("skipped: mounting a tmpfs is not allowed here\n");
        skip();
    }
    assert_int_equal(code, 0);
}

static void a_full_disk(void **state)
{
    (void)state;
    on_other_disks(full_disk);
}

static void a_read_only_disk(void **state)
{
    (void)state;
    on_other_disks(read_only_disk);
}

/* The n-th allocation fails, for all n: a clean status, and the older checkpoint as it was. */
static void without_memory(void **state)
{
    (void)state;
    dinov_run *run = open_run();
    save(run, 10, 2, 0);
    OK(dinov_run_close(&run, err));
    for (int forever = 0; forever < 2; forever++) {
        long n = 0, refused = 0;
        for (bool untouched = false; !untouched;) {
            dinov_error      e      = {0};
            dinov_training  *t      = NULL;
            dinov_run_saving saving = made_saving(&made);
            long             before = dinov_alloc_count();
            made_fill(&made, 20);
            dinov_alloc_fail_at(++n, forever);
            dinov_status status = dinov_run_open(&run, run_path, NULL, NULL, &e);
            if (status == DINOV_OK) status = dinov_run_resume(run, &t, 1, &e);
            if (status == DINOV_OK) status = dinov_run_load(t, &made.state, &e);
            dinov_training_close(&t);
            if (status == DINOV_OK) made_fill(&made, 20);
            if (status == DINOV_OK) status = dinov_run_save(run, &made.state, &saving, &e);
            if (status == DINOV_OK) status = dinov_run_close(&run, &e);
            dinov_alloc_fail_at(0, 0);
            untouched = dinov_alloc_count() - before < n;
            dinov_run_close(&run, NULL);
            if (status != DINOV_OK && (status != DINOV_ERR_NOMEM || untouched))
                fail_msg("allocation %ld: %s: %s", n, e.code, e.msg);
            refused += status != DINOV_OK;
            run = open_run();
            expect_newest(run, status == DINOV_OK ? 20 : 10);
            if (status == DINOV_OK) { /* back to where it was */
                char path[PATH];
                file_of(path, 20, "");
                OK(dinov_run_close(&run, err));
                remove_all(path);
            } else {
                assert_string_equal(listing(), ".lock metrics.jsonl 0010");
                OK(dinov_run_close(&run, err));
            }
        }
        printf("%s: %ld allocations, %ld refusals\n", forever ? "forever" : "once", n - 1, refused);
        assert_true(refused > 50);
    }
}

/* After the first, saves of one size take the memory they have. */
static void memory_is_taken_once(void **state)
{
    (void)state;
    dinov_run       *run    = open_run();
    dinov_run_saving saving = made_saving(&made);
    OK(dinov_run_reserve(run, &made.state, err));
    made_fill(&made, 1);
    dinov_alloc_fail_at(1, 1);
    dinov_error e = {0};
    assert_int_equal(dinov_run_save(run, &made.state, &saving, &e), DINOV_ERR_NOMEM); /* its texts */
    dinov_alloc_fail_at(0, 0);
    saving.info = &(dinov_manifest){.iteration = 1, .isa = "ref", .teacher = "a\nb", .teacher_id = "", .config = ""};
    REFUSED(dinov_run_save(run, &made.state, &saving, err), ERR_CONFIG, "MAN-TEXT");
    save(run, 2, 2, 0);
    OK(dinov_run_close(&run, err));
}

/* ---- The files beside ---- */

static const char *metrics(void)
{
    static char text[65536];
    char        path[PATH];
    print(path, "%s/metrics.jsonl", run_path);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    text[fread(text, 1, sizeof text - 1, f)] = '\0';
    fclose(f);
    return text;
}

static void add_raw(const void *bytes, size_t size)
{
    char path[PATH];
    print(path, "%s/metrics.jsonl", run_path);
    FILE *f = fopen(path, "ab");
    assert_non_null(f);
    fwrite(bytes, 1, size, f);
    fclose(f);
}

static void metrics_go_back(void **state)
{
    char line[64];
    (void)state;
    dinov_run *run = open_run();
    OK(dinov_run_cut_metrics(run, 0, err));
    assert_string_equal(metrics(), "");
    for (int i = 1; i <= 30; i++) {
        print(notes, "{\"iteration\": %d, \"loss\": 1.5}", i);
        OK(dinov_run_append_metrics(run, notes, err));
    }
    OK(dinov_run_cut_metrics(run, 30, err));
    OK(dinov_run_cut_metrics(run, 31, err));
    assert_int_equal(strlen(metrics()), 9 * 30 + 21 * 31);
    OK(dinov_run_cut_metrics(run, 12, err));
    assert_non_null(strstr(metrics(), "{\"iteration\": 12, \"loss\": 1.5}\n"));
    assert_null(strstr(metrics(), "13"));
    static const char *const ends[] = {"{\"iteration\": 1",
                                       "{\"iteration\": 12, \"lo",
                                       "garbage\n",
                                       "{\"iteration\": }\n",
                                       "\n",
                                       "{\"iteration\": 99999999999999999999999}\n",
                                       "{\"iteration\": -1}\n"};
    size_t                   whole  = strlen(metrics());
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        add_raw(ends[i], strlen(ends[i]));
        OK(dinov_run_cut_metrics(run, 12, err));
        assert_int_equal(strlen(metrics()), whole);
    }
    add_raw("\0\0\0\0\0\0\0\0\0", 9); /* as a power cut may leave it */
    OK(dinov_run_cut_metrics(run, 12, err));
    assert_int_equal(strlen(metrics()), whole);
    snprintf(line, sizeof line, "{\"iteration\": 13}");
    OK(dinov_run_append_metrics(run, line, err));
    assert_string_equal(metrics() + whole, "{\"iteration\": 13}\n");
    OK(dinov_run_cut_metrics(run, 0, err));
    assert_string_equal(metrics(), "");
    OK(dinov_run_close(&run, err));
}

static void half_a_line_is_taken_back(void **state)
{
    struct rlimit old;
    (void)state;
    dinov_run *run = open_run();
    OK(dinov_run_append_metrics(run, "{\"iteration\": 1}", err));
    getrlimit(RLIMIT_FSIZE, &old);
    const struct rlimit small = {25, old.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    dinov_error  e      = {0};
    dinov_status status = dinov_run_append_metrics(run, "{\"iteration\": 2}", &e);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(status, DINOV_ERR_IO);
    assert_string_equal(e.code, "IO-WRITE");
    assert_string_equal(metrics(), "{\"iteration\": 1}\n");
    OK(dinov_run_close(&run, err));
}

static void the_configuration(void **state)
{
    char       path[PATH];
    void      *bytes;
    size_t     size;
    dinov_text yaml = {0};
    (void)state;
    dinov_run *run = open_run();
    for (int i = 0; i < 2; i++) { /* replaced */
        dinov_text_puts(&yaml, "a: 1\n");
        OK(dinov_run_write_config(run, &yaml, err));
        print(path, "%s/config.yaml", run_path);
        OK(dinov_file_read(&bytes, &size, path, 100, err));
        assert_int_equal(size, yaml.size);
        assert_memory_equal(bytes, yaml.data, size);
        dinov_free(bytes);
    }
    dinov_text_clear(&yaml);
    yaml.failed = true;
    REFUSED(dinov_run_write_config(run, &yaml, err), ERR_NOMEM, "MEM");
    OK(dinov_run_close(&run, err));
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup(f, fresh)
    const struct CMUnitTest tests[] = {
        TEST(the_same_bits),
        TEST(averages_widen),
        TEST(other_configurations_are_refused),
        TEST(same_bytes_twice),
        TEST(infinite_weights_are_kept_too),
        TEST(old_ones_are_deleted),
        TEST(damaged_ones_do_not_count),
        TEST(damage_since_is_seen_before_deleting),
        TEST(all_damaged),
        TEST(what_is_not_ours_stays),
        TEST(leftovers_of_the_killed),
        TEST(one_process_at_a_time),
        TEST(folders_that_cannot_be),
        TEST(failing_saves),
        TEST(a_full_disk),
        TEST(a_read_only_disk),
        TEST(without_memory),
        TEST(memory_is_taken_once),
        TEST(metrics_go_back),
        TEST(half_a_line_is_taken_back),
        TEST(the_configuration),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
