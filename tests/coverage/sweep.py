"""The layer stack of every architecture in the zoo, held against the oracle.

Run as a module it prints the coverage page: ``python -m tests.coverage.sweep > docs/coverage.md``.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from hfft import LayerStack
from tests.coverage.oracle import violations
from tests.coverage.zoo import UNAVAILABLE, Case, image_and_text_cases, image_cases, text_cases, timm_cases

INTRODUCTION = """# Which models the layer stack orders

Small models with random weights, each held against a forward pass: every parameter in one group, a group for each
block, in the order of use, the new classifier in the last one. For transformers every model type that it maps to
sequence or image classification, for timm the smallest architecture of every model file and some more.

Made by `python -m tests.coverage.sweep`, tested by `pytest -m sweep`.
"""


def all_cases() -> dict[str, list[Case]]:
    """Return the cases by kind: text, image, and image with text of transformers; timm."""
    return {
        "text": text_cases(),
        "image": image_cases(),
        "image with text": image_and_text_cases(),
        "timm": timm_cases(),
    }


def check(case: Case) -> tuple[LayerStack, list[str]]:
    """Return the stack and what is wrong with it, also where it differs from call to call or runs the model."""
    torch.manual_seed(0)
    model = case.build()
    runs: list[object] = []
    hook = register_module_forward_pre_hook(lambda *_: runs.append(None))
    try:
        stack, again = LayerStack.from_model(model), LayerStack.from_model(model)
    finally:
        hook.remove()
    wrong = violations(model, case.inputs(model), list(stack), wider=case.build(num_labels=5))
    if list(stack) != list(again):
        wrong.append("a second call gives other groups")
    if runs:
        wrong.append(f"{len(runs)} modules were run")
    return stack, wrong


def table() -> Iterator[str]:
    """Yield the lines of the coverage page."""
    sections, kinds = [], all_cases()
    for kind, cases in kinds.items():
        rows, holding = [], 0
        for case in sorted(cases, key=lambda case: case.name):
            stack, wrong = check(case)
            holding += not wrong
            rows.append(f"| {case.name} | {len(stack)} | {'; '.join(wrong)} |")
        title = f"## {kind[0].upper()}{kind[1:]}: {holding} of {len(cases)}"
        sections.append([title, "", "| model | groups | not as it should be |", "|---|---:|---|", *rows, ""])
    yield INTRODUCTION
    for section in sections:
        yield from section
    yield "## Not tried"
    yield ""
    yield from (f"- {name}: {reason}" for name, reason in sorted(UNAVAILABLE.items()))


if __name__ == "__main__":
    print("\n".join(table()))
