"""Why a prompt is refused. Codes are stable; line, column and element point into the client's own text."""

from __future__ import annotations

from shared.http.errors import FieldError, InvalidRequestError


class PromptError(InvalidRequestError):
    """A prompt cannot be used."""

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
        where = f"{field}: " if self.line is None else f"{field}, line {self.line}: "
        error = FieldError(message=self.reason, field=field, line=self.line, element=self.element)
        super().__init__(f"{where}{self.reason}", error)


class PromptEmptyError(PromptError):
    """The prompt holds no text."""

    code = "prompt_empty"


class PromptTooLongError(PromptError):
    """The prompt has more characters than the model takes."""

    code = "prompt_too_long"


class PromptCharacterError(PromptError):
    """The prompt holds a character that XML and the text encoders do not know."""

    code = "prompt_invalid_character"


class PromptFormatError(PromptError):
    """The model does not take prompts of this format."""

    code = "prompt_unsupported_format"


class PromptNotXmlError(PromptError):
    """The prompt begins like XML and is not well-formed."""

    code = "prompt_not_xml"


class PromptMarkupError(PromptError):
    """The prompt uses XML beyond elements and text: DTD, comment, CDATA, processing instruction, declaration."""

    code = "prompt_markup_forbidden"


class PromptEntityError(PromptError):
    """The prompt refers to an entity other than the five that XML predefines, or to a forbidden character."""

    code = "prompt_entity_forbidden"


class PromptTooComplexError(PromptError):
    """The prompt has too many elements."""

    code = "prompt_too_complex"


class PromptStructureError(PromptError):
    """The prompt is well-formed XML of another structure than the model was trained on."""

    code = "prompt_schema_violation"
