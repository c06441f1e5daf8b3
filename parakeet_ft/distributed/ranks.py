"""Several processes, one run: where this process stands among them, what only the first does, and
how they end together.

A rank is a process with one device. torchrun, srun and parakeet_ft.distributed.launcher each start
ranks in their way; from `join` on all are the same. torch is imported by functions only: the checks
before a run need none of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import io
import os
import re
import socket
import struct
import sys
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from parakeet_ft.errors import Stopped, UserError
from parakeet_ft.urls import masked

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Result = TypeVar("Result")
# set where the process that started the ranks has checked the command line already, and said so
CHECKED = "PARAKEET_FT_CHECKED"
FAILURE = "failure.txt"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a process stands: its number among all ranks, and among those of its node; address and
    port of rank 0.
    """

    rank: int = 0
    num_ranks: int = 1
    local_rank: int = 0
    ranks_per_node: int = 1
    num_nodes: int = 1
    address: str = "127.0.0.1"
    port: int = 0


# What torchrun sets.
TORCHRUN = {
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
}


def find_place(environment: Mapping[str, str] = os.environ) -> Place:
    """The place that torchrun or srun gives to this process by its environment; the only process
    where neither started it.

    Under srun MASTER_ADDR and MASTER_PORT may be set; else rank 0 is on the step's first node, at a
    port made from the job's number.
    """
    if environment.keys() >= TORCHRUN:
        num_ranks, per_node = int(environment["WORLD_SIZE"]), int(environment["LOCAL_WORLD_SIZE"])
        return Place(
            int(environment["RANK"]),
            num_ranks,
            int(environment["LOCAL_RANK"]),
            per_node,
            num_ranks // per_node,
            environment["MASTER_ADDR"],
            int(environment["MASTER_PORT"]),
        )
    get = environment.get
    # Not SLURM_NTASKS: that is the job's, which a batch script has too that runs alone.
    num_ranks = int(get("SLURM_STEP_NUM_TASKS", 1))
    if num_ranks == 1:
        return Place()
    num_nodes = int(get("SLURM_STEP_NUM_NODES", 1))
    if num_ranks % num_nodes:
        raise UserError(
            f"srun started {num_ranks} tasks on {num_nodes} nodes; expected the same number on "
            f"each. Use --ntasks-per-node."
        )
    port = 15000 + (7 * int(environment["SLURM_JOB_ID"]) + int(get("SLURM_STEP_ID", 0))) % 20000
    return Place(
        int(environment["SLURM_PROCID"]),
        num_ranks,
        int(environment["SLURM_LOCALID"]),
        num_ranks // num_nodes,
        num_nodes,
        get("MASTER_ADDR") or first_host(get("SLURM_STEP_NODELIST", "")),
        int(get("MASTER_PORT") or port),
    )


