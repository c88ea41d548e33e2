"""What is suggested in place of an unknown name."""

from __future__ import annotations

from onnx_gconv.suggestions import suggestion


def test_the_most_similar_name_is_suggested_else_all_of_them():
    assert suggestion("gmax", ["g_min", "g_max"]) == "did you mean g_max?"
    assert suggestion("levels", ["g_min", "g_max"]) == "there are g_min, g_max"
    assert suggestion("levels", ["g_min", "g_max"], lists_all=False) is None
    assert suggestion("levels", []) is None
