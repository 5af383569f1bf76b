"Growing in depth: what is copied, where it goes, and that the optimizer goes on as if nothing had happened"
import copy, pickle
from functools import partial
import pytest, timm, torch
from fastai.optimizer import Adam
from timm.models import resnet as timm_resnet
from torch import nn
from torchvision.models import convnext, mobilenet_v2, resnet, vision_transformer
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.ops import StochasticDepth
from elastic_nets.channels.labels import NotElasticError
from elastic_nets.channels.surgery import get_groups
from elastic_nets.channels.trace import trace_channels
from elastic_nets.grow.deepen import BlockEMA, grow_depth, insert_blocks, stack_blocks, start_shallow
from elastic_nets.zoo.models import resnet_cifar, vit
from elastic_nets.subnets.supernet import Supernet
from helpers import optimizers

def convnext_small():
    c = convnext.CNBlockConfig
    return convnext.ConvNeXt([c(8, 16, 3), c(16, None, 5)], stochastic_depth_prob=.4, layer_scale=.5, num_classes=10)

class Listed(nn.Module):
    "Blocks in a ModuleList and as attributes, between other layers; post-activation with squeeze-and-excitation"
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.f,self.bn,self.se = nn.Conv2d(4, 4, 3, padding=1),nn.BatchNorm2d(4),nn.Conv2d(4, 4, 1)
        def forward(self, x):
            y = self.bn(self.f(x))
            return torch.relu(x + torch.sigmoid(self.se(y.mean((2,3), keepdim=True)))*y)
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 10)
        self.blocks = nn.ModuleList([self.Block() for _ in range(4)])
        self.a,self.b = self.Block(),self.Block()
    def forward(self, x):
        x = torch.relu(self.stem(x))
        for b in self.blocks: x = b(x)
        return self.head(self.b(self.a(torch.tanh(x))).mean((2,3)))

def timm_vit(name, **kw): return timm.create_model(name, img_size=32, num_classes=10, **kw)

def timm_resnet18(): # None where the rate of stochastic depth is 0
    return timm_resnet.ResNet(timm_resnet.BasicBlock, [3,3,1,1], 10, channels=(64,8,8,8), drop_path_rate=.2)

nets = {'vit': (lambda: vit(img=16, dim=8, depth=6, heads=2, drop_path=.5), 16),
        'vit_b_16': (lambda: vision_transformer.VisionTransformer(32, 16, 4, 2, 8, 16, num_classes=10), 32),
        'deit': (lambda: timm_vit('deit_base_patch16_224', embed_dim=16, num_heads=2, depth=4, drop_path_rate=.3), 32),
        'vit_tiny': (lambda: timm_vit('vit_tiny_patch16_224', embed_dim=24, depth=5, init_values=.1), 32),
        'resnet_cifar': (lambda: resnet_cifar(20, width=4), 16),
        'resnet': (lambda: resnet.ResNet(resnet.Bottleneck, [3,4,1,1], num_classes=10, width_per_group=4), 32),
        'timm resnet': (timm_resnet18, 32), 'convnext': (convnext_small, 32), 'listed': (Listed, 16),
        'mobilenet_v2': (lambda: mobilenet_v2(num_classes=10, width_mult=.25), 32)}

def fresh(name, seed=0):
    "A network in float64 whose blocks all differ, a batch for it, and its graph"
    torch.manual_seed(seed)
    build, size = nets[name]
    m = build()
    x = torch.randn(4, 3, size, size)
    graph = trace_channels(m, x, check=False)
    m.double()
    for n,p in [*m.named_parameters(), *m.named_buffers()]:
        if p.is_floating_point(): p.data += .2*torch.rand_like(p) if p.ndim<2 else .02*torch.randn_like(p)
    return m.eval(), x.double(), graph

def is_skip(l): return type(l).__name__ in ('StochasticDepth','DropPath')

def rates(m): return [(n, getattr(l, 'p', getattr(l, 'drop_prob', 0))) for n,l in m.named_modules() if is_skip(l)]

def blocks(m, graph): return {n: m.get_submodule(n) for names in graph.stages.values() for n in names}

