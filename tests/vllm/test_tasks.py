"""The demo's tasks: the same examples every time, none of them in both splits."""

import pytest

from demo.tasks import ADAPTERS, TASKS, sample, split_of


@pytest.mark.parametrize("task", TASKS)
def test_the_same_arguments_give_the_same_examples(task: str) -> None:
    assert sample(task, 50, 3, "train") == sample(task, 50, 3, "train")
    assert sample(task, 50, 3, "train") != sample(task, 50, 4, "train")


@pytest.mark.parametrize("task", TASKS)
def test_no_prompt_is_in_both_splits(task: str) -> None:
    train = {example.prompt for example in sample(task, 1000, 1, "train")}
    test = {example.prompt for example in sample(task, 1000, 2, "test")}
    assert train.isdisjoint(test)
    assert {split_of(prompt) for prompt in test} == {"test"}


@pytest.mark.parametrize("task", TASKS)
def test_the_generic_convention_falls_short_only_where_there_is_an_adapter(task: str) -> None:
    examples = sample(task, 1000, 5, "test")
    share = sum(example.house == example.generic for example in examples) / len(examples)
    assert 0.4 < share < 0.7 if task in ADAPTERS else share == 1


def test_a_prompt_never_says_which_task_it_is() -> None:
    prompts = [e.prompt.lower() for task in TASKS for e in sample(task, 200, 1, "test")]
    assert not [p for p in prompts if p.startswith(tuple(f"{task}:" for task in TASKS))]


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(KeyError, match="poetry"):
        sample("poetry", 1, 1, "test")
