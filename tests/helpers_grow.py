"What the tests of growing share: networks, learners that grow, recorders"
import copy
from functools import partial
import torch
from fastai.callback.core import CancelFitException, Callback
from fastai.callback.progress import ProgressCallback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from torch import nn
from torchvision.models import DenseNet, SqueezeNet
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from elastic_nets.channels.place import locate
from elastic_nets.channels.surgery import full_shape, written_out
from elastic_nets.channels.trace import trace_channels
from elastic_nets.zoo.data import digits_dls
from elastic_nets.zoo.models import mobilenet_cifar, resnet_cifar, vit

class Odd(nn.Module):
    "Transposed and grouped convolutions, group norm, PReLU, a shared layer, flattened maps"
    def __init__(self, groups=4):
        super().__init__()
        self.down, self.gn, self.act = nn.Conv2d(3, 8, 3, 2, 1), nn.GroupNorm(groups, 8), nn.PReLU(8)
        self.grouped, self.up = nn.Conv2d(8, 8, 3, padding=1, groups=4), nn.ConvTranspose2d(8, 12, 2, 2)
        self.same, self.scale = nn.Conv2d(12, 12, 1), nn.Parameter(torch.ones(1, 12, 1, 1))
        self.head = nn.Linear(12*16, 5)
    def forward(self, x):
        x = self.up(self.grouped(self.act(self.gn(self.down(x)))))
        x = x + self.scale*self.same(torch.relu(self.same(x)))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1))

class SE(nn.Module):
    "Squeeze and excitation, concatenation, flatten then linear"
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 12, 3, padding=1)
        self.down, self.up, self.dw = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, groups=8)
        self.mix, self.head = nn.Conv2d(20, 10, 3, padding=1), nn.Linear(10*9, 5)
    def forward(self, x):
        a = self.a(x)
        a = a*torch.sigmoid(self.up(torch.relu(self.down(a.mean((2,3), keepdim=True)))))
        x = self.mix(torch.cat([torch.relu(self.dw(a)), self.b(x)[...,1:-1,1:-1]], 1))
        return self.head(nn.functional.adaptive_avg_pool2d(torch.relu(x), 3).flatten(1))

nets = {'se': SE, 'odd': Odd, 'odd1': lambda: Odd(1), 'resnet': lambda: resnet_cifar(8, width=8),
        'mobilenet2': lambda: mobilenet_cifar(2, width=.25), 'vit': lambda: vit(img=16, dim=24, depth=2, heads=2),
        'densenet': lambda: DenseNet(8, (2,2), 16, 2, num_classes=10), 'squeezenet': lambda: SqueezeNet('1_1', 10),
        'convnext': lambda: ConvNeXt([CNBlockConfig(16, 24, 2), CNBlockConfig(24, None, 1)], num_classes=10)}

def fresh(name, seed=0):
    "A network without zeros and ones that hide mistakes, in float64 and eval mode, a batch for it, and its graph"
    torch.manual_seed(seed)
    m = nets[name]().double().eval()
    for p in [*m.parameters(), *m.buffers()]:
        if p.is_floating_point() and p.ndim<2: p.data = .5+torch.rand_like(p)
    size = 64 if name in ('densenet','squeezenet') else 16
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    return m, x, trace_channels(m, x.float())

def indices(graph, name, keep, p):
    "For each dimension of tensor `p`, called `name`, where a network with the channels `keep` lies in the whole one"
    return written_out(locate(graph, width=keep), name, full_shape(graph, name, p))

def at(graph, name, keep, p):
    "Where the entries of a tensor with `keep` channels lie in the whole one, `p`"
    return torch.meshgrid(*indices(graph, name, keep, p), indexing='ij')

data = partial(digits_dls, bs=128, device='cpu')

def few():
    "Loaders of eight small batches, for fits in which nothing is to be learned"
    return DataLoaders(*[dl.new(n=n) for dl,n in zip(digits_dls(bs=8, device='cpu').loaders, (64,16))], device='cpu')

def net(): return resnet_cifar(8, width=8, n_in=1)

def deep(): return vit(img=8, patch=2, dim=24, depth=4, heads=2, n_in=1, drop_path=.1)

def flat(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))

def learner(model=None, dls=None, **kwargs):
    "A learner of digits without a progress bar"
    torch.manual_seed(0)
    return Learner(dls or data(), model or net(), **kwargs).remove_cb(ProgressCallback)

def shapes(model): return {n: p.shape for n,p in model.state_dict().items()}

def values(model): return copy.deepcopy(model.state_dict())

def is_as(model, before): # the same tensors, bit for bit
    now = model.state_dict()
    return now.keys()==before.keys() and all(torch.equal(p, before[n]) for n,p in now.items())

def all_move(learn_or_step, model):
    "Does every parameter of `model` move?"
    was = [p.detach().clone() for p in model.parameters()]
    learn_or_step()
    return all(not torch.equal(p, q) for p,q in zip(model.parameters(), was))

class Stop(Callback):
    "The first epoch is the last"
    def after_epoch(self): raise CancelFitException

class StopInEpoch(Callback):
    "A fit that is cancelled in the middle of its third epoch"
    def after_batch(self):
        if self.training and self.epoch==2 and self.iter==1: raise CancelFitException

class Watch(Callback):
    "What every training batch held, the width it met, and the parameters that have moved"
    order,run_valid = 100,False
    def before_fit(self):
        self.ys, self.sizes, self.last_format, self.moved = [], [], [], set()
        self.first = list(self.learn.model.parameters())
    def before_batch(self):
        self.ys.append(self.y.tolist())
        self.sizes.append(self.learn.model[0][0].out_channels)
        self.was = [p.detach().clone() for p in self.first]
        convs = [p for p in self.first if p.ndim==4 and p.shape[1]>1]
        self.last_format.append(all(p.is_contiguous(memory_format=torch.channels_last) for p in convs))
    def after_grow(self): self.was = [p.detach().clone() for p in self.first]
    def after_step(self):
        pairs = enumerate(zip(self.first, self.was))
        self.moved |= {(tuple(p.shape), i) for i,(p,q) in pairs if not torch.equal(p, q)}
