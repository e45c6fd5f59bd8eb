"""What the time of a run went to, over all the processes that worked on it."""

import time
from collections.abc import Mapping

from mmids_cnn import loop

PHASES = ("data", "compile", "train", "eval")


class Clock:
    """Seconds by phase, and images, of this process and of those before it.

    Args:
      started: `time.perf_counter()` when this process began to work on the run.
      data: seconds that it took to load the data.

    Attributes:
      before: what `read` gave when the state was saved that this process goes on from; zeros for a new run.
    """

    def __init__(self, started: float, data: float) -> None:
        self._started, self._data = started, data
        self.before: Mapping[str, float] = dict.fromkeys((*PHASES, "total", "images"), 0.0)

    def elapsed(self) -> float:
        """Seconds since this process began."""
        return time.perf_counter() - self._started

    def read(self, seconds: loop.Seconds, images: int) -> dict[str, float]:
        """Seconds by phase, their `total` with all between the phases, and the `images` trained on.

        Args:
          seconds: that `loop.fit` spent in this process.
          images: that it trained on.
        """
        now = {phase: getattr(seconds, phase) for phase in PHASES}
        now |= {"data": self._data + seconds.data, "total": self.elapsed(), "images": float(images)}
        return {name: value + self.before[name] for name, value in now.items()}
