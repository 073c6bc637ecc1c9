"""System packages: who is told what."""

import pytest

from deploy.local.packages import CA_CERTIFICATES, GPGV, Install, Package, Refuse, decide, missing


@pytest.mark.parametrize(
    ("absent", "is_root", "has_apt", "decision"),
    [
        pytest.param([], True, True, None, id="root-needs-nothing"),
        pytest.param([], False, False, None, id="user-needs-nothing"),
        pytest.param([GPGV], True, True, Install(("gpgv",)), id="root-with-apt-installs"),
        pytest.param(
            [GPGV, CA_CERTIFICATES], True, True, Install(("gpgv", "ca-certificates")), id="root-installs-both"
        ),
        pytest.param(
            [GPGV],
            False,
            True,
            Refuse(
                "Bootferry needs gpgv (it verifies the signature of every stream): "
                "run `sudo apt-get install -y gpgv`, then this again."
            ),
            id="user-with-apt-is-told-the-command",
        ),
        pytest.param(
            [GPGV, CA_CERTIFICATES],
            False,
            True,
            Refuse(
                "Bootferry needs gpgv (it verifies the signature of every stream) and ca-certificates (it verifies the "
                "package index): run `sudo apt-get install -y gpgv ca-certificates`, then this again."
            ),
            id="one-command-for-all",
        ),
        pytest.param(
            [GPGV],
            True,
            False,
            Refuse(
                "Bootferry needs gpgv (it verifies the signature of every stream): "
                "install it with this system's package manager, then run this again."
            ),
            id="root-without-apt-cannot-install",
        ),
    ],
)
def test_decide(absent: list[Package], is_root: bool, has_apt: bool, decision: Install | Refuse | None) -> None:
    assert decide(absent, is_root=is_root, has_apt=has_apt) == decision


def test_missing_is_what_has_no_program() -> None:
    present = {"gpgv": "/usr/bin/gpgv"}
    assert missing([GPGV, CA_CERTIFICATES], which=present.get) == [CA_CERTIFICATES]
