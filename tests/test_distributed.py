"Two processes end where one does"
import os, subprocess, sys
import torch


DISTRIBUTED = """
import sys, torch
from functools import partial
from fastai.vision.all import *
from fastai.distributed import *
import fastai.distributed as fd
from elastic_nets.shrink.recipe import Construct, Gradient, Recipe, Update
from elastic_nets.shrink.choices import ByImportance, combine_avg, combine_project
from elastic_nets.shrink.training import OnionTraining
from elastic_nets.shrink.methods import delayed_shrinking, slimmable, us_net
from elastic_nets.subnets.supernet import Supernet
def broadcast(self, t, rank):
    x = torch.LongTensor(t)
    torch.distributed.broadcast(x, rank)
    return x.tolist()
fd.DistributedDL._broadcast = broadcast # fastai's is for a GPU
class Losses(Callback):
    "Running losses of the sizes of subnets, in the end"
    order,kept = 90,{}
    def after_batch(self):
        if hasattr(self.learn, 'by_importance'): self.kept = dict(self.by_importance.size_loss)
torch.set_num_threads(1)
two = 'RANK' in os.environ
many = Construct(k=3)
RECIPES = dict(sum=us_net(), avg=Recipe(many, Gradient('distill', combine_avg)),
    project=Recipe(many, Gradient('hard', combine_project)),
    steps=Recipe(Construct(k=3, levels=4), Gradient('hard'), Update('large first')),
    importance=Recipe(Construct(k=3, odds=ByImportance)), delayed=delayed_shrinking(warmup=.25, ramp=.25),
    private=slimmable(k=2))
g = torch.Generator().manual_seed(0)
x,y = torch.randn(64, 3, generator=g), torch.randint(3, (64,), generator=g)
x[32:] *= 4 # one process has the large losses
for name,rec in RECIPES.items():
    # batches of one process are those of two, side by side
    order = range(64) if two else [r*32+b*8+i for b in range(4) for r in (0,1) for i in range(8)]
    dl = lambda: DataLoader([(x[i], y[i]) for i in order], bs=8 if two else 16)
    torch.manual_seed(0)
    norm = [nn.BatchNorm1d(8)] if name=='private' else []
    model = nn.Sequential(nn.Linear(3, 8), *norm, nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    dls, sgd = DataLoaders(dl(), dl(), device='cpu'), partial(SGD, mom=.9)
    learn = Learner(dls, model, loss_func=nn.CrossEntropyLoss(), metrics=accuracy, opt_func=sgd)
    learn.remove_cb(ProgressCallback)
    learn.supernet = Supernet(model, x[:2], (.25,.5,.75,1.))
    cbs = [losses := Losses(), OnionTraining(rec), *([GradientAccumulation(16 if two else 32)] if name=='avg' else [])]
    with learn.distrib_ctx(sync_bn=False, cpu=True) if two else learn.no_bar(), learn.no_logging():
        learn.fit(6, .05, cbs=cbs)
    own = [p.detach() for p in learn.supernet.held_params()]
    torch.save((learn.model.state_dict(), own, losses.kept), f'{sys.argv[1]}/{name}{os.environ.get("RANK", "")}')
if two: # a process that leaves while the other still talks to it takes gloo's threads down with it
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
"""

def test_distributed(tmp_path):
    "Two processes with halves of every batch end with the weights of one process with whole batches, whatever the rule"
    (tmp_path / 'run.py').write_text(DISTRIBUTED)
    env = {
        **{k: v for k, v in os.environ.items() if k not in ('RANK', 'WORLD_SIZE')},
        'OMP_NUM_THREADS': '1',
        'CUDA_VISIBLE_DEVICES': '',
    }
    for launch in (
        [],
        ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2'],  # on a port that is free
    ):
        res = subprocess.run(
            [sys.executable, '-W', 'ignore', *launch, str(tmp_path / 'run.py'), str(tmp_path)],
            env=env,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert res.returncode == 0, res.stderr[-3000:]
    for name in ('sum', 'avg', 'project', 'steps', 'importance', 'delayed', 'private'):
        one, a, b = [torch.load(tmp_path / f'{name}{i}', weights_only=False) for i in ('', 0, 1)]
        for n, p in a[0].items():
            assert torch.equal(p, b[0][n]) or 'num_batches' in n, (name, n)
        assert all(torch.equal(p, q) for p, q in zip(a[1], b[1], strict=True)), name
        assert a[2] == b[2] and bool(a[2]) == (name == 'importance')  # running losses, by which subnets are drawn
        if name != 'private':  # halves of a batch have batch norms of their own
            for n, p in a[0].items():
                assert (p - one[0][n]).abs().max() < 1e-5, (name, n)
