"Published weights in our networks: logits and MACs of random subnets against the `ofa` package, under every spelling"
import re
import pytest, torch
from elastic_nets.use.published import common_name, load_published, published_names
from elastic_nets.zoo.spaces import ofa_mobilenetv3, ofa_proxyless, ofa_resnet50
from helpers import counted_macs, fails, is_close, randomise

ofa = pytest.importorskip('ofa.imagenet_classification.elastic_nn.networks', reason='pip install --no-deps ofa')
SIDE, CLASSES, N = 32, 10, 20

def mobile(cls, width):
    "A published supernet of inverted residuals"
    return cls(n_classes=CLASSES, dropout_rate=0, width_mult=width, ks_list=[3,5,7], expand_ratio_list=[3,4,6],
               depth_list=[2,3,4])

def as_mobile(space, model, s):
    "A subnet of ours as once-for-all says it"
    ks, es, ds = [], [], []
    for stage in [n for n,_ in model.named_children() if re.fullmatch('layer[2-7]', n)]:
        for i,_ in enumerate(model.get_submodule(stage)):
            conv, middle = f'{stage}.{i}.convs.depthwise.conv', f'{stage}.{i}.convs.expand.conv'
            ks.append(s.kernel.get(conv, 7))
            es.append((3,4,6)[space.width[middle].index(s.width[middle])] if middle in s.width else 6)
        ds.append(s.depth.get(stage, 0)+1)
    return dict(ks=ks, e=es, d=ds)

makers = {
    'mobilenetv3': (lambda: mobile(ofa.OFAMobileNetV3, 1.), lambda: ofa_mobilenetv3(CLASSES)),
    'mobilenetv3 x1.2': (lambda: mobile(ofa.OFAMobileNetV3, 1.2), lambda: ofa_mobilenetv3(CLASSES, width=1.2)),
    'proxyless': (lambda: mobile(ofa.OFAProxylessNASNets, 1.3), lambda: ofa_proxyless(CLASSES)),
    'resnet50': (lambda: ofa.OFAResNets(n_classes=CLASSES, dropout_rate=0, depth_list=[0,1,2],
        expand_ratio_list=[.2,.25,.35], width_mult_list=[.65,.8,1.]), lambda: ofa_resnet50(CLASSES))}

def set_active(there, space, model, s):
    "Let the published supernet work as our subnet `s`"
    if 'stem' not in space.depth: return there.set_active_subnet(**as_mobile(space, model, s))
    def number(layer, name): return layer.out_channel_list.index(s.width[name])
    w = [number(there.input_stem[0], 'stem.conv1.conv'), number(there.input_stem[2], 'stem.conv2.conv')]
    es, ds, i = [], [2*s.depth['stem']], 0
    for k in range(1, 5):
        stage, out = f'layer{k}', f'layer{k}.0.conv3.conv'
        w.append(number(there.blocks[i], out))
        ds.append(space.depth[stage].index(s.depth[stage]))
        for j,_ in enumerate(model.get_submodule(stage)):
            name = ('width', f'{stage}.{j}.conv1.conv')
            hidden = space.given[name][1][s.width[out]]
            es.append((.2,.25,.35)[hidden.index(s.width[name[1]])] if name[1] in s.width else .35)
            i += 1
    there.set_active_subnet(d=ds, e=es, w=w)

def active_net(there):
    "The published subnet as a network of its own, without the making of its kernels"
    return there.get_active_subnet().eval().double()

@pytest.fixture(scope='module')
def mobilenet(): return randomise(mobile(ofa.OFAMobileNetV3, 1.)).eval()

@pytest.mark.parametrize('name', makers)
def test_logits_and_macs_are_the_published_ones(name):
    "Twenty random subnets, the largest and the smallest; kernels by random matrices"
    theirs, ours = makers[name]
    there, (model, space) = randomise(theirs()).eval(), ours()
    x = torch.randn(2, 3, SIDE, SIDE)
    sn = load_published(there.state_dict(), (model, space), x, check=False)
    assert bool(sn.matrices)==(name!='resnet50') and sn.trained and not model.training
    there, model, x = there.double(), model.double(), x.double() # in which 1e-9 sees any wrong weight
    with torch.no_grad():
        for s in (space.max, space.min, *[space.sample(i) for i in range(N)]):
            set_active(there, space, model, s)
            want = there(x)
            with sn.active(s): got = model(x)
            assert is_close(got, want, 1e-9) and is_close(sn.extract(s).eval()(x), want, 1e-9)
            net = active_net(there)
            assert sn.macs(s)==counted_macs(lambda: net(x[:1]))

