"One kind of thing where another is meant, and numbers out of range: argument by argument, each named by its error"
from functools import cache, partial
from math import inf, nan
from types import SimpleNamespace
import pandas as pd, torch
from fastai.learner import Learner
from fastai.metrics import accuracy
from torch import nn
from torch.nn import functional as F
from elastic_nets import all as el
from elastic_nets.zoo.data import digits_dls
from elastic_nets.zoo.models import resnet_cifar

def shown(x): return x.__name__ if hasattr(x, '__name__') else f'a {type(x).__name__}' if len(repr(x))>20 else repr(x)

def rows(f, good=dict, name=None, **wrong):
    "Rows with wrong values of arguments, one at a time; `good()` makes all others"
    def call(arg, value): return f(**{**good(), arg:value})
    name = name or getattr(f, '__name__', None) or f.func.__name__
    return [(f'{name}({arg}={shown(v)})', partial(call, arg, v), rf'{arg}\b.*(expected|got)')
            for arg,values in wrong.items() for v in values]

# ---- what is right

def net(depth=8): return resnet_cifar(depth, width=8, n_in=1)
x, y = torch.randn(8,1,8,8), torch.arange(8)

@cache
def learner():
    learn = Learner(digits_dls(bs=256, device='cpu'), net(), metrics=accuracy)
    learn.to_supernet(widths=(.5,1.), check=False)
    return learn

@cache
def plain(): return Learner(digits_dls(bs=256, device='cpu'), net(), metrics=accuracy)

def sn(): return learner().supernet
def space(): return sn().space
@cache
def graph(): return el.trace_channels(net(14), x, check=False)

def whole(): return dict(model=net(14), graph=graph())
def narrow(): return {**(kw := whole()), 'keep': el.start_narrow(**kw, width=.5), 'width': 1.}
def shallow(): return {**(kw := whole()), 'keep': el.start_shallow(**kw, depth=.5), 'depth': 1.}

def loss_of(net, pred): return F.cross_entropy(pred, y)
def step():
    opt = torch.optim.SGD(sn().model.parameters(), lr=.1)
    return dict(sn=sn(), opt=opt, nets=[space().max, space().min], xb=x, loss_of=loss_of, top=space().max)
def passes(): return {k:v for k,v in step().items() if k!='opt'}
def run(**kw): return list(el.backwards(**kw))
def losses(): return dict(yb=y, top=space().max, loss_func=F.cross_entropy)
def timetable(): return dict(recipe=el.delayed_shrinking(), sn=sn(), n=10)
def of_net(): return dict(sn=sn())
def moment(): return dict(step=1, n=2)
def table(): return dict(table=pd.DataFrame(dict(subnet=[space().min, space().max], macs=[1., 2.], accuracy=[.5, .6])))

def probe():
    "As it is after a step"
    cosines = dict(cos_full=1., cos_shrink=1., cos_used=1.)
    (p := el.GradientProbe()).rows = [dict(step=0, eps=1., layer='a.weight', full=1., shrink=1., used=1., **cosines)]
    return p

# ---- and what is not

word, negative = ('x', None), (-1, nan)
models, graphs = (None, 'x', len, nn.Linear), (None, 'x', {})
supernets = (None, 'x', nn.Linear(2,2))
seeds, axes, flag, counts = ('x', [1], .5), ('x', 3), ('x', 1), ('x', None, 0, .5)

channels = [
    *rows(lambda **kw: el.trace_channels(net(), x, **kw), name='trace_channels', groups=('x', [1], 3)),
    *rows(el.check_channels, lambda: dict(whole(), xb=x), model=models, graph=graphs, seed=seeds),
    *rows(lambda **kw: graph().place(**kw), name='ChannelGraph.place', subnet=word),
    *rows(lambda **kw: graph().share(**kw), name='ChannelGraph.share', model=word),
]

