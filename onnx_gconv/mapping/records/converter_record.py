"""The record of a weight's converter, and how the converter itself is built from it again."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from onnx_gconv.converters import ConductanceConverter
from onnx_gconv.converters.converter_kind import ConverterKind, checked_parameters
from onnx_gconv.converters.registry import converter_registry
from onnx_gconv.errors import ConfigError, ModelError

__all__ = ["ConverterOriginRecord", "ConverterRecord", "UnknownConverterError"]


class UnknownConverterError(ModelError):
    """The converter of a weight is not installed or registered.

    Args:
        what: The message without its subject, the weight, as from `ConverterOriginRecord.remedy`.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"it {what}")
        self.what = what


class ConverterOriginRecord(BaseModel):
    """Where a converter from outside of onnx_gconv comes from: a package for pip, or only a module."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, allow_inf_nan=False)

    package: str | None
    version: str | None
    module: str

    def __str__(self) -> str:
        if self.package is None:
            return f"the module {self.module}"
        return f"the package {' '.join(filter(None, (self.package, self.version)))}"

    def remedy(self, name: str) -> str:
        """How to get the converter of a weight if it is missing, as a message without its subject, the weight.

        Args:
            name: The name of the class of the converter.
        """
        mapped = f"was mapped with the converter '{name}' of {self}"
        if self.package is not None:
            return f"{mapped}; install it (pip install {self.package})"
        return f"{mapped}, which no package brings; register it first (onnx_gconv.converters.register_converter)"


class ConverterRecord(BaseModel):
    """The converter and all of its parameters; conductances in µS."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, allow_inf_nan=False)

    name: str
    parameters: dict[str, Any]
    origin: ConverterOriginRecord | None = Field(
        default=None, description="Where it is from; only there for converters that onnx_gconv does not have"
    )

    @model_serializer(mode="wrap")
    def _without_the_origin_of_our_own(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)
        if self.origin is None:
            written.pop("origin", None)
        return written

    @classmethod
    def of(cls, converter: ConductanceConverter) -> ConverterRecord:
        """The record of a converter.

        Raises:
            ConfigError: If the converter could not be built from its record again.
        """
        name, origin = type(converter).__name__, converter_registry().origin(converter)
        if origin is None:
            return cls(name=name, parameters=converter.manifest_parameters())
        package = origin.package
        found = ConverterOriginRecord(
            package=None if package is None else package.name,
            version=None if package is None else package.version,
            module=origin.module,
        )
        return cls(name=name, parameters=checked_parameters(converter), origin=found)

    def converter(self) -> ConductanceConverter:
        """The converter itself.

        Raises:
            UnknownConverterError: (a ModelError) If the converter is not installed or registered; the message says how
                to get it.
            ModelError: If its package cannot be loaded, or its constructor refuses the parameters.
        """
        kind = self._kind()
        try:
            converter = kind.converter(**self.parameters)
        except Exception as error:  # noqa: BLE001 - whatever the constructor of somebody else raises
            raise ModelError(
                f"the manifest has wrong parameters for '{self.name}'{self._versions(kind)}: {error}"
            ) from None
        for end in ("g_min", "g_max"):  # readers take the range of the devices from here
            if self.parameters.get(end) is None:
                raise ModelError(f"the manifest has wrong parameters for '{self.name}': {end} is missing")
        return converter

    def _kind(self) -> ConverterKind:
        try:
            kind = converter_registry().kind_of_class(self.name)
        except ConfigError as error:
            raise ModelError(f"the manifest names the converter '{self.name}', but {error}") from None
        if kind is not None:
            return kind
        if self.origin is not None:
            raise UnknownConverterError(self.origin.remedy(self.name))
        raise ModelError(f"the manifest names the converter '{self.name}', which this version does not know")

    def _versions(self, kind: ConverterKind) -> str:
        """The package versions that wrote and that read the record, if they differ: the likely cause of an error."""
        written = None if self.origin is None else self.origin.version
        if kind.package is None or written in {None, kind.package.version}:
            return ""
        return f", which {kind.package.name} {written} wrote and {kind.package.version} reads"
