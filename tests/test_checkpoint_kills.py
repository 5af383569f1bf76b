"Fits that are killed end with the weights of fits that nobody disturbed; `make faults` kills many more"
import os, sys
import pytest
from faults.fits import FITS, POINTS
from faults.harness import Lab, lives

pytestmark = [pytest.mark.xdist_group('faults'), pytest.mark.skipif(sys.platform=='win32', reason='needs fork')]
KILLS = int(os.environ.get('FAULTS', 2)) # per fit
LIVES = int(os.environ.get('LIVES', 1)) # fits of each kind

@pytest.fixture(scope='module')
def lab(tmp_path_factory): return Lab(tmp_path_factory.mktemp('faults'))

@pytest.mark.parametrize('seed', range(LIVES))
@pytest.mark.parametrize('kind', FITS)
def test_killed_fits_end_alike(lab, kind, seed):
    assert lives(lab, kind, seed, KILLS)==lab.undisturbed(kind)[0]

def test_killed_at_every_point_of_writing(lab):
    died = [lab.killed_at('width', 'points', point, 2) for point in POINTS]
    assert died==[True]*len(POINTS)
    assert lab.finish('width', 'points')==lab.undisturbed('width')[0]
