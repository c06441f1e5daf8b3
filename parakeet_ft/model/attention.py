"""Full or local self-attention, and subsampling in pieces: what lets a long recording fit in
memory.

Local attention (Longformer, https://arxiv.org/abs/2004.05150, as in NeMo's `rel_pos_local_attn`)
has the same weights as full attention; memory grows with the length, not with its square. Its
context is in encoder frames of 80 ms (Parakeet's subsampling by 8).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from parakeet_ft.errors import UserError
from parakeet_ft.model.parts import stride_seconds

if TYPE_CHECKING:
    from nemo.collections.asr.models import ASRModel

FULL = "rel_pos"
LOCAL = "rel_pos_local_attn"


def set_attention(
    model: ASRModel,
    *,
    kind: Literal["full", "local"],
    left_context: int = 128,
    right_context: int = 128,
    global_tokens: int = 0,
    subsampling_chunking: int = 1,
) -> dict[str, object]:
    """Switch the encoder's attention in place, weights kept; returns what the live encoder then
    says (`attention`).

    Contexts are encoder frames, equal (multi_head_attention.py:470 of NeMo 3.0.0 misplaces the
    position scores if they are not), and mean nothing to `full`. The first `global_tokens` frames
    of a recording are seen by every frame and see every frame. `subsampling_chunking` 1 splits the
    convolutions of the subsampling when their input passes 2^31 numbers; a power of 2 always splits
    them in so many: by utterance, where the batch must have that many, or by channel for a batch of
    one, where NeMo leaves out the masking of the frame of padding at the end. All of it is written
    to the model's configuration too, so the exported .nemo has it.

    Raises UserError for values that have no meaning, and for an encoder that is not of Parakeet's
    kind.
    """
    check(
        kind=kind,
        left_context=left_context,
        right_context=right_context,
        global_tokens=global_tokens,
        subsampling_chunking=subsampling_chunking,
    )
    from omegaconf import open_dict

    encoder = model.encoder
    if getattr(encoder, "self_attention_model", None) not in (FULL, LOCAL):
        raise UserError(
            f"The encoder's attention is "
            f"{getattr(encoder, 'self_attention_model', type(encoder).__name__)!r}; expected "
            f"{FULL!r} or {LOCAL!r}, as Parakeet models have. Leave model.attention as the "
            f"checkpoint has it."
        )
    context = [-1, -1] if kind == "full" else [left_context, right_context]
    with _modules_as_they_were(encoder):
        model.change_attention_model(FULL if kind == "full" else LOCAL, context)
    global_settings = _set_global_tokens(encoder, global_tokens, kind=kind)
    encoder.change_subsampling_conv_chunking_factor(subsampling_chunking)
    with open_dict(model.cfg.encoder):
        model.cfg.encoder.update(
            {
                "self_attention_model": encoder.self_attention_model,
                "att_context_size": context,
                **global_settings,
                "subsampling_conv_chunking_factor": subsampling_chunking,
            }
        )
    return attention(model)


def _set_global_tokens(encoder: Any, count: int, *, kind: str) -> dict[str, Any]:
    """Give the encoder its global tokens; returns the settings as the configuration has them."""
    settings = {
        "global_tokens": count,
        "global_tokens_spacing": 1,
        "global_attn_separate": False,
    }
    # NeMo's new attention modules have no global tokens.
    for module in [encoder, *(_attentions(encoder) if kind == "local" else [])]:
        for name, value in settings.items():
            setattr(module, name, value)
    return settings


def _attentions(encoder: Any) -> list[Any]:
    """The attention module of each layer."""
    return [layer.self_attn for layer in encoder.layers]


@contextlib.contextmanager
def _modules_as_they_were(encoder: Any) -> Iterator[None]:
    """What makes new attention modules inside leaves biases, modes and requires_grad as they were.

    NeMo 3.0.0 (conformer_encoder.py:1127) makes them with random biases where the checkpoint has
    none (0.6b-v2, v3), in train mode and trainable whatever they were.
    """
    trainable = {name: p.requires_grad for name, p in encoder.named_parameters()}
    modes = [module.training for module in [encoder.pos_enc, *_attentions(encoder)]]
    has_bias = [module.linear_q.bias is not None for module in _attentions(encoder)]
    yield
    modules = [encoder.pos_enc, *_attentions(encoder)]
    for module, mode in zip(modules, modes, strict=True):
        module.train(mode)
    for module, biased in zip(_attentions(encoder), has_bias, strict=True):
        if not biased:
            for linear in (module.linear_q, module.linear_k, module.linear_v, module.linear_out):
                linear.bias = None
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(trainable[name])


def reserve_positions(model: ASRModel, *, seconds: float) -> None:
    """Make the encoder's table of positions long enough for `seconds`, as NeMo would later.

    Made before training, it is alike on all ranks and gets the type that the precision gives it;
    made anew while a bfloat16 model is scored in float32, it would stay in float32.
    """
    mel_frames = int((seconds + 1) / stride_seconds(model))
    if mel_frames > model.encoder.max_audio_length:
        model.encoder.set_max_audio_length(mel_frames)


def check(
    *,
    kind: str,
    left_context: int,
    right_context: int,
    global_tokens: int,
    subsampling_chunking: int,
) -> None:
    """Raise UserError unless the settings mean something; needs no model, so that a recipe can ask
    before it loads one.
    """
    if kind not in ("full", "local"):
        raise UserError(f"model.attention.kind is {kind!r}; expected 'full' or 'local'.")
    if kind == "local" and (left_context != right_context or left_context < 1):
        raise UserError(
            f"Local attention looks {left_context} frames back and {right_context} ahead; expected "
            "the same number twice, at least 1 (a frame is 80 ms: 128 and 128 see 10 s to either "
            "side), or kind=full. With unequal contexts NeMo 3.0.0 adds the position scores to the "
            "wrong frames."
        )
    if global_tokens < 0 or (kind == "full" and global_tokens):
        raise UserError(
            f"global_tokens is {global_tokens} with kind={kind}; expected 0, or with kind=local a "
            f"small number such as 1."
        )
    if subsampling_chunking < 1 or subsampling_chunking & (subsampling_chunking - 1):
        raise UserError(
            f"subsampling_chunking is {subsampling_chunking}; expected 1 (split when needed) or a "
            "power of 2. NeMo's -1 (never split) crashes in NeMo 3.0.0."
        )


def attention(model: ASRModel) -> dict[str, object]:
    """kind, left_context, right_context (encoder frames; -1 is all), global_tokens,
    subsampling_chunking, read from the live modules.
    """
    module = model.encoder.layers[0].self_attn
    is_local = hasattr(module, "att_context_size") and "Longformer" in type(module).__name__
    left, right = module.att_context_size if is_local else (-1, -1)
    return {
        "kind": "local" if is_local else "full",
        "left_context": int(left),
        "right_context": int(right),
        "global_tokens": int(module.global_tokens) if is_local else 0,
        "subsampling_chunking": int(model.encoder.pre_encode.subsampling_conv_chunking_factor),
    }