@pytest.mark.filterwarnings('ignore:grow_depth. nothing grew')
@pytest.mark.parametrize('place', ['insert', 'stack'])
@pytest.mark.parametrize('name', nets)
def test_whole_again(name, place):
    "Through every depth the network runs; at the end keys, shapes, structure and rates are the user's"
    m, x, graph = fresh(name)
    want = copy.deepcopy(m)
    keep = start_shallow(m, graph, .25)
    assert all(n>0 for n in keep.values()) and len(m.state_dict()) < len(want.state_dict())
    ps, values = list(m.parameters()), [p.detach().clone() for p in m.parameters()]
    assert [n for n in want.state_dict() if n in set(m.state_dict())]==list(m.state_dict()), 'no key moves'
    for depth in (.5, .7, 1.):
        m(x)
        was, keep = keep, grow_depth(m, graph, keep, depth, place=place)
        assert all(was[n]<=k for n,k in keep.items())
    assert {n:p.shape for n,p in m.state_dict().items()}=={n:p.shape for n,p in want.state_dict().items()}
    assert str(m)==str(want) and rates(m)==rates(want)
    assert {id(p) for p in ps} <= {id(p) for p in m.parameters()} and all(torch.equal(p, v) for p,v in zip(ps, values))
    places = {p.data_ptr() for p in m.parameters()}
    assert len(places)==len(list(want.parameters())), 'every parameter has memory of its own'
    assert m(x).shape==(4,10)
    nets[name][0]().double().load_state_dict(m.state_dict())
    assert not [b for b in m.modules() if hasattr(b, 'skips')]

def test_order():
    o,e = [[f'{k}{i}' for i in range(6)] for k in 'oe']
    assert insert_blocks(o, e)==[b for p in zip(o,e) for b in p]
    assert insert_blocks(o, e[4:])==['o0','o1','o2','o3','o4','e4','o5','e5']
    assert stack_blocks(o, e[4:])==[*o,'e4','e5']
    assert insert_blocks(o, [])==stack_blocks(o, [])==o

doubled = [[0,1,1], [0,1,1,1], [0,1,1,1,1,1]]

@pytest.mark.parametrize('place,want', [
    ('insert', doubled), ('stack', doubled), (lambda b,c: [*c,*b], [[1,0,1], [1,1,0,1], [0,1,1,1,0,1]])],
    ids=['insert','stack','own'])
def test_order_in_the_network(place, want):
    "Two old blocks, told by their values, on their way to six; originals stay in front of their copies"
    m, x, graph = fresh('vit')
    keep = start_shallow(m, graph, 2/6)
    old = list(m.blocks[:2])
    origin = lambda b: [torch.equal(b.mlp[0].weight, o.mlp[0].weight) for o in old].index(True)
    for depth,w in zip((3/6,4/6,1.), want):
        keep = grow_depth(m, graph, keep, depth, place=place)
        assert [origin(b) for b in m.blocks[:len(w)]]==w
    if place=='insert': assert m.blocks[0] is old[0]
    assert sum(b is o for b in m.blocks for o in old)==2

def test_more_than_double():
    "2 to 6 by way of 4"
    for place,want in (('insert', [0,0,1,1,1,1]), ('stack', [0,1,0,1,0,1])):
        m, x, graph = fresh('vit')
        keep = start_shallow(m, graph, 2/6)
        ws = [b.mlp[0].weight for b in m.blocks[:2]]
        grow_depth(m, graph, keep, 1., place=place)
        assert [[torch.equal(b.mlp[0].weight, w) for w in ws].index(True) for b in m.blocks]==want

