"""Pictures of matplotlib as SVG: one style, the same bytes for the same picture."""

import base64
import io
from typing import Any, NamedTuple

from matplotlib.figure import Figure

STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a93a0",
    "axes.labelcolor": "#33415c",
    "axes.axisbelow": True,
    "grid.color": "#e8ebef",
    "xtick.color": "#5a6676",
    "ytick.color": "#5a6676",
    "svg.hashsalt": "mmids_cnn",  # equal sweeps give equal pictures
}


class Picture(NamedTuple):
    """A picture with its title and what is to be seen in it; `content` is SVG in base 64."""

    title: str
    caption: str
    content: str


def svg(figure: Figure) -> str:
    """A figure as SVG in base 64."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return base64.b64encode(buffer.getvalue()).decode()
