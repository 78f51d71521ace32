"""`lightning-ad evaluate RUN`: the metrics of a finished run again, or on other data."""

import sys
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_ad.cli.evaluate import EvaluateCLI, load_learned, own_config
from lightning_ad.cli.fit_only import seen_otherwise
from lightning_ad.errors import UsageError
from lightning_ad.reporting.summary import summarise
from lightning_ad.system.cost import Stopwatch
from lightning_ad.system.run_folder import RunFolder, finished_checkpoint


def evaluate(args: Sequence[str] | None = None) -> RunFolder:
    """`evaluate.py RUN`: the metrics of a finished run again, or on other data with --data.* flags.

    Raises:
        UserError: for whatever the user can put right.
    """
    args = list(sys.argv[1:] if args is None else args)
    if not args or args[0] in ("-h", "--help"):
        print(_EVALUATE_HELP)
        return RunFolder(Path())
    target, flags = Path(args[0]), args[1:]
    if unwanted := [
        f for f in flags if f.startswith(("--model", "--config", "-c", "--resume", "--name"))
    ]:
        raise UsageError(
            f"{unwanted[0]} has no place here: the checkpoint decides the method and its arguments"
        )
    run = None if target.suffix == ".ckpt" else RunFolder.find(target)
    elsewhere = any(f.startswith("--output") for f in flags)
    with own_config(target) as own:
        cli = EvaluateCLI([*own, *flags], finished_checkpoint(target), None if elsewhere else run)
        otherwise = seen_otherwise(Path(own[1]).read_text(), cli.config.data)
    if cli.datamodule.layout == "folder" and any(f.startswith("--data.root") for f in flags):
        rank_zero_info(
            "Good images of the folder that count as training images are not tested; if the method has not learned "
            "from them, add --data.layout_options.test_share 1"
        )
    if otherwise:
        rank_zero_warn(
            f"{target} was trained with {otherwise}: scores of images that are seen otherwise are of another kind, and "
            "these metrics are not those of the run"
        )
    watch = Stopwatch()
    cli.keep_features()
    with watch.stage("test"):
        load_learned(cli, cli.checkpoint)
        cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    summarise(cli, watch)
    return cli.folder


_EVALUATE_HELP = """usage: evaluate.py RUN [--data.* ...] [--trainer.* ...] [--output FOLDER]
       evaluate.py --compare RUN_A RUN_B
       evaluate.py --verify RUN

The metrics of a finished run again, to the last digit, or on other data; two runs on the same test images; or whether
a run's recorded metrics come out of its checkpoint again (exit code 1 where they do not).

RUN                a run folder (runs/patchcore-mtd, or one version_<n> in it) or a .ckpt file
--data.root ROOT   another place of the data; every --data.* flag of train.py is taken
                   (a plain folder: with --data.layout_options.test_share 1, all its good images are tested)
--threshold, --reject, --metrics_gb
                   as of train.py (docs/metrics.md); the run's own where they are left out
--trust PACKAGES   of which the run's configuration may name classes, as of train.py
--trainer.devices  several processes; every --trainer.* flag of train.py is taken
--output FOLDER    where the results go (default: into the run folder; those of a .ckpt file into runs)"""
