"""Lots: the trials of a few chips, which take less time together."""

from __future__ import annotations

import time

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_gconv.crossbars.target_weights import target_weights
from onnx_gconv.errors import ConfigError
from onnx_gconv.passes import MapConductances
from onnx_gconv.simulation.chips.chips import chips_of
from onnx_gconv.simulation.chips.trial import WeightOnChips
from onnx_gconv.simulation.experiments.executors import ThreadExecutor
from onnx_gconv.simulation.experiments.experiment import Experiment, Trial
from onnx_gconv.simulation.experiments.trials import trials_of
from onnx_gconv.simulation.metrics import Metric
from tests.graphs import chain_model, tensors

SECONDS = (0.0, 1.0, 86400.0)


class WeightsAsOutputs:
    """A bench whose outputs are the weights."""

    def run(self, weights, _samples):
        return iter(weights)


class SumMetric(Metric):
    """The sum of all weights, which differs between trials."""

    def of(self, batches, _samples, _ideal):
        return float(sum(batch.astype(np.float64).sum() for batch in batches))


class FailsForSome(SumMetric):
    """It fails for the trials of the last chip."""

    def of(self, batches, samples, ideal):
        value = super().of(batches, samples, ideal)
        if value in FAILING:
            raise ConfigError("it is the last chip")
        time.sleep(0.01)
        return value


FAILING: set[float] = set()


def experiment_on(shapes, metric=SumMetric):
    rng = np.random.default_rng(0)
    weights = {f"w{number}": rng.normal(size=shape).astype(np.float32) for number, shape in enumerate(shapes)}
    model = ir.from_proto(chain_model(*tensors(weights)))
    MapConductances()(model)
    on_chips = [WeightOnChips(weight) for weight in target_weights(model, "simulated", "simulate")]
    chips = chips_of("pcm", {}, 1, "global")
    return Experiment(WeightsAsOutputs(), on_chips, chips, None, metric("sum", "", "", "y"), "y", None, None)


SMALL = experiment_on([(64, 64), (64, 20)])  # 10,752 devices: six chips in a lot
LARGE = experiment_on([(300, 300), (300, 4)])


@given(st.integers(1, 20), st.integers(1, 4), st.integers(0, 2), st.integers(1, 9), st.data())
def test_lots_have_all_trials_of_a_few_chips_at_all_their_times(repeats, times, layers, workers, data):
    trials = trials_of(SECONDS[: min(times, 3)], repeats, layers)
    waiting = [trial for trial in trials if data.draw(st.booleans())]  # a journal may hold the others
    for experiment, most in ((SMALL, 6), (LARGE, 1)):
        lots = experiment.lots(waiting, workers)
        assert [trial for lot in lots for trial in lot] == waiting
        of_all = [lot for lot in lots if lot[0].layer is None]
        assert all(len(lot) == 1 for lot in lots if lot[0].layer is not None)
        assert all({trial.layer for trial in lot} == {None} for lot in of_all)
        chips = [{trial.repeat for trial in lot} for lot in of_all]
        count = len(set().union(*chips))
        assert sum(map(len, chips)) == count  # no chip is programmed in two lots
        assert not count or len(chips) == -(-count // min(most, -(-count // workers)))  # work for each worker


@pytest.mark.parametrize("experiment", [SMALL, LARGE])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_trial_has_the_same_value_alone_in_a_lot_and_in_threads(experiment, workers):
    trials = trials_of(SECONDS, 8, 2)[1:]
    found = list(ThreadExecutor(workers).values(experiment, trials))
    assert dict(found) == {trial: experiment.value(trial) for trial in trials}
    assert len(found) == len(trials)
    assert len({value for _, value in found}) == len(trials)


@pytest.mark.parametrize(("workers", "before"), [(1, 9), (2, 4)])
def test_values_arrive_until_a_trial_fails(workers, before):
    experiment = experiment_on([(8, 8)], FailsForSome)
    last = [Trial(9, seconds) for seconds in SECONDS]
    failing = {experiment.value(trial) for trial in last}
    assert len(failing) == len(SECONDS)
    FAILING.update(failing)
    arrived = []
    with pytest.raises(ConfigError, match="it is the last chip"):
        arrived.extend(ThreadExecutor(workers).values(experiment, trials_of(SECONDS, 10)))
    FAILING.clear()
    assert len(arrived) >= before
    assert set(last).isdisjoint(trial for trial, _ in arrived)


def test_a_caller_that_stops_early_waits_for_one_trial_of_each_thread_only():
    experiment = experiment_on([(8, 8)], FailsForSome)
    values = ThreadExecutor(2).values(experiment, trials_of(SECONDS, 1000))
    assert len([next(values) for _ in range(5)]) == 5
    start = time.perf_counter()
    values.close()
    assert time.perf_counter() - start < 2  # all trials take 15 s


def test_no_trials_give_no_values():
    assert list(ThreadExecutor(2).values(SMALL, [])) == []
