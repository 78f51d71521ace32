"""Runs under torchrun, one agent for each machine."""

import subprocess
import sys

from scripts import PATIENCE


def run_agents(agents, env=None):
    """Runs `torchrun` with each of the lists of arguments, all at the same time.

    Returns:
        The exit code of each agent, and what it printed.
    """
    started = []
    for arguments in agents:
        command = [sys.executable, "-m", "torch.distributed.run", *arguments]
        started.append(
            subprocess.Popen(
                command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    try:
        printed = [agent.communicate(timeout=PATIENCE)[0] for agent in started]
    finally:
        for agent in started:
            agent.kill()
    return [agent.returncode for agent in started], printed
