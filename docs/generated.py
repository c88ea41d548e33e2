"""Fills pages of the site from the code when it is built: MkDocs calls the ``on_...`` functions.

A page says ``<!-- generated: NAME -->`` where the text of the function NAME of `GENERATED` goes. What links lead to
outside of ``docs/`` (examples, tests, other READMEs) becomes pages of the site, too.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"

_MARK = re.compile(r"<!-- generated: (\w+) -->")
_LINK = re.compile(r"(\]\()(?!https?:|#)([^)#\s]+)((?:#[^)\s]*)?\))")
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_FOUND_FIRST = ("how-to/", "guide/", "bundle/readers.md")  # pages that answer a question come first in the search

# What people type into the search that no title has, and the page that answers it.
ASKED_FOR = {
    "bundle/readers.md": ["bundle reader", "Octave", "HDF5"],
    "explanation/faithfulness.md": ["IR drop", "line resistance", "ADC", "DAC", "CrossSim"],
    "explanation/numbers.md": ["verify", "SQNR", "tolerance", "accuracy of the mapping"],
    "explanation/performance.md": ["float16", "speed", "slow"],
    "guide/continuous-integration.md": ["CI", "pipeline", "GitHub Actions", "JUnit", "pre-commit", "Docker"],
    "guide/language-models.md": ["LLM", "Llama", "tokens", "prompt", "KV cache"],
    "guide/pipelines.md": ["torch", "PyTorch", "onnxscript", "onnx-ir"],
    "how-to/accuracy-after-a-day.md": ["drift", "noise", "read noise", "retention", "simulate", "accuracy over time"],
    "how-to/choose-g-max-and-levels.md": ["g_max", "g_min", "range", "resistance", "many levels", "clipping"],
    "how-to/compare-devices.md": ["best device", "trade-off", "sweep", "grid"],
    "how-to/hand-tiles-to-my-lab.md": ["handoff", "hand-off", "tiles", "export", "program a chip", "crossbar"],
    "how-to/int4-language-model.md": ["quantized model", "MatMulNBits", "INT8", "4-bit"],
    "how-to/keep-a-layer-digital.md": ["exclude", "include", "skip layer", "only some layers"],
    "how-to/large-model.md": ["large model", "big model", "memory", "out of memory", "disk"],
    "how-to/notebook.md": ["Jupyter", "histogram", "plot", "pandas", "data frame"],
    "how-to/own-converter.md": ["custom converter", "plugin"],
    "how-to/own-device.md": ["own device", "custom device", "ReRAM", "PCM", "data sheet"],
    "how-to/read-measurements-back.md": ["readback", "read back", "measured conductances"],
    "how-to/why-did-the-mapping-vanish.md": ["vanished", "disappeared", "gone", "lost", "constant folding", "folded"],
    "how-to/why-was-this-weight-skipped.md": ["not mapped", "unmapped", "missing weight", "skip reason"],
    "reference/command-line.md": ["restore", "inspect", "exit code"],
    "reference/converters.md": ["bit slicing", "bit slices"],
    "reference/what-is-mapped.md": ["supported op", "MVM op", "add op"],
}
_LANGUAGES = {".py": "python", ".toml": "toml", ".json": "json", ".yaml": "yaml", ".yml": "yaml", ".ipynb": "json"}


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table in Markdown; cells lose line ends, and bars are escaped."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split()) or "-"


# ---- the command line -------------------------------------------------------------------------------------------


def command_line() -> str:
    """Each command with its arguments and options, as its help has them."""
    import typer.main

    from onnx_gconv.cli.app import app

    return "\n\n".join(_commands(typer.main.get_command(app), "onnx-gconv"))


def _commands(group: Any, path: str) -> Iterator[str]:  # noqa: ANN401 - of click, or of typer's copy of it
    for name, command in sorted(group.commands.items()):
        if getattr(command, "commands", None):
            yield from _commands(command, f"{path} {name}")
            continue
        context = command.context_class(command, info_name=f"{path} {name}")
        with contextlib.redirect_stdout(io.StringIO()):
            command.get_help(context)  # some texts are filled in when the help is shown
        parts = [f"### {path} {name}", command.help or ""]
        panels: dict[str, list[tuple[str, ...]]] = {}
        for item in command.params:
            is_argument = item.param_type_name == "argument"
            record = item.get_help_record(context)
            if record is not None:  # of hidden options there is none
                panel = "Arguments" if is_argument else getattr(item, "rich_help_panel", None) or "Options"
                panels.setdefault(panel, []).append((f"`{record[0]}`", record[1].replace("<", "&lt;")))
        for panel, rows in panels.items():
            parts += [f"**{panel}**", table(("option" if panel != "Arguments" else "argument", "what it does"), rows)]
        yield "\n\n".join(parts)


# ---- settings ---------------------------------------------------------------------------------------------------


def settings() -> str:
    """The tables of a configuration file with their keys, from the models that check it."""
    from onnx_gconv.configuration import Configuration

    schema = Configuration.model_json_schema()
    titles = {
        "WeightSettings": "[defaults]",
        "ModelSettings": "[model]",
        "Override": "[[overrides]]",
        "DeviceSettings": "device",
        "ConverterSettings": "converter",
        "GranularitySettings": "granularity",
        "ClippingSettings": "clipping",
    }
    parts = []
    for name in sorted(schema["$defs"], key=[*titles, *sorted(schema["$defs"])].index):
        described = schema["$defs"][name]
        if "properties" not in described:
            continue
        rows = [
            (f"`{key}`", _type(value), value.get("description", "")) for key, value in described["properties"].items()
        ]
        about = " ".join(described.get("description", "").split())
        parts.append(f"### {titles.get(name, name)}\n\n{about}\n\n{table(('key', 'value', 'what it says'), rows)}")
    return "\n\n".join(parts)


def _type(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(each) for each in schema["anyOf"] if each.get("type") != "null"))
    if "enum" in schema:
        return " ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "$ref" in schema:
        return "a table"
    if schema.get("type") == "array":
        items = schema.get("items")
        return f"a list ({_type(items)})" if isinstance(items, dict) and items else "a list"
    names = {"string": "text", "number": "number", "integer": "integer", "boolean": "`true` or `false`"}
    return names.get(str(schema.get("type")), "any value")


# ---- what is in tables of the code ------------------------------------------------------------------------------


def skip_reasons() -> str:
    """Why a weight is skipped, in the words of the reports."""
    from onnx_gconv.weights import SkipReason

    return table(("reason", "meaning, and remedy"), [(f"`{item.value}`", item.explanation) for item in SkipReason])


def mvm_ops() -> str:
    """The table of MVM ops: which inputs of an op hold weights."""
    from onnx_gconv.weights import MVM_OPS

    rows = [
        (f"`{op.op_type}`", op.domain or "ai.onnx", ", ".join(str(slot.index) for slot in op.slots))
        for op in sorted(MVM_OPS.values(), key=lambda op: (op.domain, op.op_type))
    ]
    return table(("op", "domain", "inputs that hold weights"), rows)


def presets() -> str:
    """The published devices with their sources."""
    from onnx_gconv.devices.presets import presets as all_presets

    parts = []
    for item in all_presets():
        rows = [
            ("range", f"{item.g_min:g} to {item.g_max:g} µS"),
            ("levels", "any conductance in the range" if item.levels is None else f"{item.levels}"),
            ("array", "not known" if item.array is None else "{} inputs x {} outputs".format(*item.array)),
            ("converter", f"`{item.converter or 'single-pair'}`"),
            ("device model", f"`{item.model}`" if item.model else "none"),
            *(("note", note) for note in item.notes),
            *(("source", str(source)) for source in item.sources),
        ]
        parts.append(f"### {item.name}\n\n{item.description}.\n\n{table(('of the device', 'value'), rows)}")
    return "\n\n".join(parts)


def device_models() -> str:
    """The device models, from their docstrings."""
    from onnx_gconv.devices.registry import DEVICE_MODELS

    return "\n\n".join(f"### {name}\n\n{_documented(each, has_heading=True)}" for name, each in DEVICE_MODELS.items())


def converters() -> str:
    """The converters, from their docstrings."""
    from onnx_gconv.converters import CONVERTERS

    return "\n\n".join(f"### {name}\n\n{_documented(each, has_heading=True)}" for name, each in CONVERTERS.items())


def versions() -> str:
    """Versions that the package takes, and those that its tests pin."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [("onnx_gconv", item) for item in project["dependencies"]]
    needed += [
        (f"onnx_gconv[{extra}]", item)
        for extra, items in project["optional-dependencies"].items()
        if extra != "dev"
        for item in items
    ]
    pinned = re.findall(r"^[A-Za-z].*$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return "\n\n".join(
        (
            f"Python {project['requires-python']}.",
            table(("of", "takes"), [(f"`{extra}`", f"`{item}`") for extra, item in needed]),
            "The tests of this project run with the newest versions that these ranges allow, but for",
            "\n".join(f"- `{item}`" for item in pinned),
        )
    )


