"""What Dockerfile and docker-compose.yml promise, read from the files; no container engine needed."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from services.cli.app import app
from services.settings import PREFIX, Settings, load_settings

ROOT = Path(__file__).parents[1]
OURS = ("migrate", "api", "launcher", "ray-head", "ray-worker")
ON_RAY = ("launcher", "ray-head", "ray-worker")


def _defaults(text: str) -> str:
    """The file as it is read where no variable is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


COMPOSE: dict[str, Any] = yaml.safe_load(_defaults((ROOT / "docker-compose.yml").read_text()))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
every_service = pytest.mark.parametrize("name", SERVICES)


def environment(name: str) -> dict[str, str]:
    return {variable: str(value or "") for variable, value in SERVICES[name].get("environment", {}).items()}


def stages() -> dict[str, list[str]]:
    """The instructions of each stage of the Dockerfile; the last one goes by the name ``image``."""
    found: dict[str, list[str]] = {}
    for line in DOCKERFILE.splitlines():
        if line.startswith("FROM "):
            found[line.rpartition(" AS ")[2] if " AS " in line else "image"] = []
        elif found and line and not line.startswith("#"):
            found[list(found)[-1]].append(line.strip())
    return found


def test_there_are_all_parts() -> None:
    assert set(SERVICES) == {"postgres", *OURS}


def test_nothing_is_published_but_the_api_and_that_on_loopback() -> None:
    published = {name: service.get("ports", []) for name, service in SERVICES.items()}
    assert published.pop("api") == ["127.0.0.1:8422:8422"]
    assert not any(published.values())
    assert not any("network_mode" in service or "expose" in service for service in SERVICES.values())


@every_service
def test_no_service_has_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["user"] in ("10001:10001", "postgres")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")
    limits = service["deploy"]["resources"]["limits"]
    assert float(limits["cpus"]) >= 1
    assert limits["memory"]


