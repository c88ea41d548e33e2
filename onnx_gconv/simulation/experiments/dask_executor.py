"""The workers of a Dask cluster as those who compute trials."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import time
import warnings
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_gconv.errors import ConfigError, GconvError
from onnx_gconv.simulation.experiments.experiment import Experiment, Trial
from onnx_gconv.simulation.experiments.sent_experiment import SentExperiment, different_versions, versions_here
from onnx_gconv.visible_text import listed

if TYPE_CHECKING:
    from distributed import Client, Future, as_completed

__all__ = ["DaskExecutor", "connected"]

_SECONDS_TO_ANSWER = 5
_SECONDS_FOR_OTHER_WORKERS = 30  # to take the place of those that died

_SECONDS_BETWEEN_LOOKS = 0.01

_IN_FLIGHT = 2048  # trials that the scheduler knows of: it would keep a kilobyte or two of each of millions

_MOST_IN_VAIN = 3  # as often as Dask tries a task again that its worker died of


@contextlib.contextmanager
def connected(cluster: str | Client) -> Iterator[DaskExecutor]:
    """The workers of a cluster. What was sent to it is gone when the ``with`` block is left.

    Args:
        cluster: The address of its scheduler, or a client, which stays open.

    Raises:
        ConfigError: If dask.distributed is not installed, nothing answers within seconds, or there are no workers.
    """
    if importlib.util.find_spec("distributed") is None:
        raise ConfigError("a Dask cluster needs dask.distributed, which is missing; pip install distributed")
    from distributed import Client

    if isinstance(cluster, str):
        with _silent_client_log():
            client = _client(cluster)
            try:
                yield _executor(client, cluster)
            finally:
                client.close()
    elif not isinstance(cluster, Client):
        kind = type(cluster).__name__  # type: ignore[unreachable]  # for programs without types
        raise ConfigError(f"a Dask cluster is the address of its scheduler, or a client of it, but not a {kind}")
    elif cluster.asynchronous or cluster.status != "running":
        state = "asynchronous" if cluster.asynchronous else cluster.status
        raise ConfigError(f"the client of the Dask cluster is {state}; give one that is open, and not asynchronous")
    else:
        yield _executor(cluster, str(cluster.scheduler_info()["address"]))


@contextlib.contextmanager
def _silent_client_log() -> Iterator[None]:
    """Leave out what Dask logs of a client: it is told as an error, or made good. Who debugs gets it.

    dask.distributed has to be imported before, since it sets the levels of its logs then.
    """
    log = logging.getLogger("distributed.client")
    before = log.level
    if logging.getLogger().level != logging.DEBUG:
        log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


def _client(address: str) -> Client:
    from distributed import Client
    from distributed.versions import VersionMismatchWarning

    try:
        with ThreadPoolExecutor(1) as other_thread:  # this one may have a loop that runs, as in a notebook
            other_thread.submit(asyncio.run, _require_answer(address)).result()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VersionMismatchWarning)  # those that matter are refused
            return Client(address, timeout=_SECONDS_TO_ANSWER, set_as_default=False)
    except Exception as error:  # Dask's own, and those of what anything else that listens there answers
        reason = _said(error)
        if isinstance(error, TimeoutError):
            reason = f"it said nothing for {_SECONDS_TO_ANSWER} s"
        elif isinstance(error, MemoryError):  # the first bytes are taken for a length
            reason = "what answers there is no scheduler"
        raise ConfigError(
            f"the Dask cluster '{address}' does not answer: {reason}; start one with `dask scheduler`, and give the "
            "address that it prints, such as tcp://127.0.0.1:8786"
        ) from error


async def _require_answer(address: str) -> None:
    """Raise an exception if there is no scheduler. A client would wait for ever for what accepts and says nothing."""
    from distributed import Security
    from distributed.core import rpc

    arguments = Security().get_connection_args("client")
    async with rpc(address, timeout=_SECONDS_TO_ANSWER, connection_args=arguments) as peer:
        found = await asyncio.wait_for(peer.identity(), _SECONDS_TO_ANSWER + 1)
    if found["type"] != "Scheduler":
        raise OSError(f"it is the address of a {found['type'].lower()}, not of the scheduler")


def _executor(client: Client, address: str) -> DaskExecutor:
    _wait_for_workers(client, address, _SECONDS_TO_ANSWER)
    return DaskExecutor(client, address)


def _wait_for_workers(client: Client, address: str, seconds: float) -> None:
    try:
        client.wait_for_workers(1, timeout=seconds)
    except (TimeoutError, OSError) as error:
        raise ConfigError(
            f"the Dask cluster '{address}' has no workers; start some with `dask worker {address}`"
        ) from error


class DaskExecutor:
    """The workers of a Dask cluster.

    The experiment is scattered: it goes to the scheduler once, and from one worker process to the next. If a worker
    dies, Dask computes its trials elsewhere. What was scattered it does not bring back when all who have it die: then
    the experiment is sent once more.

    Args:
        client: A client of the cluster.
        address: Its address, for messages.
    """

    takes_a_file = True

    def __init__(self, client: Client, address: str) -> None:
        self._client = client
        self._address = address
        self._others: set[str] = set()

    @property
    def notes(self) -> tuple[str, ...]:
        """Which workers compute other last digits."""
        if not self._others:
            return ()
        workers = f"{len(self._others)} Dask workers ({listed(sorted(self._others))})"
        note = f"{workers} compute other last digits: their processors are others than that of this machine"
        return (note,)

    def values(self, experiment: Experiment, trials: Sequence[Trial]) -> Generator[tuple[Trial, float]]:
        """The metric of each trial, as results arrive.

        Raises:
            ConfigError: If the workers have other versions, or cannot load the device model or the metric; or the
                cluster is gone.
            GconvError: If a trial cannot be computed.
        """
        from distributed.protocol.pickle import dumps

        if not trials:
            return
        sent = SentExperiment(experiment, trials[-1], dumps)
        left = {trial.key: trial for trial in trials}
        in_vain = 0
        with self._blamed():
            self._check_versions()
            while left:
                before = len(left)
                with contextlib.closing(self._arriving(sent, tuple(left.values()))) as arriving:
                    for trial, value in arriving:
                        del left[trial.key]
                        yield trial, value
                in_vain = in_vain + 1 if len(left) == before else 0
                if in_vain > _MOST_IN_VAIN:
                    raise self._workers_die()
                if left:
                    _wait_for_workers(self._client, self._address, _SECONDS_FOR_OTHER_WORKERS)

    @contextlib.contextmanager
    def _blamed(self) -> Iterator[None]:
        """What goes wrong because the cluster is gone is told as that."""
        try:
            yield
        except GconvError:
            raise
        except Exception as error:
            if self._client.status == "running" and not isinstance(error, OSError):
                raise
            raise self._gone() from error

    def _check_versions(self) -> None:
        """Raise ConfigError if a worker has others than this process. Those that come later look themselves."""
        for worker, found in self._client.run(versions_here, on_error="return").items():
            if isinstance(found, Exception):
                raise ConfigError(
                    f"the Dask worker {worker} cannot load onnx_gconv: {_said(found)}; install it there, the version "
                    "that is here"
                )
            if (problem := different_versions(versions_here(), found)) is not None:
                raise ConfigError(f"the Dask worker {worker} {problem}")

    def _arriving(self, sent: SentExperiment, trials: Sequence[Trial]) -> Generator[tuple[Trial, float]]:
        """The metric of each trial, until what was sent is lost; nothing of it stays on the cluster."""
        from distributed import as_completed

        waiting = iter(trials)
        running: dict[Future[Any], Trial] = {}
        completed = as_completed(loop=self._client.loop, with_results=True, raise_errors=False)
        shared: Future[Any] = self._client.scatter([sent], broadcast=True, hash=False)[0]

        def submit(count: int) -> None:
            if chosen := tuple(islice(waiting, count)):
                futures = self._client.map(_computed, chosen, sent=shared, pure=False, key="onnx-gconv-trial")
                running.update(zip(futures, chosen, strict=True))
                completed.update(futures)

        try:
            submit(_IN_FLIGHT)
            for batch in self._batches(completed):
                for future, result in batch:
                    trial = running.pop(future)
                    if future.status == "error":
                        raise self._failure(result[1])
                    if future.status != "finished":  # Dask cancels what needs data that is lost
                        self._require_connection()
                        return
                    value, worker, is_exact = result
                    if not is_exact:
                        self._others.add(worker)
                    yield trial, value
                submit(len(batch))
        finally:
            if self._client.status == "running":
                with contextlib.suppress(OSError, TimeoutError):
                    self._client.cancel([*running, shared])
            running.clear()
            shared.release()

    def _batches(self, completed: as_completed) -> Iterator[list[Any]]:
        """What has come, as soon as there is something. Dask would wait for ever for what was lost on the way."""
        while not completed.is_empty():
            if completed.has_ready():
                yield completed.next_batch()
            else:
                self._require_connection()
                time.sleep(_SECONDS_BETWEEN_LOOKS)

    def _require_connection(self) -> None:
        if self._client.status != "running":
            raise self._gone()

    def _gone(self) -> ConfigError:
        return ConfigError(
            f"the Dask cluster '{self._address}' is gone; start it and the simulation again, which goes on where it "
            "ended if it has a journal"
        )

    def _workers_die(self) -> ConfigError:
        return ConfigError(
            f"workers of the Dask cluster '{self._address}' die of this simulation, one after the other; their logs "
            "say why: if memory was short, start them with fewer threads, or a larger --memory-limit"
        )

    def _failure(self, error: BaseException) -> GconvError:
        from distributed import KilledWorker

        if isinstance(error, GconvError):
            return error
        if isinstance(error, KilledWorker):
            return self._workers_die()
        return ConfigError(f"a worker of the Dask cluster '{self._address}' fails: {_said(error)}; its log says more")


def _computed(trial: Trial, *, sent: SentExperiment) -> tuple[float, str, bool]:
    """The metric of a trial on a worker, the worker, and whether it is the one of the client, bit for bit."""
    from distributed import get_worker

    worker = get_worker()
    try:
        opened = sent.opened(Path(worker.local_directory))
    except GconvError as error:
        raise ConfigError(f"the Dask worker {worker.address} {error}") from error
    return opened.experiment.value(trial), worker.address, opened.is_exact


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split())
    says_all = text and (isinstance(error, OSError) or type(error) is Exception)
    return text if says_all else f"{type(error).__name__}: {text}"
