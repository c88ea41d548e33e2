"""The candidates of a comparison, from a TOML file or a program.

A file has keys that hold for all candidates, and for each candidate the keys in which it differs::

    device = "pcm"
    [mapping]
    granularity = "channel"
    [[candidates]]
    name = "16 levels"
    mapping = { levels = 16 }
    [grid]
    device = ["pcm", "reram-wan2022"]

A key of a candidate replaces the same key for all candidates. A grid adds a candidate for each combination of its
values.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import ValidationError

from onnx_gconv.configuration.configuration import Configuration, ConfigurationSource
from onnx_gconv.configuration.options import ConfigurationLike, configuration_of
from onnx_gconv.configuration.settings import DeviceSettings
from onnx_gconv.configuration.toml_file import toml_content
from onnx_gconv.devices.base_device import DeviceModel
from onnx_gconv.errors import ConfigError, GconvError
from onnx_gconv.simulation.chips.chip_weight import DriftCompensation
from onnx_gconv.simulation.comparison.tables import CandidateTable, ComparisonTable
from onnx_gconv.simulation.times import DEFAULT_TIMES, times_of
from onnx_gconv.validation_messages import first_problem

__all__ = ["Candidate", "Comparison", "ComparisonLike"]

_MOST_CANDIDATES = 1000

_BARE = {"device", "mapping.converter", "mapping.granularity"}  # keys whose values are clear without the key
_DEVICES = {"device", *DeviceSettings.model_fields}  # keys of a mapping that describe its devices
_NAMES = {"name", "kind", "preset"}  # keys that name a converter, a granularity or a device


@dataclass(frozen=True)
class Candidate:
    """One candidate, with all its settings.

    Attributes:
        name: The name of the candidate.
        place: The candidate as messages name it, with its place in the file.
        differences: The keys in which the candidate differs from others, and their values.
        device: The device model.
        device_options: The settings of the device model.
        drift_compensation: How drift is compensated, as for `simulate`.
        seconds: The times after programming, in seconds.
        repeats: How many chips to simulate.
        mapping: The options of the mapping of a plain model, by their keys.
        folder: The folder to which paths in the file are relative.
    """

    name: str
    place: str
    differences: Mapping[str, Any]
    device: str | DeviceModel
    device_options: Mapping[str, Any]
    drift_compensation: DriftCompensation
    seconds: tuple[float, ...]
    repeats: int
    mapping: Mapping[str, Any]
    folder: Path

    @contextmanager
    def named(self) -> Iterator[None]:
        """Put the name of the candidate in front of the messages of errors."""
        try:
            yield
        except GconvError as error:
            raise type(error)(f"{self.place}: {error}") from error

    def configuration(self, config: ConfigurationLike | None) -> Configuration:
        """The configuration by which the candidate maps a plain model.

        Args:
            config: A configuration that replaces the one that the candidate names; None to use that one.

        Raises:
            ConfigError: If the configuration cannot be read, or keys contradict each other.
        """
        keys = dict(self.mapping)
        own, converter = keys.pop("config", None), keys.pop("converter", None)
        if config is None and own is not None:
            config = self.folder / own
        return configuration_of(config, converter, keys, names={name: f"mapping.{name}" for name in self.mapping})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Comparison:
    """A comparison, and where it comes from.

    Attributes:
        table: The checked content.
        data: The content as it was written, before it was checked.
        source: The file that it comes from, or none.
    """

    table: ComparisonTable
    data: Mapping[str, Any]
    source: ConfigurationSource

    @classmethod
    def of(cls, comparison: ComparisonLike) -> Comparison:
        """A comparison from its TOML file, or from the content of such a file as a mapping.

        Raises:
            ConfigError: If the file cannot be read, a key is unknown or a value is wrong; the message names the key.
        """
        if isinstance(comparison, Mapping):
            data, source = dict(comparison), ConfigurationSource()
        else:
            data, source = toml_content(comparison)
        try:
            return cls(ComparisonTable.model_validate(data), data, source)
        except ValidationError as error:
            problem = first_problem(error, ComparisonTable, data)
            of = _name_at(problem.key, data)
            raise ConfigError(f"{source.place(*problem.key)}{of}: {problem.text}".removeprefix(": ")) from None

    @property
    def folder(self) -> Path:
        """The folder to which paths in the file are relative."""
        return self.source.files[0].parent if self.source.files else Path()

    def candidates(self, said: Mapping[str, Any], said_of_mapping: Mapping[str, Any]) -> tuple[Candidate, ...]:
        """All candidates: those of the list, and those of the grid.

        Args:
            said: Values that a caller gives for all candidates, by their keys. They win over the file; None counts as
                not given.
            said_of_mapping: Values that a caller gives for keys of the mapping. Such keys no longer count as
                differences of candidates, but the values are not put into `Candidate.mapping`.

        Raises:
            ConfigError: If there are no candidates, too many, or two with the same name.
        """
        said = {key: value for key, value in said.items() if value is not None}
        listed = [
            (own, table, self.source.place("candidates", number))
            for number, (own, table) in enumerate(
                zip(self.data.get("candidates", ()), self.table.candidates, strict=True)
            )
        ]
        from_grid = [(own, CandidateTable.model_validate(own), self.source.place("grid")) for own in self._combined()]
        found = []
        for own, table, place in (*listed, *from_grid):
            differences = _flat(own)
            name = table.name or ", ".join(_text(key, value) for key, value in differences.items())
            if not name:
                raise ConfigError(f"{place}: says nothing of its own; give it a name, or what is different")
            kept = {key: value for key, value in differences.items() if not _is_said(key, said, said_of_mapping)}
            found.append(self._candidate(name, f"{place} '{name}'", kept, table, said))
        where = f"{self.source.name}: " if self.source.name else ""
        if not found:
            raise ConfigError(
                f'{where}there are no candidates; write [[candidates]] and name = "..." above what each of them has '
                "of its own"
            )
        if twice := [name for name, count in Counter(each.name for each in found).items() if count > 1]:
            raise ConfigError(f"{where}there are two candidates '{twice[0]}'; give each of them a name of its own")
        return tuple(found)

    def _candidate(
        self, name: str, place: str, differences: Mapping[str, Any], table: CandidateTable, said: Mapping[str, Any]
    ) -> Candidate:
        def of(key: str, default: Any) -> Any:  # noqa: ANN401 - the value of any key
            in_file = (getattr(table, key), getattr(self.table, key))
            return said.get(key, next((value for value in in_file if value is not None), default))

        device = of("device", "pcm")
        if "device" not in said and isinstance(device, str) and device.lower().endswith((".csv", ".toml")):
            device = str(self.folder / device)
        return Candidate(
            name,
            place,
            differences,
            device,
            of("device_options", {}),
            of("drift_compensation", "none"),
            tuple(times_of(of("times", DEFAULT_TIMES))),
            of("repeats", 25),
            {**self.table.mapping.given, **table.mapping.given},
            self.folder,
        )

    def _combined(self) -> Iterator[dict[str, Any]]:
        """All combinations of the values of the grid, each in the form of a candidate's table."""
        lists = _flat(self.data.get("grid", {}))
        count = 1
        for values in lists.values():
            count *= len(values)
        if count > _MOST_CANDIDATES:
            raise ConfigError(
                f"{self.source.place('grid')}: has {count:,} combinations, over {_MOST_CANDIDATES:,}; give fewer values"
            )
        for values in itertools.product(*lists.values()) if lists else ():
            table: dict[str, Any] = {}
            for key, value in zip(lists, values, strict=True):
                of, _, inner = key.partition(".")
                if inner:
                    table.setdefault(of, {})[inner] = value
                else:
                    table[of] = value
            yield table


