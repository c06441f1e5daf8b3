"""Exact RNN-T and TDT losses as wavefronts: all utterances and all label positions of an
anti-diagonal in one step, plain torch.

NeMo 3.0.0 has for the CPU a Python loop over (B, T, U) for RNN-T and nothing for TDT (`ValueError:
TDT is not yet implemented for non CUDA computation`). Here both are one recursion over a lattice of
nodes (t, u), t frames consumed and u labels emitted:

    blank of duration d >= 1:  (t, u) -> (t + d, u)
    label of duration d >= 0:  (t, u) -> (t + d, u + 1)

RNN-T is the case of blanks of duration 1 and labels of duration 0. The end is (T, U), entered by a
blank only. Arcs never lead back to a smaller t + u, so one step per anti-diagonal suffices; the
backward variables are the forward ones of the reversed lattice and run in the same steps as further
rows. The gradient is analytic (posteriors of arcs), not autograd through the recursion.

Papers: RNN-T, https://arxiv.org/abs/1211.3711; TDT with sigma and omega,
https://arxiv.org/abs/2304.06795; FastEmit, https://arxiv.org/abs/2010.11148. Semantics of sigma,
omega, clamp and fastemit_lambda: those of NeMo's CUDA kernels,
`nemo/collections/asr/parts/numba/rnnt_loss/utils/cuda_utils/gpu_rnnt{,_kernel}.py`, 3.0.0.

Memory: nothing of the size of the logits (B, T, U + 1, V + 1) is made in the forward pass, and only
their gradient in the backward pass.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from nemo.collections.asr.models import ASRModel

# Log of an impossible event. Finite, so that differences of two are not NaN; sums of a million stay
# finite in float64.
NEVER = -1e30
# Logits normalised at once: about what stays in a core's cache (measured: 24 ms against 77 ms for
# 25 M logits).
CHUNK = 1 << 17


class TransducerLoss(torch.nn.Module):
    """Costs of RNN-T, or of TDT if `durations` is not empty; called as NeMo's inner losses are
    (`RNNTLoss._loss`).

    `blank` is the last token; with durations, the logits of the durations follow it. Gradients of
    the token logits of one utterance's cost are clamped to [-clamp, clamp] if `clamp` > 0, before
    any reduction (NeMo's CUDA kernels; its CPU loss clamps after it). With probability `omega` a
    call is trained with plain RNN-T, drawn from Python's `random` once a call as NeMo draws it.
    """

    def __init__(
        self,
        *,
        blank: int,
        durations: tuple[int, ...] = (),
        sigma: float = 0.0,
        omega: float = 0.0,
        clamp: float = -1.0,
        fastemit_lambda: float = 0.0,
        reduction: str | None = None,
    ) -> None:
        super().__init__()
        if durations and (
            max(durations) < 1 or min(durations) < 0 or len(set(durations)) < len(durations)
        ):
            raise ValueError(
                f"Durations must be distinct, not negative, and one at least positive; found "
                f"{list(durations)}."
            )
        self.blank, self.durations, self.sigma, self.omega = blank, tuple(durations), sigma, omega
        self.clamp, self.fastemit_lambda, self.reduction = clamp, fastemit_lambda, reduction

    def forward(
        self,
        acts: torch.Tensor,
        labels: torch.Tensor,
        act_lens: torch.Tensor,
        label_lens: torch.Tensor,
    ) -> torch.Tensor:
        """acts (B, T, U + 1, V + 1 [+ D]) unnormalised, labels (B, U), act_lens (B), label_lens (B)
        -> costs (B) in float32, or reduced.

        Any dtype of acts; the arithmetic is in float32, the recursion in float64, the gradient in
        the dtype of acts. What lies beyond the lengths is not read. An utterance that no path
        explains costs infinity and has no gradient.
        """
        durations = self.draw_durations()
        costs = _Wavefront.apply(
            acts,
            labels,
            act_lens,
            label_lens,
            self.blank,
            acts.shape[-1] - len(self.durations),
            durations,
            self.sigma if durations else 0.0,
            self.clamp,
            self.fastemit_lambda,
        )
        if self.reduction in (None, "none"):
            return costs
        if self.reduction == "mean_volume":
            return costs.sum() / label_lens.sum()
        if self.reduction == "mean":
            return (costs / label_lens).mean()
        return {"sum": costs.sum, "mean_batch": costs.mean}[self.reduction]()

    def draw_durations(self) -> tuple[int, ...]:
        """The durations of one call: none, with probability omega."""
        plain = self.durations and random.uniform(0, 1) < self.omega
        return () if plain else self.durations


class _Wavefront(torch.autograd.Function):
    """Costs (B) of logits. "Packed" tensors have one row per node of the real lattices: sum over
    utterances of T_b x (U_b + 1).
    """

    @staticmethod
    def forward(
        ctx,
        acts,
        labels,
        act_lens,
        label_lens,
        blank,
        num_tokens,
        durations,
        sigma,
        clamp,
        fastemit_lambda,
    ):
        """Costs (B) of logits acts (B, T, U + 1, V)."""
        sizes = list(zip(act_lens.tolist(), label_lens.tolist(), strict=True))
        norm, blank_arcs, label_arcs, duration_arcs = _log_probs(
            acts, labels, sizes, blank, num_tokens, bool(durations)
        )
        needs_grad = ctx.needs_input_grad[0]
        lattice = Lattice.packed(act_lens.long(), label_lens.long())
        log_likelihood, posteriors = _forward_backward(
            lattice,
            (blank_arcs - sigma).double(),
            (label_arcs - sigma).double(),
            duration_arcs.double(),
            durations,
            needs_grad,
        )
        if needs_grad:
            blanks, emissions, lasting = (p.float() for p in posteriors)
            # FastEmit counts each emission 1 + lambda times in the tokens' gradient, and not in the
            # durations'.
            ctx.save_for_backward(
                acts,
                labels,
                norm,
                blanks,
                emissions * (1 + fastemit_lambda),
                lasting,
                duration_arcs,
            )
            ctx.settings = sizes, blank, num_tokens, clamp
        return (-log_likelihood * (1 + fastemit_lambda)).float()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_costs):
        """The gradient of acts; the rest has none."""
        acts, labels, norm, blanks, emissions, lasting, duration_arcs = ctx.saved_tensors
        sizes, blank, num_tokens, clamp = ctx.settings
        visits = blanks + emissions
        # Gradients below 1e-20 become 0: the exponential of what ends as a denormal is six times
        # slower (measured).
        visits = visits.masked_fill_(visits < 1e-20, 0)
        grad = torch.empty(acts.shape, dtype=acts.dtype, device=acts.device)
        start = 0
        for b, (frames, length) in enumerate(sizes):
            grad[b, frames:] = 0
            grad[b, :frames, length + 1 :] = 0
            cost_grad = grad_costs[b].float()
            # d cost / d logit = visits * softmax - posterior of the arc. Without a clamp, the
            # upstream factor rides in the exponent.
            factor = torch.ones_like(cost_grad) if clamp > 0 else cost_grad.abs()
            nodes = slice(start, start := start + frames * (length + 1))
            shift = (norm[nodes] - (visits[nodes] * factor).log()).view(frames, length + 1, 1)
            arc_blank = (blanks[nodes] * factor).view(frames, length + 1)
            arc_label = (emissions[nodes] * factor).view(frames, length + 1)[:, :length]
            for rows in _chunks(frames, (length + 1) * acts.shape[-1]):
                # Whole rows, durations and all (they are overwritten below): contiguous memory is
                # twice as fast.
                out = grad[b, rows, : length + 1]
                part = (
                    out
                    if grad.dtype == torch.float32
                    else torch.empty(out.shape, device=out.device)
                )
                torch.sub(acts[b, rows, : length + 1].float(), shift[rows], out=part).exp_()
                part[..., blank] -= arc_blank[rows]
                part[:, torch.arange(length, device=acts.device), labels[b, :length].long()] -= (
                    arc_label[rows]
                )
                if clamp > 0:
                    part.clamp_(-clamp, clamp).mul_(cost_grad)
                elif cost_grad < 0:
                    part.neg_()
                if part is not out:
                    out.copy_(part)
            out = grad[b, :frames, : length + 1, num_tokens:]
            if lasting.shape[1]:
                posterior = lasting[nodes]
                out.copy_(
                    (
                        cost_grad
                        * (posterior.sum(-1, keepdim=True) * duration_arcs[nodes].exp() - posterior)
                    ).view(out.shape)
                )
            else:
                out.zero_()
        return grad, *[None] * 9


def _chunks(frames: int, logits_per_frame: int):
    step = max(1, CHUNK // max(1, logits_per_frame))
    return (slice(t, min(t + step, frames)) for t in range(0, frames, step))


def _log_probs(acts, labels, sizes, blank, num_tokens, has_durations) -> tuple[torch.Tensor, ...]:
    """Packed float32 (.), (.), (.), (., D): log-normaliser of the tokens; log-probabilities of
    blank, of the next label, of the durations.

    Where no label follows, its log-probability is NEVER.
    """
    norms, blanks, emissions, lasting = [], [], [], []
    for b, (frames, length) in enumerate(sizes):
        own = acts[b, :frames, : length + 1]
        norm = torch.empty(frames, length + 1, device=acts.device)
        for rows in _chunks(frames, (length + 1) * num_tokens):
            norm[rows] = own[rows, :, :num_tokens].float().logsumexp(-1)
        emission = torch.full_like(norm, NEVER)
        emission[:, :length] = (
            own[:, torch.arange(length, device=acts.device), labels[b, :length].long()].float()
            - norm[:, :length]
        )
        norms.append(norm.flatten())
        blanks.append((own[..., blank].float() - norm).flatten())
        emissions.append(emission.flatten())
        lasting.append(
            own[..., num_tokens:].float().log_softmax(-1).flatten(0, 1)
            if has_durations
            else norm.new_empty(norm.numel(), 0)
        )
    return tuple(torch.cat(parts) for parts in (norms, blanks, emissions, lasting))


class Lattice(NamedTuple):
    """The nodes (t, u) of a batch's lattices as flat index tensors (N), and how large they can be.

    `valid` is None where every node is real. Where it is a mask, nodes beyond an utterance's
    lengths stand too, so that no length has to be known on the host.
    """

    b: torch.Tensor
    t: torch.Tensor
    u: torch.Tensor
    valid: torch.Tensor | None
    act_lens: torch.Tensor
    label_lens: torch.Tensor
    most_frames: int
    most_labels: int

    @classmethod
    def packed(cls, act_lens: torch.Tensor, label_lens: torch.Tensor) -> Lattice:
        """Real nodes only, in the order (b, t, u). Reads the lengths, which a GPU waits for."""
        lattice = cls.dense(act_lens, label_lens, int(act_lens.max()), int(label_lens.max()))
        assert lattice.valid is not None
        real = lattice.valid.nonzero().squeeze(1)
        b, t, u = (index[real] for index in lattice[:3])
        return lattice._replace(b=b, t=t, u=u, valid=None)

    @classmethod
    def dense(
        cls, act_lens: torch.Tensor, label_lens: torch.Tensor, most_frames: int, most_labels: int
    ) -> Lattice:
        """All B x most_frames x (most_labels + 1) nodes; nothing is read back from the device."""
        axes = [
            torch.arange(size, device=act_lens.device)
            for size in (len(act_lens), most_frames, most_labels + 1)
        ]
        b, t, u = (index.reshape(-1) for index in torch.meshgrid(*axes, indexing="ij"))
        valid = (t < act_lens[b]) & (u <= label_lens[b])
        return cls(b, t, u, valid, act_lens, label_lens, most_frames, most_labels)


def _arcs_by_duration(lattice, blank, label, lasting, durations):
    """{duration: log-probabilities (N)} of blanks and of labels.

    Arcs that overrun the end are NEVER, and so are labels that arrive at the end.
    """
    b, t, u = lattice[:3]
    left, behind = lattice.act_lens[b] - t, lattice.label_lens[b] - u
    if durations:
        blanks = {d: blank + lasting[:, i] for i, d in enumerate(durations) if d > 0}
        labels = {d: label + lasting[:, i] for i, d in enumerate(durations)}
    else:
        blanks, labels = {1: blank}, {0: label}
    unreal = torch.zeros_like(b, dtype=torch.bool) if lattice.valid is None else ~lattice.valid
    for d, arc in blanks.items():
        overruns = (d > left) | ((d == left) & (behind > 0))
        blanks[d] = arc.masked_fill(overruns | unreal, NEVER)
    for d, arc in labels.items():
        labels[d] = arc.masked_fill((d >= left) | (behind <= 0) | unreal, NEVER)
    return blanks, labels


def _forward_backward(lattice, blank, label, lasting, durations, needs_grad):
    """Float64 log-probabilities of the nodes' arcs (N), (N), (N, D) -> log-likelihoods (B) and the
    posteriors of blank, label and durations, shaped as they came.

    Diagonal n of the lattice of row r is `alpha[pad + n, r, 1 + u]`, with t = n - u; the first
    column and `pad` diagonals are NEVER. Rows 0..B-1 are the lattices, rows B..2B-1 the same
    reversed: node (t, u) there is (T_b - t, U_b - u), so their alpha is our beta.
    """
    b, t, u = lattice[:3]
    device, batch = blank.device, len(lattice.act_lens)
    rows = batch * (2 if needs_grad else 1)
    left, behind = lattice.act_lens[b] - t, lattice.label_lens[b] - u
    blank_arcs, label_arcs = _arcs_by_duration(lattice, blank, label, lasting, durations)
    reach_blank, reach_label = max(blank_arcs), max(label_arcs) + 1

    # arcs[n, k, r, u]: the arcs that arrive on diagonal n, k by how many diagonals back they
    # started, farthest first, blanks then labels.
    width = lattice.most_labels + 1
    last = lattice.most_frames + lattice.most_labels
    pad, kinds = max(reach_blank, reach_label), reach_blank + reach_label
    kind_stride, diagonal_stride = rows * width, kinds * rows * width
    size = (last + 1 + pad) * diagonal_stride
    # One more element takes what nodes beyond the lengths would write.
    flat = torch.full((size + 1,), NEVER, dtype=torch.float64, device=device)
    arcs = flat[:size].view(last + 1 + pad, kinds, rows, width)

    def arrive(places: torch.Tensor, arc: torch.Tensor) -> None:
        flat[places.masked_fill(arc <= NEVER / 2, size)] = arc

    own_forward = (t + u) * diagonal_stride + b * width + u
    own_reverse = (left + behind) * diagonal_stride + (batch + b) * width + behind
    for d, arc in blank_arcs.items():
        kind = (reach_blank - d) * kind_stride
        arrive(own_forward + d * diagonal_stride + kind, arc)
        if needs_grad:
            arrive(own_reverse + kind, arc)
    for d, arc in label_arcs.items():
        kind = (kinds - 1 - d) * kind_stride
        arrive(own_forward + (d + 1) * diagonal_stride + kind + 1, arc)
        if needs_grad:
            arrive(own_reverse + kind, arc)

    alpha = _recursion(arcs, reach_blank, reach_label, pad, last)
    ends = pad + lattice.act_lens + lattice.label_lens
    log_likelihood = alpha[ends, torch.arange(batch, device=device), 1 + lattice.label_lens]
    impossible = log_likelihood < NEVER / 2
    costs_from = log_likelihood.masked_fill(impossible, -torch.inf)
    if not needs_grad:
        return costs_from, None

    flat, diagonal_stride = alpha.view(-1), alpha.stride(0)
    here = flat[(pad + t + u) * diagonal_stride + b * (width + 1) + 1 + u]
    here = here - log_likelihood.masked_fill(impossible, 0)[b]
    after = (pad + left + behind) * diagonal_stride + (batch + b) * (width + 1) + 1 + behind

    def posterior(arc: torch.Tensor, back: int) -> torch.Tensor:
        beta = flat[(after - back).clamp(min=0)]  # beyond the lengths the arc is NEVER
        return (here + arc + beta).exp_()

    blank_post = {d: posterior(arc, d * diagonal_stride) for d, arc in blank_arcs.items()}
    label_post = {d: posterior(arc, (d + 1) * diagonal_stride + 1) for d, arc in label_arcs.items()}
    both = [blank_post.get(d, 0) + label_post[d] for d in durations]
    lasting = torch.stack(both, 1) if both else here.new_empty(len(here), 0)
    return costs_from, (sum(blank_post.values()), sum(label_post.values()), lasting)


def _recursion(arcs, reach_blank, reach_label, pad, last) -> torch.Tensor:
    """alpha (pad + last + 1, rows, width + 1): each diagonal in a handful of calls."""
    rows, width = arcs.shape[2:]
    alpha = arcs.new_full((pad + last + 1, rows, width + 1), NEVER)
    alpha[pad, :, 1] = 0
    strides = (alpha.stride(0), *alpha.stride())
    first_blank = (pad - reach_blank) * alpha.stride(0) + 1
    first_label = (pad - reach_label) * alpha.stride(0)
    from_blanks = alpha.as_strided(
        (last + 1, reach_blank, rows, width), strides, first_blank
    ).unbind()
    from_labels = alpha.as_strided(
        (last + 1, reach_label, rows, width), strides, first_label
    ).unbind()
    diagonals, arriving = alpha[pad:, :, 1:].unbind(), arcs.unbind()
    paths = arcs.new_empty(reach_blank + reach_label, rows, width)
    by_blank, by_label = paths[:reach_blank], paths[reach_blank:]
    best, total = arcs.new_empty(rows, width), arcs.new_empty(rows, width)
    for n in range(1, last + 1):
        torch.add(from_blanks[n], arriving[n][:reach_blank], out=by_blank)
        torch.add(from_labels[n], arriving[n][reach_blank:], out=by_label)
        torch.amax(paths, 0, out=best)
        torch.sum(paths.sub_(best).exp_(), 0, out=total)
        torch.add(total.log_(), best, out=diagonals[n])
    return alpha


def use_wavefront_loss(model: ASRModel) -> str | None:
    """Give an RNNT, TDT or hybrid model this loss on every device; a line that says so, or None if
    its loss was left alone (CTC, others).

    What the loss is (durations, sigma, omega, clamp, reduction) comes from the model's own
    configuration, which stays untouched, so the saved .nemo is stock.
    `model.objective.training_loss` computes it inside the joint (`model.joint_loss`).
    """
    from nemo.collections.asr.losses.rnnt import RNNTLoss
    from omegaconf import OmegaConf

    from parakeet_ft.model import parts

    if not parts.is_transducer(model):
        return None
    name, kwargs = model.extract_rnnt_loss_cfg(model.cfg.get("loss", None))
    if name not in ("default", "warprnnt_numba", "pytorch", "tdt", "tdt_pytorch"):
        return None
    kwargs = (
        OmegaConf.to_container(kwargs, resolve=True)
        if OmegaConf.is_config(kwargs)
        else dict(kwargs or {})
    )
    is_tdt = name.startswith("tdt")
    # num_classes_with_blank counts the durations too. NeMo subtracts them for "tdt" alone
    # (rnnt_models.py:87, 3.0.0).
    blank = (
        model.joint.num_classes_with_blank - 1 - (model.joint.num_extra_outputs if is_tdt else 0)
    )
    loss = RNNTLoss(
        num_classes=blank,
        loss_name=name,
        loss_kwargs=dict(kwargs),
        reduction=model.cfg.get("rnnt_reduction", "mean_batch"),
    )
    ours = {
        key: kwargs[key] for key in ("sigma", "omega", "clamp", "fastemit_lambda") if key in kwargs
    }
    loss._loss = TransducerLoss(
        blank=blank, durations=tuple(kwargs["durations"]) if is_tdt else (), **ours
    )
    # Halves are converted piece by piece, not as a whole; and the joint need not normalise what the
    # loss normalises (as on CUDA).
    loss._force_float32 = False
    if model.joint.log_softmax is None and parts.joint_temperature(model) == 1.0:
        model.joint.log_softmax = False
    model.loss = loss
    if model.joint.fuse_loss_wer:
        model.joint.set_loss(loss)
    settings = ", ".join(
        f"{key} {value}" for key, value in ours.items() if value not in (0.0, -1.0)
    )
    return (
        f"{'TDT' if is_tdt else 'RNN-T'} as a "
        f"wavefront{' (' + settings + ')' if settings else ''}, {loss.reduction}"
    )
