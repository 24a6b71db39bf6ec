/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/library.h"

#include <dlfcn.h>

void *dinov_library_open(const char *const *names, const char *const *symbols, void **functions, size_t count)
{
    for (; *names; names++) {
        /* Never unloaded: what such a library leaves with the driver outlives its handles. */
        void *library = dlopen(*names, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
        if (!library) continue;
        size_t found = 0;
        while (found < count && (functions[found] = dlsym(library, symbols[found]))) found++;
        if (found == count) return library;
        dlclose(library);
    }
    return NULL;
}

void dinov_library_close(void *library)
{
    if (library) dlclose(library);
}
