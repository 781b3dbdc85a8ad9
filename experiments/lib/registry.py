"""All tables by name, each with the function that reports it."""

from experiments.lib.reporting import ReportOf
from experiments.lib.table import Table
from experiments.tables import (
    brain_age,
    cifar,
    differential_privacy,
    fair_rows,
    fashion_mnist,
    fashion_mnist_10,
    fedsparsify_plus,
    frozen_zeros,
    large_batch,
    membership,
    membership_brain_age,
    personalised,
    precision,
    pruning_once,
    relatives,
    schedules,
    second_edition,
    upload_compression,
    votes,
)

_ALL: tuple[tuple[Table, ReportOf], ...] = (
    (fashion_mnist.TABLE, fashion_mnist.report),
    (fashion_mnist_10.TABLE, fashion_mnist_10.report),
    (schedules.TABLE, schedules.report),
    (votes.TABLE, votes.report),
    (frozen_zeros.TABLE, frozen_zeros.report),
    (pruning_once.TABLE, pruning_once.report),
    (fedsparsify_plus.TABLE, fedsparsify_plus.report),
    (second_edition.TABLE, second_edition.report),
    (second_edition.DIGITS, second_edition.report),
    (second_edition.CIFAR, second_edition.report),
    (fair_rows.TABLE, fair_rows.report),
    (upload_compression.TABLE, upload_compression.report),
    (relatives.TABLE, relatives.report),
    (personalised.TABLE, personalised.report),
    (large_batch.TABLE, large_batch.report),
    (precision.TABLE, precision.report),
    (precision.CIFAR, precision.report),
    (membership.TABLE, membership.report),
    (membership.CIFAR10, membership.report),
    (membership_brain_age.TABLE, membership_brain_age.report),
    (differential_privacy.TABLE, differential_privacy.report),
    (cifar.CIFAR10, cifar.report),
    (cifar.CIFAR100, cifar.report),
    (brain_age.TABLE, brain_age.report),
)

TABLES: dict[str, tuple[Table, ReportOf]] = {
    table.name: (table, report) for table, report in _ALL
}
