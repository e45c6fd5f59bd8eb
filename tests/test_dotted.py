"""Names of the form module:attribute."""

from pathlib import Path

import pytest

from mmids_cnn import dotted
from mmids_cnn.errors import ConfigError


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
    )
    assert dotted.fields("unrun:Net") == {"width": 8, "rates": (0.5, 1)}
    assert dotted.fields("unrun:None_such") == dotted.fields("nowhere:Net") == {}


def test_digest_changes_with_the_source_and_root_is_its_folder(own: Path) -> None:
    (own / "package").mkdir()
    (own / "package" / "part.py").write_text("x = 1\n")
    before = dotted.digest("package.part:x")
    assert dotted.root("package.part:x") == own
    (own / "package" / "part.py").write_text("x = 2\n")
    assert before != dotted.digest("package.part:x") is not None
    assert dotted.digest("package.none:x") is dotted.root("package.none:x") is None


def test_rows_of_a_table_come_before_names_of_ones_own(own: Path) -> None:
    (own / "some_own.py").write_text("row = 5\n")
    assert dotted.look_up({"row": 1}, "row", "leaf") == 1
    assert dotted.look_up({"row": 1}, "some_own:row", "leaf") == 5
    with pytest.raises(
        ConfigError, match=r"config\.leaf: expected an attribute of some_own, got 'some_own:gone'"
    ):
        dotted.look_up({}, "some_own:gone", "leaf")
