"Every recipe against a loop written by hand, with the numbers of the papers"
from copy import deepcopy
import pytest, torch
from torch import nn
from elastic_nets.zoo.models import resnet_cifar
from elastic_nets.shrink.methods import (bignas, compofa, delayed_shrinking, onion, progressive_shrinking, slimmable,
                                         us_net, zero_last_bn)
from elastic_nets.subnets.subnet import Subnet
from elastic_nets.subnets.supernet import Supernet
from recipes_by_hand import (
    Hand, at_widths, batch, bs, close, cos_to_0, dice, equal, hard, largest, lr, n_batches, net, new_learner,
    ofa_choices, ofa_like, other, resnet_choices, smallest, soft, trained, x
)

def test_slimmable():
    "Four widths, each in every step on the labels, each with a batch norm of its own"
    learn = new_learner(depths=(0, 1))
    choices = [
        (k, n, vs[-1:] if k == 'depth' else vs, i) for k, n, vs, i in at_widths(0.25, 0.5, 0.75, 1.0)
    ]  # depth stays whole
    four = [net(choices, lambda vs: vs[min(i, len(vs) - 1)]) for i in range(4)]
    hand = Hand(learn, choices)
    hand.private(four[:3])
    for i in range(2 * n_batches):
        xb, yb = batch[i % n_batches]
        for s in [four[3], *dice(i).sample(four[:3], 3)]:
            hand.run(s, xb, hard(yb))
        hand.step(lr)
    equal(learn, trained(learn, slimmable(), 2), hand)
    assert {len({*s.nets}) for s in hand.steps} == {4} and {*learn.supernet.private} == {*four[:3]}
    for (s, n), m in hand.bn.items():  # affine and statistics of every width
        for t in ('weight', 'bias', 'running_mean', 'running_var'):
            close(learn.supernet.stats[s][n][t], getattr(m, t), (s, n, t))
        full = hand.model.get_submodule(n)
        assert (m.weight - full.weight[: m.num_features]).abs().max() > 1e-3  # its own, not the full network's
        assert n == 'stem.bn' or (m.running_mean - full.running_mean[: m.num_features]).abs().max() > 1e-3
    for s in four:  # and what is taken out afterwards is what was trained
        a, b = (learn.supernet.extract(s).eval()(x[:bs]),
                (hand.model if s == four[3] else hand.take_out(s)).eval()(x[:bs]))
        close(a, b, s)

class OwnStatistics(Hand):
    "Every network keeps its running statistics, begun as the full network's; weight and bias are shared"

    def __init__(self, *args):
        super().__init__(*args)
        self.kept = {}

    def take_out(self, s):
        small = super().take_out(s)
        for n, m in small.named_modules():
            if isinstance(m, nn.BatchNorm2d):
                m.running_mean, m.running_var = self.kept.setdefault(
                    (s, n), (m.running_mean.clone(), m.running_var.clone())
                )
        return small

def test_onion():
    "Four widths in turn, the largest first, each with labels, an optimizer step and batch statistics of its own"
    learn = new_learner(depths=(0, 1))
    choices = [(k, n, vs[-1:] if k == 'depth' else vs, i) for k, n, vs, i in at_widths(0.25, 0.5, 0.75, 1.0)]
    four = [net(choices, lambda vs: vs[min(i, len(vs) - 1)]) for i in (3, 2, 1, 0)]
    hand = OwnStatistics(learn, choices)
    for s in four[1:]:
        hand.take_out(s)  # begun before the first step
    for i in range(2 * n_batches):
        xb, yb = batch[i % n_batches]
        for s in four:
            hand.run(s, xb, hard(yb))
            hand.step(lr)
    log = trained(learn, onion(), 2)
    assert len(log) == 2 * n_batches and all(a.nets == four for a in log)
    assert [l for a in log for l in a.losses] == pytest.approx([l for b in hand.steps for l in b.losses], rel=1e-10)
    want = hand.model.state_dict()
    for n, t in learn.model.state_dict().items():
        if t.is_floating_point() and not n.startswith('held_by_supernet.'):
            close(t, want[n], n)
    for (s, n), (mean, var) in hand.kept.items():
        for t, w in dict(running_mean=mean, running_var=var).items():
            close(learn.supernet.stats[s][n][t], w, (s, n, t))
    assert not learn.supernet.held_params() and (mean - want[f'{n}.running_mean'][: len(mean)]).abs().max() > 1e-3

