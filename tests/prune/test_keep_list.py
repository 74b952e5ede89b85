"""`--keep` lists."""

from hypothesis import given
from hypothesis import strategies as st

from sanac.core.artifact.plan import ranges_text
from sanac.prune.keep_list import parse_keep


@given(st.sets(st.integers(0, 59), min_size=1))
def test_any_set_of_blocks_can_be_written_and_read(kept: set[int]) -> None:
    plan = parse_keep(ranges_text(sorted(kept)), 60)
    assert [origin.block for origin in plan.blocks] == sorted(kept)
    assert dict(plan.config) == {"num_layers": len(kept)}