@every_service
def test_every_service_restarts_and_says_how_it_is(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == ("on-failure:5" if name == "migrate" else "unless-stopped")
    assert (service["healthcheck"] == {"disable": True}) == (name == "migrate")


@every_service
def test_services_wait_for_what_they_need(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        runs_once = "disable" in SERVICES[other]["healthcheck"]
        assert how == {"condition": "service_completed_successfully" if runs_once else "service_healthy"}
    needed = {"api": {"migrate"}, "launcher": {"migrate", "ray-head"}, "migrate": {"postgres"}, "ray-worker": {"ray-head"}}
    assert set(SERVICES[name].get("depends_on", {})) == needed.get(name, set())


@every_service
def test_secrets_come_from_files_alone(name: str) -> None:
    given = {f"/run/secrets/{secret}" for secret in SERVICES[name].get("secrets", [])}
    used = {value for value in environment(name).values() if value.startswith("/run/secrets/")}
    assert used == given
    for variable, value in environment(name).items():
        if re.search("PASSWORD|TOKEN|SECRET|KEY", variable):
            assert value in given, f"{variable} should name a file"
        assert not re.search(r"//[^/@]*:[^/@]*@", value), "a URL with a password"
    assert {Path(secret["file"]).name for secret in COMPOSE["secrets"].values()} == set(COMPOSE["secrets"])


@pytest.mark.parametrize("name", ON_RAY)
def test_ray_asks_for_its_token_everywhere(name: str) -> None:
    assert environment(name)["RAY_AUTH_MODE"] == "token"
    assert environment(name)["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"
    assert "RAY_AUTH_MODE=token" in " ".join(stages()["image"])


def test_ray_and_the_database_do_not_meet_and_reach_no_other_machine() -> None:
    networks = {name: set(service["networks"]) for name, service in SERVICES.items()}
    assert {name for name, found in networks.items() if "ray" in found} == set(ON_RAY)
    assert {name for name, found in networks.items() if "database" in found} == {"postgres", "migrate", "api", "launcher"}
    assert {name for name, found in networks.items() if "edge" in found} == {"api", "launcher"}
    assert COMPOSE["networks"]["ray"] == COMPOSE["networks"]["database"] == {"internal": True}


def test_ray_shows_its_dashboard_to_its_own_machine_only() -> None:
    assert "--dashboard-host=127.0.0.1" in SERVICES["ray-head"]["command"]


def test_files_have_the_same_paths_everywhere_and_data_cannot_be_changed() -> None:
    first, *others = (SERVICES[name]["volumes"] for name in ("api", *ON_RAY))
    assert all(other == first for other in others)
    assert first == ["home:/var/lib/automl-prune", "./data:/data:ro", "./weights:/weights:ro"]
    assert set(COMPOSE["volumes"]) == {"home", "database"}
    assert {"AUTOML_PRUNE_HOME=/var/lib/automl-prune", "AUTOML_PRUNE_DATA_ROOT=/data"} <= set(_words("image", "ENV"))


def test_workers_can_be_several() -> None:
    assert not {"container_name", "ports", "hostname"} & set(SERVICES["ray-worker"])


@pytest.mark.parametrize("name", ["migrate", "api", "launcher"])
def test_the_command_line_has_these_commands_and_options(name: str) -> None:
    assert _words("image", "ENTRYPOINT") == ['["automl-prune"]']
    _parse(typer.main.get_command(app), SERVICES[name]["command"])
    check = SERVICES[name]["healthcheck"].get("test", ["CMD", "python"])
    if check[1] == "automl-prune":
        _parse(typer.main.get_command(app), check[2:])


@pytest.mark.parametrize("name", ["ray-head", "ray-worker"])
def test_ray_has_these_commands_and_options(name: str) -> None:
    from ray.scripts.scripts import cli

    words: list[str] = SERVICES[name]["entrypoint"] + SERVICES[name]["command"]
    assert words[0] == "ray"
    _parse(cli, words[1:])


@pytest.mark.parametrize("name", ["migrate", "api", "launcher"])
def test_every_setting_is_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {variable: value for variable, value in environment(name).items() if variable.startswith(PREFIX)}
    assert {variable.removeprefix(PREFIX).lower() for variable in ours} <= set(Settings.model_fields)
    for variable, value in ours.items():
        monkeypatch.setenv(variable, value)
    assert load_settings().database_password_file == Path("/run/secrets/database_password")


def test_the_source_comes_after_what_it_depends_on() -> None:
    copied = _words("dependencies", "COPY")
    assert copied == ["pyproject.toml", "./"]
    assert "postgres" in " ".join(stages()["dependencies"])
    assert stages()["image"].index("COPY --from=dependencies /opt/automl-prune /opt/automl-prune") < _index("RUN --mount")
    assert "--no-deps --no-index /wheels" in stages()["image"][_index("RUN --mount")]


def test_torch_is_for_processors_unless_ordered_otherwise_and_torchvision_fits_it() -> None:
    assert "ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu" in stages()["dependencies"]
    (install,) = [line for line in stages()["dependencies"] if "torchvision" in line]
    assert install == 'RUN pip install "torch>=2.6" "torchvision>=0.21" --index-url "${TORCH_INDEX}"'
    needs = (ROOT / "pyproject.toml").read_text()
    assert '"torch>=2.6"' in needs
    assert '"torchvision>=0.21"' in needs


def test_the_image_runs_as_nobody_special_and_holds_no_secrets() -> None:
    assert _words("image", "USER") == ["10001:10001"]
    assert len([line for line in stages()["image"] if line.startswith("HEALTHCHECK")]) == 1
    for line in (line for lines in stages().values() for line in lines if line.startswith(("ARG", "ENV"))):
        assert not re.search(r"PASSWORD|SECRET|TOKEN_PATH|AUTH_TOKEN|API_KEY", line)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored, "what is not named stays outside"
    assert not {"!secrets", "!.", "!.git"} & set(ignored)


def test_compose_itself_reads_the_file() -> None:
    if (docker := shutil.which("docker")) is None or subprocess.run(
        [docker, "compose", "version"], capture_output=True
    ).returncode:
        pytest.skip("docker compose is not installed")
    command = [docker, "compose", "--file", str(ROOT / "docker-compose.yml"), "config", "--quiet"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stderr == ""


def _words(stage: str, instruction: str) -> list[str]:
    (line,) = [line for line in stages()[stage] if line.split()[0] == instruction]
    return line.split()[1:]


def _index(start: str) -> int:
    return next(place for place, line in enumerate(stages()["image"]) if line.startswith(start))


def _parse(command: Any, words: list[str]) -> None:
    """Follow words through groups to a command and let it parse its options; it raises when it cannot."""
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    command.make_context(words[0] if words else "command", list(words))
