"""Tables and pictures of a simulation as files."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from onnx_gconv.errors import ConfigError
from onnx_gconv.simulation.simulation_report import SimulationReport, has_matplotlib, require_matplotlib

__all__ = ["ResultFiles", "check_results", "has_matplotlib", "write_results"]

_PICTURES = {".png", ".svg", ".pdf"}


@dataclass(frozen=True)
class ResultFiles:
    """Where results go; None for nowhere."""

    csv: Path | None
    plot: Path | None


def check_results(csv: Path | None, plot: Path | None, sources: Iterable[Path]) -> ResultFiles:
    """Check that results can be written, before a simulation takes its time.

    Raises:
        ConfigError: If one cannot be, would replace what is simulated, or is a picture of a kind that is not drawn.
    """
    known = {source.resolve() for source in sources}
    for path in (csv, plot):
        if path is None:
            continue
        if path.resolve() in known:
            raise ConfigError(f"cannot write '{path}': it is what is simulated; choose another name")
        if path.is_dir() or not path.absolute().parent.is_dir():
            what = "it is a folder" if path.is_dir() else f"there is no folder '{path.parent}'"
            raise ConfigError(f"cannot write '{path}': {what}; choose another name")
    if plot is not None and plot.suffix.lower() not in _PICTURES:
        raise ConfigError(f"cannot draw '{plot}': pictures end in {', '.join(sorted(_PICTURES))}")
    if plot is not None:
        require_matplotlib()
    return ResultFiles(csv, plot)


def write_results(report: SimulationReport, files: ResultFiles) -> None:
    """Write what was asked for; each file appears whole or not at all.

    Raises:
        ConfigError: If it cannot be written.
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
        with tempfile.NamedTemporaryFile(dir=path.absolute().parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                file.write(content)
                file.flush()
                os.replace(file.name, path)  # noqa: PTH105 - of a file that is still open
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise ConfigError(f"cannot write '{path}': {error.strerror}; choose another place") from error
