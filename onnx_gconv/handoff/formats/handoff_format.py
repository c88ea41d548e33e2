"""What a format of other tools says of itself and does; each is a class of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.files.arrays import ArrayWriter
from onnx_gconv.handoff.formats.receiver_settings import ReceiverSettings
from onnx_gconv.handoff.formats.sample import Sample
from onnx_gconv.handoff.manifest import FileRecord
from onnx_gconv.visible_text import listed

__all__ = ["ArrayFolder", "HandoffFormat", "LayerNote", "Preparation"]

_MOST_NAMED = 4


class ArrayFolder(ArrayWriter, Protocol):
    """Files of a format that takes the arrays of the bundle, one after the other, as they are written."""

    @property
    def files(self) -> Sequence[FileRecord]:
        """What the manifest says of the files, as soon as all arrays are written."""
        ...


@dataclass(frozen=True)
class LayerNote:
    """What readers have to know of some layers.

    Attributes:
        text: What it is.
        layers: The layers of which it is so; if there are none, nobody is told.
    """

    text: str
    layers: Sequence[Layer]

    def __str__(self) -> str:
        return f"{self.text}: {listed([layer.id for layer in self.layers], _MOST_NAMED)}"


@dataclass(frozen=True, eq=False)
class Preparation:
    """What a format may need of the model besides its layers.

    Attributes:
        name: What the model is called.
        model: The file of the mapped model.
        layers: Its layers.
        sample: A run of it; None if no format of the bundle needs one.
        settings: Bits of numbers and converters.
    """

    name: str
    model: Path
    layers: Sequence[Layer]
    sample: Sample | None
    settings: ReceiverSettings

    @property
    def run(self) -> Sample:
        """The run, for a format that needs one."""
        assert self.sample is not None  # noqa: S101 - the model runs if a format needs it
        return self.sample


class HandoffFormat:
    """A format of other tools: a folder of the bundle, which is named as the format.

    It has the conductances in one of two ways: as whole matrices, which `write` reads again, or as the arrays of the
    bundle, which `array_folder` takes while they are computed. A format overrides one of the two. A README.txt is
    written beside its files.

    Attributes:
        name: What people write, and the folder.
        description: What it is, in a few words.
        content: What its files are and how to use them, for README.txt; ends in a line feed.
        remarks: What it leaves out or rounds of every model, and what readers have to know; a line each.
        holds_tiles: Whether matrices are cut into the tiles of the bundle. If not, each is whole, and a file or line of
            its own.
        holds_biases: Whether it has the biases that are added digitally.
        holds_bias_rows: Whether it has the rows of tiles that hold a bias.
        holds_codes: Whether it has the codes of levels beside their conductances.
        is_for_costs: Whether it describes layers and arrays to a tool that estimates energy, time and area, rather than
            conductances to one that computes with them.
        needs_sample: Whether it has something of what arrives at layers, so that the model has to run on a sample.
        settings: The names of the settings that it uses.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    content: ClassVar[str]
    remarks: ClassVar[tuple[str, ...]]
    holds_tiles: ClassVar[bool] = False
    holds_biases: ClassVar[bool] = False
    holds_bias_rows: ClassVar[bool] = False
    holds_codes: ClassVar[bool] = False
    is_for_costs: ClassVar[bool] = False
    needs_sample: ClassVar[bool] = False
    settings: ClassVar[tuple[str, ...]] = ()

    def prepared(self, preparation: Preparation) -> HandoffFormat:
        """The format with what it needs of the model besides the layers; this one needs nothing."""
        return self

    def held(self, layers: Sequence[Layer]) -> Sequence[Layer]:
        """The layers that are written, in the order of their files: all, unless a format says why not in its notes."""
        return layers

    def readme_content(self) -> str:
        """What README.txt begins with."""
        return self.content

    def check(self, layers: Sequence[Layer]) -> None:
        """Check, before anything is written, that the format can hold the layers. This one holds all.

        Raises:
            ConfigError: For the first layer that it cannot hold.
        """

    def notes(self, layers: Sequence[Layer]) -> Sequence[LayerNote]:
        """What readers have to know of some layers, besides what follows from what the format holds."""
        return ()

    def array_folder(self, folder: Path) -> ArrayFolder | None:
        """What writes the arrays of a new bundle, to be used in a with statement; None if the format reads matrices.

        Args:
            folder: The bundle.
        """
        return None

    def cells(self, layers: Sequence[Layer]) -> int:
        """How many conductances `write` writes, over all devices."""
        return 0

    def write(
        self,
        layers: Sequence[Layer],
        folder: Path,
        advance: Callable[[int], None],
    ) -> Iterable[FileRecord]:
        """Write what the format reads from the layers themselves.

        Args:
            layers: The layers, as `check` accepts them.
            folder: The bundle.
            advance: Called with how many more conductances are written.

        Returns:
            What the manifest says of the files.

        Raises:
            ModelError: If the conductances do not fit the format, or external data cannot be read.
            OSError: If a file cannot be written.
        """
        return ()
