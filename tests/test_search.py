"Comparing subnets: the full network is left alone, statistics are a subnet's own, and nothing is chosen on test data"
import math, random, tempfile
import numpy as np, pandas as pd, pytest, torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner, load_learner
from fastai.losses import MSELossFlat
from fastai.metrics import accuracy, error_rate, mse
from fastai.torch_core import get_random_states, no_random
from torch import nn
from torch.nn import functional as F
from elastic_nets.subnets.batches import calibrate_bn
from elastic_nets.subnets.cost import n_params
from elastic_nets.subnets.subnet import Subnet
from elastic_nets.subnets.supernet import Supernet
from elastic_nets.use import evaluate
from elastic_nets.use.evaluate import (
    best_of_buckets, evaluate_subnets, flops_buckets, mean_pareto_accuracy, pareto, plot_pareto, sample_buckets,
    score_supernet
)
from elastic_nets.zoo.data import digits_dls
from elastic_nets.zoo.models import resnet_cifar
from elastic_nets.zoo.spaces import compofa_space, ofa_mobilenetv3
from helpers import Bf16, same

torch.set_num_threads(1)

def new_learner(metrics=accuracy, epochs=1, **space):
    with no_random():
        learn = Learner(digits_dls(device='cpu'), resnet_cifar(8, n_in=1), metrics=metrics)
        learn.to_supernet(**(space or dict(depths=(0,1))))
        with learn.no_bar(), learn.no_logging():
            if epochs: learn.fit(epochs, 1e-2)
    return learn

@pytest.fixture(scope='module')
def learn(): return new_learner()

@torch.no_grad()
def outputs(net, dl, size=None):
    def sized(x): return F.interpolate(x, (size,size), mode='bilinear', antialias=True) if size else x
    net.eval()
    batches = list(dl)
    return torch.cat([net(torch.Tensor(sized(x))) for x,_ in batches]), torch.cat([y for _,y in batches])

def right(net, dl, size=None):
    p,y = outputs(net, dl, size)
    return (p.argmax(1)==torch.Tensor(y)).double().mean().item()

def ruin(model):
    "Statistics that nobody could use"
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d): m.running_mean.add_(3); m.running_var.mul_(.01)

# ---- the full network is left alone

class Before:
    "What of a learner must be the same after an evaluation"
    def __init__(self, learn):
        self.learn, self.sn = learn, learn.supernet
        self.modes = [m.training for m in learn.model.modules()]
        self.state = {k:v.clone() for k,v in learn.model.state_dict().items()}
        self.values, self.metric = list(learn.recorder.values), learn.metrics[0].value
        self.cbs, self.stats, self.subnet = list(learn.cbs), dict(self.sn.stats), self.sn.subnet

    def check(self):
        learn = self.learn
        assert same(dict(learn.model.state_dict()), self.state)
        assert [m.training for m in learn.model.modules()]==self.modes
        assert self.sn.subnet==self.subnet and self.sn.stats==self.stats
        assert list(learn.recorder.values)==self.values and learn.metrics[0].value==self.metric
        assert list(learn.cbs)==self.cbs and all(cb.learn is learn for cb in self.cbs)
        assert not any(m._forward_pre_hooks for m in learn.model.modules())

def seed_everything(seed=1):
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)

evaluations = dict(
    validation=lambda learn,subs: evaluate_subnets(learn, subs),
    training=lambda learn,subs: evaluate_subnets(learn, subs, dl=learn.dls.train),
    score=lambda learn,subs: score_supernet(learn, learn.dls.test, subs))

@pytest.mark.parametrize('which', evaluations)
def test_evaluation_leaves_learner_random_numbers_and_loaders_alone(which):
    learn, twin = new_learner(), new_learner()
    sn, half = learn.supernet, learn.supernet.space.uniform(.5)
    sn.set_active(half)
    sn.calibrate(half, learn.dls.train, 200)
    before = Before(learn)
    seed_everything()
    evaluations[which](learn, [sn.space.sample(i) for i in range(3)])
    used = get_random_states()
    seed_everything()
    fresh = get_random_states()
    before.check()
    for k,v in fresh.items(): assert torch.equal(v, used[k]) if isinstance(v, torch.Tensor) else str(v)==str(used[k]), k
    for k in ('train', 'valid', 'test'):
        for a,b in zip(getattr(learn.dls, k), getattr(twin.dls, k)): assert all(map(torch.equal, a, b)), k

# ---- what is evaluated

