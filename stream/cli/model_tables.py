"""Print the tables of `footfall models`: the list, a manifest, a verdict, golden user findings. Start at model_facts."""

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stream.cli.show import print_table

if TYPE_CHECKING:
    from models.evaluation.verdict import ReportVerdict
    from models.serving.checkpoint import Manifest
    from models.serving.golden_checks import Finding
    from models.serving.registry import Registry

HEADLINES = (  # column, then its path in a manifest's metrics
    ("churn 30d AUC", ("churn", "30d", "auc")),
    ("ECE", ("churn", "30d", "ece")),
    ("interest HR@3", ("interest", "model", "top3_hit_rate")),
    ("sentiment", ("sentiment", "accuracy")),
)


def print_models(models: list[dict[str, Any]]) -> None:
    """Print one line per model; * marks the serving one."""
    rows = [
        [
            ("* " if facts["current"] else "  ") + facts["model_version"],
            facts["created_at"] or "-",
            *(_number(facts["metrics"], path) for _, path in HEADLINES),
            facts["fault"] or facts["verdict"],
        ]
        for facts in models
    ]
    print_table(["  model", "trained", *(column for column, _ in HEADLINES), "against baselines"], rows)


def model_facts(registry: "Registry", version: str, current: str | None) -> dict[str, Any]:
    """Return one model's row of the list; `fault` is why it cannot be read, or None."""
    from models.evaluation.report_document import REPORT
    from models.evaluation.verdict import read_verdict
    from models.serving.checkpoint import read_manifest
    from schemas.errors import EvaluationError, ModelError

    facts: dict[str, Any] = {"model_version": version, "current": version == current, "created_at": None}
    facts |= {"encoder": None, "metrics": {}, "verdict": "no report", "fault": None}
    try:
        manifest = read_manifest(registry.checkpoint(version))
        report = read_verdict(registry.checkpoint(version) / REPORT, manifest.model_version)
    except (ModelError, EvaluationError) as error:
        return facts | {"fault": str(error)}
    if report is not None:
        facts["verdict"] = "; ".join(report.lost_heads()) or "wins"
    provenance = manifest.provenance
    return facts | {
        "created_at": provenance.created_at,
        "encoder": manifest.contract.encoder_uri,
        "metrics": provenance.metrics,
    }


def print_manifest(folder: Path, manifest: "Manifest") -> None:
    """Print a model's provenance, its contract and its files."""
    contract, provenance = manifest.contract, manifest.provenance
    rows = [
        ["folder", str(folder)],
        ["trained", f"{provenance.created_at} by {provenance.command}"],
        ["data fingerprint", provenance.data_fingerprint],
        ["feature spec", contract.spec_version],
        ["encoder", f"{contract.encoder_uri} ({contract.encoder_id[:12]})"],
        ["labels", ", ".join(contract.labels)],
        ["horizons in days", ", ".join(map(str, contract.horizons_days))],
        ["licence", provenance.licence],
        *([name, f"{facts.size} bytes, SHA-256 {facts.sha256}"] for name, facts in manifest.files.items()),
    ]
    print_table(["model", manifest.model_version], rows)


def print_verdict(report: "ReportVerdict | None") -> None:
    """Print for each head whether the model beats the baselines."""
    sys.stdout.write("\n" if report else "\nno report: run footfall evaluate on this model\n")
    sys.stdout.flush()
    if report:
        rows = [[head, "wins" if found.wins else "loses", found.text] for head, found in report.verdict.items()]
        print_table(["head", "against baselines", "how"], rows)


def print_findings(findings: "list[Finding]") -> None:
    """Print one line per finding; a rule that covers all stories gets one summary line and a line per failure."""
    rules = Counter(finding.rule for finding in findings)
    of_all = {rule for rule, count in rules.items() if count == max(rules.values())}
    listed = [finding for finding in findings if finding.rule not in of_all or finding.outcome == "failed"]
    rows = [[finding.outcome, finding.story, finding.rule, finding.found] for finding in listed]
    for rule in rules:
        if rule in of_all:
            passed = sum(finding.rule == rule and finding.outcome == "passed" for finding in findings)
            rows.append(["passed" if passed == rules[rule] else "failed", f"{passed} of {rules[rule]} stories", rule, ""])
    print_table(["outcome", "story", "expected", "found"], rows)


def _number(metrics: Any, path: tuple[str, ...]) -> str:
    for name in path:
        metrics = metrics.get(name) if isinstance(metrics, dict) else None
    return f"{metrics:.4f}" if isinstance(metrics, float) else "-"
