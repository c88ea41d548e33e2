"""Who computes trials: threads of this process, or the workers of a Dask cluster. Both give the same figures."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol, TypeAlias, Union

from onnx_gconv.errors import ConfigError
from onnx_gconv.simulation.experiments.experiment import Experiment, Trial

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["DaskCluster", "ThreadExecutor", "TrialExecutor", "trial_executor"]

DaskCluster: TypeAlias = Union[str, "Client"]
"""A Dask cluster: the address of its scheduler, or a client of it."""


class TrialExecutor(Protocol):
    """Whoever computes trials."""

    @property
    def takes_a_file(self) -> bool:
        """Whether experiments need the mapped model in a file."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said of the trials that were computed, a line each."""

    def values(self, experiment: Experiment, trials: Sequence[Trial]) -> Generator[tuple[Trial, float]]:
        """The metric of each trial, in any order, as soon as it is known. What is not asked for is not computed.

        Raises:
            GconvError: If one of them cannot be computed; what is not done then, is left.
        """


class ThreadExecutor:
    """Threads of this process.

    Args:
        workers: How many trials are computed at once.
    """

    takes_a_file = False
    notes: tuple[str, ...] = ()

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def values(self, experiment: Experiment, trials: Sequence[Trial]) -> Generator[tuple[Trial, float]]:
        """The metric of each trial, in their order."""
        if self._workers == 1:
            yield from ((trial, experiment.value(trial)) for trial in trials)
            return
        with ThreadPoolExecutor(self._workers) as executor:
            try:
                yield from zip(trials, executor.map(experiment.value, trials), strict=True)
            except BaseException:
                executor.shutdown(cancel_futures=True)
                raise


@contextlib.contextmanager
def trial_executor(workers: int, dask: DaskCluster | None) -> Iterator[TrialExecutor]:
    """Whoever computes trials; leaving the ``with`` block ends what it has begun.

    Args:
        workers: How many trials this process computes at once.
        dask: The Dask cluster that does it instead.

    Raises:
        ConfigError: If both are asked for, or the cluster cannot be used.
    """
    if dask is None:
        yield ThreadExecutor(workers)
        return
    if workers != 1:
        raise ConfigError(
            "the number of workers is for this machine; leave it out with a Dask cluster, whose workers are started "
            "with `dask worker --nworkers N`"
        )
    from onnx_gconv.simulation.experiments.dask_executor import connected

    with connected(dask) as executor:
        yield executor
