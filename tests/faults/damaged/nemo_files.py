"""Damaged .nemo files: what is checked before torch, restoring, and the recipes that refuse before
torch. What is restored must write and hold what the undamaged file does."""

from __future__ import annotations

import bz2
import copy
import functools
import gzip
import io
import itertools
import json
import lzma
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from damaged.case import Case, Outcome, call, time_limit
from damaged.prepared import flipped, truncated
from parakeet_ft.errors import UserError
from parakeet_ft.files import DEMO
from parakeet_ft.model.source import check_source, locate
from parakeet_ft.tokenizer.sentencepiece_model import load_sentencepiece, train_sentencepiece

CONFIG, WEIGHTS = "model_config.yaml", "model_weights.ckpt"
Members = dict[str, bytes]
Write = Callable[[Path], None]
SECTIONS = ("preprocessor", "encoder", "decoder", "tokenizer", "decoding", "joint", "aux_ctc")
WRONG = {"number": 3, "list": [1], "empty": {}}
# key in the configuration of the bundled CTC model -> a value of no sense.
VALUES = (
    ("target", 5),
    ("target", ["EncDecCTCModelBPE"]),
    ("target", "nemo.collections.asr.models.EncDecRNNTBPEModel"),
    ("target", "nemo.collections.tts.models.FastPitchModel"),
    ("target", "os.system"),
    ("target", "nowhere.EncDecCTCModelBPE"),
    ("labels", 5),
    ("encoder.n_layers", "six"),
    ("encoder.n_layers", 7),
    ("encoder.n_layers", -1),
    ("encoder.d_model", 288),
    ("encoder.n_heads", 5),
    ("encoder.subsampling", "nope"),
    ("encoder.att_context_size", "nope"),
    ("encoder.feat_in", None),
    ("encoder.nope", 1),
    ("encoder._target_", "os.system"),
    ("encoder._target_", 5),
    ("encoder._target_", "nemo.collections.asr.modules.ConvASRDecoder"),
    ("encoder.d_model", "${nope}"),
    ("encoder.d_model", "???"),
    ("decoder.num_classes", 10),
    ("decoder.num_classes", "many"),
    ("decoder.vocabulary", None),
    ("decoder.vocabulary", "abc"),
    ("decoder.vocabulary", [[1]] * 256),
    ("preprocessor.sample_rate", "abc"),
    ("preprocessor.sample_rate", 8000),
    ("preprocessor.window", "nope"),
    ("preprocessor.features", 0),
    ("decoding.strategy", "nope"),
    ("decoding.greedy", 5),
    ("spec_augment", 5),
    ("spec_augment.freq_masks", "x"),
    ("tokenizer.type", 5),
    ("tokenizer.model_path", ["x"]),
    ("tokenizer.model_path", "nemo:../../../etc/passwd"),
    ("tokenizer.model_path", "/etc/passwd"),
    ("tokenizer.vocab_path", 5),
)
# What the recipes refuse before torch, and with what arguments they are called.
EARLY = (
    "empty",
    "cut 3",
    "cut in the padding at the end",
    "endless zeros, packed",
    "and a file outside",
    "configuration binary",
    "configuration a bomb of aliases",
    "encoder nothing",
    "tokenizer garbage",
    "tokenizer foreign, of the same size",
    "weights a page",
    "weights cut 3",
    "a link to itself",
)
RECIPES = {
    "transcribe.py": lambda path, out: (path, DEMO / "audio", "--out", out),
    "export.py": lambda path, out: (path, "--to", "nemo", "--out", out),
}


def cases(folder: Path) -> Iterable[Case]:
    import nemo.collections.asr  # noqa: F401  (its import belongs to no case's time)

    for number, (name, write, base) in enumerate(_damages()):
        path = folder / f"{number}.nemo"
        yield Case("nemo_files", name, functools.partial(_restored, path, write, base))
    early = (damage for damage in _damages() if damage[0] in EARLY)
    for number, (name, write, _) in enumerate(early):
        for recipe, arguments in RECIPES.items():
            path = folder / f"{number}_{recipe}.nemo"
            run = functools.partial(_refused, recipe, arguments, path, write)
            yield Case("nemo_files", f"{name}, {recipe}", run)


