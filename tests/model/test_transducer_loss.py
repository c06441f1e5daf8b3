"""The wavefront losses against every path counted and NeMo's CUDA kernels in numba's simulator, and
in a model. Against losses of others: test_loss_oracles.py.
"""

import math
import pickle
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from parakeet_ft.model.transducer_loss import TransducerLoss, use_wavefront_loss

DURATIONS = (0, 1, 2, 3, 4)


def batch_of(
    seed: int,
    frames: int,
    length: int,
    *,
    batch: int = 3,
    tokens: int = 7,
    durations: int = 0,
    scale: float = 2.0,
):
    """Random ragged logits (B, T, U + 1, V + 1 + D), labels, frames, label lengths; one utterance
    of full size in each direction.
    """
    g = torch.Generator().manual_seed(seed)
    act_lens = torch.randint(1, frames + 1, (batch,), generator=g)
    label_lens = torch.randint(0, length + 1, (batch,), generator=g)
    act_lens[0], label_lens[-1] = frames, length
    acts = scale * torch.randn(batch, frames, length + 1, tokens + durations, generator=g)
    return acts, torch.randint(0, tokens - 1, (batch, length), generator=g), act_lens, label_lens


def costs_and_grad(loss, acts, *rest, weights=None):
    acts = acts.clone().requires_grad_()
    costs = loss(acts, *rest)
    (costs * (torch.ones_like(costs) if weights is None else weights)).sum().backward()
    return costs.detach(), acts.grad


def assert_same(ours, theirs, rtol=1e-4, atol=1e-5):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, torch.as_tensor(b).to(a.dtype), rtol=rtol, atol=atol)


def brute_force(log_probs, durations_log_probs, labels, frames, length, blank, durations, sigma):
    """-log of the summed probability of every path, each walked on its own; pure Python."""
    total = []

    def walk(t, u, score):
        for d, lasting in durations_log_probs(t, u):
            step = score + lasting - sigma
            if u < length and t + d < frames:
                walk_from(t + d, u + 1, step + log_probs[t][u][labels[u]])
            if d > 0 and t + d < frames:
                walk_from(t + d, u, step + log_probs[t][u][blank])
            if d > 0 and t + d == frames and u == length:
                total.append(step + log_probs[t][u][blank])

    def walk_rnnt(t, u, score):
        if u < length:
            walk_from(t, u + 1, score + log_probs[t][u][labels[u]])
        if t + 1 < frames:
            walk_from(t + 1, u, score + log_probs[t][u][blank])
        elif u == length:
            total.append(score + log_probs[t][u][blank])

    walk_from = walk if durations else walk_rnnt
    walk_from(0, 0, 0.0)
    best = max(total, default=-math.inf)
    if best == -math.inf:
        return math.inf
    return -(best + math.log(sum(math.exp(x - best) for x in total)))


@pytest.mark.parametrize("durations", [(), DURATIONS, (0, 1), (0, 2, 3), (1, 2)])
def test_costs_are_those_of_all_paths_counted_one_by_one(durations):
    for seed, (frames, length) in enumerate([(1, 0), (4, 0), (1, 2), (3, 2), (2, 3), (5, 1)]):
        acts, labels, *_ = batch_of(
            seed, frames, length, batch=1, tokens=5, durations=len(durations)
        )
        log_probs = acts[0, ..., :5].log_softmax(-1).tolist()
        lasting = acts[0, ..., 5:].log_softmax(-1).tolist()

        def durations_at(t, u, lasting=lasting):
            return zip(durations, lasting[t][u], strict=True)

        expected = brute_force(
            log_probs, durations_at, labels[0].tolist(), frames, length, 4, durations, 0.05
        )
        cost = TransducerLoss(blank=4, durations=durations, sigma=0.05)(
            acts, labels, torch.tensor([frames]), torch.tensor([length])
        )
        assert cost.item() == pytest.approx(expected, rel=1e-4)