def test_ema():
    "Against a hand loop, and as the source of new blocks; batch norm's statistics come from the network"
    m, x, graph = fresh('resnet_cifar')
    keep = start_shallow(m, graph, .5)
    ema, d = BlockEMA(m, graph, half_life=5), .5**(1/5)
    ps = [p for b in blocks(m, graph).values() for p in b.parameters()]
    assert set(ema.avg)==set(ps) and ps
    hand = [p.detach().clone() for p in ps]
    for _ in range(7):
        for i,p in enumerate(ps):
            p.data += torch.randn_like(p)
            hand[i] = d*hand[i] + (1-d)*p.detach()
        ema.update()
    for p,h in zip(ps, hand): torch.testing.assert_close(ema.avg[p], h)
    old = m.layer1[1]
    old.conv1.bn.running_mean.fill_(7)
    grow_depth(m, graph, keep, 1., ema)
    assert m.layer1[1] is old
    for block in m.layer1[1:3]: assert block.conv1.bn.running_mean.eq(7).all()
    for p,q in zip(old.parameters(), m.layer1[2].parameters()):
        torch.testing.assert_close(q, ema.avg[p], check_dtype=True)
        assert not torch.equal(p, q) and q.requires_grad
    new = m.layer1[2].conv1.conv.weight
    assert new not in ema.avg
    ema.restart()
    assert torch.equal(ema.avg[new], new) and ema.avg[new].data_ptr()!=new.data_ptr() and not ema.avg[new].requires_grad

def test_ema_decay():
    m, x, graph = fresh('vit')
    assert abs(BlockEMA(m, graph, stage=150*1251).decay-.99996)<1e-12
    assert abs(BlockEMA(m, graph, half_life=1).decay-.5)<1e-12
    m.bfloat16()
    ema, p = BlockEMA(m, graph, half_life=1e4), m.blocks[0].mlp[0].weight
    p.data.zero_().add_(1)
    ema.restart()
    p.data.add_(1)
    for _ in range(10): ema.update()
    assert 1<ema.avg[p].mean()<1.01, 'steps too small for bfloat16 are kept'

def torch_groups(make): return lambda ps, lr: make([dict(params=p) for p in ps], lr)

makers = {**optimizers, 'torch': torch_groups(torch.optim.AdamW),
          'torch sgd': torch_groups(partial(torch.optim.SGD, momentum=.9))}

def ids(groups): return [list(map(id, g)) for g in groups]

def inner(opt): return getattr(opt, 'opt', opt)

def remembers(opt, p, was): # just as it was
    now = inner(opt).state[p]
    return all(torch.equal(torch.as_tensor(v), torch.as_tensor(now[k])) for k,v in was.items())

def split(m):
    return [[*m.stem.parameters(), *m.layer1.parameters()], [*m.layer2.parameters(), *m.layer3.parameters()],
            list(m.head.parameters())]

def train_step(m, x, opt):
    nn.functional.cross_entropy(m(x), torch.arange(4)).backward()
    opt.step()
    opt.zero_grad()

@pytest.mark.parametrize('name', makers)
def test_optimizer_goes_on(name):
    "Old state is untouched, copies join the group of their originals in the network's order, and all goes on moving"
    m, x, graph = fresh('resnet_cifar')
    opt = makers[name](split(m.train()), lr=.01)
    dropped = list(m.layer1[2].parameters())
    train_step(m, x, opt) # so that there is state of blocks that will be dropped
    keep = start_shallow(m, graph, .5, opt)
    assert ids(get_groups(opt))==ids(split(m))
    assert not any(p in inner(opt).state or p in opt.state for p in dropped)
    assert name!='ranger' or opt.slow_weights is None # else it would lead back to weights of other blocks
    for _ in range(3): train_step(m, x, opt)
    was = {p: copy.deepcopy(dict(inner(opt).state[p])) for p in m.parameters()}
    grow_depth(m, graph, keep, 1., opt=opt)
    assert ids(get_groups(opt))==ids(split(m)) and (name!='ranger' or opt.slow_weights is None)
    assert all(w and remembers(opt, p, w) for p,w in was.items())
    new = [p for p in m.parameters() if p not in was]
    assert new and not any(isinstance(v, torch.Tensor) for p in new for v in inner(opt).state.get(p, {}).values())
    before = [p.detach().clone() for p in m.parameters()]
    train_step(m, x, opt)
    assert not any(torch.equal(p, q) for p,q in zip(m.parameters(), before))
    train_step(m, x, opt)
    again = makers[name](split(m), lr=.5)
    again.load_state_dict(copy.deepcopy(opt.state_dict())) # by position
    if name!='ranger': assert all(remembers(again, p, inner(opt).state[p]) for p in m.parameters())

