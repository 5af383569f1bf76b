"What must hold of every supernet, on every model of the zoo and over random subnets"
import copy, dataclasses, functools, os, pickle, random
from contextlib import contextmanager
import pytest, torch
from torch import nn
from coverage import coverage_row, facts, model_of, rows, write_row
from elastic_nets.channels.labels import NotElasticError
from elastic_nets.channels.place import put, take
from elastic_nets.channels.trace import check_channels, silence
from elastic_nets.grow.deepen import grow_depth, start_shallow
from elastic_nets.grow.widen import grow_width, init_bert2bert, init_net2net, init_random, start_narrow
from elastic_nets.subnets.supernet import Supernet
from helpers import shapes
from zoo import all_macs, outputs, zoo

class Net:
    "A model of the zoo as it was, and as a supernet"
    def __init__(self, case):
        self.case, self.xb, self.plain = case, case.xb(), case.model()
        self.model = copy.deepcopy(self.plain)
        self.sn = Supernet(self.model, self.xb, depths=(0.,.5,1.), kernels=case.kernels)
        rng = random.Random(case.name)
        self.subs = [self.sn.space.sample(rng) for _ in range(2)]

    @contextmanager
    def double(self, *models):
        "In float64, so that only errors are larger than rounding"
        ms, x = (self.model, *models), self.xb
        self.xb = x.double()
        for m in ms: m.double()
        try: yield self.xb
        finally:
            self.xb = x
            for m in ms: m.float().eval().zero_grad()

    @functools.cached_property
    def facts(self): return facts(self.case, self.sn)

    @functools.cached_property
    def narrow(self):
        "At width .5, in float64: the model, its channels and its outputs"
        return self.at(.5)

    def at(self, width):
        m = copy.deepcopy(self.plain)
        keep = start_narrow(m, self.sn.graph, width)
        return m.double(), keep, run(m, self.xb.double())

params = [pytest.param(c, id=n, marks=pytest.mark.xdist_group(n)) for n,c in zoo.items()] # a process builds each once
@pytest.fixture(scope='module', params=params)
def net(request): return Net(request.param)

def run(model, xb, train=False):
    torch.manual_seed(0)
    return outputs(model.train(train), xb)

def equal(xs, ys): return len(xs)==len(ys) and all(map(torch.equal, xs, ys))

def close(x, y, tol=1e-7):
    if x.shape!=y.shape or not y.isfinite().all(): return False
    return bool((x-y).abs().max() <= tol*y.abs().max())

def all_close(xs, ys): return len(xs)==len(ys)>0 and all(map(close, xs, ys))

@torch.no_grad()
def test_full_is_the_original(net):
    with net.sn.active(net.subs[0]): assert not equal(run(net.model, net.xb), run(net.plain, net.xb))
    assert equal(run(net.model, net.xb), run(net.plain, net.xb))
    old, new = copy.deepcopy(net.plain), copy.deepcopy(net.model)
    assert equal(run(new, net.xb, True), run(old, net.xb, True))
    assert equal([*new.buffers()], [*old.buffers()])

@torch.no_grad()
def test_active_is_extracted(net):
    for s in net.subs:
        small = net.sn.extract(s)
        with net.double(small) as xb, net.sn.active(s): assert all_close(run(net.model, xb), run(small, xb))
        assert {type(m) for m in small.modules()} <= {type(m) for m in net.plain.modules()} | {nn.Identity}
        assert sum(p.numel() for p in small.parameters()) == net.sn.n_params(s) < net.sn.n_params(net.sn.space.max)

