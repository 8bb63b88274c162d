"""Shows the scripts that pages link to: each becomes a page with its code in colour.

A link to `../examples/quickstart.py` works on GitHub as it stands. Sphinx would make it
a download, and a reader wants to read.
"""

from pathlib import Path

from docutils import nodes
from sphinx.addnodes import download_reference
from sphinx.util import logging

ROOT = Path(__file__).parents[2]
PLACE = "scripts"
logger = logging.getLogger(__name__)


def link(app, doctree, docname):
    """Turn downloads of scripts into links to their pages."""
    for node in [*doctree.findall(download_reference)]:
        _, source = app.env.relfn2path(node["reftarget"], docname)
        path = Path(source).resolve()
        if path.suffix == ".ipynb":
            continue  # to be opened in Jupyter
        if path.suffix != ".py":
            logger.warning("a link to %s, which is no page", path, location=node)
            continue
        name = f"{PLACE}/{path.relative_to(ROOT).with_suffix('').as_posix()}"
        app.builder.scripts[name] = path
        uri = app.builder.get_relative_uri(docname, name)
        node.replace_self(nodes.reference("", "", *node.children, refuri=uri))


def pages(app):
    """(name, context, template) of the scripts that are linked to."""
    for name, path in sorted(app.builder.scripts.items()):
        code = app.builder.highlighter.highlight_block(path.read_text(), "python")
        title = path.relative_to(ROOT).as_posix()
        yield name, {"title": title, "body": f"<h1>{title}</h1>{code}"}, "page.html"


def begin(app):
    """No script is linked to yet."""
    app.builder.scripts = {}


def setup(app):
    """Registers both with the build of HTML."""
    app.connect("builder-inited", begin)
    app.connect("doctree-resolved", link)
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
