"""Fetching an input image from a client's URL, by the rules for all calls on a client's behalf."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Literal, Protocol

from services.gateway.images.errors import ImageNotFetchedError, ImageTooLargeError, ImageUrlRefusedError
from shared.domain.errors import AddressRefusedError, NameUnresolvedError, OutboundError, UrlRefusedError
from shared.domain.outbound import parse_url
from shared.http.outbound import OutboundRequest
from shared.logging import get_logger

if TYPE_CHECKING:
    from shared.domain.outbound import OutboundPolicy
    from shared.http.outbound import OutboundAnswer

log = get_logger(__name__)


class Sender(Protocol):
    """Sends requests by the rules for all of them: shared/http/outbound.py."""

    def send(self, request: OutboundRequest) -> OutboundAnswer:
        """The answer. Raises OutboundError when there is none."""
        ...


UrlKinds = Literal["https", "any", "off"]
_HEADERS = {"Accept": "image/png, image/jpeg, image/webp", "User-Agent": "Atelier"}


class ImageFetcher:
    """GETs a URL, once: no redirect is followed. ``kinds``: https alone, http as well, or none at all."""

    def __init__(self, outbound: Sender, policy: OutboundPolicy, kinds: UrlKinds) -> None:
        self._outbound = outbound
        self._policy = policy
        self._kinds = kinds

    def check(self, url: str) -> None:
        """Raise ImageUrlRefusedError for a URL that is never fetched; nothing is looked up."""
        if self._kinds == "off":
            message = "this service fetches no images: upload it to /api/v1/images"
            raise ImageUrlRefusedError(message)
        try:
            target = parse_url(url, self._policy)
        except UrlRefusedError as exc:
            message = f"the URL {exc.message}"
            raise ImageUrlRefusedError(message) from exc
        if not target.tls and self._kinds == "https":
            message = "the URL must begin with https://"
            raise ImageUrlRefusedError(message)

    def fetch(self, url: str, most_bytes: int) -> bytes:
        """The bytes at a URL. Raises ImageUrlRefusedError, ImageNotFetchedError, ImageTooLargeError."""
        asked = OutboundRequest(method="GET", url=url, headers=_HEADERS, most_bytes=most_bytes)
        try:
            answer = self._outbound.send(asked)
        except (AddressRefusedError, NameUnresolvedError) as exc:
            # One answer for both: names that only the service's own network knows are nobody's business.
            message = "the URL's host has no public address"
            raise ImageUrlRefusedError(message) from exc
        except OutboundError as exc:
            message = f"the URL could not be fetched: {exc.code}"
            raise ImageNotFetchedError(message) from exc
        log.info("image_fetched", status=answer.status, bytes=len(answer.body), complete=answer.complete)
        if answer.status != HTTPStatus.OK:
            redirect = ", and redirects are not followed" if answer.status // 100 == 3 else ""  # noqa: PLR2004 - the class
            message = f"the URL's server answered {answer.status}{redirect}"
            raise ImageNotFetchedError(message)
        if not answer.complete:
            if len(answer.body) == most_bytes:
                message = f"has more than {most_bytes} bytes"
                raise ImageTooLargeError(message)
            message = "the URL's server did not send all of it in time"
            raise ImageNotFetchedError(message)
        return answer.body
