# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: cdivision=True
"""What was decoded from the wire, and what would be encoded, as plain values: the debugging view.

The server does not use it: its hot path has no Python objects to show. For tests, benchmarks and
whoever wants to look at recorded bytes. Messages are called by their names in `limiter.v1`; enums
are their numbers; instants are milliseconds since 1970, -1 when unset.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport calloc, free
from cpython.bytes cimport PyBytes_FromStringAndSize

from limiter._types cimport Attempt, Decision, LimitResult, Recipient, Slice
from limiter._wire_read cimport (
    INLINE_SLOTS, KIND_CHECK, KIND_CHECK_BATCH, KIND_COMMIT, KIND_COMMIT_BATCH, KIND_GET_USAGE,
    KIND_PLAN, Decoder,
)
from limiter._wire_times cimport Moment
from limiter._wire_write cimport OutBuffer

_REQUEST_KINDS = {
    "CheckRequest": KIND_CHECK,
    "CommitRequest": KIND_COMMIT,
    "CheckBatchRequest": KIND_CHECK_BATCH,
    "CommitBatchRequest": KIND_COMMIT_BATCH,
    "GetUsageRequest": KIND_GET_USAGE,
    "PlanRequest": KIND_PLAN,
}

# One of each for all calls, as the server has: what one message leaves behind would show in the
# next.
cdef Decoder shared_decoder = Decoder()
cdef OutBuffer shared_buffer = OutBuffer()

_DIMENSIONS = (
    "contact", "address", "channel", "resource", "campaign", "agent", "team", "source", "category",
)


cdef bytes bytes_of(Slice value):
    if value.size == 0:
        return b""
    return PyBytes_FromStringAndSize(<const char*>value.data, value.size)


cdef Slice slice_of(bytes value):
    cdef Slice borrowed
    borrowed.data = <const uint8_t*><const char*>value
    borrowed.size = len(value)
    return borrowed


cdef dict attempt_values(const Attempt* attempt):
    cdef dict values = {"account": bytes_of(attempt.account).decode()}
    for i, name in enumerate(_DIMENSIONS):
        values[name] = bytes_of(attempt.fields[<int>i]).decode()
    values["message_count"] = attempt.message_count
    values["contact_time_zone"] = bytes_of(attempt.contact_time_zone).decode()
    return values


cdef object moment_values(const Moment* moment):
    return (moment.seconds, moment.nanos) if moment.given else None


cdef dict recipient_values(const Recipient* recipient):
    return {
        "contact": bytes_of(recipient.contact).decode(),
        "address": bytes_of(recipient.address).decode(),
        "reference": bytes_of(recipient.reference).decode(),
        "contact_time_zone": bytes_of(recipient.contact_time_zone).decode(),
        "request_id": bytes_of(recipient.request_id).decode(),
    }


def describe(str message, bytes data, *, bint validate = True):
    """What the decoder reads from `data`, the bytes of a request called `message`.

    Every field that any hot request has is there, at its default where this one lacks it;
    `inline_limits` are serialized Limits; `event_time`, `hold_duration` and `spread_duration` are
    (seconds, nanos), or None. With `validate` off the rules of the fields are not applied: more is
    accepted, and lists show no more than the decoder keeps.

    Raises InvalidArgument as the server would, KeyError when `message` is no hot request.
    """
    cdef Decoder decoder = shared_decoder
    cdef int kind = _REQUEST_KINDS[message]
    cdef int i
    decoder.parse(kind, <const uint8_t*><const char*>data, len(data))
    if validate:
        decoder.validate(kind)
    return {
        "attempt": attempt_values(&decoder.request.attempt),
        "inline_limits": [
            bytes_of(decoder.request.inline_limits[i])
            for i in range(min(decoder.request.inline_count, INLINE_SLOTS))
        ],
        "view": decoder.request.view,
        "request_id": bytes_of(decoder.request.request_id).decode(),
        "mode": decoder.terms.mode,
        "event_time": moment_values(&decoder.terms.event_time),
        "hold_duration": moment_values(&decoder.terms.hold_duration),
        "spread_duration": moment_values(&decoder.terms.spread_duration),
        "recipients": [
            recipient_values(&decoder.request.recipients[i])
            for i in range(<int>min(decoder.request.recipient_count, decoder.recipient_capacity))
        ],
        "atomicity": decoder.request.atomicity,
        "exclude_duplicates": bool(decoder.request.exclude_duplicates),
        "exclude_opt_outs": bool(decoder.request.exclude_opt_outs),
    }


def decode_repeatedly(str message, bytes data, int64_t rounds):
    """Decodes and validates `data` as `message` `rounds` times, with nothing but C in between: for
    benchmarks. Returns the bytes decoded in all. Raises as `describe`."""
    cdef Decoder decoder = Decoder()
    cdef int kind = _REQUEST_KINDS[message]
    cdef const uint8_t* start = <const uint8_t*><const char*>data
    for _ in range(rounds):
        decoder.parse(kind, start, len(data))
        decoder.validate(kind)
    return rounds * len(data)


@cython.final
@cython.internal
cdef class Composition:
    # Plain values of one decision or usage report, as the structs that an OutBuffer takes.
    cdef list kept             # what the slices borrow from
    cdef LimitResult* results
    cdef int result_count
    cdef Decision decision

    def __dealloc__(self):
        free(self.results)

    cdef int set_results(self, list statuses) except -1:
        cdef int i
        cdef LimitResult* result
        self.kept = []
        free(self.results)
        self.result_count = len(statuses)
        self.results = <LimitResult*>calloc(max(1, self.result_count), sizeof(LimitResult))
        if self.results == NULL:
            raise MemoryError
        for i, status in enumerate(statuses):
            policy, limit_id = status["policy"].encode(), status["limit_id"].encode()
            self.kept += [policy, limit_id]
            result = &self.results[i]
            result.policy = slice_of(policy)
            result.limit_id = slice_of(limit_id)
            result.reason = status["reason"]
            result.enforcement = status["enforcement"]
            result.exceeded = status["exceeded"]
            result.max_count = status["max_count"]
            result.used_count = status["used_count"]
            result.remaining_count = status["remaining_count"]
            result.reset_ms = status["reset_ms"]
            result.counted_since_ms = status["counted_since_ms"]
        return 0

    cdef Decision* set_decision(self, dict values) except? NULL:
        # NULL for None.
        if values is None:
            return NULL
        self.set_results(values["results"])
        self.decision.outcome = values["outcome"]
        self.decision.reason = values["reason"]
        self.decision.binding = values["binding"]
        if self.decision.binding >= self.result_count:
            raise ValueError(f"binding {self.decision.binding} is not among the results")
        self.decision.result_count = self.result_count
        self.decision.results = self.results
        self.decision.retry_ms = values["retry_ms"]
        self.decision.decide_ms = values["decide_ms"]
        return &self.decision


def compose(str message, dict values):
    """The bytes of the response called `message` as the server would encode `values`.

    `decision` is a mapping with outcome, reason, binding (index into results or -1), results,
    retry_ms and decide_ms; each of `results` has the fields of a LimitStatus with reset_ms and
    counted_since_ms for its times. By message:
    - CheckResponse: decision, view
    - CommitResponse: decision, view, position, sequence, replayed
    - CommitBatchResponse: results, each with reference, decision (None: left out, as a duplicate or
      because `opted_out`) and the fields of a CommitResponse; counts: accepted, denied, duplicate
      and opted out, in this order
    - GetUsageResponse: results

    Raises KeyError for an unknown message or a missing value.
    """
    cdef OutBuffer buffer = shared_buffer
    cdef Composition composition = Composition()
    cdef bytes reference
    buffer.reset()
    if message == "CheckResponse":
        buffer.check_response(composition.set_decision(values["decision"]), values["view"])
    elif message == "CommitResponse":
        buffer.commit_response(
            composition.set_decision(values["decision"]), values["view"], values["position"],
            values["sequence"], values["replayed"],
        )
    elif message == "CommitBatchResponse":
        for result in values["results"]:
            reference = result["reference"].encode()
            if result["decision"] is None:
                buffer.batch_left_out(slice_of(reference), result["opted_out"])
                continue
            buffer.batch_result(
                slice_of(reference), composition.set_decision(result["decision"]), result["view"],
                result["position"], result["sequence"], result["replayed"],
            )
        accepted, denied, duplicate, opted_out = values["counts"]
        buffer.batch_counts(accepted, denied, duplicate, opted_out)
    elif message == "GetUsageResponse":
        composition.set_results(values["results"])
        buffer.usage_response(composition.results, composition.result_count)
    else:
        raise KeyError(message)
    return buffer.take()


def encode_repeatedly(dict values, int64_t rounds):
    """Encodes one CommitResponse, with `values` as in `compose`, `rounds` times and takes its bytes
    each time: for benchmarks. Returns the bytes encoded in all."""
    cdef OutBuffer buffer = OutBuffer()
    cdef Composition composition = Composition()
    cdef Decision* decision = composition.set_decision(values["decision"])
    cdef int view = values["view"]
    cdef int64_t position = values["position"]
    cdef int64_t sequence = values["sequence"]
    cdef bint replayed = values["replayed"]
    cdef int64_t total = 0
    for _ in range(rounds):
        buffer.commit_response(decision, view, position, sequence, replayed)
        total += len(buffer.take())
    return total
