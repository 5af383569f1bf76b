"How sphinx makes the site; the pages themselves come from scripts/make_site.py"
from elastic_nets import __version__

project, author, version, release = 'elastic_nets', 'the authors of elastic_nets', __version__, __version__

extensions = ['myst_nb']
myst_enable_extensions = ['dollarmath', 'amsmath', 'colon_fence', 'attrs_inline', 'html_image']
myst_heading_anchors = 4
myst_dmath_double_inline = True
nb_execution_mode = 'off' # the notebooks are committed with their outputs
nb_merge_streams = True
nb_ipywidgets_js = {} # nothing runs here; a player stands beside each widget

html_theme, html_title = 'furo', 'elastic_nets'
html_static_path, html_css_files = ['_static'], ['site.css']
html_extra_path = ['_extra'] # what make_site.py puts there: llms.txt
html_copy_source = html_show_sphinx = False
html_theme_options = dict(navigation_with_keys=True)

# some lessons skip a level of headings, and a cell may hold a table with a style that HTML alone can show
suppress_warnings = ['myst.header', 'mystnb.unknown_mime_type', 'misc.highlighting_failure']
