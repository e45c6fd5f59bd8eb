"""Draws the picture of the README: what a network says of twelve test digits, and the page to draw on.

    python tests/benchmarks/front.py

Trains `experiments/fast.py` into runs/fast, where it is not there yet. The page is drawn on in Chromium: that
needs Debian's `chromium` and `pip install playwright`.
"""

import io
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

from mmids_cnn import data, score
from mmids_cnn.console import command
from mmids_cnn.pages import statistics
from mmids_cnn.runs import folder, trained
from tests.support import browsing

matplotlib.use("Agg")
from matplotlib import pyplot

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RUN = ROOT / "runs" / "fast"
WIDTH, HEIGHT = 1240, 560  # pixels of the picture; a half is for the digits
RIGHT, WRONG = "#0b7a4b", "#b3423a"


def digits() -> Image.Image:
    """Twelve test digits with what is said of them: eleven that are right, and the error that was surest."""
    experiment = folder.experiment(RUN)
    dataset = data.load(experiment.dataset)
    found = trained.load(RUN, experiment, dataset, "newest", command.warn)
    test = dataset.splits["test"]
    labels = np.asarray(test.labels)
    logits = score.logits(found.network, found.variables, test.images, experiment.eval.batch_size)
    said, sure = logits.argmax(-1), np.exp(statistics.log_probabilities(logits).max(-1))
    wrong = np.flatnonzero(said != labels)
    chosen = [*np.flatnonzero(said == labels)[:11], wrong[sure[wrong].argmax()]]
    figure, panels = pyplot.subplots(3, 4, figsize=(WIDTH / 200, HEIGHT / 100), layout="constrained")
    for panel, index in zip(panels.flat, chosen, strict=True):
        right = said[index] == labels[index]
        panel.imshow(test.images[index][..., 0], cmap="gray_r")
        panel.axis("off")
        text = f"{said[index]}" if right else f"{said[index]}, is {labels[index]}"
        panel.set_title(f"{text}   {100 * sure[index]:.0f} %", color=RIGHT if right else WRONG, fontsize=12)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return Image.open(buffer).convert("RGB")


def page(chromium: str) -> Image.Image:
    """The page of `draw` with a 3 on it, drawn by a mouse."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        window = browser.new_page(viewport={"width": 2 * WIDTH // 3, "height": 1200}, color_scheme="light")
        window.goto((RUN / "draw.html").as_uri())
        browsing.draw(window, "mouse", 3)
        browsing.says(window, "3", " %")
        window.mouse.move(5, 5)
        window.evaluate("scrollTo(0, 0)")
        shot = Image.open(io.BytesIO(window.screenshot())).convert("RGB")
        browser.close()
    return shot


def main() -> None:
    """Writes records/front.png."""
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("front: expected chromium, found none; install Debian's package of that name")
    if folder.result(RUN) is None:
        line = [sys.executable, "-m", "mmids_cnn.main", "--config=experiments/fast.py", f"--workdir={RUN}"]
        subprocess.run(line, cwd=ROOT, check=True)
    subprocess.run([sys.executable, "-m", "mmids_cnn.draw", f"--workdir={RUN}"], cwd=ROOT, check=True)
    left, right = digits(), page(chromium)
    right = right.resize((right.width * HEIGHT // right.height, HEIGHT), Image.Resampling.LANCZOS)
    whole = Image.new("RGB", (left.width + right.width, HEIGHT), "white")
    whole.paste(left, (0, 0))
    whole.paste(right, (left.width, 0))
    whole.save(HERE / "records" / "front.png", optimize=True)


if __name__ == "__main__":
    main()
