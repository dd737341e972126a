# What we use of libnghttp2: HTTP/2 framing, header compression and flow control, without I/O.

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

cdef extern from *:
    """
    /* What the static libnghttp2 takes for stderr: see setup.py. Never used. */
    __attribute__((visibility("hidden"))) void *__wrap_stderr = 0;
    """

cdef extern from "nghttp2/nghttp2.h":
    ctypedef Py_ssize_t ssize_t "ssize_t"

    ctypedef struct nghttp2_session
    ctypedef struct nghttp2_session_callbacks
    ctypedef struct nghttp2_option

    ctypedef struct nghttp2_nv:
        uint8_t* name
        uint8_t* value
        size_t namelen
        size_t valuelen
        uint8_t flags

    ctypedef struct nghttp2_settings_entry:
        int32_t settings_id
        uint32_t value

    ctypedef struct nghttp2_frame_hd:
        size_t length
        int32_t stream_id
        uint8_t type
        uint8_t flags

    ctypedef struct nghttp2_headers:
        int cat

    ctypedef struct nghttp2_goaway:
        uint32_t error_code

    ctypedef union nghttp2_frame:
        nghttp2_frame_hd hd
        nghttp2_headers headers
        nghttp2_goaway goaway

    ctypedef union nghttp2_data_source:
        int fd
        void* ptr

    ctypedef ssize_t (*nghttp2_data_source_read_callback)(
        nghttp2_session* session, int32_t stream_id, uint8_t* buf, size_t length,
        uint32_t* data_flags, nghttp2_data_source* source, void* user_data,
    ) noexcept

    ctypedef struct nghttp2_data_provider:
        nghttp2_data_source source
        nghttp2_data_source_read_callback read_callback

    ctypedef int (*nghttp2_on_frame_callback)(
        nghttp2_session* session, const nghttp2_frame* frame, void* user_data
    ) noexcept
    ctypedef int (*nghttp2_on_header_callback)(
        nghttp2_session* session, const nghttp2_frame* frame,
        const uint8_t* name, size_t namelen, const uint8_t* value, size_t valuelen,
        uint8_t flags, void* user_data,
    ) noexcept
    ctypedef int (*nghttp2_on_data_chunk_recv_callback)(
        nghttp2_session* session, uint8_t flags, int32_t stream_id,
        const uint8_t* data, size_t len, void* user_data,
    ) noexcept
    ctypedef int (*nghttp2_on_stream_close_callback)(
        nghttp2_session* session, int32_t stream_id, uint32_t error_code, void* user_data
    ) noexcept

    int NGHTTP2_DATA
    int NGHTTP2_HEADERS
    int NGHTTP2_RST_STREAM
    int NGHTTP2_SETTINGS
    int NGHTTP2_GOAWAY
    int NGHTTP2_HCAT_REQUEST
    uint8_t NGHTTP2_FLAG_NONE
    uint8_t NGHTTP2_FLAG_ACK
    uint8_t NGHTTP2_FLAG_END_STREAM
    uint32_t NGHTTP2_DATA_FLAG_EOF
    uint32_t NGHTTP2_DATA_FLAG_NO_END_STREAM
    uint8_t NGHTTP2_NV_FLAG_NONE
    uint8_t NGHTTP2_NV_FLAG_NO_COPY_NAME
    uint8_t NGHTTP2_NV_FLAG_NO_COPY_VALUE
    int NGHTTP2_ERR_DEFERRED
    int NGHTTP2_ERR_CALLBACK_FAILURE
    int NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE
    uint32_t NGHTTP2_NO_ERROR
    uint32_t NGHTTP2_PROTOCOL_ERROR
    uint32_t NGHTTP2_INTERNAL_ERROR
    uint32_t NGHTTP2_REFUSED_STREAM
    uint32_t NGHTTP2_STREAM_CLOSED
    uint32_t NGHTTP2_CANCEL
    uint32_t NGHTTP2_ENHANCE_YOUR_CALM
    uint32_t NGHTTP2_INADEQUATE_SECURITY
    int32_t NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS
    int32_t NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE
    int32_t NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE

    int nghttp2_session_callbacks_new(nghttp2_session_callbacks** callbacks)
    void nghttp2_session_callbacks_del(nghttp2_session_callbacks* callbacks)
    void nghttp2_session_callbacks_set_on_begin_headers_callback(
        nghttp2_session_callbacks* callbacks, nghttp2_on_frame_callback callback)
    void nghttp2_session_callbacks_set_on_header_callback(
        nghttp2_session_callbacks* callbacks, nghttp2_on_header_callback callback)
    void nghttp2_session_callbacks_set_on_frame_recv_callback(
        nghttp2_session_callbacks* callbacks, nghttp2_on_frame_callback callback)
    void nghttp2_session_callbacks_set_on_frame_send_callback(
        nghttp2_session_callbacks* callbacks, nghttp2_on_frame_callback callback)
    void nghttp2_session_callbacks_set_on_data_chunk_recv_callback(
        nghttp2_session_callbacks* callbacks, nghttp2_on_data_chunk_recv_callback callback)
    void nghttp2_session_callbacks_set_on_stream_close_callback(
        nghttp2_session_callbacks* callbacks, nghttp2_on_stream_close_callback callback)

    int nghttp2_option_new(nghttp2_option** option)
    void nghttp2_option_del(nghttp2_option* option)
    void nghttp2_option_set_no_auto_window_update(nghttp2_option* option, int val)
    void nghttp2_option_set_no_closed_streams(nghttp2_option* option, int val)
    void nghttp2_option_set_stream_reset_rate_limit(
        nghttp2_option* option, uint64_t burst, uint64_t rate)
    void nghttp2_option_set_max_continuations(nghttp2_option* option, size_t val)

    ctypedef struct nghttp2_mem:
        void* mem_user_data
        void* (*malloc)(size_t size, void* mem_user_data) noexcept
        void (*free)(void* ptr, void* mem_user_data) noexcept
        void* (*calloc)(size_t nmemb, size_t size, void* mem_user_data) noexcept
        void* (*realloc)(void* ptr, size_t size, void* mem_user_data) noexcept

    int nghttp2_session_server_new3(
        nghttp2_session** session, const nghttp2_session_callbacks* callbacks, void* user_data,
        const nghttp2_option* option, nghttp2_mem* mem)
    void nghttp2_session_del(nghttp2_session* session)
    ssize_t nghttp2_session_mem_recv(nghttp2_session* session, const uint8_t* data, size_t len)
    ssize_t nghttp2_session_mem_send(nghttp2_session* session, const uint8_t** data)
    int nghttp2_session_want_read(nghttp2_session* session)
    int nghttp2_session_want_write(nghttp2_session* session)
    int nghttp2_session_consume_connection(nghttp2_session* session, size_t size)
    int nghttp2_session_consume_stream(nghttp2_session* session, int32_t stream_id, size_t size)
    int nghttp2_session_resume_data(nghttp2_session* session, int32_t stream_id)
    int nghttp2_session_set_local_window_size(
        nghttp2_session* session, uint8_t flags, int32_t stream_id, int32_t window_size)
    int nghttp2_session_set_stream_user_data(
        nghttp2_session* session, int32_t stream_id, void* stream_user_data)
    void* nghttp2_session_get_stream_user_data(nghttp2_session* session, int32_t stream_id)
    int32_t nghttp2_session_get_last_proc_stream_id(nghttp2_session* session)
    int nghttp2_session_terminate_session(nghttp2_session* session, uint32_t error_code)
    int nghttp2_submit_settings(
        nghttp2_session* session, uint8_t flags, const nghttp2_settings_entry* iv, size_t niv)
    int nghttp2_submit_response(
        nghttp2_session* session, int32_t stream_id, const nghttp2_nv* nva, size_t nvlen,
        const nghttp2_data_provider* data_prd)
    int nghttp2_submit_trailer(
        nghttp2_session* session, int32_t stream_id, const nghttp2_nv* nva, size_t nvlen)
    int nghttp2_submit_rst_stream(
        nghttp2_session* session, uint8_t flags, int32_t stream_id, uint32_t error_code)
    int nghttp2_submit_goaway(
        nghttp2_session* session, uint8_t flags, int32_t last_stream_id, uint32_t error_code,
        const uint8_t* opaque_data, size_t opaque_data_len)
    int nghttp2_submit_ping(
        nghttp2_session* session, uint8_t flags, const uint8_t* opaque_data)
    int nghttp2_submit_shutdown_notice(nghttp2_session* session)
    const char* nghttp2_strerror(int lib_error_code)

    # The client's side.
    int32_t NGHTTP2_SETTINGS_ENABLE_PUSH

    int nghttp2_session_client_new3(
        nghttp2_session** session, const nghttp2_session_callbacks* callbacks, void* user_data,
        const nghttp2_option* option, nghttp2_mem* mem)
    int32_t nghttp2_submit_request(
        nghttp2_session* session, const void* pri_spec, const nghttp2_nv* nva, size_t nvlen,
        const nghttp2_data_provider* data_prd, void* stream_user_data)
