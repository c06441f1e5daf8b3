"""Train the bundled `tiny` base (FastConformer-CTC, 3.2 M weights, BPE 256) from nothing on a CPU.

    python demo_making/synthesize_general.py --hours 17 --out corpora/general
    python demo_making/train_tiny.py --corpus corpora/general --minutes 90 --out tiny.nemo

The schedule is in minutes of wall-clock: flat to 35 %, then a cosine to zero. The state is saved
every ten minutes to OUT.state; the same command continues from it. One line of WER on seen and
unseen voices (sentences unseen in both) every five minutes.
"""

import argparse
import math
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from synthetic import channel, general_text

from parakeet_ft.data.manifest import Utterance, read_manifest
from parakeet_ft.files import atomic_path
from parakeet_ft.tokenizer.sentencepiece_model import train_sentencepiece, write_tokenizer_dir

RATE_HZ = 16000
SECONDS_PER_BATCH = 40.0
NUMBER_WORDS = {
    *general_text.DIGITS,
    *general_text.TEENS,
    *general_text.TENS,
    "hundred",
    "thousand",
    "point",
}
NUMERIC_STEPS = 800
MAX_STRENGTH = 0.6


def build_model(texts: list[str], tokenizer_dir: Path):
    """The tiny FastConformer-CTC with a tokenizer learnt from `texts`, whose directory must outlive
    the model.

    Without dropout: 3 M weights do not overfit 17 hours here.
    """
    from nemo.collections.asr.models import EncDecCTCModelBPE
    from omegaconf import OmegaConf

    width = 144
    write_tokenizer_dir(train_sentencepiece(texts, vocab_size=256), tokenizer_dir)
    return EncDecCTCModelBPE(
        OmegaConf.create(
            {
                "sample_rate": RATE_HZ,
                "log_prediction": False,
                "ctc_reduction": "mean_volume",
                "skip_nan_grad": False,
                "tokenizer": {"dir": str(tokenizer_dir), "type": "bpe"},
                "preprocessor": {
                    "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
                    "sample_rate": RATE_HZ,
                    "normalize": "per_feature",
                    "window_size": 0.025,
                    "window_stride": 0.01,
                    "window": "hann",
                    "features": 80,
                    "n_fft": 512,
                    "frame_splicing": 1,
                    "dither": 1e-5,
                    "pad_to": 0,
                },
                "spec_augment": {
                    "_target_": "nemo.collections.asr.modules.SpectrogramAugmentation",
                    "freq_masks": 1,
                    "time_masks": 2,
                    "freq_width": 15,
                    "time_width": 0.05,
                },
                "encoder": {
                    "_target_": "nemo.collections.asr.modules.ConformerEncoder",
                    "feat_in": 80,
                    "feat_out": -1,
                    "n_layers": 6,
                    "d_model": width,
                    "subsampling": "dw_striding",
                    "subsampling_factor": 8,
                    "subsampling_conv_channels": 32,
                    "causal_downsampling": False,
                    "ff_expansion_factor": 4,
                    "self_attention_model": "rel_pos",
                    "n_heads": 4,
                    "att_context_size": [-1, -1],
                    "xscaling": False,
                    "untie_biases": True,
                    "pos_emb_max_len": 5000,
                    "conv_kernel_size": 9,
                    "conv_norm_type": "batch_norm",
                    "conv_context_size": None,
                    "dropout": 0.0,
                    "dropout_pre_encoder": 0.0,
                    "dropout_emb": 0.0,
                    "dropout_att": 0.0,
                },
                "decoder": {
                    "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
                    "feat_in": width,
                    "num_classes": -1,
                    "vocabulary": [],
                },
                "decoding": {"strategy": "greedy_batch"},
                "optim": {"name": "adamw", "lr": 1e-3},
            }
        )
    )


def is_numeric(text: str) -> bool:
    """More than half of the words are numbers."""
    words = text.split()
    return 2 * sum(word in NUMBER_WORDS for word in words) > len(words)


