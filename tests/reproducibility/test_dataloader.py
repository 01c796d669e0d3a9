"""The same data from 0, 1, 2 or 4 workers, random augmentations included."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, Subset

from headstrip import make_deterministic
from headstrip.reproducibility.seeding import SeededDataset

pytestmark = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create:UserWarning",
    "ignore:.*use of fork.*:DeprecationWarning",
)
WORKERS = (0, 1, 2, 4)


class Augmented(Dataset[torch.Tensor]):
    """Items that draw from all three global streams, a different number of times each."""

    def __init__(self, length: int = 10) -> None:
        self.length = length
        self.classes = ["a", "b"]
        self.factor = 1.0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        if not -self.length <= index < self.length:
            raise IndexError(index)
        place = index % self.length
        drawn = [random.random() for _ in range(1 + place % 3)][-1]
        noise = torch.rand(1 + place % 2)
        return torch.tensor([place, drawn, np.random.rand(), noise[-1]]) * self.factor

    def mode(self) -> str:
        return "training"


class LargeSums(Augmented):
    """Items that round differently when two threads share the sum."""

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.randn(400_003).sum()


class Streamed(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


def epochs(dataset: Any, workers: int, count: int = 2, **options: Any) -> list[torch.Tensor]:
    """Return the shuffled batches of several epochs, one tensor per epoch."""
    determinism = make_deterministic(11)
    options.setdefault("sampler", RandomSampler(dataset, generator=determinism.generator()))
    init = determinism.worker_init_fn
    loader: DataLoader[Any] = DataLoader(
        dataset, batch_size=2, num_workers=workers, worker_init_fn=init, **options
    )
    seen = []
    for epoch in range(count):
        if isinstance(dataset, SeededDataset):
            dataset.set_epoch(epoch)
        seen.append(torch.cat(list(loader)))
    return seen


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


class TestNumberOfWorkers:
    def test_the_number_of_workers_does_not_change_the_data(self) -> None:
        dataset = make_deterministic(3).dataset(Augmented())
        expected = epochs(dataset, 0)
        assert not torch.equal(expected[0], expected[1])
        assert all(same(epochs(dataset, workers), expected) for workers in WORKERS)

    def test_shuffling_with_a_generator_gives_the_same_data_for_any_number_of_workers(self) -> None:
        dataset = make_deterministic(3).dataset(Augmented())
        runs = []
        for workers in WORKERS:
            generator = make_deterministic(3).generator()
            runs.append(epochs(dataset, workers, sampler=None, shuffle=True, generator=generator))
        assert all(same(run, runs[0]) for run in runs)

    def test_persistent_workers_receive_the_epoch_and_give_the_same_data(self) -> None:
        dataset = make_deterministic(3).dataset(Augmented())
        expected = epochs(dataset, 0, count=3)
        assert same(epochs(dataset, 2, count=3, persistent_workers=True), expected)

    @pytest.mark.slow
    def test_spawned_workers_give_the_same_data(self) -> None:
        dataset = make_deterministic(3).dataset(Augmented())
        expected = epochs(dataset, 0)
        spawned = epochs(dataset, 1, persistent_workers=True, multiprocessing_context="spawn")
        assert same(spawned, expected)

    def test_threads_of_the_main_process_do_not_change_the_data(self) -> None:
        torch.set_num_threads(2)
        dataset = make_deterministic(3).dataset(LargeSums(2))
        items = [dataset[0].item(), dataset[1].item()]
        assert torch.get_num_threads() == 2
        loaded = DataLoader(dataset, batch_size=2, num_workers=1)
        assert next(iter(loaded)).tolist() == items

    def test_with_only_worker_init_fn_augmentations_depend_on_the_number_of_workers(self) -> None:
        one, two = (epochs(Augmented(), workers)[0] for workers in (1, 2))
        assert torch.equal(one[:, 0], two[:, 0])
        assert not torch.equal(one[:, 1:], two[:, 1:])


class TestItem:
    @settings(max_examples=25, deadline=None)
    @given(
        st.integers(0, 2**32 - 1), st.integers(0, 5), st.permutations(range(6)), st.integers(0, 99)
    )
    def test_an_item_depends_only_on_seed_epoch_and_index(
        self, seed: int, epoch: int, order: list[int], elsewhere: int
    ) -> None:
        dataset = make_deterministic(seed).dataset(Augmented(6))
        dataset.set_epoch(epoch)
        expected = [dataset[index] for index in range(6)]
        make_deterministic(elsewhere)
        again = make_deterministic(seed).dataset(Augmented(6))
        again.set_epoch(epoch)
        random.seed(elsewhere)
        shuffled = {index: again[index] for index in order}
        assert same([shuffled[index] for index in range(6)], expected)

    def test_seed_epoch_and_index_each_change_an_item(self) -> None:
        dataset, other = (make_deterministic(seed).dataset(Augmented()) for seed in (1, 2))
        items = [dataset[1], other[1], dataset[7]]
        dataset.set_epoch(1)
        items.append(dataset[1])
        for stream in (1, 2, 3):
            assert len({item[stream].item() for item in items}) == 4

    @settings(max_examples=20, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.integers(0, 9))
    def test_reading_an_item_does_not_advance_the_global_random_streams(
        self, seed: int, index: int
    ) -> None:
        dataset = make_deterministic(seed).dataset(Augmented())
        expected = random.random(), np.random.rand(), torch.rand(()).item()
        make_deterministic(seed)
        dataset[index]
        assert (random.random(), np.random.rand(), torch.rand(()).item()) == expected

    def test_the_random_streams_are_restored_when_an_item_fails(self) -> None:
        dataset = make_deterministic(0).dataset(Augmented())
        state = torch.get_rng_state()
        with pytest.raises(IndexError):
            dataset[10]
        with pytest.raises(IndexError):
            dataset[-11]
        assert torch.equal(torch.get_rng_state(), state)

    def test_an_index_may_be_negative_or_of_another_integer_type(self) -> None:
        dataset = make_deterministic(0).dataset(Augmented())
        expected = dataset[9]
        for index in (-1, np.int64(9), torch.tensor(9)):
            assert torch.equal(dataset[index], expected)  # type: ignore[index]  # as samplers give

    def test_an_index_that_is_not_an_integer_is_a_type_error(self) -> None:
        dataset = make_deterministic(0).dataset(Augmented())
        with pytest.raises(TypeError, match="'a' is not an integer"):
            dataset["a"]  # type: ignore[index]  # the fault tested

    def test_items_are_the_same_when_the_dataset_supports_batches(self) -> None:
        whole = make_deterministic(0).dataset(Subset(Augmented(), range(10)))
        assert same(whole.__getitems__([3, 1]), [whole[3], whole[1]])
        assert same(epochs(whole, 0), epochs(whole, 2))


class TestWrapper:
    def test_the_wrapper_has_the_length_and_attributes_of_the_dataset(self) -> None:
        plain = Augmented()
        dataset = make_deterministic(0).dataset(plain)
        assert len(dataset) == 10
        assert dataset.classes is plain.classes
        assert dataset.mode() == "training"
        with pytest.raises(AttributeError, match=r"Augmented.*nothing_such"):
            _ = dataset.nothing_such

    def test_setting_an_attribute_sets_it_on_the_dataset(self) -> None:
        plain = Augmented()
        dataset = make_deterministic(0).dataset(plain)
        dataset.factor = 0.0
        assert plain.factor == 0.0
        assert dataset[3].tolist() == [0, 0, 0, 0]

    def test_the_wrapper_can_be_iterated(self) -> None:
        assert len(list(make_deterministic(0).dataset(Augmented(3)))) == 3

    def test_a_list_can_be_the_dataset(self) -> None:
        assert make_deterministic(0).dataset(["x", "y"])[1] == "y"

    @pytest.mark.parametrize("duplicate", [lambda d: pickle.loads(pickle.dumps(d)), copy.deepcopy])
    def test_a_copy_gives_the_same_items_and_reaches_its_own_workers(self, duplicate: Any) -> None:
        dataset = make_deterministic(3).dataset(Augmented())
        twin = duplicate(dataset)
        assert torch.equal(twin[4], dataset[4])
        assert same(epochs(twin, 1, persistent_workers=True), epochs(dataset, 0))

    def test_the_epoch_is_passed_on_to_a_wrapped_seeded_dataset(self) -> None:
        determinism = make_deterministic(0)
        inner = determinism.dataset(Augmented())
        outer = determinism.dataset(inner)
        first = outer[0]
        outer.set_epoch(1)
        assert not torch.equal(outer[0], first)

    @pytest.mark.parametrize("epoch", [-1, 2**32])
    def test_an_epoch_out_of_range_names_the_range(self, epoch: int) -> None:
        with pytest.raises(ValueError, match=r"epoch -?\d+ is out of range.*0 <= epoch < 2\*\*32"):
            make_deterministic(0).dataset(Augmented()).set_epoch(epoch)

    @pytest.mark.parametrize("stream", [Streamed(), iter([1])])
    def test_a_dataset_without_indices_is_refused(self, stream: Any) -> None:
        with pytest.raises(TypeError, match="cannot return items by index"):
            make_deterministic(0).dataset(stream)


class TestWorkerInit:
    def test_worker_init_fn_is_repeatable_and_differs_between_workers_and_epochs(self) -> None:
        first, again = (epochs(Augmented(), 2) for _ in range(2))
        assert same(first, again)
        numbers = torch.cat(first)[:, 2]
        assert len(set(numbers.tolist())) == len(numbers)

    def test_worker_init_fn_seeds_all_three_streams_and_sets_the_algorithms(self) -> None:
        determinism = make_deterministic(0, algorithms="error")
        drawn = []
        for _ in range(2):
            torch.use_deterministic_algorithms(False)
            determinism.worker_init_fn(1)
            drawn.append((random.random(), np.random.rand(), torch.rand(()).item()))
        assert drawn[0] == drawn[1]
        assert torch.get_deterministic_debug_mode() == 2
