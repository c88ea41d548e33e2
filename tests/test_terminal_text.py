"""Sizes of files and what is shown by the width that there is."""

from __future__ import annotations

import pytest

from onnx_gconv.terminal_text import ByWidth, file_list, html, plain, rendered


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (3 << 20, "3.0 MiB"),
        (5 << 29, "2.50 GiB"),
        (3 << 40, "3072.00 GiB"),
    ],
)
def test_files_are_listed_with_their_sizes(tmp_path, size, text):
    with (tmp_path / "file").open("wb") as file:
        file.truncate(size)
    assert file_list([tmp_path / "file", tmp_path / "gone"]) == f"{tmp_path / 'file'} ({text}), {tmp_path / 'gone'}"


def test_what_needs_room_is_shown_where_there_is_some():
    item = ByWidth(plain("wide"), plain("narrow"), 50)
    assert [rendered(item, width=width) for width in (49, 50)] == ["narrow", "wide"]


def test_in_a_notebook_texts_are_texts_too(monkeypatch):
    """Where rich would hand what it prints to the notebook."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert rendered(plain("W")) == "W"
    assert "W" in html(plain("W"))


def test_html_has_no_markup_of_texts():
    assert "&lt;b&gt;W&amp;\\x1b" in html(plain("<b>W&\x1b"))
