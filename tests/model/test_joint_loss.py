"""The loss with the joint inside, against autograd through all logits and against NeMo's own
joint.
"""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from parakeet_ft.model import joint_loss
from parakeet_ft.model.joint_loss import Arcs, joint_costs, loss_in_joint
from parakeet_ft.model.transducer_loss import TransducerLoss
from tests.model.test_loss_oracles import nemos_loss
from tests.model.test_transducer_loss import DURATIONS

HIDDEN, PIECES = 6, 5


@dataclasses.dataclass
class Case:
    """A ragged batch and an output layer."""

    encoded: torch.Tensor
    predicted: torch.Tensor
    output: torch.nn.Module
    labels: torch.Tensor
    act_lens: torch.Tensor
    label_lens: torch.Tensor

    def sources(self):
        return [self.encoded, self.predicted, *self.output.parameters()]

    def costs(self, arcs, seed=0):
        torch.manual_seed(seed)
        return joint_costs(
            self.encoded,
            self.predicted,
            self.output,
            list(self.output.parameters()),
            self.labels,
            self.act_lens,
            self.label_lens,
            arcs=arcs,
        )

    def costs_of_all_logits(self, arcs):
        loss = TransducerLoss(
            blank=arcs.blank,
            durations=arcs.durations,
            sigma=arcs.sigma,
            clamp=arcs.clamp,
            fastemit_lambda=arcs.fastemit_lambda,
        )
        logits = self.output(self.encoded.unsqueeze(2) + self.predicted.unsqueeze(1))
        return loss(logits, self.labels, self.act_lens, self.label_lens)

    def gradients(self, costs, weights):
        return torch.autograd.grad((costs * weights.to(costs.dtype)).sum(), self.sources())


class WithLora(torch.nn.Module):
    """An output layer with a low-rank branch beside its frozen weight."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.base[-1].weight.requires_grad_(False)
        self.down = torch.nn.Linear(HIDDEN, 2, bias=False)
        self.up = torch.nn.Linear(2, base[-1].out_features, bias=False)

    def forward(self, hidden):
        hidden = torch.relu(hidden)
        return self.base[-1](hidden) + 0.5 * self.up(self.down(hidden))


def make(durations=(), *, frames=5, length=3, dropout=0.0, dtype=torch.float64, lora=False):
    torch.manual_seed(frames + length)
    outputs = PIECES + 1 + len(durations)
    layers = [torch.nn.ReLU(inplace=True), torch.nn.Linear(HIDDEN, outputs)]
    if dropout:
        layers.insert(1, torch.nn.Dropout(dropout))
    output = torch.nn.Sequential(*layers)
    act_lens = torch.tensor([frames, max(1, frames - 2), max(1, frames - 1)])
    label_lens = torch.tensor([max(0, length - 1), 0, length])
    return Case(
        torch.randn(3, frames, HIDDEN, dtype=dtype, requires_grad=True),
        torch.randn(3, length + 1, HIDDEN, dtype=dtype, requires_grad=True),
        (WithLora(output) if lora else output).to(dtype),
        torch.randint(0, PIECES, (3, length)),
        act_lens,
        label_lens,
    )


@pytest.fixture(params=["kept", "made again", "as on a GPU"])
def way(request, monkeypatch):
    """How a piece's logits come to the backward pass, and how the lattice is laid out."""
    if request.param != "kept":
        monkeypatch.setattr(joint_loss, "KEPT_BYTES", 0)
        monkeypatch.setattr(joint_loss, "CPU_LOGITS", 30)
        monkeypatch.setattr(joint_loss, "CACHED", 30)
    if request.param == "as on a GPU":
        monkeypatch.setattr(joint_loss, "_lengths_are_near", lambda lengths: False)
        monkeypatch.setattr(joint_loss, "free_bytes", lambda device: 20_000)
    return request.param


