"The models that the properties are tested on, and the coverage table's row of each"
import functools, re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
import timm, torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torch.utils._pytree import tree_leaves
from torchvision import models as tv
from torchvision.models import segmentation as seg
from elastic_nets.grow.deepen import like_blocks

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

@torch.enable_grad() # without gradients torch's attention is one operation that nobody counts
def all_macs(model, xb):
    "MACs of every matrix product and convolution, those inside attention too"
    with FlopCounterMode(display=False) as f: model.eval()(xb)
    return f.get_total_flops()//2

outs = ("the network's output", 'GoogLeNetOutputs in the network: no rule for it') # GoogLeNet packs its outputs into a tuple of its own

def facts(case, sn):
    "What the coverage table says of one model; its frozen groups as reason -> names, without the network's output"
    g, s, xb = sn.graph, sn.space, case.xb(1)
    nets = [sn.extract(t) for t in (s.min, s.uniform(width=.25), s.max)]
    small, narrow, full = [all_macs(m, xb) for m in nets]
    n, half = sn.n_params(s.max), sn.n_params(s.uniform(width=.5))
    frozen = {}
    for x in g.groups.values():
        if x.why and x.why not in outs: frozen.setdefault(re.sub(r' in (the network|[\w.]+)', '', x.why), []).append(x.name)
    return dict(pixels=case.size, elastic=len(g.elastic), groups=len(g.elastic)+sum(map(len, frozen.values())), units=sum(x.unit>1 for x in g.elastic.values()),
                **g.share(sn.model), grown=(n-half)/n, blocks=sum(map(len, g.stages.values())), add=sum(len(p)-1 for p in like_blocks(nets[-1], g).values()),
                small=small/full, narrow=narrow/full, frozen=frozen)

def coverage_row(case, f):
    "`facts` as a row of the table"
    why = '; '.join(f'{r}: `{ns[0]}`'+(f' and {len(ns)-1} more' if ns[1:] else '') for r,ns in f['frozen'].items())
    why = '. '.join(x for x in (case.note, why) if x)
    blocks = f"{f['add']} of {f['blocks']}" if f['blocks'] else ''
    return (f"| {case.name} | {f['pixels']} | {f['elastic']} of {f['groups']} | {f['units'] or ''} | {f['params']:.2f} | {f['macs']:.2f} | {f['grown']:.2f} "
            f"| {blocks} | {f['narrow']:.3f} | {f['small']:.3f} | {why} |")

def model_of(row): return row.split('|')[1].strip()

def rows(): return [l for l in table.read_text(encoding='utf-8').splitlines() if l.startswith('| ') and model_of(l)!='model'] if table.exists() else []

def write_row(row):
    "Put `row` in its place in the table"
    rs = {model_of(r):r for r in [*rows(), row]}
    table.parent.mkdir(exist_ok=True)
    table.write_text(head+'\n'.join(rs[n] for n in zoo if n in rs)+'\n', encoding='utf-8')

head = '''# Coverage

> How much of which network is elastic

Every row is a test: on each of these models the full subnet equals the original bit for bit, an active subnet equals the extracted one, gradients reach only
the active part, copies and state dicts survive, sorting channels changes no output, MACs are those counted on the extracted network, and a wrong index
fails the check. A network of width .5 computes the same after it has grown, as long as nobody reads the new channels, or if they are copies (Net2Net; bert2BERT where
a norm reduces over them); one of depth .5, if the last layers of the new blocks are zero. `make coverage` writes this page, and the tests hold it.

- *groups*: groups of channels whose number can be chosen, of all but the network's output. *in units*: how many of them move several channels at a time
  (grouped convolutions move whole groups).
- *parameters*, *MACs*: share that belongs to layers with elastic channels; MACs of layers that run as modules, so without the projections inside
  torchvision's attention.
- *grown*: share of all parameters that growth adds to the network of width .5.
- *blocks*: residual blocks that growth in depth can add, of those that may be dropped. A new block is a copy of the one before it: the first of each kind stays
  (Swin's alternate between two kinds).
- *narrow*, *smallest*: MACs of the subnet of width .25, and of the smallest one (width .25, kernels of 1, no block that may be dropped), over those of the full
  network. Every matrix product and convolution counts, those inside attention too. A model counts as elastic where the smallest has at most half: all of these.
- *frozen*: which channels keep their number, by the layer that makes them, and why.

| model | pixels | groups | in units | parameters | MACs | grown | blocks | narrow | smallest | frozen |
|---|---|---|---|---|---|---|---|---|---|---|
'''
