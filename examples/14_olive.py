"""Run an Olive workflow that trains, exports, maps and evaluates a network. Needs `pip install '.[olive]'`."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

shutil.copytree(Path(__file__).parent / "olive", "workflow")
olive = Path(sys.executable).with_name("olive")
gconv = [sys.executable, "-m", "onnx_gconv"]
settings = {**os.environ, "CI": "true"}  # turns Olive's telemetry off

subprocess.run([*gconv, "olive-config", "-o", "passes.json"], cwd="workflow", check=True, stdout=subprocess.DEVNULL)
command = [olive, "run", "--config", "workflow.json", "--package-config", "passes.json"]
subprocess.run(command, cwd="workflow", check=True, stdout=subprocess.DEVNULL, env=settings)

config = json.loads(Path("workflow/mapped/model_config.json").read_text(encoding="utf-8"))
for weight in config["config"]["model_attributes"]["onnx_gconv"]["mapped"]:
    print(weight["name"], weight["shape"])

# Output:
# hidden.weight [128, 64]
# scores.weight [10, 128]
