# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Traces of attempts as CSV.

In flows text, piece by piece, whose first row names the columns; out flow rows of plain structs
that borrow from it. What always holds: every row that is given has been validated as the service
validates an attempt; no Python object is made for a row, unless a value has quotes inside; a
refusal names the line, the column and the rule.

The form is RFC 4180: commas, values in double quotes where they hold commas, quotes (doubled) or
ends of lines. Lines end in LF or CRLF, empty ones are passed over. An empty value is an absent
field.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, qsort, realloc
from libc.string cimport memcpy, memset

from limiter import bounds
from limiter.errors import FieldViolation, InvalidArgument, ResourceExhausted
from limiter._hours cimport ZoneTable
from limiter._kinds cimport slice_of
from limiter._protobuf cimport is_utf8
from limiter._types cimport DIMENSION_CONTACT, DIMENSION_COUNT, Slice

cdef uint32_t ACCOUNT_BYTES_MAX = bounds.ACCOUNT_BYTES_MAX
cdef uint32_t LABEL_BYTES_MAX = bounds.LABEL_BYTES_MAX
cdef int64_t MESSAGE_COUNT_MAX = bounds.MESSAGE_COUNT_MAX
cdef int64_t INSTANT_MS_MAX = bounds.INSTANT_MS_MAX
cdef Py_ssize_t ROW_BYTES_MAX = bounds.TRACE_ROW_BYTES_MAX

# In the order of the numbers of columns.
_COLUMN_NAMES = (
    "contact",
    "address",
    "channel",
    "resource",
    "campaign",
    "agent",
    "team",
    "source",
    "category",
    "account",
    "time",
    "message_count",
    "contact_time_zone",
)

cdef uint8_t[256] ACCOUNT_BYTES  # whether an account id may hold the byte


cdef void fill_tables():
    # Once, at import.
    cdef int byte
    for byte in range(256):
        ACCOUNT_BYTES[byte] = bounds.ACCOUNT_PATTERN.fullmatch(chr(byte)) is not None


fill_tables()


cdef object broken(uint64_t line, str column, str description):
    # The error of a row that breaks a rule; `column` is empty where none is to blame.
    text = f"{column}: {description}" if column else description
    return InvalidArgument(
        "TRACE_ROW",
        f"line {line}: {text}",
        violations=(FieldViolation(column, description),),
        metadata={"line": str(line)},
    )


cdef int require_short(Py_ssize_t size, uint64_t line) except -1:
    # Raises InvalidArgument for a row that goes on for so many bytes.
    if size > ROW_BYTES_MAX:
        raise broken(
            line, "", f"it is longer than {ROW_BYTES_MAX} bytes; does a value begin with a quote"
            " and have no other?"
        )
    return 0


cdef str shown(Slice value):
    # A value for an error, not all of it if it is long.
    text = value.data[: min(value.size, 64)].decode("utf-8", "replace")
    return repr(text) + ("…" if value.size > 64 else "")


# ---------------------------------------------------------------- instants


cdef enum:
    TIME_GOOD = 0
    TIME_MALFORMED
    TIME_WITHOUT_OFFSET
    TIME_OUT_OF_RANGE


cdef inline int digits(const uint8_t* at, int count) noexcept nogil:
    # The number that so many digits make; -1 where there is another character.
    cdef int number = 0
    cdef int i
    for i in range(count):
        if not 0x30 <= at[i] <= 0x39:
            return -1
        number = number * 10 + (at[i] - 0x30)
    return number


cdef inline int64_t days_before(int64_t year, int64_t month, int64_t day) noexcept nogil:
    # Days from 1970-01-01 to a date of the Gregorian calendar; years begin in March here.
    cdef int64_t from_march = year - (month <= 2)
    cdef int64_t day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return (
        365 * from_march + from_march // 4 - from_march // 100 + from_march // 400
        + day_of_year - 719468
    )


cdef inline int days_in(int year, int month) noexcept nogil:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month == 4 or month == 6 or month == 9 or month == 11 else 31


cdef int fraction_ms(const uint8_t** at, const uint8_t* end) noexcept nogil:
    # Milliseconds of a fraction of a second, if one comes, and moves on behind it; -1 for a point
    # without digits. What is finer is cut off.
    cdef int milliseconds = 0
    cdef int weight = 100
    if at[0] == end or at[0][0] != b".":
        return 0
    at[0] += 1
    if at[0] == end or not 0x30 <= at[0][0] <= 0x39:
        return -1
    while at[0] < end and 0x30 <= at[0][0] <= 0x39:
        milliseconds += weight * (at[0][0] - 0x30)
        weight //= 10
        at[0] += 1
    return milliseconds


