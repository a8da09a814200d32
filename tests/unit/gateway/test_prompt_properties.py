from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.gateway.prompt.errors import PromptError
from services.gateway.prompt.validate import PromptValidator, detect_format

VALIDATOR = PromptValidator()
MAX_CHARS = 2_000

PIECES = (
    *("<", ">", "/", "&", ";", "#", "x", "!", "?", "[", "]", "-", '"', "'", "=", ":", "%", "\n", "\r", "\t", " "),
    *("<caption>", "</caption>", "<character_1>", "</character_1>", "<n/>", "<general_tags>", "</general_tags>"),
    *("<image>", "</image>", "<own>", "</own>", "</prompt>", "<prompt>", "&amp;", "&#65;", "&#0;", "&x;", "]]>"),
    *("<!DOCTYPE a [", "<!ENTITY a 'b'>", "<!--", "-->", "<![CDATA[", "<?xml version='1.0'?>", "xmlns:a='b'", "a:b"),
    *("\x00", "\x85", "\ud800", "\udc00", "\ufeff", "\uffff", "\u3000", "é", "😀", "1girl, R&B", "x" * 65),
)
# st.text() leaves lone surrogates out unless asked for them.
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=300)
MARKUP = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)


def check(text: str, formats: tuple[str, ...] = ("xml", "text")) -> None:
    copy = text[:1] + text[1:]
    try:
        summary = VALIDATOR.validate(text, max_chars=MAX_CHARS, formats=formats)
    except PromptError as error:
        check_place(text, error)
        return
    assert summary.text is text
    assert text == copy
    assert summary.characters == len(text)
    assert summary.format == detect_format(text)
    assert summary.format in formats
    assert (summary.elements > 0) == (summary.format == "xml")


def check_place(text: str, error: PromptError) -> None:
    assert error.code.startswith("prompt_")
    assert error.code != "prompt_invalid"
    if error.line is None or error.column is None:
        assert error.line is error.column is None
        assert error.element is None
        return
    lines = text.split("\n")
    assert 1 <= error.line <= len(lines)
    assert 1 <= error.column <= len(lines[error.line - 1]) + 1


@settings(max_examples=120, deadline=None)
@given(ANY_TEXT)
@example("<" + "\udfff" * 3)
def test_any_text_gets_a_summary_or_a_refusal(text: str) -> None:
    check(text)


@settings(max_examples=200, deadline=None)
@given(MARKUP, st.sampled_from([("xml", "text"), ("xml",), ("text",)]))
def test_any_heap_of_markup_gets_a_summary_or_a_refusal(text: str, formats: tuple[str, ...]) -> None:
    check(text, formats)


@settings(max_examples=120, deadline=None)
@given(ANY_TEXT)
def test_any_text_in_an_element_gets_a_summary_or_a_refusal(text: str) -> None:
    check(f"<caption>{text}</caption>")
    check(f"<character_1><own>{text}</own></character_1>")
