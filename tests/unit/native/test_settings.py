"""Settings, ports and folders of a native stack."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from infra.native.config import CHECKOUT, StackSettings, load_stack_settings
from infra.native.layout import Layout
from infra.native.ports import Ports
from shared.domain.errors import ConfigurationError


def test_without_variables_everything_lies_in_the_checkout() -> None:
    settings = load_stack_settings({})
    assert settings.run_dir == CHECKOUT / ".run"
    assert settings.base_url == "http://127.0.0.1:8080"
    assert settings.workers == ("tiny-newbie", "simulated")


def test_an_argument_comes_before_a_variable() -> None:
    environ = {"ATELIER_NATIVE_BASE_PORT": "20000", "ATELIER_NATIVE_WORKERS": "simulated, simulated,tiny-newbie"}
    settings = load_stack_settings(environ, base_port="21000", gateways=None)
    assert (settings.base_port, settings.gateways) == (21000, 2)
    assert settings.workers == ("simulated", "simulated", "tiny-newbie")
    assert settings.models == ("simulated", "tiny-newbie")


def test_other_variables_of_ours_are_handed_on_to_the_services() -> None:
    environ = {"ATELIER_LOG_LEVEL": "debug", "ATELIER_NATIVE_GATEWAYS": "1", "HOME": "/nowhere"}
    assert load_stack_settings(environ).environment == {"ATELIER_LOG_LEVEL": "debug"}


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ATELIER_NATIVE_BASE_PORT", "80"),
        ("ATELIER_NATIVE_PUBLIC_PORT", "http"),
        ("ATELIER_NATIVE_WORKERS", ","),
        ("ATELIER_NATIVE_WORKERS", "../models"),
        ("ATELIER_NATIVE_GATEWAYS", "0"),
    ],
)
def test_a_wrong_value_is_reported_with_its_variable(variable: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=variable):
        load_stack_settings({variable: value})


def test_no_port_is_given_twice_in_the_largest_stack() -> None:
    settings = StackSettings(workers=("simulated",) * 20, gateways=10, status_apis=10, base_port=18100)
    ports = sorted(Ports(settings).named().values())
    assert all(one < other for one, other in pairwise(ports))
    assert all(18100 <= port < 18180 for port in ports if port not in {8080, 28178})


def test_stacks_a_hundred_ports_apart_share_none() -> None:
    stacks = [
        set(Ports(StackSettings(base_port=base, public_port=base + 90)).named().values()) for base in (20000, 20100)
    ]
    assert stacks[0].isdisjoint(stacks[1])


def test_a_socket_s_path_is_short_however_deep_the_run_folder_lies(tmp_path: Path) -> None:
    deep = Layout(tmp_path / ("x" * 60) / ("y" * 60))
    deep.make()
    assert len(str(deep.control_socket)) <= 90
    assert deep.sockets.stat().st_mode & 0o777 == 0o700
    assert deep.sockets != Layout(tmp_path / ("x" * 60) / ("z" * 60)).sockets
    deep.remove_sockets()
    assert not deep.sockets.exists()
    assert Layout(Path("/run/short")).control_socket == Path("/run/short/supervisor.sock")
