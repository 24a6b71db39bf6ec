/* SPDX-License-Identifier: Apache-2.0
 *
 * A ring of `depth` batches. A batch is cut into tasks, its masks and each of its images; workers take
 * tasks in order, so the oldest batch is always the one most worked at. One lock guards who does what;
 * a task itself runs without it and writes only its own part of the batch.
 */
#include "train/data/loader.h"

#include "base/alloc.h"
#include "train/data/check.h"
#include "train/data/pictures.h"
#include "train/data/sampler.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct slot {
    dinov_batch        batch;
    int64_t            next_task, done; /* of 1 + images tasks: the masks, then the images */
    int32_t           *order;           /* scratch of the masks, [2 B] */
    uint8_t           *replaced;        /* [B] */
    int64_t           *met;             /* unreadable pictures, by any task of this batch, in any order, some more than once */
    int64_t            met_count, met_room;
    dinov_bad_picture *bad;         /* [met_room] those the consumer is told of */
    dinov_error        error;       /* of the first task that failed */
    int64_t            failed_task; /* -1: none */
};

struct dinov_loader {
    const dinov_source *source;
    dinov_loader_config config;
    dinov_pictures     *pictures;
    struct slot        *slots; /* [depth]; step s lies in slot (s - first_step) % depth */

    pthread_mutex_t    lock;
    pthread_cond_t     work, ready;
    bool               stop;
    int64_t            filling;           /* the first step with tasks nobody has taken */
    int64_t            taking, releasing; /* the consumer's next step to take, and to release */
    pthread_t         *threads;
    int64_t            thread_count;
    dinov_loader_stats stats;
};

void dinov_loader_defaults(dinov_loader_config *out, int64_t global_crops_size, int64_t patch)
{
    *out = (dinov_loader_config){.batch = 64, .world = 1, .workers = 1, .depth = 2, .cache_limit = DINOV_LOADER_CACHE};
    dinov_augment_defaults(&out->augment, false);
    dinov_mask_defaults(&out->mask, global_crops_size, patch);
    out->augment.global_crops_size = global_crops_size;
}

static dinov_status check(const dinov_loader_config *c, int64_t pictures, dinov_error *err)
{
    enum { MAX_BATCH = 1 << 16, MAX_WORLD = 1 << 20, MAX_WORKERS = 256, MAX_DEPTH = 1024 };
    DINOV_TRY(dinov_augment_check(&c->augment, err));
    if (c->mask.height != c->mask.width || c->mask.height < 1 || c->augment.global_crops_size % c->mask.height != 0)
        return dinov_fail(
            err, DINOV_ERR_CONFIG, "DATA-CONFIG",
            "crops.global_crops_size: expected a multiple of the patch size, found %lld pixels for %lld x %lld patches",
            (long long)c->augment.global_crops_size, (long long)c->mask.height, (long long)c->mask.width);
    DINOV_TRY(dinov_data_within("train.batch_size_per_gpu", (double)c->batch, 1, MAX_BATCH, err));
    DINOV_TRY(dinov_mask_check(&c->mask, 2 * c->batch, err));
    DINOV_TRY(dinov_data_within("number of processes", (double)c->world, 1, MAX_WORLD, err));
    DINOV_TRY(dinov_data_within("number of this process", (double)c->rank, 0, (double)c->world - 1, err));
    DINOV_TRY(dinov_data_within("images of all processes' batches", (double)c->world * (double)c->batch, 1, 1 << 30, err));
    DINOV_TRY(dinov_data_within("first step", (double)c->first_step, 0, UINT32_MAX, err));
    DINOV_TRY(dinov_data_within("train.num_workers", (double)c->workers, 1, MAX_WORKERS, err));
    DINOV_TRY(dinov_data_within("batches held at a time", (double)c->depth, 0, MAX_DEPTH, err));
    return dinov_data_within("number of pictures", (double)pictures, 1, (double)DINOV_SAMPLER_MAX, err);
}

/* ---- Tasks ---- */

static int64_t task_count(const dinov_loader *l) { return 1 + l->config.batch; }

static struct slot *slot_of(const dinov_loader *l, int64_t step)
{
    return &l->slots[(step - l->config.first_step) % l->config.depth];
}

