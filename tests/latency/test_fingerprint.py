"""What tells one machine from another, from what their systems say of their processors."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from automl_prune.latency import conditions
from automl_prune.latency.conditions import fingerprint


def arm(*parts: str, designer: str = "0x41", end: str = "") -> str:
    """As Linux lists ARM cores."""
    core = "processor\t: {}\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd asimddp\nCPU implementer\t: {}\nCPU part\t: {}\n\n"
    return "".join(core.format(number, designer, part) for number, part in enumerate(parts)) + end


XEON = "processor\t: 0\nmodel\t\t: 85\nmodel name\t: Intel(R) Xeon(R) CPU @ 2.00GHz\nflags\t\t: fpu avx2 avx512f\n\n"


@pytest.fixture
def processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str | int]]:
    """The processor of a machine whose system says so much of it."""
    monkeypatch.setattr(conditions, "CPUINFO", tmp_path / "cpuinfo")

    def forget() -> None:
        fingerprint.cache_clear()
        conditions._cpuinfo.cache_clear()

    def of(cpuinfo: str) -> str | int:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
        forget()
        return fingerprint()["processor"]

    yield of
    forget()


@pytest.mark.parametrize(
    ("cpuinfo", "said"),
    [
        (XEON + XEON.replace(": 0", ": 1"), "Intel(R) Xeon(R) CPU @ 2.00GHz"),
        (arm("0xd0c", "0xd0c"), "ARM 0x41/0xd0c"),
        (arm("0xd40"), "ARM 0x41/0xd40"),
        (arm("0xac3", designer="0xc0"), "ARM 0xc0/0xac3"),
        (arm("0xd03", "0xd03", "0xd09"), "ARM 0x41/0xd03, ARM 0x41/0xd09"),
        (arm("0xd08", end="Model\t\t: Raspberry Pi 4 Model B Rev 1.4\n"), "Raspberry Pi 4 Model B Rev 1.4, ARM 0x41/0xd08"),
        ("model name\t: ARMv7 Processor rev 3 (v7l)\n" + arm("0xd08"), "ARMv7 Processor rev 3 (v7l), ARM 0x41/0xd08"),
    ],
    ids=["Xeon", "Graviton 2", "Graviton 3", "Ampere", "big and little", "Raspberry Pi", "a 32-bit system"],
)
def test_processors_are_told_apart(processor: Callable[[str], str | int], cpuinfo: str, said: str) -> None:
    assert processor(cpuinfo) == said


def test_a_machine_that_says_nothing_has_a_processor_too(processor: Callable[[str], str | int]) -> None:
    assert processor("") != ""


def test_vector_instructions_are_named(processor: Callable[[str], str | int]) -> None:
    processor(arm("0xd0c"))
    assert fingerprint()["vectors"] == "asimd asimddp"
    processor(XEON)
    assert fingerprint()["vectors"] == "avx2 avx512f"
