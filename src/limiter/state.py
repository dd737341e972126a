"""Everything that stands on one opening of the data folder, and falls with it.

What flows in: the journal and the images as they are on disk. What flows out: a core with its
policies and keys that stands where the journal ends, and the parts that write behind the calls:
group commit, images, arrivals of accounts, rebuilds, lapses.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from limiter import errors, kinds, recovery
from limiter._core import Core
from limiter._residence import Residence
from limiter._suppressions import Suppressions
from limiter.baseline import Baselines
from limiter.clock import Clock
from limiter.history import History, first_position
from limiter.image_store import ImageStore
from limiter.imaging import Imaging
from limiter.journal import GroupCommitter, GroupWatch
from limiter.keys import KeyStore
from limiter.lapsing import Lapses
from limiter.people import People, settle_at_start
from limiter.people_store import PeopleStore
from limiter.policy import PolicyStore
from limiter.rebuilding import Rebuilding
from limiter.residence import Arrivals
from limiter.restrictions import RestrictionLog
from limiter.reviving import Kept, replay
from limiter.service.revisions import Revisions
from limiter.store import LmdbJournal
from limiter.trimming import Trimming

__all__ = ["Keeping", "State"]

_log: Final = logging.getLogger(__name__)

# How often a long recovery says how far it is.
_PROGRESS_INTERVAL_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Keeping:
    """What is kept where: about how much memory accounts may take (0: all there is), for how long
    the journal is kept, and after how many events a baseline is taken."""

    memory_bytes: int
    history_ms: int
    lag_events_max: int


class State:
    """The state of one shard. `recover` it, then `begin`; `close` it in any case, which closes the
    journal and the images too."""

    def __init__(
        self,
        journal: LmdbJournal,
        images: ImageStore,
        digest_key: bytes,
        restrictions: RestrictionLog | None,
        *,
        people: PeopleStore,
        shard: int,
    ) -> None:
        self.journal = journal
        self.images = images
        self.folder_key = digest_key
        self._people_store = people
        self.people = People(people)
        self.policies = PolicyStore()
        self.core = Core(digest_key, self.policies.bind, kinds.define_kind)
        if restrictions is not None:
            self.core.tell_denials(restrictions.buffer)
        self.keys = KeyStore()
        self.revisions = Revisions(self.core, self.policies, self.keys)
        self.history = History(self.core, journal, shard)
        self.core.recall_from(self.history)
        self.policies.rely_on_history(self.history.begins_ms)
        self.baselines = Baselines(self.core, self.revisions, images)
        self.residence = Residence(self.core, images, self.history, threading.Event)
        self._shard = shard
        self._committer: GroupCommitter | None = None
        self._rebuilding: Rebuilding | None = None
        self._arrivals: Arrivals | None = None
        self._imaging: Imaging | None = None
        self.lapses: Lapses | None = None

    @property
    def committer(self) -> GroupCommitter:
        """Group commit, once the state has begun."""
        assert self._committer is not None
        return self._committer

    @property
    def rebuilding(self) -> Rebuilding:
        """What fills new counters, once the state has begun."""
        assert self._rebuilding is not None
        return self._rebuilding

    @property
    def arrivals(self) -> Arrivals:
        """What brings accounts into memory, once the state has begun."""
        assert self._arrivals is not None
        return self._arrivals

    @property
    def imaging(self) -> Imaging:
        """What writes images, once the state has begun."""
        assert self._imaging is not None
        return self._imaging

    def recover(self, stopping: threading.Event) -> recovery.Recovered:
        """Puts the newest baseline back and replays what lies behind it; blocks. Raises Unavailable
        soon after `stopping` is set."""
        said_s = time.monotonic()

        def go_on() -> None:
            if stopping.is_set():
                raise errors.Unavailable("DRAINING", "the server was stopped while it started")

        def report(progress: recovery.Progress) -> None:
            nonlocal said_s
            go_on()
            if time.monotonic() - said_s >= _PROGRESS_INTERVAL_S:
                said_s = time.monotonic()
                _log.info(
                    "recovering",
                    extra={
                        "group_count": progress.group_count,
                        "group_total": progress.group_total,
                        "event_count": progress.event_count,
                    },
                )

        begun_s = time.monotonic()
        recovered = replay(
            self.journal,
            self._shard,
            self.core,
            self.revisions,
            report,
            kept=Kept(self.baselines, self.residence),
        )
        self.residence.keep_from(first_position(self.journal.head(self._shard)))
        settle_at_start(self._people_store, Suppressions(self.core), self.folder_key, go_on)
        # What was in force before is in force again from the first call on.
        self.core.rebuild.finish()
        # Before anything is promised: is this a journal that can be written?
        self.journal.check_writable()
        _log.info(
            "recovered",
            extra={
                "group_count": recovered.group_count,
                "event_count": recovered.event_count,
                "policy_revision": self.policies.revision,
                "duration_ms": int((time.monotonic() - begun_s) * 1000),
            },
        )
        return recovered

    def begin(
        self,
        recovered: recovery.Recovered,
        keeping: Keeping,
        clock: Clock,
        on_failure: Callable[[errors.Unavailable], None],
        watch: GroupWatch,
    ) -> None:
        """Begins to write, on the running event loop. `on_failure` is called once, should the
        journal fail; `watch` is told of each group."""
        self._committer = GroupCommitter(
            self.journal,
            self.history,
            shard=self._shard,
            tail=recovered.tail,
            tail_checksum=recovered.tail_checksum,
            on_failure=on_failure,
            watch=watch,
        )
        self._rebuilding = Rebuilding(self.core, self.policies)
        self._arrivals = Arrivals(self.residence, self.images, self.history)
        trimming = Trimming(
            self.journal,
            self._shard,
            self.history,
            keeping.history_ms,
            self.journal.quota_bytes,
        )
        self._imaging = Imaging(
            self.core,
            self._arrivals,
            self.images,
            self.baselines,
            committer=self._committer,
            clock=clock,
            trimming=trimming,
            memory_bytes=keeping.memory_bytes,
            lag_events_max=keeping.lag_events_max,
        )

    async def close(self) -> None:
        """Writes what is pending and closes the stores. Raises Unavailable if that failed."""
        if self.lapses is not None:
            self.lapses.close()
        try:
            if self._imaging is not None:
                await self._imaging.close()
            if self._arrivals is not None:
                await self._arrivals.close()
            if self._rebuilding is not None:
                await self._rebuilding.close()
            if self._committer is not None:
                await self._committer.close()
        finally:
            await self.people.close()
            self.journal.close()
            self.images.close()
