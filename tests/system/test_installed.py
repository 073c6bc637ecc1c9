"""Packages under a real systemd: what starts, who may read what, and what outlives reboots, kills and a silent process.

The tests are one story on one site, from top to bottom.
"""

import hashlib
import time

import pytest

from tests.system.base import CHECKOUT
from tests.system.machine import Machine
from tests.system.site import PLACE, URL, Site, blocks

KERNEL = "ubuntu/amd64/ga-26.04/resolute/stable/boot-kernel"
SERVICES = {"region": "bootferry-region", "rack1": "bootferry-rack", "rack2": "bootferry-rack"}
pytestmark = pytest.mark.timeout(900)


def main_process(machine: Machine, service: str) -> int:
    return int(machine.run(f"systemctl show --property=MainPID --value {service}"))


def until_restarted(machine: Machine, service: str, before: int, within_s: float = 60) -> None:
    machine.until(
        f"systemctl is-active --quiet {service} && [ $(systemctl show -P MainPID {service}) != {before} ]", within_s
    )


def drop_in(site: Site, machine: Machine, service: str, lines: str) -> None:
    """Change a setting of a unit until the machine is switched off."""
    site.put(machine, f"/root/{service}.conf", f"[Service]\n{lines}\n")
    directory = f"/run/systemd/system/{service}.service.d"
    machine.run(f"mkdir -p {directory} && cp /root/{service}.conf {directory}/test.conf && systemctl daemon-reload")


def undo_drop_in(machine: Machine, service: str) -> None:
    machine.run(f"rm -r /run/systemd/system/{service}.service.d && systemctl daemon-reload")


def boots(site: Site, rack: Machine) -> str:
    """The digest of what a machine gets from a rack as its kernel. Another machine asks, over the network."""
    address = f"http://{rack.name}.example.org:5248/images/{KERNEL}"
    return hashlib.sha256(site.region.run(f"curl -sSf {address} | base64").encode()).hexdigest()


def test_each_service_is_ready_and_runs_as_its_own_user(site: Site) -> None:
    for name, service in SERVICES.items():
        machine = site.machines[name]
        assert machine.run(f"systemctl is-enabled {service}; systemctl is-active {service}") == "enabled\nactive"
        assert machine.run(f"ps -o user:32= -p {main_process(machine, service)}") == service
        said = machine.run(f"systemd-analyze security {service} --threshold=15 --no-pager | tail -1")
        assert "Overall exposure level" in said
    assert boots(site, site.racks[0]) == boots(site, site.racks[1])


def test_pages_and_completions_are_there(site: Site) -> None:
    region = site.region
    assert region.run("bootferry --version").startswith("bootferry ")
    assert (
        region.run(
            "_BOOTFERRY_REGION_COMPLETE=complete_bash COMP_WORDS='bootferry-region migr' COMP_CWORD=1 bootferry-region"
        )
        == "migrate"
    )
    assert region.run("ls /usr/share/man/man1/bootferry.1.gz /usr/share/man/man8/bootferry-region.8.gz")


def test_dnsmasq_reads_the_tree_of_a_rack_and_nothing_beside_it(site: Site) -> None:
    rack = site.racks[0]
    kept = "/var/lib/bootferry/rack"
    for closed in (f"ls {kept}", f"ls {kept}/files", f"cat {kept}/identity/rack.key", f"cat {kept}/state.json"):
        assert rack.start(f"sudo -u nobody {closed}").returncode != 0, closed
    served = f"--keep-in-foreground --port=0 --user=nobody --enable-tftp --tftp-root={kept}/current"
    rack.run(f"systemd-run --quiet --unit=tftp dnsmasq {served}")
    try:
        got = rack.until(f"curl -sSf --max-time 5 tftp://127.0.0.1/{KERNEL} | sha256sum", 20)
        assert got == rack.run(f"sha256sum < {kept}/current/{KERNEL}")
    finally:
        rack.run("systemctl stop tftp")


def test_nginx_reads_the_files_of_a_region_and_no_key(site: Site) -> None:
    region = site.region
    region.run("usermod --append --groups bootferry-region www-data")
    kept = "/var/lib/bootferry/region"
    file = region.run(f"find {kept}/store/files -type f -size +0 -regex '.*/[0-9a-f]*' | head -1")
    assert region.run(f"sudo -u www-data cat {file} | sha256sum").split()[0] == file.rpartition("/")[2]
    for closed in (f"{kept}/keys/region.key", f"{kept}/keys/secrets.key", f"{kept}/admin-token"):
        assert region.start(f"sudo -u www-data cat {closed}").returncode != 0, closed
    assert region.start(f"sudo -u nobody ls {kept}").returncode != 0


