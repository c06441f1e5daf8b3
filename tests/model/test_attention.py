"""Attention is switched without touching what the model knows, and says what it really is."""

import pytest
import torch

from parakeet_ft.errors import UserError
from parakeet_ft.model.attention import attention, set_attention

LOCAL = {"kind": "local", "left_context": 8, "right_context": 8}


def encode(model, seconds, count=1):
    """Encoder output (count, D, T) of `seconds` of noise, in eval mode."""
    model.eval()
    model.preprocessor.featurizer.dither = 0.0
    audio = torch.randn(count, int(16000 * seconds), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features, lengths = model.preprocessor(
            input_signal=audio, length=torch.tensor([audio.shape[1]] * count)
        )
        return model.encoder(audio_signal=features, length=lengths)[0]


@pytest.mark.parametrize("use_bias", [True, False])
def test_local_attention_equals_full_where_its_window_covers_all_and_differs_where_not(
    use_bias, tiny_model
):
    model = tiny_model("ctc", use_bias=use_bias)
    short, long = encode(model, 0.3), encode(model, 4)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert set_attention(model, **LOCAL) == LOCAL | {"global_tokens": 0, "subsampling_chunking": 1}
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    torch.testing.assert_close(encode(model, 0.3), short, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(encode(model, 4), long, rtol=1e-2, atol=1e-3)
    assert set_attention(model, kind="full")["kind"] == "full"
    torch.testing.assert_close(encode(model, 4), long)


@pytest.mark.parametrize("use_bias", [True, False])
def test_local_attention_and_a_global_token_survive_save_and_restore(
    use_bias, tiny_model, tmp_path
):
    from nemo.collections.asr.models import ASRModel

    model = tiny_model("tdt", use_bias=use_bias)
    without = set_attention(model, **LOCAL) and encode(model, 4)
    settings = set_attention(model, **LOCAL, global_tokens=1, subsampling_chunking=2)
    assert settings == LOCAL | {"global_tokens": 1, "subsampling_chunking": 2}
    with_token = encode(model, 4)
    assert not torch.allclose(with_token, without, atol=1e-3)
    model.save_to(str(tmp_path / "local.nemo"))
    again = ASRModel.restore_from(str(tmp_path / "local.nemo"), map_location="cpu")
    assert attention(again) == settings
    torch.testing.assert_close(encode(again, 4), with_token)


@pytest.mark.parametrize("family", ["ctc", "hybrid"])
def test_local_attention_with_a_global_token_gets_gradients(family, tiny_model):
    model = tiny_model(family).train()
    set_attention(model, **LOCAL, global_tokens=1)
    features, lengths = model.preprocessor(
        input_signal=torch.randn(2, 64000), length=torch.tensor([64000, 40000])
    )
    model.encoder(audio_signal=features, length=lengths)[0].square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.encoder.parameters())


def test_a_frozen_encoder_stays_frozen_and_in_eval_mode(tiny_model):
    model = tiny_model("ctc")
    model.encoder.freeze()
    set_attention(model, **LOCAL)
    assert not any(p.requires_grad for p in model.encoder.parameters())
    assert not any(module.training for module in model.encoder.modules())


@pytest.mark.parametrize("chunking", [2, 4])
def test_subsampling_in_pieces_gives_the_same(chunking, tiny_model):
    model = tiny_model("ctc")
    whole, alone = encode(model, 3, count=4), encode(model, 2.99)
    assert (
        set_attention(model, kind="full", subsampling_chunking=chunking)["subsampling_chunking"]
        == chunking
    )
    torch.testing.assert_close(encode(model, 3, count=4), whole, rtol=1e-4, atol=1e-5)
    # A batch of one is split by channel, unmasked at the end: close, and no more.
    assert (encode(model, 2.99) - alone).abs().mean() < 0.05 * alone.abs().mean()


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"kind": "sparse"}, "'full' or 'local'"),
        ({"kind": "local", "left_context": 0, "right_context": 0}, "at least 1"),
        ({"kind": "local", "left_context": -1, "right_context": -1}, "kind=full"),
        ({"kind": "local", "left_context": 16, "right_context": 8}, "wrong frames"),
        ({"kind": "full", "global_tokens": 1}, "global_tokens"),
        ({"kind": "local", "global_tokens": -1}, "global_tokens"),
        ({"kind": "full", "subsampling_chunking": -1}, "crashes in NeMo"),
        ({"kind": "full", "subsampling_chunking": 6}, "power of 2"),
    ],
)
def test_settings_without_meaning_are_refused_and_change_nothing(settings, says, tiny_model):
    model = tiny_model("ctc")
    before = attention(model)
    with pytest.raises(UserError, match=says):
        set_attention(model, **settings)
    assert attention(model) == before


def test_another_kind_of_encoder_is_refused(tiny_model):
    model = tiny_model("ctc")
    model.encoder.self_attention_model = "abs_pos"
    with pytest.raises(UserError, match="abs_pos"):
        set_attention(model, kind="full")


def test_nemo_still_adds_random_biases_forgets_global_tokens_and_leaves_eval_mode(tiny_model):
    """conformer_encoder.py:1127 of 3.0.0. When this fails, set_attention needs less."""
    model = tiny_model("ctc", use_bias=False).eval()
    model.change_attention_model("rel_pos_local_attn", [8, 4])
    new = model.encoder.layers[0].self_attn
    assert new.linear_q.bias.abs().max() > 0 and new.training
    set_attention(model, **LOCAL, global_tokens=1)
    model.change_attention_model("rel_pos_local_attn", [8, 8])
    assert model.encoder.global_tokens == 1 and model.encoder.layers[0].self_attn.global_tokens == 0


def test_nemo_still_crashes_without_chunking(tiny_model):
    model = tiny_model("ctc")
    model.change_subsampling_conv_chunking_factor(-1)
    with pytest.raises(TypeError, match="lengths"):
        encode(model, 1)


def test_nemo_still_misplaces_positions_when_contexts_differ(tiny_model):
    """multi_head_attention.py:470 of 3.0.0. When this fails, unequal contexts may be allowed."""
    model = tiny_model("ctc")
    full = encode(model, 0.3)
    model.change_attention_model("rel_pos_local_attn", [8, 8])
    torch.testing.assert_close(encode(model, 0.3), full, rtol=1e-4, atol=1e-5)
    model.change_attention_model("rel_pos_local_attn", [8, 6])
    assert full.shape[-1] <= 6 and not torch.allclose(
        encode(model, 0.3), full, rtol=1e-3, atol=1e-3
    )
