"""Warns of public names and commands that the reference leaves out; with -W that ends the build."""

from __future__ import annotations

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

logger = logging.getLogger(__name__)


def require_public_names(app: Sphinx, env: BuildEnvironment) -> None:
    """Compare hfft.__all__ and the commands with what the pages describe."""
    import hfft
    from hfft.commands import COMMANDS

    described = {name for name, *_ in env.get_domain("py").get_objects()}
    for name in hfft.__all__:
        if f"hfft.{name}" not in described and name != "__version__":
            logger.warning("hfft.%s has no place in the reference", name)
    commands = env.get_doctree("reference/commands").astext()
    for command in COMMANDS:
        if f"hfft {command}" not in commands:
            logger.warning("hfft %s has no place in the reference", command)


def setup(app: Sphinx) -> dict[str, bool]:
    """Look once everything has been read."""
    app.connect("env-check-consistency", require_public_names)
    return {"parallel_read_safe": True}
