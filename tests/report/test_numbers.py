from automl_prune.report.numbers import amount, quality, share, title


def test_numbers_are_fit_to_print() -> None:
    assert [amount(x) for x in (0, 12, 999.6, 62_700_000, 747_136, 999_600, 1.5e9, None)] == [
        *("0", "12", "1 k", "62.7 M", "747 k", "1 M", "1.5 G", "–")
    ]
    assert [quality("top1", 0.93456), quality("loss", 0.5), quality("top1", None)] == ["93.46 %", "0.5000", "–"]
    assert [share(1, 3), share(1, 0), share(None, 3)] == ["33.3 %", "–", "–"]
    assert [title(m) for m in ("top1", "latency_ms@pi4", "memory_mb")] == ["top-1", "ms on pi4", "memory_mb"]
