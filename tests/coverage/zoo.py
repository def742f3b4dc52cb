"""Tiny, randomly initialised models of every architecture that hfft orders, each with inputs for a forward pass.

Nothing is downloaded. The configurations of transformers are shrunk generically, by the names of their fields
(``SHRINK``); ``OVERRIDES`` holds what a single model type needs on top. Of timm there is the smallest architecture of
each model file (``TIMM_SMALLEST``) and a few more where one file holds several designs (``TIMM_MORE``).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

NUM_LABELS = 3
VOCABULARY = 64
LENGTH = 16
IMAGE = 32

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """One model: ``build(num_labels=5)`` makes it with another number of classes, ``inputs(model)`` feeds it."""

    name: str
    kind: str  # "text", "image", "timm" or "timm_wrapper"
    build: Callable[..., nn.Module]
    inputs: Callable[[nn.Module], Inputs]

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


# What cannot be instantiated, and why.
UNAVAILABLE: dict[str, str] = {
    "shieldgemma2": "it has no classifier: its answer is a token of a language model",
    "layoutlmv2": "its visual backbone is built by detectron2, which is not on PyPI",
}

# Values of configuration fields, set where a configuration class has the field and its default is an int > value.
SHRINK: dict[str, int] = {
    "vocab_size": VOCABULARY,
    **dict.fromkeys(["shape_vocab_size", "pronunciation_vocab_size", "entity_vocab_size"], 20),
    **dict.fromkeys(["max_position_embeddings", "n_positions", "max_seq_len", "original_max_position_embeddings"], 64),
    "max_2d_position_embeddings": 64,
    # widths
    **dict.fromkeys(["hidden_size", "d_model", "n_embd", "dim", "emb_dim", "word_embed_proj_dim"], 32),
    **dict.fromkeys(["embedding_size", "input_embedding_size", "output_embedding_size", "entity_emb_size"], 16),
    **dict.fromkeys(["pronunciation_embed_dim", "shape_embed_dim", "projection_dim", "prediction_head_size"], 16),
    **dict.fromkeys(["intermediate_size", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "ffn_dim", "hidden_dim"], 32),
    **dict.fromkeys(["moe_intermediate_size", "shared_expert_intermediate_size", "ffn_hidden_size", "dff"], 32),
    **dict.fromkeys(["d_inner", "feed_forward_size", "prompt_mid_dim", "mlp_hidden_size"], 32),
    **dict.fromkeys(["head_dim", "d_kv", "d_head", "kv_channels", "v_head_dim", "qk_nope_head_dim"], 8),
    **dict.fromkeys(["linear_key_head_dim", "linear_value_head_dim", "attention_head_size", "index_head_dim"], 8),
    **dict.fromkeys(["qk_rope_head_dim", "rotary_dim"], 4),
    **dict.fromkeys(["q_lora_rank", "kv_lora_rank", "adapter_rank", "query_pre_attn_scalar", "gated_norm_rank"], 8),
    # numbers of heads
    **dict.fromkeys(["num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads"], 4),
    **dict.fromkeys(["decoder_attention_heads", "linear_num_value_heads", "index_n_heads"], 4),
    **dict.fromkeys(["num_key_value_heads", "num_kv_heads", "linear_num_key_heads"], 2),
    # numbers of layers
    **dict.fromkeys(["num_hidden_layers", "n_layer", "n_layers", "num_layers"], 3),
    **dict.fromkeys(["encoder_layers", "decoder_layers", "num_decoder_layers"], 3),
    # experts
    **dict.fromkeys(["num_experts", "num_local_experts", "n_routed_experts"], 4),
    **dict.fromkeys(["num_experts_per_tok", "n_group", "topk_group"], 2),
    # sequences
    **dict.fromkeys(["sliding_window", "window_size", "attention_window", "local_attention"], 8),
    # images
    "image_size": IMAGE,
    "patch_size": 8,
    "mm_tokens_per_image": 16,
    "embed_dim": 8,
    # tokens
    **dict.fromkeys(["cls_token_id", "sep_token_id", "mask_token_id", "mask_index"], 3),
}

STAGES = {"embed_dim": 8, "depths": [2, 2, 2], "num_heads": [2, 2, 2]}
HIDDEN_STAGES = {"depths": [2, 2, 2, 2], "hidden_sizes": [8, 16, 24, 32]}

# Fields of single model types; a nested dictionary goes to the nested configuration.
_MLA = {"num_key_value_heads": 4}  # latent attention projects keys and values for every query head
_HYBRID = {"num_hidden_layers": 4, "layer_types": ["linear_attention", "full_attention"] * 2}
OVERRIDES: dict[str, dict[str, Any]] = {
    "axk1": _MLA,
    "axk2": _MLA,
    "bloom": {"n_layer": 3},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 1e4}, "full_attention": None},
    },
    "deepseek_v2": {**_MLA, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "deepseek_v3": _MLA,
    "electra": {"embedding_size": 16},
    "esm": {"vocab_size": VOCABULARY},
    "esmc": {"num_key_value_heads": 4},
    "funnel": {"block_sizes": [2, 2, 2]},
    "gpt_neo": {"num_layers": 4, "attention_types": [[["global", "local"], 2]]},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "jamba": {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1},
    "layoutlmv3": {"input_size": 32, "coordinate_size": 4, "shape_size": 8},
    "lilt": {"hidden_size": 48},
    "markuplm": {"max_depth": 4, "xpath_unit_hidden_size": 4},
    "minicpm3": _MLA,
    "modernvbert": {"image_token_id": 60, "pixel_shuffle_factor": 2},
    "ministral": {"head_dim": 8},
    "mistral4": _MLA,
    "nemotron": {"head_dim": 8, "num_key_value_heads": 2},
    "perceiver": {
        **{"num_latents": 8, "d_latents": 32, "d_model": 32, "num_self_attends_per_block": 3},
        **{"num_self_attention_heads": 2, "num_cross_attention_heads": 2, "output_num_channels": 8},
        "image_size": 224,
    },
    "PerceiverForImageClassificationLearned": {
        **{"num_latents": 8, "d_latents": 32, "num_self_attends_per_block": 3, "image_size": 32},
        **{"num_self_attention_heads": 2, "num_cross_attention_heads": 1},
    },
    "PerceiverForImageClassificationFourier": {
        **{"num_latents": 8, "d_latents": 32, "num_self_attends_per_block": 3, "image_size": 224},
        **{"num_self_attention_heads": 2, "num_cross_attention_heads": 1},
    },
    "PerceiverForImageClassificationConvProcessing": {
        **{"num_latents": 8, "d_latents": 32, "num_self_attends_per_block": 3, "image_size": 224},
        **{"num_self_attention_heads": 2, "num_cross_attention_heads": 1},
    },
    "qwen3_5": {
        "text_config": _HYBRID,
        "vision_config": {"depth": 2, "out_hidden_size": 32, "num_position_embeddings": 16},
    },
    "qwen3_5_text": _HYBRID,
    "qwen3_next": _HYBRID,
    "reformer": {
        **{"hidden_size": 32, "axial_pos_embds_dim": (8, 24), "axial_pos_shape": (8, 8)},
        **{"attn_layers": ("local", "lsh", "local"), "local_attn_chunk_length": 8, "lsh_attn_chunk_length": 8},
        **{"num_buckets": 4, "num_attention_heads": 2, "hash_seed": 0},
    },
    "squeezebert": {"embedding_size": 32},
    "t5": {"decoder_start_token_id": 0},
    "mt5": {"decoder_start_token_id": 0},
    "umt5": {"decoder_start_token_id": 0},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 6, "layers_block_type": ["linear_attention", "hybrid", "linear_attention"] * 2},
    "zamba2": {
        **{"num_hidden_layers": 6, "layers_block_type": ["linear_attention", "hybrid", "linear_attention"] * 2},
        **{"mamba_d_state": 8, "chunk_size": 8},
    },
    # images
    "bit": {**HIDDEN_STAGES, "embedding_size": 8, "num_groups": 4},
    "convnext": HIDDEN_STAGES,
    "convnextv2": HIDDEN_STAGES,
    "cvt": {
        **{"embed_dim": (8, 16, 24), "num_heads": (1, 2, 3), "depth": (1, 2, 3), "image_size": 64},
        **{"patch_sizes": (7, 3, 3), "mlp_ratio": (2.0, 2.0, 2.0)},
    },
    "dinat": {
        **{"embed_dim": 8, "depths": [2, 2, 2], "num_heads": [2, 4, 8], "kernel_size": 3, "image_size": 64},
        "dilations": [[1, 2], [1, 2], [1, 1]],
    },
    "donut-swin": {**STAGES, "window_size": 2, "patch_size": 2},
    "efficientnet": {
        **{"hidden_dim": 320, "width_coefficient": 0.25, "depth_coefficient": 1.0, "image_size": 64},
        "num_block_repeats": (1, 2, 2, 1, 1, 2, 1),
    },
    "focalnet": {
        "depths": [2, 2, 2],
        "hidden_sizes": [8, 16, 32],
        "focal_levels": [2, 2, 2],
        "focal_windows": [3, 3, 3],
    },
    "hgnet_v2": {
        **{"stem_channels": (3, 8, 8), "stage_in_channels": (8, 16, 32, 48), "stage_mid_channels": (8, 8, 8, 8)},
        **{"stage_out_channels": (16, 32, 48, 64), "stage_num_blocks": (1, 1, 2, 1), "hidden_sizes": [16, 32, 48, 64]},
        **{"stage_numb_of_layers": (2, 2, 2, 2), "depths": [1, 1, 2, 1], "embedding_size": 8},
    },
    "hiera": {
        **{"image_size": (64, 64), "embed_dim": 8, "depths": (1, 2, 2, 1), "num_heads": (1, 2, 2, 2)},
        **{"patch_size": (7, 7), "masked_unit_size": (8, 8)},
    },
    "levit": {
        **{"image_size": 64, "hidden_sizes": (16, 24, 32), "num_attention_heads": (1, 2, 3), "depths": (2, 2, 2)},
        **{"key_dim": (8, 8, 8), "patch_size": 16},
    },
    "mobilenet_v1": {"depth_multiplier": 0.25, "image_size": 64},
    "mobilenet_v2": {"depth_multiplier": 0.25, "image_size": 64},
    "mobilevit": {
        **{"image_size": 64, "hidden_sizes": (16, 24, 32), "neck_hidden_sizes": (8, 8, 16, 16, 24, 24, 64)},
        "patch_size": 2,
    },
    "mobilevitv2": {"image_size": 64, "width_multiplier": 0.25, "n_attn_blocks": (2, 2, 2), "patch_size": 2},
    "poolformer": {"depths": (2, 2, 2, 2), "hidden_sizes": (8, 16, 24, 32)},
    "pvt": {"image_size": 64, "hidden_sizes": (8, 16, 40, 64), "num_attention_heads": (1, 2, 5, 8), "patch_size": 4},
    "pvt_v2": {"image_size": 64, "hidden_sizes": (8, 16, 40, 64)},
    "regnet": {"hidden_sizes": (8, 16, 24, 32), "depths": (1, 2, 2, 1), "groups_width": 8, "embedding_size": 8},
    "resnet": {**HIDDEN_STAGES, "embedding_size": 8, "depths": [2, 2, 2, 2]},
    "segformer": {
        **{"hidden_sizes": (8, 16, 40, 64), "depths": (2, 2, 2, 2), "num_attention_heads": (1, 2, 5, 8)},
        "decoder_hidden_size": 16,
    },
    "shieldgemma2": {
        "text_config": {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
        "vision_config": {"image_size": 32, "patch_size": 8},
        **{"image_token_index": 5, "boi_token_index": 6, "eoi_token_index": 7, "mm_tokens_per_image": 4},
        **{"yes_token_index": 8, "no_token_index": 9},
    },
    "gemma3": {
        "vision_config": {"image_size": 32, "patch_size": 8},
        **{"image_token_index": 5, "boi_token_index": 6, "eoi_token_index": 7, "mm_tokens_per_image": 4},
    },
    "siglip2": {"vision_config": {"num_patches": 16}},
    "swiftformer": {"embed_dims": (8, 16, 24, 32), "depths": (3, 3, 3, 3), "image_size": 64},
    "swin": {**STAGES, "window_size": 2, "patch_size": 2},
    "swinv2": {**STAGES, "window_size": 2, "patch_size": 2},
    "textnet": {"stem_out_channels": 8, "image_size": 64, "hidden_sizes": [8, 8, 16, 16, 32]},
    "pp_lcnet": {"scale": 0.25, "class_expand": 32},
}

_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def shrunk_fields(config_class: type, overrides: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that make a configuration of this class tiny."""
    config = config_class()
    fields = {field.name for field in dataclasses.fields(config_class)}
    arguments: dict[str, Any] = {}
    for name, value in SHRINK.items():
        default = getattr(config, name, None) if name in fields else None
        if _is_number(default) and default > value:
            arguments[name] = value
    for name, value in _IDS.items():
        if name in fields:
            arguments[name] = value
    for name in config_class.sub_configs:
        nested = getattr(config, name, None)
        if nested is not None and dataclasses.is_dataclass(nested):
            nested_overrides = overrides.get(name) or {}
            if isinstance(nested_overrides, dict):
                arguments[name] = shrunk_fields(type(nested), nested_overrides)
                if "model_type" in type(nested).__dict__:
                    arguments[name]["model_type"] = type(nested).model_type
    nested_names = set(config_class.sub_configs)
    arguments.update(
        {name: value for name, value in overrides.items() if name not in nested_names or name not in arguments}
    )
    return arguments


