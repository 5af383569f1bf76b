"What several test files use: learners without noise, comparisons, recorders, a network whose gradients are written out"
import functools, random
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
import pytest, torch
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.progress import ProgressCallback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.optimizer import SGD, Adam, OptimWrapper, ranger
from fastcore.foundation import L
from sklearn.datasets import load_digits
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from elastic_nets.subnets.supernet import Supernet

# ---- networks and data

def digits(size=8, dtype=torch.float64):
    "The pictures and labels of scikit-learn's digits"
    d = load_digits()
    x = torch.tensor(d.images/16, dtype=dtype)[:,None]
    return F.interpolate(x, size=(size,size)), torch.tensor(d.target)

def randomise(model, seed=0):
    "Random numbers in every tensor of `model`: zeros and ones hide errors"
    gen = torch.Generator().manual_seed(seed)
    for name,t in [*model.named_parameters(), *model.named_buffers()]:
        if not t.is_floating_point():
            t.data.fill_(3)
            continue
        r = torch.randn(t.shape, generator=gen, dtype=torch.float64).to(t)
        if name.endswith('var'): t.data = .5+r.abs()
        elif t.ndim==1: t.data = 1+.3*r
        else: t.data = r/max(1, t[0].numel())**.5
    return model

def two_layers(n=4):
    "Three numbers in, `n` hidden units, three classes; the middle is free for something else"
    return nn.Sequential(nn.Linear(3, n, bias=False), nn.Identity(), nn.Linear(n, 3, bias=False))

class HalfDropout(nn.Dropout):
    "Dropout without dice: every second channel is doubled and the others are zero, where it is on"
    def forward(self, x):
        if not self.training: return x
        kept = 2*(torch.arange(x.shape[1])%2).to(x)
        return x*kept.view(-1, *[1]*(x.ndim-2))

# ---- learners

def new_learner(
    model, # A module, or a function that makes it (after seeding)
    train, # Inputs and targets
    valid=None, # The same for validation; None takes `train`
    bs=16,
    loss=None, # None is cross-entropy
    opt=SGD, # Or Adam, or OptimWrapper around torch's SGD
    mom=.9,
    shuffle=False,
    space=None, # Options of a `Supernet`, which `learn.supernet` is then
    dtype=torch.float64, # Of the model, once the supernet has been traced
    seed=0,
    **kwargs, # Of the Learner
):
    "A Learner without a progress bar"
    torch.manual_seed(seed)
    random.seed(seed)
    model = model if isinstance(model, nn.Module) else model()
    def loader(xy, **kw): return DataLoader(list(zip(*xy)), bs=bs, **kw)
    dls = DataLoaders(loader(train, shuffle=shuffle), loader(valid or train), device='cpu')
    sn = None if space is None else Supernet(model, train[0][:2].to(next(model.parameters()).dtype), **space)
    opt = partial(OptimWrapper, opt=torch.optim.SGD, momentum=mom) if opt is OptimWrapper else partial(opt, mom=mom)
    learn = Learner(dls, model.to(dtype), loss_func=loss or nn.CrossEntropyLoss(), opt_func=opt, **kwargs)
    learn.remove_cbs(ProgressCallback)
    if sn is not None: learn.supernet = sn
    return learn

def quietly(learn, fit='fit', *args, **kwargs):
    "`learn` after `learn.fit(*args)` without a table of results"
    with learn.no_bar(), learn.no_logging(): getattr(learn, fit)(*args, **kwargs)
    return learn

optimizers = {'sgd': partial(SGD, mom=.9), 'adam': Adam, 'ranger': ranger,
              'adamw': partial(OptimWrapper, opt=torch.optim.AdamW)}

class Float32Loss(Callback):
    "fastai's Recorder wants a float32 loss; what is trained stays float64"
    def after_loss(self): self.learn.loss = self.loss.float()

class Steps(Callback):
    "One row per optimizer step: what the batch was, what the step was given, the weights before the batch and after it"
    order,run_valid = 30,False # after accumulation, unscaling and clipping
    def before_fit(self): self.rows = []
    def weights(self): return [p.detach().clone() for p in self.model.parameters()]
    def before_batch(self):
        self.now = SimpleNamespace(x=self.x, y=self.y, W=self.weights(), batch=self.epoch*self.n_iter+self.iter)
        training = getattr(self.learn, 'onion_training', None)
        if training is not None: self.now.nets, self.now.eps = training.nets, training.eps
    def before_step(self):
        self.now.grads = [None if p.grad is None else p.grad.clone() for p in self.model.parameters()]
        self.now.lr = float(self.opt.hypers[-1]['lr'])
        self.rows.append(self.now)
    def after_batch(self): self.now.end = self.weights()

