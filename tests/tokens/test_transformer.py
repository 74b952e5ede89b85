"""Show-o's attention, and the sequence around an image."""

from pathlib import Path

import pytest
import torch

from sanac.core.artifact.token_model import TokenModel, open_any_model
from sanac.core.checkpoint.locate import locate
from sanac.tokens.networks import TokenNetworks, open_networks

PROMPTS = ["a red circle", "three green triangles", "a blue cross to the left of a yellow square"]


@pytest.fixture(scope="module")
def networks(token_model: Path) -> TokenNetworks:
    model = open_any_model(locate(str(token_model)))
    assert isinstance(model, TokenModel)
    return open_networks(model)


def image(networks: TokenNetworks, rows: int) -> torch.Tensor:
    shape = networks.transformer.architecture
    tokens = torch.randint(shape.codes, (rows, shape.image_tokens), generator=torch.Generator().manual_seed(3))
    tokens += shape.first_code
    tokens[:, ::3] = shape.mask
    return tokens


def test_the_vocabulary_is_show_os(networks: TokenNetworks) -> None:
    """Words, then the markers in the order in which Show-o adds them, then the codes, then the mask."""
    shape = networks.transformer.architecture
    names = ("pad", "soi", "eoi", "sov", "eov", "t2i", "mmu", "t2v", "v2v", "lvg")
    assert [shape.marker(name) for name in names] == list(range(shape.words, shape.words + 10))
    assert shape.first_code == shape.words + 10
    assert shape.mask == shape.first_code + shape.codes == shape.vocabulary - 1


def test_prompts_are_padded_on_the_left(networks: TokenNetworks) -> None:
    shape, text = networks.transformer.architecture, networks.text
    (row,) = text(["a red circle"]).tolist()
    words = [text.tokenizer.token_to_id(word) for word in ("a", "red", "circle")]
    assert row[-6:] == [shape.marker("t2i"), text.bos, *words, text.eos]
    assert set(row[:-6]) == {shape.marker("pad")}
    assert len(row) == shape.text_length + 1


def test_a_long_prompt_is_cut_and_still_ends(networks: TokenNetworks) -> None:
    (row,) = networks.text(["a circle and " * 20]).tolist()
    assert len(row) == networks.transformer.architecture.text_length + 1
    assert row[-1] == networks.text.eos
    assert row[0] == networks.transformer.architecture.marker("t2i")


def test_text_sees_what_is_before_it_and_the_image_sees_everything_but_padding(networks: TokenNetworks) -> None:
    transformer = networks.transformer
    shape, text = transformer.architecture, networks.text(PROMPTS[:2])
    sequence, _ = transformer.sequence(text, image(networks, 2))
    seen = transformer.attention(sequence)[:, 0]
    length, pad = sequence.shape[1], shape.marker("pad")
    first = length - shape.image_tokens - 2
    for row in range(2):
        for place in range(length):
            for other in range(length):
                real = sequence[row, other] != pad
                expected = (real and (other <= place or place >= first)) or place == other
                assert bool(seen[row, place, other]) == bool(expected)


def test_padding_that_all_rows_share_changes_nothing(networks: TokenNetworks) -> None:
    transformer, tokens = networks.transformer, image(networks, 3)
    text = networks.text(PROMPTS)
    longest = networks.text(["a " * 30])  # leaves no column of padding only
    with torch.no_grad():
        alone = transformer(text[:1], tokens[:1])
        together = transformer(torch.cat([text[:1], longest]), tokens[:2])
    torch.testing.assert_close(alone[0], together[0], atol=1e-5, rtol=1e-5)


def test_the_prompt_matters_and_so_do_known_codes(networks: TokenNetworks) -> None:
    transformer, tokens = networks.transformer, image(networks, 1)
    with torch.no_grad():
        one, other = (transformer(networks.text([prompt]), tokens) for prompt in PROMPTS[:2])
        changed = tokens.clone()
        changed[0, 1] = transformer.architecture.first_code
        third = transformer(networks.text(PROMPTS[:1]), changed)
    assert (one - other).abs().max() > 0.01
    assert (one - third).abs().max() > 0.01


def test_logits_are_those_of_the_codes_at_the_image(networks: TokenNetworks) -> None:
    """Against the whole head of the language model, position by position."""
    transformer, tokens = networks.transformer, image(networks, 1)
    shape, text = transformer.architecture, networks.text(PROMPTS[:1])
    with torch.no_grad():
        whole = transformer.showo.lm_head(transformer.states(text, tokens)[-1])
        found = transformer(text, tokens)
    assert found.shape == (1, shape.image_tokens, shape.codes)
    expected = whole[:, -17:-1, shape.first_code : shape.first_code + shape.codes]
    torch.testing.assert_close(found, expected)
