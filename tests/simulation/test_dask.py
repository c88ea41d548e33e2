"""Trials on a Dask cluster: the figures are those of this machine, whatever becomes of workers."""

from __future__ import annotations

import gc
import importlib.util
import os
import pickle
import re
import shlex
import shutil
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from distributed import Client, Future, LocalCluster

import onnx_gconv as gconv
from onnx_gconv.cli import main
from onnx_gconv.devices import device_model
from onnx_gconv.files.watched import WatchedFiles
from onnx_gconv.models import model_path
from onnx_gconv.runtime import given_inputs
from onnx_gconv.simulation import compare, outputs, simulate
from onnx_gconv.simulation.experiments import dask_executor, sent_experiment
from onnx_gconv.simulation.experiments.experiment import Experiment
from onnx_gconv.simulation.experiments.sent_experiment import SentExperiment

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guide" / "cluster.md"

pytestmark = pytest.mark.xdist_group("dask")

METRICS = """
import os

from onnx_gconv.devices.gaussian import GaussianDevice

def share(outputs, labels):
    return (outputs["logits"].argmax(1) == labels).mean()

def works_here_only(outputs, labels):
    if os.getpid() != int(os.environ["PID_OF_TESTS"]):
        raise ValueError("not here")
    return 0.5

class LoggedDevice(GaussianDevice):
    def __init__(self):
        super().__init__(g_max=25.0, sigma_us=0.5)

    def __setstate__(self, state):
        self.__dict__.update(state)
        with open(__file__.replace("lab_on_dask.py", "loaded.txt"), "a") as file:
            file.write(f"{os.getpid()}\\n")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the workers are: the mapped digits MLP with external data, its test images, and metrics."""
    folder = tmp_path_factory.mktemp("digits")
    gconv.map_model(model_path("digits_mlp.onnx"), folder / "mapped.onnx", external_data=True)
    with np.load(model_path("digits_test.npz")) as data:
        pixels = data["images"].reshape(450, 64).astype(np.float32)
        np.savez(folder / "data.npz", pixels=pixels, labels=data["labels"])
    (folder / "lab_on_dask.py").write_text(METRICS)
    return folder


