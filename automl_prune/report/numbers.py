"""Numbers as people read them."""


def amount(value: float | None) -> str:
    """A count with three digits and its magnitude, as in ``62.7 M``."""
    if value is None:
        return "–"
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g}{unit}" if abs(value) < 999.5 * size else f"{value / size:.0f}{unit}"
    return f"{value:.4g}"


def quality(metric: str, value: float | None) -> str:
    """An accuracy in percent, any other score as a number."""
    if value is None:
        return "–"
    return f"{100 * value:.2f} %" if metric.startswith("top") else f"{value:.4f}"


def share(part: float | None, whole: float | None, digits: int = 1) -> str:
    """A part of a whole in percent."""
    return "–" if part is None or not whole else f"{100 * part / whole:.{digits}f} %"


def title(metric: str) -> str:
    """A metric's name on an axis or above a column."""
    name, _, device = metric.partition("@")
    names = {"top1": "top-1", "top5": "top-5", "macs": "MACs", "flops": "FLOPs", "params": "parameters"}
    return f"ms on {device}" if device else names.get(name, name)
