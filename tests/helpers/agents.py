"""Runs under torchrun, one agent for each machine."""

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import tempfile

from scripts import PATIENCE
from torch.distributed import run as torchrun


def free_port():
    """A port of this machine that nobody listens to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run_agents(agents, env):
    """Runs `torchrun` with each of the lists of arguments, all at the same time.

    Returns:
        The exit code of each agent, and what it printed.
    """
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(running_agent(arguments, env)) for arguments in agents]
        for agent, _ in started:
            agent.join(PATIENCE)
        return [agent.exitcode for agent, _ in started], [printed(log) for _, log in started]


@contextlib.contextmanager
def running_agent(arguments, env):
    """Starts an agent that prints into a file; in the end, kills it and what it has started.

    It is forked: an agent that imports torch again takes longer than most of the tests.
    """
    with tempfile.TemporaryFile("w+") as log:
        agent = multiprocessing.get_context("fork").Process(
            target=be_agent, args=(arguments, env, log.fileno())
        )
        agent.start()
        try:
            yield agent, log
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(agent.pid, signal.SIGKILL)
            agent.join()


def be_agent(arguments, env, log):
    """Makes this process the leader of a group, and then what `torchrun` starts."""
    os.setsid()
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = os.fdopen(1, "w", 1)
    sys.stderr = os.fdopen(2, "w", 1)
    os.environ.clear()
    os.environ.update(env)
    torchrun.main(arguments)


def printed(log):
    log.seek(0)
    return log.read()
