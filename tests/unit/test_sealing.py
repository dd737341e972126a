"""What is sealed opens again, for its folder, purpose and place alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter import errors
from limiter.sealing import OVERHEAD_BYTES, Sealer

KEY = bytes(range(32))


@given(st.binary(max_size=400), st.binary(max_size=40))
def test_what_is_sealed_opens_again_after_a_restart(plain: bytes, associated: bytes) -> None:
    sealed = Sealer(KEY, "tests").seal(plain, associated)
    assert len(sealed) == len(plain) + OVERHEAD_BYTES
    assert Sealer(KEY, "tests").open(sealed, associated) == plain


def test_nothing_of_the_text_is_left_in_sight() -> None:
    sealed = Sealer(KEY, "tests").seal(b"ada@example.org")
    assert b"ada" not in sealed
    assert b"example" not in sealed


def test_no_two_texts_are_sealed_alike() -> None:
    sealers = [Sealer(KEY, "tests") for _ in range(10)]
    heads = {sealer.seal(b"the same")[:24] for sealer in sealers for _ in range(100)}
    assert len(heads) == 1000


def test_any_other_key_purpose_or_place_opens_nothing() -> None:
    sealed = Sealer(KEY, "tests").seal(b"secret", b"here")
    for sealer, associated in (
        (Sealer(bytes(32), "tests"), b"here"),
        (Sealer(KEY, "others"), b"here"),
        (Sealer(KEY, "tests"), b"there"),
        (Sealer(KEY, "tests"), b""),
    ):
        with pytest.raises(errors.DataLoss, match="cannot be opened") as caught:
            sealer.open(sealed, associated)
        assert caught.value.reason == "SEALED_DATA_DAMAGED"


def test_a_damaged_text_opens_nothing() -> None:
    sealer = Sealer(KEY, "tests")
    sealed = sealer.seal(b"secret")
    for place in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[place] ^= 1
        with pytest.raises(errors.DataLoss):
            sealer.open(bytes(damaged))
    for length in range(len(sealed)):
        with pytest.raises(errors.DataLoss):
            sealer.open(sealed[:length])