def cores() -> int:
    """Cores of this machine that are this rank's share, at least one."""
    return max(1, len(os.sched_getaffinity(0)) // find_place().ranks_per_node)


def first_host(names: str) -> str:
    """The first of Slurm's host names: `n[3-5,9],m1` -> n3."""
    match = re.match(r"([^\[,]+)(?:\[(\d+)[^\]]*\])?([^,]*)", names)
    return "".join(part or "" for part in match.groups()) if match else "127.0.0.1"


def checks_for_its_node() -> bool:
    """Whether this process shall read through the data before a run: one of each node, unless the
    process that started it has.
    """
    return not find_place().local_rank and CHECKED not in os.environ


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """Inside, one process of each node prints: what is checked before the ranks know each other is
    the same for all of a node.
    """
    if not find_place().local_rank:
        yield
        return
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def join(*, timeout_minutes: float) -> None:
    """Meet the other ranks, if there are any and they have not met yet. A rank that does not answer
    for timeout_minutes ends the run with an exception on every other.
    """
    place = find_place()
    if place.num_ranks == 1 or _group():
        return
    import datetime

    import torch
    from lightning_utilities.core.rank_zero import rank_zero_only

    # Lightning looks at its first import only, which may be before a fork.
    rank_zero_only.rank = place.rank  # type: ignore[attr-defined]
    for key, value in {
        "RANK": place.rank,
        "WORLD_SIZE": place.num_ranks,
        "LOCAL_RANK": place.local_rank,
        "LOCAL_WORLD_SIZE": place.ranks_per_node,
        "GROUP_RANK": place.rank // place.ranks_per_node,
        "MASTER_ADDR": place.address,
        "MASTER_PORT": place.port,
    }.items():
        os.environ[key] = str(value)
    if place.num_nodes > 1 and (interface := interface_towards(place.address, place.port)):
        # Else gloo takes the one of the host's own name, which many a host resolves to 127.0.1.1.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    gpu = torch.cuda.is_available()
    if gpu:
        if torch.cuda.device_count() < place.ranks_per_node:
            raise UserError(
                f"{place.ranks_per_node} ranks on {socket.gethostname()}, but each sees "
                f"{torch.cuda.device_count()} GPU(s); expected one for each. "
                "Start one task per GPU, and let every task see all of its node's: "
                "--gpus-per-node, not --gpus-per-task."
            )
        torch.cuda.set_device(place.local_rank)
    try:
        torch.distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if gpu else "gloo",
            timeout=datetime.timedelta(minutes=timeout_minutes),
        )
    except (torch.distributed.DistError, RuntimeError, ValueError) as error:
        raise UserError(
            f"Rank {place.rank} of {place.num_ranks} on {socket.gethostname()} cannot meet the "
            f"others at {place.address}:{place.port}: "
            f"{_first_line(error)}. Expected all of them within {timeout_minutes:g} minutes "
            f"(trainer.timeout_minutes)."
        ) from None


def interface_towards(address: str, port: int) -> str | None:
    """The network interface from which another host is reached; None if that cannot be told."""
    get_address = 0x8915  # SIOCGIFADDR of Linux
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect((address, port))  # sends nothing
        own = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # an interface without an address
                found = fcntl.ioctl(probe, get_address, struct.pack("256s", name.encode()[:15]))
                if socket.inet_ntoa(found[20:24]) == own:
                    return name
    return None


def _group():
    """torch.distributed where this process has joined others, else None."""
    torch = sys.modules.get("torch")
    return (
        torch.distributed
        if torch and torch.distributed.is_available() and torch.distributed.is_initialized()
        else None
    )


def rank() -> int:
    """The number of this process among those that train; 0 where it is alone."""
    group = _group()
    return group.get_rank() if group else 0


def num_ranks() -> int:
    """How many processes train together."""
    group = _group()
    return group.get_world_size() if group else 1


def own_directory(run_dir: Path) -> Path:
    """Where this rank writes what it does not share: run_dir for rank 0, a folder in it for the
    others.
    """
    return run_dir / f"rank{rank()}" if rank() else run_dir


def patient_group() -> torch.distributed.ProcessGroup | None:
    """A group to wait in however long something takes, as a slow disk or a long check may; a rank
    that dies is noticed at once. None where there are no others.
    """
    group = _group()
    return _make_patient() if group else None


@functools.cache
def _make_patient() -> torch.distributed.ProcessGroup:
    """Once a process, as the ranks have to meet for it."""
    import datetime

    import torch

    # The group's own timeout is for what takes seconds.
    return torch.distributed.new_group(backend="gloo", timeout=datetime.timedelta(days=7))


def on_first(function: Callable[[], Result], *, patient: bool = False) -> Result:
    """What rank 0's function() returns, on every rank; its exception is raised on every rank. The
    others wait; patient: however long it takes.
    """
    group = _group()
    if not group:
        return function()
    waiting = patient_group() if patient else None
    outcome: list = [None]
    if rank() == 0:
        try:
            outcome = [(function(), None)]
        except Exception as error:
            outcome = [(None, error)]
    group.broadcast_object_list(outcome, 0, group=waiting)
    value, raised = outcome[0]
    if raised is not None:
        raise raised
    return value


def once_a_node(function: Callable[[], Result]) -> Result | None:
    """What function() returns where this process checks for its node, None elsewhere; its exception
    is raised on every rank. The others wait, however long it takes.
    """
    group = _group()
    mine = checks_for_its_node()
    if not group:
        return function() if mine else None
    patient = patient_group()
    value: Result | None = None
    error: Exception | None = None
    if mine:
        try:
            value = function()
        except Exception as raised:
            error = raised
    errors: list = [None] * num_ranks()
    group.all_gather_object(errors, error, group=patient)
    for found in errors:
        if found is not None:
            raise found
    return value