def _restored(path: Path, write: Write, base: str) -> Outcome:
    """What the check before torch makes of it, and restoring."""
    from parakeet_ft.model.restore import restore

    write(path)
    undamaged = _facts_of(base)
    try:
        with time_limit():
            check_source(str(path))
            facts = _facts(restore(str(path)))
    except UserError as error:
        return Outcome(handled=True, message=str(error))
    finally:
        _remove(path)
    differing = [key for key in undamaged if facts[key] != undamaged[key]]
    return Outcome(silent=bool(differing), message=f"other than undamaged: {differing}")


def _refused(recipe: str, arguments: Callable, path: Path, write: Write) -> Outcome:
    write(path)
    ended = call(f"recipes/{recipe}", *arguments(path, path.with_suffix(".out")))
    _remove(path)
    return Outcome(
        handled=ended.refused(), traceback=not ended.refused(), message=ended.trace or ended.err
    )


def _remove(path: Path) -> None:
    """Delete it: a hundred of them would need a gigabyte."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@functools.cache
def _facts_of(base: str) -> dict[str, Any]:
    from parakeet_ft.model.restore import restore

    return _facts(restore(base))


def _facts(model: Any) -> dict[str, Any]:
    """Weights, pieces, how a text is divided, and what is heard in two recordings."""
    from parakeet_ft.data.manifest import read_manifest
    from parakeet_ft.transcription.decode import transcribe_sets

    clips = read_manifest(DEMO / "dev.jsonl")[:2]
    state = {name: value.numpy().tobytes() for name, value in model.state_dict().items()}
    number = model.tokenizer.vocab_size
    return {
        "weights": state,
        "pieces": [model.tokenizer.ids_to_tokens([i])[0] for i in range(number)],
        "division": [model.tokenizer.text_to_ids(clip.text) for clip in clips],
        "heard": transcribe_sets(model.eval(), {"clips": clips}, batch_seconds=60.0),
    }


@functools.cache
def _raw(base: str = "tiny") -> bytes:
    return locate(base).read_bytes()


@functools.cache
def _members(base: str = "tiny") -> Members:
    with tarfile.open(locate(base)) as tar:
        return {
            os.path.normpath(member.name): tar.extractfile(member).read()
            for member in tar.getmembers()
            if member.isfile()
        }


def _packed(members: Members, *more: tarfile.TarInfo | tuple[str, bytes], mode: str = "w") -> bytes:
    """A tar of files, then what else is given."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:
        for member in (*members.items(), *more):
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            tar.addfile(info, io.BytesIO(member[1]))
    return out.getvalue()


def _special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def _damages() -> Iterator[tuple[str, Write, str]]:
    """(name, what writes the file, the undamaged checkpoint)."""

    def to_write(make: Callable[[], bytes]) -> Write:
        return lambda path: path.write_bytes(make())

    makers = (_whole_files, _archives, _configurations, _tokenizers, _weights)
    for name, make in itertools.chain.from_iterable(maker() for maker in makers):
        yield name, to_write(make), "tiny"
    for name, make in _transducers():
        yield name, to_write(make), "tiny_tdt_ctc"
    for name, write in _places():
        yield name, write, "tiny"


Damages = Iterator[tuple[str, Callable[[], bytes]]]


