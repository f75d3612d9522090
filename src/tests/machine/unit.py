"""The service as the package installs it, looked at from inside: what every board and User-Mode Linux prove."""

import json
import re
import time

from rules import expect

DEB = "/root/streamward.deb"


def show(machine, *properties):
    """`systemctl show` of the service as a dictionary."""
    wanted = " ".join(f"-p {name}" for name in properties)
    return dict(line.split("=", 1) for line in machine.run(f"systemctl show streamward {wanted}").splitlines())


def main_pid(machine):
    return int(show(machine, "MainPID")["MainPID"])


def journal(machine, since=""):
    return machine.run(f"journalctl -u streamward -o cat --no-pager {since}")


def process_status(machine, pid):
    lines = machine.run(f"cat /proc/{pid}/status").splitlines()
    return {key: value.strip() for key, value in (line.split(":", 1) for line in lines)}


def until_active(machine, not_pid=0, timeout=60):
    """Until the service runs as another process than `not_pid`; returns its id."""
    return int(
        machine.until(
            "the service runs again",
            f'eval "$(systemctl show streamward -p MainPID -p ActiveState)"; echo $MainPID; '
            f"[[ $ActiveState == active && $MainPID != 0 && $MainPID != {not_pid} ]]",
            timeout,
        )
    )


def status(machine):
    return json.loads(machine.run("streamward status --json"))


def doctor(machine):
    """Its document; that something is wrong is in there, not in the exit code alone."""
    return json.loads(machine.call("streamward doctor --json 2>/dev/null")[1])


def install(rules, machine):
    with rules.rule("the unit is active and enabled after dpkg -i alone"):
        output = machine.run(f"DEBIAN_FRONTEND=noninteractive dpkg -i {DEB} 2>&1")
        state = machine.call("systemctl is-active streamward; systemctl is-enabled streamward")[1]
        expect(state.split() == ["active", "enabled"], f"{state}; dpkg said: {output}")
    with rules.rule("the socket unit is there and not enabled"):
        state = machine.call("systemctl is-enabled streamward.socket")[1]
        expect(state == "disabled", state)


def static(rules, machine):
    """What systemd says of the unit, without running anything of it."""
    with rules.rule("systemd-analyze verify finds nothing"):
        code, output = machine.call("systemd-analyze verify --man=no streamward.service streamward.socket 2>&1")
        expect(code == 0 and output == "", output)
    with rules.rule("systemd-analyze security is under 2.0"):
        output = machine.run("systemd-analyze security --no-pager streamward.service | tail -n 1")
        score = float(re.search(r"service: ([0-9.]+)", output)[1])
        rules.figure("systemd-analyze security", score)
        expect(score < 2.0, output)