class Batches(torch.utils.data.IterableDataset):
    """Endless batches of at most 40 s: audio (B, T), lengths (B), tokens (B, U), token lengths (B),
    each utterance varied anew.

    The variation grows to MAX_STRENGTH from batch 600 to 3,600: 3 M weights underfit, and full
    variation costs them more than it gives.
    """

    def __init__(self, utterances: list[Utterance], tokenize, *, seed: int, step: int) -> None:
        self.utterances, self.tokenize, self.seed, self.step = utterances, tokenize, seed, step

    def __iter__(self):
        rng, step = np.random.default_rng([self.seed, self.step]), self.step
        noise = np.concatenate(
            [
                channel.coloured_noise(RATE_HZ * 60, rng, slope=slope)
                for slope in (0.0, 0.3, 0.5, 0.8)
            ]
        )
        while True:
            # Spoken numbers first: CTC leaves its blank plateau soon where words are few and
            # frequent. All words at once took over 1,200 steps without leaving it.
            pool = (
                [u for u in self.utterances if is_numeric(u.text)]
                if step < NUMERIC_STEPS
                else self.utterances
            )
            pool = sorted(pool, key=lambda u: u.duration * rng.uniform(0.9, 1.1))
            batches, batch = [], []
            for utterance in pool:
                if (
                    batch
                    and (len(batch) + 1) * max(utterance.duration, max(u.duration for u in batch))
                    > SECONDS_PER_BATCH
                ):
                    batches.append(batch)
                    batch = []
                batch.append(utterance)
            batches.append(batch)
            rng.shuffle(batches)
            for batch in batches:
                if step == NUMERIC_STEPS and len(pool) < len(self.utterances):
                    break
                strength = MAX_STRENGTH * min(1.0, max(0.0, (step - 600) / 3000))
                audio = [
                    channel.vary(
                        soundfile.read(u.audio_filepath, dtype="float32")[0],
                        rng,
                        noise,
                        strength=strength,
                    )
                    for u in batch
                ]
                step += 1
                yield collate(audio, [self.tokenize(u.text) for u in batch])


def collate(audio: list[np.ndarray], tokens: list[list[int]]) -> tuple[torch.Tensor, ...]:
    def pad(rows):
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    return (
        pad([torch.from_numpy(np.asarray(a, dtype=np.float32)) for a in audio]),
        torch.tensor([len(a) for a in audio]),
        pad([torch.tensor(t) for t in tokens]),
        torch.tensor([len(t) for t in tokens]),
    )


@torch.inference_mode()
def word_error_rate(model, utterances: list[Utterance]) -> float:
    from nemo.collections.asr.metrics.wer import word_error_rate as nemo_wer

    rng, hypotheses = np.random.default_rng(0), []
    for start in range(0, len(utterances), 25):
        batch = utterances[start : start + 25]
        audio = [soundfile.read(u.audio_filepath, dtype="float32")[0] for u in batch]
        # The noise of a quiet room: digital silence is found in no recording.
        audio = [
            channel.add_noise(a, channel.coloured_noise(len(a), rng, slope=0.4), snr_db=30)
            for a in audio
        ]
        audio, lengths, *_ = collate(audio, [[0]] * len(batch))
        log_probs, frames, _ = model(input_signal=audio, input_signal_length=lengths)
        hypotheses += [
            h.text for h in model.decoding.ctc_decoder_predictions_tensor(log_probs, frames)
        ]
    return nemo_wer(hypotheses, [u.text for u in utterances])


