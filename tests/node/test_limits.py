"""Amounts are read or refused; what fits is chosen without churn; defaults stay within what the machine has."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folkmoot.amounts import AmountError, format_bytes, parse_bytes
from folkmoot.ids import ExpertKey
from folkmoot.node import cgroups, machine
from folkmoot.node.limits import fit, parse_rate

KEYS = [ExpertKey(0, number) for number in range(8)]


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("4GiB", 4 << 30),
        ("512MiB", 512 << 20),
        ("1.5GB", 1_500_000_000),
        ("4294967296", 1 << 32),
        (" 2 gib ", 2 << 30),
        ("8G", 8 << 30),
        ("0.5KiB", 512),
        ("1tib", 1 << 40),
        ("7b", 7),
    ],
)
def test_amounts_are_read(text: str, amount: int) -> None:
    assert parse_bytes(text) == amount


@pytest.mark.parametrize(
    "text",
    [
        "",
        "four",
        "-1GiB",
        "0",
        "0GiB",
        "1e9",
        "4 GiB free",
        "GiB",
        "1.GB",
        "4PiB",
        "٤GiB",
        "inf",
        "9" * 5000,
        "2000000TiB",
    ],
)
def test_what_is_no_amount_is_refused_with_the_forms_that_are(text: str) -> None:
    with pytest.raises(AmountError, match="write it like 4GiB"):
        parse_bytes(text)


def test_amounts_are_shown_as_people_read_them() -> None:
    assert [format_bytes(amount) for amount in (0, 900, 1536, 5 << 20, 3 << 30, 2 << 40)] == [
        "0 B",
        "900 B",
        "1.5 KiB",
        "5.0 MiB",
        "3.0 GiB",
        "2.0 TiB",
    ]


def test_held_experts_stay_before_new_ones_come() -> None:
    sizes = dict.fromkeys(KEYS, 10)
    chosen = fit(KEYS[:4], {KEYS[3]}, sizes, 25)
    assert chosen.kept == (KEYS[0], KEYS[3])
    assert chosen.refused == (KEYS[1], KEYS[2])


def test_a_smaller_expert_fills_what_a_larger_one_leaves() -> None:
    assert fit(KEYS[:3], (), {KEYS[0]: 10, KEYS[1]: 20, KEYS[2]: 5}, 15).kept == (KEYS[0], KEYS[2])


@given(
    assigned=st.lists(st.sampled_from(KEYS), unique=True),
    held=st.sets(st.sampled_from(KEYS)),
    sizes=st.lists(st.integers(1, 50), min_size=len(KEYS), max_size=len(KEYS)),
    limit=st.integers(0, 300),
)
def test_what_is_kept_always_fits_and_nothing_is_forgotten(
    assigned: list[ExpertKey], held: set[ExpertKey], sizes: list[int], limit: int
) -> None:
    by_key = dict(zip(KEYS, sizes, strict=True))
    chosen = fit(assigned, held, by_key, limit)
    used = sum(by_key[key] for key in chosen.kept)
    assert used <= limit
    assert sorted((*chosen.kept, *chosen.refused)) == sorted(assigned)
    assert all(used + by_key[key] > limit for key in chosen.refused)
    if sum(by_key[key] for key in held) <= limit:
        assert held.intersection(assigned) <= set(chosen.kept)


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose files say what a test writes: 16 GiB free, eight threads on four cores."""
    (tmp_path / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable: {16 << 20} kB\n")
    for cpu in range(8):
        topology = tmp_path / "cpu" / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    (tmp_path / "cgroup").mkdir()
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(cgroups, "_ROOT", tmp_path / "cgroup")
    monkeypatch.setattr(cgroups, "_OWN", tmp_path / "own-cgroup")
    monkeypatch.setattr(machine, "_TOPOLOGY", tmp_path / "cpu")
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)))
    return tmp_path


def test_half_of_free_memory_is_lent_by_default(box: Path) -> None:
    assert machine.default_memory_bytes() == ((16 << 30) - machine.WORKING_ALLOWANCE_BYTES) // 2


def test_a_container_that_has_less_than_the_machine_is_believed(box: Path) -> None:
    (box / "cgroup" / "memory.max").write_text(f"{4 << 30}\n")
    (box / "cgroup" / "memory.current").write_text(f"{1 << 30}\n")
    assert machine.available_memory_bytes() == 3 << 30
    (box / "cgroup" / "memory.max").write_text("max\n")
    assert machine.available_memory_bytes() == 16 << 30