cdef int parse_unix(const uint8_t* at, const uint8_t* end, int64_t* time_ms) noexcept nogil:
    # Seconds since 1970.
    cdef int64_t seconds = 0
    cdef int milliseconds
    while at < end and 0x30 <= at[0] <= 0x39:
        if seconds > INSTANT_MS_MAX:
            return TIME_OUT_OF_RANGE
        seconds = seconds * 10 + (at[0] - 0x30)
        at += 1
    milliseconds = fraction_ms(&at, end)
    if milliseconds < 0 or at != end:
        return TIME_MALFORMED
    if seconds > INSTANT_MS_MAX // 1000:
        return TIME_OUT_OF_RANGE
    time_ms[0] = seconds * 1000 + milliseconds
    return TIME_GOOD


cdef int parse_offset(const uint8_t* at, const uint8_t* end, int64_t* offset_ms) noexcept nogil:
    # Z, +hh:mm or -hh:mm.
    cdef int hours
    cdef int minutes
    if at == end:
        return TIME_WITHOUT_OFFSET
    offset_ms[0] = 0
    if end - at == 1 and (at[0] == b"Z" or at[0] == b"z"):
        return TIME_GOOD
    if end - at != 6 or at[3] != b":" or (at[0] != b"+" and at[0] != b"-"):
        return TIME_MALFORMED
    hours = digits(at + 1, 2)
    minutes = digits(at + 4, 2)
    if not 0 <= hours <= 23 or not 0 <= minutes <= 59:
        return TIME_MALFORMED
    offset_ms[0] = (hours * 60 + minutes) * 60000
    if at[0] == b"-":
        offset_ms[0] = -offset_ms[0]
    return TIME_GOOD


cdef int parse_time(Slice text, int64_t* time_ms) noexcept nogil:
    # RFC 3339, or seconds since 1970.
    cdef const uint8_t* at = text.data
    cdef const uint8_t* end = at + text.size
    cdef int year, month, day, hour, minute, second, milliseconds, found
    cdef int64_t offset_ms = 0
    if text.size < 5 or at[4] != b"-":
        return parse_unix(at, end, time_ms) if text.size else TIME_MALFORMED
    if text.size < 19 or at[7] != b"-" or at[13] != b":" or at[16] != b":":
        return TIME_MALFORMED
    if at[10] != b"T" and at[10] != b"t" and at[10] != b" ":
        return TIME_MALFORMED
    year = digits(at, 4)
    month = digits(at + 5, 2)
    day = digits(at + 8, 2)
    hour = digits(at + 11, 2)
    minute = digits(at + 14, 2)
    second = digits(at + 17, 2)
    # A leap second counts as the first one after it.
    if (
        year < 0
        or not 1 <= month <= 12
        or not 1 <= day <= days_in(year, month)
        or not 0 <= hour <= 23
        or not 0 <= minute <= 59
        or not 0 <= second <= 60
    ):
        return TIME_MALFORMED
    at += 19
    milliseconds = fraction_ms(&at, end)
    if milliseconds < 0:
        return TIME_MALFORMED
    found = parse_offset(at, end, &offset_ms)
    if found != TIME_GOOD:
        return found
    time_ms[0] = (
        ((days_before(year, month, day) * 24 + hour) * 60 + minute) * 60 + second
    ) * 1000 + milliseconds - offset_ms
    return TIME_GOOD if 0 <= time_ms[0] <= INSTANT_MS_MAX else TIME_OUT_OF_RANGE


# ---------------------------------------------------------------- rows


@cython.final
cdef class TraceRows:
    """Room for up to `capacity` rows, which are filled again and again."""

    def __cinit__(self, Py_ssize_t capacity):
        if capacity <= 0:
            raise ValueError("there is no room for a row")
        self.rows = <TraceRow*>calloc(capacity, sizeof(TraceRow))
        if self.rows == NULL:
            raise MemoryError
        self.capacity = capacity
        self.kept = []

    def __dealloc__(self):
        free(self.rows)

    def __len__(self):
        return self.count


