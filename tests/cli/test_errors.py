"""What goes wrong, and the one line that says so: exit code 2, nothing on stdout, nothing written."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_gconv import ModelError, map_model
from onnx_gconv.models import model_path
from tests.graphs import chain_model

IS_ROOT = os.geteuid() == 0
REMEDY = re.compile(
    r"again|beside|copy|correct it|choose|create|restore it|did you mean|inspect|use g_min|smaller than|--help|"
    r"free some|raise the limit|never mapped|give |make it dense|rename|permission"
)


def weight(name="w", seed=0, size=16):
    return numpy_helper.from_array(np.random.default_rng(seed).normal(size=(size, size)).astype(np.float32), name)


def content(folder):
    """All files of a folder, hidden ones and folders too."""
    return {
        str(item.relative_to(folder)): item.read_bytes() if item.is_file() else item.lstat().st_mode
        for item in folder.rglob("*")
    }


def assert_refused(found, *patterns):
    """One line on stderr that says what is wrong and what to do, and nothing else."""
    assert found.code == 2
    assert found.stdout == ""
    assert re.fullmatch(r"onnx-gconv: [^\n]+\n", found.stderr)
    assert "Traceback" not in found.stderr
    assert "internal error" not in found.stderr
    for pattern in patterns:
        assert re.search(pattern, found.stderr), found.stderr
    assert REMEDY.search(found.stderr), found.stderr


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder."""
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    return tmp_path / "folder"


# Models that cannot be read, by every command that reads one

READERS = {
    "map": ["map", "in.onnx", "-o", "out.onnx"],
    "map-dry-run": ["map", "in.onnx", "--dry-run"],
    "inspect": ["inspect", "in.onnx"],
    "restore": ["restore", "in.onnx", "-o", "out.onnx"],
    "verify-original": ["verify", "in.onnx", "good.gconv.onnx"],
    "verify-mapped": ["verify", "good.onnx", "in.onnx"],
}


def empty(folder):
    (folder / "in.onnx").touch()
    return "'in.onnx' is not an ONNX model"


def text(folder):
    (folder / "in.onnx").write_text("this is no model\n")
    return "'in.onnx' is not an ONNX model"


def truncated(folder):
    (folder / "in.onnx").write_bytes(model_path("digits_cnn.onnx").read_bytes()[:100_000])
    return "'in.onnx' is not an ONNX model, or it is truncated; export or copy it again"


def with_data(folder, location="x.data"):
    onnx.save(
        chain_model(weight()), folder / "in.onnx", save_as_external_data=True, location="x.data", size_threshold=0
    )
    model = onnx.load(folder / "in.onnx", load_external_data=False)
    model.graph.initializer[0].external_data[0].value = location
    (folder / "in.onnx").write_bytes(model.SerializeToString())


def data_missing(folder):
    with_data(folder)
    (folder / "x.data").unlink()
    # A plain model has nothing to restore, whether its data is there or not.
    return r"'in.onnx': (external data of tensor 'w' cannot be read: '.*/x.data': No such|the model carries no map)"


def data_truncated(folder):
    with_data(folder)
    os.truncate(folder / "x.data", 1000)
    return r"'in.onnx': external data of tensor 'w' should be 1024 bytes .*x.data', but the file has only 1000 bytes"


def data_absolute(folder):
    with_data(folder, location=str(folder / "x.data"))
    return r"'in.onnx': external data of tensor 'w' is at the absolute path '.*/x.data'"


def data_above(folder):
    with_data(folder, location="../x.data")
    shutil.move(folder / "x.data", folder.parent / "x.data")
    return r"'in.onnx': external data of tensor 'w' is at '../x.data', outside the model's folder"


def data_behind_a_link(folder):
    with_data(folder)
    shutil.move(folder / "x.data", folder.parent / "x.data")
    (folder / "x.data").symlink_to("../x.data")
    return r"'in.onnx': external data of tensor 'w' is '.*/x.data', a symbolic link out of the model's folder"


