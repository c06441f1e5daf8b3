"""Both forms of the transducer loss, on logits and with the joint inside, against values that NeMo
publishes and against losses that others wrote.
"""

import pytest
import torch

from parakeet_ft.model.joint_loss import Arcs, joint_costs
from parakeet_ft.model.transducer_loss import TransducerLoss
from tests.model.test_transducer_loss import DURATIONS, assert_same, batch_of, costs_and_grad

# Logits, costs, gradients: NeMo's tests/collections/asr/numba/rnnt_loss/test_rnnt_pytorch.py
SMALL = [
    [[0.1, 0.6, 0.1, 0.1, 0.1], [0.1, 0.1, 0.6, 0.1, 0.1], [0.1, 0.1, 0.2, 0.8, 0.1]],
    [[0.1, 0.6, 0.1, 0.1, 0.1], [0.1, 0.1, 0.2, 0.1, 0.1], [0.7, 0.1, 0.2, 0.1, 0.1]],
]
SMALL_COST = 4.495666
SMALL_GRADIENT = [
    [
        [-0.13116688, -0.3999269, 0.17703125, 0.17703125, 0.17703125],
        [-0.18572757, 0.12247056, -0.18168412, 0.12247056, 0.12247056],
        [-0.32091254, 0.06269141, 0.06928472, 0.12624499, 0.06269141],
    ],
    [
        [0.05456069, -0.21824276, 0.05456069, 0.05456069, 0.05456069],
        [0.12073959, 0.12073959, -0.48295835, 0.12073959, 0.12073959],
        [-0.6925882, 0.16871116, 0.18645467, 0.16871116, 0.16871116],
    ],
]
BIG = [
    [
        [
            [0.06535690384862791, 0.7875301411923206, 0.08159176605666074],
            [0.5297155426466327, 0.7506749639230854, 0.7541348379087998],
            [0.6097641124736383, 0.8681404965673826, 0.6225318186056529],
        ],
        [
            [0.6685222872103057, 0.8580392805336061, 0.16453892311765583],
            [0.989779515236694, 0.944298460961015, 0.6031678586829663],
            [0.9467833543605416, 0.666202507295747, 0.28688179752461884],
        ],
        [
            [0.09418426230195986, 0.3666735970751962, 0.736168049462793],
            [0.1666804425271342, 0.7141542198635192, 0.3993997272216727],
            [0.5359823524146038, 0.29182076440286386, 0.6126422611507932],
        ],
        [
            [0.3242405528768486, 0.8007644367291621, 0.5241057606558068],
            [0.779194617063042, 0.18331417220174862, 0.113745182072432],
            [0.24022162381327106, 0.3394695622533106, 0.1341595066017014],
        ],
    ],
    [
        [
            [0.5055615569388828, 0.051597282072282646, 0.6402903936686337],
            [0.43073311517251, 0.8294731834714112, 0.1774668847323424],
            [0.3207001991262245, 0.04288308912457006, 0.30280282975568984],
        ],
        [
            [0.6751777088333762, 0.569537369330242, 0.5584738347504452],
            [0.08313242153985256, 0.06016544344162322, 0.10795752845152584],
            [0.7486153608562472, 0.943918041459349, 0.4863558118797222],
        ],
        [
            [0.4181986264486809, 0.6524078485043804, 0.024242983423721887],
            [0.13458171554507403, 0.3663418070512402, 0.2958297395361563],
            [0.9236695822497084, 0.6899291482654177, 0.7418981733448822],
        ],
        [
            [0.25000547599982104, 0.6034295486281007, 0.9872887878887768],
            [0.5926057265215715, 0.8846724004467684, 0.5434495396894328],
            [0.6607698886038497, 0.3771277082495921, 0.3580209022231813],
        ],
    ],
]
BIG_COSTS = [4.2806528590890736, 3.9384369822503591]
BIG_GRADIENT = [
    [
        [
            [-1.86843902e-01, -6.25548810e-02, 2.49398798e-01],
            [-2.03376666e-01, 2.02399328e-01, 9.77333169e-04],
            [-1.41016081e-01, 7.91234672e-02, 6.18926100e-02],
        ],
        [
            [-1.15517676e-02, -8.12802389e-02, 9.28319991e-02],
            [-1.54257029e-01, 2.29432687e-01, -7.51756504e-02],
            [-2.46593088e-01, 1.46404594e-01, 1.00188486e-01],
        ],
        [
            [-1.29182907e-02, -6.15932420e-02, 7.45115355e-02],
            [-5.59857301e-02, 2.19830811e-01, -1.63845062e-01],
            [-4.97626871e-01, 2.09239945e-01, 2.88386941e-01],
        ],
        [
            [1.36048580e-02, -3.02196294e-02, 1.66147724e-02],
            [1.13924511e-01, 6.27811998e-02, -1.76705718e-01],
            [-6.67078257e-01, 3.67658824e-01, 2.99419403e-01],
        ],
    ],
    [
        [
            [-3.56343776e-01, -5.53474613e-02, 4.11691219e-01],
            [-9.69219357e-02, 2.94591039e-02, 6.74628317e-02],
            [-6.35175705e-02, 2.76544970e-02, 3.58630717e-02],
        ],
        [
            [-1.54499024e-01, -7.39420280e-02, 2.28441030e-01],
            [-1.66789949e-01, -8.78955179e-05, 1.66877866e-01],
            [-1.72369644e-01, 1.05565332e-01, 6.68043196e-02],
        ],
        [
            [2.38748826e-02, -1.18255816e-01, 9.43809375e-02],
            [-1.04707085e-01, -1.08934477e-01, 2.13641584e-01],
            [-3.69844258e-01, 1.80118099e-01, 1.89726159e-01],
        ],
        [
            [2.57137045e-02, -7.94617534e-02, 5.37480488e-02],
            [1.22328237e-01, -2.38788679e-01, 1.16460443e-01],
            [-5.98686993e-01, 3.02203178e-01, 2.96483815e-01],
        ],
    ],
]
TDT_COST = 4.155739
TDT_GRADIENT = [
    [
        [-0.64962804, 0.25, 0.25, 0.14962798, 0.2672583, -0.16792619, -0.09933221],
        [0.01651875, 0.01651875, 0.01651875, -0.04955626, 0.022025, -0.01227201, -0.009753],
    ],
    [
        [-0.04892651, 0.01714851, 0.01714851, 0.01462949, -0.01143234, -0.01143234, 0.02286467],
        [0.12531489, 0.12531489, 0.12531489, -0.37594467, 0.16708651, 0.13027048, -0.29735702],
    ],
    [
        [-0.02572276, 0.00857425, 0.00857425, 0.00857425, -0.02286468, 0.01143234, 0.01143234],
        [0.13388914, 0.13388914, 0.13388914, -0.40166742, 0.17851885, -0.35703772, 0.17851885],
    ],
]