def divide(
    function: Callable[[Sequence[Item]], Sequence[Result]], items: Sequence[Item]
) -> list[Result]:
    """function(items), every rank doing its share; every rank gets all results, in the order of
    items.
    """
    group, ranks = _group(), num_ranks()
    mine = function(items[rank() :: ranks])
    gathered: list = [mine]
    if group:
        gathered = [None] * ranks
        group.all_gather_object(gathered, mine)
    return [gathered[i % ranks][i // ranks] for i in range(len(items))]


def add(numbers: Sequence[int]) -> list[int]:
    """Sums over all ranks, number by number."""
    group = _group()
    if not group:
        return list(numbers)
    gathered: list = [None] * num_ranks()
    group.all_gather_object(gathered, list(numbers))
    return [sum(column) for column in zip(*gathered, strict=True)]


def share_buffers(model: torch.nn.Module) -> None:
    """Give every rank rank 0's buffers, such as BatchNorm's statistics."""
    if group := _group():
        names = model.state_dict().keys()
        for name, buffer in model.named_buffers():
            if name in names:  # others, such as tables of positions, grow with what a rank has seen
                group.broadcast(buffer, 0)


@contextlib.contextmanager
def ending_together(run_dir: Path) -> Iterator[None]:
    """Inside, the first rank that fails prints its exception with its rank, keeps it in
    run_dir/failure.txt, and ends at once.

    The others end within seconds without a further word, wherever they wait, as a thread looks for
    the sign of the first. What is no failure of one rank (Stopped, which all raise) is printed by
    rank 0 alone.
    """
    group = _group()
    if not group:
        yield
        return
    sign = run_dir / on_first(lambda: _clear_failures(run_dir))
    done = threading.Event()
    threading.Thread(target=_end_at, args=(sign, done), daemon=True).start()
    try:
        yield
    except Stopped as stopped:
        if rank() == 0:
            print(stopped, file=sys.stderr)
        group.destroy_process_group()
        sys.exit(stopped.code)
    except SystemExit:
        raise
    except BaseException as error:
        text = masked(describe_failure(error))
        try:
            sign.touch(exist_ok=False)
        except FileExistsError:
            text = ""  # another rank was first
        except OSError:
            pass  # the disk that is full may be what failed
        if text:
            print(text, file=sys.stderr)
            with contextlib.suppress(OSError):
                (run_dir / FAILURE).write_text(f"{text}\n", encoding="utf-8")
        sys.stderr.flush()
        sys.stdout.flush()
        # Not sys.exit: the group's threads may wait for the others for ever.
        os._exit(error.code if isinstance(error, UserError) else 1)
    finally:
        done.set()
    group.destroy_process_group()


def _clear_failures(run_dir: Path) -> str:
    """Remove what an earlier attempt left; returns the name of this one's sign, new each time, as
    other hosts may still see the old one.
    """
    for path in (run_dir / FAILURE, *run_dir.glob(".failed-*")):
        path.unlink(missing_ok=True)
    return f".failed-{uuid.uuid4().hex[:8]}"


def _end_at(sign: Path, done: threading.Event) -> None:
    while not done.wait(1):
        if sign.exists():
            os._exit(1)


def describe_failure(error: BaseException) -> str:
    """What is printed for the first failure: a message for a UserError or a lost connection, a
    traceback for the rest.
    """
    where = f"rank {rank()} of {num_ranks()} on {socket.gethostname()}"
    if isinstance(error, UserError):
        return f"error: {where}: {error}"
    if isinstance(error, KeyboardInterrupt):
        return f"{where}: interrupted"
    kept = "".join(traceback.format_exception(error)).rstrip()
    if re.search(r"gloo|nccl|TCPStore|recv", str(error), re.IGNORECASE):
        return (
            f"{kept}\nerror: {where} lost the others: {_first_line(error)}\nA rank was killed (out "
            f"of memory?), or its host or network is down: "
            "see the end of run.log and of rank*/run.log. The same command continues the run."
        )
    return f"{kept}\nerror: {where} failed: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
