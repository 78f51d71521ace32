"""The table of the files that a run reads."""

from lightning_ad.cli.training_files import read_digests, write_digests


def test_files_of_any_name_come_back(tmp_path):
    names = ["a\rb.png", "a\nb.png", "\udccf.png", '"a", b.png', "=1.png", "Größe.png"]
    digests = {"training images": dict.fromkeys(names, "0a"), "masks": {"x.png": ""}}
    write_digests(tmp_path / "files.csv", digests)
    assert read_digests(tmp_path / "files.csv") == digests
