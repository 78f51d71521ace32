"""What the tests of methods share; the contract lies beside the tests that use it."""

import pytest


@pytest.fixture(scope="session")
def fits_over_processes(trees, tmp_path_factory):
    """Fits all fit-only methods over processes, once for each number of processes."""
    # Lightning imported before pytest handles the log would keep its messages from `caplog`.
    from contract import fit_over_processes

    done = {}

    def fits(processes):
        if processes not in done:
            folder = tmp_path_factory.mktemp(f"processes{processes}")
            done[processes] = fit_over_processes(processes, trees["mvtec"], folder)
        return done[processes]

    return fits
