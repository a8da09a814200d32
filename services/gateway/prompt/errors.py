"""Why a prompt is refused. Codes are stable; line, column and element point into the client's own text.

PromptError
├── PromptEmptyError, PromptTooLongError, PromptTooManyTokensError, PromptCharacterError, PromptFormatError: any prompt
├── PromptNotXmlError                       not well-formed, or plain text where the model takes XML only
├── PromptMarkupError                       XML that is more than plain elements and text
│   └── DTD, entity, comment, CDATA, processing instruction, XML declaration, attribute, namespace
├── PromptTooDeepError, PromptTooManyElementsError
└── PromptStructureError                    well-formed, and not what schema.rng describes
"""

from __future__ import annotations

from shared.http.errors import FieldError, InvalidRequestError


class PromptError(InvalidRequestError):
    """A prompt cannot be used.

    ``line`` and ``column`` count from 1, in characters, in the text as the client wrote it (a line ends with a line
    feed); ``element`` is a path such as ``/character_1/appearance``. Each is None where it says nothing.
    """

    code = "prompt_invalid"

    def __init__(
        self, message: str, *, line: int | None = None, column: int | None = None, element: str | None = None
    ) -> None:
        self.reason = message
        self.line = line
        self.column = column
        self.element = element
        self.name_field("prompt")

    def name_field(self, field: str) -> None:
        """Say which field of the request holds the text."""
        place = [field]
        if self.line is not None:
            place.append(f"line {self.line}")
        if self.column is not None:
            place.append(f"column {self.column}")
        if self.element is not None:
            place.append(f"in {self.element}")
        error = FieldError(message=self.reason, field=field, line=self.line, element=self.element)
        super().__init__(f"{', '.join(place)}: {self.reason}", error)


class PromptEmptyError(PromptError):
    """The prompt holds nothing but white space."""

    code = "prompt_empty"


class PromptTooLongError(PromptError):
    """The prompt has more characters than the model takes."""

    code = "prompt_too_long"


class PromptTooManyTokensError(PromptError):
    """The prompt has more tokens than the model reads."""

    code = "prompt_too_many_tokens"


class PromptCharacterError(PromptError):
    """The prompt holds a control character, a lone surrogate or a noncharacter, as such or as a reference."""

    code = "prompt_invalid_character"


class PromptFormatError(PromptError):
    """The model does not take prompts of this format."""

    code = "prompt_unsupported_format"


class PromptNotXmlError(PromptError):
    """The prompt is not well-formed, or is plain text where XML is needed."""

    code = "prompt_not_xml"


class PromptMarkupError(PromptError):
    """The prompt uses XML beyond plain elements and text."""

    code = "prompt_markup_forbidden"


class PromptDtdError(PromptMarkupError):
    """The prompt declares a document type, an entity or the like."""

    code = "prompt_dtd_forbidden"


class PromptEntityError(PromptMarkupError):
    """The prompt refers to an entity other than the five that XML predefines."""

    code = "prompt_entity_forbidden"


class PromptCommentError(PromptMarkupError):
    """The prompt holds a comment, which the model would read as text."""

    code = "prompt_comment_forbidden"


class PromptCdataError(PromptMarkupError):
    """The prompt holds a CDATA section, which the model would read as text."""

    code = "prompt_cdata_forbidden"


class PromptProcessingInstructionError(PromptMarkupError):
    """The prompt holds a processing instruction."""

    code = "prompt_processing_instruction_forbidden"


class PromptDeclarationError(PromptMarkupError):
    """The prompt holds an XML declaration; its text is decoded already, whatever encoding that claims."""

    code = "prompt_xml_declaration_forbidden"


class PromptAttributeError(PromptMarkupError):
    """An element of the prompt has an attribute."""

    code = "prompt_attribute_forbidden"


class PromptNamespaceError(PromptMarkupError):
    """The prompt declares or uses an XML namespace."""

    code = "prompt_namespace_forbidden"


class PromptTooDeepError(PromptError):
    """The prompt nests its elements too deep."""

    code = "prompt_too_deep"


class PromptTooManyElementsError(PromptError):
    """The prompt has too many elements."""

    code = "prompt_too_many_elements"


class PromptStructureError(PromptError):
    """The prompt is well-formed XML of another structure than the model knows."""

    code = "prompt_schema_violation"
