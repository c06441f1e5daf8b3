"""ONNX files of a model, in the form that the public package onnx-asr loads, in float32 or with
8-bit weights.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parakeet_ft.errors import UserError
from parakeet_ft.model import parts

# Protobuf's limit is 2 GiB; the graph itself needs some of it.
MAX_SINGLE_FILE_BYTES = 1_900_000_000
NETWORKS = {
    "ctc": ("model",),
    "rnnt": ("encoder-model", "decoder_joint-model"),
    "tdt": ("encoder-model", "decoder_joint-model"),
}
# Of the audio, by the names that the configuration has for them.
FEATURES = {
    "features": "features",
    "sample rate": "sample_rate",
    "window": "window_size",
    "stride": "window_stride",
    "normalisation": "normalize",
}


def onnx_kind(config: Mapping[str, Any], *, head: str) -> str:
    """`ctc`, `rnnt` or `tdt`: what onnx-asr is told that the model is. Raises UserError for what
    onnx-asr cannot hold.

    `config` is the model's configuration, `head` "ctc" or "transducer".
    """
    preprocessor = config["preprocessor"]
    found = {name: preprocessor.get(key) for name, key in FEATURES.items()}
    if found["features"] not in (80, 128) or list(found.values())[1:] != [
        16000,
        0.025,
        0.01,
        "per_feature",
    ]:
        raise UserError(
            f"onnx-asr computes 80 or 128 mel features of 16 kHz audio, windows of 25 ms every 10 "
            f"ms, normalised per feature; this model has "
            f"{', '.join(f'{key} {value}' for key, value in found.items())}. Leave onnx and "
            f"onnx-int8 out of --to."
        )
    if head == "ctc":
        return "ctc"
    if not config["joint"].get("num_extra_outputs"):
        return "rnnt"
    durations = durations_of(config)
    if durations != list(range(len(durations))):
        cure = (
            "Give --head ctc to export its CTC head"
            if config.get("aux_ctc")
            else "Leave onnx and onnx-int8 out of --to"
        )
        raise UserError(
            f"onnx-asr takes a TDT model's durations to be 0, 1, 2 ...; this model has "
            f"{durations}. {cure}."
        )
    return "tdt"


def durations_of(config: Mapping[str, Any]) -> list[int]:
    """A TDT model's durations, wherever its configuration keeps them."""
    loss = _section(_section(config, "loss"), "tdt_kwargs")
    decoding = _section(config, "decoding")
    defaults = _section(config, "model_defaults")
    found = loss.get("durations") or decoding.get("durations") or defaults.get("tdt_durations")
    return [int(duration) for duration in found or []]


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of a configuration, empty if there is none."""
    return config.get(name) or {}


def write_onnx(model: Any, folder: Path, *, head: str) -> str:
    """Write the network(s), vocab.txt and config.json into an existing empty folder; returns what
    `onnx_kind` does.

    The model cannot be trained afterwards: NeMo prepares it for export in place.
    """
    kind = onnx_kind(model.cfg, head=head)
    if parts.is_hybrid(model):
        model.set_export_config({"decoder_type": "ctc" if head == "ctc" else "rnnt"})
    work = folder / "networks"
    work.mkdir()
    model.eval()
    model.export(str(work / "model.onnx"), verbose=False)
    for name in NETWORKS[kind]:
        facts = sherpa_facts(model) if kind == "ctc" else {}
        move_network(work / f"{name}.onnx", folder / f"{name}.onnx", facts=facts)
    shutil.rmtree(work)
    (folder / "vocab.txt").write_text(
        "".join(
            f"{piece} {index}\n" for index, piece in enumerate([*parts.pieces(model), "<blk>"])
        ),
        encoding="utf-8",
    )
    config = {
        "model_type": f"nemo-conformer-{kind}",
        "features_size": int(model.cfg.preprocessor.features),
        "subsampling_factor": int(model.encoder.subsampling_factor),
    }
    if kind != "ctc":
        config["max_tokens_per_step"] = parts.max_symbols(model)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return kind


def sherpa_facts(model: Any) -> dict[str, str]:
    """What sherpa-onnx reads in a CTC network's metadata (offline-nemo-enc-dec-ctc-model.cc)."""
    return {
        "vocab_size": str(len(parts.pieces(model)) + 1),
        "subsampling_factor": str(int(model.encoder.subsampling_factor)),
        "normalize_type": str(model.cfg.preprocessor.normalize),
    }


def move_network(
    source: Path,
    target: Path,
    *,
    max_bytes: int = MAX_SINGLE_FILE_BYTES,
    facts: Mapping[str, str] | None = None,
) -> None:
    """Write an ONNX file to `target`, with `facts` as metadata: with all its weights in it, or,
    above `max_bytes`, with all of them in one file beside it.

    Above 2 GiB, PyTorch writes a file for each tensor. `model.onnx.data` is the name that onnx-asr
    looks for.
    """
    import onnx

    network = onnx.load(str(source))
    for key, value in (facts or {}).items():
        network.metadata_props.add(key=key, value=value)
    data = target.with_name(f"{target.name}.data")
    if sum(len(tensor.raw_data) for tensor in network.graph.initializer) > max_bytes:
        onnx.save_model(
            network,
            str(target),
            save_as_external_data=True,
            all_tensors_to_one_file=True,
            location=data.name,
            size_threshold=1024,
        )
    else:
        onnx.save_model(network, str(target))


def write_int8(source: Path, folder: Path) -> None:
    """From a folder of `write_onnx`, one with 8-bit weights of all matrix products, quantised as
    they are used, into an existing folder.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    for name in ("vocab.txt", "config.json"):
        shutil.copyfile(source / name, folder / name)
    for network in sorted(source.glob("*.onnx")):
        external = network.with_name(f"{network.name}.data").exists()
        target = folder / f"{network.stem}.int8.onnx"
        quantize_dynamic(
            str(network),
            str(target),
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm"],
            use_external_data_format=external,
        )


def onnx_recognizer(folder: Path, *, int8: bool = False) -> Callable[[np.ndarray], str]:
    """A function from 16 kHz audio (samples,) to its text, with onnx-asr from this folder alone, on
    the CPU.
    """
    import onnx_asr

    kind = json.loads((folder / "config.json").read_text())["model_type"]
    recognizer = onnx_asr.load_model(
        kind, folder, quantization="int8" if int8 else None, providers=["CPUExecutionProvider"]
    )
    return lambda samples: recognizer.recognize(samples, sample_rate=16000)
