"Growing in width keeps what was learned, and what an optimizer remembers of it"
import copy
from functools import partial
import pytest, torch
from fastai.callback.channelslast import ChannelsLast
from torch import nn
from elastic_nets.channels.surgery import get_state
from elastic_nets.channels.trace import trace_channels
from elastic_nets.grow.growing import GrowWidth
from elastic_nets.grow.widen import INITS, grow_width, init_net2net, init_orthogonal, init_random, start_narrow
from elastic_nets.zoo.models import resnet_cifar, vit
from helpers import optimizers, quietly
from helpers_grow import Watch, all_move, at, fresh, indices, is_as, learner, net, nets, shapes, values

def loss_step(m, x, opt):
    nn.functional.cross_entropy(m(x), torch.tensor([0,1])).backward()
    opt.step()
    opt.zero_grad()

growths = [(init_orthogonal, (.5,.75,1.)), (init_random, (.1,1.))] # .1: down to one channel, or one group

@pytest.mark.parametrize('init,widths', growths, ids=['orthogonal','random'])
@pytest.mark.parametrize('name', nets)
def test_grown_net_holds_the_small_one(name, init, widths):
    "Old values at their places bit for bit; where nobody reads the new channels, the small net's output"
    m, x, graph = fresh(name)
    whole, text = shapes(m), str(m)
    keep = start_narrow(m, graph, widths[0])
    assert keep and sum(p.numel() for p in m.parameters()) < .6*sum(s.numel() for s in whole.values())
    small, y, params = values(m), m(x), list(m.parameters())
    to = keep
    for w in widths[1:]: to = grow_width(m, graph, to, w, init)
    assert shapes(m) == whole and str(m) == text
    assert all(p is q for p,q in zip(m.parameters(), params))
    for n,p in m.state_dict().items():
        if p.ndim: assert torch.equal(p[at(graph, n, keep, p)], small[n]), n
    assert (m(x)-y).abs().max() > 1e-3
    with torch.no_grad():
        for n,d in graph.reads.items():
            w = m.get_parameter(n)
            gone = torch.ones(w.shape[d], dtype=torch.bool)
            gone[indices(graph, n, keep, w)[d]] = False
            w.movedim(d, 0)[gone] = 0
    if not graph.norms: torch.testing.assert_close(m(x), y)
    nets[name]().load_state_dict(m.state_dict())

def orthogonal(old, new):
    "Are new vectors orthogonal to the old ones and to each other, and as long as those on average?"
    if not len(new) or len(old)+len(new)>old.shape[1]: return False # there is no room
    assert (old@new.T).abs().max() < 1e-5 and (new@new.T).fill_diagonal_(0).abs().max() < 1e-5
    torch.testing.assert_close(new.norm(dim=1), old.norm(dim=1).mean().expand(len(new)))
    return True

@pytest.mark.parametrize('name,least', [('resnet', 9), ('densenet', 9), ('squeezenet', 9), ('se', 2)])
def test_orthogonal_wherever_the_old_channels_lie(name, least):
    "Eqs. 2 and 5 in every convolution that has room, behind concatenations too, where old channels are not the first"
    m, x, graph = fresh(name)
    keep = start_narrow(m, graph, .5)
    small = values(m)
    to = grow_width(m, graph, keep, .75)
    seen, spread = 0, False
    for n,p in m.state_dict().items():
        if p.ndim!=4 or n not in graph.reads or small[n].shape==p.shape: continue
        rows, columns = [torch.isin(b, a) for a,b in zip(indices(graph, n, keep, p), indices(graph, n, to, p))][:2]
        spread |= not columns[:int(columns.sum())].all()
        seen += orthogonal(small[n].flatten(1), p[~rows][:,columns].flatten(1))
        seen += orthogonal(small[n].transpose(0,1).flatten(1), p[rows][:,~columns].transpose(0,1).flatten(1))
    assert seen>=least and spread==(name!='resnet')

def test_new_channels_of_norms_are_the_identity():
    for name in ('resnet', 'odd', 'convnext'):
        m, x, graph = fresh(name)
        grow_width(m, graph, start_narrow(m, graph, .5), 1.)
        norms = [l for l in m.modules() if isinstance(l, (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm))]
        assert norms
        for l in norms:
            assert l.weight[-1]==1 and l.bias[-1]==0 # the last channel is new
            if isinstance(l, nn.BatchNorm2d): assert l.running_mean[-1]==0 and l.running_var[-1]==1

