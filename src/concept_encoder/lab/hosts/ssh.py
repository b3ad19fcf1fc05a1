"""The OpenSSH client: a Python program on another host, and a tunnel to it. Host keys are always checked.

No word of ours reaches the other side's shell: what runs there is `python -`, which reads its program and its data from
its standard input; so no token ever stands on a command line either.
"""

import json
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from concept_encoder.errors import UserError
from concept_encoder.lab.failures import mask
from concept_encoder.lab.hosts import remote

_SECONDS = 8  # until a host counts as unreachable
_OPTIONS = {
    "BatchMode": "yes",  # never ask
    "StrictHostKeyChecking": "yes",  # whatever the configuration says
    "ConnectTimeout": str(_SECONDS),
    "ServerAliveInterval": "10",  # a cut link ends in half a minute
    "ServerAliveCountMax": "3",
}


class Ssh:
    """How one host is reached.

    Args:
        host: as the user's ssh takes it.
        config: a file in place of ~/.ssh/config.
    """

    def __init__(self, host: str, config: str | None = None):
        if shutil.which("ssh") is None:
            raise UserError("ssh: not installed; install the OpenSSH client")
        options = [word for name, value in _OPTIONS.items() for word in ("-o", f"{name}={value}")]
        self.host = host
        self.command = ["ssh", *(["-F", config] if config else []), *options]

    def call(self, function: str, python: str = "python3", seconds: float = 60, **values: Any) -> dict[str, Any]:
        """Call a function of `remote.py` over there. Raises `UserError` in one line."""
        request = json.dumps([function, values])
        program = f"{Path(remote.__file__).read_text(encoding='utf-8')}\nanswer({request!r})\n"
        command = [*self.command, "-T", self.host, f"exec {shlex.quote(python)} -"]
        try:
            found = subprocess.run(command, input=program, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            raise UserError(f"{self.host}: {function} took longer than {seconds:.0f} s") from None
        answers = [line for line in found.stdout.split("\n") if line.startswith(remote.ANSWER)]
        if not answers:
            raise UserError(f"{self.host}: {self._problem(found, python)}")
        answer = json.loads(answers[-1][len(remote.ANSWER) :])
        if "error" in answer:
            raise UserError(f"{self.host}: {mask(answer['error'])}")
        return answer

    def tunnel(self, port: int, there: int) -> subprocess.Popen:
        """A way from a port of this machine's loopback to one of the host's; it ends when this process does, anyhow.

        Raises:
            UserError: there is no way.
        """
        forward = f"127.0.0.1:{port}:127.0.0.1:{there}"
        command = [*self.command, "-T", "-o", "ExitOnForwardFailure=yes", "-L", forward, self.host, "exec cat"]
        said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the tunnel
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": said}
        process = subprocess.Popen(command, **pipes, start_new_session=True)  # `cat` ends with its input
        end = time.monotonic() + 3 * _SECONDS
        while time.monotonic() < end:
            if process.poll() is not None:
                said.seek(0)
                found = subprocess.CompletedProcess(command, process.returncode, "", said.read())
                raise UserError(f"{self.host}: {self._problem(found, '')}")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return process
            time.sleep(0.1)
        process.kill()
        raise UserError(f"{self.host}: no tunnel after {3 * _SECONDS} s")

    def _problem(self, found: subprocess.CompletedProcess, python: str) -> str:
        """What ssh, or what it started, says went wrong, and the remedy."""
        said = found.stderr
        if "REMOTE HOST IDENTIFICATION HAS CHANGED" in said:
            forget = re.search(r"ssh-keygen -f .+", said)
            remedy = " ".join(forget[0].split()) if forget else f"ssh-keygen -R {self.host}"
            return (
                "its host key has changed, so it may be another machine; if you know why, "
                f"{remedy}, and connect once by hand to accept the new one"
            )
        if "Host key verification failed" in said or "host key is known" in said:
            return f"its host key is not known; connect once by hand (ssh {self.host}) and compare the fingerprint"
        if "Permission denied" in said:
            return f"it refuses the key; ssh {self.host} has to work without a password (ssh-add, or IdentityFile)"
        last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "no answer")
        if found.returncode == 255:
            return f"cannot be reached ({mask(last)[:150]})"
        if found.returncode in (126, 127):
            return f"python: no {python!r} there; set python: to an interpreter of version 3.11 or newer"
        return mask(f"exit code {found.returncode}: {last}")[:300]


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
