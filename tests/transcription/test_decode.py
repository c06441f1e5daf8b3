"""Decoding against NeMo's own transcribe()."""

import numpy
import pytest
import soundfile
import torch

from parakeet_ft.data.audio import read_audio
from parakeet_ft.data.manifest import Utterance, read_manifest
from parakeet_ft.errors import UserError
from parakeet_ft.transcription.decode import evaluating, transcribe, transcribe_sets
from parakeet_ft.transcription.segments import length_batches


@pytest.mark.parametrize("family", ["ctc", "rnnt", "tdt", "hybrid"])
def test_texts_equal_nemos_transcribe_in_the_order_given(family, tiny_model, speech):
    model = tiny_model(family)
    found = read_manifest(speech(count=5))
    model.eval()
    theirs = [
        h.text
        for h in model.transcribe([u.audio_filepath for u in found], batch_size=1, verbose=False)
    ]
    assert transcribe(model, found, batch_seconds=1.0) == theirs
    assert any(theirs)


@pytest.mark.parametrize("family", ["ctc", "rnnt"])
def test_frames_without_a_piece_are_counted_as_one_by_one(family, tiny_model, speech):
    model, found = tiny_model(family).eval(), read_manifest(speech(count=3))
    counts = []
    transcribe(
        model,
        found,
        batch_seconds=100,
        on_frames=lambda silent, frames: counts.append((silent, frames)),
    )
    silent = frames = 0
    for u in found:
        hypothesis = model.transcribe(
            [u.audio_filepath], batch_size=1, verbose=False, return_hypotheses=True
        )[0]
        audio = torch.from_numpy(
            read_audio(u.audio_filepath, offset=0, duration=None, rate_hz=16000)
        )[None]
        with torch.no_grad():
            outputs = model(input_signal=audio, input_signal_length=torch.tensor([audio.shape[1]]))
        frames += int(outputs[1])
        silent += (
            int((outputs[0][0].argmax(-1) == model.decoding.blank_id).sum())
            if family == "ctc"
            else int(outputs[1]) - len(hypothesis.y_sequence)
        )
    assert len(counts) == 1 and counts[0] == (max(0, silent), frames) and frames > 0


def test_silence_has_no_words_and_counts_as_silent_frames(tiny_model, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "silent.wav", numpy.zeros(2 * 16000), 16000)
    model, counts = tiny_model("rnnt"), []
    monkeypatch.setattr(model, "forward", None)
    silent = Utterance(str(tmp_path / "silent.wav"), 2.0, "")
    assert transcribe(model, [silent], on_frames=lambda *found: counts.append(found)) == [""]
    assert counts == [(25, 25)], "frames of 80 ms"


def test_a_file_without_audio_is_an_error_where_an_utterance_was_promised(tiny_model, tmp_path):
    (tmp_path / "empty.wav").touch()
    with pytest.raises(UserError, match=r"empty\.wav"):
        transcribe(tiny_model("ctc"), [Utterance(str(tmp_path / "empty.wav"), 2.0, "")])


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
    texts = transcribe_sets(
        model, {"train": found, "validation": found, "test": found}, batch_seconds=100
    )
    assert (
        list(texts) == ["validation", "test"]
        and texts["validation"] == texts["test"]
        and len(calls) == 1
    )
    assert torch.is_grad_enabled()


@pytest.fixture
def graphs_without_a_gpu(monkeypatch):
    """NeMo's CUDA-graph decoders run on the CPU, state and all, but without a capture."""
    from nemo.collections.asr.parts.submodules.transducer_decoding import label_looping_base

    base = label_looping_base.GreedyBatchedLabelLoopingComputerBase

    def call(self, x, out_len, prev_batched_state=None, multi_biasing_ids=None):
        decode = self.torch_impl if self.cuda_graphs_mode is None else self.cuda_graphs_impl
        return decode(x, out_len, prev_batched_state, multi_biasing_ids)

    def enable(self):
        changed = self.cuda_graphs_mode is None
        self.force_cuda_graphs_mode("no_graphs")
        return changed

    monkeypatch.setattr(base, "__call__", call)
    monkeypatch.setattr(base, "maybe_enable_cuda_graphs", enable)


