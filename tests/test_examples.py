"Scripts in examples/ run on generated pictures, are killed, and go on"
import json, sys
import numpy as np, pytest, torch
from PIL import Image
from ranks.start import killed, start, tests

pytestmark = [pytest.mark.xdist_group('ranks'), pytest.mark.skipif(sys.platform=='win32', reason='needs kill')]
script = tests.parent/'examples'/'train_imagenet.py'

@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    "Folders as ImageNet's: noise, brighter on one half"
    path, rng = tmp_path_factory.mktemp('pictures'), np.random.default_rng(0)
    for folder,n in (('train',12), ('val',4)):
        for label in ('left','right'):
            (path/folder/label).mkdir(parents=True)
            for i in range(n):
                x = rng.integers(0, 128, (40,40,3))
                x[:, :20 if label=='left' else 40] += 60
                Image.fromarray(x.astype('uint8')).save(path/folder/label/f'{i}.png')
    return path

common = '--arch', 'shufflenet_v2_x0_5', '--bs', 4, '--size', 32, '--workers', 0, '--cpu', '--every', 2, '--epochs', 3

def results(out): return json.loads((out/'result.json').read_text())['results']
def weights(out): return torch.load(out/'weights.pth', weights_only=True)

def run(pictures, out, *args, die_at=None, ranks=1):
    args = [pictures, '--out', out, *common, *args]
    def when(): return any(p.name>=die_at for p in (out/'checkpoints').glob('*.safetensors'))
    if die_at: killed(script, *args, when=when, ranks=ranks)
    return start(script, *args, ranks=ranks)

def test_grows_in_one_process_and_goes_on(pictures, tmp_path):
    grow = '--grow', 'width', '--stages', 2, '--bf16'
    run(pictures, tmp_path/'whole', *grow)
    assert 'this fit goes on at epoch' in run(pictures, tmp_path/'killed', *grow, die_at='00001')
    whole, again = weights(tmp_path/'whole'), weights(tmp_path/'killed')
    assert whole.keys()==again.keys() and all(torch.equal(whole[k], again[k]) for k in whole)
    assert results(tmp_path/'whole')==results(tmp_path/'killed') and len(results(tmp_path/'whole'))==1

def test_shrinks_in_two_processes_and_goes_on(pictures, tmp_path):
    said = run(pictures, tmp_path/'out', '--shrink', 'sandwich', '--widths', .5, 1, die_at='00001', ranks=2)
    assert said.count('this fit goes on at epoch')==1
    rows = results(tmp_path/'out')
    assert [r['macs'] for r in rows]==sorted(r['macs'] for r in rows) and len(rows)==2 # the smallest is half

def test_help_says_how(capfd):
    said = start(script, '--help')
    for word in ('torchrun', '--nnodes', '--rdzv_endpoint', 'accelerate launch', 'train/CLASS/NAME', '--shrink',
                 '--grow', 'Start the same line again', '--bf16', '--lr'):
        assert word in said, word
