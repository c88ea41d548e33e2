"""The command line on damaged inputs and with random options, and outputs beside what others have left there."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path

import onnx

from onnx_gconv import GconvError, map_model, restore_model
from onnx_gconv.cli.app import main
from tests.fuzz.model_targets import mutated_mapped, mutated_original
from tests.fuzz.mutators import TEXTS, Random, chosen, mutated_bytes, mutated_json
from tests.fuzz.place import Place, check_mapped
from tests.fuzz.protobuf import Parts, mutated_model
from tests.fuzz.readings import WrongError
from tests.fuzz.seeds import DEFECTS, MAPPINGS, bundle_files, mapped_seeds, measured_files, model_seeds, with_manifest

__all__ = ["check_command", "check_leftovers", "check_options"]

_DOES_NOT_HOLD, _BAD_INPUT = 1, 2
_FIRST_PRINTABLE = 0x20

_VALUES = (
    *(text for text in TEXTS if text.isprintable()),
    *("0", "1", "-1", "2", "16", "65537", "1e400", "nan", "inf", "-inf", "0,1", "0,1.5,25", "0,,1", "1,1",
      "9" * 5000, "1" + "0" * 400),
    *("4x4", "0x0", "4", "x", "-1x2", "99999999999x99999999999", "tile", "channel", "tile-channel", "single-pair",
      "n-pair", "custom-pair"),
    *("offset", "pcm-joshi", "factors=[1,3]", "table=[[0,1],[1,0]]", "bits=8", "a=", "=b", "a=[[[[",
      "a=" + "[" * 3000, "a=" + "9" * 5000),
    *("a=1" + "0" * 400, "Conv", "W", "[", "re:(", "map", "skip", "float32", "weight", "99.5", "rebuild", "split",
      "equal", "max"),
)  # fmt: skip
_OPTIONS = (
    *("--preset", "--converter", "--converter-option", "--factor", "--bits", "--slice-bits", "--g-max", "--g-min",
      "--granularity"),
    *("--tile", "--partition", "--clip-percentile", "--clip-value", "--levels", "--conductance-dtype", "--include",
      "--exclude"),
    *("--include-op", "--quantized", "--shared", "--config"),
)  # fmt: skip
_FLAGS = (
    "--exact",
    "--level-codes",
    "--freeze-inputs",
    "--no-inline",
    "--upgrade-opset",
    "--json",
    "--quiet",
    "--dry-run",
)


def _run(*arguments: str) -> tuple[int, str]:
    """Run a command in this process; its exit code and what it says on stderr.

    Raises:
        WrongError: If it does not end as the command line promises.
    """
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["onnx-gconv", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main()
    finally:
        sys.argv = before
    said = err.getvalue()
    if "internal error" in said or "Traceback" in said:
        raise WrongError(f"{arguments}: {said}")
    if code not in {0, _DOES_NOT_HOLD, _BAD_INPUT}:
        raise WrongError(f"{arguments}: the exit code is {code}")
    if code == _BAD_INPUT and (said.count("\n") != 1 or not said.startswith("onnx-gconv: ")):
        raise WrongError(f"{arguments}: not one line on stderr: {said!r}")
    if code == 0 and "--json" in arguments:
        json.loads(out.getvalue())
    return code, said


def check_options(random: Random, place: Place) -> None:
    """Map by random options."""
    model = place.write("model.onnx", model_seeds()[0].content)
    arguments = ["map", str(model), "-o", str(place.outputs / "mapped.onnx")]
    for _ in range(int(random.integers(1, 4))):
        arguments += [chosen(random, _OPTIONS), chosen(random, _VALUES).replace("\0", "")]
    if random.integers(2):
        arguments.append(chosen(random, _FLAGS))
    code, said = _run(*arguments)
    _check_outputs(place, code, said)


def check_command(random: Random, place: Place) -> None:
    """Run each command on damaged files."""
    out = str(place.outputs / "output.onnx")
    json_flag = ["--json"] if random.random() < 0.2 else []
    seed = chosen(random, mapped_seeds())
    lie = with_manifest(seed.proto, mutated_json(seed.manifest, random))
    damaged = lie if random.integers(2) else mutated_mapped(random)[1]
    match int(random.integers(7)):
        case 0:
            arguments = ["map", str(place.write("model.onnx", mutated_original(random)[1])), "-o", out]
        case 1:
            arguments = ["inspect", str(place.write("model.onnx", damaged))]
        case 2:
            arguments = ["restore", str(place.write("model.onnx", damaged)), "-o", out]
        case 3:
            path = place.write("model.onnx", damaged)
            arguments = ["handoff", str(path), "-o", str(place.outputs / "bundle"), "--array", "3x2", "--csv"]
        case 4:
            defects = place.write("defects.json", mutated_json(DEFECTS, random).encode(errors="surrogatepass"))
            mapped = place.write("model.onnx", bundle_files()["model.onnx"])
            arguments = ["handoff", str(mapped), "-o", str(place.outputs / "bundle"), "--array", "4x4"]
            arguments += ["--defects", str(defects)]
        case 5:
            for name, content in bundle_files().items():
                place.write(name, content)
            damaged_file = chosen(random, ("measured.h5", "manifest.json", "model.onnx"))
            content = {**bundle_files(), **measured_files()}[damaged_file]
            place.write("measured.h5", measured_files()["measured.h5"])
            place.write(damaged_file, mutated_bytes(content, random))
            arguments = ["readback", str(place.inputs / "model.onnx"), str(place.inputs), "-o", out]
        case _:
            name = chosen(random, ("a.toml", "a.json"))
            config = place.write(name, mutated_bytes(b'[defaults]\nlevels = 16\nconverter = "offset"\n', random))
            arguments = ["config", "check", str(config)]
    code, said = _run(*arguments, *json_flag)
    _check_outputs(place, code, said)


def _check_outputs(place: Place, code: int, said: str) -> None:
    if any(ord(sign) < _FIRST_PRINTABLE and sign != "\n" for sign in said):
        raise WrongError(f"control characters reach the terminal: {said!r}")
    if code == _BAD_INPUT:
        if left := place.leftovers():
            raise WrongError(f"{left} were left behind: {said}")
        raise GconvError(said.strip())  # it was refused


def check_leftovers(random: Random, place: Place) -> None:
    """Map where a killed run and an older output, both damaged, have left files; those of others stay as they are."""
    model = place.write("model.onnx", model_seeds()[0].content)
    output = place.outputs / "mapped.onnx"
    foreign = {
        "notes.txt": b"notes",
        "other.data": b"other",
        "mapped.onnx.backup.data": b"backup",
        "x.mapped.onnx.data": b"x",
    }
    for name, content in foreign.items():
        (place.outputs / name).write_bytes(content)
    old = chosen(random, mapped_seeds()).proto
    changed = onnx.ModelProto()
    changed.CopyFrom(old)
    for tensor in changed.graph.initializer[:2]:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(
            key="location", value=chosen(random, (*foreign, "../in/model.onnx", "mapped.onnx.data", "mapped.onnx"))
        )
    output.write_bytes(mutated_model(Parts(changed), random) if random.integers(2) else changed.SerializeToString())
    hidden = place.outputs / f".mapped.onnx.partial-{int(random.integers(1000))}"
    hidden.mkdir()
    names = (*foreign, "mapped.onnx", "?other.data", "!other.data", "../in/model.onnx", "mapped.onnx.1.data", "\0", "?")
    lines = "\n".join(chosen(random, names) for _ in range(int(random.integers(5))))
    (hidden / "lock").write_bytes(mutated_bytes(lines.encode(), random) if random.integers(2) else lines.encode())
    (hidden / chosen(random, ("mapped.onnx", "new", "x"))).write_bytes(b"half")
    place.expected = {item.name for item in place.outputs.iterdir()}
    map_model(model, output, external_data=bool(random.integers(2)))
    for name, content in foreign.items():
        if not (place.outputs / name).is_file() or (place.outputs / name).read_bytes() != content:
            raise WrongError(f"the file '{name}' of somebody else is not as it was")
    if hidden.exists():
        raise WrongError("the folder of a killed run is still there")
    restored: Path = place.outputs / "restored.onnx"
    restore_model(output, restored)
    check_mapped(model, output, restored, MAPPINGS["single pair"])
