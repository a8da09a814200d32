"""The demonstration: one XML prompt in, one picture out, over the public entrance alone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx

from infra.native.errors import DemoError

if TYPE_CHECKING:
    from infra.native.credentials import DemoInfo

PROMPT: Final = Path(__file__).with_name("demo_prompt.xml")
_LIMIT_SECONDS: Final = 300.0
# The tiny model is done in a fraction of a second; a look at a slow one need not be as frequent.
_FIRST_POLL_SECONDS: Final = 0.03
_LONGEST_POLL_SECONDS: Final = 0.5
_WAITING: Final = ("queued", "generating")


class Demo:
    """Submits as a client does, shows what a client can see, saves what a client gets."""

    def __init__(self, info: DemoInfo, model: str, folder: Path) -> None:
        self._info = info
        self._model = model
        self._folder = folder

    def run(self) -> Path:
        """Make one picture. Returns where it lies. Raises DemoError when there is none in the end."""
        headers = {"Authorization": f"Bearer {self._info.keys['standard']}"}
        try:
            with httpx.Client(base_url=self._info.base_url, headers=headers, timeout=30, trust_env=False) as client:
                task_id, status_url = self._submit(client)
                url = self._watch(client, status_url)
                picture = self._download(client, url, task_id)
        except httpx.HTTPError as exc:
            message = f"{self._info.base_url}: {type(exc).__name__} {exc}".rstrip()
            raise DemoError(message) from exc
        print(f"\npicture  {picture}")
        print(f"address  {httpx.URL(self._info.base_url).join(url)}  (with the key)")
        print(f"story    make logs TASK={task_id}", flush=True)
        return picture

    def _submit(self, client: httpx.Client) -> tuple[str, str]:
        print(f"\nPOST /generate  (an XML prompt for {self._model})", flush=True)
        answer = client.post("/generate", json={"prompt": PROMPT.read_text(encoding="utf-8")})
        accepted = _json(answer, httpx.codes.ACCEPTED)
        print(f"202  task {accepted['task_id']}", flush=True)
        return accepted["task_id"], accepted["status_url"]

    def _watch(self, client: httpx.Client, status_url: str) -> str:
        deadline = time.monotonic() + _LIMIT_SECONDS
        pause = _FIRST_POLL_SECONDS
        shown = ""
        while time.monotonic() < deadline:
            view = _json(client.get(status_url), httpx.codes.OK)
            if (line := _progress(view)) != shown:
                print(line, flush=True)
                shown = line
            if view["status"] == "done":
                url: str = view["result_url"]
                return url
            if view["status"] not in _WAITING:
                message = f"the task ended as {view['status']}: {view.get('error')}"
                raise DemoError(message)
            time.sleep(pause)
            pause = min(pause * 1.1, _LONGEST_POLL_SECONDS)
        message = f"the task did not end within {_LIMIT_SECONDS:g} s; see `make logs`"
        raise DemoError(message)

    def _download(self, client: httpx.Client, url: str, task_id: str) -> Path:
        answer = client.get(url)
        if answer.status_code != httpx.codes.OK or answer.headers.get("content-type") != "image/png":
            message = f"{url} answers {answer.status_code} {answer.text[:300]}"
            raise DemoError(message)
        self._folder.mkdir(parents=True, exist_ok=True)
        picture = self._folder / f"{task_id}.png"
        picture.write_bytes(answer.content)
        return picture


def _progress(view: dict[str, Any]) -> str:
    steps = f" {view['step']}/{view['steps']}" if view.get("steps") else ""
    phase = f"  {view['phase']}{steps}" if view.get("phase") and view["status"] in _WAITING else ""
    return f"  {view['progress']:>4.0%}  {view['status']}{phase}"


def _json(answer: httpx.Response, expected: int) -> dict[str, Any]:
    if answer.status_code != expected:
        message = f"{answer.request.method} {answer.request.url.path} answers {answer.status_code} {answer.text[:500]}"
        raise DemoError(message)
    document: dict[str, Any] = answer.json()
    return document
