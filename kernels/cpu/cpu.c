/* SPDX-License-Identifier: Apache-2.0
 *
 * Which kernels run: the one place that asks the CPU what it can do.
 */
#include "kernels/cpu/cpu.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TABLES = 4 };

/* Filled once; worst first, best last. */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static dinov_ops      tables[MAX_TABLES];
static const char    *names[MAX_TABLES + 1];
static int            count;

static void add(void (*fill)(dinov_ops *))
{
    tables[count] = dinov_ops_ref_f32;
    if (fill) fill(&tables[count]);
    names[count] = tables[count].name;
    count++;
}

static void detect(void)
{
    add(NULL);
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) add(dinov_ops_fill_avx2);
    if (__builtin_cpu_supports("avx512f")) add(dinov_ops_fill_avx512);
#endif
}

const char *const *dinov_ops_cpu_names(void)
{
    pthread_once(&once, detect);
    return names;
}

dinov_status dinov_ops_cpu(const dinov_ops **out, const char *name, dinov_error *err)
{
    pthread_once(&once, detect);
    for (int i = count - 1; i >= 0; i--)
        if (!name || strcmp(names[i], name) == 0) {
            *out = &tables[i];
            return DINOV_OK;
        }
    return dinov_fail(err, DINOV_ERR_UNSUPPORTED, "DEV-ISA",
                      "instruction set %s: this CPU or build does not have it; the best here is %s", name, names[count - 1]);
}
