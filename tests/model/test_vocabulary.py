"""Keep, extend, replace for every family: rows move by piece, the loss stays the checkpoint's,
plain NeMo restores the result.
"""

import dataclasses
import json

import pytest

from parakeet_ft.data.corpus import Corpus
from parakeet_ft.data.manifest import Utterance, write_manifest
from parakeet_ft.errors import UserError
from parakeet_ft.model.vocabulary import adapt_vocabulary, plan_tokenizer
from parakeet_ft.settings.manifests import WeightedManifest
from parakeet_ft.tokenizer.pieces import extend_sentencepiece
from parakeet_ft.tokenizer.sentencepiece_model import (
    read_tokenizer_dir,
    train_sentencepiece,
    write_tokenizer_dir,
)
from tests.conftest import TEXTS

FAMILIES = ["ctc", "rnnt", "tdt", "hybrid", "hybrid_rnnt"]
MODES = ["keep", "extend", "replace"]
DOMAIN = [
    *TEXTS,
    "climb to level 350 (now)",
    "speed 210 & heading 45",
    "quick zebras judged 9 vows",
    "the ñandú jumps over it",
]
SETTINGS = {
    "max_unknown_share": 0.0,
    "num_pieces": None,
    "pieces": None,
    "vocab_size": None,
    "model_type": "bpe",
    "tokenizer_dir": None,
}


def adapt(model, workdir, mode, *, texts=DOMAIN, **settings):
    if mode == "keep":
        texts = TEXTS
    if mode == "replace" and "tokenizer_dir" not in settings:
        settings = {"vocab_size": 72} | settings
    return adapt_vocabulary(model, texts=texts, workdir=workdir, mode=mode, **SETTINGS | settings)


def sharpen(model, seed=0):
    """Random weights with large logits that vary from frame to frame, so that many pieces win, by
    wide and by narrow margins.
    """
    import torch

    model.eval()
    generator = torch.Generator().manual_seed(seed)
    waves = [torch.from_numpy(wave) for wave in audio()]
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.startswith(("decoder.", "ctc_decoder.", "joint.")):
                p.copy_(torch.randn(p.shape, generator=generator) * (0.5 if p.dim() > 1 else 1.0))
        frames = (
            torch.cat(
                [
                    model.forward(input_signal=w[None], input_signal_length=torch.tensor([len(w)]))[
                        0
                    ]
                    for w in waves
                ],
                dim=-1,
            )
            if hasattr(model, "joint")
            else torch.cat(
                [
                    model.encoder(audio_signal=x, length=n)[0]
                    for x, n in (
                        model.preprocessor(input_signal=w[None], length=torch.tensor([len(w)]))
                        for w in waves
                    )
                ],
                dim=-1,
            )
        )
        mean, spread = frames.mean(dim=(0, 2)), frames.std(dim=(0, 2))
        heads = [
            m.decoder_layers[0]
            for m in (model.decoder, getattr(model, "ctc_decoder", None))
            if hasattr(m, "decoder_layers")
        ]
        for layer in [*heads, *([model.joint.enc] if hasattr(model, "joint") else [])]:
            layer.weight /= spread[:, None] if layer.weight.dim() == 3 else spread
            layer.bias -= layer.weight.flatten(1) @ mean
        if hasattr(model, "joint"):
            model.joint.joint_net[-1].bias[64] += 8.0  # the blank: now and then, as in life
    return model


def audio(seed=0):
    import numpy

    rng = numpy.random.default_rng(seed)
    return [
        rng.standard_normal(n).astype("float32") * rng.uniform(0.01, 1.0, n).astype("float32")
        for n in (8000, 12000, 16000)
    ]


def transcripts(model):
    """(text, ids) by greedy decoding, of both heads for hybrids; -1 stands for CTC's blanks."""
    model.preprocessor.featurizer.dither = 0.0
    out = []
    for head in ("rnnt", "ctc") if hasattr(model, "ctc_decoder") else ("its own",):
        if head != "its own":
            model.change_decoding_strategy(decoder_type=head, verbose=False)
        for h in model.transcribe(audio(), batch_size=3, verbose=False):
            out.append(
                (
                    h.text,
                    [i if i < model.tokenizer.vocab_size else -1 for i in map(int, h.y_sequence)],
                )
            )
    if hasattr(model, "ctc_decoder"):
        model.change_decoding_strategy(decoder_type="rnnt", verbose=False)
    return out


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def pieces_of(model):
    return [model.tokenizer.ids_to_tokens([i])[0] for i in range(model.tokenizer.vocab_size)]


