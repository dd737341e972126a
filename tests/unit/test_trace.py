"""Traces as text: columns, values, instants, and what is refused with its line."""

from __future__ import annotations

import csv
import gzip
import io
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from limiter import bounds, errors, zones
from limiter._trace import SortedTrace, TraceReader, TraceRows
from limiter.simulation import PolicySet, simulate_trace
from limiter.trace import TraceFile
from limiter.v1 import attempt_pb2, policy_pb2, simulation_pb2

DAY_MS = bounds.DAY_MS

# At most one message a day to each contact; one limit that shows who is who.
ONE_A_DAY = policy_pb2.Policy(
    name="policies/one",
    limits=[
        policy_pb2.Limit(
            limit_id="one",
            enforcement=policy_pb2.ENFORCEMENT_ENFORCED,
            cap=policy_pb2.Cap(
                measure=policy_pb2.MEASURE_MESSAGES,
                max_count=1,
                per=[attempt_pb2.DIMENSION_CONTACT],
                window=policy_pb2.Window(rolling=Duration(seconds=86_400)),
            ),
        )
    ],
)


def simulated(path: Path, text: bytes) -> simulation_pb2.SimulatePolicyResponse:
    path.write_bytes(text)
    return simulate_trace(PolicySet([ONE_A_DAY]), TraceFile(str(path)))


def read(text: bytes, room: int = 100) -> int:
    """How many rows a text has."""
    reader, rows = TraceReader(zones.zone), TraceRows(room)
    start = reader.begin(text, True)
    count = 0
    while True:
        start = reader.read(text, start, True, rows)
        count += len(rows)
        if len(rows) < room:
            assert text[start:].strip() == b""
            return count


def refused(text: bytes) -> str:
    with pytest.raises(errors.InvalidArgument) as caught:
        read(text)
    assert caught.value.reason == "TRACE_ROW"
    assert caught.value.message.startswith(f"line {caught.value.metadata['line']}: ")
    return caught.value.message


HEAD = b"account,contact,time\n"


def test_rows_end_in_either_way_and_may_be_empty() -> None:
    assert read(HEAD + b"a,b,1\nc,d,2\n") == 2
    assert read(HEAD + b"a,b,1\nc,d,2") == 2
    assert read(b"\xef\xbb\xbfaccount,contact,time\r\na,b,1\r\n\r\n\r\nc,d,2\r\n\r\n") == 2
    assert read(HEAD) == 0
    assert read(HEAD + b"\n\n") == 0


def test_columns_come_in_any_order_and_values_in_quotes(tmp_path: Path) -> None:
    text = (
        b"time,contact_time_zone,message_count,category,contact,account\n"
        b'2025-03-03T12:00:00Z,,,"a ""b"", c\nd",x,one\n'
        b'1741003201,Europe/Berlin,2,,"x",one\n'
    )
    found = simulated(tmp_path / "t.csv", text)
    assert (found.attempt_count, found.denied_count) == (2, 1)
    [row] = found.rows
    assert (row.account, row.day, row.limit_id) == ("one", "2025-03-03", "one")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "line 1: the trace is empty"),
        (b"account,contact\n", "line 1: time: the column is missing"),
        (b"account,contact,time,time\n", "line 1: time: the column occurs twice"),
        (b"account,contact,when\n", "line 1: 'when' is no column of a trace; the columns are acc"),
        (HEAD + b"a,b,1\na,b\n", "line 3: it has 2 values, and there are 3 columns"),
        (HEAD + b"a,b,1,\n", "line 2: it has 4 values"),
        (HEAD + b"a,b," + b"," * 20 + b"\n", "line 2: it has 23 values"),
        (HEAD + b"\n\na b,b,1\n", "line 4: account: 'a b' is no account"),
        (HEAD + b",b,1\n", "line 2: account: '' is no account"),
        (HEAD + b"a,,1\n", "line 2: contact: it is empty"),
        (HEAD + b"a," + b"x" * 257 + b",1\n", "line 2: contact: 257 bytes are more than the 256"),
        (HEAD + b"a,b\xff,1\n", "line 2: it is not UTF-8"),
        (HEAD + b'a,"b\n\n\n,1\n', "line 2: a value begins with a quote and has no other"),
        (HEAD + b'a,"b"c,1\n', "line 2: something follows the quote"),
        (HEAD + b"a,b,\n", "line 2: time: '' is no instant"),
        (HEAD + b"a,b,today\n", "line 2: time: 'today' is no instant"),
        (HEAD + b"a,b,-1\n", "line 2: time: '-1' is no instant"),
        (HEAD + b"a,b,1.\n", "line 2: time: '1.' is no instant"),
        (HEAD + b"a,b,1741003200000\n", "line 2: time: '1741003200000' does not lie in"),
        (HEAD + b"a,b,99999999999999999999999\n", "does not lie in the years 1970 to 2100"),
        (HEAD + b"a,b,1969-12-31T23:59:59Z\n", "does not lie in the years 1970 to 2100"),
        (HEAD + b"a,b,2025-03-03T12:00:00\n", "says no offset; end it in Z if it is UTC"),
        (HEAD + b"a,b,2025-02-29T12:00:00Z\n", "is no instant"),
        (HEAD + b"a,b,2025-03-03T24:00:00Z\n", "is no instant"),
        (HEAD + b"a,b,2025-03-03T12:00:00+1:00\n", "is no instant"),
        (HEAD + b"a,b,2025-03-03 12:00\n", "is no instant"),
        (b"account,contact,time,message_count\na,b,1,0\n", "message_count: '0' is not 1 to"),
        (b"account,contact,time,message_count\na,b,1,1000001\n", "message_count: '1000001' is"),
        (b"account,contact,time,message_count\na,b,1,x\n", "message_count: 'x' is not 1 to"),
        (
            b"account,contact,time,contact_time_zone\na,b,1,europe/berlin\n",
            "line 2: contact_time_zone: 'europe/berlin' is not a time zone; did you mean",
        ),
    ],
)
def test_what_breaks_a_rule_is_refused_with_its_line(text: bytes, said: str) -> None:
    assert said in refused(text)


