"What a supernet holds beside the model - private batch norms, kernel matrices, remembered cuts - and sorting in tiers"
import copy, io, pickle
from dataclasses import replace
import pytest, torch
from torch import nn
import torch.nn.functional as F
import fastai.callback.all # noqa: F401, gives Learner its fit_one_cycle and no_bar
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from torchvision.models import densenet121
from elastic_nets.zoo.data import digits_dls
from elastic_nets.zoo.models import resnet_cifar
from elastic_nets.zoo.spaces import ofa_mobilenetv3
from elastic_nets.subnets.subnet import Subnet
from elastic_nets.subnets.batches import calibrate_bn
from elastic_nets.subnets.supernet import l1_importance, Supernet

xb = torch.randn(8,1,8,8, generator=torch.Generator().manual_seed(0)).double()

def randomise(model, seed=0):
    "Random numbers in every tensor: zeros and ones hide errors"
    gen = torch.Generator().manual_seed(seed)
    for n,t in [*model.named_parameters(), *model.named_buffers()]:
        if not t.is_floating_point(): t.data.fill_(3); continue
        r = torch.randn(t.shape, generator=gen, dtype=torch.float64).to(t)
        t.data = .5+r.abs() if n.endswith('var') else 1+.3*r if t.ndim==1 else r/max(1, t[0].numel())**.5
    return model

def resnet(seed=0):
    return Supernet(randomise(resnet_cifar(20, n_in=1), seed).double().eval(), xb, depths=(0.,.5,1.), check=False)

def kernels(groups=8, c=8, ks=(3,5,7), seed=0):
    net = nn.Sequential(nn.Conv2d(1,c,1), nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c,c,ks[-1],padding=ks[-1]//2,groups=groups), nn.BatchNorm2d(c), nn.ReLU(),
                        nn.Conv2d(c,6,3,padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6,2))
    sn = Supernet(randomise(net, seed).double().eval(), xb, kernels={'3':ks}, check=False)
    sn.kernel_matrices()
    shake(sn)
    return sn

@torch.no_grad()
def shake(sn, seed=1):
    "Random numbers in what the handle holds"
    gen = torch.Generator().manual_seed(seed)
    for p in sn.held_params(): p += .3*torch.randn(p.shape, generator=gen, dtype=torch.float64).to(p)

def same(a, b): return a.keys()==b.keys() and all(torch.equal(a[k], b[k]) for k in a)

def train(model, n=2):
    for i in range(n): model.train()(xb+i).square().mean().backward()
    return model.eval()

def close(a, b, tol=1e-10): return bool((a-b).abs().max()<=tol*(1+b.abs().max()))

# ---- private batch norm

@pytest.mark.parametrize('affine', [True, False])
@pytest.mark.parametrize('momentum', [.1, None])
def test_private_bn_is_a_plain_network_s(affine, momentum):
    "A private subnet trains as the network that is taken out does; the full network and the other subnets see nothing of it"
    sn = resnet()
    for m in sn.layers.values():
        if isinstance(m, nn.BatchNorm2d): m.momentum = momentum
    subs = [sn.space.sample(i) for i in (1,2)]
    start = sn.extract(subs[0]).state_dict()
    sn.private_bn([*subs, sn.space.max], affine=affine)
    assert same(sn.extract(subs[0]).state_dict(), start) and [*sn.private]==subs, 'begins as the full network'
    shake(sn)
    with torch.no_grad(): # its own statistics too
        for ps in sn.stats[subs[0]].values(): ps['running_mean'] += .5; ps['num_batches_tracked'] += 2
    plain, full, other = sn.extract(subs[0]), copy.deepcopy(dict(sn.model.named_buffers())), copy.deepcopy(sn.stats[subs[1]])
    with sn.active(subs[0]):
        train(sn.model); train(plain)
        assert close(sn.model(xb), plain(xb))
    new, want = sn.extract(subs[0]).state_dict(), plain.state_dict()
    assert new.keys()==want.keys() and all(close(new[k], want[k]) for k in want)
    assert not close(want['stem.bn.running_mean'], start['stem.bn.running_mean'], .1) and want['stem.bn.num_batches_tracked']==3+2+2
    assert same(dict(sn.model.named_buffers()), full) and all(same(other[n], sn.stats[subs[1]][n]) for n in other)
    for n,m in plain.named_modules():
        if not isinstance(m, nn.BatchNorm2d): continue
        for t in ('weight','bias'):
            shared, own = getattr(sn.layers[n], t).grad, getattr(sn.stats[subs[0]][n].get(t), 'grad', None)
            want = getattr(m, t).grad
            assert shared is None and close(own, want) if affine else own is None and close(shared[:len(want)], want), n
    g = sn.model.stem.conv.weight.grad
    assert close(g[:len(plain.stem.conv.weight)], plain.stem.conv.weight.grad)
    assert not any(p.grad is not None for ps in sn.stats[subs[1]].values() for p in ps.values())