@pytest.fixture(scope="module")
def cuda_cases(tmp_path_factory):
    """(case, NeMo's costs, NeMo's gradient) of all cases, in one run of the simulator."""
    folder = tmp_path_factory.mktemp("cuda")
    cases = []
    for seed, (frames, length) in enumerate([(1, 0), (1, 2), (2, 3), (4, 2), (5, 0)]):
        for durations, plain in (
            ((), True),
            (DURATIONS, False),
            (DURATIONS, True),
            ((0, 1, 2), False),
        ):
            acts, labels, act_lens, label_lens = batch_of(
                seed, frames, length, batch=2, tokens=5, durations=len(durations)
            )
            settings = [(0.0, 0.0, 0.0), (0.05, 0.0, 0.0), (0.05, 0.2, 0.0), (0.05, 0.2, 0.3)]
            sigma, clamp, fastemit_lambda = settings[(seed + len(cases)) % len(settings)]
            cases.append(
                {
                    "acts": acts.numpy(),
                    "labels": labels.numpy(),
                    "act_lens": act_lens.numpy(),
                    "label_lens": label_lens.numpy(),
                    "durations": list(durations),
                    "sigma": sigma,
                    "clamp": clamp,
                    "fastemit_lambda": fastemit_lambda,
                    "plain": plain,
                }
            )
    (folder / "cases").write_bytes(pickle.dumps(cases))
    subprocess.run(
        [
            sys.executable,
            Path(__file__).with_name("cuda_simulator.py"),
            folder / "cases",
            folder / "answers",
        ],
        check=True,
    )
    return list(zip(cases, pickle.loads((folder / "answers").read_bytes()), strict=True))


def test_all_settings_agree_with_nemos_cuda_kernels(cuda_cases):
    for case, (costs, grad) in cuda_cases:
        loss = TransducerLoss(
            blank=4,
            durations=tuple(case["durations"]),
            sigma=case["sigma"],
            omega=float(case["plain"]),
            clamp=case["clamp"] or -1.0,
            fastemit_lambda=case["fastemit_lambda"],
        )
        batch = (
            torch.from_numpy(case[key]) for key in ("acts", "labels", "act_lens", "label_lens")
        )
        assert_same(costs_and_grad(loss, *batch), (costs, grad))


def test_omega_one_is_rnnt_and_zero_is_tdt():
    acts, *rest = batch_of(1, 6, 3, durations=5)
    mixed = costs_and_grad(
        TransducerLoss(blank=6, durations=DURATIONS, sigma=0.05, omega=1.0), acts, *rest
    )
    plain = costs_and_grad(TransducerLoss(blank=6), acts[..., :7], *rest)
    assert_same((mixed[0], mixed[1][..., :7]), plain, rtol=0, atol=0)
    assert not mixed[1][..., 7:].any()
    tdt = costs_and_grad(TransducerLoss(blank=6, durations=DURATIONS, sigma=0.05), acts, *rest)
    assert_same(
        costs_and_grad(
            TransducerLoss(blank=6, durations=DURATIONS, sigma=0.05, omega=0.0), acts, *rest
        ),
        tdt,
        rtol=0,
        atol=0,
    )
    assert not torch.allclose(tdt[0], mixed[0])


def test_omega_is_drawn_once_a_batch_from_pythons_random_as_nemo_draws_it():
    batch = batch_of(1, 6, 3, durations=5)
    tdt, plain = (
        TransducerLoss(blank=6, durations=DURATIONS, omega=omega)(*batch).sum().item()
        for omega in (0.0, 1.0)
    )
    random.seed(3)
    expected = [plain if random.uniform(0, 1) < 0.4 else tdt for _ in range(20)]
    random.seed(3)
    loss = TransducerLoss(blank=6, durations=DURATIONS, omega=0.4)
    assert [loss(*batch).sum().item() for _ in range(20)] == expected
    assert len(set(expected)) == 2