def tiny_config(model_type: str, num_labels: int = NUM_LABELS, key: str | None = None) -> Any:
    """Return a tiny configuration of a model type of transformers."""
    from transformers import CONFIG_MAPPING

    config_class = CONFIG_MAPPING[model_type]
    return config_class(**shrunk_fields(config_class, OVERRIDES.get(key or model_type, {})), num_labels=num_labels)


def _class_of(name: str) -> type[nn.Module]:
    return getattr(importlib.import_module("transformers"), name)


def _scores_without_natten(query: Tensor, key: Tensor, bias: Tensor, kernel: int, dilation: int) -> Tensor:
    scores = (query * key).sum(-1, keepdim=True).expand(*query.shape[:-1], kernel**2)
    return scores + bias.mean()


def _values_without_natten(probabilities: Tensor, value: Tensor, kernel: int, dilation: int) -> Tensor:
    # (batch, width, height, heads, channels) as the model passes it -> the layout in which it reads the result
    return (probabilities.mean(-1, keepdim=True) * value).permute(0, 3, 2, 1, 4)


def _without_natten() -> None:
    """Let DiNAT be built and run where natten is not installed: the same parameters, used in the same order."""
    from transformers.models.dinat import modeling_dinat

    if not modeling_dinat.is_natten_available():
        modeling_dinat.requires_backends = lambda *_: None
        modeling_dinat.natten2dqkrpb = _scores_without_natten
        modeling_dinat.natten2dav = _values_without_natten


