"""The same work on processes of this machine, on a Dask cluster, or on Slurm through Dask: any
`concurrent.futures` executor.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from typing import Any, TypeVar

from parakeet_ft.errors import UserError
from parakeet_ft.files import drop_unfinished

Item = TypeVar("Item")
Result = TypeVar("Result")


def num_cores() -> int:
    """Cores that this process may use, which in a container or a batch job are fewer than the
    machine has.
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# What ends a process that does not answer it: Ctrl-C, and what `kill` and batch systems send.
ENDING = (signal.SIGINT, signal.SIGTERM)
# Of linux/prctl.h: the signal that the kernel sends a process when its parent ends.
PR_SET_PDEATHSIG = 1


# How long a signal may wait for its answer.
LOOK_SECONDS = 0.5


def die_with_parent(parent: int) -> None:
    """For a child: end when `parent` does, however that ended, and leave Ctrl-C to it. A worker
    that is idle waits for ever, and a parent killed with SIGKILL tells it nothing. SIGTERM ends it
    at once, without leaving files that are not whole.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    try:
        asked = not ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError, TypeError):  # not Linux
        asked = False
    if not asked:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    elif os.getppid() != parent:  # it ended before the kernel was asked
        os._exit(1)


def _end(number: int, frame: Any) -> None:
    """End now: an exception could get lost in a library that calls back into Python."""
    drop_unfinished()
    os._exit(128 + number)


def _watch(parent: int) -> None:
    """End when `parent` does."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


@contextlib.contextmanager
def signals_afterwards() -> Iterator[None]:
    """Inside, the first Ctrl-C or SIGTERM is noted, and answered at the end; a second is answered
    at once.

    Where a library calls back into Python, as libsndfile does to read a file, Python prints an
    exception and goes on, and a file would be taken for read that is not.
    """
    noted: list[int] = []

    def note(number: int, frame: Any) -> None:
        noted.append(number)
        if len(noted) > 1:
            signal.signal(number, before[signal.Signals(number)])
            signal.raise_signal(number)

    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    for number in ENDING:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if noted:
        signal.raise_signal(noted[0])


@contextlib.contextmanager
def _unheard_by_children() -> Iterator[None]:
    """Inside, processes start that Ctrl-C and SIGTERM do not reach until `die_with_parent` lets
    them; what comes meanwhile is answered by this process, at the end.
    """
    # Lets signals through again once it runs.
    resource_tracker.ensure_running()
    with signals_afterwards():
        # Unlike a handler, what is blocked stays so in a process that starts.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class InlineExecutor(Executor):
    """Runs in this process, for --jobs 1."""

    def submit(self, function, /, *args, **kwargs):
        future: Future = Future()
        try:
            with signals_afterwards():
                future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextlib.contextmanager
def open_executor(
    *, jobs: int, scheduler: str | None = None, slurm: bool = False, bare: bool = False
) -> Iterator[Callable[[], Executor]]:
    """Yield a function that gives an executor, a new one if the last broke or is done with; all are
    shut down at the end.

    `scheduler` is the address of a Dask scheduler (tcp://host:port); with `slurm`, dask-jobqueue
    starts `jobs` workers by sbatch, with queue, memory and time from its own configuration
    (~/.config/dask/jobqueue.yaml). bare: processes of this machine do not import the script that
    runs, nor what that imports. Raises UserError if the cluster cannot be reached.
    """
    with contextlib.ExitStack() as stack:
        if scheduler or slurm:
            client = stack.enter_context(_dask_client(scheduler, jobs=jobs))
            yield lambda: stack.enter_context(client.get_executor())
        elif jobs <= 1:
            yield InlineExecutor
        else:
            # Not fork: the parent has a progress bar's thread, whose locks a fork would copy.
            context = multiprocessing.get_context("spawn")
            before: list[ProcessPoolExecutor] = []

            def start() -> Executor:
                """A pool whose processes have all begun; the one before it, which broke or has no
                more to do, ends.
                """
                for pool in before:
                    pool.shutdown(cancel_futures=True)
                pool = ProcessPoolExecutor(
                    jobs, mp_context=context, initializer=die_with_parent, initargs=(os.getpid(),)
                )
                stack.push(functools.partial(_close, pool))
                before[:] = [pool]
                script = _no_script() if bare else contextlib.nullcontext()
                with script, _unheard_by_children():
                    for _ in range(jobs):  # one starts at each task
                        pool.submit(os.getpid)
                return pool

            yield start


