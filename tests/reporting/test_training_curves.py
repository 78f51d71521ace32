import pytest

from lightning_ad.reporting.training_curves import training_curves


def write_log(folder, version, *lines):
    path = folder / f"version_{version}" / "metrics.csv"
    path.parent.mkdir(parents=True)
    path.write_text("epoch,loss,lr,latency_ms,step\n" + "".join(f"{line}\n" for line in lines))


def test_a_resumed_run_replaces_the_steps_that_it_repeated(tmp_path):
    write_log(tmp_path, 2, "1,0.6,,,2", "1,0.5,0.1,,3")
    write_log(tmp_path, 10, "1,0.4,,,3", "2,0.3,,,4")  # after the 2nd, not before it
    write_log(tmp_path, 0, "0,0.9,0.2,,1", "0,0.8,,,2", "0,0.7,,,3")
    curves = training_curves(tmp_path)
    assert curves == {"loss": ([1, 2, 3, 4], [0.9, 0.6, 0.4, 0.3]), "lr": ([1], [0.2])}


def test_what_the_test_measured_is_left_out(tmp_path):
    write_log(tmp_path, 0, "0,0.9,,,1", "0,,,12.5,1")
    assert list(training_curves(tmp_path, leave_out=["latency_ms"])) == ["loss"]


@pytest.mark.parametrize("lines", [[], ["0,,,,1"]])
def test_nothing_logged(tmp_path, lines):
    assert not training_curves(tmp_path)
    write_log(tmp_path, 0, *lines)
    assert not training_curves(tmp_path)
