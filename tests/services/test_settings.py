from pathlib import Path

import platformdirs
import pytest
from pydantic import ValidationError

from automl_prune.errors import SpecError
from services.settings import Settings, environment, load_settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"AUTOML_PRUNE_{name.upper()}", raising=False)


def test_defaults_live_below_the_users_data_folder() -> None:
    settings = load_settings()
    home = platformdirs.user_data_path("automl-prune", appauthor=False)
    assert settings.home == home
    assert settings.database_url == f"sqlite:///{home}/automl-prune.sqlite3"
    assert (settings.artifacts_root, settings.weights_root) == (home / "artifacts", home / "weights")
    assert (settings.host, settings.port, settings.public_url, settings.ray_address) == ("127.0.0.1", 8422, None, None)
    assert (settings.max_running, settings.max_attempts, settings.max_body_bytes) == (1, 3, 262144)
    assert settings.workers >= 1


def test_everything_follows_home(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path)
    roots = [settings.artifacts_root, settings.cache_dir, settings.data_root, settings.weights_root]
    assert all(root.parent == tmp_path for root in roots)
    assert settings.database_url == f"sqlite:///{tmp_path}/automl-prune.sqlite3"


def test_overrides_beat_the_environment_which_beats_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AUTOML_PRUNE_PORT", "9000")
    monkeypatch.setenv("AUTOML_PRUNE_HOST", "0.0.0.0")
    monkeypatch.setenv("AUTOML_PRUNE_DATA_ROOT", str(tmp_path))
    monkeypatch.setenv("AUTOML_PRUNE_PUBLIC_URL", "")
    settings = load_settings(port=9001, host=None)
    assert (settings.port, settings.host, settings.data_root, settings.public_url) == (9001, "0.0.0.0", tmp_path, None)


def test_folders_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_settings(home="here").home == tmp_path / "here"
    assert load_settings(home="~/there").home == tmp_path / "there"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "70000"),
        ("WORKERS", "0"),
        ("LEASE_SECONDS", "0"),
        ("PUBLIC_URL", "javascript:alert(1)"),
        ("PUBLIC_URL", "https://a.example/below"),
        ("PORT", "x"),
        ("PLUGINS", "os; rm"),
        ("PLUGINS", "../module"),
        ("PLUGINS", "good,a..b"),
    ],
)
def test_a_bad_value_names_its_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"AUTOML_PRUNE_{name}", value)
    with pytest.raises(SpecError, match=f"AUTOML_PRUNE_{name}"):
        load_settings()


@pytest.mark.parametrize(
    ("host", "public_url", "beyond"),
    [
        ("127.0.0.1", None, False),
        ("::1", "http://localhost:8422/", False),
        ("127.0.0.1", "http://[::1]:8422", False),
        ("0.0.0.0", None, True),
        ("0.0.0.0", "http://localhost:8422", True),
        ("127.0.0.1", "https://prune.example", True),
        ("127.0.0.1", "https://127.0.0.1.prune.example", True),
        ("127.0.0.1", "https://localhost@prune.example", True),
    ],
)
def test_a_public_address_is_beyond_this_machine(host: str, public_url: str | None, beyond: bool) -> None:
    assert load_settings(host=host, public_url=public_url).beyond_this_machine == beyond


def test_an_unknown_override_is_refused() -> None:
    with pytest.raises(SpecError, match="AUTOML_PRUNE_PROT"):
        load_settings(prot=1)


def test_settings_do_not_change_and_hide_the_database(tmp_path: Path) -> None:
    settings = load_settings(database_url="postgresql://me:secret@db/searches", home=tmp_path)
    assert "secret" not in repr(settings)
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1  # type: ignore[misc]


def test_plugins_are_module_names_separated_by_commas(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AUTOML_PRUNE_PLUGINS", " one, two.three ,")
    settings = load_settings(home=tmp_path)
    assert settings.plugins == ("one", "two.three")
    assert environment(settings)["AUTOML_PRUNE_PLUGINS"] == "one,two.three"
    assert environment(load_settings(home=tmp_path, plugins=()))["AUTOML_PRUNE_PLUGINS"] == ""
