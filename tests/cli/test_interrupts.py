"""Runs that are interrupted, terminated or killed: the old output or the new one stands, whole, and the rest goes."""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from onnx import helper

from onnx_gconv.files.models import load_model
from onnx_gconv.models import model_path
from tests import graphs
from tests.cli.forked_program import ForkedProgram

pytestmark = pytest.mark.xdist_group("interrupts")  # one worker writes the large model

# A program that is started in the background may have been told to ignore SIGINT.
START = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, "-m", "onnx_gconv", *sys.argv[1:]])
"""


def start(folder, *arguments):
    command = [sys.executable, "-c", START, *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def write_model(folder, mebibytes, layers=8):
    """A model of MatMul nodes with external data of some size."""
    rows = mebibytes * 2**20 // layers // 4 // 1024
    rng = np.random.default_rng(0)
    tensors = []
    with (folder / "in.onnx.data").open("wb") as file:
        for layer in range(layers):
            rng.standard_normal((rows, 1024), dtype=np.float32).tofile(file)
            offset = layer * rows * 4096
            tensors.append(graphs.external_tensor(f"w{layer}", [rows, 1024], "in.onnx.data", offset))
    nodes = [helper.make_node("MatMul", ["x", tensor.name], [f"y{k}"]) for k, tensor in enumerate(tensors)]
    outputs = [graphs.value(f"y{k}", shape=[1, 1024]) for k in range(layers)]
    model = graphs.model(nodes, [graphs.value("x", shape=[1, rows])], outputs, tensors)
    (folder / "in.onnx").write_bytes(model.SerializeToString())


def digest(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def output_digests(folder):
    """The hashes of the output and of the data file that it names; fails if they are not whole."""
    model = load_model(folder / "out.onnx")
    (location,) = {str(value.const_value.location) for value in model.graph.initializers.values() if is_large(value)}
    return digest(folder / "out.onnx"), location, digest(folder / location)


def is_large(value):
    return value.const_value.size > 1


def names(folder):
    return sorted(item.name for item in folder.iterdir())


def run(folder, *arguments):
    with ForkedProgram(folder, *arguments) as process:
        _, stderr = process.communicate(timeout=120)
    assert (process.returncode, stderr) == (0, "")


# Interrupted and terminated


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A folder with a model of 96 MiB and an old output from other options."""
    folder = tmp_path_factory.mktemp("large")
    write_model(folder, 96)
    run(folder, "map", "in.onnx", "-o", "out.onnx", "--external-data", "--g-max", "10")
    yield folder
    shutil.rmtree(folder)


def wait_until_it_writes(process, folder):
    """Whether the process is in the middle of writing tensors."""
    while process.poll() is None:
        for staging in folder.glob(".out.onnx.partial-*"):
            if any(file.is_file() and file.stat().st_size > 2**20 for file in staging.rglob("*")):
                return True
        time.sleep(0.001)
    return False


def stopped_in_the_middle(folder, signals):
    """A run that got signals while it wrote."""
    for _ in range(10):
        with ForkedProgram(folder, "map", "in.onnx", "-o", "out.onnx", "--external-data") as process:
            if wait_until_it_writes(process, folder):
                for number in signals:
                    process.send_signal(number)
                    time.sleep(0.001)
            stdout, stderr = process.communicate(timeout=120)
        if process.returncode != 0:
            return process.returncode, stdout, stderr
        run(folder, "map", "in.onnx", "-o", "out.onnx", "--external-data", "--g-max", "10")  # it was faster
    pytest.fail("no run could be stopped in the middle")


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGTERM, 143, ""), (signal.SIGINT, 130, "onnx-gconv: interrupted; nothing was left behind\n")],
    ids=["terminated", "interrupted"],
)
def test_a_run_stopped_in_the_middle_leaves_the_old_output_and_nothing_else(large, number, code, said):
    before, files = output_digests(large), names(large)
    assert stopped_in_the_middle(large, [number]) == (code, "", said)
    assert names(large) == files
    assert output_digests(large) == before


METRICS = """
import os, signal, time

def terminated(outputs, labels):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)

def interrupted(outputs, labels):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)
    except KeyboardInterrupt:
        raise ValueError("no figure")
"""


@pytest.mark.parametrize(
    ("metric", "code", "said"),
    [("terminated", 143, ""), ("interrupted", 130, "onnx-gconv: interrupted; nothing was left behind\n")],
)
def test_a_run_stopped_in_a_metric_says_so_and_not_that_the_metric_fails(tmp_path, metric, code, said):
    """A metric may be stopped, too, and may turn the exception into another one."""
    (tmp_path / "odd_metrics.py").write_text(METRICS)
    model = model_path("digits_mlp.onnx")
    with start(tmp_path, "simulate", str(model), "-q", "--metric", f"odd_metrics:{metric}") as process:
        stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stdout, stderr) == (code, "", said)


