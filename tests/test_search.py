"Comparing subnets: the full network is left alone, statistics are a subnet's own, and nothing is chosen on test data"
import math, random, tempfile
from dataclasses import replace
import numpy as np, pandas as pd, pytest, torch
from fastai.callback.fp16 import MixedPrecision
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner, load_learner
from fastai.losses import MSELossFlat
from fastai.metrics import accuracy, error_rate, mse
from fastai.torch_core import get_random_states, no_random
from torch import nn
from torch.nn import functional as F
from elastic_nets import search
from elastic_nets.zoo.data import digits_dls
from elastic_nets.zoo.models import resnet_cifar
from elastic_nets.use.evaluate import (
    best_of_buckets, evaluate_subnets, flops_buckets, mean_pareto_accuracy, pareto, plot_pareto, sample_buckets,
    score_supernet
)
from elastic_nets.zoo.spaces import compofa_space, ofa_mobilenetv3
from elastic_nets.subnets.subnet import Subnet
from elastic_nets.subnets.supernet import Supernet
from elastic_nets.subnets.batches import calibrate_bn

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

@pytest.fixture
def no_work(monkeypatch):
    "Taking out a subnet is work"
    def extract(*args): raise AssertionError('work began')
    monkeypatch.setattr(Supernet, 'extract', extract)

@torch.no_grad()
def outputs(net, dl, size=None):
    net.eval()
    bs = [(F.interpolate(x, (size,size), mode='bilinear', antialias=True) if size else x, y) for x,y in dl]
    return torch.cat([net(torch.Tensor(x)) for x,_ in bs]),torch.cat([y for _,y in bs])

def right(net, dl, size=None):
    p,y = outputs(net, dl, size)
    return (p.argmax(1)==torch.Tensor(y)).double().mean().item()

def ruin(model):
    "Statistics that nobody could use"
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d): m.running_mean.add_(3); m.running_var.mul_(.01)

# The full network is left alone

@pytest.mark.parametrize('call', [lambda l,ss: evaluate_subnets(l, ss), lambda l,ss: evaluate_subnets(l, ss, dl=l.dls.train),
                                  lambda l,ss: score_supernet(l, l.dls.test, ss)])
def test_undisturbed(call):
    learn, twin = new_learner(), new_learner()
    sn, sub = learn.supernet, learn.supernet.space.uniform(.5)
    sn.set_active(sub)
    sn.calibrate(sub, learn.dls.train, 200)
    modes = [m.training for m in learn.model.modules()]
    before = {k:v.clone() for k,v in learn.model.state_dict().items()}
    values, met, cbs, stats = list(learn.recorder.values), learn.metrics[0].value, list(learn.cbs), dict(sn.stats)
    for l in (learn, twin):
        torch.manual_seed(1); np.random.seed(1); random.seed(1)
        if l is learn: call(learn, [sn.space.sample(i) for i in range(3)])
        l.rngs = get_random_states()
    assert all(torch.equal(v, before[k]) for k,v in learn.model.state_dict().items())
    assert modes==[m.training for m in learn.model.modules()] and sn.subnet==sub and sn.stats==stats
    assert values==list(learn.recorder.values) and met==learn.metrics[0].value and cbs==list(learn.cbs) and all(cb.learn is learn for cb in cbs)
    assert not any(m._forward_pre_hooks for m in learn.model.modules())
    for k,v in twin.rngs.items():
        w = learn.rngs[k]
        assert torch.equal(v, w) if isinstance(v, torch.Tensor) else str(v)==str(w), k
    for k in ('train', 'valid', 'test'):
        for (xa,ya),(xb,yb) in zip(getattr(learn.dls, k), getattr(twin.dls, k)): assert torch.equal(xa, xb) and torch.equal(ya, yb), k

# What is evaluated

def test_own_statistics(learn):
    "A subnet gets what its extraction with recomputed statistics gets; the full network's statistics play no part"
    sn = learn.supernet
    subs = [sn.space.min, sn.space.uniform(.5), sn.space.sample(0)]
    by_hand = [right(calibrate_bn(sn.extract(s), learn.dls.train, 2000), learn.dls.valid) for s in subs]
    assert evaluate_subnets(learn, subs).accuracy.tolist()==pytest.approx(by_hand, abs=1e-6)
    assert evaluate_subnets(learn, subs, calibrate=0).accuracy.tolist()==pytest.approx([right(sn.extract(s), learn.dls.valid) for s in subs], abs=1e-6)
    other = new_learner()
    ruin(other.model)
    assert evaluate_subnets(other, subs).accuracy.tolist()==pytest.approx(by_hand, abs=1e-6)
    assert evaluate_subnets(other, subs, calibrate=0).accuracy.tolist()!=pytest.approx(by_hand, abs=1e-2)

