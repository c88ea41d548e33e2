"""Every reader reads a few damaged inputs; `python -m tests.fuzz` tries any number, outside of pytest."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from onnx_gconv.errors import ModelError
from tests.fuzz import attempts
from tests.fuzz.attempts import attempt
from tests.fuzz.place import Place
from tests.fuzz.runner import run
from tests.fuzz.targets import TARGETS, Target

SEED = 2026
INPUTS = 600
SHARES = sum(target.share for target in TARGETS.values())
COUNTS = {name: max(round(INPUTS * target.share / SHARES), 4) for name, target in TARGETS.items()}


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


@pytest.mark.parametrize("reader", TARGETS)
def test_damaged_inputs_are_read_right_or_refused(reader, place):
    outcomes = [attempt(reader, SEED, number, place) for number in range(COUNTS[reader])]
    faults = {number: item.detail for number, item in enumerate(outcomes) if item.kind == "fault"}
    assert not faults, faults


def test_a_number_gives_the_same_input_each_time(place):
    def files(number):
        attempt("mapped", SEED, number, place)
        return [path.read_bytes() for path in sorted(place.inputs.iterdir())]

    assert files(3) == files(3) != files(4)


def outcome_of(check, place, monkeypatch):
    monkeypatch.setitem(TARGETS, "planted", Target(check, 1))
    return attempt("planted", SEED, 0, place)


def wait(random, place):
    time.sleep(5)


def compute(random, place):
    while True:
        pass


def leave(random, place):
    (place.outputs / "half.onnx").touch()
    raise ModelError("refused")


def overwrite(random, place):
    place.write("model.onnx", b"1").write_bytes(b"2")


def warn(random, place):
    np.float32(1) / np.float32(0)


def stumble(random, place):
    raise IndexError("list index out of range")


def say_nothing(random, place):
    raise ModelError


@pytest.mark.parametrize(
    ("check", "what"),
    [
        (wait, "more than 0.1 s"),
        (compute, "more than 0.05 s"),
        (leave, "['half.onnx'] were left behind: refused"),
        (overwrite, "the inputs ['model.onnx'] were changed"),
        (warn, "RuntimeWarning: divide by zero"),
        (stumble, "IndexError: list index out of range at test_fuzz.py"),
        (say_nothing, "not one line of bounded length"),
    ],
)
def test_what_goes_wrong_is_a_fault(check, what, place, monkeypatch):
    monkeypatch.setattr(attempts, "LONGEST_SECONDS", 0.05)
    monkeypatch.setattr(attempts, "LONGEST_WAIT", 0.1 if check is wait else 60.0)
    outcome = outcome_of(check, place, monkeypatch)
    assert outcome.kind == "fault"
    assert what in outcome.detail


def die(random, place):
    os._exit(3)


def test_a_process_that_dies_is_a_fault_and_the_next_inputs_are_tried(monkeypatch):
    def check(random, place):
        if random.random() < 0.5:
            die(random, place)

    monkeypatch.setitem(TARGETS, "planted", Target(check, 1))
    findings = run("planted", SEED, 0, 8)
    assert findings.inputs == 8
    assert 0 < findings.counts["fault"] < 8
    assert {item.place for item in findings.faults} == {"ends the process (3)"}