def _close(pool: ProcessPoolExecutor, kind: type[BaseException] | None, *_: Any) -> None:
    """End a pool; after Ctrl-C or SIGTERM without what waits, and what is under way."""
    if kind is not None and issubclass(kind, KeyboardInterrupt):
        for process in multiprocessing.active_children():
            process.terminate()
    pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _no_script() -> Iterator[None]:
    """Inside, a process that starts knows of no script: it would import it, torch with it, and
    begin a second run where the script begins one without asking for its name.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def _dask_client(scheduler: str | None, *, jobs: int):
    """A client of the scheduler, or of workers that Slurm starts. Raises UserError."""
    try:
        from distributed import Client
    except ImportError:
        raise UserError(
            "--scheduler and --slurm need Dask: pip install 'parakeet-ft[dask]'"
        ) from None
    if scheduler:
        try:
            return Client(scheduler, timeout=5, set_as_default=False)
        except (OSError, ValueError) as error:
            raise UserError(
                f"No Dask scheduler answers at {scheduler} ({error}). Start one with `dask "
                f"scheduler`, workers with `dask worker {scheduler}`, on machines that see the "
                "same files."
            ) from None
    cluster = _slurm_cluster()
    cluster.scale(jobs)
    return Client(cluster, set_as_default=False)


def _slurm_cluster():
    """dask-jobqueue's cluster, as it is configured. Raises UserError."""
    try:
        from dask_jobqueue import SLURMCluster

        return SLURMCluster()
    except ImportError:
        raise UserError("--slurm needs dask-jobqueue: pip install 'parakeet-ft[dask]'") from None
    except (ValueError, TypeError) as error:
        raise UserError(
            f"dask-jobqueue is not configured for this cluster: {error}. Set cores, memory and "
            "walltime under jobqueue.slurm in ~/.config/dask/jobqueue.yaml."
        ) from None


def chunked(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one shorter."""
    chunk = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def map_chunks(
    function: Callable[[list[Item]], list[Result]],
    chunks: Iterable[list[Item]],
    *,
    executor: Callable[[], Executor],
    window: int,
    crashed: Callable[[Item], Result],
) -> Iterator[tuple[list[Item], list[Result]]]:
    """Yield (chunk, function(chunk)) as they finish, with at most `window` chunks under way.

    If a worker process dies, the chunks that were under way are tried again item by item; an item
    that kills its worker again gets `crashed(item)`. Dask moves the work of a dead worker to others
    by itself.
    """
    waiting = iter(chunks)
    pool = executor()
    suspects: deque[list[Item]] = deque()
    pending: dict[Future, list[Item]] = {}
    while True:
        while len(pending) < (1 if suspects else window):
            chunk = suspects.popleft() if suspects else next(waiting, None)
            if chunk is None:
                break
            pending[pool.submit(function, chunk)] = chunk
        if not pending:
            return
        broken = []
        for future in _done_first(pending):
            chunk = pending.pop(future)
            try:
                yield chunk, future.result()
            except (BrokenProcessPool, *_dask_losses()):  # type: ignore[misc]
                broken.append(chunk)
        if broken:
            alone = len(broken) == 1 and not pending and len(broken[0]) == 1
            broken += pending.values()
            pending.clear()
            pool = executor()
            if alone:
                yield broken[0], [crashed(broken[0][0])]
            else:
                suspects.extend([item] for chunk in broken for item in chunk)


def _done_first(pending: Iterable[Future]) -> set[Future]:
    """Those that are done, once one is. Ctrl-C and SIGTERM are answered between two looks: in the
    middle of one their exception could leave a future locked, for which its pool would wait.
    """
    while True:
        with signals_afterwards():
            done = wait(pending, timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED).done
        if done:
            return done


def _dask_losses() -> tuple[type[BaseException], ...]:
    """What Dask raises for work that was lost with its worker."""
    # Only a process that has a Dask client can meet Dask's exception: nothing is imported for it.
    distributed = sys.modules.get("distributed")
    return (distributed.KilledWorker,) if distributed else ()