@pytest.fixture(scope="module")
def cluster(folder):
    """Two worker processes, which find the metrics, as do those that take their place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PID_OF_TESTS", str(os.getpid()))
        with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50) as cluster:
            yield cluster


@pytest.fixture
def client(cluster):
    with Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
        yield client


def simulated(folder, model="mapped.onnx", **options):
    options = {"times": ("0s", "1d"), "repeats": 3, "seed": 5, "inputs": folder / "data.npz", **options}
    return simulate(folder / model, labels="labels", **options)


def figures(report):
    return [time.values for time in report.times], [layer.values for layer in report.sensitivity]


def left(client):
    """What of a simulation is on the cluster; workers need a moment to forget it."""
    for _ in range(50):
        tasks = client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.tasks))
        held = client.run(lambda dask_worker: [*dask_worker.data, *Path(dask_worker.local_directory).glob("onnx-*")])
        if not tasks and not any(held.values()):
            return []
        time.sleep(0.1)
    return [tasks, held]


def pids(client):
    return sorted(client.run(os.getpid).values())


def after(count, deed):
    """A progress that does something once so many trials are done."""

    def progress(_, done, total):
        if done == count:
            deed()

    return progress


def test_figures_are_equal_with_any_number_of_workers_here_and_on_a_cluster(folder, cluster, client):
    options = {"sensitivity": True, "drift_compensation": "global", "metric": "sqnr"}
    one = simulated(folder, **options)
    for workers in (2, 4):
        assert figures(simulated(folder, workers=workers, **options)) == figures(one)
    for dask in (cluster.scheduler_address, client):
        report = simulated(folder, dask=dask, **options)
        assert figures(report) == figures(one)
        assert report.notes == ()
    plain = {"converter": gconv.SinglePairConductanceConverter(g_max=20.0), "mapping": {"granularity": "channel"}}
    model = model_path("digits_mlp.onnx")
    assert figures(simulated(folder, model, dask=client, **plain)) == figures(simulated(folder, model, **plain))
    assert left(client) == []


def test_model_and_device_go_to_each_worker_once(folder, cluster, client, monkeypatch):
    device = importlib.import_module("lab_on_dask").LoggedDevice()
    options = {"device": device, "metric": "lab_on_dask:share", "repeats": 20}
    assert figures(simulated(folder, dask=client, **options)) == figures(simulated(folder, **options))
    assert sorted(map(int, (folder / "loaded.txt").read_text().split())) == pids(client)


def test_the_trials_of_a_worker_that_is_killed_are_computed_by_others(folder, cluster, client, tmp_path):
    kill = after(5, lambda: os.kill(pids(client)[0], signal.SIGKILL))
    report = simulated(folder, repeats=15, dask=client, progress=kill, journal=tmp_path / "journal")
    assert figures(report) == figures(simulated(folder, repeats=15))
    assert len((tmp_path / "journal").read_text().splitlines()) == 31


def test_an_experiment_that_nobody_has_any_more_is_sent_anew(folder, cluster, client):
    def lose():
        [key] = client.run_on_scheduler(
            lambda dask_scheduler: [key for key in dask_scheduler.tasks if key.startswith("SentExperiment")]
        )
        client.cancel([Future(key, client)], force=True)

    report = simulated(folder, repeats=15, dask=cluster.scheduler_address, progress=after(5, lose))
    assert figures(report) == figures(simulated(folder, repeats=15))
    assert left(client) == []


def test_a_run_that_was_interrupted_leaves_nothing_and_goes_on_from_its_journal(folder, cluster, client, tmp_path):
    def interrupt():
        raise KeyboardInterrupt

    options = {"repeats": 20, "dask": client, "journal": tmp_path / "journal"}
    with pytest.raises(KeyboardInterrupt):
        simulated(folder, progress=after(10, interrupt), **options)
    assert left(client) == []
    assert len(options["journal"].read_text().splitlines()) == 11
    steps = []
    report = simulated(folder, progress=lambda _, *step: steps.append(step), **options)
    assert figures(report) == figures(simulated(folder, repeats=20))
    assert steps[0] == (11, 40)


def refusal(folder, **options):
    with pytest.raises(gconv.ConfigError) as found:
        simulated(folder, **options)
    return re.sub(r"tcp://[\d.:]+", "ADDRESS", str(found.value))


def test_what_is_no_cluster_is_refused(folder, cluster, client, monkeypatch):
    monkeypatch.setattr(dask_executor, "_SECONDS_TO_ANSWER", 0.3)
    start = "; start one with `dask scheduler`, and give the address that it prints, such as ADDRESS"
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        gone = f"the Dask cluster 'ADDRESS' does not answer: Timed out trying to connect to ADDRESS after 0.3 s{start}"
        assert refusal(folder, dask=address) == gone
        silent.listen()
        assert (
            refusal(folder, dask=address)
            == f"the Dask cluster 'ADDRESS' does not answer: it said nothing for 0.3 s{start}"
        )
    monkeypatch.undo()
    [worker, _] = client.scheduler_info()["workers"]
    for dask, message in {
        worker: "the Dask cluster 'ADDRESS' does not answer: it is the address of a worker, not of the scheduler"
        f"{start}",
        "nowhere": "the Dask cluster 'nowhere' does not answer: ValueError: missing port number in address "
        f"'nowhere'{start}",
        8786: "a Dask cluster is the address of its scheduler, or a client of it, but not a int",
    }.items():
        assert refusal(folder, dask=dask) == message
    client.close()
    message = "the client of the Dask cluster is closed; give one that is open, and not asynchronous"
    assert refusal(folder, dask=client) == message
    message = "the number of workers is for this machine; leave it out with a Dask cluster, whose workers are started "
    assert refusal(folder, dask=worker, workers=2) == f"{message}with `dask worker --nworkers N`"
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    message = "a Dask cluster needs dask.distributed, which is missing; pip install distributed"
    assert refusal(folder, dask="tcp://127.0.0.1:8786") == message


def test_a_cluster_without_workers_is_refused_and_one_that_goes_is_told(folder, monkeypatch):
    monkeypatch.setattr(dask_executor, "_SECONDS_TO_ANSWER", 1)
    with LocalCluster(n_workers=0, processes=False, protocol="tcp", dashboard_address=":0", silence_logs=50) as empty:
        message = "the Dask cluster 'ADDRESS' has no workers; start some with `dask worker ADDRESS`"
        assert refusal(folder, dask=empty.scheduler_address) == message
        empty.scale(1)
        assert refusal(folder, dask=empty.scheduler_address, repeats=50, progress=after(3, empty.close)) == (
            "the Dask cluster 'ADDRESS' is gone; start it and the simulation again, which goes on where it ended if it "
            "has a journal"
        )


def test_workers_that_may_compute_other_figures_are_refused_or_told(folder, cluster, client, monkeypatch):
    monkeypatch.setattr(sent_experiment, "__version__", "9.9")
    message = "the Dask worker ADDRESS has onnx_gconv 0.1.0, not 9.9, and may compute other figures; install the same "
    assert refusal(folder, dask=client) == f"{message}versions there"
    monkeypatch.setattr(dask_executor.DaskExecutor, "_check_versions", lambda _: None)  # as for a worker that is late
    assert refusal(folder, dask=client) == f"{message}versions there"
    monkeypatch.undo()
    monkeypatch.setattr(Experiment, "fingerprint", lambda *_: "that of another processor")
    [note] = simulated(folder, dask=client, repeats=20).notes
    said = "give results that differ in the last digits: their processors differ from this machine's"
    assert re.sub(r"tcp://[\d.:]+", "ADDRESS", note) == f"2 Dask workers (ADDRESS, ADDRESS) {said}"


def test_what_workers_cannot_load_is_refused(folder, cluster, client, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("lab_here.py").write_text(METRICS.replace("LoggedDevice", "OtherDevice"))
    missing = "ModuleNotFoundError: No module named 'lab_here'"
    assert refusal(folder, dask=client, metric="lab_here:share") == (
        f"the Dask worker ADDRESS has no such metric: the metric 'lab_here:share' cannot be imported: {missing}; copy "
        "its file to where the worker was started"
    )
    device = importlib.import_module("lab_here").OtherDevice()
    assert refusal(folder, dask=client, device=device) == (
        f"the Dask worker ADDRESS cannot load the device model 'gaussian': {missing}; install the package that has it "
        "there"
    )
    device = device_model("gaussian", g_max=25.0)
    device.lock = threading.Lock()
    message = refusal(folder, dask=client, device=device)
    assert message.startswith("the device model 'gaussian' cannot be sent to other processes: TypeError: ")
    assert message.endswith("; give it attributes that can be pickled")


def test_metrics_that_are_others_or_fail_on_workers(folder, cluster, client):
    assert refusal(folder, dask=client, metric="lab_on_dask:works_here_only") == (
        "the metric 'lab_on_dask:works_here_only' fails: ValueError: not here; it is called with a dict of outputs by "
        "name, and the labels, and gives a number"
    )
    simulated(folder, dask=client, metric="lab_on_dask:share", repeats=20)
    (folder / "lab_on_dask.py").write_text(f"{METRICS}\n# changed, which workers do not know\n")
    assert refusal(folder, dask=client, metric="lab_on_dask:share") == (
        "the Dask worker ADDRESS has another version of the file of the metric 'lab_on_dask:share'; copy it there, and "
        "start the worker anew"
    )


def test_candidates_have_the_same_figures_on_a_cluster(folder, cluster, client):
    grid = {"grid": {"mapping": {"levels": [4, "none"]}}, "times": "1d", "repeats": 2, "metric": "sqnr"}
    here = compare(model_path("digits_mlp.onnx"), grid)
    assert compare(model_path("digits_mlp.onnx"), grid, dask=client) == here
    assert here.candidates[0].simulation.ideal < here.candidates[1].simulation.ideal


def hold(inputs, kept):
    """What a process holds in memory: inputs, and outputs of the ideal model."""
    given_inputs.HELD_IN_MEMORY = inputs
    outputs._IN_MEMORY = kept


@pytest.fixture
def nothing_in_memory(client):
    """Neither this process nor workers hold inputs in memory."""
    client.run(gc.collect)  # of errors in tests before, whose tracebacks hold what was sent
    before = given_inputs.HELD_IN_MEMORY, outputs._IN_MEMORY
    for run in (client.run, lambda function, *values: function(*values)):
        run(hold, 0, 0)
    yield
    for run in (client.run, lambda function, *values: function(*values)):
        run(hold, *before)


def test_samples_that_are_not_in_memory_are_read_by_workers_themselves(folder, client, nothing_in_memory, monkeypatch):
    sizes = []
    begin = SentExperiment.__init__

    def init(self, *arguments):
        begin(self, *arguments)
        sizes.append(len(pickle.dumps(self)) - sum(file.nbytes for file in self._files.values()))

    monkeypatch.setattr(SentExperiment, "__init__", init)
    options = {"metric": "sqnr", "batch": 50, "repeats": 6}
    assert figures(simulated(folder, dask=client, **options)) == figures(simulated(folder, **options))
    [size] = sizes
    assert size < 5000  # neither 450 images nor their labels
    assert left(client) == []


def test_candidates_are_compared_on_workers_with_outputs_that_they_compute(folder, client, nothing_in_memory):
    grid = {"grid": {"mapping": {"levels": [4, 16]}}, "times": "1d", "repeats": 3, "metric": "sqnr"}
    grid |= {"inputs": str(folder / "data.npz"), "labels": "labels", "batch": 100}
    here = compare(model_path("digits_mlp.onnx"), grid)
    assert compare(model_path("digits_mlp.onnx"), grid, dask=client) == here
    assert here.candidates[0].simulation.ideal < here.candidates[1].simulation.ideal < 100
    assert left(client) == []


def test_workers_without_the_file_of_samples_are_refused(folder, client, nothing_in_memory, monkeypatch, tmp_path):
    data = tmp_path / "data.npz"
    begin = SentExperiment.__init__
    remedy = "it is not sent: put it where all workers find it under this path, such as on a common file system"

    def then(deed):
        def init(self, *arguments):
            begin(self, *arguments)
            deed()

        monkeypatch.setattr(SentExperiment, "__init__", init)
        shutil.copy(folder / "data.npz", data)
        return refusal(folder, inputs=data, batch=50, dask=client)

    monkeypatch.setattr(WatchedFiles, "check", lambda _: None)  # as on machines that do not share the file
    missing = f"{data}: does not exist; write one with numpy.savez(path, pixels=...)"
    assert then(data.unlink) == f"the Dask worker ADDRESS cannot use the file of the inputs, {missing}; {remedy}"

    def write_another():
        with np.load(folder / "data.npz") as there:
            np.savez(data, pixels=there["pixels"] + 1, labels=there["labels"])

    assert then(write_another) == f"the Dask worker ADDRESS has other inputs in '{data}' than this machine; {remedy}"


def test_the_examples_of_the_page_run(folder, cluster, monkeypatch, capsys):
    page = PAGE.read_text(encoding="utf-8")
    monkeypatch.chdir(folder)
    (folder / "model.gconv.onnx").write_bytes((folder / "mapped.onnx").read_bytes())
    [command] = re.findall(r"^    (onnx-gconv (?:.*\\\n)*.*)$", page, flags=re.MULTILINE)
    address = r"tcp://192\.168\.0\.10:8786"
    command = re.sub(address, cluster.scheduler_address, command.replace("\\\n", ""))
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    assert main() == 0, capsys.readouterr().err
    assert "accuracy of 25 chips" in capsys.readouterr().out
    [example] = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    there = "with LocalCluster(n_workers=2, threads_per_worker=1) as cluster, Client(cluster) as client:"
    assert there in example
    namespace = {"cluster": cluster}
    example = example.replace(there, "with Client(cluster) as client:")  # another one would take seconds
    exec(compile(example, "cluster.md", "exec"), namespace)  # noqa: S102 - that is the test
    assert namespace["report"].repeats == 25
    for program in ("scheduler", "worker"):
        assert re.search(rf"^    dask {program}", page, flags=re.MULTILINE)