def test_a_subnet_is_evaluated_with_statistics_of_its_own(learn):
    "A subnet gets what its extraction with recomputed statistics gets; the full network's statistics play no part"
    sn = learn.supernet
    subs = [sn.space.min, sn.space.uniform(.5), sn.space.sample(0)]
    by_hand = [right(calibrate_bn(sn.extract(s), learn.dls.train, 2000), learn.dls.valid) for s in subs]
    as_they_are = [right(sn.extract(s), learn.dls.valid) for s in subs]
    def accuracies(learn, **kw): return evaluate_subnets(learn, subs, **kw).accuracy.tolist()
    assert accuracies(learn)==pytest.approx(by_hand, abs=1e-6)
    assert accuracies(learn, calibrate=0)==pytest.approx(as_they_are, abs=1e-6)
    other = new_learner()
    ruin(other.model)
    assert accuracies(other)==pytest.approx(by_hand, abs=1e-6)
    assert accuracies(other, calibrate=0)!=pytest.approx(by_hand, abs=1e-2)

def test_statistics_kept_before_the_weights_changed_are_not_used(learn):
    "What `Supernet.calibrate` kept before the weights changed is not used"
    other = new_learner()
    sub = other.supernet.space.min
    other.supernet.calibrate(sub, [torch.randn(64,1,8,8)*5+9], 64)
    assert evaluate_subnets(other, sub).accuracy[0]==evaluate_subnets(learn, sub).accuracy[0]

def test_all_networks_get_statistics_but_private_norms_keep_theirs():
    "The full network gets them as its parts do, in a copy"
    learn = new_learner()
    sn = learn.supernet
    subs = [sn.space.max, sn.space.uniform(.5), sn.space.uniform(.75)]
    before = evaluate_subnets(learn, subs).accuracy
    sn.private_bn(subs[1])
    ruin(learn.model)
    for own in sn.stats[subs[1]].values(): own['running_mean'].add_(3)
    now, bare = evaluate_subnets(learn, subs).accuracy, evaluate_subnets(learn, subs, calibrate=0).accuracy
    assert now[1]==bare[1]!=before[1]
    for i in (0,2): assert now[i]==pytest.approx(before[i], abs=1e-6)!=bare[i]

def test_a_subnet_is_evaluated_at_its_own_resolution():
    learn = new_learner(resolutions=(6,8))
    space = learn.supernet.space
    subs = [s for i in range(30) if (s := space.sample(i)).resolution==6][:3]
    t = evaluate_subnets(learn, subs)
    nets = [calibrate_bn(learn.supernet.extract(s), learn.dls.train, 2000, 6) for s in subs]
    sized, whole = [[right(net, learn.dls.valid, size) for net in nets] for size in (6,None)]
    assert t.accuracy.tolist()==pytest.approx(sized, abs=1e-6)!=pytest.approx(whole, abs=1e-6)
    assert t.macs.tolist()==[learn.supernet.macs(s) for s in subs]

def test_the_learner_of_a_subnet_resizes_pictures_itself():
    "As the evaluation does, also after a round trip through a file"
    learn = new_learner(resolutions=(4,8))
    small = learn.supernet.space.min
    one = learn.subnet(small)
    with one.no_bar(): acc = one.validate()[1]
    assert small.resolution==4 and acc==pytest.approx(evaluate_subnets(learn, [small]).accuracy[0])
    with tempfile.TemporaryDirectory() as d:
        one.export(f'{d}/s.pkl')
        again = load_learner(f'{d}/s.pkl')
        with again.no_bar(): assert again.validate(dl=learn.dls.valid)[1]==pytest.approx(acc)

def test_table_has_a_row_and_an_evaluation_per_different_subnet(learn, monkeypatch):
    "In the order given; any loader, several metrics"
    sn, seen = learn.supernet, []
    extract = Supernet.extract
    monkeypatch.setattr(Supernet, 'extract', lambda self, s: seen.append(s) or extract(self, s))
    a,b = sn.space.min,sn.space.uniform(.5)
    given = iter([b, a, b, Subnet.from_json(a.to_json())])
    t = evaluate_subnets(learn, given, [accuracy, error_rate], learn.dls.test, 100)
    assert seen==t.subnet.tolist()==[b,a]
    assert list(t.columns)==['subnet','macs','params','accuracy','error_rate']
    assert (t.accuracy+t.error_rate).tolist()==pytest.approx([1,1])
    by_hand = right(calibrate_bn(extract(sn, b), learn.dls.train, 100), learn.dls.test)
    assert t.accuracy[0]==pytest.approx(by_hand, abs=1e-6)
    assert t.macs.tolist()==[sn.macs(b), sn.macs(a)] and t.params.tolist()==[sn.n_params(b), sn.n_params(a)]

