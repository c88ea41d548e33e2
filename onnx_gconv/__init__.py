"""Analog conductance mappings, explicit in ONNX models.

Every weight of a mapped model is two conductance initializers in µS, a scale, and the Sub and Div nodes that rebuild
it. The model stays plain ONNX::

    import onnx_gconv as gconv

    gconv.map_model("model.onnx", "model.gconv.onnx", gconv.SinglePairConductanceConverter(g_max=25.0))
    gconv.verify("model.onnx", "model.gconv.onnx").raise_if_failed()
    gconv.restore_model("model.gconv.onnx", "plain.onnx")
    gconv.write_bundle("model.gconv.onnx", "model.gconv", array=(256, 256))
    gconv.read_back("model.gconv.onnx", "measured.h5", "model.measured.onnx")
    gconv.program_model("model.gconv.onnx", "model.chip.onnx", "pcm", time="1d", seed=7)
    gconv.simulate("model.gconv.onnx", "pcm", inputs="data.npz", labels="labels")
    gconv.compare("model.onnx", "candidates.toml", inputs="data.npz", labels="labels")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_gconv.version import __version__ as __version__

if TYPE_CHECKING:
    # An import "as" the same name marks it as exported for type checkers.
    from onnx_gconv import configuration as configuration
    from onnx_gconv import converters as converters
    from onnx_gconv import crossbars as crossbars
    from onnx_gconv import devices as devices
    from onnx_gconv import errors as errors
    from onnx_gconv import handoff as handoff
    from onnx_gconv import integrations as integrations
    from onnx_gconv import mapping as mapping
    from onnx_gconv import models as models
    from onnx_gconv import operations as operations
    from onnx_gconv import passes as passes
    from onnx_gconv import runtime as runtime
    from onnx_gconv import schemes as schemes
    from onnx_gconv import simulation as simulation
    from onnx_gconv import verification as verification
    from onnx_gconv import weights as weights
    from onnx_gconv.configuration import (
        Configuration,
        read_configuration,
    )
    from onnx_gconv.converters import (
        BitSlicedOffsetConductanceConverter,
        BitSlicedPairConductanceConverter,
        CustomPairConductanceConverter,
        DualPairConductanceConverter,
        NPairConductanceConverter,
        OffsetConductanceConverter,
        SingleDeviceConductanceConverter,
        SinglePairConductanceConverter,
        TwoSidedPairConductanceConverter,
    )
    from onnx_gconv.devices.levels import (
        ConductanceLevels,
    )
    from onnx_gconv.errors import (
        BundleError,
        ConfigError,
        GconvError,
        ModelError,
        UnmappableWeightError,
        VerificationError,
    )
    from onnx_gconv.handoff import (
        Bundle,
        HandoffReport,
        ReadbackReport,
        TargetsReport,
        open_bundle,
        read_back,
        write_bundle,
        write_targets,
    )
    from onnx_gconv.operations import (
        CheckReport,
        Explanation,
        MappingReport,
        RestoreReport,
        check_model,
        explain_weight,
        inspect_model,
        map_model,
        restore_model,
    )
    from onnx_gconv.schemes.clipping import (
        Clipping,
    )
    from onnx_gconv.schemes.granularity import (
        Granularity,
    )
    from onnx_gconv.schemes.scheme import (
        MappingScheme,
    )
    from onnx_gconv.simulation import (
        ComparisonReport,
        ProgramReport,
        SimulationReport,
        compare,
        program_model,
        simulate,
    )
    from onnx_gconv.verification import (
        VerificationReport,
        verify,
    )

__all__ = [
    "BitSlicedOffsetConductanceConverter",
    "BitSlicedPairConductanceConverter",
    "Bundle",
    "BundleError",
    "CheckReport",
    "Clipping",
    "ComparisonReport",
    "ConductanceLevels",
    "ConfigError",
    "Configuration",
    "CustomPairConductanceConverter",
    "DualPairConductanceConverter",
    "Explanation",
    "GconvError",
    "Granularity",
    "HandoffReport",
    "MappingReport",
    "MappingScheme",
    "ModelError",
    "NPairConductanceConverter",
    "OffsetConductanceConverter",
    "ProgramReport",
    "ReadbackReport",
    "RestoreReport",
    "SimulationReport",
    "SingleDeviceConductanceConverter",
    "SinglePairConductanceConverter",
    "TargetsReport",
    "TwoSidedPairConductanceConverter",
    "UnmappableWeightError",
    "VerificationError",
    "VerificationReport",
    "check_model",
    "compare",
    "explain_weight",
    "inspect_model",
    "map_model",
    "open_bundle",
    "program_model",
    "read_back",
    "read_configuration",
    "restore_model",
    "simulate",
    "verify",
    "write_bundle",
    "write_targets",
]

_HOMES = {
    "onnx_gconv.configuration": ["Configuration", "read_configuration"],
    "onnx_gconv.converters": [
        "BitSlicedOffsetConductanceConverter",
        "BitSlicedPairConductanceConverter",
        "CustomPairConductanceConverter",
        "DualPairConductanceConverter",
        "NPairConductanceConverter",
        "OffsetConductanceConverter",
        "SingleDeviceConductanceConverter",
        "SinglePairConductanceConverter",
        "TwoSidedPairConductanceConverter",
    ],
    "onnx_gconv.devices.levels": ["ConductanceLevels"],
    "onnx_gconv.errors": [
        "BundleError",
        "ConfigError",
        "GconvError",
        "ModelError",
        "UnmappableWeightError",
        "VerificationError",
    ],
    "onnx_gconv.handoff": [
        "Bundle",
        "HandoffReport",
        "ReadbackReport",
        "TargetsReport",
        "open_bundle",
        "read_back",
        "write_bundle",
        "write_targets",
    ],
    "onnx_gconv.operations": [
        "CheckReport",
        "Explanation",
        "MappingReport",
        "RestoreReport",
        "check_model",
        "explain_weight",
        "inspect_model",
        "map_model",
        "restore_model",
    ],
    "onnx_gconv.schemes.clipping": ["Clipping"],
    "onnx_gconv.schemes.granularity": ["Granularity"],
    "onnx_gconv.schemes.scheme": ["MappingScheme"],
    "onnx_gconv.simulation": [
        "ComparisonReport",
        "ProgramReport",
        "SimulationReport",
        "compare",
        "program_model",
        "simulate",
    ],
    "onnx_gconv.verification": ["VerificationReport", "verify"],
}

_SUBMODULES = frozenset(
    {
        "configuration",
        "converters",
        "crossbars",
        "devices",
        "errors",
        "handoff",
        "integrations",
        "mapping",
        "models",
        "operations",
        "passes",
        "runtime",
        "schemes",
        "simulation",
        "verification",
        "weights",
    }
)


def __getattr__(name: str) -> object:
    # Modules are imported on first use: onnx, onnx-ir and ONNX Runtime take most of a second to import, and the help of
    # the command line needs none of them.
    import importlib

    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    special = [name for name in globals() if name.startswith("__")]
    return sorted({*special, *__all__, *_SUBMODULES})