def test_private_bn_has_the_active_norms_only():
    sn = resnet()
    sn.private_bn(sn.space.min)
    norms = {n for n,m in sn.extract(sn.space.min).named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {*sn.stats[sn.space.min]}==norms < {n for n,m in sn.layers.items() if isinstance(m, nn.BatchNorm2d)}
    assert len(sn.held_params())==2*len(norms) and all(isinstance(p, nn.Parameter) and p.is_leaf and p.requires_grad for p in sn.held_params())

def test_full_network_stays_shared():
    sn, want = resnet(), resnet().model
    sn.private_bn([sn.space.max, sn.space.min])
    shake(sn)
    assert torch.equal(sn.model(xb), want(xb)) and not sn.private.get(sn.space.max)
    assert same(train(sn.model).state_dict(), train(want).state_dict())

def test_frozen_statistics_rest():
    "A batch norm in evaluation mode uses its private statistics and leaves them alone, gradients or not"
    sn, s = resnet(), resnet().space.uniform(.5)
    sn.private_bn(s)
    before = copy.deepcopy(sn.stats[s])
    with sn.active(s): sn.model(xb).sum().backward()
    assert all(same(before[n], sn.stats[s][n]) for n in before) and sn.held_params()[0].grad.any()

def test_running_statistics_rest_in_training():
    "Of batch norm, and of instance norm, which reads them whatever `track_running_stats` says"
    net = nn.Sequential(nn.Conv2d(1,8,1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8,8,1), nn.InstanceNorm2d(8, affine=True, track_running_stats=True), nn.ReLU(), nn.Conv2d(8,2,1)).double()
    sn = Supernet(randomise(net), xb)
    before = copy.deepcopy(dict(net.named_buffers()))
    plain = sn.extract(sn.space.min).train()
    with sn.active(sn.space.min): assert close(net.train()(xb), plain(xb))
    assert same(before, dict(net.named_buffers())) and not same(plain.state_dict(), sn.extract(sn.space.min).state_dict())
    net(xb)
    assert not any(torch.equal(before[n], b) for n,b in net.named_buffers() if 'running' in n)

def test_interrupted_calibration():
    net = randomise(nn.Sequential(nn.Conv2d(1,4,1), nn.BatchNorm2d(4, momentum=.3)).double()).eval()
    def batches():
        yield xb[:2],
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): calibrate_bn(net, batches())
    assert net[1].momentum==.3 and not net[1].training

def test_norm_without_statistics():
    net = nn.Sequential(nn.Conv2d(1,8,1), nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU(), nn.Conv2d(8,8,1), nn.BatchNorm2d(8, affine=False), nn.Conv2d(8,2,1)).double()
    sn = Supernet(randomise(net), xb, check=False)
    s = sn.space.min
    sn.private_bn(s)
    assert {n:[*ps] for n,ps in sn.stats[s].items()}=={'1':['weight','bias'], '4':['running_mean','running_var','num_batches_tracked']}
    shake(sn)
    plain = sn.extract(s)
    with sn.active(s): assert close(train(net)(xb), train(plain)(xb))
    assert net[1].track_running_stats is False and close(sn.stats[s]['1']['bias'].grad, plain[1].bias.grad)

