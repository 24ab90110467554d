"""A key can be a word of any command line and cannot be guessed."""

from __future__ import annotations

from palmette.gateway.key import KEY_LENGTH, new_key


def test_keys_begin_with_a_letter_and_never_repeat() -> None:
    keys = {new_key() for _ in range(5000)}
    assert len(keys) == 5000
    assert {len(key) for key in keys} == {KEY_LENGTH}
    assert all(key[0].isalpha() for key in keys)
    assert len({key[-1] for key in keys}) == 64