# ---- the Python interface ---------------------------------------------------------------------------------------


def _api(of_page: Callable[[str, Any], bool]) -> str:
    import onnx_gconv

    return "\n\n".join(
        _documented(each)
        for name in onnx_gconv.__all__
        if not name.startswith("__") and of_page(name, each := getattr(onnx_gconv, name))
    )


def _documented(each: Any, *, has_heading: bool = False) -> str:  # noqa: ANN401 - a class or a function
    options = ["heading_level: 3", *(["show_root_heading: false", "show_root_toc_entry: false"] if has_heading else [])]
    lines = (f"::: {each.__module__}.{each.__qualname__}", "    options:", *(f"      {option}" for option in options))
    return "\n".join(lines)


def _is_report(name: str, each: Any) -> bool:  # noqa: ANN401
    return inspect.isclass(each) and name.endswith(("Report", "Bundle", "Explanation"))


def _is_error(_: str, each: Any) -> bool:  # noqa: ANN401
    return inspect.isclass(each) and issubclass(each, Exception)


def api_functions() -> str:
    """The functions of the package."""
    return _api(lambda _, each: inspect.isfunction(each))


def api_reports() -> str:
    """What the functions return."""
    return _api(_is_report)


def api_mapping() -> str:
    """What says how a weight is mapped, but for the converters, which have a page of their own."""
    return _api(
        lambda name, each: (
            inspect.isclass(each)
            and not (_is_report(name, each) or _is_error(name, each) or name.endswith("Converter"))
        )
    )


