"""How Sphinx builds the site: sphinx-build -W --keep-going -b html docs docs/_build/html"""

import re
from pathlib import Path
from typing import Any

import click
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

HERE = Path(__file__).parent
_VERSION = re.search(r'__version__ = "(.+?)"', (HERE.parent / "rsreg" / "__init__.py").read_text())

project = "rsreg"
author = "the rsreg authors"
project_copyright = author
release = version = _VERSION[1] if _VERSION else ""

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "examples"]
# "--json" is an option, and no dash.
smartquotes = False

# A request that is no JSON, which docs/protocol.md shows, has no colours.
suppress_warnings = ["misc.highlighting_failure"]

# Headings have the anchors that they have on GitHub too.
myst_heading_anchors = 4

napoleon_numpy_docstring = False
# Attributes that a docstring lists stand with their class, not once more beside it.
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

# Prompts and output are shown, and left out by the button that copies.
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = "rsreg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"navigation_with_keys": True}


def show_examples_as_code(_app: Sphinx, _context: click.Context, lines: list[str]) -> None:
    """Make a block of code of the examples below the help of a command."""
    shown: list[str] = []
    for line in (line.removeprefix("| ") for line in lines):
        shown += [line, "", ".. code-block:: sh", ""] if line == "Examples:" else [line]
    lines[:] = shown


def mark_code(
    _app: Sphinx, _what: str, _name: str, _it: Any, _options: Any, lines: list[str]
) -> None:
    """Make code of what a docstring has in single backticks, before colons in it are looked at."""
    lines[:] = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", "\n".join(lines)).split("\n")


def setup(app: Sphinx) -> None:
    """Take the names that docs/protocol.md gives to blocks of its own, and shape the commands."""
    for name in ("frames", "bytes"):
        app.add_lexer(name, TextLexer)
    app.connect("autodoc-process-docstring", mark_code, priority=400)
    app.connect("sphinx-click-process-epilog", show_examples_as_code)
