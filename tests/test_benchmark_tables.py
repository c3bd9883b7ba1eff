"""What the benchmark of all strategies makes of its runs."""

from typing import Any

from automl_prune.space import Candidate
from automl_prune.trial import Outcome, Trial, TrialState
from tests.benchmarks.strategies import spent
from tests.benchmarks.strategies_table import plots, table

FAST = {"evaluations": 60, "select_size": 5000, "select_images": 1250, "recovery_epochs": 0.5, "precision": "bfloat16"}
SMALL = {"evaluations": 30, "select_size": 3000, "select_images": 750, "recovery_epochs": 0.15, "precision": "float32"}


def line(strategy: str, network: str, setting: dict[str, Any], **changes: Any) -> dict[str, Any]:
    order = {"network": network, "budget": 0.5, "seed": 0, "strategy": strategy, "report_size": 5000, "top_k": 1}
    row = {"select": 0.7, "report_before": 0.6, "report": 0.8, "evaluations": 60, "images": 1.0, "cpu_seconds": 1.0}
    order |= {"recalibrate_batches": 5, "fine_tune_steps": 0, **setting, **changes}
    return {"order": order, "row": row, "controls": {}, "base": {"report": 0.9}}


def test_runs_of_different_settings_have_tables_and_plots_of_their_own() -> None:
    lines = [
        line("random", "resnet20", FAST),
        line("random", "resnet56", SMALL),
        line("auto", "resnet20", FAST),
        line("auto", "resnet20", FAST, evaluations=40),
    ]
    drawn = plots(lines)
    assert list(drawn) == ["plot-resnet20.svg", "plot-resnet56.svg", "plot-resnet20-2.svg"]
    assert "60 evaluations on 1,250 select images" in drawn["plot-resnet20.svg"]
    assert "recovery of 0.15 epochs; float32" in drawn["plot-resnet56.svg"]
    assert "resnet56" not in drawn["plot-resnet20.svg"]
    assert [text.count("| auto |") for text in table(lines).split("Top-1 in per cent")[1:]] == [1, 0, 1]


def test_runs_of_one_setting_on_both_networks_share_a_plot() -> None:
    lines = [line("auto", "resnet56", FAST), line("auto", "resnet20", FAST), line("abc", "resnet20", FAST)]
    (name, drawn), *others = plots(lines).items()
    assert (name, others) == ("plot-resnet20-resnet56.svg", [])
    assert drawn.count("50% of MACs") == 2


def test_a_recipe_of_its_own_is_said_where_a_strategy_stands_beside_others() -> None:
    lines = [line("metapruning@own", "resnet20", FAST), line("auto", "resnet20", FAST)]
    assert "| metapruning, own recipe |" in table(lines)
    assert "An own recipe is" in table(lines)
    assert ">metapruning, own recipe<" in plots(lines)["plot-resnet20.svg"]
    assert "An own recipe is" not in table(lines[1:])


def test_confirming_a_control_costs_images_and_is_no_evaluation() -> None:
    trials = [
        Trial(n, Candidate((1,)), arm, origin).with_outcome(Outcome(TrialState.COMPLETE, cost={"images": images}))
        for n, (arm, origin, images) in enumerate(
            [
                ("uniform", {}, 1518.0),
                ("random", {}, 1518.0),
                ("confirm-1", {"arm": "uniform"}, 2268.0),
                ("confirm-2", {"arm": "uniform"}, 3768.0),
                ("confirm-2", {"arm": "random"}, 3768.0),
            ]
        )
    ]
    assert spent(trials, "uniform") == {"images": 7554.0, "cpu_seconds": 0.0, "evaluations": 1.0}
