"""*Basis*: what the loaded checkpoint's basis is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celeb_basis.webui.tasks.basis import use_own_names, use_shipped_names
from celeb_basis.webui.ui import components, markup
from celeb_basis.webui.ui.components import Watch, gradio, on, own

if TYPE_CHECKING:
    from celeb_basis.basis import BasisSummary
    from celeb_basis.webui.jobs import Job
    from celeb_basis.webui.service import Service


_IDLE = "Press Show the basis: it is built once for each checkpoint and list of names, and remembered."
MOST_ROWS = 300
"""Dropped names in the page's table."""


class BasisTab:
    """Lays the sub-tab out and answers its events."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.watch = Watch(service, ("basis",), "celeb_basis_basis_poll", _IDLE, _shown)

    def build(self, tab: Any) -> None:
        """Make the components, inside ``tab``."""
        gradio.HTML(
            "<p>People are learned as coefficients in a space that the names of celebrities span in the loaded "
            "checkpoint's text encoder.</p>"
        )
        with gradio.Row(elem_classes=["celeb-basis-line"]):
            components = own(
                gradio.Number(
                    512,
                    precision=0,
                    label="Components",
                    info="1 to 4,096; people use 512",
                    elem_id="celeb_basis_components",
                )
            )
            show = gradio.Button("Show the basis", variant="primary", elem_id="celeb_basis_basis_show")
            stop = gradio.Button("Interrupt", elem_id="celeb_basis_basis_stop")
        with gradio.Accordion("List of names", open=False, elem_id="celeb_basis_names_list"):
            gradio.HTML("<p>A text file with one name a line. People who were learned before keep working.</p>")
            files = own(
                gradio.File(label="Your own list", file_types=[".txt"], height=140, elem_id="celeb_basis_names_file")
            )
            shipped = gradio.Button("Use the list that comes with Celeb Basis", size="sm")
        note = components.message("celeb_basis_basis_note")
        self.watch.build(plot=False)
        outputs = self.watch.outputs
        on(tab.select, self.source, [], [], note=note, quiet=True)
        self.watch.show_at(tab.select)
        on(show.click, self.show, [components], outputs, note=note)
        on(stop.click, self.interrupt, [], outputs, note=note)
        on(files.upload, self.take_list, [files], [files], note=note, cleared=files)
        on(shipped.click, self.use_shipped, [], [], note=note)

    def source(self) -> str:
        """Which list of names is used."""
        names = self.service.workspace.names()
        own_list = self.service.workspace.options().names_file
        which = f"the list {own_list}" if own_list else "the list that comes with Celeb Basis"
        return markup.note(f"{len(names.names):,} names, from {which}.")

    def take_list(self, uploaded: Any) -> tuple[Any, ...]:
        """Use the dropped list."""
        for name, data in components.uploads(uploaded):
            use_own_names(self.service.workspace, name, data)
        return None, self.source()

    def use_shipped(self) -> str:
        """Use the shipped list again."""
        use_shipped_names(self.service.workspace)
        return self.source()

    def show(self, components: float | None) -> tuple[Any, ...]:
        """Build every text encoder's basis, if it was not built before, and show its summary."""
        job = self.service.start_basis(512 if components is None else int(components))
        return *self.watch.follow(job), self.source()

    def interrupt(self) -> tuple[Any, ...]:
        """End it between two pieces of the list."""
        return self.watch.interrupt("No basis is being built.", "It stops in a moment.")


def _shown(job: Job) -> str:
    """The summaries that came of a job."""
    return "".join(_summary(one, index) for index, one in enumerate(job.outcome or ()))


def _summary(one: BasisSummary, index: int) -> str:
    from celeb_basis.report.charts import explained_variance

    try:
        plot: str = markup.chart(
            explained_variance(one.explained), "The share of variance that each component explains", f"basis{index}"
        )
    except ImportError:
        plot = ""
    facts = [
        ("Text encoder", f"{one.encoder}, {one.width} numbers a token"),
        ("Names used", f"{one.names_used:,}"),
        ("Names dropped", f"{one.names_dropped:,}"),
        ("Spread", ", ".join(f"{value:.3f}" for value in one.spread) + " (token 1, token 2)"),
        ("Hash", one.sha256[:12]),
    ]
    body = "".join(f"<dt>{markup.text(label)}</dt><dd>{markup.text(value)}</dd>" for label, value in facts)
    dropped = one.report.get("dropped", [])
    by_rule: dict[str, int] = one.report.get("counts", {})
    often = sorted(by_rule, key=lambda rule: -by_rule[rule])
    counts = markup.table(("Why", "Names"), ((rule, by_rule[rule]) for rule in often))
    rows = markup.table(
        ("Name", "Why it was dropped"), ((each["name"], each["reason"]) for each in dropped[:MOST_ROWS])
    )
    more = f'<p class="quiet">and {len(dropped) - MOST_ROWS:,} more</p>' if len(dropped) > MOST_ROWS else ""
    return (
        f'<h3>{markup.text(one.encoder)}</h3><div class="celeb-basis-two"><dl class="celeb-basis-facts">{body}</dl>{plot}</div>'
        f"{counts if dropped else ''}<details><summary>Dropped names</summary>{rows}{more}</details>"
    )
