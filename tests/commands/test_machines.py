"""Two machines, each with an agent of torchrun of its own, give the result of one."""

import os

import pytest
from agents import free_port, run_agents
from paths import ROOT
from runs import assert_same_weights, flags, metrics_of, script


def two_machines(args):
    """Runs train.py under two agents on loopback, one process each.

    Returns:
        Their exit codes, and what they printed.
    """
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests/helpers")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    meeting = ["--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    agent = ["--nnodes", "2", "--nproc_per_node", "1", *meeting]
    training = [str(ROOT / "train.py"), *args, "--trainer.num_nodes", "2"]
    agents = [[*agent, "--node_rank", str(rank), *training] for rank in range(2)]
    return run_agents(agents, environment)


@pytest.mark.distributed
def test_a_learned_method_on_two_machines_gives_the_result_of_two_processes(trees, tmp_path):
    """A fit-only method: the commands of docs/processes.md, in test_docs.py."""
    args = flags("DRAEM", "mvtec", {"mvtec": trees["even"]}, tmp_path)
    codes, printed = two_machines([*args, "--name", "two"])
    assert codes == [0, 0], printed
    one = script("train.py", [*args, "--name", "one", "--trainer.devices", "2"])
    assert one.returncode == 0, one.stderr
    assert_same_weights(tmp_path / "one/version_0", tmp_path / "two/version_0")
    assert metrics_of(tmp_path / "two/version_0") == pytest.approx(
        metrics_of(tmp_path / "one/version_0"), abs=1e-9
    )
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["version_0"]