def test_wrong_index_fails_the_check(net): # that the right ones pass it is part of building the supernet
    graph, groups = net.sn.graph, [*net.sn.graph.groups.values()]
    axes = [(n,d,axis) for n,axs in graph.axes.items() for d,axis in enumerate(axs) if axis is not None]
    elastic = [i for i,g in enumerate(groups) if not g.why]
    places = [(n,d,axis,i) for n,d,axis in axes for i in elastic if (axis.group==i).any()]
    for n,d,axis,i in random.Random(net.case.name).sample(places, 2):
        shifted = (axis.rank+1)%(groups[i].size//groups[i].unit)
        wrong = dataclasses.replace(axis, rank=torch.where(axis.group==i, shifted, axis.rank))
        moved = tuple(wrong if k==d else a for k,a in enumerate(graph.axes[n]))
        bad = dataclasses.replace(graph, axes={**graph.axes, n:moved})
        with pytest.raises(NotElasticError): check_channels(net.plain, bad, net.xb)

def test_gradients_reach_the_active_part_only(net):
    s = net.subs[0]
    small, place = net.sn.extract(s), net.sn.place(s)
    buffers = copy.deepcopy(dict(net.model.named_buffers()))
    with net.double(small) as xb, net.sn.active(s):
        for m in (net.model, small): sum(o.square().mean() for o in run(m, xb, True)).backward()
        grads = {n:p.grad for n,p in small.named_parameters()}
        top = max(g.abs().max() for g in grads.values() if g is not None)
        for n,p in net.model.named_parameters():
            if not place.has(n) or grads[n] is None: assert p.grad is None or not p.grad.any(), n
            else:
                i = place.at(n)
                inside = take(p.grad, i)
                assert (inside-grads[n]).abs().max() <= 1e-7*top, n
                if inside.numel()<p.numel(): assert not put(p.grad.clone(), i, 0.).any(), n
    assert top>0
    assert all(torch.equal(b, buffers[n]) for n,b in net.model.named_buffers())

@torch.no_grad()
def test_copies_survive(net):
    s, sn = net.subs[1], net.sn
    assert list(net.model.state_dict())==list(net.plain.state_dict())
    sn.set_active(s) # until it is taken back; what `active` does for a moment is not copied (test_stale)
    try:
        want = run(net.model, net.xb)
        for c in (copy.deepcopy(sn), pickle.loads(pickle.dumps(sn))):
            assert c.model is not net.model and c.space==sn.space and c.subnet==s
            assert equal(run(c.model, net.xb), want)
            c.set_active(None)
            next(c.model.parameters()).zero_()
        assert equal(run(net.model, net.xb), want)
        new = net.case.model(seed=1)
        new.load_state_dict(net.model.state_dict())
        assert equal(run(new, net.xb), run(net.plain, net.xb))
    finally: sn.set_active()

@torch.no_grad()
def test_sorting_changes_no_output(net):
    sn = copy.deepcopy(net.sn)
    sn.sort_channels()
    assert not equal([*sn.model.parameters()], [*net.model.parameters()])
    with net.double(sn.model) as xb: assert all_close(run(sn.model, xb), run(net.model, xb))
    assert not equal(*[[m.get_parameter(n) for n in net.sn.graph.reads] for m in (sn.model, net.model)])

@torch.no_grad()
def test_grown_net_holds_the_small_one(net):
    "Where nobody reads the new channels, the outputs of width .5; at the end it is the user's network"
    (small, keep, y), x = net.narrow, net.xb.double()
    grown = copy.deepcopy(small)
    grow_width(grown, net.sn.graph, keep, 1., init_random)
    assert shapes(grown)==shapes(net.plain) and str(grown)==str(net.plain)
    n,m = [sum(p.numel() for p in o.parameters()) for o in (grown, small)]
    assert net.facts['grown']==(n-m)/n > .3
    assert not all_close(run(grown, x), y)
    silence(grown, net.sn.graph, keep)
    assert all_close(run(grown, x), y)

@torch.no_grad()
def test_copied_channels_change_no_output(net):
    "Net2Net; or bert2BERT where a norm reduces over channels that grow"
    graph = net.sn.graph
    thirds = any(g.size//g.unit==3 for g in graph.elastic.values()) # heads: equally many copies of each
    small, keep, y = net.at(1/3) if thirds else net.narrow
    normed = {graph.names[i] for _,axis in graph.norms.values() for i in axis.group[axis.group>=0].unique()}
    grown = copy.deepcopy(small)
    if thirds and any(g.size//g.unit%3 for g in graph.elastic.values()): # heads by three, something else by two
        with pytest.raises(ValueError, match='equally often'): grow_width(grown, graph, keep, 1., init_bert2bert)
        return
    grow_width(grown, graph, keep, 1., init_bert2bert if normed & keep.keys() else init_net2net)
    assert shapes(grown)==shapes(net.plain)
    assert all_close(run(grown, net.xb.double()), y)

@torch.no_grad()
def test_new_blocks_begin_as_nothing(net):
    "From half the depth, with new blocks that add zero; at the end it is the user's network"
    graph, m, x = net.sn.graph, copy.deepcopy(net.plain), net.xb.double()
    if not net.facts['add']:
        with pytest.warns(UserWarning, match='no block is left out'): start_shallow(m, graph, .5)
        return
    keep = start_shallow(m.double(), graph, .5)
    assert sum(map(len, graph.stages.values()))-len(keep)==net.facts['add'], 'one block of each kind is left'
    y = run(m, x)
    grow_depth(m, graph, keep, 1., zero_last=True)
    assert shapes(m)==shapes(net.plain)
    assert all_close(run(m, x), y)

def test_macs_are_counted(net):
    space = net.sn.space
    for s in (*net.subs, space.min, space.max): assert net.sn.macs(s)==all_macs(net.sn.extract(s), net.xb[:1])

def test_smallest_has_half_the_macs(net): assert net.facts['small'] <= .5

def test_coverage_table(net):
    row = coverage_row(net.case, net.facts)
    assert bool(net.facts['frozen'])==bool(net.case.note), 'what is frozen needs a note, and nothing else does'
    if os.environ.get('COVERAGE')=='write': write_row(row)
    assert row in rows(), 'run make coverage'

def test_coverage_table_is_whole(): assert list(zoo)==[model_of(r) for r in rows()], 'run make coverage'