@pytest.mark.parametrize('name', optimizers)
def test_flags_and_rates_of_fastai_go_on(name):
    "Who is decayed and trained while frozen, and the learning rates of the groups"
    m, x, graph = fresh('resnet_cifar')
    opt = optimizers[name](split(m.train()), lr=.01)
    opt.set_hyper('lr', [.01,.02,.03])
    def norms(): return [l.weight for l in m.modules() if isinstance(l, nn.BatchNorm2d)]
    for w in norms(): opt.state[w].update(do_wd=False, force_train=True)
    keep = start_shallow(m, graph, .5, opt)
    grow_depth(m, graph, keep, 1., opt=opt)
    assert all(opt.state[w]['do_wd'] is False and opt.state[w]['force_train'] is True for w in norms())
    assert not any('do_wd' in opt.state.get(l.weight, {}) for l in m.modules() if isinstance(l, nn.Conv2d))
    assert [h['lr'] for h in opt.hypers]==[.01,.02,.03]

def test_plain_dict_state():
    "After `load` a fastai optimizer has a plain dict"
    m, x, graph = fresh('vit')
    m.train()
    keep = start_shallow(m, graph, .5)
    opt = Adam(list(m.parameters()), lr=.01)
    opt.load_state_dict(opt.state_dict())
    grow_depth(m, graph, keep, 1., opt=opt)
    m(x).sum().backward()
    opt.step()
    assert all('step' in opt.state[p] for p in m.parameters()) and ids(get_groups(opt))==ids([m.parameters()])

def test_groups_through_a_stage():
    "A group for each block: copies have the rate of their originals, and parameters of another network stay"
    m, x, graph = fresh('vit')
    other = nn.Linear(2,2)
    last = [other.weight, *m.head.parameters(), other.bias]
    ps = [list(m.embed.parameters()), *[list(b.parameters()) for b in m.blocks], last]
    names = {id(p):n for n,p in [*m.named_parameters(), ('other.weight',other.weight), ('other.bias',other.bias)]}
    opt = torch.optim.AdamW([dict(params=[(names[id(p)],p) for p in g], lr=i) for i,g in enumerate(ps)])
    keep = start_shallow(m, graph, .5, opt)
    assert [len(g) for g in get_groups(opt)]==[3,*[len(ps[1])]*3,0,0,0,6]
    (m(x).sum()+other(x[0,0,:,:2].float()).sum()).backward()
    opt.step()
    grow_depth(m, graph, keep, 1., opt=opt)
    assert list(map(id, get_groups(opt)[2]))==list(map(id, [*m.blocks[2].parameters(), *m.blocks[3].parameters()]))
    assert list(map(id, get_groups(opt)[-1]))==list(map(id, [other.weight, *m.head.parameters(), other.bias]))
    now = {id(p):n for n,p in [*m.named_parameters(), ('other.weight',other.weight), ('other.bias',other.bias)]}
    assert [g['param_names'] for g in opt.param_groups]==[[now[id(p)] for p in g] for g in get_groups(opt)]
    m(x).sum().backward()
    opt.step()

def test_a_layer_that_a_dropped_block_shares_stays():
    m, x, graph = fresh('vit')
    m.blocks[5].mlp = m.blocks[0].mlp
    opt = Adam(list(m.parameters()), lr=.1)
    start_shallow(m, graph, .5, opt)
    assert list(map(id, get_groups(opt)[0]))==list(map(id, m.parameters()))

def test_frozen_blocks_stay_frozen():
    m, x, graph = fresh('vit')
    m.blocks[1].requires_grad_(False)
    keep = start_shallow(m, graph, .5)
    grow_depth(m, graph, keep, 1.)
    assert [all(p.requires_grad for p in b.parameters()) for b in m.blocks]==[True,True,False,False,True,True]

@pytest.mark.parametrize('name', nets)
def test_zero_last(name):
    "The grown network computes what the shallow one did, a new block is the identity in training too, and it can learn"
    m, x, graph = fresh(name)
    keep = start_shallow(m, graph, .5)
    y = m(x)
    old = {id(p) for p in m.parameters()}
    grow_depth(m, graph, keep, 1., zero_last=True)
    torch.testing.assert_close(m(x), y)
    new = [b for b in blocks(m, graph).values() if not {id(p) for p in b.parameters()} & old]
    dead = [sum(not p.any() for p in b.parameters()) for b in new]
    assert new and set(dead) <= {1,2,3,4}
    m(x).pow(2).sum().backward()
    assert all(any(p.grad.any() for p in b.parameters() if not p.any()) for b in new)
    block = new[0].train()
    shape = {'vit': (4,5,8), 'resnet_cifar': (4,4,8,8)}.get(name)
    if shape is None: return
    h = torch.rand(shape, dtype=x.dtype)
    torch.testing.assert_close(block(h), h)

