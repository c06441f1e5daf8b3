"""The code in a model card runs as it stands, and only what was exported is claimed."""

import contextlib
import importlib.util
import io
import re

import pytest
import soundfile

from parakeet_ft.data.audio import read_audio
from parakeet_ft.data.manifest import read_manifest
from parakeet_ft.errors import UserError
from parakeet_ft.export import parity
from parakeet_ft.export.nemo import save_nemo
from parakeet_ft.export.onnx import write_int8, write_onnx
from parakeet_ft.export.record import NAME, Exported, exports_of, note
from parakeet_ft.export.transformers import write_transformers
from parakeet_ft.files import DEMO
from parakeet_ft.model.restore import restore
from parakeet_ft.publishing.ways import ways
from parakeet_ft.tokenizer.sentencepiece_model import read_tokenizer

UTTERANCE = read_manifest(DEMO / "guard.jsonl")[2]
VERSIONS = {"nemo_toolkit": "3.0.0"}


def test_only_what_was_exported_is_claimed():
    onnx = Exported("onnx", "transducer", "", {})
    assert [way.title for way in ways("me/x", [], VERSIONS)] == ["NeMo"]
    assert [way.title for way in ways("me/x", [onnx], VERSIONS)] == ["NeMo", "onnx-asr"]
    assert ways("me/x", [onnx], VERSIONS)[1].note == "The transducer."


def test_sherpa_is_claimed_for_ctc_heads_with_their_weights_in_the_file():
    def titles(head, *files):
        export = Exported("onnx", head, "", dict.fromkeys(files, ""))
        return [way.title for way in ways("me/x", [export], VERSIONS)]

    assert titles("ctc", "onnx/model.onnx") == ["NeMo", "onnx-asr", "sherpa-onnx"]
    assert titles("ctc", "onnx/model.onnx", "onnx/model.onnx.data") == ["NeMo", "onnx-asr"]
    assert titles("transducer", "onnx/encoder-model.onnx") == ["NeMo", "onnx-asr"]


@pytest.fixture
def exported(tmp_path):
    """A folder with a file that was noted as the export of a model."""
    model, out = tmp_path / "best.nemo", tmp_path / "out"
    model.write_bytes(b"weights")
    (out / "onnx").mkdir(parents=True)
    (out / "onnx" / "model.onnx").write_bytes(b"network")
    note(out, "onnx", out / "onnx", source=model, head="ctc")
    return out, model


def test_an_export_is_of_this_model_and_as_it_was_written(exported):
    out, model = exported
    (found,) = exports_of(out, model)
    assert (found.target, found.head) == ("onnx", "ctc") and list(found.files) == [
        "onnx/model.onnx"
    ]
    (out / "onnx" / "model.onnx").write_bytes(b"another")
    with pytest.raises(UserError, match="is not what recipes/export.py wrote"):
        exports_of(out, model)
    model.write_bytes(b"trained again")
    with pytest.raises(UserError, match="from another model"):
        exports_of(out, model)


def test_a_record_that_names_files_elsewhere_or_is_missing_is_refused(exported, tmp_path):
    out, model = exported
    text = (out / NAME).read_text()
    (tmp_path / "secret").write_bytes(b"network")
    (out / NAME).write_text(text.replace("onnx/model.onnx", "../secret"))
    with pytest.raises(UserError, match="secret is not what"):
        exports_of(out, model)
    (out / NAME).write_text('{"onnx": {}}')
    with pytest.raises(UserError, match="no record of exports"):
        exports_of(out, model)
    with pytest.raises(UserError, match="recipes/export.py .* --to onnx"):
        exports_of(tmp_path, model)


@pytest.mark.slow
def test_the_code_of_every_section_prints_what_the_model_hears(tmp_path, monkeypatch):
    for package in ("onnx", "onnxruntime", "onnx_asr"):
        pytest.importorskip(package)
    import huggingface_hub
    from nemo.collections.asr.models import ASRModel

    model = restore("tiny").eval()
    best = save_nemo(model, tmp_path / "best.nemo")
    model, _ = parity.greedy_model(str(best), head="ctc")
    expected = parity.transcribe_clips(model, [UTTERANCE])
    folders = {name: tmp_path / "out" / name for name in ("transformers", "onnx", "onnx-int8")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    tokenizer = read_tokenizer(best)
    write_transformers(model, folders["transformers"], tokenizer=tokenizer)
    write_onnx(model, folders["onnx"], head="ctc")
    write_int8(folders["onnx"], folders["onnx-int8"])
    for name, folder in folders.items():
        note(tmp_path / "out", name, folder, source=best, head="ctc")
    exports = exports_of(tmp_path / "out", best)
    samples = read_audio(UTTERANCE.audio_filepath)
    soundfile.write(tmp_path / "speech.wav", samples, 16000)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path / "out")
    )
    monkeypatch.setattr(ASRModel, "from_pretrained", lambda _: ASRModel.restore_from(best))
    printed = {}
    sherpa = importlib.util.find_spec("sherpa_onnx")  # no package that is installed here needs it
    for way in ways("me/x", exports, VERSIONS):
        if way.title.startswith("sherpa") and not sherpa:
            compile(way.code, way.title, "exec")
            continue
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            exec(way.code, {})
        printed[way.title] = shown.getvalue().splitlines()[-1].split()
        assert re.match(r"pip install \S", way.install)
    eight_bits = [printed.pop(title) for title in list(printed) if "8-bit" in title]
    printed.pop("sherpa-onnx", None)  # its features are its own
    assert all(eight_bits) and printed.keys() == {"NeMo", "onnx-asr", "transformers"}
    assert all(words == expected[0].split() != [] for words in printed.values()), printed
