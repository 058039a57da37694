"""The page and the terminal: complete, safe with foreign text, honest about what was not measured."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from broker_server.report import words
from broker_server.report.console import open_console
from broker_server.report.devices import ClientFigures, GateFigures, OwnFigures
from broker_server.report.html import to_html
from broker_server.report.json_view import from_json
from broker_server.report.plots import plots
from broker_server.report.rounds import RoundFigures
from broker_server.report.schema import DataFigures, Incident, RunReport
from broker_server.report.style import DARK, LIGHT
from broker_server.report.svg import COLOURS
from broker_server.report.tables import fairness_grid, spread
from broker_server.report.terminal import print_report
from broker_server.report.write import write_report
from edge_client.wire.evaluation import EvaluationSums
from tests.broker_server.report_samples import bare_report, sample_report, sample_rounds
from tests.edge_client.strategies import records

HOSTILE = ('<script>alert("1")</script>', "</style><img src=x onerror=alert(1)>")
STEERING = "\x1b[31mred\x07 \u202eright-to-left\u2028line [bold]markup[/bold] $\\frac{$"
VOID = {"meta", "link", "br", "img", "hr", "input"}
relaxed = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.large_base_example],
)


class Page(HTMLParser):
    """Every element must be closed where it belongs; texts, tags and attributes are kept."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    def values(self, name: str) -> list[str]:
        return [value or "" for _, found, value in self.attributes if found == name]


def hostile_report() -> RunReport:
    report = sample_report(classes=HOSTILE)
    bad = HOSTILE[0]
    return replace(
        report,
        dataset=f"folder:{bad}",
        broker=STEERING,
        settings={bad: bad, STEERING: STEERING},
        incidents=(Incident(1.0, bad, STEERING, bad),),
        rounds=(replace(report.rounds[0], dropped={"device-9": bad}), *report.rounds[1:]),
        clients=(replace(report.clients[0], runtime=bad, board=STEERING), *report.clients[1:]),
    )


def terminal(report: RunReport, width: int = 80) -> str:
    stream = io.StringIO()
    print_report(report, open_console(stream, width=width))
    return stream.getvalue()


# ---- page ----


@pytest.mark.parametrize("report", [sample_report(), bare_report(), hostile_report()])
def test_the_page_is_well_formed_and_stands_alone(report: RunReport) -> None:
    text = to_html(report)
    page = Page(text)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", text)
    assert not {"script", "link", "iframe", "img", "object", "embed", "base", "form"} & set(page.tags)
    assert all(value.startswith("#") for value in page.values("href") + page.values("src"))
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    assert len(page.values("id")) == len(set(page.values("id")))


@relaxed
@given(report=records(RunReport))
def test_any_report_makes_a_page_and_fits_a_terminal(report: RunReport) -> None:
    Page(to_html(report))
    assert "Verdict" in terminal(report)


def test_the_page_refers_only_to_what_it_holds() -> None:
    text = to_html(sample_report())
    page = Page(text)
    for name in {*re.findall(r"url\(#([^)]+)\)", text), *(value[1:] for value in page.values("href"))}:
        assert name in page.values("id")
    for value in page.values("aria-labelledby"):
        assert value in page.values("id")
    for name in re.findall(r"var\(--([a-z0-9-]+)\)", text):
        assert name in LIGHT or name == "share"


def test_foreign_text_stays_text() -> None:
    page = Page(to_html(hostile_report()))
    shown = "".join(page.texts)
    for text in HOSTILE:
        assert text in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "[bold]markup[/bold]" in shown
    assert "$\\frac{$" in shown


def test_plots_have_labels_units_and_words_for_who_cannot_see_them() -> None:
    drawn = {plot.title: plot for plot in plots(sample_report())}
    assert list(drawn) == ["Accuracy by round", "Loss by round", "Traffic by round", "Time of one answer"]
    for plot in drawn.values():
        assert plot.svg.get("role") == "img"
        assert plot.caption
    said = " ".join(text.text or "" for text in drawn["Traffic by round"].svg.iter("text"))
    assert "bytes per device" in said
    assert "100 kB" in said
    label = drawn["Accuracy by round"].svg.get("aria-label") or ""
    assert "centralised: 0.974" in label
    assert "each client alone, mean: 0.931" in label
    assert [series.label for series in drawn["Loss by round"].legend][1:] == [
        "centralised",
        "each client alone, mean",
    ]


