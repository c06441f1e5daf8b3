"""Decoding against NeMo's own transcribe()."""

import pytest
import torch

from parakeet_ft.data.audio import read_audio
from parakeet_ft.data.manifest import read_manifest
from parakeet_ft.evaluation.transcribe import evaluating, length_batches, transcribe, transcribe_sets


@pytest.mark.parametrize("family", ["ctc", "rnnt", "tdt", "hybrid"])
def test_texts_equal_nemos_transcribe_in_the_order_given(family, tiny_model, speech):
    model = tiny_model(family)
    found = read_manifest(speech(count=5))
    model.eval()
    theirs = [h.text for h in model.transcribe([u.audio_filepath for u in found], batch_size=1, verbose=False)]
    assert transcribe(model, found, batch_seconds=1.0) == theirs
    assert any(theirs)


@pytest.mark.parametrize("family", ["ctc", "rnnt"])
def test_frames_without_a_piece_are_counted_as_one_by_one(family, tiny_model, speech):
    model, found = tiny_model(family).eval(), read_manifest(speech(count=3))
    counts = []
    transcribe(model, found, batch_seconds=100, on_frames=lambda silent, frames: counts.append((silent, frames)))
    silent = frames = 0
    for u in found:
        hypothesis = model.transcribe([u.audio_filepath], batch_size=1, verbose=False, return_hypotheses=True)[0]
        audio = torch.from_numpy(read_audio(u.audio_filepath, offset=0, duration=None, rate_hz=16000))[None]
        with torch.no_grad():
            outputs = model(input_signal=audio, input_signal_length=torch.tensor([audio.shape[1]]))
        frames += int(outputs[1])
        silent += int((outputs[0][0].argmax(-1) == model.decoding.blank_id).sum()) if family == "ctc" else int(outputs[1]) - len(hypothesis.y_sequence)
    assert len(counts) == 1 and counts[0] == (max(0, silent), frames) and frames > 0


def test_every_module_keeps_its_mode(tiny_model):
    model = tiny_model("ctc").train()
    model.encoder.layers[0].eval()
    before = [m.training for m in model.modules()]
    with evaluating(model):
        assert not any(m.training for m in model.modules())
    assert [m.training for m in model.modules()] == before


def test_batches_are_sorted_and_within_the_limit():
    durations = [3.0, 1.0, 2.0, 9.0, 2.0]
    batches = length_batches(durations, batch_seconds=6)
    assert sorted(i for b in batches for i in b) == [0, 1, 2, 3, 4]
    assert batches == [[3], [0, 2], [4, 1]]


def test_a_set_in_two_roles_is_decoded_once(tiny_model, speech, monkeypatch):
    model, found = tiny_model("ctc"), read_manifest(speech(count=2))
    calls = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **inputs: calls.append(1) or forward(**inputs))
    texts = transcribe_sets(model, {"train": found, "validation": found, "test": found}, batch_seconds=100)
    assert list(texts) == ["validation", "test"] and texts["validation"] == texts["test"] and len(calls) == 1
    assert torch.is_grad_enabled()
