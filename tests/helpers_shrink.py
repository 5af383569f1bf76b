"A learner in float64 whose network is small enough for gradients by hand, and what every batch of a fit was"

import warnings
from types import SimpleNamespace
import torch
import helpers
from fastai.callback.core import Callback
from fastai.optimizer import SGD
from torch import nn
from elastic_nets.shrink.recipe import Construct, Recipe
from elastic_nets.shrink.training import OnionTraining
from helpers import Float32Loss, two_layers

torch.set_num_threads(1)
bs, n_batches, lr = 8, 4, 0.1
gen = torch.Generator().manual_seed(0)
x = torch.randn(n_batches * bs, 3, generator=gen, dtype=torch.float64)
y = torch.randint(3, (n_batches * bs,), generator=gen)
batches = [(x[i * bs :][:bs], y[i * bs :][:bs]) for i in range(n_batches)]
mask = torch.tensor([0.0, 2.0, 0.0, 2.0], dtype=x.dtype)  # of `HalfDropout`, for four units
all_four = Construct(k=4, levels=4)
base = Recipe(all_four)

def lopsided():
    "The last unit matters most"
    model = two_layers()
    with torch.no_grad():
        model[2].weight[:, 3] *= 5
    return model

def with_norm():
    return nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3, bias=False))

def three_layers():
    first, second, last = nn.Linear(3, 8, bias=False), nn.Linear(8, 8, bias=False), nn.Linear(8, 3, bias=False)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)

def line(*layers):  # three numbers as a picture of one channel
    return nn.Sequential(nn.Unflatten(1, (1, 3)), *layers, nn.Flatten(), nn.Linear(12, 3))

def conv_norm():
    return line(nn.Conv1d(1, 4, 3, padding=1, bias=False), nn.BatchNorm1d(4), nn.ReLU())

def matrices_net():
    return line(nn.Conv1d(1, 4, 5, padding=2, bias=False), nn.BatchNorm1d(4), nn.ReLU())

class Skip(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.conv = nn.Conv1d(n, n, 3, padding=1, bias=False)

    def forward(self, x):
        return x + self.conv(x).relu()

def elastic_everywhere():
    return line(nn.Conv1d(1, 4, 3, padding=1, bias=False), nn.Sequential(Skip(4)))

def new_learner(
    make=two_layers, opt=SGD, y=y, bs=bs, xs=x, loss=None, mom=0.0, metrics=(), path=None, shuffle=False, **space
):
    "A learner with a supernet of four widths, or of what `space` says; nothing is shuffled"

    def seeded():
        return make().double()

    learn = helpers.new_learner(
        seeded,
        (xs, y),
        bs=bs,
        loss=loss,
        opt=opt,
        mom=mom,
        shuffle=shuffle,
        path=path,
        metrics=metrics,
        space=dict(widths=(0.25, 0.5, 0.75, 1.0)) | space,
    )
    return learn

class Noted(Callback):
    "A row per batch: its networks, weights at its start and end, and what its optimizer step was given"

    order, run_valid = 30, False

    def before_fit(self):
        self.rows = []

    def weights(self):
        return [p.detach().clone() for p in self.model.parameters()]

    def before_batch(self):
        cb = self.onion_training
        h = [s.width.get('0') for s in cb.nets]
        self.rows.append(SimpleNamespace(nets=cb.nets, h=h, eps=cb.eps, W=self.weights(), x=self.x, y=self.y))

    def before_step(self):
        row = self.rows[-1]
        row.grads = [None if p.grad is None else p.grad.clone() for p in self.model.parameters()]
        row.lr = float(self.opt.hypers[-1]['lr'])

    def after_batch(self):
        self.rows[-1].end = self.weights()

def fit(learn, rec, n=1, lr=lr, cbs=(), fit='fit', start_epoch=0, **kwargs):
    "What every batch of a fit by `rec` was"
    log, cb = Noted(), OnionTraining(rec, **dict(watch=(), estimate=False) | kwargs)
    resumed = dict(start_epoch=start_epoch) if start_epoch else {}
    with learn.no_logging():
        getattr(learn, fit)(n, lr, cbs=[cb, log, Float32Loss(), *cbs], **resumed)
    return log.rows

def close(a, b, what='', eps=1e-12):
    helpers.close([*a], [*b], what, tol=eps)

def usage(hs):
    "Networks that own each weight of `two_layers`"
    return helpers.usage(hs, [torch.zeros(4, 3, dtype=x.dtype), torch.zeros(3, 4, dtype=x.dtype)])

def said_by(learn, cb, n, lr=lr):
    "What a fit prints before its table"
    said = []
    learn.logger = lambda s: said.append(s) if isinstance(s, str) else None
    learn.fit(n, lr, cbs=[cb, Float32Loss()])
    return said

def warnings_of(call):
    "What `call()` warns of"
    with warnings.catch_warnings(record=True) as got:
        warnings.simplefilter('always')
        call()
    return [str(w.message) for w in got]
