"""Hand-off on the command line."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_gconv import map_model, open_bundle
from onnx_gconv.models import model_path


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    path = tmp_path_factory.mktemp("handoff") / "digits.gconv.onnx"
    map_model(model_path("digits_cnn.onnx"), path)
    return path


def test_a_bundle_is_written_beside_the_model_and_its_layers_are_shown(gconv, mapped):
    found = gconv("handoff", mapped, "--array", "64x64")
    assert (found.code, found.stderr) == (0, "")
    assert "5 weights handed off" in found.stdout
    [row] = [line for line in found.stdout.splitlines() if "hidden.weight" in line]
    assert row.replace("│", " ").split() == ["L003", "hidden.weight", "Gemm", "512x64", "8x1", "2", "16", "100.0%"]
    assert "54 arrays of 64x64 (pairs in separate arrays, partition max) hold 27 tiles; 30.9% of" in found.stdout
    with open_bundle(mapped.with_name("digits.gconv")) as bundle:
        bundle.verify_hashes()


def test_options_reach_the_bundle(gconv, mapped, tmp_path):
    found = gconv(
        "handoff", mapped, "-o", tmp_path / "out", "--array", "96x48", "--partition", "equal", "--whole-kernels",
        "--pair-layout", "interleaved-rows", "--arrays", "npz", "--csv", "--quiet",
    )  # fmt: skip
    assert found == (0, "", "")
    with open_bundle(tmp_path / "out") as bundle:
        assert bundle.manifest.geometry.model_dump() == {
            "rows": 96, "columns": 48, "partition": "equal", "pair_layout": "interleaved_rows", "whole_kernels": True,
            "bias_rows": 0, "spare_rows": 0, "spare_columns": 0, "padding": "g_min",
        }  # fmt: skip
        assert bundle.manifest.arrays.kind == "npz"
        assert (tmp_path / "out" / "targets.csv").exists()


def test_formats_are_written_beside_the_arrays_and_say_what_they_leave_out(gconv, mapped, tmp_path):
    options = ["-o", tmp_path / "out", "--array", "64x64", "--format", "csv", "--format", "npy"]
    found = gconv("handoff", mapped, *options)
    assert (found.code, found.stderr) == (0, "")
    text = " ".join(found.stdout.split())
    assert "csv: numbers have five decimals, which moves conductances by up to 5e-06 µS" in text
    assert "npy: where tiles stand is only in manifest.json" in text
    assert "out/csv (42 files)" in text  # 20 matrices of two devices, the scales, and README.txt
    assert "L003_g_plus.csv" not in text
    assert (tmp_path / "out" / "npy" / "L003" / "T0007" / "g_minus.npy").is_file()


def test_pictures_are_drawn_if_asked_for(gconv, mapped, tmp_path):
    found = gconv("handoff", mapped, "-o", tmp_path / "out", "--array", "64x64", "--pictures", "--json")
    assert (found.code, found.stderr) == (0, "")
    assert [layer["files"] for layer in found.json["pictures"]] == [[f"L00{number}.png"] for number in range(5)]
    assert {str(tmp_path / "out" / "pictures" / f"L00{number}.png") for number in range(5)} < set(found.json["files"])
    assert found.json["pictures"][3] == {
        "layer": "L003", "weight": "hidden.weight", "files": ["L003.png"], "tiles": 8, "tiles_in_overview": 8,
        "tiles_cell_by_cell": 8, "cells_per_pixel": [1, 1], "remark": None,
    }  # fmt: skip
    with open_bundle(tmp_path / "out") as bundle:
        bundle.verify_hashes()


def test_all_pictures_are_one_of_each_tile_as_well(gconv, mapped, tmp_path):
    found = gconv("handoff", mapped, "-o", tmp_path / "out", "--array", "512x512", "--pictures", "all", "--json")
    assert (found.code, found.stderr) == (0, "")
    assert found.json["pictures"][3]["files"] == ["L003.png", "L003_T0000.png"]
    assert [len(layer["files"]) for layer in found.json["pictures"]] == [
        layer["tiles"] + 1 for layer in found.json["pictures"]
    ]


def test_the_model_may_stand_behind_the_option_for_pictures(gconv, mapped, tmp_path):
    found = gconv("handoff", "--array", "512x512", "--json", "--pictures", mapped, "-o", tmp_path / "out")
    assert (found.code, found.stderr) == (0, "")
    assert [layer["files"] for layer in found.json["pictures"]] == [[f"L00{number}.png"] for number in range(5)]


def test_pictures_of_another_kind_are_refused(gconv, mapped, tmp_path):
    found = gconv("handoff", mapped, "-o", tmp_path / "out", "--array", "512x512", "--pictures=tiles")
    assert found.code == 2
    assert "tiles" in found.stderr


def test_a_dry_run_counts_arrays_and_writes_nothing(gconv, mapped, tmp_path):
    found = gconv("handoff", mapped, "-o", tmp_path / "out", "--array", "256x256", "--dry-run", "--json")
    assert found.code == 0
    assert found.json["output"] is None
    assert found.json["arrays"] == sum(layer["arrays"] for layer in found.json["layers"])
    [hidden] = [layer for layer in found.json["layers"] if layer["weight"] == "hidden.weight"]
    assert (hidden["rows"], hidden["columns"], hidden["grid"], hidden["arrays"]) == (512, 64, [2, 1], 4)
    assert hidden["utilization"] == 512 * 64 * 2 / (4 * 256 * 256)
    assert list(tmp_path.iterdir()) == []
    assert "to be handed off" in gconv("handoff", mapped, "--array", "256x256", "--dry-run").stdout


def test_a_preset_gives_the_arrays(gconv, tmp_path):
    gconv("map", model_path("digits_cnn.onnx"), "-o", tmp_path / "m.gconv.onnx", "--preset", "rram-neurram")
    found = gconv("handoff", tmp_path / "m.gconv.onnx", "--preset", "rram-neurram", "--json")
    assert found.json["geometry"]["rows"] == 256
    assert found.json["preset"] == "rram-neurram"
    assert found.json["output"] == str(tmp_path / "m.gconv")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "the size of an array is missing"),
        (["--array", "256"], "an array is given as ROWSxCOLUMNS, e.g. 256x256, but not as '256'"),
        (["--array", "8x8", "--whole-kernels"], "'stem.weight' of Conv: a kernel of 9 rows has to stay whole"),
        (["--array", "1x8", "--pair-layout", "interleaved-rows"], "an array of 1x8 cannot hold a pair"),
        (["--preset", "pcm-joshy"], "did you mean pcm-joshi?"),
        (
            ["--array", "8x8", "--format", "excel"],
            "there is no format 'excel'; there are fusion, fusion-pair, csv, neurosim, npy, zigzag, accelforge",
        ),
        (["--preset", "pcm-joshi", "--array", "8x8"], "devices of preset 'pcm-joshi' reach 0.25 .. 25 µS"),
    ],
)
def test_what_cannot_be_handed_off_is_one_line(gconv, mapped, tmp_path, options, message):
    found = gconv("handoff", mapped, "-o", tmp_path / "out", *options)
    assert (found.code, found.stdout) == (2, "")
    assert message in found.stderr
    assert found.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_plain_model_and_an_existing_output_are_refused(gconv, mapped, tmp_path):
    found = gconv("handoff", model_path("digits_cnn.onnx"), "-o", tmp_path / "out", "--array", "8x8")
    assert (found.code, found.stderr.count("\n")) == (2, 1)
    assert "carries no mapping" in found.stderr
    assert gconv("handoff", mapped, "-o", tmp_path / "out", "--array", "64x64").code == 0
    found = gconv("handoff", mapped, "-o", tmp_path / "out", "--array", "64x64")
    assert (found.code, found.stderr.count("\n")) == (2, 1)
    assert "out' exists; choose another name, or replace it with --overwrite" in found.stderr
    assert gconv("handoff", mapped, "-o", tmp_path / "out", "--array", "64x64", "--overwrite").code == 0


def test_the_plain_model_of_a_bundle_has_the_weights_that_the_tiles_rebuild(gconv, mapped, tmp_path):
    gconv("handoff", mapped, "-o", tmp_path / "out", "--array", "64x64")
    plain = {
        item.name: numpy_helper.to_array(item) for item in onnx.load(tmp_path / "out" / "plain.onnx").graph.initializer
    }
    with open_bundle(tmp_path / "out") as bundle:
        for layer in bundle.layers:
            np.testing.assert_array_equal(layer.rebuilt_weight(), plain[layer.record.weight])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_leaves_nothing(mapped, tmp_path, number):
    code = f"""
        import os, sys
        import onnx_gconv.files.staged_folder as staged
        commit = staged.StagedFolder.commit
        def stopped(self):
            os.kill(os.getpid(), {int(number)})
            commit(self)
        staged.StagedFolder.commit = stopped
        sys.argv = ["onnx-gconv", "handoff", {str(mapped)!r}, "-o", {str(tmp_path / "out")!r}, "--array", "64x64"]
        from onnx_gconv.cli import main
        sys.exit(main())
    """
    found = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert found.returncode == 128 + number
    assert "Traceback" not in found.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_sample_and_bits_reach_the_format_that_has_what_arrives_at_layers(gconv, mapped, tmp_path):
    np.savez(tmp_path / "sample.npz", image=np.ones((1, 1, 8, 8), np.float32))
    options = ["-o", tmp_path / "out", "--array", "64x64", "--format", "neurosim"]
    found = gconv("handoff", mapped, *options, "--inputs", tmp_path / "sample.npz", "--bits", "6x4", "--json")
    assert (found.code, found.stderr) == (0, "")
    folder = tmp_path / "out" / "neurosim"
    assert (folder / "inputL000.csv").read_text().splitlines()[4] == ",".join(["0,1,1,1"] * 64)  # 7 is the largest
    assert " 6 4 8 8 ./weightL000.csv ./inputL000.csv" in (folder / "trace_command.sh").read_text()
    found = gconv("handoff", mapped, *options, "--bits", "eight")
    assert (found.code, found.stdout) == (2, "")
    assert found.stderr == "onnx-gconv: 'eight' does not say how many bits weights and inputs have; write e.g. 8x8\n"


def test_sizes_and_converters_reach_the_formats_that_estimate_costs(gconv, mapped, tmp_path):
    options = ["-o", tmp_path / "out", "--array", "64x64", "--format", "zigzag"]
    found = gconv("handoff", mapped, *options, "--dim", "batch=3", "--adc-bits", "6", "--dac-bits", "2")
    assert (found.code, found.stderr) == (0, "")
    folder = tmp_path / "out" / "zigzag"
    assert "a run on image 3x1x8x8, random numbers\n" in (folder / "README.txt").read_text()
    accelerator = (folder / "accelerator.yaml").read_text()
    assert "adc_resolution: 6 # bits\n" in accelerator
    assert "bit_serial_precision: 2 # " in accelerator
    found = gconv("handoff", "--help")
    text = " ".join(found.stdout.replace("│", " ").split())
    assert "zigzag: ZigZag (energy and latency); accelforge: AccelForge, successor of CiMLoop" in text
    assert "8 if not given. Used by zigzag, accelforge." in text
    assert "the tokens are enough. Used by neurosim, zigzag, accelforge." in text
