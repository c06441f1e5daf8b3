"""One engine: a file has the same text whichever recipe is asked for it."""

import json

import numpy as np
import pytest
import soundfile

from parakeet_ft.data.audio import read_audio
from parakeet_ft.data.manifest import read_manifest
from parakeet_ft.files import DEMO
from tests.recipes import test_evaluate, test_transcribe_recipe
from tests.recipes.test_evaluate import recipe  # noqa: F401

MODEL = "tiny_tdt_ctc"


def joined(utterances, seconds):
    """Clips one after the other, up to so many seconds."""
    samples = np.concatenate([read_audio(u.audio_filepath) for u in utterances])
    assert len(samples) > seconds * 16000
    return samples[: round(seconds * 16000)]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A manifest of short clips, one in long silence, one silent, one of a minute, one longer."""
    folder = tmp_path_factory.mktemp("clips")
    short = read_manifest(DEMO / "guard.jsonl")[:6]
    long = read_manifest(DEMO / "replay.jsonl")
    speech = read_audio(short[0].audio_filepath)
    audio = {f"short{i}": read_audio(u.audio_filepath) for i, u in enumerate(short)}
    audio["much_silence"] = np.pad(speech, (5 * 16000, 12 * 16000))
    audio["silent"] = np.random.default_rng(0).integers(-1, 2, 48000) / 32768
    audio["minute"] = joined(long, 59.5)
    audio["longer"] = joined(long[30:], 66)
    lines = []
    for name, samples in audio.items():
        soundfile.write(folder / f"{name}.wav", samples, 16000)
        lines.append(
            {
                "audio_filepath": str(folder / f"{name}.wav"),
                "duration": len(samples) / 16000,
                "text": "what was said",
            }
        )
    path = folder / "clips.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("head", ["transducer", "ctc"])
def test_evaluating_and_transcribing_give_the_same_texts(
    head,
    clips,
    recipe,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    test_evaluate.run(
        recipe,
        tmp_path / "evaluated",
        f"models=[{MODEL}]",
        f"manifests=[{clips}]",
        f"decoding.head={head}",
    )
    (file,) = (tmp_path / "evaluated").glob("hypotheses/*.jsonl")
    scored = [json.loads(line)["pred_text"] for line in file.read_text().splitlines()]
    out = tmp_path / "transcribed"
    assert (
        test_transcribe_recipe.start(
            monkeypatch, MODEL, clips, "--out", out, "--head", head, "--format", "txt,json"
        )
        == 0
    )
    written = [row["pred_text"] for row in test_transcribe_recipe.rows(out)]
    assert scored == written
    names = [u.audio_filepath.rpartition("/")[2] for u in read_manifest(clips)]
    texts = dict(zip(names, written, strict=True))
    assert texts["silent.wav"] == "" and all(
        text for name, text in texts.items() if name != "silent.wav"
    )
    assert len(texts["minute.wav"].split()) > 60 and len(texts["longer.wav"].split()) > 60
