"""Layer groups as patterns of parameter names give them."""

from __future__ import annotations

from collections.abc import Sequence

from hfft.errors import UserError, listed
from hfft.layers.groups import HEAD, LayerGroup, common_module
from hfft.patterns import compiled


def groups_by_patterns(names: Sequence[str], patterns: Sequence[str]) -> list[LayerGroup]:
    """Group parameters by the first pattern that matches their names; see :meth:`LayerStack.from_model`.

    Raises :class:`UserError` for patterns that leave a parameter out, match none, or are no regular expressions.
    """
    members: dict[tuple[int, str], list[str]] = {}
    unmatched = []
    expressions = [compiled(pattern, "layer_patterns") for pattern in patterns]
    for name in names:
        found = ((index, expression.search(name)) for index, expression in enumerate(expressions))
        index, match = next(((index, match) for index, match in found if match), (-1, None))
        if match is None:
            unmatched.append(name)
        else:
            members.setdefault((index, ".".join(text for text in match.groups() if text)), []).append(name)
    unused = [pattern for index, pattern in enumerate(patterns) if not any(index == key[0] for key in members)]
    if unmatched or unused:
        raise UserError(
            "layer_patterns do not fit the model: "
            + (f"{listed(unmatched)} match no pattern. " if unmatched else "")
            + (f"No parameter matches {listed(unused)}." if unused else "")
        )
    ordered = sorted(members.items(), key=lambda item: item[0][0])  # stable: captured texts as they are registered
    *lower, (_, last) = [(common_module(group) or f"layer {i}", group) for i, (_, group) in enumerate(ordered)]
    return [LayerGroup(name, tuple(group)) for name, group in [*lower, (HEAD, last)]]
