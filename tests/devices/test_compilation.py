"""Where compiled programs are kept."""

import os

import pytest

from mmids_cnn.devices import compilation

NAME = "JAX_COMPILATION_CACHE_DIR"


@pytest.mark.parametrize(
    ("flag", "variable", "expected"),
    [
        (None, None, "/home/me/mmids_cnn/compiled"),
        (None, "/theirs", "/theirs"),
        ("/mine", None, "/mine"),
        ("/mine", "/theirs", "/mine"),
        ("", "/theirs", None),
        ("", None, None),
        ("/m\udcffine", None, None),
        (None, "/m\udcffine", None),
        ("/m\u00efne", None, "/m\u00efne"),
    ],
)
def test_the_flag_wins_over_the_environment_over_the_default(
    monkeypatch: pytest.MonkeyPatch, flag: str | None, variable: str | None, expected: str | None
) -> None:
    monkeypatch.setattr(
        os, "environ", {"XDG_CACHE_HOME": "/home/me"} | ({NAME: variable} if variable else {})
    )
    monkeypatch.setattr(compilation, "_remove_torn_entries", lambda folder: None)
    compilation.use_cache(flag)
    assert os.environ.get(NAME) == expected
