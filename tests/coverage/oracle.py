"""What layer groups must be, told from a forward pass and from what each library calls a block.

Nothing here knows how hfft groups layers. ``violations`` returns a sentence for every breach of these properties:

P1  every parameter is in exactly one group;
P2  a group is one block of the trunk, a stem, a transition between blocks, or the head: no finer and no coarser;
P3  groups stand in the order in which a forward pass first uses them;
P4  the last group is the head: all of the new classifier and nothing of the trunk's blocks.

Where a norm or a parameter of a container (a class token, a table of positions) goes is left open within reason: a
vector between two blocks may go with either of them, a container's parameter with the stem or where it is used, and
what stands between the last block and the classifier with the last block, with the head, or in a group of its own.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class Group(Protocol):
    """What the checks need of a group."""

    name: str
    parameter_names: Sequence[str]


# --- What a block is -------------------------------------------------------------------------------------------------
#
# A pattern is matched against the paths of modules (``*`` stands for one component, ``**`` for any number), and after
# a colon against the name of their class. Patterns that are joined by ``+`` name modules that form one block where
# their last number is the same. Each entry lists alternatives that are all right, the best first.

Alternatives = list[list[str]]

# transformers: where GradientCheckpointingLayer does not mark the blocks, or marks something else.
TRANSFORMERS_BLOCKS: dict[str, Alternatives] = {
    # no module is marked at all
    "ctrl": [["transformer.h.*"]],
    "funnel": [["funnel.encoder.blocks.*.*"]],
    "ibert": [["ibert.encoder.layer.*"]],
    "mpnet": [["mpnet.encoder.layer.*"]],
    "openai-gpt": [["transformer.h.*"]],
    "reformer": [["reformer.encoder.layers.*"]],
    "squeezebert": [["transformer.encoder.layers.*"]],
    "xlnet": [["transformer.layer.*"]],
    "bit": [["bit.encoder.stages.*.layers.*"]],
    "convnext": [["convnext.encoder.stages.*.layers.*"]],
    "convnextv2": [["convnextv2.encoder.stages.*.layers.*"]],
    "cvt": [["cvt.encoder.stages.*.layers.*"]],
    "dinat": [["dinat.encoder.levels.*.layers.*"]],
    "efficientnet": [["efficientnet.encoder.blocks.*"]],
    "hgnet_v2": [["encoder.stages.*.blocks.*"]],
    "poolformer": [["poolformer.encoder.block.*.*"]],
    "pvt": [["pvt.encoder.block.*.*"]],
    "regnet": [["regnet.encoder.stages.*.layers.*"]],
    "resnet": [["resnet.encoder.stages.*.layers.*"]],
    "textnet": [["textnet.encoder.stages.*.stage.*"]],
    "mobilenet_v2": [["mobilenet_v2.layer.*"]],
    # one set of weights for all layers: one group
    "albert": [["albert.encoder.albert_layer_groups.*.albert_layers.*"]],
    # a layer is the i-th entry of four parallel lists
    "flaubert": [
        ["transformer.attentions.* + transformer.layer_norm1.* + transformer.ffns.* + transformer.layer_norm2.*"]
    ],
    "xlm": [["transformer.attentions.* + transformer.layer_norm1.* + transformer.ffns.* + transformer.layer_norm2.*"]],
    # the attention that reads the input is a layer like those that follow, or the end of the stem; the decoder
    # belongs to the task
    "perceiver": [
        ["perceiver.encoder.cross_attention", "perceiver.encoder.self_attends.*"],
        ["perceiver.encoder.self_attends.*"],
    ],
    # a depthwise and a pointwise convolution make a block, but the library lists them one by one
    "mobilenet_v1": [["mobilenet_v1.layer.*"]],
    # attention and feed-forward make a block, but the library lists them one by one
    "levit": [["levit.encoder.stages.*.layers.*"]],
    # whole stages are marked
    "donut-swin": [["donut.encoder.layers.*.blocks.*"]],
    "focalnet": [["focalnet.encoder.stages.*.layers.*"]],
    "hiera": [["hiera.encoder.stages.*.layers.*"]],
    "pvt_v2": [["pvt_v2.encoder.layers.*.blocks.*"]],
    "swiftformer": [["swiftformer.encoder.network.*.blocks.*"]],
    "swin": [["swin.encoder.layers.*.blocks.*"]],
    "swinv2": [["swinv2.encoder.layers.*.blocks.*"]],
    # MobileNet's stages are lists of inverted residuals; MobileViT's unit is one block with or without its downsampling
    "mobilevit": [
        [
            "mobilevit.encoder.layer.*.layer.*",
            "mobilevit.encoder.layer.*:MobileViTLayer",
        ],
        [
            "mobilevit.encoder.layer.*.layer.*",
            "mobilevit.encoder.layer.*.downsampling_layer",
            "mobilevit.encoder.layer.*.transformer.layer.*",
        ],
    ],
    "mobilevitv2": [
        [
            "mobilevitv2.encoder.layer.*.layer.*",
            "mobilevitv2.encoder.layer.*:MobileViTV2Layer",
        ],
        [
            "mobilevitv2.encoder.layer.*.layer.*",
            "mobilevitv2.encoder.layer.*.downsampling_layer",
            "mobilevitv2.encoder.layer.*.transformer.layer.*",
        ],
    ],
}

_STAGES = [["stages.*.blocks.*"]]
_LISTS = [["stages.*.*"]]
_BLOCKS = [["blocks.*"]]
_LAYERS = [["layer?.*"]]
# the MobileNet family: a last convolution may stand in the list of blocks
_MOBILE = [["blocks.*.*"], ["blocks.*.*:*Residual", "blocks.*.*:*Separable*", "blocks.*.*:*Bottleneck*"]]

# timm: model file -> its blocks, read from the source of each architecture.
TIMM_BLOCKS: dict[str, Alternatives] = {
    "beit": _BLOCKS,
    "byoanet": _LISTS,
    "byobnet": _LISTS,
    "cait": [["blocks.*", "blocks_token_only.*"]],
    # four scales in series, then blocks that work on all scales in parallel: such a block is one block
    "coat": [["serial_blocks?.*", "parallel_blocks.*"]],
    "convit": _BLOCKS,
    "convmixer": _BLOCKS,
    "convnext": _STAGES,
    "cpubone": _LISTS,
    # both branches and what joins them make one block: neither branch comes before the other
    "crossvit": _BLOCKS,
    "csatv2": [["stages.*.*:Block", "stages.*.*:TransformerBlock"]],
    # a cross stage has blocks on one of its two paths; taking it whole is right as well
    "cspnet": [["stages.*.blocks.*"], ["stages.*"]],
    "cspnext": [["stages.*.*:CspNextLayer", "stages.*.*:SPPBottleneck"], ["stages.*.*.blocks.*"]],
    "davit": [["stages.*.blocks.*"], ["stages.*.blocks.*.*"]],
    "deepseek_vit": [["encoder.blocks.*"]],
    "deit": _BLOCKS,
    "densenet": [["features.denseblock*.denselayer*"]],
    # trees of trees: the unit may be the residual block, the innermost tree with its root, or the level
    "dla": [
        ["**:DlaBasic", "**:DlaBottleneck", "**:DlaBottle2neck"],
        ["**.level?:DlaTree"],
        ["level?"],
        ["level?:DlaTree"],
    ],
    "dpn": [["features.conv*_*:DualPathBlock"]],
    "edgenext": _STAGES,
    "efficientformer": _STAGES,
    "efficientformer_v2": _STAGES,
    "efficientnet": _MOBILE,
    "efficientvim": _STAGES,
    "efficientvit_mit": _STAGES,
    # its downsampling wraps a reduction in residual blocks: a transition, or those blocks one by one
    "efficientvit_msra": [["stages.*.blocks.*"], ["stages.*.blocks.*", "stages.*.downsample.*"]],
    "eva": _BLOCKS,
    "fasternet": _STAGES,
    "fastvit": _STAGES,
    "focalnet": [["layers.*.blocks.*"]],
    "gcvit": _STAGES,
    "gemma4_vit": [["encoder.blocks.*"]],
    "ghostnet": _MOBILE,
    "hardcorenas": _MOBILE,
    "hgnet": _STAGES,
    "hiera": _BLOCKS,
    "hieradet_sam2": _BLOCKS,
    # all resolutions of a module run in parallel and are fused in it: one block. What increases the widths after the
    # last of them is a neck, a branch for each resolution
    "hrnet": [["layer1.*", "stage?.*"]],
    "iformer": _STAGES,
    "inception_next": _STAGES,
    "inception_resnet_v2": [["mixed_*", "repeat*.*", "block8"], ["mixed_[67]*", "repeat*.*", "block8"]],
    "inception_v3": [["Mixed_*"]],
    "inception_v4": [
        ["features.*:Mixed*", "features.*:Inception*", "features.*:Reduction*"],
        ["features.*:Mixed4a", "features.*:Mixed5a", "features.*:Inception*", "features.*:Reduction*"],
        ["features.*:Inception*", "features.*:Reduction*"],
    ],
    "lcnetv2": _LISTS,
    "levit": _STAGES,
    "lowformer": _LISTS,
    "mambaout": _STAGES,
    "maxxvit": _STAGES,
    "metaformer": _STAGES,
    "mlp_mixer": _BLOCKS,
    # the first two stages of MobileNetV4 are one fused block each, written as two convolutions
    "mobilenetv3": [*_MOBILE, ["blocks.[01]", "blocks.[2-9].*"]],
    "mobilenetv5": [["blocks.*.*"]],
    # a MobileVit block is one block, or the transformer layers in it are, with the convolutions around them
    "mobilevit": [["stages.*.*"], ["stages.*.*:BottleneckBlock", "stages.*.*.transformer.*"]],
    "mvitv2": _STAGES,
    "naflexvit": _BLOCKS,
    "nasnet": [["cell_*", "reduction_cell_*"], ["cell_[0-9]*", "reduction_cell_*"]],
    "nest": [["levels.*.transformer_encoder.*"]],
    "nextvit": _STAGES,
    "nfnet": _LISTS,
    "pit": [["transformers.*.blocks.*"]],
    "pnasnet": [["cell_*"], ["cell_[0-9]*"]],
    "pvt_v2": _STAGES,
    "qwen3_vit": [["encoder.blocks.*"]],
    "rdnet": [["dense_stages.*.*.dense_block*"]],
    "regnet": [["s?.b*"]],
    "repghost": _MOBILE,
    "repvit": _STAGES,
    "res2net": _LAYERS,
    "resnest": _LAYERS,
    "resnet": _LAYERS,
    "resnetv2": _STAGES,
    "rexnet": [["features.*:LinearBottleneck"], ["features.*"]],
    "selecsls": [["features.*"]],
    "senet": [["layer[1-9].*"]],
    "sequencer": _STAGES,
    "shvit": _STAGES,
    "sknet": _LAYERS,
    "starnet": [["stages.*.*:Block"]],
    "swiftformer": _STAGES,
    "swin_transformer": [["layers.*.blocks.*"]],
    "swin_transformer_v2": [["layers.*.blocks.*"]],
    "swin_transformer_v2_cr": _STAGES,
    "tiny_vit": _STAGES,
    "tnt": _BLOCKS,
    "tresnet": [["body.layer?.*"]],
    "twins": [["blocks.*.*"]],
    # no stem and no blocks: every convolution is a layer, and so are the two that stand for fully connected ones
    "vgg": [["features.*:Conv2d"], ["features.*:Conv2d", "pre_logits.fc?"]],
    "visformer": [["stage?.*"]],
    "vision_transformer": _BLOCKS,
    # the convolutional network below the transformer is a trunk of its own; where it is small it may count as the stem
    "vision_transformer_hybrid": [
        ["blocks.*", "patch_embed.backbone.stages.*.blocks.*", "patch_embed.backbone.layer?.*"],
        ["blocks.*"],
    ],
    "vision_transformer_relpos": _BLOCKS,
    "vision_transformer_sam": _BLOCKS,
    "vitamin": [["blocks.*", "patch_embed.backbone.stages.*.*"], ["blocks.*"]],
    "volo": [["network.*.*:Outlooker", "network.*.*:Transformer", "post_network.*"]],
    "vovnet": _STAGES,
    "xception": [["block*"]],
    "xception_aligned": _BLOCKS,
    "xcit": [["blocks.*", "cls_attn_blocks.*"]],
}

# Modules that are neither block nor transition: they work on what a block has just computed, and may go with it.
ATTACHED: dict[str, list[str]] = {
    "twins": ["pos_block.*"],  # positional encoding after the first block of a stage
    "dla": ["**.project", "**.root"],  # the shortcut into and the root of a tree
    "cspnet": ["stages.*.conv_transition*"],
    "cspnext": ["stages.*.*.conv*", "stages.*.*.attn*"],
    "mobilevit": ["**.conv_kxk", "**.conv_1x1", "**.conv_proj*", "**.*fusion"],
    "mobilevitv2": ["**.conv_kxk", "**.conv_1x1", "**.conv_projection", "**.layernorm"],
    "gcvit": ["stages.*.global_block"],
}

# What the head reads from earlier than the last block: it may be in the head, or with the last block, although it is
# used before the end.
EARLY_HEAD: dict[str, list[str]] = {
    "efficientvim": ["norm.*"],  # norms of the classifiers on the stages
}

# Branches that run side by side: either may stand first.
SIDE_BY_SIDE: dict[str, list[str]] = {
    "hrnet": ["incre_modules.*", "downsamp_modules.*"],  # each width is added to what was reduced from the one before
}


def _regex(pattern: str) -> re.Pattern[str]:
    path = re.escape(pattern).replace(r"\*\*", "\0").replace(r"\*", "[^.]*").replace(r"\?", "[^.]").replace("\0", ".*")
    return re.compile(re.sub(r"\\\[(.*?)\\\]", lambda match: f"[{match[1].replace(chr(92), '')}]", path) + r"\Z")


def _matches(pattern: str, path: str, module: nn.Module) -> bool:
    path_pattern, _, class_pattern = pattern.partition(":")
    if not _regex(path_pattern).match(path):
        return False
    return not class_pattern or fnmatchcase(type(module).__name__, class_pattern)


def _outermost(paths: Iterable[str]) -> list[str]:
    paths = list(paths)
    known = set(paths)
    return [path for path in paths if not any(path[:end] in known for end in _dots(path))]


def _dots(path: str) -> list[int]:
    return [index for index, letter in enumerate(path) if letter == "."]


def _owns_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _by_patterns(model: nn.Module, patterns: list[str], prefix: str) -> dict[str, list[str]]:
    """Return blocks as name -> paths of the modules it is made of."""
    blocks: dict[str, list[str]] = {}
    for pattern in patterns:
        parts = pattern.split(" + ")
        found = [
            path
            for path, module in model.named_modules()
            if path.startswith(prefix) and _owns_parameters(module)
            if any(_matches(part, path.removeprefix(prefix), module) for part in parts)
        ]
        for path in _outermost(found):
            name = path if len(parts) == 1 else f"{parts[0].removesuffix('*')}{path.rpartition('.')[2]}"
            blocks.setdefault(name, []).append(path)
    return blocks


def _by_checkpointing(model: nn.Module) -> dict[str, list[str]]:
    """Return what transformers marks as a layer to checkpoint, where it is not inside another such layer."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    marked = [path for path, module in model.named_modules() if isinstance(module, GradientCheckpointingLayer)]
    return {path: [path] for path in _outermost(marked)}