@pytest.mark.parametrize("durations", [(), DURATIONS, (0, 1), (1, 2)])
@pytest.mark.parametrize("frames, length", [(1, 0), (1, 2), (4, 0), (6, 3)])
@pytest.mark.parametrize("clamp, fastemit_lambda", [(-1.0, 0.0), (0.1, 0.0), (-1.0, 0.3)])
def test_costs_and_gradients_are_those_of_all_logits(
    way, durations, frames, length, clamp, fastemit_lambda
):
    case = make(durations, frames=frames, length=length)
    sigma = 0.05 if durations else 0.0
    arcs = Arcs(PIECES, durations, sigma, clamp, fastemit_lambda)
    ours, theirs = case.costs(arcs), case.costs_of_all_logits(arcs)
    torch.testing.assert_close(ours.float(), theirs, rtol=1e-5, atol=1e-5)
    weights = torch.tensor([0.5, -1.0, 2.0])
    possible = torch.isfinite(theirs)
    ours, theirs = ours[possible], theirs[possible]
    if not possible.any():
        return
    # The loss on logits is computed in float32.
    for own, other in zip(
        case.gradients(ours, weights[possible]),
        case.gradients(theirs, weights[possible]),
        strict=True,
    ):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("durations", [(), DURATIONS])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("lora", [False, True])
def test_the_gradient_is_that_of_finite_differences(way, durations, dropout, lora):
    case = make(durations, frames=3, length=2, dropout=dropout, lora=lora)
    learning = [p for p in case.output.parameters() if p.requires_grad]

    weights = torch.tensor([0.5, 0.0, -2.0], dtype=torch.float64)

    def total():
        return (case.costs(Arcs(PIECES, durations, 0.05))[[0, 2]] * weights[[0, 2]]).sum()

    sources = [case.encoded, case.predicted, *learning]
    for source, found in zip(sources, torch.autograd.grad(total(), sources), strict=True):
        torch.testing.assert_close(found, slope(total, source), rtol=1e-5, atol=1e-7)


def slope(function, source, step=1e-6):
    """Central differences of function() by every element of `source`."""
    found = torch.zeros_like(source)
    with torch.no_grad():
        for place in range(source.numel()):
            flat = source.data.view(-1)
            before = flat[place].item()
            flat[place] = before + step
            above = function()
            flat[place] = before - step
            found.view(-1)[place] = (above - function()) / (2 * step)
            flat[place] = before
    return found


def nemos_joint(durations, dropout=0.0):
    """NeMo's joint over PIECES pieces."""
    from nemo.collections.asr.modules import RNNTJoint

    widths = {"encoder_hidden": 4, "pred_hidden": 3, "joint_hidden": HIDDEN}
    return RNNTJoint(
        jointnet=widths | {"activation": "relu", "dropout": dropout},
        num_classes=PIECES,
        num_extra_outputs=len(durations),
    )


def with_lora(joint):
    from peft import LoraConfig, inject_adapter_in_model

    targets = ["enc", "pred", f"joint_net.{len(joint.joint_net) - 1}"]
    inject_adapter_in_model(LoraConfig(r=2, lora_alpha=2, target_modules=targets), joint)


def with_adapter(joint):
    from nemo.collections.common.parts.adapter_modules import LinearAdapterConfig

    joint.add_adapter("domain", LinearAdapterConfig(in_features=HIDDEN, dim=2))


def with_temperature(joint):
    joint.temperature = 2.0


def frozen(joint):
    joint.requires_grad_(False)


