/* SPDX-License-Identifier: Apache-2.0
 *
 * What is behind dinov/infer.h: a model runs on the CPU (host.c) or on one or more devices (remote.c). Both take
 * requests that engine.c has checked.
 */
#ifndef DINOV_INFER_ENGINE_H
#define DINOV_INFER_ENGINE_H

#include "dinov/infer.h"
#include "image/resize.h"
#include "kernels/device.h"
#include "model/vit.h"

/* A decoded picture, 8-bit RGB, `width` wide, and the plan that makes an input of it. */
typedef struct dinov_decoded {
    const uint8_t           *rgb;
    int64_t                  width;
    const dinov_resize_plan *plan;
} dinov_decoded;

/* One call of dinov_engine_run. h and w count patches; blocks after `last` are not needed. */
typedef struct dinov_request {
    const float          *pixels;   /* [images, channels, h*p, w*p], normalised, or NULL and */
    const dinov_decoded  *pictures; /* [images] */
    int64_t               images, h, w, last;
    const dinov_features *features;
    size_t                count;
} dinov_request;

/* The block whose output a feature is. */
static inline int64_t dinov_block_of(const dinov_features *f, int64_t depth) { return f->layer < 0 ? depth + f->layer : f->layer; }

typedef struct dinov_host dinov_host;

dinov_status dinov_host_open(dinov_host **out, const dinov_weights *weights, int threads, const char *isa, dinov_error *err);
void         dinov_host_close(dinov_host **host);
dinov_status dinov_host_run(dinov_host *host, const dinov_request *request, dinov_error *err); /* of pixels */
const char  *dinov_host_isa(const dinov_host *host);
int          dinov_host_threads(const dinov_host *host);

typedef struct dinov_remote dinov_remote;

/* devices: "cuda", which is "cuda:0", or "cuda:0,2". ERR_CONFIG OPT-DEVICE. */
dinov_status dinov_remote_open(dinov_remote **out, const dinov_weights *weights, const char *devices, dinov_dtype real,
                               dinov_error *err);
void         dinov_remote_close(dinov_remote **remote);
dinov_status dinov_remote_run(dinov_remote *remote, const dinov_request *request, dinov_error *err);
const char  *dinov_remote_isa(const dinov_remote *remote);
int          dinov_remote_lanes(const dinov_remote *remote);
int64_t      dinov_remote_batch(const dinov_remote *remote, int64_t tokens);
double       dinov_remote_busy(dinov_remote *remote);
int          dinov_remote_devices(const dinov_remote *remote);
const char  *dinov_remote_names(const dinov_remote *remote);
dinov_status dinov_remote_jpeg(dinov_device_jpeg **out, dinov_remote *remote, int i, dinov_error *err);

/* ---- For the pipeline, beside dinov/infer.h ---- */

/* Whether pictures can be given as decoded; else they are resized and normalised by the caller. */
bool dinov_engine_resizes(const dinov_engine *engine);
/* dinov_engine_run for decoded pictures, whose plans all lead to width x height. */
dinov_status dinov_engine_run_decoded(dinov_engine *engine, const dinov_decoded *pictures, int64_t images, int64_t height,
                                      int64_t width, const dinov_features *features, size_t count, dinov_error *err);
/* A decoder of JPEGs on the device, the i-th of those that a pipeline opens: they take the devices in turn. ERR_CONFIG OPT-DECODE on
 * a CPU; otherwise dinov_device_jpeg_open's. To be closed before the engine. */
dinov_status dinov_engine_jpeg(dinov_device_jpeg **out, dinov_engine *engine, int i, dinov_error *err);
/* How many pictures of that size to give at a time. */
int64_t dinov_engine_batch(const dinov_engine *engine, int64_t height, int64_t width);
/* Seconds that devices have worked so far, added up, and how many devices there are; 0 on a CPU. */
double dinov_engine_busy(dinov_engine *engine);
int    dinov_engine_devices(const dinov_engine *engine);
/* "cpu", or the GPUs by name: "cuda:0 NVIDIA H200, cuda:1 NVIDIA H200". */
const char *dinov_engine_device(const dinov_engine *engine);

#endif
