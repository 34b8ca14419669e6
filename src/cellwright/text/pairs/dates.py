"""The task `dates`: dates as people write them, in several languages, to ISO 8601.

    Freitag, den 5. März 2021    2021-03-05
    le 5 mars 2021               2021-03-05

Generated, so there is no file. Only forms that can mean one day alone: 5/3/2021 could
be of May or of March, and is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from random import Random

from .files import Pair, Parts

FIRST, LAST = date(1900, 1, 1), date(2099, 12, 31)
TRAIN, HELD_OUT = 60_000, 2_000  # pairs; no day of the held-out ones is trained on


def _english(day: int) -> str:
    teen = day in (11, 12, 13)
    return f"{day}{'th' if teen else {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th')}"


def _first(mark: str) -> Callable[[int], str]:
    """Only the first of a month is an ordinal number."""
    return lambda day: f"{day}{mark}" if day == 1 else str(day)


@dataclass(frozen=True)
class Language:
    """How dates are written: names from January and from Monday on, and forms."""

    months: str
    weekdays: str
    forms: tuple[str, ...]
    ordinal: Callable[[int], str] = str
    short: str = ""


LANGUAGES = (
    Language(
        "January February March April May June July August September October "
        "November December",
        "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
        (
            "{month} {day}, {year}",
            "{day} {month} {year}",
            "{month} {ordinal}, {year}",
            "{ordinal} of {month} {year}",
            "{short} {day}, {year}",
            "{day} {short} {year}",
            "{weekday}, {month} {day}, {year}",
            "{weekday} {day} {month} {year}",
        ),
        _english,
        "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec",
    ),
    Language(
        "Januar Februar März April Mai Juni Juli August September Oktober November "
        "Dezember",
        "Montag Dienstag Mittwoch Donnerstag Freitag Samstag Sonntag",
        (
            "{day}. {month} {year}",
            "{weekday}, {day}. {month} {year}",
            "{weekday}, den {day}. {month} {year}",
            "den {day}. {month} {year}",
            "{day}. {short}. {year}",
            "{day}.{number}.{year}",
            "{day:02}.{number:02}.{year}",
        ),
        short="Jan Feb Mär Apr Mai Jun Jul Aug Sep Okt Nov Dez",
    ),
    Language(
        "janvier février mars avril mai juin juillet août septembre octobre novembre "
        "décembre",
        "lundi mardi mercredi jeudi vendredi samedi dimanche",
        (
            "{ordinal} {month} {year}",
            "le {ordinal} {month} {year}",
            "{weekday} {ordinal} {month} {year}",
        ),
        _first("er"),
    ),
    Language(
        "enero febrero marzo abril mayo junio julio agosto septiembre octubre "
        "noviembre diciembre",
        "lunes martes miércoles jueves viernes sábado domingo",
        (
            "{day} de {month} de {year}",
            "el {day} de {month} de {year}",
            "{weekday}, {day} de {month} de {year}",
        ),
    ),
    Language(
        "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre "
        "novembre dicembre",
        "lunedì martedì mercoledì giovedì venerdì sabato domenica",
        ("{ordinal} {month} {year}", "{weekday} {ordinal} {month} {year}"),
        _first("º"),
    ),
    Language(
        "januari februari maart april mei juni juli augustus september oktober "
        "november december",
        "maandag dinsdag woensdag donderdag vrijdag zaterdag zondag",
        ("{day} {month} {year}", "{weekday} {day} {month} {year}"),
    ),
    Language("", "", ("{year}-{number:02}-{day:02}", "{year}/{number:02}/{day:02}")),
)

_FORMS = [(language, form) for language in LANGUAGES for form in language.forms]
_CASES = (str, str, str, str.lower, str.upper)  # most are written as they should be


def dates() -> Parts:
    """The task's pairs, the same at every call.

    The days, not only the written forms, of what is held out are new.
    """
    random = Random("dates")
    days = [FIRST + timedelta(n) for n in range((LAST - FIRST).days + 1)]
    random.shuffle(days)
    held_out = list(_written(random, days[:HELD_OUT], HELD_OUT))
    train = list(_written(random, days[HELD_OUT:], TRAIN))
    note = (
        f"dates from {FIRST.year} to {LAST.year} in {len(LANGUAGES) - 1} languages and "
        "as numbers"
    )
    return Parts(train, [], held_out, note)


def _written(random: Random, days: list[date], count: int) -> Iterator[Pair]:
    for number in range(count):
        day = days[number % len(days)]
        yield Pair(write(day, random), day.isoformat())


def write(day: date, random: Random) -> str:
    """A day in one of the languages and forms."""
    (language, form), case = random.choice(_FORMS), random.choice(_CASES)
    words = {
        name: names.split()[number]
        for name, names, number in (
            ("month", language.months, day.month - 1),
            ("short", language.short, day.month - 1),
            ("weekday", language.weekdays, day.weekday()),
        )
        if names
    }
    ordinal = language.ordinal(day.day)
    numbers = {"day": day.day, "number": day.month, "year": day.year}
    return case(form.format(ordinal=ordinal, **words, **numbers))