def per_piece(family, dropout=0.0):
    # NeMo puts a dropout layer before the joint's last layer only if there is dropout.
    output = f"joint.joint_net.{2 if dropout else 1}"
    joint = ["decoder.prediction.embed.weight", f"{output}.weight", f"{output}.bias"]
    head = ["decoder_layers.0.weight", "decoder_layers.0.bias"]
    return {"ctc": [f"decoder.{n}" for n in head], "rnnt": joint, "tdt": joint}.get(
        family, joint + [f"ctc_decoder.{n}" for n in head]
    )


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_transcripts_after_extend_without_training_equal_the_base_models(
    family, seed, tiny_model, tmp_path
):
    model = sharpen(tiny_model(family), seed)
    before = transcripts(model)
    change = adapt(model, tmp_path, "extend", texts=DOMAIN * 2, num_pieces=40)
    assert len(change.new) == 40
    assert transcripts(model) == before
    assert len({i for _, ids in before for i in ids}) > 5  # else the test shows nothing


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_new_row_never_wins_even_if_the_rows_that_it_starts_from_are_equal(dtype):
    """Without the margin a mean of equal rows ties with them, and rounding would let it win now and
    then.
    """
    import torch

    from parakeet_ft.model.rows import move_rows
    from parakeet_ft.model.vocabulary import EXTEND_MARGIN

    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(65, 64, generator=generator), torch.randn(65, generator=generator)
    weight[:40], bias[:40] = weight[0], bias[0]
    starts = [[i] for i in range(64)] + [[1, 2, 3], [4], list(range(64)), [50, 51]]
    new_weight, new_bias = (move_rows(t, starts=starts, num_before=64) for t in (weight, bias))
    new_bias[64:68] -= EXTEND_MARGIN
    kind = getattr(torch, dtype)
    hidden = 2 * torch.randn(2000, 64, generator=generator).relu()
    old, new = (
        (hidden.to(kind) @ w.to(kind).T + b.to(kind))
        for w, b in ((weight, bias), (new_weight, new_bias))
    )
    rows_of_old_pieces = new[:, [*range(64), 68]]
    assert (new[:, 64:68].amax(1) < rows_of_old_pieces.amax(1)).all()
    assert torch.equal(rows_of_old_pieces, old)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("family", FAMILIES)
def test_extend_keeps_every_old_weight_and_moves_blank_and_durations(
    family, dropout, tiny_model, tmp_path
):
    import torch

    model = sharpen(tiny_model(family, dropout=dropout))
    before, old_pieces = state(model), pieces_of(model)
    change = adapt(model, tmp_path, "extend")
    after, size, grown = state(model), len(old_pieces), len(change.new)
    assert (
        grown > 5
        and pieces_of(model)[:size] == old_pieces
        and change.num_kept == size
        and not change.dropped
    )
    assert before.keys() == after.keys()
    for name in before:
        if name in per_piece(family, dropout):
            assert torch.equal(after[name][:size], before[name][:size]), name
            assert torch.equal(after[name][size + grown :], before[name][size:]), name
        else:
            assert torch.equal(after[name], before[name]), name
    assert {name for name in before if before[name].shape != after[name].shape} == set(
        per_piece(family, dropout)
    )


@pytest.mark.parametrize("family", ["ctc", "hybrid"])
def test_a_new_row_starts_from_the_mean_of_the_rows_that_spelled_it(family, tiny_model, tmp_path):
    import torch

    model = sharpen(tiny_model(family))
    before, old_pieces = state(model), pieces_of(model)
    spelled = model.tokenizer.text_to_ids("zebra")
    change = adapt(model, tmp_path, "extend", pieces=["▁zebra", "7"], max_unknown_share=1.0)
    zebra, seven = (next(p for p in change.new if p.piece == piece) for piece in ("▁zebra", "7"))
    assert (
        zebra.started_from == [old_pieces[i] for i in spelled]
        and len(spelled) > 1
        and seven.started_from == []
    )
    after = state(model)
    for name in per_piece(family):
        margin = 1.0 if name.endswith("bias") else 0.0
        torch.testing.assert_close(after[name][zebra.id], before[name][spelled].mean(0) - margin)
        torch.testing.assert_close(after[name][seven.id], before[name][:64].mean(0) - margin)


