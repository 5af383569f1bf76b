"Whole transformers are elastic: heads, width of the stream and of the MLPs, depth"
import copy
import pytest, timm, torch
from elastic_nets.channels.trace import silence, trace_channels
from elastic_nets.channels.walk import results_of
from elastic_nets.grow.widen import grow_width, start_narrow
from elastic_nets.subnets.supernet import Supernet
from helpers import counted_macs
from transformers_zoo import ZOO, bert, hugging, words
from zoo import random_like

def run(model, x):
    torch.manual_seed(0)
    return results_of(model(**x) if isinstance(x, dict) else model(x))

def n_params(model): return sum(p.numel() for p in model.parameters())

def double(x): return x.double() if x.is_floating_point() else x

def with_noise(model):
    "A copy with random numbers in every tensor"
    new = copy.deepcopy(model)
    for n,t in [*new.named_parameters(), *new.named_buffers()]:
        if t.is_floating_point(): t.data = random_like(n, t)
    return new

def close(a, b, tol=1e-4): return len(a)==len(b) and all(torch.allclose(p, q, rtol=tol, atol=tol) for p,q in zip(a,b))

@pytest.fixture(scope='module', params=ZOO)
def net(request):
    build, inputs = ZOO[request.param]
    torch.manual_seed(0)
    model, x = build(), inputs()
    plain = copy.deepcopy(model)
    return request.param, plain, model, x, Supernet(model, x, depths=(0.,1.))

@torch.no_grad()
def test_whole(net):
    "At least 99 % of the parameters can be cut, and a quarter of the width has at most a tenth of the MACs"
    name, plain, model, x, sn = net
    small, narrow = [sn.extract(s).requires_grad_(False) for s in (sn.space.min, sn.space.uniform(width=.25))]
    macs = [counted_macs(lambda: run(m, x)) for m in (small, narrow, plain.requires_grad_(False))]
    assert sn.graph.shares['params']>.99 and {g.why for g in sn.graph.groups.values()} <= {'', "the network's output"}
    assert sn.graph.stages and macs[0]<=.1*macs[2] and macs[1]<=.125*macs[2]

@pytest.mark.parametrize('train', [False, True])
def test_active_is_extracted(net, train):
    name, plain, model, x, sn = net
    for s in (sn.space.min, sn.space.uniform(width=.5), sn.space.sample(1)):
        small = sn.extract(s).train(train)
        model.train(train)
        for grad in (False, True): # PyTorch's encoder has another path without gradients
            with torch.set_grad_enabled(grad), sn.active(s): assert close(run(model, x), run(small, x))
    model.eval(), plain.eval()
    with torch.no_grad(): assert all(map(torch.equal, run(model, x), run(plain, x)))

@pytest.mark.parametrize('init', ['random','orthogonal','replicate','bert2bert'])
def test_grows(net, init):
    "From half the width: copies change no output, and neither do new channels that nobody reads"
    name, plain, _, x, sn = net
    if (name,init)==('BERT, masked words','bert2bert'): pytest.skip('its last layer reads by the weight of its first')
    model, graph = with_noise(plain).double(), sn.graph
    model.requires_grad_(True) # without gradients PyTorch's encoder passes by the norms that `silence` masks
    keep = start_narrow(model, graph, .5)
    assert n_params(model) < .5*n_params(plain)
    x = {k:double(v) for k,v in x.items()} if isinstance(x, dict) else double(x)
    y = run(model, x)
    grow_width(model, graph, keep, 1., init)
    assert [p.shape for p in model.parameters()]==[p.shape for p in plain.parameters()]
    if init!='bert2bert': silence(model, graph, keep)
    assert close(run(model, x), y, 1e-6)

@torch.no_grad()
def test_bert2bert_on_a_real_bert():
    "What BertModel returns is its stream, which stays; heads and MLPs double, and nothing changes"
    model, x = with_noise(hugging('BertModel', 'BertConfig', **bert)).double(), words()
    graph = trace_channels(model, **x)
    assert graph.groups['embeddings.word_embeddings'].why=="the network's output"
    keep = start_narrow(model, graph, .5)
    layer = model.encoder.layer[0]
    assert layer.attention.self.query.out_features==layer.intermediate.dense.out_features//2==24
    y = run(model, x)
    grow_width(model, graph, keep, 1., 'bert2bert')
    assert layer.attention.self.query.out_features==48 and close(run(model, x), y, 1e-9)

def test_grouped_queries_keep_their_ratio():
    build, inputs = ZOO['Llama']
    model = build()
    sn = Supernet(model, inputs())
    for width in (.25,.5,.75,1.):
        attention = sn.extract(sn.space.uniform(width=width)).model.layers[0].self_attn
        assert attention.q_proj.out_features==2*attention.k_proj.out_features==8*6*width

@torch.no_grad()
def test_half_a_deit_s_is_a_deit_ti():
    x, options = torch.randn(1,3,64,64), dict(img_size=64, depth=2)
    s, ti = [timm.create_model(f'deit_{n}_patch16_224', **options).eval() for n in ('small','tiny')]
    sn = Supernet(s, x)
    half = sn.extract(sn.space.uniform(width=.5))
    assert {n:p.shape for n,p in half.state_dict().items()}=={n:p.shape for n,p in ti.state_dict().items()}
    assert counted_macs(lambda: half(x))==counted_macs(lambda: ti(x))
    half.load_state_dict(ti.state_dict())
    assert torch.allclose(half(x), ti(x), atol=1e-5)
