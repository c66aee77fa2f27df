"""The verbs of the command line, a module for each."""

from . import bench, check, convert, doctor, inspect, lower, order, run, schedule, shard

VERBS = {
    "inspect": inspect.VERB,
    "shard": shard.VERB,
    "run": run.VERB,
    "check": check.VERB,
    "schedule": schedule.VERB,
    "convert": convert.VERB,
    "order": order.VERB,
    "lower": lower.VERB,
    "bench": bench.VERB,
    "doctor": doctor.VERB,
}
"""in the order in which --help names them"""
