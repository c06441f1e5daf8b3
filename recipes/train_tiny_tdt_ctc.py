"""Train the bundled `tiny_tdt_ctc` (hybrid FastConformer TDT-CTC, 4 M weights) on top of the tiny CTC base, on a CPU.

    python recipes/train_tiny_tdt_ctc.py --base parakeet_ft/demo/tiny.nemo --corpus corpora/general --minutes 40 --out tiny_tdt_ctc.nemo

Encoder, CTC head, tokenizer and features are the base's; prediction network and joint start at random and learn with the wavefront TDT
loss. The schedule is in minutes of wall-clock: to 40 % the heads alone, on a frozen encoder in eval mode (three times the batches a
minute); then all weights, the encoder and the CTC head at a tenth of the rate; a cosine to zero throughout. The state is saved every ten
minutes to OUT.state; the same command continues from it. One line of WER of both heads every five minutes.
"""

import argparse
import math
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from train_tiny import Batches, collate

from parakeet_ft.data.manifest import Utterance, atomic_path, read_manifest
from parakeet_ft.data.synthetic import channel
from parakeet_ft.model import replicas
from parakeet_ft.model.transducer_loss import use_wavefront_loss
from parakeet_ft.tokenizer import write_tokenizer_dir

ENCODER_LEARNS_FROM, ENCODER_RATE = 0.4, 0.1


def build_model(base_path: Path, tokenizer_dir: Path):
    """The hybrid with the base's encoder, CTC head, features and tokenizer, whose directory must outlive the model."""
    from nemo.collections.asr.models import ASRModel, EncDecHybridRNNTCTCBPEModel
    from omegaconf import OmegaConf

    base = ASRModel.restore_from(str(base_path), map_location="cpu")
    write_tokenizer_dir(base.tokenizer.tokenizer.serialized_model_proto(), tokenizer_dir)
    architecture = replicas.Architecture("hybrid", d_model=base.cfg.encoder.d_model, n_layers=base.cfg.encoder.n_layers, pred_hidden=256,
                                         pred_layers=1, joint_hidden=256, dropout=0.0, fused_batch_size=8)
    cfg = replicas.config(architecture, tokenizer_dir)
    cfg |= {part: OmegaConf.to_container(base.cfg[part], resolve=True) for part in ("preprocessor", "spec_augment", "encoder")}
    model = EncDecHybridRNNTCTCBPEModel(OmegaConf.create(cfg))
    model.encoder.load_state_dict(base.encoder.state_dict())
    model.ctc_decoder.load_state_dict(base.decoder.state_dict())
    model.preprocessor.load_state_dict(base.preprocessor.state_dict())
    print(use_wavefront_loss(model))
    return model


@torch.inference_mode()
def word_error_rates(model, utterances: list[Utterance]) -> tuple[float, float]:
    """WER of the TDT and of the CTC head, in the noise of a quiet room: digital silence is found in no recording."""
    from nemo.collections.asr.metrics.wer import word_error_rate

    model.eval()
    rng, tdt, ctc = np.random.default_rng(0), [], []
    for start in range(0, len(utterances), 25):
        audio = [soundfile.read(u.audio_filepath, dtype="float32")[0] for u in utterances[start:start + 25]]
        audio = [channel.add_noise(a, channel.coloured_noise(len(a), rng, slope=0.4), snr_db=30) for a in audio]
        audio, lengths, *_ = collate(audio, [[0]] * len(audio))
        encoded, frames = model(input_signal=audio, input_signal_length=lengths)
        tdt += [h.text for h in model.decoding.rnnt_decoder_predictions_tensor(encoded, frames)]
        ctc += [h.text for h in model.ctc_decoding.ctc_decoder_predictions_tensor(model.ctc_decoder(encoder_output=encoded), frames)]
    references = [u.text for u in utterances]
    return word_error_rate(tdt, references), word_error_rate(ctc, references)


