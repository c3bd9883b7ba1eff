"""A candidate becomes a number: cut, inherit, re-estimate, briefly train, score. One Evaluator per worker.

What is done with a trial depends on the arm that asked for it:

    preparation   train the full network (no weights were given), or the PruningNet that makes candidates' weights, as the
                  trial's origin says; both are kept in the cache for the next search
    base          score the full network on the select split; say what earlier searches measured, if the origin asks for it
    final         make the candidate again, train it for longer, keep its weights
    report        score a recovered network, before and after recovery, on the report split: the only reader of it
    any other     make the candidate by the recipe and score it on the select split; what the search scores of networks with
                  one group cut is kept in the cache
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from automl_prune import plugins
from automl_prune.costs import CostModel
from automl_prune.evaluation.cuts import KeptCuts, is_cut
from automl_prune.evaluation.datasets.base import DATASETS
from automl_prune.evaluation.glances import LEAST_IMAGES, MOST_IMAGES, Glances
from automl_prune.evaluation.hypernetwork import PruningNet, leading
from automl_prune.evaluation.hypernetwork_files import About, digest, load, read_about
from automl_prune.evaluation.hypernetwork_training import Training, check_trained, prepare
from automl_prune.evaluation.images import Images, load_images
from automl_prune.evaluation.lineage import Ancestor, load_ancestor, save_ancestor
from automl_prune.evaluation.modes import accepts_channels_last, device_of
from automl_prune.evaluation.recalibrate import recalibrate
from automl_prune.evaluation.recipe import FineTune
from automl_prune.evaluation.reconstruct import Reconstruction
from automl_prune.evaluation.scoring import score
from automl_prune.evaluation.setup import (
    HYPERNETWORK,
    IMPORTANCE,
    MEASURED,
    NOT_RECONSTRUCTED,
    PREPARES,
    SELECT_IMAGES,
    EvaluationSetup,
)
from automl_prune.evaluation.training import fine_tune
from automl_prune.evaluation.weights import fit_file, save_safetensors
from automl_prune.networks import NETWORKS, NetworkDefinition
from automl_prune.surgery.criteria import CRITERIA, Criterion
from automl_prune.surgery.inherit import from_scratch
from automl_prune.surgery.slicing import Ranking, materialise
from automl_prune.trial import Outcome, Report, Trial, TrialState


class CandidateEvaluator:
    """Evaluates trials of one search (see the module for what each arm means)."""

    def __init__(self, setup: EvaluationSetup) -> None:
        self.setup = setup
        self._parent: tuple[int, Ancestor] | None = None
        plugins.allow(setup.plugins)
        self._by_arm: Mapping[str, Callable[[Trial], Outcome]] = {
            "preparation": self._prepare,
            "base": self._base,
            "final": self._recover,
            "report": self._report,
        }

    def __call__(self, trial: Trial, report: Report | None = None) -> Outcome:
        """Evaluate a trial, asking ``report`` whether to go on; raises EvaluationError and whatever torch raises."""
        started, cpu = time.perf_counter(), time.process_time()
        self.images.reset_count()

        def cost() -> dict[str, float]:
            seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
            return {"seconds": seconds, "cpu_seconds": cpu_seconds, "images": float(self.images.count)}

        if report is not None and trial.arm == "search":
            outcome = self._search(trial, Glances(report, self._glance, cost))
        else:
            outcome = self._by_arm.get(trial.arm, self._search)(trial)
        return Outcome(outcome.state, outcome.metrics, cost(), outcome.reason, outcome.artifacts, outcome.details)

    # Arms ------------------------------------------------------------------------------------------------------------

    def _prepare(self, trial: Trial) -> Outcome:
        if trial.origin.get(PREPARES) == HYPERNETWORK:
            return self._prepare_hypernetwork()
        return self._prepare_base(trial)

    def _prepare_hypernetwork(self) -> Outcome:
        """Train the PruningNet, unless one was ordered or an equal order was trained before."""
        setup, epochs = self.setup, 0
        file = setup.hypernetwork
        if file is None:
            data = setup.dataset.model_dump_json()
            order, precision = setup.recipe.hypernetwork, setup.recipe.precision
            training = Training(self._wanted, order, data, setup.seed, precision, setup.cache)
            file, epochs = prepare(training, lambda: self._empty_hypernetwork(self._wanted), self.images)
        about = read_about(file)
        setup.artifacts.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, self._hypernetwork_file)
        metrics = {"train_top1": about.top1, "train_loss": about.loss}
        details = {"trained": epochs > 0, "epochs": about.done, "epochs_now": epochs}
        return Outcome(TrialState.COMPLETE, metrics, artifacts={HYPERNETWORK: self._hypernetwork_file.name}, details=details)

    def _prepare_base(self, trial: Trial) -> Outcome:
        """Train the full network, unless an equal order was trained before."""
        cached = self.setup.cache / f"base-{self._order_id}.safetensors"
        if not cached.is_file():
            model = self._fresh()
            self._train(model, self.setup.base_training, trial, salt=1, warmup=True)
            save_safetensors(model, cached)
            details = {"trained": True}
        else:
            details = {"trained": False}
        self.setup.artifacts.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(cached, self._base_file)
        return Outcome(TrialState.COMPLETE, artifacts={"base": self._base_file.name}, details=details)

    def _base(self, trial: Trial) -> Outcome:
        metrics = self._scored(self.base, self.images.select, trial)
        if self.setup.recipe.inherit == "hypernetwork":
            check_trained(read_about(self._hypernetwork_file), metrics["top1"], self.setup.recipe.hypernetwork.least_ratio)
        details: dict[str, Any] = {IMPORTANCE: self._importance()} if trial.origin.get(IMPORTANCE) else {}
        if trial.origin.get(MEASURED):
            details[MEASURED] = self.cuts.known()
        return Outcome(TrialState.COMPLETE, metrics, details=details)

    def _search(self, trial: Trial, glances: Glances | None = None) -> Outcome:
        model, kept = self._make(trial, glances)
        if glances and glances.stopped:
            return glances.outcome("while it was trained")
        files = {}
        if self.setup.recipe.inherit == "parent" and trial.arm == "search":
            files["weights"] = f"{trial.name}.safetensors"
            save_ancestor(model, kept, self.setup.artifacts / files["weights"])
        limit = trial.origin.get(SELECT_IMAGES, self.setup.recipe.select_images)
        metrics = self._scored(model, partial(self.images.select, limit=limit), trial)
        if trial.arm == "search" and trial.parent is None and is_cut(self.setup.space, trial.candidate):
            self.cuts.keep(trial.candidate, metrics)
        reported = {"reported": glances.reported} if glances else {}
        details = {"kept": kept, **reported, **self._left_out(kept)}
        return Outcome(TrialState.COMPLETE, metrics, artifacts=files, details=details)

    def _recover(self, trial: Trial) -> Outcome:
        model, kept = self._make(trial)
        before = self._scored(model, self.images.select, trial)
        files = {"before": f"{trial.name}-before.safetensors", "weights": f"{trial.name}.safetensors"}
        save_safetensors(model, self.setup.artifacts / files["before"])
        recovery = self.setup.recovery
        if recovery.kind == "scratch":
            model = from_scratch(self._fresh(), self.setup.architecture, self._narrow(trial))
        if recovery.kind != "none":
            order = FineTune(epochs=recovery.epochs, lr=recovery.lr)
            self._train(model, order, trial, salt=3, warmup=recovery.kind == "scratch")
        save_safetensors(model, self.setup.artifacts / files["weights"])
        metrics = self._scored(model, self.images.select, trial)
        details = {"kept": kept, "before": before, **self._left_out(kept)}
        return Outcome(TrialState.COMPLETE, metrics, artifacts=files, details=details)

    def _report(self, trial: Trial) -> Outcome:
        if trial.parent is None:
            metrics = self._scored(self.base, self.images.report, trial)
            return Outcome(TrialState.COMPLETE, metrics, details={"before": metrics})
        name = f"trial-{trial.parent:04d}"
        before, after = (
            self._scored(self._stored(trial, f"{name}{suffix}.safetensors"), self.images.report, trial)
            for suffix in ("-before", "")
        )
        return Outcome(TrialState.COMPLETE, after, details={"before": before})

    # Making networks -------------------------------------------------------------------------------------------------

    def _make(self, trial: Trial, glances: Glances | None = None) -> tuple[nn.Module, dict[str, list[int]]]:
        """The candidate by the recipe, and its kept units by group."""
        recipe, setup = self.setup.recipe, self.setup
        if recipe.inherit == "scratch":
            kept = self._narrow(trial)
            model = from_scratch(self._fresh(), setup.architecture, kept)
        elif recipe.inherit == "hypernetwork":
            kept = self._narrow(trial)
            model = self.hypernetwork.candidate(setup.space.widths(trial.candidate))
        else:
            widths = setup.space.widths(trial.candidate)
            rank_seed, fresh_seed = self._seed(trial, 0), self._seed(trial, 4)
            model, kept = self._ancestor(trial).child(widths, scope=recipe.scope, rank_seed=rank_seed, fresh_seed=fresh_seed)
            if recipe.reconstruct == "least_squares":
                self.reconstruction.apply(model, kept)
        if recipe.recalibrate_batches:
            recalibrate(model, self.images.fit(limit=recipe.recalibrate_batches), precision=recipe.precision)
        self._train(model, recipe.fine_tune, trial, salt=2, glances=glances)
        return model, kept

    def _left_out(self, kept: dict[str, list[int]]) -> dict[str, list[str]]:
        """Which layers were to be reconstructed and could not be, if any."""
        left = self.reconstruction.left_out(kept) if self.setup.recipe.reconstruct == "least_squares" else []
        return {NOT_RECONSTRUCTED: left} if left else {}

    def _ancestor(self, trial: Trial) -> Ancestor:
        """What a trial inherits from: its parent where the recipe says so and it has one, else the full network."""
        if self.setup.recipe.inherit != "parent" or trial.parent is None:
            return self.founder
        if self._parent is None or self._parent[0] != trial.parent:  # siblings follow each other: one is remembered
            file = self.setup.artifacts / f"trial-{trial.parent:04d}.safetensors"
            loaded = load_ancestor(file, self.base, self.setup.architecture, self._criterion, self.setup.recipe.reduction)
            self._parent = trial.parent, loaded
        return self._parent[1]

    def _narrow(self, trial: Trial) -> dict[str, list[int]]:
        """The first units of every group: which ones does not matter where weights are not inherited."""
        return leading(self.setup.architecture, self.setup.space.widths(trial.candidate))

    def _stored(self, trial: Trial, file: str) -> nn.Module:
        model = materialise(self.base, self.setup.architecture, self._narrow(trial))
        fit_file(model, self.setup.artifacts / file)
        return model

    def _fresh(self) -> nn.Module:
        """A newly initialised full network on the device that the trial was given."""
        torch.manual_seed(self.setup.seed)
        return self.network.build(self.setup.num_classes).to("cuda" if self.setup.gpu else "cpu")

    def _train(
        self,
        model: nn.Module,
        order: FineTune,
        trial: Trial,
        *,
        salt: int,
        warmup: bool = False,
        glances: Glances | None = None,
    ) -> None:
        steps = order.steps + round(order.epochs * self.images.fit_batches)
        if not steps:
            return
        generator = torch.Generator().manual_seed(self._seed(trial, salt))
        fine_tune(
            model,
            lambda g: self.images.fit(shuffled_by=g),
            steps=steps,
            lr=order.lr,
            momentum=order.momentum,
            weight_decay=order.weight_decay,
            schedule=order.schedule,
            warmup_steps=steps // 10 if warmup else 0,
            precision=self.setup.recipe.precision,
            generator=generator,
            should_stop=glances.during(model, steps) if glances else None,
        )

    # Numbers ---------------------------------------------------------------------------------------------------------

    def _scored(self, model: nn.Module, batches: Callable[[], Any], trial: Trial) -> dict[str, float]:
        return score(model, batches(), precision=self.setup.recipe.precision) | self._costs(trial)

    def _glance(self, model: nn.Module) -> dict[str, float]:
        images = self.images.glance(least=LEAST_IMAGES, most=MOST_IMAGES)
        return score(model, images, precision=self.setup.recipe.precision)

    def _importance(self) -> dict[str, list[float]]:
        """Importance of each unit of the full network, by searched group: what the control ``global`` ranks."""
        recipe, architecture = self.setup.recipe, self.setup.architecture
        ranking = Ranking(self.base, architecture, CRITERIA.get(recipe.criterion), reduction=recipe.reduction)
        return {name: [float(f"{s:.6g}") for s in ranking.scores(name)] for name in self.setup.space.names}

    def _costs(self, trial: Trial) -> dict[str, float]:
        return {k: float(v[0]) for k, v in self._cost_model(self.setup.space.array([trial.candidate])).items()}

    def _seed(self, trial: Trial, salt: int) -> int:
        """A seed of its own for each purpose; equal for equal candidates, whoever asked."""
        text = json.dumps([self.setup.seed, salt, trial.candidate.widths])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")

    @property
    def _base_file(self) -> Path:
        return self.setup.artifacts / "base.safetensors"

    @property
    def _weights_file(self) -> Path:
        """The full network's weights."""
        return self.setup.weights or self._base_file

    @property
    def _hypernetwork_file(self) -> Path:
        return self.setup.artifacts / "hypernetwork.safetensors"

    @property
    def _wanted(self) -> About:
        """The PruningNet of this search, before it is trained."""
        setup = self.setup
        return About.of(
            setup.network,
            setup.num_classes,
            setup.architecture,
            setup.space,
            self.images,
            setup.recipe.hypernetwork,
            dataset=setup.dataset.name,
        )

    def _empty_hypernetwork(self, about: About) -> PruningNet:
        """A PruningNet that was not trained."""
        full = self._fresh()
        made = PruningNet(full, self.setup.architecture, about.choices, hidden=about.hidden, affine=about.affine)
        return made.to(device_of(full))

    @cached_property
    def hypernetwork(self) -> PruningNet:
        """The trained PruningNet, in evaluation mode."""
        net = self._empty_hypernetwork(read_about(self._hypernetwork_file))
        load(self._hypernetwork_file, net)
        return net.eval()

    @property
    def _order_id(self) -> str:
        """What a trained base network depends on."""
        setup = self.setup
        what = [setup.network, setup.num_classes, digest(setup.architecture)]
        data = [setup.dataset.model_dump(mode="json"), self.images.describe()["fit"]["sha256"]]
        how = [setup.base_training.model_dump(), setup.seed, setup.recipe.precision, torch.__version__]
        return hashlib.sha256(json.dumps([*what, *data, *how], sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def base(self) -> nn.Module:
        """The full network with its weights, in evaluation mode."""
        model = self._fresh()
        fit_file(model, self._weights_file, ignore=self.network.training_only)
        return model.eval()

    @cached_property
    def cuts(self) -> KeptCuts:
        """What searches like this one measured of the full network with one group cut."""
        made = self.setup.recipe.inherit == "hypernetwork"
        return KeptCuts(self.setup, self.images, [self._weights_file, *([self._hypernetwork_file] if made else [])])

    @cached_property
    def founder(self) -> Ancestor:
        """The full network, as what candidates inherit from."""
        return Ancestor(self.base, self.setup.architecture, {}, self._criterion, self.setup.recipe.reduction)

    @property
    def _criterion(self) -> Criterion:
        recipe = self.setup.recipe
        return CRITERIA.get(recipe.criterion if recipe.inherit == "parent" else recipe.inherit)

    @cached_property
    def reconstruction(self) -> Reconstruction:
        """What fits weights to the full network's features, which are gathered here, once."""
        recipe = self.setup.recipe
        batches = self.images.fit(limit=-(-recipe.reconstruct_images // self.setup.dataset.batch_size))
        images, points = recipe.reconstruct_images, recipe.reconstruct_points
        return Reconstruction(
            self.base, self.setup.architecture, batches, images=images, points=points, seed=self.setup.seed
        )

    @cached_property
    def network(self) -> NetworkDefinition:
        """How the full network is built."""
        return self.setup.given.network if self.setup.given else NETWORKS.get(self.setup.network)

    @cached_property
    def images(self) -> Images:
        """The splits, ready for this network."""
        setup = self.setup
        images = load_images(
            setup.given.dataset if setup.given else DATASETS.get(setup.dataset.name),
            setup.dataset,
            setup.data_root,
            network=self.network,
            seed=setup.seed,
        )
        images.channels_last = accepts_channels_last(self._fresh(), self.network.input_shape)
        return images

    @cached_property
    def _cost_model(self) -> CostModel:
        return CostModel(self.setup.architecture, self.setup.space.names)
