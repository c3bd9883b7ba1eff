"""Which widths each group may take: steps and limits for all of them, and what differs for some.

Rules are read from the general to the special, and where two speak of the same thing in the same group, the later wins:

    round_to, min_ratio  <  the preset's frozen groups and overrides  <  frozen  <  overrides, in their order
"""

import fnmatch
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any

from automl_prune.architecture import Architecture, ChannelGroup
from automl_prune.architecture.model import check_width
from automl_prune.errors import UnknownNameError, UserError, WidthError

_STEPS = ("round_to", "min_ratio", "max_ratio")
_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "round_to": (lambda v: isinstance(v, int) and v >= 1, "a whole number from 1 up"),
    "min_ratio": (lambda v: 0 <= v <= 1, "between 0 and 1"),
    "max_ratio": (lambda v: 0 < v <= 1, "above 0 and at most 1"),
    "widths": (lambda v: bool(v) and all(isinstance(w, int) for w in v), "a list of whole numbers"),
}


@dataclass(frozen=True)
class Override:
    """What differs for the groups that a pattern names; what is None stays as it is for all.

    Attributes:
        match: A glob; it means a group when it matches the group's name or a layer that puts the group out.
        round_to: Widths are multiples of this and of the group's divisor; the full width always stays allowed.
        min_ratio: No width is less than this part of the full one.
        max_ratio: A cut leaves at most this part of the full width.
        widths: The widths themselves, instead of steps and limits; the full one is always added.
        frozen: True keeps the groups whole; False searches groups that a preset or ``frozen`` keeps whole.
    """

    match: str
    round_to: int | None = None
    min_ratio: float | None = None
    max_ratio: float | None = None
    widths: tuple[int, ...] | None = None
    frozen: bool | None = None

    def __post_init__(self) -> None:
        if self.widths is not None:
            object.__setattr__(self, "widths", tuple(self.widths))

    def said(self) -> dict[str, Any]:
        """The fields that are set, without ``match``."""
        named = ((f.name, getattr(self, f.name)) for f in fields(self)[1:])
        return {name: value for name, value in named if value is not None}


@dataclass(frozen=True, slots=True)
class KeptWhole:
    """A group that could be cut but is not searched: ``by`` a ``pattern`` or by ``granularity``, and the reason in words."""

    name: str
    by: str
    reason: str


@dataclass(frozen=True)
class Rule:
    """An override and where it stands.

    Attributes:
        override: What it says.
        pointer: JSON pointer of what said it.
        place: The same for people.
        spelt_out: Whether the order says each field, and so has a pointer for it.
    """

    override: Override
    pointer: str
    place: str
    spelt_out: bool = False

    def at(self, field: str) -> str:
        """JSON pointer of one of its fields."""
        return f"{self.pointer}/{field}" if self.spelt_out else self.pointer


def rules_of(
    round_to: int, min_ratio: float, declared: Sequence[Override], frozen: Sequence[str], overrides: Sequence[Override]
) -> tuple[Rule, ...]:
    """All rules in the order in which they are read; raises UserError for one that contradicts itself."""
    general = Override("*", round_to=round_to, min_ratio=min_ratio)
    rules = (
        Rule(general, "/search_space", "search_space", spelt_out=True),
        *(Rule(o, "/search_space/preset", "the preset") for o in declared),
        *(Rule(Override(p, frozen=True), f"/search_space/frozen/{i}", "frozen") for i, p in enumerate(frozen)),
        *(Rule(o, f"/search_space/overrides/{i}", "overrides", spelt_out=True) for i, o in enumerate(overrides)),
    )
    for rule in rules:
        _check(rule)
    return rules