def api_errors() -> str:
    """The errors."""
    return _api(_is_error)


def _of_module(name: str) -> str:
    import importlib

    from onnx_gconv.devices.registry import DEVICE_MODELS

    module = importlib.import_module(name)
    elsewhere = [*DEVICE_MODELS.values()]  # what has a page of its own
    return "\n\n".join(
        _documented(each)
        for each in (getattr(module, item) for item in module.__all__)
        if (inspect.isclass(each) or inspect.isfunction(each))
        and each.__module__.startswith("onnx_gconv")
        and each not in elsewhere
    )


GENERATED: dict[str, Callable[[], str]] = {
    "command_line": command_line,
    "settings": settings,
    "skip_reasons": skip_reasons,
    "mvm_ops": mvm_ops,
    "presets": presets,
    "device_models": device_models,
    "converters": converters,
    "versions": versions,
    "api_functions": api_functions,
    "api_reports": api_reports,
    "api_mapping": api_mapping,
    "api_errors": api_errors,
    "api_passes": functools.partial(_of_module, "onnx_gconv.passes"),
    "api_devices": functools.partial(_of_module, "onnx_gconv.devices"),
    "api_weights": functools.partial(_of_module, "onnx_gconv.weights"),
}


# ---- what MkDocs calls ------------------------------------------------------------------------------------------


def linked_files() -> dict[str, str]:
    """What pages link to outside of ``docs/``, and the pages of the site that it becomes."""
    found: dict[str, str] = {}
    waiting = [*DOCS.rglob("*.md"), ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        for target in _LINK.findall(_FENCED.sub("", page.read_text(encoding="utf-8"))):
            file = page.parent.joinpath(target[1]).resolve()
            if not file.exists() or file.is_relative_to(DOCS) or not file.is_relative_to(ROOT) or file == ROOT:
                continue
            name = str(file.relative_to(ROOT))
            if name in found or name == "README.md":
                continue
            found[name] = f"repository/{name.removesuffix('.md')}.md"
            if file.suffix == ".md":
                waiting.append(file)
    return found


def on_files(files: Any, config: Any) -> Any:  # noqa: ANN401 - of MkDocs, which is imported where a site is built alone
    """Add a page for each file outside of ``docs/`` that a page links to."""
    from mkdocs.structure.files import File

    for name, page in linked_files().items():
        files.append(File.generated(config, page, content=_page_of(ROOT / name)))
    return files


_NOT_FOUND_BY_SEARCH = "---\nsearch:\n  exclude: true\n---\n\n"


def _page_of(path: Path) -> str:
    """Files for people to read, and code that the search does not find before the pages about it."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    return _NOT_FOUND_BY_SEARCH + _listing(path)


def _listing(path: Path) -> str:
    if path.is_dir():
        within = (file for file in sorted(path.rglob("*")) if file.is_file() and "__pycache__" not in file.parts)
        shown = [_code(file) for file in within if file.suffix in _LANGUAGES]
        return "\n\n".join((f"# {path.relative_to(ROOT)}", *shown))
    return f"# {path.relative_to(ROOT)}\n\n{_code(path)}"


def _code(file: Path) -> str:
    fence = "````"
    language = _LANGUAGES.get(file.suffix, "text")
    return f'{fence}{language} title="{file.relative_to(ROOT)}"\n{file.read_text(encoding="utf-8").rstrip()}\n{fence}'


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:  # noqa: ANN401, ARG001
    """Fill in what is generated, and lead links to where things are on the site."""
    source = page.file.src_uri
    if source == "index.md":
        return _relinked((ROOT / "README.md").read_text(encoding="utf-8"), ROOT, source)
    if source.startswith(_FOUND_FIRST):
        page.meta["search"] = {"boost": 2}
    page.meta["tags"] = ASKED_FOR.get(source, [])
    filled = _MARK.sub(lambda match: GENERATED[match[1]](), markdown)
    home = {page: name for name, page in linked_files().items()}.get(source)
    return _relinked(filled, (ROOT / home).parent if home else (DOCS / source).parent, source)


def _relinked(markdown: str, folder: Path, source: str) -> str:
    pages = linked_files()

    def led(match: re.Match[str]) -> str:
        file = folder.joinpath(match[2]).resolve()
        if file == ROOT / "README.md":
            there = "index.md"
        elif file.is_relative_to(DOCS):
            there = str(file.relative_to(DOCS))
        elif file.exists() and file.is_relative_to(ROOT):
            there = pages.get(str(file.relative_to(ROOT)), "")
        else:
            there = ""
        if not there:
            return match[0]
        return f"{match[1]}{posixpath.relpath(there, posixpath.dirname(source) or '.')}{match[3]}"

    pieces = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(piece if piece.startswith("```") else _LINK.sub(led, piece) for piece in pieces)
