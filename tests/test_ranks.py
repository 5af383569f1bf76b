"fastai's `distrib_ctx` with its defaults, two processes on a CPU"
import time
import pytest, torch
from elastic_nets.use import checkpoint
from noted import note
from ranks.start import start, tests

pytestmark = pytest.mark.xdist_group('ranks')
scripts = tests/'ranks'

@pytest.fixture(scope='module')
def ran(tmp_path_factory):
    "The folder into which one process and two have written what they saw"
    folder = tmp_path_factory.mktemp('ranks')
    start(scripts/'defaults.py', folder)
    start(scripts/'defaults.py', folder, ranks=2)
    return folder

def load(folder, name): return torch.load(folder/name, weights_only=False)
def gap(p, q): return (p-q).abs().max().item()

WHAT = dict(grow='GrowWidth', sum='us_net', odds='subnets drawn by importance')

@pytest.mark.parametrize('name', ['grow','sum','odds'])
def test_gradients_are_those_of_the_joined_batch(ran, name):
    (alone,end,nets,_), *both = [load(ran, f'{name}{i}') for i in ('',0,1)]
    for grads,last,theirs,_ in both:
        assert len(grads)==len(alone)==12
        for step,(a,b) in enumerate(zip(alone, grads, strict=True)):
            for p,q in zip(a, b, strict=True): assert p.shape==q.shape and gap(p, q)<1e-6, step
        for p,q in zip(end, last, strict=True): assert (p-q).abs().max()<1e-6
        assert theirs==nets, 'every process trains the same subnets'
    assert all(torch.equal(p, q) for p,q in zip(both[0][1], both[1][1], strict=True))
    assert alone[0][0].shape[0]==(8 if name=='grow' else 16) and alone[-1][0].shape[0]==16
    assert nets==[] if name=='grow' else len({str(n) for n in nets})>1
    most = max(gap(p, q) for grads,*_ in both for a,b in zip(alone, grads) for p,q in zip(a, b))
    note('ranks', fit=WHAT[name], ranks=len(both), steps=len(alone), gap=most, messages=max(both[0][3]))

@pytest.mark.parametrize('name', ['grow','sum','odds'])
def test_one_message_a_step(ran, name):
    assert load(ran, name)[3]==[0]*12
    assert {n for rank in '01' for n in load(ran, name+rank)[3]}=={1}

@pytest.mark.parametrize('name', ['width','depth','delayed','seeded','private'])
def test_goes_on_bit_for_bit(ran, name):
    for rank in (0,1):
        whole, again = load(ran, f'{name}{rank}')
        assert all(torch.equal(p, q) for p,q in zip(whole, again, strict=True)), rank
    assert len(list((ran/'files'/name).iterdir()))==2, 'two files are kept, nothing else'

def test_the_first_process_writes(ran):
    "A file every two of 12 steps, and one at the end of each epoch, of 5 fits that died at the seventh and went on"
    assert load(ran, 'written1')==0 and load(ran, 'written0')>=5*6

def test_all_processes_grow_the_same_skin(ran):
    (one,_), (two,_) = [load(ran, f'seeded{rank}') for rank in (0,1)]
    assert all(torch.equal(p, q) for p,q in zip(one, two, strict=True))

def test_a_file_is_of_its_number_of_processes(ran):
    path = sorted((ran/'files'/'width').iterdir())[-1]
    about, state = checkpoint.unseal(path.read_bytes())
    assert about['number of processes']==len(state['ranks'])==2
    one, two = [s['now']['torch'] for s in state['ranks']]
    assert one.shape==two.shape

def test_batch_norm_on_a_cpu_is_said_once(ran):
    said = [[m for m in load(ran, f'said{rank}') if 'nn.SyncBatchNorm works on a GPU only' in m] for rank in (0,1)]
    assert said[0] and not said[1] and 'sync_bn=False' in said[0][0]

def test_a_process_that_dies_ends_the_others(tmp_path):
    begin = time.perf_counter()
    said = start(scripts/'dies.py', tmp_path/'files', ranks=2, timeout=90, fails=True)
    assert 'exitcode  : -9' in said or 'SIGKILL' in said
    assert time.perf_counter()-begin<60