def _whole_files() -> Damages:
    """The file as such: cut, overwritten, something else, packed."""
    size = len(_raw())
    yield "empty", lambda: b""
    yield "one byte", lambda: b"x"
    yield "zeros", lambda: bytes(size)
    yield "random", lambda: np.random.default_rng(1).bytes(100_000)
    yield "a page", lambda: b"<html>not found</html>" * 100
    yield "a git-lfs pointer", lambda: b"version https://git-lfs.github.com/spec/v1\nsize 2\n"
    yield "weights alone", lambda: _members()[WEIGHTS]
    for number, content in enumerate(truncated(_raw(), places=12)):
        yield f"cut {number}", lambda content=content: content
    yield "cut in a header", lambda: _raw()[:700]
    yield "cut in the padding at the end", lambda: _raw()[: size - 3000]
    yield "something behind it", lambda: _raw() + b"x" * 1000
    yield "twice", lambda: _raw() * 2
    yield "something before it", lambda: b"x" * 512 + _raw()
    yield "no first block", lambda: bytes(512) + _raw()[512:]
    for number in range(4):
        start = size // 5 * (number + 1)
        zeroed = _raw()[:start] + bytes(4096) + _raw()[start + 4096 :]
        yield f"a page of zeros {number}", lambda zeroed=zeroed: zeroed
    with tarfile.open(locate("tiny")) as tar:
        headers = [(member.name, member.offset) for member in tar.getmembers()]
    for name, offset in headers:
        damaged = flipped(_raw(), seed=3, count=1, within=slice(offset, offset + 156))
        yield f"a bit in the header of {name}", lambda damaged=damaged: damaged
    packed = gzip.compress(_raw(), compresslevel=1)
    yield "packed with gzip", lambda: packed
    yield "packed and cut", lambda: packed[: len(packed) // 2]
    yield "packed and flipped", lambda: flipped(packed, seed=4)
    yield "packed with xz", lambda: lzma.compress(_raw()[:500_000], preset=0)
    yield "packed with bzip2", lambda: bz2.compress(_raw()[:500_000])
    zeros = {CONFIG: bytes(50_000_000)}
    yield "endless zeros, packed", lambda: gzip.compress(_packed(zeros))


def _archives() -> Damages:
    """The members: other ones, missing, twice, links, devices, outside."""
    whole = _members()
    yield "other things", lambda: _packed({"readme.txt": b"hello", "a/b.jpg": b"x" * 1000})
    yield "an archive in an archive", lambda: _packed({"tiny.nemo": _raw()})
    yield "in a folder", lambda: _packed({f"model/{k}": v for k, v in whole.items()})
    for gone in whole:
        short = {name: content for name, content in whole.items() if name != gone}
        yield f"no {gone}", lambda short=short: _packed(short)
    for name in (CONFIG, WEIGHTS, next(iter(whole))):
        rest = {other: content for other, content in whole.items() if other != name}
        for word, kind in (("link", tarfile.SYMTYPE), ("folder", tarfile.DIRTYPE)):
            special = _special(name, kind, "/etc/passwd" if kind == tarfile.SYMTYPE else "")
            yield (
                f"{name} is a {word}",
                lambda rest=rest, special=special: _packed(rest, special),
            )
    for word, special in (
        ("hard link", _special("x", tarfile.LNKTYPE, "/etc/passwd")),
        ("link", _special("x", tarfile.SYMTYPE, "/etc")),
        ("fifo", _special("x", tarfile.FIFOTYPE)),
        ("device", _special("x", tarfile.CHRTYPE)),
        ("file of the root", ("/tmp/parakeet_ft_evil", b"x")),
        ("file outside", ("../parakeet_ft_evil", b"x")),
        ("second configuration", (CONFIG, b"target: x")),
        ("second weights", (f"./{WEIGHTS}", b"x")),
    ):
        yield f"and a {word}", lambda special=special: _packed(whole, special)
    yield "a size of 8 GB", lambda: _with_size(8 * 2**30 - 1)
    yield "a size below 0", lambda: _with_size(-5)
    yield "a hole of a terabyte", lambda: _with_hole(10**12)


def _with_size(size: int) -> bytes:
    """The weights' header says another size."""
    out = bytearray(_packed(_members()))
    with tarfile.open(fileobj=io.BytesIO(bytes(out))) as tar:
        member = tar.getmember(WEIGHTS)
    member.size = size
    out[member.offset : member.offset + 512] = member.tobuf(tarfile.GNU_FORMAT)
    return bytes(out)


def _with_hole(size: int) -> bytes:
    """A tokenizer that GNU's tar holds as a sparse file."""
    name = next(iter(_members()))
    info = tarfile.TarInfo(name)
    info.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.map": f"{size - 1},1",
        "GNU.sparse.size": str(size),
        "GNU.sparse.name": name,
    }
    info.size = 1
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(b"x"))
    rest = {other: content for other, content in _members().items() if other != name}
    return out.getvalue()[: -tarfile.RECORDSIZE + 512 * 3] + _packed(rest)


