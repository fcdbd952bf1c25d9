"""The tool that compiles for devices that are not here: its programs trace, and it counts a program's text right."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from tests.benchmarks import compile_for_accelerators as tool

SMALL = {"name": "mlp", "width": 4, "image_shape": (4, 4, 1), "num_train": 200}


@pytest.mark.parametrize("stage", ["train", *tool.STAGES])
def test_programs_lower_for_the_device_that_is_here(stage):
    mesh = Mesh(np.array(jax.devices()[:1]), (tool.AXIS,))
    lowered = tool.train(mesh, batch_size=16, **SMALL) if stage == "train" else tool.measure(mesh, stage, **SMALL)
    assert "dot" in lowered.lowered.as_text()


# A loop of unknown length; in each turn a product in full precision and seven turns of another product at the default.
PROGRAM = """HloModule jit_f

%inner_body (p: (s32[], f32[8,8])) -> (s32[], f32[8,8]) {
  %p = (s32[], f32[8,8]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[8,8] get-tuple-element(%p), index=1
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %product = f32[8,8] dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %t = (s32[], f32[8,8]) tuple(%next, %product)
}

%inner_condition (p: (s32[], f32[8,8])) -> pred[] {
  %p = (s32[], f32[8,8]) parameter(0)
  %seven = s32[] constant(7)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %less = pred[] compare(%i, %seven), direction=LT
}

%body (p: (s32[], f32[8,8])) -> (s32[], f32[8,8]) {
  %p = (s32[], f32[8,8]) parameter(0)
  %x = f32[8,8] get-tuple-element(%p), index=1
  %exact = f32[8,8] dot(%x, %x), lhs_contracting_dims={1}, operand_precision={highest,highest}
  %zero = s32[] constant(0)
  %start = (s32[], f32[8,8]) tuple(%zero, %exact)
  ROOT %loop = (s32[], f32[8,8]) while(%start), condition=%inner_condition, body=%inner_body
}

%condition (p: (s32[], f32[8,8])) -> pred[] {
  %p = (s32[], f32[8,8]) parameter(0)
  %x = f32[8,8] get-tuple-element(%p), index=1
  ROOT %go_on = pred[] custom-call(%x), custom_call_target="ask"
}

ENTRY %main (a: (s32[], f32[8,8])) -> (s32[], f32[8,8]) {
  %a = (s32[], f32[8,8]) parameter(0)
  %b = (s32[], f32[8,8]) copy(%a)
  ROOT %outer = (s32[], f32[8,8]) while(%b), condition=%condition, body=%body
}
"""


def test_a_program_is_counted_as_by_hand():
    # A turn of the inner loop: add, dot, compare. A turn of the outer: dot, seven inner turns, the call that asks.
    turn = 1 + 7 * 3 + 1
    row = tool.Hlo(PROGRAM, "tf32").row()
    # Result and two factors of 256 bytes of both products; three numbers of an addition, two of a comparison, a byte.
    assert row.pop("step bytes") == 3 * 256 + 7 * (3 * 256 + 12 + 9) + 257
    assert row == {"launches": 1 + turn, "per step": turn, "dynamic": 1, "products": "1 f32, 1 tf32"}
