# Memory for HTTP/2 sessions, whose pieces are small and come and go with every call.

from limiter._nghttp2 cimport nghttp2_mem

cdef extern from *:
    """
    #ifdef __SANITIZE_ADDRESS__
    #define LIMITER_KEPT_MAX 0
    #else
    #define LIMITER_KEPT_MAX 4096
    #endif
    """
    enum:
        # Pieces of one class that are kept for the next calls.
        KEPT_MAX "LIMITER_KEPT_MAX"

cdef nghttp2_mem* session_memory() noexcept
