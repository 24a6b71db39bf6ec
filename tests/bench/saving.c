/* SPDX-License-Identifier: Apache-2.0
 *
 * What a checkpoint costs: how long saving holds training up, how much slower the steps beside it are, how long it takes in
 * all, and how long writing as many plain bytes takes. In alternation, medians of ROUNDS.
 *     bench_saving FOLDER RUN [EVERY]      FOLDER: inputs of pretrain_peer.py; RUN: a new folder on the disk that counts
 */
#include "format/params.h"
#include "tests/train/case.h"
#include "train/run.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 5, PIECE = 16 << 20 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double median(double *values)
{
    for (int i = 1; i < ROUNDS; i++)
        for (int j = i; j > 0 && values[j] < values[j - 1]; j--) {
            double other = values[j];
            values[j] = values[j - 1], values[j - 1] = other;
        }
    return values[ROUNDS / 2];
}

static int64_t bytes_of(const char *folder)
{
    int64_t        total = 0;
    DIR           *dir   = opendir(folder);
    struct dirent *entry;
    while (dir && (entry = readdir(dir))) {
        struct stat s;
        if (fstatat(dirfd(dir), entry->d_name, &s, 0) == 0 && S_ISREG(s.st_mode)) total += s.st_size;
    }
    if (dir) closedir(dir);
    return total;
}

/* Seconds to write that many bytes and to have them on the disk. */
static double plain(const char *run, int64_t bytes)
{
    char        path[4096];
    static char piece[PIECE];
    for (size_t i = 0; i < PIECE; i++) piece[i] = (char)(i * 2654435761u >> 13);
    snprintf(path, sizeof path, "%s/plain", run);
    double start = now();
    int    file  = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    for (int64_t done = 0; done < bytes;) {
        ssize_t n = write(file, piece, bytes - done < PIECE ? (size_t)(bytes - done) : PIECE);
        if (n <= 0) perror(path), exit(3);
        done += n;
    }
    if (fsync(file) != 0 || close(file) != 0) perror(path), exit(3);
    double time = now() - start;
    unlink(path);
    return time;
}

int main(int argc, char **argv)
{
    dinov_error      err;
    dinov_config     config;
    dinov_model      model;
    dinov_preprocess preprocess;
    dinov_pool      *pool;
    dinov_trainer   *trainer;
    dinov_run       *run;
    const dinov_ops *ops;
    double           alone[ROUNDS], beside[ROUNDS], held[ROUNDS], whole[ROUNDS], bare[ROUNDS];

    if (argc < 3) return 64;
    long    every                       = argc > 3 ? atol(argv[3]) : 250;
    json_t *j                           = case_read(argv[1], &config, &model);
    config.ibot.mask_sample_probability = 0.5, config.ibot.mask_ratio_min_max[0] = 0.1, config.ibot.mask_ratio_min_max[1] = 0.5;
    config.student.layerscale = 1e-5;
    dinov_preprocess_default(&preprocess, &model);
    snprintf(preprocess.preset, sizeof preprocess.preset, "square:%lld", (long long)config.crops.global_crops_size);
    case_must(dinov_ops_cpu(&ops, NULL, &err), &err);
    case_must(dinov_pool_new(&pool, 2, &err), &err);
    dinov_trainer_options options = {.config = &config, .model = &model, .ops = ops, .pool = pool};
    case_must(dinov_trainer_new(&trainer, &options, &err), &err);
    int64_t     side  = config.crops.global_crops_size / model.patch;
    dinov_views views = case_views(argv[1], &config, 0, side * side);
    dinov_rates rates = case_rates(j, 0);
    case_must(dinov_run_open(&run, argv[2], NULL, NULL, &err), &err);
    case_must(dinov_run_reserve(run, dinov_trainer_state(trainer), &err), &err);

    int64_t bytes = 0;
    for (int64_t i = 0; i < 1 + ROUNDS; i++) { /* the first to warm up */
        dinov_step_result r;
        int               at     = i > 0 ? (int)i - 1 : 0;
        dinov_manifest    info   = {.isa = ops->name, .config = "train:\n  seed: 0\n", .teacher = "", .teacher_id = ""};
        dinov_run_saving  saving = {.model = &model, .preprocess = &preprocess, .info = &info, .keep_last = 2, .threads = 1};

        info.adam_step = dinov_trainer_state(trainer)->adam_step;
        info.iteration = 2 * i;
        double start   = now();
        case_must(dinov_run_save(run, dinov_trainer_state(trainer), &saving, &err), &err);
        case_must(dinov_run_flush(run, &err), &err);
        whole[at] = now() - start;
        if (bytes == 0) {
            char path[4096];
            snprintf(path, sizeof path, "%s/step-%09d", argv[2], 0);
            bytes = bytes_of(path);
        }
        bare[at] = plain(argv[2], bytes);

        start = now();
        case_must(dinov_trainer_step(trainer, 2 * i, &views, &rates, NULL, &r, &err), &err);
        alone[at] = now() - start;

        info.iteration = 2 * i + 1;
        info.adam_step = dinov_trainer_state(trainer)->adam_step;
        start          = now();
        case_must(dinov_run_save(run, dinov_trainer_state(trainer), &saving, &err), &err);
        held[at] = now() - start;
        start    = now();
        case_must(dinov_trainer_step(trainer, 2 * i + 1, &views, &rates, NULL, &r, &err), &err);
        beside[at] = now() - start;
        case_must(dinov_run_flush(run, &err), &err);
    }
    double hold = median(held), step = median(alone), slower = median(beside) - step, all = median(whole), disk = median(bare);
    printf(
        "%.0f MB: saving holds training up for %.3f s, and the step beside it takes %.3f s more; %.2f %% of %ld steps of %.2f s\n"
        "a whole save takes %.2f s, as many plain bytes and fsync %.2f s: %.2f x\n",
        (double)bytes * 1e-6, hold, slower, 100 * (hold + (slower > 0 ? slower : 0)) / ((double)every * step), every, step, all,
        disk, all / disk);
    case_must(dinov_run_close(&run, &err), &err);
    dinov_trainer_free(&trainer);
    dinov_pool_free(&pool);
    json_decref(j);
    return 0;
}
