#!/usr/bin/env bash
# Guess: the SPICE netlist that analoglib writes of a crossbar of pairs, to check it with a circuit simulator, gives currents
# of columns that follow (G+ - G-) V, as its own vmm does. Seen: analoglib 0.1.0 joins each negative device to its column
# by a current source of 0 A. That is an open circuit: no current flows through any negative device, and all voltages are
# those of a netlist without them. Weights of -1 and 0 give currents of the same sign as 1. (The circuit is solved here by
# Kirchhoff's law, node by node.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install analoglib==0.1.0 numpy==2.4.6 2>/dev/null
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import numpy as np
from analoglib.crossbar.crossbar import Crossbar
from analoglib.devices.reram import ReRAM
from analoglib.exporters.spice import SpiceExporter


def solve(cards, inputs):
    """Voltage of each node of a circuit of resistors and current sources, where those of the inputs are given."""
    names = sorted({node for card in cards for node in card[1:3]} - {"GND", *inputs})
    place = {name: index for index, name in enumerate(names)}
    known = {"GND": 0.0, **inputs}
    matrix, currents = np.zeros((len(names), len(names))), np.zeros(len(names))
    for kind, one, other, value in cards:
        for here, there, sign in ((one, other, -1), (other, one, 1)):
            if here not in place:
                continue
            if kind == "I":
                currents[place[here]] += sign * value
                continue
            matrix[place[here], place[here]] += 1 / value
            if there in place:
                matrix[place[here], place[there]] -= 1 / value
            else:
                currents[place[here]] += known[there] / value
    return {**known, **dict(zip(names, np.linalg.solve(matrix, currents)))}


def read(netlist):
    """Resistors and current sources of the subcircuit of the first crossbar."""
    body = netlist[netlist.index(".subckt") : netlist.index(".ends")].splitlines()[1:]
    words = [line.split("$")[0].split() for line in body if line[0] in "RI"]
    return [(line[0][0], line[1], line[2], float(line[-1])) for line in words]


weights = np.array([[1.0, 0.0, -1.0], [0.5, 0.0, -0.5]])
voltages = np.array([0.2, 0.1])
crossbar = Crossbar(2, 3, device=ReRAM(g_min=1e-6, g_max=1e-4, num_states=256))
crossbar.load_weights(weights)
load = 1e-3
cards = read(SpiceExporter(R_load=load).export_str([crossbar]))
inputs = {f"row_{row}": voltage for row, voltage in enumerate(voltages)}
columns = [f"col_{column}" for column in range(3)]
found = solve(cards, inputs)
without = solve([card for card in cards if not any(node.startswith("n_neg") for node in card[1:3])], inputs)
currents, positive = (np.array([nodes[name] for name in columns]) / load * 1e6 for nodes in (found, without))
expected = crossbar.vmm(voltages) * 1e6
through = max(abs(found[one] - found[other]) / value for kind, one, other, value in cards if kind == "R" and other.startswith("n_neg"))
print(f"analoglib {version('analoglib')}; currents of the columns in uA")
print(f"vmm of the crossbar:             {expected.round(3)}")
print(f"circuit of its netlist:          {currents.round(3)}")
print(f"circuit without negative devices: {positive.round(3)}; largest current through a negative device: {through:.1e} A")
assert expected[2] < -10 and abs(expected[1]) < 1 and np.all(currents > 0), "it behaves otherwise now"
assert np.allclose(currents, positive, rtol=1e-9) and through < 1e-15, "it behaves otherwise now"
PYTHON
