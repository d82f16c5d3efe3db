"""What the paper found, and where, claim by claim: Veit, Wilber and Belongie, arXiv 1605.06431v2 (2016), called
*Residual Networks Behave Like Ensembles of Relatively Shallow Networks*; multiplicity as a dimension is of the abstract
of v1.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """What the paper says, in the words that stand beside a number of ours, and the section or figure that says it."""

    said: str
    where: str

    def __str__(self) -> str:
        return self.said


QUESTIONS = (
    "Does it behave like an ensemble at test time, and of what kind?",
    "How deep are its effective members?",
    "How much of the gradient comes from very short members?",
    "What does multiplicity do, beside depth and width?",
)

NETWORK = "ResNet-110"
ERROR = Claim("6.1 % (CIFAR-10)", "section 5")  # trained in full
CHANCE = Claim("90 %", "section 4.1")

# Question 1, lesions
ONE_DELETED = Claim("near 0", "Figure 3")
WORST_DELETED = Claim("at downsampling", "Figure 3")
PLAIN_DELETED = Claim("to chance", "Figure 3")
PLAIN_NETWORK = "VGG-15"
SEVERAL_DELETED = Claim("rises smoothly", "Figure 5a")
REORDERED = Claim("error rises", "Figure 5b")

# Questions 2 to 4, paths
BLOCKS = Claim("54", "section 5")
PATHS = Claim("2⁵⁴", "Figure 6a")
SINGLE_PATH = Claim("falls", "Figure 6b")  # its gradient, with its length
EFFECTIVE = Claim("5 to 17", "Figure 6c")
EFFECTIVE_PART = Claim("0.45 %", "section 5")
SHORT_PATHS = Claim("most of it", "section 5")
LONGEST_PATH = Claim("almost none", "section 5")

FOUND = (
    f"deleting one block of {NETWORK} barely changes the error, downsampling blocks excepted, while deleting any layer "
    f"of {PLAIN_NETWORK} leaves it at chance; the error rises smoothly with the number of deleted blocks and with "
    "disorder.",
    f"the effective paths of {NETWORK} have {EFFECTIVE} of {BLOCKS} blocks (10 to 34 layers), {EFFECTIVE_PART} of all "
    "paths; more than 95 % of all paths have 19 to 35.",
    "most of the gradient comes from short paths; the full depth contributes almost none.",
    "a residual network owes its strength to multiplicity, the number of its paths, beside depth and width.",
)  # the answers to the questions, sections 4, 5 and 5 of v2, and the abstract of v1


@dataclass(frozen=True)
class Stated:
    """A claim that can be measured again: its number, what is claimed, and where."""

    number: str
    said: str
    where: str


CLAIMS = (
    Stated(
        "1",
        "Deleting any one residual block hardly changes the error, downsampling blocks excepted; deleting any layer of "
        "VGG leaves it at chance.",
        "section 4.1, Figure 3",
    ),
    Stated("1b", "The deeper the network, the less the deletion of one block costs.", "the authors' results, 2016"),
    Stated("2", "So it is on ImageNet, too, in the median.", "section 4.1, Figure 4"),
    Stated(
        "3",
        "The error rises smoothly with the number of blocks that are deleted at random, as that of an ensemble does "
        "whose members leave.",
        "section 4.2, Figure 5a",
    ),
    Stated("4", "The error rises smoothly with the disorder of the blocks.", "section 4.3, Figure 5b"),
    Stated("5", "Blocks can run twice in a row.", "the authors' results, 2016; not in the paper"),
    Stated(
        "6",
        "The lengths of paths are binomially distributed: more than 95 % of them have 19 to 35 blocks.",
        "section 5, Figure 6a",
    ),
    Stated("7", "The gradient along a single path falls exponentially with its length.", "section 5, Figure 6b"),
    Stated(
        "8",
        "Almost all gradient comes from paths of 5 to 17 blocks (10 to 34 layers), 0.45 % of all.",
        "section 5, Figure 6c",
    ),
    Stated("8b", "The longest paths contribute almost no gradient.", "section 5"),
    Stated(
        "9",
        "Trained on short paths alone, 23 blocks in every step, the network is as good: 5.96 % against 6.10 %, no "
        "significant difference.",
        "section 5",
    ),
    Stated(
        "10",
        "Stochastic depth improves the resilience to deletions slightly; only the dependence on the downsampling "
        "layers seems to be reduced.",
        "section 6",
    ),
    Stated("11", "The gates of highway networks lead most of the signal over short paths.", "section 6"),
    Stated("12a", "Sub-networks, averaged, gain what independent members of an ensemble gain.", "asked of section 4"),
    Stated(
        "12b",
        "It is the skips that make it robust: deleted in place of the branches, they are missed.",
        "asked of section 4.1",
    ),
    Stated("12c", "That effective paths are short is found by training.", "asked of section 5"),
    Stated(
        "13",
        "Middle layers of transformers can be skipped, swapped, run side by side and repeated, too.",
        "Sun et al., arXiv 2407.09298; Lad et al., arXiv 2406.19384",
    ),
    Stated(
        "13b",
        "The network is a sum of orders, the numbers of blocks on a path (residual expansion): of a few blocks in a "
        "row, the first order is nearly all.",
        "asked of Dherin and Munn, arXiv 2510.03470",
    ),
)
