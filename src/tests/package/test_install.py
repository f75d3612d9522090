"""Installing, upgrading, removing and purging, in roots of their own."""

import re

from conftest import CONFIG, SERVICE, SOCKET

LATER = "99.0.0"
# What making a user writes, backups included.
ACCOUNTS = {f"etc/{name}" for name in ("passwd", "group", "shadow", "gshadow")}
ACCOUNTS |= {f"{name}-" for name in ACCOUNTS} | {"etc/.pwd.lock"}


def has_user(root):
    return re.search("^streamward:", (root / "etc/passwd").read_text(), re.MULTILINE) is not None


def changed(root, line="# ours\n"):
    """The administrator's hand in the configuration; gives what it then holds."""
    path = root / CONFIG
    path.write_text(path.read_text() + line)
    return path.read_text()


def with_other_default(directory):
    path = directory / CONFIG
    path.write_text(path.read_text().replace("sessions_max = 256", "sessions_max = 255"))


def differences(before, after):
    """Paths that came, went or changed, without the accounts and this test's own notes."""
    names = set(before) | set(after)
    missing = object()
    found = {name for name in names if before.get(name, missing) != after.get(name, missing)}
    return sorted(found - ACCOUNTS - {"calls", "active"})


def test_without_systemd_it_installs_and_works(bare, package):
    bare.install(package)
    assert bare.state() == "ii"
    assert bare.is_enabled(SERVICE) and not bare.is_enabled(SOCKET)
    assert not has_user(bare)
    bare.run("/usr/bin/streamward", "check-config", "--config", "/" + CONFIG)


def test_without_systemd_a_purge_leaves_nothing(bare, package, rebuilt):
    before = bare.files()
    bare.install(package)
    bare.install(rebuilt(LATER))
    bare.dpkg("--purge", "streamward")
    assert bare.files() == before


def test_where_systemd_does_not_run_it_is_enabled_for_the_next_boot(root, package):
    root.install(package)
    assert root.state() == "ii"
    assert root.is_enabled(SERVICE) and not root.is_enabled(SOCKET)
    assert has_user(root)


def test_where_systemd_does_not_run_it_is_not_asked_for_anything(root, package, rebuilt):
    root.note_calls()
    root.install(package)
    root.install(rebuilt(LATER))
    root.dpkg("--purge", "streamward")
    assert root.calls() == []


def test_the_first_installation_starts_the_service_and_leaves_the_socket_alone(running, package):
    running.install(package)
    assert running.calls() == ["daemon-reload", f"start {SERVICE}"]
    assert running.is_enabled(SERVICE) and not running.is_enabled(SOCKET)


def test_an_upgrade_restarts_once_and_stops_nothing_before(running, package, rebuilt):
    running.install(package)
    running.calls()
    running.install(rebuilt(LATER))
    assert running.calls() == ["daemon-reload", f"restart {SERVICE}"]
    # What was started is the new one.
    assert (running / "active").read_bytes() == (running / "usr/bin/streamward").read_bytes()
    assert (running / "active").read_bytes().endswith(LATER.encode())


def test_a_service_that_cannot_start_does_not_leave_the_package_half_installed(running, package, rebuilt):
    (running / "cannot-start").touch()
    running.install(package)
    assert running.state() == "ii"
    running.install(rebuilt(LATER))
    assert running.state() == "ii"
    assert running.calls().count(f"start {SERVICE}") == 1


def test_a_service_that_was_disabled_stays_so_over_an_upgrade(running, package, rebuilt):
    running.install(package)
    running.run("systemctl", "disable", SERVICE)
    running.run("systemctl", "stop", SERVICE)
    running.calls()
    running.install(rebuilt(LATER))
    assert not running.is_enabled(SERVICE)
    assert running.calls() == ["daemon-reload"]


def test_a_socket_that_was_enabled_stays_so_over_an_upgrade_and_goes_with_the_purge(running, package, rebuilt):
    before = running.files()
    running.install(package)
    running.run("systemctl", "enable", SOCKET)
    running.install(rebuilt(LATER))
    assert running.is_enabled(SOCKET)
    running.calls()
    running.dpkg("--purge", "streamward")
    assert running.calls()[0] == f"stop {SOCKET} {SERVICE}"
    assert differences(before, running.files()) == []


def test_a_removal_stops_both_units_and_keeps_the_configuration(running, package):
    running.install(package)
    mine = changed(running)
    running.calls()
    running.dpkg("--remove", "streamward")
    assert running.calls() == [f"stop {SOCKET} {SERVICE}", "daemon-reload"]
    assert running.state() == "rc"
    left = [name for name in running.files() if "streamward" in name and not name.startswith("var/lib/systemd")]
    links = [name for name in left if name.endswith(SERVICE)]
    assert sorted(set(left) - set(links)) == ["etc/streamward", CONFIG]
    assert links == [f"etc/systemd/system/multi-user.target.wants/{SERVICE}"]
    assert (running / CONFIG).read_text() == mine


def test_what_was_removed_comes_back_as_it_was(running, package):
    running.install(package)
    mine = changed(running)
    running.dpkg("--remove", "streamward")
    running.calls()
    running.install(package)
    assert running.state() == "ii"
    assert (running / CONFIG).read_text() == mine
    assert running.is_enabled(SERVICE)
    assert running.calls() == ["daemon-reload", f"restart {SERVICE}"]


def test_a_purge_leaves_nothing_but_the_user(running, package):
    before = running.files()
    running.install(package)
    changed(running)
    running.dpkg("--purge", "streamward")
    assert running.state() == ""
    assert differences(before, running.files()) == []
    assert has_user(running)


def test_a_purge_of_what_was_removed_before_is_the_same(running, package):
    before = running.files()
    running.install(package)
    running.dpkg("--remove", "streamward")
    running.dpkg("--purge", "streamward")
    assert differences(before, running.files()) == []


def test_a_changed_configuration_is_kept_and_no_one_is_asked(root, package, rebuilt):
    root.install(package)
    mine = changed(root)
    root.install(rebuilt(LATER))
    assert (root / CONFIG).read_text() == mine
    assert not (root / f"{CONFIG}.dpkg-dist").exists()


def test_a_changed_configuration_is_kept_beside_a_new_default(root, package, rebuilt):
    root.install(package)
    mine = changed(root)
    root.install(rebuilt(LATER, with_other_default), "--force-confold")
    assert (root / CONFIG).read_text() == mine
    assert "sessions_max = 255" in (root / f"{CONFIG}.dpkg-dist").read_text()


def test_an_untouched_configuration_follows_the_package(root, package, rebuilt):
    root.install(package)
    root.install(rebuilt(LATER, with_other_default))
    assert "sessions_max = 255" in (root / CONFIG).read_text()


def test_going_back_to_an_older_version_works(running, package, rebuilt):
    running.install(rebuilt(LATER))
    running.calls()
    running.install(package)
    assert running.state() == "ii"
    assert running.calls() == ["daemon-reload", f"restart {SERVICE}"]
    assert not (running / "active").read_bytes().endswith(LATER.encode())