def test_what_is_active_is_made_anew():
    "A subnet that is active while its private tensors, matrices or statistics come has them at once"
    sn = kernels()
    sn.matrices.clear()
    s = replace(sn.space.uniform(.5), kernel={'3':3})
    sn.set_active(s)
    cut = lambda n: sn.layers[n]._cut
    sn.calibrate(s, [xb]); assert [*cut('1').own]==['running_mean','running_var'] and cut('1').rest
    sn.private_bn(s); assert len(cut('1').own)==5 and not cut('1').rest
    sn.kernel_matrices(); assert [k for k,_ in cut('3').chain]==[5,3]
    other = kernels()
    other.set_active(s)
    other.load_state_dict(sn.state_dict()); assert len(other.layers['1']._cut.own)==5

def test_forget_and_calibrate():
    sn = resnet()
    a, b = sn.space.uniform(.5), sn.space.uniform(.25)
    sn.private_bn(a)
    shake(sn)
    before, held = copy.deepcopy(sn.stats[a]), dict(sn.stats[a]['stem.bn'])
    for s in (a, b): sn.calibrate(s, [xb])
    assert all(sn.stats[a]['stem.bn'][k] is t for k,t in held.items()), 'the same tensors, renewed'
    for n,ps in sn.stats[a].items():
        changed = {k for k in ps if not torch.equal(ps[k], before[n][k])}
        assert changed=={'running_mean','running_var'}, n
    m = sn.extract(a)
    seen = m.stem.bn.train()
    seen.reset_running_stats(); seen.momentum = 1.
    m(xb)
    assert close(seen.running_mean, sn.stats[a]['stem.bn']['running_mean'])
    assert [*sn.stats]==[a,b]
    sn.set_active(b)
    sn.forget_stats()
    assert [*sn.stats]==[a] and sn.subnet==b and not sn.layers['stem.bn']._cut.own

def test_learner_keeps_private_statistics():
    learn = Learner(digits_dls(bs=128), resnet_cifar(8, n_in=1), loss_func=CrossEntropyLossFlat())
    sn = learn.to_supernet()
    a, b = sn.space.uniform(.5), sn.space.uniform(.25)
    sn.private_bn(a)
    means = [learn.subnet(s).model.stem.bn.running_mean for s in (a,b)]
    assert torch.equal(means[0], sn.stats[a]['stem.bn']['running_mean']) and means[1].abs().max()>0
    sn.stats[a]['stem.bn']['running_mean'] += 1
    assert torch.equal(learn.subnet(a).model.stem.bn.running_mean, sn.stats[a]['stem.bn']['running_mean'])

def test_private_bn_bad_input():
    sn = resnet()
    with pytest.raises(ValueError, match="width: 'nowhere' is not a choice"): sn.private_bn([sn.space.min, Subnet(width={'nowhere':1})])
    with pytest.raises(TypeError, match='a Subnet is expected'): sn.private_bn([.5])
    assert not sn.stats and not sn.private, 'nothing has changed'
    sn.private_bn(sn.space.min)
    ps = sn.held_params()
    sn.private_bn([sn.space.min]) # once more: kept
    assert all(a is b for a,b in zip(sn.held_params(), ps))
    with pytest.raises(ValueError, match='private with affine=True already'): sn.private_bn(sn.space.min, affine=False)
    with pytest.raises(ValueError, match='sort before private_bn'): sn.sort_channels()
    with pytest.raises(ValueError, match='no batch norm'): Supernet(nn.Sequential(nn.Linear(4,8), nn.Linear(8,2)), torch.randn(2,4)).private_bn([])

# ---- kernel matrices