def test_nothing_grew_is_a_warning():
    m, x, graph = fresh('resnet')
    keep = start_narrow(m, graph, .5)
    with pytest.warns(UserWarning, match='nothing grew'): grow_width(m, graph, keep, .5)

def tensors(opt, p):
    "What `opt` remembers of `p`"
    return {k:t for _,state in get_state(opt, p) for k,t in state.items() if isinstance(t, torch.Tensor)}

@pytest.mark.parametrize('name', [*optimizers, 'torch'])
def test_optimizer_state_grows(name):
    "Every average keeps its old part, is zero in the new one, and the next steps move every entry of every parameter"
    m, x, graph = fresh('resnet')
    m.train()
    keep = start_narrow(m, graph, .5)
    ps = list(m.parameters())
    opt = torch.optim.SGD(ps, .1, momentum=.9) if name=='torch' else optimizers[name](ps, lr=.1)
    for _ in range(4): loss_step(m, x, opt)
    if name=='adam': opt.state = dict(opt.state) # as after learn.load
    before = {n: copy.deepcopy(tensors(opt, p)) for n,p in m.named_parameters()}
    was_shape = {n: p.shape for n,p in m.named_parameters()}
    grow_width(m, graph, keep, 1., opt=opt)
    for n,p in m.named_parameters():
        now = tensors(opt, p)
        assert now.keys()==before[n].keys()
        for k,old in before[n].items():
            if old.shape!=was_shape[n]:
                assert torch.equal(now[k], old) # a counter
                continue
            i = at(graph, n, keep, p)
            assert now[k].shape==p.shape and torch.equal(now[k][i], old) and old.any()
            rest = now[k].clone()
            rest[i] = 0
            assert not rest.any()
    was = [p.detach().clone() for p in ps]
    for _ in range(2): loss_step(m, x, opt)
    assert all((p!=q).all() if p.ndim>1 else not torch.equal(p, q) for p,q in zip(ps, was))

def test_factored_states_grow():
    "Adafactor keeps sums of rows and columns: each follows its dimension"
    m, x, graph = fresh('resnet')
    m.float().train()
    keep = start_narrow(m, graph, .5)
    opt = torch.optim.Adafactor(m.parameters(), lr=.1)
    loss_step(m, x.float(), opt)
    w = m.stem[0].weight
    old = {k: t.clone() for k,t in opt.state[w].items()}
    grow_width(m, graph, keep, 1., opt=opt)
    assert torch.equal(opt.state[w]['row_var'][:4], old['row_var']) and not opt.state[w]['row_var'][4:].any()
    assert all_move(lambda: loss_step(m, x.float(), opt), m)

class Strange(torch.optim.SGD):
    "Remembers a vector of seven numbers for every parameter"
    def step(self):
        super().step()
        for g in self.param_groups:
            for p in g['params']: self.state[p]['seven'] = torch.ones(7)

def test_states_that_cannot_follow_are_refused_before_anything_is_changed():
    m, x, graph = fresh('resnet')
    keep = start_narrow(m, graph, .5)
    opt = Strange(m.parameters(), .1)
    loss_step(m, x, opt)
    before = values(m)
    with pytest.raises(ValueError, match="opt: Strange keeps 'seven' of shape .7,. for "):
        grow_width(m, graph, keep, 1., opt=opt)
    assert is_as(m, before)

cnns = 'resnet','mobilenet2','densenet','squeezenet','odd','se'
preserving = [(name,init) for init in ('net2net','lemon') for name in cnns] + [('vit','lemon')] + [
              (name,'bert2bert') for name in ('resnet','vit','convnext','odd1','se')]

@pytest.mark.parametrize('name,init', preserving)
@pytest.mark.parametrize('train', [False, True], ids=['eval','train'])
def test_function_is_preserved(name, init, train):
    "Outputs stay as they were, in training mode too; Net2Net and LEMON in two unequal steps where no layer norm reads"
    m, x, graph = fresh(name)
    for l in m.modules():
        if isinstance(l, nn.Dropout): l.p = 0.
    to = start_narrow(m, graph, .5)
    y = m.train(train)(x)
    for w in ((.8,1.) if init!='bert2bert' and name!='vit' else (1.,)):
        to = grow_width(m, graph, to, w, init)
        torch.testing.assert_close(m(x), y)