@pytest.mark.filterwarnings('ignore')
def test_subnets_are_evaluated_in_the_precision_of_the_learner(learn):
    sub, dl = learn.supernet.space.uniform(.5), learn.dls.valid
    def mean_output(p, y): return p.abs().mean()
    cb = Bf16()
    net = calibrate_bn(learn.supernet.extract(sub), learn.dls.train, 2000)
    exact = outputs(net, dl)[0].abs().mean().item()
    with torch.autocast('cpu', dtype=torch.bfloat16): rough = outputs(net, dl)[0].float().abs().mean().item()
    assert abs(exact-rough)>1e-6
    with learn.added_cbs(cb):
        got = evaluate_subnets(learn, sub, mean_output).mean_output[0]
        assert cb.learn is learn and not torch.is_autocast_enabled('cpu')
    assert got==pytest.approx(rough, rel=1e-6)
    assert evaluate_subnets(learn, sub, mean_output).mean_output[0]==pytest.approx(exact, rel=1e-6)

class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a,self.b = [nn.Conv2d(n, 8, 3, padding=1) for n in (1,2)]
        self.bn,self.c = nn.BatchNorm2d(8),nn.Linear(8,1)
    def forward(self, x, y): return self.c(F.relu(self.bn(self.a(x)+self.b(y))).mean((2,3)))

def test_two_inputs_and_a_metric_of_which_less_is_better():
    "The name of the metric says so"
    torch.manual_seed(0)
    data = [(torch.randn(1,6,6), torch.randn(2,6,6), torch.randn(1)) for _ in range(48)]
    dls = DataLoaders(*[DataLoader(data[i:i+16], bs=8) for i in (0,16)], device='cpu')
    learn = Learner(dls, TwoInputs(), loss_func=MSELossFlat(), metrics=mse)
    sn = learn.to_supernet()
    score = score_supernet(learn, DataLoader(data[32:], bs=8), list(sn.space))
    t = evaluate_subnets(learn, list(sn.space))
    assert list(t.columns)[3:]==['mse'] and len(t)==4
    assert score.front.valid.min()==t.mse.min()==score.front.valid.iloc[-1]
    assert score.front.valid.is_monotonic_decreasing
    assert (score.front.subnet.iloc[0], score.chosen.valid['largest'])==(sn.space.min, t.mse.iloc[-1])

@pytest.mark.parametrize('bar', [True, False])
def test_a_progress_bar_is_shown_where_the_learner_shows_one(learn, monkeypatch, bar):
    shown = []
    monkeypatch.setattr(evaluate, 'progress_bar', lambda xs, leave: shown.append(True) or xs)
    if bar: evaluate_subnets(learn, learn.supernet.space.min, cache=False)
    else:
        with learn.no_bar(): evaluate_subnets(learn, learn.supernet.space.min, cache=False)
    assert shown==[True]*bar and hasattr(learn, 'progress')

# ---- fronts and areas, against definitions

def tables(n=60):
    rng = np.random.default_rng(0)
    for _ in range(n):
        k = rng.integers(1, 12)
        t = pd.DataFrame(dict(subnet=range(k), macs=rng.integers(1, 8, k), accuracy=rng.integers(0, 6, k)/8))
        if k>4: t.loc[rng.integers(k), 'accuracy'] = np.nan
        yield t

@pytest.mark.parametrize('lower', [False, True])
def test_pareto_front_is_what_nothing_dominates(lower):
    sign = -1 if lower else 1
    def place(row): return row.macs, row.accuracy
    def beats(b, a): return b.macs<=a.macs and sign*b.accuracy>=sign*a.accuracy and place(b)!=place(a)
    for t in tables():
        front, rows = pareto(t, lower=lower), list(t.dropna().itertuples())
        left = {place(a) for a in rows if not any(beats(b, a) for b in rows)}
        assert sorted(zip(front.macs, front.accuracy))==sorted(left)
        assert front.macs.is_monotonic_increasing and front.macs.is_unique
        for row in front.itertuples(): assert row.subnet==min(a.subnet for a in rows if place(a)==place(row))

