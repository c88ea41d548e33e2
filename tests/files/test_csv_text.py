"""CSV files in which no spreadsheet finds a formula, and which readers of CSV read as they were meant."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_gconv.files.csv_text import csv_line, inert


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("=cmd|'/c calc'!A0", "'=cmd|'/c calc'!A0"),
        ("+1+2", "'+1+2"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("  =1", "'  =1"),
        ("\uff1d1+1", "'\uff1d1+1"),
        ("\t=1", r"\t=1"),
        ("\r=1", r"\r=1"),
        ("a\nb", r"a\nb"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("-0.5", "-0.5"),
        ("+1.5e-07", "+1.5e-07"),
        ("encoder.layers.0", "encoder.layers.0"),
        ("'quoted'", "'quoted'"),
        ("", ""),
    ],
)
def test_cells_are_inert(text, shown):
    assert inert(text) == shown


@settings(max_examples=50)
@given(st.lists(st.text() | st.integers() | st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_lines_are_read_back(cells):
    line = csv_line(cells, end="\r\n")
    assert line.count("\n") == 1
    [read] = csv.reader(io.StringIO(line, newline=""))
    assert read == [inert(cell) if isinstance(cell, str) else str(cell) for cell in cells]
    assert [inert(text) for text in read] == read


@given(st.text())
def test_no_cell_begins_as_a_formula_unless_it_is_a_number(text):
    shown = inert(text).lstrip()
    assert shown[:1] not in {"=", "@"}
    if shown[:1] in {"+", "-"}:
        float(shown)
