"""Every ceiling of the service, in one place.

Nothing flows in; the other modules, extension modules too, read these at import and refuse what
goes beyond them before any work is done. What always holds is asserted at the end: a ceiling that
breaks a relation to another one cannot be imported.

Names end in their unit where the bare number would leave it open: `_BYTES` of UTF-8, `_MS`
milliseconds. `_MAX` is the largest value allowed, `_MIN` the smallest.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

# Units, to write the rest with.
SECOND_MS: Final = 1000
MINUTE_MS: Final = 60 * SECOND_MS
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS

# --- Requests -------------------------------------------------------------------------------------

# One message in either direction, which is gRPC's own default.
MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024

# Recipients of one CheckBatch or CommitBatch: they are decided at one instant, in one go.
BATCH_RECIPIENTS_MAX: Final = 10_000

# Recipients of one plan, as far as they fit into one message; and plans that are made at once: each
# takes some memory, and they share the time that is left beside decisions.
PLAN_RECIPIENTS_MAX: Final = 100_000
PLANS_MAX: Final = 4
PLAN_RETRY_AFTER_MS: Final = SECOND_MS

# Steps that one plan may take, about a tenth of a microsecond each. Many recipients who share a few
# contacts or addresses would take one for each pair of them.
PLAN_STEPS_MAX: Final = 20_000_000

# Limits that one request may carry with it.
INLINE_LIMITS_MAX: Final = 16

# Messages of one attempt.
MESSAGE_COUNT_MAX: Final = 1_000_000

# An account id: it is part of resource names and of commit ids, so its characters are few.
ACCOUNT_BYTES_MAX: Final = 128
ACCOUNT_PATTERN: Final = re.compile(r"[A-Za-z0-9._~@+-]{1,128}")

# Every other label of an attempt (contact, address, channel, …) and each value of a condition.
LABEL_BYTES_MAX: Final = 256

# A request_id. Kept in memory for the whole retention, which is why it is short.
REQUEST_ID_BYTES_MAX: Final = 64

# A recipient's own reference in a batch.
REFERENCE_BYTES_MAX: Final = 256

# Reservations are for the moments between a decision and a send, not for planning.
HOLD_DURATION_MS_MIN: Final = 1
HOLD_DURATION_MS_MAX: Final = HOUR_MS

# Commits of one account that are held at once: a denial may have to look at them all.
ACCOUNT_HOLDS_MAX: Final = 10_000

# How far back a message that is recorded late may have gone out, and how long a commit can be
# cancelled: what is older is in no window.
EVENT_AGE_MS_MAX: Final = 62 * DAY_MS

# --- Time -----------------------------------------------------------------------------------------

# Instants are milliseconds since 1970-01-01T00:00:00Z, in 1970 to 2100.
INSTANT_MS_MIN: Final = 0
INSTANT_MS_MAX: Final = int(datetime(2101, 1, 1, tzinfo=UTC).timestamp()) * SECOND_MS - 1

# How far ahead a retry_time is looked for.
RETRY_HORIZON_MS: Final = 400 * DAY_MS

# A window, rolling or of the calendar. The longest two months in a row last 62 days.
WINDOW_MS_MIN: Final = 1
WINDOW_MS_MAX: Final = 62 * DAY_MS

# Units of a calendar window: what fits into the longest window. A month may have 31 days, a week
# and a day may be an hour longer than usual.
CALENDAR_HOURS_MAX: Final = 1_488
CALENDAR_DAYS_MAX: Final = 62
CALENDAR_WEEKS_MAX: Final = 8
CALENDAR_MONTHS_MAX: Final = 2

# The same by the number of the unit in the API.
CALENDAR_COUNT_MAX: Final = {
    1: CALENDAR_HOURS_MAX,
    2: CALENDAR_DAYS_MAX,
    3: CALENDAR_WEEKS_MAX,
    4: CALENDAR_MONTHS_MAX,
}

# The name of an IANA time zone.
TIME_ZONE_BYTES_MAX: Final = 64

# Accounts, and limits, of one answer on what was decided of late; and for who names no number.
ACTIVITY_ROWS_MAX: Final = 100
ACTIVITY_ROWS_DEFAULT: Final = 10

# --- Policies -------------------------------------------------------------------------------------

# Dimensions of an attempt, and so the most that a counter can be keyed by.
DIMENSION_COUNT: Final = 9
PER_DIMENSIONS_MAX: Final = 9

# The maximum of a cap.
CAP_MAX_COUNT_MAX: Final = 10**12

# Tiers of a ramp, and ranges of hours: a decision looks through them.
RAMP_TIERS_MAX: Final = 366
HOURS_RANGES_MAX: Final = 28

# How long a break lasts.
PAUSE_MS_MIN: Final = 1
PAUSE_MS_MAX: Final = WINDOW_MS_MAX

# Limits of one policy, conditions of one match, values of one condition: every decision reads them
# all.
POLICY_LIMITS_MAX: Final = 32
MATCH_CONDITIONS_MAX: Final = 16
CONDITION_VALUES_MAX: Final = 64

# A name for people.
DISPLAY_NAME_BYTES_MAX: Final = 256

# Ids of policies, assignments and limits: the last part of a resource name.
RESOURCE_ID_BYTES_MAX: Final = 63
RESOURCE_ID_PATTERN: Final = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")

# A whole resource name: `accounts/{account}/assignments/{assignment}` and the room between.
RESOURCE_NAME_BYTES_MAX: Final = 256

# What a client sends back to say which version it means: an etag or a page token.
ETAG_BYTES_MAX: Final = 64
PAGE_TOKEN_BYTES_MAX: Final = 512

# Policies and assignments of the whole service.
POLICIES_MAX: Final = 10_000
ASSIGNMENTS_MAX: Final = 100_000

# One page of a list, and one for who names no size.
PAGE_SIZE_MAX: Final = 1_000
PAGE_SIZE_DEFAULT: Final = 100

# Kinds of counter of one account: every commit counts in all of them. Inline ones are part of the
# whole.
KINDS_MAX: Final = 64
INLINE_KINDS_MAX: Final = 16

# A counter of a new kind is filled from the account's past. So many recorded events are read while
# a call waits, ...
REBUILD_EVENTS_AT_ONCE: Final = 256
# ... and so many in one step of those that are filled in the background; either takes well under a
# millisecond.
REBUILD_EVENTS_A_STEP: Final = 256
# When a call that would have to wait for longer is to be repeated.
REBUILD_RETRY_MS: Final = 200
# Changes of one account's limits that are under way at once, the older ones holding on in part.
TRANSITIONS_MAX: Final = 16

# --- Access ---------------------------------------------------------------------------------------

# API keys, dead ones that are kept for the record among them.
API_KEYS_MAX: Final = 10_000

# What one key is for: its accounts, and its resources and campaigns.
KEY_ACCOUNTS_MAX: Final = 1_000
KEY_LABELS_MAX: Final = 64
CERTIFICATE_NAME_BYTES_MAX: Final = 256

# How long the secret before a rotation may stay good.
ROTATION_GRACE_MS_MAX: Final = 7 * DAY_MS

# Groups of the whole service, what is in one of them, and the groups that restrict one policy.
GROUPS_MAX: Final = 10_000
GROUP_LABELS_MAX: Final = 1_000
POLICY_GROUPS_MAX: Final = 64

# The record of who changed what, and of what policies were: the newest entries of all, the newest
# versions of one policy, and the size of all versions together. Older ones are forgotten.
AUDIT_ENTRIES_MAX: Final = 100_000
POLICY_VERSIONS_MAX: Final = 100
POLICY_VERSIONS_BYTES_MAX: Final = 64 * 1024 * 1024

# --- Accounts -------------------------------------------------------------------------------------

# Accounts with a time zone or allowed categories of their own, in the whole service, and the
# categories of one: every attempt to somebody who has opted out is compared with them.
CHANGED_ACCOUNTS_MAX: Final = 100_000
ALLOWED_CATEGORIES_MAX: Final = 64

# Who has opted out of one account's messages, how many one request names, and how many go into one
# event of the journal: an event is made at once, and read as a whole.
SUPPRESSIONS_MAX: Final = 1_000_000
SUPPRESSIONS_CHANGED_MAX: Final = 10_000
SUPPRESSIONS_NOTED_MAX: Final = 200

# The table of what they are called on disk: some 400 bytes each.
PEOPLE_BYTES_MAX: Final = 64 * 1024 * 1024 * 1024

# --- Counters -------------------------------------------------------------------------------------

# A message counter keeps this many of its newest instants as they are and sums older ones in
# buckets of its window divided by the same number. Caps up to it are exact to the millisecond.
EXACT_INSTANTS: Final = 1_440

# The messages after which a break is due: as many as can be told one by one.
PAUSE_AFTER_COUNT_MAX: Final = EXACT_INSTANTS

# A distinct counter lists up to this many members; beyond that a bitset and a ring of time buckets
# are cheaper, and the window is divided into this many of those.
DISTINCT_SPARSE_MAX: Final = 256
DISTINCT_BUCKETS: Final = 256

# Names (accounts, resources, campaigns, agents, …) that the journal gives a number to; they stay in
# memory.
NAMES_MAX: Final = 16_000_000

# --- Clock ----------------------------------------------------------------------------------------

# How far the wall clock may be behind the last journalled instant at start, and how far ahead: as
# long as something that was counted still counts. Beyond that every limit would open at once.
START_BEHIND_MS_MAX: Final = MINUTE_MS
START_AHEAD_MS_MAX: Final = WINDOW_MS_MAX

# --- Journal and request ids ----------------------------------------------------------------------

# Events that wait for the group in front of them to reach the disk. What arrives beyond that is
# refused before any work is done.
PENDING_JOURNAL_BYTES_MAX: Final = 4 * 1024 * 1024

# Beyond this an account is refused that holds more than its share of them: of the average that an
# account holds, or half where it is alone.
SHARED_JOURNAL_BYTES: Final = PENDING_JOURNAL_BYTES_MAX // 2

# The address space of a store, not its disk: the file is sparse and grows as it is written. Never
# resized.
STORE_MAP_BYTES: Final = 1 << 40

# One read transaction of the store takes this much at most, and at least one group.
STORE_READ_BYTES_MAX: Final = 8 * 1024 * 1024

# For how long, and how many, request ids of allowed commits are remembered.
REQUEST_ID_RETENTION_MS: Final = DAY_MS
REQUEST_IDS_MAX: Final = 20_000_000

# Commits that are held, or were undone within the reach of any window.
FATES_MAX: Final = 10_000_000

# Recorded events that one undo reads to find where a person then stands.
UNDO_WALK_EVENTS_MAX: Final = 10_000

# --- Images ---------------------------------------------------------------------------------------

# An account whose image is older than so many of its events, and one more for so many bytes that it
# takes in memory, gets a new one: to walk back further would take longer than to read that.
IMAGE_CHAIN_EVENTS_MAX: Final = 64
# ... and so many where memory is short, and accounts come back often.
IMAGE_CHAIN_EVENTS_TIGHT: Final = 12
IMAGE_BYTES_PER_CHAIN_EVENT: Final = 512

# An account that takes up to so much is written in one go, well below a millisecond; a larger one
# stands still meanwhile.
IMAGE_AT_ONCE_BYTES_MAX: Final = 256 * 1024

# Events that a start scans at most, about, since the newest baseline: a second or less.
BASELINE_LAG_EVENTS_MAX: Final = 2_000_000

# An account that nobody has asked for in so long leaves memory, whether there is room or not.
IDLE_SWEEP_MS: Final = 2 * HOUR_MS

# How long the journal is kept, and the least and most that it may be told to be.
HISTORY_MS_DEFAULT: Final = 32 * DAY_MS
HISTORY_MS_MIN: Final = 2 * DAY_MS
HISTORY_MS_MAX: Final = 400 * DAY_MS

# What a group takes on the disk beside its record: half a page, on average.
JOURNAL_GROUP_OVERHEAD_BYTES: Final = 2048

# The shares of the disk that the journal and the images may take; the restrictions log has a bound
# of its own.
JOURNAL_DISK_SHARE: Final = 0.6
IMAGES_DISK_SHARE: Final = 0.4
DISK_BYTES_MIN: Final = 256 * 1024 * 1024

# Calls that wait for accounts to be brought into memory.
PARKED_CALLS_MAX: Final = 10_000

# --- Simulations ----------------------------------------------------------------------------------

# One row of a trace, and a trace that is not in the order of time, which is sorted in memory.
TRACE_ROW_BYTES_MAX: Final = 64 * 1024
TRACE_SORTED_BYTES_MAX: Final = 1024 * 1024 * 1024

# What is read of a trace at once.
TRACE_BLOCK_BYTES: Final = 1024 * 1024

# What a simulation reports: a limit, an account and a day each. A server's reply is one message.
SIMULATION_ROWS_MAX: Final = 1_000_000
SIMULATION_REPLY_ROWS_MAX: Final = 12_000

# Simulations that a server runs at once, and what one of them remembers of an account.
SIMULATIONS_MAX: Final = 2
SIMULATION_HISTORY_BYTES_MAX: Final = 256 * 1024 * 1024

# --- The restrictions log -------------------------------------------------------------------------

# Rows of denials that wait to be logged, and the bytes of what they say. What comes beyond that is
# counted only.
DENIALS_PENDING_MAX: Final = 65_536
DENIAL_TEXT_BYTES_MAX: Final = 16 * 1024 * 1024

# How long restrictions are kept, in whole days of UTC.
RESTRICTIONS_RETENTION_MS_MIN: Final = DAY_MS
RESTRICTIONS_RETENTION_MS_MAX: Final = 400 * DAY_MS
RESTRICTIONS_RETENTION_MS_DEFAULT: Final = 90 * DAY_MS

# The size of the log on disk, and the least that it works with: one write may take a fifth of it.
RESTRICTIONS_BYTES_MIN: Final = 64 * 1024 * 1024
RESTRICTIONS_BYTES_DEFAULT: Final = 4 * 1024 * 1024 * 1024

# Restrictions that one call looks at to fill a page.
RESTRICTIONS_SCAN_MAX: Final = 10_000

# --- Connections ----------------------------------------------------------------------------------

# Calls under way at once, streams among them.
CONCURRENT_CALLS_MAX: Final = 10_000
CONCURRENT_STREAMS_MAX: Final = 1_000

# Requests of one stream that are decided and wait for their group or their turn to be answered.
STREAM_WINDOW_MAX: Final = 1_024

# Watchers of usage, in all and by one connection; how often one is told at most, and after what
# time it is looked once more whether there is something to tell.
WATCHERS_MAX: Final = 5_000
CONNECTION_WATCHERS_MAX: Final = 500
WATCH_INTERVAL_MS: Final = 100
WATCH_LOOK_MS_MAX: Final = DAY_MS

# How often it is looked whether the key behind an open stream is still good: who has it revoked
# finds the stream ended within a second.
CREDENTIAL_LOOK_MS: Final = 400

# When to come back after a refusal for load: a few groups later.
RETRY_AFTER_MS: Final = 50

# Connections at once, and calls of one of them.
CONNECTIONS_MAX: Final = 20_000
CONNECTION_STREAMS_MAX: Final = 1_000

# Flow control: what a client may have sent, unread, on one call and on one connection; and
# complete messages of one call that no handler has taken yet.
STREAM_WINDOW_BYTES: Final = 1024 * 1024
CONNECTION_WINDOW_BYTES: Final = 4 * 1024 * 1024
STREAM_UNREAD_BYTES_MAX: Final = 64 * 1024

# A request's header fields, by HTTP/2's measure: 32 bytes a field beside its name and value. They
# fit into one frame, and may come in a few.
HEADER_LIST_BYTES_MAX: Final = 16 * 1024
HEADER_CONTINUATIONS_MAX: Final = 8

# Fields of metadata that a handler gives with a reply, or with its end.
METADATA_FIELDS_MAX: Final = 48

# Calls of all connections together, what has come of requests that are not complete, on one
# connection and on all, and replies that one connection's client has not read.
OPEN_STREAMS_MAX: Final = 100_000
CONNECTION_UNREAD_BYTES_MAX: Final = 32 * 1024 * 1024
UNREAD_BYTES_MAX: Final = 512 * 1024 * 1024
CONNECTION_UNSENT_BYTES_MAX: Final = 16 * 1024 * 1024

# What is read from a socket at once.
READ_BUFFER_BYTES: Final = 256 * 1024

# How long the event loop deals with what has come before it looks round, and how much of that one
# account has while others wait.
TURN_MS_MAX: Final = 1.0
TURN_PART_MS_MAX: Final = 0.25

# What has come and waits for its turn: of one connection, which is then read no further for the
# moment, and of all.
CONNECTION_KEPT_BYTES: Final = 64 * 1024
KEPT_BYTES_MAX: Final = 64 * 1024 * 1024

# Pings, settings, resets and empty frames that a client may send at once, and then each second.
CONTROL_FRAMES_MAX: Final = 1_000
CONTROL_FRAMES_PER_S: Final = 50

# A connection is closed that has not said how it speaks HTTP/2 after this, that leaves a frame or
# a header unfinished or reads nothing of what waits for it, that does not end although it was told
# to, and that has no calls. A call ends whose request stays unfinished.
GREETING_MS_MAX: Final = 10 * SECOND_MS
FRAME_MS_MAX: Final = 20 * SECOND_MS
UNFINISHED_MS_MAX: Final = MINUTE_MS
STALL_MS_MAX: Final = MINUTE_MS
CLOSING_MS_MAX: Final = 10 * SECOND_MS
IDLE_MS_MAX: Final = 30 * MINUTE_MS

# A client that has said nothing for so long is asked whether it is there, and has so long to
# answer.
QUIET_MS_MAX: Final = MINUTE_MS
PING_MS_MAX: Final = 20 * SECOND_MS

# A connection takes no more calls after this, or up to a tenth earlier, so that clients come back
# at different times and spread over the servers; those under way have the grace to end.
AGE_MS_MAX: Final = HOUR_MS
AGE_GRACE_MS_MAX: Final = 5 * MINUTE_MS

# How long a server that was told to stop waits for the calls under way.
DRAIN_MS_MAX: Final = 10 * SECOND_MS

# --- Observation ----------------------------------------------------------------------------------

# Who reads metrics: how many at once, how much one may say, and how long it may take him.
METRICS_CONNECTIONS_MAX: Final = 16
METRICS_REQUEST_BYTES_MAX: Final = 16 * 1024
METRICS_REQUEST_MS_MAX: Final = 10 * SECOND_MS

# How long a server that stops waits for its last spans to be sent.
TRACES_CLOSE_MS_MAX: Final = 5 * SECOND_MS

# Faults that are counted one by one, by code and reason.
FAULT_REASONS_MAX: Final = 256

# What counts as a step of the machine's clock: time daemons that slew it stay far below.
CLOCK_STEP_MS_MIN: Final = 100


def _check(relation: bool, meaning: str) -> None:
    """Raises AssertionError with `meaning` unless the relation holds; not an assert statement, so
    that it holds under `python -O` too."""
    if not relation:
        raise AssertionError(f"limiter.bounds: {meaning}")


_check(
    BATCH_RECIPIENTS_MAX * 128 <= MESSAGE_BYTES_MAX,
    "a full batch of recipients with ids of ordinary size fits into one message",
)
_check(
    POLICY_LIMITS_MAX * MATCH_CONDITIONS_MAX * CONDITION_VALUES_MAX <= 2**15,
    "one policy's conditions can be tested within a decision",
)
_check(INLINE_LIMITS_MAX <= INLINE_KINDS_MAX, "the inline limits of one request fit by themselves")
_check(INLINE_KINDS_MAX < KINDS_MAX, "inline limits leave room for assigned ones")
_check(POLICY_LIMITS_MAX <= KINDS_MAX, "a full policy can be assigned")
_check(KINDS_MAX + 2 * INLINE_KINDS_MAX < 2**8, "the number of an account's kinds fits a byte")
_check(
    MESSAGE_COUNT_MAX < CAP_MAX_COUNT_MAX and CAP_MAX_COUNT_MAX * 2 < 2**63,
    "the sum of a maximum and an attempt is a 64-bit number",
)
_check(
    WINDOW_MS_MAX * EXACT_INSTANTS < 2**63 and EXACT_INSTANTS <= 2**16,
    "bucket arithmetic stays within 64 bits",
)
_check(
    max(EXACT_INSTANTS, CALENDAR_HOURS_MAX) + 64 < 2**14,
    "the places of a counter's rings are numbers of 16 bits",
)
_check(PAUSE_AFTER_COUNT_MAX <= EXACT_INSTANTS, "whether a break is due is known exactly")
_check(
    CAP_MAX_COUNT_MAX * 2 * (INSTANT_MS_MAX // DAY_MS) < 2**63,
    "a ramp that takes its largest step every day stays within 64 bits",
)
_check(PAUSE_MS_MIN <= PAUSE_MS_MAX < RETRY_HORIZON_MS, "every break ends within the horizon")
_check(WINDOW_MS_MIN <= WINDOW_MS_MAX < RETRY_HORIZON_MS, "every window passes within the horizon")
_check(
    HOLD_DURATION_MS_MAX < REQUEST_ID_RETENTION_MS,
    "the request_id of a hold is known until the hold has lapsed",
)
_check(
    EVENT_AGE_MS_MAX >= WINDOW_MS_MAX,
    "whatever still stands in a window can be cancelled",
)
_check(
    REQUEST_ID_RETENTION_MS < EVENT_AGE_MS_MAX,
    "that a request_id is spent is known for as long as it is remembered",
)
_check(ACCOUNT_HOLDS_MAX < FATES_MAX < 2**31, "fates can be indexed by 32 bits, at half load")
_check(
    INSTANT_MS_MAX + RETRY_HORIZON_MS + WINDOW_MS_MAX < 253_402_300_800_000,
    "no computed instant leaves the range of a Timestamp",
)
_check(
    CALENDAR_HOURS_MAX * HOUR_MS <= WINDOW_MS_MAX
    and CALENDAR_DAYS_MAX * DAY_MS <= WINDOW_MS_MAX
    and (CALENDAR_WEEKS_MAX * 7) * DAY_MS + HOUR_MS <= WINDOW_MS_MAX
    and CALENDAR_MONTHS_MAX * 31 * DAY_MS <= WINDOW_MS_MAX,
    "calendar windows, without changes of offset, are no longer than rolling ones",
)
_check(PER_DIMENSIONS_MAX <= DIMENSION_COUNT, "no dimension occurs twice in per")
_check(
    len("accounts//assignments/") + ACCOUNT_BYTES_MAX + RESOURCE_ID_BYTES_MAX
    <= RESOURCE_NAME_BYTES_MAX,
    "the longest resource name fits",
)
_check(ACCOUNT_PATTERN.fullmatch("a" * ACCOUNT_BYTES_MAX) is not None, "account ids agree")
_check(ACCOUNT_PATTERN.fullmatch("a" * (ACCOUNT_BYTES_MAX + 1)) is None, "account ids agree")
_check(RESOURCE_ID_PATTERN.fullmatch("a" * RESOURCE_ID_BYTES_MAX) is not None, "ids agree")
_check(RESOURCE_ID_PATTERN.fullmatch("a" * (RESOURCE_ID_BYTES_MAX + 1)) is None, "ids agree")
_check(PAGE_SIZE_DEFAULT <= PAGE_SIZE_MAX, "the page size for who names none is allowed")
_check(0 < DISTINCT_BUCKETS <= 2**15 and DISTINCT_SPARSE_MAX >= 16, "distinct counters have a form")
_check(NAMES_MAX < 2**24, "the number of a name fits into its field")
_check(
    BATCH_RECIPIENTS_MAX * 256 <= PENDING_JOURNAL_BYTES_MAX,
    "the events of one full batch of ordinary size can wait as one group",
)
_check(
    TRACE_ROW_BYTES_MAX >= (DIMENSION_COUNT + 4) * 2 * (LABEL_BYTES_MAX + 2),
    "a row whose values are as long as they may be, and all of quotes, fits",
)
_check(
    SIMULATION_REPLY_ROWS_MAX * (ACCOUNT_BYTES_MAX + RESOURCE_ID_BYTES_MAX + 96)
    <= MESSAGE_BYTES_MAX,
    "the rows of a simulation fit into one message",
)
_check(SIMULATION_ROWS_MAX < 2**31, "rows of a simulation can be indexed by 32 bits")
_check(
    BATCH_RECIPIENTS_MAX <= DENIALS_PENDING_MAX < 2**31
    and BATCH_RECIPIENTS_MAX * 1024 <= DENIAL_TEXT_BYTES_MAX,
    "a full batch of ordinary size that is denied can be logged as one",
)
_check(PAGE_SIZE_MAX <= RESTRICTIONS_SCAN_MAX, "one call can fill a page of restrictions")
_check(
    SUPPRESSIONS_CHANGED_MAX * LABEL_BYTES_MAX <= PENDING_JOURNAL_BYTES_MAX
    and SUPPRESSIONS_CHANGED_MAX * 18 <= MESSAGE_BYTES_MAX,
    "as many people as one request may name can wait as one group",
)
_check(SUPPRESSIONS_MAX < 2**31, "suppressions can be indexed by 32 bits, at half load")
_check(REQUEST_IDS_MAX < 2**32, "a table of request ids can be indexed by 32 bits")
_check(CONCURRENT_STREAMS_MAX <= CONCURRENT_CALLS_MAX, "streams are calls")
_check(
    CONNECTION_WATCHERS_MAX <= WATCHERS_MAX <= CONCURRENT_CALLS_MAX // 2,
    "watchers leave room for other calls",
)
_check(2 * CREDENTIAL_LOOK_MS < SECOND_MS, "a stream ends within a second of its key")
_check(
    MESSAGE_BYTES_MAX <= CONNECTION_UNREAD_BYTES_MAX <= UNREAD_BYTES_MAX,
    "one message can always come",
)
_check(
    CONNECTION_STREAMS_MAX <= OPEN_STREAMS_MAX and CONCURRENT_CALLS_MAX <= OPEN_STREAMS_MAX,
    "one connection can have all of its calls",
)
