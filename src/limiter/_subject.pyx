# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""From an attempt as it arrived to what the state machine works with.

Contacts and addresses become digests, names their hashes and, where they are known, their ids.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset

from limiter._names cimport names_find
from limiter._siphash cimport SipKey, siphash128, siphash64
from limiter._types cimport (
    DIMENSION_ADDRESS,
    DIMENSION_CHANNEL,
    DIMENSION_CONTACT,
    DIMENSION_COUNT,
)


cdef SipKey derived_key(const uint8_t* half, uint8_t purpose) noexcept nogil:
    # A key for one purpose from 16 bytes of the data folder's key.
    cdef SipKey base
    cdef SipKey derived
    cdef uint8_t[2] label
    memcpy(&base, half, 16)
    label[0] = purpose
    label[1] = 0
    derived.k0 = siphash64(&base, label, 2)
    label[1] = 1
    derived.k1 = siphash64(&base, label, 2)
    return derived


cdef Keys keys_from(const uint8_t* digest_key) noexcept nogil:
    # The keys of a data folder, from its 32 bytes.
    cdef Keys keys
    keys.contact = derived_key(digest_key, 1)
    keys.address = derived_key(digest_key, 2)
    keys.request = derived_key(digest_key + 16, 3)
    keys.name = derived_key(digest_key + 16, 4)
    return keys


cdef void subject_from(
    const Attempt* attempt, const Keys* keys, const NameTable* names, Subject* subject
) noexcept nogil:
    # Digests, hashes and known ids of an attempt. The subject borrows the attempt's slices.
    cdef int dimension
    cdef Name* name
    memset(subject, 0, sizeof(Subject))
    subject.keys = keys
    subject.sent = attempt
    subject.message_count = max(1, attempt.message_count)
    subject.account.text = attempt.account
    subject.account.hash = siphash64(&keys.name, attempt.account.data, attempt.account.size)
    subject.account.id = names_find(names, attempt.account, subject.account.hash)
    for dimension in range(DIMENSION_CHANNEL, DIMENSION_COUNT):
        if attempt.fields[dimension].size:
            name = &subject.names[dimension]
            name.text = attempt.fields[dimension]
            name.hash = siphash64(&keys.name, name.text.data, name.text.size)
            subject.present |= <uint32_t>1 << dimension
    address_to(subject, attempt.fields[DIMENSION_CONTACT], attempt.fields[DIMENSION_ADDRESS])


cdef void present_to(Subject* subject, Slice contact, Slice address) noexcept nogil:
    # Notes which of the two the attempt has; an empty slice is an absent field.
    subject.present &= ~(<uint32_t>(1 << DIMENSION_CONTACT | 1 << DIMENSION_ADDRESS))
    if contact.size:
        subject.present |= 1 << DIMENSION_CONTACT
    if address.size:
        subject.present |= 1 << DIMENSION_ADDRESS


cdef void address_to(Subject* subject, Slice contact, Slice address) noexcept nogil:
    # Sets whom the attempt is to.
    present_to(subject, contact, address)
    if contact.size:
        subject.contact = siphash128(&subject.keys.contact, contact.data, contact.size)
    if address.size:
        subject.address = siphash128(&subject.keys.address, address.data, address.size)
