"""Peak memory and seconds of a function, measured in a process of its own."""

import ctypes
import multiprocessing
import time
from pathlib import Path


def status_mb(key: str) -> float:
    """A line of /proc/self/status in MB: VmRSS (now), VmHWM (peak)."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(key))
    return int(line.split()[1]) / 1024


def peak_of(function, *args, warm=None) -> tuple[float, float, object]:
    """(MB above what the process had before, seconds, result) of function(*args) in a forked child;
    the peak counter is reset first.

    `warm()` runs before in the child: a fork has to page in the code it uses once more, 20 MB that
    are not the function's.
    """
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)

    def child() -> None:
        if warm is not None:
            warm()
        # What the C library keeps of freed memory would be used again and not counted.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before, start = status_mb("VmRSS"), time.perf_counter()
        result = function(*args)
        send.send((status_mb("VmHWM") - before, time.perf_counter() - start, result))

    process = context.Process(target=child)
    process.start()
    send.close()
    try:
        return receive.recv()
    except EOFError:
        raise RuntimeError(
            f"{function.__name__}{args} ended without a result (out of memory?)"
        ) from None
    finally:
        process.join()