def data_null(folder):
    with_data(folder, location="x\0.data")
    return r"'in.onnx': .*tensor 'w'"


UNREADABLE = [
    empty,
    text,
    truncated,
    data_missing,
    data_truncated,
    data_absolute,
    data_above,
    data_behind_a_link,
    data_null,
]


@pytest.fixture(scope="session")
def good_models(tmp_path_factory):
    """A model and its mapped form."""
    folder = tmp_path_factory.mktemp("good")
    onnx.save(chain_model(weight()), folder / "good.onnx")
    map_model(folder / "good.onnx", folder / "good.gconv.onnx")
    return folder


@pytest.mark.parametrize("arguments", READERS.values(), ids=READERS)
@pytest.mark.parametrize("damage", UNREADABLE, ids=[damage.__name__ for damage in UNREADABLE])
def test_a_model_that_cannot_be_read_is_refused(gconv, folder, good_models, arguments, damage):
    for file in good_models.iterdir():
        shutil.copyfile(file, folder / file.name)
    pattern = damage(folder)
    before = content(folder.parent)
    assert_refused(gconv(*arguments), pattern)
    assert content(folder.parent) == before


@pytest.mark.parametrize("arguments", READERS.values(), ids=READERS)
@pytest.mark.parametrize("there", ["nothing", "folder"])
def test_a_path_without_a_model_is_refused(gconv, folder, good_models, arguments, there):
    for file in good_models.iterdir():
        shutil.copyfile(file, folder / file.name)
    if there == "folder":
        (folder / "in.onnx").mkdir()
    folder_reason = "it is a folder; give the .onnx file in it"
    reason = {"nothing": "No such file or directory; give an ONNX file that is there", "folder": folder_reason}[there]
    assert gconv(*arguments) == (2, "", f"onnx-gconv: cannot read the model 'in.onnx': {reason}\n")


@pytest.mark.parametrize("arguments", [READERS["map"], READERS["map-dry-run"], READERS["inspect"]], ids=" ".join)
def test_a_weight_whose_data_does_not_fill_its_shape_is_refused(gconv, folder, arguments):
    tensor = weight()
    tensor.raw_data = tensor.raw_data[:-4]
    (folder / "in.onnx").write_bytes(chain_model(tensor).SerializeToString())
    found = gconv(*arguments)
    assert (found.code, found.stdout) == (2, "")
    assert re.fullmatch(r"onnx-gconv: 'in\.onnx'[^\n]*'w'[^\n]*\n", found.stderr)


# Weights and options


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_refused(gconv, folder, value):
    tensor = weight()
    array = numpy_helper.to_array(tensor).copy()
    array[2, 5] = value
    onnx.save(chain_model(numpy_helper.from_array(array, "w"), weight("v", 1)), "in.onnx")
    before = content(folder)
    found = gconv("map", "in.onnx")
    assert_refused(found, "'in.onnx': the weight 'w' has the value", f"value {value} at flat index 37", "exclude 'w'")
    assert content(folder) == before


@pytest.mark.parametrize(
    ("options", "patterns"),
    [
        (["--g-min", "25"], ["g_min should be smaller than g_max", "g_min=25.0 and g_max=25.0"]),
        (["--g-min", "30", "--g-max", "20"], ["g_min should be smaller than g_max", "g_min=30.0 and g_max=20.0"]),
        (["--exact", "--g-min", "0.5"], ["exact mapping needs g_min = 0", "g_min = 0.5 µS"]),
    ],
    ids=["equal", "reversed", "exact"],
)
@pytest.mark.parametrize("command", ["map", "inspect"])
def test_a_senseless_range_of_conductances_is_refused(gconv, folder, command, options, patterns):
    onnx.save(chain_model(weight()), "in.onnx")
    assert_refused(gconv(command, "in.onnx", *options), *patterns)
    assert content(folder).keys() == {"in.onnx"}