def _configurations() -> Damages:
    """model_config.yaml: no YAML, no mapping, bombs, and values of no sense."""
    text = _members()[CONFIG].decode()
    levels = itertools.pairwise("abcdefghijk")
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in levels
    )
    for name, content in {
        "empty": "",
        "binary": np.random.default_rng(2).bytes(3000),
        "in UTF-16": text.encode("utf-16"),
        "cut": text[:1500],
        "a list": "[1, 2]",
        "a word": "hello",
        "null": "null",
        "unclosed": "a: [",
        "indented with tabs": text.replace("  ", "\t"),
        "a bomb of aliases": text + bomb,
        "within itself": text + "a: &a [*a]\n",
        "nested": f"{text}a: {'[' * 5000}\n",
        "a Python object": f"{text}a: !!python/object/apply:os.system [true]\n",
        "of five million letters": f"{text}a: '{'x' * 5_000_000}'\n",
        "a key twice": f"{text}encoder: {{}}\n",
        "without lines": text.replace("\n", " "),
        "a zero byte": text.replace("n_layers", "n_\0layers"),
    }.items():
        content = content.encode() if isinstance(content, str) else content
        yield f"configuration {name}", functools.partial(_replaced, {CONFIG: content})
    for section in SECTIONS[:5]:
        for word, value in WRONG.items():
            yield f"{section} {word}", functools.partial(_configured, section, value)
    for key, value in VALUES:
        words = str(value)[:50]
        yield f"{key} {words}", functools.partial(_configured, key, value)


def _replaced(contents: Members, base: str = "tiny") -> bytes:
    return _packed(_members(base) | contents)


def _configured(key: str, value: Any, base: str = "tiny") -> bytes:
    """With another value for a dotted key of the configuration."""
    config = yaml.safe_load(_members(base)[CONFIG])
    *sections, last = key.split(".")
    functools.reduce(dict.__getitem__, sections, config)[last] = value
    return _replaced({CONFIG: yaml.safe_dump(config).encode()}, base)


def _transducers() -> Damages:
    """What only a hybrid model has."""
    for section in ("joint", "aux_ctc", "loss", "decoder"):
        for word, value in WRONG.items():
            yield (
                f"hybrid: {section} {word}",
                functools.partial(_configured, section, value, "tiny_tdt_ctc"),
            )
    for key, value in (
        ("loss.loss_name", "multiblank_rnnt"),
        ("loss.loss_name", "nope"),
        ("joint.jointnet", 5),
        ("joint.num_classes", 7),
        ("joint.vocabulary", ["x"] * 256),
        ("aux_ctc.decoder", 5),
        ("aux_ctc.decoder.vocabulary", 5),
        ("decoder.prednet", "x"),
        ("model_defaults", 5),
        ("target", "nemo.collections.asr.models.EncDecCTCModelBPE"),
    ):
        name = f"hybrid: {key} {str(value)[:50]}"
        yield name, functools.partial(_configured, key, value, "tiny_tdt_ctc")


