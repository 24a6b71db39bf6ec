/* SPDX-License-Identifier: Apache-2.0
 *
 * XXH3-128 compiled for AVX2: twice the speed of the shared library's, which is built for any x86-64.
 * It then keeps up with reading a mapped file. Same digests; base/hash.c chooses.
 */
#define XXH_INLINE_ALL
#include <xxhash.h>

XXH128_hash_t dinov_xxh128_avx2(const void *data, size_t size);

XXH128_hash_t dinov_xxh128_avx2(const void *data, size_t size) { return XXH3_128bits(data, size); }