@pytest.mark.parametrize(
    ("option", "value", "pattern"),
    [
        ("--g-max", "nan", "--g-max: g_max should be finite, but it is nan µS"),
        ("--g-max", "inf", "--g-max: g_max should be finite, but it is inf µS"),
        ("--g-min", "-1", "--g-min: g_min should be a positive value, but it is -1.0 µS"),
    ],
)
def test_a_conductance_that_no_device_has_is_refused(gconv, folder, option, value, pattern):
    onnx.save(chain_model(weight()), "in.onnx")
    found = gconv("map", "in.onnx", option, value)
    assert (found.code, found.stdout) == (2, "")
    assert re.fullmatch(f"onnx-gconv: {pattern}\n", found.stderr)


@pytest.mark.parametrize("option", ["--include", "--exclude"])
@pytest.mark.parametrize("command", ["map", "inspect"])
def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest_names(gconv, folder, command, option):
    onnx.save(chain_model(weight("encoder.weight"), weight("decoder.weight", 1)), "in.onnx")
    found = gconv(command, "in.onnx", option, "encodr.weight")
    assert_refused(found, "pattern 'encodr.weight' matches no weight", "did you mean 'encoder.weight'")
    assert content(folder).keys() == {"in.onnx"}


# The state of the model


def test_a_model_that_is_mapped_already_is_refused(gconv, folder, good_models):
    shutil.copyfile(good_models / "good.gconv.onnx", "in.onnx")
    before = content(folder)
    assert_refused(
        gconv("map", "in.onnx"), "'in.onnx': the model is mapped already; restore it first, or map the original"
    )
    assert content(folder) == before


def test_a_model_with_nothing_to_map_is_refused(gconv, folder):
    onnx.save(chain_model(weight(), op_type="Add"), "in.onnx")
    assert_refused(
        gconv("map", "in.onnx"), "'in.onnx': has no weight that can be mapped; `onnx-gconv inspect` says why"
    )
    assert content(folder).keys() == {"in.onnx"}


def test_a_plain_model_cannot_be_restored(gconv, folder):
    onnx.save(chain_model(weight()), "in.onnx")
    message = (
        "onnx-gconv: 'in.onnx': the model carries no mapping: it was never mapped, or another tool removed the "
        "manifest; map it with onnx-gconv map or map_model first, as the last step\n"
    )
    for command in ("restore", "program"):
        assert gconv(command, "in.onnx") == (2, "", message)
    assert content(folder).keys() == {"in.onnx"}


def test_a_manifest_that_is_damaged_is_refused(gconv, folder, good_models):
    model = onnx.load(good_models / "good.gconv.onnx")
    model.metadata_props[0].value = model.metadata_props[0].value.replace('"weights":[', '"weights":{')
    onnx.save(model, "in.onnx")
    for command in ("inspect", "restore"):
        found = gconv(command, "in.onnx")
        assert (found.code, found.stdout) == (2, "")
        assert re.fullmatch(r"onnx-gconv: 'in\.onnx': the manifest [^\n]* is damaged: [^\n]+\n", found.stderr)


# Where the output goes

WRITERS = {"map": ["map", "good.onnx"], "restore": ["restore", "good.gconv.onnx"]}


@pytest.fixture(params=WRITERS.values(), ids=WRITERS)
def writer(request, folder, good_models):
    """A command that writes, without the option that says where."""
    for file in good_models.iterdir():
        shutil.copyfile(file, folder / file.name)
    return request.param


def test_an_output_in_a_folder_that_does_not_exist_is_refused(gconv, folder, writer):
    before = content(folder)
    assert_refused(
        gconv(*writer, "-o", "no/out.onnx"), "'no/out.onnx': the folder 'no' does not exist; create it first"
    )
    assert content(folder) == before


def test_a_folder_as_output_is_refused(gconv, folder, writer):
    (folder / "out").mkdir()
    before = content(folder)
    assert_refused(gconv(*writer, "-o", "out"), "'out': it is a folder; give the name of a file in it")
    assert content(folder) == before