def _tokenizers() -> Damages:
    name = yaml.safe_load(_members()[CONFIG])["tokenizer"]["model_path"].removeprefix("nemo:")
    model = _members()[name]
    texts = ["other words than it was trained on", "quick brown foxes jump over lazy dogs"]
    damaged = {
        "empty": b"",
        "garbage": b"x" * 5000,
        "random": np.random.default_rng(5).bytes(5000),
        "cut": model[: len(model) // 2],
        "foreign": train_sentencepiece(texts, vocab_size=40),
        "foreign, of the same size": _foreign(),
        "another letter in a piece": model.replace("▁the".encode(), "▁thx".encode(), 1),
        "another score": _rescored(model),
        "too large": model + b"x" * 5_000_000,
    }
    # SentencePiece stores much beside the pieces, which stand at the beginning.
    for seed in range(6):
        damaged[f"flipped {seed}"] = flipped(model, seed=seed, count=1, within=slice(0, 4000))
    for word, content in damaged.items():
        yield f"tokenizer {word}", functools.partial(_replaced, {name: content})
    for other in _members():
        if other.endswith((".vocab", "vocab.txt")):
            yield f"{other} garbage", functools.partial(_replaced, {other: b"\xff" * 100})


def _foreign() -> bytes:
    """A tokenizer of as many pieces, in another order."""
    letters = "abcdefghijklmnopqrstuvwxyz'"
    pairs = [f"{a}{b}{c}" for a, b, c in itertools.product(letters, "aeiou", "rstln")]
    return train_sentencepiece([" ".join(pairs)], vocab_size=256)


def _rescored(model: bytes) -> bytes:
    """One piece's score, a little-endian float behind tag 0x15, is another."""
    place = model.index("▁the".encode()) + len("▁the".encode()) + 1
    assert model[place - 1] == 0x15 and load_sentencepiece(model)
    return model[:place] + np.float32(-200).tobytes() + model[place + 4 :]


def _weights() -> Damages:
    weights = _members()[WEIGHTS]
    contents: dict[str, Callable[[], bytes]] = {
        "empty": lambda: b"",
        "garbage": lambda: b"x" * 5000,
        "a page": lambda: b"<html>not found</html>" * 100,
        "a pickle": lambda: pickle.dumps({"a": 1}),
        "zeros": lambda: bytes(len(weights)),
        "without a directory": lambda: weights[:-1000],
        "a zip of other things": lambda: _zipped({"readme.txt": b"hello"}),
        "an empty zip": lambda: _zipped({}),
        "without the pickle": lambda: _zipped(_zip_members(weights), without="data.pkl"),
        "without a tensor": lambda: _zipped(_zip_members(weights), without="data/2"),
        "a payload": lambda: _saved({"weight": Payload()}),
        "in the old format": lambda: _saved(_state(), _use_new_zipfile_serialization=False),
    }
    for number, content in enumerate(truncated(weights, places=4)):
        contents[f"cut {number}"] = lambda content=content: content
    for seed in range(6):
        contents[f"flipped {seed}"] = functools.partial(flipped, weights, seed=seed, count=1)
    tensors = slice(weights.index(b"data/1") + 1000, len(weights) - 60_000)
    for seed in range(4):
        contents[f"a bit in a tensor {seed}"] = functools.partial(
            flipped, weights, seed=seed, count=1, within=tensors
        )
    for name, change in CHANGES.items():
        contents[name] = lambda change=change: _saved(change(_state()))
    for name, make in contents.items():
        yield f"weights {name}", lambda make=make: _replaced({WEIGHTS: make()})


class Payload:
    """What a pickle can do to whoever reads it."""

    def __reduce__(self):
        return os.system, ("touch /tmp/parakeet_ft_evil",)


def _first(state: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """With the encoder's first weight changed."""
    name = next(name for name in state if name.startswith("encoder.") and state[name].ndim > 1)
    return state | {name: change(state[name])}


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "with NaN": lambda state: _first(state, lambda value: value * float("nan")),
    "infinite": lambda state: _first(state, lambda value: value + float("inf")),
    "of whole numbers": lambda state: _first(state, lambda value: value.long()),
    "true and false": lambda state: _first(state, lambda value: value > 0),
    "complex": lambda state: _first(state, lambda value: value + 1j),
    "in double precision": lambda state: _first(state, lambda value: value.double()),
    "of another shape": lambda state: _first(state, lambda value: value[:1]),
    "transposed": lambda state: _first(state, lambda value: value.flatten()),
    "with a word for a tensor": lambda state: _first(state, lambda value: "x"),
    "with nothing for a tensor": lambda state: _first(state, lambda value: None),
    "with one more": lambda state: state | {"more": next(iter(state.values()))},
    "with one less": lambda state: dict(list(state.items())[:-1]),
    "by other names": lambda state: {f"model.{name}": v for name, v in state.items()},
    "by numbers": lambda state: dict(enumerate(state.values())),
    "none": lambda state: {},
    "a list": lambda state: list(state.values()),
    "a tensor": lambda state: next(iter(state.values())),
    "a level deeper": lambda state: {"state_dict": state},
}


def _state() -> dict[str, Any]:
    import torch

    return dict(torch.load(io.BytesIO(_members()[WEIGHTS]), map_location="cpu", weights_only=True))


def _saved(content: Any, **options) -> bytes:
    import torch

    out = io.BytesIO()
    torch.save(copy.copy(content), out, **options)
    return out.getvalue()


def _zip_members(content: bytes) -> Members:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _zipped(members: Members, *, without: str | None = None) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            if without is None or not name.endswith(f"/{without}"):
                archive.writestr(name, content)
    return out.getvalue()


def _places() -> Iterator[tuple[str, Write]]:
    """No ordinary file where the .nemo should be."""
    yield "missing", lambda path: None
    yield "a folder", lambda path: path.mkdir()
    yield "a fifo", lambda path: os.mkfifo(path)
    yield "a link to itself", lambda path: path.symlink_to(path.name)
    yield "a link to nothing", lambda path: path.symlink_to("nowhere.nemo")
    yield "a file that cannot be read", lambda path: path.symlink_to("/proc/self/mem")
    yield "a device", lambda path: path.symlink_to("/dev/zero")
    yield "a folder with two", _folder_with_two


def _folder_with_two(path: Path) -> None:
    path.mkdir()
    for name in "ab":
        (path / f"{name}.nemo").write_text(json.dumps(name))
