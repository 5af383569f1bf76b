"What stays frozen says why, where, and what would help; and what would help helps"
import pytest, torch
from torch import nn
from torch.nn import functional as F
from elastic_nets.channels.graph import remedy
from elastic_nets.channels.labels import NotElasticError, channel_rule
from elastic_nets.channels.trace import trace_channels
from elastic_nets.channels.walk import elementwise
from elastic_nets.subnets.supernet import Supernet
from helpers import fails

class Net(nn.Module):
    "`forward` is a function of the module and the picture; `parts` are its layers"
    def __init__(self, f, **parts):
        super().__init__()
        self.f, self.fc = f, nn.Linear(16,4)
        self.c, self.d = nn.Conv2d(3,16,3,padding=1), nn.Conv2d(16,16,3,padding=1)
        for n,p in parts.items(): setattr(self, n, p)
    def forward(self, x): return self.fc(self.f(self, x).mean((2,3)))

class Heads(nn.Module):
    "Attention over positions; `forward` is a function of the module and the queries, keys and values"
    def __init__(self, f):
        super().__init__()
        self.f, self.heads, self.qkv, self.proj = f, 4, nn.Linear(16,48), nn.Linear(16,16)
    def forward(self, x): return self.proj(self.f(self, self.qkv(x)))

def split(m, x, *sizes): return x.reshape(*x.shape[:2], 3, *sizes).permute(2,0,3,1,4)
def attend(q, k, v, **kw): return F.scaled_dot_product_attention(q, k, v, **kw).transpose(1,2).flatten(2)
def fixed_heads(m, x): return attend(*split(m, x, 4, 4))
def counted_heads(m, x): return attend(*split(m, x, m.heads, 4), scale=.5)

class Mean(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(n,1,1))
    def forward(self, x): return x/x.pow(2).mean(1, keepdim=True).sqrt()*self.weight

class Outside(nn.Module):
    def forward(self, x): return torch.from_numpy(x.detach().numpy()*2)

class Ruled(Outside): pass

channel_rule(Ruled)(lambda labeller, module, name, x: x)

class Between(nn.Module):
    "A recurrent layer behind some others"
    def __init__(self, *before):
        super().__init__()
        self.before, self.r, self.fc = nn.Sequential(*before), nn.GRU(16, 8, batch_first=True), nn.Linear(8,2)
    def forward(self, x): return self.fc(self.r(self.before(x))[0])

def rms(x): return x/x.pow(2).mean(1, keepdim=True).sqrt()
def partly(m, x): return torch.cat([m.c(x)+(y := m.e(x))[:,:m.c.out_channels], y[:,m.c.out_channels:]], 1)

def conv(n_in, n_out, **kw): return nn.Conv2d(n_in, n_out, 3, padding=1, **kw)
def transposed(groups): return Net(lambda m, x: m.d(m.t(m.c(x))), t=nn.ConvTranspose2d(16, 16, 3, groups=groups))
def heads(f): return nn.Sequential(nn.Linear(6,16), Heads(f), nn.Linear(16,2))

def picture(): return torch.randn(2,3,8,8)
def sequence(): return torch.randn(2,5,6)

THAWS = { # reason -> (frozen, elastic with the remedy, a group that tells, its inputs)
    'sizes are fixed': (lambda: heads(fixed_heads), lambda: heads(counted_heads), '1.qkv', sequence),
    'leaves torch': (lambda: Net(lambda m, x: m.d(m.o(m.c(x))), o=Outside()),
                     lambda: Net(lambda m, x: m.d(m.o(m.c(x))), o=Ruled()), 'c', picture),
    'no rule for it': (lambda: Net(lambda m, x: m.d(torch.special.i1e(m.c(x)))),
                       lambda: Net(lambda m, x: m.d(torch.special.i0e(m.c(x)))), 'c', picture),
    "network's input": (lambda: Net(lambda m, x: m.c(m.e(x)+x), e=conv(3,3)),
                        lambda: Net(lambda m, x: m.c(m.e(x)+m.f1(x)), e=conv(3,3), f1=conv(3,3)), 'e', picture),
    'a constant': (lambda: Net(lambda m, x: m.d(m.c(x)*torch.ones(1,16,1,1))),
                   lambda: Net(lambda m, x: m.d(m.c(x)*m.g), g=nn.Parameter(torch.ones(1,16,1,1))), 'c', picture),
    'no weights': (lambda: Net(lambda m, x: m.d(m.n(m.c(x))), n=nn.GroupNorm(1,16,affine=False)),
                   lambda: Net(lambda m, x: m.d(m.n(m.c(x))), n=nn.GroupNorm(1,16)), 'c', picture),
    'fixed shape': (lambda: Net(lambda m, x: m.d(m.n(m.c(x))), n=nn.LayerNorm((16,8,8))),
                    lambda: Net(lambda m, x: m.d(m.n(m.c(x).movedim(1,-1)).movedim(-1,1)), n=nn.LayerNorm(16)),
                    'c', picture),
    'over channels': (lambda: Net(lambda m, x: m.d(rms(m.c(x)))),
                      lambda: Net(lambda m, x: m.d(m.n(m.c(x))), n=Mean(16)), 'c', picture),
    'channels are padded': (lambda: Net(lambda m, x: m.e(F.pad(m.c(x), (0,0,0,0,0,8))), e=conv(24,16)),
                            lambda: Net(lambda m, x: m.e(torch.cat([m.c(x), m.p(x)], 1)), e=conv(24,16), p=conv(3,8)),
                            'c', picture),
    'only some of their channels': (lambda: Net(lambda m, x: m.g(partly(m, x)), e=conv(3,24), g=conv(24,16)),
                                    lambda: Net(lambda m, x: m.g(m.h(m.c(x))+m.e(x)), e=conv(3,24), h=conv(16,24),
                                                g=conv(24,16)), 'c', picture),
    'by a weight that is computed': (lambda: Net(lambda m, x: F.conv2d(m.c(x), m.d.weight.exp())),
                                     lambda: Net(lambda m, x: F.conv2d(m.c(x), m.d.weight*2)), 'c', picture),
    'transposed and grouped': (lambda: transposed(4), lambda: transposed(16), 'c', picture),
    'recurrent layers': (lambda: Between(nn.Linear(6,16)), lambda: Between(nn.Linear(6,16), nn.Linear(16,16)),
                         'before.0', sequence),
}

