import os
import subprocess
import sys
from pathlib import Path

import pytest

from services import ray_auth
from services.launcher.local_ray import LocalRay


@pytest.mark.slow
def test_the_local_ray_takes_its_token_and_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOML_PRUNE_DATABASE_URL", "postgresql://me:hunter2@db/searches")
    local = LocalRay(1, tmp_path)
    try:
        local.start()
        assert local.address is not None
        assert local.environment["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / ray_auth.TOKEN_FILE)
        assert not ray_auth.answers_anybody(local.address)
        count = "import os; from services.capacity import _of_cluster; print(_of_cluster(os.environ['RAY_ADDRESS']))"
        inside = {**os.environ, **local.environment, "RAY_ADDRESS": local.address}
        asked = subprocess.run([sys.executable, "-c", count], env=inside, capture_output=True, text=True, timeout=60)
        assert asked.stdout.strip() == "[(1.0, 0.0)]", asked.stderr
        token = (tmp_path / ray_auth.TOKEN_FILE).read_text()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                line, inherited = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
            except OSError:
                continue
            assert token.encode() not in line + inherited
            if b"raylet" in line or b"gcs_server" in line or b"ray::" in line:
                assert b"hunter2" not in inherited
    finally:
        local.end()
