"""The tags of NewBie prompts, as schema.rng has them. The schema decides; these names make its refusals readable."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Final

MAX_CHARACTERS: Final = 10

CHARACTERS: Final = tuple(f"character_{number}" for number in range(1, MAX_CHARACTERS + 1))
CHARACTER_TAGS: Final = (
    "n",
    "name",
    "gender",
    "appearance",
    "clothing",
    "expression",
    "action",
    "interaction",
    "position",
    "body_type",
)
GENERAL_TAGS: Final = (
    "count",
    "style",
    "background",
    "atmosphere",
    "quality",
    "objects",
    "other",
    "artists",
    "environment",
    "perspective",
    "lighting",
    "resolution",
    "body_type",
    "extra_tags",
)
# Text-only elements of the top level (and of <image>).
TOP_LEVEL_TEXTS: Final = frozenset({"caption", "style", "danbooru_tags"})
TOP_LEVEL: Final = frozenset({*CHARACTERS, *TOP_LEVEL_TEXTS, "general_tags", "image"})
# Inside a character or general_tags these mean a forgotten end tag, not a client's own tag.
STRUCTURAL: Final = TOP_LEVEL - {"style"}
KNOWN: Final = TOP_LEVEL.union(CHARACTER_TAGS, GENERAL_TAGS)

EXAMPLE: Final = "<character_1><n></n><gender>1girl</gender></character_1>"
_TOP_LEVEL_IN_WORDS: Final = (
    f"<character_1> to <character_{MAX_CHARACTERS}>, <general_tags>, <caption>, <style>, <image> and <danbooru_tags>"
)


def unknown_top_level(name: str) -> str:
    """What to tell a client about a top-level element that is not known."""
    close = get_close_matches(name.lower(), sorted(TOP_LEVEL), n=1, cutoff=0.75)
    hint = f"; did you mean <{close[0]}>?" if close else ""
    return f"<{name}> is not known at the top level; known there are {_TOP_LEVEL_IN_WORDS}{hint}"
