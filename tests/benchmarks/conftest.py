"""A fixture for benchmarks that refuse their arguments."""

from __future__ import annotations

import signal

import pytest


@pytest.fixture
def refusal(capsys):
    """Runs a benchmark in this process with arguments that it refuses, and returns its message."""
    handler = signal.getsignal(signal.SIGTERM)  # some benchmarks replace it

    def run(main, *arguments):
        with pytest.raises(SystemExit) as caught:
            main(list(map(str, arguments)))
        assert caught.value.code != 0
        return f"{capsys.readouterr().err}{caught.value}"

    yield run
    signal.signal(signal.SIGTERM, handler)
