"""What the paper found, and where: Veit, Wilber and Belongie, arXiv 1605.06431v1 (2016); plain text, claim by claim."""

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
ERROR = Claim("6.1 % (CIFAR-10)", "section 4")
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
)  # the answers to the questions, sections 4.1 and 4.2, 5, 5, and 6
