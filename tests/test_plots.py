"Every picture draws where it is told, gives that back, and needs neither Jupyter nor one style"
import inspect
import matplotlib
import pandas as pd
import pytest
import torch
import elastic_nets.all as elastic
from elastic_nets.all import (
    GradientProbe, StagePlan, Supernet, bignas, channel_gradients, delayed_shrinking, profile_space, resnet_cifar)
from types import SimpleNamespace

matplotlib.use('Agg')
import matplotlib.pyplot as plt # noqa: E402

probe = GradientProbe() # with what it keeps of two steps
probe.rows = [dict(layer='a.weight', step=s, full=1., shrink=2., used=1.5, cos_shrink=.5, cos_used=.9) for s in (1,2)]

weight, maps = torch.randn(6,4,3,3), torch.randn(6,50)
net = resnet_cifar(8, width=8, n_in=1)
sn = Supernet(net, torch.rand(2,1,8,8), check=False)
subnets = [sn.space.uniform(w) for w in (.25,.5,1.)]
table = pd.DataFrame(dict(subnet=subnets, macs=[*map(sn.macs, subnets)], params=[*map(sn.n_params, subnets)],
                          accuracy=[.7,.8,.9]))
recorder = SimpleNamespace(losses=[3.,2.,1.], stages=[dict(step=0, seconds=1.), dict(step=2, seconds=2.)])
MEASURED = ((.5,.05,.3e9), (1.,.1,1e9))
CALLS = dict(
    plot_matrix=(weight,), plot_onion=((8,8), [2,4,8]), plot_blocks=(weight, (3,2)), plot_correlation=(maps, 4),
    plot_insertion=(dict(before=[1,2], after=[1,2,2]),), plot_graph=(sn.graph,),
    plot_front=(table, dict(small=subnets[0])), plot_pareto=(table,), plot_loss=(recorder, 'grown'),
    plot_epsilon=(dict(a=bignas().schedule, b=delayed_shrinking().schedule), 50), plot_gradients=(probe,),
    plot_channel_gradients=([channel_gradients(torch.randn(4,3), 2) for _ in range(3)], 'angle'))
METHODS = {'ChannelGraph.plot': (sn.graph.plot, 1), 'SpaceProfile.plot': (profile_space(sn, n=5).plot, 2),
           'StagePlan.plot': (StagePlan((.5,1.), (0.,.5), MEASURED, 'width').plot, 1)}
def picture(name): return lambda **kw: getattr(elastic, name)(*CALLS[name], **kw)
plots = {**{n: (picture(n), 3 if n=='plot_gradients' else 1) for n in CALLS}, **METHODS}

def test_every_picture_is_tried(): assert {n for n in vars(elastic) if n.startswith('plot_')}=={*CALLS}

@pytest.mark.parametrize('style', [['elastic_nets.look.onion'], ['elastic_nets.look.onion','elastic_nets.look.dark']])
@pytest.mark.parametrize('name', plots)
def test_picture_takes_axes_and_returns_them(name, style):
    draw, n = plots[name]
    assert 'ax' in inspect.signature(getattr(elastic, name) if name in CALLS else draw).parameters
    with plt.style.context(style):
        axs = plt.subplots(1, n)[1]
        before, got = plt.get_fignums(), draw(ax=axs)
        assert plt.get_fignums()==before, 'no figure of its own'
        for a,b in zip([axs] if n==1 else axs, [got] if n==1 else got): assert a is b
        for a in [axs] if n==1 else axs: assert a.has_data() or a.patches or a.texts
        axs.figure.canvas.draw() if n==1 else axs[0].figure.canvas.draw()
    plt.close('all')

@pytest.mark.parametrize('name', plots)
def test_picture_makes_axes_where_none_are_given(name):
    got = plots[name][0]()
    assert all(isinstance(a, plt.Axes) for a in ([got] if plots[name][1]==1 else got))
    plt.close('all')
