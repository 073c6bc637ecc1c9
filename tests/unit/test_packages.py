"""What the Debian packages are made of: manual pages, completions, configuration files, and their recipe."""

import re
import shutil
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from deploy.local.failure import Failure
from deploy.release.debs import lay_out, release_suffix
from deploy.release.pages import PROGRAMS, Program, command_of, completions, escaped, page, walk
from deploy.release.settings import SERVICES, file_of

CHECKOUT = Path(__file__).parents[2]
DEBIAN = CHECKOUT / "deploy" / "debian"
MOMENT = 1_790_000_000  # 2026-09-21
NAMES = [program.name for program in PROGRAMS]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What dpkg-buildpackage builds in."""
    made = tmp_path_factory.mktemp("deb") / "bootferry"
    lay_out(CHECKOUT, made, "deb12", MOMENT)
    return made


@pytest.mark.parametrize("program", PROGRAMS, ids=NAMES)
def test_a_page_names_each_command_and_each_option(program: Program) -> None:
    text = page(program, MOMENT)
    assert text.startswith('.TH "' + escaped(program.name.upper()) + f'" "{program.section}" "2026-09-21" ')
    for path, command, context in walk(program.name, command_of(program.name)):
        assert text.count(f'.SS "{escaped(path)}"\n') == (0 if context.parent is None else 1)
        of_command = (
            text if context.parent is None else text.partition(f'.SS "{escaped(path)}"\n')[2].partition("\n.SS ")[0]
        )
        for param in command.get_params(context):
            if param.param_type_name == "option" and not param.hidden:
                for name in param.opts:
                    assert re.search(rf"\.TP\n\\fB[^\n]*{re.escape(escaped(name))}", of_command), (path, name)


@pytest.mark.skipif(shutil.which("man") is None, reason="man is not installed here")
@pytest.mark.parametrize("program", PROGRAMS, ids=NAMES)
def test_man_has_no_complaint_about_a_page(program: Program, tmp_path: Path) -> None:
    file = tmp_path / f"{program.name}.{program.section}"
    file.write_text(page(program, MOMENT))
    # As lintian asks it.
    ended = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", file],
        env={"LC_ALL": "C.UTF-8", "MANROFFSEQ": "", "MANWIDTH": "80", "PATH": "/usr/bin:/bin"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_text_that_means_something_to_roff_is_shown_as_it_is() -> None:
    assert escaped("a\\b --x 'y' `z`\n.TH") == "a\\eb \\-\\-x \\(aqy\\(aq \\(gaz\\(ga\n\\&.TH"


@pytest.mark.parametrize("name", NAMES)
def test_shells_complete_a_command(name: str) -> None:
    scripts = completions(name)
    assert set(scripts) == {
        f"bash-completion/completions/{name}",
        f"zsh/vendor-completions/_{name}",
        f"fish/vendor_completions.d/{name}.fish",
    }
    assert scripts[f"zsh/vendor-completions/_{name}"].startswith(f"#compdef {name}\n")
    word = {"bootferry": "selec", "bootferry-rack": "enr", "bootferry-region": "migr"}[name]
    whole = {"bootferry": "select selection", "bootferry-rack": "enrol", "bootferry-region": "migrate"}[name]
    said = subprocess.run(
        [
            "bash",
            "-c",
            f'. "$1"; COMP_WORDS=({name} {word}) COMP_CWORD=1; {function(scripts)} {name}; echo ${{COMPREPLY[*]}}',
            "-",
            "/dev/stdin",
        ],
        input=scripts[f"bash-completion/completions/{name}"],
        env={"PATH": f"{CHECKOUT / '.venv' / 'bin'}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == whole


def function(scripts: Mapping[str, str]) -> str:
    (found,) = (re.search(r"^(\w+)\(\) \{", text, re.MULTILINE) for name, text in scripts.items() if "bash" in name)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("service", SERVICES)
def test_a_configuration_file_explains_every_setting_and_sets_none(
    service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = SERVICES[service]
    text = file_of(configuration)
    assert tomllib.loads(text) == {}
    assert re.findall(r"^#(\w+) =", text, re.MULTILINE) == list(configuration.model_fields)
    assert max(map(len, text.splitlines())) <= 120
    # Taken out of their comments, the defaults are the defaults.
    (tmp_path / f"{service}.toml").write_text(re.sub(r"^#(\w+ = )", r"\1", text, flags=re.MULTILINE))
    default = configuration()
    monkeypatch.setenv("BOOTFERRY_CONFIG_DIR", str(tmp_path))
    assert configuration.load() == default


def test_packages_of_one_release_sort_before_those_of_the_next() -> None:
    assert release_suffix({"ID": "debian", "VERSION_ID": "12"}) == "deb12"
    assert release_suffix({"ID": "ubuntu", "VERSION_ID": "24.04"}) == "ubuntu24.04"
    for other in ({"ID": "debian"}, {"ID": "fedora", "VERSION_ID": "44"}, {}):
        with pytest.raises(Failure, match="built on Debian or Ubuntu"):
            release_suffix(other)


def test_each_package_gets_the_part_of_the_lock_that_its_command_needs(tree: Path) -> None:
    for extra in ("cli", "rack", "region"):
        assert (tree / f"{extra}.lock").read_text().startswith("aiohappyeyeballs==")
        assert f"{extra}.lock" in (tree / "debian" / "rules").read_text().replace("$(2)", extra)
    rules = (tree / "debian" / "rules").read_text()
    assert "--require-hashes" in rules
    assert "--no-deps" in rules


@pytest.mark.parametrize("name", NAMES)
def test_whatever_a_package_installs_is_there(tree: Path, name: str) -> None:
    for line in (tree / "debian" / f"{name}.install").read_text().splitlines():
        assert (tree / line.split()[0]).is_file(), line
    for line in (tree / "debian" / f"{name}.manpages").read_text().split():
        assert (tree / line).is_file(), line
    command = tree / "bin" / name
    assert command.stat().st_mode & 0o777 == 0o755
    environment = {"bootferry": "cli", "bootferry-rack": "rack", "bootferry-region": "region"}[name]
    assert f'"/usr/lib/bootferry/{environment}"' in command.read_text()
    for script in ("postinst", "prerm"):
        assert f"-p {name}" in (tree / "debian" / f"{name}.{script}").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_maintainer_scripts_are_sh(name: str) -> None:
    for script in DEBIAN.glob(f"{name}.p*"):
        subprocess.run(["sh", "-n", script], check=True)


def test_each_override_of_lintian_has_its_reason() -> None:
    for file in DEBIAN.glob("*.lintian-overrides"):
        lines = file.read_text().splitlines()
        for above, line in zip(["", *lines], lines, strict=False):
            assert line.startswith("# ") or above.startswith("# "), f"{file.name}: {line}"