def test_a_row_that_does_not_end_is_refused_in_good_time() -> None:
    reader, rows = TraceReader(zones.zone), TraceRows(10)
    reader.begin(HEAD, False)
    for text in (b'a,"', b"a,"):
        with pytest.raises(errors.InvalidArgument, match="longer than 65536 bytes"):
            reader.read(text + b"x" * 70_000, 0, False, rows)


def test_rows_come_whole_wherever_the_text_is_cut() -> None:
    text = b'time,account,contact,category\r\n1,a,b,"x,\r\n""y"""\r\n\r\n2,a,c,\r\n3,a,"d",z\r\n'
    for size in range(1, len(text) + 1):
        reader, rows = TraceReader(zones.zone), TraceRows(2)
        begun, count, left = False, 0, b""
        for start in range(0, len(text), size):
            left += text[start : start + size]
            last = start + size >= len(text)
            at = 0
            if not begun:
                at = reader.begin(left, last)
                begun = at > 0
            while begun:
                at = reader.read(left, at, last, rows)
                count += len(rows)
                if len(rows) < 2:
                    break
            left = left[at:]
        assert (count, left) == (3, b""), size
        # What comes next would begin on the line after the last.
        with pytest.raises(errors.InvalidArgument, match="line 7: "):
            reader.read(b"?", 0, True, rows)


INSTANTS = st.datetimes(datetime(1970, 1, 2), datetime(2100, 12, 30))  # noqa: DTZ001 - zones follow


@given(INSTANTS, st.integers(-23 * 60 - 59, 23 * 60 + 59), st.integers(0, 9))
def test_instants_are_what_python_says(local: datetime, minutes: int, digits: int) -> None:
    """Two attempts, a day apart to the millisecond or one less: only then the second is denied."""
    instant = local.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    cut = instant.replace(microsecond=instant.microsecond // 1000 * 1000)
    at_ms = (cut - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    sign, offset = "+-"[minutes < 0], abs(minutes)
    text = f"{local:%Y-%m-%dT%H:%M:%S}.{local.microsecond:06}{'0' * digits}"
    text += f"{sign}{offset // 60:02}:{offset % 60:02}"
    reader = TraceReader(zones.zone)
    for other_ms, earlier in ((at_ms - 1, True), (at_ms, False)):
        if other_ms < 0:
            continue
        rows = f"a,b,{text}\na,b,{other_ms // 1000}.{other_ms % 1000:03}\n".encode()
        reader = TraceReader(zones.zone)
        reader.begin(HEAD, False)
        kept = SortedTrace(reader)
        kept.add(rows, 0, True)
        assert kept.sort() is earlier


def shuffled_trace(count: int) -> tuple[bytes, bytes]:
    """The same attempts in the order of time, and in none; those of one second stay in order."""
    dice = random.Random(5)
    rows = [
        (f"a{dice.randrange(3)}", f"c{dice.randrange(50)}", 10**8 + n // 7) for n in range(count)
    ]
    spaced = [(account, contact, time * 11) for account, contact, time in rows]
    parts = [spaced[start : start + 7] for start in range(0, count, 7)]
    dice.shuffle(parts)
    return as_csv(spaced), as_csv([row for part in parts for row in part])


def as_csv(rows: Sequence[tuple[object, ...]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([("account", "contact", "time"), *rows])
    return text.getvalue().encode()


def test_rows_in_any_order_are_tried_in_that_of_time(tmp_path: Path) -> None:
    ordered, shuffled = shuffled_trace(3_500)
    assert ordered != shuffled
    found = simulated(tmp_path / "a.csv", ordered)
    assert 0 < found.denied_count < found.attempt_count == 3_500
    assert simulated(tmp_path / "b.csv", shuffled) == found


def test_compressed_traces_are_read_and_damaged_ones_refused(tmp_path: Path) -> None:
    ordered, shuffled = shuffled_trace(700)
    expected = simulated(tmp_path / "a.csv", ordered)
    path = tmp_path / "b.csv.gz"
    assert simulated(path, gzip.compress(ordered)) == expected
    assert simulated(path, gzip.compress(shuffled)) == expected
    with pytest.raises(OSError, match="too early"):
        simulated(path, gzip.compress(ordered)[:-20])


def test_a_trace_is_read_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ordered, shuffled = shuffled_trace(700)
    expected = simulated(tmp_path / "a.csv", ordered)
    monkeypatch.setattr(bounds, "TRACE_BLOCK_BYTES", 7)
    assert simulated(tmp_path / "b.csv", ordered) == expected
    assert simulated(tmp_path / "c.csv", shuffled) == expected


def test_only_so_much_is_sorted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = TraceReader(zones.zone)
    reader.begin(HEAD, False)
    kept = SortedTrace(reader, 20)
    with pytest.raises(errors.ResourceExhausted, match="sort it by time first"):
        kept.add(b"a,b,1\n" * 10, 0, True)
