# SipHash-2-4 with 64- and 128-bit output (Aumasson and Bernstein, 2012), as inline leaf functions.
#
# Contacts, addresses and request ids are known to the core only by their keyed 128-bit digests: two
# of them never share one in practice, and none is stored in the clear.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef struct Digest:
    uint64_t low
    uint64_t high


cdef struct SipKey:
    uint64_t k0
    uint64_t k1


cdef struct SipState:
    uint64_t v0
    uint64_t v1
    uint64_t v2
    uint64_t v3


cdef inline uint64_t rotate_left(uint64_t x, int bits) noexcept nogil:
    return (x << bits) | (x >> (64 - bits))


cdef inline void sip_round(SipState* s) noexcept nogil:
    s.v0 += s.v1
    s.v1 = rotate_left(s.v1, 13) ^ s.v0
    s.v0 = rotate_left(s.v0, 32)
    s.v2 += s.v3
    s.v3 = rotate_left(s.v3, 16) ^ s.v2
    s.v0 += s.v3
    s.v3 = rotate_left(s.v3, 21) ^ s.v0
    s.v2 += s.v1
    s.v1 = rotate_left(s.v1, 17) ^ s.v2
    s.v2 = rotate_left(s.v2, 32)


cdef inline void sip_absorb(
    SipState* s, const SipKey* key, const uint8_t* data, size_t size, uint64_t tweak
) noexcept nogil:
    cdef size_t whole = size & ~(<size_t>7)
    cdef size_t offset = 0
    cdef uint64_t word
    s.v0 = key.k0 ^ <uint64_t>0x736F6D6570736575
    s.v1 = key.k1 ^ <uint64_t>0x646F72616E646F6D ^ tweak
    s.v2 = key.k0 ^ <uint64_t>0x6C7967656E657261
    s.v3 = key.k1 ^ <uint64_t>0x7465646279746573
    while offset < whole:
        memcpy(&word, data + offset, 8)
        s.v3 ^= word
        sip_round(s)
        sip_round(s)
        s.v0 ^= word
        offset += 8
    word = 0
    if size > whole:
        memcpy(&word, data + whole, size - whole)
    word |= (<uint64_t>size) << 56
    s.v3 ^= word
    sip_round(s)
    sip_round(s)
    s.v0 ^= word


cdef inline uint64_t sip_squeeze(SipState* s) noexcept nogil:
    sip_round(s)
    sip_round(s)
    sip_round(s)
    sip_round(s)
    return s.v0 ^ s.v1 ^ s.v2 ^ s.v3


cdef inline Digest siphash128(const SipKey* key, const uint8_t* data, size_t size) noexcept nogil:
    # The 128-bit digest of `size` bytes.
    cdef SipState s
    cdef Digest digest
    sip_absorb(&s, key, data, size, 0xEE)
    s.v2 ^= 0xEE
    digest.low = sip_squeeze(&s)
    s.v1 ^= 0xDD
    digest.high = sip_squeeze(&s)
    return digest


cdef inline uint64_t siphash64(const SipKey* key, const uint8_t* data, size_t size) noexcept nogil:
    # The 64-bit hash of `size` bytes, for tables in memory only.
    cdef SipState s
    sip_absorb(&s, key, data, size, 0)
    s.v2 ^= 0xFF
    return sip_squeeze(&s)


cdef inline bint same_digest(const Digest* a, const Digest* b) noexcept nogil:
    return a.low == b.low and a.high == b.high
