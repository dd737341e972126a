# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Distinct counters: how many different contacts a window holds, exactly, at every size.

A small set is one sorted array of (instant, index). A large one is a membership bitset over dense
indices, each index's latest instant, and a ring of time buckets that list who was last seen when.
A repeat inside the newest bucket is a bit test and a store; in a later bucket it is listed again
there, and the old mention, no longer its latest, is passed over when its bucket leaves.

The bucket on the window's edge is turned into a heap by instant, so that members leave one by one,
to the millisecond, without reading the bucket again. What always holds:

- an index is a member iff its bit is set, and `live` is the number of set bits;
- every member is listed under its latest instant: in the heap if that is at or before
  `frontier_ms`, else in the bucket that spans it; every other mention is stale and is told by its
  instant (heap) or by the bucket's end (ring). After an undo a member may be mentioned twice,
  which harms nothing: its bit is cleared once;
- mentions number at most about twice the members: sweeping drops stale ones bucket by bucket.
"""

from libc.stdlib cimport calloc, free, malloc, realloc
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memmove, memset

from limiter import bounds
from limiter._calendar cimport WindowRules, unit_bounds, window_exit_ms, window_first_ms
from limiter._index cimport NO_INDEX
from limiter._messages cimport NEVER_MS
from limiter._prefetch cimport prefetch
from limiter._selection cimport select_ms
from limiter._room cimport more_room

# Above SPARSE_MAX members the dense form is cheaper; below SPARSE_BACK the sparse one is again.
cdef uint32_t SPARSE_MAX = bounds.DISTINCT_SPARSE_MAX
cdef uint32_t SPARSE_BACK = SPARSE_MAX // 4
cdef int64_t BUCKETS = bounds.DISTINCT_BUCKETS
cdef uint32_t SWEEP_SLACK = 1024

cdef enum:
    INDICES_PER_LINE = 16      # in one line of the cache

    # Such numbers of members, and of indices, leave nothing of the pieces that malloc gives.
    MEMBERS_FIRST = 2
    INDICES_FIRST = 6
    MEMBERS_STEP = 4


# ---------------------------------------------------------------- sparse form


cdef inline uint32_t sparse_find(const DistinctCounter* counter, uint32_t index) noexcept nogil:
    cdef uint32_t i
    for i in range(counter.live):
        if counter.sparse_indices[i] == index:
            return i
    return NO_INDEX


cdef void sparse_remove(DistinctCounter* counter, uint32_t position, uint32_t count) noexcept nogil:
    cdef uint32_t rest = counter.live - position - count
    memmove(
        counter.sparse_at_ms + position,
        counter.sparse_at_ms + position + count,
        rest * sizeof(int64_t),
    )
    memmove(
        counter.sparse_indices + position,
        counter.sparse_indices + position + count,
        rest * sizeof(uint32_t),
    )
    counter.live -= count


cdef int sparse_grow(DistinctCounter* counter) except -1 nogil:
    # One block for both arrays: instants first, indices behind them.
    cdef uint32_t capacity = (
        more_room(counter.capacity, MEMBERS_STEP) if counter.capacity else <uint32_t>MEMBERS_FIRST
    )
    cdef int64_t* block = <int64_t*>malloc(capacity * (sizeof(int64_t) + sizeof(uint32_t)))
    cdef uint32_t* indices
    cdef uint32_t i
    if block == NULL:
        with gil:
            raise MemoryError
    indices = <uint32_t*>(block + capacity)
    for i in range(counter.live):
        block[i] = counter.sparse_at_ms[i]
        indices[i] = counter.sparse_indices[i]
    free(counter.sparse_at_ms)
    counter.sparse_at_ms = block
    counter.sparse_indices = indices
    counter.capacity = capacity
    return 0


cdef int64_t sparse_add(
    DistinctCounter* counter, int64_t at_ms, uint32_t index, bint fresh
) except -2 nogil:
    cdef uint32_t position = <uint32_t>NO_INDEX if fresh else sparse_find(counter, index)
    cdef int64_t before_ms = NEVER_MS
    if position != NO_INDEX:
        before_ms = counter.sparse_at_ms[position]
        if before_ms >= at_ms:
            return before_ms
        sparse_remove(counter, position, 1)
    elif counter.live == counter.capacity:
        sparse_grow(counter)
    position = counter.live
    while position and counter.sparse_at_ms[position - 1] > at_ms:
        counter.sparse_at_ms[position] = counter.sparse_at_ms[position - 1]
        counter.sparse_indices[position] = counter.sparse_indices[position - 1]
        position -= 1
    counter.sparse_at_ms[position] = at_ms
    counter.sparse_indices[position] = index
    counter.live += 1
    return before_ms


cdef void sparse_free(DistinctCounter* counter) noexcept nogil:
    free(counter.sparse_at_ms)
    counter.sparse_at_ms = NULL
    counter.sparse_indices = NULL
    counter.capacity = 0


# ---------------------------------------------------------------- heap of the window's edge


cdef void heap_sink(Seen* heap, uint32_t size, uint32_t position) noexcept nogil:
    cdef Seen entry = heap[position]
    cdef uint32_t child = 2 * position + 1
    while child < size:
        if child + 1 < size and heap[child + 1].at_ms < heap[child].at_ms:
            child += 1
        if heap[child].at_ms >= entry.at_ms:
            break
        heap[position] = heap[child]
        position = child
        child = 2 * position + 1
    heap[position] = entry


cdef void heap_order(DenseSet* dense) noexcept nogil:
    cdef uint32_t position = dense.heap_size // 2
    while position:
        position -= 1
        heap_sink(dense.heap, dense.heap_size, position)


cdef void heap_pop(DenseSet* dense) noexcept nogil:
    dense.heap_size -= 1
    if dense.heap_size:
        dense.heap[0] = dense.heap[dense.heap_size]
        heap_sink(dense.heap, dense.heap_size, 0)


cdef int heap_reserve(DenseSet* dense, uint32_t size) except -1 nogil:
    cdef uint32_t capacity = dense.heap_capacity * 2
    cdef Seen* heap
    if size <= dense.heap_capacity:
        return 0
    if capacity < size:
        capacity = size
    heap = <Seen*>realloc(dense.heap, capacity * sizeof(Seen))
    if heap == NULL:
        with gil:
            raise MemoryError
    dense.heap = heap
    dense.heap_capacity = capacity
    return 0


cdef inline void flip_member(DenseSet* dense, uint32_t index) noexcept nogil:
    dense.members[index >> 6] ^= <uint64_t>1 << (index & 63)


cdef inline bint is_latest(const DenseSet* dense, const Seen* entry) noexcept nogil:
    return (
        dense.latest_ms[entry.index] == entry.at_ms
        and (dense.members[entry.index >> 6] >> (entry.index & 63)) & 1
    )


cdef inline bint listed_here(
    const DenseSet* dense, const Bucket* bucket, uint32_t index
) noexcept nogil:
    # Whether this bucket's mention of `index` is its latest, and not a stale one.
    return (
        dense.latest_ms[index] < bucket.end_ms
        and (dense.members[index >> 6] >> (index & 63)) & 1
    )


cdef void heap_clean(DenseSet* dense) noexcept nogil:
    # Drops stale and second mentions. A kept member's bit is cleared meanwhile, so that a second
    # mention looks stale.
    cdef uint32_t position
    cdef uint32_t kept = 0
    for position in range(dense.heap_size):
        if is_latest(dense, &dense.heap[position]):
            flip_member(dense, dense.heap[position].index)
            dense.heap[kept] = dense.heap[position]
            kept += 1
    for position in range(kept):
        flip_member(dense, dense.heap[position].index)
    dense.heap_size = kept
    dense.heap_live = kept
    heap_order(dense)


cdef int heap_push(DenseSet* dense, int64_t at_ms, uint32_t index) except -1 nogil:
    cdef uint32_t position
    cdef uint32_t parent
    if dense.heap_size > 2 * dense.heap_live + 64:
        heap_clean(dense)
    heap_reserve(dense, dense.heap_size + 1)
    position = dense.heap_size
    dense.heap_size += 1
    while position:
        parent = (position - 1) // 2
        if dense.heap[parent].at_ms <= at_ms:
            break
        dense.heap[position] = dense.heap[parent]
        position = parent
    dense.heap[position].at_ms = at_ms
    dense.heap[position].index = index
    return 0


# ---------------------------------------------------------------- ring of buckets


cdef inline Bucket* bucket_at(const DenseSet* dense, uint32_t position) noexcept nogil:
    return &dense.buckets[(dense.bucket_head + position) & (dense.bucket_capacity - 1)]


cdef void bucket_trim(Bucket* bucket) noexcept nogil:
    # Gives back the room of a bucket to which little will be added. Without memory for a smaller
    # one it keeps the one that it has.
    cdef uint32_t* indices
    if bucket.size and bucket.size < bucket.capacity:
        indices = <uint32_t*>realloc(bucket.indices, bucket.size * sizeof(uint32_t))
        if indices != NULL:
            bucket.indices = indices
            bucket.capacity = bucket.size


cdef Bucket* bucket_open(
    DenseSet* dense, WindowRules* window, int64_t at_ms
) except NULL nogil:
    # The bucket that spans at_ms, which is behind the frontier; a new one if need be.
    cdef uint32_t capacity
    cdef uint32_t i
    cdef Bucket* buckets
    cdef Bucket* bucket
    cdef int64_t width_ms
    cdef uint32_t position = dense.bucket_count
    while position:
        bucket = bucket_at(dense, position - 1)
        if at_ms >= bucket.end_ms:
            break
        if at_ms >= bucket.start_ms:
            return bucket
        position -= 1
    if position and position == dense.bucket_count:
        bucket_trim(bucket_at(dense, position - 1))
    if dense.bucket_count == dense.bucket_capacity:
        capacity = dense.bucket_capacity * 2 if dense.bucket_capacity else 8
        buckets = <Bucket*>malloc(capacity * sizeof(Bucket))
        if buckets == NULL:
            with gil:
                raise MemoryError
        for i in range(dense.bucket_count):
            buckets[i] = bucket_at(dense, i)[0]
        free(dense.buckets)
        dense.buckets = buckets
        dense.bucket_head = 0
        dense.bucket_capacity = capacity
    dense.bucket_count += 1
    for i in range(dense.bucket_count - 1, position, -1):
        bucket_at(dense, i)[0] = bucket_at(dense, i - 1)[0]
    bucket = bucket_at(dense, position)
    memset(bucket, 0, sizeof(Bucket))
    if window.duration_ms > 0:
        width_ms = (window.duration_ms + BUCKETS - 1) // BUCKETS
        bucket.start_ms = at_ms - at_ms % width_ms
        bucket.end_ms = bucket.start_ms + width_ms
    else:
        unit_bounds(window.zone, window.unit, at_ms, &bucket.start_ms, &bucket.end_ms)
    if bucket.start_ms <= dense.frontier_ms:
        bucket.start_ms = dense.frontier_ms + 1
    return bucket


cdef int bucket_list(DenseSet* dense, Bucket* bucket, uint32_t index) except -1 nogil:
    cdef uint32_t capacity
    cdef uint32_t* indices
    if bucket.size == bucket.capacity:
        capacity = INDICES_FIRST
        if bucket.capacity:
            capacity = more_room(bucket.capacity, MEMBERS_STEP)
        indices = <uint32_t*>realloc(bucket.indices, capacity * sizeof(uint32_t))
        if indices == NULL:
            with gil:
                raise MemoryError
        bucket.indices = indices
        bucket.capacity = capacity
    bucket.indices[bucket.size] = index
    bucket.size += 1
    dense.listed += 1
    return 0


cdef void bucket_drop_front(DenseSet* dense) noexcept nogil:
    cdef Bucket* bucket = bucket_at(dense, 0)
    dense.frontier_ms = bucket.end_ms - 1
    dense.listed -= bucket.size
    free(bucket.indices)
    dense.bucket_head = (dense.bucket_head + 1) & (dense.bucket_capacity - 1)
    dense.bucket_count -= 1


cdef void bucket_clean(DenseSet* dense, Bucket* bucket) noexcept nogil:
    # Drops stale and second mentions, as heap_clean does.
    cdef uint32_t i
    cdef uint32_t kept = 0
    for i in range(bucket.size):
        if listed_here(dense, bucket, bucket.indices[i]):
            flip_member(dense, bucket.indices[i])
            bucket.indices[kept] = bucket.indices[i]
            kept += 1
    for i in range(kept):
        flip_member(dense, bucket.indices[i])
    dense.listed -= bucket.size - kept
    bucket.size = kept


cdef int bucket_to_heap(DenseSet* dense) except -1 nogil:
    # The oldest bucket becomes the heap, which is empty.
    cdef Bucket* bucket = bucket_at(dense, 0)
    cdef uint32_t i
    bucket_clean(dense, bucket)
    if dense.heap_capacity > 2 * bucket.size:
        free(dense.heap)
        dense.heap = NULL
        dense.heap_capacity = 0
    heap_reserve(dense, bucket.size)
    for i in range(bucket.size):
        dense.heap[i].index = bucket.indices[i]
        dense.heap[i].at_ms = dense.latest_ms[bucket.indices[i]]
    dense.heap_size = bucket.size
    dense.heap_live = bucket.size
    heap_order(dense)
    bucket_drop_front(dense)
    return 0


cdef void bucket_sweep(DenseSet* dense) noexcept nogil:
    # Cleans one bucket, the next one each time.
    if dense.bucket_count:
        bucket_clean(dense, bucket_at(dense, dense.sweep_position % dense.bucket_count))
        dense.sweep_position += 1


# ---------------------------------------------------------------- dense form


cdef inline bint is_member(const DenseSet* dense, uint32_t index) noexcept nogil:
    return index < dense.universe and (dense.members[index >> 6] >> (index & 63)) & 1


cdef inline void clear_member(
    DistinctCounter* counter, DenseSet* dense, uint32_t index
) noexcept nogil:
    dense.members[index >> 6] &= ~(<uint64_t>1 << (index & 63))
    counter.live -= 1


cdef int dense_reserve(DenseSet* dense, uint32_t index) except -1 nogil:
    # Room for `index`, and some more.
    cdef uint32_t universe
    cdef int64_t* latest
    cdef uint64_t* members
    if index < dense.universe:
        return 0
    universe = (more_room(index + 1, 1) + 63) & ~(<uint32_t>63)
    latest = <int64_t*>realloc(dense.latest_ms, universe * sizeof(int64_t))
    if latest == NULL:
        with gil:
            raise MemoryError
    dense.latest_ms = latest
    members = <uint64_t*>realloc(dense.members, universe // 8)
    if members == NULL:
        with gil:
            raise MemoryError
    dense.members = members
    memset(members + dense.universe // 64, 0, (universe - dense.universe) // 8)
    dense.universe = universe
    return 0


cdef int64_t dense_add(
    DistinctCounter* counter, WindowRules* window, int64_t at_ms, uint32_t index
) except -2 nogil:
    cdef DenseSet* dense = counter.dense
    cdef Bucket* bucket
    cdef bint inside
    cdef int64_t before_ms
    dense_reserve(dense, index)
    inside = is_member(dense, index)
    before_ms = dense.latest_ms[index] if inside else NEVER_MS
    if inside and before_ms >= at_ms:
        return before_ms
    if at_ms <= dense.frontier_ms:
        heap_push(dense, at_ms, index)
        dense.heap_live += 1
    else:
        bucket = bucket_open(dense, window, at_ms)
        if not (inside and before_ms >= bucket.start_ms):
            bucket_list(dense, bucket, index)
    if inside:
        if before_ms <= dense.frontier_ms:
            dense.heap_live -= 1
    else:
        dense.members[index >> 6] |= <uint64_t>1 << (index & 63)
        counter.live += 1
    dense.latest_ms[index] = at_ms
    if dense.listed > 2 * <uint64_t>counter.live + SWEEP_SLACK:
        bucket_sweep(dense)
    return before_ms


cdef void dense_free(DenseSet* dense) noexcept nogil:
    cdef uint32_t i
    for i in range(dense.bucket_count):
        free(bucket_at(dense, i).indices)
    free(dense.buckets)
    free(dense.heap)
    free(dense.members)
    free(dense.latest_ms)
    free(dense)


cdef int dense_expire(DistinctCounter* counter, int64_t first_ms) except -1 nogil:
    cdef DenseSet* dense = counter.dense
    cdef Bucket* bucket
    cdef uint32_t i
    cdef uint32_t index
    while True:
        while dense.heap_size and dense.heap[0].at_ms < first_ms:
            if is_latest(dense, &dense.heap[0]):
                clear_member(counter, dense, dense.heap[0].index)
                dense.heap_live -= 1
            heap_pop(dense)
        if dense.heap_size or dense.bucket_count == 0:
            return 0
        bucket = bucket_at(dense, 0)
        if bucket.start_ms >= first_ms:
            return 0
        if bucket.end_ms > first_ms:
            bucket_to_heap(dense)
            continue
        for i in range(bucket.size):
            index = bucket.indices[i]
            if listed_here(dense, bucket, index):
                clear_member(counter, dense, index)
        bucket_drop_front(dense)


cdef int dense_to_sparse(DistinctCounter* counter) except -1 nogil:
    cdef DenseSet* dense = counter.dense
    cdef Seen[64] few
    cdef uint32_t size = distinct_members(counter, few)
    cdef uint32_t i
    counter.dense = NULL
    counter.live = 0
    dense_free(dense)
    for i in range(size):
        sparse_add(counter, few[i].at_ms, few[i].index, True)
    return 0


cdef int sparse_to_dense(DistinctCounter* counter, WindowRules* window) except -1 nogil:
    cdef uint32_t size = counter.live
    cdef uint32_t i
    cdef DenseSet* dense = <DenseSet*>calloc(1, sizeof(DenseSet))
    if dense == NULL:
        with gil:
            raise MemoryError
    dense.frontier_ms = -NEVER_MS
    counter.dense = dense
    counter.live = 0
    for i in range(size):
        dense_add(counter, window, counter.sparse_at_ms[i], counter.sparse_indices[i])
    sparse_free(counter)
    return 0


# ---------------------------------------------------------------- either form


cdef void distinct_free(DistinctCounter* counter) noexcept nogil:
    sparse_free(counter)
    if counter.dense != NULL:
        dense_free(counter.dense)
        counter.dense = NULL


cdef void distinct_prefetch(const DistinctCounter* counter) noexcept nogil:
    # Has the set loaded: a sparse one is searched from its first index on, and grows at its end.
    cdef uint32_t line
    if counter.dense != NULL:
        prefetch(counter.dense)
        return
    prefetch(counter.sparse_at_ms)
    prefetch(counter.sparse_at_ms + counter.live)
    for line in range(counter.live // INDICES_PER_LINE + 1):
        prefetch(counter.sparse_indices + line * INDICES_PER_LINE)


cdef int64_t distinct_add(
    DistinctCounter* counter, WindowRules* window, int64_t at_ms, uint32_t index, bint fresh
) except -2 nogil:
    # The member `index` was sent to at at_ms; a send before its latest one changes nothing. Returns
    # that latest one, NEVER_MS if it was not inside. `fresh` says that it cannot have been.
    if counter.dense == NULL:
        if counter.live < SPARSE_MAX:
            return sparse_add(counter, at_ms, index, fresh)
        sparse_to_dense(counter, window)
    return dense_add(counter, window, at_ms, index)


cdef int distinct_restore(
    DistinctCounter* counter, WindowRules* window, uint32_t index, int64_t before_ms
) except -1 nogil:
    # Takes an addition back: `index` was last seen at before_ms, or never (NEVER_MS).
    cdef uint32_t position
    if counter.dense == NULL:
        position = sparse_find(counter, index)
        if position != NO_INDEX:
            sparse_remove(counter, position, 1)
    elif is_member(counter.dense, index):
        if counter.dense.latest_ms[index] <= counter.dense.frontier_ms:
            counter.dense.heap_live -= 1
        clear_member(counter, counter.dense, index)
    if before_ms != NEVER_MS:
        distinct_add(counter, window, before_ms, index, True)
    return 0


cdef int distinct_expire(DistinctCounter* counter, int64_t first_ms) except -1 nogil:
    # Lets go the members whose latest send lies before first_ms, the window's first instant now.
    cdef uint32_t gone = 0
    if counter.dense == NULL:
        while gone < counter.live and counter.sparse_at_ms[gone] < first_ms:
            gone += 1
        if gone:
            sparse_remove(counter, 0, gone)
        return 0
    dense_expire(counter, first_ms)
    if counter.live <= SPARSE_BACK:
        dense_to_sparse(counter)
    return 0


cdef uint32_t distinct_members(DistinctCounter* counter, Seen* out) noexcept nogil:
    # All members with their latest instants, roughly the earliest first; `out` has room for `live`.
    # The bit of one that was met is cleared meanwhile, so that a second mention looks stale.
    cdef DenseSet* dense = counter.dense
    cdef Bucket* bucket
    cdef uint32_t size = 0
    cdef uint32_t position
    cdef uint32_t i
    if dense == NULL:
        for i in range(counter.live):
            out[i].index = counter.sparse_indices[i]
            out[i].at_ms = counter.sparse_at_ms[i]
        return counter.live
    for i in range(dense.heap_size):
        if is_latest(dense, &dense.heap[i]):
            out[size] = dense.heap[i]
            flip_member(dense, out[size].index)
            size += 1
    for position in range(dense.bucket_count):
        bucket = bucket_at(dense, position)
        for i in range(bucket.size):
            if listed_here(dense, bucket, bucket.indices[i]):
                out[size].index = bucket.indices[i]
                out[size].at_ms = dense.latest_ms[bucket.indices[i]]
                flip_member(dense, out[size].index)
                size += 1
    for i in range(size):
        flip_member(dense, out[i].index)
    return size


cdef int64_t oldest_in_buckets_ms(const DenseSet* dense, uint32_t except_index) noexcept nogil:
    cdef int64_t oldest_ms = NEVER_MS
    cdef uint32_t position
    cdef uint32_t i
    cdef uint32_t index
    cdef Bucket* bucket
    for position in range(dense.bucket_count):
        bucket = bucket_at(dense, position)
        for i in range(bucket.size):
            index = bucket.indices[i]
            if index != except_index and listed_here(dense, bucket, index):
                oldest_ms = min(oldest_ms, dense.latest_ms[index])
        if oldest_ms != NEVER_MS:
            break
    return oldest_ms


cdef int64_t distinct_oldest_ms(DistinctCounter* counter, uint32_t except_index) except? -2 nogil:
    # The earliest latest instant of any member but except_index; NEVER_MS when there is none.
    cdef DenseSet* dense = counter.dense
    cdef int64_t oldest_ms = NEVER_MS
    cdef uint32_t i = 0
    if dense == NULL:
        if counter.live and counter.sparse_indices[0] == except_index:
            i = 1
        return counter.sparse_at_ms[i] if i < counter.live else NEVER_MS
    while True:
        while dense.heap_size and not is_latest(dense, &dense.heap[0]):
            heap_pop(dense)
        if dense.heap_size or dense.bucket_count == 0:
            break
        bucket_to_heap(dense)
    if dense.heap_size and dense.heap[0].index != except_index:
        return dense.heap[0].at_ms
    for i in range(dense.heap_size):
        if dense.heap[i].index != except_index and is_latest(dense, &dense.heap[i]):
            oldest_ms = min(oldest_ms, dense.heap[i].at_ms)
    if oldest_ms != NEVER_MS:
        return oldest_ms
    return oldest_in_buckets_ms(dense, except_index)


cdef int64_t distinct_rank_ms(DistinctCounter* counter, uint32_t rank) except? -2 nogil:
    # The latest instant of the member that leaves as number `rank` (0 = the next one).
    cdef Seen* seen
    cdef int64_t at_ms
    if counter.dense == NULL:
        return counter.sparse_at_ms[rank]
    if rank == 0:
        return distinct_oldest_ms(counter, NO_INDEX)
    seen = <Seen*>malloc(counter.live * sizeof(Seen))
    if seen == NULL:
        with gil:
            raise MemoryError
    distinct_members(counter, seen)
    at_ms = select_ms(seen, counter.live, rank)
    free(seen)
    return at_ms


cdef int64_t distinct_latest_ms(const DistinctCounter* counter, uint32_t index) noexcept nogil:
    # The latest counted send to `index`, NEVER_MS when it is not inside as of the last expiry.
    cdef uint32_t position
    if index == NO_INDEX:
        return NEVER_MS
    if counter.dense == NULL:
        position = sparse_find(counter, index)
        return NEVER_MS if position == NO_INDEX else counter.sparse_at_ms[position]
    return counter.dense.latest_ms[index] if is_member(counter.dense, index) else NEVER_MS


cdef int64_t distinct_passing_ms(
    DistinctCounter* counter,
    WindowRules* window,
    int64_t from_ms,
    uint32_t index,
    int64_t room,
) except? -2 nogil:
    # The earliest instant from from_ms on at which `index` is inside or at most `room` members
    # are, nothing else being sent; NEVER_MS when there is none. `index` may be NO_INDEX.
    cdef int64_t exit_ms
    cdef int64_t latest_ms = distinct_latest_ms(counter, index)
    if latest_ms != NEVER_MS and latest_ms >= window_first_ms(window, from_ms):
        return from_ms
    if room < 0:
        return NEVER_MS
    if counter.live <= room:
        return from_ms
    exit_ms = window_exit_ms(window, distinct_rank_ms(counter, counter.live - <uint32_t>room - 1))
    return max(from_ms, exit_ms)
