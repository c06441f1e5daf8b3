"""Where a model comes from: a bundled name, a local .nemo or a hub id, checked and fetched without
importing torch or NeMo.

A hub id is looked up in the Hugging Face cache first (`HF_HOME`, `HF_HUB_CACHE`); the network is
touched only if it is not there.
"""

from __future__ import annotations

import gzip
import math
import os
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
from parakeet_ft.files import DEMO, damaged_member
from parakeet_ft.model.checkpoints import BUNDLED, CHECKPOINTS, resolve
from parakeet_ft.tokenizer.sentencepiece_model import load_sentencepiece

CLASSES = {
    "EncDecCTCModelBPE": "CTC",
    "EncDecRNNTBPEModel": "RNNT or TDT",
    "EncDecHybridRNNTCTCBPEModel": "hybrid transducer-CTC",
}
CONFIG, WEIGHTS = "model_config.yaml", "model_weights.ckpt"
# Of a model_config.yaml, a tokenizer or its list of pieces: Parakeet's have some 10,000 to 500,000
# bytes, and the configuration some 1,000 values.
MOST_SMALL_BYTES = 4_000_000
MOST_CONFIG_VALUES = 1_000_000
# Weights hardly shrink when they are packed with gzip.
MOST_EXPANSION = 100
# More than these are no damage, which is local.
MOST_DAMAGED_SCORES = 10
CONNECT_SECONDS = 3.0
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
EXPECTED = (
    "Expected a Parakeet checkpoint: FastConformer CTC, RNNT, TDT or hybrid with a subword "
    "tokenizer."
)
NOT_BY_NEMO = "It was not written by NeMo's save_to, so it is not used."


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
    kind of model, or lacks a part of one.
    """
    config, members = _read_config(path)
    weights = members.get(WEIGHTS)
    if weights is None:
        raise UserError(
            f"{path} holds no {WEIGHTS} (found: {', '.join(sorted(members)[:6])}): it is "
            "truncated or was not written by NeMo's save_to. Download or export it again."
        )
    _check_kind(config, path)
    with _open(path) as tar:
        content = _file_in(tar, weights, path)
        # torch.save writes a zip, whose directory stands at the end: if that is there, so is the
        # rest.
        if not zipfile.is_zipfile(content):
            content.seek(0)
            start = content.read(8)
            found = "truncated" if start[:2] == b"PK" else f"no torch.save's (begin with {start!r})"
            raise UserError(f"The weights in {path} are {found}. Download or export it again.")
    _check_parts(config, path)
    _check_tokenizer(config, members, path)
    return config


def check_weights(path: Path) -> None:
    """Read all weights of a .nemo once. Raises UserError if they are not, to the byte, what was
    written.
    """
    with _open(path) as tar:
        weights = _members(tar, path)[WEIGHTS]
        damaged = damaged_member(_file_in(tar, weights, path))
    if damaged:
        raise UserError(
            f"The weights in {path} are damaged: {damaged} does not have the checksum with which "
            "it was written. Download, copy or export the file again."
        )


def _check_kind(config: dict[str, Any], path: Path) -> None:
    """Raise UserError unless the configuration is of one of CLASSES and its parts are mappings."""
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


def _check_parts(config: dict[str, Any], path: Path) -> None:
    """Raise UserError if the configuration lacks a part that its kind of model has."""
    kind = CLASSES[config["target"].rpartition(".")[2]]
    parts = ["preprocessor", "encoder", "decoder", "tokenizer"]
    parts += ["joint"] if kind != "CTC" else []
    parts += ["aux_ctc"] if "hybrid" in kind else []
    if missing := [part for part in parts if not _section(config, part, path)]:
        raise UserError(
            f"The model_config.yaml in {path} has no {', '.join(missing)}, which every {kind} "
            f"model has: it is damaged. Download or export it again."
        )


def _check_tokenizer(
    config: dict[str, Any], members: dict[str, tarfile.TarInfo], path: Path
) -> None:
    """Raise UserError if the SentencePiece model is missing, damaged, or not the one for which the
    weights were trained. Of another kind of tokenizer nothing is known here.
    """
    tokenizer = config["tokenizer"]
    name = _artifact(tokenizer.get("model_path"))
    if name is None:
        return
    if name not in members:
        raise UserError(
            f"{path} names {name} as its tokenizer, but does not hold it (found: "
            f"{', '.join(sorted(members)[:6])}). Download or export it again."
        )
    with _open(path) as tar:
        model = _read_file(tar, members[name], path)
        listing = members.get(_artifact(tokenizer.get("spe_tokenizer_vocab")) or "")
        vocabulary = _read_file(tar, listing, path) if listing else b""
    processor = load_sentencepiece(model, where=f"{name} in {path}")
    pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    scores = [processor.get_score(i) for i in range(len(pieces))]
    _check_pieces(pieces, config, path)
    _check_scores(pieces, scores, vocabulary, path)


def _check_pieces(pieces: list[str], config: dict[str, Any], path: Path) -> None:
    """Raise UserError if the configuration lists as many pieces as the tokenizer has, and others:
    the model would write other words than it was trained to.
    """
    for part in (config["decoder"], config.get("joint"), config.get("aux_ctc")):
        part = part or {}
        inner = part.get("decoder")
        listed = part.get("vocabulary") or (isinstance(inner, dict) and inner.get("vocabulary"))
        if not isinstance(listed, list) or len(listed) != len(pieces):
            continue
        differing = [
            (str(theirs), ours)
            for theirs, ours in zip(listed, pieces, strict=True)
            if _plain(str(theirs)) != _plain(ours)
        ]
        if differing:
            raise UserError(
                f"The tokenizer in {path} is not the model's: {len(differing)} of its "
                f"{len(pieces)} pieces are others than in model_config.yaml, such as "
                f"{differing[0][1]!r} for {differing[0][0]!r}. Download or export it again."
            )


def _plain(piece: str) -> str:
    """A piece without the marks of a word's beginning (SentencePiece) or continuation (NeMo's older
    lists).
    """
    return piece.removeprefix("##").replace("\u2581", "")


def _check_scores(pieces: list[str], scores: list[float], listing: bytes, path: Path) -> None:
    """Raise UserError if a few of the tokenizer's scores are not those of the listing beside it: a
    damaged one divides words otherwise. Where many differ, the listing is of another convention.
    """
    rows = [line.split("\t") for line in listing.decode(errors="replace").split("\n")]
    rows = [row for row in rows if len(row) == 2]
    if [row[0] for row in rows] != pieces:
        return
    try:
        listed = [float(row[1]) for row in rows]
    except ValueError:
        return
    differing = [
        piece
        for piece, ours, theirs in zip(pieces, scores, listed, strict=True)
        if not math.isclose(ours, theirs, rel_tol=1e-3, abs_tol=1e-3)
    ]
    if 0 < len(differing) <= MOST_DAMAGED_SCORES:
        raise UserError(
            f"The tokenizer in {path} is damaged: the score of {differing[0]!r} is not the one in "
            f"tokenizer.vocab beside it. Download or export it again."
        )


def _artifact(name: Any) -> str | None:
    """The name in the archive of a file that a configuration names; None if it names none."""
    return str(name).removeprefix("nemo:") if name else None


def _read_config(path: Path) -> tuple[dict[str, Any], dict[str, tarfile.TarInfo]]:
    import yaml

    try:
        with _open(path) as tar:
            # Reading the list of members to its end finds a file that ends too early.
            members = _members(tar, path)
            if CONFIG not in members:
                raise UserError(
                    f"{path} holds no {CONFIG} (found: "
                    f"{', '.join(sorted(members)[:6]) or 'nothing'}): it is not a NeMo model. "
                    f"{EXPECTED}"
                )
            config = yaml.safe_load(_read_file(tar, members[CONFIG], path))
    except (tarfile.ReadError, EOFError, zlib.error) as error:
        raise _no_archive(path, error) from None
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be read: {reason}.") from None
    if _expanded_size(config) > MOST_CONFIG_VALUES:
        raise UserError(
            f"The {CONFIG} in {path} grows to more than {MOST_CONFIG_VALUES:,} values when its "
            f"aliases are followed: it is not a NeMo model's. {EXPECTED}"
        )
    if not isinstance(config, dict):
        raise UserError(f"The {CONFIG} in {path} is no mapping: it is not a NeMo model. {EXPECTED}")
    return config, members


def _no_archive(path: Path, error: Exception) -> UserError:
    """What to tell of a file that tarfile cannot read to its end."""
    size = path.stat().st_size
    if "unexpected end" in str(error) or isinstance(error, EOFError):
        return UserError(
            f"{path} is truncated: it ends after {size} bytes, in the middle of its contents. "
            "Download or copy it again."
        )
    with path.open("rb") as file:
        start = file.read(20)
    hint = ""
    if start.startswith(b"version https://git"):
        hint = " It is a git-lfs pointer: run `git lfs pull`."
    return UserError(
        f"{path} is not a .nemo file: it is no tar archive ({size} bytes, starts with {start!r})."
        f"{hint} {EXPECTED}"
    )


def _open(path: Path) -> tarfile.TarFile:
    """A .nemo as NeMo opens it: a plain tar, or one packed with gzip, as before version 1.7."""
    try:
        return tarfile.open(path, "r:")
    except tarfile.ReadError:
        return tarfile.open(path, "r:gz")


def _members(tar: tarfile.TarFile, path: Path) -> dict[str, tarfile.TarInfo]:
    """Files and folders by name. Raises UserError for what NeMo's save_to never writes: links,
    devices, files outside the archive's own folder or twice of one name, endless zeros packed.
    """
    found: dict[str, tarfile.TarInfo] = {}
    total = 0
    packed = isinstance(tar.fileobj, gzip.GzipFile)
    most = MOST_EXPANSION * path.stat().st_size if packed else math.inf
    for member in tar:
        name = os.path.normpath(member.name)
        total += member.size
        if member.size < 0:
            raise UserError(f"{path} is damaged: it gives {name} {member.size} bytes.")
        if total > most:
            raise UserError(f"{path} grows to more than {most:,} bytes. {NOT_BY_NEMO}")
        if name.startswith(("/", "..")):
            raise UserError(f"{path} holds {member.name}, outside its own folder. {NOT_BY_NEMO}")
        if not (member.isreg() or member.isdir()) or member.issparse():
            raise _no_file(member, path)
        if name in found and not (member.isdir() and found[name].isdir()):
            raise UserError(f"{path} holds two files of the name {name}. {NOT_BY_NEMO}")
        if name != ".":
            found[name] = member
    return found


def _file_in(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> IO[bytes]:
    """A member's content. Raises UserError if it is no ordinary file."""
    content = tar.extractfile(member) if member.isfile() else None
    if content is None:
        raise _no_file(member, path)
    return content


def _no_file(member: tarfile.TarInfo, path: Path) -> UserError:
    return UserError(
        f"{member.name} in {path} is a link or a folder, expected a file. {NOT_BY_NEMO}"
    )


def _read_file(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> bytes:
    """The bytes of a small member. Raises UserError if it is not small."""
    content = _file_in(tar, member, path)
    if member.size > MOST_SMALL_BYTES:
        raise UserError(
            f"The {os.path.normpath(member.name)} in {path} has {member.size} bytes; a NeMo "
            f"model's has some thousands. {EXPECTED}"
        )
    return content.read()


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
