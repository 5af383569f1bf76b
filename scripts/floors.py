"The oldest versions that pyproject.toml allows, as pip takes them; `floors.py tests`: the tests that run on them"
import re, sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
# notebooks, packaging and benchmarks need tools that no user installs; the zoo is the part that takes long
left_out = {'test_project', 'test_house', 'test_benchmarks', 'test_evidence', 'test_reports', 'test_verdicts',
            'test_trust', 'test_site', 'test_course', 'test_course_on_cifar', 'test_properties', 'test_coverage',
            'test_inside', 'test_demo'}

def floors():
    "From `torch>=2.8` to `torch==2.8`; what has no floor fits what has one"
    text = (root/'pyproject.toml').read_text(encoding='utf-8') # tomllib comes with Python 3.11
    names = re.search(r'^dependencies = \[(.*?)\]', text, re.M|re.S)[1]
    return [n.replace('>=', '==') for n in re.findall(r'"(.+?)"', names)]

def tests(): return [f'tests/{p.name}' for p in sorted((root/'tests').glob('test_*.py')) if p.stem not in left_out]

if __name__=='__main__': print(*(tests() if sys.argv[1:]==['tests'] else floors()))
