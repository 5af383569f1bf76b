"AttentiveNAS's weights in our network: by the names and shapes of its files, against its layers written out by hand"
import pytest, torch
from torch.nn import functional as F
from elastic_nets.subnets.supernet import Supernet
from elastic_nets.use.published import load_published
from elastic_nets.zoo.attentive import attentive_nas
from helpers import close, fails

CLASSES, SIDE = 10, 64
STAGES = ( # channels, fewest and most blocks, expand ratios, gate, stride
    ((16,24), 1, 2, (1,), False, 1), ((24,32), 3, 5, (4,5,6), False, 2), ((32,40), 3, 6, (4,5,6), True, 2),
    ((64,72), 3, 6, (4,5,6), False, 2), ((112,120,128), 3, 8, (4,5,6), True, 1),
    ((192,200,208,216), 3, 8, (6,), True, 2), ((216,224), 1, 2, (6,), True, 1))

def divisible(c): return max(8, int(c+4)//8*8)

def shapes():
    "Name -> shape, as the published file has them"
    found = {}
    def bn(name, n):
        for t in ('weight','bias','running_mean','running_var'): found[f'{name}.bn.bn.{t}'] = (n,)
        found[f'{name}.bn.bn.num_batches_tracked'] = ()
    def conv(name, o, i, k=1):
        found[f'{name}.conv.conv.weight'] = (o, i, k, k)
        bn(name, o)
    conv('first_conv', 24, 3, 3)
    block, ni = 0, 24
    for widths,_,most,expands,se,_ in STAGES:
        for _ in range(most):
            name, nf, nh = f'blocks.{block}.mobile_inverted_conv', widths[-1], ni*expands[-1]
            if expands[-1]>1: conv(f'{name}.inverted_bottleneck', nh, ni)
            conv(f'{name}.depth_conv', nh, 1, 5)
            if se:
                for part,(o,i) in dict(reduce=(divisible(nh/4),nh), expand=(nh,divisible(nh/4))).items():
                    found[f'{name}.depth_conv.se.fc.{part}.weight'] = o, i, 1, 1
                    found[f'{name}.depth_conv.se.fc.{part}.bias'] = (o,)
            conv(f'{name}.point_linear', nf, nh)
            found[f'blocks.{block}.shortcut.conv.conv.weight'] = nf, ni, 1, 1
            block, ni = block+1, nf
    conv('last_conv.final_expand_layer', 6*224, 224)
    found['last_conv.feature_mix_layer.conv.conv.weight'] = 1984, 6*224, 1, 1
    return {**found, 'classifier.linear.linear.weight':(CLASSES,1984), 'classifier.linear.linear.bias':(CLASSES,)}

def random_weights():
    gen = torch.Generator().manual_seed(0)
    def tensor(name, shape):
        if not shape: return torch.tensor(3)
        t = torch.randn(shape, generator=gen)
        if name.endswith('var'): return .5+t.abs()
        if len(shape)==1: return 1+.3*t
        return t/t[0].numel()**.5
    return {f'module.{n}':tensor(n, s) for n,s in shapes().items()}

class Published:
    "What the published layers do with the leading channels, written out"
    def __init__(self, weights): self.w = {n.removeprefix('module.'):t.double() for n,t in weights.items()}

    def conv(self, x, name, o, k=1, stride=1, groups=False, act=True):
        w = self.w[f'{name}.conv.conv.weight']
        at = (w.shape[-1]-k)//2
        w = w[:o, :1 if groups else x.shape[1], at:at+k, at:at+k]
        x = F.conv2d(x, w, stride=stride, padding=k//2, groups=x.shape[1] if groups else 1)
        if f'{name}.bn.bn.weight' in self.w:
            mean, var, weight, bias = [self.w[f'{name}.bn.bn.{t}'][:o]
                                       for t in ('running_mean','running_var','weight','bias')]
            x = F.batch_norm(x, mean, var, weight, bias, eps=1e-5)
        return F.silu(x) if act else x

    def gate(self, x, name):
        n, y = divisible(x.shape[1]/4), x.mean((2,3), keepdim=True)
        for part,o in dict(reduce=n, expand=x.shape[1]).items():
            w, b = [self.w[f'{name}.se.fc.{part}.{t}'] for t in ('weight','bias')]
            y = F.conv2d(y, w[:o,:y.shape[1]], b[:o])
            if part=='reduce': y = y.relu()
        return x*F.relu6(y+3)/6

    def block(self, x, i, o, k, expand, se, stride):
        name, y = f'blocks.{i}.mobile_inverted_conv', x
        middle, widen = x.shape[1]*expand, f'{name}.inverted_bottleneck'
        if f'{widen}.conv.conv.weight' in self.w: y = self.conv(x, widen, middle)
        y = self.conv(y, f'{name}.depth_conv', middle, k, stride, groups=True)
        if se: y = self.gate(y, f'{name}.depth_conv')
        y = self.conv(y, f'{name}.point_linear', o, act=False)
        if stride==2: x = F.avg_pool2d(x, 2)
        return y + (x if x.shape[1]==o else self.conv(x, f'blocks.{i}.shortcut', o, act=False))

    def __call__(self, x, s):
        x, first = self.conv(x, 'first_conv', s.width['stem.conv'], 3, 2), 0
        for i,(_,least,most,expands,se,stride) in enumerate(STAGES, 1):
            kept, stage = i>1, f'layer{i}'
            o = s.width[f'{stage}.0.convs.project.conv' if i>1 else 'stem.conv']
            for j in range(s.depth[stage]+kept):
                middle = s.width.get(f'{stage}.{j}.convs.expand.conv', x.shape[1])
                k = s.kernel[f'{stage}.{j}.convs.depthwise.conv']
                x = self.block(x, first+j, o, k, middle//x.shape[1], se, stride if j==0 else 1)
            first += most
        x = self.conv(x, 'last_conv.final_expand_layer', 6*x.shape[1]).mean((2,3), keepdim=True)
        x = self.conv(x, 'last_conv.feature_mix_layer', s.width['head.mix']).flatten(1)
        w, b = [self.w[f'classifier.linear.linear.{t}'] for t in ('weight','bias')]
        return F.linear(x, w[:,:x.shape[1]], b)

@pytest.fixture(scope='module')
def both():
    weights = random_weights()
    return weights, load_published(weights, attentive_nas(CLASSES), torch.zeros(1,3,SIDE,SIDE), check=False)

def test_logits_are_those_of_the_published_layers(both):
    "The largest, the smallest, and twenty random subnets; active and taken out"
    weights, sn = both
    there, x = Published(weights), torch.randn(2,3,SIDE,SIDE).double()
    sn.model.double()
    with torch.no_grad():
        for s in (sn.space.max, sn.space.min, *map(sn.space.sample, range(20))):
            want = there(x, s)
            with sn.active(s): close(sn.model(x), want)
            close(sn.extract(s).eval()(x), want)
    sn.model.float()

def test_every_tensor_has_its_place(both):
    "Also the shortcuts that nobody asks; what else is in the file, or missing, is said"
    weights, _ = both
    def load(w): return load_published(w, attentive_nas(CLASSES), torch.zeros(1,3,SIDE,SIDE), check=False)
    fails('tensors are missing', lambda: load({n:t for n,t in weights.items() if 'blocks.36.' not in n}))
    fails('teacher.weight have no place', lambda: load({**weights, 'teacher.weight':torch.ones(1)}))
    name = 'module.blocks.2.shortcut.conv.conv.weight'
    fails('blocks.2.shortcut.conv.weight is of shape', lambda: load({**weights, name:torch.ones(32,16,1,1)}))

def test_the_check_says_that_a_shortcut_is_not_always_asked():
    "It cuts two stages to equal numbers of channels, where our block and the published one leave the convolution out"
    net, space = attentive_nas(CLASSES)
    fails('skip was misunderstood', lambda: Supernet(net, torch.randn(1,3,SIDE,SIDE), space=space))
