"""Stops `map_model` at every single step that it takes in the file system, and looks at what is left.

Run by `tests/test_model_io.py` in a process of its own, because audit hooks cannot be removed::

    python stopped_runs.py FOLDER CASE STOP

Prints one JSON document: how many steps a whole run has, and what is wrong after runs that were stopped at one of them.
A step is an open, mkdir, rename, remove, rmdir, chmod, listing or lock of a file, or, if STOP ends in "-at-lines", a
line of the modules that write files; each run is a forked process.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_gconv.converters import SinglePairConductanceConverter
from onnx_gconv.files.models import load_model
from onnx_gconv.operations.operations import map_model

OLD, NEW = SinglePairConductanceConverter(g_max=10.0), SinglePairConductanceConverter(g_max=20.0)
FINISHED, FAILED, KILLED = 0, 3, -signal.SIGKILL
STEPS = frozenset(
    {
        "fcntl.flock",
        "open",
        "os.chmod",
        "os.listdir",
        "os.mkdir",
        "os.remove",
        "os.rename",
        "os.rmdir",
        "os.scandir",
        "os.truncate",
    }
)


@dataclass(frozen=True)
class Case:
    """What stands in the folder before the run, and how it writes."""

    old: bool | None  # whether the old output has external data; None for no old output
    new: bool
    input_data: str = "in.data"
    foreign: tuple[str, ...] = ("notes.txt", "out.onnx.7.data", "other.onnx.data")


CASES = {
    "inline-over-inline": Case(old=False, new=False),
    "external-over-inline": Case(old=False, new=True),
    "inline-over-external": Case(old=True, new=False),
    "external-over-external": Case(old=True, new=True),
    "external-over-nothing": Case(old=None, new=True),
    "name-taken-by-a-foreign-file": Case(old=False, new=True, foreign=("out.onnx.data",)),
    "name-taken-by-the-input": Case(old=False, new=True, input_data="out.onnx.data"),
}


WRITERS = frozenset({"model_io.py", "atomic_output.py", "data_file.py"})


class Steps:
    """Counts the steps of this process below a folder, and does something at some of them."""

    def __init__(self, folder: Path, actions: dict[int, Callable[[], None]], *, lines: bool) -> None:
        self._folder = os.fspath(folder)
        self._actions = actions
        self.count = 0
        if lines:
            sys.settrace(self._trace)
        else:
            sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if event in STEPS and self._is_ours(event, arguments[0]):
            self._step()

    def _trace(self, frame: FrameType, event: str, _: object) -> Callable[..., object] | None:
        if Path(frame.f_code.co_filename).name not in WRITERS:
            return None
        if event == "line":
            self._step()
        return self._trace

    def _step(self) -> None:
        self.count += 1
        if action := self._actions.get(self.count):
            action()

    def _is_ours(self, event: str, path: object) -> bool:
        if isinstance(path, int):
            return event != "open"
        text = os.fsdecode(path) if isinstance(path, (bytes, os.PathLike)) else str(path)
        return not os.path.isabs(text) or text.startswith(self._folder)  # noqa: PTH117 - text of any origin


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    raise OSError(errno.EIO, "Input/output error")


def interrupt() -> None:
    raise KeyboardInterrupt


STOPS = {"kill": kill, "fail": fail, "interrupt": interrupt}
AT_LINES = "-at-lines"


def run(
    folder: Path,
    case: Case,
    converter: SinglePairConductanceConverter = NEW,
    *,
    at: dict[int, Callable[[], None]] | None = None,
    lines: bool = False,
) -> tuple[int, int]:
    """Map in a forked process; its exit code, negative if killed, and the number of steps it took."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        code = FAILED
        steps = Steps(folder, at or {}, lines=lines)
        try:
            map_model(folder / "in.onnx", folder / "out.onnx", converter, external_data=case.new)
            code = FINISHED
        finally:
            os.write(writer, str(steps.count).encode())
            os._exit(code)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reader) as file:
        count = file.read()
    return os.waitstatus_to_exitcode(status), int(count or 0)


