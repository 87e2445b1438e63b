"""The manual: `make docs` builds it into docs/_build, `make docs-links` looks up what it links to outside.

Pages are Markdown that reads as well on its own; `reference_pages.py` writes those of the reference.
"""

import gc
import sys
from pathlib import Path

import appo

sys.path.insert(0, str(Path(__file__).parent))
import reference_pages

gc.disable()  # it was a third of the time, and the process ends with the build

project = "appo"
version = release = appo.__version__
copyright = "the authors of appo, Apache 2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build", "notebooks"]
myst_heading_anchors = 4  # [text](page.md#heading) is looked up, too
highlight_language = "text"  # of blocks that say none
html_theme = "furo"
html_title = "appo"
html_copy_source = False
suppress_warnings = ["ref.python"]  # names that two packages have, in `Raises:`; nothing else refers to names
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 100
linkcheck_ignore = [r"https?://(?i:localhost|host)\b.*"]  # examples
linkcheck_timeout = 20


def setup(app):  # type: ignore[no-untyped-def]
    app.connect("builder-inited", lambda app: reference_pages.write(Path(app.srcdir) / "reference"))
    app.connect("autodoc-process-docstring", reference_pages.as_written)
    app.connect("autodoc-process-signature", reference_pages.short_signature)