def _build_transformers(class_name: str, model_type: str, key: str, num_labels: int = NUM_LABELS) -> nn.Module:
    if model_type == "dinat":
        _without_natten()
    torch.manual_seed(0)
    return _class_of(class_name)(tiny_config(model_type, num_labels, key)).eval()


def _vocabulary(model: nn.Module) -> int:
    config = model.config
    for holder in (config, getattr(config, "text_config", None), getattr(config, "decoder", None)):
        if holder is not None and getattr(holder, "vocab_size", None):
            return min(int(holder.vocab_size), VOCABULARY)
    return VOCABULARY


def _tokens(model: nn.Module) -> Inputs:
    """Two texts that end with the end-of-sequence token, free of padding and other special tokens."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, _vocabulary(model) - 4, (2, LENGTH), generator=generator)
    ids[:, -1] = _IDS["eos_token_id"]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _boxes(model: nn.Module) -> Inputs:
    return {**_tokens(model), "bbox": torch.tensor([1, 2, 5, 8]).repeat(2, LENGTH, 1)}


def _boxes_and_image(model: nn.Module) -> Inputs:
    return {**_boxes(model), "pixel_values": _pixels(model.config.input_size)["pixel_values"]}


def _ids_only(model: nn.Module) -> Inputs:
    return {"input_ids": _tokens(model)["input_ids"]}


def _perceiver_text(model: nn.Module) -> Inputs:
    return {"inputs": _tokens(model)["input_ids"]}


def _pixels(size: int | Iterable[int], channels: int = 3) -> Inputs:
    height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    return {"pixel_values": torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(0))}


def _images(model: nn.Module) -> Inputs:
    config = model.config
    for holder in (config, getattr(config, "vision_config", None)):
        size = getattr(holder, "image_size", None)
        if size is not None:
            return _pixels(size)
    return _pixels(64)


TEXT_INPUTS: dict[str, Callable[[nn.Module], Inputs]] = {
    "layoutlm": _boxes,
    "layoutlmv3": _boxes_and_image,
    "lilt": _boxes,
    "perceiver": _perceiver_text,
}


def _pixel_tokens(model: nn.Module) -> Inputs:
    return {"input_ids": torch.randint(0, 64, (2, LENGTH), generator=torch.Generator().manual_seed(0))}


def _patches(model: nn.Module) -> Inputs:
    config = model.config.vision_config
    width = config.num_channels * config.patch_size**2
    return {
        "pixel_values": torch.randn(2, 16, width, generator=torch.Generator().manual_seed(0)),
        "pixel_attention_mask": torch.ones(2, 16, dtype=torch.long),
        "spatial_shapes": torch.tensor([[4, 4], [4, 4]]),
    }


def _image_in_text(model: nn.Module) -> Inputs:
    tokens = _tokens(model)
    ids = tokens["input_ids"].clamp(min=10)
    ids[:, 1:7] = torch.tensor([6, 5, 5, 5, 5, 7])
    return {**tokens, "input_ids": ids, "token_type_ids": (ids == 5).long(), **_images(model)}


def _image_as_inputs(model: nn.Module) -> Inputs:
    return {"inputs": _images(model)["pixel_values"]}


IMAGE_INPUTS: dict[str, Callable[[nn.Module], Inputs]] = {
    "imagegpt": _pixel_tokens,
    "perceiver": _image_as_inputs,
    "shieldgemma2": _image_in_text,
    "siglip2": _patches,
}


def _cases(mapping: dict[str, Any], kind: str, inputs: dict[str, Callable], default: Callable) -> list[Case]:
    cases = []
    for model_type, classes in mapping.items():
        if model_type in UNAVAILABLE or model_type == "timm_wrapper":
            continue
        classes = (classes,) if isinstance(classes, str) else classes
        for index, class_name in enumerate(classes):
            name = model_type if not index else f"{model_type}.{class_name}"
            key = f"{model_type}:{kind}" if f"{model_type}:{kind}" in OVERRIDES else model_type
            build = functools.partial(
                _build_transformers, class_name, model_type, class_name if class_name in OVERRIDES else key
            )
            cases.append(Case(name, kind, build, inputs.get(class_name, inputs.get(model_type, default))))
    return cases


def text_cases() -> list[Case]:
    """Return a model of every type that transformers can classify texts with."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

    return _cases(dict(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES), "text", TEXT_INPUTS, _tokens)


