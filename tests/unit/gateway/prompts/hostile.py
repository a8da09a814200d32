"""XML prompts that are refused: why, and the place that the client is told."""

from __future__ import annotations

from dataclasses import dataclass

HEAD = "<character_1>\n<n>$character_1$</n>\n"
IN_CHARACTER = "/character_1"


@dataclass(frozen=True, slots=True)
class Hostile:
    name: str
    prompt: str
    code: str
    line: int
    column: int
    element: str | None = None


_BILLION_LAUGHS = (
    '<!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">'
    '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]><caption>&c;</caption>'
)
_QUADRATIC = f'<!DOCTYPE q [<!ENTITY a "{"a" * 50_000}">]><caption>{"&a;" * 30_000}</caption>'

DECLARATIONS = (
    Hostile("a document type", "<!DOCTYPE caption><caption>x</caption>", "prompt_dtd_forbidden", 1, 1),
    Hostile("one in lower case", "<!doctype html><caption>x</caption>", "prompt_dtd_forbidden", 1, 1),
    Hostile("billion laughs", _BILLION_LAUGHS, "prompt_dtd_forbidden", 1, 1),
    Hostile("quadratic blow-up", _QUADRATIC, "prompt_dtd_forbidden", 1, 1),
    Hostile(
        "an external file",
        '<!DOCTYPE c [<!ENTITY x SYSTEM "file:///etc/passwd">]>\n<caption>&x;</caption>',
        "prompt_dtd_forbidden",
        1,
        1,
    ),
    Hostile("an external DTD", '<!DOCTYPE c SYSTEM "http://a.test/x.dtd"><caption/>', "prompt_dtd_forbidden", 1, 1),
    Hostile(
        "a parameter entity",
        '\n <!DOCTYPE c [<!ENTITY % p SYSTEM "http://a.test/x"> %p;]><caption/>',
        "prompt_dtd_forbidden",
        2,
        2,
    ),
    Hostile("an entity declaration", '<caption/><!ENTITY a "b">', "prompt_dtd_forbidden", 1, 11),
    Hostile("an XML declaration", '<?xml version="1.0"?><caption/>', "prompt_xml_declaration_forbidden", 1, 1),
    Hostile(
        "a lying encoding",
        '<?xml version="1.0" encoding="UTF-16"?><caption/>',
        "prompt_xml_declaration_forbidden",
        1,
        1,
    ),
    Hostile("an instruction", "<caption/>\n<?php echo 1; ?>", "prompt_processing_instruction_forbidden", 2, 1),
    Hostile(
        "a style sheet",
        '<?xml-stylesheet href="http://a.test/x"?><caption/>',
        "prompt_processing_instruction_forbidden",
        1,
        1,
    ),
    Hostile("a comment", "<caption>a<!-- b --></caption>", "prompt_comment_forbidden", 1, 11, "/caption"),
    Hostile("an open comment", "<caption>a<!-- b </caption>", "prompt_comment_forbidden", 1, 11, "/caption"),
    Hostile("CDATA", "<caption><![CDATA[<b>]]></caption>", "prompt_cdata_forbidden", 1, 10, "/caption"),
)

NAMES_AND_ATTRIBUTES = (
    Hostile(
        "an attribute", HEAD + '<action id="1">x</action>', "prompt_attribute_forbidden", 3, 9, "/character_1/action"
    ),
    Hostile(
        "an attribute without a value", "<caption red>x</caption>", "prompt_attribute_forbidden", 1, 10, "/caption"
    ),
    Hostile("one of an empty element", "<caption\n  a='1'/>", "prompt_attribute_forbidden", 2, 3, "/caption"),
    Hostile("one of an end tag", "<caption>x</caption a='1'>", "prompt_attribute_forbidden", 1, 21, "/caption"),
    Hostile(
        "a large attribute",
        f'<caption a="{"x" * 200_000}">x</caption>',
        "prompt_attribute_forbidden",
        1,
        10,
        "/caption",
    ),
    Hostile(
        "a namespace", '<caption xmlns="http://a.test/">x</caption>', "prompt_namespace_forbidden", 1, 10, "/caption"
    ),
    Hostile("a prefix declared", '<caption xmlns:a="u"/>', "prompt_namespace_forbidden", 1, 10, "/caption"),
    Hostile("a prefix", "<a:caption>x</a:caption>", "prompt_namespace_forbidden", 1, 1),
    Hostile("XInclude", '<xi:include href="file:///etc/passwd"/>', "prompt_namespace_forbidden", 1, 1),
    Hostile("a long name", f"{HEAD}<{'x' * 65}>", "prompt_schema_violation", 3, 1, IN_CHARACTER),
    Hostile("a name that begins with a digit", "<caption/>\n<1girl>x</1girl>", "prompt_not_xml", 2, 1),
    Hostile("a name with a dollar", "<caption/><x$y>", "prompt_not_xml", 1, 13),
    Hostile("Windows line ends", "<caption>a</caption>\r\n\r\n  <x$y>", "prompt_not_xml", 3, 5),
)