class Scaled(MixedPrecision):
    "A gradient scaler that works on a CPU, without autocast: gradients must not change"
    def before_fit(self):
        self.autocast = torch.autocast('cpu', enabled=False)
        self.learn.scaler = torch.amp.GradScaler('cpu', init_scale=1024.)
        self.scales = L()

class Bf16(MixedPrecision):
    "bfloat16 on a CPU, where fastai's own trains in float32"
    def before_fit(self): self.autocast = torch.autocast('cpu', dtype=torch.bfloat16)

# ---- comparisons

def _lists(a, b): return [([a], [b]), (a, b)][isinstance(a, (list, tuple))]

def is_close(a, b, tol=1e-10):
    "Do two tensors, or two lists of tensors, differ by rounding only?"
    a, b = _lists(a, b)
    if len(a)!=len(b): return False
    return all(p.shape==q.shape and bool((p-q).abs().max() <= tol*max(1, q.abs().max())) for p,q in zip(a, b))

def close(a, b, what='', tol=1e-10):
    "Assert that two tensors, or two lists of tensors, differ by rounding only"
    a, b = _lists(a, b)
    for p,q in zip(a, b, strict=True):
        gap, most = (p-q).abs().max(), tol*max(1, q.abs().max())
        assert gap <= most, f'{what}: they differ by {gap:.2g}, more than {most:.2g}'

def differ(a, b, by=1e-4):
    "Assert that two tensors, or two lists of tensors, differ somewhere"
    a, b = _lists(a, b)
    assert any((p-q).abs().max() > by for p,q in zip(a, b, strict=True)), 'they are the same'

def same(a, b):
    "Do two dictionaries hold the same tensors, bit for bit?"
    return a.keys()==b.keys() and all(torch.equal(a[k], b[k]) for k in a)

def shapes(model): return [(n, t.shape) for n,t in model.state_dict().items()]

def fails(match, call, ex=ValueError):
    "Assert that `call()` raises `ex` with a message that has `match` (a regular expression) in it"
    with pytest.raises(ex, match=match): call()

# ---- a network by hand: W[0] is (units, 3) and W[1] is (3, units); its subnets are the first `h` units

def logits(h, W, x, mask=None):
    hidden = x @ W[0][:h].T
    if mask is not None: hidden = hidden*mask[:h]
    return hidden @ W[1][:,:h].T

def says(h, W, x): return logits(h, W, x).softmax(1)

def label(y): return F.one_hot(y, 3).double()

def grad(h, target, W, x, mask=None):
    "Gradients of the mean cross-entropy between `target` (a distribution per row) and what the first `h` units say"
    if mask is None: mask = torch.ones(len(W[0]), dtype=x.dtype)
    error = (logits(h, W, x, mask).softmax(1)-target)/len(x)
    hidden = x @ W[0][:h].T*mask[:h]
    res = [torch.zeros_like(w) for w in W]
    res[0][:h] = (error @ W[1][:,:h] * mask[:h]).T @ x
    res[1][:,:h] = error.T @ hidden
    return res

def add(*grads): return [sum(g) for g in zip(*grads)]
def times(a, grads): return [a*g for g in grads]
def minus(W, grads): return [w-g for w,g in zip(W, grads)]

def usage(hs, W):
    "How many of the networks with `hs` units own each weight"
    res = [torch.zeros_like(w) for w in W]
    for h in hs:
        res[0][:h] += 1
        res[1][:,:h] += 1
    return res

# ---- counting

@contextmanager
def _attention_as_products():
    "Attention computed by matrix products: fused kernels hide them, and each version of PyTorch hides others"
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH): yield
    finally: torch.backends.mha.set_fastpath_enabled(fast)

def counted_macs(f):
    "MACs of every matrix product and convolution that `f()` runs, counted by PyTorch below the layers"
    with _attention_as_products(), FlopCounterMode(display=False) as counter: f()
    return counter.get_total_flops()//2

@functools.cache
def compiles_in_place():
    "Does `Module.compile` compile here? With PyTorch 2.8 and Python 3.10 its own counter says no"
    counter, m = CompileCounter(), nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    m.compile(backend=counter)
    m(torch.ones(2, 4))
    torch._dynamo.reset()
    return counter.frame_count==1