def process(rules, machine, memory_cgroup=True):
    """The running process has what the unit gives it, and no more."""
    pid = main_pid(machine)
    state = process_status(machine, pid)
    with rules.rule("it runs as the user streamward"):
        owner = machine.run(f"stat -c '%U %u' /proc/{pid}").split()
        expect(owner[0] == "streamward" and state["Uid"].split() == [owner[1]] * 4, f"{owner} {state['Uid']}")
    with rules.rule("it has no capability, gains no privilege, and its system calls are filtered"):
        capabilities = {name: state[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
        expect(all(int(value, 16) == 0 for value in capabilities.values()), str(capabilities))
        expect((state["NoNewPrivs"], state["Seccomp"]) == ("1", "2"), f"{state['NoNewPrivs']} {state['Seccomp']}")
    with rules.rule("/, /etc, /usr and /var are read-only for it, /run/streamward is its own"):
        output = machine.run(f"""nsenter -t {pid} -m bash -c '
            for path in / /etc /usr /var/lib; do touch $path/probe 2>&1; done
            touch /run/streamward/probe && rm /run/streamward/probe && echo its own'""")
        expect(output.count("Read-only file system") == 4 and output.endswith("its own"), output)
    with rules.rule("the kernel holds it to the unit's tasks and descriptors"):
        wanted = show(machine, "ControlGroup", "TasksMax", "LimitNOFILE", "MemoryMax")
        group = "/sys/fs/cgroup" + wanted["ControlGroup"]
        tasks = machine.run(f"cat {group}/pids.max")
        files = machine.run(f"sed -n 's/^Max open files *//p' /proc/{pid}/limits").split()
        expect(tasks == wanted["TasksMax"] and files[:2] == [wanted["LimitNOFILE"]] * 2, f"{tasks} {files} {wanted}")
    if memory_cgroup:
        with rules.rule("the kernel holds it to the unit's MemoryMax"):
            seen = machine.run(f"cat {group}/memory.max")
            expect(seen == wanted["MemoryMax"] == str(256 << 20), f"{seen}, the unit says {wanted['MemoryMax']}")
    with rules.rule("what the unit forbids is refused to a program in its place, what the service needs is not"):
        seen = machine.run("""
sed -E -e 's|^ExecStart=.*|ExecStart=/usr/bin/perl /usr/local/share/probe.pl\\nStandardOutput=file:/run/probe.out|' \\
  -e 's/^Type=.*/Type=oneshot/' -e '/^(WatchdogSec|Restart|NotifyAccess|ExecReload)/d' \\
  -e 's/^RuntimeDirectory=.*/RuntimeDirectory=probe/' \\
  /usr/lib/systemd/system/streamward.service >/run/systemd/system/probe.service
systemctl daemon-reload
systemctl start probe || systemctl status --no-pager probe
cat /run/probe.out""").splitlines()
        wrong = [line for line in seen if not line.startswith("as wanted: ")]
        expect(wrong == [f"{len(seen) - 1} tried"] and len(seen) > 20, "; ".join(wrong))


def admin(rules, machine):
    with rules.rule("root reaches the admin socket, nobody else does"):
        expect(status(machine)["phase"] == "RUNNING", "not running")
        code, output = machine.call("setpriv --reuid 65534 --regid 65534 --clear-groups streamward status 2>&1")
        expect(code != 0, f"nobody was answered: {output}")
    with rules.rule("doctor finds nothing that fails"):
        found = doctor(machine)
        failed = [check for check in found["checks"] if check["verdict"] == "fail"]
        expect(found["fail"] == 0 and not failed and found["ok"] > 5, str(failed))
    with rules.rule("a client in the machine sends and follows"):
        machine.run(
            "streamward send room/inside hello && "
            "streamward tail room/inside --since all --until hello --for 20s | grep hello"
        )


def follow(machine, topic, name):
    """A follower in the machine, live; what it hears is in /tmp/NAME, its process id in /tmp/NAME.pid."""
    machine.run(
        f"setsid streamward tail {topic} --user {name} >/tmp/{name} 2>/tmp/{name}.err </dev/null & "
        f"echo $! >/tmp/{name}.pid"
    )
    machine.until(
        "a follower is live", f"streamward send {topic} --user asks live >/dev/null && grep -q live /tmp/{name}"
    )


def still_follows(machine, topic, name, word):
    """The follower, whatever happened to its connection, hears what is sent from now on."""
    machine.until(
        f"the follower of {topic} is back",
        f"streamward send {topic} --user asks {word} >/dev/null; sleep 0.3; grep -q {word} /tmp/{name}",
    )
    machine.run(f"kill $(cat /tmp/{name}.pid)")


def frozen(rules, machine, seconds=60):
    """The watchdog; other `seconds` than the unit's own are a drop-in, which the rule's name then says."""
    cut = "" if seconds == 60 else f" (the unit's 60 s cut to {seconds} for the test)"
    with rules.rule(
        f"a frozen process is restarted by the watchdog within {seconds} s{cut}, and its client comes back"
    ):
        machine.run("grep -qx WatchdogSec=60 /usr/lib/systemd/system/streamward.service")
        limit = show(machine, "WatchdogUSec")["WatchdogUSec"]
        expect(limit == ("1min" if seconds == 60 else f"{seconds}s"), f"the watchdog waits {limit}")
        follow(machine, "room/frozen", "frozen")
        pid = main_pid(machine)
        frozen_at = time.monotonic()
        machine.run(f"kill -STOP {pid}")
        # Its own period, then the abort, RestartSec and the start.
        until_active(machine, pid, seconds + 25)
        rules.figure("SIGSTOP to the next READY", f"{time.monotonic() - frozen_at:.1f} s")
        expect("Watchdog timeout (limit " in journal(machine), "systemd does not name the watchdog")
        still_follows(machine, "room/frozen", "frozen", "thawed")


def killed(rules, machine):
    with rules.rule("a killed process is started again, and its client comes back"):
        follow(machine, "room/killed", "killed")
        pid = main_pid(machine)
        machine.run(f"kill -KILL {pid}")
        until_active(machine, pid)
        still_follows(machine, "room/killed", "killed", "again")


def stopped(rules, machine):
    """A reader that does not read holds the stop up; when it reads again, it gets all that was accepted."""
    with rules.rule("systemctl stop drains: STATUS says how far, a late reader gets all of it, exit 0"):
        follow(machine, "room/stopped", "stopped")
        # 64 KiB fit the reader's window; the hub keeps the rest, less than the lag it allows.
        machine.run("""
kill -STOP $(cat /tmp/stopped.pid)
for n in $(seq 60); do printf 'owed-%02d ' $n; head -c 2400 /dev/zero | tr '\\0' x; echo; done >/tmp/lines
streamward send room/stopped --user asks --lines /tmp/lines >/dev/null""")
        seen = machine.run("""
systemctl stop --no-block streamward
for n in $(seq 40); do
  state=$(systemctl show streamward -p StatusText -p ActiveState)
  echo "$state"
  [[ $n == 6 ]] && kill -CONT $(cat /tmp/stopped.pid)
  [[ $state == *ActiveState=inactive* ]] && break
done
true""").splitlines()
        machine.until("the stop is over", "[[ $(systemctl show streamward -p ActiveState --value) == inactive ]]", 40)
        end = show(machine, "ExecMainStatus", "ExecMainCode", "Result")
        expect(
            end == {"ExecMainStatus": "0", "ExecMainCode": "1", "Result": "success"}, f"{end} {journal(machine)[-600:]}"
        )
        expect(
            any(re.match(r"StatusText=draining \d+/\d+ streams", line) for line in seen),
            f"STATUS was {sorted(set(seen))}",
        )
        expect("drained: everything accepted was delivered" in journal(machine), journal(machine)[-600:])
        heard = machine.run("grep -c owed- /tmp/stopped; kill $(cat /tmp/stopped.pid)")
        expect(heard == "60", f"{heard} of 60 owed events arrived")
    machine.run("systemctl start streamward")


REFUSALS = r"""
: >/tmp/refused
( while [[ ! -e /tmp/enough ]]; do
    if (exec 9<>/dev/tcp/127.0.0.1/50051) 2>/tmp/why; then echo in; else echo "out $(</tmp/why)"; fi >>/tmp/refused
  done ) </dev/null >/dev/null 2>&1 &
until grep -q in /tmp/refused; do sleep 0.05; done
systemctl restart streamward; code=$?
sleep 0.3; touch /tmp/enough; wait; rm /tmp/enough
echo "$code $(grep -c ^in /tmp/refused) $(grep -c refused /tmp/refused) $(grep -c . /tmp/refused)"
"""


def activated(rules, machine):
    """Connections are made all the time while the service restarts, without and with the socket unit."""
    with rules.rule("without the socket unit a restart refuses connections (so the next rule could fail)"):
        code, taken, refused, _ = map(int, machine.run(REFUSALS).split())
        expect(code == 0 and taken > 0 and refused > 0, f"exit {code}, {taken} taken, {refused} refused")
    with rules.rule("with streamward.socket a restart refuses none"):
        machine.run(
            "systemctl stop streamward.service && systemctl enable --now streamward.socket && "
            "systemctl start streamward.service"
        )
        code, taken, refused, tried = map(int, machine.run(REFUSALS).split())
        expect(
            code == 0 and taken == tried and refused == 0 and taken > 5,
            f"exit {code}, {taken} of {tried} taken, {refused} refused",
        )
        rules.figure("connections made during a restart with the socket unit", taken)
    with rules.rule("with streamward.socket a connection starts a stopped service, and its client is served"):
        machine.run("systemctl stop streamward.service 2>/dev/null; streamward send room/socket hello")
    machine.run("systemctl disable --now streamward.socket; systemctl restart streamward.service")


def upgraded(rules, machine):
    with rules.rule(
        "an upgrade by dpkg -i with a client connected drains, starts the new one, and the client comes back"
    ):
        follow(machine, "room/upgraded", "upgraded")
        pid = main_pid(machine)
        machine.run("echo '# mine' >>/etc/streamward/streamward.toml")
        machine.run(f"DEBIAN_FRONTEND=noninteractive dpkg -i {DEB}")
        until_active(machine, pid)
        still_follows(machine, "room/upgraded", "upgraded", "newer")
        expect("drained: everything accepted was delivered" in journal(machine), "it was not drained")
        machine.run("grep -q '# mine' /etc/streamward/streamward.toml")


def removed(rules, machine):
    with rules.rule("remove stops the service and keeps the configuration"):
        machine.run("DEBIAN_FRONTEND=noninteractive dpkg -r streamward")
        expect(machine.call("systemctl is-active streamward")[1] == "inactive", "still active")
        machine.run("test -e /etc/streamward/streamward.toml && test ! -e /usr/bin/streamward && ! pgrep -x streamward")
    with rules.rule("purge leaves nothing"):
        machine.run("DEBIAN_FRONTEND=noninteractive dpkg -P streamward")
        left = machine.run(
            "find / -xdev -path /proc -prune -o -path /root -prune -o -path '/tmp/*' -prune -o "
            "-name '*streamward*' -print; find /run -name '*streamward*' -not -path '*/transient/*'; "
            "systemctl list-unit-files --no-legend 'streamward*' || true"
        )
        expect(left == "", left)


def figures(rules, machine, words):
    """What it takes to start, read from systemd's own stamps and from the kernel."""
    machine.run("systemctl restart streamward")
    stamps = show(machine, "ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    started, active = (int(value) for value in stamps.values())
    rules.figure(f"exec to READY {words}", f"{(active - started) / 1000:.0f} ms")
    rules.figure(f"RSS at start {words}", process_status(machine, main_pid(machine))["VmRSS"])