@pytest.mark.parametrize('lower', [False, True])
def test_area_is_the_mean_of_the_best_within_each_budget(lower):
    "Costs are whole numbers: the mean of the best within 1.5, 2.5, 3.5, ..."
    for t in tables():
        t = t.dropna()
        lo, hi = int(t.macs.min()), 9
        best = [(min if lower else max)(t.accuracy[t.macs<=b+.5]) for b in range(lo, hi)]
        assert mean_pareto_accuracy(t, lo, hi, lower=lower)==pytest.approx(np.mean(best), abs=1e-12)
        more = pd.concat([t, pd.DataFrame(dict(subnet=[99], macs=[4], accuracy=[.4]))])
        gain = mean_pareto_accuracy(more, lo, hi, lower=lower)-mean_pareto_accuracy(t, lo, hi, lower=lower)
        assert gain*(-1 if lower else 1)>=-1e-12 # another network never makes it worse

def test_area_by_hand():
    macs = [1_000_000,3_000_000,4_000_000]
    t = pd.DataFrame(dict(subnet=list('abc'), macs=macs, valid=[.25,.5,.75], test=[.3,.2,.1]))
    assert mean_pareto_accuracy(t, 1e6, 5e6)==(2*.25+.5+.75)/4
    assert mean_pareto_accuracy(t, 1e6, 5e6, metric='test', by='valid')==pytest.approx((2*.3+.2+.1)/4, abs=1e-15)
    assert mean_pareto_accuracy(t, 2e6, 3.5e6)==pytest.approx((.25+.5*.5)/1.5, abs=1e-15)

# ---- buckets

@pytest.fixture(scope='module')
def ofa():
    net,space = ofa_mobilenetv3(10, img=32)
    return Supernet(net, torch.randn(2,3,32,32), check=False, space=space)

@pytest.fixture(scope='module')
def tied():
    net,space = ofa_mobilenetv3(10, img=32)
    return Supernet(net, torch.randn(2,3,32,32), check=False, space=compofa_space(space))

@pytest.mark.parametrize('which', ['ofa', 'tied'])
def test_buckets_divide_the_range_and_are_filled(which, request):
    sn = request.getfixturevalue(which)
    buckets, drawn = flops_buckets(sn, 6), sample_buckets(sn, per=3)
    lows, highs = zip(*buckets)
    assert lows[0]==sn.macs(sn.space.min) and highs[-1]==sn.macs(sn.space.max) and highs[:-1]==lows[1:]
    assert [hi-lo for lo,hi in buckets]==pytest.approx([(highs[-1]-lows[0])/6]*6)
    assert [len({*subs}) for subs in drawn]==[3]*6 and drawn[0][0]==sn.space.min and drawn[-1][0]==sn.space.max
    for subs,(lo,hi) in zip(drawn, buckets):
        for s in subs:
            sn.space.check(s)
            assert lo<=sn.macs(s)<hi or sn.macs(s)==hi==highs[-1]
    assert drawn==sample_buckets(sn, per=3, seed=0)!=sample_buckets(sn, per=3, seed=1)
    if which=='ofa': # by chance the first stays empty
        assert min(sn.macs(sn.space.sample(i)) for i in range(50))>highs[0]

def test_sampling_keeps_limits(ofa):
    most = ofa.space.max
    half = ofa.space.constrain(ofa.macs, hi=2*ofa.macs(most)).constrain(ofa.n_params, hi=.9*ofa.n_params(most))
    with pytest.raises(ValueError, match='the limits are'): # its largest subnet is not in it
        sample_buckets(ofa, per=3, space=half)
    first = next(n for n,d in ofa.space.depth.items() if len(d)>2)
    space = ofa.space.constrain(lambda s: s.depth[first]==ofa.space.depth[first][1], lo=0, hi=0)
    drawn = sum(sample_buckets(ofa, per=4, space=space), [])
    assert len(drawn)==24 and all(s in space for s in drawn)
    assert not all(s in space for s in sum(sample_buckets(ofa, per=4), []))

def test_empty_buckets_are_reported():
    "Four subnets in twenty buckets: four rows have one"
    learn = new_learner(epochs=0, widths={'layer3.0.conv1.conv':(16,32,48)})
    sn = learn.supernet
    drawn = sample_buckets(sn, per=2, n=20)
    assert sorted(map(len, drawn))==[0]*16+[1]*4 and {s for subs in drawn for s in subs}=={*sn.space}
    score = score_supernet(learn, learn.dls.test, per=2, n=20, calibrate=100)
    assert list(score.chosen.index)==['smallest', *range(1,21), 'largest'] and score.chosen.test.isna().sum()==16
    assert (score.chosen.valid.isna()==score.chosen.test.isna()).all()

