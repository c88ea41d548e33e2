"""Writes the tables and pictures of simulations to files."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from onnx_gconv.errors import ConfigError
from onnx_gconv.files.drawing import require_matplotlib
from onnx_gconv.files.staging import write_small_file
from onnx_gconv.simulation.comparison.report import ComparisonReport
from onnx_gconv.simulation.simulation_report import SimulationReport

__all__ = ["ResultFiles", "check_results", "write_results"]

# The first bytes of the files
_PICTURES = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
_TABLES = (b"seconds,chip,", b"candidate,seconds,chip,")


@dataclass(frozen=True)
class ResultFiles:
    """The files for the table and the picture; None for one that is not asked for."""

    csv: Path | None
    plot: Path | None


def check_results(csv: Path | None, plot: Path | None, journal: Path | None = None) -> ResultFiles:
    """Check that results can be written, before the simulation takes its time.

    Only an older table of a simulation, or a picture of the same kind, is replaced. Any other file is kept: it could
    be the model or the inputs.

    Args:
        csv: The file for the table; None for none.
        plot: The file for the picture; None for none.
        journal: The journal of the simulation, which results must not replace; None for none.

    Raises:
        ConfigError: If a file cannot be written, would replace another kind of file, or names a kind of picture that
            is not supported, or two of the files are one.
    """
    for path in (csv, plot):
        if path is None:
            continue
        if path.is_dir() or not path.absolute().parent.is_dir():
            what = "it is a folder" if path.is_dir() else f"there is no folder '{path.parent}'"
            raise ConfigError(f"cannot write '{path}': {what}; choose another name")
    if plot is not None:
        if plot.suffix.lower() not in _PICTURES:
            raise ConfigError(f"cannot draw '{plot}': pictures end in {', '.join(sorted(_PICTURES))}")
        _check_replaced(plot, (_PICTURES[plot.suffix.lower()],), "picture of that kind")
        require_matplotlib()
    if csv is not None:
        _check_replaced(csv, _TABLES, "table of a simulation")
    named: dict[Path, str] = {}
    for what, path in (("the table", csv), ("the picture", plot), ("the journal", journal)):
        if path is not None and (other := named.setdefault(path.resolve(), what)) != what:
            raise ConfigError(f"{other} and {what} cannot both be '{path}'; choose another name for one of them")
    return ResultFiles(csv, plot)


def _check_replaced(path: Path, begins: tuple[bytes, ...], kind: str) -> None:
    """Raise ConfigError if the file exists and does not begin like an older result."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ConfigError(f"cannot write '{path}': it is a link, or no file; choose another name")
    try:
        found = b""
        if path.exists():
            with path.open("rb") as file:
                found = file.read(max(map(len, begins)))
    except OSError as error:
        raise ConfigError(f"cannot write '{path}': {error.strerror}; choose another name") from error
    if found and not found.startswith(begins):
        raise ConfigError(f"'{path}' exists, and is no {kind}; choose another name")


def write_results(report: SimulationReport | ComparisonReport, files: ResultFiles) -> None:
    """Write the files that were asked for. Each appears whole or not at all.

    Raises:
        ConfigError: If a file cannot be written.
    """
    if files.csv is not None:
        _write(files.csv, report.to_csv().encode("utf-8"))
    if files.plot is not None:
        picture = io.BytesIO()
        kind = files.plot.suffix.lower().removeprefix(".")
        report.plot().savefig(picture, format=kind, dpi=150)
        _write(files.plot, picture.getvalue())


def _write(path: Path, content: bytes) -> None:
    try:
        write_small_file(path, content, replace=True)
    except OSError as error:
        raise ConfigError(f"cannot write '{path}': {error.strerror}; choose another place") from error
