# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Memory for HTTP/2 sessions: pieces that were freed are kept by size and given out again.

For each call libnghttp2 takes and frees about a dozen pieces of some hundred bytes. With hundreds
of calls under way they go through the slow paths of malloc, which merges what is freed and splits
it again; that was a fifth of a call's time. Here a piece is taken from a list and put back.

What always holds: a piece is as large as its class, which stands in front of it; of each class at
most KEPT_MAX pieces are kept, so what is kept is bounded. Belongs to one thread, as sessions do.
Under AddressSanitizer KEPT_MAX is 0, so that it sees every use of what was freed.
"""

from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

from limiter._nghttp2 cimport nghttp2_mem

cdef enum:
    STEP_BYTES = 32            # between two classes
    CLASS_MAX = 16             # the largest pieces that are kept: 512 bytes
    HEAD_BYTES = 16            # in front of each piece; keeps what follows aligned

cdef struct Piece:
    size_t number              # of its class; 0 = larger than those that are kept
    Piece* next                # while it is kept

cdef struct Shelf:
    # The pieces of one class that are kept.
    Piece* first
    size_t count

cdef Shelf[CLASS_MAX + 1] _shelves

cdef nghttp2_mem _memory
_memory.mem_user_data = NULL
_memory.malloc = take
_memory.free = give_back
_memory.calloc = take_zeroed
_memory.realloc = resize


cdef nghttp2_mem* session_memory() noexcept:
    return &_memory


cdef void* take(size_t size, void* unused) noexcept:
    cdef size_t number = (size + STEP_BYTES - 1) // STEP_BYTES
    cdef Piece* piece
    if number > CLASS_MAX:
        number = 0
    elif _shelves[number].count:
        piece = _shelves[number].first
        _shelves[number].first = piece.next
        _shelves[number].count -= 1
        return <char*>piece + HEAD_BYTES
    else:
        size = number * STEP_BYTES
    piece = <Piece*>malloc(HEAD_BYTES + size)
    if piece == NULL:
        return NULL
    piece.number = number
    return <char*>piece + HEAD_BYTES


cdef void give_back(void* data, void* unused) noexcept:
    cdef Piece* piece
    cdef size_t number
    if data == NULL:
        return
    piece = <Piece*>(<char*>data - HEAD_BYTES)
    number = piece.number
    if number == 0 or _shelves[number].count >= KEPT_MAX:
        free(piece)
        return
    piece.next = _shelves[number].first
    _shelves[number].first = piece
    _shelves[number].count += 1


cdef void* take_zeroed(size_t count, size_t size, void* unused) noexcept:
    cdef void* data
    if size and count > (<size_t>-1 - HEAD_BYTES) // size:
        return NULL
    data = take(count * size, NULL)
    if data != NULL:
        memset(data, 0, count * size)
    return data


cdef void* resize(void* data, size_t size, void* unused) noexcept:
    cdef Piece* piece
    cdef void* moved
    cdef size_t own
    if data == NULL:
        return take(size, NULL)
    piece = <Piece*>(<char*>data - HEAD_BYTES)
    if piece.number == 0:
        # It stays among the large ones, whatever its size is now.
        piece = <Piece*>realloc(piece, HEAD_BYTES + size)
        return NULL if piece == NULL else <char*>piece + HEAD_BYTES
    own = piece.number * STEP_BYTES
    if size <= own:
        return data
    moved = take(size, NULL)
    if moved != NULL:
        memcpy(moved, data, own)
        give_back(data, NULL)
    return moved
