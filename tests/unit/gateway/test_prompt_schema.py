"""The schema decides and Python explains: these hold the two together, and the parser to what it is given."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from services.gateway.prompt import lexis, vocabulary
from services.gateway.prompt.errors import PromptError
from services.gateway.prompt.explain import explain
from services.gateway.prompt.validate import PromptValidator, _aliases, _document
from tests.unit.gateway.prompts.hostile import (
    CHARACTERS,
    DECLARATIONS,
    FLOODS,
    HOSTILE,
    NAMES_AND_ATTRIBUTES,
    REFERENCES,
    Hostile,
)

RNG = "{http://relaxng.org/ns/structure/1.0}"
SCHEMA = resources.files("services.gateway.prompt").joinpath("schema.rng").read_bytes()
VALIDATOR = PromptValidator()
NO_LIMIT = 10_000_000

TOP_LEVEL = ("character_1", "character_2", "general_tags", "caption", "style", "danbooru_tags", "image")
NAMES = (*TOP_LEVEL, "n", "own", "count")
PLAIN = st.sampled_from(("", "", "\n", " ", "R&B", "a", "&amp;", ">", "&#65;"))
TEXTS = st.one_of(PLAIN, PLAIN, st.sampled_from(("]]>", "&x;", "&#0;", "<", "\u3000")))


def joined(*parts: st.SearchStrategy[str], most: int = 4) -> st.SearchStrategy[str]:
    return st.lists(st.one_of(*parts), max_size=most).map("".join)


def element(names: tuple[str, ...], content: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(lambda name, inner: f"<{name}>{inner}</{name}>", st.sampled_from(names), content)


# Heaps of elements are nearly always refused; scenes nearly always pass.
HEAPS = joined(
    st.recursive(element(NAMES, TEXTS), lambda inner: element(NAMES, joined(inner, TEXTS)), max_leaves=8), TEXTS
)
GAPS = st.sampled_from(("", "\n", " \t"))
GROUPS = element(TOP_LEVEL[:3], joined(element(("n", "own", "count", "style"), PLAIN), GAPS))
SCENES = joined(GROUPS, GAPS, element(TOP_LEVEL[3:6], PLAIN))
PROMPTS = st.one_of(HEAPS, SCENES, joined(element(("image",), SCENES), SCENES, most=2))


def test_the_schema_is_valid_relax_ng() -> None:
    etree.RelaxNG(etree.fromstring(SCHEMA))


def test_the_schema_names_the_tags_that_the_messages_name() -> None:
    defined: dict[str, set[str]] = {}
    for part in etree.fromstring(SCHEMA):
        names = {str(one.get("name")) for one in part.iter(f"{RNG}element") if one.get("name")}
        defined[str(part.get("name"))] = names
    refused = {
        str(part.get("name")): {str(one.text) for one in part.iter(f"{RNG}name")}
        for part in etree.fromstring(SCHEMA).iter(f"{RNG}define")
    }

    assert defined["character"] == set(vocabulary.CHARACTER_TAGS)
    assert defined["general"] == set(vocabulary.GENERAL_TAGS)
    assert defined["scene"] | defined["style-line"] | {"image"} == vocabulary.TOP_LEVEL
    assert refused["custom-in-character"] == vocabulary.STRUCTURAL.union(vocabulary.CHARACTER_TAGS)
    assert refused["custom-in-general"] == vocabulary.STRUCTURAL.union(vocabulary.GENERAL_TAGS)


@settings(max_examples=150, deadline=None)
@given(PROMPTS.filter(lambda text: text.lstrip().startswith("<")))
@pytest.mark.exhaustive
def test_what_is_refused_can_be_explained_and_what_passes_has_no_fault(text: str) -> None:
    fault = explain(text)
    answer: PromptError | None = None
    try:
        VALIDATOR.validate(text, max_chars=NO_LIMIT)
    except PromptError as error:
        answer = error

    assert (answer and (answer.code, answer.message)) == (fault and (fault.code, fault.message))


@pytest.mark.parametrize(
    "hostile", [one for one in HOSTILE if one.code != "prompt_invalid_character"], ids=lambda one: one.name
)
def test_every_hostile_prompt_is_explained(hostile: Hostile) -> None:
    fault = explain(hostile.prompt)

    assert fault is not None
    assert fault.code == hostile.code


@pytest.mark.parametrize(
    "text", [path.read_text("utf-8") for path in sorted(Path(__file__).parent.glob("prompts/*.txt"))]
)
def test_no_fault_is_found_in_prompts_that_pass(text: str) -> None:
    assert explain(text) is None


def test_an_answer_is_given_even_where_the_fault_cannot_be_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.gateway.prompt.validate.explain", lambda _: None)

    with pytest.raises(PromptError) as caught:
        VALIDATOR.validate("<caption/><caption/>", max_chars=NO_LIMIT)

    assert caught.value.code == "prompt_not_xml"


@pytest.mark.parametrize(
    "hostile", [*DECLARATIONS, *NAMES_AND_ATTRIBUTES, *FLOODS, *REFERENCES, *CHARACTERS], ids=lambda one: one.name
)
def test_nothing_dangerous_reaches_the_parser(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.gateway.prompt.validate._parser", lambda: pytest.fail("a parser was asked for"))

    with pytest.raises(PromptError):
        VALIDATOR.validate(hostile.prompt, max_chars=NO_LIMIT)


@settings(deadline=None)
@given(st.lists(st.from_regex(r"[a-z]{1,9}", fullmatch=True), min_size=1, max_size=9), st.text(" \t\n\r", min_size=1))
def test_the_parser_never_meets_a_clients_own_names_or_white_space(names: list[str], space: str) -> None:
    # What it meets it keeps for ever, until it refuses every prompt that holds something new.
    text = f"<character_1>{space}" + space.join(f"<{name}>{space}</{name}>" for name in names) + "</character_1>"
    tags = lexis.TAG.findall(text)

    root = etree.fromstring(_document(text, _aliases(tags)))

    own = {str(one.tag) for one in root.iter()} - vocabulary.KNOWN - {"prompt"}
    assert own <= {f"own_{number}" for number in range(lexis.MAX_ELEMENTS)}
    assert not any((one.text or "").isspace() or (one.tail or "").isspace() for one in root.iter())
