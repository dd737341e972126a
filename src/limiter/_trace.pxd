# Traces of attempts as CSV: text -> rows of plain structs.

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint64_t

from limiter._calendar cimport ZoneRules
from limiter._hours cimport ZoneTable
from limiter._types cimport Attempt, Slice

cdef enum:
    # Columns by what they hold: a dimension's own index, then the others.
    COLUMN_ACCOUNT = 9
    COLUMN_TIME = 10
    COLUMN_MESSAGE_COUNT = 11
    COLUMN_CONTACT_TIME_ZONE = 12
    COLUMN_COUNT = 13

cdef struct TraceRow:
    # One attempt of a trace.
    Attempt attempt            # borrows from the text, or from what the TraceRows keep
    const ZoneRules* zone      # borrowed; of the contact, NULL where the row names none
    int64_t time_ms
    uint64_t line              # on which the row begins, from 1

cdef struct Place:
    # Where a row lies.
    int64_t time_ms
    size_t offset              # in the text
    uint64_t line

cdef class TraceRows:
    cdef TraceRow* rows        # owned
    cdef Py_ssize_t count
    cdef Py_ssize_t capacity
    cdef bytes text            # what the rows borrow from
    cdef list kept             # values that stand otherwise in the text

cdef class TraceReader:
    cdef int[COLUMN_COUNT] columns  # what each column holds
    cdef int column_count
    cdef Slice[COLUMN_COUNT] values  # of the row that was split last
    cdef int value_count
    cdef uint64_t line         # on which the next row begins
    cdef ZoneTable zones

    cdef const uint8_t* split(
        self, const uint8_t* at, const uint8_t* end, bint last, list kept
    ) except? NULL
    cdef const uint8_t* split_quoted(
        self, const uint8_t* at, const uint8_t* end, bint last, uint64_t line, Slice* value,
        list kept,
    ) except? NULL
    cdef const uint8_t* read_row(
        self, const uint8_t* at, const uint8_t* end, bint last, TraceRow* row, list kept
    ) except? NULL
    cdef int fill(self, TraceRow* row) except -1
    cdef int fill_account(self, Slice value, TraceRow* row) except -1
    cdef int fill_message_count(self, Slice value, TraceRow* row) except -1
    cdef int fill_time(self, Slice value, TraceRow* row) except -1

cdef class SortedTrace:
    cdef TraceReader reader
    cdef size_t bytes_max
    cdef uint8_t* text         # owned; all rows as they were read
    cdef size_t size
    cdef size_t capacity
    cdef Place* places         # owned; where each row lies, after sort() in the order of time
    cdef Py_ssize_t count
    cdef Py_ssize_t place_capacity

    cdef int append(self, const uint8_t* data, size_t size) except -1
    cdef int note(self, const TraceRow* row, size_t offset) except -1
