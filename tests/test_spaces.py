"The published search spaces: figures, counts, and every subnet a network of its own; choices that depend on others"
import copy, pickle, random
from collections import Counter
from dataclasses import replace
from itertools import product
import pytest, torch
from fastai.callback.progress import ProgressCallback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from torch import nn
from elastic_nets.subnets.cost import macs, n_params
from elastic_nets.zoo.models import InvertedResidual
from elastic_nets.shrink.training import OnionTraining
from elastic_nets.shrink.methods import delayed_shrinking
from elastic_nets.zoo.spaces import compofa_space, ofa_mobilenetv3, ofa_proxyless, ofa_resnet50
from elastic_nets.subnets.subnet import Space, Subnet
from elastic_nets.subnets.supernet import Supernet

published = { # MACs and parameters in millions of the largest and smallest network; how many there are
    'mobilenetv3': (ofa_mobilenetv3, {}, 224, ('566.2','7.66'), ('121.3','3.41'), (9**2+9**3+9**4)**5),
    'mobilenetv3 k7': (ofa_mobilenetv3, dict(kernels=(7,)), 224, ('566.2','7.66'), ('151.3','3.49'), 117**5),
    'mobilenetv3 cifar': (ofa_mobilenetv3, dict(n_classes=10, img=32, kernels=(7,)), 32,
                          ('179.7','6.40'), ('45.1','2.23'), 117**5),
    'proxyless': (ofa_proxyless, {}, 224, ('1004.9','7.94'), ('265.5','3.72'), (9**2+9**3+9**4)**5*9),
    'resnet50': (ofa_resnet50, {}, 224, ('7491.6','48.11'), ('962.2','6.54'), 2*2*3*3**4*3**10*13**4)}

def tied(**kwargs):
    model,space = ofa_mobilenetv3(10, img=32, **kwargs)
    return model,compofa_space(space)

small = {'mobilenetv3': lambda: ofa_mobilenetv3(10, img=32), 'compofa': tied,
         'proxyless': lambda: ofa_proxyless(10, width=1.), 'resnet50': lambda: ofa_resnet50(10)}

@pytest.mark.parametrize('name', published)
def test_published_figures(name):
    "Counted on plain networks: the largest as it comes, the smallest as it is taken out"
    f,kw,img,big,small,n = published[name]
    model,space = f(**kw)
    assert space.count() == n
    x = torch.zeros(1,3,img,img)
    sn = Supernet(model, x, space=space, check=False)
    for s,want in (space.max,big), (space.min,small):
        m = sn.extract(s)
        got = macs(m, x),n_params(m)
        assert (f'{got[0]/1e6:.1f}', f'{got[1]/1e6:.2f}') == want
        assert got == (sn.macs(s), sn.n_params(s))

@pytest.mark.parametrize('name', small)
def test_an_active_subnet_computes_what_the_extracted_one_does(name):
    "The channel graph is checked in float64, the space against it"
    torch.manual_seed(0)
    x = torch.randn(2,3,32,32) if name in ('mobilenetv3','compofa') else torch.randn(2,3,64,64)
    model,space = small[name]()
    sn = Supernet(model, x, space=space)
    model.eval()
    for i in range(3):
        s = space.sample(i)
        assert s in space and s in sn.space and Subnet.from_json(s.to_json()) == s
        m = sn.extract(s).eval()
        with sn.active(s): torch.testing.assert_close(model(x), m(x), rtol=1e-3, atol=1e-4)
        assert (macs(m, x), n_params(m)) == (sn.macs(s), sn.n_params(s))

@pytest.mark.parametrize('width', [.25,.35])
def test_a_narrow_network_for_small_pictures(width):
    "Its first stage keeps the shape: the first block could go too, and two blocks always stay"
    model,space = ofa_mobilenetv3(10, img=32, width=width, kernels=(7,))
    sn = Supernet(model, torch.randn(2,3,32,32), space=space)
    assert space.count()==117**5 and len(sn.extract(space.min).layer2)==4
    assert sum(type(m) is InvertedResidual for m in sn.extract(space.min).layer2)==2

