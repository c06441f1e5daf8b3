"""Replicas: the architectures of the published Parakeet checkpoints, and tiny ones, as NeMo models
with random weights.

For tests and benchmarks only; fine-tuning takes its architecture from the checkpoint. Sources of
`REPLICAS`:

- NeMo's `examples/asr/conf/fastconformer/{fast-conformer_ctc_bpe, fast-conformer_transducer_bpe,
  hybrid_transducer_ctc/fastconformer_hybrid_tdt_ctc_bpe}.yaml`: the Large, XLarge and XXLarge rows
  of their tables, the durations
  [0, 1, 2, 3, 4], sigma 0.02, omega 0.1, dropout, spec augment, fused joint of 4, decoding;
- the model cards (parameters, vocabulary, 42 layers of 1.1b, 24 of 0.6b);
- the coverage tables of parakeet.cpp's parity report, read from the checkpoints themselves: layers,
  mels, vocabulary, xscaling, LSTM
  layers of 110m and 0.6b-v2/v3, biases absent in v2/v3.

Assumed: `conv_kernel_size` 9 in 1.1b (transformers' ParakeetEncoderConfig; NeMo's XXLarge row says
5), two LSTM layers and joint 640 in 1.1b and rnnt-0.6b (transformers' ParakeetRNNTConfig and the
XLarge row), biases present in every model but v2/v3, fused joint and reduction as in the YAMLs.
v2/v3 carry an unused `aux_ctc` section in their files that is left out here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from nemo.collections.asr.models import ASRModel

Family = Literal["ctc", "rnnt", "tdt", "hybrid", "hybrid_rnnt"]  # hybrid is TDT-CTC
DURATIONS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Architecture:
    """What tells one Parakeet from another; the rest is the same in all of them. Widths are numbers
    of channels.
    """

    family: Family
    d_model: int
    n_layers: int
    n_heads: int = 8
    conv_channels: int = 256
    n_mels: int = 80
    vocab_size: int = 1024
    pred_hidden: int = 640
    pred_layers: int = 2
    joint_hidden: int = 640
    durations: tuple[int, ...] = DURATIONS
    sigma: float = 0.02
    omega: float = 0.1
    xscaling: bool = True
    use_bias: bool = True
    conv_kernel_size: int = 9
    dropout: float = 0.1
    fused_batch_size: int = 4
    ctc_reduction: str = "mean_volume"  # of hybrids


REPLICAS: dict[str, Architecture] = {
    "parakeet_ctc_0.6b": Architecture("ctc", 1024, 24),
    "parakeet_ctc_1.1b": Architecture("ctc", 1024, 42),
    "parakeet_rnnt_0.6b": Architecture("rnnt", 1024, 24),
    "parakeet_rnnt_1.1b": Architecture("rnnt", 1024, 42),
    "parakeet_tdt_1.1b": Architecture("tdt", 1024, 42, xscaling=False),
    "parakeet_tdt_ctc_1.1b": Architecture("hybrid", 1024, 42, xscaling=False),
    "parakeet_tdt_ctc_110m": Architecture("hybrid", 512, 17, pred_layers=1, xscaling=False),
    "parakeet_tdt_0.6b_v2": Architecture(
        "tdt", 1024, 24, n_mels=128, xscaling=False, use_bias=False
    ),
    "parakeet_tdt_0.6b_v3": Architecture(
        "tdt", 1024, 24, n_mels=128, vocab_size=8192, xscaling=False, use_bias=False
    ),
}


def tiny(family: Family, *, vocab_size: int = 64) -> Architecture:
    """An architecture of some 0.2 M weights for tests: every part of the real ones, no dropout."""
    return Architecture(
        family,
        d_model=64,
        n_layers=2,
        n_heads=4,
        conv_channels=16,
        vocab_size=vocab_size,
        pred_hidden=32,
        pred_layers=1,
        joint_hidden=32,
        xscaling=False,
        dropout=0.0,
        fused_batch_size=2,
    )


def config(architecture: Architecture, tokenizer_dir: Path) -> dict[str, Any]:
    """The model section that NeMo's published YAML has for this architecture, with every
    interpolation resolved.
    """
    a = architecture
    asr = "nemo.collections.asr.modules."
    ctc_head: dict[str, Any] = {
        "decoder": {
            "_target_": f"{asr}ConvASRDecoder",
            "feat_in": a.d_model,
            "num_classes": -1,
            "vocabulary": [],
        },
        "decoding": {"strategy": "greedy_batch"},
    }
    cfg: dict[str, Any] = {
        "sample_rate": 16000,
        "compute_eval_loss": False,
        "log_prediction": False,
        "skip_nan_grad": False,
        "tokenizer": {"dir": str(tokenizer_dir), "type": "bpe"},
        "preprocessor": {
            "_target_": f"{asr}AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16000,
            "normalize": "per_feature",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": a.n_mels,
            "n_fft": 512,
            "frame_splicing": 1,
            "dither": 1e-5,
            "pad_to": 0,
        },
        "spec_augment": {
            "_target_": f"{asr}SpectrogramAugmentation",
            "freq_masks": 2,
            "time_masks": 10,
            "freq_width": 27,
            "time_width": 0.05,
        },
        "encoder": {
            "_target_": f"{asr}ConformerEncoder",
            "feat_in": a.n_mels,
            "feat_out": -1,
            "n_layers": a.n_layers,
            "d_model": a.d_model,
            "use_bias": a.use_bias,
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": a.conv_channels,
            "causal_downsampling": False,
            "ff_expansion_factor": 4,
            "self_attention_model": "rel_pos",
            "n_heads": a.n_heads,
            "att_context_size": [-1, -1],
            "att_context_style": "regular",
            "xscaling": a.xscaling,
            "untie_biases": True,
            "pos_emb_max_len": 5000,
            "conv_kernel_size": a.conv_kernel_size,
            "conv_norm_type": "batch_norm",
            "conv_context_size": None,
            "dropout": a.dropout,
            "dropout_pre_encoder": a.dropout,
            "dropout_emb": 0.0,
            "dropout_att": a.dropout,
        },
        "optim": {"name": "adamw", "lr": 1e-3, "betas": [0.9, 0.98], "weight_decay": 1e-3},
    }
    if a.family == "ctc":
        return cfg | ctc_head | {"ctc_reduction": "mean_volume"}
    is_tdt = a.family in ("tdt", "hybrid")
    durations = list(a.durations) if is_tdt else []
    cfg |= {
        "rnnt_reduction": "mean_volume",
        "model_defaults": {
            "enc_hidden": a.d_model,
            "pred_hidden": a.pred_hidden,
            "joint_hidden": a.joint_hidden,
        },
        "decoder": {
            "_target_": f"{asr}RNNTDecoder",
            "normalization_mode": None,
            "random_state_sampling": False,
            "blank_as_pad": True,
            "prednet": {
                "pred_hidden": a.pred_hidden,
                "pred_rnn_layers": a.pred_layers,
                "t_max": None,
                "dropout": 2 * a.dropout,
            },
        },
        "joint": {
            "_target_": f"{asr}RNNTJoint",
            "log_softmax": None,
            "preserve_memory": False,
            "fuse_loss_wer": True,
            "fused_batch_size": a.fused_batch_size,
            "jointnet": {
                "joint_hidden": a.joint_hidden,
                "activation": "relu",
                "dropout": 2 * a.dropout,
            },
        },
        "decoding": {
            "strategy": "greedy_batch",
            "greedy": {"max_symbols": 10},
            "beam": {"beam_size": 2, "return_best_hypothesis": False, "score_norm": True},
        },
        "loss": {
            "loss_name": "default",
            "warprnnt_numba_kwargs": {"fastemit_lambda": 0.0, "clamp": -1.0},
        },
    }
    if is_tdt:
        cfg["model_defaults"] |= {"tdt_durations": durations, "num_tdt_durations": len(durations)}
        cfg["joint"]["num_extra_outputs"] = len(durations)
        cfg["decoding"] |= {"model_type": "tdt", "durations": durations}
        cfg["loss"] = {
            "loss_name": "tdt",
            "tdt_kwargs": {
                "fastemit_lambda": 0.0,
                "clamp": -1.0,
                "durations": durations,
                "sigma": a.sigma,
                "omega": a.omega,
            },
        }
    if a.family.startswith("hybrid"):
        cfg["aux_ctc"] = {
            "ctc_loss_weight": 0.3,
            "use_cer": False,
            "ctc_reduction": a.ctc_reduction,
        } | ctc_head
    return cfg


def build(architecture: Architecture, tokenizer_dir: Path) -> ASRModel:
    """A NeMo model of this architecture with random weights (seed torch first), on the CPU, in
    train mode.

    `tokenizer_dir` holds what `parakeet_ft.tokenizer.sentencepiece_model.write_tokenizer_dir`
    writes and must outlive the model: `save_to` reads it. Its size decides the size of the output
    layers; `architecture.vocab_size` is for `write_tokenizer`.
    """
    from nemo.collections.asr import models
    from omegaconf import OmegaConf, open_dict

    name = {
        "ctc": "EncDecCTCModelBPE",
        "rnnt": "EncDecRNNTBPEModel",
        "tdt": "EncDecRNNTBPEModel",
    }.get(architecture.family, "EncDecHybridRNNTCTCBPEModel")
    model = getattr(models, name)(OmegaConf.create(config(architecture, tokenizer_dir)))
    # Published checkpoints have these sections, and transcribe() wants validation_ds to exist; set
    # afterwards, since the constructor would open the data (nemo/core/classes/modelPT.py, 3.0.0).
    with open_dict(model.cfg):
        model.cfg.train_ds = {
            "manifest_filepath": None,
            "sample_rate": 16000,
            "batch_size": 16,
            "shuffle": True,
        }
        model.cfg.validation_ds = {
            "manifest_filepath": None,
            "sample_rate": 16000,
            "batch_size": 16,
            "shuffle": False,
        }
    return model


def write_tokenizer(folder: Path, *, vocab_size: int) -> Path:
    """Write a BPE tokenizer directory of `vocab_size` pieces learnt from made-up words; the same
    every time.
    """
    import random

    from parakeet_ft.tokenizer.sentencepiece_model import train_sentencepiece, write_tokenizer_dir

    rng = random.Random(0)
    syllables = [
        c + v for c in "bcdfghjklmnprstvwyz" for v in ("a", "e", "i", "o", "u", "an", "er", "is")
    ]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(2 * vocab_size)]
    texts = ["abcdefghijklmnopqrstuvwxyz '"] + [
        " ".join(rng.choices(words, k=8)) for _ in range(vocab_size)
    ]
    return write_tokenizer_dir(train_sentencepiece(texts, vocab_size=vocab_size), folder)
