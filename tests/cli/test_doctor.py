"""`ebt doctor`: what works here, what does not, and what tasks have left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from eventbus_tasks import (
    Leftover,
    RunningTask,
    diagnose,
    end_leftovers,
    find_leftovers,
    find_running_tasks,
)

from .conftest import PATIENCE, Ebt, StartEbt
from .test_unwritten import MESSAGE, run_on_full_disk

ALONE: Final = {"EBT_PLUGINS": "none"}

# Prints the numbers of three processes that have left the session of their leader: with the mark
# of the task, without it below one that has it, and without it and without a parent.
FAMILY: Final = """
setsid sleep 1000 & marked=$!
setsid sh -c 'env -i sleep 1001 & echo $! > below; exec sleep 1002' & parent=$!
(setsid env -i sleep 1003 & echo $! > wiped)
until test -s below; do sleep 0.01; done
echo $marked $parent $(cat below wiped)
wait
"""


class Family:
    """A task whose host, guardian and warden can be killed.

    Attributes:
        task: The task.
        marked: A process with its mark.
        parent: Another one.
        below: A child of `parent` that has wiped the mark away.
        wiped: An orphan that has wiped it away.
    """

    def __init__(self, host: Ebt) -> None:
        self.host = host
        self.marked, self.parent, self.below, self.wiped = map(int, host.read_lines(1)[0].split())
        self.task: RunningTask = find_running_tasks()[0]
        assert self.task.guardian_pid is not None
        self.guardian: int = self.task.guardian_pid
        status = Path(f"/proc/{self.guardian}/status").read_text()
        self.warden = int(status.partition("PPid:")[2].split()[0])

    def kill(self, *names: str) -> None:
        """Kill some of those above the task before one of them can act on another's death."""
        numbers = {
            "host": self.host.process.pid,
            "warden": self.warden,
            "guardian": self.guardian,
        }
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for name in names:
                os.kill(numbers[name], number)
        if "host" in names:
            self.host.process.wait(PATIENCE)
        until(lambda: not any(is_running(numbers[name]) for name in names))

    def kill_everybody(self) -> None:
        """Kill everybody who could see to the end of the task."""
        self.kill("warden", "guardian", "host")

    @property
    def living(self) -> list[int]:
        """Who of the family still runs."""
        members = (self.marked, self.parent, self.below, self.wiped)
        return [pid for pid in members if is_running(pid)]

    def left(self) -> list[Leftover]:
        """Return what is left over of this task."""
        return [one for one in find_leftovers() if one.uid == self.task.ref.uid]

    def end(self) -> None:
        """Kill what may still be there; the numbers are those of our descendants' orphans."""
        for pid in (self.marked, self.parent, self.below, self.wiped):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def until(condition: Callable[[], object]) -> None:
    """Look until something is true: for what no descriptor tells."""
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit, "it did not become true"
        time.sleep(0.005)


