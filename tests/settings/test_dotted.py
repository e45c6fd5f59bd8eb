"""Names of the form module:attribute."""

from pathlib import Path

import pytest

from mmids_cnn.errors import ConfigError
from mmids_cnn.settings import dotted


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to import from."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_what_is_dotted() -> None:
    assert all(map(dotted.is_dotted, ("a:b", "a.b_2.c:D", "ä:x")))
    assert not any(
        map(dotted.is_dotted, ("a", ":b", "a:", "a:b:c", "a b:c", "1:a", "a.:b", "a:b.c", "a/b:c", None, 1))
    )


def test_fields_are_read_without_running_the_source(own: Path) -> None:
    (own / "unrun.py").write_text(
        "raise SystemExit\nclass Net:\n    num_classes: int\n    width: int = 8\n"
        "    rates: tuple = (0.5, 1)\n    made: int = width + 1\n    other = 3\n"
        "class Wide(Net):\n    num_classes: int = 10\n    width: int = 64\n    scale: float = 1\n"
        "    depth: int | None = None\n    pairs: tuple = ((1, 2), (3, 4))\n    K: ClassVar[int] = 3\n"
    )
    (own / "whole").mkdir()
    (own / "whole" / "__init__.py").write_text("from .part import Inner as Net\nraise SystemExit\n")
    (own / "whole" / "part.py").write_text("from unrun import Wide as Inner\n")
    assert dotted.fields("unrun:Net") == {"width": 8, "rates": (0.5, 1)}
    for place in ("unrun:Wide", "whole.part:Inner", "whole:Net"):
        found = dotted.fields(place)
        assert found == {"width": 64, "rates": (0.5, 1), "scale": 1} and type(found["scale"]) is float
    (own / "deep" / "er").mkdir(parents=True)  # packages without __init__.py
    (own / "deep" / "er" / "net.py").write_text("import unrun\nclass Mine(unrun.Wide):\n    deep: int = 2\n")
    assert dotted.require_source("deep.er.net:Mine", "model.name") == own / "deep" / "er" / "net.py"
    assert dotted.fields("deep.er.net:Mine") == {"width": 64, "rates": (0.5, 1), "scale": 1, "deep": 2}
    assert dotted.fields("unrun:None_such") == dotted.fields("nowhere:Net") == {}


def test_digest_changes_with_the_source_and_root_is_its_folder(own: Path) -> None:
    (own / "package").mkdir()
    (own / "package" / "part.py").write_text("x = 1\n")
    before = dotted.digest("package.part:x")
    assert dotted.root("package.part:x") == own
    (own / "package" / "part.py").write_text("x = 2\n")
    assert before != dotted.digest("package.part:x") is not None
    assert dotted.digest("package.none:x") is dotted.root("package.none:x") is None
    (own / "package" / "__init__.py").write_text(
        "from package.part import x, y as z\nfrom ... import beyond\n"
    )
    whole = {name: dotted.digest(f"package:{name}") for name in ("x", "z", "beyond")}
    assert dotted.root("package:x") == own
    (own / "package" / "part.py").write_text("x = 3\n")
    changed = [name for name in whole if dotted.digest(f"package:{name}") != whole[name]]
    assert changed == ["x", "z"]  # where they are defined


def test_package_that_raises_is_told_with_what(own: Path) -> None:
    (own / "brokepkg").mkdir()
    (own / "brokepkg" / "__init__.py").write_text("x = 1\nraise RuntimeError('not today')\n")
    (own / "brokepkg" / "m.py").write_text("")
    with pytest.raises(
        ConfigError, match=r"'brokepkg\.m:Net', which raised RuntimeError: not today in line 2 of __init__.py"
    ):
        dotted.load("brokepkg.m:Net", "model.name")


def test_rows_of_a_table_come_before_names_of_ones_own(own: Path) -> None:
    (own / "some_own.py").write_text("row = 5\n")
    assert dotted.look_up({"row": 1}, "row", "leaf") == 1
    assert dotted.look_up({"row": 1}, "some_own:row", "leaf") == 5
    with pytest.raises(
        ConfigError, match=r"config\.leaf: expected an attribute of some_own, got 'some_own:gone'"
    ):
        dotted.look_up({}, "some_own:gone", "leaf")
