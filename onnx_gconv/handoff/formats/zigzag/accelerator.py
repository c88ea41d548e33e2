"""An in-memory accelerator and a mapping for ZigZag 3.9, as its parsers take them (YAML).

ZigZag's model of an analog array has cells of one bit, with a column and a converter for each bit of a weight
(``hardware/architecture/imc_array.py``). What it calls the bits of a weight is the number of cells here.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ImcArray", "accelerator_yaml", "mapping_yaml"]

# Of the analog example that comes with ZigZag 3.9 (inputs/hardware/aimc.yaml): pJ of an access, and the bits that this
# access moves there.
_REGISTER_PJ, _REGISTER_BITS = 0.021, 8
_BUFFER_BITS = 262144
_BUFFER_READ_PJ, _BUFFER_WRITE_PJ, _BUFFER_PORT = 416.16, 378.4, (64, 512)
_DRAM_BITS = 10_000_000_000
_DRAM_READ_PJ, _DRAM_WRITE_PJ, _DRAM_PORT = 700, 750, 64


@dataclass(frozen=True)
class ImcArray:
    """The array that weights stand on.

    Attributes:
        rows: Inputs of an array.
        columns: Weights in a row of it.
        cells: Cells of a weight in a row, each with a column: the bits of a weight, as ZigZag has it.
        input_bits: Bits of an input.
        dac_bits: Bits of it that are driven at once.
        adc_bits: Bits of a converter.
    """

    rows: int
    columns: int
    cells: int
    input_bits: int
    dac_bits: int
    adc_bits: int

    @property
    def output_bits(self) -> int:
        """Bits of a sum, before it is an input again: twice those of an input, as ZigZag has it by default."""
        return 2 * self.input_bits


def accelerator_yaml(array: ImcArray, weights: int) -> str:
    """The text of the accelerator.

    Args:
        array: The array.
        weights: How many weights all layers have.
    """
    inputs, outputs, cells = array.input_bits, array.output_bits, array.cells
    stored = max(weights, array.rows * array.columns) * cells
    loaded = array.rows * array.columns * cells
    read, write = (f"{_REGISTER_PJ * bits / _REGISTER_BITS:g}" for bits in (inputs, outputs))
    return f"""\
name: crossbar_{array.rows}x{array.columns}

memories:
  # The devices. They are programmed before: neither loading nor writing them costs anything.
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

  # Stands for devices being programmed: all weights of the model, at no cost.
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
    """The text of the mapping: outputs stand in columns; inputs, and positions of a kernel, in rows."""
    rows_of = {"default": ("C", "FX", "FY"), "Conv": ("C", "FX", "FY"), "Gemm": ("C",), "MatMul": ("C",)}
    return "\n".join(
        f"- name: {name}\n{_LINKS_AND_HINT}" + "".join(f"      - {row}\n" for row in rows)
        for name, rows in rows_of.items()
    )
