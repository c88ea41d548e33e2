"""Texts that anyone may have written are shown on printable lines, and errors say so in one of bounded length."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_gconv.errors import BundleError, ConfigError, GconvError, ModelError
from onnx_gconv.terminal_text import plain, rendered, titled_table, with_remark
from onnx_gconv.visible_text import listed, one_line, visible, visible_json, visible_lines

HOSTILE = "a\x1b[31m\x07\r\x9b2J\u202eb\x7f"
SHOWN = r"a\x1b[31m\x07\r\x9b2J\u202eb\x7f"


@settings(max_examples=50)
@given(st.text())
def test_what_is_visible_is_printable_and_stays_as_it_is(text):
    assert visible(text).isprintable()
    assert visible(visible(text)) == visible(text)
    assert all(line.isprintable() for line in visible_lines(text).split("\n"))


def test_control_characters_are_escapes():
    assert visible(HOSTILE) == SHOWN
    assert visible("µS, Ω, 层.0, a/b") == "µS, Ω, 层.0, a/b"
    assert visible("one\ntwo") == r"one\ntwo"
    assert visible_lines("one\ntw\to") == "one\ntw\\to"


@settings(max_examples=30)
@given(st.dictionaries(st.text(), st.text() | st.lists(st.text())))
def test_json_says_the_same_in_printable_characters(document):
    for ensure_ascii in (False, True):
        text = visible_json(json.dumps(document, indent=2, ensure_ascii=ensure_ascii))
        assert text.replace("\n", "").isprintable()
        assert json.loads(text) == document


def test_names_of_files_that_are_no_utf_8_are_shown_and_stand_in_json():
    name = "m\udcff.onnx"  # as Python has them
    assert visible(name) == r"m\udcff.onnx"
    assert json.loads(visible_json(json.dumps(name, ensure_ascii=False))) == name


def test_the_end_of_a_long_line_is_its_end_however_many_escapes_stand_in_it():
    line = one_line("n" * 3000 + "\x1b" * 900 + "!")
    assert line.endswith(r"\x1b\x1b!")
    assert len(line) == 1000 + len(" [...] ") + 1000


def test_each_character_that_is_not_printable_is_an_escape_in_json_and_delete_too():
    hidden = "".join(character for character in map(chr, range(0x3000)) if not character.isprintable())
    text = visible_json(json.dumps(hidden, ensure_ascii=False))
    assert text.isprintable()
    assert json.loads(text) == hidden
    assert visible_json('["a\x7fb"]') == r'["a\u007fb"]'


@pytest.mark.parametrize("kind", [GconvError, ModelError, ConfigError, BundleError])
def test_errors_are_one_printable_line_of_bounded_length(kind):
    assert str(kind(f"'{HOSTILE}' is\n   wrong; do\r\nright")) == f"'{SHOWN}' is wrong; do right"
    long = str(kind(f"'m.onnx': tensor '{'n' * 100_000}' is wrong; export it again"))
    assert len(long) < 2100
    assert long.startswith("'m.onnx': tensor 'nnn")
    assert "nnn [...] nnn" in long
    assert len(one_line(1500 * "\x1b")) < 2100
    assert long.endswith("nnn' is wrong; export it again")
    assert one_line("short  one") == "short  one"


def test_nothing_that_is_shown_is_markup_or_a_control_character():
    table = titled_table("[red]title[/red] \x1b[1m")
    table.add_column("[b]name[/b]")
    table.add_row("[link=http://x]:smile:\x1b[0m")
    table.add_row(plain(HOSTILE, style="bold"))
    table.add_row(with_remark(HOSTILE, "[dim]\x1b", "two\nlines", separator="\n"))
    text = rendered(table)
    assert all(line.isprintable() for line in text.split("\n"))
    for shown in (r"[red]title[/red] \x1b[1m", "[b]name[/b]", r"[link=http://x]:smile:\x1b[0m", SHOWN, r"two\nlines"):
        assert shown in text


@pytest.mark.parametrize("width", [20, 40, 80])
def test_tables_cut_nothing_off(width):
    names = ["encoder.layers.0.self_attention.query.weight", "layer of several words and a_very_long_one_at_the_end"]
    table = titled_table("Weights")
    for header in ("weight", "largest number"):
        table.add_column(header)
    for name in names:
        table.add_row(name, "1234567.125")
    lines = rendered(table, width=width).splitlines()
    assert max(map(len, lines)) <= width
    cells = [[cell.replace(" ", "") for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    first, second = ("".join(column) for column in zip(*cells, strict=True))
    assert first == "".join(names).replace(" ", "")
    assert second == "1234567.125" * 2


def test_long_lists_are_cut_with_the_number_of_the_rest():
    assert listed([]) == ""
    assert listed(["a", "b", "c"]) == "a, b, c"
    assert listed(["a", "b", "c", "d"]) == "a, b, c and 1 more"
    assert listed([str(number) for number in range(1235)], 1) == "0 and 1,234 more"
