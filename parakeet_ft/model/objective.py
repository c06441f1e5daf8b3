"""The training loss of each family, from audio to one number."""

from __future__ import annotations

import torch


def training_loss(model, audio: torch.Tensor, lengths: torch.Tensor, tokens: torch.Tensor, token_lengths: torch.Tensor) -> dict[str, torch.Tensor]:
    """Loss of a batch with the model's own loss objects: audio (B, T), tokens (B, U) -> {"loss", and its parts for hybrids}.

    As NeMo 3.0.0's training_step (ctc_models.py, rnnt_models.py, hybrid_rnnt_ctc_models.py) without its decoding of training
    batches. Losses are computed in float32: CTC on a CPU has no bfloat16, and transducer sums lose too much in it.
    """
    outputs = model.forward(input_signal=audio, input_signal_length=lengths)
    encoded, frames = outputs[0], outputs[1]
    if not hasattr(model, "joint"):
        return {"loss": model.loss(log_probs=encoded.float(), targets=tokens, input_lengths=frames, target_lengths=token_lengths)}
    decoded, target_lengths, _ = model.decoder(targets=tokens, target_length=token_lengths)
    if model.joint.fuse_loss_wer:
        loss, *_ = model.joint(encoder_outputs=encoded, decoder_outputs=decoded, encoder_lengths=frames, transcripts=tokens,
                               transcript_lengths=token_lengths, compute_wer=False)
    else:
        joint = model.joint(encoder_outputs=encoded, decoder_outputs=decoded)
        loss = model.loss(log_probs=joint, targets=tokens, input_lengths=frames, target_lengths=target_lengths)
    weight = getattr(model, "ctc_loss_weight", 0.0)
    if not weight:
        return {"loss": loss}
    log_probs = model.ctc_decoder(encoder_output=encoded)
    ctc_loss = model.ctc_loss(log_probs=log_probs.float(), targets=tokens, input_lengths=frames, target_lengths=token_lengths)
    return {"loss": (1 - weight) * loss + weight * ctc_loss, "transducer_loss": loss.detach(), "ctc_loss": ctc_loss.detach()}
