"""Decoding as it is asked for, read back from NeMo's live decoders, and the weight of a language
model that forgets nothing.
"""

import pytest
from omegaconf import OmegaConf

from parakeet_ft.data.manifest import read_manifest
from parakeet_ft.errors import UserError
from parakeet_ft.transcription import ngram
from parakeet_ft.transcription.decode import transcribe, transcribe_timed
from parakeet_ft.transcription.decoding import choose_weight, set_decoding, tune_weight

PLAIN = {
    "strategy": "greedy",
    "head": "auto",
    "beam_size": 3,
    "length_bonus": 0.0,
    "phrases": [],
    "phrase_weight": 1.0,
    "lm_path": None,
    "lm_weight": 0.0,
}


@pytest.fixture
def arpa(tmp_path, tiny_model):
    tokenizer = tiny_model("ctc").tokenizer.tokenizer
    model = ngram.train_ngram(
        [tokenizer.encode("it is what it is")] * 20, order=3, vocab_size=tokenizer.get_piece_size()
    )
    ngram.write_arpa(model, tmp_path / "lm.arpa")
    return tmp_path / "lm.arpa"


@pytest.mark.parametrize("family", ["ctc", "rnnt", "tdt"])
def test_every_decoding_is_what_the_live_decoder_says_and_greedy_comes_back(
    family, tiny_model, speech, arpa
):
    model, found = tiny_model(family), read_manifest(speech(count=2))
    plain = set_decoding(model, **PLAIN)
    before = transcribe(model, found)
    beam = set_decoding(model, **PLAIN | {"strategy": "beam"})
    assert (
        beam["strategy"] == ("beam_batch" if family == "ctc" else "malsd_batch")
        and beam["beam_size"] == 3
        and beam["fused"] == {}
    )
    assert len(transcribe(model, found)) == 2
    for strategy in ("greedy", "beam"):
        fused = set_decoding(
            model,
            **PLAIN
            | {
                "strategy": strategy,
                "lm_path": arpa,
                "lm_weight": 5.0,
                "phrases": ["what"],
                "phrase_weight": 0.5,
            },
        )
        assert fused["fused"] == {"NGramGPULanguageModel": 5.0, "GPUBoostingTreeModel": 0.5}
        assert transcribe(model, found) != before
    assert set_decoding(model, **PLAIN) == plain and plain["fused"] == {}
    assert transcribe(model, found) == before


def test_a_hybrids_ctc_head_decodes_as_nemos_transcribe_does(tiny_model, speech):
    model, found = tiny_model("hybrid"), read_manifest(speech(count=3))
    transducer = transcribe(model, found)
    assert set_decoding(model, **PLAIN | {"head": "ctc"})["head"] == "ctc"
    theirs = tiny_model("hybrid").eval()
    theirs.change_decoding_strategy(
        OmegaConf.create(OmegaConf.to_container(theirs.cfg.aux_ctc.decoding)),
        decoder_type="ctc",
        verbose=False,
    )
    expected = [
        h.text
        for h in theirs.transcribe([u.audio_filepath for u in found], batch_size=1, verbose=False)
    ]
    assert transcribe(model, found) == expected != transducer


def test_a_head_that_the_model_lacks_is_refused(tiny_model):
    with pytest.raises(UserError, match="only a ctc head"):
        set_decoding(tiny_model("ctc"), **PLAIN | {"head": "transducer"})


def test_the_lowest_wer_wins_whose_guard_lost_at_most_the_tolerance():
    rows = [
        {"weight": 0.0, "wer": 0.5, "guard_wer": 0.20},
        {"weight": 0.2, "wer": 0.4, "guard_wer": 0.21},
        {"weight": 0.4, "wer": 0.3, "guard_wer": 0.23},
        {"weight": 0.6, "wer": 0.4, "guard_wer": 0.10},
    ]
    assert choose_weight(rows, guard_tolerance=0.02)["weight"] == 0.2
    assert choose_weight(rows, guard_tolerance=None)["weight"] == 0.4
    assert (
        choose_weight([row | {"guard_wer": None} for row in rows], guard_tolerance=0.02)["weight"]
        == 0.4
    )
    assert choose_weight(rows[:1], guard_tolerance=0.0)["weight"] == 0
    with pytest.raises(ValueError, match="weight 0"):
        choose_weight(rows[1:], guard_tolerance=None)


def test_tuning_scores_each_weight_once_and_always_none():
    scored = []
    best, rows = tune_weight(
        lambda weight: (scored.append(weight) or abs(weight - 0.3), None),
        weights=[0.3, 0.6, 0.3],
        guard_tolerance=0.02,
    )
    assert scored == [0.0, 0.3, 0.6] and best == 0.3 and [row["weight"] for row in rows] == scored


def test_a_timed_transcription_has_the_same_texts_and_levels_of_the_audio(tiny_model, speech):
    model, found = tiny_model("ctc"), read_manifest(speech(count=4))
    timed = transcribe_timed(model, found, batch_seconds=2.0, warm_up_batches=1)
    assert timed["texts"] == transcribe(model, found, batch_seconds=2.0)
    # A sine of amplitude 0.2 has a level of 20 log10(0.2 / sqrt(2)).
    assert timed["levels_dbfs"] == pytest.approx([-17.0] * 4, abs=0.2)
    assert timed["rtfx"] == pytest.approx(sum(u.duration for u in found) / timed["seconds"])
