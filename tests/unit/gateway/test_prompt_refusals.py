from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from services.gateway.prompt.errors import (
    PromptEmptyError,
    PromptError,
    PromptFormatError,
    PromptNotXmlError,
    PromptStructureError,
    PromptTooLongError,
)
from services.gateway.prompt.validate import PromptValidator
from shared.domain.errors import RequestError
from tests.unit.gateway.prompts.hostile import HOSTILE

if TYPE_CHECKING:
    from tests.unit.gateway.prompts.hostile import Hostile

NO_LIMIT = 10_000_000


@pytest.fixture(scope="module")
def validator() -> PromptValidator:
    return PromptValidator()


def refusal(validator: PromptValidator, prompt: str, *, max_chars: int = NO_LIMIT) -> PromptError:
    with pytest.raises(PromptError) as caught:
        validator.validate(prompt, max_chars=max_chars)
    return caught.value


@pytest.mark.parametrize("hostile", HOSTILE, ids=[f"{one.code}: {one.name}" for one in HOSTILE])
def test_a_hostile_prompt_is_refused_with_its_code_and_place(validator: PromptValidator, hostile: Hostile) -> None:
    error = refusal(validator, hostile.prompt)

    assert (error.code, error.line, error.column, error.element) == (
        hostile.code,
        hostile.line,
        hostile.column,
        hostile.element,
    )


@pytest.mark.parametrize("hostile", HOSTILE, ids=[one.name for one in HOSTILE])
def test_a_refusal_never_repeats_much_of_the_prompt(validator: PromptValidator, hostile: Hostile) -> None:
    error = refusal(validator, hostile.prompt)

    assert len(error.message) < 500
    assert error.message.isprintable()


@pytest.mark.parametrize("hostile", HOSTILE, ids=[one.name for one in HOSTILE])
def test_lines_before_a_fault_only_move_its_line(validator: PromptValidator, hostile: Hostile) -> None:
    error = refusal(validator, "\r\n\n  \n" + hostile.prompt)

    assert (error.code, error.line, error.column) == (hostile.code, hostile.line + 3, hostile.column)


def test_a_refusal_is_a_request_error_that_names_field_line_and_element(validator: PromptValidator) -> None:
    error = refusal(validator, "<caption/>\n<character_1>\n<n>a<b/></n></character_1>")

    assert isinstance(error, RequestError)
    assert error.message == "prompt, line 3, column 5, in /character_1/n: <n> holds text only, no <b>"
    (part,) = error.errors
    assert (part.field, part.line, part.element) == ("prompt", 3, "/character_1/n")


def test_a_refusal_can_name_another_field(validator: PromptValidator) -> None:
    error = refusal(validator, "<caption>")
    error.name_field("negative_prompt")

    assert error.message == "negative_prompt, line 1, column 1, in /caption: <caption> has no end tag"
    assert error.errors[0].field == "negative_prompt"


def test_an_unknown_element_is_answered_with_the_known_ones_and_a_guess(validator: PromptValidator) -> None:
    error = refusal(validator, "<General_Tag></General_Tag>")

    assert isinstance(error, PromptStructureError)
    for name in ("<character_1> to <character_10>", "<caption>", "<style>", "<image>", "<danbooru_tags>"):
        assert name in error.reason
    assert error.reason.endswith("did you mean <general_tags>?")


def test_a_mismatch_says_where_the_open_element_began(validator: PromptValidator) -> None:
    error = refusal(validator, "<character_1>\n<n>a\n<gender>b</gender>\n</character_1>")

    assert error.reason == "</character_1> stands where </n> is due; <n> began in line 2"


def test_a_sentence_beside_elements_is_told_to_use_caption(validator: PromptValidator) -> None:
    assert "<caption>" in refusal(validator, "<general_tags/> a cat on a roof").reason


@pytest.mark.parametrize("prompt", ["", " ", "\n\t\r\n", "\u3000"])
def test_white_space_alone_is_empty(validator: PromptValidator, prompt: str) -> None:
    assert isinstance(refusal(validator, prompt), PromptEmptyError)


@pytest.mark.parametrize("prompt", ["a" * 11, "<a>" * 100_000, "\x00" * 11, " " * 11])
def test_length_goes_before_everything_else(validator: PromptValidator, prompt: str) -> None:
    error = refusal(validator, prompt, max_chars=10)

    assert isinstance(error, PromptTooLongError)
    assert f"{len(prompt)} characters, this model takes 10" in error.message


@pytest.mark.parametrize(("text", "column"), [("a\x00b", 2), ("\ufeff<caption/>", 1), ("\ud800", 1), ("a &\x1b[0m", 4)])
def test_plain_text_is_searched_for_forbidden_characters_too(
    validator: PromptValidator, text: str, column: int
) -> None:
    error = refusal(validator, text)

    assert (error.code, error.line, error.column, error.element) == ("prompt_invalid_character", 1, column, None)


@pytest.mark.parametrize("text", ["a cat", "a" * 200_000, "masterpiece, <caption>a cat</caption>"])
def test_plain_text_for_a_model_of_xml_is_answered_with_an_example_that_is_valid(
    validator: PromptValidator, text: str
) -> None:
    with pytest.raises(PromptNotXmlError) as caught:
        validator.validate(text, formats=("xml",), max_chars=NO_LIMIT)

    example = caught.value.reason.partition("for example ")[2]
    assert validator.validate(example, formats=("xml",), max_chars=NO_LIMIT).format == "xml"


def test_xml_for_a_model_of_plain_text_is_refused_unread(validator: PromptValidator) -> None:
    with pytest.raises(PromptFormatError) as caught:
        validator.validate("<!DOCTYPE x>", formats=("text",), max_chars=NO_LIMIT)

    assert caught.value.code == "prompt_unsupported_format"