class Sum(nn.Module):
    "`x` plus whatever `how` makes of it and of two convolutions"
    def __init__(self, how):
        super().__init__()
        self.f,self.g,self.how = nn.Conv2d(4, 4, 1),nn.Conv2d(4, 4, 1),how
    def forward(self, x): return x + self.how(self, x)

ways = {'sigmoid': (lambda m,x: torch.sigmoid(m.f(x)), False), 'input': (lambda m,x: m.g(m.f(x))+x.flip(2), False),
        'gate': (lambda m,x: m.g(x)*torch.sigmoid(m.f(x)), True), 'sum': (lambda m,x: m.f(x)+m.g(torch.relu(x)), True),
        'chain': (lambda m,x: torch.relu(m.g(m.f(x))).flip(2)/2, True), 'exp': (lambda m,x: m.g(m.f(x)).exp()-1, False)}

@pytest.mark.parametrize('how,ok', ways.values(), ids=ways)
def test_last_layers(how, ok):
    "Every term of a sum and one factor of a product; else an error, and nothing changed"
    m = nn.Sequential(nn.Conv2d(3,4,1), Sum(how), Sum(how), nn.Flatten(), nn.Linear(64,2)).double()
    x = torch.randn(2,3,4,4)
    graph = trace_channels(m, x)
    keep = start_shallow(m, graph, .5)
    assert list(keep.values())==[1]
    was, y = str(m), m(x.double())
    if ok:
        grow_depth(m, graph, keep, 1., zero_last=True)
        torch.testing.assert_close(m(x.double()), y)
    else:
        with pytest.raises(NotElasticError, match='zero_last: 1 has a residual branch'):
            grow_depth(m, graph, keep, 1., zero_last=True)
        assert str(m)==was
        grow_depth(m, graph, keep, 1.)

def test_stochastic_depth():
    "Rates between the user's at every depth, also where the shallow network was made in the other mode"
    for name,path,attr in (('vit','drop','p'), ('deit','drop_path2','drop_prob'), ('convnext','stochastic_depth','p')):
        m, x, graph = fresh(name)
        stage = max(graph.stages, key=lambda s: len(graph.stages[s]))
        def got():
            there = [b for b in map(m.get_submodule, graph.stages[stage]) if not isinstance(b, nn.Identity)]
            return [float(getattr(getattr(b, path), attr, 0.)) for b in there]
        own = got()
        assert own==sorted(own) and own[-1]>.2
        keep = start_shallow(m, graph, .5)
        m.train()
        assert len(got())==keep[stage] and got()[0]==own[0] and abs(got()[-1]-own[-1])<1e-12
        grow_depth(m, graph, keep, .75)
        n = len(got())
        assert n<len(own)
        pos = torch.linspace(0, len(own)-1, n)
        want = [own[0]+(own[-1]-own[0])*i/(len(own)-1) for i in pos]
        torch.testing.assert_close(torch.tensor(got()), torch.tensor(want))
        assert all(l.training for l in m.modules() if type(l).__name__ in ('StochasticDepth','DropPath'))

@pytest.mark.parametrize('name', ['vit', 'timm resnet'])
def test_places_without_stochastic_depth(name):
    "A rate of 0 is no layer at all (`nn.Identity`, or None in timm's ResNet), whatever block comes to its place"
    m, x, graph = fresh(name)
    want = str(m)
    def mixed(blocks, copies): return [*copies[::-1], *blocks] # each place gets a block of another one
    grow_depth(m, graph, start_shallow(m, graph, .67), 1., place=mixed)
    assert str(m)==want
    if name=='vit':
        for b,p in zip(m.blocks, (.4,.2,0,0,.2,.4)): b.drop = StochasticDepth(p, 'row') if p else nn.Identity()
        want, keep = rates(m), start_shallow(m, graph, .5)
        got = lambda n: torch.tensor([getattr(b.drop, 'p', 0.) for b in m.blocks[:n]])
        torch.testing.assert_close(got(3), torch.tensor([.4,0.,.4]))
        keep = grow_depth(m, graph, keep, .8)
        torch.testing.assert_close(got(5), torch.tensor([.4,.15,0.,.15,.4]))
        grow_depth(m, graph, keep, 1.)
        assert rates(m)==want

