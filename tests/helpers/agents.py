"""Runs under torchrun, one agent for each machine."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile

from scripts import PATIENCE


def free_port():
    """A port of this machine that nobody listens to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run_agents(agents, env=None):
    """Runs `torchrun` with each of the lists of arguments, all at the same time.

    Returns:
        The exit code of each agent, and what it printed.
    """
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(running_agent(arguments, env)) for arguments in agents]
        for agent, _ in started:
            agent.wait(PATIENCE)
        return [agent.returncode for agent, _ in started], [printed(log) for _, log in started]


@contextlib.contextmanager
def running_agent(arguments, env):
    """Starts an agent that prints into a file; in the end, kills it and what it has started."""
    command = [sys.executable, "-m", "torch.distributed.run", *arguments]
    with tempfile.TemporaryFile("w+") as log:
        agent = subprocess.Popen(
            command, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield agent, log
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(agent.pid, signal.SIGKILL)
            agent.wait()


def printed(log):
    log.seek(0)
    return log.read()
