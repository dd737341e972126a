# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""How much the core holds: what a monitoring system is told of it.

In: a core. Out: numbers that are kept anyway, read without looking at anything they count.
"""

from limiter._core cimport Core


def census(Core core not None):
    """What is in memory now, by name: accounts, names, request_ids, held_commits, undone_commits,
    pending_events and pending_bytes (of the group that the journal has not taken yet)."""
    return {
        "accounts": core.accounts.count,
        "names": core.accounts.names.size,
        "request_ids": core.requests.size,
        "held_commits": core.past.fates.held_count,
        "undone_commits": core.past.fates.undone_size,
        "pending_events": core.recorder.buffer.count,
        "pending_bytes": core.recorder.buffer.size,
    }