def test_a_secret_comes_from_where_only_root_reads(site: Site) -> None:
    region = site.region
    before = main_process(region, "bootferry-region")
    site.put(region, "/etc/credstore/region_database_url", "postgresql:///bootferry?host=/run/postgresql\n", 0o600)
    region.run("systemctl restart bootferry-region", timeout_s=180)
    assert main_process(region, "bootferry-region") != before
    environment = f"/proc/{main_process(region, 'bootferry-region')}/environ"
    directory = region.run(f"tr '\\0' '\\n' < {environment} | sed -n 's/^CREDENTIALS_DIRECTORY=//p'")
    assert "region_database_url" in region.run(
        f"nsenter -t {main_process(region, 'bootferry-region')} -m ls {directory}"
    )


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_that_is_killed_is_back(site: Site, name: str) -> None:
    machine, service = site.machines[name], SERVICES[name]
    before = main_process(machine, service)
    machine.run(f"kill -9 {before}")
    until_restarted(machine, service, before)
    site.until_synced()


@pytest.mark.parametrize("name", ["region", "rack1"])
def test_a_service_that_stands_still_is_killed_and_started_again(site: Site, name: str) -> None:
    machine, service = site.machines[name], SERVICES[name]
    drop_in(site, machine, service, "WatchdogSec=6")
    machine.run(f"systemctl restart {service}", timeout_s=180)
    before = main_process(machine, service)
    machine.run(f"kill -STOP {before}")
    until_restarted(machine, service, before)
    assert "Watchdog timeout" in machine.run(f"journalctl --no-pager --lines=200 --unit={service}")
    undo_drop_in(machine, service)
    machine.run(f"systemctl restart {service}", timeout_s=180)
    site.until_synced()


def test_a_region_that_waits_for_its_database_is_not_killed(site: Site) -> None:
    region = site.region
    drop_in(site, region, "bootferry-region", "TimeoutStartSec=8")
    try:
        region.run("systemctl stop postgresql; systemctl --no-block restart bootferry-region")
        time.sleep(20)
        before = main_process(region, "bootferry-region")
        assert region.ask("systemctl is-active bootferry-region") in ("activating", "active")
        assert region.run("systemctl show -P NRestarts bootferry-region") == "0"
    finally:
        region.run("systemctl start postgresql")
        undo_drop_in(region, "bootferry-region")
    region.until(f"systemctl is-active --quiet bootferry-region && curl -sSf {URL}/readyz", 60)
    assert main_process(region, "bootferry-region") == before
    site.until_synced()


@pytest.mark.parametrize("name", ["rack1", "region"])
def test_a_machine_that_reboots_serves_again_by_itself(site: Site, name: str) -> None:
    machine = site.machines[name]
    machine.reboot()
    machine.until(f"systemctl is-active --quiet {SERVICES[name]}", 120)
    site.until_synced()


def test_a_rack_serves_after_a_power_cut_while_its_region_is_away(site: Site) -> None:
    rack = site.racks[1]
    whole = boots(site, rack)
    site.region.run("systemctl stop bootferry-region")
    rack.cut()
    rack.boot()
    rack.until("systemctl is-active --quiet bootferry-rack", 60)
    assert boots(site, rack) == whole
    site.region.run("systemctl start bootferry-region", timeout_s=180)
    site.until_synced()


def test_a_package_that_is_installed_again_restarts_what_runs(site: Site) -> None:
    for name in ("rack1", "region"):
        machine, service = site.machines[name], SERVICES[name]
        before = main_process(machine, service)
        settings = machine.ask(f"cat /etc/bootferry/{service.removeprefix('bootferry-')}.toml")
        machine.run(f"dpkg --install {PLACE}/{service}_*.deb", timeout_s=300)
        until_restarted(machine, service, before, 120)
        assert machine.ask(f"cat /etc/bootferry/{service.removeprefix('bootferry-')}.toml") == settings
    site.until_synced()


def test_a_rack_serves_at_port_80_by_its_socket(site: Site) -> None:
    rack = site.racks[0]
    rack.run("cp /etc/bootferry/rack.toml /root/rack.toml; echo 'port = 80' >> /etc/bootferry/rack.toml")
    rack.run("systemctl stop bootferry-rack && systemctl enable --now bootferry-rack.socket")
    rack.run("systemctl start bootferry-rack")
    try:
        got = site.region.run(f"curl -sSf http://rack1.example.org/images/{KERNEL} | sha256sum")
        assert got == rack.run(f"sha256sum < /var/lib/bootferry/rack/current/{KERNEL}")
        assert rack.run(f"grep CapEff /proc/{main_process(rack, 'bootferry-rack')}/status").split()[1] == "0" * 16
    finally:
        rack.run("systemctl disable --now bootferry-rack.socket; cp /root/rack.toml /etc/bootferry/rack.toml")
        rack.run("systemctl restart bootferry-rack")


