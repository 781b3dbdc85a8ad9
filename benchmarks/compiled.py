"""What a compiled program says of itself: collectives from its HLO text, memory.

Collectives are read from the text of the optimized program, each as the bytes of its
result: for an all-reduce what every device contributes and receives.
"""

import re
from typing import Any, NamedTuple

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "all-to-all",
    "collective-permute",
    "reduce-scatter",
    "collective-broadcast",
    "ragged-all-to-all",
)
_SIZES = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "s16": 2,
    "u16": 2,
    "f16": 2,
    "bf16": 2,
    "s32": 4,
    "u32": 4,
    "f32": 4,
    "s64": 8,
    "u64": 8,
    "f64": 8,
}
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+)\[([\d,]*)\]")
# `%name = f32[4]{0} all-reduce(...)`, or the start of one that goes on meanwhile.
_CALL = re.compile(
    r"= (?P<result>\(.*?\)|\S+) (?P<name>" + "|".join(COLLECTIVES) + r")(-start)?\("
)
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_BODY = re.compile(r"\bbody=%?([\w.\-]+)")


class Collective(NamedTuple):
    """One kind of collective in a program.

    Attributes:
      number: of instructions.
      bytes: of all their results together, on one device.
      in_loops: how many of the instructions are directly in the body of a loop.
    """

    number: int = 0
    bytes: int = 0
    in_loops: int = 0


def bytes_of_arrays(text: str) -> int:
    """Bytes of all arrays in the text of a type.

    >>> bytes_of_arrays("(f32[2,3]{1,0}, pred[], bf16[4]{0:T(256)})")
    33
    """
    total = 0
    for dtype, dimensions in _ARRAY.findall(text):
        size = _SIZES[dtype]
        for dimension in filter(None, dimensions.split(",")):
            size *= int(dimension)
        total += size
    return total


def collectives(text: str) -> dict[str, Collective]:
    """Counts the collectives of an HLO text, by their names.

    >>> hlo = "ENTRY %main (a: f32[4]) -> f32[4] {"
    >>> hlo += chr(10) + "  %r = f32[4]{0} all-reduce(%a), to_apply=%add"
    >>> collectives(hlo)
    {'all-reduce': Collective(number=1, bytes=16, in_loops=0)}
    """
    loops = set(_BODY.findall(text))
    found: dict[str, Collective] = {}
    inside = ""
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            inside = head.group(1)
        call = _CALL.search(line)
        if call is None:
            continue
        # The start of a gather or permute pairs operand and result: both are counted.
        result = bytes_of_arrays(call["result"])
        before = found.get(call["name"], Collective())
        found[call["name"]] = Collective(
            number=before.number + 1,
            bytes=before.bytes + result,
            in_loops=before.in_loops + (inside in loops),
        )
    return found


def memory(compiled: Any) -> dict[str, int]:
    """Bytes on one device: arguments, results, what is between, and the most at once.

    Results that take the place of donated arguments are counted once.
    """
    said = compiled.memory_analysis()
    parts = {
        "arguments": int(said.argument_size_in_bytes),
        "results": int(said.output_size_in_bytes),
        "donated": int(said.alias_size_in_bytes),
        "temporary": int(said.temp_size_in_bytes),
        "code": int(said.generated_code_size_in_bytes),
    }
    parts["together"] = (
        parts["arguments"] + parts["results"] - parts["donated"] + parts["temporary"]
    )
    return parts
