"""Orders of every form: what is valid comes back as it was, what is nearly valid is refused by the field at fault."""

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from automl_prune.errors import SpecError
from automl_prune.loop.spec import SearchSpec

JSON = dict[str, Any]

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
NAME = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def number(low: float, high: float, **options: Any) -> st.SearchStrategy[float]:
    """Floats, and whole ones as integers."""
    whole = st.integers(math.ceil(low) + options.get("exclude_min", False), math.floor(high))
    return st.floats(low, high, **options) | whole if math.ceil(low) < high else st.floats(low, high, **options)


def ratio(low: float = 0, **options: Any) -> st.SearchStrategy[float]:
    return number(low, 1, **options)


POSITIVE_RATIO = st.floats(0, 1, exclude_min=True) | st.just(1)
RATE = st.floats(0, 10, exclude_min=True) | st.integers(1, 10)


def maybe(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | inner


def record(required: JSON, **optional: Any) -> st.SearchStrategy[JSON]:
    return st.fixed_dictionaries(required, optional=optional)


OVERRIDE = record(
    {"match": NAME},
    round_to=maybe(st.integers(1, 1024)),
    min_ratio=maybe(ratio()),
    max_ratio=maybe(POSITIVE_RATIO),
    widths=maybe(st.lists(st.integers(1, 2**31), min_size=1, max_size=4)),
    frozen=maybe(st.booleans()),
)
SEARCH_SPACE = record(
    {"name": NAME},
    preset=maybe(NAME),
    round_to=maybe(st.integers(1, 1024)),
    min_ratio=maybe(ratio()),
    frozen=st.lists(NAME, max_size=3),
    overrides=st.lists(OVERRIDE, max_size=3),
    num_classes=maybe(st.integers(2, 100_000)),
)
DATASET = record(
    {"name": NAME},
    root=maybe(TEXT),
    select_size=st.integers(1, 2**31),
    fit_size=maybe(st.integers(1, 2**31)),
    report_size=maybe(st.integers(1, 2**31)),
    report_on=st.just("report"),
    batch_size=st.integers(1, 8192),
    augment=st.sampled_from(["standard", "none"]),
    mean=maybe(st.lists(number(-1e6, 1e6), max_size=4)),
    std=maybe(st.lists(number(0, 1e6, exclude_min=True), max_size=4)),
    download=st.booleans(),
)
MOST = st.fixed_dictionaries({"max": number(0, 1e15, exclude_min=True)}) | st.fixed_dictionaries(
    {"max_ratio": POSITIVE_RATIO}
)
LEAST = st.fixed_dictionaries({"min": number(0, 1e15)}) | st.fixed_dictionaries({"min_ratio": ratio()})
BOUNDS = MOST | LEAST | st.builds(lambda most, least: most | least, MOST, LEAST)
BUDGET = st.builds(lambda bounds, rest: bounds | rest, BOUNDS, record({"metric": NAME}, device=maybe(NAME)))
TRIALS = record(
    {},
    max=st.integers(1, 100_000),
    parallel=st.integers(1, 256),
    max_seconds=maybe(number(0, 1e9, exclude_min=True)),
    patience=maybe(st.integers(1, 100_000)),
    early_stop=st.sampled_from([None, "asha", "median"]),
)
FINISH = record(
    {},
    top_k=st.integers(1, 50),
    recovery=st.sampled_from(["none", "fine_tune", "scratch"]),
    epochs=number(0, 1000),
    lr=RATE,
    distill=st.just(False),
)
CONDITIONS = {
    "runtime": NAME,
    "batch": st.integers(1, 4096),
    "threads": st.integers(1, 256),
    "dtype": st.sampled_from(["float32", "bfloat16"]),
}
OF_A_DEVICE = record({}, **{name: maybe(value) for name, value in CONDITIONS.items()})
SPECS = record(
    {
        "search_space": SEARCH_SPACE,
        "dataset": DATASET,
        "strategy": record({"name": NAME}, preset=maybe(NAME), options=st.dictionaries(NAME, ANYTHING, max_size=3)),
        "budgets": st.lists(BUDGET, min_size=1, max_size=3),
    },
    name=maybe(TEXT),
    labels=st.dictionaries(NAME, TEXT, max_size=3),
    seed=st.integers(0, 2**63 - 1),
    weights=maybe(NAME),
    weights_sha256=maybe(st.text("0123456789abcdef", min_size=64, max_size=64)),
    base_training=record({}, epochs=st.integers(1, 1000), lr=RATE),
    objective=st.sampled_from(["top1", "top5", "loss"]),
    latency=record({}, **CONDITIONS, devices=st.dictionaries(NAME, OF_A_DEVICE, max_size=2)),
    recipe=st.dictionaries(NAME, ANYTHING, max_size=3),
    controls=st.lists(st.sampled_from(["uniform", "random", "global"]), max_size=5),
    finish=FINISH,
    trials=TRIALS,
    priority=st.integers(-100, 100),
    execution=st.sampled_from(["auto", "tune", "actors", "inline"]),
    resources=record({}, cpu=number(0.01, 256), gpu=number(0.01, 1) | st.integers(0, 64)),
)
FREE = ("options", "recipe", "labels")
"""Fields whose members are the caller's."""


def fields(schema: JSON, whole: JSON) -> set[str]:
    """The dotted names of all fields in a JSON schema."""
    found = set()
    for part in (schema, *schema.get("anyOf", ()), schema.get("items", {})):
        if "$ref" in part:
            found |= fields(whole["$defs"][part["$ref"].rpartition("/")[2]], whole)
        for name, inner in part.get("properties", {}).items() if part.get("additionalProperties") is False else ():
            found |= {name} | {f"{name}.{deeper}" for deeper in fields(inner, whole)}
        if part is not schema and ("items" in part or "anyOf" in part):
            found |= fields(part, whole)
    return found


def given_in(data: Any, above: str = "") -> Iterator[str]:
    if isinstance(data, list):
        for item in data:
            yield from given_in(item, above)
    elif isinstance(data, dict):
        for name, value in data.items():
            yield above + name
            if name not in FREE:
                yield from given_in(value, f"{above}{name}.")


def places(data: Any, pointer: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where the values of an order are, those in free forms left out."""
    yield pointer
    if isinstance(data, dict) and (not pointer or pointer[-1] not in FREE):
        for name, value in data.items():
            yield from places(value, (*pointer, name))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from places(value, (*pointer, index))


def replaced(data: Any, pointer: tuple[str | int, ...], value: Any) -> Any:
    if not pointer:
        return value
    first, *rest = pointer
    if isinstance(data, list):
        assert isinstance(first, int)
        return [replaced(item, tuple(rest), value) if i == first else item for i, item in enumerate(data)]
    return data | {first: replaced(data.get(first), tuple(rest), value)}


def written(pointer: tuple[str | int, ...]) -> str:
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in pointer)


def refusal(data: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        SearchSpec.parse(data)
    assert all(error.detail and error.code for error in caught.value.errors)
    return [error.pointer for error in caught.value.errors]


@settings(max_examples=120)
@given(SPECS)
def test_what_is_read_is_written_and_read_again_the_same(data: JSON) -> None:
    spec = SearchSpec.parse(data)
    dumped = spec.model_dump(mode="json")
    assert SearchSpec.parse(dumped) == spec
    assert SearchSpec.parse(json.loads(json.dumps(dumped, allow_nan=False))).model_dump(mode="json") == dumped
    assert SearchSpec.parse(yaml.safe_load(yaml.safe_dump(data))) == spec
    assert SearchSpec.parse(spec.model_dump(mode="json", exclude_defaults=True)) == spec


def test_every_field_is_generated() -> None:
    schema = SearchSpec.model_json_schema()
    known, seen = fields(schema, schema), set[str]()

    @settings(max_examples=120)
    @given(SPECS)
    def look(data: JSON) -> None:
        seen.update(given_in(data))

    look()
    assert len(known) > 50
    assert seen >= known, f"not generated: {sorted(known - seen)}"


def deep(levels: int) -> Any:
    return [deep(levels - 1)] if levels else 0


LOOP: list[Any] = []
LOOP.append(LOOP)
NOWHERE = ("\ud800", {"\ud800": 1}, b"\xff", deep(300), LOOP)
"""What not even a free form takes."""
WRONG: tuple[Any, ...] = (math.nan, math.inf, -(10**30), 10**400, [[[]]], {"no such field": {}})
"""Values that no field takes that has a type."""


@settings(max_examples=120)
@given(SPECS, st.data())
def test_one_wrong_value_is_named(data: JSON, drawn: st.DataObject) -> None:
    place = drawn.draw(st.sampled_from(sorted(places(data), key=repr)))
    free = bool(place) and place[-1] in FREE
    value = drawn.draw(st.sampled_from(NOWHERE if free else (*NOWHERE, *WRONG)))
    found = refusal(replaced(data, place, value))
    assert any(pointer.startswith(written(place)[:200]) for pointer in found), (found, place)


@settings(max_examples=40)
@given(SPECS, st.data(), NAME)
def test_a_field_that_is_not_there_is_named(data: JSON, drawn: st.DataObject, name: str) -> None:
    place = drawn.draw(
        st.sampled_from([p for p in places(data) if isinstance(at(data, p), dict) and not set(p) & set(FREE)])
    )
    name = f"{name}_"
    assert written((*place, name))[:300] in refusal(replaced(data, (*place, name), 1))


@settings(max_examples=15)
@given(SPECS, st.data())
def test_a_field_that_is_missing_is_named(data: JSON, drawn: st.DataObject) -> None:
    name = drawn.draw(st.sampled_from(["search_space", "dataset", "budgets"]))
    assert refusal({field: value for field, value in data.items() if field != name}) == [f"/{name}"]


def at(data: Any, pointer: tuple[str | int, ...]) -> Any:
    for part in pointer:
        data = data[part]
    return data
