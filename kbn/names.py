"""Which name was meant, where a module has none of that name."""

import difflib
from collections.abc import Iterable, Mapping


def unknown(
    module: str, name: str, known: Iterable[str], elsewhere: Mapping[str, str]
) -> AttributeError:
    """The error to raise; says which name of `known` is near.

    elsewhere: {name: what to write instead}.
    """
    meant = elsewhere.get(name) or _near(module, name, known)
    hint = f". Did you mean {meant}?" if meant else ""
    return AttributeError(f"module {module!r} has no attribute {name!r}{hint}")


def _near(module: str, name: str, known: Iterable[str]) -> str:
    if name.startswith("_"):  # asked by tools, of every module
        return ""
    plain = {_plain(one): one for one in known if not one.startswith("_")}
    found = difflib.get_close_matches(_plain(name), plain, 1)
    return f"{module}.{plain[found[0]]}" if found else ""


def _plain(name: str) -> str:
    """As names are mixed up: without case and underscores."""
    return name.lower().replace("_", "")