@pytest.mark.parametrize("durations", [(), DURATIONS])
def test_properties_hold_on_random_batches(durations):
    """Padding is not read, order does not matter, a constant shift changes nothing, gradients of a
    node's tokens sum to zero.
    """
    g = torch.Generator().manual_seed(0)
    for seed in range(15):
        frames, length = (int(torch.randint(low, 12, (), generator=g)) for low in (1, 0))
        acts, labels, act_lens, label_lens = batch_of(
            seed, frames, length, batch=4, durations=len(durations)
        )
        loss = TransducerLoss(blank=6, durations=durations, sigma=0.02)
        costs, grad = costs_and_grad(loss, acts, labels, act_lens, label_lens)
        assert torch.isfinite(costs).all() and torch.isfinite(grad).all()
        torch.testing.assert_close(
            grad[..., :7].sum(-1), torch.zeros(grad.shape[:3]), atol=1e-5, rtol=0
        )
        torch.testing.assert_close(
            grad[..., 7:].sum(-1), torch.zeros(grad.shape[:3]), atol=1e-5, rtol=0
        )

        padded = torch.nn.functional.pad(acts, (0, 0, 0, 2, 0, 3), value=float("nan"))
        for b in range(4):
            padded[b, act_lens[b] :] = padded[b, :, label_lens[b] + 1 :] = float("nan")
        order = torch.randperm(4, generator=g)
        shuffled = (
            padded[order],
            torch.nn.functional.pad(labels, (0, 2))[order],
            act_lens[order],
            label_lens[order],
        )
        again, grad_again = costs_and_grad(loss, *shuffled)
        torch.testing.assert_close(again, costs[order], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            grad_again[:, :frames, : length + 1], grad[order], rtol=1e-4, atol=1e-6
        )
        assert not grad_again[:, frames:].any() and not grad_again[:, :, length + 1 :].any()

        moved = acts.clone()
        moved[..., :7] += 5.0
        torch.testing.assert_close(
            loss(moved, labels, act_lens, label_lens), costs, rtol=1e-4, atol=1e-4
        )


def test_a_fused_minibatch_and_the_whole_batch_give_the_same():
    batch = batch_of(2, 9, 4, batch=4, durations=5)
    loss = TransducerLoss(blank=6, durations=DURATIONS)
    together, apart = loss(*batch), [loss(*(x[i : i + 2] for x in batch)) for i in (0, 2)]
    torch.testing.assert_close(together, torch.cat(apart))


def test_bf16_logits_are_computed_in_float32_and_get_a_bf16_gradient():
    acts, *rest = batch_of(5, 8, 4, durations=5)
    half = acts.bfloat16()
    loss = TransducerLoss(blank=6, durations=DURATIONS, sigma=0.05)
    costs, grad = costs_and_grad(loss, half, *rest)
    costs_full, grad_full = costs_and_grad(loss, half.float(), *rest)
    assert costs.dtype == torch.float32 and grad.dtype == torch.bfloat16
    assert torch.equal(costs, costs_full) and torch.equal(grad, grad_full.bfloat16())


def test_an_utterance_without_any_path_costs_infinity_and_has_no_gradient():
    acts, labels, *_ = batch_of(6, 3, 5, batch=2, durations=2)
    costs, grad = costs_and_grad(
        TransducerLoss(blank=6, durations=(1, 2)),
        acts,
        labels,
        torch.tensor([3, 3]),
        torch.tensor([5, 1]),
    )
    assert costs[0] == math.inf and not grad[0].any()
    assert costs[1].isfinite() and grad[1].any()


def test_long_utterances_lose_no_precision():
    acts, labels, *lens = batch_of(7, 400, 60, batch=1, tokens=9)
    _, grad = costs_and_grad(TransducerLoss(blank=8), acts, labels % 7, *lens)
    # Token 7 is in no transcript, so its gradient tells how often a node is visited; every path
    # takes exactly one blank a frame.
    softmax = acts.softmax(-1)
    visits = grad[..., 7] / softmax[..., 7]
    blanks = visits * softmax[..., 8] - grad[..., 8]
    torch.testing.assert_close(blanks.sum(-1), torch.ones(1, 400), rtol=1e-4, atol=0)