subnets = [
    *rows(el.Subnet, resolution=('x', 0, .5)),
    *rows(partial(el.Space, {'a':(1,2)}), name='Space', resolution=(8, 'x', ('x',), (-8,)), inside=([1], {'a':1}),
          given=([1], {('width','a'):1}, {('width','a'):(('width','a'),[1])})),
    *rows(lambda **kw: space().sample(**kw), name='sample', rng=('x', None, .5, [1])),
    *rows(lambda **kw: sn().constrain(macs='60%').sample(**kw), name='sample within limits', rng=('x', None, .5)),
    *rows(lambda **kw: space().uniform(**kw), name='uniform', width=(*word, 0, nan), depth=(*word, 1.5, nan)),
    *rows(lambda **kw: space().level(**kw), name='level', t=(*word, -1, nan)),
    *rows(lambda **kw: space().constrain(sn().macs, **kw), name='constrain', lo=('x', nan), hi=('x', [1])),
    *rows(el.calibrate_bn, lambda: dict(model=net(), batches=[x]), model=models, n=(0, *word), size=('x', 0),
          batches=(*word, x, 3)),
    *rows(el.latency, lambda: dict(model=net(), xb=x), n=(1, *word, 2.5), warmup=(-1, 'x')),
    *rows(el.CostMeter, price_per_hour=('x', -1, nan), devices=('x', 0, .5)),
    *rows(el.cost_table, rows=([1], 'x', None)),
    *rows(el.profile_space, of_net, sn=supernets, n=(0, 'x'), space=('x', 3), seed=seeds),
    *rows(lambda **kw: sn().constrain('60%', **kw), name='constrain a part', space=('x', .5)),
    *rows(lambda **kw: sn().sort_channels(**kw), name='sort_channels', importance=('l1', .5), opt=('x', 3, {})),
    *rows(lambda **kw: sn().private_bn(**kw), lambda: dict(subnets=[space().min]), name='private_bn',
          subnets=(None, 3), affine=word),
]

shrinking = [
    *rows(el.owned, lambda: dict(sn=sn(), subnet=space().min), sn=supernets),
    *rows(el.zero_last_bn, sn=supernets),
    *rows(el.equal_shares, lambda: dict(space=space(), n=3), space=word, n=(1, *word)),
    *rows(el.equal_macs, lambda: dict(space=space(), n=3, macs=sn().macs), space=word, n=(1, *word), macs=(3, *word)),
    *rows(el.levels_of, lambda: dict(c=el.Construct(levels=2), space=space()), c=(*word, el.Recipe()),
          space=word),
    *rows(partial(el.Phase, 1), name='Phase', subspace=(3, {3:1})),
    *rows(el.Phase, length=(inf, nan, None)),
    *rows(el.compofa, teacher=(*word, nan, inf)), *rows(el.progressive_shrinking, teacher=('x', nan)),
    *rows(el.look, lambda: dict(sn=sn(), net=space().min, xb=x), sn=supernets, xb=word),
    *rows(el.Construct().sample_nets, lambda: dict(space=space(), rng=0), name='sample_nets', space=word, rng=word,
          k=('x', .5, -1), full=word, odds=('x', 3), levels=('x', 3)),
    *[row for f in ('space_of','k_of','trains_full','full_alone') for row in rows(
        lambda f=f, **kw: getattr(el.Timetable(**timetable()), f)(**kw), name=f'Timetable.{f}', plan=word)],
    *rows(el.Losses, losses, loss_func=(3, *word), target=('soft', None), distill=('kl', 3), teacher=('x',),
          top=(.5, 'max')),
    *rows(run, passes, name='backwards', xb=word, sn=supernets, nets=(*word, space), loss_of=(3, *word),
          eps=('x', -1, nan), top=('max', .5)),
    *rows(el.onion_step, step, sn=supernets, opt=(*word, nn.Linear(2,2)), nets=(*word, [1]), combine=('avg', 3),
          steps=('each', None), loss_of=(3, 'x')),
    *rows(el.Timetable, timetable, recipe=(*word, el.us_net), sn=supernets, n=(0, *word, .5), lr=(.1, 'x'),
          seed=('x', None, .5)),
    *rows(partial(el.OnionTraining, el.us_net()), name='OnionTraining', seed=('a', None, .5), watch=({}, 3)),
    *rows(el.eps_at, lambda: dict(step=1, n=2), step=(*word, -1), n=(*word, -1), eps0=(*word, 0)),
    *rows(el.eps_lr_at, lambda: dict(step=1, n=2, lr=1, lr_end=1), step=word, n=word, lr=word, lr_end=word),
    *[row for s in (el.Delayed(), el.Annealed(), el.inside_out()) for at in ('at','eps_at') if hasattr(s, at)
      for row in rows(getattr(s, at), moment, f'{type(s).__name__}.{at}', step=(*word, -1, .5), n=(*word, 0), lr=word)],
    *rows(el.plot_gradients, probe=(*word, [1])), *rows(el.plot_gradients, lambda: dict(probe=probe()), ax=axes,
          weights=word),
    *rows(el.seeded_onion, k=(*word, 0, 2.5), core=('x', 0), skins=('x', .5)),
]

plan = el.StagePlan((.5,1.), (0.,.5))
def weight(): return dict(w=torch.ones(2,2), n_out=4, n_in=4)
copying = el.init_replicate, el.init_net2net, el.init_lemon, el.init_bert2bert, el.init_variance

