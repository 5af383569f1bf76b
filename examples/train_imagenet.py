#!/usr/bin/env python
"""Train a network on a folder of pictures: plainly, growing, or as a family of networks that share their weights

The folder holds train/CLASS/NAME.jpg and val/CLASS/NAME.jpg, as ImageNet's does. Half of val, drawn by a fixed seed,
is for choices, the other half for the result.

One card, eight cards, four machines with eight cards each:

    python train_imagenet.py PATH --grow width
    torchrun --standalone --nproc_per_node 8 train_imagenet.py PATH --grow width --bf16
    torchrun --nnodes 4 --nproc_per_node 8 --rdzv_backend c10d --rdzv_endpoint HOST:29500 train_imagenet.py PATH --shrink

(the last line on each of the four machines, with the name of one of them as HOST; all of them see PATH).
`accelerate launch train_imagenet.py PATH ...` works as well, after `accelerate config`. Without a card: `--cpu`, in
each case.

Stopped, killed, out of power? Start the same line again: it goes on from the newest file in OUT/checkpoints, in the
middle of an epoch if need be. Only the first process writes, and only it needs to see OUT. A batch is `--bs` pictures
per process: with more processes raise `--lr` alike."""
import argparse, json, os
from pathlib import Path
import torch
import torchvision
from fastai.callback.progress import ProgressCallback
from fastai.distributed import DistributedTrainer # noqa: F401, adds distrib_ctx to Learner
from fastai.learner import Learner
from fastai.losses import LabelSmoothingCrossEntropyFlat
from fastai.metrics import accuracy
from fastai.torch_core import num_distrib, rank_distrib, set_seed
from elastic_nets.all import (
    Bfloat16, ElasticCheckpoint, GrowDepth, GrowWidth, OnionTraining, delayed_shrinking, imagefolder_dls,
    evaluate_subnets, us_net)

RECIPES = dict(delayed=delayed_shrinking, sandwich=us_net)

def arguments():
    raw = argparse.RawDescriptionHelpFormatter
    class Formatter(argparse.ArgumentDefaultsHelpFormatter, raw): pass
    p = argparse.ArgumentParser(description=__doc__, formatter_class=Formatter)
    p.add_argument('path', type=Path, help='folder with train/CLASS/NAME and val/CLASS/NAME')
    p.add_argument('--out', type=Path, default=Path('out'), help='folder for checkpoints, weights and results')
    p.add_argument('--arch', default='resnet50', help='a classification network of torchvision.models')
    p.add_argument('--epochs', type=int, default=90, help='of the whole training, growing included')
    p.add_argument('--bs', type=int, default=64, help='pictures of a batch, per process')
    p.add_argument('--lr', type=float, default=1e-3, help='highest learning rate, of Adam in one cycle')
    p.add_argument('--wd', type=float, default=1e-2, help='weight decay')
    p.add_argument('--size', type=int, default=224, help='side of the pictures in pixels')
    p.add_argument('--workers', type=int, default=8, help='processes that read pictures, per process that trains')
    p.add_argument('--seed', type=int, default=0, help='of weights and order')
    p.add_argument('--bf16', action='store_true', help='bfloat16 in matrix products and convolutions')
    p.add_argument('--channels-last', action='store_true', help='memory format that suits bfloat16')
    p.add_argument('--cpu', action='store_true', help='no card, even if there is one')
    p.add_argument('--every', type=int, default=1000, help='batches between two checkpoints')
    how = p.add_mutually_exclusive_group()
    how.add_argument('--grow', choices=('width','depth'), help='begin with a small network and let it grow')
    how.add_argument('--shrink', choices=tuple(RECIPES), nargs='?', const='delayed',
                     help='train the networks inside of this one as well, by this recipe')
    p.add_argument('--start', type=float, default=.5, help='--grow: share of the width or depth to begin with')
    p.add_argument('--stages', type=int, default=3, help='--grow: sizes, the whole network included')
    p.add_argument('--widths', type=float, nargs='+', default=[.25,.5,.75,1.], help='--shrink: shares of the channels')
    return p.parse_args()

def make_learner(args):
    set_seed(args.seed)
    dls = imagefolder_dls(args.path, size=args.size, bs=args.bs, num_workers=args.workers, seed=args.seed,
                          device='cpu' if args.cpu else None)
    model = torchvision.models.get_model(args.arch, weights=None, num_classes=len(dls.vocab))
    learn = Learner(dls, model, loss_func=LabelSmoothingCrossEntropyFlat(), metrics=accuracy, path=args.out, wd=args.wd)
    if rank_distrib() or not os.isatty(1): learn.remove_cb(ProgressCallback) # logs without carriage returns
    if args.channels_last: learn.to_channelslast(use_amp=False)
    if args.shrink: learn.to_supernet(widths=tuple(args.widths))
    return learn

def callbacks(args):
    res = [ElasticCheckpoint(args.out/'checkpoints', every=args.every)]
    if args.bf16: res.append(Bfloat16())
    if args.grow=='width': res.append(GrowWidth(start=args.start, stages=args.stages))
    if args.grow=='depth': res.append(GrowDepth(start=args.start, stages=args.stages))
    if args.shrink: res.append(OnionTraining(RECIPES[args.shrink](), seed=args.seed))
    return res

def report(learn, args):
    "Weights, and accuracy on the half of val that nothing was chosen by"
    args.out.mkdir(parents=True, exist_ok=True)
    torch.save(learn.model.state_dict(), args.out/'weights.pth')
    if args.shrink:
        space = learn.supernet.space
        nets = [space.min, space.uniform(.5), space.max]
        table = evaluate_subnets(learn, nets, dl=learn.dls.test)
        rows = [dict(subnet=str(r.subnet), macs=int(r.macs), accuracy=float(r.accuracy)) for r in table.itertuples()]
    else: rows = [dict(subnet='all', accuracy=float(learn.validate(dl=learn.dls.test)[1]))]
    (args.out/'result.json').write_text(json.dumps(dict(arch=args.arch, epochs=args.epochs, results=rows), indent=1))
    for row in rows: print(row)

def alone():
    "The processes part; True in the first one, which goes on without the others (fastai would wait for theirs)"
    if num_distrib()<2: return True
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    if rank_distrib(): return False
    for name in ('RANK','LOCAL_RANK','WORLD_SIZE'): os.environ.pop(name)
    return True

def main():
    args = arguments()
    learn = make_learner(args)
    with learn.distrib_ctx(**({'cpu': True} if args.cpu else {})): # does nothing in one process
        learn.fit_one_cycle(args.epochs, args.lr, cbs=callbacks(args))
    if alone(): report(learn, args)

if __name__=='__main__': main()
