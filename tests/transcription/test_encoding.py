"""Pieces side by side are what one batch is, and nothing of it stays behind."""

import threading

import numpy
import pytest
import torch

from parakeet_ft.data.manifest import read_manifest
from parakeet_ft.errors import UserError
from parakeet_ft.transcription import encoding
from parakeet_ft.transcription.decode import ready_to_decode, transcribe
from parakeet_ft.transcription.encoding import Encoder, encode, in_pieces, padded


@pytest.fixture
def three_threads():
    """torch has three, whatever this machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def noise(*seconds):
    rng = numpy.random.default_rng(0)
    return [(0.1 * rng.standard_normal(round(16000 * s))).astype(numpy.float32) for s in seconds]


@pytest.mark.parametrize("family", ["ctc", "rnnt", "tdt", "hybrid"])
def test_pieces_encoded_side_by_side_are_the_batch_encoded_at_once(
    family, tiny_model, three_threads
):
    model, audio = tiny_model(family), noise(3.0, 2.5, 2.0, 1.2, 0.7)
    with ready_to_decode(model, cuda_graphs=False), Encoder(model) as encoder:
        whole, frames = encode(model, *padded(audio, device=torch.device("cpu")))
        (_, found), (_, none) = encoder.ahead([audio, []], list)
        assert none is None
    assert found[0].shape == whole.shape and torch.equal(found[1], frames)
    for row, (ours, theirs) in enumerate(zip(found[0], whole, strict=True)):
        if family != "ctc":
            ours, theirs = ours.T, theirs.T
        torch.testing.assert_close(ours[: frames[row]], theirs[: frames[row]], atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["ctc", "tdt"])
def test_texts_do_not_depend_on_the_number_of_threads(
    family, tiny_model, speech, three_threads, monkeypatch
):
    model, found = tiny_model(family), read_manifest(speech(count=9))
    texts = transcribe(model, found, batch_seconds=4.0)
    assert torch.get_num_threads() == 3 and any(texts)
    monkeypatch.setattr(encoding, "PIECE_SECONDS", 0.5)  # every row is longer
    assert transcribe(model, found, batch_seconds=100.0) == texts
    torch.set_num_threads(1)
    assert transcribe(model, found, batch_seconds=100.0) == texts


def test_batches_come_in_their_order_and_no_thread_stays(tiny_model, three_threads):
    model, before = tiny_model("ctc"), threading.active_count()
    batches = [noise(1.0), noise(0.5, 0.4), [], noise(0.3), noise(0.2)]
    with ready_to_decode(model, cuda_graphs=False), Encoder(model) as encoder:
        found = [(batch, outputs) for batch, outputs in encoder.ahead(batches, list)]
    assert [len(batch) for batch, _ in found] == [1, 2, 0, 1, 1]
    assert [outputs and len(outputs[0]) for _, outputs in found] == [1, 2, None, 1, 1]
    assert threading.active_count() == before


def test_what_fails_in_a_thread_ends_the_scoring(tiny_model, speech, three_threads, monkeypatch):
    model = tiny_model("ctc")

    def forward(**_):
        raise MemoryError("no more")

    monkeypatch.setattr(model, "forward", forward)
    with pytest.raises(MemoryError, match="no more"):
        transcribe(model, read_manifest(speech(count=4)))


def test_rows_are_put_together_up_to_a_length_with_padding():
    rows = noise(2.0, 1.0, 1.0, 0.5, 3.0)
    pieces = in_pieces(rows, samples=2 * 16000)
    assert [[len(row) / 16000 for row in piece] for piece in pieces] == [
        [2.0],
        [1.0, 1.0],
        [0.5],
        [3.0],
    ]


def test_bfloat16_is_the_encoders_alone_and_float32_the_rule(tiny_model):
    model, audio = tiny_model("ctc"), padded(noise(1.0), device=torch.device("cpu"))
    with ready_to_decode(model, cuda_graphs=False):
        exact, _ = encode(model, *audio)
        rough, _ = encode(model, *audio, precision="bf16")
    assert exact.dtype == rough.dtype == torch.float32
    assert not torch.equal(exact, rough) and (exact - rough).abs().max() < 0.5


def test_a_cpu_scores_in_float32_unless_told_otherwise():
    cpu = torch.device("cpu")
    assert encoding.resolve_precision("auto", cpu) == "32"
    assert encoding.resolve_precision("bf16", cpu) == "bf16"
    with pytest.raises(UserError, match="no TF32"):
        encoding.resolve_precision("tf32", cpu)


def test_products_are_those_of_float32_inside_and_as_before_afterwards():
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    with encoding.float32_products(tf32=True):
        assert all(flag.allow_tf32 for flag in flags)
        with encoding.float32_products(tf32=False):
            assert not any(flag.allow_tf32 for flag in flags)
    assert [flag.allow_tf32 for flag in flags] == before
