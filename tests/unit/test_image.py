"""The container image: a layout that engines load, the same bytes each time; and how compose runs it."""

import gzip
import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.local.failure import Failure
from deploy.release.image import HEALTHCHECK, configuration, packages_of
from deploy.release.oci import write_image
from rack.configuration import RackConfiguration
from region.configuration import RegionConfiguration
from tests.http.conftest import free_port

COMPOSE = Path(__file__).parents[2] / "deploy" / "container" / "compose.yaml"
MOMENT = 1_790_000_000
TAG = "bootferry:0.2.0"


def root_in(directory: Path) -> Path:
    root = directory / "root"
    (root / "usr" / "bin").mkdir(parents=True)
    (root / "usr" / "bin" / "program").write_text("text")
    (root / "usr" / "bin" / "program").chmod(0o755)
    (root / "usr" / "bin" / "other").hardlink_to(root / "usr" / "bin" / "program")
    (root / "bin").symlink_to("usr/bin")
    (root / "old").write_text("old")
    os.utime(root / "old", (1_000_000_000, 1_000_000_000))
    os.mkfifo(root / "pipe")
    return root


def image_in(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    into = directory / "image.oci.tar"
    write_image(root_in(directory), into, configuration("0.2.0"), "amd64", TAG, MOMENT)
    assert sorted(path.name for path in directory.iterdir()) == ["image.oci.tar", "root"]
    return into


def files_of(image: Path) -> dict[str, bytes]:
    with tarfile.open(image) as archive:
        return {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]


def blob(files: dict[str, bytes], descriptor: dict[str, Any]) -> bytes:
    """What a descriptor names; its size and digest are right."""
    algorithm, _, digest = descriptor["digest"].partition(":")
    content = files[f"blobs/{algorithm}/{digest}"]
    assert (len(content), hashlib.sha256(content).hexdigest()) == (descriptor["size"], digest)
    return content


def test_an_image_is_a_layout_whose_every_digest_is_right(tmp_path: Path) -> None:
    files = files_of(image_in(tmp_path))
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    (entry,) = json.loads(files["index.json"])["manifests"]
    assert entry["annotations"]["org.opencontainers.image.ref.name"] == TAG
    assert entry["annotations"]["io.containerd.image.name"] == f"docker.io/library/{TAG}"
    manifest = json.loads(blob(files, entry))
    config = json.loads(blob(files, manifest["config"]))
    (layer,) = manifest["layers"]
    plain = gzip.decompress(blob(files, layer))
    assert config["rootfs"] == {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(plain).hexdigest()}"]}
    assert len(files) == 5
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        found = {entry.name: entry for entry in archive}
        assert set(found) == {"bin", "old", "usr", "usr/bin", "usr/bin/other", "usr/bin/program"}
        assert (found["bin"].issym(), found["bin"].linkname) == (True, "usr/bin")
        assert (found["usr/bin/program"].islnk(), found["usr/bin/program"].linkname) == (True, "usr/bin/other")
        assert (found["usr/bin/other"].mode, found["usr/bin/other"].mtime, found["old"].mtime) == (
            *(0o755, MOMENT),
            1_000_000_000,
        )


def test_two_images_of_one_tree_are_the_same_bytes(tmp_path: Path) -> None:
    first, second = image_in(tmp_path / "a"), image_in(tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()


def test_nothing_in_the_image_runs_as_root() -> None:
    assert configuration("0.2.0")["User"] == "65532:65532"


@pytest.mark.parametrize(("status", "exit_status"), [("200 OK", 0), ("503 Service Unavailable", 1)])
def test_the_healthcheck_asks_with_head(status: str, exit_status: int) -> None:
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                asked.append(connection.recv(1000))
                connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 18\r\n\r\n".encode())

        thread = threading.Thread(target=answer)
        thread.start()
        assert healthcheck(f"http://127.0.0.1:{server.getsockname()[1]}/readyz") == exit_status
        thread.join()
    assert asked[0].startswith(b"HEAD /readyz HTTP/1.1\r\n")


def test_the_healthcheck_fails_where_nothing_listens() -> None:
    assert healthcheck(f"http://127.0.0.1:{free_port()}/readyz") == 1


def healthcheck(url: str) -> int:
    return subprocess.run([sys.executable, "-IS", "-c", HEALTHCHECK, url], check=False).returncode


def test_an_image_is_made_of_all_three_packages_of_its_version(tmp_path: Path) -> None:
    for name in ("bootferry", "bootferry-rack", "bootferry-region"):
        with pytest.raises(Failure, match=r"does not hold the three packages of 0\.2\.0"):
            packages_of(tmp_path, "0.2.0")
        (tmp_path / f"{name}_0.2.0-1+deb12_amd64.deb").touch()
        (tmp_path / f"{name}_0.1.0-1+deb12_amd64.deb").touch()
    assert len(packages_of(tmp_path, "0.2.0")) == 3


# --- compose


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return found


@pytest.mark.parametrize("service", ["rack", "region"])
def test_compose_gives_a_service_no_more_than_it_needs(service: str) -> None:
    found = compose()["services"][service]
    assert found["read_only"] is True
    assert (found["cap_drop"], found["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
    assert found["volumes"] == [f"{service}:/var/lib/bootferry"]
    assert "mem_limit" in found
    assert found["healthcheck"]["test"][1] == "/usr/lib/bootferry/healthcheck"


def test_compose_sets_only_what_are_settings() -> None:
    for service, configured in (("region", RegionConfiguration), ("rack", RackConfiguration)):
        prefix = f"{service.upper()}_"
        known = {f"{prefix}{name}".upper() for name in configured.model_fields}
        variables = compose()["services"][service].get("environment", {})
        assert {name for name in variables if name.startswith(prefix)} <= known
    for secret in compose()["services"]["region"]["secrets"]:
        assert secret.removeprefix("region_") in RegionConfiguration.model_fields


def test_compose_publishes_the_regions_plain_port_to_this_machine_only() -> None:
    assert compose()["services"]["region"]["ports"] == ["127.0.0.1:5240:5240"]
    assert "ports" not in compose()["services"]["database"]