def is_running(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


@pytest.fixture
def family(ebt: StartEbt) -> Iterator[Family]:
    """Return a running family."""
    started = Family(ebt("run", "--", "sh", "-c", FAMILY, environ=ALONE))
    yield started
    started.end()


def run(ebt: StartEbt, *arguments: str, **environ: str) -> tuple[int, str, str]:
    """Run a command to its end; return exit code, output and messages."""
    running = ebt(*arguments, environ=environ)
    code, errors = running.wait()
    return code, running.seen.decode(), errors


def examine(ebt: StartEbt, **environ: str) -> tuple[int, dict[str, Any]]:
    """Run ``ebt doctor --json``; return the exit code and the findings by subject."""
    code, out, _ = run(ebt, "doctor", "--json", **ALONE | environ)
    data = json.loads(out)
    findings = {finding["subject"]: finding for finding in data["findings"]}
    assert code == int(any(finding["state"] == "wrong" for finding in findings.values()))
    assert data["ok"] is (code == 0)
    return code, findings


def wrong(findings: dict[str, Any]) -> dict[str, Any]:
    """Return what is wrong, but for what other tests on this machine have left just now."""
    return {
        subject: finding
        for subject, finding in findings.items()
        if finding["state"] == "wrong" and subject != "leftovers"
    }


def test_all_is_well(ebt: StartEbt) -> None:
    """Without any plugin, on a machine that is in order, nothing is wrong; a task was run."""
    _, findings = examine(ebt)
    assert wrong(findings) == {}
    for subject in ("settings", "kernel", "containment", "state", "output", "tasks", "plugins"):
        assert findings[subject]["state"] == "ok", findings[subject]
    assert "nothing is left" in findings["warden"]["text"]


def test_lines_for_people(ebt: StartEbt) -> None:
    """Each finding is a line: state, subject and text."""
    _, out, errors = run(ebt, "doctor", **ALONE)
    assert errors == ""
    lines = [line.split() for line in out.splitlines() if not line.startswith(" ")]
    assert {words[0] for words in lines} <= {"ok", "note", "wrong"}
    assert ["ok", "warden"] in [words[:2] for words in lines]


def test_state_directory_that_cannot_be_used(ebt: StartEbt, tmp_path: Path) -> None:
    """A file in the place of the state directory is wrong, and the setting is named."""
    (tmp_path / "file").touch()
    code, findings = examine(ebt, EBT_STATE_DIR=str(tmp_path / "file"))
    assert code == 1
    assert "cannot be used" in findings["state"]["text"]
    assert "state_dir" in findings["state"]["advice"]


def test_state_directory_of_everybody(ebt: StartEbt, tmp_path: Path) -> None:
    """A state directory that others can write to is wrong."""
    directory = tmp_path / "open"
    directory.mkdir()
    directory.chmod(0o777)
    code, findings = examine(ebt, EBT_STATE_DIR=str(directory))
    assert code == 1
    assert "0777" in findings["state"]["text"]
    assert "chmod" in findings["state"]["advice"]


def test_interpreter_that_is_none(ebt: StartEbt) -> None:
    """An interpreter that starts no warden is wrong, and named."""
    code, findings = examine(ebt, EBT_PYTHON="/bin/false")
    assert code == 1
    assert findings["warden"]["state"] == "wrong"
    assert "/bin/false" in findings["warden"]["advice"]


def test_settings_that_cannot_be_read(ebt: StartEbt) -> None:
    """Wrong settings are a finding, and everything else is looked at all the same."""
    code, findings = examine(ebt, EBT_MAX_RUNNING="many")
    assert code == 1
    assert "EBT_MAX_RUNNING" in findings["settings"]["text"]
    assert "EBT_MAX_RUNNING" in findings["warden"]["text"]
    assert findings["kernel"]["state"] == "ok"


def test_broken_plugin(ebt: StartEbt, make_plugin: Callable[..., dict[str, str]]) -> None:
    """A plugin that cannot be imported is wrong, with its reason."""
    environ = make_plugin("wounded", "import no_such_module_at_all")
    code, findings = examine(ebt, EBT_PLUGINS="wounded", **environ)
    assert code == 1
    assert "no_such_module_at_all" in findings["plugin"]["text"] + str(wrong(findings))


def test_leftovers_are_found_and_swept(ebt: StartEbt, family: Family) -> None:
    """SIGKILL of host, guardian and warden: what kept the mark is named, and --sweep ends it.

    An orphan that has wiped the mark away is not found: nothing tells it from a stranger.
    """
    assert family.left() == []
    family.kill_everybody()
    assert {one.pid for one in family.left()} == {family.marked, family.parent, family.below}
    code, findings = examine(ebt)
    assert code == 1
    for pid in (family.marked, family.parent, family.below):
        assert str(pid) in findings["leftovers"]["text"]
    assert "sleep 1000" in findings["leftovers"]["text"]
    assert "--sweep" in findings["leftovers"]["advice"]
    assert all(map(is_running, (family.marked, family.parent, family.below, family.wiped)))

    _, out, errors = run(ebt, "doctor", "--sweep", family.task.ref.uid[:13], **ALONE)
    assert f"left over: {family.marked} sleep 1000 (task {family.task.ref.uid})" in out
    assert errors == "ebt: 3 ended\n"
    assert family.left() == []
    until(lambda: not any(map(is_running, (family.marked, family.parent, family.below))))
    assert is_running(family.wiped)


def test_nobody_hides_from_a_control_group(ebt: StartEbt, cgroup_base: Path) -> None:
    """Where tasks have control groups, an orphan that has wiped its mark away is found, too."""
    environ = {**ALONE, "EBT_CGROUP": str(cgroup_base)}
    family = Family(ebt("run", "--", "sh", "-c", FAMILY, environ=environ))
    everybody = {family.marked, family.parent, family.below, family.wiped}
    try:
        family.kill_everybody()
        assert {one.pid for one in family.left()} == everybody
        run(ebt, "doctor", "--sweep", family.task.ref.uid, **ALONE)
        until(lambda: not any(map(is_running, everybody)))
    finally:
        family.end()
    assert list(cgroup_base.glob("ebt-*")) == []


def test_level_of_containment(ebt: StartEbt, cgroup_base: Path) -> None:
    """The level in force is told, and why it is no better; a wrong setting is wrong."""
    _, findings = examine(ebt, EBT_CGROUP=str(cgroup_base))
    assert f"cgroup.kill below {cgroup_base}" in findings["containment"]["text"]
    _, findings = examine(ebt, EBT_CGROUP="off")
    assert findings["containment"]["state"] == "ok"
    assert "switched off" in findings["containment"]["text"]
    code, findings = examine(ebt, EBT_CGROUP="/no/such/group")
    assert code == 1
    assert findings["containment"]["state"] == "wrong"


def test_sweep_that_cannot_be_shown(family: Family, project: Path) -> None:
    """Where standard output is full, --sweep says so, and ends what is left over all the same."""
    family.kill_everybody()
    uid = family.task.ref.uid
    code, messages = run_on_full_disk(project, "doctor", "--sweep", uid, EBT_PLUGINS="none")
    assert (code, messages) == (74, [MESSAGE])
    assert family.left() == []


def test_sweep_as_data(ebt: StartEbt, family: Family) -> None:
    """With --json the processes that were ended are in the answer; nothing else is said."""
    family.kill_everybody()
    _, out, errors = run(ebt, "doctor", "--json", "--sweep", family.task.ref.uid, **ALONE)
    swept = json.loads(out)["swept"]
    assert {one["pid"] for one in swept} == {family.marked, family.parent, family.below}
    assert {one["uid"] for one in swept} == {family.task.ref.uid}
    assert errors == ""


@pytest.mark.parametrize(
    "names",
    [("host",), ("guardian",), ("guardian", "host"), ("warden", "host")],
    ids="-".join,
)
def test_nothing_remains_while_one_of_the_two_lives(family: Family, names: tuple[str, ...]) -> None:
    """Guardian or warden, whoever lives, ends everybody, also who has wiped the mark away."""
    family.kill(*names)
    until(lambda: not family.living)
    assert family.left() == []


def test_warden_is_killed(ebt: StartEbt, family: Family) -> None:
    """Without its warden a task goes on, is not left over, and ends whole when it is told to."""
    family.kill("warden")
    assert family.left() == []
    assert len(family.living) == 4
    assert ebt("cancel", family.task.ref.uid, environ=ALONE).wait()[0] == 0
    until(lambda: not family.living)


def test_host_ends_what_is_marked(family: Family) -> None:
    """With warden and guardian killed, the host ends what has the mark, and what is below that."""
    family.kill("warden", "guardian")
    assert family.host.wait()[0] == 125
    assert family.left() == []
    assert family.living == [family.wiped]


def test_what_a_living_task_has_handed_over(ebt: StartEbt, family: Family) -> None:
    """As long as its guardian lives, nothing that carries the mark of a task is left over."""
    uid = family.task.ref.uid
    with subprocess.Popen(["sleep", "1000"], env={**os.environ, "EBT_TASK": uid}) as elsewhere:
        try:
            assert family.left() == []
            _, _, errors = run(ebt, "doctor", "--sweep", uid, **ALONE)
            assert errors == "ebt: nothing is left over\n"
            assert all(map(is_running, (elsewhere.pid, family.marked, family.guardian)))
            family.kill_everybody()
            assert elsewhere.pid in {one.pid for one in family.left()}
        finally:
            elsewhere.kill()


def test_one_does_not_sweep_oneself(ebt: StartEbt, family: Family) -> None:
    """Run within a task, even one that has lost its guardian, it does not end that task."""
    family.kill_everybody()
    _, out, _ = run(
        ebt, "doctor", "--json", "--sweep", family.task.ref.uid, EBT_TASK=family.task.ref.uid
    )
    assert json.loads(out)["swept"] == []
    assert family.left() != []


def test_strangers_are_safe(family: Family) -> None:
    """A process that has only the number of a leftover, and another start time, lives on."""
    family.kill_everybody()
    (one,) = [one for one in family.left() if one.pid == family.marked]
    os.kill(family.parent, signal.SIGKILL)
    os.kill(family.below, signal.SIGKILL)
    stranger = Leftover(uid="no-such-task", pid=one.pid, start_time=one.start_time - 1, command="")
    assert end_leftovers([stranger], seconds=1.0) == ()
    assert is_running(family.marked)
    assert end_leftovers([one]) == ()
    until(lambda: not is_running(family.marked))


def test_in_python() -> None:
    """The same findings come from `diagnose`, one by one."""
    subjects = [finding.subject for finding in diagnose()]
    assert subjects[0] == "settings"
    assert {"kernel", "warden", "leftovers"} <= set(subjects)