def test_a_narrow_head(): assert ofa_proxyless(10, width=.5)[0].head.fc.in_features==640

def uniform(space, depth, expand, kernel):
    "The subnet with the same published choices everywhere"
    at = dict(depth={2:0, 3:1, 4:2}[depth], width={3:0, 4:1, 6:2}[expand], kernel={3:0, 5:1, 7:2}[kernel])
    return space._build(lambda dim,name,values: values[at[dim]] if len(values)==3 else values[0])

@pytest.mark.parametrize('depth, expand, kernel', [(2,3,3), (3,4,5), (4,6,7), (2,6,5), (4,3,3)])
def test_same_network_as_by_hand(depth, expand, kernel):
    "Depth drops the last blocks; what is taken out has the tensors of a network built with these numbers"
    model,space = ofa_mobilenetv3(10, img=32)
    sn = Supernet(model, torch.randn(1,3,32,32), space=space, check=False)
    got = sn.extract(uniform(space, depth, expand, kernel))
    channels,strides,gates = (24,40,80,112,160),(1,2,2,1,2),(False,True,False,True,True)
    activations,ni,want = [nn.ReLU]*2+[nn.Hardswish]*3,16,[]
    for nf,stride,se,act in zip(channels, strides, gates, activations):
        for i in range(depth):
            want.append(InvertedResidual(ni, nf, stride if i==0 else 1, expand, kernel, act, se))
            ni = nf
    def convs_of(m): return [l for l in m.modules() if isinstance(l, nn.Conv2d)]
    def shapes(m): return [tuple(p.shape) for p in m.state_dict().values()]
    def convs(m): return [(c.kernel_size, c.padding, c.stride, c.groups) for c in convs_of(m)]
    def types(m): return [type(l) for l in m.modules()]
    blocks = [b for s in range(2,7) for b in got.get_submodule(f'layer{s}') if isinstance(b, InvertedResidual)]
    for f in (shapes, convs, types): assert list(map(f, blocks)) == list(map(f, want))
    assert [b.res for b in blocks] == [b.res for b in want]
    acts = model.stem.act, model.layer1[0].convs.depthwise.act, model.head.expand.act, model.head.act
    assert [type(m) for m in acts] == [nn.Hardswish, nn.ReLU, nn.Hardswish, nn.Hardswish]

def test_proxyless_norms_and_activations():
    ms = list(ofa_proxyless(10)[0].modules())
    assert {m.eps for m in ms if isinstance(m, nn.BatchNorm2d)} == {1e-3}
    assert {type(m) for m in ms if 'activation' in type(m).__module__} == {nn.ReLU6}

