/* SPDX-License-Identifier: Apache-2.0
 *
 * What a test may ask of the fake cuBLASLt.
 */
#ifndef DINOV_TESTS_KERNELS_FAKE_CUBLASLT_H
#define DINOV_TESTS_KERNELS_FAKE_CUBLASLT_H

enum fake_mode {
    FAKE_FINE = 0,
    FAKE_NO_DEVICE,     /* no handle */
    FAKE_NOT_LARGE,     /* no algorithm for M = 65536 */
    FAKE_FIRST_NOT_8,   /* the first that may be taken is none for M = 8 */
    FAKE_TF32,          /* tensor cores everywhere */
    FAKE_SHORT_SUMS,    /* sums in 16 bits everywhere */
    FAKE_OLDER,         /* knows nothing of batch invariance */
    FAKE_NOT_INVARIANT, /* knows it and cannot keep it */
    FAKE_REFUSES,       /* to compute */
    FAKE_NO_MEMORY,     /* to compute */
};

enum { FAKE_FIRST = 66, FAKE_SECOND = 21 }; /* algorithms that may be taken */

struct fake_cublaslt {
    enum fake_mode mode;
    int            alive; /* objects made and not yet destroyed */
    int            calls, id; /* of matmul: how many, the last one's algorithm */
    int            exact;     /* it is FAKE_FIRST in all its numbers */
};

#endif
