# The recipients of a plan, as far as limits can tell them apart.

from libc.stdint cimport uint32_t, uint64_t

from limiter._accounts cimport Account
from limiter._calendar cimport ZoneRules
from limiter._index cimport DenseIndex
from limiter._siphash cimport Digest
from limiter._subject cimport Subject

cdef struct Person:
    # Recipients with the same contact, address and zone: they go in the order of the request.
    uint32_t contact           # rank among the crowd's contacts
    uint32_t address           # rank among its addresses, NO_INDEX = none
    const ZoneRules* zone      # borrowed; NULL where it makes no difference
    uint64_t applies           # bit per limit that applies to some contacts or addresses only
    uint64_t members           # bit per distinct limit whose counter has the person inside
    uint32_t first             # recipient whose turn it is, NO_INDEX = all have gone
    uint32_t last
    uint32_t next_by_contact   # another person with the contact, NO_INDEX = none
    uint32_t next_by_address
    uint32_t lane              # where it stands, NO_INDEX = it waits, or is done

cdef struct Party:
    # Everybody at one contact, or at one address.
    uint32_t index             # as the counters number it
    uint32_t first             # person

cdef class Crowd:
    cdef DenseIndex contacts   # the digests; a rank is a place in by_contact
    cdef DenseIndex addresses
    cdef Party* by_contact     # owned
    cdef Party* by_address     # owned
    cdef Person* persons       # owned
    cdef uint32_t* stamps      # owned; [person] changes with every move
    cdef uint32_t count        # persons
    cdef uint32_t* next_same   # owned; [recipient] the same person's next one, NO_INDEX = none
    # Indices below these are the account's own, from them on the crowd gives them out.
    cdef uint32_t contact_base
    cdef uint32_t address_base
    cdef uint32_t fresh_contacts
    cdef uint32_t fresh_addresses

    cdef int reserve(self, const Account* account, uint32_t recipient_count) except -1
    cdef int reserve_indices(self, uint32_t recipient_count) except -1
    cdef void release(self) noexcept nogil
    cdef uint32_t join(
        self,
        const Account* account,
        const Subject* subject,
        uint32_t recipient,
        const ZoneRules* zone,
        uint64_t applies,
    ) except? 0xFFFFFFFF
    cdef void stand_for(self, uint32_t number, Subject* subject) noexcept
    cdef uint32_t contact_of(self, const Digest* digest) noexcept
    cdef uint32_t address_of(self, const Digest* digest) noexcept
