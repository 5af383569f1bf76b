"The models that the properties are tested on"
import functools
from collections import Counter
from dataclasses import dataclass
import timm, torch
from fastai.data.core import DataLoaders
from fastai.vision.learner import vision_learner
from fastai.vision.models.xresnet import xresnet18
from torch import nn
from torch.utils._pytree import tree_leaves
from torchvision import models as tv
from torchvision.models import segmentation as seg
from helpers import counted_macs

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
            if t.is_floating_point(): t.data = random_like(n, t)
        return m.eval()

    def xb(self, n=2): return torch.randn(n, 3, self.size, self.size, generator=torch.Generator().manual_seed(1))

def random_like(name, t):
    if name.endswith('var'): return .5+torch.rand_like(t)
    if t.ndim==1 and name.endswith('weight'): return 1+.3*torch.randn_like(t)
    return torch.randn_like(t)/max(4, t[0].numel() if t.ndim>1 else 0)**.5

def pooled(name):
    "With 2x2 instead of 6x6 or 7x7 positions before the first linear layer, which would be 100 million numbers"
    m = getattr(tv, name)(num_classes=10)
    i, first = next((i,l) for i,l in enumerate(m.classifier) if isinstance(l, nn.Linear))
    m.classifier[i] = nn.Linear(4*first.in_features//m.avgpool.output_size[0]**2, first.out_features)
    m.avgpool = nn.AdaptiveAvgPool2d(2)
    return m

def maxvit():
    "maxvit_t with windows of 2, which fit 64 pixels; its own of 7 need 224"
    return tv.MaxVit((64,64), 64, 2, [64,128,256,512], [2,2,5,2], 32, .2, num_classes=10)

def learner_s(arch):
    "The model of `vision_learner` on two random pictures"
    ds = [(torch.randn(3,64,64), torch.tensor(i)) for i in range(2)]
    dls = DataLoaders.from_dsets(ds, ds, bs=2, num_workers=0)
    return vision_learner(dls, arch, pretrained=False, normalize=False, n_out=10, loss_func=nn.CrossEntropyLoss()).model

def tv_case(name, size=64, kernels=(1,3), note='', **kw):
    return Case(name, functools.partial(getattr(tv, name), num_classes=10, **kw), size, kernels, note)

def large_case(name):
    "Another member of a family of torchvision's"
    if name.startswith('vgg'): return Case(name, lambda: pooled(name))
    return tv_case(name, **dict(image_size=64) if name.startswith('vit') else {})

def seg_case(name):
    return Case(name, functools.partial(getattr(seg, name), weights=None, weights_backbone=None, num_classes=5))

def timm_case(name, kernels=(1,3), note='', **kw):
    build = functools.partial(timm.create_model, name, num_classes=10, **kw)
    return Case(f'timm {name}', build, 64, kernels, note)

halves = 'chunk and shuffle tie the sizes of the halves'

cases = [
    Case('alexnet', lambda: pooled('alexnet')),
    *map(tv_case, ('convnext_tiny', 'densenet121', 'efficientnet_b0', 'efficientnet_v2_s')),
    tv_case('googlenet', init_weights=False),
    tv_case('inception_v3', 75, init_weights=False, aux_logits=False), # 299 pixels with its second classifier
    Case('maxvit_t', maxvit),
    *map(tv_case, ('mnasnet0_5', 'mobilenet_v2', 'mobilenet_v3_small', 'regnet_x_400mf', 'regnet_y_400mf')),
    *map(tv_case, ('resnet18', 'resnext50_32x4d')),
    tv_case('shufflenet_v2_x0_5', note=halves),
    tv_case('squeezenet1_1'),
    tv_case('swin_t', kernels=None),
    tv_case('swin_v2_t', kernels=None),
    Case('vgg11', lambda: pooled('vgg11')),
    tv_case('vit_b_16', kernels=None, image_size=64),
    tv_case('wide_resnet50_2'),
    *map(seg_case, ('deeplabv3_mobilenet_v3_large', 'fcn_resnet50', 'lraspp_mobilenet_v3_large')),
    Case('fastai xresnet18', lambda: xresnet18(n_out=10)),
    Case('vision_learner resnet18', lambda: learner_s(tv.resnet18)),
    Case('vision_learner mobilenetv3_small_050', lambda: learner_s('mobilenetv3_small_050')),
    *map(timm_case, ('convnext_atto', 'efficientnet_b0', 'ghostnet_050')),
    timm_case('mixer_s32_224', kernels=None, img_size=64, note='the number of positions is that of the picture'),
    *map(timm_case, ('mobilenetv3_small_050', 'regnety_002', 'resnetv2_50')),
    timm_case('vit_tiny_patch16_224', kernels=None, img_size=64),
]
zoo = {c.name: c for c in cases}

def outputs(model, xb): return [o for o in tree_leaves(model(xb)) if isinstance(o, torch.Tensor)]

@torch.no_grad()
def count_macs(model, xb):
    "MACs of every convolution and linear layer that ran, for one sample: by hooks, from what went in and came out"
    res, layers = Counter(), (nn.Conv1d, nn.Conv2d, nn.Linear)
    def count(m, x, y, n): res[n] += y.numel()*m.weight[0].numel()//len(xb)
    named = [(n,m) for n,m in model.named_modules() if isinstance(m, layers)]
    hooks = [m.register_forward_hook(functools.partial(count, n=n)) for n,m in named]
    try: model(xb)
    finally:
        for h in hooks: h.remove()
    return dict(res)

@torch.no_grad()
def all_macs(model, xb):
    "MACs of every matrix product and convolution, those inside attention too"
    return counted_macs(lambda: model.eval()(xb))