@pytest.mark.parametrize("family", FAMILIES)
def test_replace_moves_rows_by_piece_even_if_the_size_stays(family, tiny_model, tmp_path):
    import torch

    model = sharpen(tiny_model(family))
    before, old_pieces = state(model), pieces_of(model)
    other = [text[::-1] for text in TEXTS]
    change = adapt(model, tmp_path, "replace", texts=other, vocab_size=len(old_pieces))
    new_pieces, after = pieces_of(model), state(model)
    shared = set(old_pieces) & set(new_pieces)
    assert (
        len(new_pieces) == len(old_pieces)
        and change.num_kept == len(shared)
        and 20 < len(shared) < 64
    )
    assert (
        sorted(change.dropped) == sorted(set(old_pieces) - shared)
        and {p.piece for p in change.new} == set(new_pieces) - shared
    )
    moved = [(old_pieces.index(p), new_pieces.index(p)) for p in sorted(shared)]
    assert any(i != j for i, j in moved)
    for name in before:
        if name in per_piece(family):
            assert torch.equal(
                after[name][[j for _, j in moved]], before[name][[i for i, _ in moved]]
            ), name
            assert torch.equal(after[name][64:], before[name][64:]), name
        else:
            assert torch.equal(after[name], before[name]), name


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_exported_file_restores_in_plain_nemo_with_tokenizer_loss_and_decoding(
    family, mode, tiny_model, tmp_path
):
    import torch
    from nemo.collections.asr.models import ASRModel

    model = sharpen(tiny_model(family))
    change = adapt(model, tmp_path / "work", mode)
    model.save_to(str(tmp_path / "out.nemo"))
    size = {"keep": 64, "extend": 64 + len(change.new), "replace": 72}[mode]
    again = ASRModel.restore_from(str(tmp_path / "out.nemo"), map_location="cpu").eval()
    assert type(again) is type(model)
    for m in (model, again):
        assert m.tokenizer.vocab_size == size
        loss = m.loss if family == "ctc" else m.loss._loss
        expected = {"ctc": "CTCLoss", "rnnt": "RNNTLossNumba", "hybrid_rnnt": "RNNTLossNumba"}.get(
            family, "TDTLossNumba"
        )
        assert (type(loss).__name__, loss.blank) == (expected, size)
        assert (m.loss.config_reduction if family == "ctc" else m.loss.reduction) == "mean_volume"
        assert m.decoding.blank_id == size
        if family in ("tdt", "hybrid"):
            assert loss.durations == [0, 1, 2, 3, 4] == list(m.decoding.durations)
            assert (loss.sigma, loss.omega) == (
                0.02,
                0.1,
            ) and m.joint.num_classes_with_blank == size + 1 + 5
        if family != "ctc":
            assert m.joint.fuse_loss_wer and m.joint.loss is m.loss and m.joint.wer is m.wer
        if family.startswith("hybrid"):
            assert (
                m.ctc_loss.blank == size
                and m.ctc_loss.config_reduction == "mean_volume"
                and m.ctc_decoding.blank_id == size
            )
    weights, weights_again = model.state_dict(), again.state_dict()
    assert weights.keys() == weights_again.keys() and all(
        torch.equal(weights[name], weights_again[name]) for name in weights
    )
    text = "the quick fox" if mode == "keep" else "the quick fox (350)"
    assert again.tokenizer.ids_to_text(again.tokenizer.text_to_ids(text)) == text
    assert again.tokenizer.text_to_ids(text) == model.tokenizer.text_to_ids(text)
    assert transcripts(again) == transcripts(model)


@pytest.mark.parametrize("mode", MODES)
def test_the_change_is_told_in_lines_and_json(mode, tiny_model, tmp_path):
    change = adapt(tiny_model("hybrid"), tmp_path, mode)
    record = json.loads(json.dumps(dataclasses.asdict(change)))
    assert (
        record["mode"] == mode
        and record["loss"]["durations"] == [0, 1, 2, 3, 4]
        and record["loss"]["ctc"]["class"] == "CTCLoss"
    )
    assert record["vocab_size_after"] == record["num_kept"] + len(record["new"])
    assert record["vocab_size_before"] == record["num_kept"] + len(record["dropped"])
    assert record["coverage_after"]["num_unknown"] == 0
    lines = "\n".join(change.lines())
    assert (
        f"kept {change.num_kept}, new {len(change.new)}, dropped {len(change.dropped)}" in lines
        and "TDTLossNumba" in lines
    )


