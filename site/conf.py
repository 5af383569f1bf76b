"How sphinx makes the site; the pages themselves come from scripts/make_site.py"
from pathlib import Path
import re

root = Path(__file__).resolve().parent.parent
project, author = 'elastic_nets', 'the authors of elastic_nets'
version = release = re.search(r'"(.+?)"', (root/'elastic_nets/__init__.py').read_text())[1]

extensions = ['myst_nb']
myst_enable_extensions = ['dollarmath', 'amsmath', 'colon_fence', 'attrs_inline', 'html_image']
myst_heading_anchors = 4
myst_dmath_double_inline = True
nb_execution_mode = 'off' # the notebooks are committed with their outputs
nb_merge_streams = True

html_theme, html_title = 'furo', 'elastic_nets'
html_static_path, html_css_files = ['_static'], ['site.css']
html_extra_path = ['_extra'] # what make_site.py puts there: llms.txt
html_copy_source = html_show_sphinx = False
html_theme_options = dict(navigation_with_keys=True)
mathjax_path = 'mathjax/tex-mml-chtml.js' # a copy, where there is one: the site needs no network

# a notebook's first heading stands alone, some lessons skip a level, and a link may name a heading of plain text
suppress_warnings = ['myst.header', 'mystnb.unknown_mime_type', 'misc.highlighting_failure']
