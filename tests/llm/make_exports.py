"""Makes the exports of one environment: ``python -m tests.llm.make_exports FOLDER ENVIRONMENT [NAME ...]``."""

from __future__ import annotations

import shutil
import sys
import traceback
from pathlib import Path

from tests.llm.exporters import EXPORTS

_MOST_OF_AN_ERROR = 2000


def main(folder: Path, environment: str, names: list[str]) -> int:
    """Make all exports of an environment that are not there, each whole or not at all.

    What an exporter says is kept beside its export. One that fails does not stop the others; the tests, which ask for
    all of them, show why.
    """
    chosen = [name for name, (where, _) in EXPORTS.items() if where == environment and (not names or name in names)]
    failed = 0
    for name in chosen:
        target, draft = folder / name, folder / f"{name}.part"
        if (target / "model.onnx").exists():
            continue
        for left in (target, draft):
            shutil.rmtree(left, ignore_errors=True)
        draft.mkdir(parents=True)
        try:
            EXPORTS[name][1](draft, folder)
        except Exception as error:  # noqa: BLE001 - exporters have errors of all kinds
            traceback.print_exc()
            failed += 1
            (folder / f"{name}.error").write_text(f"{type(error).__name__}: {error}"[:_MOST_OF_AN_ERROR])
        else:
            (folder / f"{name}.error").unlink(missing_ok=True)
            draft.rename(target)
            print(f"{name}: made", flush=True)
    print(f"{len(chosen) - failed} of {len(chosen)} exports are there", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2], sys.argv[3:]))
