"""Results of checks as JUnit XML: read by a library that readers of CI services use, and by its schema's rules."""

from __future__ import annotations

import string
import xml.etree.ElementTree as ET

import junitparser
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_gconv.cli.junit import check_junit_path, write_junit
from onnx_gconv.errors import ConfigError
from onnx_gconv.junit_xml import JunitCase, JunitSuite, junit_xml, mapping_cases

CASES = [
    JunitCase("m.onnx", "mapping as a whole"),
    JunitCase("m.onnx", "weight W", "failure", ("off by 1", "and by 2")),
    JunitCase("m.onnx", "run", "error", ("no memory",)),
    JunitCase("m.onnx", "output y", "skipped", ("it is random",)),
]


def test_a_reader_of_junit_xml_finds_cases_outcomes_and_reasons():
    [suite] = junitparser.JUnitXml.fromstring(junit_xml(JunitSuite("check m.onnx", CASES, 1.25)).encode())
    assert (suite.name, suite.time) == ("check m.onnx", 1.25)
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (4, 1, 1, 1)
    found = {case.name: case.result for case in suite}
    assert found["mapping as a whole"] == []
    for name, kind, message in (
        ("weight W", junitparser.Failure, "off by 1"),
        ("run", junitparser.Error, "no memory"),
        ("output y", junitparser.Skipped, "it is random"),
    ):
        [result] = found[name]
        assert (type(result), result.message) == (kind, message)
    assert found["weight W"][0].text == "off by 1\nand by 2"
    assert {case.classname for case in suite} == {"m.onnx"}


ALLOWED = {
    "testsuites": {"name", "time", "tests", "failures", "errors"},
    "testsuite": {"name", "time", "tests", "failures", "errors", "skipped"},
    "testcase": {"name", "time", "classname"},
    **{outcome: {"type", "message"} for outcome in ("failure", "error", "skipped")},
}


@given(st.text(), st.text(), st.lists(st.text(), min_size=1))
def test_whatever_a_model_names_the_document_is_one_that_the_schema_allows(suite, name, messages):
    document = junit_xml(JunitSuite(suite, [JunitCase(name, name, "failure", tuple(messages))]))
    assert set(document) <= {"\n", *filter(str.isprintable, document)}
    root = ET.fromstring(document.encode())  # noqa: S314 - it is ours
    for element in root.iter():
        assert set(element.keys()) == ALLOWED[element.tag]
    [case] = root.iter("testcase")
    printable = {character for character in name if character.isprintable()}
    assert printable <= set(case.get("name"))


def test_control_characters_stand_as_escapes():
    assert 'name="a\\x1b[31m\\n&lt;b&gt;\\u202e"' in junit_xml(
        JunitSuite("s", [JunitCase("g", "a\x1b[31m\n<b>\u202e")])
    )


def test_cases_of_a_mapping_have_all_problems_and_what_to_do():
    problems = [(None, "no manifest"), ("W", "one"), ("W", "two"), ("X", "three")]
    cases = {case.name: case for case in mapping_cases("m", {"V": "V", "W": "W"}, problems, "map again")}
    assert list(cases) == ["mapping as a whole", "mapping of V", "mapping of W", "mapping of X"]
    assert cases["mapping as a whole"].messages == ("no manifest", "what to do: map again")
    assert cases["mapping of V"].outcome == "passed"
    assert cases["mapping of W"].messages == ("one", "two", "what to do: map again")
    assert cases["mapping of X"].outcome == "failure"


def test_only_an_older_document_is_replaced(tmp_path):
    path = tmp_path / "junit.xml"
    check_junit_path(path)
    write_junit(path, junit_xml(JunitSuite("one", CASES)))
    check_junit_path(path)
    write_junit(path, junit_xml(JunitSuite("other", [])))
    assert [suite.name for suite in junitparser.JUnitXml.fromfile(str(path))] == ["other"]
    assert [item.name for item in tmp_path.iterdir()] == ["junit.xml"]


@pytest.mark.parametrize("content", [b"\x08\x0a\x12", b"<?xml version='1.0'?><project/>", string.printable.encode()])
def test_another_file_is_not_replaced(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"model.onnx' exists, and is no JUnit XML; choose another name"):
        check_junit_path(path)


def test_places_where_no_file_can_be_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="it is a folder; choose another name"):
        check_junit_path(tmp_path)
    with pytest.raises(ConfigError, match=r"there is no folder '.*none'; choose another name"):
        check_junit_path(tmp_path / "none" / "junit.xml")
    (tmp_path / "link.xml").symlink_to(tmp_path / "elsewhere.xml")
    with pytest.raises(ConfigError, match="it is a link, or no file; choose another name"):
        check_junit_path(tmp_path / "link.xml")


def test_a_disk_that_takes_no_more_is_named(tmp_path, monkeypatch):
    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("onnx_gconv.files.staging.write_small_file", full)
    with pytest.raises(ConfigError, match=r"cannot write '.*junit.xml': No space left on device; choose another place"):
        write_junit(tmp_path / "junit.xml", "")
