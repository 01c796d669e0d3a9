"""Encoders as models of mteb. Tests that need mteb are skipped if it is not installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.compare.lab import lab_in, picture

from headstrip import HeadstripError, PreprocessingError, build_encoder
from headstrip.compat.mteb import MTEBEncoder

PICTURES = [picture(at % 3, at) for at in range(10)]
BATCHES = [{"image": PICTURES[:7], "label": [0] * 7}, {"image": PICTURES[7:], "label": [1] * 3}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MTEBEncoder]:
    with lab_in(tmp_path_factory.mktemp("lab")):
        yield MTEBEncoder(build_encoder("lab:wide"))


def encode(model: MTEBEncoder, batches: list[Any], **more: Any) -> np.ndarray:
    task = SimpleNamespace(name="Birds")
    return model.encode(batches, task_metadata=task, hf_split="test", hf_subset="default", **more)


def test_the_images_of_all_batches_are_embedded_by_the_encoder(model: MTEBEncoder) -> None:
    found = encode(model, BATCHES, batch_size=4, show_progress_bar=False)
    assert np.array_equal(found, model.encoder.embed(PICTURES, batch_size=4))
    assert (found.dtype, found.shape) == (np.float32, (10, 96))
    assert encode(model, []).shape == (0, 96)


def test_text_batches_without_images_and_other_precisions_are_refused(model: MTEBEncoder) -> None:
    with pytest.raises(HeadstripError, match="Birds has text to embed, and an encoder of headst"):
        encode(model, [{"text": ["a cat"]}])
    with pytest.raises(HeadstripError, match="Birds has text to embed"):
        encode(model, [{"image": PICTURES, "text": ["a"] * 10}])
    with pytest.raises(HeadstripError, match="Birds has no images to embed, only 'label'"):
        encode(model, [{"label": [1]}])
    with pytest.raises(HeadstripError, match="precision='int8' is not possible"):
        encode(model, BATCHES, precision="int8")
    with pytest.raises(PreprocessingError):
        encode(model, [{"image": [None]}])


def test_similarities_are_cosines(model: MTEBEncoder) -> None:
    one, other = np.float32([[3, 4], [0, 2], [0, 0]]), torch.tensor([[6.0, 8.0], [5.0, 0.0]])
    expected = torch.tensor([[1.0, 0.6], [0.8, 0.0], [0.0, 0.0]])
    assert torch.allclose(model.similarity(one, other), expected)
    assert torch.allclose(model.similarity(one[0], other), expected[:1])
    assert torch.allclose(model.similarity_pairwise(one[:2], other), torch.tensor([1.0, 0.0]))


def test_the_error_says_what_to_install_when_mteb_is_missing(
    model: MTEBEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mteb", None)
    monkeypatch.setitem(sys.modules, "mteb.models", None)
    with pytest.raises(HeadstripError, match=r"Run `pip install 'headstrip\[mteb\]'`"):
        _ = model.mteb_model_meta


@pytest.fixture(scope="module")
def mteb() -> Any:
    return pytest.importorskip("mteb")


def test_the_revision_changes_when_the_tensors_do(mteb: Any, tmp_path: Path) -> None:
    with lab_in(tmp_path):
        model = MTEBEncoder(build_encoder("lab:small"))
    meta = model.mteb_model_meta
    assert (meta.name, meta.embed_dim, meta.modalities) == ("headstrip/lab_small.v1", 32, ["image"])
    assert meta.n_parameters == 8 * (3 * 16 + 1)
    with torch.no_grad():
        next(model.encoder.backbone.parameters()).mul_(2)
    assert model.mteb_model_meta.revision != meta.revision


@pytest.mark.parametrize(
    "name",
    [
        "MockImageClassificationTask",
        "MockImageClusteringFastTask",
        "MockImageMultilabelClassificationTask",
        "MockPairImageClassificationTask",
        "MockImageRegressionTask",
    ],
)
def test_mteb_scores_its_own_tasks_with_images(mteb: Any, model: MTEBEncoder, name: str) -> None:
    from mteb.mocks import mock_tasks

    assert isinstance(model, mteb.models.EncoderProtocol)
    task = getattr(mock_tasks, name)()
    found = mteb.evaluate(model, task, cache=None, show_progress_bar=False)
    assert np.isfinite(found.task_results[0].get_score())


def test_mteb_retrieves_images_by_images(mteb: Any, model: MTEBEncoder) -> None:
    from datasets import Dataset
    from mteb.mocks.mock_tasks import MockAny2AnyRetrievalI2TTask

    task = MockAny2AnyRetrievalI2TTask()
    task.metadata = task.metadata.model_copy(update={"modalities": ["image"], "category": "i2i"})
    ids = [f"d{at}" for at in range(10)]
    split = {
        "queries": Dataset.from_dict({"id": ["q0", "q7"], "image": [PICTURES[0], PICTURES[7]]}),
        "corpus": Dataset.from_dict({"id": ids, "image": PICTURES}),
        "relevant_docs": {"q0": {"d0": 1}, "q7": {"d7": 1}},
        "top_ranked": None,
    }
    task.dataset = {"default": {"test": split}}
    task.data_loaded = True
    found = mteb.evaluate(model, task, cache=None, show_progress_bar=False)
    assert found.task_results[0].get_score() == 1.0


def test_mteb_refuses_a_task_with_text(mteb: Any, model: MTEBEncoder) -> None:
    from mteb.mocks.mock_tasks import MockAny2AnyRetrievalI2TTask

    with pytest.raises(ValueError, match="none overlap"):
        mteb.evaluate(model, MockAny2AnyRetrievalI2TTask(), cache=None, show_progress_bar=False)
