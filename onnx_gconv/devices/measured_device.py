"""A device model made from measurements: mean and spread of the conductance for targets and times."""

from __future__ import annotations

import csv
import math
import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnx_gconv.csv_cells import check_header, check_width, decimal_number
from onnx_gconv.devices.base_device import BaseDeviceModel, Devices, FloatArray, foreign_devices
from onnx_gconv.devices.normal_numbers import normal
from onnx_gconv.errors import ConfigError
from onnx_gconv.suggestions import suggestion

__all__ = ["MeasuredDevice"]

_COLUMNS = ("target_us", "seconds", "mean_us", "sigma_us")


@dataclass(frozen=True, eq=False, kw_only=True)
class _Ranked(Devices):
    ranks: FloatArray  # z: how many standard deviations each device is above the mean, at all times


class MeasuredDevice(BaseDeviceModel):
    """A device whose mean conductance and its standard deviation were measured at some targets and times::

        g = max(mean(g_target, seconds) + sigma(g_target, seconds) * z, 0)

    Mean and sigma are interpolated linearly between targets, and linearly in ln(seconds) between times; from 0 s to the
    first positive time, linearly in seconds. Each device draws one z from N(0, 1) for all times, so a device above the
    mean stays above it. There is no further read noise: it is part of the measured spread.

    Args:
        target_us: Targets in µS, ascending, [at least 2].
        seconds: Times after programming in seconds, ascending, [at least 1]; 0 is the end of programming. Before the
            first time, devices have the conductance of the first time.
        mean_us: The mean conductance in µS, [targets, times].
        sigma_us: The standard deviation of the conductance in µS, [targets, times].

    Raises:
        ConfigError: If shapes do not agree, targets or times do not ascend, or a value is negative or not finite.
    """

    name = "measured"

    def __init__(
        self, target_us: Sequence[float], seconds: Sequence[float], mean_us: ArrayLike, sigma_us: ArrayLike
    ) -> None:
        self._targets, self._seconds, self._mean, self._sigma = (
            np.asarray(each, np.float64) for each in (target_us, seconds, mean_us, sigma_us)
        )
        shape = (len(self._targets), len(self._seconds))
        for what, values in (("mean_us", self._mean), ("sigma_us", self._sigma)):
            if values.shape != shape:
                raise ConfigError(
                    f"device measured: {what} has the shape {list(values.shape)}, but there are {shape[0]} targets and "
                    f"{shape[1]} times"
                )
        if shape[0] < 2 or shape[1] < 1:  # noqa: PLR2004 - a line needs two points
            raise ConfigError(f"device measured: needs 2 targets and 1 time or more, but has {shape[0]} and {shape[1]}")
        for what, values in zip(_COLUMNS, (self._targets, self._seconds, self._mean, self._sigma), strict=True):
            valid = np.isfinite(values) & (values >= 0)
            if not valid.all():
                wrong = values[~valid].flat[0]
                raise ConfigError(f"device measured: {what} is finite and 0 or more everywhere, but has {wrong:g}")
        for what, values in (("targets", self._targets), ("times", self._seconds)):
            if not (np.diff(values) > 0).all():
                raise ConfigError(f"device measured: {what} ascend, but they are {', '.join(f'{x:g}' for x in values)}")
        super().__init__(float(self._targets[-1]), float(self._targets[0]))

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str]) -> MeasuredDevice:
        """Read a CSV table with the columns ``target_us, seconds, mean_us, sigma_us``.

        The table has one row for each target at each time, in any order.

        Raises:
            ConfigError: If the file cannot be read, a column is missing, a value is no number, or a row is missing or
                duplicate; the message names the file, the line and the value.
        """
        rows: dict[tuple[float, float], tuple[float, float]] = {}
        for line, row in _rows(_regular(path)):
            target, seconds, mean, sigma = row
            if (target, seconds) in rows:
                raise ConfigError(f"'{path}', line {line}: target {target:g} \u00b5S at {seconds:g} s is there twice")
            rows[target, seconds] = mean, sigma
        targets, times = (sorted({key[axis] for key in rows}) for axis in (0, 1))
        for target in targets:
            for seconds in times:
                if (target, seconds) not in rows:
                    raise ConfigError(
                        f"'{path}': the row of target {target:g} \u00b5S at {seconds:g} s is missing; add it"
                    )
        table = np.array([[rows[target, seconds] for seconds in times] for target in targets])
        try:
            return cls(targets, times, table[..., 0], table[..., 1])
        except (ConfigError, IndexError) as error:
            reason = error if isinstance(error, ConfigError) else "device measured: has no rows"
            raise ConfigError(f"'{path}': {reason}") from None

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> MeasuredDevice:
        """Read a TOML file whose keys are the arguments of the constructor.

        Raises:
            ConfigError: If the file cannot be read, a key is unknown or missing, or a value is wrong; the message names
                the file and the key.
        """
        file = _regular(path)
        try:
            return cls(**_table(tomllib.loads(file.read_text(encoding="utf-8-sig"))))
        except ConfigError as error:
            reason = str(error)
        except OSError as error:
            raise ConfigError(f"cannot read '{path}': {error.strerror}; give a file that is there") from None
        except OverflowError:
            reason = "one of its whole numbers is too large for a float"
        # ValueError: bad TOML, bad UTF-8, or a number with too many digits.
        except (ValueError, RecursionError) as error:
            reason = f"no TOML: {' '.join(str(error).split())}"
        raise ConfigError(f"'{path}': {reason}")

    def _devices(self, targets_us: FloatArray, rng: np.random.Generator) -> Devices:
        ranks = normal(targets_us, rng)
        programmed = self._at(targets_us, 0.0, ranks)
        return _Ranked(targets_us, programmed, programmed, ranks=ranks)

    def _drifted(self, devices: Devices, seconds: float, rng: np.random.Generator) -> FloatArray:  # noqa: ARG002
        if not isinstance(devices, _Ranked):
            raise foreign_devices()
        return self._at(devices.targets_us, seconds, devices.ranks)

    def _check_time(self, seconds: float) -> None:
        super()._check_time(seconds)
        if seconds > self._seconds[-1]:
            raise ConfigError(
                f"device measured: it was measured up to {self._seconds[-1]:g} s, but the time is {seconds:g} s; "
                "choose an earlier one, or add later measurements"
            )

    def _at(self, targets_us: FloatArray, seconds: float, ranks: FloatArray) -> FloatArray:
        mean, sigma = (
            np.interp(targets_us, self._targets, _at_time(table, self._seconds, seconds)).astype(targets_us.dtype)
            for table in (self._mean, self._sigma)
        )
        found: FloatArray = np.maximum(mean + sigma * ranks, 0)
        return found


