"""How batches are cut, and work is spread over devices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmids_cnn.devices import mesh, microbatches
from mmids_cnn.errors import ConfigError


@pytest.mark.parametrize(
    ("batch_size", "side", "want"),
    [
        (1, 28, (1, 1)),
        (16, 28, (1, 1)),
        (31, 28, (2, 1)),
        (32, 28, (2, 1)),
        (96, 28, (4, 1)),
        (100, 28, (4, 1)),
        (127, 28, (4, 1)),
        (128, 28, (4, 1)),
        (160, 28, (8, 1)),
        (251, 28, (8, 1)),
        (1000, 28, (8, 4)),
        (4096, 28, (8, 16)),
        (64, 192, (8, 8)),
        (2, 1000, (2, 1)),
    ],
)
def test_batches_are_cut_into_groups_of_slices(batch_size: int, side: int, want: tuple[int, int]) -> None:
    groups, slices, *_ = microbatches.cut(batch_size, side * side)
    assert (groups, slices) == want
    each = -(-batch_size // (groups * slices))
    assert each == 1 or (each <= 32 and each * side * side <= 2**16)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("batch_size", "want"), [(32, (1, 1)), (33, (2, 1)), (96, (4, 1)), (128, (4, 1)), (1000, (8, 4))]
)
def test_slices_of_a_size_that_is_given(batch_size: int, want: tuple[int, int]) -> None:
    cut = microbatches.cut(batch_size, 784, 32)
    assert (cut.groups, cut.slices) == want
    add_up = microbatches.add_up(
        lambda part: {"examples": part.sum(), "slice": jnp.max(part * part.size)}, cut
    )
    found = add_up(jnp.ones(batch_size))
    assert found["examples"] == batch_size
    if not cut.in_one_piece:  # every slice is as long, and full ones come first
        assert found["slice"] == 32 * -(-batch_size // 32)


def test_devices_share_groups_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [mesh.usable_devices(groups) for groups in (1, 2, 3, 4)] == [1, 2, 1, 2]
    monkeypatch.setattr(mesh, "_of_each_process", lambda: 6)
    assert [mesh.usable_devices(groups) for groups in (1, 2, 4, 8)] == [1, 2, 4, 4]


def test_processes_share_groups_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh, "_of_each_process", lambda: 3)
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    assert [mesh.usable_devices(groups) for groups in (4, 8, 12, 16)] == [4, 8, 12, 8]
    for size, want in ((24, 12), (16, 8), (4, 4), (7, 4)):
        assert mesh.sharing(lambda devices, size=size: size % devices == 0) == want  # type: ignore[misc]
    with pytest.raises(ConfigError, match="--processes: expected a divisor of 6, the pieces"):
        mesh.usable_devices(6)


@pytest.mark.parametrize(
    ("batch_size", "size", "groups", "want"),
    [
        (128, None, 4, (4, 1)),
        (128, None, 16, (16, 1)),
        (128, None, 2, (2, 2)),
        (4, None, 16, (4, 1)),
        (128, 32, 8, (4, 1)),
        (1000, 32, 16, (16, 2)),
    ],
)
def test_a_number_of_groups_that_is_given(
    batch_size: int, size: int | None, groups: int, want: tuple[int, int]
) -> None:
    cut = microbatches.cut(batch_size, 784, size, groups)
    assert (cut.groups, cut.slices) == want


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("groups", [2, 4, 8])
def test_groups_are_added_up_in_one_order(groups: int, devices: int) -> None:
    values = np.random.default_rng(0).normal(size=(groups, 3, 1000)).astype(np.float32)

    def double(group: Any, factor: Any) -> dict[str, Any]:
        return {"number": jnp.int32(2**22), "twice": factor * group}

    add = jax.jit(microbatches.sum_over_groups(double, devices))
    got = add(jnp.asarray(values), jnp.float32(2))
    want = 2 * values[0]
    for value in values[1:]:
        want += 2 * value
    assert got["twice"].shape == (3, 1000)
    assert np.array_equal(got["twice"], want)
    assert got["number"].dtype == jnp.int32 and got["number"] == groups * 2**22


def test_a_single_group_is_computed_as_it_is() -> None:
    program = jax.make_jaxpr(microbatches.sum_over_groups(lambda group: 2 * group, 1))(jnp.ones((1, 3)))
    assert not {"shard_map", "dot_general", "scan"} & {str(line.primitive) for line in program.eqns}
