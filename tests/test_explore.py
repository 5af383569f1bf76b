"Explorers answer at once, say what is wrong, and take networks out; players need no kernel"
import json, re, time
from statistics import median
import pytest
import torch
from fastai.learner import Learner
from fastai.metrics import accuracy
from elastic_nets.grow.stages import StagePlan
from elastic_nets.look import explore
from elastic_nets.look.explore import (
    EpsilonExplorer, GrowthExplorer, Scene, SubnetExplorer, kinds_of, player, ramp_steps, subnet_at)
from elastic_nets.subnets.supernet import Supernet
from elastic_nets.zoo.data import digits_dls
from elastic_nets.zoo.models import resnet_cifar, vit
from notebooks import root

pytest.importorskip('ipywidgets')
MEASURED = ((.25,.030,.1e9), (.5,.045,.3e9), (.75,.070,.6e9), (1.,.100,1e9))

def a_plan(): return StagePlan((.25,.5,1.), (0.,.25,.5), MEASURED, 'width')

@pytest.fixture(scope='module')
def learn():
    torch.manual_seed(0)
    learn = Learner(digits_dls(bs=256, device='cpu'), resnet_cifar(14, width=8, n_in=1), metrics=accuracy)
    learn.remove_cbs(learn.cbs.filter(lambda c: c.name=='progress'))
    learn.to_supernet(widths=(.25,.5,1.), depths=(0,1), check=False)
    return learn

@pytest.fixture
def family(learn, tmp_path): return SubnetExplorer(learn, tmp_path, n=4, calibrate=64)

def seconds_of(explorer, name, values):
    "The median of the responses to 20 moves, in seconds of this process: others share the machine"
    found = []
    for v in [*values*21][:21]:
        start = time.process_time()
        explorer.controls[name].value = v
        found.append(time.process_time()-start)
    assert explorer.error is None
    return median(found[1:]) # the first warms up

def test_responses_are_quick(family):
    assert seconds_of(family, 'width', [.5,0.,1.])<.2
    assert seconds_of(GrowthExplorer(a_plan()), 'start_3', [.6,.7,.8,.9])<.2
    epsilon = EpsilonExplorer()
    for name,values in dict(step=[3,9,15,40], angle=[0,50,180], length=[.5,1.,.7]).items():
        assert seconds_of(epsilon, name, values)<.2

MOVES = dict(
    family=('width', [.5,0.,1.], 0.), growth=('start_3', [.6,.9,.3,.7], .8), epsilon=('length', [2.5,.5,1.], 1.7))

@pytest.mark.parametrize('which', MOVES)
def test_nothing_is_left_of_earlier_pictures(which, family):
    "And what stays is drawn once, but where its axes have to change"
    e = dict(family=family, growth=GrowthExplorer(a_plan()), epsilon=EpsilonExplorer())[which]
    scene, drawn = e.scene, []
    ground = scene.ground
    def counted(*args, **kw):
        drawn.append(kw)
        ground(*args, **kw)
    scene.ground = counted
    name, values, last = MOVES[which]
    for v in (*values, last): e.controls[name].value = v
    fresh = Scene(ground, scene.draw).picture(**e.values)
    assert e.error is None and (e.picture.value, e.text)==(fresh[0], re.sub('<[^>]*>', '', fresh[1]))
    assert len(drawn)==(3 if which=='epsilon' else 0)
    def artists(): return [(len(ax.get_children()), len(ax.containers)) for ax in scene.fig.axes]
    before = artists()
    e.update()
    assert artists()==before

def test_sliders_reach_the_ends(family):
    sn = family.sn
    assert family.subnet==sn.space.max
    for control in family.controls.values(): control.value = 0.
    assert family.subnet==sn.space.min and {*family.controls}=={'width','depth'}

def test_picture_and_line_follow(family):
    before, text = family.picture.value, family.text
    family.controls['width'].value = .5
    sn = family.sn
    assert family.picture.value!=before and family.text!=text
    assert f'{sn.n_params(family.subnet):,} parameters' in family.text

