"""A new bundle takes the place of an older one, but never of what others have put into its folder."""

from __future__ import annotations

import re

import pytest

from onnx_gconv.errors import ConfigError
from onnx_gconv.handoff import write_bundle


def files_in(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("names", "said", "is_damaged"),
    [
        (["measured.h5"], "'measured.h5'", False),
        (["notes.txt", "measured.h5", "round/2.csv"], "'measured.h5' and 2 more files", False),
        (["notes.txt", "measured.h5", "round/2.csv"], "'measured.h5' and 2 more files", True),
        (["csv/own.csv"], "'csv/own.csv'", False),
    ],
)
def test_what_others_have_put_into_a_bundle_is_not_removed(handed_off, names, said, is_damaged):
    bundle = handed_off("Gemm").path
    for name in names:
        (bundle / name).parent.mkdir(exist_ok=True)
        (bundle / name).write_text("readings")
    if is_damaged:
        (bundle / "manifest.json").write_text("{")
    before = files_in(bundle)
    message = (
        rf"^'{re.escape(str(bundle))}' also holds {said}, which no hand-off has written and --overwrite would remove"
    )
    with pytest.raises(ConfigError, match=message):
        write_bundle(bundle.parent / "model.gconv.onnx", bundle, (5, 4), overwrite=True)
    assert files_in(bundle) == before


def test_a_link_to_a_folder_is_not_removed_either(handed_off, tmp_path):
    bundle = handed_off("Gemm").path
    (tmp_path / "lab").mkdir()
    (bundle / "lab").symlink_to(tmp_path / "lab")
    with pytest.raises(ConfigError, match="also holds 'lab', which no hand-off has written"):
        write_bundle(bundle.parent / "model.gconv.onnx", bundle, (5, 4), overwrite=True)


def test_all_that_a_hand_off_writes_is_replaced(handed_off):
    bundle = handed_off("Gemm").path
    source = bundle.parent / "model.gconv.onnx"
    write_bundle(source, bundle, (5, 4), overwrite=True, csv=True, pictures=True, formats=["csv", "fusion"])
    assert {"targets.csv", "csv", "fusion"} <= {name.partition("/")[0] for name in files_in(bundle)}
    write_bundle(source, bundle, (5, 4), overwrite=True, arrays="npz")
    assert {"targets.csv", "csv", "fusion", "conductances.h5"}.isdisjoint(
        name.partition("/")[0] for name in files_in(bundle)
    )