def on_logits(arcs, acts, labels, act_lens, label_lens):
    loss = TransducerLoss(
        blank=arcs.blank,
        durations=arcs.durations,
        sigma=arcs.sigma,
        clamp=arcs.clamp,
        fastemit_lambda=arcs.fastemit_lambda,
    )
    return loss(acts, labels, act_lens, label_lens)


def in_the_joint(arcs, acts, labels, act_lens, label_lens):
    """The hidden vector of a node says where it is, and the output layer looks its logits up."""
    batch, frames, width, _ = acts.shape
    places, positions = torch.eye(batch * frames), torch.eye(width)

    def output(hidden):
        place, position = hidden.split([batch * frames, width], -1)
        return torch.einsum("...i,...j,ijv->...v", place, position, acts.flatten(0, 1))

    return joint_costs(
        torch.nn.functional.pad(places.view(batch, frames, -1), (0, width)),
        torch.nn.functional.pad(positions.expand(batch, -1, -1), (batch * frames, 0)),
        output,
        [acts],
        labels,
        act_lens,
        label_lens,
        arcs=arcs,
    )


@pytest.fixture(params=[on_logits, in_the_joint], ids=["on logits", "in the joint"])
def ours(request):
    """ours(arcs, *batch, weights=None) -> costs and the gradient of the logits."""

    def compute(arcs, *batch, weights=None):
        def loss(*given):
            return request.param(arcs, *given)

        return costs_and_grad(loss, *batch, weights=weights)

    return compute