def computer_of(model):
    return model.decoding.decoding.decoding_computer


def change_prediction_network(model):
    """As training does: other weights in the same tensors."""
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=torch.manual_seed(1)))


@pytest.mark.parametrize("family", ["rnnt", "tdt"])
@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_a_decoder_that_kept_old_weights_is_not_used(
    family, cuda_graphs, tiny_model, speech, graphs_without_a_gpu
):
    model, found = tiny_model(family), read_manifest(speech(count=4))
    computer_of(model).force_cuda_graphs_mode("no_graphs")
    transcribe(model, found, cuda_graphs=cuda_graphs)
    change_prediction_network(model)
    texts = transcribe(model, found, cuda_graphs=cuda_graphs)
    fresh = tiny_model(family)
    fresh.load_state_dict(model.state_dict())
    fresh.decoding.decoding.disable_cuda_graphs()
    assert texts == transcribe(fresh, found)
    assert computer_of(model).cuda_graphs_mode is None and computer_of(model).state is None


@pytest.mark.parametrize("family", ["rnnt", "tdt"])
def test_nemos_decoder_still_keeps_the_output_of_old_weights(
    family, tiny_model, graphs_without_a_gpu
):
    """When this fails, graphs may stay on between scorings (disable_cuda_graphs in decoding.py)."""
    model = tiny_model(family).eval()
    computer = computer_of(model)
    computer.force_cuda_graphs_mode("no_graphs")
    encoded, lengths = torch.randn(2, model.encoder.d_model, 9), torch.tensor([9, 9])

    def decode():
        with torch.no_grad():
            model.decoding.rnnt_decoder_predictions_tensor(
                encoder_output=encoded, encoded_lengths=lengths
            )
        return computer.state.decoder_output_after_sos.clone()

    before = decode()
    change_prediction_network(model)
    assert torch.equal(decode(), before)


@pytest.fixture
def segments(tmp_path):
    """One file of 9 s whose stretches sound different, its segments, and the same cut by hand."""
    rng, time = numpy.random.default_rng(0), numpy.arange(9 * 16000) / 16000
    pitch = numpy.repeat([200.0, 500.0, 900.0, 300.0, 700.0, 1200.0], len(time) // 6)
    wave = 0.2 * numpy.sin(2 * numpy.pi * numpy.cumsum(pitch) / 16000)
    wave += 0.02 * rng.standard_normal(len(time))
    soundfile.write(tmp_path / "long.wav", wave, 16000)
    cuts, parts = [(0.0, 1.5), (1.5, 3.0), (4.5, 2.25), (6.75, 2.25)], []
    samples, _ = soundfile.read(tmp_path / "long.wav", dtype="int16")
    for number, (offset, duration) in enumerate(cuts):
        begin = round(16000 * offset)
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, samples[begin : begin + round(16000 * duration)], 16000)
        parts.append(Utterance(str(path), duration, "x"))
    long = [Utterance(str(tmp_path / "long.wav"), d, "x", offset=o) for o, d in cuts]
    return long, parts


def test_each_segment_of_a_long_file_is_scored_on_its_own_stretch(segments, tiny_model):
    long, parts = segments
    model = tiny_model("ctc")
    heard = {}
    texts = transcribe(model, long, on_audio=lambda i, samples: heard.update({i: len(samples)}))
    assert texts == transcribe(model, parts) and any(texts)
    assert heard == {i: round(16000 * u.duration) for i, u in enumerate(long)}


def test_a_model_that_scored_a_minute_can_still_be_trained(tiny_model, tmp_path):
    from parakeet_ft.model.objective import training_loss

    noise = 0.1 * numpy.random.default_rng(0).standard_normal(51 * 16000)
    soundfile.write(tmp_path / "long.wav", noise, 16000)
    model = tiny_model("ctc")
    transcribe(model, [Utterance(str(tmp_path / "long.wav"), 51.0, "x")])
    assert model.encoder.pos_enc.pe.shape[1] > 2 * 5000, "NeMo's table did not grow"
    audio = 0.1 * torch.randn(1, 16000)
    tokens = torch.tensor([[3, 4]])
    loss = training_loss(model.train(), audio, torch.tensor([16000]), tokens, torch.tensor([2]))
    loss["loss"].backward()
