"""From disk to a core, with images or without: for a server, or to be looked at.

What flows in: a journal, and images. What flows out: a core that stands where the journal ends, and
whether two of them are the same: replaying everything must lead to what the images say.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from limiter import errors, kinds, recovery
from limiter._core import Core
from limiter._fingerprint import fingerprint
from limiter._residence import Residence
from limiter.baseline import Baselines
from limiter.history import History
from limiter.image_store import ImageStore
from limiter.journal import FIRST_SEQUENCE, Journal
from limiter.keys import KeyStore
from limiter.policy import PolicyStore
from limiter.service.revisions import Revisions

__all__ = ["Kept", "Revived", "compare", "replay"]

_SHARD = 0

# Told what is being done, how much of it is done, and how much there is of it.
_OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Kept:
    """What images a core is put together from: its baselines, and what brings accounts back."""

    baselines: Baselines
    residence: Residence


def replay(
    journal: Journal,
    shard: int,
    core: Core,
    revisions: Revisions,
    on_progress: Callable[[recovery.Progress], None],
    *,
    kept: Kept | None = None,
    last: int | None = None,
) -> recovery.Recovered:
    """Puts the newest baseline back into a core, which is new, if there is one, and replays what
    lies behind it, up to the group `last` or the end. Blocks; as `recovery.recover` otherwise."""
    replayer: recovery.Replayer = core
    first = FIRST_SEQUENCE
    if kept is not None and kept.baselines.restore():
        replayer = kept.baselines.core
        first = kept.baselines.core.group
    recovered = recovery.recover(
        journal, shard, replayer, revisions.restore, on_progress, first=first, last=last
    )
    if kept is not None and replayer is not core:
        kept.residence.hold_again()
    return recovered


class Revived:
    """A core as the journal up to the group `last` leaves it, by way of the images if any are
    given. Raises DataLoss where something is not as it was written."""

    def __init__(
        self,
        key: bytes,
        journal: Journal,
        images: ImageStore | None,
        on_progress: _OnProgress,
        *,
        last: int | None = None,
    ) -> None:
        self.policies = PolicyStore()
        self.core = Core(key, self.policies.bind, kinds.define_kind)
        revisions = Revisions(self.core, self.policies, KeyStore())
        history = History(self.core, journal, _SHARD)
        self.core.recall_from(history)
        self.policies.rely_on_history(history.begins_ms)
        kept = None
        if images is not None:
            kept = Kept(
                Baselines(self.core, revisions, images),
                Residence(self.core, images, history, threading.Event),
            )

        def report(progress: recovery.Progress) -> None:
            on_progress("replaying the journal", progress.group_count, progress.group_total)

        self.recovered = replay(journal, _SHARD, self.core, revisions, report, kept=kept, last=last)
        self.core.rebuild.finish()


def compare(lived: Revived, imaged: Revived, images: ImageStore, on_progress: _OnProgress) -> int:
    """Brings every account that has an image back from it, and compares it with the one that lived
    through everything; returns how many there are. Raises DataLoss at the first that differs."""
    accounts = list(images.accounts())
    for place, account in enumerate(accounts):
        on_progress("comparing the images", place + 1, len(accounts))
        # Brings it back, and with it the instant by which its image was written.
        fingerprint(imaged.core, account, 0)
        now_ms = max(lived.core.last_event_ms, imaged.core.last_event_ms)
        if fingerprint(imaged.core, account, now_ms) != fingerprint(lived.core, account, now_ms):
            raise errors.DataLoss(
                "IMAGE_DIFFERS",
                f"the image of account number {account} does not agree with the journal: stop the"
                " server and remove the folder `images`; the next start makes them anew",
            )
    return len(accounts)
