"""What is inside a .nemo, checked without importing torch or NeMo: configuration, tokenizer, and
weights to the byte.
"""

from __future__ import annotations

import gzip
import math
import os
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

from parakeet_ft.errors import UserError
from parakeet_ft.files import damaged_member
from parakeet_ft.tokenizer.sentencepiece_model import load_sentencepiece

CLASSES = {
    "EncDecCTCModelBPE": "CTC",
    "EncDecRNNTBPEModel": "RNNT or TDT",
    "EncDecHybridRNNTCTCBPEModel": "hybrid transducer-CTC",
}
CONFIG = "model_config.yaml"
WEIGHTS = "model_weights.ckpt"
PARTS = ("preprocessor", "encoder", "decoder", "tokenizer", "joint", "decoding", "aux_ctc")
# Of a model_config.yaml, a tokenizer or its list of pieces: Parakeet's have some 10,000 to 500,000
# bytes, and the configuration some 1,000 values.
MOST_SMALL_BYTES = 4_000_000
MOST_CONFIG_VALUES = 1_000_000
# Weights hardly shrink when they are packed with gzip.
MOST_EXPANSION = 100
# More than these are no damage, which is local.
MOST_DAMAGED_SCORES = 10
EXPECTED = (
    "Expected a Parakeet checkpoint: FastConformer CTC, RNNT, TDT or hybrid with a subword "
    "tokenizer."
)
NOT_BY_NEMO = "It was not written by NeMo's save_to, so it is not used."


def check_archive(path: Path) -> dict[str, Any]:
    """The configuration inside a .nemo. Raises UserError if it is no archive, truncated, or another
    kind of model, or lacks a part of one.
    """
    config, members = _read_config(path)
    weights = members.get(WEIGHTS)
    if weights is None:
        raise UserError(
            f"{path} holds no {WEIGHTS} (found: {_some(members)}): it is truncated or was not "
            "written by NeMo's save_to. Download or export it again."
        )
    _check_kind(config, path)
    _check_end_of_weights(weights, path)
    _check_parts(config, path)
    _check_tokenizer(config, members, path)
    return config


def _check_end_of_weights(weights: tarfile.TarInfo, path: Path) -> None:
    """Raise UserError unless the weights are there to their end: torch.save writes a zip, whose
    directory comes last.
    """
    with _open(path) as tar:
        content = _file_in(tar, weights, path)
        if zipfile.is_zipfile(content):
            return
        content.seek(0)
        start = content.read(8)
    found = "truncated" if start[:2] == b"PK" else f"no torch.save's (begin with {start!r})"
    raise UserError(f"The weights in {path} are {found}. Download or export it again.")


def _some(members: dict[str, tarfile.TarInfo]) -> str:
    """The names of the first few members."""
    return ", ".join(sorted(members)[:6])


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
    for part in PARTS:
        _section(config, part, path)
    if name in CLASSES and not loss.startswith("multiblank"):
        return
    found = name or "no class named"
    if name in CLASSES:
        found += f" with loss {loss}"
    raise UserError(f"{path} is another kind of model: {found}. {EXPECTED}")


def _check_parts(config: dict[str, Any], path: Path) -> None:
    """Raise UserError if the configuration lacks a part that its kind of model has."""
    kind = CLASSES[config["target"].rpartition(".")[2]]
    parts = ["preprocessor", "encoder", "decoder", "tokenizer"]
    if kind != "CTC":
        parts.append("joint")
    if "hybrid" in kind:
        parts.append("aux_ctc")
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
            f"{_some(members)}). Download or export it again."
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
    for part in ("decoder", "joint", "aux_ctc"):
        listed = _listed_pieces(config.get(part) or {})
        if len(listed) != len(pieces):
            continue
        pairs = [(str(theirs), ours) for theirs, ours in zip(listed, pieces, strict=True)]
        differing = [pair for pair in pairs if _plain(pair[0]) != _plain(pair[1])]
        if differing:
            theirs, ours = differing[0]
            raise UserError(
                f"The tokenizer in {path} is not the model's: {len(differing)} of its "
                f"{len(pieces)} pieces are others than in model_config.yaml, such as "
                f"{ours!r} for {theirs!r}. Download or export it again."
            )


