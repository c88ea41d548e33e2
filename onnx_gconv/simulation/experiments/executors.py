"""Executors of trials: threads of this process, or the workers of a Dask cluster. Both give the same figures."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Protocol, TypeAlias, Union

from onnx_gconv.errors import ConfigError
from onnx_gconv.simulation.experiments.experiment import Experiment, Trial

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["DaskCluster", "ThreadExecutor", "TrialExecutor", "trial_executor"]

_LOTS_OF_A_WORKER = 4  # lots that wait for a worker: the objects of a waiting lot take more memory than its trials

DaskCluster: TypeAlias = Union[str, "Client"]
"""A Dask cluster: the address of its scheduler, or a client of it."""


class TrialExecutor(Protocol):
    """An executor that computes trials."""

    @property
    def takes_a_file(self) -> bool:
        """Whether experiments need the mapped model in a file."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on the trials that were computed, for the report, a line each."""

    def values(self, experiment: Experiment, trials: Sequence[Trial]) -> Generator[tuple[Trial, float]]:
        """The metric of each trial, in any order, as soon as it is known.

        Closing the generator stops the computation of the remaining trials.

        Raises:
            GconvError: If a trial cannot be computed. The remaining trials are then not computed.
        """


class ThreadExecutor:
    """Computes trials in threads of this process.

    Args:
        workers: How many trials are computed at once.
    """

    takes_a_file = False
    notes: tuple[str, ...] = ()

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def values(self, experiment: Experiment, trials: Sequence[Trial]) -> Generator[tuple[Trial, float]]:
        """The metric of each trial, as soon as it is known."""
        if not trials:
            return
        lots = experiment.lots(trials, self._workers)
        if self._workers > 1:
            yield from self._in_threads(experiment, lots)
            return
        for lot in lots:
            yield from experiment.values(lot)

    def _in_threads(self, experiment: Experiment, lots: Sequence[Sequence[Trial]]) -> Generator[tuple[Trial, float]]:
        stopped = threading.Event()
        found: queue.SimpleQueue[tuple[Trial, float] | Future[None]] = queue.SimpleQueue()
        waiting = iter(lots)

        def compute(lot: Sequence[Trial]) -> None:
            for item in experiment.values(lot):
                found.put(item)
                if stopped.is_set():
                    return

        def submit(count: int) -> None:
            for lot in islice(waiting, count):
                executor.submit(compute, lot).add_done_callback(found.put)

        with ThreadPoolExecutor(self._workers) as executor:
            try:
                submit(_LOTS_OF_A_WORKER * self._workers)
                left = len(lots)
                while left:
                    item = found.get()
                    if isinstance(item, Future):
                        item.result()
                        left -= 1
                        submit(1)
                    else:
                        yield item
            finally:
                stopped.set()
                executor.shutdown(cancel_futures=True)


@contextlib.contextmanager
def trial_executor(workers: int, dask: DaskCluster | None) -> Iterator[TrialExecutor]:
    """The executor that the options ask for. Leaving the ``with`` block ends its work.

    Args:
        workers: How many trials this process computes at once.
        dask: A Dask cluster that computes the trials in place of this process.

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
