"""Running a search: the one loop, `search`, run folders, and the recipe of a network."""

from evoq_moo.runs._loop import BudgetSpentError, Record, run_algorithm
from evoq_moo.runs._run_search import SearchRun, run_search
from evoq_moo.runs._search import search
from evoq_moo.runs.curve import checked_calibration, measure_curve, measure_run
from evoq_moo.runs.folder import (
    RunSettings,
    check_settings,
    cost_files,
    draw_pictures,
    execute,
    load_costs,
    load_front,
    read_settings,
    recipe_of,
    table_copy,
    tables_of,
)
from evoq_moo.runs.known import KnownPolicies
from evoq_moo.runs.recipe import RECIPE_FILE, Recipe, read_recipe, write_recipe

__all__ = [
    "RECIPE_FILE",
    "BudgetSpentError",
    "KnownPolicies",
    "Recipe",
    "Record",
    "RunSettings",
    "SearchRun",
    "check_settings",
    "checked_calibration",
    "cost_files",
    "draw_pictures",
    "execute",
    "load_costs",
    "load_front",
    "measure_curve",
    "measure_run",
    "read_recipe",
    "read_settings",
    "recipe_of",
    "run_algorithm",
    "run_search",
    "search",
    "table_copy",
    "tables_of",
    "write_recipe",
]
