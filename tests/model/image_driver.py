"""A core whose accounts leave memory before every call, and which restarts from images.

Who asks it meets nothing but accounts that were brought back: from an image and from the events
behind it, in every mixture. It must answer as a core that keeps all in memory.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence

from google.protobuf.message import Message

from limiter import kinds, zones
from limiter._commitments import Commitments
from limiter._core import Core
from limiter._hot import Decider
from limiter._residence import Residence, Still
from limiter._suppressions import Person, Suppressions
from limiter.baseline import Baselines
from limiter.history import first_position
from limiter.keys import KeyStore
from limiter.policy import PolicyStore
from limiter.service.revisions import Revisions
from limiter.v1 import account_pb2, commitment_pb2, plan_pb2, policy_pb2
from tests.model.driver import DIGEST_KEY, CoreDriver, Reply
from tests.unit.memory_images import MemoryImages


class ImageDriver(CoreDriver):
    """The state machine, with images in memory. Which accounts are written when, and when a
    baseline is taken, is drawn from a seed of its own, so that a story has one outcome."""

    def __init__(self, now_ms: int) -> None:
        self._dice = random.Random(now_ms)
        self._images = MemoryImages()
        super().__init__(now_ms)

    def _start(self) -> None:
        self._store = PolicyStore()
        self._core = Core(DIGEST_KEY, self._store.bind, kinds.define_kind)
        revisions = Revisions(self._core, self._store, KeyStore())
        self._core.recall_from(self)
        self._baselines = Baselines(self._core, revisions, self._images)
        self._residence = Residence(self._core, self._images, self, threading.Event)
        restored = self._baselines.restore()
        replay = self._baselines.core.replay if restored else self._core.replay
        first = self._baselines.core.group if restored else 1
        for number, events in self._groups[first - 1 :]:
            replay(number, events, revisions.restore)
        if restored:
            self._residence.hold_again()
        self._core.rebuild.finish()
        self._decider = Decider(self._core, kinds.compile_inline, zones.zone)
        self._commitments = Commitments(self._core)
        self._suppressions = Suppressions(self._core)

    def churn(self) -> None:
        """Writes some images, perhaps a baseline, and lets all accounts go that may."""
        self._journal()
        start = 0
        while True:
            here, _, start = self._residence.unwritten(start, 3)
            for account in here:
                if self._dice.random() < 0.3:
                    self._write(account)
            if not start:
                break
        if self._dice.random() < 0.1:
            self.take_baseline()
            for records in self._baselines.obsolete():
                self._images.write(records)
        for _ in range(2):
            is_over = False
            while not is_over:
                is_over, _ = self._residence.sweep(10, 0, len(self._groups), False)

    def _write(self, account: int) -> None:
        image = self._residence.write(account, self.now_ms)
        if image is None:
            return
        if isinstance(image, Still):
            image.write()
            self._residence.go_on(image)
        whole = self._images.whole_record(account, image.part(0, len(image)))
        self._images.write([whole, self._images.clock_record(self._core.last_event_ms)])
        self._residence.written(image, True)

    def _decide(self, ask: Callable[[bytes, int], Reply], request: Message) -> Reply:
        self.churn()
        return super()._decide(ask, request)

    def apply(
        self, policies: Sequence[policy_pb2.Policy], assignments: Sequence[policy_pb2.Assignment]
    ) -> bool:
        self.churn()
        return super().apply(policies, assignments)

    def set_account(self, account: account_pb2.Account) -> None:
        self.churn()
        super().set_account(account)

    def opt(self, account: str, people: Sequence[Person], out: bool) -> int:
        self.churn()
        return super().opt(account, people, out)

    def opted_out(self, account: str) -> list[Person]:
        self.churn()
        return super().opted_out(account)

    def plan(self, request: plan_pb2.PlanRequest) -> plan_pb2.PlanResponse:
        self.churn()
        return super().plan(request)

    def cancel(self, request: commitment_pb2.CancelRequest) -> commitment_pb2.CancelResponse:
        self.churn()
        return super().cancel(request)

    def confirm(self, request: commitment_pb2.ConfirmRequest) -> commitment_pb2.ConfirmResponse:
        self.churn()
        return super().confirm(request)

    def fork(self) -> CoreDriver:
        other = ImageDriver(self.now_ms)
        other._groups = list(self._groups)
        other._images.records.update(self._images.records)
        other._start()
        return other

    def write_all(self) -> None:
        """Writes an image of every account that has changed, and a baseline."""
        here, _, start = self._residence.unwritten(0, 1_000)
        assert not start
        for account in here:
            self._write(account)
        self.take_baseline()

    def take_baseline(self) -> None:
        """Takes a baseline, all at once."""
        for records in self._baselines.take():
            self._images.write(records)
        self._images.write(self._baselines.head())
        self._baselines.is_written()

    def image_sizes(self) -> list[int]:
        """How many bytes each account's image has."""
        return [len(self._images.get(account) or b"") for account in self._images.accounts()]

    def forget_numbers(self) -> None:
        """Images leave those out whom nothing counts, as if the journal had been trimmed."""
        self._residence.keep_from(first_position(len(self._groups) + 1))