@cython.final
cdef class TraceReader:
    """Reads one trace. `find_zone(name, field)` gives the Zone that a contact lives in, or raises
    InvalidArgument."""

    def __cinit__(self, find_zone):
        self.zones = ZoneTable(find_zone)
        self.line = 1

    def begin(self, bytes text not None, bint last):
        """Reads the names of the columns and returns how many bytes they took; 0 where the text
        does not hold all of them. `last`: nothing follows the text. Raises InvalidArgument."""
        cdef const uint8_t* start = <const uint8_t*>PyBytes_AS_STRING(text)
        cdef const uint8_t* end = start + PyBytes_GET_SIZE(text)
        cdef const uint8_t* at = start
        cdef uint64_t line = self.line
        cdef int i
        kept = []
        if end - at >= 3 and at[0] == 0xEF and at[1] == 0xBB and at[2] == 0xBF:
            # What some programs mark UTF-8 by.
            at += 3
        at = self.split(at, end, last, kept)
        if at == NULL:
            if last:
                raise broken(line, "", "the trace is empty; its first line names the columns")
            return 0
        names = [self.values[i].data[: self.values[i].size].decode("utf-8", "replace")
                 for i in range(min(self.value_count, <int>COLUMN_COUNT))]
        for i, name in enumerate(names):
            if name not in _COLUMN_NAMES:
                raise broken(
                    line, "", f"{name[:64]!r} is no column of a trace; the columns are"
                    f" {', '.join(sorted(_COLUMN_NAMES))}. Rename it, or leave it out"
                )
            if name in names[:i]:
                raise broken(line, name, "the column occurs twice; leave one of them out")
            self.columns[i] = _COLUMN_NAMES.index(name)
        for name in ("account", "contact", "time"):
            if name not in names:
                raise broken(line, name, "the column is missing, and a trace needs it")
        if self.value_count > COLUMN_COUNT:
            raise broken(line, "", "there are more columns than a trace can have")
        self.column_count = self.value_count
        return at - start

    def read(self, bytes text not None, Py_ssize_t start, bint last, TraceRows rows not None):
        """Fills `rows` from `start` on, as far as there is room and the text holds whole rows, and
        returns where the next one starts. Raises InvalidArgument."""
        cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(text)
        cdef const uint8_t* end = data + PyBytes_GET_SIZE(text)
        cdef const uint8_t* at
        cdef const uint8_t* after
        if not 0 <= start <= PyBytes_GET_SIZE(text):
            raise ValueError("the rows start outside of the text")
        at = data + start
        rows.count = 0
        rows.text = text
        rows.kept = []
        while rows.count < rows.capacity:
            after = self.read_row(at, end, last, &rows.rows[rows.count], rows.kept)
            if after == NULL:
                break
            at = after
            rows.count += 1
        return at - data

    cdef const uint8_t* read_row(
        self, const uint8_t* at, const uint8_t* end, bint last, TraceRow* row, list kept
    ) except? NULL:
        # Reads one row and returns where the next one starts, NULL when there is none.
        cdef uint64_t before = self.line
        cdef uint64_t line = self.line
        cdef const uint8_t* after
        while at < end and (at[0] == b"\n" or (at[0] == b"\r" and at + 1 < end)):
            # Empty.
            if at[0] == b"\r" and at[1] != b"\n":
                break
            at += 1 + (at[0] == b"\r")
            line += 1
        self.line = line
        after = self.split(at, end, last, kept)
        if after == NULL:
            # What was passed over will be again.
            self.line = before
            return NULL
        row.line = line
        if not is_utf8(at, after - at):
            raise broken(line, "", "it is not UTF-8 text")
        if self.value_count != self.column_count:
            raise broken(
                line, "", f"it has {self.value_count} values, and there are"
                f" {self.column_count} columns"
            )
        self.fill(row)
        return after

    cdef const uint8_t* split(
        self, const uint8_t* at, const uint8_t* end, bint last, list kept
    ) except? NULL:
        # Splits one row into self.values, moves self.line behind it and returns where the next one
        # starts. NULL when it does not end here.
        cdef const uint8_t* start = at
        cdef uint64_t line = self.line
        cdef Slice value
        if at == end:
            return NULL
        self.value_count = 0
        while True:
            if at < end and at[0] == b'"':
                at = self.split_quoted(at + 1, end, last, line, &value, kept)
                if at == NULL:
                    require_short(end - start, line)
                    self.line = line
                    return NULL
            else:
                value.data = at
                while at < end and at[0] != b"," and at[0] != b"\n":
                    at += 1
                value.size = at - value.data
                if at < end and at[0] == b"\n" and value.size and (at - 1)[0] == b"\r":
                    value.size -= 1
            require_short(at - start, line)
            if self.value_count < COLUMN_COUNT:
                self.values[self.value_count] = value
            self.value_count += 1
            if at == end:
                if not last:
                    self.line = line
                    return NULL
                self.line += 1
                return at
            if at[0] == b"\n":
                self.line += 1
                return at + 1
            at += 1

    cdef const uint8_t* split_quoted(
        self, const uint8_t* at, const uint8_t* end, bint last, uint64_t line, Slice* value,
        list kept,
    ) except? NULL:
        # The value behind an opening quote, and where the comma or the end after it is; NULL when
        # it does not end here. `line` is where the row begins.
        cdef bint doubled = False
        value.data = at
        while True:
            if at == end:
                if last:
                    raise broken(line, "", "a value begins with a quote and has no other")
                return NULL
            if at[0] == b"\n":
                self.line += 1
            elif at[0] == b'"':
                if at + 1 == end or at[1] != b'"':
                    break
                doubled = True
                at += 1
            at += 1
        value.size = at - value.data
        at += 1
        if doubled:
            unescaped = value.data[: value.size].replace(b'""', b'"')
            kept.append(unescaped)
            value[0] = slice_of(unescaped)
        if at < end and at[0] == b"\r":
            at += 1
            if at == end and not last:
                return NULL
        if at == end or at[0] == b"\n" or (at[0] == b"," and (at - 1)[0] == b'"'):
            return at
        raise broken(line, "", "something follows the quote that ends a value; double it")

    cdef int fill(self, TraceRow* row) except -1:
        # The attempt whose values were split.
        cdef int i
        cdef int column
        cdef Slice value
        memset(&row.attempt, 0, sizeof(row.attempt))
        row.zone = NULL
        for i in range(self.column_count):
            column = self.columns[i]
            value = self.values[i]
            if column < DIMENSION_COUNT:
                if value.size > LABEL_BYTES_MAX:
                    raise broken(
                        row.line, _COLUMN_NAMES[column],
                        f"{value.size} bytes are more than the {LABEL_BYTES_MAX} of a value"
                    )
                row.attempt.fields[column] = value
            elif column == COLUMN_ACCOUNT:
                self.fill_account(value, row)
            elif column == COLUMN_TIME:
                self.fill_time(value, row)
            elif column == COLUMN_MESSAGE_COUNT:
                self.fill_message_count(value, row)
            elif value.size:
                row.attempt.contact_time_zone = value
                try:
                    row.zone = self.zones.rules_of(value, -1)
                except InvalidArgument as error:
                    raise broken(
                        row.line, "contact_time_zone", error.violations[0].description
                    ) from None
        if row.attempt.fields[DIMENSION_CONTACT].size == 0:
            raise broken(row.line, "contact", "it is empty, and every attempt is to somebody")
        return 0

    cdef int fill_account(self, Slice value, TraceRow* row) except -1:
        cdef uint32_t i
        cdef bint good = 0 < value.size <= ACCOUNT_BYTES_MAX
        if good:
            for i in range(value.size):
                good &= ACCOUNT_BYTES[value.data[i]]
        if not good:
            raise broken(
                row.line, "account",
                f"{shown(value)} is no account: 1 to {ACCOUNT_BYTES_MAX} of A-Z a-z 0-9 . _ ~ @"
                " + -"
            )
        row.attempt.account = value
        return 0

    cdef int fill_message_count(self, Slice value, TraceRow* row) except -1:
        cdef int64_t count = 0
        cdef uint32_t i
        for i in range(value.size):
            count = count * 10 + (value.data[i] - 0x30)
            if not 0x30 <= value.data[i] <= 0x39 or count > MESSAGE_COUNT_MAX:
                count = 0
                break
        if value.size and count == 0:
            raise broken(
                row.line, "message_count",
                f"{shown(value)} is not 1 to {MESSAGE_COUNT_MAX}; empty means 1"
            )
        row.attempt.message_count = count
        return 0

    cdef int fill_time(self, Slice value, TraceRow* row) except -1:
        cdef int found = parse_time(value, &row.time_ms)
        if found == TIME_GOOD:
            return 0
        if found == TIME_WITHOUT_OFFSET:
            raise broken(
                row.line, "time", f"{shown(value)} says no offset; end it in Z if it is UTC"
            )
        if found == TIME_OUT_OF_RANGE:
            raise broken(
                row.line, "time",
                f"{shown(value)} does not lie in the years 1970 to 2100; numbers are seconds since"
                " 1970"
            )
        raise broken(
            row.line, "time",
            f"{shown(value)} is no instant; write 2025-03-03T12:00:00Z, or seconds since 1970"
        )


