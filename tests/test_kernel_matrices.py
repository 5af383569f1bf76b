"Matrices that make a small kernel from a large one's centre"
from dataclasses import replace
import pytest, torch
from torch import nn
from torch.nn import functional as F
from elastic_nets.subnets.supernet import Supernet
from elastic_nets.zoo.spaces import ofa_mobilenetv3
from helpers import is_close, randomise
from supernets import kernels, shake, xb

def kernel_by_hand(weight, matrices, size):
    "The kernel of `size` from the centre of the larger ones, a matrix at each step, filter by filter"
    for k,matrix in matrices.items():
        if k<size: break
        lo = (weight.shape[-1]-k)//2
        centre = weight[:,:,lo:lo+k,lo:lo+k]
        def times(w): return (matrix*w.reshape(1,-1)).sum(1).view(k,k)
        weight = torch.stack([torch.stack([times(w) for w in filters]) for filters in centre])
    return weight

many = (1, 40, (3,5,7)) # 40*40*49 weights take the path of large ones
@pytest.mark.parametrize('groups, c, ks', [(8,8,(3,5,7)), many, (8,8,(3,7)), (1,8,(1,3,5))])
def test_matrices_by_hand(groups, c, ks):
    "Outputs and gradients of every smaller kernel, against the sum written out"
    sn = kernels(groups, c, ks)
    conv, matrices, smaller = sn.model[3], sn.matrices['3'], ks[-2::-1]
    assert [*matrices]==[*smaller] and [p.shape for p in sn.held_params()]==[(k*k,k*k) for k in smaller]
    for k in ks:
        s = replace(sn.space.uniform(.5), kernel={'3':k})
        plain = sn.extract(s).eval()
        whole = conv.weight[:c//2] if groups>1 else conv.weight[:c//2,:c//2]
        w = kernel_by_hand(whole, matrices, k)
        assert w.shape[-1]==k and is_close(plain[3].weight, w) and plain[3].kernel_size==(k,k)
        with sn.active(s): y = sn.model(xb)
        assert is_close(y, plain(xb))

        y.square().sum().backward()
        trained = [conv.weight, *sn.held_params()]
        got = [p.grad for p in trained]
        for p in [*sn.model.parameters(), *sn.held_params()]: p.grad = None
        x = xb
        for i,m in enumerate(plain): x = F.conv2d(x, w, m.bias, padding=k//2, groups=m.groups) if i==3 else m(x)
        want = torch.autograd.grad(x.square().sum(), trained, allow_unused=True)
        assert [g is None for g in got]==[g is None for g in want]
        assert [g is not None for g in want[1:]]==[j>=k for j in smaller]
        assert all(is_close(a, b, 1e-8) for a,b in zip(got, want) if a is not None)

def test_matrices_begin_as_nothing():
    "From the identity every subnet is exactly what cropping gives; the whole kernel never changes"
    model, space = ofa_mobilenetv3(n_classes=10, img=32, width=.5)
    x = torch.randn(2,3,32,32)
    sn = Supernet(randomise(model).eval(), x, space=space, check=False)
    subs = [sn.space.sample(i) for i in range(3)]
    @torch.no_grad()
    def all_outs():
        res = []
        for s in (*subs, sn.space.max):
            with sn.active(s): res.append(model(x))
        return res
    cropped = all_outs()
    sn.kernel_matrices()
    assert all(map(torch.equal, all_outs(), cropped)) and len(sn.held_params())==2*20
    shake(sn)
    new = all_outs()
    assert [torch.equal(a, b) for a,b in zip(new, cropped)]==[False]*3+[True]
    for s,y in zip(subs, new): torch.testing.assert_close(sn.extract(s).eval()(x).detach(), y, rtol=1e-3, atol=1e-4)
    ps = sn.held_params()
    sn.kernel_matrices()
    assert all(a is b for a,b in zip(sn.held_params(), ps)), 'asked twice, made once'

def test_matrices_of_one_dimension():
    net = nn.Sequential(nn.Conv1d(1,8,5,padding=2), nn.ReLU(), nn.Conv1d(8,2,1)).double()
    x = torch.randn(2,1,9).double()
    sn = Supernet(net, x, kernels={'0':(3,5)})
    sn.kernel_matrices()
    shake(sn)
    matrix, = sn.held_params()
    small = sn.extract(sn.space.min)
    assert matrix.shape==(3,3) and is_close(small[0].weight[:,0], net[0].weight[:2,0,1:4]@matrix.T)
    with sn.active(sn.space.min): assert is_close(net(x), small(x))

def test_only_square_kernels_are_choices():
    odd, square = nn.Conv2d(1,8,(5,3),padding=(2,1)), nn.Conv2d(8,8,5,padding=2)
    net = nn.Sequential(odd, nn.ReLU(), square, nn.ReLU(), nn.Conv2d(8,2,1)).double()
    sn = Supernet(net, xb, kernels=(3,5), check=False)
    assert sn.space.kernel=={'2':(3,5)} and sn.n_params(sn.space.max)==sum(p.numel() for p in net.parameters())

def test_optimizer_trains_what_the_supernet_holds():
    sn = kernels()
    s = sn.space.min
    sn.private_bn(s)
    opt = torch.optim.SGD([*sn.model.parameters(), *sn.held_params()], .01)
    before = [p.detach().clone() for p in sn.held_params()]
    for _ in range(2):
        with sn.active(s): sn.model.train()(xb).square().mean().backward()
        opt.step()
        opt.zero_grad()
    assert len(before)==2+4 and not any(map(torch.equal, before, sn.held_params()))
