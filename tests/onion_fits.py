"A small learner with a supernet on scikit-learn's digits, and what each of its steps was"
from functools import partial
import torch
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.optimizer import SGD
from torch import nn
from torch.nn import functional as F
from elastic_nets.zoo.models import resnet_cifar
from elastic_nets.shrink.methods import delayed_shrinking
from elastic_nets.subnets.supernet import Supernet
from sklearn.datasets import load_digits

torch.set_num_threads(1)
epochs, n_batches, bs, start, ramp, lr = 3, 6, 16, 8, 6, 0.05  # shrinking starts in the middle of the second epoch
recipe = delayed_shrinking(k=4, warmup=start / (epochs * n_batches), ramp=ramp / (epochs * n_batches))

def data(dtype=torch.float64, size=8):
    d = load_digits()
    x, y = torch.tensor(d.images / 16, dtype=dtype)[:, None], torch.tensor(d.target)
    return F.interpolate(x, size=(size, size)), y

def new_learner(
    dtype=torch.float64, size=8, loss_func=nn.CrossEntropyLoss(), make=partial(resnet_cifar, 8, n_in=1), **space
):
    torch.manual_seed(0)
    x, y = data(dtype, size)
    dl = lambda a, b: DataLoader(list(zip(x[a:b], y[a:b])), bs=bs)
    dls = DataLoaders(dl(0, n_batches * bs), dl(600, 664), device='cpu')
    model = make()
    sn = Supernet(model, torch.randn(2, 1, size, size), **(space or dict(depths=(0, 1))))
    learn = Learner(dls, model.to(dtype), loss_func=loss_func, metrics=accuracy, opt_func=partial(SGD, mom=0.9))
    learn.remove_cbs(ProgressCallback)
    learn.supernet = sn
    return learn

class Shown(Callback):
    "fastai's Recorder wants a float32 loss; what is trained stays float64"

    def after_loss(self):
        self.learn.loss = self.loss.float()

def fit(learn, *cbs, n=epochs, **kwargs):
    with learn.no_logging():
        learn.fit(n, lr, cbs=[Shown(), *cbs], **kwargs)

class Steps(Callback):
    "What each optimizer step is given"

    order, run_valid = 30, False

    def before_fit(self):
        self.grads, self.eps, self.subnets, self.batch = [], [], [], []

    def before_step(self):
        cb = self.onion_training
        self.grads.append([None if p.grad is None else p.grad.clone() for p in self.model.parameters()])
        self.eps.append(cb.eps)
        self.subnets.append(cb.nets[1:])
        self.batch.append(self.epoch * n_batches + self.iter)