# ---------------------------------------------------------------- traces out of order


cdef int compare(const void* first, const void* second) noexcept nogil:
    # By time; those of one instant stay in the order in which they came.
    cdef const Place* a = <const Place*>first
    cdef const Place* b = <const Place*>second
    if a.time_ms != b.time_ms:
        return -1 if a.time_ms < b.time_ms else 1
    return (a.offset > b.offset) - (a.offset < b.offset)


@cython.final
cdef class SortedTrace:
    """A whole trace in memory, to be read in the order of time. `reader` has read its columns; the
    rows may take up `bytes_max`."""

    def __cinit__(
        self, TraceReader reader not None, size_t bytes_max=bounds.TRACE_SORTED_BYTES_MAX
    ):
        self.reader = reader
        self.bytes_max = bytes_max

    def __dealloc__(self):
        free(self.text)
        free(self.places)

    def __len__(self):
        return self.count

    def add(self, bytes text not None, Py_ssize_t start, bint last):
        """Takes the whole rows of the text from `start` on, and returns where the first one starts
        that is not whole. Raises InvalidArgument, and ResourceExhausted beyond the ceiling."""
        cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(text)
        cdef const uint8_t* end = data + PyBytes_GET_SIZE(text)
        cdef const uint8_t* at = data + start
        cdef const uint8_t* after
        cdef TraceRow row
        if not 0 <= start <= PyBytes_GET_SIZE(text):
            raise ValueError("the rows start outside of the text")
        kept = []
        while True:
            after = self.reader.read_row(at, end, last, &row, kept)
            kept.clear()
            if after == NULL:
                return at - data
            self.note(&row, self.size)
            self.append(at, after - at)
            at = after

    def sort(self):
        """To be called once, when everything is in. Whether any row was out of order."""
        cdef Py_ssize_t i
        for i in range(1, self.count):
            if self.places[i].time_ms < self.places[i - 1].time_ms:
                qsort(self.places, self.count, sizeof(Place), compare)
                return True
        return False

    def read(self, Py_ssize_t start, TraceRows rows not None):
        """Fills `rows` from the row number `start` on, in the order of time; returns the number of
        the first one that is left."""
        cdef const Place* place
        rows.count = 0
        rows.text = None
        rows.kept = []
        while rows.count < rows.capacity and start < self.count:
            place = &self.places[start]
            self.reader.read_row(
                self.text + place.offset,
                self.text + self.size,
                True,
                &rows.rows[rows.count],
                rows.kept,
            )
            rows.rows[rows.count].line = place.line
            rows.count += 1
            start += 1
        return start

    cdef int append(self, const uint8_t* data, size_t size) except -1:
        cdef uint8_t* text
        cdef size_t capacity
        if self.size + size > self.bytes_max:
            raise ResourceExhausted(
                "TRACE_TOO_LARGE",
                f"the trace is not in the order of time, and larger than the {self.bytes_max}"
                " bytes that are sorted in memory; sort it by time first",
            )
        if self.size + size > self.capacity:
            capacity = max(2 * self.capacity, self.size + size)
            capacity = min(max(capacity, <size_t>1 << 16), self.bytes_max)
            text = <uint8_t*>realloc(self.text, capacity)
            if text == NULL:
                raise MemoryError
            self.text = text
            self.capacity = capacity
        memcpy(self.text + self.size, data, size)
        self.size += size
        return 0

    cdef int note(self, const TraceRow* row, size_t offset) except -1:
        cdef Place* places
        cdef Py_ssize_t capacity
        if self.count == self.place_capacity:
            capacity = 2 * self.place_capacity + 1024
            places = <Place*>realloc(self.places, capacity * sizeof(Place))
            if places == NULL:
                raise MemoryError
            self.places = places
            self.place_capacity = capacity
        places = &self.places[self.count]
        places.time_ms = row.time_ms
        places.offset = offset
        places.line = row.line
        self.count += 1
        return 0