@pytest.mark.parametrize("reduction", ["mean_batch", "mean", "sum", "mean_volume"])
def test_reductions_are_nemos(reduction):
    from nemo.collections.asr.losses.rnnt import RNNTLoss

    acts, labels, act_lens, label_lens = batch_of(8, 7, 4)
    label_lens = label_lens.clamp(min=1)
    theirs = RNNTLoss(num_classes=6, reduction=reduction)
    expected = theirs(
        log_probs=acts, targets=labels, input_lengths=act_lens, target_lengths=label_lens
    )
    torch.testing.assert_close(
        TransducerLoss(blank=6, reduction=reduction)(acts, labels, act_lens, label_lens), expected
    )
    theirs._loss, theirs._force_float32 = TransducerLoss(blank=6), False
    again = theirs(
        log_probs=acts, targets=labels, input_lengths=act_lens, target_lengths=label_lens
    )
    torch.testing.assert_close(again, expected)


def test_durations_that_cannot_move_are_refused():
    for durations in ((0,), (0, -1), (1, 1)):
        with pytest.raises(ValueError, match="Durations"):
            TransducerLoss(blank=6, durations=durations)


def batch_for(model, seconds=1.0, count=3):
    g = torch.Generator().manual_seed(0)
    audio = 0.1 * torch.randn(count, int(16000 * seconds), generator=g)
    return (
        audio,
        torch.full((count,), audio.shape[1]),
        torch.randint(0, 60, (count, 5), generator=g),
        torch.tensor([5, 3, 4]),
    )


def training_loss(model, batch, seed=0):
    """One training_step without a trainer, with the same random numbers each time."""
    torch.manual_seed(seed)
    model.train()
    model.spec_augmentation = None
    model._optimizer = SimpleNamespace(param_groups=[{"lr": 0.0}])
    model._trainer = SimpleNamespace(log_every_n_steps=1000, global_step=0)
    model.log_dict = lambda *args, **kwargs: None
    return model.training_step(batch, 0)["loss"]


@pytest.mark.parametrize("family", ["rnnt", "hybrid_rnnt"])
@pytest.mark.parametrize("fused", [True, False])
def test_a_swapped_model_trains_a_step_with_nemos_loss_and_gradients(family, fused, tiny_model):
    results = []
    for swap in (False, True):
        model = tiny_model(family)
        if not fused:
            model.joint.set_fuse_loss_wer(False)
        model.preprocessor.featurizer.dither = 0.0
        if swap:
            before = str(model.cfg)
            assert "RNN-T as a wavefront, mean_volume" in use_wavefront_loss(model)
            assert str(model.cfg) == before
        loss = training_loss(model, batch_for(model))
        loss.backward()
        results.append(
            (
                loss.detach(),
                {name: p.grad for name, p in model.named_parameters() if p.grad is not None},
            )
        )
    (loss, grads), (loss_ours, grads_ours) = results
    torch.testing.assert_close(loss_ours, loss, rtol=1e-4, atol=1e-5)
    assert grads.keys() == grads_ours.keys() and len(grads) > 80
    scale = max(g.abs().max() for g in grads.values())
    for name in grads:
        torch.testing.assert_close(
            grads_ours[name], grads[name], rtol=1e-3, atol=1e-4 * scale.item(), msg=name
        )


