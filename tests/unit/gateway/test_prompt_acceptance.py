from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.gateway.prompt.errors import PromptError
from services.gateway.prompt.validate import PromptSummary, PromptValidator, detect_format
from services.gateway.prompt.vocabulary import CHARACTER_TAGS, GENERAL_TAGS

PROMPTS = Path(__file__).parent / "prompts"
MAX_CHARS = 100_000


@pytest.fixture(scope="module")
def validator() -> PromptValidator:
    return PromptValidator()


def prompt(name: str) -> str:
    return (PROMPTS / f"{name}.txt").read_text(encoding="utf-8")


def test_the_models_reference_prompt_passes_as_written(validator: PromptValidator) -> None:
    text = prompt("reference")

    assert all(part in text for part in (r"\(", "$character_1$", "R&B", " & ", "<n></n>"))
    assert validator.validate(text, formats=("xml",), max_chars=MAX_CHARS) == PromptSummary(
        text=text,
        format="xml",
        characters=len(text),
        elements=24,
    )


@pytest.mark.parametrize(
    ("name", "elements"),
    [("gemma", 14), ("assembler", 13), ("negative", 1)],
)
def test_the_forms_of_other_tools_pass(validator: PromptValidator, name: str, elements: int) -> None:
    summary = validator.validate(prompt(name), formats=("xml",), max_chars=MAX_CHARS)

    assert summary.elements == elements


@pytest.mark.parametrize("newline", ["\r\n", "\r", ""])
def test_line_ends_do_not_matter(validator: PromptValidator, newline: str) -> None:
    text = prompt("reference").replace("\n", newline)

    assert validator.validate(text, max_chars=MAX_CHARS).text is text


@pytest.mark.parametrize("tag", CHARACTER_TAGS)
def test_every_known_tag_of_a_character_passes(validator: PromptValidator, tag: str) -> None:
    assert validator.validate(f"<character_1><{tag}>a</{tag}></character_1>", max_chars=MAX_CHARS).elements == 2


@pytest.mark.parametrize("tag", GENERAL_TAGS)
def test_every_known_general_tag_passes(validator: PromptValidator, tag: str) -> None:
    text = f"<general_tags><{tag}>a</{tag}></general_tags>"

    assert validator.validate(text, max_chars=MAX_CHARS).elements == 2


def test_ten_characters_pass_in_any_order(validator: PromptValidator) -> None:
    text = "<caption/>" + "".join(f"<character_{number}/>" for number in range(10, 0, -1)) + "<general_tags/>"

    assert validator.validate(text, max_chars=MAX_CHARS).elements == 12


@pytest.mark.parametrize("tag", ["mood", "mood-2.x", "_x", "x" * 64, "カラー", "own_0", "prompt", "count"])
def test_a_clients_own_tags_pass(validator: PromptValidator, tag: str) -> None:
    text = f"<character_1><{tag}>a</{tag}><{tag} /></character_1><general_tags><{tag}>b</{tag} ></general_tags>"

    assert validator.validate(text, max_chars=MAX_CHARS).elements == 5


def test_four_hundred_elements_pass(validator: PromptValidator) -> None:
    text = "<character_1>" + "".join(f"<x{number}/>" for number in range(399)) + "</character_1>"

    assert validator.validate(text, max_chars=MAX_CHARS).elements == 400


@pytest.mark.parametrize(
    "text",
    [
        "R&B",
        "&",
        "&&&;",
        "a & b",
        "&#;",
        "&#x;",
        "&#xZZ;",
        "&#X41;",
        "&amp",
        "&AMP",
        "&amp &lt",
        "&amp;&lt;&gt;&quot;&apos;",
        "&#65;&#x1F600;&#0000000065;&#9;",
        "a > b >_>",
        "(tag:1.2), [[x]], {y}, ]]",
        r"star_\(symbol\)",
        "$character_1$ %p; \"quoted\" 'single'",
        "日本語 😀 \u200d \u00a0",
        "\t\n",
        "a" * 50_000,
    ],
)
def test_text_in_an_element_may_be_anything_but_markup(validator: PromptValidator, text: str) -> None:
    for whole in (f"<caption>{text}</caption>", f"<general_tags>\n<x>{text}</x>\n</general_tags>"):
        assert validator.validate(whole, max_chars=MAX_CHARS).text is whole


@pytest.mark.parametrize(
    "text", ["a cat on a roof", "1girl, >_<, R&B, &nbsp;", "masterpiece, <caption>a cat</caption>", "a" * 100_000]
)
def test_plain_text_passes_where_the_model_takes_it(validator: PromptValidator, text: str) -> None:
    expected = PromptSummary(text=text, format="text", characters=len(text))

    assert validator.validate(text, formats=("text",), max_chars=MAX_CHARS) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("<a/>", "xml"), (" \r\n\t<", "xml"), ("\u3000<a/>", "xml"), ("a <b/>", "text"), ("", "text"), ("&lt;", "text")],
)
def test_what_begins_with_an_angle_bracket_is_xml(text: str, expected: str) -> None:
    assert detect_format(text) == expected


def test_the_length_limit_is_inclusive(validator: PromptValidator) -> None:
    assert validator.validate("cats", max_chars=4).characters == 4


def test_a_summary_does_not_show_its_text(validator: PromptValidator) -> None:
    assert "secret" not in repr(validator.validate("<caption>secret</caption>", max_chars=MAX_CHARS))


def test_threads_share_one_validator(validator: PromptValidator) -> None:
    good, bad = prompt("reference"), "<caption/>\n<own_tag/>"

    def check(number: int) -> str:
        try:
            return validator.validate(bad if number % 2 else good, max_chars=MAX_CHARS).format
        except PromptError as error:
            return f"{error.code} {error.line}"

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(check, range(800)))

    assert answers == ["xml", "prompt_schema_violation 2"] * 400
