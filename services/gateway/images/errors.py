"""Why an input image is refused. Codes are stable.

InvalidRequestError
├── UnsupportedImageError    neither PNG, JPEG nor WebP, or a header that is none
├── ImageTooLargeError       more bytes, pixels, or pixels a side than are taken
├── ImageNotFoundError       no such image of this tenant's
├── ImageUrlRefusedError     the service does not fetch from there
└── ImageNotFetchedError     what is there could not be had
RequestError
├── ImageNeedsKeyError       a request without an API key
├── TooManyImagesError       the tenant keeps as many as it may
└── ImagesBusyError          this process handles as many as it bears
"""

from __future__ import annotations

from shared.domain.errors import RequestError
from shared.http.errors import FieldError, InvalidRequestError

FIELD = "image"


class ImageError(InvalidRequestError):
    """An input image cannot be used."""

    code = "image_refused"

    def __init__(self, message: str) -> None:
        super().__init__(f"{FIELD}: {message}", FieldError(message=message, field=FIELD))


class UnsupportedImageError(ImageError):
    """The bytes are no PNG, JPEG or WebP."""

    code = "unsupported_image"


class ImageTooLargeError(ImageError):
    """The image has more bytes or pixels than are taken."""

    code = "image_too_large"


class ImageNotFoundError(ImageError):
    """There is no such image of this tenant's, or it was uploaded too long ago."""

    code = "image_not_found"


class ImageUrlRefusedError(ImageError):
    """The service does not fetch images from there."""

    code = "image_url_refused"


class ImageNotFetchedError(ImageError):
    """The image could not be fetched from its URL."""

    code = "image_not_fetched"
    retryable = True


class ImageNeedsKeyError(RequestError):
    """Images are taken from tenants with an API key alone."""

    code = "image_needs_key"


class TooManyImagesError(RequestError):
    """The tenant has as many images kept as it may; the oldest go by themselves."""

    code = "too_many_images"


class ImagesBusyError(RequestError):
    """This process handles as many images as it bears. Nothing was accepted; try again."""

    code = "images_busy"
    retryable = True
