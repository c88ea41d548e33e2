"""Computes trials on the workers of a Dask cluster."""

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
_SECONDS_FOR_OTHER_WORKERS = 30  # for new workers to take the place of those that died

_SECONDS_BETWEEN_LOOKS = 0.01

_IN_FLIGHT = 2048  # trials at the scheduler: it keeps 1 to 2 KB for each, too much memory for millions at once

_MOST_IN_VAIN = 3  # like Dask's own limit of new attempts for a task whose worker died


@contextlib.contextmanager
def connected(cluster: str | Client) -> Iterator[DaskExecutor]:
    """An executor on the workers of a cluster. Leaving the ``with`` block removes from the cluster what was sent to it.

    Args:
        cluster: The address of the scheduler of the cluster, or a client, which stays open.

    Raises:
        ConfigError: If dask.distributed is not installed, the scheduler does not answer within seconds, or the cluster
            has no workers.
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
    """Silence the log of Dask's client, unless the level of the root logger is DEBUG.

    Its problems are raised as our errors, or solved by another attempt. dask.distributed has to be imported before
    this, since its import sets the levels of its logs.
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
        with ThreadPoolExecutor(1) as other_thread:  # this thread may have a running event loop, as in a notebook
            other_thread.submit(asyncio.run, _require_answer(address)).result()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VersionMismatchWarning)  # `_check_versions` refuses those that matter
            return Client(address, timeout=_SECONDS_TO_ANSWER, set_as_default=False)
    except Exception as error:  # errors of Dask, or of parsing the answer of any other server at that address
        reason = _said(error)
        if isinstance(error, TimeoutError):
            reason = f"it said nothing for {_SECONDS_TO_ANSWER} s"
        elif isinstance(error, MemoryError):  # Dask takes the first bytes of another server's answer for a length
            reason = "what answers there is no scheduler"
        raise ConfigError(
            f"the Dask cluster '{address}' does not answer: {reason}; start one with `dask scheduler`, and give the "
            "address that it prints, such as tcp://127.0.0.1:8786"
        ) from error


async def _require_answer(address: str) -> None:
    """Raise an exception unless a scheduler answers.

    A Dask client would wait for ever for a server that accepts the connection and then sends nothing.
    """
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
    """Computes trials on the workers of a Dask cluster.

    The experiment is scattered: it is sent to the cluster once, and workers copy it from each other. If a worker dies,
    Dask computes its trials on another one. If all workers die that have the experiment, Dask cannot restore it: this
    class then sends it again.

    Args:
        client: A client of the cluster.
        address: The address of the scheduler, for messages.
    """

    takes_a_file = True

    def __init__(self, client: Client, address: str) -> None:
        self._client = client
        self._address = address
        self._others: set[str] = set()

    @property
    def notes(self) -> tuple[str, ...]:
        """A note on workers whose results differ from this machine's in the last digits."""
        if not self._others:
            return ()
        workers = f"{len(self._others)} Dask workers ({listed(sorted(self._others))})"
        note = f"{workers} give results that differ in the last digits: their processors differ from this machine's"
        return (note,)

    def values(self, experiment: Experiment, trials: Sequence[Trial]) -> Generator[tuple[Trial, float]]:
        """The metric of each trial, as results arrive.

        Raises:
            ConfigError: If the workers have other versions, cannot load the device model or the metric, or the cluster
                does not answer any more.
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
        """Turn an exception that is due to a lost connection into a ConfigError that says so."""
        try:
            yield
        except GconvError:
            raise
        except Exception as error:
            if self._client.status == "running" and not isinstance(error, OSError):
                raise
            raise self._gone() from error

    def _check_versions(self) -> None:
        """Raise ConfigError if a worker has other versions than this process.

        Workers that join later compare versions when they open the experiment.
        """
        for worker, found in self._client.run(versions_here, on_error="return").items():
            if isinstance(found, Exception):
                raise ConfigError(
                    f"the Dask worker {worker} cannot load onnx_gconv: {_said(found)}; install onnx_gconv there, in "
                    "the same version as here"
                )
            if (problem := different_versions(versions_here(), found)) is not None:
                raise ConfigError(f"the Dask worker {worker} {problem}")

    def _arriving(self, sent: SentExperiment, trials: Sequence[Trial]) -> Generator[tuple[Trial, float]]:
        """The metric of each trial, as results arrive. It ends early if the cluster has lost the experiment.

        The experiment and all tasks are removed from the cluster at the end.
        """
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
                    if future.status != "finished":  # Dask cancels tasks whose data is lost
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
        """Finished futures with their results, as soon as there are any.

        Dask's own iterator would wait for ever for results that were lost with the connection.
        """
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
    """Compute a trial on a worker.

    Returns:
        The metric, the address of the worker, and whether this worker computes the same bits as the client.
    """
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
