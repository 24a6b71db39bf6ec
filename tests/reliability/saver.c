/* SPDX-License-Identifier: Apache-2.0
 *
 * What the crash tests kill and ask: saves states that follow from their step, and says whether what a run's folder holds
 * is one of them.
 *   saver loop RUN [LAST]    goes on from the newest checkpoint, which must be right; a line "committed N" after each
 *   saver check RUN          the newest checkpoint's step, or "none"; exit code 1 when it is not what was saved
 */
#include "tests/reliability/made_state.h"

#include <inttypes.h>
#include <string.h>

enum { DIM = 32, KEEP_EVERY = 10 };

static void note(void *arg, const char *sentence)
{
    (void)arg;
    fprintf(stderr, "%s\n", sentence);
}

static int fail(const dinov_error *e)
{
    fprintf(stderr, "%s [%s]\n", e->msg, e->code);
    return 1;
}

/* *iteration: -1 when there is none. */
static int check(made_state *m, const char *path, int64_t *iteration)
{
    const dinov_find_options how = {.verify = 1, .threads = 1, .note = note};
    dinov_training          *t;
    dinov_error              e = {0};
    *iteration = -1;
    if (dinov_training_newest(&t, path, &how, &e) != DINOV_OK) return fail(&e);
    if (!t) return 0;
    *iteration = dinov_training_manifest(t)->iteration;
    bool right = made_is(m, t, &e);
    if (!right) fprintf(stderr, "%s is not what was saved: %s\n", dinov_training_path(t), e.msg);
    dinov_training_close(&t);
    return right ? 0 : 1;
}

static int loop(made_state *m, const char *path, int64_t last)
{
    dinov_run  *run;
    dinov_error e;
    int64_t     iteration;
    if (dinov_run_open(&run, path, note, NULL, &e) != DINOV_OK) return fail(&e);
    if (check(m, path, &iteration) != 0) return 1;
    printf("open %" PRId64 "\n", iteration);
    fflush(stdout);
    while (++iteration <= last) {
        made_fill(m, iteration);
        dinov_run_saving saving = made_saving(m);
        saving.keep_every       = KEEP_EVERY;
        /* Saving waits for the one before, so that one is committed. */
        if (dinov_run_save(run, &m->state, &saving, &e) != DINOV_OK) return fail(&e);
        if (iteration % 3 == 0 && dinov_run_flush(run, &e) != DINOV_OK) return fail(&e);
        printf("committed %" PRId64 "\n", iteration % 3 == 0 ? iteration : iteration - 1);
        fflush(stdout);
    }
    return dinov_run_close(&run, &e) == DINOV_OK ? 0 : fail(&e);
}

static int asked(made_state *m, int argc, char **argv)
{
    int64_t iteration;
    if (argc >= 3 && strcmp(argv[1], "loop") == 0) return loop(m, argv[2], argc > 3 ? atoll(argv[3]) : DINOV_STATE_MAX_ITERATION);
    if (argc != 3 || strcmp(argv[1], "check") != 0) return 64;
    if (check(m, argv[2], &iteration) != 0) return 1;
    if (iteration < 0) puts("none");
    else printf("%" PRId64 "\n", iteration);
    return 0;
}

int main(int argc, char **argv)
{
    made_state m;
    made_new(&m, DIM, sizeof(float));
    int code = asked(&m, argc, argv);
    made_free(&m);
    return code;
}