def test_loss_settings_of_the_checkpoint_survive(tiny_model, tmp_path):
    """NeMo's change_vocabulary would leave the defaults: fastemit 0, mean_batch."""
    from omegaconf import open_dict

    from parakeet_ft.model.rows import rebuild_loss

    model = tiny_model("rnnt")
    with open_dict(model.cfg):
        model.cfg.rnnt_reduction = "mean"
        model.cfg.loss.warprnnt_numba_kwargs = {"fastemit_lambda": 0.005, "clamp": 2.0}
    rebuild_loss(model)
    change = adapt(model, tmp_path, "extend")
    assert (change.loss["reduction"], change.loss["fastemit_lambda"], change.loss["clamp"]) == (
        "mean",
        0.005,
        2.0,
    )


def test_a_loss_that_is_not_the_checkpoints_is_refused(tiny_model, tmp_path):
    from nemo.collections.asr.losses.rnnt import RNNTLoss

    model = tiny_model("tdt")
    model.loss = RNNTLoss(num_classes=64)
    with pytest.raises(RuntimeError, match="expected .*RNNTLossNumba"):
        adapt(model, tmp_path, "extend")


def test_random_state_mode_and_frozen_weights_are_as_before(tiny_model, tmp_path):
    import torch

    model = tiny_model("tdt")
    model.joint.requires_grad_(False)
    model.decoder.eval()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    adapt(model, tmp_path, "extend")
    assert torch.equal(torch.rand(1), expected)
    assert not any(p.requires_grad for p in model.joint.parameters()) and all(
        p.requires_grad for p in model.decoder.parameters()
    )
    assert not model.decoder.training and model.joint.training


def test_a_vocabulary_can_be_changed_twice(tiny_model, tmp_path):
    model = sharpen(tiny_model("hybrid"))
    before = transcripts(model)
    adapt(model, tmp_path / "1", "extend")
    change = adapt(model, tmp_path / "2", "extend", texts=["wow ! it is !"])
    assert [p.piece for p in change.new] == ["▁!"] and transcripts(model) == before


@pytest.mark.parametrize("mode", MODES)
def test_the_configuration_of_each_mode_has_exactly_the_settings_of_the_function(mode):
    import inspect
    from pathlib import Path

    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(
        str(Path(__file__).resolve().parents[2] / "conf"), version_base="1.3"
    ):
        settings = OmegaConf.to_container(compose(config_name=f"tokenizer/{mode}").tokenizer)
    assert settings["mode"] == mode
    for function in (adapt_vocabulary, plan_tokenizer):
        assert set(settings) == set(inspect.signature(function).parameters) - {
            "model",
            "texts",
            "workdir",
        }


