#!/usr/bin/env bash
# Guess: the IR drop of analoglib takes a share of the currents that depends on wires and devices, as in a network of
# resistors, which is linear: the same share for 0.1 V, 1 V and -1 V. Seen: analoglib 0.1.0 multiplies the drop by the voltage
# with its sign and then takes it for a share of the voltage: ten times the voltage loses ten times the share, and nothing
# is lost where the input is negative. badcrossbar 1.1.0, which solves the network, loses one share for all of them. The
# last column of an 8 x 8 array at 0.5 V loses 0.4 % in analoglib and 5.8 % in the network, the first one 0 and 3.2 %.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install analoglib==0.1.0 numpy==2.4.6 scipy==1.17.1 pathvalidate==3.3.1 sortedcontainers==2.4.0 2>/dev/null
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install --no-deps badcrossbar==1.1.0 2>/dev/null
cd "$folder"
"$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON'
import logging
from importlib.metadata import version

import badcrossbar
import numpy as np
from analoglib.effects import IRDrop
from analoglib.effects.base import EffectContext

logging.disable(logging.CRITICAL)
wire = 10.0
conductances = np.full((8, 8), 1e-4)


def losses(volts):
    """The share of the current that each column loses, by both libraries."""
    inputs = np.full(8, volts)
    ideal = inputs @ conductances
    effective = IRDrop(r_wire=wire).apply(conductances, EffectContext(V_row=inputs, G=conductances))
    solved = badcrossbar.compute(inputs[:, None], 1 / conductances, r_i=wire).currents.output[0]
    return 1 - inputs @ effective / ideal, 1 - solved / ideal


print(f"analoglib {version('analoglib')}, badcrossbar {version('badcrossbar')}; 8 x 8 devices of 100 uS, {wire:g} ohms a wire")
found = {}
for volts in (0.05, 0.5, 5.0, -0.5):
    found[volts] = simple, solved = losses(volts)
    print(f"{volts:5} V: first and last column lose {simple[0]:.2%} and {simple[-1]:.2%}, in badcrossbar {solved[0]:.2%} and {solved[-1]:.2%}")
assert all(np.allclose(solved, found[0.5][1]) for _, solved in found.values()), "badcrossbar behaves otherwise now"
assert np.allclose(found[5.0][0], 10 * found[0.5][0]) and np.allclose(found[0.5][0], 10 * found[0.05][0]), "it behaves otherwise now"
assert found[0.5][0][-1] > 0.001 and np.all(found[-0.5][0] == 0), "it behaves otherwise now"
PYTHON
