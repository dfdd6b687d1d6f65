"""What is published: distributions that run by themselves, and an image that serves."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CLEAN = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    pytest.importorskip("build", reason="needs build, of the extra release")
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "runs", "tests")
    )
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, source], check=True, capture_output=True)
    return sorted(folder.glob("outfinder-*"))


@pytest.fixture(scope="module")
def installed(distributions: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel; its dependencies are those of the tests."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    (wheel,) = (path for path in distributions if path.suffix == ".whl")
    python = folder / "bin" / "python"
    packages = subprocess.run([python, "-c", "import site; print(site.getsitepackages()[0])"], check=True,
                              capture_output=True, text=True).stdout.strip()  # fmt: skip
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--quiet", wheel]
    subprocess.run(install, check=True, env=CLEAN, cwd=folder)
    Path(packages, "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])
    return folder / "bin"


@pytest.mark.slow
def test_the_distributions_are_valid(distributions: list[Path]) -> None:
    pytest.importorskip("twine", reason="needs twine, of the extra release")
    assert [path.suffix for path in distributions] == [".whl", ".gz"]
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *distributions], check=True)


@pytest.mark.slow
def test_the_wheel_runs_the_demo_in_an_environment_of_its_own(installed: Path, tmp_path: Path) -> None:
    def outfinder(*arguments: str) -> str:
        return subprocess.run(
            [installed / "outfinder", *arguments], cwd=tmp_path, env=CLEAN, check=True, capture_output=True, text=True
        ).stdout

    where = subprocess.run([installed / "python", "-c", "import weights; print(weights.FOLDER)"], cwd=tmp_path, env=CLEAN,
                           check=True, capture_output=True, text=True).stdout  # fmt: skip
    assert where.startswith(str(installed.parent))
    outfinder("sample", "demo")
    outfinder("index", "gallery", "demo/shop.csv")
    lines = outfinder("search", "gallery", "demo/street", "--report", "report").splitlines()

    assert len(lines) == 12
    assert any(garment["matches"] for line in lines for garment in json.loads(line)["garments"])
    assert (tmp_path / "report" / "index.html").is_file()


@pytest.mark.slow
def test_the_image_serves_and_is_found_healthy(installed: Path, tmp_path: Path) -> None:
    """The last lines of the Dockerfile, run without Docker."""
    text = (ROOT / "Dockerfile").read_text()
    entry, command, health = (json.loads(re.search(rf"^{name}(?: .*CMD)? (\[.*\])$", text, re.MULTILINE)[1])
                              for name in ("ENTRYPOINT", "CMD", "HEALTHCHECK"))  # fmt: skip
    env = CLEAN | {"PATH": f"{installed}:{CLEAN['PATH']}"}
    for step in (["sample", "demo"], ["index", "gallery", "demo/shop.csv", "--as-is"]):
        subprocess.run([installed / entry[0], *step], cwd=tmp_path, env=env, check=True, capture_output=True)
    with subprocess.Popen([installed / entry[0], *command], cwd=tmp_path, env=env, stderr=subprocess.PIPE) as server:
        try:
            for _ in range(120):
                if (
                    healthy := subprocess.run(
                        [installed / health[0], *health[1:]], env=env, check=False, capture_output=True
                    ).returncode
                    == 0
                ):
                    break
                assert server.poll() is None, server.stderr.read()
                time.sleep(1)
        finally:
            server.terminate()
    assert healthy