def train(
    model,
    optimizer,
    *,
    out: Path,
    corpus: Path,
    minutes: float,
    seed: int,
    first_batch: int,
    loss_of: Callable[..., tuple[torch.Tensor, list[float]]],
    rate_of: Callable[[int, float], float],
    score: Callable[..., str],
) -> None:
    """Train for `minutes` of wall-clock in all, continuing OUT's .state if there is one, and write
    `out`.

    loss_of(batch, step, progress): the loss and its parts for the log; rate_of(step, progress): the
    learning rate, which a group's "rate" multiplies; score(utterances): a word on a validation set;
    first_batch: of Batches, which vary the audio more and more.
    """
    train, seen, unseen = (
        read_manifest(corpus / f"{name}.jsonl") for name in ("train", "dev_seen", "dev_unseen")
    )
    step, elapsed = 0, 0.0
    state_path = out.with_suffix(".state")
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, elapsed = state["step"], state["elapsed"]
        print(f"continuing at step {step}, minute {elapsed / 60:.0f}")

    loader = iter(
        torch.utils.data.DataLoader(
            Batches(train, model.tokenizer.text_to_ids, seed=seed, step=first_batch + step),
            batch_size=None,
            num_workers=1,
            prefetch_factor=4,
        )
    )
    model.train()
    total, next_report, next_save = minutes * 60, elapsed + 300, elapsed + 600
    losses, start = [], time.monotonic() - elapsed
    while elapsed < total:
        progress = elapsed / total
        for group in optimizer.param_groups:
            group["lr"] = rate_of(step, progress) * group.get("rate", 1.0)
        optimizer.zero_grad()
        loss, parts = loss_of(next(loader), step, progress)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        losses.append(parts)
        elapsed = time.monotonic() - start
        if elapsed >= next_report or elapsed >= total:
            model.eval()
            print(
                f"minute {elapsed / 60:5.1f}  step {step:6d}  lr {rate_of(step, progress):.1e}  "
                f"loss {np.mean(losses, axis=0).round(3).tolist()}  "
                f"WER seen voices {score(seen)}, unseen {score(unseen)}",
                flush=True,
            )
            model.train()
            losses, next_report = [], elapsed + 300
        if elapsed >= next_save:
            with atomic_path(state_path) as path:
                torch.save(
                    {
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "step": step,
                        "elapsed": elapsed,
                    },
                    path,
                )
            next_save = elapsed + 600

    # fp16 halves the file; NeMo restores it as float32. The mel filters stay exact: rounded,
    # features differ from those of onnx-asr and transformers by up to 0.4.
    for name, module in model.named_children():
        if name != "preprocessor":
            module.half()
    with atomic_path(out) as path:
        model.save_to(str(path))
    print(
        f"{out}: {out.stat().st_size / 1e6:.2f} MB, {sum(p.numel() for p in model.parameters())} "
        f"weights"
    )


def ctc_loss(
    log_probs: torch.Tensor, frames: torch.Tensor, tokens: torch.Tensor, token_lengths: torch.Tensor
) -> torch.Tensor:
    """Per-token CTC loss of log probabilities (B, T, V + 1), blank last, and tokens (B, U)."""
    return (
        torch.nn.functional.ctc_loss(
            log_probs.transpose(0, 1),
            tokens,
            frames,
            token_lengths,
            blank=log_probs.shape[-1] - 1,
            reduction="sum",
            zero_infinity=True,
        )
        / token_lengths.sum()
    )


def loss_of(model, batch: tuple[torch.Tensor, ...], step: int) -> torch.Tensor:
    """Per-token CTC loss of a batch of audio (B, T), lengths (B), tokens (B, U), token lengths
    (B).
    """
    audio, lengths, tokens, token_lengths = batch
    features, frames = model.preprocessor(input_signal=audio, length=lengths)
    if step >= 3000:
        features = model.spec_augmentation(input_spec=features, length=frames)
    encoded, frames = model.encoder(audio_signal=features, length=frames)
    return ctc_loss(model.decoder(encoder_output=encoded), frames, tokens, token_lengths)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=90)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    random.seed(args.seed)
    tokenizer_dir = tempfile.TemporaryDirectory()
    model = build_model(
        [u.text for u in read_manifest(args.corpus / "train.jsonl")], Path(tokenizer_dir.name)
    )

    def step_loss(batch, step, progress):
        loss = loss_of(model, batch, step)
        return loss, [loss.item()]

    def rate_of(step, progress):
        return (
            args.lr
            * min(1.0, (step + 1) / 400)
            * (1.0 if progress < 0.35 else 0.5 * (1 + math.cos(math.pi * (progress - 0.35) / 0.65)))
        )

    train(
        model,
        torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=1e-3),
        out=args.out,
        corpus=args.corpus,
        minutes=args.minutes,
        seed=args.seed,
        first_batch=0,
        loss_of=step_loss,
        rate_of=rate_of,
        score=lambda utterances: f"{100 * word_error_rate(model, utterances):.1f} %",
    )


if __name__ == "__main__":
    main()