def test_statistics_out_of_date(learn):
    "What `Supernet.calibrate` kept before the weights changed is not used"
    other = new_learner()
    sub = other.supernet.space.min
    other.supernet.calibrate(sub, [torch.randn(64,1,8,8)*5+9], 64)
    assert evaluate_subnets(other, sub).accuracy[0]==evaluate_subnets(learn, sub).accuracy[0]

def test_full_and_private_as_they_are():
    "Only shared statistics are recomputed"
    learn = new_learner()
    sn = learn.supernet
    subs = [sn.space.max, sn.space.uniform(.5), sn.space.uniform(.75)]
    before = evaluate_subnets(learn, subs).accuracy
    sn.private_bn(subs[1])
    ruin(learn.model)
    for own in sn.stats[subs[1]].values(): own['running_mean'].add_(3)
    now, bare = evaluate_subnets(learn, subs).accuracy, evaluate_subnets(learn, subs, calibrate=0).accuracy
    assert now[0]==bare[0]!=before[0] and now[1]==bare[1]!=before[1]
    assert now[2]==pytest.approx(before[2], abs=1e-6)!=bare[2]

def test_resolution():
    learn = new_learner(resolutions=(6,8))
    space = learn.supernet.space
    subs = [s for i in range(30) if (s := space.sample(i)).resolution==6][:3]
    t = evaluate_subnets(learn, subs)
    sized = [right(calibrate_bn(learn.supernet.extract(s), learn.dls.train, 2000, 6), learn.dls.valid, 6) for s in subs]
    whole = [right(calibrate_bn(learn.supernet.extract(s), learn.dls.train, 2000, 6), learn.dls.valid) for s in subs]
    assert t.accuracy.tolist()==pytest.approx(sized, abs=1e-6)!=pytest.approx(whole, abs=1e-6)
    assert t.macs.tolist()==[learn.supernet.macs(s) for s in subs]

def test_subnet_s_resolution():
    "A learner of a subnet resizes pictures itself, as the evaluation does, also after a round trip through a file"
    learn = new_learner(resolutions=(4,8))
    small = learn.supernet.space.min
    one = learn.subnet(small)
    with one.no_bar(): acc = one.validate()[1]
    assert small.resolution==4 and acc==pytest.approx(evaluate_subnets(learn, [small]).accuracy[0])
    with tempfile.TemporaryDirectory() as d:
        one.export(f'{d}/s.pkl')
        again = load_learner(f'{d}/s.pkl')
        with again.no_bar(): assert again.validate(dl=learn.dls.valid)[1]==pytest.approx(acc)

def test_subnet_of_another_model():
    learn = new_learner(epochs=0)
    learn.model = resnet_cifar(8, n_in=1)
    with pytest.raises(ValueError, match='another model'): learn.subnet(learn.supernet.space.min)

def test_table(learn, monkeypatch):
    "One row and one evaluation per different subnet, in the order given; any loader, several metrics"
    sn, seen = learn.supernet, []
    extract = Supernet.extract
    monkeypatch.setattr(Supernet, 'extract', lambda self, s: seen.append(s) or extract(self, s))
    a,b = sn.space.min,sn.space.uniform(.5)
    t = evaluate_subnets(learn, iter([b,a,b,Subnet.from_json(a.to_json())]), [accuracy, error_rate], learn.dls.test, 100)
    assert seen==t.subnet.tolist()==[b,a]
    assert list(t.columns)==['subnet','macs','params','accuracy','error_rate']
    assert (t.accuracy+t.error_rate).tolist()==pytest.approx([1,1])
    assert t.accuracy[0]==pytest.approx(right(calibrate_bn(extract(sn, b), learn.dls.train, 100), learn.dls.test), abs=1e-6)
    assert t.macs.tolist()==[sn.macs(b), sn.macs(a)] and t.params.tolist()==[sn.n_params(b), sn.n_params(a)]

class Bf16(MixedPrecision):
    def before_fit(self):
        super().before_fit()
        self.autocast = torch.autocast('cpu', dtype=torch.bfloat16)

@pytest.mark.filterwarnings('ignore')
def test_mixed_precision(learn):
    "The learner's precision is the subnets'"
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

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a,self.b,self.bn,self.c = nn.Conv2d(1,8,3,padding=1),nn.Conv2d(2,8,3,padding=1),nn.BatchNorm2d(8),nn.Linear(8,1)
    def forward(self, x, y): return self.c(F.relu(self.bn(self.a(x)+self.b(y))).mean((2,3)))