def test_plots_take_every_colour_from_the_style_sheet() -> None:
    text = to_html(sample_report())
    drawings = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert not re.search(r"#[0-9a-f]{6}\b", drawings)
    assert not any(colour in text for colour in COLOURS.values())


def test_the_devices_own_accuracy_is_drawn_at_the_round_whose_weights_it_is_of() -> None:
    rounds = (RoundFigures(1, federated_accuracy=0.5), RoundFigures(2, federated_accuracy=0.7))
    accuracy = plots(replace(bare_report(), rounds=rounds))[0]
    assert accuracy.legend[0].points == ((1, 0.5), (2, 0.7))


def test_the_same_report_gives_the_same_page() -> None:
    assert to_html(sample_report()) == to_html(sample_report())


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_text_and_lines_can_be_told_from_their_ground(colours: dict[str, str]) -> None:
    """WCAG 2.2 asks for 4.5 : 1 of text; on heat cells too, whose colour is at most 45 % of the shade."""
    for name in ("ink", "quiet", "good", "bad", "series-1", "series-2", "series-3", "series-4"):
        assert contrast(colours[name], colours["paper"]) >= 4.5, name
    for name in ("ink", "quiet"):
        assert contrast(colours[name], colours["card"]) >= 4.5, name
    mixed = [
        round(0.45 * int(colours["heat"][i : i + 2], 16) + 0.55 * int(colours["paper"][i : i + 2], 16))
        for i in (1, 3, 5)
    ]
    assert contrast(colours["ink"], "#" + "".join(f"{c:02x}" for c in mixed)) >= 4.5


def test_the_palettes_name_the_same_colours() -> None:
    assert list(LIGHT) == list(DARK)


# ---- terminal ----


@pytest.mark.parametrize("width", [80, 60, 120])
@pytest.mark.parametrize("report", [sample_report(), bare_report(), hostile_report()])
def test_no_line_is_wider_than_the_terminal(report: RunReport, width: int) -> None:
    assert max(map(len, terminal(report, width).splitlines())) <= width


def test_eighty_columns_fold_no_word_of_an_ordinary_run() -> None:
    text = terminal(sample_report())
    for word in ("activated", "device-4", "Validation", "Peak memory", "malignant", "Received", "0.261 ms"):
        assert word in text


def test_the_terminal_says_the_figures() -> None:
    text = " ".join(terminal(sample_report()).split())
    for expected in (
        "wisconsin, 4 devices, 58.3 s",
        "not Raspberry Pis",
        "15 | 0.965 | 0.115 | 0.992",
        "29.5 times",
        "+ 4 of 4 devices activated the released model.",
        "killed during round 6",
    ):
        assert expected in text


def test_without_a_terminal_there_is_no_escape_and_foreign_text_cannot_bring_one() -> None:
    text = terminal(hostile_report())
    assert not set(text) & {chr(code) for code in range(32)} - {"\n"}
    assert "\u202e" not in text
    assert "[bold]markup[/bold]" in " ".join(text.split())


def test_a_terminal_gets_colour_unless_it_asks_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    seen = Terminal()
    print_report(sample_report(), open_console(seen, width=80))
    assert "\x1b[1;36m" in seen.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Terminal()
    print_report(sample_report(), open_console(plain, width=80))
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", plain.getvalue())


def test_an_ascii_stream_takes_the_whole_report() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    classes = ("gutartig ü", "悪性")
    print_report(sample_report(classes=classes), open_console(stream, width=80))
    stream.flush()


def test_long_runs_are_cut_and_say_so() -> None:
    clients = tuple(ClientFigures(f"pi-{index}") for index in range(40))
    text = " ".join(terminal(replace(bare_report(), rounds=sample_rounds(200), clients=clients)).split())
    assert "24 more devices not shown." in text
    assert re.search(r"\d+ rounds between these not shown", text)
    assert len(text.splitlines()) < 100


@pytest.mark.parametrize(("count", "most"), [(0, 12), (1, 12), (12, 12), (13, 12), (20, 12), (200, 12)])
def test_what_is_cut_keeps_the_first_and_the_last(count: int, most: int) -> None:
    shown = spread(range(count), most)
    assert len(shown) <= most + 1
    assert not count or (shown[0], shown[-1]) == (0, count - 1)