static void make_masks(const dinov_loader *l, struct slot *s)
{
    dinov_batch *b   = &s->batch;
    dinov_masks  m   = {.masks = b->masks, .mask_indices = b->mask_indices, .masks_weight = b->masks_weight};
    dinov_rng    rng = dinov_rng_make(l->config.seed, DINOV_RNG_MASK, (uint64_t)b->step, (uint64_t)l->config.rank);
    dinov_masks_draw(&m, &rng, &l->config.mask, 2 * b->images, s->order);
    b->n_masked   = m.n_masked;
    b->upperbound = m.upperbound;
}

/* The unreadable picture goes on the list of the batch. */
static dinov_status meet(dinov_loader *l, struct slot *s, int64_t item, dinov_error *err)
{
    bool ok = true;
    pthread_mutex_lock(&l->lock);
    if (s->met_count == s->met_room) {
        int64_t            room = s->met_room ? 2 * s->met_room : 16;
        int64_t           *met  = dinov_realloc(s->met, (size_t)room, sizeof *met);
        dinov_bad_picture *bad  = met ? dinov_realloc(s->bad, (size_t)room, sizeof *bad) : NULL;
        if (met) s->met = met;
        if (bad) s->bad = bad, s->met_room = room;
        ok = bad != NULL;
    }
    if (ok) s->met[s->met_count++] = item;
    pthread_mutex_unlock(&l->lock);
    return ok ? DINOV_OK : dinov_fail_nomem(err, "loader", "a list of unreadable pictures");
}

/* The picture of a sample: the first readable one from its place in its pass on. */
static dinov_status find_picture(dinov_loader *l, struct slot *s, int64_t image, dinov_image *out, bool *owned, dinov_error *err)
{
    const dinov_loader_config *c   = &l->config;
    const dinov_error         *why = NULL, *first = NULL;
    int64_t                    n = dinov_source_count(l->source), drawn = (s->batch.step * c->world + c->rank) * c->batch + image;
    int64_t                    tries = n < DINOV_LOADER_TRIES ? n : DINOV_LOADER_TRIES;
    for (int64_t k = 0; k < tries; k++) {
        int64_t item = dinov_sampler_item(c->seed, n, drawn / n * n + (drawn % n + k) % n);
        DINOV_TRY(dinov_pictures_get(l->pictures, item, out, owned, &why, err));
        if (!why) {
            s->batch.items[image] = item;
            s->replaced[image]    = k > 0;
            return DINOV_OK;
        }
        if (!first) first = why;
        DINOV_TRY(meet(l, s, item, err));
    }
    return dinov_fail(err, DINOV_ERR_CORRUPT, "DATA-UNREADABLE",
                      "step %lld, image %lld: none of %lld pictures tried can be read: %s", (long long)s->batch.step,
                      (long long)image, (long long)tries, first->msg);
}

static dinov_status make_image(dinov_loader *l, struct slot *s, int64_t image, dinov_crop_scratch *scratch, dinov_error *err)
{
    const dinov_loader_config *c = &l->config;
    dinov_batch               *b = &s->batch;
    dinov_image                picture;
    bool                       owned;
    dinov_status               status = DINOV_OK;

    DINOV_TRY(find_picture(l, s, image, &picture, &owned, err));
    dinov_rng rng = dinov_rng_make(c->seed, DINOV_RNG_AUGMENT, (uint64_t)b->step, (uint64_t)(c->rank * c->batch + image));
    for (int64_t k = 0; k < 2 + b->local_crops_number && status == DINOV_OK; k++) {
        dinov_crop crop;
        dinov_crop_draw(&crop, &rng, &c->augment, k < 2 ? (dinov_crop_kind)k : DINOV_CROP_LOCAL, picture.width, picture.height);
        float  *crops = k < 2 ? b->global_crops : b->local_crops;
        int64_t place = (k < 2 ? k : k - 2) * b->images + image;
        status        = dinov_crop_apply(crops + place * 3 * crop.size * crop.size, &crop, &picture, scratch, err);
    }
    if (owned) dinov_image_clear(&picture);
    return status;
}

/* ---- Workers ---- */

/* The next task, the lock held; NULL when there is none. */
static struct slot *take_task(dinov_loader *l, int64_t *task)
{
    struct slot *s = slot_of(l, l->filling);
    if (s->batch.step != l->filling) return NULL; /* still with the consumer */
    *task = s->next_task++;
    if (s->next_task == task_count(l)) l->filling++;
    return s;
}

