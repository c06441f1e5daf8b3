"""The trainer of the bundled tiny TDT-CTC, for a few seconds on a random base."""

import shutil
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_hybrid_keeps_the_bases_ctc_and_restores_in_plain_nemo(
    tiny_model, speech, tmp_path, monkeypatch, capsys
):
    import torch
    from nemo.collections.asr.models import ASRModel

    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "demo_making"))
    import train_tiny_tdt_ctc

    base = tiny_model("ctc")
    base.save_to(str(tmp_path / "base.nemo"))
    # More than the 40 s of one batch, or train_tiny.Batches has none to yield.
    manifest = speech(count=24, seconds=2.0)
    for name in ("train", "dev_seen", "dev_unseen"):
        shutil.copy(manifest, tmp_path / f"{name}.jsonl")

    (tmp_path / "tokenizer").mkdir()
    built = train_tiny_tdt_ctc.build_model(tmp_path / "base.nemo", tmp_path / "tokenizer").eval()
    base.eval()
    audio, lengths = torch.randn(2, 16000), torch.tensor([16000, 12000])
    for model in (base, built):
        model.preprocessor.featurizer.dither = 0.0
    with torch.no_grad():
        expected = base(input_signal=audio, input_signal_length=lengths)[0]
        encoded, _ = built(input_signal=audio, input_signal_length=lengths)
        torch.testing.assert_close(built.ctc_decoder(encoder_output=encoded), expected)

    out = tmp_path / "out.nemo"
    monkeypatch.setattr(
        "sys.argv",
        [
            "train",
            "--base",
            str(tmp_path / "base.nemo"),
            "--corpus",
            str(tmp_path),
            "--out",
            str(out),
            "--minutes",
            "0.08",
        ],
    )
    train_tiny_tdt_ctc.main()
    assert "% CTC)" in capsys.readouterr().out
    again = ASRModel.restore_from(str(out), map_location="cpu")
    assert (
        type(again.loss._loss).__name__ == "TDTLossNumba"
        and again.cfg.aux_ctc.ctc_loss_weight == 0.3
    )
