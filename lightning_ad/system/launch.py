"""Which process of a run this one is: by what was started, not by variables that were left over."""

import os
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import NamedTuple

from lightning.fabric.plugins import ClusterEnvironment
from lightning.fabric.plugins.environments import (
    LightningEnvironment,
    LSFEnvironment,
    MPIEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.utilities import rank_zero_only

from lightning_ad.errors import UsageError
from lightning_ad.system.distributed import process_rank, world_size

ALL_DEVICES = ("auto", "-1", "None")
OF_TORCHRUN = ("TORCHELASTIC_RUN_ID", "RANK", "LOCAL_RANK", "WORLD_SIZE")
MEETING_PLACE = ("MASTER_ADDR", "MASTER_PORT")
# Lightning would take these from an earlier program for its own.
LEFT_OVER = (*OF_TORCHRUN, *MEETING_PLACE, "NODE_RANK", "GROUP_RANK", "STANDALONE_PORT")
# As Lightning's, for the first step of a job.
FIRST_PORT = 15_000
PORTS = 10_000
STEP_OF_PORTS = 101
Variables = Mapping[str, str]


class LaunchError(UsageError):
    """A launcher has started other processes than the flags ask for; all of them raise it."""

    everywhere = True


class Wanted(NamedTuple):
    """How many processes a run asks for.

    Attributes:
        devices: processes on each machine.
        nodes: machines.
    """

    devices: int
    nodes: int

    @property
    def processes(self) -> int:
        """The number of processes on all machines."""
        return self.devices * self.nodes

    def __str__(self) -> str:
        return f"trainer.devices is {self.devices} and trainer.num_nodes is {self.nodes}"


def take_place(wanted: Wanted) -> ClusterEnvironment | None:
    """Settles which process of the run this one is, before anything is written.

    Variables that an earlier program has left over are removed.

    Returns:
        What the trainer must be given in place of the launcher that Lightning would find; None if
        Lightning finds the right one.

    Raises:
        UsageError: if the processes that were started are not those that are wanted.
    """
    if world_size() > 1:  # an earlier run of this program has started them
        rank_zero_only.rank = process_rank()
        return None
    launcher = _launcher(wanted, os.environ)
    rank_zero_only.rank = launcher.rank(wanted, os.environ)
    if launcher.is_external:
        _keep_steps_apart(os.environ)
        return None
    if launcher.is_first:
        for name in LEFT_OVER:
            os.environ.pop(name, None)
    others = (TorchElasticEnvironment, SLURMEnvironment, LSFEnvironment, MPIEnvironment)
    if any(other.detect() for other in others):
        return LightningEnvironment()
    return None


def _keep_steps_apart(variables: MutableMapping[str, str]) -> None:
    """Gives each step of a SLURM job a port of its own; Lightning takes that of the job for all."""
    step = variables.get("SLURM_STEP_ID", "0")
    job = variables.get("SLURM_JOB_ID", "")
    if "MASTER_PORT" in variables or not (step.isdecimal() and job.isdecimal()):
        return
    if int(step) > 0:
        port = FIRST_PORT + (int(job) + STEP_OF_PORTS * int(step)) % PORTS
        variables["MASTER_PORT"] = str(port)


def device_count(devices: object, accelerator: object) -> int:
    """Returns how many devices of a machine `trainer.devices` asks for; 1 if it is not clear."""
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        return len(devices)
    text = str(devices)
    if text in ALL_DEVICES:
        return _all_devices(accelerator)
    if "," in text:
        return len([part for part in text.split(",") if part.strip()])
    return int(text) if text.isdecimal() else 1


def _all_devices(accelerator: object) -> int:
    if accelerator not in ("auto", "gpu", "cuda") or not CUDAAccelerator.is_available():
        return 1
    return CUDAAccelerator.auto_device_count()


class _Launcher(NamedTuple):
    """Who has started the processes of a run.

    Attributes:
        rank: returns the number of this process.
        is_external: Lightning finds it, and its variables are right.
        is_first: this process starts the others, or is the only one.
    """

    rank: Callable[[Wanted, Variables], int]
    is_external: bool = False
    is_first: bool = False


def _launcher(wanted: Wanted, variables: Variables) -> _Launcher:
    if all(name in variables for name in OF_TORCHRUN):
        return _Launcher(_rank_of_torchrun, is_external=True)
    if wanted.processes == 1:
        return _Launcher(_first, is_first=True)
    if "SLURM_NTASKS" in variables and SLURMEnvironment.job_name() not in ("bash", "interactive"):
        return _Launcher(_rank_of_slurm, is_external=True)
    if LSFEnvironment.detect() or MPIEnvironment.detect():
        return _Launcher(_rank_at_import, is_external=True)
    if "LOCAL_RANK" in variables:
        return _Launcher(_rank_by_hand)
    if wanted.nodes > 1:
        return _Launcher(_rank_of_node)
    return _Launcher(_first, is_first=True)


def _first(wanted: Wanted, variables: Variables) -> int:
    return 0


def _rank_at_import(wanted: Wanted, variables: Variables) -> int:
    return rank_zero_only.rank


def _rank_of_torchrun(wanted: Wanted, variables: Variables) -> int:
    started = _number(variables, "WORLD_SIZE")
    if started != wanted.processes:
        devices = _number(variables, "LOCAL_WORLD_SIZE", default=started)
        raise LaunchError(
            f"torchrun has started {started} processes, and {wanted}: set trainer.devices to "
            f"{devices} and trainer.num_nodes to {max(started // max(devices, 1), 1)}, or leave "
            "out torchrun"
        )
    return _number(variables, "RANK")


def _rank_of_slurm(wanted: Wanted, variables: Variables) -> int:
    tasks = _number(variables, "SLURM_NTASKS")
    each = _number(variables, "SLURM_NTASKS_PER_NODE", default=0)
    if tasks != wanted.processes or each not in (0, wanted.devices):
        raise LaunchError(
            f"SLURM has started {tasks} tasks, and {wanted}: start as many tasks on each node as "
            f"there are devices (--ntasks-per-node={wanted.devices}), or change trainer.devices"
        )
    if each == 0:
        raise LaunchError(
            f"SLURM's --ntasks={tasks} does not say how many tasks each node has: give "
            f"--ntasks-per-node={wanted.devices} in its place"
        )
    return _number(variables, "SLURM_PROCID")


def _rank_by_hand(wanted: Wanted, variables: Variables) -> int:
    """Returns the rank of a process that Lightning or the user has started beside others."""
    local = _number(variables, "LOCAL_RANK")
    missing = [name for name in MEETING_PLACE if name not in variables]
    if missing:
        raise UsageError(
            f"LOCAL_RANK is {local} in the environment, and {' and '.join(missing)} not there: if "
            "it was left over, unset it; whoever starts the processes of a run sets all of them"
        )
    started = _number(variables, "WORLD_SIZE", default=wanted.processes)
    if local >= wanted.devices or started != wanted.processes:
        raise UsageError(
            f"LOCAL_RANK is {local} and WORLD_SIZE {started} in the environment, and {wanted}: if "
            "the variables were left over, unset them"
        )
    return _node_rank(variables) * wanted.devices + local


def _rank_of_node(wanted: Wanted, variables: Variables) -> int:
    """Returns the rank of a process that starts the others of its machine."""
    missing = [name for name in MEETING_PLACE if name not in variables]
    if missing:
        raise UsageError(
            f"trainer.num_nodes is {wanted.nodes}, and {' and '.join(missing)} not in the "
            "environment: start the run by torchrun or srun on each machine (docs/processes.md)"
        )
    return _node_rank(variables) * wanted.devices


def _node_rank(variables: Variables) -> int:
    group = _number(variables, "GROUP_RANK", default=0)
    return _number(variables, "NODE_RANK", default=group)


def _number(variables: Variables, name: str, default: int | None = None) -> int:
    """Returns a variable that is a number; raises UsageError if it is none."""
    text = variables.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.strip().isdecimal():
        raise UsageError(f"{name} in the environment: expected a whole number, got {text!r}")
    return int(text)
