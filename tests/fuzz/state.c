/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a file of state: what ckpt.c does, with the other kind of document.
 */
#define KIND DINOV_KIND_STATE
#include "ckpt.c"