def _is_transformers(model: nn.Module) -> bool:
    from transformers import PreTrainedModel

    return isinstance(model, PreTrainedModel)


def family(model: nn.Module) -> tuple[str, str]:
    """Return which table names the blocks, and the key in it."""
    if _is_transformers(model) and model.config.model_type != "timm_wrapper":
        return "transformers", model.config.model_type
    inner = getattr(model, "timm_model", model)
    module = type(inner).__module__
    architecture = (getattr(inner, "pretrained_cfg", None) or {}).get("architecture")
    if architecture:
        from timm.models import _registry

        return "timm", _registry._model_to_module[architecture]
    return "timm", module.rpartition(".")[2]


def block_alternatives(model: nn.Module) -> list[dict[str, list[str]]]:
    """Return the ways in which the blocks of a model may be told, the best first."""
    table, key = family(model)
    if table == "transformers":
        if key not in TRANSFORMERS_BLOCKS:
            return [_by_checkpointing(model)]
        return [_by_patterns(model, patterns, "") for patterns in TRANSFORMERS_BLOCKS[key]]
    prefix = "timm_model." if hasattr(model, "timm_model") else ""
    found = [_by_patterns(model, patterns, prefix) for patterns in TIMM_BLOCKS[key]]
    return [blocks for blocks in found if blocks]