# ---- spellings

def old(name): return name.replace('.conv.', '.mobile_inverted_conv.', 1) if name.startswith('blocks.') else name
def short(name): return common_name(name)
def wrapped(name): return f'module.{old(name)}'
def long(name): # every layer as if it were elastic
    name = re.sub(r'\.bn\.(?!bn\.)', '.bn.bn.', common_name(name))
    return re.sub(r'\.conv\.weight$', '.conv.conv.weight', re.sub(r'\.linear\.', '.linear.linear.', name))
def attentive(name):
    "As AttentiveNAS: everything is elastic, the head has a name of its own"
    name = old(long(name))
    return f'last_conv.{name}' if name.startswith(('final_expand_layer','feature_mix_layer')) else name

@pytest.mark.parametrize('spell', [old, short, long, wrapped, attentive], ids=lambda f: f.__name__)
def test_every_spelling_is_the_same_weight(spell, mobilenet, tmp_path):
    "From a dict and from a file, which is read without unpickling"
    x = torch.randn(1, 3, SIDE, SIDE)
    weights = {spell(n):t for n,t in mobilenet.state_dict().items()}
    assert len(weights)==len(mobilenet.state_dict())
    torch.save(dict(epoch=1, state_dict=weights), tmp_path/'w')
    sn = load_published(tmp_path/'w', ofa_mobilenetv3(CLASSES), x, check=False)
    s = sn.space.sample(3)
    set_active(mobilenet, sn.space, sn.model, s)
    with torch.no_grad(), sn.active(s): torch.testing.assert_close(sn.model(x), mobilenet(x), rtol=1e-4, atol=1e-4)

def test_weights_that_are_not_whole(mobilenet, tmp_path):
    x, weights = torch.randn(1, 3, SIDE, SIDE), mobilenet.state_dict()
    def load(w, net=None): return load_published(w, net or ofa_mobilenetv3(CLASSES), x, check=False)
    def without(*ends): return {n:t for n,t in weights.items() if not n.endswith(ends)}
    fails('1 of .* tensors are missing, such as classifier.linear.bias', lambda: load(without('linear.bias')))
    fails('tensors are missing', lambda: load(weights, ofa_resnet50(CLASSES)))
    fails('is of shape .* are classes, width', lambda: load(weights, ofa_mobilenetv3(CLASSES+1)))
    fails('is of shape .* are classes, width', lambda: load(weights, ofa_mobilenetv3(CLASSES, kernels=(3,5))))
    fails('blocks.1.*7to3_matrix is missing', lambda: load(weights, ofa_mobilenetv3(CLASSES, kernels=(3,7))))
    fails('teacher.weight have no place', lambda: load({**weights, 'teacher.weight':torch.ones(1)}))
    assert load(without('_matrix')).matrices=={}
    assert load(without('num_batches_tracked'), ofa_mobilenetv3(CLASSES, kernels=(7,))).matrices=={}
    torch.save(mobilenet, tmp_path/'w')
    fails('is no file of tensors', lambda: load(tmp_path/'w'))
    (tmp_path/'short').write_bytes((tmp_path/'w').read_bytes()[:1000])
    fails('is no file of tensors, or cut short', lambda: load(tmp_path/'short'))

def test_a_weight_that_is_wrong_is_seen(mobilenet):
    "The comparison notices one tensor that went to the wrong place"
    x = torch.randn(1, 3, SIDE, SIDE)
    weights = dict(mobilenet.state_dict())
    a, b = [f'blocks.{i}.conv.depth_conv.bn.bn.weight' for i in (3, 4)]
    weights[a], weights[b] = weights[b], weights[a]
    sn = load_published(weights, ofa_mobilenetv3(CLASSES), x, check=False)
    set_active(mobilenet, sn.space, sn.model, sn.space.max)
    assert (sn.model(x)-mobilenet(x)).abs().max()>1e-5
    assert published_names(sn.model)['layer2.2.convs.depthwise.bn.weight']==common_name(a)
