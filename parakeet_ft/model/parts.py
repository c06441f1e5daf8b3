"""What a NeMo model has and is: the only place that asks one. Live objects are asked, and its
configuration only for what they do not keep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# The modules with a row for each piece.
VOCABULARY_MODULES = ("decoder", "joint", "ctc_decoder")
# What NeMo calls the heads of a hybrid.
DECODER_TYPES = {"transducer": "rnnt", "ctc": "ctc"}


def is_transducer(model: Any) -> bool:
    """Whether it has a joint: RNNT, TDT, and both hybrids."""
    return hasattr(model, "joint")


def is_hybrid(model: Any) -> bool:
    """Whether it has a CTC head beside its transducer."""
    return hasattr(model, "ctc_decoder")


def family(model: Any) -> str:
    """One of "ctc", "rnnt", "tdt", "hybrid_rnnt_ctc", "hybrid_tdt_ctc"."""
    if not is_transducer(model):
        return "ctc"
    transducer = "tdt" if model.joint.num_extra_outputs else "rnnt"
    return f"hybrid_{transducer}_ctc" if is_hybrid(model) else transducer


def heads(model: Any) -> list[str]:
    """Of "transducer" and "ctc" those that it has, the one that decodes by default first."""
    own = ["transducer"] if is_transducer(model) else ["ctc"]
    return [*own, "ctc"] if is_hybrid(model) else own


def decoding_head(model: Any) -> str:
    """The head that decodes now: "transducer" or "ctc"."""
    if not is_transducer(model) or getattr(model, "cur_decoder", None) == "ctc":
        return "ctc"
    return "transducer"


def decoding(model: Any) -> Any:
    """NeMo's decoding of the head that decodes now."""
    on_the_side = is_transducer(model) and decoding_head(model) == "ctc"
    return model.ctc_decoding if on_the_side else model.decoding


def decodings(model: Any) -> list[Any]:
    """NeMo's decoding of each head."""
    return [getattr(model, name) for name in ("decoding", "ctc_decoding") if hasattr(model, name)]


def decoding_config(model: Any, head: str) -> Any:
    """The configuration of a head's decoding, as it lies in the model's; None if there is none."""
    on_the_side = is_hybrid(model) and head == "ctc"
    return model.cfg.aux_ctc.get("decoding") if on_the_side else model.cfg.get("decoding")


def change_decoding(model: Any, config: Any, *, head: str) -> None:
    """Decode with `head` as `config` says, from now on."""
    which = {"decoder_type": DECODER_TYPES[head]} if is_hybrid(model) else {}
    model.change_decoding_strategy(config, verbose=False, **which)


def use_head(model: Any, head: str) -> None:
    """Decode with `head` from now on, as its decoding was set last."""
    if is_hybrid(model):
        model.cur_decoder = DECODER_TYPES[head]


def ctc_decoder_name(model: Any) -> str | None:
    """What the module that makes CTC's log-probabilities is called; None for a pure transducer."""
    if is_hybrid(model):
        return "ctc_decoder"
    return None if is_transducer(model) else "decoder"


def ctc_decoder(model: Any) -> torch.nn.Module | None:
    """The module that makes CTC's log-probabilities; None for a pure transducer."""
    name = ctc_decoder_name(model)
    return getattr(model, name) if name else None


def vocabulary_modules(model: Any) -> dict[str, torch.nn.Module]:
    """Those of VOCABULARY_MODULES that it has, by name."""
    return {name: getattr(model, name) for name in VOCABULARY_MODULES if hasattr(model, name)}


def metrics(model: Any) -> list[Any]:
    """NeMo's own WER metrics of its heads."""
    return [getattr(model, name) for name in ("wer", "ctc_wer") if hasattr(model, name)]


def ctc_loss_weight(model: Any) -> float:
    """What a hybrid's CTC loss weighs; 0 for all others."""
    return getattr(model, "ctc_loss_weight", 0.0)


def joint_temperature(model: Any) -> float:
    """What a transducer's joint divides its scores by before it normalises them."""
    return getattr(model.joint, "temperature", 1.0)


def durations(model: Any) -> list[int]:
    """Of a TDT model: by how many frames a token may advance; [] for all others."""
    found = getattr(model.loss, "durations", None) or model.cfg.decoding.get("durations")
    return list(found or [])


def max_symbols(model: Any) -> int:
    """Tokens that greedy transducer decoding writes at most in one frame."""
    return int(getattr(model.decoding.decoding, "max_symbols", None) or 10)


def rate_hz(model: Any) -> int:
    """Samples a second of the audio that it takes."""
    return int(model.preprocessor._sample_rate)


def device(model: Any) -> torch.device:
    """Where its weights are."""
    return next(model.parameters()).device


def stride_seconds(model: Any) -> float:
    """From one spectrum to the next."""
    return float(model.cfg.preprocessor.window_stride)


def spectrum(model: Any) -> dict[str, Any]:
    """How its features are computed, in words and numbers: mels, rate, window and stride in
    seconds, normalisation.
    """
    preprocessor = model.cfg.preprocessor
    return {
        "features": int(preprocessor.features),
        "sample rate": int(preprocessor.sample_rate),
        "window": float(preprocessor.window_size),
        "stride": float(preprocessor.window_stride),
        "normalisation": str(preprocessor.normalize),
    }


def frame_seconds(model: Any) -> float:
    """From one of the encoder's frames to the next."""
    return stride_seconds(model) * model.encoder.subsampling_factor


def frame_samples(model: Any) -> int:
    """Samples from one of the encoder's frames to the next."""
    return round(stride_seconds(model) * rate_hz(model)) * model.encoder.subsampling_factor


def sentencepiece_of(model: Any) -> Any:
    """The SentencePiece processor inside NeMo's tokenizer."""
    return getattr(model.tokenizer, "tokenizer", model.tokenizer)


def pieces(model: Any) -> list[str]:
    """Its vocabulary, in the order of the numbers; the blank, which comes next, left out."""
    return list(model.tokenizer.ids_to_tokens(list(range(int(model.tokenizer.vocab_size)))))


def loss_facts(model: Any) -> dict[str, Any]:
    """Class, blank index, reduction and, where the loss has them, durations and constants; of a
    hybrid's CTC head under "ctc".
    """
    facts = _facts(model.loss)
    if hasattr(model, "ctc_loss"):
        facts["ctc"] = _facts(model.ctc_loss)
    return facts


def _facts(loss: Any) -> dict[str, Any]:
    """What one loss says of itself."""
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
        "rate_hz": rate_hz(model),
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
