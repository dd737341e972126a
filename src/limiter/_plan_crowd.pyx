# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The recipients of a plan, as far as limits can tell them apart.

In flow subjects, one per recipient, in the order of the request. Out flow persons: recipients that
no limit can tell apart are one, so that a list which names somebody a thousand times is no dearer
than one of a thousand people. What always holds: a contact has the index that the account's
counters know it by, or one above all of theirs.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from limiter._accounts cimport Account
from limiter._calendar cimport ZoneRules
from limiter._index cimport (
    NO_INDEX,
    DenseIndex,
    index_append,
    index_find,
    index_free,
    index_reserve,
)
from limiter._siphash cimport Digest
from limiter._subject cimport Subject
from limiter._types cimport DIMENSION_ADDRESS, DIMENSION_CONTACT


cdef uint32_t rank_of(
    DenseIndex* ranks,
    Party* parties,
    const Digest* digest,
    const DenseIndex* known,
    uint32_t base,
    uint32_t* fresh,
) except? 0xFFFFFFFF:
    # The rank of a digest, a new one if need be. What the account has numbered since the plan
    # began is as unknown as if it had not.
    cdef uint32_t rank = index_find(ranks, digest)
    if rank != NO_INDEX:
        return rank
    rank = index_append(ranks, digest)
    parties[rank].first = NO_INDEX
    parties[rank].index = index_find(known, digest)
    if parties[rank].index >= base:
        parties[rank].index = base + fresh[0]
        fresh[0] += 1
    return rank


@cython.final
cdef class Crowd:
    def __dealloc__(self):
        index_free(&self.contacts)
        index_free(&self.addresses)
        free(self.by_contact)
        free(self.by_address)
        free(self.persons)
        free(self.stamps)
        free(self.next_same)

    cdef int reserve(self, const Account* account, uint32_t recipient_count) except -1:
        # Once, before anybody joins, together with reserve_indices.
        self.contact_base = account.contacts.size
        self.address_base = account.addresses.size
        self.by_contact = <Party*>malloc(recipient_count * sizeof(Party))
        self.by_address = <Party*>malloc(recipient_count * sizeof(Party))
        self.persons = <Person*>malloc(recipient_count * sizeof(Person))
        self.stamps = <uint32_t*>calloc(recipient_count, sizeof(uint32_t))
        self.next_same = <uint32_t*>malloc(recipient_count * sizeof(uint32_t))
        if (
            self.by_contact == NULL
            or self.by_address == NULL
            or self.persons == NULL
            or self.stamps == NULL
            or self.next_same == NULL
        ):
            raise MemoryError
        return 0

    cdef int reserve_indices(self, uint32_t recipient_count) except -1:
        # The other half, called twice: setting so much memory to zero takes a while.
        if self.contacts.slots == NULL:
            return index_reserve(&self.contacts, recipient_count)
        return index_reserve(&self.addresses, recipient_count)

    cdef void release(self) noexcept nogil:
        # Frees what is largest; nothing can be asked of the crowd any more.
        free(self.persons)
        free(self.contacts.rows)
        free(self.addresses.rows)
        self.persons = NULL
        self.contacts.rows = NULL
        self.addresses.rows = NULL

    cdef uint32_t join(
        self,
        const Account* account,
        const Subject* subject,
        uint32_t recipient,
        const ZoneRules* zone,
        uint64_t applies,
    ) except? 0xFFFFFFFF:
        # Takes the next recipient in; returns how many persons were looked at.
        cdef uint32_t address = NO_INDEX
        cdef uint32_t looked = 1
        cdef uint32_t contact = rank_of(
            &self.contacts, self.by_contact, &subject.contact, &account.contacts,
            self.contact_base, &self.fresh_contacts,
        )
        cdef uint32_t number = self.by_contact[contact].first
        cdef Person* person
        if subject.present & (1 << DIMENSION_ADDRESS):
            address = rank_of(
                &self.addresses, self.by_address, &subject.address, &account.addresses,
                self.address_base, &self.fresh_addresses,
            )
        self.next_same[recipient] = NO_INDEX
        while number != NO_INDEX:
            person = &self.persons[number]
            if person.address == address and person.zone == zone:
                self.next_same[person.last] = recipient
                person.last = recipient
                return looked
            number = person.next_by_contact
            looked += 1
        number = self.count
        self.count += 1
        person = &self.persons[number]
        person.contact = contact
        person.address = address
        person.zone = zone
        person.applies = applies
        person.members = 0
        person.first = person.last = recipient
        person.lane = NO_INDEX
        person.next_by_contact = self.by_contact[contact].first
        self.by_contact[contact].first = number
        person.next_by_address = NO_INDEX
        if address != NO_INDEX:
            person.next_by_address = self.by_address[address].first
            self.by_address[address].first = number
        return looked

    cdef void stand_for(self, uint32_t number, Subject* subject) noexcept:
        # Makes the subject an attempt to this person.
        cdef const Person* person = &self.persons[number]
        subject.present |= 1 << DIMENSION_CONTACT
        subject.contact = self.contacts.rows[person.contact].digest
        subject.contact_index = self.by_contact[person.contact].index
        subject.zone = person.zone
        if person.address == NO_INDEX:
            subject.present &= ~(<uint32_t>1 << DIMENSION_ADDRESS)
            subject.address_index = NO_INDEX
            return
        subject.present |= 1 << DIMENSION_ADDRESS
        subject.address = self.addresses.rows[person.address].digest
        subject.address_index = self.by_address[person.address].index

    cdef uint32_t contact_of(self, const Digest* digest) noexcept:
        # The first person with that contact, NO_INDEX when there is none.
        cdef uint32_t rank = index_find(&self.contacts, digest)
        return <uint32_t>NO_INDEX if rank == NO_INDEX else self.by_contact[rank].first

    cdef uint32_t address_of(self, const Digest* digest) noexcept:
        # The first person with that address, NO_INDEX when there is none.
        cdef uint32_t rank = index_find(&self.addresses, digest)
        return <uint32_t>NO_INDEX if rank == NO_INDEX else self.by_address[rank].first