@pytest.mark.parametrize(
    "signals",
    [[signal.SIGINT] * 4, [signal.SIGTERM] * 4, [signal.SIGINT, signal.SIGTERM] * 2],
    ids=["interrupts", "terminations", "both"],
)
def test_an_impatient_user_leaves_nothing_behind_either(large, signals):
    before, files = output_digests(large), names(large)
    code, stdout, stderr = stopped_in_the_middle(large, signals)
    assert code in {130, 143, -signal.SIGINT, -signal.SIGTERM}  # negative if one came after its end
    assert stdout == ""
    assert "Traceback" not in stderr
    assert output_digests(large) == before
    assert names(large) == files


def test_an_interrupt_before_anything_is_written_leaves_nothing(tmp_path):
    with start(tmp_path, "map", "in.onnx") as process:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert names(tmp_path) == []


# Killed


def staging_folders(folder):
    return set(folder.glob(".out.onnx.partial-*"))


def start_and_wait_for_staging(folder, options):
    """A run that has just made its hidden folder."""
    before = staging_folders(folder)
    process = ForkedProgram(folder, "map", "in.onnx", "-o", "out.onnx", "--external-data", *options)
    while process.poll() is None and staging_folders(folder) <= before:
        time.sleep(0.0005)
    return process


def time_to_write(folder, options):
    """How long an undisturbed run takes from its hidden folder to its end, in seconds."""
    with start_and_wait_for_staging(folder, options) as process:
        begin = time.monotonic()
        process.communicate(timeout=120)
    assert process.returncode == 0
    return time.monotonic() - begin


def is_killed(folder, options, delay):
    """Kill a run some seconds after it began to write, or, if negative, before; False if it had ended."""
    if delay < 0:
        process = start(folder, "map", "in.onnx", "-o", "out.onnx", "--external-data", *options)
    else:
        process = start_and_wait_for_staging(folder, options)
    with process:
        try:
            process.wait(timeout=abs(delay))
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate(timeout=120)
    return process.returncode == -signal.SIGKILL


def delays(duration, count):
    """Moments spread over the writing, and one before it.

    They are few: `stopped_runs.py` looks at every state that the disk has while a run writes. Here real threads write
    a model that takes a while.
    """
    return [-0.4, *np.linspace(0, duration, count - 1)]


@pytest.fixture
def unrelated(tmp_path):
    """A folder with a model of 64 MiB and files that are nobody's business."""
    write_model(tmp_path, 64)
    for name in ("notes.txt", "out.onnx.7.data", "other.onnx.data", ".hidden"):
        (tmp_path / name).write_text(name)
    return tmp_path


def assert_cleared_up(folder, options, others):
    run(folder, "map", "in.onnx", "-o", "out.onnx", "--external-data", *options)
    _, location, _ = output_digests(folder)
    assert names(folder) == sorted([*others, "out.onnx", location])
    assert all((folder / name).read_text() == name for name in others if not name.startswith("in."))


@pytest.mark.slow
def test_a_run_killed_at_any_moment_leaves_the_old_output_or_the_new_one(unrelated):
    folder, others, old_options = unrelated, names(unrelated), ["--g-max", "10"]
    durations = [time_to_write(folder, old_options)]
    old = output_digests(folder)
    saved = folder.parent / "saved"
    shutil.copytree(folder, saved)
    durations.append(time_to_write(folder, []))
    new = output_digests(folder)
    assert new[2] != old[2]

    killed, olds, news = 0, 0, 0
    restore_old(folder, saved, old)
    for delay in delays(min(durations), count=6):
        killed += is_killed(folder, [], delay)
        found = output_digests(folder)
        assert found in (old, new)
        olds += found == old
        news += found == new
        if found == new:
            restore_old(folder, saved, old)
    assert killed >= 2  # how many meet the run depends on how fast the machine is today
    assert olds >= 1
    assert olds + news == 6
    assert_cleared_up(folder, [], others)
    shutil.rmtree(saved)


def restore_old(folder, saved, old):
    """Put the old output back, and leave what killed runs left."""
    run_out = output_digests(folder)
    if run_out[1] != old[1]:
        (folder / run_out[1]).unlink()
    shutil.copyfile(saved / old[1], folder / old[1])
    shutil.copyfile(saved / "out.onnx", folder / "out.onnx")


@pytest.mark.slow
def test_a_run_killed_while_it_writes_the_same_output_again_leaves_it_whole(unrelated):
    folder, others = unrelated, names(unrelated)
    durations = [time_to_write(folder, [])]
    first = output_digests(folder)
    durations.append(time_to_write(folder, []))
    second = output_digests(folder)
    assert first[2] == second[2]  # the same data under another name

    killed = 0
    for delay in delays(min(durations), count=5):
        killed += is_killed(folder, [], delay)
        assert output_digests(folder) in (first, second)
    assert killed >= 2
    assert_cleared_up(folder, [], others)
