"""Formulas that Numba compiles give the bits of NumPy, for all devices, and anybody can say no to them."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from onnx_gconv.devices import compilation, formulas
from onnx_gconv.devices import compiled_formulas as compiled_module
from onnx_gconv.devices.compilation import ENVIRONMENT_VARIABLE, compiled_formulas
from onnx_gconv.devices.normal_numbers import normal
from onnx_gconv.devices.registry import DEVICE_MODELS, device_model
from onnx_gconv.errors import ConfigError

DAY = 86400.0
# Two pieces of random numbers and a third one that is odd and too small to be compiled.
COUNT = 2 * (1 << 17) + 12_345
MADE = {
    "pcm-custom-drift": {"g_us": [0, 25], "nu_mean": [0.1, 0.05], "nu_spread": [0.01, 0.01]},
    "measured": {"target_us": [0, 10], "seconds": [0, DAY], "mean_us": [[0, 0], [10, 9]], "sigma_us": [[1, 1], [1, 2]]},
    "gaussian": {"sigma_us": 1.0, "read_sigma_relative": 0.1},
    "reram-wan2022": {"noise_scale": 2.0},
    "pcm": {"programming_scale": 1.5, "drift_scale": 0.7, "read_scale": 2.0},
}


@pytest.fixture
def with_kernels(monkeypatch):
    """Calls a function with the kernels of a name."""

    def call(kernels, function):
        monkeypatch.setenv(ENVIRONMENT_VARIABLE, kernels)
        return function()

    return call


def sfc64(seed):
    return np.random.Generator(np.random.SFC64(seed))


def bits(array):
    return array.view(np.uint32)


def chip(name):
    """All conductances of some devices, from targets of which half are the lowest."""
    device = device_model(name, **MADE.get(name, {}))
    spread = np.clip(np.random.default_rng(0).normal(0, 0.3, COUNT), 0, 1)
    targets = (
        (device.g_min + spread * (device.g_max - device.g_min)).astype(np.float32).clip(device.g_min, device.g_max)
    )
    generators = [sfc64(seed) for seed in (1, 2, 3)]
    programmed = device.program(targets, generators[0])
    later = device.drift(programmed, DAY, generators[1])
    read = device.read(later, DAY, generators[2])
    left = [generator.integers(0, 2**63, 4) for generator in generators]  # all drew as many numbers
    return bits(programmed.programmed_us), bits(later.drifted_us), bits(read), left


@pytest.mark.parametrize("name", DEVICE_MODELS)
def test_all_devices_have_the_same_bits_with_and_without_numba(name, with_kernels):
    one, other = (with_kernels(kernels, lambda: chip(name)) for kernels in ("numba", "numpy"))
    for ours, numpys in zip(one, other, strict=True):
        np.testing.assert_array_equal(ours, numpys)


@pytest.mark.parametrize("bit_generator", [np.random.SFC64, np.random.PCG64])
@pytest.mark.parametrize("count", [1 << 14, 1 << 16, COUNT])
def test_normal_numbers_have_the_same_bits(bit_generator, count, with_kernels):
    like = np.empty(count, np.float32)
    one, other = (
        bits(with_kernels(kernels, lambda: normal(like, np.random.Generator(bit_generator(7)))))
        for kernels in ("numba", "numpy")
    )
    np.testing.assert_array_equal(one, other)


def odd_numbers():
    """Numbers with which last bits, signs of 0 and comparisons could go wrong."""
    rng = np.random.default_rng(5)
    few = np.array([0.0, -0.0, 1e-45, -1e-45, 1e-38, 3e38, -3e38, 1.0, np.inf, -np.inf, np.nan], np.float32)
    many = (rng.normal(0, 1, 1 << 16) * 10.0 ** rng.integers(-12, 12, 1 << 16)).astype(np.float32)
    return np.concatenate([few, many, np.zeros(1 << 8, np.float32)])


def fitted(values):
    scratch = np.empty((2, values.size), np.float32)
    finite = np.nan_to_num(values, nan=0, posinf=1, neginf=0)
    return formulas.fitted_polynomial((0.26, 1.97, -1.17), finite, 10.0, 0.4, scratch=scratch)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, _, out: formulas.logarithm_of_at_least(x, 1e-7, out),
        lambda x, _, out: np.copyto(out, formulas.line_between(x.copy(), (-0.0155, 0.0244, 0.049, 0.1))),
        lambda x, _, out: np.copyto(out, formulas.line_between(x.copy(), (-0.65, -4.7, -np.inf, -1.6))),
        lambda x, y, out: np.copyto(y, formulas.lines_between(x.copy(), (2, 1, 0, 3), (-3, 1, -5, 6), out=out)[1]),
        lambda x, _, out: np.copyto(out, fitted(x)),
        lambda x, y, out: formulas.add_errors(out, x, 0.3, y),
        lambda x, y, out: formulas.add_errors(out, x, 1.0, y),
        lambda x, y, out: formulas.drift_exponents(out, x, y, -8.4),
        lambda x, y, out: formulas.add_noise_of_reading(out, x, 0.3, y),
        *[
            lambda x, _, out, count=count: formulas.polynomial(
                (0.26, 1.97, -1.17, 0.69, -0.2, 0.1)[:count], np.nan_to_num(x, nan=0, posinf=1, neginf=0), out
            )
            for count in range(1, 7)
        ],
    ],
)
def test_each_formula_has_the_same_bits_for_all_kinds_of_numbers(function, with_kernels):
    x = odd_numbers()
    found = []
    for kernels in ("numba", "numpy"):
        y, out = (np.random.default_rng(seed).permutation(x) for seed in (6, 7))
        with np.errstate(all="ignore"):
            with_kernels(kernels, lambda y=y, out=out: function(x, y, out))
        found.append((y, out))
    # NumPy itself lets the sign of 0 depend on the place of an element: the larger of -0 and 0 is either.
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("name", ["pcm", "pcm-hermes-1", "gaussian"])
def test_what_is_compiled_says_the_same_in_python(name, with_kernels, monkeypatch):
    monkeypatch.setattr(compilation, "_LEAST_ELEMENTS", 1)
    monkeypatch.setattr(sys.modules[__name__], "COUNT", 1001)
    numpys = with_kernels("numpy", lambda: chip(name))
    in_python = SimpleNamespace(
        **{function: getattr(compiled_module, function).py_func for function in compiled_module.__all__}
    )
    monkeypatch.setattr(compilation, "_chosen", lambda _: in_python)
    with np.errstate(over="ignore"):  # the generator counts modulo 2^64
        found = with_kernels("numba", lambda: chip(name))
    for ours, theirs in zip(found, numpys, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_threads_do_not_disturb_each_other(with_kernels):
    like = np.empty(COUNT, np.float32)
    alone = [with_kernels("numba", lambda seed=seed: normal(like, sfc64(seed))) for seed in range(8)]
    with ThreadPoolExecutor(4) as executor:
        together = list(executor.map(lambda seed: normal(like, sfc64(seed)), range(8)))
    np.testing.assert_array_equal(together, alone)


def test_what_is_small_or_no_float32_in_one_piece_is_left_to_numpy(with_kernels):
    large = np.zeros(1 << 16, np.float32)
    assert with_kernels("numba", lambda: compiled_formulas(large)) is not None
    for left in (large[: 1 << 12], large.astype(np.float64), large[::2]):
        assert with_kernels("numba", lambda left=left: compiled_formulas(left)) is None
    assert with_kernels("numpy", lambda: compiled_formulas(large)) is None


def test_another_value_of_the_variable_is_refused(with_kernels):
    message = "ONNX_GCONV_KERNELS is one of auto, numba, numpy, but it is 'fast'"
    with pytest.raises(ConfigError, match=f"^{message}$"):
        with_kernels("fast", lambda: device_model("pcm").program(np.zeros(1 << 16, np.float32), sfc64(0)))


@pytest.fixture
def without_numba(monkeypatch):
    compilation._chosen.cache_clear()
    monkeypatch.delitem(sys.modules, "onnx_gconv.devices.compiled_formulas", raising=False)
    monkeypatch.delattr("onnx_gconv.devices.compiled_formulas", raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)  # an import of it fails
    yield
    compilation._chosen.cache_clear()


@pytest.mark.usefixtures("without_numba")
def test_without_numba_numpy_computes_unless_numba_was_asked_for(with_kernels, monkeypatch):
    monkeypatch.setattr(compilation, "_WORTH_AN_IMPORT", 0)
    large = np.zeros(1 << 16, np.float32)
    assert with_kernels("auto", lambda: compiled_formulas(large)) is None
    with pytest.raises(ConfigError) as caught:
        with_kernels("numba", lambda: compiled_formulas(large))
    assert str(caught.value).startswith(
        "ONNX_GCONV_KERNELS is numba, but Numba cannot be imported: ModuleNotFoundError:"
    )
    assert str(caught.value).endswith("install it (pip install 'onnx_gconv[fast]'), or set the variable to auto")


def test_functions_are_compiled_where_nothing_can_be_kept_on_disk(monkeypatch):
    asked = []

    def njit(**options):
        asked.append(options.get("cache", False))
        if asked[-1]:
            raise RuntimeError("cannot cache function 'f': no locator available for file 'f.py'")
        return lambda function: function

    monkeypatch.setattr(compiled_module, "njit", njit)
    assert compiled_module._compiled(len) is len
    assert asked == [True, False]


def test_where_numba_does_not_compile_numpy_computes():
    program = """
import numpy as np
from onnx_gconv.devices import compilation
compilation._WORTH_AN_IMPORT = 0
assert compilation.compiled_formulas(np.zeros(1 << 16, np.float32)) is None
"""
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", ENVIRONMENT_VARIABLE: "auto"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


def test_numba_is_imported_when_there_was_much_to_compute_and_changes_nothing(monkeypatch):
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setattr(compilation, "_WORTH_AN_IMPORT", 5 << 16)
    monkeypatch.setattr(compilation, "_work", compilation._Work())
    large = np.zeros(1 << 16, np.float32)
    found = [compiled_formulas(large) for _ in range(7)]
    assert found[:5] == [None] * 5
    assert found[5] is found[6] is compilation._chosen("auto") is not None


def test_little_work_does_not_import_numba():
    program = """
import sys
import numpy as np
from onnx_gconv.devices import device_model
device_model("pcm").program(np.zeros(1 << 18, np.float32), np.random.Generator(np.random.SFC64(0)))
sys.exit("numba" in sys.modules)
"""
    environment = {key: value for key, value in os.environ.items() if key != ENVIRONMENT_VARIABLE}
    assert subprocess.run([sys.executable, "-c", program], check=False, env=environment).returncode == 0
