"""An in-memory accelerator and a mapping for ZigZag 3.9, as its parsers take them (YAML).

ZigZag's model of an analog array has cells of one bit, with a column and a converter for each bit of a weight
(``hardware/architecture/imc_array.py``). So the number of cells of a weight stands where ZigZag expects its bits.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ImcArray", "accelerator_yaml", "mapping_yaml"]

# From the analog example that comes with ZigZag 3.9 (inputs/hardware/aimc.yaml): sizes and ports in bits, energies of
# an access in pJ. An access to a register moves _REGISTER_BITS there; its energy is scaled to the bits of ours.
_REGISTER_PJ, _REGISTER_BITS = 0.021, 8
_BUFFER_BITS = 262144
_BUFFER_READ_PJ, _BUFFER_WRITE_PJ, _BUFFER_PORT = 416.16, 378.4, (64, 512)
_DRAM_BITS = 10_000_000_000
_DRAM_READ_PJ, _DRAM_WRITE_PJ, _DRAM_PORT = 700, 750, 64


@dataclass(frozen=True)
class ImcArray:
    """The crossbar array that weights stand on.

    Attributes:
        rows: Number of inputs.
        columns: Number of weights in a row.
        cells: Cells of a weight in a row, each with its own column. ZigZag calls this the bits of a weight.
        input_bits: Bits of an input.
        dac_bits: Bits of an input that are driven at once.
        adc_bits: Bits of an analog-to-digital converter.
    """

    rows: int
    columns: int
    cells: int
    input_bits: int
    dac_bits: int
    adc_bits: int

    @property
    def output_bits(self) -> int:
        """Bits of a sum before it is quantized to an input: twice those of an input, which is ZigZag's default."""
        return 2 * self.input_bits


def accelerator_yaml(array: ImcArray, weights: int) -> str:
    """The text of ``accelerator.yaml``.

    Args:
        array: The array.
        weights: Number of weights of all layers.
    """
    inputs, outputs, cells = array.input_bits, array.output_bits, array.cells
    stored = max(weights, array.rows * array.columns) * cells
    loaded = array.rows * array.columns * cells
    read, write = (f"{_REGISTER_PJ * bits / _REGISTER_BITS:g}" for bits in (inputs, outputs))
    return f"""\
name: crossbar_{array.rows}x{array.columns}

memories:
  # The devices. They are programmed beforehand: neither loading nor writing them costs anything.
  cells:
    size: {cells}
    r_cost: 0
    w_cost: 0
    area: 0
    latency: 0
    operands: [I2]
    ports:
      - name: rw_port_1
        type: read_write
        bandwidth_min: {cells}
        bandwidth_max: {cells}
        allocation:
          - I2, fh
          - I2, tl
    served_dimensions: []

  # A register at each row. Energy: {_REGISTER_PJ} pJ for {_REGISTER_BITS} bits, as in ZigZag's aimc.yaml.
  input_register:
    size: {inputs}
    r_cost: {read}
    w_cost: {read}
    area: 0
    latency: 1
    operands: [I1]
    ports:
      - name: r_port_1
        type: read
        bandwidth_min: {inputs}
        bandwidth_max: {inputs}
        allocation:
          - I1, tl
      - name: w_port_1
        type: write
        bandwidth_min: {inputs}
        bandwidth_max: {inputs}
        allocation:
          - I1, fh
    served_dimensions: [D1]

  # A register at each weight of a row, for sums.
  output_register:
    size: {outputs}
    r_cost: {write}
    w_cost: {write}
    area: 0
    latency: 1
    operands: [O]
    ports:
      - name: r_port_1
        type: read
        bandwidth_min: {outputs}
        bandwidth_max: {outputs}
        allocation:
          - O, tl
      - name: r_port_2
        type: read
        bandwidth_min: {outputs}
        bandwidth_max: {outputs}
        allocation:
          - O, th
      - name: w_port_1
        type: write
        bandwidth_min: {outputs}
        bandwidth_max: {outputs}
        allocation:
          - O, fh
      - name: w_port_2
        type: write
        bandwidth_min: {outputs}
        bandwidth_max: {outputs}
        allocation:
          - O, fl
    served_dimensions: [D2]

  # Holds all weights of the model at no cost, because they are programmed beforehand.
  programmed:
    size: {stored}
    r_cost: 0
    w_cost: 0
    area: 0
    latency: 0
    operands: [I2]
    ports:
      - name: rw_port_1
        type: read_write
        bandwidth_min: {cells}
        bandwidth_max: {loaded}
        allocation:
          - I2, fh
          - I2, tl
    served_dimensions: [D1, D2]

  # For inputs and outputs, as in ZigZag's aimc.yaml.
  buffer:
    size: {_BUFFER_BITS}
    r_cost: {_BUFFER_READ_PJ}
    w_cost: {_BUFFER_WRITE_PJ}
    area: 0
    latency: 1
    operands: [I1, O]
    ports:
      - name: r_port_1
        type: read
        bandwidth_min: {_BUFFER_PORT[0]}
        bandwidth_max: {_BUFFER_PORT[1]}
        allocation:
          - I1, tl
          - O, tl
          - O, th
      - name: w_port_1
        type: write
        bandwidth_min: {_BUFFER_PORT[0]}
        bandwidth_max: {_BUFFER_PORT[1]}
        allocation:
          - I1, fh
          - O, fh
          - O, fl
    served_dimensions: [D1, D2]

  # For inputs and outputs, as in ZigZag's aimc.yaml.
  dram:
    size: {_DRAM_BITS}
    r_cost: {_DRAM_READ_PJ}
    w_cost: {_DRAM_WRITE_PJ}
    area: 0
    latency: 1
    operands: [I1, O]
    ports:
      - name: rw_port_1
        type: read_write
        bandwidth_min: {_DRAM_PORT}
        bandwidth_max: {_DRAM_PORT}
        allocation:
          - I1, fh
          - I1, tl
          - O, fh
          - O, tl
          - O, fl
          - O, th
    served_dimensions: [D1, D2]

operational_array:
  is_imc: True
  imc_type: analog
  input_precision: [{inputs}, {cells}] # bits of an input, cells of a weight
  bit_serial_precision: {array.dac_bits} # bits of an input that are driven at once
  adc_resolution: {array.adc_bits} # bits
  dimensions: [D1, D2]
  sizes: [{array.columns}, {array.rows}] # weights in a row, and rows
"""


_LINKS_AND_HINT = """\
  memory_operand_links:
    O: O
    W: I2
    I: I1
  spatial_mapping_hint:
    D1:
      - K
    D2:
"""


def mapping_yaml() -> str:
    """The text of ``mapping.yaml``: outputs are mapped to columns, inputs and kernel positions to rows."""
    rows_of = {"default": ("C", "FX", "FY"), "Conv": ("C", "FX", "FY"), "Gemm": ("C",), "MatMul": ("C",)}
    return "\n".join(
        f"- name: {name}\n{_LINKS_AND_HINT}" + "".join(f"      - {row}\n" for row in rows)
        for name, rows in rows_of.items()
    )