# --- What a forward pass uses ----------------------------------------------------------------------------------------


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


class _Uses(TorchFunctionMode):
    """Note when a tensor function first takes each parameter; looking up its shape or type is no use."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.clock = 0
        self.first: dict[str, int] = {}
        self.users: dict[str, set[str]] = {}
        self.open_blocks: list[str] = []
        self._name_of = {id(parameter): name for name, parameter in model.named_parameters()}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.clock += 1
        names = {self._name_of.get(id(tensor)) for tensor in _tensors((args, kwargs or {}))} - {None}
        if names and next(iter(_tensors(result)), None) is not None:
            for name in names:
                self.first.setdefault(name, self.clock)
                self.users.setdefault(name, set()).update(self.open_blocks[:1])
        return result


@dataclass
class Trace:
    """When a forward pass first uses each parameter, and when each block begins and ends."""

    first_use: dict[str, int]
    users: dict[str, set[str]]  # parameter -> outermost blocks that use it
    begin: dict[str, int] = field(default_factory=dict)
    end: dict[str, int] = field(default_factory=dict)

    @property
    def order(self) -> list[str]:
        """Return the blocks that were run, in the order in which they began."""
        return sorted(self.begin, key=self.begin.__getitem__)


def trace(model: nn.Module, inputs: Mapping[str, Tensor], blocks: dict[str, list[str]]) -> Trace:
    """Run the model once and note when it uses what."""
    uses = _Uses(model)
    result = Trace(uses.first, uses.users)
    handles = []

    def enter(name: str) -> None:
        uses.clock += 1
        uses.open_blocks.append(name)
        result.begin.setdefault(name, uses.clock)

    def leave(name: str) -> None:
        uses.clock += 1
        uses.open_blocks.remove(name)
        if len(blocks[name]) > 1 or name not in result.end:
            result.end[name] = uses.clock

    for name, paths in blocks.items():
        for path in paths:
            module = model.get_submodule(path)
            handles.append(module.register_forward_pre_hook(lambda *_, name=name: enter(name)))
            handles.append(module.register_forward_hook(lambda *_, name=name: leave(name)))
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), uses:
            model(**inputs)
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    for name in set(blocks) - set(result.begin):  # its forward method is called past its hooks
        prefixes = tuple(f"{path}." for path in blocks[name])
        times = [time for parameter, time in uses.first.items() if parameter.startswith(prefixes)]
        if times:
            result.begin[name], result.end[name] = min(times), max(times)
    return result


# --- The classifier --------------------------------------------------------------------------------------------------


def classifier_names(model: nn.Module, wider: nn.Module | None = None) -> set[str]:
    """Return the parameters that must be in the head.

    Args:
        model: the model.
        wider: the same model with another number of classes (may be on the meta device): what differs in shape is
            the classifier's output. Of transformers, all that is not in the base model counts as well.
    """
    required: set[str] = set()
    if wider is not None:
        shapes = {name: parameter.shape for name, parameter in wider.named_parameters()}
        required = {name for name, parameter in model.named_parameters() if shapes.get(name) != parameter.shape}
    if _is_transformers(model) and model.config.model_type != "timm_wrapper" and model.base_model is not model:
        base = {id(parameter) for parameter in model.base_model.parameters()}
        required |= {name for name, parameter in model.named_parameters() if id(parameter) not in base}
    return required


# --- Counting blocks, as a check on the tables -----------------------------------------------------------------------

# The configuration counts something else than blocks.
COUNTED_OTHERWISE = {
    "albert": "all layers share one set of weights",
    "canine": "two encoders of characters, of one layer each, stand around the counted one",
    "efficientnet": "num_hidden_layers counts convolutions",
    "hgnet_v2": "depths is not what builds the stages",
    "levit": "depths counts pairs, and the reductions are in the same list",
    "mobilenet_v1": "no count in the configuration",
    "mobilenet_v2": "no count in the configuration",
    "mobilevit": "no count in the configuration",
    "mobilevitv2": "no count in the configuration",
    "perceiver": "num_blocks counts passes",
    "pp_lcnet": "depths is derived",
}


def expected_count(config: Any) -> int | None:
    """Return how many blocks the configuration of a transformers model tells of that a forward pass goes through."""
    if config.model_type in COUNTED_OTHERWISE or config.model_type == "timm_wrapper":
        return None
    if isinstance(getattr(config, "depths", None), (list, tuple)):
        return sum(config.depths)
    if isinstance(getattr(config, "depth", None), (list, tuple)):
        return sum(config.depth)
    if isinstance(getattr(config, "block_sizes", None), (list, tuple)):
        return sum(config.block_sizes)
    pair = [getattr(config, name, None) for name in ("encoder_layers", "decoder_layers")]
    if all(isinstance(number, int) for number in pair):
        return sum(pair)
    if isinstance(getattr(config, "num_decoder_layers", None), int):
        return config.num_layers + config.num_decoder_layers
    nested = [getattr(config, name, None) for name in ("encoder", "decoder")]
    if all(nested):
        counts = [getattr(part, "text_config", part).num_hidden_layers for part in nested]
        return sum(counts)
    number = getattr(config, "num_hidden_layers", None)
    return number if isinstance(number, int) else None


# --- The checks ------------------------------------------------------------------------------------------------------


def _listed(names: Iterable[str], limit: int = 4) -> str:
    names = sorted(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


class _Check:
    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Group],
        blocks: dict[str, list[str]],
        passed: Trace,
        required: set[str],
    ) -> None:
        self.groups, self.passed, self.required = groups, passed, required
        self.parameters = dict(model.named_parameters())
        self.key = family(model)[1]
        self.prefix = "timm_model." if hasattr(model, "timm_model") else ""
        self.order = passed.order
        self.index = {name: position for position, name in enumerate(self.order)}
        self.found: list[str] = []
        path_of = [(f"{path}.", name) for name, paths in blocks.items() for path in paths]
        self.block_of = {
            parameter: next((name for path, name in path_of if parameter.startswith(path)), None)
            for parameter in self.parameters
        }
        containers = {path[:end] for paths in blocks.values() for path in paths for end in _dots(path)} | {""}
        # Parameters of a container, and what several blocks share: with the stem, or where they are first used.
        self.loose = {
            name
            for name in self.parameters
            if name.rpartition(".")[0] in containers or len(passed.users.get(name, ())) > 1
        }
        if getattr(getattr(model, "config", None), "vision_config", None) is not None:
            # looked up before the image is read, but the entry to the second tower: right in either place
            self.loose |= {
                f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.Embedding)
            } & set(self.parameters)

    def _is_attached(self, name: str, table: dict[str, list[str]]) -> bool:
        path = name.removeprefix(self.prefix)
        parts = [path[:end] for end in _dots(path)]
        return any(_regex(pattern).match(part) for pattern in table.get(self.key, []) for part in parts)

    def place(self, name: str) -> tuple[int, int] | None:
        """Return between which blocks a parameter is first used, as the gaps it may belong to; None: never used."""
        time = self.passed.first_use.get(name)
        if time is None:
            return None
        begun = sum(self.passed.begin[block] <= time for block in self.order)
        if begun and time <= self.passed.end.get(self.order[begun - 1], -1):
            return begun - 1, begun  # inside a block: before it or after it
        return begun, begun

    def gap(self, number: int) -> str:
        if number == 0:
            return "the stem"
        if number == len(self.order):
            return f"what follows the last block {self.order[-1]}"
        return f"the transition between {self.order[number - 1]} and {self.order[number]}"

    def run(self) -> list[str]:
        self._partition()
        if not self.found:
            self._blocks()
            self._between()
            self._order()
            self._head()
        return self.found

    def _partition(self) -> None:
        seen: dict[str, int] = {}
        for group in self.groups:
            for name in group.parameter_names:
                seen[name] = seen.get(name, 0) + 1
        missing = set(self.parameters) - set(seen)
        if missing:
            self.found.append(f"P1: in no group: {_listed(missing)}")
        if set(seen) - set(self.parameters):
            self.found.append(f"P1: no parameters of the model: {_listed(set(seen) - set(self.parameters))}")
        twice = [name for name, count in seen.items() if count > 1]
        if twice:
            self.found.append(f"P1: in more than one group: {_listed(twice)}")

    def _blocks_in(self, group: Group) -> list[str]:
        found = {self.block_of[name] for name in group.parameter_names} - {None}
        return sorted(found & set(self.index), key=self.index.__getitem__)

    def _blocks(self) -> None:
        homes: dict[str, list[str]] = {}
        for group in self.groups:
            blocks = self._blocks_in(group)
            for block in blocks:
                homes.setdefault(block, []).append(group.name)
            if len(blocks) > 1:
                self.found.append(f"P2 coarser: group '{group.name}' holds {len(blocks)} blocks: {_listed(blocks)}")
        for block, names in homes.items():
            if len(names) > 1:
                self.found.append(f"P2 finer: block '{block}' is divided over {len(names)} groups: {', '.join(names)}")

    def _between(self) -> None:
        """Check what is no block: stem, transitions and what follows the last block."""
        homes: dict[int, list[str]] = {}
        last = len(self.order)
        for position, group in enumerate(self.groups[:-1]):
            blocks = self._blocks_in(group)
            places: dict[int, list[str]] = {}
            for name in group.parameter_names:
                place = self.place(name)
                if self.block_of[name] is not None or place is None or (name in self.loose and position == 0):
                    continue
                if blocks:
                    self._with_block(group, blocks, name, place)
                elif place[0] == place[1] and name not in self.loose:
                    places.setdefault(place[0], []).append(name)
            if len(places) > 1:
                texts = [f"{self.gap(number)} ({_listed(names, 2)})" for number, names in sorted(places.items())]
                self.found.append(f"P2 coarser: group '{group.name}' joins {'; '.join(texts)}")
            for number in places:
                homes.setdefault(number, []).append(group.name)
        for number, names in homes.items():
            if len(names) > 1 and number != last:
                self.found.append(f"P2 finer: {self.gap(number)} is divided over groups {', '.join(names)}")

    def _with_block(self, group: Group, blocks: list[str], name: str, place: tuple[int, int]) -> None:
        first, final = self.index[blocks[0]], self.index[blocks[-1]]
        if final == len(self.order) - 1 and self._is_attached(name, EARLY_HEAD):
            return
        if not (first <= place[1] and place[0] <= final + 1):
            where = self.gap(place[0])
            self.found.append(f"P3: '{name}' is in the group of block '{group.name}' but belongs to {where}")
            return
        tail = place[0] == len(self.order)
        shape = self.parameters[name].shape
        is_vector = max(shape, default=1) == shape.numel()
        if not (tail or is_vector or name in self.loose or place[0] != place[1] or self._is_attached(name, ATTACHED)):
            self.found.append(f"P2 merged: '{name}' of {self.gap(place[0])} is in the group of block '{group.name}'")

    def _order(self) -> None:
        """Groups begin one after the other."""
        before: tuple[int, str, str] | None = None
        for group in self.groups:
            uses = [
                (self.passed.first_use[name], name) for name in group.parameter_names if name in self.passed.first_use
            ]
            uses = [use for use in uses if not self._is_attached(use[1], EARLY_HEAD)]
            strict = [use for use in uses if use[1] not in self.loose] or uses
            if not strict:
                continue
            time, name = min(strict)
            if group is self.groups[-1] and self._is_attached(name, EARLY_HEAD):
                continue
            if self._is_attached(name, SIDE_BY_SIDE):
                continue
            if before is not None and time < before[0]:
                self.found.append(
                    f"P3: group '{group.name}' is used (from '{name}') before group '{before[1]}' "
                    f"(from '{before[2]}'), which stands before it"
                )
            before = (time, group.name, name)

    def _head(self) -> None:
        head = self.groups[-1]
        names = set(head.parameter_names)
        if self.required - names:
            self.found.append(f"P4: of the classifier, not in the last group: {_listed(self.required - names)}")
        blocks = {self.block_of[name] for name in names} - {None}
        if blocks:
            self.found.append(f"P4: the last group holds blocks: {_listed(blocks)}")
        free = names - self.required
        early, unused = set(), set()
        for name in free:
            place = self.place(name)
            if place is None:
                unused.add(name)
            elif self.block_of[name] is None and place[0] < len(self.order):
                early.add(name)
        early = {name for name in early if not self._is_attached(name, EARLY_HEAD)}
        if early:
            self.found.append(f"P4: the last group holds what is used before the last block ends: {_listed(early)}")
        # a pooler that a classifier without one does not run is harmless beside it
        beside = {name.rpartition(".")[0].rpartition(".")[0] for name in self.required}
        strange = {name for name in unused if self.block_of[name] is not None or _container(name) not in beside}
        if strange:
            self.found.append(f"P4: the last group holds what a forward pass never uses: {_listed(strange)}")


def _container(name: str) -> str:
    return name.rpartition(".")[0].rpartition(".")[0]


def violations(
    model: nn.Module, inputs: Mapping[str, Tensor], groups: Sequence[Group], wider: nn.Module | None = None
) -> list[str]:
    """Return what is wrong with the layer groups of a model.

    Args:
        model: the model.
        inputs: arguments of a forward pass.
        groups: its layer groups, input first and head last.
        wider: the same model with another number of classes, to tell the classifier's output.
    """
    required = classifier_names(model, wider)
    best: list[str] | None = None
    for blocks in block_alternatives(model):
        passed = trace(model, inputs, blocks)
        if not passed.order:
            continue
        found = _Check(model, groups, blocks, passed, required).run()
        if _is_transformers(model):
            expected = expected_count(model.config)
            if expected is not None and expected != len(passed.order):
                found.append(f"oracle: {len(passed.order)} blocks seen, {expected} in the configuration")
        if not found:
            return []
        best = found if best is None else best
    return ["oracle: no blocks known"] if best is None else best


def widened(model: nn.Module, num_labels: int = 5) -> nn.Module | None:
    """Return a transformers model of the same configuration with another number of classes, without weights."""
    if not _is_transformers(model):
        return None
    config = copy.deepcopy(model.config)
    config.num_labels = num_labels
    with torch.device("meta"):
        return type(model)(config)