@pytest.mark.parametrize("family", ["tdt", "hybrid"])
def test_a_swapped_tdt_model_learns_on_the_cpu(family, tiny_model):
    model = tiny_model(family, omega=0.1)
    assert "TDT as a wavefront (sigma 0.02, omega 0.1), mean_volume" in use_wavefront_loss(model)
    assert model.loss._loss.blank == 64 and model.loss._loss.durations == DURATIONS
    optimizer, batch = torch.optim.AdamW(model.parameters(), lr=3e-3), batch_for(model)
    random.seed(0)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = training_loss(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_a_swapped_model_is_saved_as_a_stock_one(tiny_model, tmp_path):
    from nemo.collections.asr.models import ASRModel

    model = tiny_model("tdt")
    use_wavefront_loss(model)
    model.save_to(str(tmp_path / "swapped.nemo"))
    again = ASRModel.restore_from(str(tmp_path / "swapped.nemo"), map_location="cpu")
    assert (
        type(again.loss._loss).__name__ == "TDTLossNumba"
        and again.loss._loss.omega == 0.1
        and again.joint.log_softmax is None
    )


def test_the_swap_mends_a_loss_that_change_vocabulary_broke(tiny_model, tokenizer_dir):
    model = tiny_model("tdt")
    model.change_vocabulary(new_tokenizer_dir=str(tokenizer_dir), new_tokenizer_type="bpe")
    assert type(model.loss._loss).__name__ == "RNNTLossNumba"
    use_wavefront_loss(model)
    assert (
        model.loss._loss.durations == DURATIONS
        and model.loss._loss.blank == 64
        and model.joint.loss is model.loss
    )


def test_a_ctc_model_is_left_alone(tiny_model):
    model = tiny_model("ctc")
    loss = model.loss
    assert use_wavefront_loss(model) is None and model.loss is loss


def test_swapped_greedy_transcripts_are_the_same(tiny_model, speech):
    model = tiny_model("tdt")
    manifest = str(speech(count=2))
    before = [h.text for h in model.transcribe(manifest, verbose=False)]
    use_wavefront_loss(model)
    assert [h.text for h in model.transcribe(manifest, verbose=False)] == before


def test_nemo_still_refuses_tdt_on_a_cpu():
    """When this fails NeMo has a TDT loss for the CPU: compare speeds, and drop ours if it is as
    good.
    """
    from nemo.collections.asr.losses.rnnt import RNNTLoss

    acts, labels, act_lens, label_lens = batch_of(0, 4, 2, durations=5)
    batch = {
        "log_probs": acts,
        "targets": labels,
        "input_lengths": act_lens,
        "target_lengths": label_lens,
    }
    with pytest.raises(ValueError, match="not yet implemented for non CUDA"):
        RNNTLoss(num_classes=6, loss_name="tdt", loss_kwargs={"durations": list(DURATIONS)})(
            **batch
        )
    with pytest.raises((AssertionError, RuntimeError)):
        RNNTLoss(
            num_classes=6, loss_name="tdt_pytorch", loss_kwargs={"durations": list(DURATIONS)}
        )(**batch)


def test_nemo_still_counts_the_durations_into_the_blank_of_tdt_pytorch(tiny_model, tokenizer_dir):
    """rnnt_models.py:87 subtracts them for "tdt" alone; when mended, use_wavefront_loss may take
    model.loss's own blank.
    """
    from omegaconf import OmegaConf

    from parakeet_ft.model import replicas

    cfg = replicas.config(replicas.tiny("tdt"), tokenizer_dir)
    cfg["loss"] = {
        "loss_name": "tdt_pytorch",
        "tdt_pytorch_kwargs": {"durations": list(DURATIONS), "sigma": 0.02},
    }
    from nemo.collections.asr.models import EncDecRNNTBPEModel

    model = EncDecRNNTBPEModel(OmegaConf.create(cfg))
    assert model.loss._loss.blank == 64 + 5
    use_wavefront_loss(model)
    assert model.loss._loss.blank == 64


def test_costs_do_not_depend_on_the_size_of_pieces(monkeypatch):
    import parakeet_ft.model.transducer_loss as module

    batch = batch_of(9, 11, 5, durations=5)
    loss = TransducerLoss(blank=6, durations=DURATIONS, clamp=0.2)
    whole = costs_and_grad(loss, *batch)
    monkeypatch.setattr(module, "CHUNK", 1)
    pieces = costs_and_grad(loss, *batch)
    assert all(np.allclose(a, b, atol=1e-7) for a, b in zip(whole, pieces, strict=True))
