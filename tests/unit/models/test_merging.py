"""Adapters merged beside the weights: what an engine with weights of its own is given."""

import itertools

import peft
import pytest
import torch

from appo.environments import kinship
from appo.models.merging import merged_parameters, saved_buffers


def adapted(dtype=torch.float32, **options):
    torch.manual_seed(0)
    model, _ = kinship.make_model()
    config = peft.LoraConfig(r=4, lora_alpha=16, task_type="CAUSAL_LM", init_lora_weights=False, **options)
    return peft.get_peft_model(model.to(dtype), config)


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": "all-linear"},
        {"target_modules": ["q_proj"], "use_dora": True},
        {"target_modules": ["q_proj"], "modules_to_save": ["norm"]},
    ],
    ids=["lora", "dora", "modules_to_save"],
)
def test_they_are_those_of_pefts_own_merge(options):
    model = adapted(**options)
    found = {name: tensor.clone() for name, tensor in merged_parameters(model)}
    merged = dict(model.merge_and_unload().named_parameters())
    assert found.keys() == merged.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, merged[name].data, rtol=1e-5, atol=1e-6)


def test_the_base_does_not_move_in_bfloat16_however_often_it_is_merged():
    model = adapted(torch.bfloat16, target_modules="all-linear")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for _ in range(5):
        assert sum(1 for _ in merged_parameters(model)) > 10
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_nothing_stays_merged_where_somebody_stops_in_the_middle():
    model = adapted(target_modules="all-linear").eval()
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        before = model(ids).logits
        assert len(list(itertools.islice(merged_parameters(model), 4))) == 4
        assert torch.equal(model(ids).logits, before)


def test_buffers_are_those_that_a_saved_model_has():
    class Gate(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("bias", torch.tensor([1.0]))
            self.register_buffer("cache", torch.tensor([2.0]), persistent=False)

    model = torch.nn.Module()
    model.gate = Gate()
    assert [(name, buffer.item()) for name, buffer in saved_buffers(model)] == [("gate.bias", 1.0)]
    assert {name for name, _ in saved_buffers(model)} == model.state_dict().keys()