def test_two_inputs_and_regression():
    "Less is better, and the name says so"
    torch.manual_seed(0)
    data = [(torch.randn(1,6,6), torch.randn(2,6,6), torch.randn(1)) for _ in range(48)]
    learn = Learner(DataLoaders(*[DataLoader(data[i:i+16], bs=8) for i in (0,16)], device='cpu'), Two(), loss_func=MSELossFlat(), metrics=mse)
    sn = learn.to_supernet()
    score = score_supernet(learn, DataLoader(data[32:], bs=8), list(sn.space))
    t = evaluate_subnets(learn, list(sn.space))
    assert list(t.columns)[3:]==['mse'] and len(t)==4
    assert score.front.valid.min()==t.mse.min()==score.front.valid.iloc[-1] and score.front.valid.is_monotonic_decreasing
    assert (score.front.subnet.iloc[0], score.chosen.valid['largest'])==(sn.space.min, t.mse.iloc[-1])

@pytest.mark.parametrize('bar', [True, False])
def test_progress_bar(learn, monkeypatch, bar):
    shown = []
    monkeypatch.setattr(search, 'progress_bar', lambda xs, leave: shown.append(True) or xs)
    if bar: evaluate_subnets(learn, learn.supernet.space.min)
    else:
        with learn.no_bar(): evaluate_subnets(learn, learn.supernet.space.min)
    assert shown==[True]*bar and hasattr(learn, 'progress')

def test_errors_before_work(learn, no_work):
    sn = learn.supernet
    def fail(*args, match, exc=ValueError, **kwargs): _raises(evaluate_subnets, exc, match, *args, **kwargs)
    fail(Learner(learn.dls, nn.Linear(2,2), metrics=accuracy), [], match='call learn.to_supernet')
    fail(learn, [sn.space.min, Subnet(width={'nowhere':3})], match="'nowhere' is not a choice")
    fail(learn, [sn.space.min, .5], match='a Subnet is expected', exc=TypeError)
    fail(learn, [], match='subnets: none given')
    fail(learn, sn.space.min, calibrate=.5, match='calibrate: a number')
    fail(learn, sn.space.min, [accuracy, accuracy], match='name of its own')
    mets, learn.metrics = learn.metrics, []
    try: fail(learn, sn.space.min, match='metrics: this learner has none')
    finally: learn.metrics = mets
    model, learn.model = learn.model, nn.Linear(2,2)
    try: fail(learn, sn.space.min, match='belongs to another model')
    finally: learn.model = model
    for dl in (learn.dls.valid, learn.dls.train, learn.dls.valid.new(bs=7)): _raises(score_supernet, ValueError, 'test: this is the', learn, dl)
    _raises(score_supernet, ValueError, 'test: None', learn, None)
    _raises(score_supernet, ValueError, 'metric: one', learn, learn.dls.test, metric=[accuracy, error_rate])
    _raises(score_supernet, ValueError, 'per: a number', learn, learn.dls.test, per=0)
    _raises(score_supernet, ValueError, 'n: a number', learn, learn.dls.test, n=0)

def _raises(f, exc, match, *args, **kwargs):
    with pytest.raises(exc, match=match): f(*args, **kwargs)

# Fronts and areas, against definitions

def tables(n=60):
    rng = np.random.default_rng(0)
    for _ in range(n):
        k = rng.integers(1, 12)
        t = pd.DataFrame(dict(subnet=range(k), macs=rng.integers(1, 8, k), accuracy=rng.integers(0, 6, k)/8))
        if k>4: t.loc[rng.integers(k), 'accuracy'] = np.nan
        yield t

@pytest.mark.parametrize('lower', [False, True])
def test_pareto(lower):
    for t in tables():
        s, f = (-1 if lower else 1), pareto(t, lower=lower)
        rows = list(t.dropna().itertuples())
        beaten = lambda a: any(b.macs<=a.macs and s*b.accuracy>=s*a.accuracy and (b.macs,b.accuracy)!=(a.macs,a.accuracy) for b in rows)
        assert sorted(zip(f.macs, f.accuracy))==sorted({(a.macs,a.accuracy) for a in rows if not beaten(a)})
        assert f.macs.is_monotonic_increasing and f.macs.is_unique
        for r in f.itertuples(): assert r.subnet==min(a.subnet for a in rows if (a.macs,a.accuracy)==(r.macs,r.accuracy))

