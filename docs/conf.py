"""Configuration of the site, built by Sphinx; CONTRIBUTING has the command.

Neither the build nor the pages need the network: the browser renders formulas with the single
MathJax file of `sphinx-mathjax-offline`, copied into the site, and names of Python, NumPy and SciPy
are looked up in small inventories in this folder (see inventories.py).
"""

import sys
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # the checkout's package, whatever else is installed

import fastxent  # noqa: E402

project = "fastxent"
copyright = "the fastxent maintainers"
release = version = fastxent.__version__

extensions = [
    "myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
]  # fmt: skip
exclude_patterns = ["_build"]
default_role = "code"  # in docstrings `x` is code

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # outputs are stored in the notebooks; the tests run them

# Libraries that the integrations import; their docstrings are read without them.
autodoc_mock_imports = [
    "torch", "jax", "xgboost", "lightgbm", "fastxent.arrays.torch",
    "fastxent.integrations.jax.arguments", "fastxent.integrations.jax.index_losses",
    "fastxent.integrations.jax.primitives", "fastxent.integrations.torch.eligible",
]  # fmt: skip
autodoc_typehints = "none"  # nor overloads: one signature each, types are in the text
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 80
napoleon_google_docstring = False
napoleon_use_param = False
napoleon_use_rtype = False

_DOCS = {
    "python": "https://docs.python.org/3/",
    "numpy": "https://numpy.org/doc/stable/",
    "scipy": "https://docs.scipy.org/doc/scipy/",
}
intersphinx_mapping = {
    name: (url, str(HERE / "inventories" / f"{name}.inv")) for name, url in _DOCS.items()
}
nitpick_ignore = [("py:exc", "jax.errors.JaxRuntimeError")]

html_theme = "furo"
html_title = "fastxent"
html_favicon = "static/favicon.svg"
html_css_files = ["site.css"]
_mathjax = find_spec("sphinx-mathjax-offline")  # not importable: its name has hyphens
if _mathjax is None or _mathjax.origin is None:
    raise RuntimeError("sphinx-mathjax-offline is not installed: pip install -e . --group docs")
html_static_path = [
    "static/site.css",
    str(Path(_mathjax.origin).parent / "static" / "mathjax" / "tex-svg.js"),
]
mathjax_path = "tex-svg.js"
html_copy_source = False
