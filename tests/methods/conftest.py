"""What the tests of methods share; the contract lies beside the tests that use it."""

import pytest


@pytest.fixture(scope="session")
def fits_over_processes(trees, tmp_path_factory, request):
    """Fits the fit-only methods that are tested over processes, once for each number of those."""
    # Lightning imported before pytest handles the log would keep its messages from `caplog`.
    from contract import FitOnlyContract, fit_over_processes

    classes = {item.cls for item in request.session.items if item.cls is not None}
    cases = {case.method: case.options for case in classes if issubclass(case, FitOnlyContract)}
    done = {}

    def fits(processes):
        if processes not in done:
            folder = tmp_path_factory.mktemp(f"processes{processes}")
            done[processes] = fit_over_processes(cases, processes, trees["mvtec"], folder)
        return done[processes]

    return fits
