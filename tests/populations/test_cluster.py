"""The Ray executor: results of the local one, also when a node is killed in the middle."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmids_cnn.populations.cluster import share
from tests.support import sweeping

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # addresses on 127.0.0.1, as `executor` sets it

# This process has used JAX before; what Ray forks runs another program at once.
pytestmark = pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")

LEAVES: dict[str, Any] = {
    "sweep__population": 2,
    "sweep__confirm_seeds": 0,
    "sweep__populations_per_device": 1,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archives, and where they are prepared."""
    return sweeping.write_archives(tmp_path_factory.mktemp("digits"))


@pytest.fixture
def cluster(folder: Path) -> Iterator[Any]:
    """A head that does no work, and two nodes of one core."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
        it = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        try:
            patch.setenv("RAY_ADDRESS", it.address)
            yield it
        finally:
            it.shutdown()


CPU = {"XLA_FLAGS": "x", "JAX_PLATFORMS": "cpu"}


@pytest.mark.parametrize(
    ("nodes", "each", "needs", "variables"),
    [
        ([{"GPU": 8, "CPU": 64}, {"CPU": 4}], 1, {"num_gpus": 1, "num_cpus": 0}, {"XLA_FLAGS": "x"}),
        (
            [{"GPU": 1, "CPU": 4}],
            3,
            {"num_gpus": 1 / 3, "num_cpus": 0},
            {"XLA_FLAGS": "x", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.300"},
        ),
        ([{"GPU": 8, "CPU": 64}], 0, {"num_gpus": 8, "num_cpus": 0}, {"XLA_FLAGS": "x"}),
        ([{"CPU": 2}], 0, {"num_cpus": 2}, CPU | {"JAX_NUM_CPU_DEVICES": "2"}),
        ([{}, {"CPU": 8}, {"CPU": 4}], 1, {"num_cpus": 4}, CPU | {"JAX_NUM_CPU_DEVICES": "4"}),
        ([{"CPU": 4}], 2, {"num_cpus": 2}, CPU | {"JAX_NUM_CPU_DEVICES": "2"}),
        ([{"CPU": 2}], 5, {"num_cpus": 1}, CPU | {"JAX_NUM_CPU_DEVICES": "1"}),
    ],
)
def test_share_of_a_device(nodes: Any, each: int, needs: dict[str, float], variables: dict[str, str]) -> None:
    environment = {"HOME": "/", "XLA_FLAGS": "x", "JAX_PLATFORMS": "cpu"}
    assert share(nodes, each, environment) == (needs, variables)


def test_killed_node_loses_nothing_and_changes_no_bit(folder: Path, cluster: Any, tmp_path: Path) -> None:
    a_plan = sweeping.make(folder, **LEAVES, sweep__executor="ray")
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    killed: list[float] = []
    over = threading.Event()

    def kill_one() -> None:
        """SIGKILL for all processes of a node, once the first of four populations is done: it is at work."""
        populations = tmp_path / "far" / "populations"
        while not over.wait(0.05):
            if list(populations.glob("*.json")):
                cluster.remove_node(nodes[0], allow_graceful=False)
                killed.append(time.monotonic())
                return

    thread = threading.Thread(target=kill_one)
    thread.start()
    try:
        sweeping.run(a_plan, tmp_path / "far")
    finally:
        ended = time.monotonic()
        over.set()
        thread.join()
    sweeping.run(sweeping.make(folder, **LEAVES), tmp_path / "near")
    assert killed
    assert killed[0] < ended
    far, near = sweeping.outcome(a_plan, tmp_path / "far"), sweeping.outcome(a_plan, tmp_path / "near")
    assert far == near
    assert len(far["results"]) == 4
