"""Links names to where they are described, and warns of public ones that the reference leaves out (-W: an error)."""

from __future__ import annotations

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.nodes import make_refnode

logger = logging.getLogger(__name__)


def link_by_last_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element
) -> nodes.reference | None:
    """Resolve a name that is described under another module, as hfft.crossval.result.X is as hfft.X."""
    if node.get("refdomain") != "py":
        return None
    last = node["reftarget"].rpartition(".")[2]
    found = {
        (page, anchor)
        for name, _, _, page, anchor, _ in env.get_domain("py").get_objects()
        if name.rpartition(".")[2] == last
    }
    if len(found) != 1:
        return None
    ((page, anchor),) = found
    return make_refnode(app.builder, node["refdoc"], page, anchor, content)


def require_public_names(app: Sphinx, env: BuildEnvironment) -> None:
    """Compare hfft.__all__ and the commands with what the pages describe."""
    import hfft
    from hfft.commands import COMMANDS

    described = {name for name, *_ in env.get_domain("py").get_objects()}
    for name in hfft.__all__:
        if f"hfft.{name}" not in described and name != "__version__":
            logger.warning("hfft.%s has no place in the reference", name)
    titles = {title.astext() for title in env.get_doctree("reference/commands").findall(nodes.title)}
    for command in COMMANDS:
        if f"hfft {command}" not in titles:
            logger.warning("hfft %s has no place in the reference", command)


def setup(app: Sphinx) -> dict[str, bool]:
    """Look once everything has been read."""
    app.connect("env-check-consistency", require_public_names)
    app.connect("missing-reference", link_by_last_name)
    return {"parallel_read_safe": True}
