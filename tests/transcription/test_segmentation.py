"""Log-probabilities of a long recording read in windows are those of the recording read whole."""

import numpy as np
import pytest
import soundfile

from parakeet_ft.errors import UserError
from parakeet_ft.transcription.segmentation import (
    MARGIN_SECONDS,
    VAD_SAMPLES,
    WARM_STEPS,
    _speech_probabilities,
    _windows,
    align_recording,
    ctc_log_probs,
)


@pytest.mark.parametrize("seconds", [0.5, 9.99, 10.0, 24.0, 31.37])
def test_windows_cover_each_frame_once_and_in_order(tmp_path, seconds):
    soundfile.write(
        tmp_path / "a.wav", np.arange(int(seconds * 16000)) % 20000 / 32768, 16000, subtype="FLOAT"
    )
    whole, at = np.arange(int(seconds * 16000)) % 20000 / 32768, 0
    for samples, skip, keep in _windows(
        str(tmp_path / "a.wav"), rate_hz=16000, frame_samples=1280, inner=50, margin=20
    ):
        begin = (at - skip) * 1280
        assert skip == min(20, at) and np.allclose(samples, whole[begin : begin + len(samples)])
        assert begin + len(samples) == len(whole) or len(samples) == (skip + keep + 20) * 1280
        at += keep
    assert at == -(-len(whole) // 1280)


@pytest.mark.parametrize("family", ["ctc", "hybrid"])
def test_windows_give_the_frames_of_the_whole(tiny_model, tmp_path, family):
    import torch

    model = tiny_model(family)
    model.eval()
    samples = 0.1 * np.random.default_rng(0).standard_normal(16000 * 30).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    with ctc_log_probs(model, str(tmp_path / "a.wav"), window_seconds=1000.0) as (
        found,
        frame_seconds,
        total_seconds,
    ):
        whole = np.array(found, dtype=np.float32)
    assert frame_seconds == pytest.approx(0.08) and total_seconds == pytest.approx(30.0, abs=0.1)
    with torch.no_grad():
        signal = torch.from_numpy(samples)[None]
        encoded, _ = model.encoder(
            **dict(
                zip(
                    ("audio_signal", "length"),
                    model.preprocessor(input_signal=signal, length=torch.tensor([len(samples)])),
                    strict=True,
                )
            )
        )
        head = model.ctc_decoder if family == "hybrid" else model.decoder
        expected = head(encoder_output=encoded)[0].numpy()
    assert (
        np.abs(whole - expected[: len(whole)]).max() < 0.02 and abs(len(whole) - len(expected)) <= 1
    )
    with ctc_log_probs(model, str(tmp_path / "a.wav"), window_seconds=2 * MARGIN_SECONDS + 4) as (
        found,
        *_,
    ):
        assert found.shape == whole.shape


def test_a_transducer_without_ctc_head_is_refused(tiny_model, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 16000)
    with pytest.raises(UserError, match="CTC head"):
        align_recording(tiny_model("tdt"), str(tmp_path / "a.wav"), "it is")


@pytest.mark.parametrize("steps", [1, 200, 1400])
def test_voice_detection_in_lanes_hears_what_it_hears_in_one_go(steps):
    import torch
    from silero_vad import load_silero_vad

    from parakeet_ft.data.audio import read_audio
    from parakeet_ft.data.manifest import read_manifest
    from parakeet_ft.files import DEMO

    threads = torch.get_num_threads()
    model = load_silero_vad()
    torch.set_num_threads(threads)
    speech = np.concatenate(
        [read_audio(u.audio_filepath) for u in read_manifest(DEMO / "guard.jsonl")[:30]]
    )
    samples = np.concatenate(
        [
            np.zeros(WARM_STEPS * VAD_SAMPLES, dtype=np.float32),
            np.resize(speech, steps * VAD_SAMPLES),
        ]
    )
    found = _speech_probabilities(model, samples)
    model.reset_states()
    with torch.inference_mode():
        expected = [
            model(torch.from_numpy(samples[at : at + VAD_SAMPLES]), 16000).item()
            for at in range(0, len(samples), VAD_SAMPLES)
        ][WARM_STEPS:]
    assert (
        len(found) == steps
        and np.mean((np.array(found) > 0.5) == (np.array(expected) > 0.5)) > 0.98
    )
