"""Device models: their range and times, what belongs to a device for good, names, and a device of one's own."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_gconv.devices import registry
from onnx_gconv.devices.base_device import DeviceModel, are_from_zero_to
from onnx_gconv.devices.formulas import polynomial
from onnx_gconv.devices.gaussian import GaussianDevice, LogNormalDevice, StuckDevices
from onnx_gconv.devices.hermes import HermesOneDevice
from onnx_gconv.devices.measured_device import MeasuredDevice
from onnx_gconv.devices.pcm import PcmDevice
from onnx_gconv.devices.registry import DEVICE_MODELS, device_model, device_model_names, register_device_model
from onnx_gconv.errors import ConfigError

DAY = 86400.0
MADE = {
    "pcm-custom-drift": {"g_us": [0, 25], "nu_mean": [0.1, 0.05], "nu_spread": [0.01, 0.01]},
    "measured": {"target_us": [0, 10], "seconds": [0, DAY], "mean_us": [[0, 0], [10, 9]], "sigma_us": [[1, 1], [1, 2]]},
    "gaussian": {"sigma_us": 1.0, "read_sigma_relative": 0.1},
}


def made(name):
    return device_model(name, **MADE.get(name, {}))


def generators(*seeds):
    return [np.random.default_rng(seed) for seed in seeds]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", DEVICE_MODELS)
def test_one_chip_has_the_same_devices_at_all_times_and_keeps_shape_and_type(name, dtype):
    device = made(name)
    assert isinstance(device, DeviceModel)
    targets = np.linspace(device.g_min, device.g_max, 60, dtype=dtype).reshape(3, 4, 5)
    kept = targets.copy()
    chips = [device.program(targets, np.random.default_rng(1)) for _ in range(2)]
    later = [device.drift(chip, DAY, np.random.default_rng(2)) for chip in chips]
    read = [device.read(chip, DAY, np.random.default_rng(3)) for chip in later]
    for array in (*(each.programmed_us for each in chips), *(each.drifted_us for each in later), *read):
        assert array.shape == targets.shape
        assert array.dtype == dtype
        assert np.isfinite(array).all()
    np.testing.assert_array_equal(chips[0].programmed_us, chips[1].programmed_us)
    np.testing.assert_array_equal(later[0].drifted_us, later[1].drifted_us)
    np.testing.assert_array_equal(read[0], read[1])
    np.testing.assert_array_equal(targets, kept)
    assert later[0].seconds == DAY


@pytest.mark.parametrize("name", DEVICE_MODELS)
def test_targets_outside_of_the_range_and_negative_times_are_refused(name):
    device = made(name)
    for wrong in (np.float32([device.g_max * 1.01]), np.float32([np.nan]), np.float32([-1.0])):
        with pytest.raises(ConfigError, match=r"a target is .* but the model is valid from"):
            device.program(wrong, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="targets are float32 or float64, not int64"):
        device.program(np.array([10]), np.random.default_rng(0))
    with pytest.raises(ConfigError, match="targets are a NumPy array, not a list"):
        device.program([device.g_max], np.random.default_rng(0))
    devices = device.program(np.float32([device.g_max]), np.random.default_rng(0))
    for step in (device.drift, device.read):
        for seconds in (-1.0, np.nan, np.inf):
            with pytest.raises(ConfigError, match="a time is 0 seconds or more"):
                step(devices, seconds, np.random.default_rng(0))


@pytest.mark.parametrize("name", DEVICE_MODELS)
def test_no_devices_are_programmed_drift_and_are_read_as_none(name):
    device, [rng] = made(name), generators(0)
    devices = device.program(np.zeros((0, 3), np.float32), rng)
    assert device.read(device.drift(devices, 1.0, rng), 1.0, rng).shape == (0, 3)


def test_drift_coefficients_belong_to_devices():
    device = PcmDevice(read_scale=0)
    devices = device.program(np.full(1000, 20, np.float64), np.random.default_rng(1))
    hour, day = (device.drift(devices, seconds, np.random.default_rng(2)).drifted_us for seconds in (3600.0, DAY))
    of_hour, of_day = (
        -np.log(now / devices.programmed_us) / np.log1p(seconds / 20) for now, seconds in ((hour, 3600), (day, DAY))
    )
    np.testing.assert_allclose(of_hour, of_day, rtol=1e-9)
    assert of_day.std() == pytest.approx(0.008, rel=0.1)


def test_scales_of_0_leave_a_device_as_it_was_told():
    device = PcmDevice(programming_scale=0, drift_scale=0, read_scale=0)
    targets = np.linspace(0, 25, 9)
    devices = device.drift(device.program(targets, np.random.default_rng(1)), DAY, np.random.default_rng(2))
    np.testing.assert_array_equal(device.read(devices, DAY, np.random.default_rng(3)), targets)


WRONG = [
    ("pcm", {"g_max": 0}, "g_min is at least 0 and below g_max, but they are 0 and 0 \u00b5S"),
    ("pcm", {"read_scale": -1}, "device pcm: read_scale is 0 or more, but it is -1.0"),
    ("pcm", {"t_0": 0}, "device pcm: t_0 is positive, in seconds, but it is 0.0"),
    ("pcm", {"t_0": 1.0, "t_read": 2.0}, "a reading of 2 s is longer than t_0 = 1 s"),
    ("pcm-hermes-1", {"g_max": 25}, "it was characterized up to 10.35 \u00b5S, but g_max is 25 \u00b5S"),
    ("reram-cmo", {"acceptance_percent": 1}, "acceptance ranges of 0.2 and 2 percent were characterized, but it is 1"),
    ("reram-cmo", {"drift_scale": np.nan}, "device reram-cmo: drift_scale is 0 or more, but it is nan"),
    ("reram-cmo", {"read_scale": -1}, "device reram-cmo: read_scale is 0 or more, but it is -1.0"),
    ("state-independent", {"nu_spread": -1}, "device state-independent: nu_spread is 0 or more, but it is -1.0"),
    ("pcm-custom-drift", {**MADE["pcm-custom-drift"], "g_us": [25, 25]}, "g_us ascends, but it is 25, 25"),
    ("pcm-custom-drift", {**MADE["pcm-custom-drift"], "g_us": [0, 20]}, "drift is given from 0 to 20 \u00b5S, but"),
    ("reram-wan2022", {"noise_scale": -2}, "noise_scale is 0 or more, but it is -2.0"),
    ("gaussian", {"sigma_us": -1}, "device gaussian: sigma_us is 0 or more, but it is -1.0"),
    ("log-normal", {"sigma": np.inf}, "device log-normal: sigma is 0 or more, but it is inf"),
    ("pcm", {"gmax": 1}, "the device model 'pcm' has no setting 'gmax'; did you mean g_max?"),
    ("measured", {}, "the device model 'measured' needs the setting 'target_us'"),
    (
        "gaussian",
        {"g_max": 20, "sigma_us": "much"},
        "could not convert string to float: 'much'; the settings that it was given are g_max=20, sigma_us='much'",
    ),
    ("measured", {**MADE["measured"], "target_us": 5}, "settings that it was given are target_us=5, seconds=["),
    ("reram-cmo", {"acceptance_percent": "2"}, "the settings that it was given are acceptance_percent='2'"),
    ("reram-cmo", {"acceptance_percent": [2]}, "the settings that it was given are acceptance_percent=[2]"),
    (
        "pcm-hermes-1",
        {"noise": 1},
        "the device model 'pcm-hermes-1' has no setting 'noise'; there are g_max, g_min, pro",
    ),
    (
        "pcm-hermes-2",
        {"setings": 1},
        "has no setting 'setings'; there are g_max, g_min, programming_scale, drift_scale, ",
    ),
    ("state-independent", {"settings": 1}, "has no setting 'settings'; there are g_max, g_min, programming_scale, "),
    (
        "pcm-custom-drift",
        {"noise": 1},
        "has no setting 'noise'; there are g_max, g_min, programming_scale, drift_scale,",
    ),
    ("PCM", {}, "there is no device model 'PCM'; did you mean pcm?"),
    (" ReRAM-CMO", {}, "there is no device model ' ReRAM-CMO'; did you mean reram-cmo?"),
    ("pcm-custom-drift", {**MADE["pcm-custom-drift"], "nu_mean": [0.1]}, "they have 2, 1, 2"),
    ("pcm-custom-drift", {**MADE["pcm-custom-drift"], "nu_mean": [0.1, -1]}, "nu_mean is 0 or more everywhere"),
    ("pcm-custom-drift", {**MADE["pcm-custom-drift"], "g_us": [25, 0]}, "g_us ascends, but it is 25, 0"),
    (
        "pcm-custom-drift",
        {**MADE["pcm-custom-drift"], "g_us": [1, 25]},
        "drift is given from 1 to 25 \u00b5S, but",
    ),
    ("measured", {**MADE["measured"], "target_us": [10, 0]}, "targets ascend, but they are 10, 0"),
    ("measured", {**MADE["measured"], "mean_us": [1, 2]}, "mean_us has the shape [2], but there are 2 targets and 2"),
    (
        "measured",
        {**MADE["measured"], "sigma_us": [[1, 1], [1, -1]]},
        "sigma_us is finite and 0 or more everywhere, but has -1",
    ),
    (
        "measured",
        {"target_us": [1], "seconds": [0], "mean_us": [[1]], "sigma_us": [[1]]},
        "needs 2 targets and 1 time or more, but has 1 and 1",
    ),
    ("pcm-josi", {}, "there is no device model 'pcm-josi'; did you mean pcm-joshi"),
    ("isaac", {}, "the preset 'isaac' has a range, but no device model; these have one: pcm-joshi, "),
]


@pytest.mark.parametrize(("name", "settings", "message"), WRONG, ids=[f"{name} {list(s)}" for name, s, _ in WRONG])
def test_wrong_settings_are_one_line(name, settings, message):
    with pytest.raises(ConfigError) as raised:
        device_model(name, **settings)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "seconds", "message"),
    [
        ("reram-wan2022", 3600.0, "published for 1 s, 1 day and 2 days after programming, but the time is 3600 s"),
        ("reram-cmo", 0.5, "relaxation was fitted from 1 s on, but the time is 0.5 s"),
        ("measured", 2 * DAY, "it was measured up to 86400 s, but the time is 172800 s"),
    ],
)
def test_times_of_which_nothing_is_known_are_refused(name, seconds, message):
    device = made(name)
    devices = device.program(np.float32([device.g_max]), np.random.default_rng(0))
    with pytest.raises(ConfigError, match=message):
        device.drift(devices, seconds, np.random.default_rng(0))


@given(st.floats(0, 100), st.floats(0, 5), st.floats(0, 0.5))
def test_normal_errors_have_the_size_that_was_asked_for(target, absolute, relative):
    device = GaussianDevice(g_max=1e6, sigma_us=absolute, sigma_relative=relative)
    z = np.random.default_rng(5).standard_normal(50)
    devices = device.program(np.full(50, target + 1000), np.random.default_rng(5))
    expected = np.maximum(target + 1000 + np.hypot(absolute, relative * (target + 1000)) * z, 0)
    np.testing.assert_allclose(devices.programmed_us, expected)


def test_log_normal_errors_have_the_target_as_their_median():
    device = LogNormalDevice(sigma=0.3)
    programmed = device.program(np.full(20001, 10.0), np.random.default_rng(0)).programmed_us
    assert np.median(programmed) == pytest.approx(10, rel=0.01)
    assert np.log(programmed).std() == pytest.approx(0.3, rel=0.02)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6), st.floats(-3, 3))
def test_polynomials_are_numpys(coefficients, x):
    expected = np.polynomial.polynomial.polyval(x, coefficients)
    np.testing.assert_allclose(polynomial(tuple(coefficients), np.float64([x])), [expected], rtol=1e-9, atol=1e-9)


def test_conductances_are_never_negative():
    targets, rng = np.full(1000, 0.1), np.random.default_rng(3)
    table = {"target_us": [0, 10], "seconds": [0], "mean_us": [[0], [10]], "sigma_us": [[5], [5]]}
    for device in (GaussianDevice(sigma_us=5), device_model("measured", **table)):
        programmed = device.program(targets, rng).programmed_us
        assert programmed.min() == 0
        assert (programmed == 0).mean() == pytest.approx(0.5, abs=0.05)
    noisy = GaussianDevice(read_sigma_us=5)
    assert noisy.read(noisy.program(targets, rng), 0, rng).min() == 0


def test_relaxed_reram_of_1_us_or_less_has_no_noise_of_readings():
    device = device_model("reram-cmo", g_min=0, programming_scale=0, drift_scale=0)
    targets = np.float64([0.0, 0.5, 1.0, 20.0])
    devices = device.drift(device.program(targets, np.random.default_rng(1)), DAY, np.random.default_rng(2))
    read = device.read(devices, DAY, np.random.default_rng(3))
    np.testing.assert_array_equal(read[:3], targets[:3])
    assert read[3] != targets[3]


# Stuck devices


def test_stuck_devices_stay_where_they_are_and_the_others_do_what_their_model_says():
    device = StuckDevices(PcmDevice(), stuck_low=0.1, stuck_high=0.05)
    devices = device.program(np.full(100_000, 12.0), np.random.default_rng(1))
    later = device.drift(devices, DAY, np.random.default_rng(2))
    read = device.read(later, DAY, np.random.default_rng(3))
    for end, share in ((0.0, 0.1), (25.0, 0.05)):
        stuck = devices.programmed_us == end
        assert stuck.mean() == pytest.approx(share, rel=0.05)
        assert (later.drifted_us[stuck] == end).all()
        assert (read[stuck] == end).all()
    alone = PcmDevice()
    others = alone.drift(alone.program(devices.targets_us, np.random.default_rng(1)), DAY, np.random.default_rng(2))
    free = ~np.isin(devices.programmed_us, (0.0, 25.0))
    np.testing.assert_array_equal(later.drifted_us[free], others.drifted_us[free])


def test_devices_of_a_model_with_a_memory_of_its_own_may_be_stuck():
    device = StuckDevices(made("measured"), stuck_low=0.5)
    devices = device.program(np.full(100, 5.0), np.random.default_rng(1))
    later = device.drift(devices, DAY, np.random.default_rng(2))
    alone = made("measured")
    others = alone.drift(alone.program(devices.targets_us, np.random.default_rng(1)), DAY, np.random.default_rng(2))
    free = devices.programmed_us != 0
    assert 30 < free.sum() < 70
    np.testing.assert_array_equal(later.drifted_us[free], others.drifted_us[free])
    np.testing.assert_array_equal(device.read(later, DAY, np.random.default_rng(3)), later.drifted_us)


def test_wrong_fractions_and_devices_of_another_model_are_refused():
    with pytest.raises(ConfigError, match=r"at most 1 together, but they are 0\.7 and 0\.6"):
        StuckDevices(PcmDevice(), stuck_low=0.7, stuck_high=0.6)
    others = PcmDevice().program(np.float32([1]), np.random.default_rng(0))
    for device in (StuckDevices(PcmDevice()), made("measured")):
        with pytest.raises(ConfigError, match="these devices were programmed by another model"):
            device.drift(others, 1.0, np.random.default_rng(0))


# A device that somebody has measured


def test_a_measured_device_has_the_mean_and_spread_of_its_table(tmp_path):
    lines = ["seconds, target_us,mean_us,sigma_us", "0,0,0.5,0.1", "86400,0,0.4,0.1", "100,0,0.45,0.1"]
    lines += ["0,20,20,1", "100,20,19,1", "86400,20,15,2", ""]
    (tmp_path / "device.csv").write_text("\n".join(lines))
    device = MeasuredDevice.from_csv(tmp_path / "device.csv")
    assert (device.g_min, device.g_max) == (0, 20)
    targets, ranks = np.full(7, 10.0), np.random.default_rng(1).standard_normal(7)
    devices = device.program(targets, np.random.default_rng(1))
    np.testing.assert_allclose(devices.programmed_us, 10.25 + 0.55 * ranks)
    for seconds, mean, sigma in (
        (0, 10.25, 0.55),
        (50, (10.25 + 9.725) / 2, 0.55),
        (100, 9.725, 0.55),
        ((100 * DAY) ** 0.5, (9.725 + 7.7) / 2, (0.55 + 1.05) / 2),
        (DAY, 7.7, 1.05),
    ):
        later = device.drift(devices, seconds, np.random.default_rng(9))
        np.testing.assert_allclose(later.drifted_us, mean + sigma * ranks)
        np.testing.assert_array_equal(device.read(later, seconds, np.random.default_rng(8)), later.drifted_us)


def test_before_the_first_measurement_devices_are_as_at_the_first_one():
    device = MeasuredDevice([0, 10], [60, 3600], [[0, 0], [9, 5]], [[0, 0], [0, 0]])
    devices = device.program(np.float64([10]), np.random.default_rng(0))
    for seconds, expected in ((0, 9), (1, 9), (60, 9), ((60 * 3600) ** 0.5, 7), (3600, 5)):
        assert device.drift(devices, seconds, np.random.default_rng(0)).drifted_us == pytest.approx(expected)
    assert devices.programmed_us == pytest.approx(9)


HEADER = "target_us,seconds,mean_us,sigma_us\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("target_us,seconds,mean_us\n", "the column sigma_us is missing; there are target_us, seconds, mean_us"),
        ("", "the column target_us is missing; there are none"),
        (HEADER + "1,0,1,x\n", "line 2: sigma_us is no number: 'x'; correct it"),
        (HEADER + "1,0,1\n", "line 2: sigma_us is no number: ''; correct it"),
        (HEADER + "1,0,1,1_0\n", "line 2: sigma_us is no number: '1_0'; correct it"),
        (HEADER + "1,0,\u0662,1\n", "line 2: mean_us is no number: '\u0662'; correct it"),
        (HEADER + "1,0,nan,1\n", "line 2: mean_us is nan, but it should be a finite number from 0"),
        (HEADER + "1,0,1,1\n1,-1,1,1\n", "line 3: seconds is -1, but it should be a finite number from 0"),
        (HEADER + "1,0,1e999,1\n", "line 2: mean_us is 1e999, but it should be a finite number from 0"),
        (
            HEADER + "1,5,0,1,1\n",
            "line 2: it has 5 cells, but there are 4 columns; numbers have a decimal point, because",
        ),
        (HEADER + '1,0,"1,5",1\n', "line 2: mean_us is no number: '1,5'; numbers have a decimal point; correct it"),
        (HEADER.replace(",", ";"), "semicolons separate its cells; write it again with commas between them"),
        ("mean_us," + HEADER, "2 columns are called mean_us; leave one of them"),
        (HEADER + '1,0,1,"1\n', "unexpected end of data; save the table"),
        (HEADER + "1,0,1,1\n1,0,1,1\n", "line 3: target 1 \u00b5S at 0 s is there twice"),
        (HEADER + "1,0,1,1\n2,0,1,1\n2,5,1,1\n", "the row of target 1 \u00b5S at 5 s is missing; add it"),
        (HEADER, "has no rows"),
        (HEADER + "1,0,1,1\n", "needs 2 targets and 1 time or more, but has 1 and 1"),
        (HEADER + "1,0,1,1\n2,0,nan,1\n", "line 3: mean_us is nan, but it should be a finite number from 0"),
    ],
)
def test_wrong_tables_are_one_line_that_names_the_file(tmp_path, text, message):
    (tmp_path / "device.csv").write_text(text)
    with pytest.raises(ConfigError) as raised:
        MeasuredDevice.from_csv(tmp_path / "device.csv")
    assert f"'{tmp_path / 'device.csv'}'" in str(raised.value)
    assert message in str(raised.value)


def test_a_table_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read '.*none\.csv': No such file or directory"):
        MeasuredDevice.from_csv(tmp_path / "none.csv")


TOML = """
target_us = [0, 20]
seconds = [0, 100.0, 86400]
mean_us = [[0.5, 0.45, 0.4], [20, 19, 15]]
sigma_us = [[0.1, 0.1, 0.1], [1, 1, 2]]
"""


def test_a_toml_file_gives_the_device_that_its_keys_would_make(tmp_path):
    (tmp_path / "device.toml").write_text(TOML)
    given = MeasuredDevice([0, 20], [0, 100, DAY], [[0.5, 0.45, 0.4], [20, 19, 15]], [[0.1, 0.1, 0.1], [1, 1, 2]])
    of_file = device_model(str(tmp_path / "device.toml"))
    targets = np.linspace(0, 20, 50)
    for seconds in (0, 50, DAY):
        first, second = (
            device.drift(device.program(targets, np.random.default_rng(1)), seconds, np.random.default_rng(2))
            for device in (of_file, given)
        )
        np.testing.assert_array_equal(first.drifted_us, second.drifted_us)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("target_us", "targets_us", "unknown key targets_us; did you mean target_us"),
        ("seconds = [0, 100.0, 86400]", "", "the key seconds is missing; there are target_us, mean_us, sigma_us"),
        ("[0, 20]", '[0, "20"]', "target_us[1] is '20', but it should be a number"),
        ("[0.5, 0.45, 0.4]", "0.5", "mean_us[0] is 0.5, but it should be a list of numbers"),
        ("[1, 1, 2]", "[1, 1]", "sigma_us[1] has 2 numbers, but there are 3 times"),
        ("[1, 1, 2]", "[1, 1, -2]", "sigma_us is finite and 0 or more everywhere, but has -2"),
        ("[0, 20]", "[0, 20, 30]", "mean_us has the shape [2, 3], but there are 3 targets and 3 times"),
        ("[0, 20]", "[0, 20", "no TOML: "),
        ("[0, 20]", f"[0, 1{'0' * 400}]", "one of its whole numbers is too large for a float"),
        (TOML, "\udcff", "no TOML: "),
    ],
)
def test_a_wrong_toml_file_is_one_line_that_names_the_file_and_the_key(tmp_path, old, new, message):
    file = tmp_path / "device.toml"
    file.write_text(TOML.replace(old, new, 1), encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ConfigError) as raised:
        device_model(str(file))
    assert str(raised.value).startswith(f"'{file}': ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("suffix", ["csv", "toml"])
def test_what_is_no_file_is_no_device(tmp_path, suffix):
    for place, reason in ((tmp_path / f"none.{suffix}", "No such file"), (tmp_path / f"d.{suffix}", "no regular file")):
        if reason == "no regular file":
            place.mkdir()
        with pytest.raises(ConfigError, match=f"cannot read '.*': .*{reason}"):
            device_model(str(place))


def test_devices_of_any_model_are_stuck_if_settings_say_so():
    rng = np.random.default_rng
    given = StuckDevices(PcmDevice(g_max=20.0), stuck_low=0.1, stuck_high=0.2)
    named = device_model("pcm", g_max=20.0, stuck_low=0.1, stuck_high=0.2)
    targets = np.full(1000, 10.0)
    np.testing.assert_array_equal(
        named.program(targets, rng(3)).programmed_us, given.program(targets, rng(3)).programmed_us
    )
    assert 150 < (named.program(targets, rng(3)).programmed_us == 20).sum() < 250
    with pytest.raises(ConfigError, match=r"fractions of stuck devices .* but they are 2 and 0"):
        device_model("gaussian", stuck_low=2)
    with pytest.raises(ConfigError, match="the device model 'gaussian' has no setting 'stuck'; there are g_max, "):
        device_model("gaussian", stuck=0.1)


# Names


@pytest.fixture
def own_registry(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    points = []
    monkeypatch.setattr(registry, "entry_points", lambda **_: points)
    return points


class Worn(PcmDevice):
    name = "worn"


def test_presets_with_a_model_have_names_and_give_it_their_range():
    assert {"pcm-joshi", "rram-neurram", *DEVICE_MODELS} <= set(device_model_names())
    device = device_model("rram-neurram")
    assert (type(device).__name__, device.g_min, device.g_max) == ("WanReramDevice", 1.0, 40.0)
    assert device_model("pcm-joshi", g_max=20.0).g_max == 20


def test_a_program_registers_its_own(own_registry):
    assert register_device_model(Worn) is Worn
    assert device_model("worn", g_max=30.0).g_max == 30
    assert "worn" in device_model_names()
    with pytest.raises(ConfigError, match="onnx_gconv has a device model 'pcm'"):
        register_device_model(type("Mine", (PcmDevice,), {"name": "pcm"}))
    with pytest.raises(ConfigError, match=r"a device model is a class, but .* is none; give the class itself"):
        register_device_model(PcmDevice())
    with pytest.raises(ConfigError, match="Nothing is no device model: it has no name"):
        register_device_model(type("Nothing", (), {}))
    with pytest.raises(ConfigError, match="Half is no device model: it has no method 'program'"):
        register_device_model(type("Half", (), {"name": "half"}))


def test_a_package_brings_one(own_registry):
    own_registry += [EntryPoint("worn", f"{__name__}:Worn", "onnx_gconv.devices")]
    own_registry += [EntryPoint("gone", "no_such_module:Gone", "onnx_gconv.devices")]
    own_registry += [EntryPoint("odd", "math:pi", "onnx_gconv.devices")]
    registry._registered.clear()
    assert {"worn", "gone"} <= set(device_model_names())
    with pytest.raises(ConfigError, match="'gone' of the package no_such_module cannot be loaded: "):
        device_model("gone")
    with pytest.raises(ConfigError, match="'odd' of the package math is no device model: it has no method"):
        device_model("odd")


class Ends(PcmDevice):
    name = "ends"

    def __init__(self):
        raise SystemExit(3)


def test_a_package_that_ends_the_program_is_named(own_registry, tmp_path, monkeypatch):
    (tmp_path / "ends_at_import.py").write_text("raise SystemExit('no licence')\n")
    monkeypatch.syspath_prepend(tmp_path)
    own_registry += [EntryPoint("licensed", "ends_at_import:Device", "onnx_gconv.devices")]
    own_registry += [EntryPoint("ends", f"{__name__}:Ends", "onnx_gconv.devices")]
    with pytest.raises(ConfigError, match=r"'licensed' of the package .* cannot be loaded: SystemExit: no licence; "):
        device_model("licensed")
    with pytest.raises(ConfigError, match=r"^the device model 'ends' cannot be made: SystemExit: 3; "):
        device_model("ends")


def test_the_model_that_a_package_brings_is_made_with_its_settings(own_registry):
    own_registry += [EntryPoint("borrowed", "onnx_gconv.devices.pcm:PcmDevice", "onnx_gconv.devices")]
    device = device_model("borrowed", g_max=30.0)
    assert (type(device), device.g_max) == (PcmDevice, 30)
    with pytest.raises(ConfigError, match="the device model 'borrowed' has no setting 'colour'; there are g_max, "):
        device_model("borrowed", colour=1.0)


class Calibrated(HermesOneDevice):
    """Takes what its base class takes, and raises an error of its own kind."""

    name = "calibrated"

    def __init__(self, *, station: str = "", **settings: float) -> None:
        super().__init__(**settings)
        raise LookupError(f"no calibration of\n{station}")


def test_the_settings_of_a_model_are_those_of_all_classes_to_which_it_passes_them(own_registry):
    register_device_model(Calibrated)
    with pytest.raises(ConfigError) as raised:
        device_model("calibrated", read_scale=0.5, station="north")
    assert str(raised.value) == (
        "the device model 'calibrated' cannot be made: LookupError: no calibration of north; the settings that it was "
        "given are read_scale=0.5, station='north'"
    )
    with pytest.raises(ConfigError, match=r"has no setting 'colour'; there are g_max, .*, t_read, station$"):
        device_model("calibrated", colour=1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_look_tells_numbers_from_zero_to_a_limit(dtype):
    few = np.array([0, 1e-40, 24.9, 25], dtype)
    assert are_from_zero_to(few, 25.0)
    assert are_from_zero_to(few[:0], 0.0)
    for wrong in (25.1, -1e-40, -3, np.inf, -np.inf, np.nan, -0.0):
        assert not are_from_zero_to(np.append(few, dtype(wrong)), 25.0)
    assert not are_from_zero_to(few.astype(np.float16), 25.0)


def test_measurements_that_seem_to_be_in_siemens_are_refused(tmp_path):
    file = tmp_path / "device.csv"
    file.write_text("target_us,seconds,mean_us,sigma_us\n0,0,0,1e-6\n25e-6,0,25e-6,1e-6\n")
    with pytest.raises(
        ConfigError, match=r"device\.csv': the targets end at 2\.5e-05 \u00b5S, .* is that siemens\? Then"
    ):
        device_model(str(file))
    file.write_text("target_us,seconds,mean_us,sigma_us\n0,0,0,1e-6\n0.001,0,0.001,1e-6\n")
    assert device_model(str(file)).g_max == 0.001