def test_us_net():
    "Largest, smallest and two random widths; what the largest says teaches the others"
    learn = new_learner(widths=tuple(w / 16 for w in range(4, 17)), depths=(0, 1))
    choices = [
        (k, n, (1,) if k == 'depth'
         else tuple(sorted({round(w / 16 * v) if v > 8 else int(w / 16 * v + 0.5) for w in range(4, 17)})), i)
        for k, n, v, i in resnet_choices
    ]
    assert {n: vs for k, n, vs, _ in choices if k == 'width'} == learn.supernet.space.width
    size = {n: v for k, n, v, _ in resnet_choices}

    def width(w):
        return Subnet(
            {n: min(vs, key=lambda v: abs(v - w * size[n])) for k, n, vs, _ in choices if k == 'width'}, dict(layer1=1)
        )

    pool = [*dict.fromkeys(width(w / 100) for w in range(25, 101))]
    hand = Hand(learn, choices)
    for i in range(2 * n_batches):
        xb, yb = batch[i % n_batches]
        teacher = soft(hand.run(pool[-1], xb, hard(yb)))
        for s in [pool[0], *dice(i).sample(pool[1:-1], 2)]:
            hand.run(s, xb, teacher)
        hand.step(lr)
    equal(learn, trained(learn, us_net(), 2), hand)
    assert len({s for st in hand.steps for s in st.nets}) > 12

def flat_cos(share):
    return lr * cos_to_0(max(0, share - 0.75) / 0.25)  # three quarters flat, then a cosine

def test_bignas():
    "The sandwich over widths and depths, dropout on the largest only, and a learning rate that stays above 5 %"
    learn, choices, n = new_learner(widths=(0.5, 1.0), depths=(0, 1)), at_widths(0.5, 1.0), 5 * n_batches
    hand = Hand(learn, choices)
    for i in range(n):
        (xb, yb), rng = batch[i % n_batches], dice(i)
        teacher = soft(hand.run(largest(choices), xb, hard(yb)))
        for s in [smallest(choices), *[other(choices, rng) for _ in range(2)]]:
            hand.run(s, xb, teacher, dropout=False)
        hand.step(max(flat_cos(i / n), 0.05 * lr))
    assert sum(s.lr == 0.05 * lr for s in hand.steps) == 1 and flat_cos((n - 1) / n) < 0.05 * lr
    equal(learn, trained(learn, bignas(), 5, flat_cos), hand)

# ---- delayed

def falling(share):
    return lr * cos_to_0(share)

@pytest.mark.parametrize('code', [False, True], ids=['paper', 'code'])
@pytest.mark.parametrize(
    'kwargs,warm,ramp', [({}, 24, 1), (dict(warmup=0.25, ramp=0.1875, eps0=0.01), 12, 9)], ids=['default', 'long']
)
def test_delayed_shrinking(code, kwargs, warm, ramp):
    "Half of the run for the full network; then three subnets, with a weight that grows to 1 (5 of 270 epochs)"
    learn, choices, n = (new_learner(widths=(0.25, 0.5, 1.0), depths=(0, 1), smoothing=0.1), at_widths(0.25, 0.5, 1.0),
                         8 * n_batches)
    hand, first, eps0 = Hand(learn, choices), max(warm - ramp, 0) if code else warm, kwargs.get('eps0', 1e-4)
    for i in range(n):
        (xb, yb), rng, rate = batch[i % n_batches], dice(i), falling(i / n)
        if i == first:
            hand.sn.sort_channels(opt=hand.opt)
        teacher = soft(hand.run(largest(choices), xb, hard(yb, 0.1)))
        if i >= first:
            line = min(1, eps0 + (1 - eps0) * (i - first) / ramp)
            eps = (
                min(1, line * falling((first + ramp) / n) / rate) if code and line < 1 else line
            )  # the code: the straight line is that of the rate
            for s in [smallest(choices)] * code + [other(choices, rng) for _ in range(3 - code)]:
                hand.run(s, xb, teacher, eps, dropout=False)
        hand.step(rate)
    equal(learn, trained(learn, delayed_shrinking(code=code, **kwargs), 8, falling), hand)
    assert [len(s.nets) for s in hand.steps] == [1] * first + [4] * (n - first)

