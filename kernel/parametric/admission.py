"""What may go live of what was trained: policy, and the figures that it is decided by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from drivers.lora.contract import Report


class Admission(Protocol):
    """Policy: what may go live."""

    def refusal(self, base: str, report: Report) -> str:
        """Why a version is not to go live; empty when it may."""


class Careful(msgspec.Struct, frozen=True):
    """Better on what was set aside, and not worse at the rest than is said here."""

    tolerance: float = 0.01
    """Share of nano's regression set that it may come to answer wrongly."""
    drift: float = 0.1
    """Nats a token by which a general model may find its own former answers less likely."""
    least: float = 0.05
    """Nats a token by which the right answers must have become likelier, where no more of them
    are given."""

    def refusal(self, base: str, report: Report) -> str:
        """See ``Admission``."""
        before, after = report.before, report.after
        if not after.examples:
            return "nothing was set aside to measure it by"
        better = after.loss <= before.loss - self.least
        if after.score < before.score or (after.score == before.score and not better):
            return f"it answers {after.score:.0%} of the probes, {before.score:.0%} before"
        lost, kept = report.regression_before, report.regression_after
        if base == "nano" and lost.score - kept.score > self.tolerance:
            return f"it answers {kept.score:.1%} of what is to stay, {lost.score:.1%} before"
        if base != "nano" and kept.loss - lost.loss > self.drift:
            return (
                f"the base's own answers cost {kept.loss:.2f} nats a token, {lost.loss:.2f} before"
            )
        return ""


def figures(report: Report) -> dict[str, float]:
    """What is kept of a report. Shares, nats a token, seconds, bytes."""
    return {
        "probes": report.after.examples,
        "probes_before": report.before.score,
        "probes_after": report.after.score,
        "probes_loss_before": report.before.loss,
        "probes_loss_after": report.after.loss,
        "regression": report.regression_after.examples,
        "regression_before": report.regression_before.score,
        "regression_after": report.regression_after.score,
        "regression_loss_before": report.regression_before.loss,
        "regression_loss_after": report.regression_after.loss,
        "rows": report.rows,
        "steps": report.steps,
        "seconds": report.seconds,
        "train_seconds": report.train_seconds,
        "parameters": report.parameters,
        "peak_bytes": report.peak_bytes,
    }