@pytest.mark.parametrize('lower', [False, True])
def test_area(lower):
    "Costs are whole numbers: the mean of the best within 1.5, 2.5, 3.5, ..."
    for t in tables():
        t = t.dropna()
        lo, hi = int(t.macs.min()), 9
        best = [(min if lower else max)(t.accuracy[t.macs<=b+.5]) for b in range(lo, hi)]
        assert mean_pareto_accuracy(t, lo, hi, lower=lower)==pytest.approx(np.mean(best), abs=1e-12)
        more = pd.concat([t, pd.DataFrame(dict(subnet=[99], macs=[4], accuracy=[.4]))])
        d = mean_pareto_accuracy(more, lo, hi, lower=lower)-mean_pareto_accuracy(t, lo, hi, lower=lower)
        assert d*(-1 if lower else 1)>=-1e-12

def test_area_by_hand():
    t = pd.DataFrame(dict(subnet=list('abc'), macs=[1_000_000,3_000_000,4_000_000], valid=[.25,.5,.75], test=[.3,.2,.1]))
    assert mean_pareto_accuracy(t, 1e6, 5e6)==(2*.25+.5+.75)/4
    assert mean_pareto_accuracy(t, 1e6, 5e6, metric='test', by='valid')==pytest.approx((2*.3+.2+.1)/4, abs=1e-15)
    assert mean_pareto_accuracy(t, 2e6, 3.5e6)==pytest.approx((.25+.5*.5)/1.5, abs=1e-15)
    for lo,hi,match in ((0,5e6,'evaluate the smallest'), (5e6,5e6,'below the highest')):
        with pytest.raises(ValueError, match=match): mean_pareto_accuracy(t, lo, hi)
    with pytest.raises(ValueError, match="cost: 'seconds' is no column"): mean_pareto_accuracy(t, 1, 2, cost='seconds')

# Buckets

@pytest.fixture(scope='module')
def ofa():
    net,space = ofa_mobilenetv3(10, img=32)
    return Supernet(net, torch.randn(2,3,32,32), check=False, space=space)

@pytest.fixture(scope='module')
def tied():
    net,space = ofa_mobilenetv3(10, img=32)
    return Supernet(net, torch.randn(2,3,32,32), check=False, space=compofa_space(space))

@pytest.mark.parametrize('which', ['ofa', 'tied'])
def test_buckets(which, request):
    sn = request.getfixturevalue(which)
    bs, drawn = flops_buckets(sn, 6), sample_buckets(sn, per=3)
    assert bs[0][0]==sn.macs(sn.space.min) and bs[-1][1]==sn.macs(sn.space.max) and [b for _,b in bs[:-1]]==[a for a,_ in bs[1:]]
    assert [b-a for a,b in bs]==pytest.approx([(bs[-1][1]-bs[0][0])/6]*6)
    assert [len({*ss}) for ss in drawn]==[3]*6 and drawn[0][0]==sn.space.min and drawn[-1][0]==sn.space.max
    for i,(ss,(a,b)) in enumerate(zip(drawn, bs)):
        for s in ss:
            sn.space.check(s)
            assert a<=sn.macs(s)<b or (i==5 and sn.macs(s)==b)
    assert drawn==sample_buckets(sn, per=3, seed=0)!=sample_buckets(sn, per=3, seed=1)
    if which=='ofa': assert min(sn.macs(sn.space.sample(i)) for i in range(50))>bs[0][1] # by chance the first stays empty

def test_sampling_keeps_limits(ofa):
    most = ofa.space.max
    half = ofa.space.constrain(ofa.macs, hi=2*ofa.macs(most)).constrain(ofa.n_params, hi=.9*ofa.n_params(most))
    with pytest.raises(ValueError, match='the limits are'): sample_buckets(ofa, per=3, space=half) # its largest subnet is not in it
    first = next(n for n,d in ofa.space.depth.items() if len(d)>2)
    space = ofa.space.constrain(lambda s: s.depth[first]==ofa.space.depth[first][1], 0, 0)
    drawn = sum(sample_buckets(ofa, per=4, space=space), [])
    assert len(drawn)==24 and all(s in space for s in drawn)
    assert not all(s in space for s in sum(sample_buckets(ofa, per=4), []))

