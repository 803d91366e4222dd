"""The variants of the ablation, as its documentation writes them."""

import pytest
from ablation import CHOICES, variant_recipe

from keras_tinyalex import recipes


def test_variants_are_names_and_json():
    found = variant_recipe(recipes.BEST, '{"augmentation": "flip", "dropout": 0.15}')
    assert (found.augmentation, found.dropout) == ("flip", 0.15)
    assert found.learning_rate == recipes.BEST.learning_rate
    assert found.description == '{"augmentation": "flip", "dropout": 0.15}'
    names = {variant_recipe(recipes.BEST, name).name for name in CHOICES}
    assert len(names) == len(CHOICES)
    chained = variant_recipe(recipes.BEST, '{"augmentation": "flip+random_tones"}')
    assert chained.augmentation == "flip+random_tones"


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("no drpout", "it must be one of 'no batch normalization'"),
        ("[1]", "or a JSON object"),
        ('{"drpout": 0}', "a field must be one of .*Received: drpout"),
        ('{"augmentation": "flip+blur"}', "no function of the augmentations: blur"),
    ],
)
def test_wrong_variants_are_refused(variant, message):
    with pytest.raises(ValueError, match=message):
        variant_recipe(recipes.BEST, variant)