def content(folder: Path) -> dict[str, bytes]:
    """All files of a folder, hidden ones too."""
    return {
        os.fspath(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if not file.is_dir()
    }


def output(folder: Path) -> dict[str, bytes] | None:
    """The output and the data file that it names, byte for byte; None if there is none. Raises if it is not whole."""
    path = folder / "out.onnx"
    if not path.exists():
        return None
    model = load_model(path)
    names = {
        os.fspath(value.const_value.location)
        for value in model.graph.initializers.values()
        if hasattr(value.const_value, "location")
    }
    return {name: (folder / name).read_bytes() for name in ("out.onnx", *names)}


def prepare(folder: Path, case: Case) -> None:
    """The input, the foreign files, and the old output."""
    folder.mkdir()
    tensors = [
        numpy_helper.from_array(np.random.default_rng(seed).normal(size=(16, 16)).astype(np.float32), f"w{seed}")
        for seed in range(3)
    ]
    nodes = [helper.make_node("MatMul", [f"x{k}", f"w{k}"], [f"x{k + 1}"]) for k in range(3)]
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 16]) for name in ("x0", "x3")]
    graph = helper.make_graph(nodes, "graph", values[:1], values[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    if case.old is not None:
        onnx.save(model, folder / "in.onnx")
        code, _ = run(folder, Case(old=None, new=case.old), OLD)
        assert code == FINISHED
    onnx.save(model, folder / "in.onnx", save_as_external_data=True, location=case.input_data, size_threshold=0)
    for name in case.foreign:
        (folder / name).write_text(f"{name} is somebody else's")


class Observer:
    """Says what is wrong in a folder after runs that were stopped, and after one more that was not."""

    def __init__(self, base: Path, case: Case, stop: str) -> None:
        self._case = case
        self._stop = stop
        self._template = base / "template"
        self._folder = base / "work"
        prepare(self._template, case)
        self._untouched = {
            name: data
            for name, data in content(self._template).items()
            if name in {"in.onnx", case.input_data, *case.foreign}
        }
        self._old = output(self._template)
        folder = self.fresh()
        code, self.steps = run(folder, case, lines=stop.endswith(AT_LINES))
        assert code == FINISHED
        self._new = output(folder)
        assert self._new is not None
        assert self._new != self._old

    def fresh(self) -> Path:
        """The folder as it was before the run."""
        shutil.rmtree(self._folder, ignore_errors=True)
        return Path(shutil.copytree(self._template, self._folder))

    def is_old(self) -> bool:
        """Whether the output is the old one, or still none."""
        return output(self._folder) == self._old

    def again(self, at: dict[int, Callable[[], None]]) -> int:
        """The exit code of one more run in the folder as it is."""
        return run(self._folder, self._case, at=at)[0]

    def problems_of_stopped(self, code: int) -> Iterator[str]:
        """The output is the old one or the new one, and whole; nobody else's file has changed."""
        now = content(self._folder)
        try:
            found = output(self._folder)
        except Exception as error:  # noqa: BLE001 - any error is a finding
            yield f"the output is broken: {error}"
        else:
            if found not in (self._old, self._new):
                yield "the output is neither the old one nor the new one"
            if code == FINISHED and found != self._new:
                yield "the run claims success, but the output is not the new one"
        yield from self._changed(now)

    def problems_after_another_run(self) -> Iterator[str]:
        """An undisturbed run succeeds, and leaves its output, one data file and nobody's rubbish."""
        try:
            needed = self._untouched.keys() | (output(self._folder) or {}).keys()
        except Exception:  # noqa: BLE001 - reported already
            return
        if {item.name for item in self._folder.iterdir()} == needed:
            return  # nothing to clear up
        code, _ = run(self._folder, self._case)
        if code != FINISHED:
            yield "the next run failed"
            return
        now = content(self._folder)
        yield from self._changed(now)
        extra = now.keys() - self._untouched.keys() - (output(self._folder) or {}).keys()
        if self._stop == "fail":
            # Where the old output cannot be read or its data file not be removed, that file stays.
            extra -= (self._old or {}).keys()
        if extra:
            yield f"the next run leaves {sorted(extra)}"
        folders = sorted(item.name for item in self._folder.iterdir() if item.is_dir())
        if folders:
            yield f"the next run leaves the folders {folders}"

    def _changed(self, now: dict[str, bytes]) -> Iterator[str]:
        for name, data in self._untouched.items():
            if now.get(name) != data:
                yield f"'{name}' is not this run's, but it was {'changed' if name in now else 'removed'}"


def stopped_once(observer: Observer, case: Case, stop: str) -> Iterator[str]:
    action, lines = STOPS[stop.removesuffix(AT_LINES)], stop.endswith(AT_LINES)
    for step in range(1, observer.steps + 1):
        code, _ = run(observer.fresh(), case, at={step: action}, lines=lines)
        for problem in (*observer.problems_of_stopped(code), *observer.problems_after_another_run()):
            yield f"step {step}: {problem}"


def killed_in_the_cleanup(observer: Observer, case: Case) -> Iterator[str]:
    """Interrupted at every step, and killed at every step of what follows."""
    for step in range(1, observer.steps + 1):
        for later in range(step + 1, step + 100):
            code, _ = run(observer.fresh(), case, at={step: interrupt, later: kill})
            for problem in (*observer.problems_of_stopped(code), *observer.problems_after_another_run()):
                yield f"interrupted at step {step}, killed at step {later}: {problem}"
            if code != KILLED:
                break


def killed_twice(observer: Observer, case: Case) -> Iterator[str]:
    """Killed when everything but the output is in place, and killed again at every step of the next run."""
    last = 0
    for step in range(1, observer.steps + 1):
        run(observer.fresh(), case, at={step: kill})
        if observer.is_old():
            last = step
    for later in range(1, 200):
        run(observer.fresh(), case, at={last: kill})
        code = observer.again({later: kill})
        for problem in (*observer.problems_of_stopped(code), *observer.problems_after_another_run()):
            yield f"killed at step {last}, then at step {later}: {problem}"
        if code != KILLED:
            break


def main() -> None:
    base, name, stop = Path(sys.argv[1]).resolve(), sys.argv[2], sys.argv[3]
    case = CASES[name]
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the tracebacks of the stopped runs
    # One thread: steps then have the same order in every run.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    observer = Observer(base, case, stop)
    if stop == "interrupt-and-kill":
        problems = killed_in_the_cleanup(observer, case)
    elif stop == "kill-twice":
        problems = killed_twice(observer, case)
    else:
        problems = stopped_once(observer, case, stop)
    print(json.dumps({"steps": observer.steps, "problems": list(problems)}))


if __name__ == "__main__":
    main()
