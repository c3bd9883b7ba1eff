"""Reading a SearchSpec from a file: JSON, or YAML in which numbers are what they look like."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from automl_prune.errors import UserError


class _Loader(yaml.SafeLoader):
    """Safe YAML whose plain scalars mean the same as in JSON: ``62.7e6`` is a number, and a date stays text.

    A field that is given twice is refused, instead of the second one being taken.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        """The mapping's items; raises ConstructorError where a key comes again."""
        seen: set[str] = set()
        for key, _ in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else ""
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{name[:80]!r} is given twice", key.start_mark)
            seen |= {name} - {"", "<<"}
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":float"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"[-+]?(\d[\d_]*\.[\d_]*([eE][-+]?\d+)?|\.\d[\d_]*([eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.(inf|Inf|INF))$|\.(nan|NaN|NAN)$"
    ),
    list("-+.0123456789"),
)


_NEEDED = ("search_space", "dataset", "budgets")


def read_spec(path: Path) -> Any:
    """The file as JSON data, whatever it holds; raises UserError when it cannot be read as that."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        is_json = path.suffix.lower() == ".json" and text.strip()
        data = json.loads(text, object_pairs_hook=_once) if is_json else yaml.load(text, Loader=_Loader)
        if data is None:
            raise UserError(f"{path} is empty; a SearchSpec has at least {', '.join(_NEEDED)}.")
        return json.loads(json.dumps(data, allow_nan=False))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{path} is not YAML: {error.problem}{where}.") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 at byte {error.start}.") from None
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path} holds something that JSON cannot say: {error}.") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the field {key[:80]!r} is given twice in one object")
        found[key] = value
    return found