def test_delayed_epochs():
    "The published run: 270 epochs, 150 for the full network with the code's count of them, 5 for the ramp"
    at = lambda rec: [rec.schedule.eps_at(i, 270) for i in range(270)]
    ramp = [1e-4 + (1 - 1e-4) * i / 5 for i in range(5)]
    assert at(delayed_shrinking()) == pytest.approx([0] * 135 + ramp + [1] * 130, abs=1e-12)
    assert at(delayed_shrinking(warmup=150 / 270, code=True)) == pytest.approx([0] * 145 + ramp + [1] * 120, abs=1e-12)

# ---- in phases

def phase_lr(peak, j, steps, warm):
    return peak * ((j + 1) / (warm + 1) if j < warm else cos_to_0((j - warm) / (steps - warm)))

def in_phases(hand, choices, phases, n, smoothing, teacher=None):
    "`phases`: (epochs, warm-up epochs, {dimension: values}, networks, highest rate, sorted within), as shares of `n`"
    ends = [round(sum(p[0] for p in phases[: i + 1]) / sum(p[0] for p in phases) * n) for i in range(len(phases))]
    for (epochs, warm, part, k, peak, tiers), a, b in zip(phases, [0, *ends], ends):
        some = [(kind, name, vs[-part.get(kind, 0) :], i) for kind, name, vs, i in choices]
        if k and teacher is None:
            teacher = hand.sn.extract(hand.full).eval()  # what was trained so far
        if tiers is not None:
            before = {name: p.clone() for name, p in hand.params.items()}
            hand.sn.sort_channels(
                opt=hand.opt, tiers={name: vs[-tiers:] for kind, name, vs, _ in choices if kind == 'width'}
            )
            hand.moved.append(any((p != before[name]).any() for name, p in hand.params.items()))
        for i in range(a, b):
            (xb, yb), rng = batch[i % n_batches], dice(i)
            label = hard(yb, smoothing)
            if not k:
                hand.run(hand.full, xb, label)
            else:
                with torch.no_grad():
                    says = soft(teacher(xb))
                for s in [net(some, rng.choice) for _ in range(k)]:
                    hand.run(s, xb, lambda p: label(p) + says(p))
            hand.step(phase_lr(peak, i - a, b - a, round((b - a) * warm / epochs)))
    hand.mean_statistics()
    return ends

whole = dict(width=1, depth=1, kernel=1)
ofa_phases = [(180, 5, whole, 0, 0.08, None), (125, 5, dict(width=1, depth=1), 1, 0.03, None),
              (25, 0, dict(width=1, depth=2), 2, 0.0025, None), (125, 5, dict(width=1), 2, 0.0075, None),
              (25, 0, dict(width=2), 4, 0.0025, 1), (125, 5, {}, 4, 0.0075, 2)]

def scaled(phases, lr=lr):
    return [(*p[:4], p[4] / 0.08 * lr, p[5]) for p in phases]  # `lr` is the teacher's

@pytest.mark.parametrize('matrices', [True, False], ids=['matrices', 'cropped'])
def test_progressive_shrinking(matrices):
    "Teacher, kernels, two depths, three depths, two widths, three widths"
    learn = new_learner(ofa_like, '3', 0.1, widths=(0.25, 0.5, 1.0), depths=(0, 0.5, 1.0), kernels=(1, 3, 5))
    hand = Hand(learn, ofa_choices, [('0', (1,)), ('3.0.body.0', (3, 1)), ('3.1.body.0', (3, 1))] if matrices else ())
    ends = in_phases(hand, ofa_choices, scaled(ofa_phases), 12 * n_batches, 0.1)
    assert [e % n_batches for e in ends] == [3, 0, 3, 0, 3, 0] and len(
        {s.nets[0] for s in hand.steps}
    ) > 20  # within epochs and between them
    assert hand.moved[0]
    equal(learn, trained(learn, progressive_shrinking(matrices=matrices), 12), hand)
    for n, ms in hand.mats.items():
        for k, m in ms.items():
            close(learn.supernet.matrices[n][k], m, (n, k))
            assert k == 1 or (m - torch.eye(k * k)).abs().max() > 1e-3  # a factor before a batch norm hardly moves
    assert bool(learn.supernet.matrices) == matrices

