/* SPDX-License-Identifier: Apache-2.0 */
#include "base/hash.h"

#include <openssl/evp.h>
#include <xxhash.h>

static void to_hex(char *out, const unsigned char *bytes, size_t size)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < size; i++) {
        out[2 * i]     = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15];
    }
}

#ifdef DINOV_XXH_AVX2
XXH128_hash_t dinov_xxh128_avx2(const void *data, size_t size);

static XXH128_hash_t xxh128(const void *data, size_t size)
{
    return __builtin_cpu_supports("avx2") ? dinov_xxh128_avx2(data, size) : XXH3_128bits(data, size);
}
#else
static XXH128_hash_t xxh128(const void *data, size_t size) { return XXH3_128bits(data, size); }
#endif

void dinov_xxh128_hex(char out[DINOV_XXH_HEX], const void *data, size_t size)
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, xxh128(data, size));
    to_hex(out, canonical.digest, sizeof canonical.digest);
}

dinov_status dinov_sha256_init(dinov_sha256 *sha, dinov_error *err)
{
    sha->context = EVP_MD_CTX_new();
    if (sha->context && EVP_DigestInit_ex(sha->context, EVP_sha256(), NULL) == 1) return DINOV_OK;
    EVP_MD_CTX_free(sha->context);
    return dinov_fail(err, DINOV_ERR_NOMEM, "MEM", "SHA-256: the crypto library gave no context");
}

void dinov_sha256_add(dinov_sha256 *sha, const void *data, size_t size)
{
    DINOV_ASSERT(EVP_DigestUpdate(sha->context, data, size) == 1);
}

void dinov_sha256_done(dinov_sha256 *sha, char out[DINOV_SHA_HEX + 1])
{
    unsigned char digest[32];
    DINOV_ASSERT(EVP_DigestFinal_ex(sha->context, digest, NULL) == 1);
    EVP_MD_CTX_free(sha->context);
    to_hex(out, digest, sizeof digest);
    out[DINOV_SHA_HEX] = '\0';
}
