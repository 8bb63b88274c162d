"""README, CONTRIBUTING and the pages of docs/, as text."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in FILES}


def section(page, heading):
    """What stands under a heading of a page, up to the next one of its rank."""
    rank = heading.split(" ")[0]
    return PAGES[page].partition(f"\n{heading}\n")[2].partition(f"\n{rank} ")[0]


def code(page):
    """(line, code) of each block of Python on a page, in order."""
    text = PAGES[page]
    blocks = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, m.start()) + 2, m[1]) for m in blocks]


def commands(page):
    """The lines of a page's plain blocks, without what follows a #."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", PAGES[page], re.MULTILINE | re.DOTALL)
    lines = [line for kind, block in blocks if not kind for line in block.splitlines()]
    return [line.partition("#")[0].strip() for line in lines]


def links(page):
    """The targets of the links and pictures of a page that are not addresses."""
    return re.findall(r"\]\(([^):]+)\)", PAGES[page])


def anchors(path):
    """Those of the headings of a page, as GitHub and the site make them."""
    text = path.read_text()
    for included in re.findall(r"^```\{include\} (\S+)", text, re.MULTILINE):
        text += (path.parent / included).read_text()
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", x).lower().replace(" ", "-") for x in headings}
