from __future__ import annotations

import pytest

from shared.auth.keys import generate_key, hash_key, prefix_of


def test_generated_keys_have_the_form_of_keys_and_differ() -> None:
    made = {generate_key() for _ in range(50)}
    assert len(made) == 50
    assert all(prefix_of(key) == key[4:12] for key in made)


def test_a_hash_depends_on_every_character_of_the_key_and_on_the_pepper() -> None:
    key = generate_key()
    changed = key[:-1] + ("a" if key[-1] != "a" else "b")
    assert len({hash_key(key, "pepper"), hash_key(changed, "pepper"), hash_key(key, "other")}) == 3


@pytest.mark.parametrize(
    "text",
    [
        *("", "atl_", "atl_0123456_" + "a" * 43, "ATL_01234567_" + "a" * 43, "atl_01234567_short", "x" * 10_000),
        *("atl_01234567_" + "a" * 65, "atl_01234567_" + "a" * 43 + "\n", "atl_01234567_" + "a" * 43 + " "),
    ],
)
def test_what_has_not_the_form_of_a_key_has_no_prefix(text: str) -> None:
    assert prefix_of(text) is None