def allowed_widths(
    architecture: Architecture, rules: Sequence[Rule], most: int | None = None
) -> tuple[dict[str, tuple[int, ...]], tuple[KeptWhole, ...]]:
    """Widths of each searched group, ascending and ending with the full one, and the cuttable groups that are kept whole.

    Raises:
        UnknownNameError: A pattern matches nothing.
        UserError: Rules contradict each other, one of the order's overrides has no effect, or a group has more than ``most``
            widths to choose from.
        WidthError: A listed width that its group cannot take.
    """
    meant = _meant(architecture, rules)
    choices: dict[str, tuple[int, ...]] = {}
    whole: dict[str, KeptWhole] = {}
    decided: dict[str, set[Rule]] = {}
    for group in architecture.free_groups:
        found = _merged([r for r, groups in zip(rules, meant, strict=True) if group.name in groups])
        decided[group.name] = {rule for _, rule in found.values()}
        if "frozen" in found and found["frozen"][0]:
            override, place = found["frozen"][1].override, found["frozen"][1].place
            whole[group.name] = KeptWhole(group.name, "pattern", f"kept whole by {override.match!r} in {place}")
            continue
        widths = _choices(group, found, rules)
        if most is not None and len(widths) > most:
            raise _too_many(group, len(widths), most, found)
        if len(widths) > 1:
            choices[group.name] = widths
        else:
            whole[group.name] = KeptWhole(group.name, "granularity", _only_full(group, found))
    for rule, groups in zip(rules[1:], meant[1:], strict=True):
        if rule.spelt_out:
            _check_effect(rule, [architecture.group(n) for n in sorted(groups)], decided, whole)
    return choices, tuple(whole.values())


def summed_up(kept: Iterable[tuple[str, str, str]]) -> list[dict[str, Any]]:
    """Groups that are not searched, as (``by``, reason, name), by their reasons; the commonest first."""
    parts = [(key, [name for *_, name in items]) for key, items in groupby(sorted(kept), key=lambda item: item[:2])]
    parts.sort(key=lambda part: -len(part[1]))
    return [{"by": by, "reason": reason, "count": len(names), "groups": names} for (by, reason), names in parts]


def _meant(architecture: Architecture, rules: Sequence[Rule]) -> list[frozenset[str]]:
    """Names of the groups that each rule is about."""
    names = {name: (name, *layers) for name, layers in architecture.producers.items()}
    found = [frozenset(names)]
    for rule in rules[1:]:
        matches = re.compile(fnmatch.translate(rule.override.match)).match
        found.append(frozenset(group for group, aliases in names.items() if any(map(matches, aliases))))
        if not found[-1]:
            known = {alias for aliases in names.values() for alias in aliases}
            raise UnknownNameError("group or layer", rule.override.match, known, pointer=rule.at("match"))
    return found


def _merged(rules: Sequence[Rule]) -> dict[str, tuple[Any, Rule]]:
    """What holds for a group, by field, with the rule that says so. A list of widths and steps replace each other."""
    found: dict[str, tuple[Any, Rule]] = {}
    for rule in rules:
        said = rule.override.said()
        if any(step in said for step in _STEPS):
            found.pop("widths", None)
        found |= {field: (value, rule) for field, value in said.items()}
    if "frozen" in found and found["frozen"][0]:
        return {"frozen": found["frozen"]}
    hidden = _STEPS if "widths" in found else ()
    return {field: value for field, value in found.items() if field not in hidden}


def _choices(group: ChannelGroup, found: Mapping[str, tuple[Any, Rule]], rules: Sequence[Rule]) -> tuple[int, ...]:
    if "widths" in found:
        listed, rule = found["widths"]
        for i, width in enumerate(listed):
            try:
                check_width(group, width)
            except WidthError as error:
                raise WidthError(str(error), pointer=rule.at(f"widths/{i}")) from None
        return tuple(sorted({*listed, group.width}))
    (least, low), (most, high) = found["min_ratio"], found.get("max_ratio", (1.0, rules[0]))
    if least > most:
        later, field = (high, "max_ratio") if rules.index(high) >= rules.index(low) else (low, "min_ratio")
        raise UserError(
            f"Group {group.name!r} would be at least {least:g} and at most {most:g} of its width; raise max_ratio or lower "
            f"min_ratio.",
            pointer=later.at(field),
        )
    step = math.lcm(found["round_to"][0], group.divisor)
    lowest = max(1, math.ceil(least * group.width - 1e-9))
    highest = min(group.width - 1, math.floor(most * group.width + 1e-9))
    return (*range(math.ceil(lowest / step) * step, highest + 1, step), group.width)


