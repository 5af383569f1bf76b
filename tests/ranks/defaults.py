"`distrib_ctx` as it comes: gradients, messages, growth and checkpoints of the processes, each into a file of its own"
import os, sys, warnings
from functools import partial
from pathlib import Path
import torch
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.distributed import DistributedTrainer # noqa: F401, adds distrib_ctx
from fastai.learner import Learner
from fastai.optimizer import SGD
from fastai.torch_core import set_seed
from torch import nn
from torch.profiler import ProfilerActivity, profile
from elastic_nets.all import (
    ByImportance, Construct, Delayed, ElasticCheckpoint, Gradient, GrowDepth, GrowWidth, OnionTraining, Recipe,
    Supernet, resnet_cifar, seeded_onion, slimmable, us_net)
from elastic_nets.use import checkpoint
from helpers import Float32Loss

folder, two = Path(sys.argv[1]), 'RANK' in os.environ
rank = int(os.environ.get('RANK', 0))
torch.set_num_threads(1)
g = torch.Generator().manual_seed(0)
x, y = torch.randn(64, 3, generator=g, dtype=torch.double), torch.randint(3, (64,), generator=g)
x[32:] *= 4 # one process has the large losses
pictures = torch.randn(64, 1, 8, 8, generator=g)

def mlp(): return nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)).double()
def cnn(): return resnet_cifar(14, width=4, n_in=1, n_classes=3)

def learner(model, xs=x, space=None, shuffle=False):
    "Batches of one process are those of two, side by side"
    order = range(64) if two else [r*32+b*8+i for b in range(4) for r in (0,1) for i in range(8)]
    def loader(**kw): return DataLoader([(xs[i], y[i]) for i in order], bs=8 if two else 16, **kw)
    set_seed(0) # the loader's order is drawn when it is made
    dls = DataLoaders(loader(shuffle=shuffle), loader(), device='cpu')
    learn = Learner(dls, model(), loss_func=nn.CrossEntropyLoss(), opt_func=partial(SGD, mom=.9))
    if space: learn.supernet = Supernet(learn.model, xs[:2], **space)
    return learn.remove_cb(ProgressCallback)

def fit(learn, *cbs, n=3):
    alone_or_not = learn.distrib_ctx(cpu=True) if two else learn.no_bar()
    with alone_or_not, learn.no_logging(): learn.fit_one_cycle(n, .05, cbs=[*cbs])
    return [t.detach().clone() for t in learn.model.state_dict().values()]

class Seen(Callback):
    "Gradients and networks of each step, and the all-reduces that it took"
    order = 30
    def before_fit(self): self.grads, self.nets, self.messages = [], [], []
    def before_backward(self):
        self.profile = profile(activities=[ProfilerActivity.CPU])
        self.profile.__enter__()
    def before_step(self):
        self.grads.append([p.grad.clone() for p in self.model.parameters()])
        if hasattr(self.learn, 'onion_training'):
            self.nets.append([net.to_json() for net in self.learn.onion_training.nets])
    def after_step(self):
        self.profile.__exit__(None, None, None)
        self.messages.append(sum(e.name=='c10d::allreduce_' for e in self.profile.events()))

class LateFloat32Loss(Float32Loss): order = 49 # after all that look at the loss, and before the Recorder

hard = Gradient('hard')
widths = dict(widths=(.25,.5,.75,1.))
some = dict(
    grow=(mlp, None, lambda: GrowWidth(start=.5, stages=3)),
    sum=(mlp, widths, lambda: OnionTraining(us_net(), estimate=False)),
    odds=(mlp, widths, lambda: OnionTraining(Recipe(Construct(k=3, odds=ByImportance), hard), estimate=False)))

def compared():
    "What one process and two should have alike"
    for name,(model,space,cb) in some.items():
        seen = Seen()
        end = fit(learner(model, space=space), cb(), LateFloat32Loss(), seen)
        torch.save((seen.grads, end, seen.nets, seen.messages), folder/f'{name}{rank if two else ""}')

class OwnDice(Callback):
    "No process throws what another one does"
    def before_fit(self): torch.manual_seed(rank)

class Dies(Callback):
    order = 90
    def after_batch(self):
        if self.training and self.learn.train_iter==7: raise KeyboardInterrupt

shrinking = Recipe(Construct(k=3), schedule=Delayed(.3, .3))
fits = dict(
    width=(None, lambda: GrowWidth(start=.5, stages=3)), depth=(None, lambda: GrowDepth()),
    delayed=(dict(widths=(.25,.5,1.)), lambda: OnionTraining(shrinking, estimate=False)),
    seeded=(dict(widths=(.25,.5,1.)), lambda: OnionTraining(seeded_onion(k=3), estimate=False)),
    private=(dict(widths=(.5,1.)), lambda: OnionTraining(slimmable(k=2), estimate=False)))

class Written:
    "Counts the files that this process writes"
    def __init__(self): self.n, self.write, checkpoint.write_whole = 0, checkpoint.write_whole, self
    def __call__(self, *args):
        self.n += 1
        self.write(*args)

def interrupted():
    "Fits of networks with batch norm that die and go on, beside fits that nobody disturbs"
    written = Written()
    for name,(space,cb) in fits.items():
        def new(): return learner(cnn, pictures, space, shuffle=True)
        whole, path = fit(new(), cb(), OwnDice()), folder/'files'/name
        try: fit(new(), cb(), OwnDice(), ElasticCheckpoint(path, every=2), Dies())
        except KeyboardInterrupt: pass
        again = fit(new(), cb(), OwnDice(), ElasticCheckpoint(path, every=2))
        torch.save((whole, again), folder/f'{name}{rank}')
    torch.save(written.n, folder/f'written{rank}')

if __name__=='__main__':
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        compared()
        if two: interrupted()
    torch.save([str(w.message) for w in said], folder/f'said{rank}')
    if two:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
