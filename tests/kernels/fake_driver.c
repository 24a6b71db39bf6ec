/* SPDX-License-Identifier: Apache-2.0
 *
 * A driver without a device, for tests: libcuda.so.1 with what cuDNN asks for while it makes a plan for a device that was
 * only described to it. Kernels "load"; everything else is refused, so nothing can run.
 */
#define _GNU_SOURCE /* RTLD_DEFAULT */
#include <dlfcn.h>
#include <stdint.h>
#include <string.h>

#pragma GCC visibility push(default)

enum { SUCCESS = 0, NOT_SUPPORTED = 801, NO_DEVICE = 100 };

static char something; /* what handles point at */

#define REFUSED(name) int name(void) { return NOT_SUPPORTED; }
#define GRANTED(name) int name(void) { return SUCCESS; }
#define GIVEN(name) int name(void **handle) { *handle = &something; return SUCCESS; }

GIVEN(cuLibraryLoadData)
GIVEN(cuLibraryGetKernel)
GIVEN(cuModuleLoadData)
GIVEN(cuModuleGetFunction)
GRANTED(cuLibraryUnload)
GRANTED(cuModuleUnload)
GRANTED(cuTensorMapEncodeTiled)
GRANTED(cuTensorMapEncodeIm2col)

REFUSED(cuCtxGetCurrent)
REFUSED(cuCtxGetLimit)
REFUSED(cuCtxPopCurrent)
REFUSED(cuCtxPushCurrent)
REFUSED(cuDeviceGet)
REFUSED(cuDeviceGetCount)
REFUSED(cuGetExportTable)
REFUSED(cuKernelGetAttribute)
REFUSED(cuKernelGetFunction)
REFUSED(cuKernelSetAttribute)
REFUSED(cuLaunchCooperativeKernel)
REFUSED(cuLaunchKernel)
REFUSED(cuLaunchKernelEx)
REFUSED(cuLibraryLoadFromFile)
REFUSED(cuLinkAddData)
REFUSED(cuLinkComplete)
REFUSED(cuLinkCreate)
REFUSED(cuLinkDestroy)
REFUSED(cuOccupancyMaxPotentialClusterSize)
REFUSED(cuStreamGetCtx)

int cuInit(unsigned flags)
{
    (void)flags;
    return NO_DEVICE;
}

int cuDriverGetVersion(int *version)
{
    *version = 13000;
    return SUCCESS;
}

static int text(int error, const char **out)
{
    (void)error;
    *out = "a test's driver runs nothing";
    return SUCCESS;
}
int cuGetErrorString(int error, const char **out) { return text(error, out); }
int cuGetErrorName(int error, const char **out) { return text(error, out); }

REFUSED(anything)

int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *found)
{
    (void)version, (void)flags;
    int (*self)(const char *, void **, int, uint64_t, int *) = cuGetProcAddress_v2;
    int (*other)(void)                                       = anything;
    *function = dlsym(RTLD_DEFAULT, name);
    if (!strcmp(name, "cuGetProcAddress")) *(void **)function = *(void **)&self;
    if (!*function) *function = *(void **)&other;
    if (found) *found = 0;
    return SUCCESS;
}
