"""How a published model is used: NeMo always, and each format that was exported. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from parakeet_ft.export.record import Exported

TITLES = {
    "onnx": "onnx-asr",
    "onnx-int8": "onnx-asr, 8-bit weights",
    "transformers": "transformers",
}


@dataclasses.dataclass(frozen=True)
class Way:
    """A section of the card: what to install, and code that prints the text of speech.wav."""

    title: str
    install: str
    code: str
    note: str = ""


def ways(repo: str, exports: Sequence[Exported], versions: Mapping[str, str]) -> list[Way]:
    """NeMo, then the exported formats."""
    found = [_nemo(repo, versions["nemo_toolkit"])]
    for export in exports:
        if export.target == "transformers":
            found.append(_transformers(repo))
        elif export.target in TITLES:
            found.append(_onnx(repo, export))
            if sherpa_reads(export):
                found.append(_sherpa(repo, export))
    return found


def sherpa_reads(export: Exported) -> bool:
    """Whether sherpa-onnx loads an ONNX export: CTC heads, all weights in the file."""
    beside = any(name.endswith(".onnx.data") for name in export.files)
    return export.head == "ctc" and not beside


def _nemo(repo: str, version: str) -> Way:
    return Way(
        "NeMo",
        f'pip install "nemo_toolkit[asr]=={version}"',
        f"""from nemo.collections.asr.models import ASRModel

model = ASRModel.from_pretrained("{repo}")
print(model.transcribe(["speech.wav"])[0].text)""",
    )


def _download(repo: str, folder: str) -> str:
    """Code that fetches a folder of the repository; a name for it."""
    return f"""from huggingface_hub import snapshot_download

folder = snapshot_download("{repo}", allow_patterns="{folder}/*") + "/{folder}"
"""


def _transformers(repo: str) -> Way:
    return Way(
        TITLES["transformers"],
        "pip install transformers torch soundfile",
        f"""import soundfile
from transformers import AutoModelForCTC, AutoProcessor
{_download(repo, "transformers")}
model = AutoModelForCTC.from_pretrained(folder)
processor = AutoProcessor.from_pretrained(folder)
samples, rate_hz = soundfile.read("speech.wav", dtype="float32")
inputs = processor([samples], sampling_rate=rate_hz)
print(processor.batch_decode(model.generate(**inputs), skip_special_tokens=True)[0])""",
        "The CTC head.",
    )


def _onnx(repo: str, export: Exported) -> Way:
    quantized = ', quantization="int8"' if export.target == "onnx-int8" else ""
    return Way(
        TITLES[export.target],
        "pip install onnx-asr onnxruntime huggingface_hub",
        f"""import json

import onnx_asr
{_download(repo, export.target)}
kind = json.load(open(folder + "/config.json"))["model_type"]
model = onnx_asr.load_model(kind, folder{quantized})
print(model.recognize("speech.wav"))""",
        "The CTC head." if export.head == "ctc" else "The transducer.",
    )


def _sherpa(repo: str, export: Exported) -> Way:
    eight_bits = export.target == "onnx-int8"
    network = "model.int8.onnx" if eight_bits else "model.onnx"
    return Way(
        "sherpa-onnx, 8-bit weights" if eight_bits else "sherpa-onnx",
        "pip install sherpa-onnx soundfile huggingface_hub",
        f"""import json

import sherpa_onnx
import soundfile
{_download(repo, export.target)}
recognizer = sherpa_onnx.OfflineRecognizer.from_nemo_ctc(
    model=folder + "/{network}",
    tokens=folder + "/vocab.txt",
    feature_dim=json.load(open(folder + "/config.json"))["features_size"],
)
samples, rate_hz = soundfile.read("speech.wav", dtype="float32")
stream = recognizer.create_stream()
stream.accept_waveform(rate_hz, samples)
recognizer.decode_stream(stream)
print(stream.result.text)""",
        "The CTC head. Its features are its own: its texts are not those that were measured.",
    )
