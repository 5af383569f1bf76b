"The command: bad arguments, and what an interruption leaves"
import json, re
import pytest, torch
from elastic_nets.app import demo
from elastic_nets.use.deploy import OnnxNet
from elastic_nets.use.save import load_subnet
from elastic_nets.zoo.models import resnet_cifar

def small(*args):
    "What `shrink` returns, without a training"
    row = dict(params=1e3, accuracy=.9, latency_ms=1., latency_iqr_ms=.1, latency_n=30)
    return dict(rows=[dict(macs=m*1e6, **row) for m in (1,2)], seconds=1., space=9)

def interrupted(*args): raise KeyboardInterrupt

def test_interruption_keeps_what_is_finished(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(demo, 'train_family', lambda *args: None)
    monkeypatch.setattr(demo, 'shrink', small)
    monkeypatch.setattr(demo, 'grow', interrupted)
    assert demo.main(['demo', '--out', str(tmp_path)])==130
    assert {p.name for p in tmp_path.iterdir()}=={'report.md', 'results.json', 'shrink.png'}
    assert json.loads((tmp_path/'results.json').read_text())['shrink']['space']==9
    assert '2 of its 9 subnets' in (tmp_path/'report.md').read_text()
    assert 'Finished results are in' in capsys.readouterr().err

def test_nothing_finished_is_said(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(demo, 'train_family', interrupted)
    assert demo.main(['demo', '--out', str(tmp_path)])==130
    assert 'none yet' in capsys.readouterr().err

bad = {'too few':['--epochs','2'], 'digits':['--data','mnist'], 'int':['--seed','x']}

@pytest.mark.parametrize('said, args', bad.items())
def test_bad_arguments_are_refused(said, args, capsys):
    with pytest.raises(SystemExit): demo.main(['demo', *args])
    assert said in capsys.readouterr().err

@pytest.fixture(scope='module')
def family(tmp_path_factory):
    "A family of three short epochs, what it printed, and what was deployed"
    out, lines = tmp_path_factory.mktemp('out'), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('builtins.print', lambda *words, sep=' ', **kw: lines.append(sep.join(map(str, words))))
        learn = demo.train_family(demo.demo_dls('digits', size=8), 3)
    return learn, lines, demo.deploy(learn, out, n=4), out

def test_a_line_for_each_epoch_and_nothing_that_is_not_trained_yet(family):
    "Validation metrics of subnets come with the epoch in which they are trained first"
    _, lines, *_ = family
    epochs = [l for l in lines if l.startswith('supernet: ')]
    assert [re.match(r'supernet: epoch (\d)/3', l)[1] for l in epochs]==['1','2','3']
    assert not any(re.search(r'\bnan\b', l) for l in lines) and len({l.count('  ') for l in epochs})>1

def test_the_demo_ends_with_files_that_open(family):
    learn, _, res, out = family
    assert {p.name for p in out.iterdir()}=={'subnet.safetensors','subnet.onnx'}
    small = load_subnet(out/'subnet.safetensors', resnet_cifar(20, n_in=1))
    x = torch.Tensor(learn.dls.test.one_batch()[0]).cpu()
    torch.testing.assert_close(OnnxNet(out/'subnet.onnx')(x), small(x), rtol=1e-3, atol=1e-3)
    assert res['max_difference']<1e-4 and res['macs']<=.5*learn.supernet.macs(learn.supernet.space.max)
    report = demo.report_deploy(res, 360)
    assert 'subnet.onnx' in report and 'the best of 4 on validation' in report and 'nan' not in report