ComparisonLike: TypeAlias = str | os.PathLike[str] | Mapping[str, Any]


def _flat(table: Mapping[str, Any]) -> dict[str, Any]:
    """The keys and values of a candidate without its name; keys of inner tables are written as ``mapping.levels``."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping) and (key == "mapping" or (key == "device_options" and value)):
            found |= {f"{key}.{inner}": each for inner, each in value.items() if each is not None}
        elif key != "name" and value is not None:
            found[key] = value
    return found


def _is_said(key: str, said: Mapping[str, Any], of_mapping: Mapping[str, Any]) -> bool:
    """Whether a value that a caller gives replaces this key of a candidate."""
    table, _, inner = key.partition(".")
    if inner in _DEVICES and not _DEVICES.isdisjoint(of_mapping):
        return True  # a caller's description of the devices replaces that of the candidate as a whole
    return table in said or (table == "mapping" and inner in of_mapping)


def _text(key: str, value: object) -> str:
    """One difference of a candidate, as a part of its name, such as ``levels=16``."""
    text = _value_text(value)
    return text if key in _BARE else f"{key.rpartition('.')[2]}={text}"


def _value_text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return " ".join(_value_text(each) if key in _NAMES else _text(key, each) for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value_text, value))}]"
    return str(value) if isinstance(value, (str, int, float)) else str(getattr(value, "name", type(value).__name__))


def _name_at(key: tuple[str | int, ...], data: Mapping[str, Any]) -> str:
    """The text `` of 'NAME'`` that messages add to a key of a candidate; empty if the candidate has no name."""
    if key[:1] != ("candidates",) or len(key) < 2 or not isinstance(key[1], int):  # noqa: PLR2004 - a key and a number
        return ""
    table = data["candidates"][key[1]]
    name = table.get("name") if isinstance(table, Mapping) else None
    return f" of '{name}'" if isinstance(name, str) and name else ""
