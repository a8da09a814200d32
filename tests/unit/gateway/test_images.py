"""Input images at the real application, over a bucket in memory and a web that is set by hand."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from services.gateway.admission.errors import RateLimitedError
from services.gateway.admission.ports import Admitted, Unlimited, Window
from services.gateway.images.intake import Images
from shared.auth.plans import load_plans
from shared.contracts.base import encode
from shared.domain.errors import (
    AddressRefusedError,
    BrokerUnavailableError,
    NameUnresolvedError,
    OutboundTimeoutError,
)
from shared.domain.keeping import INPUTS_NAMED_FOR
from shared.domain.plans import Rate
from shared.domain.task import TaskState
from shared.storage.memory import MemoryStore
from shared.storage.records import TaskRecords
from tests.support.builders import REVISION, make_outcome, make_report
from tests.support.pictures import HTML, SVG, claimed, picture
from tests.support.status_api import assert_problem
from tests.support.tenants import TenantWorld, plans_with_anonymous
from tests.unit.gateway.conftest import IMAGE_LIMITS, NOW, gateway_over

if TYPE_CHECKING:
    from pathlib import Path

    from werkzeug.test import TestResponse

    from services.gateway.admission.ports import Application
    from services.gateway.prompt.validate import PromptValidator
    from tests.unit.gateway.conftest import Gateway

PNG = picture("PNG", (8, 6))
SHA = hashlib.sha256(PNG).hexdigest()
URL = "https://example.com/cat.png"


def upload(
    gateway: Gateway, body: bytes = PNG, *, key: str | None = None, media_type: str = "image/png"
) -> TestResponse:
    headers = {"Authorization": f"Bearer {key or gateway.key}", "Content-Type": media_type}
    return gateway.client.post("/api/v1/images", data=body, headers=headers)


def generate(gateway: Gateway, image: object, *, key: str | None = None, **body: Any) -> TestResponse:  # noqa: ANN401 - any field
    headers = {"Authorization": f"Bearer {key or gateway.key}"}
    document = {"model": "simulated", "prompt": "a lake", "image": image, **body}
    return gateway.client.post("/api/v1/generate", json=document, headers=headers)


def refused(gateway: Gateway, image: object, code: str, status: int = 422) -> str:
    answer = generate(gateway, image)
    assert_problem(answer, status, code)
    assert gateway.published() == 0
    detail: str = answer.get_json()["detail"]
    return detail


class Ledger(Unlimited):
    """Notes what it is asked, and refuses while it is told to."""

    def __init__(self) -> None:
        self.asked: list[Application] = []
        self.withdrawn: list[Application] = []
        self.refusal: Exception | None = None

    def admit(self, application: Application) -> Admitted:
        self.asked.append(application)
        if self.refusal is not None:
            raise self.refusal
        window = Window(rate=Rate(requests=5, seconds=60), remaining=4, reset_seconds=12.0)
        return Admitted(windows=(window,))

    def withdraw(self, application: Application) -> None:
        self.withdrawn.append(application)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def counted(prompts: PromptValidator, ledger: Ledger) -> Gateway:
    return gateway_over(prompts, TenantWorld(), ledger)


class TestUpload:
    def test_an_upload_is_stored_for_its_tenant_and_named_by_its_content(self, gateway: Gateway) -> None:
        answer = upload(gateway)
        assert answer.status_code == 201
        assert answer.get_json() == {
            "image": f"img_{SHA}",
            "sha256": SHA,
            "bytes": len(PNG),
            "media_type": "image/png",
            "width": 8,
            "height": 6,
            "usable_until": (NOW + INPUTS_NAMED_FOR).isoformat(),
        }
        assert gateway.store.get(f"inputs/acme/{SHA}.png") == PNG
        assert upload(gateway).get_json() == answer.get_json()
        assert len(list(gateway.store.keys("inputs/"))) == 1

    @pytest.mark.parametrize("media_type", ["", "application/octet-stream", "image/jpeg", "image/png"])
    def test_what_it_is_its_bytes_say(self, gateway: Gateway, media_type: str) -> None:
        assert upload(gateway, media_type=media_type).get_json()["media_type"] == "image/png"

    @pytest.mark.parametrize("media_type", ["multipart/form-data; boundary=x", "application/json", "text/plain"])
    def test_another_way_of_sending_is_a_415(self, gateway: Gateway, media_type: str) -> None:
        assert_problem(upload(gateway, media_type=media_type), 415, "unsupported_media_type")

    @pytest.mark.parametrize(
        ("body", "code"),
        [
            (b"", "unsupported_image"),
            (SVG, "unsupported_image"),
            (HTML, "unsupported_image"),
            (picture("GIF", (8, 8), "P"), "unsupported_image"),
            (claimed(30_000, 2), "image_too_large"),
            (claimed(8000, 8000), "image_too_large"),
        ],
    )
    def test_what_is_no_picture_or_too_large_is_not_stored(self, gateway: Gateway, body: bytes, code: str) -> None:
        answer = upload(gateway, body)
        assert_problem(answer, 422, code)
        assert answer.get_json()["errors"][0]["field"] == "image"
        assert list(gateway.store.keys("")) == []

    def test_the_largest_size_is_taken(self, gateway: Gateway) -> None:
        assert upload(gateway, claimed(8192, 4882)).status_code == 201

    def test_more_bytes_than_any_image_are_a_413_declared_or_not(self, gateway: Gateway) -> None:
        body = PNG + bytes(IMAGE_LIMITS.most_bytes)
        assert_problem(upload(gateway, body), 413, "body_too_large")
        headers = {**gateway.headers, "Content-Type": "image/png"}
        chunked = {"wsgi.input_terminated": True, "CONTENT_LENGTH": ""}
        answer = gateway.client.post("/api/v1/images", data=body, headers=headers, environ_overrides=chunked)
        assert_problem(answer, 413, "body_too_large")
        assert list(gateway.store.keys("")) == []

    def test_an_upload_counts_for_the_rates_and_takes_no_place(self, counted: Gateway, ledger: Ledger) -> None:
        answer = upload(counted)
        assert answer.headers["RateLimit"] == '"60s";r=4;t=12'
        (asked,) = ledger.asked
        assert (asked.takes_place, asked.tenant_id, asked.task_id) == (False, "acme", "")
        assert asked.rates

    def test_one_too_many_for_the_rates_is_not_even_read(self, counted: Gateway, ledger: Ledger) -> None:
        ledger.refusal = RateLimitedError("too many", retry_after_seconds=3.0, windows=())
        assert_problem(upload(counted), 429, "rate_limited")
        assert list(counted.store.keys("")) == []

    def test_a_tenant_keeps_so_many_and_may_send_those_again(self, gateway: Gateway) -> None:
        pictures = [picture("PNG", (8, 6 + number)) for number in range(IMAGE_LIMITS.most_kept + 1)]
        for body in pictures[:-1]:
            assert upload(gateway, body).status_code == 201
        answer = upload(gateway, pictures[-1])
        assert_problem(answer, 429, "too_many_images")
        assert answer.headers["Retry-After"]
        assert upload(gateway, pictures[0]).status_code == 201
        assert upload(gateway, pictures[-1], key=gateway.vip_key).status_code == 201

    def test_no_more_at_once_than_there_are_places(self, gateway: Gateway) -> None:
        with gateway.images.place():
            answer = upload(gateway)
        assert_problem(answer, 503, "images_busy")
        assert upload(gateway).status_code == 201

    def test_a_place_is_free_again_after_a_refusal(self, gateway: Gateway) -> None:
        for _ in range(3):
            assert upload(gateway, SVG).status_code == 422

    def test_without_a_key_nothing_is_stored(self, prompts: PromptValidator, tmp_path: Path) -> None:
        plans = load_plans(plans_with_anonymous(tmp_path))
        gateway = gateway_over(prompts, TenantWorld(plans=plans), Unlimited())
        answer = gateway.client.post("/api/v1/images", data=PNG, headers={"Content-Type": "image/png"})
        assert_problem(answer, 403, "image_needs_key")
        body = {"model": "simulated", "prompt": "a lake", "image": URL}
        assert_problem(gateway.client.post("/api/v1/generate", json=body), 403, "image_needs_key")
        assert gateway.web.asked == []

    def test_a_store_that_is_away_is_a_503(self, gateway: Gateway) -> None:
        gateway.store.available = False
        assert_problem(upload(gateway), 503, "storage_error")


class TestGenerate:
    def test_an_upload_becomes_part_of_the_task(self, gateway: Gateway) -> None:
        assert generate(gateway, upload(gateway).get_json()["image"]).status_code == 202
        (task,) = gateway.tasks("simulated")
        image = task.params.image
        assert image is not None
        assert image.model_dump() == {
            "key": f"inputs/acme/{SHA}.png",
            "media_type": "image/png",
            "bytes": len(PNG),
            "sha256": SHA,
        }
        assert gateway.web.asked == []

    def test_a_url_is_fetched_once_and_stored_like_an_upload(self, gateway: Gateway) -> None:
        body = picture("JPEG", (40, 30))
        gateway.web.serves(body)
        assert generate(gateway, URL).status_code == 202
        (task,) = gateway.tasks("simulated")
        image = task.params.image
        assert image is not None
        assert gateway.store.get(image.key) == body
        assert (image.media_type, image.key.endswith(".jpg")) == ("image/jpeg", True)
        assert gateway.web.asked == [URL]

    def test_another_tenants_upload_does_not_exist(self, gateway: Gateway) -> None:
        name = upload(gateway, key=gateway.vip_key).get_json()["image"]
        refused(gateway, name, "image_not_found")

    def test_an_upload_may_be_named_for_so_long(self, gateway: Gateway) -> None:
        for age, status in ((INPUTS_NAMED_FOR - timedelta(seconds=1), 202), (INPUTS_NAMED_FOR, 422)):
            store = MemoryStore(lambda age=age: NOW - age)  # type: ignore[misc] # mypy cannot infer a lambda with a default
            store.put(f"inputs/acme/{SHA}.png", PNG, media_type="image/png")
            gateway.store._objects.update(store._objects)
            assert generate(gateway, f"img_{SHA}").status_code == status

    @pytest.mark.parametrize(
        "image",
        ["", "img_", f"img_{SHA[:-1]}", f"img_{SHA.upper()}", f"img_{SHA}/../x", "cat.png", "data:image/png,x", 5],
    )
    def test_what_is_neither_an_id_nor_a_url_is_refused(self, gateway: Gateway, image: object) -> None:
        refused(gateway, image, "invalid_parameters")

    @pytest.mark.parametrize(
        "url",
        [
            "http://example.com/cat.png",
            "https://127.0.0.1/cat.png",
            "https://[::1]/cat.png",
            "https://169.254.169.254/latest/meta-data",
            "https://10.0.0.8/cat.png",
            "https://2130706433/cat.png",
            "https://example.com:8443/cat.png",
            "https://user:secret@example.com/cat.png",
        ],
    )
    def test_a_url_that_is_never_fetched_is_refused_without_a_look(self, gateway: Gateway, url: str) -> None:
        assert "secret" not in refused(gateway, url, "image_url_refused")
        assert gateway.web.asked == []

    @pytest.mark.parametrize("error", [AddressRefusedError(), NameUnresolvedError()])
    def test_a_name_that_leads_inside_and_one_that_leads_nowhere_look_alike(
        self, gateway: Gateway, error: AddressRefusedError
    ) -> None:
        gateway.web.answer = error
        assert refused(gateway, URL, "image_url_refused") == "image: the URL's host has no public address"

    @pytest.mark.parametrize(
        ("status", "what"), [(404, "answered 404"), (302, "redirects are not followed"), (206, "answered 206")]
    )
    def test_another_answer_than_200_is_no_image(self, gateway: Gateway, status: int, what: str) -> None:
        gateway.web.serves(PNG, status)
        assert what in refused(gateway, URL, "image_not_fetched")

    def test_a_server_that_takes_too_long_or_breaks_off_is_no_image(self, gateway: Gateway) -> None:
        gateway.web.answer = OutboundTimeoutError()
        assert "timed_out" in refused(gateway, URL, "image_not_fetched")
        gateway.web.serves(PNG, complete=False)
        assert "not send all" in refused(gateway, URL, "image_not_fetched")

    def test_more_bytes_than_any_image_are_refused(self, gateway: Gateway) -> None:
        gateway.web.serves(PNG + bytes(IMAGE_LIMITS.most_bytes - len(PNG)), complete=False)
        refused(gateway, URL, "image_too_large")

    @pytest.mark.parametrize(
        ("body", "code"),
        [(SVG, "unsupported_image"), (HTML, "unsupported_image"), (claimed(30_000, 2), "image_too_large")],
    )
    def test_what_a_url_leads_to_is_held_to_the_same_bounds(self, gateway: Gateway, body: bytes, code: str) -> None:
        gateway.web.serves(body)
        refused(gateway, URL, code)
        assert list(gateway.store.keys("inputs/")) == []

    def test_a_model_that_takes_no_image_gets_none(self, gateway: Gateway) -> None:
        answer = generate(gateway, URL, model="tiny-newbie")
        assert_problem(answer, 422, "invalid_parameters")
        assert answer.get_json()["errors"] == [{"field": "image", "message": "the model tiny-newbie takes no image"}]
        assert gateway.web.asked == []

    def test_a_model_that_needs_an_image_runs_with_one_only(self, gateway: Gateway) -> None:
        card = gateway.cards["simulated"]
        needs = card.model.model_copy(update={"image_input": "required"})
        gateway.cards["simulated"] = card.model_copy(update={"model": needs})
        refused(gateway, None, "invalid_parameters")
        assert generate(gateway, upload(gateway).get_json()["image"]).status_code == 202

    def test_what_is_refused_costs_no_fetch(self, counted: Gateway, ledger: Ledger) -> None:
        for change in ({"width": 17}, {"prompt": ""}, {"callback_url": "ftp://x"}, {"model": "none"}):
            assert generate(counted, URL, **change).status_code == 422
        ledger.refusal = RateLimitedError("too many", retry_after_seconds=3.0, windows=())
        assert generate(counted, URL).status_code == 429
        assert counted.web.asked == []

    def test_an_image_that_cannot_be_had_frees_the_tasks_place(self, counted: Gateway, ledger: Ledger) -> None:
        assert generate(counted, URL).status_code == 422
        assert ledger.withdrawn == ledger.asked
        assert counted.web.asked == [URL]

    def test_so_does_a_store_that_is_away(self, counted: Gateway, ledger: Ledger) -> None:
        counted.store.available = False
        assert_problem(generate(counted, f"img_{SHA}"), 503, "storage_error")
        assert ledger.withdrawn == ledger.asked

    def test_a_request_that_is_sent_again_fetches_nothing_again(self, gateway: Gateway) -> None:
        gateway.web.serves(PNG)
        headers = {**gateway.headers, "Idempotency-Key": "k"}
        body = {"model": "simulated", "prompt": "a lake", "image": URL}
        answers = [gateway.client.post("/api/v1/generate", json=body, headers=headers) for _ in range(3)]
        assert {answer.data for answer in answers} == {answers[0].data}
        assert gateway.web.asked == [URL]

    def test_a_refused_image_leaves_its_key_for_another_try(self, gateway: Gateway) -> None:
        headers = {**gateway.headers, "Idempotency-Key": "k"}
        body = {"model": "simulated", "prompt": "a lake", "image": URL}
        assert gateway.client.post("/api/v1/generate", json=body, headers=headers).status_code == 422
        gateway.web.serves(PNG)
        assert gateway.client.post("/api/v1/generate", json=body, headers=headers).status_code == 202
        gateway.store.available = False
        other = {**body, "image": f"img_{SHA}"}
        again = {**gateway.headers, "Idempotency-Key": "other"}
        assert gateway.client.post("/api/v1/generate", json=other, headers=again).status_code == 503
        gateway.store.available = True
        assert gateway.client.post("/api/v1/generate", json=other, headers=again).status_code == 202

    def test_a_failed_publish_takes_the_place_back(self, counted: Gateway, ledger: Ledger) -> None:
        counted.web.serves(PNG)
        counted.publisher.failure = BrokerUnavailableError("away")
        assert generate(counted, URL).status_code == 503
        assert ledger.withdrawn == ledger.asked

    def test_equal_work_is_of_equal_content_wherever_it_came_from(self, gateway: Gateway) -> None:
        gateway.fleet.hear(encode(make_report(revision=REVISION)))
        gateway.web.serves(PNG)
        name = upload(gateway).get_json()["image"]
        other = upload(gateway, picture("PNG", (8, 7))).get_json()["image"]
        for number, image in enumerate((name, URL, other, None)):
            headers = {**gateway.headers, "Idempotency-Key": f"k{number}"}
            body = {"model": "simulated", "prompt": "a lake", "seed": 7}
            if image is not None:
                body["image"] = image
            assert gateway.client.post("/api/v1/generate", json=body, headers=headers).status_code == 202
        keys = [task.cache_key for task in gateway.tasks("simulated")]
        assert keys[0] == keys[1] is not None
        assert len(set(keys)) == 3

    def test_a_retry_starts_from_the_stored_image(self, gateway: Gateway) -> None:
        gateway.web.serves(PNG)
        generate(gateway, URL)
        (task,) = gateway.tasks("simulated")
        gateway.web.serves(picture("PNG", (9, 9)))
        TaskRecords(gateway.store).commit(make_outcome(task=task, state=TaskState.FAILED))
        answer = gateway.client.post(f"/api/v1/tasks/{task.task_id}/retry", headers=gateway.headers)
        assert answer.status_code == 202
        again = gateway.tasks("simulated")[-1]
        assert again.retry_of == task.task_id
        assert again.params.image == task.params.image
        assert gateway.web.asked == [URL]

    def test_a_retry_whose_image_is_gone_is_refused(self, gateway: Gateway) -> None:
        gateway.web.serves(PNG)
        generate(gateway, URL)
        (task,) = gateway.tasks("simulated")
        TaskRecords(gateway.store).commit(make_outcome(task=task, state=TaskState.FAILED))
        gateway.store.delete_prefix("inputs/")
        answer = gateway.client.post(f"/api/v1/tasks/{task.task_id}/retry", headers=gateway.headers)
        assert_problem(answer, 422, "image_not_found")


def test_other_greenlets_get_their_turn_while_an_image_is_hashed() -> None:
    pauses: list[float] = []
    large = picture("PNG", (8, 6)) + bytes(5 << 20)
    limits = type(IMAGE_LIMITS)()
    images = Images(MemoryStore(), None, limits, lambda: NOW, pause=pauses.append)  # type: ignore[arg-type] # never asked
    images.take(large, "acme")
    assert len(pauses) == 6


def test_models_say_whether_they_take_an_image(gateway: Gateway) -> None:
    models = gateway.client.get("/api/v1/models", headers=gateway.headers).get_json()["models"]
    assert {each["id"]: each["image_input"] for each in models} == {"tiny-newbie": "none", "simulated": "optional"}