TAGS = (
    Hostile("a broken tag before an entity", "<caption>\n<1>&x;", "prompt_not_xml", 2, 1, "/caption"),
    Hostile("the end of CDATA", "<caption>a]]>b</caption>", "prompt_not_xml", 1, 11, "/caption"),
    Hostile("a bare <", HEAD + "<action>>_< and :<</action>", "prompt_not_xml", 3, 11, "/character_1/action"),
    Hostile("a lone <", "<", "prompt_not_xml", 1, 1),
    Hostile("a heart", "<3 hearts", "prompt_not_xml", 1, 1),
    Hostile("a tag cut short", "<caption>x</caption", "prompt_not_xml", 1, 20, "/caption"),
    Hostile("a tag into a tag", "<caption<caption>x</caption>", "prompt_not_xml", 1, 9),
    Hostile("an end tag that is empty, too", "<caption></caption/>", "prompt_not_xml", 1, 20, "/caption"),
    Hostile("mismatched tags", HEAD + "<action>x</acton>", "prompt_not_xml", 3, 10, "/character_1/action"),
    Hostile("crossed tags", "<caption><b></caption></b>", "prompt_not_xml", 1, 13, "/caption/b"),
    Hostile("no end tag", HEAD + "<action>x</action>\n", "prompt_not_xml", 1, 1, IN_CHARACTER),
    Hostile("no start tag", "<caption/>\n\n </n>", "prompt_not_xml", 3, 2),
    Hostile("the end of the wrapper", "<caption/></prompt>", "prompt_not_xml", 1, 11),
    Hostile("the wrapper turned inside out", "<caption/></prompt><prompt>", "prompt_not_xml", 1, 11),
    Hostile("only an end tag", "</prompt>", "prompt_not_xml", 1, 1),
)

FLOODS = (
    Hostile("depth", "<a>" * 100_000, "prompt_too_deep", 1, 25, "/a" * 8),
    Hostile("depth of known elements", "<image>" * 9 + "</image>" * 9, "prompt_too_deep", 1, 57, "/image" * 8),
    Hostile("elements", "<a/>" * 1_000_000, "prompt_too_many_elements", 1, 1601),
    Hostile(
        "one element too many",
        HEAD + "<x/>" * 399 + "</character_1>",
        "prompt_too_many_elements",
        3,
        1593,
        IN_CHARACTER,
    ),
    Hostile("end tags", "</a>" * 100_000, "prompt_not_xml", 1, 1),
    Hostile("angle brackets", "<" * 200_000, "prompt_not_xml", 1, 1),
    Hostile("a name", "<" + "a" * 200_000, "prompt_schema_violation", 1, 1),
    Hostile("spaces in a tag", "<caption" + " " * 200_000, "prompt_not_xml", 1, 200_009),
)

REFERENCES = (
    Hostile("an entity before a broken tag", "<caption>&x;\n<1>", "prompt_entity_forbidden", 1, 10, "/caption"),
    Hostile(
        "an entity before an unknown element",
        "<caption>&x;</caption><x/>",
        "prompt_entity_forbidden",
        1,
        10,
        "/caption",
    ),
    Hostile("an HTML entity", "<caption>a&nbsp;b</caption>", "prompt_entity_forbidden", 1, 11, "/caption"),
    Hostile("an entity after a bare &", "<caption>R&B\n& &xxe;</caption>", "prompt_entity_forbidden", 2, 3, "/caption"),
    Hostile("NUL", HEAD + "<n>&#0;</n></character_1>", "prompt_invalid_character", 3, 4, "/character_1/n"),
    Hostile("a control", "<caption>&amp; &#x1F;</caption>", "prompt_invalid_character", 1, 16, "/caption"),
    Hostile("a C1 control", "<caption>&#x85;</caption>", "prompt_invalid_character", 1, 10, "/caption"),
    Hostile("a surrogate", "<caption>&#xD800;</caption>", "prompt_invalid_character", 1, 10, "/caption"),
    Hostile("a noncharacter", "<caption>&#65535;</caption>", "prompt_invalid_character", 1, 10, "/caption"),
    Hostile("beyond Unicode", "<caption>&#x110000;</caption>", "prompt_invalid_character", 1, 10, "/caption"),
    Hostile(
        "ten thousand digits", f"<caption>&#{'9' * 10_000};</caption>", "prompt_invalid_character", 1, 10, "/caption"
    ),
)

