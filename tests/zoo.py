"The models that the properties are tested on, and the coverage table's row of each"
import copy, functools, re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
import timm, torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torch.utils._pytree import tree_leaves
from torchvision import models as tv
from torchvision.models import segmentation as seg
from elastic_nets.supernet import Supernet

table = Path(__file__).resolve().parent.parent/'docs/coverage.md'

@dataclass(frozen=True)
class Case:
    "One model: how it is built, what it takes, and why some of it stays frozen"
    name:str
    build:object # Function without arguments
    size:int=64 # Side of its input in pixels
    kernels:tuple=(1,3) # None where no convolution can be cropped
    note:str='' # Why a part is frozen, for the reader of the table; empty where nothing is

    def model(self, seed=0):
        "With random numbers in every tensor: fresh networks hide errors behind zeros and ones"
        torch.manual_seed(seed)
        m = self.build()
        for n,t in [*m.named_parameters(), *m.named_buffers()]:
            if t.is_floating_point(): t.data = _random(n, t)
        return m.eval()

    def xb(self, n=2): return torch.randn(n, 3, self.size, self.size, generator=torch.Generator().manual_seed(1))

def _random(name, t):
    if name.endswith('var'): return .5+torch.rand_like(t)
    if t.ndim==1 and name.endswith('weight'): return 1+.3*torch.randn_like(t)
    return torch.randn_like(t)/max(4, t[0].numel() if t.ndim>1 else 0)**.5

def _learner(arch):
    "The model of `vision_learner` on two random pictures"
    from fastai.data.core import DataLoaders
    from fastai.vision.learner import vision_learner
    ds = [(torch.randn(3,64,64), torch.tensor(i)) for i in range(2)]
    return vision_learner(DataLoaders.from_dsets(ds, ds, bs=2, num_workers=0), arch, pretrained=False, normalize=False, n_out=10, loss_func=nn.CrossEntropyLoss()).model

def _xresnet():
    from fastai.vision.models.xresnet import xresnet18
    return xresnet18(n_out=10)

_heads = 'attention splits query, key and value into heads by a view: their width stays, and the MLP inside a block does not'

def _tv(name, size=64, kernels=(1,3), note='', **kw): return Case(name, functools.partial(getattr(tv, name), num_classes=10, **kw), size, kernels, note)
def _pooled(name):
    "With 2x2 instead of 6x6 or 7x7 positions before the first linear layer, which would be 100 million numbers"
    m = getattr(tv, name)(num_classes=10)
    i,l = next((i,l) for i,l in enumerate(m.classifier) if isinstance(l, nn.Linear))
    m.classifier[i] = nn.Linear(4*l.in_features//m.avgpool.output_size[0]**2, l.out_features)
    m.avgpool = nn.AdaptiveAvgPool2d(2)
    return m

def _maxvit():
    "maxvit_t with windows of 2, which fit 64 pixels; its own of 7 need 224"
    return tv.MaxVit((64,64), 64, 2, [64,128,256,512], [2,2,5,2], 32, .2, num_classes=10)

def _seg(name): return Case(name, functools.partial(getattr(seg, name), weights=None, weights_backbone=None, num_classes=5))
def _timm(name, kernels=(1,3), note='', **kw): return Case(f'timm {name}', functools.partial(timm.create_model, name, num_classes=10, **kw), 64, kernels, note)

zoo = {c.name: c for c in [
    Case('alexnet', lambda: _pooled('alexnet')), _tv('convnext_tiny'), _tv('densenet121'), _tv('efficientnet_b0'), _tv('efficientnet_v2_s'),
    _tv('googlenet', init_weights=False),
    _tv('inception_v3', 75, init_weights=False, aux_logits=False),  # the smallest input; its second classifier needs 299
    Case('maxvit_t', _maxvit, note=_heads),
    _tv('mnasnet0_5'), _tv('mobilenet_v2'), _tv('mobilenet_v3_small'), _tv('regnet_x_400mf'), _tv('regnet_y_400mf'),
    _tv('resnet18'), _tv('resnext50_32x4d'),
    _tv('shufflenet_v2_x0_5', note='chunk and shuffle tie the sizes of the halves'),
    _tv('squeezenet1_1'),
    _tv('swin_t', kernels=None, note=_heads), _tv('swin_v2_t', kernels=None, note=_heads),
    Case('vgg11', lambda: _pooled('vgg11')),
    _tv('vit_b_16', kernels=None, note=_heads, image_size=64),
    _tv('wide_resnet50_2'),
    *map(_seg, ('deeplabv3_mobilenet_v3_large', 'fcn_resnet50', 'lraspp_mobilenet_v3_large')),
    Case('fastai xresnet18', _xresnet),
    Case('vision_learner resnet18', lambda: _learner(tv.resnet18)),
    Case('vision_learner mobilenetv3_small_050', lambda: _learner('mobilenetv3_small_050')),
    _timm('convnext_atto'), _timm('efficientnet_b0'), _timm('ghostnet_050'), _timm('mixer_s32_224', kernels=None, img_size=64),
    _timm('mobilenetv3_small_050'), _timm('regnety_002'), _timm('resnetv2_50'),
    _timm('vit_tiny_patch16_224', kernels=None, note=_heads, img_size=64),
]}

def outputs(model, xb): return [o for o in tree_leaves(model(xb)) if isinstance(o, torch.Tensor)]

@torch.no_grad()
def count_macs(model, xb):
    "MACs of every convolution and linear layer that ran, for one sample: by hooks, from what went in and came out"
    res = Counter()
    def count(m, x, y, n): res[n] += y.numel()*m.weight[0].numel()//len(xb)
    hs = [m.register_forward_hook(functools.partial(count, n=n)) for n,m in model.named_modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Linear))]
    try: model(xb)
    finally:
        for h in hs: h.remove()
    return dict(res)

def all_macs(model, xb):
    "MACs of every matrix product and convolution, those inside attention too"
    with FlopCounterMode(display=False) as f: model.eval()(xb)
    return f.get_total_flops()//2
def coverage_row(c,sn): return ''
def write_row(r): pass
