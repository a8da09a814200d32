"""A node of a three-node broker is lost under a load of confirmed submits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chaos.node_loss import WORK, play
from tests.support.rabbit_cluster import NODES, RabbitCluster
from tests.support.rabbit_container import require_image

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.chaos.node_loss import Round

# Without the node that leads: elections, reconnects, and time to go on.
SECONDS = {"killed": 8.0, "frozen": 30.0}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitCluster]:
    require_image()
    cluster = RabbitCluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def assert_none_lost(played: Round) -> None:
    assert played.confirmed > 0
    assert played.lost == frozenset()
    assert played.twice == 0
    for seen in played.submitters:
        assert seen.resumed, "submits were not confirmed again"


@pytest.mark.timeout(1200)
def test_a_node_s_alarms_come_before_its_container_s_limits(cluster: RabbitCluster) -> None:
    """Left to itself a broker in a container takes the host's memory for its own."""
    for node in NODES:
        status = cluster.status(node)
        assert status["vm_memory_high_watermark_limit"] == 1_000_000_000
        assert cluster.memory_limit(node) >= 1.5 * status["vm_memory_high_watermark_limit"]
        assert status["disk_free_limit"] == 512_000_000


@pytest.mark.timeout(1200)
def test_a_killed_leader_costs_no_confirmed_submit_and_submits_go_on(cluster: RabbitCluster, tmp_path: Path) -> None:
    assert {len(row["members"]) for row in cluster.queues()} == {len(NODES)}
    assert_none_lost(play(cluster, tmp_path, kind="killed", seconds=SECONDS["killed"]))
    assert cluster.leader(WORK) in NODES


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_nor_do_nodes_that_are_killed_or_frozen_one_after_the_other(cluster: RabbitCluster, tmp_path: Path) -> None:
    for kind in ("killed", "frozen", "killed", "frozen"):
        assert_none_lost(play(cluster, tmp_path, kind=kind, seconds=SECONDS[kind]))
