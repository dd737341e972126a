# One attempt made ready for the state machine: digests, interned names, dense indices.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from limiter._calendar cimport ZoneRules
from limiter._names cimport NameTable
from limiter._siphash cimport Digest, SipKey
from limiter._types cimport Attempt, Recipient, Slice

cdef struct Keys:
    # One key a purpose, so that a digest of one kind says nothing about another.
    SipKey contact
    SipKey address
    SipKey request
    SipKey name

cdef struct Name:
    Slice text                 # borrowed
    uint64_t hash
    uint32_t id                # 0 = unknown so far

cdef struct Subject:
    uint32_t present           # bit per dimension index
    const Keys* keys           # borrowed; of the core that it is made for
    Name account
    Digest contact
    Digest address
    uint32_t contact_index     # NO_INDEX = unknown so far
    uint32_t address_index
    bint interned              # every name has its id
    bint opted_out             # once located: may not be written to
    bint fresh_contact         # once counted: the index was given out for this very attempt
    bint fresh_address
    Name[9] names              # by dimension index; contact and address unused
    const ZoneRules* zone      # borrowed; of the contact, NULL where the attempt names none
    Name zone_name             # of the zone; without a hash until it has an id
    int64_t message_count
    const Attempt* sent        # borrowed; what it was made from, NULL when from a recorded event
    const Recipient* recipient  # borrowed; the row of the batch, NULL outside of one

cdef Keys keys_from(const uint8_t* digest_key) noexcept nogil
cdef void subject_from(
    const Attempt* attempt, const Keys* keys, const NameTable* names, Subject* subject
) noexcept nogil
cdef void present_to(Subject* subject, Slice contact, Slice address) noexcept nogil
cdef void address_to(Subject* subject, Slice contact, Slice address) noexcept nogil
