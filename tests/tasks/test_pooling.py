from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hfft.tasks.text_classification.pooling import MeanTokens, can_pool_tokens, folded, pool_tokens, unfolded
from transformers import AutoModelForSequenceClassification

from hfft import LayerStack
from tests.coverage.zoo import tiny_config

OF_BERTS_MAKE = ("bert", "camembert", "data2vec-text", "electra", "ernie", "roberta", "xlm-roberta")


def model_of(model_type: str, **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    config = tiny_config(model_type)
    for name, value in options.items():
        setattr(config, name, value)
    return AutoModelForSequenceClassification.from_config(config).eval()


def batch(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, model.config.vocab_size, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    mask[2, 1:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("model_type", OF_BERTS_MAKE)
def test_the_stock_architecture_computes_the_same(model_type: str, attention: str):
    model = model_of(model_type)
    model.set_attn_implementation(attention)
    assert can_pool_tokens(model)
    before = model(**batch(model)).logits
    pool_tokens(model)
    pooled = model(**batch(model)).logits
    stock = folded(model)
    assert type(stock) is type(model)
    assert not any(isinstance(module, MeanTokens) for module in stock.modules())
    assert stock.config.num_hidden_layers == model.config.num_hidden_layers + 1
    scale = (pooled - pooled.mean(dim=0)).abs().max()
    assert (stock(**batch(model)).logits - pooled).abs().max() < 0.02 * scale
    assert (before - pooled).abs().max() > 0.05 * scale  # it reads something else than before


@pytest.mark.parametrize("keep_head", [True, False])
@pytest.mark.parametrize("model_type", OF_BERTS_MAKE)
def test_what_was_folded_is_taken_out_again(model_type: str, keep_head: bool, tmp_path: Path):
    model = model_of(model_type)
    pool_tokens(model)
    folded(model).save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    head = {name: value.clone() for name, value in again.named_parameters() if name.startswith("classifier.")}
    assert unfolded(again, keep_head)
    assert [type(module) for module in again.modules()] == [type(module) for module in model.modules()]
    assert again.config.num_hidden_layers == model.config.num_hidden_layers
    trained = dict(model.named_parameters())
    for name, value in again.named_parameters():
        assert torch.equal(value, trained[name] if keep_head or name not in head else head[name]), name
    stock = folded(again)
    assert unfolded(stock, keep_head)
    assert not unfolded(stock, keep_head)
    assert not unfolded(model_of(model_type), keep_head)


def test_what_was_trained_since_it_was_folded_is_left_as_it_is():
    model = model_of("bert")
    pool_tokens(model)
    last = f"bert.encoder.layer.{model.config.num_hidden_layers}"
    for name in ("bert.pooler.dense.bias", "bert.pooler.dense.weight", f"{last}.output.dense.weight"):
        stock = folded(model)
        with torch.no_grad():
            stock.get_parameter(name).add_(1e-3)
        before = {name: value.clone() for name, value in stock.state_dict().items()}
        assert not unfolded(stock, True)
        assert before.keys() == stock.state_dict().keys()
        assert all(torch.equal(value, before[name]) for name, value in stock.state_dict().items())


def test_the_mean_is_that_of_the_tokens_that_the_mask_leaves():
    model = model_of("bert")
    hidden = model.bert(**batch(model)).last_hidden_state
    pool_tokens(model)
    found = model.bert(**batch(model)).pooler_output
    for row, tokens in enumerate((9, 6, 1)):
        expected = torch.nn.functional.layer_norm(hidden[row, :tokens].mean(dim=0), hidden.shape[-1:], eps=1e-12)
        torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-4)


def test_pooling_twice_changes_nothing_and_what_was_not_pooled_is_not_folded():
    model = model_of("bert")
    assert folded(model) is model
    pool_tokens(model)
    pool_tokens(model)
    assert sum(isinstance(module, MeanTokens) for module in model.modules()) == 1


def test_the_layers_are_the_same_groups():
    model = model_of("roberta")
    names = [group.name for group in LayerStack.from_model(model)]
    pool_tokens(model)
    assert [group.name for group in LayerStack.from_model(model)] == names


def test_training_and_the_generator_are_left_as_they_were():
    model = model_of("bert").train()
    pool_tokens(model)
    state = torch.random.get_rng_state()
    assert folded(model).training
    assert torch.equal(torch.random.get_rng_state(), state)


def test_modernbert_pools_by_its_own_option():
    model = model_of("modernbert", classifier_pooling="cls")
    assert can_pool_tokens(model)
    before = model(**batch(model)).logits
    pool_tokens(model)
    assert folded(model) is model
    assert (model(**batch(model)).logits - before).abs().max() > 1e-3


@pytest.mark.parametrize("model_type", ["albert", "distilbert", "mpnet", "gpt2", "ibert", "longformer", "xmod"])
def test_other_architectures_are_left_alone(model_type: str):
    assert not can_pool_tokens(model_of(model_type))


@pytest.mark.parametrize("model_type", ["bert", "roberta", "modernbert"])
def test_pooling_is_undone(model_type: str):
    model = model_of(model_type)
    before = model(**batch(model)).logits
    pool_tokens(model)()
    assert torch.equal(model(**batch(model)).logits, before)