def losses_of(model, batch: tuple[torch.Tensor, ...], encoder_learns: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Per-token TDT and CTC loss of a batch of audio (B, T), lengths (B), tokens (B, U), token lengths (B)."""
    audio, lengths, tokens, token_lengths = batch
    # Frozen also means without its batch norm learning.
    model.encoder.train(encoder_learns)
    with torch.set_grad_enabled(encoder_learns):
        features, frames = model.preprocessor(input_signal=audio, length=lengths)
        features = model.spec_augmentation(input_spec=features, length=frames)
        encoded, frames = model.encoder(audio_signal=features, length=frames)
    predicted, predicted_lengths, _ = model.decoder(targets=tokens, target_length=token_lengths)
    tdt, *_ = model.joint(encoder_outputs=encoded, decoder_outputs=predicted, encoder_lengths=frames, transcripts=tokens,
                          transcript_lengths=predicted_lengths, compute_wer=False)
    if not encoder_learns:
        return tdt, torch.zeros(())
    log_probs = model.ctc_decoder(encoder_output=encoded)
    ctc = torch.nn.functional.ctc_loss(log_probs.transpose(0, 1), tokens, frames, token_lengths, blank=log_probs.shape[-1] - 1,
                                       reduction="sum", zero_infinity=True) / token_lengths.sum()
    return tdt, ctc


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    random.seed(args.seed)
    train, seen, unseen = (read_manifest(args.corpus / f"{name}.jsonl") for name in ("train", "dev_seen", "dev_unseen"))
    tokenizer_dir = tempfile.TemporaryDirectory()
    model = build_model(args.base, Path(tokenizer_dir.name))
    heads = [*model.decoder.parameters(), *model.joint.parameters()]
    inherited = [*model.encoder.parameters(), *model.ctc_decoder.parameters()]
    optimizer = torch.optim.AdamW([{"params": heads, "rate": 1.0}, {"params": inherited, "rate": ENCODER_RATE}], lr=args.lr,
                                  betas=(0.9, 0.98), weight_decay=1e-3)
    step, elapsed = 0, 0.0
    state_path = args.out.with_suffix(".state")
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, elapsed = state["step"], state["elapsed"]
        print(f"continuing at step {step}, minute {elapsed / 60:.0f}")

    # Batches varies the audio at full strength from its batch 3,600 on, and takes utterances of every length from 1,000 on.
    loader = iter(torch.utils.data.DataLoader(Batches(train, model.tokenizer.text_to_ids, seed=args.seed, step=3600 + step),
                                              batch_size=None, num_workers=1, prefetch_factor=4))
    model.train()
    total, next_report, next_save = args.minutes * 60, elapsed + 300, elapsed + 600
    losses, start = [], time.monotonic() - elapsed
    while elapsed < total:
        encoder_learns = elapsed >= ENCODER_LEARNS_FROM * total
        lr = args.lr * min(1.0, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * elapsed / total))
        for group in optimizer.param_groups:
            group["lr"] = lr * group["rate"]
        optimizer.zero_grad()
        tdt, ctc = losses_of(model, next(loader), encoder_learns)
        (0.7 * tdt + 0.3 * ctc).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        losses.append((tdt.item(), ctc.item()))
        elapsed = time.monotonic() - start
        if elapsed >= next_report or elapsed >= total:
            mean_tdt, mean_ctc = np.mean(losses, axis=0)
            (tdt_seen, ctc_seen), (tdt_unseen, ctc_unseen) = word_error_rates(model, seen), word_error_rates(model, unseen)
            print(f"minute {elapsed / 60:5.1f}  step {step:6d}  lr {lr:.1e}  loss TDT {mean_tdt:.3f} CTC {mean_ctc:.3f}  WER TDT (CTC) "
                  f"seen voices {100 * tdt_seen:.1f} ({100 * ctc_seen:.1f}) %  unseen {100 * tdt_unseen:.1f} ({100 * ctc_unseen:.1f}) %",
                  flush=True)
            model.train()
            losses, next_report = [], elapsed + 300
        if elapsed >= next_save:
            with atomic_path(state_path) as path:
                torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "elapsed": elapsed}, path)
            next_save = elapsed + 600

    # fp16 halves the file; NeMo restores it as float32. The mel filters stay exact: rounded, features differ from those of onnx-asr and
    # transformers by up to 0.4.
    for name, module in model.named_children():
        if name != "preprocessor":
            module.half()
    with atomic_path(args.out) as path:
        model.save_to(str(path))
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB, {sum(p.numel() for p in model.parameters())} weights")


if __name__ == "__main__":
    main()
