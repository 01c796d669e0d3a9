"""make_deterministic: what it sets, reports and restores."""

from __future__ import annotations

import importlib.util
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._inductor import config as inductor

from headstrip import make_deterministic
from headstrip.reproducibility import seeding

SEEDS = st.integers(0, 2**32 - 1)
FEW = settings(max_examples=20, deadline=None)


def seed_by_hand(seed: int) -> None:
    """The function that make_deterministic replaces, copied from projects that use it."""
    random.seed(seed)
    os.environ["PYTHONHASHSEED"] = str(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.cuda.manual_seed(seed)
    torch.cuda.manual_seed_all(seed)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def draws() -> tuple[object, ...]:
    """Draw some numbers from every stream, which advances the streams."""
    return random.random(), np.random.rand(3).tolist(), torch.randn(3).tolist()


def states() -> dict[str, object]:
    """Return everything that make_deterministic may change, without changing it."""
    return {
        "random": random.getstate(),
        "numpy": [np.asarray(part).tolist() for part in np.random.get_state()],
        "torch": torch.get_rng_state().tolist(),
        "environment": dict(os.environ),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "algorithms": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "compiler": inductor.deterministic,
    }


class FakeDevice:
    """The random number interface of torch.cuda, torch.xpu or torch.mps, on no device."""

    def __init__(self, *, started: bool) -> None:
        self.started = started
        self.streams = [torch.tensor([7], dtype=torch.uint8)]

    def device_count(self) -> int:
        return 1

    def is_initialized(self) -> bool:
        return self.started

    def manual_seed_all(self, seed: int) -> None:
        self.streams = [torch.tensor([seed])]

    manual_seed = manual_seed_all

    def get_rng_state_all(self) -> list[torch.Tensor]:
        assert self.started, "to ask a device is to start it"
        return self.streams

    def set_rng_state_all(self, streams: list[torch.Tensor]) -> None:
        self.streams = streams

    def get_rng_state(self) -> torch.Tensor:
        return self.streams[0]

    def set_rng_state(self, stream: torch.Tensor) -> None:
        self.streams = [stream]


@pytest.fixture
def plug_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeDevice]:
    """Add a device that this machine lacks to torch."""

    def plug(kind: str, *, started: bool = True) -> FakeDevice:
        fake, module = FakeDevice(started=started), getattr(torch, kind)
        for name in dir(fake):
            if hasattr(module, name) and not name.startswith("_"):
                monkeypatch.setattr(module, name, getattr(fake, name))
        return fake

    # headstrip keeps a late setting for the life of the process, which tests share.
    monkeypatch.setattr(seeding, "_cublas_set_late", False)
    return plug


