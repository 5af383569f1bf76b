"The command: bad arguments, and what an interruption leaves"
import json
import pytest
from elastic_nets.app import demo

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
