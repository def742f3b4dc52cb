"""Directives that make the reference from the code: nothing of it is typed by hand, so nothing of it is out of date.

- ``hfft-command NAME``: the flags of a command with help and default; those of `hfft train` that another command shares
  are named alone.
- ``hfft-arguments DATACLASS [more]``: fields of an argument dataclass; ``more`` of those that are transformers' own.
- ``hfft-strategies``: every strategy with its summary.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import textwrap
from collections.abc import Iterable
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from hfft.commands import COMMANDS


def inline(text: str) -> list[nodes.Node]:
    """Turn words between backquotes into literals."""
    parts = text.split("`")
    return [nodes.literal(text=part) if index % 2 else nodes.Text(part) for index, part in enumerate(parts)]


def definitions(rows: Iterable[tuple[str, str, str, str]]) -> nodes.definition_list:
    """Return a list of (id, what is written, classifier, help)."""
    entries = nodes.definition_list()
    for identifier, written, classifier, text in rows:
        term = nodes.term("", "", nodes.literal(text=written), ids=[identifier])
        if classifier:
            term += [nodes.Text(" "), nodes.emphasis(text=classifier)]
        entries += nodes.definition_list_item("", term, nodes.definition("", nodes.paragraph("", "", *inline(text))))
    return entries


def default_text(value: Any, text: str) -> str:
    """Return what a default is called, or nothing where there is none, or where the help says it."""
    if value is None or value is argparse.SUPPRESS or value is dataclasses.MISSING or "default:" in text:
        return ""
    if isinstance(value, bool):
        return f"default: {str(value).lower()}"
    return f"default: {getattr(value, 'value', value)}" if value != "" else ""


class CommandDirective(SphinxDirective):
    """``hfft-command NAME``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return a sentence, the usage and the flags."""
        command = self.arguments[0]
        parser = COMMANDS[command].parser()
        words = (parser.usage or parser.format_usage().removeprefix("usage: ")).split()
        usage = "\n".join(textwrap.wrap(" ".join(words), 84, subsequent_indent="    ", break_on_hyphens=False))
        shared = shared_fields(command)
        actions = [action for action in parser._actions if action.dest not in {"help", *shared}]
        rows = [self.row(command, action) for action in actions if action.help is not argparse.SUPPRESS]
        made: list[nodes.Node] = [
            nodes.paragraph("", "", *inline(parser.description or "")),
            nodes.literal_block(usage, usage, language="text"),
        ]
        return [*made, definitions(rows)] if rows else made

    @staticmethod
    def row(command: str, action: argparse.Action) -> tuple[str, str, str, str]:
        """Return the entry of one flag."""
        text = (action.help or "").strip()
        flag = action.option_strings[0] if action.option_strings else str(action.metavar)
        metavar = "" if not action.option_strings or action.nargs == 0 else metavar_of(action)
        needed = "required" if action.required else default_text(action.default, text)
        return f"{command}-{flag.lstrip('-')}", f"{flag} {metavar}".strip(), needed, text


def metavar_of(action: argparse.Action) -> str:
    """Return what stands behind a flag."""
    if action.nargs == "?" and action.metavar is None:
        return "[true|false]"
    return str(action.metavar or action.dest.split("_")[-1].upper()) + (" ..." if action.nargs == "+" else "")


def shared_fields(command: str) -> set[str]:
    """Return the arguments of a run, where a command takes them all: they stand on a page of their own."""
    if command not in ("train", "crossval", "search", "lr-find"):
        return set()
    from hfft.parsing import run_parser

    return {action.dest for action in run_parser()._actions}


class ArgumentsDirective(SphinxDirective):
    """``hfft-arguments DATACLASS [more]``."""

    required_arguments = 1
    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the fields, in the order of the dataclass."""
        module, _, name = self.arguments[0].rpartition(".")
        of_transformers = len(self.arguments) > 1
        return [definitions(field_rows(getattr(importlib.import_module(module), name), of_transformers))]


def field_rows(kind: type, of_transformers: bool) -> list[tuple[str, str, str, str]]:
    """Return the entries of a dataclass: hfft's own fields and defaults, or what is transformers' as it is."""
    from transformers import TrainingArguments

    from hfft.training_arguments import REPLACED

    inherited = {f.name: f for f in dataclasses.fields(TrainingArguments)}
    rows = []
    for f in dataclasses.fields(kind):
        untouched = f.name in inherited and inherited[f.name].metadata == f.metadata
        if not f.init or f.name in REPLACED or untouched is not of_transformers:
            continue
        text = " ".join(str(f.metadata.get("help", "")).split())
        default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
        rows.append((f"argument-{f.name}", f"--{f.name}", default_text(default, text), text))
    return rows


class ReplacedDirective(SphinxDirective):
    """``hfft-replaced``: the fields of transformers that have no place in a run, and what to use instead."""

    def run(self) -> list[nodes.Node]:
        """Return one entry for each."""
        from hfft.training_arguments import REPLACED

        return [definitions((f"replaced-{name}", name, "", f"{why}.") for name, why in REPLACED.items())]


class StrategiesDirective(SphinxDirective):
    """``hfft-strategies``."""

    def run(self) -> list[nodes.Node]:
        """Return one entry for each."""
        from hfft.strategies import STRATEGIES

        return [definitions((f"strategy-{s.name}", s.name, "", f"{s.summary}.") for s in STRATEGIES.values())]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("hfft-command", CommandDirective)
    app.add_directive("hfft-arguments", ArgumentsDirective)
    app.add_directive("hfft-replaced", ReplacedDirective)
    app.add_directive("hfft-strategies", StrategiesDirective)
    return {"parallel_read_safe": True}