class TestSettings:
    @FEW
    @given(SEEDS)
    def test_the_drawn_numbers_equal_those_of_the_replaced_function(self, seed: int) -> None:
        seed_by_hand(seed)
        expected = draws(), os.environ["PYTHONHASHSEED"], states()["cudnn"]
        make_deterministic(seed)
        assert (draws(), os.environ["PYTHONHASHSEED"], states()["cudnn"]) == expected

    @FEW
    @given(SEEDS)
    def test_two_calls_with_one_seed_give_the_same_states(self, seed: int) -> None:
        make_deterministic(seed)
        first = states()
        draws()
        make_deterministic(seed)
        assert states() == first

    def test_different_seeds_give_different_streams(self) -> None:
        make_deterministic(1)
        first = draws()
        make_deterministic(2)
        assert all(a != b for a, b in zip(first, draws(), strict=True))

    def test_a_numpy_integer_can_be_the_seed(self) -> None:
        report = make_deterministic(np.uint32(2**32 - 1))
        assert report.seed == 2**32 - 1
        assert type(report.seed) is int

    @pytest.mark.parametrize(
        ("algorithms", "mode"),
        [("error", (True, False)), ("warn", (True, True)), ("off", (False, False))],
    )
    def test_the_choice_of_algorithms_is_set_in_torch(
        self, algorithms: Any, mode: tuple[bool, bool]
    ) -> None:
        make_deterministic(0, algorithms=algorithms)
        assert (states()["algorithms"], states()["warn only"]) == mode

    def test_the_default_choice_of_algorithms_is_to_warn(self) -> None:
        make_deterministic(0)
        assert torch.is_deterministic_algorithms_warn_only_enabled()

    @pytest.mark.parametrize("value", [":4096:8", ":16:8"])
    def test_a_repeatable_cublas_setting_is_kept(
        self, value: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", value)
        report = make_deterministic(0)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == value
        assert f"CUBLAS_WORKSPACE_CONFIG={value}" in report.applied

    @pytest.mark.parametrize("value", [None, "", ":0:0", ":4096:2:16:8"])
    def test_any_other_cublas_setting_is_replaced_and_restored(
        self, value: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if value is not None:
            monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", value)
        with make_deterministic(0):
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == value


class TestRejections:
    @pytest.mark.parametrize("seed", [-1, 2**32, np.int64(-5), 10**30])
    def test_a_seed_out_of_range_names_the_range(self, seed: int) -> None:
        with pytest.raises(ValueError, match=rf"seed {seed} is out of range.*0 <= seed < 2\*\*32"):
            make_deterministic(seed)

    @pytest.mark.parametrize("seed", [True, np.True_, 1.0, "1", None, torch.tensor(1)])
    def test_a_seed_that_is_not_an_integer_is_a_type_error(self, seed: Any) -> None:
        with pytest.raises(TypeError, match="is not an integer"):
            make_deterministic(seed)

    def test_an_unknown_choice_of_algorithms_names_the_known_ones(self) -> None:
        with pytest.raises(ValueError, match=r"'strict' is not.*'error', 'warn' or 'off'"):
            make_deterministic(0, algorithms="strict")  # type: ignore[arg-type]  # the fault tested

    def test_a_rejected_call_changes_nothing(self) -> None:
        before = states()
        with pytest.raises(ValueError, match="out of range"):
            make_deterministic(-1)
        assert states() == before


class TestReport:
    def test_the_report_prints_as_a_list(self) -> None:
        report = make_deterministic(3)
        lines = str(report).splitlines()
        assert lines[0] == "deterministic with seed 3"
        assert "  set: numpy.random.seed(3)" in lines
        assert "  set: deterministic algorithms: warn" in lines
        assert repr(report) == "Determinism(seed=3, algorithms='warn')"

    def test_each_entry_is_in_only_one_list(self) -> None:
        report = make_deterministic(3)
        assert not set(report.applied) & {what for what, _ in report.ineffective}

    def test_the_report_is_read_only(self) -> None:
        with pytest.raises(AttributeError):
            make_deterministic(3).seed = 4  # type: ignore[misc]  # the fault tested

    @pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
    def test_a_missing_device_is_listed_as_absent_not_as_ineffective(self) -> None:
        report = make_deterministic(0)
        assert "CUDA" in report.absent
        assert "not present: CUDA" in str(report)
        assert not any("cuda" in what for what, _ in report.ineffective)

    def test_a_pickled_copy_keeps_the_report_and_restores_nothing(self) -> None:
        report = make_deterministic(3)
        after = states()
        copy = pickle.loads(pickle.dumps(report))
        copy.restore()
        assert states() == after
        assert str(copy) == str(report)

    def test_a_pickled_copy_can_be_used_as_a_context_manager(self) -> None:
        report = make_deterministic(3)
        copy = pickle.loads(pickle.dumps(report))
        first = draws()
        found = states()
        with copy:
            assert draws() == first
        assert states() == found


def run_in_a_new_interpreter(hash_seed: str, *flags: str) -> subprocess.Popen[str]:
    """Start Python with PYTHONHASHSEED and report which of three seeds it holds for."""
    code = (
        "from headstrip.reproducibility.seeding import make_deterministic\n"
        "for seed in (0, 7, 8):\n"
        "    print('PYTHONHASHSEED=%d' % seed in make_deterministic(seed).applied)\n"
    )
    source = str(Path(seeding.__file__).parents[2])
    code = f"import sys; sys.path.insert(0, {source!r})\n{code}"
    # Untraced: measuring coverage while torch is imported takes longer than all other tests here.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
    environment["PYTHONHASHSEED"] = hash_seed
    command = [sys.executable, *flags, "-c", code]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


class TestHashSeed:
    @pytest.mark.slow
    def test_a_hash_seed_applies_only_if_the_interpreter_started_with_it(self) -> None:
        started = {
            "7": run_in_a_new_interpreter("7"),
            "7, but told to ignore it": run_in_a_new_interpreter("7", "-E"),
            "0, but told to randomise": run_in_a_new_interpreter("0", "-R"),
        }
        held = {case: run.communicate()[0].split() for case, run in started.items()}
        assert held == {
            "7": ["False", "True", "False"],
            "7, but told to ignore it": ["False"] * 3,
            "0, but told to randomise": ["False"] * 3,
        }

    def test_hash_seed_zero_applies_if_hashes_are_not_randomised(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        flags = SimpleNamespace(hash_randomization=0, ignore_environment=0)
        monkeypatch.setattr(sys, "flags", flags)
        assert "PYTHONHASHSEED=0" in make_deterministic(0).applied
        assert "PYTHONHASHSEED=1" not in make_deterministic(1).applied

    def test_a_hash_seed_that_is_set_too_late_is_reported_with_a_remedy(self) -> None:
        # A seed that this interpreter cannot have been started with by chance.
        reasons = dict(make_deterministic(3_141_592_653).ineffective)
        assert "start it with PYTHONHASHSEED=3141592653" in reasons["PYTHONHASHSEED=3141592653"]

    @pytest.mark.skipif(not sys.flags.hash_randomization, reason="hashes are not randomised here")
    def test_the_environment_at_import_counts_if_that_at_the_start_is_unreadable(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unreadable(path: Path) -> bytes:
            raise FileNotFoundError(path)

        monkeypatch.setattr(Path, "read_bytes", unreadable)
        monkeypatch.setenv("PYTHONHASHSEED", "7")
        spec = importlib.util.spec_from_file_location("seeding_elsewhere", seeding.__file__)
        assert spec is not None
        assert spec.loader is not None
        elsewhere = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, elsewhere)
        spec.loader.exec_module(elsewhere)
        assert "PYTHONHASHSEED=7" in elsewhere.make_deterministic(7).applied
        assert "PYTHONHASHSEED=8" not in elsewhere.make_deterministic(8).applied


class TestRestoring:
    @FEW
    @given(SEEDS, SEEDS)
    def test_leaving_restores_every_state(self, before: int, seed: int) -> None:
        seed_by_hand(before)
        inductor.deterministic = bool(before % 2)
        found = states()
        with make_deterministic(seed) as entered:
            draws()
            assert entered.seed == seed
        assert states() == found

    @pytest.mark.parametrize("mode", [(False, False), (False, True), (True, False), (True, True)])
    def test_leaving_restores_the_switch_of_the_algorithms(self, mode: tuple[bool, bool]) -> None:
        torch.use_deterministic_algorithms(mode[0], warn_only=mode[1])
        torch.backends.cudnn.benchmark = True
        found = states()
        with make_deterministic(0, algorithms="error"):
            assert states() != found
        assert states() == found

    def test_an_exception_restores_every_state_and_propagates(self) -> None:
        found = states()
        with pytest.raises(KeyError, match="mine"), make_deterministic(0):
            raise KeyError("mine")
        assert states() == found

    def test_a_failure_while_setting_restores_every_state(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = states()

        def refuse(seed: int) -> None:
            raise RuntimeError("no")

        monkeypatch.setattr(torch, "manual_seed", refuse)
        with pytest.raises(RuntimeError, match="no"):
            make_deterministic(0)
        assert states() == found

    def test_nested_blocks_are_restored_one_by_one(self) -> None:
        found = states()
        with make_deterministic(1):
            draws()
            outer = states()
            with make_deterministic(2, algorithms="error"):
                draws()
            assert states() == outer
        assert states() == found

    def test_one_object_can_be_nested_in_itself(self) -> None:
        found = states()
        with make_deterministic(1) as determinism:
            first = draws()
            between = states()
            with determinism:
                assert draws() == first
            assert states() == between
        assert states() == found

    def test_entering_again_seeds_again(self) -> None:
        with make_deterministic(1) as determinism:
            first = draws()
        draws()
        found = states()
        with determinism:
            assert draws() == first
        assert states() == found

    def test_leaving_twice_is_harmless(self) -> None:
        with make_deterministic(1) as determinism:
            pass
        draws()
        found = states()
        determinism.restore()
        determinism.restore()
        assert states() == found

    def test_without_a_block_only_restore_restores_the_states(self) -> None:
        found = states()
        determinism = make_deterministic(1)
        expected = draws()
        make_deterministic(1)  # its report is dropped at once, and must not undo anything
        assert draws() == expected
        determinism.restore()
        assert states() == found


class TestDevices:
    @pytest.mark.parametrize("kind", ["cuda", "xpu", "mps"])
    def test_a_device_is_seeded_and_its_stream_is_restored(
        self, kind: str, plug_in: Callable[..., FakeDevice]
    ) -> None:
        device = plug_in(kind)
        with make_deterministic(5) as report:
            assert device.streams[0].item() == 5
            assert any(entry.startswith(f"torch.{kind}.manual_seed") for entry in report.applied)
            assert kind.upper() not in report.absent
        assert device.streams[0].item() == 7

    @pytest.mark.parametrize("kind", ["cuda", "xpu"])
    def test_an_unstarted_device_gets_its_earlier_seed_back_without_being_started(
        self, kind: str, plug_in: Callable[..., FakeDevice]
    ) -> None:
        torch.manual_seed(99)
        device = plug_in(kind, started=False)
        with make_deterministic(5):
            assert device.streams[0].item() == 5
        assert device.streams[0].item() == 99

    def test_cublas_set_before_cuda_starts_takes_effect(
        self, plug_in: Callable[..., FakeDevice]
    ) -> None:
        device = plug_in("cuda", started=False)
        assert "CUBLAS_WORKSPACE_CONFIG=:4096:8" in make_deterministic(0).applied
        device.started = True
        assert "CUBLAS_WORKSPACE_CONFIG=:4096:8" in make_deterministic(0).applied

    def test_cublas_set_after_cuda_started_is_reported_each_time(
        self, plug_in: Callable[..., FakeDevice]
    ) -> None:
        plug_in("cuda", started=True)
        for _ in range(2):
            report = make_deterministic(0)
            reasons = dict(report.ineffective)
            assert "CUDA has started" in reasons["CUBLAS_WORKSPACE_CONFIG=:4096:8"]
            assert "no effect: CUBLAS_WORKSPACE_CONFIG" in str(report)

    def test_a_cublas_setting_from_before_cuda_started_counts_as_applied(
        self, plug_in: Callable[..., FakeDevice], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
        plug_in("cuda", started=True)
        assert "CUBLAS_WORKSPACE_CONFIG=:16:8" in make_deterministic(0).applied

    def test_a_device_that_fails_to_restore_does_not_stop_the_others(
        self, plug_in: Callable[..., FakeDevice], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plug_in("cuda")
        found = states()

        def lost(streams: object) -> None:
            raise RuntimeError("device lost")

        monkeypatch.setattr(torch.cuda, "set_rng_state_all", lost)
        with pytest.raises(RuntimeError, match="device lost"), make_deterministic(0):
            draws()
        assert states() == found


class TestGenerator:
    @FEW
    @given(SEEDS)
    def test_each_generator_is_new_and_has_the_seed(self, seed: int) -> None:
        determinism = make_deterministic(seed)
        first, second = determinism.generator(), determinism.generator()
        assert torch.equal(torch.rand(4, generator=first), torch.rand(4, generator=second))
        assert torch.equal(torch.rand(4, generator=determinism.generator()), torch.rand(4))


def test_importing_the_module_imports_no_torch() -> None:
    code = "import sys, headstrip.reproducibility.seeding; sys.exit('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(Path(seeding.__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