def test_evaluate_adds_what_is_missing(family):
    places = [(w, d) for w in (0.,.5,1.) for d in (0.,1.)]
    new = next(p for p in places if subnet_at(family.sn, width=p[0], depth=p[1]) not in family.known)
    family.controls['width'].value, family.controls['depth'].value = new
    assert 'press evaluate' in family.text and len(family.table)==4
    family.buttons['evaluate'].click()
    assert len(family.table)==5 and re.search(r'accuracy 0\.\d+', family.text) and family.error is None

def test_extract_writes_the_network(family, tmp_path):
    from elastic_nets.use.save import subnet_in
    family.controls['width'].value = .5
    family.buttons['extract'].click()
    assert family.saved.parent==tmp_path and str(family.saved) in family.text
    said = subnet_in(family.saved)
    net = family.sn.extract(said)
    from safetensors.torch import load_model
    assert said==family.subnet and not any(load_model(net, str(family.saved)))

def test_extract_says_what_is_wrong(family, tmp_path):
    (tmp_path/'file').write_text('')
    family.folder = tmp_path/'file'
    family.buttons['extract'].click()
    assert isinstance(family.error, OSError) and 'FileExistsError' in family.text and family.saved is None

def test_heads_have_a_slider_of_their_own():
    sn = Supernet(vit(dim=16, depth=2, heads=4, n_classes=10), torch.rand(1,3,32,32), widths=(.25,.5,1.), check=False)
    kinds = kinds_of(sn)
    assert 'heads' in kinds and 'width' in kinds
    few = subnet_at(sn, heads=0.)
    moved = {n for n,v in few.width.items() if v<sn.space.max.width[n]}
    assert moved and moved==explore.heads_of(sn)&{*sn.space.width}

def test_growth_costs_what_the_plan_says():
    e = GrowthExplorer(a_plan())
    e.controls['start_3'].value = .75
    assert f'{100/(.25*30+.5*45+.25*100):.2f}x by seconds' in e.text
    e.controls['start_2'].value = .9
    assert isinstance(e.error, ValueError) and 'both rising' in e.text
    e.controls['start_2'].value = .5
    assert e.error is None

@pytest.mark.parametrize('step', [0,7,30])
def test_ramp_steps_by_hand(step):
    full, sub = torch.tensor([1.,-.4]).double(), torch.tensor([.2,.9]).double()
    g = [full+min(1., 1e-4+(1-1e-4)*i/20)*sub for i in range(step+1)]
    got = ramp_steps(full, sub, step)
    v = m = s = torch.zeros(2).double()
    for x in g: v, m, s = .9*v+x, .9*m+.1*x, .999*s+.001*x**2
    n = step+1
    adam = (m/(1-.9**n))/((s/(1-.999**n)).sqrt()+1e-8)
    for name,want in dict(SGD=g[-1], momentum=.1*v, Adam=adam).items():
        torch.testing.assert_close(got[name], -want, rtol=1e-6, atol=1e-9)

def test_a_player_needs_nothing_from_elsewhere():
    html = player(GrowthExplorer(a_plan()).draw, [dict(start_3=s/10) for s in range(3,10)])
    assert html.count('data:image/png')==7 and len(html)<100_000
    assert not re.findall(r'(?:src|href)="https?:', html) and 'class="fa' not in html

def test_players_of_a_notebook_are_small():
    nb = json.loads((root/'nbs/look/51_explore.ipynb').read_text(encoding='utf-8'))
    htmls = [''.join(o['data'].get('text/html', '')) for c in nb['cells'] for o in c.get('outputs', []) if 'data' in o]
    players = [h for h in htmls if 'data:image/png' in h]
    assert len(players)==3 and sum(map(len, players))<300_000

def test_without_ipywidgets_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'ipywidgets', None)
    with pytest.raises(ImportError, match=r'elastic_nets\[explore\]'): EpsilonExplorer()

def test_pictures_need_no_window(monkeypatch):
    monkeypatch.setattr('matplotlib.pyplot.figure', None)
    png, says = Scene(lambda fig: fig.subplots(), lambda fig: 'drawn').picture()
    assert png[1:4]==b'PNG' and says=='drawn'
