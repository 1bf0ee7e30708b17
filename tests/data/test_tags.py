import pytest

from lmeval.densities import Tags, require_same_space
from lmeval.errors import EmptyInput, InputError, MixedSpaces

SPACES = {
    "8 bits": Tags(256),
    "5 bits": Tags(32),
    "static": Tags(2, "static"),
    "dynamic": Tags(2, "dynamic"),
    "threshold": Tags(2, "threshold", at=128),
    "threshold at 1": Tags(2, "threshold", at=1),
    "sampled": Tags(2, "sampled", seed=0),
    "sampled, seed 1": Tags(2, "sampled", seed=1),
    "logits": Tags(256, transform="logit, margin 1e-06"),
}


def test_no_two_spaces_mix_and_all_have_their_own_words():
    assert len({tags.describe() for tags in SPACES.values()}) == len(SPACES)
    for a, one in SPACES.items():
        assert require_same_space([(a, one), ("b", one)]) == one
        for b, other in SPACES.items():
            if a != b:
                with pytest.raises(MixedSpaces) as caught:
                    require_same_space([("first", one), ("same", one), ("other", other)])
                message = str(caught.value)
                assert one.describe() in message and other.describe() in message and "other" in message


def test_tags_that_contradict_themselves_are_refused():
    for wrong in (lambda: Tags(2), lambda: Tags(256, "static"), lambda: Tags(1)):
        with pytest.raises(InputError):
            wrong()
    with pytest.raises(InputError, match="one of static, threshold, sampled, dynamic"):
        Tags(2, "random")  # pyright: ignore[reportArgumentType]
    with pytest.raises(EmptyInput):
        require_same_space([])
