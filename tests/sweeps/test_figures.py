"""Pictures of a sweep say what is so: who is who, and where each value lies."""

import pytest
from matplotlib.axes import Axes

from mmids_cnn.sweeps import figures


def dots(panel: Axes) -> dict[str, list[float]]:
    """The values of the seeds by the label of their line."""
    panel.figure.canvas.draw()
    labels = [label.get_text() for label in panel.get_yticklabels()]
    places = dict(zip(panel.get_yticks(), labels, strict=True))
    lines = [line for line in panel.lines if line.get_marker() == "o"]
    return {places[line.get_ydata()[0]]: sorted(line.get_xdata()) for line in lines}


@pytest.mark.parametrize(
    ("names", "labels"),
    [(("winner", "base"), ("winner", "as configured")), (("winner",), ("trained",))],
)
def test_winner_and_base_of_the_confirmation(names: tuple[str, ...], labels: tuple[str, ...]) -> None:
    values = {"winner": (0.98, 0.96), "base": (0.9, 0.91)}
    scores = {name: [{"test/accuracy": value} for value in values[name]] for name in names}
    (panel,) = figures._confirmation(scores).axes
    expected = {"winner": [96, 98], "trained": [96, 98], "as configured": [90, 91]}
    assert dots(panel) == {label: pytest.approx(expected[label]) for label in labels}
