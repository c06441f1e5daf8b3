"""Where a model comes from: a bundled name, a local .nemo or a hub id, checked and fetched without
importing torch or NeMo.

A hub id is looked up in the Hugging Face cache first (`HF_HOME`, `HF_HUB_CACHE`); the network is
touched only if it is not there.
"""

from __future__ import annotations

import re
import socket
import tarfile
import threading
import urllib.parse
import urllib.request
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

from parakeet_ft.errors import UserError
from parakeet_ft.files import DEMO
from parakeet_ft.model.checkpoints import BUNDLED, CHECKPOINTS, resolve

CLASSES = {
    "EncDecCTCModelBPE": "CTC",
    "EncDecRNNTBPEModel": "RNNT or TDT",
    "EncDecHybridRNNTCTCBPEModel": "hybrid transducer-CTC",
}
# Of a model_config.yaml: Parakeet's have some 10,000 bytes and 1,000 values.
MOST_CONFIG_BYTES = 4_000_000
MOST_CONFIG_VALUES = 1_000_000
CONNECT_SECONDS = 3.0
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
EXPECTED = (
    "Expected a Parakeet checkpoint: FastConformer CTC, RNNT, TDT or hybrid with a subword "
    "tokenizer."
)


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
        path = DEMO / BUNDLED[source]
        if not path.is_file():
            raise UserError(
                f"The bundled model {source} is not in this installation ({path}). Reinstall, or "
                f"give a .nemo or a hub id."
            )
        return path
    source = resolve(source)
    path = Path(source).expanduser()
    if path.is_dir():
        found = sorted(path.glob("*.nemo"))
        if len(found) != 1:
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