def graph_of(build, inputs):
    torch.manual_seed(0)
    return trace_channels(build().eval(), inputs())

@pytest.mark.parametrize('why', THAWS)
def test_the_remedy_thaws(why):
    frozen, elastic, group, inputs = THAWS[why]
    g = graph_of(frozen, inputs)
    assert why in g.groups[group].why and remedy(g.groups[group].why) in g.remedies().values()
    assert 'to thaw "' in repr(g) and remedy(g.groups[group].why) in repr(g)
    if why=='no rule for it': channel_rule(torch.special.i0e)(elementwise)
    assert not graph_of(elastic, inputs).groups[group].why

def test_two_layers_are_named_once():
    g = graph_of(THAWS['only some of their channels'][0], picture)
    assert g.groups['c'].why=='c and e share only some of their channels'

# ---- what is the only layer

@torch.jit.script
def scripted(x, w): return x*w+1

@torch.library.custom_op('elastic_nets_test::scale', mutates_args=())
def scale(x:torch.Tensor, w:torch.Tensor) -> torch.Tensor: return x*w

class Alone(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f, self.w = f, nn.Parameter(torch.ones(6))
    def forward(self, x): return self.f(x, self.w)

@pytest.mark.parametrize('net,why', [
    (lambda: nn.GRU(6, 8), 'gru in .*recurrent layers stay whole'),
    (lambda: nn.Sequential(Alone(lambda x, w: scripted(x, w))), '0 .Alone.*no torch function'),
    (lambda: nn.Sequential(Alone(lambda x, w: scale(x, w))), 'scale.* in 0 .Alone, test_frozen.py:.*no rule for it'),
    (lambda: nn.Sequential(torch.jit.script(nn.Linear(6,8))), '0 .RecursiveScriptModule.*no torch function'),
    ], ids=['recurrent','scripted function','custom operator','scripted module'])
def test_the_only_layer_is_named(net, why):
    fails(why, lambda: Supernet(net(), sequence()), NotElasticError)

def test_layers_beside_a_scripted_one():
    g = trace_channels(nn.Sequential(nn.Linear(6,8), torch.jit.script(nn.Linear(8,8)), nn.Linear(8,2)), sequence())
    assert all('no torch function' in g.groups[n].why for n in '01')

# ---- how much it is

def test_what_is_left():
    "One unit of each group, without blocks that may go: of two linear layers, one channel of eight between them"
    g = trace_channels(nn.Sequential(nn.Linear(6,8), nn.ReLU(), nn.Linear(8,2)), torch.randn(2,6))
    assert g.left==dict(params=(7+2+2)/(56+18), macs=(6+2)/(48+16)) and '14.9% of the parameters' in g.summary()

def test_shares_know_what_the_check_has_frozen(monkeypatch):
    "What the check freezes is frozen in the last line, too"
    def misunderstood(model, graph, *args, **kwargs): graph.groups['0'].why = 'a test'
    monkeypatch.setattr('elastic_nets.channels.trace._verify', misunderstood)
    g = trace_channels(nn.Sequential(nn.Linear(6,8), nn.ReLU(), nn.Linear(8,2)), torch.randn(2,6))
    assert g.shares==dict(params=0, macs=0) and g.left==dict(params=1, macs=1)
