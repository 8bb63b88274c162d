"""How the site is built: `make docs` writes it to build/docs."""

import inspect
import re
import sys
from pathlib import Path

from sphinx.util.inspect import stringify_signature

import kbn

HERE = Path(__file__).parent
sys.path.append(str(HERE / "_extensions"))

project = "kbn"
release = version = kbn.__version__
html_title = f"kbn {release}"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "diagnoses",
    "scripts",
    "sample_report",
]
exclude_patterns = ["package.md"]  # the long description: a page of the package index
nitpicky = True
# Keras and Python are not documented here.
nitpick_ignore_regex = [
    ("py:exc", r"(Type|Value|OS|Import|FileNotFound|Attribute)Error"),
    ("py:exc", "TrainingAlert"),
    ("py:class", "keras.*|Callback|Layer|optional"),
]

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]

# `x` in a docstring is code, as in Markdown.
default_role = "literal"
smartquotes_action = "D"  # dashes: quotes and dots may be those of code
highlight_language = "none"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_custom_sections = [("Call arguments", "params_style"), "Reference"]

html_theme = "furo"
pygments_dark_style = "monokai"  # the theme's own underlines what is imported
html_static_path = ["_static"]
html_css_files = ["kbn.css"]
html_copy_source = False
html_show_copyright = False
copybutton_prompt_text = ">>> |... "
copybutton_prompt_is_regexp = True


def escape_bars(app, what, name, of, options, lines):
    """Let |x| be a bar: reStructuredText takes it for a name to be replaced."""
    text = re.sub(r"(`[^`]+`)|\|", lambda match: match[1] or r"\|", "\n".join(lines))
    lines[:] = text.split("\n")


# To autodoc, a class under another name than its own is an alias of something else.
kbn.BatchNorm.__name__ = "BatchNorm"


def own_signature(app, what, name, of, options, signature, returns):
    """That of __init__, where Keras' __new__ hides it."""
    if what == "class" and signature == "(*args, **kwargs)":
        found = inspect.signature(of.__init__)
        own = [*found.parameters.values()][1:]
        signature = stringify_signature(
            found.replace(parameters=own), show_annotation=False
        )
    return signature, returns


def setup(app):
    """Docstrings pass through here before napoleon reads their sections."""
    app.connect("autodoc-process-docstring", escape_bars, priority=400)
    app.connect("autodoc-process-signature", own_signature)