@pytest.fixture
def in_float64():
    """NeMo's losses in torch sum in the default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("durations", [(), DURATIONS])
@pytest.mark.parametrize("frames, length", [(1, 0), (1, 2), (4, 0), (5, 3)])
@pytest.mark.parametrize("kept_bytes", [0, 1 << 20])
@pytest.mark.parametrize(
    ("change", "dropout", "encoder_learns"),
    [
        (None, 0.0, True),
        (None, 0.5, True),
        (None, 0.0, False),
        (with_lora, 0.0, True),
        (with_adapter, 0.0, True),
        (with_temperature, 0.0, True),
        (frozen, 0.0, True),
    ],
    ids=["plain", "dropout", "frozen encoder", "LoRA", "adapter", "temperature", "frozen joint"],
)
def test_gradients_are_those_of_autograd_through_nemos_joint_and_loss_in_float64(
    durations, frames, length, kept_bytes, change, dropout, encoder_learns, monkeypatch, in_float64
):
    monkeypatch.setattr(joint_loss, "KEPT_BYTES", kept_bytes)
    torch.manual_seed(0)
    joint = nemos_joint(durations, dropout)
    if change:
        change(joint)
    with torch.no_grad():  # what LoRA and adapters add is zero before training
        for parameter in joint.parameters():
            parameter.normal_()
    arcs = Arcs(PIECES, durations, 0.05 if durations else 0.0)
    encoded = torch.randn(3, 4, frames, requires_grad=encoder_learns)
    decoded = torch.randn(3, 3, length + 1, requires_grad=True)
    labels = torch.randint(0, PIECES, (3, length))
    lengths = [frames, max(1, frames - 2), frames], [max(0, length - 1), 0, length]
    sources = [x for x in (encoded, decoded, *joint.parameters()) if x.requires_grad]

    torch.manual_seed(1)
    inner = TransducerLoss(blank=PIECES, durations=durations, sigma=arcs.sigma)
    reduced = SimpleNamespace(_loss=inner, reduce=lambda costs, lengths: costs)
    model = SimpleNamespace(joint=joint, loss=reduced)
    ours = loss_in_joint(model, encoded, decoded, labels, *map(torch.tensor, lengths))
    found = torch.autograd.grad(ours.sum(), sources)

    torch.manual_seed(1)  # utterance by utterance, as dropout's masks are drawn
    theirs = []
    for b, (t, u) in enumerate(zip(*lengths, strict=True)):
        own = encoded[b : b + 1, :, :t].mT, decoded[b : b + 1, :, : u + 1].mT
        given = joint.joint(*own), labels[b : b + 1, :u], torch.tensor([t]), torch.tensor([u])
        theirs.append(nemos_loss(arcs, monkeypatch)(*given))
    torch.testing.assert_close(ours, torch.cat(theirs), rtol=1e-9, atol=1e-9)
    for own, other in zip(found, torch.autograd.grad(sum(theirs), sources), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-8, atol=1e-9)


def test_what_does_not_learn_gets_no_gradient(way):
    case = make(DURATIONS)
    case.encoded = case.encoded.detach()
    case.output[-1].bias.requires_grad_(False)
    case.costs(Arcs(PIECES, DURATIONS)).sum().backward()
    assert case.encoded.grad is None and case.output[-1].bias.grad is None
    assert case.predicted.grad.abs().sum() > 0 and case.output[-1].weight.grad.abs().sum() > 0


def test_an_impossible_utterance_costs_infinity_and_has_no_gradient(way):
    case = make((0, 2), frames=3, length=0)
    costs = case.costs(Arcs(PIECES, (0, 2)))
    assert torch.isinf(costs[0]) and torch.isinf(costs[1]) and torch.isfinite(costs[2])
    costs[0].backward()
    assert all(not source.grad.any() for source in case.sources())


def test_what_lies_beyond_the_lengths_does_not_matter(way):
    case = make(DURATIONS, frames=6, length=3)
    arcs = Arcs(PIECES, DURATIONS, 0.02)
    costs, weights = case.costs(arcs), torch.ones(3)
    gradients = case.gradients(costs, weights)
    with torch.no_grad():
        case.encoded[1, case.act_lens[1] :] = 1e4
        case.predicted[1, case.label_lens[1] + 1 :] = -1e4
        case.labels[1, case.label_lens[1] :] = 0
    again = case.costs(arcs)
    torch.testing.assert_close(again, costs)
    for one, other in zip(case.gradients(again, weights), gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_dropout_draws_the_same_mask_in_both_passes(way):
    case = make((), frames=4, length=2, dropout=0.5)
    masks = []
    case.output[1].register_forward_hook(lambda module, given, made: masks.append(made == 0))
    costs = case.costs(Arcs(PIECES))
    first = [mask for mask in masks if mask.dim() == 4]  # not the probe for the width
    masks.clear()
    state = torch.get_rng_state()
    costs.sum().backward()
    if way != "kept":
        assert len(masks) == len(first)
        assert all(torch.equal(a, b) for a, b in zip(masks, first, strict=True))
    assert torch.equal(torch.get_rng_state(), state), "the backward pass moved the generator"


def test_autocast_in_bfloat16_sums_in_float32_and_gives_gradients_of_the_weights_type(way):
    case = make(DURATIONS, frames=6, length=3, dtype=torch.float32)
    arcs = Arcs(PIECES, DURATIONS, 0.02)
    exact = case.costs(arcs)
    with torch.autocast("cpu", torch.bfloat16):
        costs = case.costs(arcs)
    assert costs.dtype == torch.float32
    # bfloat16 keeps 8 bits: logits of size 1 are off by up to 2^-9, a cost by T + U of them.
    torch.testing.assert_close(costs, exact, rtol=2e-2, atol=2e-2)
    for own, other in zip(
        case.gradients(costs, torch.ones(3)), case.gradients(exact, torch.ones(3)), strict=True
    ):
        assert own.dtype == torch.float32
        # A gradient sums differences of nearly equal numbers, each rounded to 8 bits.
        torch.testing.assert_close(own, other, rtol=0.1, atol=0.05)


def test_a_second_backward_pass_is_refused_in_words():
    costs = make().costs(Arcs(PIECES)).sum()
    costs.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="retain_graph"):
        costs.backward()


def test_two_forward_passes_may_come_before_their_backward_passes(way):
    arcs, cases = Arcs(PIECES, DURATIONS), [make(DURATIONS, dropout=0.5, frames=t) for t in (4, 6)]
    cases[1].output = cases[0].output
    expected = []
    for seed, case in enumerate(cases):
        case.costs(arcs, seed).sum().backward()
        expected.append([source.grad.clone() for source in case.sources()[:2]])
    weights = [p.grad.clone() for p in cases[0].output.parameters()]
    for source in (*cases[0].sources(), *cases[1].sources()):
        source.grad = None
    for costs in [case.costs(arcs, seed).sum() for seed, case in enumerate(cases)]:
        costs.backward()
    for case, gradients in zip(cases, expected, strict=True):
        torch.testing.assert_close([source.grad for source in case.sources()[:2]], gradients)
    torch.testing.assert_close([p.grad for p in cases[0].output.parameters()], weights)


def test_no_value_is_read_back_from_a_device(monkeypatch):
    from torch._subclasses.fake_tensor import FakeTensorMode

    case = make(DURATIONS, dtype=torch.float32)
    monkeypatch.setattr(joint_loss, "_lengths_are_near", lambda lengths: False)
    monkeypatch.setattr(joint_loss, "free_bytes", lambda device: 20_000)
    monkeypatch.setattr(joint_loss, "KEPT_BYTES", 0)
    # A fake tensor has no values: whoever asks for one (item, tolist, a mask as an index) fails.
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = [
            mode.from_tensor(getattr(case, f.name))
            for f in dataclasses.fields(Case)
            if f.name != "output"
        ]
        encoded, predicted, labels, act_lens, label_lens = fakes
        costs = joint_costs(
            encoded,
            predicted,
            case.output,
            [],
            labels,
            act_lens,
            label_lens,
            arcs=Arcs(PIECES, DURATIONS),
        )
        costs.sum().backward()
    assert costs.shape == (3,)


@pytest.mark.parametrize("family", ["rnnt", "tdt", "hybrid", "hybrid_rnnt"])
@pytest.mark.parametrize("adapted", ["", "lora", "adapters"])
def test_a_model_trains_with_the_loss_and_gradients_of_its_own_joint(family, adapted, tiny_model):
    from parakeet_ft.model.objective import training_loss
    from parakeet_ft.model.transducer_loss import use_wavefront_loss
    from parakeet_ft.training import adapters, lora
    from tests.model.test_transducer_loss import batch_for

    found = []
    for fused in (True, False):
        model = tiny_model(family, omega=0.0)
        if adapted == "lora":
            lora.add(model, rank=2, alpha=4.0)
        elif adapted:
            adapters.add(model, dim=4, name="domain")
        model.preprocessor.featurizer.dither = 0.0
        model.spec_augmentation = None
        use_wavefront_loss(model)
        if not fused:  # NeMo's joint, sub-batches and all, with the loss on its logits
            inner, model.loss._loss = model.loss._loss, torch.nn.Module()
            model.loss._loss.forward, model.loss._loss.reduction = inner.forward, None
        torch.manual_seed(0)
        losses = training_loss(model.train(), *batch_for(model))
        losses["loss"].backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found.append((losses["loss"].detach(), gradients))
    (ours, gradients), (theirs, expected) = found
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert gradients.keys() == expected.keys() and len(gradients) > 20
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5, msg=name)
