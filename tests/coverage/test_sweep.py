from __future__ import annotations

import pytest
import timm

from hfft import LayerStack
from tests.coverage.sweep import all_cases, check
from tests.coverage.zoo import UNAVAILABLE, Case, timm_cases

CASES = [case for cases in all_cases().values() for case in cases]

# One for each way in which models are built differently, and those that other groupings got wrong.
REPRESENTATIVE = [
    *("albert", "bart", "bert", "big_bird", "deberta-v2", "funnel", "llama", "mixtral", "modernbert", "perceiver"),
    *("squeezebert", "t5", "xlm", "xmod", "zamba2"),
    *("convnext", "hgnet_v2", "levit", "mobilevit", "pvt", "resnet", "swin", "vit"),
    *("crossvit.crossvit_tiny_240", "hrnet.hrnet_w18_small", "inception_v3.inception_v3", "resnet.test_resnet"),
    *("swin_transformer.swin_tiny_patch4_window7_224", "vision_transformer.test_vit", "efficientnet.mobilenetv2_035"),
    "twins.twins_svt_small",
]


def parameters() -> list:
    marked = []
    for case in CASES:
        marks = [] if case.name in REPRESENTATIVE else [pytest.mark.sweep]
        marked.append(pytest.param(case, id=str(case), marks=marks))
    return marked


@pytest.mark.parametrize("case", parameters())
def test_the_groups_are_blocks_in_the_order_of_use(case: Case):
    _, wrong = check(case)
    assert not wrong


@pytest.mark.sweep
@pytest.mark.parametrize("case", timm_cases(wrapped=True), ids=str)
def test_a_wrapped_timm_model_is_grouped_as_the_plain_one(case: Case):
    wrapped = case.build()
    plain = LayerStack.from_model(wrapped.timm_model)
    expected = [[f"timm_model.{name}" for name in group.parameter_names] for group in plain]
    assert [list(group.parameter_names) for group in LayerStack.from_model(wrapped)] == expected


def test_the_representative_cases_exist():
    assert set(REPRESENTATIVE) <= {case.name for case in CASES}


def test_no_model_type_is_left_out():
    from transformers.models.auto import modeling_auto

    mapped = {
        *modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        *modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    }
    tried = {case.name.split(".")[0] for case in CASES if case.kind != "timm"}
    assert mapped - tried - UNAVAILABLE.keys() == {"timm_wrapper"}  # tried with every timm model
    files = set(timm.models._registry._module_to_models)
    families = {case.name.split(".")[0] for case in CASES if case.kind == "timm"}
    assert files <= families
    if tuple(map(int, timm.__version__.split(".")[:3])) >= (1, 0, 31):  # an older timm has fewer
        assert files == families