def test_gates_follow_their_blocks():
    model,space = ofa_mobilenetv3(10, img=32)
    sn = Supernet(model, torch.randn(1,3,32,32), space=space, check=False)
    seen = set()
    for i in range(5):
        for m in sn.extract(space.sample(i)).modules():
            if not hasattr(m, 'convs') or not hasattr(m.convs, 'se'): continue
            mid,hidden = m.convs.expand.conv.out_channels,m.convs.se.fc1.out_channels
            near = max(8, int(mid/4+4)//8*8)
            assert hidden == (near if near>=.9*mid/4 else near+8)
            seen.add((mid,hidden))
    assert len(seen) > 4

def test_resnet_widths_follow_their_stage():
    _,space = ofa_resnet50(10)
    for i in range(20):
        s = space.sample(i)
        for layer,c in zip(range(1,5), (256,512,1024,2048)):
            out = s.width[f'layer{layer}.0.conv3.conv']
            share = next(w for w in (.65,.8,1.) if abs(out-c*w)<8)
            for n,v in s.width.items():
                if n.startswith(f'layer{layer}.') and n.endswith('conv1.conv'):
                    assert min(abs(v-c*share*e) for e in (.2,.25,.35)) <= 6
                    assert s.width[n.replace('conv1.conv','conv2.conv')] == v

def test_stem_of_resnet_loses_its_middle():
    model,space = ofa_resnet50(10)
    sn = Supernet(model, x := torch.randn(1,3,64,64), space=space, check=False)
    s = replace(space.max, depth={**space.max.depth, 'stem':0})
    assert isinstance(sn.extract(s).stem.res, nn.Identity)
    assert sn.macs(space.max)-sn.macs(s) == 32*32*9*32*32 and macs(sn.extract(s), x) == sn.macs(s)

def test_macs_are_those_at_the_resolution_of_the_subnet():
    model,space = ofa_mobilenetv3(10, img=32, kernels=(7,), resolutions=(24,32))
    sn = Supernet(model, torch.randn(1,3,32,32), space=space, check=False)
    assert space.count() == 2*117**5
    for size in (24,32):
        s = replace(space.sample(0), resolution=size)
        assert sn.macs(s) == macs(sn.extract(s), torch.zeros(1,3,size,size))

@pytest.mark.parametrize('make', [ofa_mobilenetv3, ofa_proxyless])
def test_compofa_ties_depth_and_expand_ratio(make):
    "243 networks, every one a network of the untied space, with depth and expand ratio as published"
    model,wide = make(n_classes=10, kernels=(7,))
    space = compofa_space(wide)
    ss = list(space)
    assert len(set(ss)) == space.count() == 243
    widths = {n:vs for n,vs in wide.width.items() if n.endswith('expand.conv') and not n.startswith('layer7')}
    last = {n:vs[-1] for n,vs in wide.width.items() if n not in space.width} # ProxylessNAS's last block stays whole
    assert list(last) == (['layer7.0.convs.expand.conv'] if make is ofa_proxyless else [])
    for s in ss:
        for n,vs in widths.items():
            if n in s.width: assert s.width[n] == vs[(1,2,3).index(s.depth[n.split('.')[0]])]
        assert replace(s, width={**s.width, **last}) in wide
    assert set(map(space.sample, range(2000))) <= set(ss)
    assert Supernet(model, torch.zeros(1,3,64,64), space=space, check=False).space.count() == 243

def test_only_subnets_of_a_tied_space_are_trained():
    "A learner takes the space, and one fit trains its largest and random ones"
    torch.manual_seed(0)
    model,space = tied(kernels=(3,))
    x,y = torch.randn(24,3,32,32),torch.arange(24)%10
    dls = DataLoaders(*[DataLoader(list(zip(x, y)), bs=8) for _ in range(2)], device='cpu')
    learn = Learner(dls, model, loss_func=nn.CrossEntropyLoss(), lr=.01)
    learn.remove_cbs(ProgressCallback)
    sn = learn.to_supernet(space=space)
    assert sn.space == space and sn.space.count() == 243 and hash(sn.space) == hash(space)
    cb,drawn,active = OnionTraining(delayed_shrinking(k=3, warmup=.3), watch=()),[],sn.active
    def noted(subnet):
        drawn.append(subnet)
        return active(subnet)
    sn.active = noted
    before = model.layer6[3].convs.project.conv.weight.detach().clone()
    with learn.no_logging(): learn.fit(1, cbs=cb)
    drawn = {s for s in drawn if s is not None} - {space.max}
    assert len(drawn) >= 3 and all(s in space for s in drawn)
    assert not torch.equal(model.layer6[3].convs.project.conv.weight, before)
    both = pickle.loads(pickle.dumps((space, copy.deepcopy(sn.space.sample(3)))))
    assert both == (space, sn.space.sample(3))

# ---- choices that depend on others, without any network

def random_space(rng):
    "Two stages, one of them in a block of the other; widths and kernels outside and inside, some given others"
    def values(n): return tuple(sorted(rng.sample(range(1,9), n)))
    width = {name:values(rng.randint(1,3)) for name in 'abcde'}
    inside = {('width','b'):('r',0), ('width','c'):('r',1), ('width','d'):('q',0),
              ('kernel','k'):('r',1), ('depth','q'):('r',1)}
    depth,kernel = dict(r=rng.choice([(0,1,2), (1,2), (0,2)]), q=(0,1)),dict(k=(3,5))
    def follow(name, leader, n):
        by = {v:values(n) for v in leader}
        width[name] = tuple(sorted({v for vs in by.values() for v in vs}))
        return by
    given = {('width','e'): (('depth','r'), follow('e', depth['r'], rng.randint(1,2)))}
    if rng.random()<.5: given['width','a'] = (('width','e'), follow('a', width['e'], rng.randint(1,2)))
    if rng.random()<.5: given['width','b'] = (('width','a'), follow('b', width['a'], rng.randint(1,2)))
    given['width','c'] = (('width','e'), follow('c', width['e'], rng.randint(1,2)))
    if rng.random()<.5: given['width','d'] = (('kernel','k'), follow('d', (3,5), 1))
    return Space(width, depth, kernel, rng.choice([(), (8,16)]), inside, given=given)

def by_brute_force(sp):
    "Every subnet of `sp`: all combinations, less what is dropped, if every given value is possible"
    choices = [(dim,n) for dim in ('depth','width','kernel') for n in getattr(sp, dim)]
    res = set()
    for values in product(*[getattr(sp, dim)[n] for dim,n in choices]):
        got = dict(zip(choices, values))
        def is_there(choice):
            if choice not in sp.inside: return True
            stage,i = sp.inside[choice]
            return is_there(('depth',stage)) and i<got['depth',stage]
        here = {c for c in choices if is_there(c)}
        if any(got[c] not in by[got[lead]] for c,(lead,by) in sp.given.items() if c in here): continue
        def part(dim): return {n:v for (d,n),v in got.items() if d==dim and (d,n) in here}
        res |= {Subnet(part('width'), part('depth'), part('kernel'), size) for size in sp.resolution or (None,)}
    return res

@pytest.mark.parametrize('seed', range(20))
def test_given_means_what_it_says(seed):
    "Count, iteration, membership and sampling agree with brute force over all combinations"
    sp = random_space(random.Random(seed))
    want = by_brute_force(sp)
    assert set(sp) == want and len(list(sp)) == sp.count() == len(want)
    assert {sp.sample(i) for i in range(50)} | {sp.min, sp.max, sp.uniform(.5, .5)} <= want
    loose = replace(sp, given={})
    for s in set(map(loose.sample, range(100))): assert (s in sp) == (s in want)

def test_given_is_sampled_uniformly():
    sp = Space({'a':(1,2), 'b':(4,5,6,7)}, given={('width','b'): (('width','a'), {1:(4,5,6), 2:(5,6,7)})})
    n = Counter((s.width['a'], s.width['b']) for s in map(sp.sample, range(3000)))
    assert len(n) == 6 and all(400<v<600 for v in n.values()), n

def test_uniform_is_a_share_of_the_largest():
    "Of the largest there is, not of the largest that is possible after another choice"
    sp = Space({'a':(8,16), 'b':(4,8,16)}, given={('width','b'): (('width','a'), {8:(4,8), 16:(8,16)})})
    assert sp.uniform(.5).width == {'a':8, 'b':8} and sp.uniform(.25).width == {'a':8, 'b':4}
    assert sp.uniform(1.) == sp.max

def test_a_refused_space_leaves_the_model_as_it_was():
    model,own = ofa_mobilenetv3(10, img=32)
    others = ofa_mobilenetv3(10, img=32, width=1.2)[1], replace(own, inside={}), ofa_resnet50()[1]
    before = [type(m) for m in model.modules()]
    for space in others:
        with pytest.raises(ValueError): Supernet(model, torch.randn(1,3,32,32), check=False, space=space)
    assert [type(m) for m in model.modules()] == before
