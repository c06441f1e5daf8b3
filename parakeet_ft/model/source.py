"""Where a model comes from: a bundled name, a local .nemo or a hub id, checked and fetched without
importing torch or NeMo.

A hub id is looked up in the Hugging Face cache first (`HF_HOME`, `HF_HUB_CACHE`); the network is
touched only if it is not there.
"""

from __future__ import annotations

import re
import socket
import threading
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from parakeet_ft.errors import UserError
from parakeet_ft.files import DEMO, read_json
from parakeet_ft.model.archive import check_archive
from parakeet_ft.model.checkpoints import BUNDLED, CHECKPOINTS, resolve

CONNECT_SECONDS = 3.0
# Of what is not HTTPS.
PORTS = {"http": 80}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check_source(source: str) -> None:
    """Raise UserError unless `source` can be restored: a whole archive of a Parakeet model here or
    in the cache, or a hub in reach.

    Takes milliseconds for a local file and at most some 3 s for a hub id without network. A hub id
    that is not cached is not verified to exist.
    """
    path = locate(source)
    if path is None:
        _check_network(resolve(source))
    else:
        check_archive(path)


def locate(source: str) -> Path | None:
    """The .nemo file of `source`, or None for a hub id that is not in the cache. Raises UserError
    if a local file is missing.

    `source` is a name of `CHECKPOINTS`, a path of a .nemo, a folder with one .nemo (such as a hub
    snapshot), or a hub id.
    """
    if source in BUNDLED:
        return _bundled(source)
    source = resolve(source)
    path = Path(source).expanduser()
    if path.is_dir():
        found = sorted(path.glob("*.nemo"))
        if len(found) != 1:
            _refuse_onnx(source, path)
            raise UserError(
                f"The folder {source} holds {len(found)} .nemo files, expected one. Give the path "
                f"of the file."
            )
        return found[0]
    if path.is_file():
        return path
    if HUB_ID.fullmatch(source) and path.suffix != ".nemo":
        return _cached(source)
    raise UserError(
        f"No model at {source}. Expected a .nemo file, a hub id such as nvidia/parakeet-ctc-0.6b, "
        f"or a name: {', '.join(CHECKPOINTS)}."
    )


def _refuse_onnx(source: str, path: Path) -> None:
    """Raise UserError for a folder with an ONNX export, in it or right below."""
    networks = sorted(path.glob("*.onnx")) or sorted(path.glob("*/*.onnx"))
    if not networks:
        return
    try:
        kind = read_json(networks[0].parent / "config.json").get("model_type")
    except ValueError:
        kind = None
    int8 = ', quantization="int8"' if networks[0].name.endswith(".int8.onnx") else ""
    raise UserError(
        f"{source} holds no .nemo file but an ONNX export ({networks[0].relative_to(path)}), which "
        "is for onnx-asr (pip install onnx-asr onnxruntime). Expected a .nemo file; or in Python: "
        f'import onnx_asr; model = onnx_asr.load_model("{kind or "nemo-conformer-ctc"}", '
        f'"{networks[0].parent}"{int8}); print(model.recognize("speech.wav"))'
    )


def _bundled(name: str) -> Path:
    """The file of a bundled model. Raises UserError if it is not there."""
    path = DEMO / BUNDLED[name]
    if not path.is_file():
        raise UserError(
            f"The bundled model {name} is not in this installation ({path}). Reinstall, or "
            f"give a .nemo or a hub id."
        )
    return path


def identity(source: str) -> dict[str, Any]:
    """What tells one checkpoint from another without reading it: where it is, its size and its time
    of change; of a hub id, its name.
    """
    path = locate(source)
    if path is None:
        return {"source": resolve(source)}
    status = path.stat()
    return {"source": str(path.resolve()), "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def fetch(source: str) -> Path:
    """The .nemo file of `source`, downloaded into the cache if need be: once a node, whichever
    process comes first, while others wait.

    Raises UserError if it cannot be had.
    """
    if path := locate(source):
        return path
    source = resolve(source)
    _check_network(source)
    import filelock
    from huggingface_hub import constants, hf_hub_download

    lock = Path(constants.HF_HUB_CACHE, ".locks", f"parakeet_ft--{_folder_name(source)}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(lock):
        if path := locate(source):
            return path
        try:
            return Path(hf_hub_download(source, _file_name(source)))
        # huggingface_hub raises its own, httpx's and OSError; all mean that there is no file
        except Exception as error:
            reason = (str(error).strip().splitlines() or [""])[0]
            raise UserError(
                f"{source} could not be downloaded ({type(error).__name__}: {reason}). Check the "
                f"name at {constants.ENDPOINT}/{source}, HF_TOKEN if the model is gated, and the "
                "free disk space."
            ) from None


def _file_name(source: str) -> str:
    """The name of the .nemo in a repository of the hub."""
    return source.rpartition("/")[2] + ".nemo"


def _folder_name(source: str) -> str:
    """A hub id as the cache names folders."""
    return source.replace("/", "--")


def _cached(source: str) -> Path | None:
    """As huggingface_hub.try_to_load_from_cache, whose import takes 0.4 s: the snapshot of `main`,
    else the newest that has the file.
    """
    from huggingface_hub import constants

    snapshots = Path(constants.HF_HUB_CACHE, f"models--{_folder_name(source)}", "snapshots")
    name = _file_name(source)
    main = snapshots.with_name("refs") / "main"
    if main.is_file():
        path = snapshots / main.read_text().strip() / name
        if path.is_file():
            return path
    return max(snapshots.glob(f"*/{name}"), key=lambda p: p.stat().st_mtime, default=None)


def _check_network(source: str) -> None:
    """Raise UserError within seconds if the hub is switched off or out of reach."""
    from huggingface_hub import constants

    cure = "."
    reason: str | None
    if constants.HF_HUB_OFFLINE:
        reason = "HF_HUB_OFFLINE is set"
        cure = "; or unset HF_HUB_OFFLINE."
    else:
        reason = unreachable(constants.ENDPOINT)
    if reason:
        name = _file_name(source)
        raise UserError(
            f"{source} is not in the cache ({constants.HF_HUB_CACHE}) and cannot be downloaded: "
            f"{reason}; give a local file (model=path/to/{name}), or run `hf download {source} "
            f"{name}` (older: `huggingface-cli download`) on a machine with network and copy its "
            f"cache here (HF_HOME names the folder){cure}"
        )


def unreachable(url: str) -> str | None:
    """Why the server of `url`, or the proxy in front of it, does not answer within CONNECT_SECONDS;
    None if it does.
    """
    host, port = _address(url)
    outcome = [f"no answer from {host} within {CONNECT_SECONDS:.0f} s"]

    def connect() -> None:
        """Note that the server answers, or why not."""
        try:
            socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
            outcome[0] = ""
        except OSError as error:
            outcome[0] = f"{host} cannot be reached ({error})"

    # In a thread, since looking up the name knows no time limit.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    return outcome[0] or None


def _address(url: str) -> tuple[str, int]:
    """Host and port of a server, or of the proxy in front of it."""
    parts = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}")
    return parts.hostname or "", parts.port or PORTS.get(parts.scheme, 443)
