# A hint to the processor: this address will be read soon. Several misses then overlap that would
# otherwise follow one another, which is most of what a decision takes beyond the caches.

cdef extern from *:
    void prefetch "__builtin_prefetch"(const void* address) noexcept nogil