V1 = "9:name=systemd:/\n4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n0::/elsewhere\n"
V2 = "0::/user.slice/app.scope\n"


def fill(folder: Path, **files: object) -> None:
    """Writes files of a control group; two underscores in a name stand for a point."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_the_tightest_group_on_the_way_up_counts(box: Path) -> None:
    (box / "own-cgroup").write_text(V2)
    slice_ = box / "cgroup" / "user.slice"
    fill(slice_ / "app.scope", memory__max="max", memory__current=1 << 30)
    assert machine.available_memory_bytes() == 16 << 30
    fill(slice_, memory__max=6 << 30, memory__current=2 << 30)
    assert machine.available_memory_bytes() == 4 << 30
    fill(slice_ / "app.scope", memory__high=3 << 30)
    assert machine.available_memory_bytes() == 2 << 30
    fill(slice_ / "other.scope", memory__max=1 << 20, memory__current=0)
    assert machine.available_memory_bytes() == 2 << 30


def test_files_that_a_group_has_read_do_not_count_as_taken(box: Path) -> None:
    """A node that was started again has its experts in the page cache of its container."""
    (box / "own-cgroup").write_text(V2)
    kept = f"anon {1 << 30}\ninactive_file {2 << 30}\nactive_file {4 << 30}"
    scope = box / "cgroup" / "user.slice" / "app.scope"
    fill(scope, memory__max=8 << 30, memory__current=7 << 30, memory__stat=kept)
    assert machine.available_memory_bytes() == 7 << 30


def test_groups_of_version_1(box: Path) -> None:
    (box / "own-cgroup").write_text(V1)
    memory, cpu = (box / "cgroup" / name / "docker" / "abc" for name in ("memory", "cpu"))
    kept = f"inactive_file 1\ntotal_inactive_file {1 << 30}\ntotal_active_file {1 << 30}"
    used = {"memory__usage_in_bytes": 5 << 30, "memory__stat": kept}
    fill(memory, memory__limit_in_bytes=2**63 - 4096, **used)
    fill(cpu, cpu__cfs_quota_us=-1, cpu__cfs_period_us=100000)
    assert machine.available_memory_bytes() == 16 << 30
    assert machine.default_threads() == 4
    fill(memory, memory__limit_in_bytes=8 << 30)
    fill(cpu, cpu__cfs_quota_us=250000)
    assert machine.available_memory_bytes() == 5 << 30
    assert machine.default_threads() == 2


def test_a_group_outside_of_what_can_be_seen_leaves_the_topmost(box: Path) -> None:
    (box / "own-cgroup").write_text("4:memory:/../..\n")
    fill(box / "cgroup" / "memory", memory__limit_in_bytes=2 << 30, memory__usage_in_bytes=1 << 30)
    assert machine.available_memory_bytes() == 1 << 30


def test_no_more_is_lent_than_there_is_less_what_work_takes(box: Path) -> None:
    assert machine.lendable_memory_bytes() == (16 << 30) - machine.WORKING_ALLOWANCE_BYTES
    fill(box / "cgroup", memory__max=256 << 20, memory__current=0)
    assert machine.lendable_memory_bytes() == machine.LEAST_MEMORY_BYTES


def test_a_machine_that_looks_full_still_lends_a_little(box: Path) -> None:
    (box / "meminfo").write_text("MemAvailable: 1000 kB\n")
    assert machine.default_memory_bytes() == machine.LEAST_MEMORY_BYTES


def test_threads_are_physical_cores_within_affinity_and_quota(
    box: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert machine.default_threads() == 4
    (box / "cgroup" / "cpu.max").write_text("150000 100000\n")
    assert machine.default_threads() == 1
    (box / "cgroup" / "cpu.max").write_text("max 100000\n")
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 4, 1})
    assert machine.default_threads() == 2


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("5MiB/s", 5 << 20),
        ("1.5MB", 1_500_000),
        ("40Mbit/s", 5_000_000),
        ("40 Mbps", 5_000_000),
        ("800kbit", 100_000),
        ("unlimited", 0),
        ("0", 0),
    ],
)
def test_rates_are_read_in_bytes_or_bits(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "fast", "-1MiB/s", "5MiB/h", "7bit", "Mbit/s"])
def test_a_rate_that_is_none_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(AmountError, match="write it like 5MiB/s, 40Mbit/s or unlimited"):
        parse_rate(text)
