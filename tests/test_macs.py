"MACs of whole networks and of subnets, attention's products included, are those that PyTorch counts below the layers"
import pytest, timm, torch, torchvision
from torch import nn
from elastic_nets.subnets.budgets import Costs
from elastic_nets.subnets.cost import layer_macs, macs
from elastic_nets.subnets.supernet import Supernet
from helpers import counted_macs
from zoo import zoo

class Products(nn.Module):
    "Each kind of product that is no layer"
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(6,8), nn.ReLU(), nn.Linear(8,6)) # sums over activations freeze the rest
        self.a, self.b = nn.Linear(6,8), nn.Linear(6,8)
        self.w, self.k = nn.Parameter(torch.rand(8,8)), nn.Parameter(torch.rand(3,8,3))
        self.inner = nn.Linear(8,8)
        self.scaled = nn.utils.parametrizations.weight_norm(nn.Linear(8,4))
    def forward(self, x): # (batch, 5, 6)
        x = self.first(x)
        q, k = self.a(x), self.b(x)
        y = self.inner(torch.einsum('bnc,bmc->bnm', q, k) @ k + torch.bmm(q @ k.transpose(1,2), k))
        y = torch.baddbmm(y, y, self.w.expand(len(x),-1,-1)) + nn.functional.linear(y, self.w)
        z = nn.functional.conv1d(y.transpose(1,2), self.k, padding=1)
        return self.scaled(y), z, torch.einsum('...c,cd,de->...e', y, self.w, self.w)[...,:2]

def encoder():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return nn.Sequential(nn.Linear(6,16), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16,3))

def picture(name): return lambda: zoo[name].model(), lambda: zoo[name].xb(1)
def sequence(build): return build, lambda: torch.randn(1,5,6)
def small_timm(name, img, **kw):
    return lambda: timm.create_model(name, num_classes=4, img_size=img, **kw), lambda: torch.randn(1,3,img,img)

CASES = {
    'products': sequence(Products), 'encoder': sequence(encoder),
    **{n: picture(n) for n in ('swin_t','vit_b_16','convnext_tiny','lraspp_mobilenet_v3_large','shufflenet_v2_x0_5')},
    **{n: picture(n) for n in ('timm vit_tiny_patch16_224','timm mixer_s32_224','timm convnext_atto')},
    'deit': small_timm('deit_tiny_distilled_patch16_224', 32, depth=2),
    'eva02': small_timm('eva02_tiny_patch14_224', 28, depth=2),
}

@pytest.mark.parametrize('case', CASES)
def test_macs_are_those_of_pytorch(case):
    build, batch = CASES[case]
    torch.manual_seed(0)
    m, xb = build().eval(), batch()
    sn = Supernet(m, xb, depths=(0.,.5,1.), check=False)
    costs = Costs(sn)
    for s in (sn.space.max, sn.space.min, *map(sn.space.sample, range(2))):
        small = sn.extract(s).eval()
        with torch.no_grad(): want = counted_macs(lambda: small(xb))
        assert abs(sn.macs(s)/want-1) < 1e-3, (sn.macs(s), want)
        assert layer_macs(small, xb)==layer_macs(sn, s)==costs.layer_macs(s)
        with sn.active(s): assert macs(m, xb)==sn.macs(s)

def test_at_another_resolution():
    m = torchvision.models.swin_t(num_classes=4)
    sn = Supernet(m, torch.randn(1,3,64,64), resolutions=(64,96), check=False)
    for s in (sn.space.min, sn.space.max):
        small, xb = sn.extract(s).eval(), torch.randn(1,3,s.resolution,s.resolution)
        with torch.no_grad(): assert sn.macs(s)==counted_macs(lambda: small(xb))==Costs(sn).macs(s)
