"""Uses the page of `draw` in Chromium as people do.

    python -m tests.support.browsing /usr/bin/chromium draw.html mouse|touch

Exit status 0 and silence: all is as it should be. The page is the one of a network of two blocks whose last
two checkpoints are of epochs 3 and 4.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support import hershey

if TYPE_CHECKING:
    from playwright.sync_api import Page

MODES: dict[str, dict[str, Any]] = {
    "mouse": {"viewport": {"width": 1200, "height": 900}, "color_scheme": "dark"},
    "touch": {
        "viewport": {"width": 390, "height": 844},
        "has_touch": True,
        "is_mobile": True,
        "reduced_motion": "reduce",
    },
}


def main(chromium: str, path: str, kind: str) -> None:
    """Draws, undoes, looks at examples, maps and epochs."""
    from playwright.sync_api import sync_playwright  # not everybody has it

    address, seen, requests = Path(path).absolute().as_uri(), list[str](), list[str]()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_context(**MODES[kind]).new_page()
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address)
        says(page, "?", "draw something")
        use(page, kind)
        assert (seen, requests) == ([], [address]), (seen, requests)
        fetched = page.evaluate("fetch('data:,x').then(() => 'fetched', () => 'refused')")
        assert fetched == "refused"
        browser.close()


def use(page: "Page", kind: str) -> None:
    """All that can be done with the page."""
    for label in (0, 3):
        draw(page, kind, label)
        says(page, str(label), " %")
        until(page, f"document.querySelector('#live').textContent.startsWith('{label}, ')")
        assert page.locator("#bars .first").inner_text().startswith(str(label))
        assert ink(page) > 5000
        if label == 0:
            page.keyboard.press("Control+z")
            says(page, "?", "draw something")
            assert ink(page) == 0
    before = page.evaluate(MAPS)
    page.locator("#look").click()
    until(page, "/falls|takes/.test(document.querySelector('#looked').textContent)")

    page.locator("#wrong button").first.click()
    right, said = page.locator("#wrong button").first.inner_text().split(" \N{RIGHTWARDS ARROW} ")
    says(page, said, f"is {right}")
    assert page.locator("#looked").inner_text() == ""
    assert page.evaluate(MAPS) != before  # they are live
    page.keyboard.press("Escape")
    says(page, "?", "draw something")

    page.locator("#wrong button").first.click()
    says(page, said, f"is {right}")
    now = page.locator("#bars").inner_text()
    page.locator("#epoch").press("ArrowLeft")
    assert page.locator("#when").inner_text().startswith("epoch 3: ")
    until(page, "before => document.querySelector('#bars').innerText !== before", now)

    canvas = page.locator(".maps").nth(1).locator("canvas").first
    if kind == "mouse":
        canvas.hover()
        assert "Block 2, map 1: sums the 8 maps of block 1" in page.locator("#kernel").inner_text()
        page.mouse.move(5, 5)
        page.locator("#kernel").wait_for(state="hidden")
        canvas.focus()
        page.keyboard.press("ArrowRight")
        assert "Block 2, map 2: " in page.locator("#kernel").inner_text()
    else:
        canvas.tap()
        assert "Block 2, map 1: " in page.locator("#kernel").inner_text()
        page.locator("h1").tap()
        page.locator("#kernel").wait_for(state="hidden")
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


MAPS = "[...document.querySelectorAll('.maps canvas')].map(map => map.toDataURL()).join()"


def says(page: "Page", best: str, sure: str) -> None:
    """Waits for an answer."""
    until(
        page,
        "([best, sure]) => document.querySelector('#best').textContent === best"
        " && document.querySelector('#sure').textContent.includes(sure)",
        [best, sure],
    )


def until(page: "Page", code: str, argument: Any = None) -> None:
    """Waits for something to be true; `page.wait_for_function` would need `eval`, which the page forbids."""
    for _ in range(200):
        if page.evaluate(code, argument):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"expected {code} of {argument}, found {page.locator('#board').inner_text()}")


def ink(page: "Page") -> int:
    """What is on the image that the network sees."""
    code = """() => {
        const copy = new OffscreenCanvas(28, 28).getContext("2d");
        copy.drawImage(document.querySelector("#seen"), 0, 0);
        return copy.getImageData(0, 0, 28, 28).data.reduce((sum, byte, at) => sum + (at % 4 ? 0 : byte), 0);
    }"""
    total: int = page.evaluate(code)
    return total


def draw(page: "Page", kind: str, label: int) -> None:
    """Draws a digit by events of the mouse or of a finger."""
    page.locator("#pad").scroll_into_view_if_needed()
    box = page.locator("#pad").bounding_box()
    assert box
    scrolled = page.evaluate("scrollY")
    for stroke in hershey.digit(label):
        places = [
            (box["x"] + x / 25 * box["width"], box["y"] + (y + 14) / 25 * box["height"]) for x, y in stroke
        ]
        (move_mouse if kind == "mouse" else move_finger)(page, places)
    assert page.evaluate("scrollY") == scrolled


def move_mouse(page: "Page", places: Sequence[tuple[float, float]]) -> None:
    """One stroke."""
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=3)
    page.mouse.up()


def move_finger(page: "Page", places: Sequence[tuple[float, float]]) -> None:
    """One stroke, while a second finger touches the pad."""
    session = page.context.new_cdp_session(page)

    def touch(kind: str, *fingers: tuple[float, float]) -> None:
        points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(fingers)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", places[0])
    touch("touchStart", places[0], places[-1])
    for place in places[1:]:
        touch("touchMove", place, places[-1])
    touch("touchEnd")


if __name__ == "__main__":
    main(*sys.argv[1:])