@pytest.mark.parametrize('groups, c, ks', [(8,8,(3,5,7)), (1,40,(3,5,7)), (8,8,(3,7)), (1,8,(1,3,5))]) # 40*40*49 weights take the path of large ones
def test_matrices_by_hand(groups, c, ks):
    "Outputs and gradients of every smaller kernel, against the sum written out"
    sn = kernels(groups, c, ks)
    steps = {ks[i]:(ks[i+1], p) for i,p in zip(range(len(ks)-2, -1, -1), sn.matrices['3'].values())}
    assert [*sn.matrices['3']]==[*ks[-2::-1]] and [p.shape for p in sn.held_params()]==[(k*k,k*k) for k in ks[-2::-1]]
    for k in ks:
        s = replace(sn.space.uniform(.5), kernel={'3':k})
        plain = sn.extract(s).eval()
        w = sn.model[3].weight[:c//2] if groups>1 else sn.model[3].weight[:c//2,:c//2]
        size = ks[-1]
        for j in ks[-2::-1]:
            if j<k: break
            (_,mat), lo = steps[j], (size-j)//2
            w = torch.stack([torch.stack([(mat*w[o,i,lo:lo+j,lo:lo+j].reshape(1,-1)).sum(1).view(j,j) for i in range(w.shape[1])]) for o in range(w.shape[0])])
            size = j
        assert size==k and close(plain[3].weight, w) and plain[3].kernel_size==(k,k)
        with sn.active(s): y = sn.model(xb)
        assert close(y, plain(xb))
        y.square().sum().backward()
        got = [sn.model[3].weight.grad, *[p.grad for p in sn.held_params()]]
        sn.model.zero_grad()
        for p in sn.held_params(): p.grad = None
        x = xb
        for i,m in enumerate(plain): x = F.conv2d(x, w, m.bias, padding=k//2, groups=m.groups) if i==3 else m(x)
        want = torch.autograd.grad(x.square().sum(), [sn.model[3].weight, *sn.held_params()], allow_unused=True)
        assert [g is None for g in got]==[g is None for g in want] and [g is not None for g in want[1:]]==[j>=k for j in ks[-2::-1]]
        assert all(close(a, b, 1e-8) for a,b in zip(got, want) if a is not None)

def test_matrices_begin_as_nothing():
    "From the identity every subnet is exactly what cropping gives; the whole kernel never changes"
    model, space = ofa_mobilenetv3(n_classes=10, img=32, width=.5)
    x = torch.randn(2,3,32,32)
    sn = Supernet(randomise(model).eval(), x, space=space, check=False)
    subs = [sn.space.sample(i) for i in range(3)]
    def outs():
        with torch.no_grad():
            for s in (*subs, sn.space.max):
                with sn.active(s): yield model(x)
    crop = [*outs()]
    sn.kernel_matrices()
    assert all(map(torch.equal, outs(), crop)) and len(sn.held_params())==2*20
    shake(sn)
    new = [*outs()]
    assert [torch.equal(a, b) for a,b in zip(new, crop)]==[False]*3+[True]
    for s,y in zip(subs, new): torch.testing.assert_close(sn.extract(s).eval()(x).detach(), y, rtol=1e-3, atol=1e-4)
    ps = sn.held_params()
    sn.kernel_matrices()
    assert all(a is b for a,b in zip(sn.held_params(), ps))

def test_matrices_of_other_dimensions():
    net = nn.Sequential(nn.Conv1d(1,8,5,padding=2), nn.ReLU(), nn.Conv1d(8,2,1)).double()
    sn = Supernet(net, torch.randn(2,1,9).double(), kernels={'0':(3,5)})
    sn.kernel_matrices()
    shake(sn)
    assert [p.shape for p in sn.held_params()]==[(3,3)]
    s, x = sn.space.min, torch.randn(2,1,9).double()
    with sn.active(s): assert close(net(x), sn.extract(s)(x))
    assert close(sn.extract(s)[0].weight[:,0], net[0].weight[:2,0,1:4]@sn.held_params()[0].T)

def test_only_square_kernels_are_choices():
    net = nn.Sequential(nn.Conv2d(1,8,(5,3),padding=(2,1)), nn.ReLU(), nn.Conv2d(8,8,5,padding=2), nn.ReLU(), nn.Conv2d(8,2,1)).double()
    sn = Supernet(net, xb, kernels=(3,5), check=False)
    assert sn.space.kernel=={'2':(3,5)} and sn.n_params(sn.space.max)==sum(p.numel() for p in net.parameters())

def test_optimizer_trains_what_the_handle_holds():
    sn = kernels()
    s = sn.space.min
    sn.private_bn(s)
    opt = torch.optim.SGD([*sn.model.parameters(), *sn.held_params()], .01)
    before = [p.detach().clone() for p in sn.held_params()]
    for _ in range(2):
        with sn.active(s): sn.model.train()(xb).square().mean().backward()
        opt.step(); opt.zero_grad()
    assert len(before)==2+4 and not any(map(torch.equal, before, sn.held_params()))

# ---- copies, moves, states

def held():
    "A supernet with everything that a handle can hold, and its subnets"
    sn = kernels()
    a, b = sn.space.min, replace(sn.space.uniform(.75), kernel={'3':5})
    sn.private_bn(a)
    shake(sn, 2)
    sn.calibrate(b, [xb])
    return sn, (a, b, replace(sn.space.uniform(.5), kernel={'3':3}))

@torch.no_grad()
def outs(sn, subs):
    res = []
    for s in subs:
        with sn.active(s): res.append(sn.model.eval()(xb.to(next(sn.model.parameters()))))
    return res

@pytest.mark.parametrize('how', [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_keep_model_and_handle_together(how):
    sn, subs = held()
    sn.set_active(subs[0])
    want, n = outs(sn, subs), len(pickle.dumps(sn))
    for s in map(sn.space.sample, range(20)): sn.set_active(s)
    sn.set_active(subs[0])
    assert len(pickle.dumps(sn))<1.02*n, 'remembered cuts are not written'
    model, new = how((sn.model, sn))
    assert new.model is model and all(map(torch.equal, outs(new, subs), want)) and new.subnet==subs[0]
    ours, theirs = sn.held_params(), new.held_params()
    assert len(ours)==len(theirs)>0 and not any(a is b for a,b in zip(ours, theirs)) and all(isinstance(p, nn.Parameter) for p in theirs)
    shake(new, 3)
    assert all(map(torch.equal, outs(sn, subs), want)) and not any(map(torch.equal, outs(new, subs[::2]), want[::2]))
    with new.active(subs[0]): model.train()(xb).sum().backward()
    assert theirs[0].grad is not None and ours[0].grad is None

def test_model_moves():
    sn, subs = held()
    want, ps = outs(sn, subs), sn.held_params()
    with sn.active(subs[0]): sn.model(xb).sum().backward()
    sn.model.float()
    assert all(close(a.double(), b, 1e-4) for a,b in zip(outs(sn, subs), want))
    assert all(a is b and a.dtype==torch.float32 and (a.grad is None or a.grad.dtype==a.dtype) for a,b in zip(sn.held_params(), ps))
    with sn.active(subs[0]): sn.model.train()(xb.float()).sum().backward()
    sn.model.double()
    assert sn.extract(subs[0])(xb).dtype==torch.float64

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_model_moves_to_gpu():
    sn, subs = held()
    want, ps = outs(sn, subs), sn.held_params()
    sn.model.cuda()
    assert all(close(a.cpu(), b, 1e-6) for a,b in zip(outs(sn, subs), want)) and all(a is b and a.is_cuda for a,b in zip(sn.held_params(), ps))

def save_and_load(d):
    f = io.BytesIO()
    torch.save(d, f)
    f.seek(0)
    return torch.load(f, weights_only=True)

def test_state_goes_round():
    sn, subs = held()
    want, d = outs(sn, subs), save_and_load(sn.state_dict())
    new = Supernet(copy.deepcopy(kernels(seed=5).extract(kernels().space.max)), xb, kernels={'3':(3,5,7)}, check=False)
    new.model.load_state_dict(sn.model.state_dict())
    assert not any(map(torch.equal, outs(new, subs), want))
    new.load_state_dict(d)
    assert all(map(torch.equal, outs(new, subs), want)) and new.private==sn.private and [*new.stats]==[*sn.stats]
    assert [p.shape for p in new.held_params()]==[p.shape for p in sn.held_params()]
    new.forget_stats()
    assert [*new.stats]==[subs[0]]

def test_state_is_a_copy_and_parameters_stay():
    sn, subs = held()
    want, ps, d = outs(sn, subs), sn.held_params(), sn.state_dict()
    buffers = copy.deepcopy(sn.model.state_dict())
    shake(sn, 4)
    sn.private_bn(subs[2])
    with torch.no_grad():
        for ps_ in sn.stats[subs[1]].values(): ps_['running_mean'] += 1
    sn.load_state_dict(d)
    assert all(map(torch.equal, outs(sn, subs), want)) and all(a is b for a,b in zip(sn.held_params(), ps)) and len(sn.held_params())==len(ps)
    assert subs[2] not in sn.private and subs[2] not in sn.stats
    sn.stats.pop(subs[1])
    sn.load_state_dict(d) # statistics of a subnet that is new here are tensors of its own
    with torch.no_grad():
        for ps_ in sn.stats[subs[1]].values(): ps_['running_mean'] += 1
    assert same(sn.model.state_dict(), buffers)

@pytest.mark.parametrize('change, match', [
    (lambda d,s: d.pop('private'), "has the keys .*got .'version'"), (lambda d,s: d.update(version=2), 'version 1'),
    (lambda d,s: d['stats'][s].pop('1'), "stats: '1' is missing"), (lambda d,s: d['stats'][s].update(nope={}), "stats: 'nope' is not in this supernet; 1, 4 is"),
    (lambda d,s: d['stats'][s]['1'].pop('bias'), "stats.1: 'bias' is missing"), (lambda d,s: d['stats'].pop(s), 'are missing'),
    (lambda d,s: d['stats'][s]['4'].update(weight=torch.ones(3)), r'stats.4.weight: a tensor of shape \(2,\) is expected, got \(3,\)'),
    (lambda d,s: d['stats'][s]['4'].update(weight=3), r'stats.4.weight: a tensor of shape \(2,\) is expected, got 3'),
    (lambda d,s: d['matrices'].update(nope={}), "matrices: 'nope' is not in this supernet; 3 is"), (lambda d,s: d['matrices']['3'].pop(5), 'matrices.3: 5 is missing'),
    (lambda d,s: d['stats'].update({s[:30]:{}}), 'cut short'), (lambda d,s: d['stats'].update({Subnet(width={'0':8}).to_json():{}}), 'is missing')])
def test_state_that_does_not_fit(change, match):
    sn, subs = held()
    d, want = sn.state_dict(), outs(sn, subs)
    shake(sn, 7)
    want = outs(sn, subs)
    change(d, subs[0].to_json())
    with pytest.raises(ValueError, match=match): sn.load_state_dict(d)
    assert all(map(torch.equal, outs(sn, subs), want)), 'nothing has changed'

# ---- sorting in tiers

def test_tiers_keep_their_subnets():
    sn = resnet()
    subs = [sn.space.sample(i) for i in range(6)]
    want, before = outs(sn, subs), copy.deepcopy(sn.model)
    sn.sort_channels(tiers=sn.space)
    assert all(close(a, b) for a,b in zip(outs(sn, subs), want))
    assert not any(torch.equal(sn.layers[n].weight, before.get_submodule(n).weight) for n in sn.space.width)
    some = {g:(16,) for g in sn.space.width if sn.graph.groups[g].size>16} # a boundary of one's own, and whole groups elsewhere
    two = [sn.space._build(lambda k,n,vs: 16 if n in some and k=='width' else vs[-1])]
    want = outs(sn, [*two, sn.space.max])
    sn.sort_channels(lambda w: torch.rand(len(w)), tiers=some)
    assert all(close(a, b) for a,b in zip(outs(sn, [*two, sn.space.max]), want))
    narrow = outs(sn, [sn.space.min])
    sn.sort_channels()
    assert not close(outs(sn, [sn.space.min])[0], narrow[0], 1e-3)

def test_tiers_are_sorted_inside():
    net = randomise(nn.Sequential(nn.Linear(4,8), nn.ReLU(), nn.Linear(8,3)))
    sn = Supernet(net, torch.randn(2,4), widths={'0':(2,4,6)})
    score = lambda: l1_importance(net[2].weight.T).tolist()
    before = score()
    sn.sort_channels(tiers={'0':(4,)})
    assert score()==pytest.approx([*sorted(before[:4], reverse=True), *sorted(before[4:], reverse=True)])
    sn.sort_channels(tiers=None)
    assert score()==pytest.approx(sorted(before, reverse=True))

@pytest.mark.parametrize('tiers, match', [({'nope':(4,)}, "tiers: 'nope' is not there"), ({'0':(9,)}, "9 is not possible for '0'"), ({'0':(0,)}, "0 is not possible"), ((.5,1.), 'tiers: .group: numbers')])
def test_bad_tiers(tiers, match):
    sn = Supernet(nn.Sequential(nn.Linear(4,8), nn.ReLU(), nn.Linear(8,3)), torch.randn(2,4))
    before = sn.model[0].weight.clone()
    with pytest.raises(ValueError, match=match): sn.sort_channels(tiers=tiers)
    assert torch.equal(sn.model[0].weight, before)

# ---- remembered cuts

def plan_of(sn, s):
    "The plan of `s` as numbers that can be compared"
    num = lambda ts: [(t, [i.tolist() if isinstance(i, torch.Tensor) else i for i in ix]) for t,ix in ts]
    return {n: (num(c.params), num(c.buffers), c.attrs, c.old, c.rest, c.names) if hasattr(c, 'attrs') else c for n,c in sn._plan(s).items()}

@pytest.mark.parametrize('build', [resnet, kernels, lambda: Supernet(densenet121(num_classes=3), torch.randn(1,3,32,32), widths=(.25,.5,1.), check=False)])
def test_remembered_cuts_are_right(build):
    "After many subnets, the plan of each is what a handle works out that has seen none"
    sn = build()
    subs = [sn.space.sample(i) for i in range(12)]
    for s in subs: sn.set_active(s)
    got = [plan_of(sn, s) for s in subs]
    for s,p in zip(subs, got):
        sn._cuts.clear()
        assert plan_of(sn, s)==p
    a, b = sn._plan(s), sn._plan(s)
    assert any(c is not None and c is b[n] for n,c in a.items() if c!='drop'), 'they are remembered'

def test_remembered_cuts_are_bounded():
    sn = Supernet(nn.Sequential(nn.Linear(4,300), nn.ReLU(), nn.Linear(300,3)), torch.randn(2,4), widths={'0':tuple(range(1,301))})
    for s in sn.space:
        sn.set_active(s)
        assert len(sn._cuts)<=16*len(sn.layers)
    with sn.active(sn.space.min): assert close(sn.model(torch.ones(1,4)), sn.extract(sn.space.min)(torch.ones(1,4)), 1e-5)

def test_remembered_cuts_see_new_weights():
    "Weights, statistics, order of channels and device may change between two switches"
    sn = resnet()
    s = sn.space.sample(3)
    check = lambda: close(outs(sn, [s])[0], sn.extract(s).eval()(xb.to(next(sn.model.parameters()))))
    assert check()
    randomise(sn.model, 9); assert check()
    sn.sort_channels(); assert check()
    sn.calibrate(s, [xb]); assert check()
    sn.forget_stats(); assert check()
    sn.private_bn(s); shake(sn); assert check()
    for m in sn.layers.values():
        if isinstance(m, nn.BatchNorm2d): m.track_running_stats = False
    for t in (s, sn.space.min):
        with sn.active(t): sn.model.train()(xb)
    assert not any(m.track_running_stats for m in sn.layers.values() if isinstance(m, nn.BatchNorm2d)), 'left as the user set it'

def test_index_is_where_the_model_is():
    sn = Supernet(densenet121(num_classes=3), torch.randn(1,3,32,32), widths=(.5,1.), check=False)
    at = lambda: {i.device.type for c in sn._plan(sn.space.min).values() if c for _,ix in c.params for i in ix if isinstance(i, torch.Tensor)}
    assert at()=={'cpu'}
    sn.model.to('meta')
    assert at()=={'meta'}