BEHIND_A_PROXY = """\
port = 5241
trusted_proxies = ["127.0.0.1"]
"""


@pytest.mark.parametrize("proxy", ["nginx", "haproxy"])
def test_a_region_behind_a_proxy_serves_its_racks(site: Site, proxy: str) -> None:
    region = site.region
    example = next((CHECKOUT / "deploy" / proxy).iterdir()).read_text()
    # At the port that racks know, with the region behind it.
    example = example.replace("127.0.0.1:5240", "127.0.0.1:5241")
    settings, (certificate, key) = BEHIND_A_PROXY, site.certificate("region")
    if proxy == "nginx":
        settings += 'accel_prefix = "/bootferry-files"\n'
        site.put(region, "/etc/ssl/region.pem", certificate)
        site.put(region, "/etc/ssl/private/region.key", key, 0o600)
        site.put(region, "/etc/nginx/conf.d/bootferry-region.conf", example.replace("443 ssl", "5240 ssl"))
        region.run("rm -f /etc/nginx/sites-enabled/default; usermod --append --groups bootferry-region www-data")
    else:
        site.put(region, "/etc/haproxy/region.pem", certificate + key, 0o600)
        site.put(region, "/etc/haproxy/haproxy.cfg", example.replace(":::443", ":::5240"))
    region.run("cp /etc/bootferry/region.toml /root/region.toml")
    site.put(region, "/etc/bootferry/region.toml", settings)
    try:
        region.run(f"systemctl restart bootferry-region && systemctl restart {proxy}", timeout_s=180)
        region.until(f"curl -sSf {URL}/readyz", 30)
        site.publish()
        site.until_synced()
        assert boots(site, site.racks[0]) == boots(site, site.racks[1])
    finally:
        region.run(f"systemctl stop {proxy}; cp /root/region.toml /etc/bootferry/region.toml")
        region.run("systemctl restart bootferry-region", timeout_s=180)


def test_a_region_that_was_destroyed_comes_back_from_its_backup(site: Site) -> None:
    region = site.region
    region.run("install -d -o bootferry-region -m 700 /srv/backup")
    region.run("sudo -u bootferry-region bootferry-region backup /srv/backup/region.backup", timeout_s=180)
    region.run("systemctl stop bootferry-region; runuser -u postgres -- dropdb bootferry")
    region.run("rm -r /var/lib/bootferry/region/*")
    region.run(
        "runuser -u postgres -- createdb --owner=bootferry-region --template=template0 --encoding=UTF8 bootferry"
    )
    region.run("sudo -u bootferry-region bootferry-region restore /srv/backup/region.backup", timeout_s=180)
    region.run("systemctl start bootferry-region; rm -r /srv/backup", timeout_s=180)
    region.until(f"curl -sSf {URL}/readyz", 60)
    site.until_synced(180)
    site.publish()
    site.until_synced()


def test_a_rack_that_is_not_enrolled_says_so_and_is_left_alone(site: Site) -> None:
    rack = site.racks[1]
    rack.run("systemctl stop bootferry-rack; mv /var/lib/bootferry/rack/identity /root")
    rack.start("systemctl start bootferry-rack")
    rack.until("[ $(systemctl is-failed bootferry-rack) = failed ]", 30)
    assert rack.run("systemctl show -P ExecMainStatus bootferry-rack") == "78"
    assert rack.run("systemctl show -P NRestarts bootferry-rack") == "0"
    rack.run("mv /root/identity /var/lib/bootferry/rack; systemctl start bootferry-rack")


def test_purging_leaves_nothing(site: Site) -> None:
    on_rack, on_database = blocks("Uninstall")
    for name, service in (("rack2", "bootferry-rack"), ("region", "bootferry-region")):
        machine = site.machines[name]
        # As the page says it in its text.
        block = on_rack if name == "rack2" else f"apt-get purge -y bootferry-region bootferry\n{on_database}"
        told = site.paste(machine, block)
        assert told.returncode == 0, told.stdout + told.stderr
        assert machine.start(f"getent passwd {service}").returncode != 0
        assert machine.start(f"getent group {service}").returncode != 0
        assert machine.ask("systemctl list-unit-files 'bootferry*' --no-legend") == ""
        assert machine.ask("dpkg-query --list 'bootferry*' | grep '^.[^n]'") == ""
        ours = "-name '*bootferry*' -o -path '/etc/credstore/*'"
        # What is not the package's: an operator's log-in, the settings of proxies, and logs.
        others = (
            "-path /root -o -path /proc -o -path /run -o -path /sys -o -path /var/log -o -path /etc/nginx -o -path /tmp"
        )
        assert machine.run(f"find / \\( {others} \\) -prune -o \\( {ours} \\) -print") == ""