def _too_many(group: ChannelGroup, count: int, most: int, found: Mapping[str, tuple[Any, Rule]]) -> UserError:
    said = f"Group {group.name!r} has {count:,} widths to choose from; {most:,} is the most."
    if "widths" in found:
        return UserError(f"{said} List fewer.", pointer=found["widths"][1].at("widths"))
    step, rule = found["round_to"]
    needed = math.ceil(math.lcm(step, group.divisor) * count / most)
    return UserError(f"{said} Raise round_to from {step} to {needed} or more.", pointer=rule.at("round_to"))


def _only_full(group: ChannelGroup, found: Mapping[str, tuple[Any, Rule]]) -> str:
    """Why no width but the full one is left."""
    if group.units == 1:
        return "its channels can only be removed at once"
    if "widths" in found:
        return "only its full width is left by widths"
    values = {field: found[field][0] for field in _STEPS if field in found}
    causes = [f"round_to {values['round_to']}"] if values["round_to"] > 1 else []
    if group.divisor > 1:
        causes.append(f"divisor {group.divisor}")
    if math.lcm(values["round_to"], group.divisor) < group.width:
        causes += [f"{field} {values[field]:g}" for field in _STEPS[1:] if values.get(field)]
    return f"only its full width is left by {' and '.join(causes)}"


def _check(rule: Rule) -> None:
    """Refuse a rule that says nothing, something out of range, or two things that exclude each other."""
    said = rule.override.said()
    for field, value in said.items():
        if field in _RANGES and not _RANGES[field][0](value):
            raise UserError(f"{field} is {value!r}; it must be {_RANGES[field][1]}.", pointer=rule.at(field))
    if not said:
        raise UserError(
            f"This override of {rule.override.match!r} says nothing; give round_to, min_ratio, max_ratio, widths or frozen.",
            pointer=rule.pointer,
        )
    steps = [field for field in _STEPS if field in said]
    if "widths" in said and steps:
        raise UserError(
            f"widths lists every width, so {steps[0]} cannot hold too; leave one out.", pointer=rule.at("widths")
        )
    if said.get("frozen") and len(said) > 1:
        raise UserError("A frozen group keeps its full width; leave out frozen, or all else.", pointer=rule.at("frozen"))


def _check_effect(
    rule: Rule, groups: Sequence[ChannelGroup], decided: Mapping[str, set[Rule]], whole: Mapping[str, KeptWhole]
) -> None:
    """Refuse an override after which the search is as it would be without it."""
    said, match = rule.override.said(), rule.override.match
    if said.keys() == {"frozen"}:
        return
    free = [g.name for g in groups if g.frozen is None]
    if not free:
        reasons = "; ".join(sorted({f"{g.name}: {g.frozen}" for g in groups})[:3])
        raise UserError(f"{match!r} matches only what cannot be cut ({reasons}).", pointer=rule.at("match"))
    names = ", ".join(free[:3]) + (" …" if len(free) > 3 else "")
    ruled = [name for name in free if rule in decided[name]]
    if not ruled:
        raise UserError(
            f"The override of {match!r} changes nothing: {names} {'is' if len(free) == 1 else 'are'} frozen elsewhere, or a "
            f"later override replaces what it says.",
            pointer=rule.pointer,
        )
    if all(name in whole for name in ruled):
        field = next(field for field in said if field != "frozen")
        raise UserError(
            f"The override of {match!r} leaves nothing to search in {names}: {whole[ruled[0]].reason}. To keep groups "
            f"whole, say frozen: true.",
            pointer=rule.at(field),
        )