@pytest.mark.parametrize("family", FAMILIES)
def test_training_after_extend_teaches_a_text_that_the_old_vocabulary_could_not_write(
    family, tiny_model, tmp_path
):
    """One clip, overfitted. (A transducer may spread its pieces so evenly over so plain a clip that
    greedy decoding takes none.)
    """
    import torch

    from parakeet_ft.model.objective import training_loss
    from parakeet_ft.model.transducer_loss import use_wavefront_loss

    model = tiny_model(family)
    adapt(model, tmp_path, "extend")
    use_wavefront_loss(model)
    model.eval()  # as in decoding: BatchNorm keeps its statistics, nothing is masked
    time = torch.arange(25600) / 16000
    wave, text = 0.3 * torch.sin(2 * torch.pi * (200 + 700 * time) * time)[None], "is 35 (it)"
    tokens = torch.tensor([model.tokenizer.text_to_ids(text)])
    batch = (wave, torch.tensor([wave.shape[1]]), tokens, torch.tensor([tokens.shape[1]]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(150 if family == "ctc" else 60):
        optimizer.zero_grad()
        loss = training_loss(model, *batch)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < (0.01 if family == "ctc" else 0.2) * losses[0]
    if family == "ctc":
        assert model.transcribe([wave[0].numpy()], batch_size=1, verbose=False)[0].text == text


# Bad input: UserError, and the model is as it was.


def test_what_cannot_be_written_is_named_with_its_manifest(tiny_model, tmp_path):
    lines = [[Utterance("a.wav", 1.0, text) for text in texts] for texts in (TEXTS[:2], DOMAIN)]
    named = []
    for number, some in enumerate(lines):
        write_manifest(some, tmp_path / f"{number}.jsonl")
        named.append(WeightedManifest(str(tmp_path / f"{number}.jsonl")))
    model = tiny_model("ctc").tokenizer.tokenizer.serialized_model_proto()
    with pytest.raises(UserError, match=f"first in text 9 of {named[1].manifest}: "):
        plan_tokenizer(model, texts=Corpus.open(named).spoken(), mode="keep", **SETTINGS)


def test_keep_stops_above_the_share_and_names_the_characters_and_the_cure(tiny_model, tmp_path):
    model = tiny_model("ctc")
    before = state(model)
    with pytest.raises(UserError) as error:
        adapt_vocabulary(model, texts=DOMAIN, workdir=tmp_path, mode="keep", **SETTINGS)
    for hint in (
        "cannot write '3' (U+0033)",
        "line 9",
        "tokenizer=extend",
        "tokenizer=replace",
        "max_unknown_share",
    ):
        assert hint in str(error.value)
    assert state(model).keys() == before.keys() and not list(tmp_path.iterdir())
    change = adapt_vocabulary(
        model, texts=DOMAIN, workdir=tmp_path, mode="keep", **SETTINGS | {"max_unknown_share": 0.5}
    )
    assert change.coverage_after.num_unknown > 0 and "cannot write '3'" in "\n".join(change.lines())


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"mode": "extend", "pieces": ["%", "%"]}, "duplicates"),
        ({"mode": "extend", "pieces": ["%"]}, "Add these characters to tokenizer.pieces"),
        ({"mode": "extend", "num_pieces": 2}, "num_pieces to"),
        ({"mode": "extend", "vocab_size": 100}, "belongs to tokenizer=replace"),
        ({"mode": "keep", "num_pieces": 64}, "belongs to tokenizer=extend"),
        ({"mode": "extend", "num_pieces": 64, "pieces": ["%"]}, "exclude each other"),
        ({"mode": "replace", "vocab_size": 5000}, "at most"),
        ({"mode": "replace", "vocab_size": 9}, "alphabet"),
        ({"mode": "replace", "tokenizer_dir": "/nowhere"}, "No tokenizer directory"),
        ({"mode": "replace", "model_type": "wordpiece"}, "expected bpe or unigram"),
        ({"mode": "swap"}, "expected keep, extend or replace"),
    ],
)
def test_bad_settings_are_user_errors_before_any_model_is_there(settings, message, tokenizer_dir):
    with pytest.raises(UserError, match=message):
        plan_tokenizer(
            read_tokenizer_dir(tokenizer_dir),
            texts=DOMAIN,
            **{"mode": "keep"} | SETTINGS | settings,
        )


def test_replace_takes_a_tokenizer_directory_and_checks_that_it_can_write_the_texts(
    tiny_model, tmp_path
):
    folder = write_tokenizer_dir(train_sentencepiece(DOMAIN, vocab_size=80), tmp_path / "mine")
    change = adapt(tiny_model("tdt"), tmp_path / "work", "replace", tokenizer_dir=str(folder))
    assert change.vocab_size_after == 80 and change.loss["blank"] == 80
    with pytest.raises(UserError, match=r"cannot write(.|\n)*tokenizer_dir out"):
        adapt(
            tiny_model("tdt"),
            tmp_path / "work",
            "replace",
            texts=["ß ß"],
            tokenizer_dir=str(folder),
        )


def test_replace_without_a_size_takes_the_checkpoints_or_what_the_texts_allow(tokenizer_dir):
    old = read_tokenizer_dir(tokenizer_dir)
    assert plan_tokenizer(old, texts=DOMAIN, mode="replace", **SETTINGS).notes == []
    few = plan_tokenizer(old, texts=["a b c"], mode="replace", **SETTINGS)
    assert few.coverage_after.num_unknown == 0 and "instead of the checkpoint's 64" in few.notes[0]


# What NeMo 3.0.0 does and rows.py undoes. A failure here means that NeMo mended it.


def test_nemo_still_replaces_the_tdt_loss(tiny_model, tokenizer_dir):
    model = tiny_model("tdt")
    model.change_vocabulary(str(tokenizer_dir), "bpe")
    assert (
        type(model.loss._loss).__name__ == "RNNTLossNumba"
        and model.loss._loss.blank == 64 + 5
        and model.loss.reduction == "mean_batch"
    )


