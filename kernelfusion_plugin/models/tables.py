"""What a run writes and logs about all its images: the score table, means and the summary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import report
from .ranks import Ranks
from .work import Work

DERIVED = ('results_root', 'experiments_root', 'log', 'visualization')  # paths filled in by BasicSR


class Tables:
    """Mixin for BasicSR models, whose record of the best validation it keeps.

    Attributes:
        results: the folder that ``scores.csv`` and ``summary.json`` are written to.
        rows: of ``scores.csv``, for the images done so far.
        datasets: number of images, failures and mean scores of each data set that is done.
        all: the same over all data sets, if there are several.
        ranks: set if several ranks share the images.
    """

    def start_tables(self, results: Path) -> None:
        """Set up empty tables."""
        self.results = results
        self.rows: list[dict[str, Any]] = []
        self.datasets: dict[str, dict[str, Any]] = {}
        self.all: dict[str, Any] = {}
        self.ranks: Ranks | None = None

    def about_run(self) -> dict[str, Any]:
        """Entries of ``summary.json`` besides versions, scores and options."""
        return {}

    def write_table(self) -> None:
        """Write ``scores.csv`` for the images done so far."""
        report.write_scores(self.results / 'scores.csv', self.rows)

    def conclude(self, work: Work, current_iter: Any, tb_logger: Any) -> None:  # noqa: ANN401
        """Write tables and log the means of a data set once all images have been tried."""
        done, failed = work.rows(), work.failed()
        self.write_table()  # at least the header, if nothing was restored
        self.datasets[work.name] = {'images': len(done), 'failed': failed, 'mean': report.mean_scores(done)}
        report.write_summary(self.results / 'summary.json', self._summary())
        self.logger.info(report.mean_line(work.name, done, len(failed)))
        self._toolbox_means(work.name, done, current_iter, tb_logger)

    def conclude_all(self) -> None:
        """Write and log means over the images of all data sets, each image counting equally."""
        failed = [f'{name}/{image}' for name, about in self.datasets.items() for image in about['failed']]
        self.all = {'images': len(self.rows), 'failed': failed, 'mean': report.mean_scores(self.rows)}
        report.write_summary(self.results / 'summary.json', self._summary())
        self.logger.info(report.mean_line('all data sets', self.rows, len(failed)))

    def _toolbox_means(self, dataset: str, rows: list[dict[str, Any]], current_iter: Any, tb_logger: Any) -> None:  # noqa: ANN401
        """Log the means of ``val.metrics`` as BasicSR does, without infinite values (identical images)."""
        names = list(self.opt['val'].get('metrics') or {})
        if not names:
            return
        means = report.mean_scores(rows)
        means = {name: means[f'val_{name}'] for name in names if f'val_{name}' in means}
        self.metric_results = means
        self._initialize_best_metric_results(dataset)
        lines = [f'Validation {dataset}']
        for name, value in means.items():
            self._update_best_metric_result(dataset, name, value, current_iter)
            infinite = sum(row.get(f'val_{name}') == float('inf') for row in rows)
            lines.append(f'\t # {name}: {value:.4f}' + (f' ({infinite} infinite left out)' if infinite else ''))
            if self.opt['is_train']:
                best = self.best_metric_results[dataset][name]
                lines[-1] += f'\tBest: {best["val"]:.4f} @ {best["iter"]} iter'
            if tb_logger:
                tb_logger.add_scalar(f'metrics/{dataset}/{name}', value, current_iter)
        lines += [f'\t # {name}: no value' for name in names if name not in means]
        self.logger.info('\n'.join(lines))

    def _summary(self) -> dict[str, Any]:
        options = {key: value for key, value in self.opt.items() if key not in ('dist', 'rank', 'world_size')}
        options['path'] = {key: value for key, value in self.opt['path'].items() if key not in DERIVED}
        shares = {'ranks': self.ranks.shares()} if self.ranks else {}
        return {'name': self.opt['name'], **report.environment(self.device), **shares, **self.about_run(),
                'datasets': self.datasets, **({'all': self.all} if self.all else {}), 'options': options}