def test_net2net_parts_copies_and_replicate_does_not():
    "After some steps of SGD filters that were equal differ, or do not"
    for init,parts in (('net2net',True), ('bert2bert',True), ('lemon',True), ('replicate',False)):
        m, x, graph = fresh('resnet')
        grow_width(m.train(), graph, start_narrow(m, graph, .5), 1., init)
        opt = torch.optim.SGD(m.parameters(), .1)
        for _ in range(3): loss_step(m, x, opt)
        w = m.stem[0].weight.detach().flatten(1)
        distances = torch.cdist(w, w)+9*torch.eye(8)
        assert (distances.min() > 1e-4) == parts, init

@pytest.mark.parametrize('init', INITS)
def test_every_init_keeps_channels_last_and_trains(init):
    w = Watch()
    wide = partial(resnet_cifar, 8, width=16, n_in=1) # with fewer than 8 inputs PyTorch's shortcuts write out of bounds
    cbs = [GrowWidth(stages=2, init=init), w]
    learn = quietly(learner(wide(), cbs=ChannelsLast()), 'fit', 2, .01, cbs=cbs)
    assert all(w.last_format) and {8,16} == set(w.sizes)
    assert not all(p.is_contiguous() for p in learn.model.parameters())
    wide().load_state_dict(learn.model.state_dict())

def test_init_reaches_every_weight():
    seen = []
    def init(w, n_out, n_in):
        seen.append(w.dtype)
        return torch.full((n_out, n_in, *w.shape[2:]), 7., dtype=w.dtype)
    learn = quietly(learner(), 'fit', 2, 0., cbs=GrowWidth(stages=2, init=init), wd=0.)
    weights = [p for p in net().parameters() if p.ndim>1]
    assert len(seen) == len(weights)+2 and set(seen) == {torch.float64} # two on trial
    assert (learn.model.stem[0].weight[4:] == 7).all() and (learn.model.stem[0].weight[:4] != 7).all()

def test_failing_init_leaves_the_model_as_it_was():
    m, x, graph = fresh('resnet')
    keep, n = start_narrow(m, graph, .5), [0]
    before = values(m)
    def init(w, n_out, n_in):
        n[0] += 1
        if n[0]>5: raise RuntimeError('no more')
        return init_random(w, n_out, n_in)
    with pytest.raises(ValueError, match='layer.*no more'): grow_width(m, graph, keep, 1., init)
    assert is_as(m, before)

def test_one_output_is_enough():
    "More new vectors than dimensions, by far: the head of a network with one output"
    x = init_orthogonal(torch.randn(1, 1024).double(), 1, 2048)
    assert x.shape==(1,2048) and x.isfinite().all()
    x = init_orthogonal(torch.randn(3, 2).double(), 40, 2)
    torch.testing.assert_close(x[3:].norm(dim=1), x[3:4].norm().expand(37))

class Segmenter(nn.Module):
    "A backbone of its own, and a head with weights to keep"
    def __init__(self):
        super().__init__()
        self.backbone = resnet_cifar(8, width=8)[:4]
        self.head = nn.Sequential(nn.Conv2d(32, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 1))
    def forward(self, x): return self.head(self.backbone(x))

def test_submodule_grows_alone():
    torch.manual_seed(0)
    m, x = Segmenter().double().eval(), torch.randn(2,3,16,16).double()
    graph, whole, last = trace_channels(m, x.float()), shapes(m), values(m.head[3])
    keep = start_narrow(m, graph, .5, 'backbone')
    assert keep and all(n.startswith('backbone') for n in keep) and m.head[0].weight.shape==(8,16,3,3)
    y = m(x)
    grow_width(m, graph, keep, 1., init_net2net)
    torch.testing.assert_close(m(x), y)
    assert shapes(m)==whole and is_as(m.head[3], last)

def test_heads_keep_their_size_where_their_number_doubles():
    "bert2BERT doubles heads, not what a head is made of"
    torch.manual_seed(0)
    m, x = vit(img=16, dim=24, depth=1, heads=2).double().eval(), torch.randn(2,3,16,16).double()
    graph = trace_channels(m, x.float())
    keep = start_narrow(m, graph, .5)
    attention = m.blocks[0].attn
    assert attention.q.out_features==attention.head_dim==12
    y = m(x)
    grow_width(m, graph, keep, 1., 'bert2bert')
    torch.testing.assert_close(m(x), y)
    assert attention.q.out_features==24 and attention.head_dim==12