growing = [
    *[row for f in (el.init_random, el.init_half, el.init_orthogonal) for row in rows(
        f, weight, w=word, n_out=counts, n_in=counts)],
    *rows(el.init_orthogonal, weight, length=word),
    *[row for f in copying for row in rows(f, lambda: dict(old=2, new=4), old=counts, new=counts)],
    *[row for f in (el.insert_blocks, el.stack_blocks) for row in rows(
        f, lambda: dict(blocks=[1], copies=[1]), blocks=(None, 3), copies=(None, 3))],
    *rows(plan.at, name='StagePlan.at', pct=(*word, -1)),
    *rows(el.start_narrow, lambda: dict(whole(), width=.5), model=models, graph=graphs, width=(*word, nan),
          submodule=(None, 3)),
    *rows(el.grow_width, narrow, model=models, graph=graphs, keep=(None, [1], 'x'), width=(*word, nan), opt=('x', {})),
    *rows(el.start_shallow, lambda: dict(whole(), depth=.5), model=models, graph=graphs, depth=(*word, nan),
          opt=('x', {})),
    *rows(el.grow_depth, shallow, model=models, graph=graphs, keep=(None, [1], 'x'), depth=(*word, nan), ema=('x', .5)),
    *rows(el.BlockEMA, lambda: dict(whole(), half_life=3), model=models, graph=graphs, half_life=('x', *negative)),
    *rows(el.plan_stages, lambda: dict(learn=plain(), stages=2, show_plot=False), start=(*word, nan),
          rounds=(0, *word), by=(None, 3), stages=('x', 1.), speedup=('x', nan)),
    *rows(el.GrowWidth, start=('x', 0, 1.), stages=('x', 1), plan=(.5, 'x'), rewarm=('x', 1.), init=(3, 'x', [])),
    *rows(el.GrowDepth, half_life=('x', *negative), start=('x', 1.5), block=('x', None), place=(3, 'x', [])),
]

using = [
    *rows(el.flops_buckets, of_net, sn=supernets, space=('x', .5), n=(0, 'x')),
    *rows(el.sample_buckets, of_net, sn=supernets, space=('x', .5), per=(0, 'x'), seed=seeds),
    *rows(el.best_of_buckets, lambda: dict(table(), buckets=[(0,2)]), buckets=(*word, 3), lower=flag),
    *rows(el.pareto, table, lower=flag, cost=([], {}), metric=([], {})),
    *rows(el.read_table, path=(None, 3)),
    *rows(el.score_supernet, lambda: dict(learn=learner(), test=[1]), test=('x', [], {})),
    *rows(el.mean_pareto_accuracy, lambda: dict(table(), lo=1, hi=2), lo=word, hi=('x', nan), lower=flag),
    *rows(el.evaluate_subnets, lambda: dict(learn=learner(), subnets=[space().min]), subnets=(3, .5),
          dl=(3, nn.Linear(2,2), 'x', [], {}), cache=(3, True, [1])),
    *rows(el.subnet_in, path=(None, 3)), *rows(el.load_subnet, path=(None, 3)),
    *rows(el.time_subnets, lambda: dict(of_net(), subnets=[space().min]), sn=supernets, subnets=(None, 3),
          device=('x', 'tpu9')),
    *rows(el.load_latencies, lambda: dict(of_net(), path='x'), sn=supernets, path=(None, 3)),
    *rows(el.widths_that_pay, of_net, sn=supernets, gain=(*word, 1), widths=('x', .5, (2.,), ('x',))),
    *rows(el.save_subnet, lambda: dict(of=sn(), subnet=space().min, path='f'), path=(None, 3), args=('x',),
          model=('x',)),
    *rows(el.finetune, lambda: dict(learn=learner(), subnet=space().min), learn=(None, nn.Linear(2,2)), lr=('x', nan),
          cbs=('x', 3)),
    *rows(el.Switcher, lambda: dict(of=sn(), subnets=[space().min]), subnets=(None, 3), cost=(3, 'x'), score=(3, 'x')),
    *rows(lambda **kw: el.Switcher(sn(), space().min).within(**kw), name='within', budget=(*word, nan)),
    *rows(lambda **kw: learner().search_subnet(n=1, **kw), name='search_subnet', predictor=('x', 3), lower=flag,
          storage=(3, [1]), seed=(*seeds, -1)),
    *rows(lambda **kw: learner().accuracy_predictor(n=8, **kw), name='accuracy_predictor', held_out=(*word, 1.),
          seed=seeds, model=('x', 3)),
    *rows(lambda **kw: learner().load(**kw), name='load', file=(None, 3)), *rows(el.OnnxNet, path=(None, 3)),
    *rows(lambda **kw: el.Switcher(sn(), space().min).timed(kw['xb']), name='timed', xb=word),
    *rows(el.latency_table, of_net, seed=seeds),
    *rows(el.to_onnx, lambda: dict(net=net(), path='f', xb=x), path=(None, 3), tol=(*word, nan), opset=('x', 0)),
]

