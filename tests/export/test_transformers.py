"""Folders for transformers, read by its own Auto classes with no network, against the model they
were made from.
"""

import numpy as np
import pytest
import torch

from parakeet_ft.data.audio import read_audio
from parakeet_ft.data.manifest import read_manifest
from parakeet_ft.errors import UserError
from parakeet_ft.export.transformers import transformers_recognizer, write_transformers
from parakeet_ft.tokenizer.sentencepiece_model import load_sentencepiece, read_tokenizer
from parakeet_ft.transcription.decoding import set_decoding
from parakeet_ft.transcription.long_audio import transcribe_files


@pytest.mark.parametrize(
    "family, changes",
    [("ctc", {}), ("ctc", {"use_bias": False, "xscaling": True, "n_mels": 128}), ("hybrid", {})],
)
def test_auto_classes_read_the_same_texts_out_of_the_folder(
    family, changes, tiny_model, tiny_nemo, speech, tmp_path, monkeypatch
):
    import socket

    monkeypatch.setattr(socket.socket, "connect", lambda *address: pytest.fail("network"))
    model, paths = (
        tiny_model(family, **changes),
        [u.audio_filepath for u in read_manifest(speech(count=4))],
    )
    set_decoding(model, head="ctc")
    expected = [t.text for t in transcribe_files(model, paths)]
    write_transformers(model, tmp_path, tokenizer=read_tokenizer(tiny_nemo("ctc")), head="ctc")
    recognize = transformers_recognizer(tmp_path)
    assert [recognize(read_audio(path)).split() for path in paths] == [
        text.split() for text in expected
    ] and any(expected)
    assert (tmp_path / "model.safetensors").is_file()


def test_a_padded_batch_gives_the_log_probabilities_of_nemo(tiny_model, tiny_nemo, tmp_path):
    from transformers import AutoModelForCTC, AutoProcessor

    model = tiny_model("ctc").eval()
    write_transformers(model, tmp_path, tokenizer=read_tokenizer(tiny_nemo("ctc")))
    audio = [
        0.1 * np.random.default_rng(seed).standard_normal(size).astype(np.float32)
        for seed, size in ((0, 16000), (1, 24000))
    ]
    processor, theirs = (
        AutoProcessor.from_pretrained(tmp_path),
        AutoModelForCTC.from_pretrained(tmp_path).eval(),
    )
    with torch.inference_mode():
        found = theirs(**processor(audio, sampling_rate=16000)).logits.log_softmax(-1)
        signal = torch.nn.utils.rnn.pad_sequence(
            [torch.from_numpy(a) for a in audio], batch_first=True
        )
        expected, lengths, _ = model(
            input_signal=signal, input_signal_length=torch.tensor([16000, 24000])
        )
    for row, length in enumerate(lengths.tolist()):
        assert torch.allclose(found[row, :length], expected[row, :length], atol=1e-4)


def test_the_tokenizer_writes_what_sentencepiece_writes(tiny_model, tiny_nemo, tmp_path):
    from transformers import AutoTokenizer

    proto = read_tokenizer(tiny_nemo("ctc"))
    write_transformers(tiny_model("ctc"), tmp_path, tokenizer=proto)
    pieces, theirs = load_sentencepiece(proto), AutoTokenizer.from_pretrained(tmp_path)
    for text in ("the quick brown fox", "pack my box with five dozen jugs", "it is what it was"):
        assert theirs(text, add_special_tokens=False)["input_ids"] == pieces.encode(text)
    assert theirs.pad_token_id == pieces.vocab_size()


def test_a_transducer_is_refused_in_words(tiny_model, tmp_path):
    with pytest.raises(UserError, match="CTC heads only"):
        write_transformers(tiny_model("tdt"), tmp_path, tokenizer=b"", head="transducer")
    assert not any(tmp_path.iterdir())


def test_local_attention_is_refused_in_words(tiny_model, tmp_path):
    from parakeet_ft.model.attention import set_attention

    model = tiny_model("ctc")
    set_attention(model, kind="local")
    with pytest.raises(UserError, match="rel_pos_local_attn"):
        write_transformers(model, tmp_path, tokenizer=b"")
