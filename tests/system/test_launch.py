"""Which process of a run this is, with the variables of launchers that have started it, or not."""

import os

import pytest
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_only

from lightning_ad.errors import UsageError
from lightning_ad.system.launch import LEFT_OVER, Wanted, device_count, take_place

TASK_OF_SRUN = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NAME": "sweep",
    "SLURM_NTASKS": "4",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "localhost",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "2",
}
OF_TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}
OF_LIGHTNING = {
    "LOCAL_RANK": "1",
    "NODE_RANK": "0",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.fixture
def variables(monkeypatch):
    """Sets variables of the environment; none of a launcher is there before."""
    for name in (*LEFT_OVER, *TASK_OF_SRUN):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(rank_zero_only, "rank", 9)

    def set_all(given):
        for name, value in given.items():
            monkeypatch.setenv(name, value)

    return set_all


@pytest.mark.parametrize(
    "left_over",
    [{}, {"RANK": "1"}, {"LOCAL_RANK": "1"}, {"NODE_RANK": "1", "WORLD_SIZE": "2"}, OF_LIGHTNING],
)
def test_a_run_of_one_process_is_the_first_whatever_was_left_over(variables, left_over):
    variables(left_over)
    assert take_place(Wanted(devices=1, nodes=1)) is None
    assert rank_zero_only.rank == 0
    assert not {*LEFT_OVER} & {*os.environ}


@pytest.mark.parametrize("task", ["0", "2"])
def test_a_task_of_srun_with_one_device_is_a_run_of_its_own(variables, task):
    variables({**TASK_OF_SRUN, "SLURM_PROCID": task, "SLURM_LOCALID": task})
    assert isinstance(take_place(Wanted(devices=1, nodes=1)), LightningEnvironment)
    assert rank_zero_only.rank == 0


def test_who_starts_the_others_takes_neither_rank_nor_port_from_what_was_left_over(variables):
    variables({"RANK": "3", "MASTER_PORT": "1", "MASTER_ADDR": "elsewhere", "NODE_RANK": "2"})
    assert take_place(Wanted(devices=2, nodes=1)) is None
    assert rank_zero_only.rank == 0
    environment = LightningEnvironment()
    assert environment.main_address == "127.0.0.1"
    assert environment.main_port != 1
    assert environment.node_rank() == 0


@pytest.mark.parametrize(
    ("started", "wanted", "rank"),
    [
        (OF_TORCHRUN, Wanted(2, 1), 1),
        (OF_TORCHRUN, Wanted(1, 2), 1),
        (TASK_OF_SRUN, Wanted(4, 1), 2),
        (OF_LIGHTNING, Wanted(2, 1), 1),
        ({**OF_LIGHTNING, "NODE_RANK": "1", "WORLD_SIZE": "4"}, Wanted(2, 2), 3),
        ({**OF_LIGHTNING, "RANK": "0"}, Wanted(2, 1), 1),
    ],
)
def test_the_rank_is_that_of_the_launcher(variables, started, wanted, rank):
    variables(started)
    assert take_place(wanted) is None
    assert rank_zero_only.rank == rank


def test_two_steps_of_a_slurm_job_do_not_meet_at_one_port(variables):
    ports = []
    for step in ("0", "1", "2"):
        os.environ.pop("MASTER_PORT", None)
        variables({**TASK_OF_SRUN, "SLURM_JOB_ID": "1234567", "SLURM_STEP_ID": step})
        take_place(Wanted(devices=4, nodes=1))
        ports.append(SLURMEnvironment().main_port)
    assert ports == [15_000 + 4567, 15_000 + 4668, 15_000 + 4769]
    variables({"MASTER_PORT": "29500"})
    take_place(Wanted(devices=4, nodes=1))
    assert os.environ["MASTER_PORT"] == "29500"


@pytest.mark.parametrize(
    ("started", "wanted", "sentence"),
    [
        (OF_TORCHRUN, Wanted(1, 1), "torchrun has started 2 processes, .*set trainer.devices to 2"),
        (OF_TORCHRUN, Wanted(4, 1), "torchrun has started 2 processes"),
        ({**OF_TORCHRUN, "RANK": "x"}, Wanted(2, 1), "RANK in the environment: .*got 'x'"),
        (TASK_OF_SRUN, Wanted(2, 1), "SLURM has started 4 tasks.*--ntasks-per-node=2"),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, Wanted(2, 1), "--ntasks-per-node=2"),
        ({"LOCAL_RANK": "0"}, Wanted(2, 1), "LOCAL_RANK is 0 .*MASTER_ADDR and MASTER_PORT not"),
        ({**OF_LIGHTNING, "LOCAL_RANK": "2"}, Wanted(2, 1), "LOCAL_RANK is 2 .*unset them"),
        ({**OF_LIGHTNING, "WORLD_SIZE": "4"}, Wanted(2, 1), "WORLD_SIZE 4 .*unset them"),
        ({}, Wanted(1, 2), "trainer.num_nodes is 2, and MASTER_ADDR and MASTER_PORT not"),
    ],
)
def test_other_processes_than_the_flags_ask_for_are_a_sentence(
    variables, started, wanted, sentence
):
    variables(started)
    with pytest.raises(UsageError, match=sentence):
        take_place(wanted)


@pytest.mark.parametrize(
    ("devices", "count"),
    [(2, 2), ("2", 2), ([0, 2], 2), ("0,2,3", 3), ("1,", 1), ("auto", 1), (-1, 1), ("two", 1)],
)
def test_devices_are_counted_as_lightning_reads_them(devices, count):
    assert device_count(devices, accelerator="cpu") == count
