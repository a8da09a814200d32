from __future__ import annotations

import json
from typing import TYPE_CHECKING

from infra.native.config import StackSettings
from infra.native.credentials import SecretStore, tenants_url, write_demo_keys
from infra.native.layout import Layout
from shared.auth.store.sql import open_store
from tests.support.tenants import administration

if TYPE_CHECKING:
    from pathlib import Path


def test_what_an_operator_did_survives_the_next_start(tmp_path: Path) -> None:
    settings, layout = StackSettings(run_dir=tmp_path), Layout(tmp_path)
    secrets = SecretStore(layout.secrets)
    layout.run.mkdir(exist_ok=True)
    write_demo_keys(settings, layout, secrets)
    demo = json.loads(layout.demo_file.read_text())["keys"]
    store = open_store(tenants_url(layout))
    administration(store).create_tenant("acme", "standard")
    administration(store).set_plan("demo-vip", "batch", {})
    administration(store).revoke_key(demo["standard"][4:12])

    write_demo_keys(settings, layout, secrets)

    assert {tenant.id: tenant.plan for tenant in store.tenants()} == {
        "acme": "standard",
        "demo-standard": "standard",
        "demo-vip": "batch",
    }
    store.close()
    after = json.loads(layout.demo_file.read_text())["keys"]
    assert after["vip"] == demo["vip"]
    assert after["standard"] != demo["standard"]