def nemos_loss(arcs, monkeypatch):
    """NeMo's RNNT or TDT loss in torch, to be differentiated by autograd. TDT's is kept from a CPU
    by its .cuda() alone (rnnt_pytorch.py, 3.0.0).
    """
    from nemo.collections.asr.losses.rnnt_pytorch import RNNTLossPytorch, TDTLossPytorch

    if not arcs.durations:
        return RNNTLossPytorch(blank=arcs.blank, reduction=None)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    return TDTLossPytorch(arcs.blank, list(arcs.durations), None, arcs.sigma)


def full(acts, labels):
    """A batch without padding."""
    acts = torch.as_tensor(acts, dtype=torch.float32)
    labels = torch.as_tensor(labels)
    batch, frames = acts.shape[:2]
    return acts, labels, torch.full((batch,), frames), torch.full((batch,), labels.shape[1])


def blank_last(acts, labels):
    """NeMo's values have the blank first."""
    acts, labels, *lengths = full(acts, labels)
    return acts.roll(-1, -1), labels - 1, *lengths


def assert_published(found, costs, gradient):
    torch.testing.assert_close(found[0], torch.tensor(costs), rtol=1e-6, atol=0)
    torch.testing.assert_close(found[1], torch.tensor(gradient), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("acts", "labels", "costs", "gradient"),
    [
        ([SMALL], [[1, 2]], [SMALL_COST], [SMALL_GRADIENT]),
        (BIG, [[1, 2], [1, 1]], BIG_COSTS, BIG_GRADIENT),
    ],
    ids=["small", "big"],
)
def test_rnnt_has_nemos_published_values(ours, acts, labels, costs, gradient):
    acts, *rest = blank_last(acts, labels)
    found, found_gradient = ours(Arcs(acts.shape[-1] - 1), acts, *rest)
    assert_published((found, found_gradient.roll(1, -1)), costs, gradient)


def test_a_clamp_gives_nemos_published_gradient(ours):
    found, gradient = ours(Arcs(4, clamp=0.1), *blank_last([SMALL], [[1, 2]]))
    clamped = torch.tensor([SMALL_GRADIENT]).clamp(-0.1, 0.1).tolist()
    assert_published((found, gradient.roll(1, -1)), [SMALL_COST], clamped)


@pytest.mark.parametrize("fastemit_lambda", [1.0, 0.01, 0.00001])
@pytest.mark.parametrize("clamp", [-1.0, 0.1])
def test_fastemit_has_nemos_published_cost_and_its_cpu_gradient(ours, fastemit_lambda, clamp):
    from nemo.collections.asr.parts.numba.rnnt_loss import RNNTLossNumba

    batch = blank_last([SMALL], [[1, 2]])
    found = ours(Arcs(4, clamp=clamp, fastemit_lambda=fastemit_lambda), *batch)
    nemo = RNNTLossNumba(4, "none", fastemit_lambda=fastemit_lambda, clamp=clamp)
    _, gradient = costs_and_grad(nemo, *batch)
    assert_published(found, [SMALL_COST * (1 + fastemit_lambda)], gradient.tolist())


def test_tdt_has_nemos_published_values(ours):
    batch = full(torch.zeros(1, 3, 2, 4 + 3), [[0]])
    assert_published(ours(Arcs(3, (0, 1, 2), 0.05), *batch), [TDT_COST], [TDT_GRADIENT])


def test_a_large_rnnt_case_agrees_with_nemos_loss_in_torch(ours, monkeypatch):
    torch.manual_seed(0)
    batch = full(torch.randn(4, 8, 11, 5), torch.randint(0, 4, (4, 10)))
    costs, gradient = costs_and_grad(nemos_loss(Arcs(4), monkeypatch), *batch)
    assert_published(ours(Arcs(4), *batch), costs.tolist(), gradient.tolist())


