"""What classes are called: by the TFDS set, else by what is known of sets that come as archives."""

import string
from collections.abc import Sequence

_FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_UPPER, _LOWER = string.ascii_uppercase, string.ascii_lowercase

KNOWN: dict[str, Sequence[str]] = {
    # https://github.com/zalandoresearch/fashion-mnist, "Labels"
    "fashion_mnist": _FASHION,
    # Clanuwat et al., arXiv 1812.01718; the readings of the ten kana
    "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    # Cohen et al., arXiv 1702.05373, section III; the letters' labels begin with 1, and TFDS has ten too many
    "emnist-letters": ("-", *_LOWER),
    "emnist-balanced": tuple(string.digits + _UPPER + "abdefghnqrt"),
    "emnist-bymerge": tuple(string.digits + _UPPER + "abdefghnqrt"),
    "emnist-byclass": tuple(string.digits + _UPPER + _LOWER),
}
"""Names of the classes by the name of the set, with `_` between words and `-` before a part of it."""

# What TFDS calls `emnist` alone is byclass; archives of another part are told by their number of classes.
_EMNIST = {62: "emnist-byclass", 47: "emnist-balanced", 37: "emnist-letters", 27: "emnist-letters"}
_SPELLINGS = {"fashion": "fashion_mnist", "fashionmnist": "fashion_mnist", "kuzushiji_mnist": "kmnist"}


def names(dataset: str, count: int, declared: Sequence[str] = ()) -> tuple[str, ...]:
    """The name of each class of a set.

    Args:
      dataset: the set's name, such as 'fashion_mnist', 'emnist/letters' or 'emnist-letters'.
      count: how many classes there are.
      declared: names that the set itself gives, if it does.

    Returns:
      One name a class: those declared, else those known of a set of that name, else its number.

    >>> names("fashion-mnist", 10)[9], names("mnist", 10)[9]
    ('Ankle boot', '9')
    >>> names("emnist", 47)[-1], names("emnist", 27)[1]
    ('t', 'a')
    """
    numbers = tuple(map(str, range(count)))
    if len(declared) == count and tuple(declared) != numbers:
        return tuple(declared)
    plain = dataset.split(":")[0].lower().replace("/", "-")
    joined = plain.replace("-", "_")
    part = _EMNIST.get(count, "") if plain == "emnist" else ""
    for name in (plain, joined, _SPELLINGS.get(joined, ""), part):
        known = KNOWN.get(name, ())
        if 0 < len(known) <= count:
            return (*known, *numbers[len(known) :])
    return numbers


def title(names: Sequence[str], label: int) -> str:
    """A class as people read it: its number, with its name where that is another.

    >>> title(("0", "1"), 1), title(("cat", "dog"), 1)
    ('1', '1, dog')
    """
    return str(label) if names[label] == str(label) else f"{label}, {names[label]}"