def test_shallow_net_travels():
    "Copied, pickled and extracted networks can be finished"
    m, x, graph = fresh('deit')
    want = str(m)
    keep = start_shallow(m, graph, .5)
    for c in (copy.deepcopy(m), pickle.loads(pickle.dumps(m))):
        assert torch.equal(c(x), m(x)) and str(c)==str(m)
        grow_depth(c, graph, keep, 1.)
        assert str(c)==want
    sn = Supernet(vit(img=16, dim=8, depth=4, heads=2), torch.randn(1,3,16,16), depths=(.5,1.), check=False)
    cut = sn.extract(sn.space.uniform(depth=.5))
    grow_depth(cut, sn.graph, {'blocks':2}, 1.)
    assert str(cut.blocks[3])==str(cut.blocks[0])

def test_unlike_blocks_stay_apart():
    "A stage of blocks with different settings is two; where no two are alike nothing is dropped"
    m = vit(img=16, dim=8, depth=6, heads=2)
    for b in m.blocks[4:]: b.attn.heads, b.attn.head_dim = 1, 8 # the same shapes
    x = torch.randn(1,3,16,16)
    graph = trace_channels(m, x)
    keep = start_shallow(m, graph, .5)
    assert keep=={'blocks.0':2, 'blocks.4':1}
    assert [type(b).__name__ for b in m.blocks]==['ViTBlock','ViTBlock','Identity','Identity','ViTBlock','Identity']
    keep = grow_depth(m, graph, keep, .75)
    assert keep=={'blocks.0':3, 'blocks.4':2}
    grow_depth(m, graph, keep, 1.)
    assert [b.attn.heads for b in m.blocks]==[2,2,2,2,1,1]
    swin = SwinTransformer([4,4], 16, [2], [2], [2,2])
    graph = trace_channels(swin, torch.randn(1,3,64,64))
    with pytest.warns(UserWarning, match='shift_size'): keep = start_shallow(swin, graph, .5)
    assert keep=={'features.1.0':1, 'features.1.1':1}

def test_warnings_say_why_nothing_happens():
    m, x, graph = fresh('vit')
    with pytest.warns(UserWarning, match='rounds to the whole'): start_shallow(m, graph, .95)
    plain = nn.Sequential(nn.Conv2d(3,4,1), nn.Conv2d(4,4,1))
    graph_of_plain = trace_channels(plain, x.float())
    with pytest.warns(UserWarning, match='no residual blocks'): start_shallow(plain, graph_of_plain, .5)
    keep = start_shallow(m, graph, .5)
    assert keep=={'blocks':3}
    with pytest.warns(UserWarning, match='nothing grew'): grow_depth(m, graph, keep, .5)

def test_an_optimizer_of_another_model_is_refused_before_anything_is_changed():
    m, x, graph = fresh('vit')
    whole, opt = str(m), Adam(list(nn.Linear(2,2).parameters()), lr=.1)
    with pytest.raises(ValueError, match='none of the parameters'): start_shallow(m, graph, .5, opt)
    assert str(m)==whole
    keep = start_shallow(m, graph, .5)
    half = str(m)
    with pytest.raises(ValueError, match='none of the parameters'): grow_depth(m, graph, keep, 1., opt=opt)
    assert str(m)==half

def test_channels_last_and_dtype():
    m, x, graph = fresh('resnet_cifar')
    m.to(memory_format=torch.channels_last).bfloat16()
    keep = start_shallow(m, graph, .5)
    ema = BlockEMA(m, graph, half_life=2)
    ema.update()
    grow_depth(m, graph, keep, 1., ema)
    for p in m.parameters():
        assert p.dtype==torch.bfloat16 and (p.ndim!=4 or p.is_contiguous(memory_format=torch.channels_last))