CHARACTERS = (
    Hostile("NUL", HEAD + "<n>a\x00</n>", "prompt_invalid_character", 3, 5, "/character_1/n"),
    Hostile("NUL in a tag", "<cap\x00tion>", "prompt_invalid_character", 1, 5),
    Hostile("a control after a bare &", "<caption>R&B \x08</caption>", "prompt_invalid_character", 1, 14, "/caption"),
    Hostile("DEL", "<caption>\x7f</caption>", "prompt_invalid_character", 1, 10, "/caption"),
    Hostile("a C1 control", "<caption>\x9b</caption>", "prompt_invalid_character", 1, 10, "/caption"),
    Hostile("a lone surrogate", "<caption>😀\ud83d</caption>", "prompt_invalid_character", 1, 11, "/caption"),
    Hostile("a noncharacter", "<caption>\uffff</caption>", "prompt_invalid_character", 1, 10, "/caption"),
    Hostile("a byte order mark", "<caption/>\ufeff", "prompt_invalid_character", 1, 11),
    Hostile("UTF-16 read as Latin-1", "<\x00c\x00a\x00p\x00>\x00", "prompt_invalid_character", 1, 2),
)

STRUCTURE = (
    Hostile("an unknown element", "<caption/>\n<foo>x</foo>", "prompt_schema_violation", 2, 1, "/foo"),
    Hostile("the wrapper", "<prompt><caption/></prompt>", "prompt_schema_violation", 1, 1, "/prompt"),
    Hostile("character 0", "<character_0/>", "prompt_schema_violation", 1, 1, "/character_0"),
    Hostile("character 11", "<character_11/>", "prompt_schema_violation", 1, 1, "/character_11"),
    Hostile("an upper-case name", "<Caption/>", "prompt_schema_violation", 1, 1, "/Caption"),
    Hostile("a character twice", "<character_1/>\n  <character_1/>", "prompt_schema_violation", 2, 3, "/character_1"),
    Hostile("general tags twice", "<general_tags/><general_tags/>", "prompt_schema_violation", 1, 16, "/general_tags"),
    Hostile("markup in a sentence", "<caption>a <b>c</b></caption>", "prompt_schema_violation", 1, 12, "/caption"),
    Hostile(
        "markup in a tag of a character",
        HEAD + "<n><b/></n></character_1>",
        "prompt_schema_violation",
        3,
        4,
        "/character_1/n",
    ),
    Hostile(
        "markup in a client's own tag",
        HEAD + "<my><b/></my></character_1>",
        "prompt_schema_violation",
        3,
        5,
        "/character_1/my",
    ),
    Hostile(
        "a forgotten end tag",
        HEAD + "<general_tags></general_tags></character_1>",
        "prompt_schema_violation",
        3,
        1,
        "/character_1/general_tags",
    ),
    Hostile(
        "text in a character",
        "<character_1>\n R&B red\n</character_1>",
        "prompt_schema_violation",
        2,
        2,
        "/character_1",
    ),
    Hostile("text after an element", "<caption>R&B</caption> & so on", "prompt_schema_violation", 1, 24),
    Hostile("text between elements", "<caption/>\nhello\n<general_tags/>", "prompt_schema_violation", 2, 1),
    Hostile("an invisible space between elements", "<caption/>\u3000", "prompt_schema_violation", 1, 11),
    Hostile("an image in an image", "<image><image/></image>", "prompt_schema_violation", 1, 8, "/image/image"),
    Hostile("something before an image", "<caption/><image/>", "prompt_schema_violation", 1, 11, "/image"),
    Hostile("something after an image", "<image/><caption/>", "prompt_schema_violation", 1, 9, "/caption"),
    Hostile("an image twice", "<image/><image/>", "prompt_schema_violation", 1, 9, "/image"),
)

HOSTILE = (*DECLARATIONS, *NAMES_AND_ATTRIBUTES, *TAGS, *FLOODS, *REFERENCES, *CHARACTERS, *STRUCTURE)