# ---- both ----


def test_what_was_not_measured_is_said_and_not_invented() -> None:
    page = " ".join(Page(to_html(bare_report())).texts)
    text = " ".join(terminal(bare_report()).split())
    for view in (page, text):
        assert words.NOT_MEASURED in view
        assert "Not measured: Accuracy, Loss, AUC, On devices, Up, Down, Time." in view
        assert "Confusion matrix" in view
        assert "None " not in view.replace("None was recorded", "")
        assert "nan" not in view
    assert all(function(None) == words.NOT_MEASURED for function in FORMATS)


FORMATS = (
    words.share,
    words.loss,
    words.count,
    words.size,
    words.times,
    words.milliseconds,
    words.seconds,
    words.megabytes,
    words.yes_no,
    words.word,
)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (words.size(0), "0 B"),
        (words.size(999), "999 B"),
        (words.size(999.9), "1.00 kB"),
        (words.size(66_112), "66.1 kB"),
        (words.size(999_900), "1.00 MB"),
        (words.size(5e12), "5,000 GB"),
        (words.seconds(0.04), "0.0 s"),
        (words.seconds(99.97), "1 min 40 s"),
        (words.seconds(3599.7), "1 h 00 min"),
        (words.milliseconds(0.0824), "0.082 ms"),
        (words.milliseconds(27.04), "27.0 ms"),
        (words.times(127.3), "127 times"),
        (words.loss(0.00432), "0.0043"),
        (words.loss(0.5), "0.500"),
        (words.plural(1, "round"), "1 round"),
        (words.plural(1200, "round"), "1,200 rounds"),
        (words.printable("a\u200db\u00ad"), "a\u200db\u00ad"),
        (words.printable("\ud800\n\u2066"), "\ufffd\ufffd\ufffd"),
    ],
)
def test_figures_in_words(said: str, expected: str) -> None:
    assert said == expected


def test_both_files_are_written_whole(tmp_path: Path) -> None:
    paths = write_report(sample_report(), tmp_path / "new" / "out")
    assert from_json(paths.json.read_bytes()) == sample_report()
    assert paths.html.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert sorted(path.name for path in paths.html.parent.iterdir()) == ["report.html", "report.json"]


def test_a_directory_that_is_a_file_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(OSError, match="out"):
        write_report(sample_report(), tmp_path / "out")


def test_many_classes_make_a_matrix_on_the_page_and_none_on_the_terminal() -> None:
    classes = tuple(f"class {index}" for index in range(12))
    report = sample_report(classes=classes)
    assert "Confusion matrix" not in terminal(report)
    assert to_html(report).count('class="number heat"') == 12 * 12 + 4 * 12
    assert isinstance(report.data, DataFigures)


def test_only_a_refusal_has_its_reason_under_the_table() -> None:
    report = sample_report()
    gates = [GateFigures("activated", "all is well"), GateFigures("refused", "accuracy 0.41 is below 0.91")]
    clients = tuple(replace(c, gate=gate) for c, gate in zip(report.clients, gates, strict=False))
    for view in (terminal(replace(report, clients=clients)), to_html(replace(report, clients=clients))):
        assert "device-2: accuracy 0.41 is below 0.91." in view
        assert "all is well" not in view


def test_the_worst_served_device_comes_first_and_the_spread_is_said() -> None:
    grid = fairness_grid(sample_report())
    assert [row[0] for row in grid.rows] == ["device-4", "device-3", "device-2", "device-1"]
    assert dict(zip(grid.headers, grid.rows[0], strict=True))["False negatives"] == "5"
    assert "from 0.800 to 0.950, standard deviation 0.056" in grid.note  # of 0.80, 0.85, 0.90, 0.95
    assert fairness_grid(sample_report(), most=2).note.endswith("2 better served devices not shown.")
    assert fairness_grid(bare_report()).rows == ()


def test_a_devices_own_figures_follow_from_its_counts() -> None:
    own = OwnFigures.of(EvaluationSums(1.0, (6, 1, 2, 3)))
    assert (own.examples, own.false_positives, own.false_negatives) == (12, 1, 2)
    assert own.recall == 3 / 5 and own.accuracy == 9 / 12
    assert OwnFigures.of(EvaluationSums(1.0, (1,) * 9)).recall is None