drawn = [row for f,good in (
    (el.plot_matrix, lambda: dict(m=torch.ones(2,2))), (el.plot_onion, lambda: dict(weight=(2,2), sizes=[1])),
    (el.plot_blocks, lambda: dict(weight=torch.ones(2,2))), (el.plot_insertion, lambda: dict(rows=dict(a=[1]))),
    (el.plot_correlation, lambda: dict(maps=torch.ones(2,3))), (el.plot_graph, lambda: dict(graph=graph())),
    (el.plot_front, lambda: dict(table(), names={})), (el.plot_pareto, lambda: dict(tables=table()['table'])),
    (el.plot_loss, lambda: dict(recorder=SimpleNamespace(losses=[1.]))),
    (el.plot_epsilon, lambda: dict(schedules={}, n=2)),
    (el.plot_channel_gradients, lambda: dict(rows=[dict(old=1., new=1., angle=1.)]))) for row in rows(f, good, ax=axes)]

looking = [
    *rows(lambda **kw: graph().plot(**kw), name='ChannelGraph.plot', ax=axes),
    *rows(el.SubnetExplorer, lambda: dict(learn=learner()), folder=(None, 3), n=word),
    *rows(lambda **kw: el.EpsilonExplorer().gradients(**kw), lambda: dict(angle=0, length=1),
          name='EpsilonExplorer.gradients', angle=word, length=word),
    *rows(lambda **kw: el.profile_space(sn(), 2).plot(**kw), name='SpaceProfile.plot', ax=axes, n=word,
          cost=(3, [])),
    *rows(plan.plot, name='StagePlan.plot', ax=axes),
    *rows(el.plot_matrix, m=(*word, {})), *rows(el.plot_matrix, lambda: dict(m=torch.ones(2,2)), limit=('x', -1)),
    *rows(el.plot_correlation, maps=word),
    *rows(el.plot_correlation, lambda: dict(maps=torch.ones(2,3)), old=('x', [])),
    *rows(el.plot_onion, lambda: dict(weight=(4,4), sizes=[2]), sizes=(None, 3), labels=(3, 'x')), *drawn,
    *rows(el.plot_loss, lambda: dict(recorder=SimpleNamespace(losses=[1.])), seconds=('x', -1)),
    *rows(el.plot_channel_gradients, rows=(3, 'x', [1])),
    *rows(el.plot_blocks, lambda: dict(weight=torch.ones(2,2)), weight=word, old=(1, 'x')),
    *rows(el.plot_onion, lambda: dict(sizes=[1]), weight=(3, *word)), *rows(el.plot_pareto, tables=(*word, [1])),
    *rows(el.plot_insertion, rows=([1], *word)), *rows(el.plot_graph, graph=graphs),
    *rows(el.plot_front, lambda: dict(table(), names={}), names=([1], *word)),
    *rows(el.plot_loss, recorder=(*word, SimpleNamespace())),
    *rows(el.plot_epsilon, schedules=(el.Delayed(), *word, {'a':el.us_net()})),
    *rows(el.channel_gradients, lambda: dict(grad=torch.ones(4,2), old=2), grad=(*word, [1]), old=word),
]

zoo = [
    *rows(el.attentive_nas, n_classes=counts, resolutions=(128, 'x', None), dropout=(1., 'x')),
    *rows(el.resnet_cifar, depth=counts, n_classes=counts, width=counts, n_in=counts),
    *rows(el.vgg_cifar, depth=([11], 'x'), n_classes=counts), *rows(el.mobilenet_cifar, version=('x', [1]), width=word),
    *rows(el.vit, img=counts, patch=counts, dim=counts, depth=counts, heads=counts, mlp_ratio=word,
          drop_path=(1., 'x')),
    *rows(el.deeplabv3plus, n_classes=counts, width=counts),
    *rows(el.ofa_mobilenetv3, img=([32], *word), width=('x', 0), kernels=(3, 'x', None), resolutions=(128, 'x', None),
          n_classes=counts, dropout=(1., 'x')),
    *rows(el.ofa_proxyless, width=('x', 0), kernels=(3, None), resolutions=(128, ('x',))),
    *rows(el.ofa_resnet50, n_classes=counts, resolutions=(128, 'x')), *rows(el.compofa_space, space=(*word, net)),
    *rows(el.digits_dls, bs=counts, size=counts, n_in=('x', 2), seed=('x', .5)),
    *rows(el.shapes_dls, n=counts, size=counts, bs=counts),
    *rows(el.cifar_dls, seed=seeds, path=(3, [])),
    *rows(el.imagefolder_dls, lambda: dict(path='no'), seed=seeds, path=(None, 3)),
    *rows(el.cityscapes_dls, lambda: dict(path='no'), seed=seeds, path=(None, 3), valid=(None, 3)),
]

ERRORS = channels+subnets+shrinking+growing+using+looking+zoo
