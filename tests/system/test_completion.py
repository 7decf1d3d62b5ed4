"""TAB in real shells: no name from the registry does anything there but stand for itself."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rsreg import RegistryClient, errors
from rsreg.protocol import messages, records
from tests.commands import Terminal, rs_cs
from tests.helpers import ROOT, need

#: What a shell would do something with: run it, write a file, end the command, or spell it out.
DO = "touch${IFS}MARK"
NAMES = [
    f"x$({DO})",
    f"x`{DO}`",
    f"x;{DO}",
    f"x&{DO}",
    f"x|{DO}",
    "x>MARK",
    f"x\n{DO}",
    f"x\r{DO}\r",
    f"x'{DO}",
    f'x"{DO}',
    "x*",
    "x?",
    "x[ab]",
    "x{a,b}",
    "x y",
    "x\ty",
    "x\\",
    "x!!",
    "x^y",
    "x#y",
    "x~",
    "x(y)",
    "x<(y)",
    "x$HOME",
    "#x",
    "~root",
    "!x",
    "=ls",
    "%1",
    "%self",
    "-x",
    "--help",
    "x\u00a0y",
    "x\u3000y",
    "x\u202ey",
    "x\x1b[31m",
    "x\x16y",
    "x\u037ey",
]
PLAIN = [
    *("puna_cs", "PUNA.2", "lab1:5000", "a@b", "k=v", "50%", "a+b,c", "/x/y"),
    *("Kühler", "冷却7", "7"),
]


def test_only_what_needs_no_quotes_is_completed(endpoint: str, client: RegistryClient) -> None:
    for name in [*NAMES, *PLAIN]:
        client.register(name, "lab1", 5000, name, tags=[name], service_id=name)
    for command in ("get", "deregister", "list", "discover", "wait", "watch"):
        done = rs_cs(
            _RS_CS_COMPLETE="bash_complete",
            COMP_WORDS=f"rs_cs {command} ",
            COMP_CWORD="2",
            RSREG_ENDPOINT=endpoint,
        )
        offered = [line.partition(",")[2] for line in done.stdout.splitlines()]
        assert sorted(set(offered)) == sorted(PLAIN), command


@pytest.mark.parametrize("shell", ["bash", "sh", "zsh", "fish"])
def test_what_is_completed_means_itself_in_a_shell(shell: str) -> None:
    need(shell)
    line = "printf '%s\\n' " + " ".join(PLAIN)
    done = subprocess.run([shell, "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == PLAIN


#: How each is started without the files of whoever runs the test, and told to complete.
SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], 'eval "$(rs_cs completion bash)"'),
    "zsh": (
        ["zsh", "-f", "-i"],
        'autoload -U compinit; compinit -u -D; eval "$(rs_cs completion zsh)"',
    ),
    "fish": (["fish", "--no-config", "-i"], "rs_cs completion fish | source"),
}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("name", [NAMES[0], NAMES[2]], ids=["substituted", "ended"])
def test_a_name_is_not_run_by_tab_and_enter(
    shell: str, name: str, endpoint: str, client: RegistryClient, tmp_path: Path
) -> None:
    need(shell)
    mark = tmp_path / "mark"
    command = tmp_path / "rs_cs"
    # What it was called with, for the test; completion and its script are the real ones.
    command.write_text(
        f"#!/bin/sh\nexport PYTHONPATH={ROOT}\n"
        f'case "$1" in get) [ -n "$_RS_CS_COMPLETE" ] || {{ echo "(called: $*)"; exit; }} ;; esac\n'
        f'exec {shlex.quote(sys.executable)} -m rsreg "$@"\n'
    )
    command.chmod(0o755)
    client.register(name.replace("MARK", str(mark)), "lab1", 5000, service_id="zzz")
    client.register("puna_cs", "lab1", 5001, service_id="yyy")
    started, setting = SHELLS[shell]
    options = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "RSREG_ENDPOINT": endpoint,
        "TERM": "dumb",
    }
    with Terminal(*started, command=[], columns=200, **options) as terminal:
        terminal.type(f"{setting}; echo rea''dy\n")
        terminal.until("ready")
        terminal.type("rs_cs get pu\t\n")
        assert "(called: get puna_cs)" in terminal.until("(called: get")
        terminal.type("rs_cs get x\t\n")
        terminal.until("(called: get", times=2)
        terminal.type("echo ov''er\n")
        terminal.until("over")
        assert re.findall(r"\(called: (.*?) ?\)", terminal.shown) == ["get puna_cs", "get x"]
    assert not mark.exists()


@pytest.mark.parametrize(
    "odd",
    [
        *("tcp;ls", "a b", "$(ls)", "tcp\n", "", "1tcp", "-tcp", "t" * 33, "http://", "tcp\u2028"),
        *(5, True, ["tcp"], {"a": 1}),
    ],
    ids=ascii,
)
def test_an_endpoint_is_one_word_whatever_protocol_is_said(odd: Any) -> None:
    with pytest.raises(errors.InvalidRequest, match="protocol"):
        messages.read_service_info({"name": "a", "host": "lab1", "port": 1, "protocol": odd})
    with pytest.raises(errors.InvalidRequest, match="protocol"):
        messages.read_change({"protocol": odd})
    # Of a registry that took it, as those of before did.
    told = records.ServiceRecord(name="a", host="lab1", port=1, protocol=odd, metadata={})
    assert told.endpoint == "tcp://lab1:1"


@pytest.mark.parametrize("protocol", ["tcp", "udp", "ws", "opc.tcp", "coap+tcp", "x-lab", None])
def test_a_protocol_is_kept(protocol: str | None) -> None:
    asked = {"name": "a", "host": "lab1", "port": 1, "protocol": protocol}
    _, extra = messages.read_service_info(asked)
    assert extra == ({} if protocol is None else {"protocol": protocol})


@pytest.mark.parametrize(
    "host", ["fe80::1%$(ls)", "fe80::1% a", "[fe80::1%;ls]", "fe80::1%a\nb", "::1%\x1b[31m"]
)
def test_a_host_holds_nothing_that_is_odd_in_a_shell(host: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="host"):
        messages.read_service_info({"name": "a", "host": host, "port": 1})
    messages.read_service_info({"name": "a", "host": "fe80::1%eth0.7", "port": 1})


def test_ipython_quotes_what_it_completes(client: RegistryClient, endpoint: str) -> None:
    completer = pytest.importorskip("IPython.core.completer")
    from rsreg.client.interactive import InteractiveClient

    odd = ['x"]+open("MARK","w")#', "x'];1/0#", "x\\", "x\"'"]
    for name in odd:
        client.register(name, "lab1", 5000, service_id=name)
    with InteractiveClient(endpoint) as reg:
        for quote in ('"', "'"):
            keys = reg._ipython_key_completions_()
            _, _, found = completer.match_dict_keys(keys, f"{quote}x", " \t")
            for rest, name in zip(found, [key for key in keys if key[:1] == "x"], strict=True):
                with contextlib.suppress(SyntaxError):
                    assert eval(f"{quote}{rest}{quote}") == name