def _table(document: dict[str, Any]) -> dict[str, Any]:
    """Check the document of a TOML file and return it as arguments of `MeasuredDevice`.

    Raises:
        ConfigError: If a key is unknown or missing, or a value is not a list of numbers, or of rows of numbers.
    """
    for key in document:
        if key not in _COLUMNS:
            raise ConfigError(f"unknown key {key}; {suggestion(key, _COLUMNS)}")
    for key in _COLUMNS:
        if key not in document:
            raise ConfigError(f"the key {key} is missing; there are {', '.join(document) or 'none'}")
    for key in ("target_us", "seconds"):
        _require_numbers(key, document[key])
    for key in ("mean_us", "sigma_us"):
        rows = document[key]
        if not isinstance(rows, list):
            raise ConfigError(f"{key} is {rows!r}, but it should be a list of rows, one for each target")
        for number, row in enumerate(rows):
            _require_numbers(f"{key}[{number}]", row)
            if len(row) != len(document["seconds"]):
                times = len(document["seconds"])
                raise ConfigError(f"{key}[{number}] has {len(row)} numbers, but there are {times} times")
    return document


def _require_numbers(what: str, values: object) -> None:
    if not isinstance(values, list):
        raise ConfigError(f"{what} is {values!r}, but it should be a list of numbers")
    for number, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError(f"{what}[{number}] is {value!r}, but it should be a number")


def _regular(path: str | os.PathLike[str]) -> Path:
    """The path of a file; refuses folders, pipes and devices, which may never end."""
    file = Path(path)
    if file.exists() and not file.is_file():
        raise ConfigError(f"cannot read '{path}': it is no regular file; give a file")
    return file


def _at_time(table: NDArray[np.float64], times: NDArray[np.float64], seconds: float) -> NDArray[np.float64]:
    """Interpolate a table, [targets, times], at a time in seconds; the result is [targets]."""
    last = min(max(int(np.searchsorted(times, seconds)), 1), len(times) - 1)
    if len(times) == 1 or seconds <= times[0]:
        return table[:, 0]
    before, after = times[last - 1], times[last]
    along = np.log if before > 0 else np.asarray
    share = float((along(seconds) - along(before)) / (along(after) - along(before)))
    return table[:, last - 1] * (1 - share) + table[:, last] * share


def _rows(path: Path) -> list[tuple[int, tuple[float, ...]]]:
    """The rows of a CSV table: the number of the line, and its values in the order of `_COLUMNS`."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            header = [name.strip() for name in next(lines, [])]
            try:
                check_header(header, _COLUMNS)
            except ValueError as error:
                raise ConfigError(f"'{path}': {error}") from None
            missing = [name for name in _COLUMNS if name not in header]
            if missing:
                raise ConfigError(
                    f"'{path}': the column {missing[0]} is missing; there are {', '.join(header) or 'none'}"
                )
            places = [header.index(name) for name in _COLUMNS]
            return [
                (lines.line_num, _numbers(path, lines.line_num, row, places, len(header))) for row in lines if any(row)
            ]
    except OSError as error:
        raise ConfigError(f"cannot read '{path}': {error.strerror}; give a file that is there") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"cannot read '{path}': {error}; save the table as UTF-8 text with commas") from None


def _numbers(path: Path, line: int, row: Sequence[str], places: Sequence[int], columns: int) -> tuple[float, ...]:
    try:
        check_width(row, columns)
        return tuple(
            _amount(name, row[place].strip() if place < len(row) else "")
            for name, place in zip(_COLUMNS, places, strict=True)
        )
    except ValueError as error:
        raise ConfigError(f"'{path}', line {line}: {error}; correct it, or write the table again") from None


def _amount(column: str, text: str) -> float:
    value = decimal_number(column, text)
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{column} is {text}, but it should be a finite number from 0")
    return value
