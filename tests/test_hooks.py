"A hook on any parameter sees the gradient of the active subnet, whatever the size of the layer, and may change it"
import pytest, torch
from hypothesis import given, settings, strategies as st
from torch import nn
from elastic_nets.all import Supernet
from helpers import close

def network(n, kind, seed):
    torch.manual_seed(seed)
    if kind=='linear': m, x = nn.Sequential(nn.Linear(64, n), nn.Tanh(), nn.Linear(n, 10)), torch.randn(4, 64)
    else:
        layers = nn.Conv2d(3, n//4, 3), nn.BatchNorm2d(n//4), nn.ReLU(), nn.Conv2d(n//4, n//4, 3), nn.Flatten()
        m = nn.Sequential(*layers)
        x = torch.randn(4, 3, 6, 6)
    return Supernet(m.double(), x.double(), widths=(.25,.5,1.)), m, x.double()

@settings(max_examples=25, deadline=None)
@given(n=st.sampled_from([8, 100, 512, 600]), kind=st.sampled_from(['linear','conv']), seed=st.integers(0, 99),
       share=st.sampled_from([.25,.5,1.]))
def test_hooks_see_and_masks_work(n, kind, seed, share):
    sn, m, x = network(n, kind, seed)
    params, g = [*m.parameters()], torch.Generator().manual_seed(seed)
    def backward():
        for p in params: p.grad = None
        with sn.active(sn.space.uniform(share)): m(x).square().sum().backward()
        return [p.grad.clone() for p in params]
    plain = backward()
    masks = [torch.rand(p.shape, generator=g, dtype=p.dtype).round() for p in params]
    seen = {}
    def hook(i): return lambda grad: (seen.setdefault(i, []).append(grad.clone()), grad*masks[i])[1]
    handles = [p.register_hook(hook(i)) for i,p in enumerate(params)]
    masked = backward()
    for h in handles: h.remove()
    close([sum(seen[i]) for i in range(len(params))], plain, 'what hooks see')
    close(masked, [a*b for a,b in zip(plain, masks)], 'what is left')
    close(backward(), plain, 'once they are gone')

@pytest.mark.parametrize('n', [8, 600])
def test_hooks_after_accumulation_see_the_gradient(n):
    sn, m, x = network(n, 'linear', 0)
    seen = []
    handle = m[0].weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    with sn.active(sn.space.min): m(x).sum().backward()
    handle.remove()
    assert len(seen)>0 and torch.equal(seen[-1], m[0].weight.grad)
