"""How the documentation is built: sphinx-build -W -n --keep-going -b html docs OUT."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here asks for the network
sys.path.insert(0, str(Path(__file__).parent / "extensions"))

import hfft

project = "hfft"
copyright = "the authors of hfft"
version = release = hfft.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "arguments",  # docs/extensions: the reference of commands, arguments and metrics, made from the code
    "completeness",  # docs/extensions: every public name stands in the reference
]
exclude_patterns = ["extensions", "_build"]
myst_heading_anchors = 3
suppress_warnings = ["myst.strikethrough"]

napoleon_google_docstring = True
napoleon_numpy_docstring = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
# hfft's inner parts and the types of other libraries have no page here, and no network is asked for theirs.
nitpick_ignore_regex = [
    (
        r"py:.*",
        r"hfft\.(base_model|data|evaluation|evidence|features|findings|optim|record|report|running|searching|storage|targets)\..*|hfft\.targets|Predict",
    ),
    (r"py:.*", r"(torch|transformers|datasets|numpy|np|nn|optuna|rich|collections|pathlib|typing|abc|types)\..*"),
    (r"py:.*", r"(Any|Path|Dataset|DatasetDict|PreTrainedModel|PretrainedConfig|optional|Console|Tensor|ClassVar)"),
    (r"py:.*", r"(int|float|str|bool|bytes|dict|list|tuple|set|frozenset|type|object|None|ValueError)"),
]

html_theme = "furo"
html_title = f"hfft {hfft.__version__}"
html_show_copyright = False
html_copy_source = False
