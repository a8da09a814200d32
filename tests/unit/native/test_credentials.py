from __future__ import annotations

import json
from typing import TYPE_CHECKING

from infra.native.config import StackSettings
from infra.native.credentials import SecretStore, write_demo_keys
from infra.native.layout import Layout
from shared.auth.keys import generate_key, key_record, load_keyring

if TYPE_CHECKING:
    from pathlib import Path


def test_a_key_that_an_operator_made_survives_the_next_start(tmp_path: Path) -> None:
    settings, layout = StackSettings(run_dir=tmp_path), Layout(tmp_path)
    store = SecretStore(layout.secrets)
    keys_file = write_demo_keys(settings, layout, store)
    pepper, key = store.value("key-pepper"), generate_key()
    document = json.loads(keys_file.read_text())
    document["keys"].append(key_record(key, pepper=pepper, tenant_id="acme"))
    keys_file.write_text(json.dumps(document))
    demo = json.loads(layout.demo_file.read_text())["keys"]

    write_demo_keys(settings, layout, store)

    ring = load_keyring(keys_file, pepper)
    principal = ring.authenticate(key)
    assert principal is not None
    assert principal.tenant_id == "acme"
    assert json.loads(layout.demo_file.read_text())["keys"] == demo
    assert all(ring.authenticate(each) is not None for each in demo.values())
