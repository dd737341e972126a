# Which accounts are in memory: bringing them back, letting them go, and images of them.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from limiter._accounts cimport Account, Carrier
from limiter._chain cimport Chain
from limiter._core cimport Core
from limiter._image cimport ImageBytes

cdef class Image:
    cdef readonly uint32_t account     # the number of its name
    cdef readonly uint64_t position    # of the newest event that it knows, denials among them
    cdef ImageBytes bytes

cdef class Still(Image):
    cdef Account* standing             # owned until it goes on
    cdef uint64_t kept_from
    cdef int64_t now_ms
    cdef object written                # set once the image is

cdef class Parcel:
    cdef readonly uint32_t account
    cdef object define_kind
    cdef uint64_t last_position        # as it was known when the account was asked for
    cdef uint64_t last_denial
    cdef uint32_t unimaged_count
    cdef bytes image
    cdef int64_t as_of_ms              # what had left its window by then is not in the image
    cdef Chain chain
    cdef Account* opened               # owned; what it becomes, while that is under way
    cdef list kinds                    # of what it becomes, until those keep themselves

    cdef void give_up(self) noexcept

cdef class Residence(Carrier):
    cdef Core core
    cdef object images
    cdef object history
    cdef object make_event             # for whoever waits for an account that is written
    cdef dict expected                 # the parcels that are under way, by account
    cdef dict still                    # accounts that stand still while they are written
    cdef uint32_t chain_max            # events that a walk back to an image takes at most, about
    cdef uint32_t cursor               # the account that the sweep comes to next
    cdef readonly uint64_t counted_bytes  # of the accounts in memory, as last looked
    cdef uint64_t kept_from            # events before this position can be read no more

    cdef int open(self, Parcel parcel) except -1
    cdef int bind(self, Parcel parcel) except -1
    cdef int seat(self, Parcel parcel) except -1
    cdef int recount(self, Account* account) noexcept
    cdef bint may_leave(self, const Account* account, uint64_t durable_group) noexcept
    cdef int let_go(self, Account* account) except -1
    cdef bint wants_image(self, const Account* account) noexcept
    cdef Image image_of(self, Account* account, int64_t now_ms)
