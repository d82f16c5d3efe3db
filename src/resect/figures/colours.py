"""Colours that hold in grey and for colour-blind readers."""

# Blue and orange stay apart for all common kinds of colour blindness, and lie 20 % apart in lightness.
BLUE, ORANGE, GREEN, GREY, INK = "#0a4f94", "#d9661a", "#3f9c7f", "#767b83", "#22262b"
DIM_BLUE, PALE_BLUE, PALE_GREY = "#7f9dbf", "#d3e2f2", "#d9dce0"
BAR_GREY, FRAME = "#a9aeb5", "#aeb3ba"