def _listed_pieces(part: dict[str, Any]) -> list[Any]:
    """The pieces that a part of the configuration lists, itself or in its decoder; [] if none."""
    inner = part.get("decoder")
    listed = part.get("vocabulary")
    if not listed and isinstance(inner, dict):
        listed = inner.get("vocabulary")
    return listed if isinstance(listed, list) else []


def _plain(piece: str) -> str:
    """A piece without the marks of a word's beginning (SentencePiece) or continuation (NeMo's older
    lists).
    """
    return piece.removeprefix("##").replace("\u2581", "")


def _check_scores(pieces: list[str], scores: list[float], listing: bytes, path: Path) -> None:
    """Raise UserError if a few of the tokenizer's scores are not those of the listing beside it: a
    damaged one divides words otherwise. Where many differ, the listing is of another convention.
    """
    listed = _listed_scores(pieces, listing)
    if not listed:
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


def _listed_scores(pieces: list[str], listing: bytes) -> list[float]:
    """The scores in a listing of just these pieces; [] if it is of others, or cannot be read."""
    rows = [line.split("\t") for line in listing.decode(errors="replace").split("\n")]
    rows = [row for row in rows if len(row) == 2]
    if [row[0] for row in rows] != pieces:
        return []
    try:
        return [float(row[1]) for row in rows]
    except ValueError:
        return []


def _artifact(name: Any) -> str | None:
    """The name in the archive of a file that a configuration names; None if it names none."""
    return str(name).removeprefix("nemo:") if name else None


def _read_config(path: Path) -> tuple[dict[str, Any], dict[str, tarfile.TarInfo]]:
    """The configuration and the members of a .nemo. Raises UserError if it is no archive of a
    model.
    """
    import yaml

    try:
        with _open(path) as tar:
            # Reading the list of members to its end finds a file that ends too early.
            members = _members(tar, path)
            if CONFIG not in members:
                raise UserError(
                    f"{path} holds no {CONFIG} (found: {_some(members) or 'nothing'}): it is not "
                    f"a NeMo model. {EXPECTED}"
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
    most = _most_bytes(tar, path)
    for member in tar:
        name = os.path.normpath(member.name)
        total += member.size
        if member.size < 0:
            raise UserError(f"{path} is damaged: it gives {name} {member.size} bytes.")
        if total > most:
            raise UserError(f"{path} grows to more than {most:,} bytes. {NOT_BY_NEMO}")
        _check_member(member, name, path)
        if name in found and not (member.isdir() and found[name].isdir()):
            raise UserError(f"{path} holds two files of the name {name}. {NOT_BY_NEMO}")
        if name != ".":
            found[name] = member
    return found


def _most_bytes(tar: tarfile.TarFile, path: Path) -> float:
    """What an archive may grow to: where it is packed, not beyond what weights can."""
    packed = isinstance(tar.fileobj, gzip.GzipFile)
    return MOST_EXPANSION * path.stat().st_size if packed else math.inf


def _check_member(member: tarfile.TarInfo, name: str, path: Path) -> None:
    """Raise UserError unless a member is a file or folder inside the archive's own folder."""
    if name.startswith(("/", "..")):
        raise UserError(f"{path} holds {member.name}, outside its own folder. {NOT_BY_NEMO}")
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise _no_file(member, path)


def _file_in(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> IO[bytes]:
    """A member's content. Raises UserError if it is no ordinary file."""
    content = tar.extractfile(member) if member.isfile() else None
    if content is None:
        raise _no_file(member, path)
    return content


def _no_file(member: tarfile.TarInfo, path: Path) -> UserError:
    """The error to raise for a link, a folder or a device."""
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
            f"mapping: it is not a NeMo model. {EXPECTED}"
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
