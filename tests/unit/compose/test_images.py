"""Each image holds shared/ and its own service, from a pinned base, with nothing that builds, and no root."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.support.compose import ROOT

SERVICES = ("gateway", "status", "worker")
EXTRAS = {
    "services/gateway/requirements.lock": ("gateway", "postgres"),
    "services/status/requirements.lock": ("status", "postgres"),
    "services/worker/requirements.lock": ("worker",),
    "services/worker/requirements-gpu.lock": ("worker",),
}
_PINNED = re.compile(r"^([a-z0-9][a-z0-9._-]*)==([^\s;\\]+)", re.MULTILINE)


def dockerfile(service: str) -> str:
    folder = ROOT / "services" / service if service in SERVICES else ROOT / "infra" / service
    return (folder / "Dockerfile").read_text().replace("\\\n", " ")


def pinned(lock: str) -> dict[str, str]:
    return dict(_PINNED.findall((ROOT / lock).read_text()))


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_takes_in_shared_and_its_own_service(service: str) -> None:
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from=)(.+)$", dockerfile(service), re.MULTILINE)
        for source in line.split()[:-1]
    }
    code = {source for source in copied if not source.endswith(".lock")}
    assert code == {"shared", "services/__init__.py", f"services/{service}"}


@pytest.mark.parametrize("service", [*SERVICES, "compose"])
def test_an_image_is_built_from_a_pinned_base_and_runs_as_nobody_in_particular(service: str) -> None:
    text = dockerfile(service)
    assert "ARG PYTHON_IMAGE=python:3.11-slim-bookworm\n" in text
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${PYTHON_IMAGE}"}
    final = text.rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (.+)$", final, re.MULTILINE) == ["10001:10001"]
    assert "pip uninstall" in final
    assert "STOPSIGNAL SIGTERM\n" in final
    assert {f'org.opencontainers.image.{name}="' for name in ("title", "description", "version", "licenses")} <= set(
        re.findall(r'org\.opencontainers\.image\.\w+="', final)
    )
    assert ("HEALTHCHECK" in final) == (service in SERVICES)


@pytest.mark.parametrize("service", [*SERVICES, "compose"])
def test_a_dockerfile_keeps_to_what_every_builder_knows(service: str) -> None:
    assert re.search(r"--mount|--chmod|--link|<<|^# *syntax", dockerfile(service), re.MULTILINE) is None


@pytest.mark.parametrize("lock", EXTRAS)
def test_a_lock_has_the_versions_of_the_environment_that_was_tested(lock: str) -> None:
    tested = pinned("requirements.lock")
    found = pinned(lock)
    brought_by_torch = re.compile(r"^(nvidia-(?!ml-py)|cuda-|triton)") if "gpu" in lock else re.compile(r"(?!)")
    # Asked for by Redis's client below Python 3.11.3, which the tests need not run on.
    tested |= {"async-timeout": found.get("async-timeout", "")}
    differing = {name: version for name, version in found.items() if tested.get(name) != version}
    assert {name for name in differing if not brought_by_torch.match(name)} == set()


@pytest.mark.parametrize("lock", EXTRAS)
def test_a_lock_holds_what_the_service_asks_for_with_the_hashes_of_every_file(lock: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [
        *project["dependencies"],
        *(each for extra in EXTRAS[lock] for each in project["optional-dependencies"][extra]),
    ]
    names = {re.split(r"[\[<>=~!;]", each)[0].strip() for each in asked}
    assert names - pinned(lock).keys() == set()
    entries = re.split(r"^(?=[a-z0-9])", (ROOT / lock).read_text(), flags=re.MULTILINE)[1:]
    assert [each.split()[0] for each in entries if "--hash=sha256:" not in each] == []


def test_the_build_sees_only_what_is_copied() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == {
        *("shared", "services", "infra/compose", "infra/nginx", "infra/redis", "infra/seaweedfs"),
        "models/tiny-newbie",
    }