def test_an_output_with_the_suffix_of_onnx_runtimes_own_format_is_refused(gconv, folder):
    code, _, error = gconv("map", folder / "in.onnx", "-o", folder / "out.ort")
    assert code == 2
    assert error == (
        f"onnx-gconv: cannot write '{folder / 'out.ort'}': ONNX Runtime takes files of that suffix for its own format; "
        "give a name that ends in .onnx\n"
    )


def test_an_output_in_a_folder_without_permission_is_refused(gconv, folder, writer, monkeypatch):
    (folder / "locked").mkdir(mode=0o500)
    if IS_ROOT:  # who may write everywhere
        monkeypatch.setattr(os, "access", lambda path, mode: not (mode & os.W_OK and Path(path).name == "locked"))
    assert_refused(gconv(*writer, "-o", "locked/out.onnx"), "'locked/out.onnx': no permission to write to the folder")
    assert list((folder / "locked").iterdir()) == []


@pytest.mark.parametrize("name", ["{}", "./{}", "../folder/{}"])
def test_the_input_as_output_is_refused(gconv, folder, writer, name):
    before = content(folder)
    output = name.format(writer[1])
    assert_refused(gconv(*writer, "-o", output), f"the output '{re.escape(str(Path(output)))}' is the input")
    assert content(folder) == before


@pytest.mark.parametrize("target", ["{}", "other.onnx"])
def test_a_link_as_output_is_refused_as_it_would_be_replaced(gconv, folder, writer, target):
    target = target.format(writer[1])
    (folder / "link.onnx").symlink_to(target)
    before = content(folder)
    assert_refused(gconv(*writer, "-o", "link.onnx"), f"'link.onnx': it is a symbolic link to '{target}', which would")
    assert content(folder) == before


@pytest.mark.parametrize("kind", ["FIFO", "device"])
def test_what_is_no_file_is_neither_read_nor_written(gconv, folder, writer, kind):
    if kind == "FIFO":
        os.mkfifo(folder / "special")
    else:
        (folder / "special").symlink_to("/dev/null")
    problem = "it is a device, a pipe or a socket"
    assert_refused(gconv(writer[0], "special"), f"cannot read the model 'special': {problem}; give a file")
    link = "it is a symbolic link to '/dev/null'"
    assert_refused(gconv(*writer, "-o", "special"), f"cannot write 'special': {problem if kind == 'FIFO' else link}")


def test_an_empty_path_of_a_model_is_refused():
    with pytest.raises(ModelError, match=r"^the path of the model is empty; give the .onnx file$"):
        map_model("")


def test_a_configuration_as_output_is_refused(gconv, folder):
    onnx.save(chain_model(weight()), folder / "in.onnx")
    (folder / "c.toml").write_text("[defaults]\nlevels = 16\n", encoding="utf-8")
    before = content(folder)
    arguments = ("map", "in.onnx", "--config", "c.toml", "-o", "c.toml")
    assert_refused(gconv(*arguments), "the output 'c.toml' is the input")
    assert content(folder) == before


def test_a_first_configuration_never_replaces_its_model(gconv, folder):
    onnx.save(chain_model(weight()), folder / "in.onnx")
    before = content(folder)
    assert_refused(gconv("config", "init", "in.onnx", "-o", "in.onnx", "--force"), "the output 'in.onnx' is the input")
    assert content(folder) == before


@pytest.mark.parametrize("form", ["--external-data", "--no-external-data"])
def test_the_data_file_of_the_input_as_output_is_refused(gconv, folder, form):
    with_data(folder)
    before = content(folder)
    assert_refused(gconv("map", "in.onnx", "-o", "x.data", form), "'x.data'")
    assert content(folder) == before


# A disk that is full


