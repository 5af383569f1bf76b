"Fits that are killed end with the weights of fits that nobody disturbed; `make faults` kills many more"
import os, sys
import pytest
from faults.fits import FITS, POINTS
from faults.harness import Lab, lives
from noted import note

pytestmark = [pytest.mark.xdist_group('faults'), pytest.mark.skipif(sys.platform=='win32', reason='needs fork')]
KILLS = int(os.environ.get('FAULTS', 2)) # of each kind of fit

@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp('faults'))
    yield lab
    print(f'\n{lab.kills} kills, {lab.while_writing} of them while a file was written')

@pytest.mark.parametrize('kind', FITS)
def test_killed_fits_end_alike(lab, kind):
    begin, writing, seed = lab.kills, lab.while_writing, 0
    while lab.kills<begin+KILLS:
        assert lives(lab, kind, seed, begin+KILLS-lab.kills)==lab.undisturbed(kind)[0], f'seed {seed}'
        seed += 1
    note('kills', kind=kind, kills=lab.kills-begin, while_writing=lab.while_writing-writing, fits=seed)

def test_killed_at_every_point_of_writing(lab):
    died = [lab.killed_at('width', 'points', point, 2) for point in POINTS]
    assert died==[True]*len(POINTS)
    assert lab.finish('width', 'points')==lab.undisturbed('width')[0]
