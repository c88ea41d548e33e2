"""Tables of spreadsheets that would be read wrong are refused with what to change."""

from __future__ import annotations

import pytest

from onnx_gconv.csv_cells import check_header, check_width, decimal_number


@pytest.mark.parametrize(("text", "expected"), [("1.5", 1.5), ("-2e-3", -0.002), (" 7 ", 7.0), ("inf", float("inf"))])
def test_a_number_is_read(text, expected):
    assert decimal_number("x", text) == expected


@pytest.mark.parametrize("text", ["1,5", "1_0", "٣", "0x10", "", "#N/A", "1.5 µS"])
def test_what_is_no_number_in_a_table_is_refused(text):
    hint = "; numbers have a decimal point" if "," in text else ""
    with pytest.raises(ValueError, match="is no number") as found:
        decimal_number("x", text)
    assert str(found.value) == f"x is no number: '{text}'{hint}"


def test_a_long_cell_is_cut():
    with pytest.raises(ValueError, match="is no number") as found:
        decimal_number("x", "a" * 5000)
    assert len(str(found.value)) < 120


def test_cells_beyond_the_columns_have_no_content():
    check_width(["1", "2", "", ""], 2)
    check_width(["1"], 2)
    with pytest.raises(ValueError, match="it has 3 cells, but there are 2 columns"):
        check_width(["1", "5", "2"], 2)


def test_columns_that_are_needed_are_there_once_and_between_commas():
    check_header(["b", "c", "c", "a"], ["a", "b", "d"])
    check_header(["a"], ["a"])
    with pytest.raises(ValueError, match="2 columns are called a; leave one of them"):
        check_header(["a", "b", "a"], ["a", "b"])
    for header, name in ((["a; b;c"], "semicolons"), (["a\tb"], "tabs")):
        with pytest.raises(ValueError, match=f"^{name} separate its cells"):
            check_header(header, ["a", "b"])
