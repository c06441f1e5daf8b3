"""RNN-T and TDT losses with the joint network inside, so that the logits are never held.

`transducer_loss` needs the joint's logits (B, T, U + 1, V + 1 + D), which for a vocabulary of 8,192
pieces are gigabytes. Here they are made piece by piece from the two projections that the joint
adds, and made again in the backward pass. What is kept between the two passes is 3 + D numbers a
node: the log-normaliser and the log-probabilities of blank, label and durations. The recursion over
the lattice is the one of `transducer_loss`, and so is its meaning of sigma, clamp and FastEmit.

The output layer is any callable from hidden (..., H) to logits (..., V + 1 + D): the checkpoint's
activation, dropout and linear layer, with whatever LoRA or adapters put beside it. Its gradients
are autograd's own, piece by piece; only those of the logits are written down here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from parakeet_ft.memory import free_bytes
from parakeet_ft.model.transducer_loss import NEVER, Lattice, _forward_backward

if TYPE_CHECKING:
    from nemo.collections.asr.models import ASRModel

# Logits made at once. On a CPU, 16 MB: rows enough for a matrix product to run at full speed; more
# are no faster (measured: benchmarks/README.md).
CPU_LOGITS = 1 << 22
# On a GPU, a share of what is free, as larger pieces need fewer kernel launches.
GPU_SHARE = 0.1
GPU_MOST_LOGITS = 1 << 28
# Logits up to this size are kept for the backward pass after all: to make them again takes a third
# of the time that a small batch takes.
KEPT_BYTES = 128 << 20
# Elements that one elementwise pass goes over at once on a CPU: about what stays in a core's cache.
# A GPU takes a whole piece, as each kernel costs it a start.
CACHED = 1 << 17
# A backward pass holds a piece's logits in their own type, in float32 and as a gradient.
BYTES_PER_LOGIT = 12

Output = Callable[[torch.Tensor], torch.Tensor]
Place = tuple[slice, slice, slice]


@dataclasses.dataclass(frozen=True)
class Arcs:
    """What the costs depend on: see transducer_loss.TransducerLoss."""

    blank: int
    durations: tuple[int, ...] = ()
    sigma: float = 0.0
    clamp: float = -1.0
    fastemit_lambda: float = 0.0

    @property
    def num_tokens(self) -> int:
        """Logits that are tokens, blank included; those of the durations follow."""
        return self.blank + 1


def joint_costs(
    encoded: torch.Tensor,
    predicted: torch.Tensor,
    output: Output,
    parameters: Sequence[torch.Tensor],
    labels: torch.Tensor,
    act_lens: torch.Tensor,
    label_lens: torch.Tensor,
    *,
    arcs: Arcs,
) -> torch.Tensor:
    """Costs (B) in float32, or float64 where the projections are, with gradients for all that goes
    in.

    encoded (B, T, H) and predicted (B, U + 1, H) are the projections of encoder and prediction
    network, `output` makes logits from their sum, `parameters` are the weights it uses. labels (B,
    U), act_lens (B) and label_lens (B) are as for TransducerLoss. What lies beyond the lengths is
    not read on a CPU, and has no influence on a GPU. An utterance that no path explains costs
    infinity and has no gradient. Raises RuntimeError for a second backward pass (retain_graph).
    """
    learning = [p for p in parameters if p.requires_grad]
    return _JointCosts.apply(
        encoded, predicted, labels, act_lens.long(), label_lens.long(), output, arcs, *learning
    )


def loss_in_joint(
    model: ASRModel,
    encoded: torch.Tensor,
    decoded: torch.Tensor,
    tokens: torch.Tensor,
    frames: torch.Tensor,
    token_lengths: torch.Tensor,
) -> torch.Tensor:
    """The loss of a model whose loss is a TransducerLoss, reduced as the model's own is.

    encoded (B, H, T) and decoded (B, H, U + 1) are what encoder and prediction network give. The
    joint is called as a module, so that hooks (FSDP's, for one) see the call, but computes the loss
    instead of logits.
    """
    loss = model.loss._loss
    durations = loss.draw_durations()
    arcs = Arcs(
        loss.blank,
        durations,
        loss.sigma if durations else 0.0,
        loss.clamp,
        loss.fastemit_lambda,
    )

    def costs_of(joint: Any) -> torch.Tensor:
        predicted = joint.project_prednet(decoded.transpose(1, 2))
        return joint_costs(
            joint.project_encoder(encoded.transpose(1, 2)),
            _masked(joint, predicted),
            functools.partial(_logits, joint),
            list(joint.parameters()),
            tokens,
            frames,
            token_lengths,
            arcs=arcs,
        )

    with _computing(model.joint, costs_of):
        costs = model.joint()
    return model.loss.reduce(costs, token_lengths)


@contextlib.contextmanager
def _computing(module: Any, function: Callable) -> Iterator[None]:
    """Inside, calling `module` calls function(module)."""
    module.forward = functools.partial(function, module)
    try:
        yield
    finally:
        del module.forward


def _logits(joint: Any, hidden: torch.Tensor) -> torch.Tensor:
    """What NeMo's joint makes of the sum of both projections: RNNTJoint.joint_after_projection,
    3.0.0, without its softmax, which the loss contains.
    """
    if joint.is_adapter_available():
        hidden = joint.forward_enabled_adapters(hidden)
    logits = joint.joint_net(hidden)
    temperature = getattr(joint, "temperature", 1.0)
    return logits if temperature == 1.0 else logits / temperature


def _masked(joint: torch.nn.Module, predicted: torch.Tensor) -> torch.Tensor:
    """HAINAN's masking of the prediction network's output, drawn as NeMo draws it."""
    share = getattr(joint, "masking_prob", 0.0)
    if not joint.training or share <= 0:
        return predicted
    batch, width, _ = predicted.shape
    return predicted * (torch.rand(batch, width, 1).to(predicted.device) > share)


class _JointCosts(torch.autograd.Function):
    """Costs (B): `joint_costs` with its settings as arguments, and its analytic gradient."""

    @staticmethod
    def forward(ctx, encoded, predicted, labels, act_lens, label_lens, output, arcs, *learning):
        """Costs (B); kept are scores by node, and never the logits."""
        needs_grad = any(ctx.needs_input_grad)
        joint = _Joint(encoded, predicted, output)
        scores = _Scores.empty(encoded, predicted, len(arcs.durations))
        logits_per_node = joint.logits_per_node()
        pieces = _pieces(joint, act_lens, label_lens, logits_per_node)
        num_kept = _count_kept(pieces, logits_per_node) if needs_grad else 0
        kept: list[_Piece | None] = []
        surroundings = _Surroundings.now(encoded.device)
        for number, place in enumerate(pieces):
            piece = joint.piece(place, keep=number < num_kept)
            if number < num_kept:
                kept.append(piece)
                surroundings = _Surroundings.now(encoded.device)
            scores.read(place, piece.logits.detach(), labels, arcs)
        scores.finish(label_lens)
        log_likelihood, posteriors = _posteriors(scores, act_lens, label_lens, arcs, needs_grad)
        if needs_grad:
            ctx.save_for_backward(encoded, predicted, labels, *posteriors, *scores, *learning)
            ctx.rest = output, arcs, pieces, kept, surroundings
        return (-log_likelihood * (1 + arcs.fastemit_lambda)).to(scores.norm.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_costs):
        """Gradients of encoded, predicted and `learning`, from logits that are made again. Raises
        RuntimeError for a second pass.
        """
        if ctx.rest is None:
            raise RuntimeError(
                "A second backward pass through the joint's loss: it keeps no logits, and frees "
                "what it keeps. Expected one backward pass a forward pass, without "
                "retain_graph=True."
            )
        output, arcs, pieces, kept, surroundings = ctx.rest
        ctx.rest = None
        encoded, predicted, labels, *saved = ctx.saved_tensors
        blanks, emissions, staying, norm, _, _, lasting = saved[:7]
        learning = saved[7:]
        joint = _Joint(encoded, predicted, output)
        grads = [torch.zeros_like(tensor) for tensor in (encoded, predicted, *learning)]
        with surroundings.again():
            for number, place in enumerate(pieces):
                if number < len(kept):
                    piece, kept[number] = kept[number], None
                else:
                    piece = joint.piece(place, keep=True)
                nodes = [part[place] for part in (norm, blanks, emissions, staying, lasting)]
                b, t, u = place
                grad = _logit_gradients(
                    piece.logits.detach(), labels[b], *nodes, arcs, grad_costs[b]
                )
                sources = [piece.encoded, piece.predicted, *learning]
                found = torch.autograd.grad(piece.logits, sources, grad, allow_unused=True)
                for total, value in zip(
                    [grads[0][b, t], grads[1][b, u], *grads[2:]], found, strict=True
                ):
                    if value is not None:
                        total += value
        return grads[0], grads[1], None, None, None, None, None, *grads[2:]


class _Piece(NamedTuple):
    """Logits (b, t, u, V + 1 + D) of a rectangle of nodes, and the leaves they are made from."""

    logits: torch.Tensor
    encoded: torch.Tensor
    predicted: torch.Tensor


@dataclasses.dataclass(frozen=True)
class _Joint:
    """The joint network of one batch: makes the logits of any rectangle of nodes."""

    encoded: torch.Tensor
    predicted: torch.Tensor
    output: Output

    def piece(self, place: Place, *, keep: bool) -> _Piece:
        """keep: with a graph to differentiate through."""
        b, t, u = place
        encoded = self.encoded[b, t].detach().requires_grad_(keep)
        predicted = self.predicted[b, u].detach().requires_grad_(keep)
        with torch.set_grad_enabled(keep):
            logits = self.output(encoded.unsqueeze(2) + predicted.unsqueeze(1))
        return _Piece(logits, encoded, predicted)

    def logits_per_node(self) -> int:
        with torch.random.fork_rng(devices=[self.encoded.device] if self.encoded.is_cuda else []):
            return self.output(self.encoded[:1, :1].detach().clone()).shape[-1]


class _Scores(NamedTuple):
    """Dense (B, T, U + 1), three times, and (B, T, U + 1, D): log-normaliser of the tokens,
    log-probabilities of blank, of the next label, of the durations.

    Where no label follows, its log-probability is NEVER.
    """

    norm: torch.Tensor
    blank: torch.Tensor
    label: torch.Tensor
    lasting: torch.Tensor

    @classmethod
    def empty(cls, encoded: torch.Tensor, predicted: torch.Tensor, num_durations: int) -> _Scores:
        """Zeros, to be read into piece by piece."""
        kind = torch.promote_types(encoded.dtype, torch.float32)
        shape = len(encoded), encoded.shape[1], predicted.shape[1]
        norm, blank, label = (encoded.new_zeros(shape, dtype=kind) for _ in range(3))
        return cls(norm, blank, label, encoded.new_zeros((*shape, num_durations), dtype=kind))

    def read(self, place: Place, logits: torch.Tensor, labels: torch.Tensor, arcs: Arcs) -> None:
        """Fill in the nodes of one piece."""
        kind, width = self.norm.dtype, logits.shape[2]
        tokens = logits[..., : arcs.num_tokens]
        step = _frames_at_once(tokens)
        self.norm[place] = torch.cat(
            [rows.to(kind).logsumexp(-1) for rows in tokens.split(step, 1)], 1
        )
        self.blank[place] = tokens[..., arcs.blank].to(kind)
        index = _next_labels(labels[place[0]], width).expand(*tokens.shape[:3], 1)
        self.label[place] = tokens.gather(-1, index).squeeze(-1).to(kind)
        if arcs.durations:
            self.lasting[place] = logits[..., arcs.num_tokens :].to(kind).log_softmax(-1)

    def finish(self, label_lens: torch.Tensor) -> None:
        """Logits to log-probabilities."""
        self.blank.sub_(self.norm)
        self.label.sub_(self.norm)
        positions = torch.arange(self.norm.shape[2], device=label_lens.device)
        self.label.masked_fill_(positions >= label_lens.view(-1, 1, 1), NEVER)


def _next_labels(labels: torch.Tensor, width: int) -> torch.Tensor:
    """(b, 1, width, 1): the label that each position emits; behind the last, where the arc has no
    weight, any will do.
    """
    padded = torch.nn.functional.pad(labels[:, : width - 1].long(), (0, 1))
    return padded.view(len(labels), 1, width, 1)


def _posteriors(scores, act_lens, label_lens, arcs, needs_grad):
    """Log-likelihoods (B), and dense posteriors of blank, label and durations."""
    batch, frames, width = scores.norm.shape
    if _lengths_are_near(act_lens):
        lattice = Lattice.packed(act_lens, label_lens)
    else:
        lattice = Lattice.dense(act_lens, label_lens, frames, width - 1)
    place = (lattice.b * frames + lattice.t) * width + lattice.u
    log_likelihood, posteriors = _forward_backward(
        lattice,
        scores.blank.flatten()[place].double() - arcs.sigma,
        scores.label.flatten()[place].double() - arcs.sigma,
        scores.lasting.flatten(0, 2)[place].double(),
        arcs.durations,
        needs_grad,
    )
    if not needs_grad:
        return log_likelihood, ()
    dense = []
    for found, like in zip(posteriors, (scores.norm, scores.norm, scores.lasting), strict=True):
        flat = torch.zeros_like(like.flatten(0, 2))
        dense.append(flat.index_copy_(0, place, found.to(like.dtype)).view_as(like))
    # FastEmit counts each emission 1 + lambda times in the tokens' gradient, not in the durations'.
    dense[1] *= 1 + arcs.fastemit_lambda
    return log_likelihood, dense


def _logit_gradients(logits, labels, norm, blanks, emissions, staying, lasting, arcs, grad_costs):
    """d cost / d logits = visits * softmax - posterior of the arc taken; overwrites float
    logits.
    """
    kind, width = norm.dtype, norm.shape[2]
    visits = blanks + emissions
    # Gradients below 1e-20 become 0: the exponential of what ends as a denormal is six times
    # slower (measured).
    visits = visits.masked_fill(visits < 1e-20, 0)
    upstream = grad_costs.to(kind).view(-1, 1, 1)
    # Without a clamp the upstream factor rides in the exponent.
    factor = torch.ones_like(upstream) if arcs.clamp > 0 else upstream.abs()
    shift = (norm - (visits * factor).log()).unsqueeze(-1)
    index = _next_labels(labels, width).expand(*norm.shape, 1)
    arc_blank, arc_label = blanks * factor, (emissions * factor).unsqueeze(-1)
    grad = logits if logits.dtype == kind else logits.to(kind)
    step = _frames_at_once(grad)
    for t in range(0, grad.shape[1], step):
        rows = slice(t, t + step)
        part = grad[:, rows].sub_(shift[:, rows]).exp_()
        part[..., arcs.blank] -= arc_blank[:, rows]
        part.scatter_add_(-1, index[:, rows], -arc_label[:, rows])
        if arcs.clamp > 0:
            part.clamp_(-arcs.clamp, arcs.clamp).mul_(upstream.unsqueeze(-1))
        elif not _lengths_are_near(grad_costs) or grad_costs.min() < 0:
            part.mul_(upstream.sign().unsqueeze(-1))
    grad[..., arcs.num_tokens :] = 0
    if arcs.durations:
        share = staying.sum(-1, keepdim=True) * lasting.exp() - staying
        grad[..., arcs.num_tokens :] = upstream.unsqueeze(-1) * share
    return grad.to(logits.dtype)


def _frames_at_once(logits: torch.Tensor) -> int:
    """Frames of logits (b, t, u, V) that one elementwise pass goes over."""
    if logits.device.type != "cpu":
        return logits.shape[1]
    return max(1, CACHED // (logits.shape[2] * logits.shape[3]))


def _lengths_are_near(lengths: torch.Tensor) -> bool:
    """Whether values can be read without making the host wait for a device."""
    return lengths.device.type == "cpu"


def _count_kept(pieces: Sequence[Place], logits_per_node: int) -> int:
    """How many of the first pieces have room in KEPT_BYTES, as float32."""
    room = KEPT_BYTES
    for number, place in enumerate(pieces):
        nodes = math.prod(axis.stop - (axis.start or 0) for axis in place)
        room -= 4 * nodes * logits_per_node
        if room < 0:
            return number
    return len(pieces)


def _pieces(
    joint: _Joint, act_lens: torch.Tensor, label_lens: torch.Tensor, logits_per_node: int
) -> list[Place]:
    """Rectangles (utterances, frames, label positions) that cover all nodes.

    On a CPU, of one utterance each and without padding. On a GPU the lengths are not known on the
    host: frames of the whole batch, padding and all.
    """
    found = []
    if _lengths_are_near(act_lens):
        for b, (frames, length) in enumerate(
            zip(act_lens.tolist(), label_lens.tolist(), strict=True)
        ):
            step = max(1, CPU_LOGITS // ((length + 1) * logits_per_node))
            for t in range(0, frames, step):
                found.append((slice(b, b + 1), slice(t, min(t + step, frames)), slice(length + 1)))
        return found
    room = min(GPU_MOST_LOGITS, int(GPU_SHARE * free_bytes(joint.encoded.device) / BYTES_PER_LOGIT))
    batch, frames, _ = joint.encoded.shape
    width = joint.predicted.shape[1]
    step = max(1, room // (batch * width * logits_per_node))
    for t in range(0, frames, step):
        found.append((slice(batch), slice(t, min(t + step, frames)), slice(width)))
    return found


@dataclasses.dataclass
class _Surroundings:
    """What the forward pass found and the backward pass needs again: random states, autocast."""

    device: torch.device
    autocast: tuple[bool, torch.dtype]
    states: tuple[Any, Any]

    @classmethod
    def now(cls, device: torch.device) -> _Surroundings:
        """Those of this moment."""
        kind = device.type
        autocast = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        on_device = torch.cuda.get_rng_state(device) if kind == "cuda" else None
        return cls(device, autocast, (torch.get_rng_state(), on_device))

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Inside, dropout draws the masks of the forward pass, and autocast is what it was."""
        enabled, kind = self.autocast
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.set_rng_state(self.states[0])
            if devices:
                torch.cuda.set_rng_state(self.states[1], self.device)
            with torch.autocast(self.device.type, kind, enabled=enabled):
                yield
