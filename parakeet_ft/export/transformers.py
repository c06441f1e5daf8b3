"""A CTC model as a folder that Hugging Face transformers loads: ParakeetForCTC, its feature
extractor and its tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parakeet_ft.errors import UserError
from parakeet_ft.model import parts

# NeMo 3.0.0's names to those of transformers 5 (models/parakeet/modeling_parakeet.py), applied in
# this order.
RENAMES = (
    (r"^(ctc_)?decoder\.decoder_layers\.0\.", "ctc_head."),
    (r"pre_encode\.conv\.", "subsampling.layers."),
    (r"pre_encode\.out\.", "subsampling.linear."),
    (r"conv\.batch_norm\.", "conv.norm."),
    (r"self_attn\.linear_([qkv])\.", r"self_attn.\1_proj."),
    (r"self_attn\.linear_out\.", "self_attn.o_proj."),
    (r"self_attn\.linear_pos\.", "self_attn.relative_k_proj."),
    (r"self_attn\.pos_bias_([uv])$", r"self_attn.bias_\1"),
)


def rename(key: str) -> str:
    """The name that a tensor of the encoder or of the CTC head has in transformers."""
    for pattern, replacement in RENAMES:
        key = re.sub(pattern, replacement, key)
    return key


def check_convertible(config: Mapping[str, Any], *, head: str) -> None:
    """Raise UserError unless transformers' ParakeetForCTC computes what the model of this
    configuration does.
    """
    encoder, preprocessor = config["encoder"], config["preprocessor"]
    if head != "ctc":
        cure = (
            "Give --head ctc to export its CTC head"
            if config.get("aux_ctc")
            else "Leave transformers out of --to, and take nemo or onnx"
        )
        raise UserError(
            f"The transformers format is written for CTC heads only; this is a transducer. {cure}."
        )
    expected = {
        "self_attention_model": "rel_pos",
        "subsampling": "dw_striding",
        "subsampling_factor": 8,
        "conv_norm_type": "batch_norm",
    }
    wrong = {
        key: encoder.get(key) for key, value in expected.items() if encoder.get(key, value) != value
    }
    if wrong:
        raise UserError(
            f"transformers' ParakeetForCTC cannot hold an encoder with "
            f"{', '.join(f'{k}={v}' for k, v in wrong.items())}; expected "
            f"{', '.join(f'{key}={expected[key]}' for key in wrong)}. Leave transformers out of "
            f"--to, and take nemo."
        )
    keys = ("sample_rate", "window_size", "window_stride", "normalize")
    found = tuple(preprocessor.get(key) for key in keys)
    if found != (16000, 0.025, 0.01, "per_feature"):
        raise UserError(
            f"ParakeetFeatureExtractor hears 16 kHz, windows of 25 ms every 10 ms, normalised per "
            f"feature; this model has {found}. Leave transformers out of --to, and take nemo."
        )


def write_transformers(model: Any, folder: Path, *, tokenizer: bytes, head: str = "ctc") -> None:
    """Write config.json, model.safetensors, the processor and the tokenizer into an existing
    folder. Raises UserError as `check_convertible` does.

    `tokenizer` is the SentencePiece model. Every tensor must find its place: RuntimeError if one is
    missing or left over.
    """
    check_convertible(model.cfg, head=head)
    from transformers import ParakeetCTCConfig, ParakeetEncoderConfig, ParakeetForCTC

    encoder, vocab_size = model.cfg.encoder, int(model.tokenizer.vocab_size)
    config = ParakeetCTCConfig(
        vocab_size=vocab_size + 1,
        pad_token_id=vocab_size,
        ctc_loss_reduction="mean",
        ctc_zero_infinity=True,
        encoder_config=ParakeetEncoderConfig(
            hidden_size=encoder.d_model,
            num_hidden_layers=encoder.n_layers,
            num_attention_heads=encoder.n_heads,
            intermediate_size=encoder.d_model * encoder.get("ff_expansion_factor", 4),
            conv_kernel_size=encoder.conv_kernel_size,
            subsampling_factor=encoder.subsampling_factor,
            subsampling_conv_channels=model.encoder.pre_encode._conv_channels,
            num_mel_bins=model.cfg.preprocessor.features,
            scale_input=bool(encoder.get("xscaling", True)),
            attention_bias=bool(encoder.get("use_bias", True)),
            convolution_bias=bool(encoder.get("use_bias", True)),
            dropout=encoder.get("dropout", 0.1),
            activation_dropout=encoder.get("dropout", 0.1),
            attention_dropout=encoder.get("dropout_att", 0.1),
            layerdrop=0.0,
            max_position_embeddings=encoder.get("pos_emb_max_len", 5000),
        ),
    )
    prefix = f"{parts.ctc_decoder_name(model)}."
    state = {
        rename(key): value.float().contiguous()
        for key, value in model.state_dict().items()
        if key.startswith(("encoder.", prefix))
    }
    converted = ParakeetForCTC(config)
    converted.load_state_dict(state, strict=True)
    converted.eval().save_pretrained(folder)
    write_processor(
        folder,
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        num_mels=int(model.cfg.preprocessor.features),
    )


def write_processor(folder: Path, *, tokenizer: bytes, vocab_size: int, num_mels: int) -> None:
    """Feature extractor and tokenizer; the blank is the padding token, numbered after all
    pieces.
    """
    import tempfile

    from transformers import ParakeetFeatureExtractor, ParakeetProcessor, ParakeetTokenizer
    from transformers.convert_slow_tokenizer import ParakeetConverter

    with tempfile.NamedTemporaryFile(suffix=".model") as file:
        file.write(tokenizer)
        file.flush()
        backend = ParakeetConverter(file.name).converted()
    fast = ParakeetTokenizer(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        unk_token="<unk>",
        pad_token="<pad>",
    )
    if fast.pad_token_id != vocab_size:
        raise RuntimeError(
            f"The tokenizer numbers the blank {fast.pad_token_id}, the model {vocab_size}: has a "
            f"piece the name <pad>?"
        )
    extractor = ParakeetFeatureExtractor(
        feature_size=num_mels, sampling_rate=16000, hop_length=160, n_fft=512, win_length=400
    )
    ParakeetProcessor(extractor, fast, decoder_type="ctc").save_pretrained(folder)


def transformers_recognizer(folder: Path) -> Callable[[np.ndarray], str]:
    """A function from 16 kHz audio (samples,) to its text, with what AutoModelForCTC and
    AutoProcessor find in the folder, offline.
    """
    import torch
    from transformers import AutoModelForCTC, AutoProcessor

    model = AutoModelForCTC.from_pretrained(folder, local_files_only=True).eval()
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True)

    def recognize(samples: np.ndarray) -> str:
        with torch.inference_mode():
            inputs = processor([samples], sampling_rate=16000)
            return processor.batch_decode(model.generate(**inputs), skip_special_tokens=True)[0]

    return recognize