@pytest.mark.parametrize('lower', [False, True])
def test_best_of_buckets_is_the_best_and_then_the_cheapest(lower):
    buckets, sign = [(0,2),(2,4),(4,6),(6,7)], 1 if lower else -1
    for t in tables():
        best = best_of_buckets(t, buckets, lower=lower)
        assert list(best.index)==[1,2,3,4]
        for i,(lo,hi) in enumerate(buckets, 1):
            inside = [row for row in t.dropna().itertuples() if lo<=row.macs<hi or row.macs==hi==7]
            if inside:
                want = min(inside, key=lambda row: (sign*row.accuracy, row.macs, row.subnet))
                assert (best.subnet[i], best.accuracy[i])==(want.subnet, want.accuracy)
            else: assert math.isnan(best.accuracy[i])

# ---- chosen on validation, reported on test

def scrambled(dl, seed):
    "The same pictures with other labels"
    g = torch.Generator().manual_seed(seed)
    x,y = map(torch.cat, zip(*[(torch.Tensor(x), torch.Tensor(y).long()) for x,y in dl]))
    return DataLoader(list(zip(x, y[torch.randperm(len(y), generator=g)])), bs=64)

def test_test_data_chooses_nothing(learn):
    sn = learn.supernet
    subs = [sn.space.sample(i) for i in range(12)]
    first,*others = [score_supernet(learn, scrambled(learn.dls.test, i), subs, calibrate=300) for i in range(3)]
    for score in others:
        assert score.front.subnet.tolist()==first.front.subnet.tolist()
        assert score.front.valid.tolist()==first.front.valid.tolist()!=score.front.test.tolist()
        assert score.chosen.drop(columns='test').equals(first.chosen.drop(columns='test'))
        assert score.front.test.tolist()!=first.front.test.tolist()
    # labels without meaning: the mean over what validation chose is what budgets give it
    lo, hi = sn.macs(sn.space.min), sn.macs(sn.space.max)
    for score in (first, *others):
        costs = [*score.front.macs, hi]
        by_hand = sum((b-a)*v for a,b,v in zip(costs, costs[1:], score.front.test))/(hi-lo)
        assert score.mean==pytest.approx(by_hand, abs=1e-12)
        # what choosing on the test set would claim is more
        assert score.mean<mean_pareto_accuracy(score.front, lo, hi, metric='test')

def test_only_the_chosen_see_the_test_data(learn, monkeypatch):
    seen, space, test = [], learn.supernet.space, learn.dls.test
    together = evaluate._validate_together
    def noted(learners, dl):
        seen.extend((n_params(own.model), dl) for own in learners)
        return together(learners, dl)
    monkeypatch.setattr(evaluate, '_validate_together', noted)
    subs = [space.sample(i) for i in range(12, 24)]
    score = score_supernet(learn, test, subs, calibrate=301)
    tested, chosen = [n for n,dl in seen if dl is test], {*score.front.subnet, *score.chosen.subnet.dropna()}
    assert sorted(tested)==sorted(map(learn.supernet.n_params, chosen)) and len(tested)<14
    assert sum(dl is learn.dls.valid for _,dl in seen)==len({*subs, space.min, space.max})
    t = evaluate_subnets(learn, chosen, dl=test, calibrate=301)
    want = dict(zip(t.subnet, t.accuracy))
    for table in (score.front, score.chosen.dropna()): assert table.test.tolist()==[want[s] for s in table.subnet]

# ---- the picture

def test_plot_draws_fronts_as_steps():
    import matplotlib.pyplot as plt
    t = pd.DataFrame(dict(subnet=list('abc'), macs=[1e6,2e6,4e6], accuracy=[.5,.4,.9]))
    ax = plot_pareto({'x':t, 'y':t.assign(macs=2*t.macs)})
    xs,ys = ax.lines[0].get_data()
    assert list(xs)==[1,4,8] and list(ys)==[.5,.9,.9] and ax.lines[0].get_drawstyle()=='steps-post'
    assert [x.get_text() for x in ax.get_legend().get_texts()]==['x','y'] and ax.get_xlabel()=='million MACs'
    assert plot_pareto(t.assign(ms=[3,2,1]), cost='ms').lines[0].get_data()[0].tolist()==[1,3]
    plt.close('all')
