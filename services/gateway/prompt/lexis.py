"""The letters of a prompt: which characters, tags and references it may hold, and where something stands in it.

What a tag may look like is a whitelist: ``<name>``, ``</name>`` or ``<name/>``. A text whose every ``<`` begins such a
tag holds no DTD, comment, CDATA section, processing instruction, attribute or namespace.
"""

from __future__ import annotations

import re
import sys
from typing import Final

MAX_NAME: Final = 64
MAX_ELEMENTS: Final = 400
MAX_DEPTH: Final = 8
XML_SPACE: Final = " \t\r\n"

# NCName of XML 1.0, fifth edition.
_NAME_START: Final = (
    "A-Z_a-z\xc0-\xd6\xd8-\xf6\xf8-\u02ff\u0370-\u037d\u037f-\u1fff\u200c\u200d\u2070-\u218f\u2c00-\u2fef"
    "\u3001-\ud7ff\uf900-\ufdcf\ufdf0-\ufffd\U00010000-\U000effff"
)
_NAME_REST: Final = f"{_NAME_START}.0-9\xb7\u0300-\u036f\u203f\u2040-"
_NAME: Final = rf"[{_NAME_START}][{_NAME_REST}]{{0,{MAX_NAME - 1}}}+"

# Groups: the name of an end tag, the name of a start tag, the slash of an empty element.
# Possessive throughout, so that no text can make it backtrack.
TAG: Final = re.compile(rf"<(?:/({_NAME})[{XML_SPACE}]*+|({_NAME})[{XML_SPACE}]*+(/?))>")
# The beginning of a tag that TAG did not take: slash, name of any length with colons, what follows it.
BROKEN_TAG: Final = re.compile(rf"<(/?)([:{_NAME_START}][:{_NAME_REST}]*+)([{XML_SPACE}]*+)(/?)")
ATTRIBUTE: Final = re.compile(rf"([:{_NAME_START}][:{_NAME_REST}]{{0,{MAX_NAME - 1}}}+)")

# What XML 1.0 forbids, and besides: DEL, the C1 controls and the byte order mark, which no one means to write.
FORBIDDEN: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufeff\ufffe\uffff]")

_PREDEFINED: Final = "(?:amp|lt|gt|quot|apos);"
_NUMBER: Final = "#(?:[0-9]++|x[0-9A-Fa-f]++);"
# An ampersand that begins no reference is text: "R&B" is a tag like any other.
BARE_AMPERSAND: Final = re.compile(f"&(?!{_PREDEFINED}|{_NUMBER})")
_ENTITY: Final = re.compile(f"&(?!{_PREDEFINED}){_NAME};")
_CHARACTER: Final = re.compile(f"&{_NUMBER}")
_MOST_DIGITS: Final = len(str(sys.maxunicode))


def illegal_reference(text: str) -> tuple[str, int] | None:
    """A reference to an entity that XML does not predefine or to a character that is not allowed, and its offset.

    The first of its kind, characters before entities.
    """
    # Each form once: fifty thousand references fit in a prompt.
    illegal = {reference for reference in set(_CHARACTER.findall(text)) if not _is_legal(reference)}
    if illegal:
        return next((found[0], found.start()) for found in _CHARACTER.finditer(text) if found[0] in illegal)
    entity = _ENTITY.search(text)
    return None if entity is None else (entity[0], entity.start())


def _is_legal(reference: str) -> bool:
    base = 16 if reference[2] == "x" else 10
    digits = reference[2:-1].lstrip("x0")
    # Bounded first: int() refuses thousands of digits with a ValueError.
    if not digits or len(digits) > _MOST_DIGITS:
        return False
    number = int(digits, base)
    return number <= sys.maxunicode and FORBIDDEN.match(chr(number)) is None


def position(text: str, offset: int) -> tuple[int, int]:
    """Line and column of an offset, both from 1, in characters."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)