def test_empty_buckets():
    "Four subnets in twenty buckets: at most four rows have one, and all are reported"
    learn = new_learner(epochs=0, widths={'layer3.0.conv1.conv':(16,32,48)})
    sn = learn.supernet
    drawn = sample_buckets(sn, per=2, n=20)
    assert sorted(map(len, drawn))==[0]*16+[1]*4 and {s for ss in drawn for s in ss}=={*sn.space}
    score = score_supernet(learn, learn.dls.test, per=2, n=20, calibrate=100)
    assert len(score.chosen)==22 and score.chosen.test.isna().sum()==16 and list(score.chosen.index)==['smallest', *range(1,21), 'largest']
    assert (score.chosen.valid.isna()==score.chosen.test.isna()).all()

def test_best_of_buckets():
    for t in tables():
        bs = [(0,2),(2,4),(4,6),(6,7)]
        for lower in (False, True):
            b = best_of_buckets(t, bs, lower=lower)
            assert list(b.index)==[1,2,3,4]
            for i,(lo,hi) in enumerate(bs, 1):
                inside = [r for r in t.dropna().itertuples() if lo<=r.macs<hi or r.macs==hi==7]
                if not inside: assert math.isnan(b.accuracy[i]); continue
                want = min(inside, key=lambda r: ((1 if lower else -1)*r.accuracy, r.macs, r.subnet))
                assert (b.subnet[i], b.accuracy[i])==(want.subnet, want.accuracy)

# Chosen on validation, reported on test

def scrambled(dl, seed):
    "The same pictures with other labels"
    g = torch.Generator().manual_seed(seed)
    x,y = map(torch.cat, zip(*[(torch.Tensor(x), torch.Tensor(y).long()) for x,y in dl]))
    return DataLoader(list(zip(x, y[torch.randperm(len(y), generator=g)])), bs=64)

def test_test_data_chooses_nothing(learn):
    subs = [learn.supernet.space.sample(i) for i in range(12)]
    scores = [score_supernet(learn, scrambled(learn.dls.test, i), subs, calibrate=300) for i in range(3)]
    for s in scores[1:]:
        assert s.front.subnet.tolist()==scores[0].front.subnet.tolist() and s.front.valid.tolist()==scores[0].front.valid.tolist()
        assert s.chosen.drop(columns='test').equals(scores[0].chosen.drop(columns='test'))
        assert s.front.test.tolist()!=scores[0].front.test.tolist()
    # labels without meaning: the mean over what validation chose is at chance, and is what budgets give it
    for s in scores:
        lo,hi = learn.supernet.macs(learn.supernet.space.min),learn.supernet.macs(learn.supernet.space.max)
        c = [*s.front.macs, hi]
        by_hand = sum((b-a)*v for a,b,v in zip(c, c[1:], s.front.test))/(hi-lo)
        assert s.mean==pytest.approx(by_hand, abs=1e-12)
        assert s.mean<mean_pareto_accuracy(s.front, lo, hi, metric='test')    # what choosing on the test set would claim

def test_only_the_chosen_see_the_test_data(learn, monkeypatch):
    seen, evaluate = [], search._evaluate
    monkeypatch.setattr(search, '_evaluate', lambda learn, s, ms, dl, n: seen.append((s,dl)) or evaluate(learn, s, ms, dl, n))
    subs = [learn.supernet.space.sample(i) for i in range(12)]
    score = score_supernet(learn, learn.dls.test, subs, calibrate=300)
    tested = [s for s,dl in seen if dl is learn.dls.test]
    assert {*tested}=={*score.front.subnet, *score.chosen.subnet.dropna()} and len(tested)==len({*tested})<14
    assert {s for s,dl in seen if dl is learn.dls.valid}=={*subs, learn.supernet.space.min, learn.supernet.space.max}
    t = evaluate_subnets(learn, tested, dl=learn.dls.test, calibrate=300)
    want = dict(zip(t.subnet, t.accuracy))
    for table in (score.front, score.chosen.dropna()): assert table.test.tolist()==[want[s] for s in table.subnet]

# The picture

def test_plot_pareto():
    import matplotlib.pyplot as plt
    t = pd.DataFrame(dict(subnet=list('abc'), macs=[1e6,2e6,4e6], accuracy=[.5,.4,.9]))
    ax = plot_pareto({'x':t, 'y':t.assign(macs=2*t.macs)})
    xs,ys = ax.lines[0].get_data()
    assert list(xs)==[1,4,8] and list(ys)==[.5,.9,.9] and ax.lines[0].get_drawstyle()=='steps-post'
    assert [x.get_text() for x in ax.get_legend().get_texts()]==['x','y'] and ax.get_xlabel()=='million MACs'
    assert plot_pareto(t.assign(ms=[3,2,1]), cost='ms').lines[0].get_data()[0].tolist()==[1,3]
    plt.close('all')
