"""The states of a cell that read-back writes for NeuroSim V1.5: what each level became on the chip."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from onnx_gconv import converters, read_back
from onnx_gconv.devices.levels import ConductanceLevels
from onnx_gconv.errors import ConfigError
from onnx_gconv.schemes.granularity import Granularity
from onnx_gconv.schemes.scheme import MappingScheme

PAIR = converters.SinglePairConductanceConverter(g_max=40.0, g_min=1.0)
LEVELS = ConductanceLevels.uniform(8, 1.0, 40.0)


@pytest.fixture
def measured(handed_off, tmp_path):
    """Hands off, and measures each device with an error that grows with its level; every seventh cell is failed."""

    def make(scheme, *, op="Conv"):
        bundle = handed_off(op, scheme=scheme)
        rng, arrays, seen = np.random.default_rng(0), {}, []
        for layer in bundle.layers:
            for tile in layer.tiles:
                for name, targets in tile.conductances().items():
                    found = targets * 1.01 + rng.normal(0, 0.1, targets.shape)
                    success = rng.random(targets.shape) > 1 / 7
                    key = f"{tile.record.id}/{name}"
                    arrays[key], arrays[f"{key}_success"] = found, success
                    seen.append((targets[success], found[success]))
        np.savez(tmp_path / "measured.npz", **arrays)
        return tuple(map(np.concatenate, zip(*seen, strict=True)))

    return make


def states_of(tmp_path, **options):
    report = read_back(
        tmp_path / "model.gconv.onnx",
        tmp_path / "measured.npz",
        tmp_path / "chip.onnx",
        mem_states=tmp_path / "mem_states.csv",
        **options,
    )
    rows = np.loadtxt(tmp_path / "mem_states.csv", delimiter=",", skiprows=1)
    assert (tmp_path / "mem_states.csv").read_text().startswith("states,mean,std\n0,")
    assert report.mem_states == tmp_path / "mem_states.csv"
    assert report.to_json()["mem_states"] == str(tmp_path / "mem_states.csv")
    assert "States of a cell: " in str(report)
    return report, rows


@pytest.mark.parametrize("storage", ["float", "codes"])
def test_states_are_mean_and_standard_deviation_of_what_each_level_became(measured, tmp_path, storage):
    targets, found = measured(MappingScheme(PAIR, Granularity(), levels=LEVELS, storage=storage))
    _, rows = states_of(tmp_path, dry_run=storage == "codes")
    assert rows[:, 0].tolist() == list(range(8))
    nearest = np.abs(targets[:, None] - LEVELS.values(np.float64)).argmin(axis=1)
    for level in range(8):
        chosen = found[nearest == level] * 1e-6
        assert rows[level, 1:] == pytest.approx([chosen.mean(), chosen.std()], rel=1e-6)


def test_a_level_of_which_nothing_was_measured_has_its_target_and_the_report_says_so(measured, tmp_path):
    levels = ConductanceLevels.of_table([1.0, 39.9, 39.95, 40.0])
    targets, found = measured(MappingScheme(PAIR, Granularity(), levels=levels), op="one output")
    missing = [number for number, level in enumerate([1.0, 39.9, 39.95, 40.0]) if not np.isclose(targets, level).any()]
    assert missing == [2]
    report, rows = states_of(tmp_path)
    errors = np.concatenate([found[targets == level] - found[targets == level].mean() for level in {*targets}])
    assert rows[2, 1:] == pytest.approx([39.95e-6, errors.std() * 1e-6], rel=1e-5)
    assert (
        "no cell of the levels 2 was measured; the states of a cell have their targets, and the standard deviation of "
        "all levels together"
    ) in report.notes


@pytest.mark.parametrize(
    ("levels", "reason"),
    [
        (None, "the mapping has no levels of conductance"),
        (ConductanceLevels.uniform(6, 1.0, 40.0), "the mapping has 6 levels, no power of two"),
    ],
)
def test_a_mapping_without_states_is_refused_and_nothing_is_written(measured, tmp_path, levels, reason):
    measured(MappingScheme(PAIR, Granularity(), levels=levels))
    with pytest.raises(ConfigError, match=rf"cannot be written, because {reason}; leave --mem-states out"):
        states_of(tmp_path)
    assert not (tmp_path / "chip.onnx").exists()
    assert not (tmp_path / "mem_states.csv").exists()


def test_a_file_that_is_there_is_not_replaced(measured, tmp_path):
    measured(MappingScheme(PAIR, Granularity(), levels=LEVELS))
    (tmp_path / "mem_states.csv").write_text("mine")
    with pytest.raises(ConfigError, match=r"mem_states.csv' exists; choose another name"):
        states_of(tmp_path)
    assert (tmp_path / "mem_states.csv").read_text() == "mine"


def test_a_file_that_cannot_be_written_is_refused_before_anything_is(measured, tmp_path, monkeypatch):
    measured(MappingScheme(PAIR, Granularity(), levels=LEVELS))
    (tmp_path / "locked").mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked" and access(path, mode))
    for name, message in {
        "none/states.csv": "the folder '.*none' does not exist; create it first",
        "locked/states.csv": "no permission to write to the folder '.*locked'",
        "locked": "locked' exists; choose another name for the states of a cell",
        "chip.onnx": r"the states of a cell and another output are both '.*chip\.onnx'; give them different names",
        "errors": "the states of a cell and another output are both",
        "model.gconv/states.csv": "is in the folder '.*', which is read; choose another place",
    }.items():
        with pytest.raises(ConfigError, match=message):
            read_back(
                tmp_path / "model.gconv.onnx", tmp_path / "measured.npz", tmp_path / "chip.onnx",
                mem_states=tmp_path / name, pictures=tmp_path / "errors", bundle=tmp_path / "model.gconv",
            )  # fmt: skip
        assert not any((tmp_path / name).is_file() for name in ("chip.onnx", "errors", name))
