"Install what `make dist` built, each file in a new environment, and run the demo there, far from the checkout"
import subprocess, sys, sysconfig, venv
from pathlib import Path
from tempfile import TemporaryDirectory

root = Path(__file__).resolve().parent.parent

def try_out(file):
    with TemporaryDirectory() as d:
        venv.create(d, with_pip=True)
        python = Path(d)/'bin/python'
        def run(*args): subprocess.run([python, *args], cwd=d, check=True)
        site, = Path(d).glob('lib/python*/site-packages')
        (site/'borrowed.pth').write_text(sysconfig.get_path('purelib')) # torch and the rest, 6 GB, come from here
        run('-m', 'pip', 'uninstall', '-qqy', 'setuptools') # an old one, before Python 3.12
        run('-m', 'pip', 'install', '-q', '--no-deps', '--no-build-isolation', '--ignore-installed', file)
        run('-c', f'import elastic_nets as e; assert e.__file__.startswith({d!r}), e.__file__')
        run(Path(d)/'bin/elastic-nets', 'demo', '--epochs', '3', '--out', 'demo-output')
        made = sorted(p.name for p in (Path(d)/'demo-output').iterdir())
        print(f'{file.name}: the demo made', *made)

if __name__=='__main__':
    files = sorted(root.glob('dist/*'))
    if len(files)!=2: sys.exit(f'a wheel and a source distribution are expected in dist, there are {len(files)} files')
    for f in files: try_out(f)
