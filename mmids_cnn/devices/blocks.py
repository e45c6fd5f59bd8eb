"""Work on many examples in blocks, on all cores of a CPU."""

import concurrent.futures
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from mmids_cnn.devices import cores

_CPU_EXAMPLES = 50  # at a time on each core of a CPU: their activations stay in its cache


def per_worker(batch_size: int) -> tuple[int, int]:
    """How many examples at a time, and threads that score: small products leave a CPU's cores idle."""
    if jax.default_backend() == "cpu":
        return min(batch_size, _CPU_EXAMPLES), cores.count()
    return batch_size, 1


def each(work: Callable[[int], Any], items: Iterable[int], workers: int) -> list[Any]:
    """Results of all items, in their order; after an error no further item is begun."""
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def filled(array: np.ndarray, length: int) -> np.ndarray:
    """The array with zeros appended to `length` entries."""
    return np.pad(array, [(0, length - len(array)), *[(0, 0)] * (array.ndim - 1)])


def on_one_device(tree: Any) -> Any:
    """Arrays on the first device of this process alone; training copies them to several."""

    def own(leaf: Any) -> Any:
        return leaf if getattr(leaf, "is_fully_addressable", True) else leaf.addressable_data(0)

    return jax.device_put(jax.tree.map(own, tree), jax.local_devices()[0])
