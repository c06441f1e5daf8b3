"""Air traffic control phraseology written by a grammar (ours, Apache-2.0): clearances by the
controller and read-backs by the pilot.
"""

from __future__ import annotations

import random
import re

# One small airport's traffic: few names, so that a quarter of an hour holds each of them often
# enough.
AIRLINES = "speedbird lufthansa swissair easyjet ryanair alitalia delta shamrock".split()
LETTERS = """alfa bravo charlie delta echo foxtrot golf hotel india juliett kilo lima mike november
    oscar papa quebec romeo sierra tango
    uniform victor whiskey xray yankee zulu""".split()
DIGITS = "zero one two three four five six seven eight niner".split()
STATIONS = "zurich geneva munich langen".split()
UNITS = "radar approach tower ground".split()
FIXES = "rilax gipol kelip osnem".split()
PLACES = [
    "holding point alfa",
    "runway threshold",
    "the apron",
    "gate niner",
    "stand two four",
    "taxiway kilo",
    "the outer marker",
    "the downwind leg",
]

TEMPLATES = """
<call> descend flight level <level>|<call> climb flight level <level>
<call> climb and maintain flight level <level>
descending flight level <level> <call>|climbing flight level <level> <call>
<call> maintain flight level <level> until <fix>
<call> turn <side> heading <heading>|<side> heading <heading> <call>
turning <side> heading <heading> <call>
<call> fly heading <heading> and descend to altitude <altitude> feet|<call> proceed direct <fix>
direct <fix> <call>
<call> contact <station> <unit> on <frequency>|contact <station> <frequency> <call>
<frequency> for <station> <call> goodbye
<call> squawk <squawk>|squawking <squawk> <call>|<call> squawk ident|<call> radar contact
<call> identified
<call> cleared to land runway <runway> wind <heading> degrees <knots> knots
cleared to land runway <runway> <call>
<call> cleared for takeoff runway <runway>|cleared for takeoff runway <runway> <call>
<call> line up and wait runway <runway>
lining up and waiting runway <runway> <call>|<call> taxi to <place> via <letter> and <letter>
taxi via <letter> to <place> <call>
<call> reduce speed <knots> <digit> knots|<call> speed <knots> <digit> knots until <fix>
<call> cleared ils approach runway <runway>
cleared ils runway <runway> <call>|<call> report established
established on the localizer runway <runway> <call>
<station> <unit> <call> good morning flight level <level>
<station> <unit> <call> passing flight level <level> inbound <fix>
<call> traffic <oclock> o'clock <digit> miles opposite direction|traffic in sight <call>
<call> negative contact
<call> hold short of runway <runway>|holding short runway <runway> <call>
<call> go around climb straight ahead altitude <altitude> feet
going around <call>|<call> say again heading|<call> expect vectors runway <runway>|<call> qnh <qnh>
qnh <qnh> <call>
<call> roger|wilco <call>|<call> standby
<call> cleared to <station> via <fix> departure squawk <squawk>|<call> request higher level
<call> vacate <side> and contact ground on <frequency>|<call> pushback approved facing <compass>
unable <call> due weather
"""
TEMPLATES = [t for t in TEMPLATES.replace("\n", "|").split("|") if t]


def _digits(text: str) -> str:
    return " ".join(DIGITS[int(d)] for d in text)


def _call_sign(rng: random.Random) -> str:
    if rng.random() < 0.2:
        return " ".join(rng.choice(LETTERS) for _ in range(rng.randint(3, 4)))
    number = _digits("".join(str(rng.randint(0, 9)) for _ in range(rng.randint(2, 4))))
    suffix = f" {rng.choice(LETTERS)}" if rng.random() < 0.35 else ""
    return f"{rng.choice(AIRLINES)} {number}{suffix}"


def _expand(slot: str, rng: random.Random) -> str:
    match slot:
        case "call":
            return _call_sign(rng)
        case "level":
            return _digits(f"{rng.randrange(60, 420, 10):03d}")
        case "heading":
            return _digits(f"{rng.randrange(5, 361, 5):03d}")
        case "altitude":
            thousands = rng.randint(2, 9)
            return f"{DIGITS[thousands]} thousand" + (
                f" {DIGITS[rng.randint(1, 9)]} hundred" if rng.random() < 0.4 else ""
            )
        case "frequency":
            megahertz = _digits(str(rng.randint(118, 136)))
            decimals = ["125", "35", "7", "275", "425", "5", "05", "675", "8", "975"]
            return f"{megahertz} decimal {_digits(rng.choice(decimals))}"
        case "squawk":
            return _digits("".join(str(rng.randint(0, 7)) for _ in range(4)))
        case "runway":
            return _digits(f"{rng.randint(1, 36):02d}") + rng.choice(
                ["", "", " left", " right", " center"]
            )
        case "knots":
            return _digits(str(rng.randint(5, 25)))
        case "qnh":
            return _digits(str(rng.randint(985, 1035)))
        case "oclock":
            return rng.choice(["one", "two", "three", "ten", "eleven", "twelve"])
        case "side":
            return rng.choice(["left", "right"])
        case "compass":
            return rng.choice(["north", "south", "east", "west"])
        case "digit":
            return rng.choice(DIGITS)
    return rng.choice(
        {"station": STATIONS, "unit": UNITS, "fix": FIXES, "place": PLACES, "letter": LETTERS}[slot]
    )


def sentence(rng: random.Random) -> str:
    """One transmission in lower-case words, call sign first (controller) or last (pilot)."""
    return re.sub(r"<(\w+)>", lambda slot: _expand(slot.group(1), rng), rng.choice(TEMPLATES))
