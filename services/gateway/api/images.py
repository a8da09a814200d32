"""``POST /api/v1/images``: the bytes of a picture that tasks start from, as they are."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import orjson
from flask import Blueprint, Response

from services.gateway.admission.ports import upload_of
from services.gateway.api.bodies import read_body, refuse_beyond
from services.gateway.api.limits import rate_limit_fields
from services.gateway.errors import UnsupportedMediaTypeError
from services.gateway.images.intake import check_owner
from shared.http.request_context import current_request
from shared.storage.inputs import image_id

if TYPE_CHECKING:
    from services.gateway.admission.ports import Admission
    from services.gateway.images.intake import Images
    from shared.http.auth import Gatekeeper

# What it is its first bytes tell; a form, or text, is a client that sends it in another way than we read it.
_MEDIA_TYPES: Final = frozenset({"", "application/octet-stream", "image/png", "image/jpeg", "image/webp"})


def images_blueprint(images: Images, admission: Admission, gatekeeper: Gatekeeper) -> Blueprint:
    """The answer names the image for ``POST /api/v1/generate``; the same bytes have the same name."""
    blueprint = Blueprint("images", __name__)
    most_bytes = images.limits.most_bytes

    @blueprint.post("/api/v1/images")
    def upload() -> Response:
        request = current_request()
        refuse_beyond(request.content_length or 0, most_bytes)
        principal = gatekeeper.admit()
        check_owner(principal.tenant_id)
        if request.mimetype not in _MEDIA_TYPES:
            message = "send the image's bytes as the body, as image/png, image/jpeg or image/webp"
            raise UnsupportedMediaTypeError(message)
        admitted = admission.admit(upload_of(principal.tenant_id, principal.key_prefix, principal.plan.rates))
        # The byte too much tells of a body without a declared length that was cut.
        request.max_content_length = most_bytes + 1
        with images.place():
            taken = images.take(read_body(most_bytes), principal.tenant_id)
        answer = {
            "image": image_id(taken.image.sha256),
            **taken.image.model_dump(exclude={"key"}),
            "width": taken.width,
            "height": taken.height,
            "usable_until": taken.until,
        }
        fields = {"Cache-Control": "no-store", **rate_limit_fields(admitted.windows)}
        return Response(orjson.dumps(answer), HTTPStatus.CREATED, fields, content_type="application/json")

    return blueprint