@pytest.fixture
def limited(gconv):
    """Runs a command that may write files of a number of bytes at most."""

    def run(size, *arguments):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            return gconv(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    return run


@pytest.mark.parametrize("form", ["--external-data", "--no-external-data"])
@pytest.mark.parametrize("limit", [1000, 150_000], ids=["at the start", "in the middle"])
def test_a_limit_of_the_file_size_is_refused_and_leaves_the_old_output(limited, folder, form, limit):
    shutil.copyfile(model_path("digits_cnn.onnx"), "in.onnx")
    (folder / "out.onnx").write_bytes(b"old")
    before = content(folder)
    found = limited(limit, "map", "in.onnx", "-o", "out.onnx", form)
    assert (found.code, found.stdout) == (2, "")
    pattern = r"onnx-gconv: cannot write 'out\.onnx': File too large; it needs 0\.3 MiB, raise the limit [^\n]+\n"
    assert re.fullmatch(pattern, found.stderr)
    assert content(folder) == before


# The disk is mounted in a namespace of its own, so that it goes with the process whatever happens.
UNSHARE = ["unshare", "--mount", *([] if IS_ROOT else ["--map-root-user"]), "sh", "-c"]
MOUNT = "mount -t tmpfs -o size=256k tmpfs disk"
ON_A_SMALL_DISK = f"""
{MOUNT} && cp -pr old/. disk || exit 77
"$@"
code=$?
cp -pr disk after && exit $code || exit 77
"""


@pytest.fixture
def on_a_small_disk(folder):
    """Runs a command where the folder 'disk' has 256 KiB and the files of 'old'; its files are in 'after' later."""
    for name in ("old", "disk"):
        (folder / name).mkdir()
    try:
        probe = subprocess.run([*UNSHARE, MOUNT], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("a full disk cannot be tested: there is no command unshare")
    if probe.returncode:
        pytest.skip(f"a full disk cannot be tested: {probe.stderr.strip()}")

    def run(*arguments):
        command = [*UNSHARE, ON_A_SMALL_DISK, "sh", sys.executable, "-m", "onnx_gconv", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    return run


@pytest.mark.parametrize(
    ("form", "old_form"), [("--external-data", "--no-external-data"), ("--no-external-data", "--external-data")]
)
def test_a_full_disk_is_refused_and_leaves_the_old_output(gconv, folder, on_a_small_disk, old_form, form):
    shutil.copyfile(model_path("digits_cnn.onnx"), "large.onnx")
    onnx.save(chain_model(weight(size=64)), "small.onnx")
    assert gconv("map", "small.onnx", "-o", "old/out.onnx", old_form).code == 0
    found = on_a_small_disk("map", "large.onnx", "-o", "disk/out.onnx", form)
    assert (found.returncode, found.stdout) == (2, "")
    pattern = (
        r"onnx-gconv: cannot write 'disk/out\.onnx': No space left on device; it needs 0\.3 MiB, free some [^\n]+\n"
    )
    assert re.fullmatch(pattern, found.stderr)
    assert content(folder / "after") == content(folder / "old")


def test_a_full_disk_while_measurements_are_read_back_leaves_the_old_output(gconv, folder, on_a_small_disk):
    assert gconv("map", model_path("digits_cnn.onnx"), "-o", "m.gconv.onnx").code == 0
    assert gconv("handoff", "m.gconv.onnx", "--array", "256x256").code == 0
    (folder / "old" / "out.onnx").write_bytes(b"old")
    found = on_a_small_disk(
        "readback", "m.gconv.onnx", "m.gconv", "-o", "disk/out.onnx", "--external-data", "--as-if-measured"
    )
    assert (found.returncode, found.stdout) == (2, "")
    assert re.search(
        r"cannot write 'disk/out\.onnx': No space left on device; it needs 0\.3 MiB, free some", found.stderr
    )
    assert content(folder / "after") == content(folder / "old")


def test_a_full_disk_while_a_bundle_is_replaced_leaves_the_older_one(gconv, folder, on_a_small_disk):
    onnx.save(chain_model(weight(size=16)), "small.onnx")
    assert gconv("map", "small.onnx", "-o", "small.gconv.onnx").code == 0
    assert gconv("handoff", "small.gconv.onnx", "--array", "64x64", "-o", "old/b").code == 0
    assert gconv("map", model_path("digits_cnn.onnx"), "-o", "m.gconv.onnx").code == 0
    found = on_a_small_disk("handoff", "m.gconv.onnx", "--array", "256x256", "-o", "disk/b", "--overwrite")
    assert (found.returncode, found.stdout) == (2, "")
    assert re.search(r"cannot write 'disk/b[^\n]*': No space left on device; [^\n]+\n$", found.stderr)
    assert content(folder / "after") == content(folder / "old")


# Usage


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (["nothing"], "'nothing'"),
        (["map"], "[Mm]issing argument"),
        (["map", "a.onnx", "b.onnx"], "b.onnx"),
        (["map", "a.onnx", "--nothing"], "--nothing"),
        (["map", "a.onnx", "--g-max", "many"], "--g-max"),
        (["map", "a.onnx", "--g-max"], "--g-max"),
        (
            ["map", "a.onnx", "--partition", "odd"],
            r"Invalid value for '--partition': 'odd' is not one of 'equal', 'max'",
        ),
        (["verify", "a.onnx"], "[Mm]issing argument"),
        (["verify", "a.onnx", "b.onnx", "--seed", "1.5"], "--seed"),
        (["inspect", "a.onnx", "-o", "b.onnx"], "-o"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_refused_with_the_command_that_explains_it(gconv, folder, arguments, pattern):
    assert_refused(gconv(*arguments), pattern, r"\(see 'onnx-gconv( \w+)? --help'\)")
    assert content(folder) == {}


@pytest.mark.parametrize(
    "options",
    [
        ["--inputs", "no.npz"],
        ["--dim", "batch"],
        ["--dim", "batch=many"],
        ["--dim", "nothing=3"],
        ["--value", "image"],
        ["--value", "nothing=1"],
        ["--value", "image=3..1"],
        ["--seed", "-1"],
    ],
    ids=" ".join,
)
def test_inputs_of_verify_that_make_no_sense_are_refused(gconv, folder, options):
    shutil.copyfile(model_path("digits_cnn.onnx"), "in.onnx")
    assert gconv("map", "in.onnx").code == 0
    found = gconv("verify", "in.onnx", "in.gconv.onnx", *options)
    assert (found.code, found.stdout) == (2, "")
    assert re.fullmatch(r"onnx-gconv: [^\n]+\n", found.stderr)
    assert "internal error" not in found.stderr


def test_a_folder_of_the_demo_that_cannot_be_made_is_refused(gconv, folder):
    (folder / "taken").touch()
    found = gconv("demo", "-o", "taken")
    assert (found.code, found.stdout) == (2, "")
    assert found.stderr == "onnx-gconv: cannot write to the folder 'taken': File exists\n"


# As a program


def test_the_program_ends_with_one_line_and_exit_code_2(program, folder):
    pattern = data_missing(folder)
    before = content(folder)
    assert_refused(program("map", "in.onnx", "--json", cwd=folder), pattern)
    assert content(folder) == before


def test_the_program_ends_with_one_line_if_it_is_used_wrongly(program, folder):
    assert_refused(program("map", "--nothing", cwd=folder), "--nothing", "see 'onnx-gconv map --help'")


def test_an_error_that_nobody_thought_of_is_one_line_too(gconv, folder, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("oops")

    onnx.save(chain_model(weight()), "in.onnx")
    monkeypatch.setattr("onnx_gconv.operations.operations.map_model", fail)
    found = gconv("map", "in.onnx")
    assert (found.code, found.stdout) == (2, "")
    assert found.stderr == "onnx-gconv: internal error, ZeroDivisionError: oops; run again with --debug\n"
