"""Train the bundled `tiny_tdt_ctc` (hybrid FastConformer TDT-CTC, 4 M weights) on top of the tiny
CTC base, on a CPU.

    python demo_making/train_tiny_tdt_ctc.py --base parakeet_ft/demo/tiny.nemo \\
        --corpus corpora/general --minutes 40 --out tiny_tdt_ctc.nemo

Encoder, CTC head, tokenizer and features are the base's; prediction network and joint start at
random and learn with the wavefront TDT loss. The schedule is in minutes of wall-clock: to 40 % the
heads alone, on a frozen encoder in eval mode (three times the batches a minute); then all weights,
the encoder and the CTC head at a tenth of the rate; a cosine to zero throughout. The state is saved
every ten minutes to OUT.state; the same command continues from it. One line of WER of both heads
every five minutes.
"""

import argparse
import math
import random
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import torch
from synthetic import channel
from train_tiny import collate, ctc_loss, train

from parakeet_ft.data.manifest import Utterance
from parakeet_ft.model import replicas
from parakeet_ft.model.transducer_loss import use_wavefront_loss
from parakeet_ft.tokenizer.sentencepiece_model import write_tokenizer_dir

ENCODER_LEARNS_FROM, ENCODER_RATE = 0.4, 0.1


def build_model(base_path: Path, tokenizer_dir: Path):
    """The hybrid with the base's encoder, CTC head, features and tokenizer, whose directory must
    outlive the model.
    """
    from nemo.collections.asr.models import ASRModel, EncDecHybridRNNTCTCBPEModel
    from omegaconf import OmegaConf

    base = ASRModel.restore_from(str(base_path), map_location="cpu")
    write_tokenizer_dir(base.tokenizer.tokenizer.serialized_model_proto(), tokenizer_dir)
    architecture = replicas.Architecture(
        "hybrid",
        d_model=base.cfg.encoder.d_model,
        n_layers=base.cfg.encoder.n_layers,
        pred_hidden=256,
        pred_layers=1,
        joint_hidden=256,
        dropout=0.0,
        fused_batch_size=8,
    )
    cfg = replicas.config(architecture, tokenizer_dir)
    cfg |= {
        part: OmegaConf.to_container(base.cfg[part], resolve=True)
        for part in ("preprocessor", "spec_augment", "encoder")
    }
    model = EncDecHybridRNNTCTCBPEModel(OmegaConf.create(cfg))
    model.encoder.load_state_dict(base.encoder.state_dict())
    model.ctc_decoder.load_state_dict(base.decoder.state_dict())
    model.preprocessor.load_state_dict(base.preprocessor.state_dict())
    print(use_wavefront_loss(model))
    return model


@torch.inference_mode()
def word_error_rates(model, utterances: list[Utterance]) -> tuple[float, float]:
    """WER of the TDT and of the CTC head, in the noise of a quiet room: digital silence is found in
    no recording.
    """
    from nemo.collections.asr.metrics.wer import word_error_rate

    rng, tdt, ctc = np.random.default_rng(0), [], []
    for start in range(0, len(utterances), 25):
        audio = [
            soundfile.read(u.audio_filepath, dtype="float32")[0]
            for u in utterances[start : start + 25]
        ]
        audio = [
            channel.add_noise(a, channel.coloured_noise(len(a), rng, slope=0.4), snr_db=30)
            for a in audio
        ]
        audio, lengths, *_ = collate(audio, [[0]] * len(audio))
        encoded, frames = model(input_signal=audio, input_signal_length=lengths)
        tdt += [h.text for h in model.decoding.rnnt_decoder_predictions_tensor(encoded, frames)]
        ctc += [
            h.text
            for h in model.ctc_decoding.ctc_decoder_predictions_tensor(
                model.ctc_decoder(encoder_output=encoded), frames
            )
        ]
    references = [u.text for u in utterances]
    return word_error_rate(tdt, references), word_error_rate(ctc, references)


def losses_of(
    model, batch: tuple[torch.Tensor, ...], encoder_learns: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Per-token TDT and CTC loss of a batch of audio (B, T), lengths (B), tokens (B, U), token
    lengths (B).
    """
    audio, lengths, tokens, token_lengths = batch
    # Frozen also means without its batch norm learning.
    model.encoder.train(encoder_learns)
    with torch.set_grad_enabled(encoder_learns):
        features, frames = model.preprocessor(input_signal=audio, length=lengths)
        features = model.spec_augmentation(input_spec=features, length=frames)
        encoded, frames = model.encoder(audio_signal=features, length=frames)
    predicted, predicted_lengths, _ = model.decoder(targets=tokens, target_length=token_lengths)
    tdt, *_ = model.joint(
        encoder_outputs=encoded,
        decoder_outputs=predicted,
        encoder_lengths=frames,
        transcripts=tokens,
        transcript_lengths=predicted_lengths,
        compute_wer=False,
    )
    if not encoder_learns:
        return tdt, torch.zeros(())
    return tdt, ctc_loss(model.ctc_decoder(encoder_output=encoded), frames, tokens, token_lengths)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    random.seed(args.seed)
    tokenizer_dir = tempfile.TemporaryDirectory()
    model = build_model(args.base, Path(tokenizer_dir.name))
    heads = [*model.decoder.parameters(), *model.joint.parameters()]
    inherited = [*model.encoder.parameters(), *model.ctc_decoder.parameters()]
    optimizer = torch.optim.AdamW(
        [{"params": heads, "rate": 1.0}, {"params": inherited, "rate": ENCODER_RATE}],
        lr=args.lr,
        betas=(0.9, 0.98),
        weight_decay=1e-3,
    )

    def step_loss(batch, step, progress):
        tdt, ctc = losses_of(model, batch, progress >= ENCODER_LEARNS_FROM)
        return 0.7 * tdt + 0.3 * ctc, [tdt.item(), ctc.item()]

    def rate_of(step, progress):
        return args.lr * min(1.0, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * progress))

    # Batches varies the audio at full strength from its batch 3,600 on, and takes utterances of
    # every length from 1,000 on.
    train(
        model,
        optimizer,
        out=args.out,
        corpus=args.corpus,
        minutes=args.minutes,
        seed=args.seed,
        first_batch=3600,
        loss_of=step_loss,
        rate_of=rate_of,
        score=lambda utterances: "{:.1f} % TDT ({:.1f} % CTC)".format(
            *(100 * rate for rate in word_error_rates(model, utterances))
        ),
    )


if __name__ == "__main__":
    main()