def transformers_on(batch, arcs, weights=None):
    """Costs and gradient of transformers' TDT loss."""
    from transformers.loss.loss_tdt import tdt_loss

    def loss(acts, labels, act_lens, label_lens):
        tokens, lasting = acts.split([arcs.blank + 1, len(arcs.durations)], -1)
        lengths, durations = (act_lens, label_lens), list(arcs.durations)
        return tdt_loss(
            tokens, lasting, labels, *lengths, arcs.blank, durations, arcs.sigma, "none"
        )

    return costs_and_grad(loss, *batch, weights=weights)


def only_finite(gradient, otherwise):
    """transformers' gradient is NaN (5.23) at nodes that no path reaches."""
    return gradient.where(gradient.isfinite(), otherwise)


@pytest.mark.parametrize("durations", [(0, 1, 2, 3, 4, 5), (1, 2, 3), (0, 1), (1,)])
@pytest.mark.parametrize("sigma", [0.0, 0.05])
def test_a_large_tdt_case_agrees_with_nemo_and_transformers(ours, durations, sigma, monkeypatch):
    torch.manual_seed(0)
    batch = full(torch.rand(4, 8, 4, 9 + len(durations)), torch.randint(0, 8, (4, 3)))
    arcs = Arcs(8, durations, sigma)
    found = ours(arcs, *batch)
    costs, gradient = costs_and_grad(nemos_loss(arcs, monkeypatch), *batch)
    assert_published(found, costs.tolist(), gradient.tolist())
    costs, gradient = transformers_on(batch, arcs)
    assert gradient.isfinite().all() or 0 not in durations
    assert_published(found, costs.tolist(), only_finite(gradient, found[1]).tolist())


@pytest.mark.parametrize("frames, length", [(1, 0), (1, 4), (3, 6), (9, 0), (9, 4), (12, 7)])
@pytest.mark.parametrize("fastemit_lambda", [0.0, 0.3])
def test_rnnt_agrees_with_nemo_on_ragged_batches(
    ours, frames, length, fastemit_lambda, monkeypatch
):
    from nemo.collections.asr.parts.numba.rnnt_loss import RNNTLossNumba

    batch = batch_of(frames + length, frames, length)
    weights = torch.tensor([0.5, 1.0, 2.0])
    arcs = Arcs(6, fastemit_lambda=fastemit_lambda)
    found = ours(arcs, *batch, weights=weights)
    numba = RNNTLossNumba(blank=6, reduction="none", fastemit_lambda=fastemit_lambda)
    assert_same(found, costs_and_grad(numba, *batch, weights=weights))
    if not fastemit_lambda:
        in_torch = nemos_loss(arcs, monkeypatch)
        assert_same(found, costs_and_grad(in_torch, *batch, weights=weights))


@pytest.mark.parametrize(
    ("durations", "frames", "length"),
    [
        *((d, *size) for d in (DURATIONS, (0, 1)) for size in [(1, 0), (1, 3), (3, 5)]),
        *((d, *size) for d in (DURATIONS, (0, 1), (0, 2, 5)) for size in [(8, 0), (8, 3)]),
    ],
)
def test_tdt_agrees_with_nemo_and_transformers_on_ragged_batches(
    ours, frames, length, durations, monkeypatch
):
    acts, labels, act_lens, label_lens = batch_of(
        frames + length, frames, length, durations=len(durations)
    )
    if 1 not in durations:  # some lengths have no path, where NeMo says 1000
        act_lens = act_lens.clamp(min=4)
    batch, weights = (acts, labels, act_lens, label_lens), torch.tensor([0.5, 1.0, 2.0])
    arcs = Arcs(6, durations, 0.05)
    found = ours(arcs, *batch, weights=weights)
    nemo = nemos_loss(arcs, monkeypatch)
    assert_same(found, costs_and_grad(nemo, *batch, weights=weights))
    costs, gradient = transformers_on(batch, arcs, weights)
    assert gradient.isfinite().all() or 1 not in durations
    assert_same(found, (costs, only_finite(gradient, found[1])))