def test_progressive_shrinking_from_a_teacher():
    "The published way: phases only, with a teacher that is given, in evaluation although it comes in training"
    learn = new_learner(ofa_like, '3', widths=(0.25, 0.5, 1.0), depths=(0, 0.5, 1.0), kernels=(1, 3, 5))
    torch.manual_seed(1)
    teacher = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 10)
    ).double()
    hand, given = (Hand(learn, ofa_choices, [('0', (1,)), ('3.0.body.0', (3, 1)), ('3.1.body.0', (3, 1))]),
                   deepcopy(teacher).eval())
    phases = [(*ofa_phases[1][:5], 1), *ofa_phases[2:]]  # nothing is known of what was trained before: sorted at once
    in_phases(hand, ofa_choices, scaled(phases, 1.0), 6 * n_batches, 0.0, given)
    assert hand.moved[:2] == [True] * 2
    equal(learn, trained(learn, progressive_shrinking(teacher=0), 6, lr=1.0, teacher=teacher.train()), hand)
    for a, b in zip(teacher.state_dict().values(), given.state_dict().values()):
        assert torch.equal(a, b)

def test_progressive_shrinking_leaves_out():
    "Without kernels there are four phases and the teacher"
    learn, choices = new_learner(widths=(0.25, 0.5, 1.0), depths=(0, 1)), at_widths(0.25, 0.5, 1.0)
    hand = Hand(learn, choices)
    in_phases(hand, choices, scaled([ofa_phases[i] for i in (0, 2, 3, 4, 5)], 0.5), 6 * n_batches, 0.0)
    assert hand.moved == [True] * 2  # the second within the tiers that were trained
    equal(learn, trained(learn, progressive_shrinking(), 6, lr=0.5), hand)

compofa_phases = [(180, 5, whole, 0, 0.08, None), (25, 0, dict(width=2, depth=2), 4, 0.0025, 1),
                  (125, 5, {}, 4, 0.0075, 2)]

@pytest.mark.parametrize('teacher,rate', [(180, lr), (0, 1.5)], ids=['', 'given'])
def test_compofa(teacher, rate):
    "Width follows depth; two phases after the teacher, sorted at both"
    learn = new_learner(ofa_like, '3', 0.1, tied=True, widths=(0.25, 0.5, 1.0), depths=(0, 0.5, 1.0))
    choices = [c for c in ofa_choices if c[0] == 'depth' or c[:2] in [('width', '3.0.body.0'), ('width', '3.1.body.0')]]
    hand = Hand(learn, choices)

    def tied(cs, pick):  # at depth 0, 1, 2 the blocks have 2, 4, 8 channels
        depth = pick(cs[0][2])
        return Subnet({f'3.{i}.body.0': pick(((2, 4, 8)[depth],)) for i in range(depth)}, {'3': depth})

    given = hand.sn.extract(hand.full).eval() if not teacher else None
    with pytest.MonkeyPatch.context() as m:
        m.setitem(globals(), 'net', tied)
        ends = in_phases(hand, choices, scaled(compofa_phases[not teacher :], rate), 6 * n_batches, 0.1, given)
    assert teacher or hand.moved == [True, True]
    assert len({s for st in hand.steps for s in st.nets}) == 3
    assert [len(s.nets) for s in hand.steps] == [1] * (ends[0] if teacher else 0) + [4] * (
        36 - (ends[0] if teacher else 0)
    )
    kwargs = {} if teacher else dict(teacher=deepcopy(given).train())
    equal(learn, trained(learn, compofa(teacher), 6, lr=rate, **kwargs), hand)

def test_zero_last_bn_takes_the_last():
    "The last batch norm of each block that may be dropped, and no other"
    model = resnet_cifar(20, n_in=1)
    for name, p in model.named_parameters():
        if p.ndim == 1:
            nn.init.normal_(p)  # biases too: a first batch norm of weight 0 would not silence its block
    sn = Supernet(model.eval(), torch.randn(2, 1, 8, 8), depths=(0, 1))
    names = zero_last_bn(sn)
    blocks = [b for blocks in sn.graph.stages.values() for b in blocks]
    assert names == sorted(f'{b}.conv2.bn' for b in blocks)
    weights = {n: m.weight for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {n for n, w in weights.items() if not w.any()} == {*names}