def identity(source: str) -> dict[str, Any]:
    """What tells one checkpoint from another without reading it: where it is, its size and its time
    of change; of a hub id, its name.
    """
    path = locate(source)
    if path is None:
        return {"source": resolve(source)}
    status = path.stat()
    return {"source": str(path.resolve()), "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def check_archive(path: Path) -> dict[str, Any]:
    """The configuration inside a .nemo. Raises UserError if it is no archive, truncated, or another
    kind of model.
    """
    config, members = _read_config(path)
    weights = members.get("model_weights.ckpt")
    if weights is None:
        raise UserError(
            f"{path} holds no model_weights.ckpt (found: {', '.join(sorted(members)[:6])}): it is "
            f"truncated or was not written "
            "by NeMo's save_to. Download or export it again."
        )
    with tarfile.open(path) as tar:
        content = _file_in(tar, weights, path)
        # torch.save writes a zip, whose directory stands at the end: if that is there, so is the
        # rest.
        if content.read(2) == b"PK" and not zipfile.is_zipfile(content):
            raise UserError(f"The weights in {path} are truncated. Download or export it again.")
    name = str(config.get("target", "")).rpartition(".")[2]
    loss = str(_section(config, "loss", path).get("loss_name", ""))
    for part in ("preprocessor", "encoder", "decoder", "tokenizer", "joint", "decoding", "aux_ctc"):
        _section(config, part, path)
    if name not in CLASSES or loss.startswith("multiblank"):
        raise UserError(
            f"{path} is another kind of model: "
            f"{name or 'no class named'}{f' with loss {loss}' if name in CLASSES else ''}. "
            f"{EXPECTED}"
        )
    return config


def _read_config(path: Path) -> tuple[dict[str, Any], dict[str, tarfile.TarInfo]]:
    import yaml

    try:
        with tarfile.open(path) as tar:
            # Reading the list of members to its end finds a file that ends too early.
            members = {Path(member.name).name: member for member in tar.getmembers()}
            if "model_config.yaml" not in members:
                raise UserError(
                    f"{path} holds no model_config.yaml (found: "
                    f"{', '.join(sorted(members)[:6]) or 'nothing'}): "
                    f"it is not a NeMo model. {EXPECTED}"
                )
            member = members["model_config.yaml"]
            content = _file_in(tar, member, path)
            if member.size > MOST_CONFIG_BYTES:
                raise UserError(
                    f"The model_config.yaml in {path} has {member.size} bytes; a NeMo model's has "
                    f"some "
                    f"thousands. {EXPECTED}"
                )
            config = yaml.safe_load(content.read())
    except (tarfile.ReadError, EOFError, zlib.error) as error:
        if "unexpected end" in str(error) or isinstance(error, EOFError):
            raise UserError(
                f"{path} is truncated: it ends after {path.stat().st_size} bytes, in the middle of "
                f"its contents. "
                "Download or copy it again."
            ) from None
        start = path.open("rb").read(20)
        hint = (
            " It is a git-lfs pointer: run `git lfs pull`."
            if start.startswith(b"version https://git")
            else ""
        )
        raise UserError(
            f"{path} is not a .nemo file: it is no tar archive ({path.stat().st_size} bytes, "
            f"starts with {start!r}).{hint} "
            f"{EXPECTED}"
        ) from None
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be read: {reason}.") from None
    if _expanded_size(config) > MOST_CONFIG_VALUES:
        raise UserError(
            f"The model_config.yaml in {path} grows to more than {MOST_CONFIG_VALUES:,} values "
            f"when "
            f"its aliases are followed: it is not a NeMo model's. {EXPECTED}"
        )
    if not isinstance(config, dict):
        raise UserError(
            f"The model_config.yaml in {path} is no mapping: it is not a NeMo model. {EXPECTED}"
        )
    return config, members


def _file_in(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> IO[bytes]:
    """A member's content. Raises UserError if it is no ordinary file."""
    content = tar.extractfile(member) if member.isfile() else None
    if content is None:
        raise UserError(
            f"{member.name} in {path} is a link or a folder, expected a file: the archive was not "
            f"written by NeMo's save_to. {EXPECTED}"
        )
    return content


def _section(config: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    """A part of a model's configuration, {} if there is none. Raises UserError if it is no
    mapping.
    """
    found = config.get(name)
    if found is not None and not isinstance(found, dict):
        raise UserError(
            f"In {path}, `{name}` of model_config.yaml is {type(found).__name__}, expected a "
            f"mapping: "
            f"it is not a NeMo model. {EXPECTED}"
        )
    return found or {}


def _expanded_size(value: Any, sizes: dict[int, int] | None = None) -> int:
    """Values in a tree of lists and mappings, those that it holds by alias each time they occur."""
    sizes = {} if sizes is None else sizes
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in sizes:
        sizes[id(value)] = MOST_CONFIG_VALUES + 1  # of what holds itself
        children = value.values() if isinstance(value, dict) else value
        sizes[id(value)] = 1 + sum(_expanded_size(child, sizes) for child in children)
    return sizes[id(value)]


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

    lock = (
        Path(constants.HF_HUB_CACHE) / ".locks" / f"parakeet_ft--{source.replace('/', '--')}.lock"
    )
    lock.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(lock):
        if path := locate(source):
            return path
        try:
            return Path(hf_hub_download(source, _file_name(source)))
        # huggingface_hub raises its own, httpx's and OSError; all mean that there is no file
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
            raise UserError(
                f"{source} could not be downloaded ({type(error).__name__}: {reason}). Check the "
                f"name at "
                f"{constants.ENDPOINT}/{source}, HF_TOKEN if the model is gated, and the free disk "
                f"space."
            ) from None


def _file_name(source: str) -> str:
    return source.rpartition("/")[2] + ".nemo"


def _cached(source: str) -> Path | None:
    """As huggingface_hub.try_to_load_from_cache, whose import takes 0.4 s: the snapshot of `main`,
    else the newest that has the file.
    """
    from huggingface_hub import constants

    repository = Path(constants.HF_HUB_CACHE) / f"models--{source.replace('/', '--')}"
    main = repository / "refs" / "main"
    if (
        main.is_file()
        and (
            path := repository / "snapshots" / main.read_text().strip() / _file_name(source)
        ).is_file()
    ):
        return path
    found = sorted(
        repository.glob(f"snapshots/*/{_file_name(source)}"), key=lambda p: p.stat().st_mtime
    )
    return found[-1] if found else None


def _check_network(source: str) -> None:
    """Raise UserError within seconds if the hub is switched off or out of reach."""
    from huggingface_hub import constants

    reason = (
        "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else unreachable(constants.ENDPOINT)
    )
    if reason:
        raise UserError(
            f"{source} is not in the cache ({constants.HF_HUB_CACHE}) and cannot be downloaded: "
            f"{reason}; give a local file "
            f"(model=path/to/{_file_name(source)}), or run `hf download {source} "
            f"{_file_name(source)}` (older: `huggingface-cli "
            "download`) on a machine with network and copy its cache here (HF_HOME names the "
            "folder)" + ("; or unset HF_HUB_OFFLINE." if constants.HF_HUB_OFFLINE else ".")
        )


def unreachable(url: str) -> str | None:
    """Why the server of `url`, or the proxy in front of it, does not answer within CONNECT_SECONDS;
    None if it does.
    """
    parts = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}")
    address = (parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443))
    outcome = [f"no answer from {address[0]} within {CONNECT_SECONDS:.0f} s"]

    def connect() -> None:
        try:
            socket.create_connection(address, timeout=CONNECT_SECONDS).close()
            outcome[0] = ""
        except OSError as error:
            outcome[0] = f"{address[0]} cannot be reached ({error})"

    # In a thread, since looking up the name knows no time limit.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    return outcome[0] or None