def test_nemo_still_draws_the_prediction_network_and_joint_anew(tiny_model, tokenizer_dir):
    import torch

    model = tiny_model("rnnt")
    before = state(model)
    model.change_vocabulary(str(tokenizer_dir), "bpe")
    for name in (
        "decoder.prediction.dec_rnn.lstm.weight_hh_l0",
        "joint.pred.weight",
        "joint.enc.weight",
        "joint.joint_net.1.weight",
    ):
        assert not torch.equal(state(model)[name], before[name])


def test_nemo_still_forgets_settings_of_the_rnnt_loss(tiny_model, tokenizer_dir):
    model = tiny_model("rnnt")
    assert model.loss.reduction == "mean_volume"
    model.change_vocabulary(str(tokenizer_dir), "bpe")
    assert model.loss.reduction == "mean_batch"


def test_nemo_still_deletes_the_space_before_punctuation_unless_its_piece_begins_the_word(
    tiny_model, tmp_path
):
    """If this fails, begins_words and what uses it may go."""
    for folder, pieces, expected in (
        ("bare", ["▁(", "(", ")"], "it(is) it"),
        ("initial", ["▁(", ")"], "it (is) it"),
    ):
        model = tiny_model("ctc")
        extended = extend_sentencepiece(read_tokenizer_dir(model.tokenizer_dir), pieces)
        model.change_vocabulary(str(write_tokenizer_dir(extended, tmp_path / folder)), "bpe")
        assert (
            model.decoding.decode_tokens_to_str_with_strip_punctuation(
                model.tokenizer.text_to_ids("it (is) it")
            )
            == expected
        )


@pytest.mark.parametrize("mode", ["extend", "replace"])
def test_texts_come_back_from_nemos_decoding_with_their_spaces(mode, tiny_model, tmp_path):
    model = tiny_model("tdt")
    texts = [*TEXTS, "it (is) & was 5% ,"]
    change = adapt(model, tmp_path, mode, texts=texts)
    assert [
        model.decoding.decode_tokens_to_str_with_strip_punctuation(model.tokenizer.text_to_ids(t))
        for t in texts
    ] == texts
    assert not any("deletes" in note for note in change.notes)


def test_spaces_that_nemos_decoding_deletes_are_told(tiny_model, tmp_path):
    change = adapt(tiny_model("rnnt"), tmp_path, "extend", texts=["5% of it", "5 % of it"])
    assert "1 texts have a space before %" in "\n".join(
        change.lines()
    ) and "'5 % of it' is written '5% of it'" in "\n".join(change.lines())


def test_listed_punctuation_that_always_begins_a_word_is_added_so(tiny_model, tmp_path):
    change = adapt(
        tiny_model("ctc"),
        tmp_path,
        "extend",
        texts=["it is (now) 50 %"],
        pieces=["(", ")", "%", "5", "0"],
    )
    assert {p.piece for p in change.new} == {
        "▁(",
        ")",
        "▁%",
        "5",
        "0",
    } and "% ( always begin a word" in "\n".join(change.notes)


def test_nemo_still_leaves_the_labels_of_the_old_vocabulary_in_the_configuration(
    tiny_model, tmp_path
):
    model = tiny_model("rnnt")
    model.change_vocabulary(
        str(write_tokenizer_dir(train_sentencepiece(DOMAIN, vocab_size=80), tmp_path)), "bpe"
    )
    assert len(model.cfg.labels) == 64


def test_nemo_still_counts_durations_into_the_blank_of_the_debugging_tdt_loss(tiny_model):
    from nemo.collections.asr.models import EncDecRNNTBPEModel
    from omegaconf import open_dict

    from parakeet_ft.model.rows import rebuild_loss

    cfg = tiny_model("tdt").cfg
    with open_dict(cfg):
        cfg.loss = {
            "loss_name": "tdt_pytorch",
            "tdt_pytorch_kwargs": {"durations": [0, 1, 2, 3, 4], "sigma": 0.02},
        }
        cfg.train_ds = cfg.validation_ds = None
    model = EncDecRNNTBPEModel(cfg)
    assert model.loss._loss.blank == 64 + 5
    rebuild_loss(model)
    assert model.loss._loss.blank == 64