def _modernvbert_images(model: nn.Module) -> Inputs:
    tokens = _tokens(model)
    config = model.config
    size, patch = config.vision_config.image_size, config.vision_config.patch_size
    count = (size // patch) ** 2 // config.pixel_shuffle_factor**2
    ids = tokens["input_ids"].clamp(max=50)
    ids[:, 1 : 1 + count] = config.image_token_id
    return {**tokens, "input_ids": ids, "pixel_values": _pixels(size)["pixel_values"][:, None]}


def image_and_text_cases() -> list[Case]:
    """Return text classifiers that also look at an image: then the order of both towers shows."""
    return [
        Case(
            "gemma3",
            "both",
            functools.partial(_build_transformers, "Gemma3ForSequenceClassification", "gemma3", "gemma3"),
            _image_in_text,
        ),
        Case(
            "modernvbert",
            "both",
            functools.partial(
                _build_transformers, "ModernVBertForSequenceClassification", "modernvbert", "modernvbert"
            ),
            _modernvbert_images,
        ),
    ]


def image_cases() -> list[Case]:
    """Return a model of every type that transformers can classify images with, but for timm's."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

    return _cases(dict(MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES), "image", IMAGE_INPUTS, _images)


# timm: model file -> its smallest architecture that has a classifier.
TIMM_SMALLEST: dict[str, str] = {
    "beit": "beit_base_patch16_224",
    "byoanet": "halonet_h1",
    "byobnet": "test_byobnet",
    "cait": "cait_xxs24_224",
    "coat": "coat_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_768_32",
    "convnext": "test_convnext",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240",
    "csatv2": "csatv2",
    "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deepseek_vit": "deepseek_vit_412m",
    "deit": "deit_tiny_patch16_224",
    "densenet": "densenet121",
    "dla": "dla46x_c",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "test_efficientnet",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "eva": "vit_tiny_patch16_dinov3_qkvb",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "gemma4_vit": "gemma4_vit_167m",
    "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "test_mambaout",
    "maxxvit": "test_coatnet",
    "metaformer": "poolformerv2_s12",
    "mlp_mixer": "gmlp_ti16_224",
    "mobilenetv3": "lcnet_035",
    "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_parfac_gap",
    "nasnet": "nasnetalarge",
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "test_nfnet",
    "pit": "pit_ti_224",
    "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0",
    "qwen3_vit": "qwen3_vit_88m",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m1",
    "res2net": "res2next50",
    "resnest": "resnest14d",
    "resnet": "test_resnet",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_legacy_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_svt_small",
    "vgg": "vgg11",
    "visformer": "visformer_tiny",
    "vision_transformer": "test_vit",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "test_vit_relpos",
    "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim_dw",
    "xception": "legacy_xception",
    "xception_aligned": "xception41p",
    "xcit": "xcit_nano_12_p8_224",
}

# Further designs of files that hold several.
TIMM_MORE: dict[str, tuple[str, ...]] = {
    "byoanet": ("botnet26t_256", "lambda_resnet26t", "haloregnetz_b"),
    "byobnet": ("repvgg_a0", "mobileone_s0", "gernet_s", "resnet50_clip", "regnetz_b16", "gcresnext26ts"),
    "convnext": ("convnextv2_atto",),
    "cspnet": ("cspresnet50", "darknet17"),
    "deit": ("deit_tiny_distilled_patch16_224",),
    "dla": ("dla34",),
    "efficientnet": ("mobilenetv2_035", "mobilenetv1_100", "mixnet_s", "tinynet_e", "efficientnet_cc_b0_4e"),
    "ghostnet": ("ghostnetv2_100", "ghostnetv3_100"),
    "levit": ("levit_conv_128s",),
    "maxxvit": ("test_maxvit",),
    "metaformer": ("caformer_s18", "poolformer_s12"),
    "mlp_mixer": ("mixer_s32_224", "resmlp_12_224"),
    "mobilenetv3": ("mobilenetv3_small_050", "mobilenetv4_conv_small_035"),
    "mobilevit": ("mobilevitv2_050",),
    "naflexvit": ("naflexvit_base_patch16_map",),
    "nfnet": ("eca_nfnet_l0",),
    "regnet": ("regnetz_005",),
    "resnetv2": ("resnetv2_50x1_bit",),
    "tnt": ("tnt_s_patch16_224",),
    "vision_transformer": ("vit_base_patch32_clip_224", "test_vit3", "vit_base_patch16_siglip_224"),
    "vision_transformer_hybrid": ("vit_small_r26_s32_224", "vit_small_resnet26d_224", "vit_base_mci_224"),
    "vision_transformer_relpos": ("vit_srelpos_small_patch16_224",),
}

# Arguments that make single architectures small; img_size also sets the size of the images they are fed.
_FEW = {"depth": 3, "embed_dim": 64, "num_heads": 2}
TIMM_ARGUMENTS: dict[str, dict[str, Any]] = {
    "deepseek_vit_412m": _FEW,
    "gemma4_vit_167m": _FEW,
    "qwen3_vit_88m": _FEW,
    "naflexvit_base_patch16_parfac_gap": _FEW,
    "naflexvit_base_patch16_map": _FEW,
    "beit_base_patch16_224": _FEW,
    "samvit_base_patch16_224": {"depth": 3, "embed_dim": 64, "num_heads": 2},
    "vit_base_patch32_clip_224": _FEW,
    "vit_base_patch16_siglip_224": _FEW,
}

# Sizes of the images, where the default would be slow.
TIMM_SIZES: dict[str, int] = {
    "csatv2": 256,
    "deepseek_vit_412m": 126,
    "gemma4_vit_167m": 96,
    "qwen3_vit_88m": 96,
    "sam2_hiera_tiny": 224,
    "naflexvit_base_patch16_parfac_gap": 128,
    "naflexvit_base_patch16_map": 128,
    "nasnetalarge": 96,
    "pnasnet5large": 96,
}


def _build_timm(architecture: str, num_labels: int = NUM_LABELS) -> nn.Module:
    import timm

    torch.manual_seed(0)
    arguments = TIMM_ARGUMENTS.get(architecture, {})
    return timm.create_model(architecture, pretrained=False, num_classes=num_labels, **arguments).eval()


def _build_timm_wrapper(architecture: str, num_labels: int = NUM_LABELS) -> nn.Module:
    from transformers import TimmWrapperConfig

    torch.manual_seed(0)
    arguments = TIMM_ARGUMENTS.get(architecture, {})
    config = TimmWrapperConfig(architecture=architecture, model_args=arguments, num_labels=num_labels)
    return _class_of("TimmWrapperForImageClassification")(config).eval()


def _timm_images(architecture: str, name: str, model: nn.Module) -> Inputs:
    size = getattr(model, "timm_model", model).default_cfg["input_size"]
    size = TIMM_SIZES.get(architecture, max(size))
    return {name: torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))}


def timm_architectures() -> dict[str, str]:
    """Return every architecture of the zoo with its model file."""
    more = {name: file for file, names in TIMM_MORE.items() for name in names}
    return {name: file for file, name in TIMM_SMALLEST.items()} | more


def timm_cases(wrapped: bool = False) -> list[Case]:
    """Return the smallest architecture of each model file of timm and some more, plain or wrapped by transformers."""
    kind, name, build = ("timm_wrapper", "pixel_values", _build_timm_wrapper) if wrapped else ("timm", "x", _build_timm)
    return [
        Case(
            f"{file}.{architecture}",
            kind,
            functools.partial(build, architecture),
            functools.partial(_timm_images, architecture, name),
        )
        for architecture, file in timm_architectures().items()
    ]