static void *work(void *arg)
{
    dinov_loader      *l       = arg;
    dinov_crop_scratch scratch = {0};
    pthread_mutex_lock(&l->lock);
    while (!l->stop) {
        int64_t      task;
        struct slot *s = take_task(l, &task);
        if (!s) {
            pthread_cond_wait(&l->work, &l->lock);
            continue;
        }
        pthread_mutex_unlock(&l->lock);
        dinov_error  error  = {0};
        dinov_status status = DINOV_OK;
        if (task == 0)
            make_masks(l, s);
        else
            status = make_image(l, s, task - 1, &scratch, &error);
        pthread_mutex_lock(&l->lock);
        if (status != DINOV_OK && (s->failed_task < 0 || task < s->failed_task)) {
            s->failed_task = task;
            s->error       = error;
        }
        if (++s->done == task_count(l)) pthread_cond_signal(&l->ready);
    }
    pthread_mutex_unlock(&l->lock);
    dinov_crop_scratch_clear(&scratch);
    return NULL;
}

/* Signals are for the threads of the program, which know what to do with them. */
static dinov_status start_workers(dinov_loader *l, dinov_error *err)
{
    dinov_status status = DINOV_OK;
    sigset_t     all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int64_t i = 0; i < l->config.workers && status == DINOV_OK; i++) {
        int reason = pthread_create(&l->threads[i], NULL, work, l);
        if (reason != 0)
            status = dinov_fail_errno(err, reason, "SYS-THREAD", "loader: cannot start worker %lld of %lld", (long long)i + 1,
                                      (long long)l->config.workers);
        else
            l->thread_count++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return status;
}

/* ---- Opening, closing ---- */

static void slot_begin(struct slot *s, int64_t step)
{
    s->batch.step = step;
    s->next_task = s->done = s->met_count = 0;
    s->failed_task                        = -1;
}

static dinov_status slot_init(struct slot *s, const dinov_loader_config *c, int64_t step, dinov_error *err)
{
    const dinov_augment_config *a      = &c->augment;
    dinov_batch                *b      = &s->batch;
    size_t                      images = (size_t)c->batch, global = 3 * (size_t)(a->global_crops_size * a->global_crops_size);
    size_t local = 3 * (size_t)(a->local_crops_size * a->local_crops_size), patches = (size_t)(c->mask.height * c->mask.width);

    *b = (dinov_batch){.images             = c->batch,
                       .global_crops_size  = a->global_crops_size,
                       .local_crops_size   = a->local_crops_size,
                       .local_crops_number = a->local_crops_number,
                       .patches            = (int64_t)patches};
    slot_begin(s, step);
    b->global_crops = dinov_alloc_aligned(2 * images * global, sizeof(float));
    b->local_crops  = dinov_alloc_aligned((size_t)a->local_crops_number * images * local, sizeof(float));
    b->masks        = dinov_alloc_aligned(2 * images, patches);
    b->mask_indices = dinov_alloc_aligned(2 * images * patches, sizeof(int32_t));
    b->masks_weight = dinov_alloc_aligned(2 * images * patches, sizeof(float));
    b->items        = dinov_calloc(images, sizeof *b->items);
    s->order        = dinov_alloc(2 * images, sizeof *s->order);
    s->replaced     = dinov_calloc(images, 1);
    if (!b->global_crops || !b->local_crops || !b->masks || !b->mask_indices || !b->masks_weight || !b->items || !s->order ||
        !s->replaced)
        return dinov_fail_nomem(err, "loader", "a batch");
    return DINOV_OK;
}

static void slot_clear(struct slot *s)
{
    dinov_free(s->batch.global_crops);
    dinov_free(s->batch.local_crops);
    dinov_free(s->batch.masks);
    dinov_free(s->batch.mask_indices);
    dinov_free(s->batch.masks_weight);
    dinov_free(s->batch.items);
    dinov_free(s->order);
    dinov_free(s->replaced);
    dinov_free(s->met);
    dinov_free(s->bad);
}

