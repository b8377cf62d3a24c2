"""Memory for weights is of the size asked for, begins where a huge page begins, and goes back; threads and kernels can be chosen."""

from __future__ import annotations

import gc
import mmap
from collections.abc import Iterator

import numpy as np
import psutil
import pytest
import torch

from folkmoot.kernels import native_library, weight_memory
from folkmoot.kernels.threads import native_threads, set_native_threads
from folkmoot.kernels.weight_memory import HUGE_PAGE, empty_weights, has_huge_pages, worth_huge_pages

needs_huge_pages = pytest.mark.skipif(not has_huge_pages(), reason="this system gives no huge pages")


@pytest.mark.parametrize("size", [0, 1, 4097, HUGE_PAGE - 1, HUGE_PAGE, HUGE_PAGE + 1, 3 * HUGE_PAGE + 77])
def test_memory_has_its_size_and_is_zeroed_and_writable(size: int) -> None:
    memory = weight_memory.weight_memory(size)
    assert memory.nbytes == size and not memory.readonly
    assert not np.frombuffer(memory, np.uint8).any()
    if size:
        memory[-1] = 7
        assert memory[-1] == 7
    if worth_huge_pages(size):
        assert np.frombuffer(memory, np.uint8).ctypes.data % HUGE_PAGE == 0


@needs_huge_pages
def test_memory_goes_back_when_nothing_looks_at_it() -> None:
    tensor = empty_weights(64 << 20, torch.bfloat16).fill_(1.0)
    held = psutil.Process().memory_info().rss
    view = tensor.view(1 << 10, -1)[3]
    del tensor
    gc.collect()
    assert psutil.Process().memory_info().rss > held - (64 << 20), "a view keeps it"
    del view
    gc.collect()
    assert psutil.Process().memory_info().rss < held - (100 << 20)


@needs_huge_pages
def test_what_fills_no_huge_page_takes_none() -> None:
    size, count = HUGE_PAGE + (64 << 10), 40
    before = psutil.Process().memory_info().rss
    memories = [weight_memory.weight_memory(size) for _ in range(count)]
    for memory in memories:
        np.frombuffer(memory, np.uint8)[:] = 1
    assert psutil.Process().memory_info().rss - before < 1.05 * count * size + (4 << 20)


@needs_huge_pages
def test_a_system_without_memory_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> mmap.mmap:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(MemoryError, match=str(HUGE_PAGE)):
        weight_memory.weight_memory(HUGE_PAGE)


def test_small_weights_are_torchs_own() -> None:
    tensor = empty_weights(10, torch.float16)
    assert tensor.shape == (10,) and tensor.dtype == torch.float16


def test_the_native_kernels_have_as_many_threads_as_torch_until_told_otherwise() -> None:
    assert native_threads() == torch.get_num_threads()
    set_native_threads(5)
    try:
        assert native_threads() == 5 != torch.get_num_threads()
    finally:
        set_native_threads(0)
    assert native_threads() == torch.get_num_threads()


@pytest.fixture
def fresh_library() -> Iterator[None]:
    native_library.load.cache_clear()
    yield
    native_library.load.cache_clear()


def test_the_environment_can_leave_everything_to_torch(
    fresh_library: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(native_library.SWITCH, "torch")
    assert native_library.load() is None
    assert "torch" in native_library.describe()
