"Subnets, epsilon, stages and sizes are metrics: where people look (TensorBoard, W&B, CSV files) they are found"
import math, re
import pandas as pd
import pytest
from fastai.callback.progress import CSVLogger
from fastai.learner import Learner
from fastai.metrics import accuracy
from elastic_nets.grow.growing import GrowDepth, GrowWidth
from elastic_nets.shrink.methods import delayed_shrinking
from elastic_nets.shrink.training import OnionTraining
from elastic_nets.shrink.watching import NotYet
from elastic_nets.zoo.data import digits_dls
from elastic_nets.zoo.models import resnet_cifar
from notebooks import notebooks

def learner(path, depth=8):
    learn = Learner(digits_dls(bs=256, device='cpu'), resnet_cifar(depth, width=8, n_in=1), metrics=accuracy, path=path)
    return learn.remove_cbs(learn.cbs.filter(lambda c: c.name=='progress'))

def shrinking(learn): return OnionTraining(delayed_shrinking(warmup=.5, ramp=.5), estimate=False)

def fit(learn, *cbs, n=2):
    with learn.no_logging(): learn.fit(n, 1e-2, cbs=cbs)

def scalars(folder):
    "Tag -> its values, from the files that TensorBoard reads"
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [e.value for e in events.Scalars(tag)] for tag in events.Tags()['scalars']}

def tensorboard(folder):
    pytest.importorskip('tensorboard')
    from fastai.callback.tensorboard import TensorBoardCallback
    return TensorBoardCallback(log_dir=folder, trace_model=False, log_preds=False)

def test_tensorboard_shows_subnets_and_epsilon(tmp_path):
    learn = learner(tmp_path)
    learn.to_supernet(widths=(.5,1.), check=False)
    fit(learn, shrinking(learn), tensorboard(tmp_path/'log'))
    seen, names = scalars(tmp_path/'log'), learn.recorder.metric_names[3:-1]
    assert [*names]==['accuracy', 'acc_min', 'acc_mid', 'epsilon']
    for i,name in enumerate(names, 2):
        want = [float(v[i]) for v in learn.recorder.values]
        assert seen[name]==pytest.approx(want, nan_ok=True, rel=1e-6)
    assert math.isnan(seen['epsilon'][0]) and .5<seen['epsilon'][1]<1 and 0<seen['acc_min'][1]<1
    assert learn.metrics.attrgot('name')==['accuracy']

GROWS = (GrowWidth, 8, 'width', [.5,.75,1.]), (GrowDepth, 14, 'depth', [.5,1.])

@pytest.mark.parametrize('cb,depth,by,sizes', GROWS)
def test_tensorboard_shows_stages(tmp_path, cb, depth, by, sizes):
    learn = learner(tmp_path, depth)
    fit(learn, cb(), tensorboard(tmp_path/'log'), n=len(sizes))
    seen = scalars(tmp_path/'log')
    assert seen[by]==sizes and seen['stage']==[*range(1, len(sizes)+1)]
    assert learn.metrics.attrgot('name')==['accuracy']


def lines_that_help():
    "What 23_watching says to write before a fit with `WandbCallback`"
    texts = [''.join(c['source']) for nb in notebooks if nb.name=='shrink/23_watching.ipynb' for c in nb.cells]
    lines, = re.findall(r'^```python\n(import fastai\.callback\.wandb .+?)^```', '\n'.join(texts), re.M|re.S)
    return lines

@pytest.fixture
def wandb(tmp_path, monkeypatch):
    "Weights & Biases without a network: a run that only writes into a temporary folder, and what it was given"
    wandb = pytest.importorskip('wandb')
    for name,value in dict(MODE='offline', SILENT='true', DIR=tmp_path, CACHE_DIR=tmp_path, DATA_DIR=tmp_path).items():
        monkeypatch.setenv(f'WANDB_{name}', str(value))
    import fastai.callback.wandb as theirs
    if hasattr(theirs, 'init_args'):
        monkeypatch.setattr(theirs, 'init_args', theirs.init_args) # put back afterwards
        exec(lines_that_help(), {})
    run = wandb.init(project='onion', dir=tmp_path)
    said, log = [], wandb.log
    monkeypatch.setattr(wandb, 'log', lambda row, **kw: (said.append(dict(row)), log(row, **kw)))
    yield lambda name: [float(row[name]) for row in said if name in row], run
    wandb.finish()

def wandb_callback():
    from fastai.callback.wandb import WandbCallback
    return WandbCallback(log=None, log_preds=False)

def test_wandb_shows_subnets_and_epsilon(tmp_path, wandb):
    seen, run = wandb
    learn = learner(tmp_path)
    learn.to_supernet(widths=(.5,1.), check=False)
    fit(learn, shrinking(learn), wandb_callback())
    for i,name in enumerate(learn.recorder.metric_names[3:-1], 2):
        want = [float(v[i]) for v in learn.recorder.values]
        assert seen(name)==pytest.approx(want, nan_ok=True, rel=1e-6)
        assert run.summary[name]==pytest.approx(want[-1], rel=1e-6)
    assert .5<run.summary['epsilon']<1 and 0<run.summary['acc_min']<1
    assert run.config['batch size']==256 and run.config['OnionTraining']

@pytest.mark.parametrize('cb,depth,by,sizes', GROWS)
def test_wandb_shows_stages(tmp_path, wandb, cb, depth, by, sizes):
    seen, run = wandb
    learn = learner(tmp_path, depth)
    fit(learn, cb(), wandb_callback(), n=len(sizes))
    assert seen(by)==sizes and seen('stage')==[*range(1, len(sizes)+1)]
    assert (run.summary[by], run.summary['stage'])==(1, len(sizes))

def test_csv_file_has_growth(tmp_path):
    learn = learner(tmp_path)
    fit(learn, GrowWidth(), CSVLogger(), n=3)
    table = pd.read_csv(tmp_path/'history.csv')
    assert list(table.width)==[.5,.75,1.] and list(table.stage)==[1,2,3]

def test_csv_file_leaves_out_what_is_not_there(tmp_path):
    learn = learner(tmp_path)
    learn.to_supernet(widths=(.5,1.), check=False)
    fit(learn, shrinking(learn), CSVLogger())
    text, table = (tmp_path/'history.csv').read_text(), pd.read_csv(tmp_path/'history.csv')
    assert 'nan' not in text.lower() and table.acc_min.isna().tolist()==[True,False]

def test_table_leaves_out_what_is_not_there(tmp_path):
    rows, learn = [], learner(tmp_path)
    learn.to_supernet(widths=(.5,1.), check=False)
    learn.logger = rows.append
    learn.fit(2, 1e-2, cbs=shrinking(learn))
    assert 'nan' not in str(rows) and [f'{v:.6f}' for v in rows[0][4:7]]==['','','']

def test_interrupted_growth_shows_one_column(tmp_path):
    learn = learner(tmp_path)
    class Stop(type(learn.cbs[0])):
        def after_batch(self): raise KeyboardInterrupt
    learn.add_cb(cb := GrowWidth())
    with pytest.raises(KeyboardInterrupt): fit(learn, Stop(), n=3)
    fit(learn, n=3)
    assert learn.recorder.metric_names.count('width')==1 and learn.metrics.attrgot('name')==['accuracy']
    assert cb.rows[-1]['width']==1

def test_not_yet_is_a_number():
    import pickle
    got = pickle.loads(pickle.dumps(NotYet()))
    assert type(got) is NotYet and math.isnan(got) and type(float(got)) is float and not got>0 and not got<0
