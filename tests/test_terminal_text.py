"""Sizes of files and what is shown by the width that there is."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_gconv.terminal_text import ByWidth, file_list, html, plain, rendered, titled_table


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


@given(
    st.lists(st.tuples(st.text("abc./", min_size=1, max_size=90), st.integers(0, 10**9)), min_size=1, max_size=4),
    st.integers(1, 12),
    st.integers(30, 120),
)
def test_numbers_of_tables_never_break(rows, columns, width):
    table = titled_table("A title")
    table.add_column("name")
    for number in range(columns):
        table.add_column(f"figure {number}", justify="right")
    for name, figure in rows:
        table.add_row(plain(name), *[f"{figure + number:,}" for number in range(columns)])
    lines = rendered(table, width).splitlines()
    assert max(map(len, lines)) <= width
    cells = Counter(cell.strip() for line in lines for cell in re.split("[│┃]", line))
    expected = Counter(f"{figure + number:,}" for _, figure in rows for number in range(columns))
    assert all(cells[number] >= count for number, count in expected.items())
    assert all(f"figure {number}" in cells for number in range(columns))
    letters = Counter("".join(line.split("│")[1] for line in lines if line.count("│") > 1))
    parts = sum(line.startswith("┏") for line in lines)
    assert letters["a"] == parts * sum(name.count("a") for name, _ in rows)


def test_in_a_notebook_texts_are_texts_too(monkeypatch):
    """Where rich would hand what it prints to the notebook."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert rendered(plain("W")) == "W"
    assert "W" in html(plain("W"))


def test_html_has_no_markup_of_texts():
    assert "&lt;b&gt;W&amp;\\x1b" in html(plain("<b>W&\x1b"))