dinov_status dinov_loader_new(dinov_loader **out, const dinov_source *source, const dinov_loader_config *config, dinov_error *err)
{
    dinov_status status = DINOV_OK;
    *out                = NULL;
    DINOV_TRY(check(config, dinov_source_count(source), err));
    dinov_loader *l = dinov_calloc(1, sizeof *l);
    if (!l) return dinov_fail_nomem(err, "loader", "itself");
    l->source = source;
    l->config = *config;
    if (l->config.depth == 0) l->config.depth = 2;
    l->filling = l->taking = l->releasing = config->first_step;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->work, NULL);
    pthread_cond_init(&l->ready, NULL);
    l->threads = dinov_calloc((size_t)config->workers, sizeof *l->threads);
    l->slots   = dinov_calloc((size_t)l->config.depth, sizeof *l->slots);
    if (!l->threads || !l->slots) {
        status = dinov_fail_nomem(err, "loader", "its queue");
        goto fail;
    }
    DINOV_TRY_GOTO(dinov_pictures_new(&l->pictures, source, config->cache_limit, err));
    for (int64_t i = 0; i < l->config.depth; i++) DINOV_TRY_GOTO(slot_init(&l->slots[i], &l->config, config->first_step + i, err));
    DINOV_TRY_GOTO(start_workers(l, err));
    *out = l;
    return DINOV_OK;
fail:
    dinov_loader_free(&l);
    return status;
}

void dinov_loader_free(dinov_loader **loader)
{
    if (!loader || !*loader) return;
    dinov_loader *l = *loader;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_broadcast(&l->work);
    pthread_mutex_unlock(&l->lock);
    for (int64_t i = 0; i < l->thread_count; i++) pthread_join(l->threads[i], NULL);
    for (int64_t i = 0; l->slots && i < l->config.depth; i++) slot_clear(&l->slots[i]);
    pthread_cond_destroy(&l->ready);
    pthread_cond_destroy(&l->work);
    pthread_mutex_destroy(&l->lock);
    dinov_pictures_free(&l->pictures);
    dinov_free(l->slots);
    dinov_free(l->threads);
    dinov_free(l);
    *loader = NULL;
}

/* ---- The consumer ---- */

static int by_number(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Those the batch met that nobody has heard of, in the order of the source. */
static void tell_bad(dinov_loader *l, struct slot *s)
{
    dinov_batch *b = &s->batch;
    b->bad         = s->bad;
    b->bad_count   = 0;
    if (s->met_count) qsort(s->met, (size_t)s->met_count, sizeof *s->met, by_number);
    for (int64_t i = 0; i < s->met_count; i++) {
        const dinov_error *why = dinov_pictures_tell(l->pictures, s->met[i]);
        if (why) s->bad[b->bad_count++] = (dinov_bad_picture){s->met[i], why};
    }
    l->stats.bad += b->bad_count;
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

dinov_status dinov_loader_next(dinov_loader *loader, const dinov_batch **out, dinov_error *err)
{
    dinov_loader *l     = loader;
    double        began = seconds();
    DINOV_ASSERT(l->taking - l->releasing < l->config.depth);
    struct slot *s = slot_of(l, l->taking);
    pthread_mutex_lock(&l->lock);
    while (s->done < task_count(l)) pthread_cond_wait(&l->ready, &l->lock);
    pthread_mutex_unlock(&l->lock);
    l->stats.waited_s += seconds() - began;
    if (s->failed_task >= 0) return dinov_fail(err, s->error.status, s->error.code, "%s", s->error.msg);
    tell_bad(l, s);
    for (int64_t i = 0; i < s->batch.images; i++) l->stats.replaced += s->replaced[i];
    l->stats.batches++;
    l->taking++;
    *out = &s->batch;
    return DINOV_OK;
}

void dinov_loader_release(dinov_loader *loader, const dinov_batch *batch)
{
    dinov_loader *l = loader;
    struct slot  *s = slot_of(l, l->releasing);
    DINOV_ASSERT(l->releasing < l->taking && batch == &s->batch);
    pthread_mutex_lock(&l->lock);
    slot_begin(s, l->releasing + l->config.depth);
    pthread_cond_broadcast(&l->work);
    pthread_mutex_unlock(&l->lock);
    l->releasing++;
}

dinov_loader_stats dinov_loader_get_stats(dinov_loader *loader)
{
    dinov_loader_stats stats = loader->stats;
    stats.cached             = dinov_pictures_bytes(loader->pictures);
    return stats;
}
