"""The texts that are generated from the code for the site are complete. `make docs` builds the site itself."""

from __future__ import annotations

import re
import runpy

import pytest

from onnx_gconv.converters import CONVERTERS
from onnx_gconv.devices.presets import presets
from onnx_gconv.devices.registry import DEVICE_MODELS
from onnx_gconv.weights import MVM_OPS, SkipReason
from tests.docs.pages import ROOT, pages

FILLED = runpy.run_path(str(ROOT / "docs" / "generated.py"))
GENERATED = FILLED["GENERATED"]


def test_every_text_stands_on_one_page_and_every_mark_has_a_text():
    texts = ((ROOT / page).read_text(encoding="utf-8") for page in pages() if page.startswith("docs/"))
    marks = [mark for text in texts for mark in re.findall(r"<!-- generated: (\w+) -->", text)]
    assert sorted(marks) == sorted(GENERATED)


def test_the_command_line_has_every_option_of_the_page_with_its_help():
    text = GENERATED["command_line"]()
    page = (ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    for option in set(re.findall(r"`(--[a-z-]+)", page)):
        assert option in text, option
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) > 150
    assert not [row for row in rows if row.endswith("| - |")]


@pytest.mark.parametrize(
    ("name", "has"),
    [
        ("skip_reasons", {reason.value for reason in SkipReason}),
        ("mvm_ops", {op.op_type for op in MVM_OPS.values()}),
        (
            "presets",
            {item.name for item in presets()} | {source.title or "" for p in presets() for source in p.sources},
        ),
        ("device_models", {*DEVICE_MODELS}),
        ("converters", {*CONVERTERS}),
        ("settings", {"g_max", "granularity", "include_adapters", "match"}),
        ("versions", {"onnx-ir", "distributed"}),
        ("api_functions", {"map_model", "read_back", "simulate"}),
        ("api_passes", {"MapConductances", "CheckMapping"}),
    ],
)
def test_a_generated_text_has_everything(name, has):
    text = GENERATED[name]()
    assert not {item for item in has if item not in text}


def test_what_pages_link_to_outside_of_their_folder_is_on_the_site():
    linked = FILLED["linked_files"]()
    assert linked["examples/01_map.py"] == "repository/examples/01_map.py.md"
    assert linked["benchmarks/README.md"] == "repository/benchmarks/README.md"


def test_words_that_people_search_for_lead_to_pages():
    assert {f"docs/{page}" for page in FILLED["ASKED_FOR"]} <= {*pages()}
    words = [word for words in FILLED["ASKED_FOR"].values() for word in words]
    assert len(words) == len({word.lower() for word in words})
