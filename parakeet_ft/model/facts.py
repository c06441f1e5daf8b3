"""What a restored model is, read from its live objects and not from its configuration."""

from __future__ import annotations

from typing import Any


def family(model: Any) -> str:
    """One of "ctc", "rnnt", "tdt", "hybrid_rnnt_ctc", "hybrid_tdt_ctc"."""
    if not hasattr(model, "joint"):
        return "ctc"
    transducer = "tdt" if model.joint.num_extra_outputs else "rnnt"
    return f"hybrid_{transducer}_ctc" if hasattr(model, "ctc_decoder") else transducer


def loss_facts(model: Any) -> dict[str, Any]:
    """Class, blank index, reduction and, where the loss has them, durations and constants; of a
    hybrid's CTC head under "ctc".
    """
    return _facts(model.loss) | (
        {"ctc": _facts(model.ctc_loss)} if hasattr(model, "ctc_loss") else {}
    )


def _facts(loss: Any) -> dict[str, Any]:
    kernel = getattr(loss, "_loss", loss)
    facts = {
        "class": type(kernel).__name__,
        "blank": kernel.blank,
        "reduction": getattr(loss, "config_reduction", loss.reduction),
    }
    for name in ("durations", "sigma", "omega", "fastemit_lambda", "clamp"):
        if hasattr(kernel, name):
            value = getattr(kernel, name)
            facts[name] = value if isinstance(value, int | float) else list(value)
    return facts


def spec_augment_facts(model: Any) -> dict[str, float] | None:
    """The masks that a forward pass in train mode draws; None if it draws none (NeMo 3.0.0 then has
    a lambda in their place).
    """
    masks = getattr(getattr(model, "spec_augmentation", None), "spec_augment", None)
    names = ("freq_masks", "time_masks", "freq_width", "time_width")
    return {name: getattr(masks, name) for name in names} if hasattr(masks, "freq_masks") else None


def describe(model: Any) -> dict[str, Any]:
    """Effective values of a restored model, fit for JSON; `attention` and `spec_augment` say what
    the next forward pass would do.
    """
    encoder = model.encoder
    return {
        "class": type(model).__name__,
        "family": family(model),
        "num_weights": sum(p.numel() for p in model.parameters()),
        "vocab_size": int(model.tokenizer.vocab_size),
        "tokenizer": type(model.tokenizer).__name__,
        "loss": loss_facts(model),
        "rate_hz": int(model.preprocessor._sample_rate),
        "encoder": {
            "d_model": encoder.d_model,
            "n_layers": len(encoder.layers),
            "subsampling_factor": encoder.subsampling_factor,
        },
        "attention": {
            "self_attention_model": encoder.self_attention_model,
            "att_context_size": list(encoder.att_context_size),
            "subsampling_chunking": getattr(
                encoder.pre_encode, "subsampling_conv_chunking_factor", None
            ),
        },
        "spec_augment": spec_augment_facts(model),
        "decoding": str(model.cfg.decoding.strategy),
    }
